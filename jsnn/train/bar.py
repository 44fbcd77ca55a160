"""The progress bar: in a terminal and in a notebook as usual, elsewhere a line now and then."""

import sys
from typing import Any

# Between two lines in a log.
_SECONDS = 60.0


class _Lines:
    """A file in which each state of the bar is a line of its own."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, text: str) -> None:
        """One state of the bar."""
        if text := text.strip("\r\n"):
            self._file.write(f"{text}\n")

    def flush(self) -> None:
        """As the file's own."""
        self._file.flush()


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, whose pages show a bar as a terminal does."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell else None
    return hasattr(running, "kernel")


def bar(*, hidden: bool = False, **options: Any) -> Any:
    """A tqdm bar.

    Args:
      hidden: show nothing.
      **options: tqdm's.

    Returns:
      The bar, to be used in `with`.
    """
    from tqdm import tqdm

    file: Any = sys.stderr
    if hidden or file.isatty() or in_notebook():
        return tqdm(disable=hidden, **options)
    return tqdm(file=_Lines(file), mininterval=_SECONDS, maxinterval=_SECONDS, ncols=80, **options)  # fmt: skip
