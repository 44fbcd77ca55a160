"""Event data sets by name, from a folder that holds the files of their authors. They are decoded once, and kept in our own store."""

import dataclasses
import gzip
import logging
import os
import pathlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from jsnn import check
from jsnn.data import cache, event_files, event_store
from jsnn.data.dataset import DataError
from jsnn.data.event_files import (
    parse_aedat2,
    parse_aedat3,
    parse_nmnist,
    read_bytes,
    since_start,
    stream_hdf5,
)
from jsnn.data.event_store import Stream
from jsnn.data.events import Events
from jsnn.data.prepared import resolve_data_dir

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # fmt: skip
_GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")  # fmt: skip
_ZIFFERN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")  # fmt: skip
_NUM_TEST = 100  # recordings of a class of CIFAR10-DVS, whose authors name no test set

_logger = logging.getLogger("jsnn")

# The files of a split in a folder, and what is in them; None if they are not there.
Finder = Callable[[pathlib.Path, str], tuple[list[pathlib.Path], Stream] | None]


@dataclasses.dataclass(frozen=True)
class EventSet:
    """What is known of a data set."""

    sensor: tuple[int, int]  # rows and columns
    class_names: tuple[str, ...]
    counts: dict[str, int]  # recordings of each split
    folders: tuple[str, ...]  # names that its folder has
    files: tuple[str, ...]  # of the authors, with checksums where known
    address: str
    find: Finder
    polarity: bool = True


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    on_device: bool = True,
) -> tuple[Events, np.ndarray]:
    """Reads the recordings of a split, and their labels `[N]`.

    | name | splits | sensor | classes |
    |---|---|---|---|
    | `nmnist` | train, test | 34 x 34 | 10 |
    | `dvs_gesture` | train, test | 128 x 128 | 11 |
    | `cifar10_dvs` | train, test (the first 100 recordings of each class; the authors name none) | 128 x 128 | 10 |
    | `shd` | train, test | 1 x 700 | 20 |
    | `ssc` | train, valid, test | 1 x 700 | 35 |

    Args:
      name: see the table.
      split: see the table.
      data_dir: the folder that holds the files, or a folder with the data set's name in it; defaults to the variable `TFDS_DATA_DIR`, else to
        `~/tensorflow_datasets`.
      on_device: puts all recordings on the device. Otherwise they stay on disk, and `events.take` reads those of a batch; it then stands outside
        of compiled code.

    Returns:
      The recordings, in the order of the authors' numbers, and class indices. `SETS[name].class_names` has the names.

    Raises:
      ValueError: an unknown name or split.
      DataError: the files are not there, with what to put where; or one is damaged.
    """
    check.choice("name", name, SETS)
    what = SETS[name]
    check.choice("split", split, what.counts)
    root = resolve_data_dir(data_dir)
    paths, stream = _find(name, root, split)
    folder = cache.folder_of(f"events-{name}-{split}", paths)
    rows = event_store.row_type(what.sensor, polarity=what.polarity)
    stored = event_store.read(folder, split, rows)
    if stored is None:
        form = {"sensor": what.sensor, "rows": rows}
        stored = event_store.write(folder, split, stream, **form)
        if stored is None:  # the folder does not take it
            stored = event_store.in_memory(_find(name, root, split)[1], **form)
    if len(stored.labels) != what.counts[split]:
        _logger.warning("%s, %s: %d recordings in %s, but the authors' set has %d.", name, split, len(stored.labels), root, what.counts[split])  # fmt: skip
    where = event_store.device_events if on_device else event_store.host_events
    return where(stored, what.sensor), stored.labels


def _find(
    name: str, root: pathlib.Path, split: str
) -> tuple[list[pathlib.Path], Stream]:
    what = SETS[name]
    names = (name, *what.folders)
    places = [root, *(root / n for n in names), root / "downloads/manual" / name]
    for place in places:
        try:
            found = what.find(place, split)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{place} cannot be read: {error}.") from error
        if found is not None:
            return found
    raise DataError(
        f"{name} ({split}) is not in {root}: put {', '.join(what.files)} of {what.address} into {root / name}, or name a folder that holds the data "
        "(`data_dir`, --data-dir, or TFDS_DATA_DIR)."
    )


