"""Reads a folder that TFDS prepared, without TensorFlow.

<data_dir>/<name>/<version>/dataset_info.json, features.json, <name>-<split>.array_record-...
"""

import io
import json
import os
import pathlib
import re
import types
import warnings
from typing import Any

import numpy as np

from jsnn.data.dataset import DataError, Split

# Opened by format, so that PIL does not try its other forty.
_IMAGE_FORMATS = ("PNG", "JPEG")


def import_tfds() -> types.ModuleType:
    """Imports tensorflow_datasets on first use, without what it warns about its own imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import tensorflow_datasets

        return tensorflow_datasets


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """The argument, else `TFDS_DATA_DIR`, else the folder TFDS uses by default."""
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(data_dir).expanduser()


def find_prepared(data_dir: pathlib.Path, name: str) -> pathlib.Path | None:
    """The folder of the newest complete version of a data set, or None."""
    versions = {
        tuple(int(number) for number in info.parent.name.split(".")): info.parent
        for info in data_dir.glob(f"{name}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    }
    return versions[max(versions)] if versions else None


def read_class_names(folder: pathlib.Path) -> tuple[str, ...]:
    """Names of the classes, by index; the indices themselves where the data set names none."""
    try:
        features = json.loads((folder / "features.json").read_text())
        label = features["featuresDict"]["features"]["label"]["classLabel"]
        names_file = folder / "label.labels.txt"
        if names_file.exists():
            return tuple(names_file.read_text().split("\n")[: int(label["numClasses"])])
        return tuple(str(i) for i in range(int(label["numClasses"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / "features.json", folder, error) from error


def decode_split(folder: pathlib.Path, split: str) -> Split:
    """Reads and decodes all images of a split, in the order they are stored.

    Raises:
      DataError: a file is missing, truncated or corrupted, or not of the array_record kind.
    """
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(folder)
        info = builder.info
        shards = info.splits[split]
        shape = info.features["image"].shape
        source = builder.as_data_source(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise DataError(
            f"{folder} is not in the array_record format, the only one that can be read without "
            f"TensorFlow: pass another `data_dir`, or delete {folder} to have it prepared again."
        ) from error
    except Exception as error:  # metadata of any other make fails in TFDS in any way
        raise _damaged(folder / "dataset_info.json", folder, error) from error
    images = np.empty((shards.num_examples, *shape), np.uint8)
    labels = np.empty(shards.num_examples, np.int32)
    start = 0
    for path, num_records in zip(shards.filepaths, shards.shard_lengths, strict=True):
        stop = start + num_records
        try:
            records = source.__getitems__(range(start, stop))
            _decode_records(records, images[start:stop], labels[start:stop])
        except Exception as error:
            # The C++ reader's RuntimeError, protobuf's DecodeError, PIL's SyntaxError, and others.
            raise _damaged(pathlib.Path(path), folder, error) from error
        start = stop
    return Split(images, labels)


def _decode_records(records: list[Any], images: np.ndarray, labels: np.ndarray) -> None:
    """Fills `images` [N, H, W, C] and `labels` [N], allocated once for all files of a split."""
    from PIL import Image

    shape = images.shape[1:]
    for i, record in enumerate(records):
        file = io.BytesIO(record["image"])
        with Image.open(file, formats=_IMAGE_FORMATS) as image:
            images[i] = np.asarray(image, np.uint8).reshape(shape)
        labels[i] = record["label"]


def _damaged(path: pathlib.Path, folder: pathlib.Path, error: Exception) -> DataError:
    what = "is truncated or corrupted" if path.exists() else "is missing"
    return DataError(
        f"{path} {what} ({type(error).__name__}: {error}). Delete the folder {folder} and run "
        "again with a network to have it prepared again, or copy it anew from where it is whole."
    )
