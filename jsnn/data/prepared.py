"""Reads a folder that TFDS prepared, without TensorFlow.

<data_dir>/<name>/<version>/dataset_info.json, features.json, <name>-<split>.array_record-...
"""

import errno
import io
import json
import math
import os
import pathlib
import re
import stat
import types
import warnings
from typing import Any, NamedTuple

import numpy as np

from jsnn import memory
from jsnn.data.dataset import DataError, Split

# Opened by format, so that PIL does not try its other forty.
_IMAGE_FORMATS = ("PNG", "JPEG")
_TFDS = "tensorflow_datasets.core.features"
_CONNECTORS = (
    "features_dict.FeaturesDict",
    "image_feature.Image",
    "class_label_feature.ClassLabel",
    "text_feature.Text",
)
# Of each feature: the key of its content, and its connector.
_FEATURES = {
    "image": ("image", _CONNECTORS[1]),
    "label": ("classLabel", _CONNECTORS[2]),
    "coarse_label": ("classLabel", _CONNECTORS[2]),
}
_OTHER = ("text", _CONNECTORS[3])
_LARGEST_SIDE, _MOST_CLASSES = 65_536, 65_536
_LONGEST = 2**24  # bytes of a description
_NOT_AS_WANTED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


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
    try:
        return pathlib.Path(data_dir).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"the data directory {data_dir} needs a home folder, and there is none: name a folder (`data_dir`, --data-dir, or TFDS_DATA_DIR)."
        ) from error


def find_prepared(data_dir: pathlib.Path, name: str) -> pathlib.Path | None:
    """The folder of the newest complete version of a data set, or None.

    Raises:
      DataError: if the folder of all data sets, or of this one, cannot be read.
    """
    for folder in (data_dir, data_dir / name):
        try:
            next(folder.iterdir(), None)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(folder, folder, error) from error
    versions = {
        tuple(int(number) for number in info.parent.name.split(".")): info.parent
        for info in data_dir.glob(f"{name}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    }
    return versions[max(versions)] if versions else None


class Features(NamedTuple):
    """What a data set says about itself."""

    shape: tuple[int, int, int]  # height, width, channels
    num_classes: int


def read_features(folder: pathlib.Path) -> Features:
    """The description of images and labels, with nothing in it but what we know.

    TFDS makes each feature by the name of a class, and imports the module that the name begins with: a data folder could run any code. So names are
    compared with ours before TFDS sees them.

    Raises:
      DataError: if the description is missing, damaged, unreadable or not of images with labels.
    """
    path = folder / "features.json"
    try:
        features = _only(json.loads(_read(path)), "featuresDict", _CONNECTORS[0])
        features = features["features"]
        for name, feature in features.items():
            _only(feature, *_FEATURES.get(name, _OTHER))
        image = features["image"]["image"]
        shape = [int(n) for n in image["shape"]["dimensions"]]
        num_classes = int(features["label"]["classLabel"]["numClasses"])
        if len(shape) != 3 or not all(0 < n <= _LARGEST_SIDE for n in shape):
            raise ValueError(f"images of shape {shape}")
        if not 0 < num_classes <= _MOST_CLASSES:
            raise ValueError(f"{num_classes} classes")
    except DataError:
        raise
    except OSError as error:
        raise _unreadable(path, folder, error) from error
    except _NOT_AS_WANTED as error:
        raise _damaged(path, folder, error) from error
    return Features((shape[0], shape[1], shape[2]), num_classes)


def _only(feature: dict[str, Any], content: str, connector: str) -> Any:
    """What lies under the key `content`, if beside it there is nothing but the name of this connector and words."""
    if unknown := feature.keys() - {content, "pythonClassName", "description"}:
        raise ValueError(f"unknown entry {min(unknown)!r}")
    if (name := feature["pythonClassName"]) != f"{_TFDS}.{connector}":
        raise ValueError(f"{name!r} is no feature we know")
    return feature[content]


def read_class_names(folder: pathlib.Path) -> tuple[str, ...]:
    """Names of the classes, by index; the indices themselves where the data set names none."""
    count, path = read_features(folder).num_classes, folder / "label.labels.txt"
    if not path.exists():
        return tuple(str(i) for i in range(count))
    try:
        names = tuple(_read(path).decode().split("\n")[:count])
        if len(names) != count:
            raise ValueError(f"{len(names)} names of {count} classes")
    except OSError as error:
        raise _unreadable(path, folder, error) from error
    except ValueError as error:
        raise _damaged(path, folder, error) from error
    return names


def _read(path: pathlib.Path) -> bytes:
    """A description, which is a short file and nothing else."""
    mode, size = (found := path.stat()).st_mode, found.st_size
    if not stat.S_ISREG(mode):  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no file", str(path))
    if size > _LONGEST:
        raise OSError(errno.EFBIG, "it is too long for a description", str(path))
    return path.read_bytes()


def decode_split(folder: pathlib.Path, split: str) -> Split:
    """Reads and decodes all images of a split, in the order they are stored.

    Raises:
      DataError: a file is missing, truncated or corrupted, or not of the array_record kind, or the descriptions promise what the files do not hold.
    """
    shape = read_features(folder).shape  # before TFDS sees the folder
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(folder)
        info = builder.info
        shards = info.splits[split]
        if info.file_format.value != "array_record":
            raise NotImplementedError(info.file_format)
        _check_promise(folder, shards, shape)
        source = builder.as_data_source(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise DataError(
            f"{folder} is not in the array_record format, the only one that can be read without "
            f"TensorFlow: pass another `data_dir`, or delete {folder} to have it prepared again."
        ) from error
    except DataError:
        raise
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


def _check_promise(folder: pathlib.Path, shards: Any, shape: tuple[int, ...]) -> None:
    """Compares what a split is said to hold with its files and with memory, before anything is allocated."""
    from array_record.python.array_record_module import ArrayRecordReader

    if shards.num_examples < 1:
        raise ValueError(f"{shards.num_examples} examples")
    for path, promised in zip(shards.filepaths, shards.shard_lengths, strict=True):
        path = pathlib.Path(path)
        if not path.is_file():
            raise _damaged(path, folder, FileNotFoundError(errno.ENOENT, "no file"))
        try:
            path.open("rb").close()
        except OSError as error:
            raise _unreadable(path, folder, error) from error
        try:
            reader = ArrayRecordReader(str(path))
            found = reader.num_records()
            reader.close()
        except Exception as error:  # the C++ reader's own kinds
            raise _damaged(path, folder, error) from error
        if found != promised:
            raise ValueError(f"{promised} examples, where {path.name} holds {found}")
    needed, free = shards.num_examples * math.prod(shape), memory.host_bytes()
    if needed > free:
        raise DataError(
            f"{folder} holds {shards.num_examples} images of {shape}, {memory.gigabytes(needed)}, where {memory.gigabytes(free)} of memory are free. "
            "Use a machine with more memory, or a smaller data set."
        )


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
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return DataError(
        f"{path} {what} ({reason}). Delete the folder {folder} and run "
        "again with a network to have it prepared again, or copy it anew from where it is whole."
    )


def _unreadable(path: pathlib.Path, folder: pathlib.Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _damaged(path, folder, error)
    return DataError(
        f"{path} cannot be read ({error.strerror}). Nothing was changed; make it readable, or name another folder (`data_dir`, --data-dir, or "
        "TFDS_DATA_DIR)."
    )
