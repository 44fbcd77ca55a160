"""Recordings of sound: padding, splits, files of every kind, and what is refused."""

import io
import json
import pathlib
import struct
import tarfile
import wave

import numpy as np
import pytest
from conftest import needs

from jsnn.data import DataError, audio

FSDD = pathlib.Path(__file__).parents[2] / "shared/data/audio/fsdd.npz"
SPEAKERS = ("ann", "bob")
NAMES = [f"{d}_{s}_{i}.wav" for d in range(3) for s in SPEAKERS for i in range(7)]


def sounds():
    """A short recording for each name."""
    draws = np.random.default_rng(0)
    return {n: draws.integers(-999, 999, 3 + i % 5, np.int16) for i, n in enumerate(NAMES)}  # fmt: skip


def flat():
    parts = [name.removesuffix(".wav").split("_") for name in NAMES]
    label, speaker, index = zip(*parts, strict=True)
    return {
        "audio": np.concatenate(list(sounds().values())),
        "offsets": np.cumsum([0, *map(len, sounds().values())]),
        "label": np.array(label, np.uint8),
        "speaker": np.array(speaker),
        "index": np.array(index, np.uint8),
        "rate": np.int64(8000),
    }


def wav(samples, rate=8000):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def put_folder(root):
    folder = root / "free-spoken-digit-dataset-1.0.9/recordings"
    folder.mkdir(parents=True)
    for name, samples in sounds().items():
        (folder / name).write_bytes(wav(samples))
    (folder / "README.wav").write_bytes(b"not one of them")


def put_archive(root):
    root.mkdir()
    path = root / "free-spoken-digit-dataset-1.0.9.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, samples in sounds().items():
            member = tarfile.TarInfo(
                f"free-spoken-digit-dataset-1.0.9/recordings/{name}"
            )
            member.size = len(wav(samples))
            archive.addfile(member, io.BytesIO(wav(samples)))


def records():
    from tensorflow_datasets.proto import tf_example_pb2

    for name, samples in reversed(sounds().items()):  # TFDS shuffles
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["audio"].int64_list.value.extend(samples.tolist())
        feature["label"].int64_list.value.append(int(name[0]))
        feature["audio/filename"].bytes_list.value.append(name.encode())
        yield example.SerializeToString()


