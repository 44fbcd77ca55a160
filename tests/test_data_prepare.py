"""Preparing without TensorFlow, from archives a local server offers; the cache; what can go wrong.

The archives are tiny ones of random pixels in the formats of the originals, so that what is read
back can be compared bit for bit with what went in.
"""

import contextlib
import errno
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import struct
import sys
import tarfile
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import TFDS, needs

from jsnn import data
from jsnn.data import cache, loading, prepare, prepared
from jsnn.data.prepared import import_tfds

MNIST_FAMILY = ("mnist", "fashion_mnist", "kmnist")
CIFAR_LABELS = {
    "cifar10": (10,),
    "cifar100": (20, 100),
}  # bytes before an image: coarse, fine
NUM_IMAGES = {"train": 15, "test": 7}


# --- archives like the originals ---


def idx_bytes(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


def tar_bytes(contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def random_split(split, shape, num_classes):
    rng = np.random.default_rng([len(split), *shape, num_classes])
    images = rng.integers(0, 256, (NUM_IMAGES[split], *shape), np.uint8)
    return images, rng.integers(0, num_classes, NUM_IMAGES[split], np.uint8)


def mnist_archives():
    files, arrays = {}, {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[split] = random_split(split, (28, 28, 1), 10)
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx_bytes(images[..., 0])
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx_bytes(labels)
    return files, arrays


def cifar_archives(name):
    num_coarse, num_classes = (0, *CIFAR_LABELS[name])[-2:]
    records, arrays = {}, {}
    for split in ("train", "test"):
        images, labels = arrays[split] = random_split(split, (32, 32, 3), num_classes)
        columns = [labels % num_coarse, labels] if num_coarse else [labels]
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        records[split] = np.concatenate([np.stack(columns, 1), rows], 1)
    if name == "cifar10":
        folder = "cifar-10-batches-bin/"
        files = {
            f"data_batch_{i + 1}.bin": records["train"][3 * i : 3 * i + 3]
            for i in range(5)
        }
        files |= {"test_batch.bin": records["test"]}
        names = {"batches.meta.txt": 10}
    else:
        folder = "cifar-100-binary/"
        files = {"train.bin": records["train"], "test.bin": records["test"]}
        names = {"coarse_label_names.txt": 20, "fine_label_names.txt": 100}
    contents = {folder + key: value.tobytes() for key, value in files.items()}
    for key, count in names.items():
        lines = "".join(f"{key[0]}{i}\n" for i in range(count))
        contents[folder + key] = (
            lines + "\n"
        ).encode()  # the original ends in an empty line
    return {f"cifar-{num_classes}-binary.tar.gz": tar_bytes(contents)}, arrays


def archives(name):
    return mnist_archives() if name in MNIST_FAMILY else cifar_archives(name)


# --- a network of one machine ---


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Makes TFDS's builders download given files from a server here; returns its folder."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address = f"http://127.0.0.1:{server.server_port}/"

    def offer_files(name, files, *, address=address):
        tfds = import_tfds()
        base = tfds.builder_cls(name)
        url_info = tfds.core.download.checksums.UrlInfo
        infos = {
            address + key: url_info(
                len(content), hashlib.sha256(content).hexdigest(), key
            )
            for key, content in files.items()
        }
        monkeypatch.setattr(base, "url_infos", infos)
        if name in MNIST_FAMILY:
            monkeypatch.setattr(base, "URL", address)
        else:
            original = base._cifar_info.fget(base)
            (archive,) = files
            changed = original._replace(url=address + archive)
            monkeypatch.setattr(base, "_cifar_info", changed)
        for key, content in files.items():
            (folder / key).write_bytes(content)
        return folder

    yield offer_files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JSNN_CACHE", str(tmp_path / "own_cache"))


def by_content(images, labels):
    """Sorted rows: TFDS shuffles when it prepares."""
    rows = [
        (image.tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    ]
    assert len(set(rows)) == len(rows)
    return sorted(rows)


# --- preparing ---


@pytest.mark.parametrize("name", data.NAMES[1:])
def test_prepared_data_are_what_the_archives_hold(name, offer, tmp_path, capfd):
    files, arrays = archives(name)
    offer(name, files)
    dataset = data.load(name, data_dir=tmp_path / "data")
    for split in ("train", "test"):
        assert len(arrays[split][1]) == NUM_IMAGES[split]
        assert by_content(*getattr(dataset, split)) == by_content(*arrays[split])
    assert capfd.readouterr() == ("", "")
    assert len(dataset.class_names) == (100 if name == "cifar100" else 10)
    first = {"mnist": "0", "fashion_mnist": "T-shirt/top", "kmnist": "o"}
    assert dataset.class_names[0] == first.get(
        name, "f0" if name == "cifar100" else "b0"
    )


@pytest.mark.parametrize("name", data.NAMES[1:])
def test_the_real_addresses_have_checksums(name, tmp_path):
    # The other tests replace addresses and checksums; these are TFDS's own.
    asked = []

    class Stop(Exception):
        pass

    class Manager:
        def download(self, urls):
            asked.extend(urls.values())
            raise Stop

    builder = prepare._make_builder(import_tfds(), name, tmp_path)
    manual = prepare._manual_dir(name, tmp_path)
    manual.mkdir(parents=True)
    for info in builder.url_infos.values():
        (manual / info.filename).touch()  # so that no network is looked for
    with pytest.raises(Stop):
        builder._split_generators(Manager())
    assert len(asked) == (4 if name in MNIST_FAMILY else 1)
    assert set(asked) <= set(builder.url_infos)
    assert (
        builder.info.full_name
        == import_tfds().builder(name, data_dir=tmp_path).info.full_name
    )


def test_prepared_folder_reads_like_one_of_tfds(offer, tmp_path):
    files, _ = archives("cifar100")
    offer("cifar100", files)
    dataset = data.load("cifar100", data_dir=tmp_path)
    source = import_tfds().data_source(
        "cifar100", split="test", data_dir=tmp_path, download=False
    )
    assert len(source) == NUM_IMAGES["test"]
    for i, example in enumerate(source):
        np.testing.assert_array_equal(dataset.test.images[i], example["image"])
        assert dataset.test.labels[i] == example["label"]
        assert example["coarse_label"] == example["label"] % 20
    assert {example["id"] for example in source} == {
        f"test_{i:05d}".encode() for i in range(7)
    }


def test_archives_placed_by_hand_need_no_network(offer, tmp_path):
    files, arrays = archives("kmnist")
    offer("kmnist", files, address="http://127.0.0.1:9/")
    manual = tmp_path / "data/downloads/manual/kmnist"
    manual.mkdir(parents=True)
    for key, content in files.items():
        (manual / key).write_bytes(content)
    dataset = data.load("kmnist", data_dir=tmp_path / "data")
    assert by_content(*dataset.test) == by_content(*arrays["test"])


def test_downloads_are_reused_without_network(offer, tmp_path):
    files, arrays = archives("mnist")
    folder = offer("mnist", files)
    data.load("mnist", data_dir=tmp_path / "data")
    shutil.rmtree(tmp_path / "data/mnist")
    for path in folder.iterdir():
        path.unlink()
    dataset = data.load("mnist", data_dir=tmp_path / "data")
    assert by_content(*dataset.test) == by_content(*arrays["test"])


# --- preparing fails ---


def fail(name, tmp_path, match):
    with pytest.raises(data.DataError, match=match) as caught:
        data.load(name, data_dir=tmp_path / "data")
    assert not list(tmp_path.glob("data/*/*/dataset_info.json"))
    return str(caught.value)


def test_no_network_fails_at_once_and_says_what_to_do(offer, tmp_path):
    # Port 9 refuses. The limit is far below the minutes for which TFDS would try.
    offer("mnist", archives("mnist")[0], address="http://127.0.0.1:9/")
    start = time.monotonic()
    message = fail("mnist", tmp_path, "downloading it failed")
    assert time.monotonic() - start < 10
    for remedy in (
        "with a network",
        "TFDS_DATA_DIR",
        "--data-dir",
        "manual/mnist",
        "`digits`",
    ):
        assert remedy in message


def test_file_gone_from_the_server(offer, tmp_path):
    folder = offer("cifar10", archives("cifar10")[0])
    (folder / "cifar-10-binary.tar.gz").unlink()
    fail("cifar10", tmp_path, "downloading it failed .*404")


def test_wrong_checksum(offer, tmp_path):
    folder = offer("cifar10", archives("cifar10")[0])
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    fail("cifar10", tmp_path, "not what it should be .*Delete .*downloads")


def change_tar(files, change):
    """The archive with `change(name, content)` in place of each content; None leaves it out."""
    ((key, content),) = files.items()
    changed = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            name = pathlib.PurePath(member.name).name
            file = archive.extractfile(member)
            assert file is not None
            changed[member.name] = change(name, file.read())
    return {key: tar_bytes({k: v for k, v in changed.items() if v is not None})}


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
DAMAGE = {
    "truncated gzip": (
        "mnist",
        lambda f: f | {TRAIN_IMAGES: f[TRAIN_IMAGES][:-100]},
        "EOFError",
    ),
    "no gzip": ("mnist", lambda f: f | {TRAIN_IMAGES: b"<html>"}, "BadGzipFile"),
    "no IDX": (
        "mnist",
        lambda f: f | {TRAIN_IMAGES: gzip.compress(b"\0\0\x0d\1")},
        "no IDX file",
    ),
    "short IDX": (
        "mnist",
        lambda f: (
            f | {TRAIN_IMAGES: gzip.compress(gzip.decompress(f[TRAIN_IMAGES])[:-1])}
        ),
        r"announces \(15, 28, 28\), but holds 11759",
    ),
    "lengths": (
        "mnist",
        lambda f: f | {TRAIN_LABELS: f["t10k-labels-idx1-ubyte.gz"]},
        "15 images, 7 labels",
    ),
    "truncated tar": (
        "cifar10",
        lambda f: {k: v[: len(v) // 2] for k, v in f.items()},
        "damaged",
    ),
    "no tar": ("cifar10", lambda f: dict.fromkeys(f, b"<html>"), "ReadError"),
    "file missing": (
        "cifar10",
        lambda f: change_tar(
            f, lambda name, b: None if name == "test_batch.bin" else b
        ),
        r"lacks test_batch\.bin",
    ),
    "odd size": (
        "cifar10",
        lambda f: change_tar(
            f, lambda name, b: b[:-1] if name == "test_batch.bin" else b
        ),
        "21510 bytes are no multiple of a record's 3073",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_archive(case, offer, tmp_path):
    name, damage, match = DAMAGE[case]
    offer(name, damage(archives(name)[0]))
    assert "Delete" in fail(name, tmp_path, f"(?s)damaged.*{match}|{match}")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        # What array_record's writer raised on a full tmpfs.
        RuntimeError(
            "write() failed: No space left on device; writing /x; at byte 307200"
        ),
    ],
)
def test_disk_full_while_preparing(error, offer, tmp_path, monkeypatch):
    offer("mnist", archives("mnist")[0])

    def to_full_disk(image):
        raise error

    monkeypatch.setattr(prepare, "to_png", to_full_disk)
    fail("mnist", tmp_path, "no space is left in .*Free some")


def test_disk_too_small_for_what_tfds_expects(offer, tmp_path, monkeypatch):
    offer("mnist", archives("mnist")[0])
    monkeypatch.setattr(
        import_tfds().core.utils, "has_sufficient_disk_space", lambda *_, **__: False
    )
    fail("mnist", tmp_path, "no space is left in .*Not enough disk space")


def test_data_dir_that_cannot_be_made(offer, tmp_path):
    offer("mnist", archives("mnist")[0])
    (tmp_path / "data").write_text("a file where a folder should be")
    fail("mnist", tmp_path, "cannot be written to .*TFDS_DATA_DIR")


def test_incomplete_version_folder(tmp_path):
    (tmp_path / "data/mnist/3.0.1").mkdir(parents=True)
    fail("mnist", tmp_path, r"mnist/3\.0\.1 is not complete .*delete it and run again")


def test_an_error_nobody_foresaw_is_not_disguised(offer, tmp_path, monkeypatch):
    offer("mnist", archives("mnist")[0])
    monkeypatch.setattr(prepare, "to_png", lambda image: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.load("mnist", data_dir=tmp_path)


def test_another_process_was_faster(offer, tmp_path, monkeypatch):
    files, arrays = archives("mnist")
    offer("mnist", files)
    data.load("mnist", data_dir=tmp_path / "first")
    to_png = prepare.to_png

    def meanwhile(image):
        if not (tmp_path / "data/mnist/3.0.1").exists():
            shutil.copytree(
                tmp_path / "first/mnist/3.0.1", tmp_path / "data/mnist/3.0.1"
            )
        return to_png(image)

    monkeypatch.setattr(prepare, "to_png", meanwhile)
    dataset = data.load("mnist", data_dir=tmp_path / "data")
    assert by_content(*dataset.test) == by_content(*arrays["test"])


# --- reading what is prepared: the cache ---


@pytest.fixture
def tiny(offer, tmp_path):
    """A prepared MNIST of 22 images, not yet decoded."""
    offer("mnist", archives("mnist")[0])
    return prepare.prepare("mnist", tmp_path / "data")


def read(tiny):
    splits, _ = loading.read_splits("mnist", data_dir=tiny.parents[1], download=False)
    return splits


@pytest.fixture
def decoded(monkeypatch):
    """The splits that were decoded, rather than read from the cache."""
    splits, original = [], loading.decode_split

    def decode_split(folder, split):
        splits.append(split)
        return original(folder, split)

    monkeypatch.setattr(loading, "decode_split", decode_split)
    return splits


def same(first, second):
    for split in ("train", "test"):
        for a, b in zip(first[split], second[split], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def cached_files(folder):
    return {path.name: path for path in folder.rglob("*") if path.is_file()}


def test_images_are_decoded_once_and_the_data_folder_is_left_alone(
    tiny, decoded, tmp_path
):
    before = sorted(p.name for p in (tmp_path / "data").rglob("*"))
    first, second = read(tiny), read(tiny)
    assert decoded == ["train", "test"]
    same(first, second)
    parts = ("images.npy", "labels.npy")
    expected = {f"{s}-{p}" for s in ("train", "test") for p in parts} | {
        "train.json",
        "test.json",
    }
    assert set(cached_files(tmp_path / "own_cache")) == expected
    assert sorted(p.name for p in (tmp_path / "data").rglob("*")) == before


def test_cache_of_other_files_is_stale(tiny, decoded):
    read(tiny)
    (record,) = tiny.glob("mnist-test.array_record*")
    os.utime(record, ns=(0, 0))
    read(tiny)
    assert decoded == ["train", "test"] * 2


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


CORRUPTION = {
    "flipped pixel": ("test-images.npy", flip_last_byte),
    "flipped label": ("test-labels.npy", flip_last_byte),
    "truncated": (
        "test-images.npy",
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
    ),
    "empty": ("test-labels.npy", lambda path: path.write_bytes(b"")),
    "zip magic": (
        "test-labels.npy",
        lambda path: path.write_bytes(b"PK\3\4 and no more"),
    ),
    "missing": ("test-labels.npy", pathlib.Path.unlink),
    "no JSON": ("test.json", lambda path: path.write_text("{")),
    "other JSON": ("test.json", lambda path: path.write_text("{}")),
}


@pytest.mark.parametrize("case", CORRUPTION)
def test_corrupted_cache_is_rebuilt(case, tiny, decoded, tmp_path):
    first = read(tiny)
    file, corrupt = CORRUPTION[case]
    corrupt(cached_files(tmp_path / "own_cache")[file])
    same(read(tiny), first)
    assert decoded == ["train", "test", "test"]
    same(read(tiny), first)
    assert decoded == ["train", "test", "test"]


@contextlib.contextmanager
def locked(folder):
    folder.chmod(0o555)
    yield
    folder.chmod(0o755)


def test_cache_defaults_to_the_users_own(tiny, tmp_path, monkeypatch):
    pytest.importorskip("platformdirs")
    monkeypatch.delenv("JSNN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/cache"))
    read(tiny)
    assert len(cached_files(tmp_path / "home")) == 6
    if sys.platform == "linux":
        assert len(cached_files(tmp_path / "home/cache/jsnn")) == 6


def test_unwritable_caches_only_warn(tiny, decoded, tmp_path):
    (tmp_path / "own_cache").write_text("a file where a folder should be")
    with pytest.warns(RuntimeWarning, match=r"own_cache.* Set JSNN_CACHE") as caught:
        first = read(tiny)
    assert ["train images" in str(w.message) for w in caught] == [True, False]
    (tmp_path / "own_cache").unlink()
    (tmp_path / "own_cache").mkdir()
    with (
        locked(tmp_path / "own_cache"),
        pytest.warns(RuntimeWarning, match="read-only"),
    ):
        read(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(read(tiny), first)  # unlocked again: decoded again, and kept
    assert decoded == ["train", "test"] * 3


def test_full_disk_only_warns_and_leaves_no_halves(tiny, tmp_path, monkeypatch):
    def save(file, array):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.np, "save", save)
    with pytest.warns(RuntimeWarning, match="No space left"):
        splits = read(tiny)
    assert len(splits["test"].labels) == NUM_IMAGES["test"]
    assert not cached_files(tmp_path / "own_cache")


# --- reading what is prepared: damage ---


def test_newest_version_is_read(tiny):
    for version in ("2.9.9", "3.0.0", "incomplete.3.9.9", "10"):
        shutil.copytree(tiny, tiny.parent / version)
    assert loading.find_prepared(tiny.parents[1], "mnist") == tiny
    (tiny.parent / "3.0.10").mkdir()  # without its dataset_info.json
    assert loading.find_prepared(tiny.parents[1], "mnist") == tiny
    shutil.copytree(tiny, tiny.parent / "3.0.10", dirs_exist_ok=True)
    assert loading.find_prepared(tiny.parents[1], "mnist") == tiny.parent / "3.0.10"


def damaged(tiny, match):
    with pytest.raises(data.DataError, match=match) as caught:
        read(tiny)
    assert f"Delete the folder {tiny}" in str(caught.value)


def test_missing_record_file(tiny):
    (record,) = tiny.glob("mnist-test.array_record*")
    record.unlink()
    damaged(tiny, f"{record.name} is missing")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_description(file, tiny):
    (tiny / file).write_text('{"splits": 3')
    damaged(tiny, "is truncated or corrupted")


@pytest.fixture
def described(tiny):
    """Changes the description of a prepared MNIST."""

    def change(how, file="features.json"):
        content = json.loads((tiny / file).read_text())
        how(content)
        (tiny / file).write_text(json.dumps(content))

    return change


NAME = "pythonClassName"


def feature(content, name):
    return content["featuresDict"]["features"][name]


def legacy(content):
    known = dict(content)
    content.clear()
    content |= {"type": "planted.Evil", "content": known, "pythonClassName": "x.Y"}


def in_json(content):
    entry = feature(content, "image")
    del entry["image"]
    entry["jsonFeature"] = {"json": json.dumps({"type": "planted.Evil", "content": {}})}


PLANTED = {
    "whole": lambda c: c.update({NAME: "planted.Evil"}),
    "image": lambda c: feature(c, "image").update({NAME: "planted.Evil"}),
    "another feature": lambda c: c["featuresDict"]["features"].update(
        id={NAME: "planted.Evil", "text": {}}
    ),
    # protobuf takes both spellings of a key
    "the other spelling": lambda c: feature(c, "label").update(
        python_class_name="planted.Evil"
    ),
    "nested": lambda c: c["featuresDict"]["features"].update(
        more={
            NAME: c[NAME],
            "featuresDict": {"features": {"x": {NAME: "planted.Evil", "text": {}}}},
        }
    ),
    "of an old format": legacy,
    "text within text": in_json,
}


@pytest.mark.parametrize("case", PLANTED)
def test_no_data_folder_makes_us_import_a_module(
    case, tiny, described, tmp_path, monkeypatch
):
    ran = tmp_path / "ran"
    (tmp_path / "planted.py").write_text(f"open({str(ran)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    described(PLANTED[case])
    damaged(tiny, "features.json is truncated or corrupted")
    with pytest.raises(data.DataError, match=r"features\.json"):
        data.load("mnist", data_dir=tiny.parents[1])
    assert not ran.exists()
    assert "planted" not in sys.modules


def split(content, name="train"):
    return next(s for s in content["splits"] if s["name"] == name)


def dimensions(content, *sides):
    feature(content, "image")["image"]["shape"]["dimensions"] = sides


LIES = {
    "a huge side": ("features.json", lambda c: dimensions(c, "1000000", "28", "1")),
    "a side of none": ("features.json", lambda c: dimensions(c, "0", "28", "1")),
    "two sides": ("features.json", lambda c: dimensions(c, "28", "28")),
    "no number": ("features.json", lambda c: dimensions(c, "28", None, "1")),
    "a side beyond all": ("features.json", lambda c: dimensions(c, 1e400, "28", "1")),
    "classes without end": (
        "features.json",
        lambda c: feature(c, "label")["classLabel"].update(numClasses=str(10**12)),
    ),
    "images that are not there": (
        "dataset_info.json",
        lambda c: split(c).update(shardLengths=["16"]),
    ),
    "a billion images": (
        "dataset_info.json",
        lambda c: split(c).update(shardLengths=[str(10**12)]),
    ),
    "no images": ("dataset_info.json", lambda c: split(c).update(shardLengths=["0"])),
    "no split": ("dataset_info.json", lambda c: c.update(splits=[])),
}


@pytest.mark.parametrize("case", LIES)
def test_descriptions_that_promise_too_much(case, tiny, described):
    file, lie = LIES[case]
    described(lie, file)
    with pytest.raises(data.DataError, match=f"{file} is truncated or corr") as caught:
        read(tiny)
    assert "\n" not in str(caught.value)


def test_more_images_than_memory_holds(tiny, monkeypatch):
    monkeypatch.setattr(prepared.memory, "host_bytes", lambda: 1000)
    with pytest.raises(data.DataError, match=r"15 images of \(28, 28, 1\).*memory"):
        read(tiny)


def test_more_names_than_classes_and_fewer(offer, tmp_path):
    offer("kmnist", archives("kmnist")[0])
    folder = prepare.prepare("kmnist", tmp_path / "data")
    (folder / "label.labels.txt").write_text("one\ntwo")
    with pytest.raises(data.DataError, match="2 names of 10 classes"):
        prepared.read_class_names(folder)


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_a_folder_or_a_pipe_in_place_of_a_description(file, tiny):
    for make in (pathlib.Path.mkdir, os.mkfifo):
        (tiny / file).unlink(missing_ok=True)
        make(tiny / file)
        with pytest.raises(data.DataError, match=f"{file} cannot be read") as caught:
            read(tiny)
        assert "Delete" not in str(caught.value)
        shutil.rmtree(tiny / file) if (tiny / file).is_dir() else None


def refuse(monkeypatch, kind, name):
    """A file or folder without permission; root, as tests may be, has every permission."""
    original = getattr(pathlib.Path, kind)

    def refused(path, *args, **options):
        if path.name.startswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(pathlib.Path, kind, refused)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("iterdir", "data"),
        ("iterdir", "3.0.1"),
        ("read_bytes", "features.json"),
        ("open", "mnist-train"),
    ],
)
def test_what_cannot_be_read_is_not_called_damaged(kind, name, tiny, monkeypatch):
    refuse(monkeypatch, kind, name)
    with pytest.raises(
        data.DataError, match=r"cannot be read \(Permission denied\)"
    ) as caught:
        read(tiny)
    assert "Delete" not in str(caught.value)


def test_without_a_home_folder(tiny, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["no entry"])
    monkeypatch.delenv("JSNN_CACHE")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(data.DataError, match=r"needs a home folder.*TFDS_DATA_DIR"):
        data.load("mnist")
    with pytest.raises(data.DataError, match=r"home folder, and.*JSNN_CACHE"):
        read(tiny)


def test_image_of_another_size(tiny):
    path = tiny / "features.json"
    features = json.loads(path.read_text())
    shape = features["featuresDict"]["features"]["image"]["image"]["shape"]
    shape["dimensions"] = ["14", "28", "1"]
    path.write_text(json.dumps(features))
    damaged(
        tiny, r"mnist-train.*cannot reshape array of size 784 into shape \(14,28,1\)"
    )


def test_record_format_of_tensorflow(tiny):
    path = tiny / "dataset_info.json"
    path.write_text(path.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(data.DataError, match="not in the array_record format"):
        read(tiny)


@needs(TFDS / "mnist")
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_record_of_real_data(damage, tmp_path):
    folder = tmp_path / "mnist/3.0.1"
    folder.mkdir(parents=True)
    for path in (TFDS / "mnist/3.0.1").iterdir():
        if "train" not in path.name:
            content = bytearray(path.read_bytes())
            if "test" in path.name and damage == "truncated":
                content = content[: len(content) // 2]
            elif "test" in path.name:
                content[len(content) // 2] ^= 0xFF
            (folder / path.name).write_bytes(content)
    with pytest.raises(
        data.DataError, match=r"mnist-test.* truncated or corrupted.*Delete the folder"
    ):
        loading.read_splits("mnist", splits=("test",), data_dir=tmp_path)