# --- where the files are, and what is in them ---


def _in_archive(path: pathlib.Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                yield name, archive.read(name)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}). Fetch it again.") from error


def _members(path: pathlib.Path, pattern: str) -> list[tuple[str, re.Match[str]]]:
    """The members of a zip archive whose whole name the pattern matches."""
    with zipfile.ZipFile(path) as archive:
        matches = ((n, re.fullmatch(pattern, n)) for n in archive.namelist())
        return [(name, match) for name, match in matches if match]


def _find_nmnist(place: pathlib.Path, split: str):
    part = split.title()
    pattern = rf"(?:.*/)?{part}/(\d)/(\d+)\.bin"
    folder, archive = place / part, place / f"{part}.zip"
    if folder.is_dir():
        paths = sorted(folder.glob("[0-9]/*.bin"), key=lambda p: (p.stem, p))
        if not paths:
            return None
        labels = (int(p.parent.name) for p in paths)
        contents = ((p, read_bytes(p)) for p in paths)
    elif archive.is_file():
        members = sorted(_members(archive, pattern), key=lambda m: m[1].group(2))
        paths = [archive]
        labels = (int(m.group(1)) for _, m in members)
        contents = _in_archive(archive, [name for name, _ in members])
    else:
        return None
    pairs = zip(labels, contents, strict=True)
    return paths, ((label, source, parse_nmnist(content, source)) for label, (source, content) in pairs)  # fmt: skip


def _find_gestures(place: pathlib.Path, split: str):
    for folder in (place, place / "DvsGesture"):
        listed = folder / f"trials_to_{split}.txt"
        if listed.is_file():
            lines = listed.read_text().split()
            paths = [folder / line for line in lines if line.endswith(".aedat")]
            tables = [p.with_name(f"{p.stem}_labels.csv") for p in paths]
            if missing := [p for p in (*paths, *tables) if not p.is_file()]:
                raise DataError(
                    f"{listed} names {missing[0].name}, but it is not in {folder} ({len(missing)} files are missing): unpack DvsGesture.tar.gz again."
                )
            return [listed, *paths, *tables], _gestures(paths, tables)
    return None


def _gestures(paths: list[pathlib.Path], tables: list[pathlib.Path]) -> Stream:
    """A file holds all gestures of one person in one light; a table says which is when, with classes from 1."""
    for path, table in zip(paths, tables, strict=True):
        found = parse_aedat3(read_bytes(path), path)
        try:
            spans = np.loadtxt(table, np.int64, delimiter=",", skiprows=1, ndmin=2)
            labels, starts, ends = spans.T
        except ValueError as error:
            raise DataError(
                f"{table} is no table of class, start and end: {error}."
            ) from error
        for label, start, end in zip(labels, starts, ends, strict=True):
            inside = (found["t_us"] >= start) & (found["t_us"] < end)
            one = {name: values[inside] for name, values in found.items()}
            where = f"{path}, {start} to {end} µs"
            if not inside.any() or not 1 <= label <= len(_GESTURES):
                raise DataError(
                    f"{where}: {inside.sum()} events of class {label}, but there are classes 1 to {len(_GESTURES)}, each with events."
                )
            yield int(label) - 1, where, since_start(one)


def _find_cifar10(place: pathlib.Path, split: str):
    paths, parts = [], []
    for label, word in enumerate(_CIFAR10):
        pattern = rf"(?:.*/)?cifar10_{word}_(\d+)\.aedat"
        folder, archive = place / word, place / f"{word}.zip"
        if folder.is_dir():
            matches = [(p, re.fullmatch(pattern, p.name)) for p in folder.iterdir()]
            named = sorted((int(m.group(1)), p) for p, m in matches if m)
            chosen = [p for n, p in named if (n < _NUM_TEST) == (split == "test")]
            contents = ((p, read_bytes(p)) for p in chosen)
            paths += chosen
        elif archive.is_file():
            named = sorted((int(m.group(1)), n) for n, m in _members(archive, pattern))
            chosen = [n for n, name in named if (n < _NUM_TEST) == (split == "test")]
            names = [name for n, name in named if (n < _NUM_TEST) == (split == "test")]
            contents = _in_archive(archive, names)
            paths.append(archive)
        else:
            continue
        if chosen:
            parts.append((label, contents))
    if not parts:
        return None
    return paths, (
        (label, source, since_start(parse_aedat2(content, source)))
        for label, contents in parts
        for source, content in contents
    )


