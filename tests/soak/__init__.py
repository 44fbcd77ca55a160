"""The soak: kills, faults, damage and bad input for every script and every way to learn, reproducible by seed.

    make soak                                   # all of it, about an hour
    PYTHONPATH=tests:. python -m soak --only flags --seed 3
    PYTHONPATH=tests:. python -m soak --seconds 120    # two minutes of each campaign

It prints a table of what held, n of n, and each case that did not with the command that repeats it.
"""
