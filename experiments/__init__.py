"""Scripts, one a claim: `python -m experiments.NAME --out DIR` in a clone, `jsnn NAME --out DIR` where jsnn is installed."""

import sys

if sys.argv[0] == "-m":  # `python -m experiments.NAME`, which is about to be looked for
    from jsnn import memory

    memory.restart()
