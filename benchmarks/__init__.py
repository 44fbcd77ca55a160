"""What is fast, how fast, and against what: `python -m benchmarks.NAME`. See README.md beside this file."""

import sys

if sys.argv[0] == "-m":  # as the scripts; other libraries' processes inherit it
    from jsnn import memory

    memory.restart()
