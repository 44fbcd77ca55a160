"""Decoded arrays on disk, so that images are decoded once.

A cache is only ever a shortcut: whatever is wrong with it, the images are decoded again, and where
it cannot be written the program goes on with a warning.

    <folder>/<split>-images.npy, <split>-labels.npy
    <folder>/<split>.json          checksums of both, written last

The name of the folder holds a fingerprint of the prepared files, so a cache of other files is never
looked at.
"""

import errno
import hashlib
import json
import os
import pathlib
import warnings
import zlib
from collections.abc import Iterable

import numpy as np

from jsnn import files
from jsnn.data.dataset import DataError, Split

_LAYOUT = 1  # counts up when the files or their meaning change


def cache_folder(prepared: pathlib.Path) -> pathlib.Path:
    """Where the arrays of one prepared version lie: in `JSNN_CACHE`, by default the user's cache folder. The data folder is left alone.

    Raises:
      DataError: if the prepared files cannot be looked at, or if there is no home folder to hold the cache.
    """
    try:
        fingerprint = _fingerprint(prepared)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}). Nothing was changed; make it readable, or name another folder (`data_dir`, "
            "--data-dir, or TFDS_DATA_DIR)."
        ) from error
    return _named(f"{prepared.parent.name}-{prepared.name}-{fingerprint}")


def folder_of(name: str, paths: Iterable[pathlib.Path]) -> pathlib.Path:
    """Where what was decoded from these files lies. Other names, sizes or dates of them give another folder.

    Raises:
      DataError: if a file cannot be looked at, or if there is no home folder to hold the cache.
    """
    digest = hashlib.sha256(str(_LAYOUT).encode())
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return _named(f"{name}-{digest.hexdigest()[:16]}")


def _named(name: str) -> pathlib.Path:
    try:
        return files.cache() / name
    except RuntimeError as error:
        own = os.environ.get("JSNN_CACHE")
        raise DataError(
            f"decoded images are kept in {own or 'the cache'} of a home folder, and there is none: name a folder by JSNN_CACHE."
        ) from error


def _fingerprint(prepared: pathlib.Path) -> str:
    """A hash of the description of the data and of the names, sizes and dates of all its files."""
    digest = hashlib.sha256(str(_LAYOUT).encode())
    for path in sorted(prepared.iterdir()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        if path.suffix == ".json" and not path.is_file():
            raise OSError(errno.EINVAL, "it is no file", str(path))
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_cached(folder: pathlib.Path, split: str) -> Split | None:
    """The arrays from the folder if it holds them undamaged, else None."""
    try:
        checksums = json.loads((folder / f"{split}.json").read_text())
        arrays = Split(*(_load(folder, split, part) for part in Split._fields))
        return arrays if checksums == _checksums(arrays) else None
    except Exception:
        # Whatever stands in a damaged file, the remedy is to decode again.
        return None


def _load(folder: pathlib.Path, split: str, part: str) -> np.ndarray:
    with (folder / f"{split}-{part}.npy").open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def write_cached(folder: pathlib.Path, split: str, arrays: Split) -> None:
    """Writes the arrays to the folder; warns if it does not take them."""
    try:
        if is_locked(folder):
            raise PermissionError(errno.EROFS, "it is read-only")
        folder.mkdir(parents=True, exist_ok=True)
        for part, array in arrays._asdict().items():
            files.write(
                folder / f"{split}-{part}.npy",
                lambda file, a=array: np.save(file, a),
            )
        content = json.dumps(_checksums(arrays)).encode()
        files.write(folder / f"{split}.json", content)
    except OSError as error:
        warnings.warn(
            f"the decoded {split} images are not kept in {folder} ({error.strerror}), so the next run decodes them again. "
            "Set JSNN_CACHE to a folder that can be written and has space.",
            RuntimeWarning,
            stacklevel=2,
        )


def _checksums(arrays: Split) -> dict[str, int]:
    return {
        part: zlib.crc32(np.ascontiguousarray(array).data)
        for part, array in arrays._asdict().items()
    }


def is_locked(folder: pathlib.Path) -> bool:
    """Whether the nearest existing folder is marked read-only, which root's rights would override."""
    while not os.path.exists(folder):  # False also where it may not be looked for
        folder = folder.parent
    return not folder.stat().st_mode & 0o222
