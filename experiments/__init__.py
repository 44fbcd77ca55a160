"""Scripts, one a claim: `python -m experiments.NAME --out DIR`."""
