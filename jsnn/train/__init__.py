"""Training: one trainer of phases for every rule, one loop on the host, models that predict."""