def _find_speech(name: str) -> Finder:
    def find(place: pathlib.Path, split: str):
        for ending in (".h5", ".h5.gz", ".h5.zip"):
            path = place / f"{name}_{split}{ending}"
            if path.is_file():
                return [path], _speech(path)
        return None

    return find


def _speech(path: pathlib.Path) -> Stream:
    """HDF5 is read here and there, so an archive of it is unpacked for the time being."""
    with tempfile.TemporaryDirectory(prefix="jsnn-") as folder:
        source = path
        if path.suffix != ".h5":
            source = pathlib.Path(folder) / "unpacked.h5"
            try:
                with _opened(path) as packed, source.open("wb") as out:
                    shutil.copyfileobj(packed, out)
            except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
                raise DataError(
                    f"{path} cannot be unpacked ({type(error).__name__}: {error}). Fetch it again, or free some space in {folder}."
                ) from error
        for i, (label, found) in enumerate(stream_hdf5(source)):
            yield label, f"{path}, recording {i}", found


def _opened(path: pathlib.Path):
    if path.suffix == ".gz":
        return gzip.open(path)
    return zipfile.ZipFile(path).open(path.stem)


_ORCHARD = "https://www.garrickorchard.com/datasets/n-mnist"
_FIGSHARE = "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671"
_ZENKE = "https://zenkelab.org/datasets"
_IBM = "https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794"
_EAR = (1, event_files.NUM_UNITS)

SETS = {
    "nmnist": EventSet(
        (34, 34),
        tuple(str(i) for i in range(10)),
        {"train": 60_000, "test": 10_000},
        ("NMNIST", "N-MNIST"),
        (
            "Train.zip (MD5 20959b8e626244a1b502305a9e6e2031)",
            "Test.zip (MD5 69ca8762b2fe404d9b9bad1103e97832), or their folders,",
        ),
        _ORCHARD,
        _find_nmnist,
    ),
    "dvs_gesture": EventSet(
        (128, 128),
        _GESTURES,
        {"train": 1176, "test": 288},
        ("DVSGesture", "DVS128Gesture"),
        (
            "the folder DvsGesture of DvsGesture.tar.gz (MD5 8a5c71fb11e24e5ca5b11866ca6c00a1)",
        ),
        _IBM,
        _find_gestures,
    ),
    "cifar10_dvs": EventSet(
        (128, 128),
        _CIFAR10,
        {"train": 9000, "test": 1000},
        ("CIFAR10DVS", "CIFAR10-DVS"),
        ("airplane.zip, automobile.zip, … truck.zip, or their folders,",),
        _FIGSHARE,
        _find_cifar10,
    ),
    "shd": EventSet(
        _EAR,
        (*_DIGITS, *_ZIFFERN),
        {"train": 8156, "test": 2264},
        ("SHD",),
        (
            "shd_train.h5",
            "shd_test.h5 (also .h5.gz, or .h5.zip: MD5 f3252aeb598ac776c1b526422d90eecb, 1503a5064faa34311c398fb0a1ed0a6f)",
        ),
        _ZENKE,
        _find_speech("shd"),
        polarity=False,
    ),
    "ssc": EventSet(
        _EAR,
        tuple(str(i) for i in range(35)),
        {"train": 75_466, "valid": 9981, "test": 20_382},
        ("SSC",),
        (
            "ssc_train.h5",
            "ssc_valid.h5",
            "ssc_test.h5 (also .h5.gz, or .h5.zip: MD5 d102be95e7144fcc0553d1f45ba94170, b4eee3516a4a90dd0c71a6ac23a8ae43, a35ff1e9cffdd02a20eb850c17c37748)",
        ),
        _ZENKE,
        _find_speech("ssc"),
        polarity=False,
    ),
}
