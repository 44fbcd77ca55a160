"""Finished and unfinished runs, read from their folders: to list them, to compare them, to report on them."""

import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jsnn import check, files
from jsnn.train.runs import RunError

# Of a summary: where a result comes from.
PLACE = ("experiment", "device", "version", "jax_version", "commit")
# Of a summary: what a list of runs shows if it is there.
RESULTS = ("test_accuracy", "validation_accuracy", "test_loss", "wall_seconds")
_INSIDE = {"checkpoints", "layers", "tensorboard"}


class Folder(NamedTuple):
    """A run as its folder tells it.

    Attributes:
      path: of the folder.
      experiment: name of the script.
      config: the flags that decide the result.
      about: versions, device and commit.
      summary: the result, empty while there is none.
    """

    path: pathlib.Path
    experiment: str
    config: dict[str, Any]
    about: dict[str, Any]
    summary: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl; a line that cannot be read is left out, as the run may be writing it."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                found.append(dict(files.parsed(line)))
            except (ValueError, TypeError):
                continue
        return found


def read(path: check.Path) -> Folder:
    """The run in a folder.

    Args:
      path: the folder.

    Returns:
      What its config.json and summary.json say.

    Raises:
      RunError: if there is no run in it, or a file of it cannot be read.
    """
    path = check.path("path", path)
    file = path / "config.json"
    try:
        known = dict(files.parsed(file.read_bytes()))
        config, experiment = dict(known.pop("config")), str(known.pop("experiment"))
        file = path / "summary.json"
        summary = dict(files.parsed(file.read_bytes())) if file.exists() else {}
    except FileNotFoundError as error:
        raise RunError(
            f"{path} holds no run: there is no config.json in it. Name a folder that was given to --out."
        ) from error
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file} is damaged or no run's ({error!r}).") from error
    return Folder(path, experiment, config, known, summary)


def _folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
    for place, inner, names in os.walk(root):
        inner[:] = sorted(set(inner) - _INSIDE)
        if "config.json" in names:
            yield pathlib.Path(place)


def find(root: check.Path) -> list[Folder]:
    """All runs in a folder and below it, in the order of their paths; what cannot be read is named on stderr and left out.

    Args:
      root: where to look. Links are not followed.

    Returns:
      The runs.

    Raises:
      RunError: if there is no such folder, or no run in it.
    """
    root = check.path("root", root)
    if not root.is_dir():
        raise RunError(f"{root} is no folder. Name one that holds runs.")
    found = []
    for path in _folders(root):
        try:
            found.append(read(path))
        except RunError as error:
            print(f"Left out: {error}", file=sys.stderr)
    if not found:
        raise RunError(f"There is no run in {root}. Name a folder that holds runs.")
    return found


def differing(runs: Sequence[Folder]) -> list[str]:
    """Flags that not all of these runs share, in the order of their configs; a flag that a run's script has not counts as different.

    >>> a, b = (jsnn.train.folders.Folder(pathlib.Path(), "mine", {"seed": s, "epochs": 5}, {}, {}) for s in (0, 1))
    >>> differing([a, b])
    ['seed']
    """
    names = dict.fromkeys(name for run in runs for name in run.config)
    missing = object()
    return [
        name
        for name in names
        if len({repr(run.config.get(name, missing)) for run in runs}) > 1
    ]


def shown(value: Any) -> str:
    """A flag or a result as the cell of a table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return str(value)
