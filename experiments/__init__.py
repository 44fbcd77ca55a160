"""Scripts, one a claim: `python -m experiments.NAME --out DIR` in a clone, `jsnn NAME --out DIR` where jsnn is installed."""
