"""What is fast, how fast, and against what: `python -m benchmarks.NAME`. See README.md beside this file."""

import sys

if (
    sys.argv[0] == "-m"
):  # `python -m benchmarks.NAME`: as the scripts do; other libraries' processes inherit it
    from jsnn import memory

    memory.restart(sys.orig_argv)
