"""Library arguments."""

import pathlib
from collections.abc import Iterator


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    yield from ()