def put_prepared(root, kind):
    from array_record.python import array_record_module

    folder = root / "spoken_digit/1.0.9"
    folder.mkdir(parents=True)
    split = {"name": "train", "shardLengths": [str(len(NAMES))]}
    info = {"fileFormat": kind, "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    path = folder / f"spoken_digit-train.{kind}-00000-of-00001"
    if kind == "tfrecord":
        path.write_bytes(b"".join(struct.pack("<Q4x", len(r)) + r + bytes(4) for r in records()))  # fmt: skip
        return
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records():
        writer.write(record)
    writer.close()


PLACES = {
    "folder": put_folder,
    "archive": put_archive,
    "array_record": lambda root: put_prepared(root, "array_record"),
    "tfrecord": lambda root: put_prepared(root, "tfrecord"),
}


@pytest.mark.parametrize("place", PLACES)
def test_spoken_digits_are_the_same_from_wherever_they_come(place, tmp_path):
    PLACES[place](tmp_path / "data")
    found = audio.load("spoken_digits", data_dir=tmp_path / "data")
    own = tmp_path / "mine.npz"
    np.savez(own, **flat())
    expected = audio.load(own)
    order = [sorted(NAMES).index(name) for name in NAMES]
    for part in ("samples", "labels", "speakers", "takes"):
        np.testing.assert_array_equal(getattr(found, part)[order], getattr(expected, part))  # fmt: skip
    for row, samples in zip(expected.samples, sounds().values(), strict=True):
        assert row.tolist() == samples.tolist() + [0] * (7 - len(samples))


def test_what_is_missing_or_damaged_is_said_in_a_line(tmp_path):
    with pytest.raises(DataError, match=r"put the archive free-spoken-digit-dataset-1\.0\.9\.tar\.gz .*--data-dir"):  # fmt: skip
        audio.load(data_dir=tmp_path)
    put_folder(tmp_path)
    one = tmp_path / "free-spoken-digit-dataset-1.0.9/recordings" / NAMES[0]
    for content, message in (
        (b"RIFF", "is no wave file, or is cut off"),
        (wav(np.ones(3), 16000), "at 16000 Hz"),
    ):
        one.write_bytes(content)
        with pytest.raises(DataError, match=message):
            audio.load(data_dir=tmp_path)
    put_prepared(tmp_path, "tfrecord")  # found first
    (shard,) = tmp_path.glob("spoken_digit/*/*.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"is no whole data set .*is cut off"):
        audio.load(data_dir=tmp_path)
    with pytest.raises(ValueError, match="must be 'spoken_digits' or the path"):
        audio.load("speech")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("audio", [0.5, 1.0, 2.0], "must be int16"),
        ("offsets", [0, 3, 3], "recording 1 is empty"),
        ("offsets", [0, 2], r"must be whole numbers from 0 to .*, 3"),
        ("label", [0], r"`label` has shape \(1,\), but there are 2"),
        ("speaker", ["a"], r"`speaker` has shape \(1,\)"),
        ("rate", 0, "`rate` must be at least 1"),
        ("seconds", 0.0, "`seconds` must be positive"),
    ],
)
def test_bad_recordings_are_refused(name, value, message):
    good = {"audio": np.ones(3, np.int16), "offsets": [0, 2, 3], "label": [0, 1], "rate": 8000}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        audio.recordings(**{**good, name: value})


def test_own_files_without_speakers_count_takes_and_lacking_keys_are_named(tmp_path):
    arrays = flat()
    rest = {k: arrays[k] for k in ("audio", "offsets", "label", "rate")}
    np.savez(tmp_path / "mine.npz", **rest)
    found = audio.load(tmp_path / "mine.npz", seconds=4 / 8000)
    assert found.samples.shape == (42, 4)
    assert found.takes.tolist() == 3 * list(range(14))
    np.savez(tmp_path / "mine.npz", audio=arrays["audio"])
    with pytest.raises(DataError, match="lacks offsets, label, rate; it holds audio"):
        audio.load(tmp_path / "mine.npz")


def test_splits_hold_out_whole_takes_or_whole_speakers():
    a = audio.recordings(**flat())
    parts = audio.dataset(a, audio.official(a), validation_takes=1)
    assert parts.validation is not None
    assert [len(s.labels) for s in (parts.train, parts.validation, parts.test)] == [6, 6, 30]  # fmt: skip
    held = audio.official(a) | (a.takes == 5)  # the first take left of each
    np.testing.assert_array_equal(parts.train.images, a.samples[~held])
    assert (a.speakers[audio.one_speaker(a, "bob")] == "bob").all()
    masks = np.array([audio.fold(a, k, 3) for k in range(3)])
    assert (masks.sum(0) == 1).all()
    for mask in masks[1:]:
        assert np.bincount(a.labels[mask]).tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="`speaker` must be one of 'ann', 'bob'"):
        audio.one_speaker(a, "eve")
    with pytest.raises(ValueError, match="0 recordings are left to train on"):
        audio.dataset(a, np.ones(42, bool))


@needs(FSDD)
def test_the_official_split_of_the_real_recordings():
    a = audio.load(FSDD, seconds=1.0)
    parts = audio.dataset(a, audio.official(a), validation_takes=5)
    assert parts.validation is not None
    for part, count in ((parts.train, 40), (parts.validation, 5), (parts.test, 5)):
        assert np.bincount(part.labels).tolist() == [6 * count] * 10
    assert parts.train.images.shape == (2400, 8000)
