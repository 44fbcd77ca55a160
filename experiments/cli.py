"""The command line every script shares: flags from the config's fields, mistakes as one line instead of a traceback."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from jsnn.checkpoint import CheckpointError
from jsnn.data import DataError
from jsnn.runs import RunError

Config = TypeVar("Config")
# What a user can put right. Anything else is a defect of ours and keeps its traceback.
MISTAKES = (ValueError, FloatingPointError, CheckpointError, DataError, RunError)


def run(config: type[Config], main: Callable[[Config], dict[str, Any]]) -> None:
    """Parses flags into `config`, calls `main` on it, and prints the summary it returns."""
    try:
        summary = main(tyro.cli(config))
    except MISTAKES as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "\nStopped. A script with --resume goes on from its last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(130)
    width = max(map(len, summary))
    for name, value in summary.items():
        print(f"{name:<{width}}  {value}")
