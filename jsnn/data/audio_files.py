"""The Free Spoken Digit Dataset in the folders and archives it comes in."""

import json
import pathlib
import re
import struct
import tarfile
import wave
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from jsnn.data.dataset import DataError
from jsnn.data.prepared import find_prepared, import_tfds

_ADDRESS = "https://github.com/Jakobovski/free-spoken-digit-dataset"
_FILE = re.compile(r"(\d)_(\w+)_(\d+)\.wav")
_RATE = 8000  # Hz


def spoken_digits(data_dir: pathlib.Path) -> dict[str, Any]:
    """The arguments of `recordings`, from whatever of the data set a folder holds.

    Looked for, in this order: what TFDS prepared (`spoken_digit/1.0.9`, as array_record or tfrecord), a folder `recordings` of wave files below
    `spoken_digit` or `free-spoken-digit-dataset*`, and the archive of such a folder.

    Reference: Jackson et al. 2018, https://doi.org/10.5281/zenodo.1342401

    Raises:
      DataError: nothing is found, or a file is damaged.
    """
    named: dict[str, np.ndarray] = {}
    prepared = find_prepared(data_dir, "spoken_digit")
    folders = sorted(data_dir.glob("free-spoken-digit-dataset*/recordings"))
    folders = [f for f in (data_dir / "spoken_digit/recordings", *folders) if f.is_dir()]  # fmt: skip
    places = (data_dir, data_dir / "downloads/manual/spoken_digit")
    archives = [a for p in places for a in sorted(p.glob("free-spoken-digit-dataset*.tar.gz"))]  # fmt: skip
    if prepared is not None:
        named = dict(_prepared(prepared))
    elif folders:
        named = {p.name: _wave(p.open("rb"), p) for p in folders[0].glob("*.wav") if _FILE.fullmatch(p.name)}  # fmt: skip
    elif archives:
        named = dict(_archive(archives[0]))
    if not named:
        raise DataError(
            f"spoken_digits is not in {data_dir}: put the archive free-spoken-digit-dataset-1.0.9.tar.gz ({_ADDRESS}/archive/v1.0.9.tar.gz) or its "
            f"folder there, or name a folder that holds it (`data_dir`, --data-dir, or TFDS_DATA_DIR)."
        )
    return _flat(named)


def _flat(named: dict[str, np.ndarray]) -> dict[str, Any]:
    """Recordings by the name of their file as flat arrays, in the order of these names."""
    names = sorted(named)
    parts = [match.groups() for n in names if (match := _FILE.fullmatch(n))]
    if len(parts) < len(names):
        raise DataError(
            f"spoken_digits: names of recordings must be like 7_theo_32.wav, got {next(n for n in names if not _FILE.fullmatch(n))!r}."
        )
    label, speaker, index = zip(*parts, strict=True)
    return {
        "audio": np.concatenate([named[name] for name in names]),
        "offsets": np.cumsum([0, *(len(named[name]) for name in names)]),
        "label": np.array(label, np.int32),
        "speaker": np.array(speaker),
        "index": np.array(index, np.int32),
        "rate": _RATE,
    }


def _wave(file: BinaryIO | Any, path: pathlib.Path | str) -> np.ndarray:
    try:
        with file, wave.open(file) as sound:
            shape = (sound.getnchannels(), sound.getsampwidth(), sound.getframerate())
            if shape != (1, 2, _RATE):
                raise DataError(
                    f"{path} has {shape[0]} channels of {8 * shape[1]} bits at {shape[2]} Hz, but the data set has one of 16 bits at {_RATE} Hz. Fetch it again."
                )
            samples = sound.readframes(sound.getnframes())
            return np.frombuffer(samples, "<i2").astype(np.int16)
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise DataError(
            f"{path} is no wave file, or is cut off ({error}). Fetch it again."
        ) from error


def _archive(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = pathlib.PurePath(member.name).name
                if _FILE.fullmatch(name) and (file := archive.extractfile(member)):
                    yield name, _wave(file, f"{path}: {name}")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(
            f"{path} cannot be unpacked ({type(error).__name__}: {error}). Fetch it again from {_ADDRESS}/archive/v1.0.9.tar.gz."
        ) from error


def _prepared(folder: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """From TFDS's records. Its own reader of sound needs TensorFlow, so features are taken from the records here."""
    import_tfds()  # without what it warns about
    from tensorflow_datasets.proto import tf_example_pb2

    example: Any = tf_example_pb2  # made by protobuf, without types
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        shards = [int(n) for split in info["splits"] for n in split["shardLengths"]]
        kind = info.get("fileFormat", "tfrecord")
        read = {"array_record": _array_records, "tfrecord": _tf_records}[kind]
        total = 0
        for path in sorted(folder.glob(f"spoken_digit-*.{kind}-*")):
            for record in read(path):
                total += 1
                feature = example.Example.FromString(record).features.feature
                name = feature["audio/filename"].bytes_list.value[0].decode()
                values = np.array(feature["audio"].int64_list.value)
                yield name, values.astype(np.int16)
        if total != sum(shards):
            raise ValueError(f"{total} recordings of {sum(shards)}")
    except DataError:
        raise
    except Exception as error:  # of the C++ reader, protobuf, JSON and others
        raise DataError(
            f"{folder} is no whole data set that TFDS prepared ({type(error).__name__}: {error}): copy it anew from where it is whole, or delete it "
            "and put the authors' archive there."
        ) from error


def _array_records(path: pathlib.Path) -> list[bytes]:
    import array_record.python.array_record_module as array_record

    made: Any = array_record  # in C++, without types
    reader = made.ArrayRecordReader(str(path))
    try:
        return reader.read_all()
    finally:
        reader.close()


def _tf_records(path: pathlib.Path) -> Iterator[bytes]:
    """Length (8 bytes), its checksum (4), the record, its checksum (4)."""
    with path.open("rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q4x", header)
            record = file.read(length + 4)
            if len(record) != length + 4:
                raise EOFError(f"{path.name} is cut off")
            yield record[:-4]
