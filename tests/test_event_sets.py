"""Event data sets by name: tiny copies in the formats of the originals, the store, and what is missing or damaged."""

import gzip
import io
import logging
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import needs

from jsnn.data import DataError, cache, event_files, event_sets, event_store, events

SAMPLES = pathlib.Path(__file__).parents[2] / "shared/data/events/samples"
h5py = pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JSNN_CACHE", str(tmp_path / "own_cache"))
    logging.getLogger("jsnn").setLevel(logging.ERROR)  # the sets are not whole
    yield
    logging.getLogger("jsnn").setLevel(logging.NOTSET)


def draw(seed, sensor, count, *, polarity=True):
    """A recording that begins at 0."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 5000, count))
    return {
        "x": rng.integers(0, sensor[1], count),
        "y": rng.integers(0, sensor[0], count),
        "p": rng.integers(0, 2, count) * polarity,
        "t_us": times - times[0],
    }


# --- files like the originals, written here byte by byte ---


def nmnist_bytes(r):
    rows = []
    for x, y, p, t in zip(r["x"], r["y"], r["p"], r["t_us"], strict=True):
        rows.append(bytes([x, y, int(p) << 7 | int(t) >> 16, int(t) >> 8 & 255, int(t) & 255]))  # fmt: skip
    return b"".join(rows)


def aedat2_bytes(r, clock=123_456):
    rows = [b"#!AER-DAT2.0\r\n# a remark\r\n"]
    for x, y, p, t in zip(r["x"], r["y"], r["p"], r["t_us"], strict=True):
        address = int(127 - x) << 8 | int(127 - y) << 1 | int(1 - p)
        rows.append(address.to_bytes(4, "big") + int(t + clock).to_bytes(4, "big"))
    return b"".join(rows)


def aedat3_packet(r, clock, overflow=0, kind=1):
    head = [kind, 1, 8, 4, overflow, len(r["x"]), len(r["x"]), len(r["x"])]
    sizes = [2, 2, 4, 4, 4, 4, 4, 4]
    parts = [v.to_bytes(n, "little") for v, n in zip(head, sizes, strict=True)]
    for x, y, p, t in zip(r["x"], r["y"], r["p"], r["t_us"], strict=True):
        data = int(x) << 17 | int(y) << 2 | int(p) << 1 | 1
        parts += [data.to_bytes(4, "little"), int(t + clock).to_bytes(4, "little")]
    return b"".join(parts)


HEAD3 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"


def put_nmnist(root, packed=False):
    """Numbers run over all classes, as those of the originals do."""
    expected = []
    for split, total in (("Train", 4), ("Test", 2)):
        contents = {}
        for number in range(1, total + 1):
            label, r = (7 * number) % 10, draw(number + 10 * total, (34, 34), 5 + number)  # fmt: skip
            contents[f"{split}/{label}/{number:05d}.bin"] = nmnist_bytes(r)
            expected += [(split.lower(), label, r)]
        put(root, contents, packed, f"{split}.zip")
    return expected


def put_cifar10(root, packed=False):
    expected = []
    for label, word in ((0, "airplane"), (9, "truck")):
        contents = {}
        for number in (1, 99, 100):
            r = draw(label + number, (128, 128), 6)
            contents[f"{word}/cifar10_{word}_{number}.aedat"] = aedat2_bytes(r)
            expected.append(("test" if number < 100 else "train", label, r))
        put(root, contents, packed, f"{word}.zip")
    return expected


def put(root, contents, packed, name):
    if packed:
        root.mkdir(exist_ok=True, parents=True)
        with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in contents.items():
                archive.writestr(member, content)
        return
    for member, content in contents.items():
        (root / member).parent.mkdir(parents=True, exist_ok=True)
        (root / member).write_bytes(content)


def put_gestures(root, packed=False):
    folder = root / "DvsGesture"
    folder.mkdir(parents=True)
    expected = []
    for split, person in (("train", "user01"), ("test", "user24")):
        pieces, lines = [HEAD3], ["class,startTime_usec,endTime_usec"]
        for i, label in enumerate((3, 11)):
            r = draw(i + len(split), (128, 128), 9)
            clock = 10_000 * (i + 1)
            pieces.append(aedat3_packet(r, clock))
            pieces.append(aedat3_packet(r, clock, kind=2))  # not of the camera
            lines.append(f"{label},{clock},{clock + 6000}")
            expected.append((split, label - 1, r))
        (folder / f"{person}_led.aedat").write_bytes(b"".join(pieces))
        (folder / f"{person}_led_labels.csv").write_text("\n".join(lines))
        (folder / f"trials_to_{split}.txt").write_text(f"{person}_led.aedat\n\n")
    return expected


def put_speech(root, packed=False, name="shd", splits=("train", "test")):
    root.mkdir(exist_ok=True, parents=True)
    expected = []
    for split in splits:
        path = root / f"{name}_{split}.h5"
        with h5py.File(path, "w") as file:
            times = file.create_dataset("spikes/times", (2,), h5py.vlen_dtype(np.float32))  # fmt: skip
            units = file.create_dataset("spikes/units", (2,), h5py.vlen_dtype(np.uint16))  # fmt: skip
            file["labels"] = np.array([4, 19], np.uint8)
            for i, label in enumerate((4, 19)):
                r = draw(i + len(split), (1, 700), 7 + i, polarity=False)
                back = slice(None, None, -1)  # in no order
                times[i] = (r["t_us"][back] / 1e6).astype(np.float32)
                units[i] = r["x"][back].astype(np.uint16)
                expected.append((split, label, r))
        content = path.read_bytes()
        if packed == "gz":
            path.with_suffix(".h5.gz").write_bytes(gzip.compress(content))
        elif packed:
            put(root, {path.name: content}, True, f"{path.name}.zip")
        if packed:
            path.unlink()
    return expected


PUT = {"nmnist": put_nmnist, "cifar10_dvs": put_cifar10, "dvs_gesture": put_gestures, "shd": put_speech}  # fmt: skip
CASES = [
    ("nmnist", False),
    ("nmnist", True),
    ("cifar10_dvs", False),
    ("cifar10_dvs", True),
    ("dvs_gesture", False),
    ("shd", False),
    ("shd", "gz"),
    ("shd", "zip"),
]


def same(found, labels, expected):
    """Recordings of the same time may have changed places; sets of rows have not."""
    assert labels.tolist() == [label for label, _ in expected]
    for i, (_, r) in enumerate(expected):
        at = slice(int(found.offsets[i]), int(found.offsets[i + 1]))
        got = zip(*(np.asarray(getattr(found, k))[at].tolist() for k in ("t_us", "x", "y", "p")), strict=True)  # fmt: skip
        wanted = zip(*(r[k].tolist() for k in ("t_us", "x", "y", "p")), strict=True)
        assert sorted(got) == sorted(wanted)


@pytest.mark.parametrize(("name", "packed"), CASES)
def test_sets_are_what_their_files_hold(name, packed, tmp_path):
    written = PUT[name](tmp_path / "data" / name, packed)
    for split in ("train", "test"):
        expected = [(label, r) for s, label, r in written if s == split]
        decoded, labels = event_sets.load(name, split, data_dir=tmp_path / "data")
        same(decoded, labels, expected)
        host, labels = event_sets.load(name, split, data_dir=tmp_path / "data" / name, on_device=False)  # fmt: skip
        same(host, labels, expected)
        assert decoded.sensor == event_sets.SETS[name].sensor
    if name == "nmnist":
        assert decoded.x.dtype == np.uint8


def test_what_is_taken_from_disk_is_what_is_taken_from_the_device(tmp_path):
    put_nmnist(tmp_path)
    device, _ = event_sets.load("nmnist", data_dir=tmp_path)
    host, _ = event_sets.load("nmnist", data_dir=tmp_path, on_device=False)
    index = np.array([3, 0, 2])
    for length in (None, 4):
        a, b = events.take(device, index, length), events.take(host, index, length)
        assert (a.valid == b.valid).all()
        for part in ("x", "y", "p", "t_us"):
            one, other = getattr(a, part), getattr(b, part)
            assert one.dtype == other.dtype
            assert (jnp.where(a.valid, one - other, 0) == 0).all()
    with pytest.raises(ValueError, match="outside of `jit`"):
        jax.jit(lambda i: events.take(host, i).x)(index)


def test_recordings_are_decoded_once_and_anew_if_the_store_is_damaged(tmp_path, monkeypatch):  # fmt: skip
    expected = [(label, r) for s, label, r in put_nmnist(tmp_path) if s == "train"]
    event_sets.load("nmnist", data_dir=tmp_path)
    decode, calls = event_store._decode, []
    monkeypatch.setattr(event_store, "_decode", lambda *a: calls.append(1) or decode(*a))  # fmt: skip
    event_sets.load("nmnist", data_dir=tmp_path)
    assert not calls
    (path,) = (tmp_path / "own_cache").glob("*/train.events")
    content = path.read_bytes()
    for damaged in (content[:-1], content[:5] + b"?" + content[6:]):
        path.write_bytes(damaged)
        same(*event_sets.load("nmnist", data_dir=tmp_path), expected)
    assert len(calls) == 2
    (tmp_path / "Train/1").mkdir(exist_ok=True)
    (tmp_path / "Train/1/00099.bin").write_bytes(bytes(5))
    assert len(event_sets.load("nmnist", data_dir=tmp_path)[1]) == 5


def test_without_a_store_sets_are_read_all_the_same(tmp_path, monkeypatch):
    expected = [(label, r) for s, label, r in put_nmnist(tmp_path) if s == "train"]
    monkeypatch.setattr(cache, "is_locked", lambda folder: True)
    with pytest.warns(RuntimeWarning, match="are not kept in .*Set JSNN_CACHE"):
        same(*event_sets.load("nmnist", data_dir=tmp_path), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nmnist",
            r"put Train\.zip \(MD5 2095.* of https://www\.garrickorchard.* into",
        ),
        ("dvs_gesture", r"put the folder DvsGesture of DvsGesture\.tar\.gz \(MD5 8a5c"),
        ("cifar10_dvs", r"put airplane\.zip, .*figshare"),
        ("shd", r"put shd_train\.h5.*--data-dir"),
        ("ssc", r"put ssc_train\.h5"),
    ],
)
def test_sets_that_are_not_there_say_what_to_put_where(name, message, tmp_path):
    with pytest.raises(DataError, match=message):
        event_sets.load(name, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"`split` must be one of 'train'"):
        event_sets.load(name, "all", data_dir=tmp_path)


def test_damaged_sets_are_refused_by_name(tmp_path):
    put_gestures(tmp_path)
    folder = tmp_path / "DvsGesture"
    (path,), (table,) = folder.glob("user01*.aedat"), folder.glob("user01*.csv")
    whole, rows = path.read_bytes(), table.read_text()

    def refused(message, name="dvs_gesture"):
        with pytest.raises(DataError, match=message):
            event_sets.load(name, data_dir=tmp_path)

    for content, message in (
        (whole[:-3], "is empty or cut off"),
        (b"#!AER-DAT2.0\r\n" + bytes(8), r"is no AER-DAT3 file"),
        (HEAD3, "holds no events of a camera"),
    ):
        path.write_bytes(content)
        refused(f"user01_led.aedat.*{message}")
    path.write_bytes(whole)
    for content, message in (
        (rows.replace("11,", "12,"), "9 events of class 12"),
        (rows.replace("10000,16000", "1,2"), "0 events of class 3"),
        ("class,start\n1,x", "is no table of class, start and end"),
    ):
        table.write_text(content)
        refused(message)
    table.unlink()
    refused(r"names user01_led_labels\.csv, but it is not in")
    (tmp_path / "shd_train.h5").write_bytes(b"no HDF5")
    refused("is no HDF5 file", "shd")
    (tmp_path / "Train.zip").write_bytes(b"PK")
    refused("cannot be read: File is not a zip file", "nmnist")


def test_formats_hold_what_was_written(tmp_path):
    r = draw(1, (128, 128), 30)
    two = event_files.parse_aedat2(aedat2_bytes(r, 5), "f")
    over = event_files.parse_aedat3(HEAD3 + aedat3_packet(r, 5, overflow=1), "f")
    for found, clock in ((two, 5), (over, 5 + 2**31)):
        for k in "xyp":
            np.testing.assert_array_equal(found[k], r[k])
        np.testing.assert_array_equal(found["t_us"], r["t_us"] + clock)
    for content, message in (
        (b"#!AER-DAT2.0\r\n" + bytes(7), "7 bytes of events"),
        (b"#!AER-DAT2.0\r\n", "0 bytes of events"),
        (b"#!AER-DAT2.0\r\n" + b"\xff" * 8, "addresses that a DVS128 does not have"),
    ):
        with pytest.raises(DataError, match=message):
            event_files.parse_aedat2(content, "f")
    path = tmp_path / "one.aedat"
    path.write_bytes(aedat2_bytes(r))
    assert event_files.read_recording(path).x.shape == (30,)
    with pytest.raises(DataError, match=r"must end in \.bin"):
        event_files.read_recording(tmp_path / "one.txt")


def test_an_hdf5_file_of_ones_own_is_read_whole(tmp_path):
    expected = [(label, r) for s, label, r in put_speech(tmp_path) if s == "test"]
    found, labels = event_files.read_hdf5(tmp_path / "shd_test.h5")
    same(found, labels, expected)
    assert found.sensor == (1, 700)
    with pytest.raises(ValueError, match=r"`x\[.*\]` is .*, but must lie in 0\.\.99"):
        event_files.read_hdf5(tmp_path / "shd_test.h5", units=100)


def test_clock_overflows_of_nmnist_are_no_events():
    content = bytes([1, 2, 0, 1, 0, 0, 240, 0, 0, 0, 3, 4, 128, 0, 1])
    found = event_files.parse_nmnist(content, "f")
    assert {k: v.tolist() for k, v in found.items()} == {"x": [1, 3], "y": [2, 4], "p": [0, 1], "t_us": [256, 8193]}  # fmt: skip


@needs(SAMPLES)
def test_the_real_aedat4_sample_is_read(tmp_path):
    aedat = pytest.importorskip("aedat")
    found = event_files.read_recording(SAMPLES / "sample.aedat4")
    packets = [p["events"] for p in aedat.Decoder(str(SAMPLES / "sample.aedat4")) if "events" in p]  # fmt: skip
    raw = np.concatenate(packets)
    assert found.sensor == (240, 320)
    assert found.x.shape == (111_954,) == raw.shape
    assert (np.diff(raw["t"].astype(np.int64)) >= 0).all()
    np.testing.assert_array_equal(found.t_us, raw["t"] - raw["t"][0])
    np.testing.assert_array_equal(found.x, raw["x"])
    np.testing.assert_array_equal(found.p, raw["on"])
    part = tmp_path / "part.aedat4"
    part.write_bytes((SAMPLES / "sample.aedat4").read_bytes()[:5000])
    with pytest.raises(DataError, match="AEDAT 4"):
        event_files.read_recording(part)


@needs(SAMPLES)
def test_real_recordings_of_nmnist_go_through_the_store(tmp_path):
    folder = tmp_path / "Test/5"
    folder.mkdir(parents=True)
    content = (SAMPLES / "sample_nmnist.bin").read_bytes()
    (folder / "00001.bin").write_bytes(content)
    found, labels = event_sets.load("nmnist", "test", data_dir=tmp_path)
    assert labels.tolist() == [5]
    for name, values in event_files.parse_nmnist(content, "f").items():
        np.testing.assert_array_equal(getattr(found, name), values)
    assert io.BytesIO(content).getbuffer().nbytes == 5 * len(found.x)
