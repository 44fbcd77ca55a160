"""Decoded arrays on disk, so that images are decoded once.

A cache is only ever a shortcut: whatever is wrong with it, the images are decoded again, and where
it cannot be written the program goes on with a warning.

    <folder>/<split>-images.npy, <split>-labels.npy
    <folder>/<split>.json          checksums of both, written last

The name of the folder holds a fingerprint of the prepared files, so a cache of other files is never
looked at.
"""

import hashlib
import json
import os
import pathlib
import uuid
import warnings
import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from jsnn.data.dataset import Split

_LAYOUT = 1  # counts up when the files or their meaning change


def cache_folders(prepared: pathlib.Path, data_dir: pathlib.Path) -> list[pathlib.Path]:
    """Where the arrays of one prepared version may lie, in the order they are looked for.

    First beside the prepared data, where everyone who reads them finds them; then in `JSNN_CACHE`,
    by default `~/.cache/jsnn`.
    """
    name = f"{prepared.parent.name}-{prepared.name}-{_fingerprint(prepared)}"
    own = pathlib.Path(os.environ.get("JSNN_CACHE") or "~/.cache/jsnn").expanduser()
    return [data_dir / "jsnn_cache" / name, own / name]


def _fingerprint(prepared: pathlib.Path) -> str:
    """A hash of the description of the data and of the names, sizes and dates of all its files."""
    digest = hashlib.sha256(str(_LAYOUT).encode())
    for path in sorted(prepared.iterdir()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_cached(folders: list[pathlib.Path], split: str) -> Split | None:
    """The arrays from the first folder that holds them undamaged, else None."""
    for folder in folders:
        try:
            checksums = json.loads((folder / f"{split}.json").read_text())
            arrays = Split(*(_load(folder, split, part) for part in Split._fields))
            intact = checksums == _checksums(arrays)
        except Exception:
            # Whatever stands in a damaged file, the remedy is to decode again.
            continue
        if intact:
            return arrays
    return None


def _load(folder: pathlib.Path, split: str, part: str) -> np.ndarray:
    with (folder / f"{split}-{part}.npy").open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def write_cached(folders: list[pathlib.Path], split: str, arrays: Split) -> None:
    """Writes the arrays to the first folder that takes them; warns if none does."""
    failures = []
    for folder in folders:
        if _is_locked(folder):
            failures.append(f"{folder}: read-only")
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part, array in arrays._asdict().items():
                _replace(
                    folder / f"{split}-{part}.npy",
                    lambda file, a=array: np.save(file, a),
                )
            content = json.dumps(_checksums(arrays)).encode()
            _replace(folder / f"{split}.json", lambda file, c=content: file.write(c))
            return
        except OSError as error:
            failures.append(f"{folder}: {error}")
    warnings.warn(
        f"the decoded {split} images are not kept, so the next run decodes them again "
        f"({'; '.join(failures)}). Set JSNN_CACHE to a folder that can be written and has space.",
        RuntimeWarning,
        stacklevel=2,
    )


def _checksums(arrays: Split) -> dict[str, int]:
    return {
        part: zlib.crc32(np.ascontiguousarray(array).data)
        for part, array in arrays._asdict().items()
    }


def _is_locked(folder: pathlib.Path) -> bool:
    """Whether the nearest existing folder is marked read-only, which root's rights would override."""
    while not folder.exists():
        folder = folder.parent
    return not folder.stat().st_mode & 0o222


def _replace(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file under another name and renames it, so that no reader ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
