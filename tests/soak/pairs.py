"""Two processes of one run: a SIGTERM to one of them, or to both, ends both within a step, saved; started again they end the same to the bit."""

import pathlib
from collections.abc import Iterator


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    yield from ()
