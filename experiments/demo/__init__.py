"""Shows what the library does, on data that needs no download: one module per learning rule, run by `python -m experiments.demo`."""
