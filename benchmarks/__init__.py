"""What is fast, how fast, and against what: `python -m benchmarks.NAME`. See README.md beside this file."""
