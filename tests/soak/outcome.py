"""Cases, what became of them, and whether a folder is as it was."""

import dataclasses
import hashlib
import os
import pathlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Attributes:
      script: its name.
      args: its flags.
      word: what its one line must name.
      what: what is wrong, in words.
      refused: False: it may also be accepted.
    """

    script: str
    args: tuple[str, ...]
    word: str
    what: str
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.script} {' '.join(map(repr, self.args))} ({self.what})"


Snapshot = dict[str, str]


def snapshot(folder: pathlib.Path) -> Snapshot:
    """What lies in a folder: kinds of all entries, where links lead, and contents of files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found


def changed(before: Snapshot, after: Snapshot) -> str:
    """Names of what differs, or nothing."""
    names = before.keys() | after.keys()
    return ", ".join(n for n in sorted(names) if before.get(n) != after.get(n))


def chosen(cases: Sequence[T], seed: int, share: float) -> list[T]:
    """So many of the cases, in an order that the seed decides."""
    mixed = random.Random(seed).sample(list(cases), len(cases))
    return mixed[: max(1, round(share * len(cases)))]
