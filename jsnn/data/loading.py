"""Data sets by name."""

import os

from jsnn.data.cache import cache_folder, read_cached, write_cached
from jsnn.data.dataset import DataError, Dataset, Split, from_arrays
from jsnn.data.digits import CLASS_NAMES, digits
from jsnn.data.prepare import PREPARABLE, prepare
from jsnn.data.prepared import (
    decode_split,
    find_prepared,
    read_class_names,
    resolve_data_dir,
)

NAMES = ("digits", *PREPARABLE)


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    num_validation: int = 0,
    seed: int = 0,
    download: bool = True,
) -> Dataset:
    """Loads a data set into memory, downloading and preparing it on first use.

    >>> load("digits", num_validation=100).validation.images.shape
    (100, 8, 8, 1)

    Args:
      name: One of `NAMES`.
      data_dir: A TFDS data directory; defaults to the variable `TFDS_DATA_DIR`, else to
        `~/tensorflow_datasets`. `digits` needs none.
      num_validation: Images taken from the training set, never from the test set.
      seed: Which images these are. The choice also depends on the order in which the data set was
        prepared, so another copy of it may give other images for the same seed.
      download: Whether a set that is not in `data_dir` is downloaded.

    Raises:
      ValueError: an unknown name, or `num_validation` out of range.
      DataError: the data cannot be found, fetched or read.
    """
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}.")
    if name == "digits":
        (train, test), class_names = digits(), CLASS_NAMES
    else:
        splits, class_names = read_splits(name, data_dir=data_dir, download=download)
        train, test = splits["train"], splits["test"]
    return from_arrays(
        name,
        train,
        test,
        class_names=class_names,
        num_validation=num_validation,
        seed=seed,
    )


def read_splits(
    name: str,
    *,
    splits: tuple[str, ...] = ("train", "test"),
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads some splits of a prepared data set, and its class names; decoded arrays are kept."""
    root = resolve_data_dir(data_dir)
    folder = find_prepared(root, name)
    if folder is None and not download:
        what = f"has no prepared {name!r}" if root.is_dir() else "does not exist"
        raise DataError(
            f"the data directory {root} {what}. Pass `download=True` to download it, or name a "
            "folder that holds it (`data_dir`, --data-dir, or TFDS_DATA_DIR)."
        )
    if folder is None:
        folder = prepare(name, root)
    kept = cache_folder(folder)
    arrays = {}
    for split in splits:
        cached = read_cached(kept, split)
        arrays[split] = decode_split(folder, split) if cached is None else cached
        if cached is None:
            write_cached(kept, split, arrays[split])
    return arrays, read_class_names(folder)
