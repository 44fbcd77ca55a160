"""Arrays in memory, the bundled digits, and what is known of the real MNIST and CIFAR-10."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import TFDS, needs

from jsnn import data
from jsnn.data.loading import read_splits

# Images per class, counted in the original label files (https://yann.lecun.org/exdb/mnist/).
MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """The prepared sets under a folder that can be written, so that decoding is done once."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in ("mnist", "cifar10"):
        (folder / name).symlink_to(TFDS / name)
    return folder


def numbered(num_images, num_classes=3, shape=(2, 2, 1)):
    """Images that hold their own index."""
    index = np.arange(num_images)
    images = np.broadcast_to(index[:, None, None, None], (num_images, *shape))
    return images.astype(np.uint8), index % num_classes


def indices(split):
    assert split is not None
    return split.images[:, 0, 0, 0].tolist()


# --- digits ---


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    assert digits.name == "digits"
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")
    assert digits.validation is None
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)

    got_images = np.concatenate([digits.train.images, digits.test.images])
    got_labels = np.concatenate([digits.train.labels, digits.test.labels])
    counts = np.round(got_images[..., 0] * (16 / 255)).astype(int)
    assert (got_images.min(), got_images.max()) == (0, 255)
    rows = {
        (*image.ravel(), label) for image, label in zip(counts, got_labels, strict=True)
    }
    expected = {
        (*row.astype(int), label)
        for row, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    assert len(expected) == 1797  # no duplicates, so equal sets mean a partition
    assert rows == expected


def test_digits_split_is_stratified_and_fixed():
    first, second = data.load("digits"), data.load("digits", seed=5)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    whole = np.concatenate([first.train.labels, first.test.labels])
    share = np.bincount(whole) * 360 / 1797
    assert np.abs(np.bincount(first.test.labels) - share).max() < 1
    # Golden numbers, so that a later NumPy or a change of code cannot move the split unseen.
    assert first.test.labels[:12].tolist() == [7, 0, 1, 4, 1, 2, 9, 5, 5, 8, 4, 1]


# --- arrays ---


def test_validation_is_taken_from_train_and_keeps_the_order():
    held_out = data.from_arrays(
        "n", numbered(20), numbered(5), num_validation=6, seed=3
    )
    expected = sorted(np.random.RandomState(3).permutation(20)[:6].tolist())
    assert expected != list(range(6))
    assert indices(held_out.validation) == expected
    assert indices(held_out.train) == [i for i in range(20) if i not in expected]
    assert indices(held_out.test) == list(range(5))
    for split in (held_out.train, held_out.validation):
        assert split is not None
        assert split.labels.tolist() == [i % 3 for i in indices(split)]
    other = data.from_arrays("n", numbered(20), numbered(5), num_validation=6, seed=4)
    assert indices(other.validation) != expected


@pytest.mark.parametrize("num_validation", [-1, 20, 21])
def test_validation_out_of_range(num_validation):
    with pytest.raises(
        ValueError,
        match=rf"`num_validation` must lie between 0 and 19, got {num_validation}",
    ):
        data.from_arrays("n", numbered(20), numbered(5), num_validation=num_validation)


def test_load_refuses_to_hold_out_everything():
    with pytest.raises(
        ValueError, match=r"`num_validation` must lie between 0 and 1436, got 1437"
    ):
        data.load("digits", num_validation=1437)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=r"`seed` must lie between 0 and"):
        data.from_arrays("n", numbered(20), numbered(5), num_validation=1, seed=seed)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uint8", "uint8"),
        ("int64", "uint8"),
        ("float64", "float32"),
        ("float32", "float32"),
    ],
)
def test_types_of_images(given, kept):
    images, labels = numbered(6)
    dataset = data.from_arrays(
        "n", (images.astype(given), labels), (images.astype(given), labels)
    )
    assert dataset.train.images.dtype == kept
    assert dataset.train.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.train.images, images)


def test_grey_images_get_a_channel_and_classes_a_name():
    images, labels = numbered(6)
    grey = (images[..., 0], labels)
    dataset = data.from_arrays("n", grey, grey)
    assert dataset.image_shape == (2, 2, 1)
    assert dataset.class_names == ("0", "1", "2")
    named = data.from_arrays("n", grey, grey, class_names=["a", "b", "c", "d"])
    assert named.class_names == ("a", "b", "c", "d")
    assert named.num_classes == 4
    assert data.from_arrays("n", grey, grey, num_classes=7).num_classes == 7


def with_pixel(value):
    images = numbered(6)[0].astype(np.float64)
    images[4, 1, 0, 0] = value
    return images


IMAGES, LABELS = numbered(6)
GOOD = (IMAGES, LABELS)
WRONG = {
    "flat images": (
        (IMAGES.reshape(6, 4), LABELS),
        GOOD,
        r"`train` images have shape \(6, 4\): r",
    ),
    "five axes": (
        (IMAGES[None], LABELS),
        GOOD,
        r"`train` images have shape \(1, 6, 2, 2, 1\)",
    ),
    "no pixels": (
        (IMAGES[:, :0], LABELS),
        GOOD,
        r"`train` images have shape \(6, 0, 2, 1\)",
    ),
    "NaN": (
        (with_pixel(np.nan), LABELS),
        GOOD,
        r"`train` images hold nan at index \(4, 1, 0, 0\)",
    ),
    "inf": (
        GOOD,
        (with_pixel(np.inf), LABELS),
        r"`test` images hold inf at index \(4, 1, 0, 0\)",
    ),
    "overflow": ((with_pixel(1e300), LABELS), GOOD, r"`train` images hold inf"),
    "bool images": (
        (IMAGES > 1, LABELS),
        GOOD,
        r"`train` images have type bool: convert",
    ),
    "text": ((IMAGES.astype(str), LABELS), GOOD, r"`train` images have type <U"),
    "negative": (
        (IMAGES.astype(int) - 1, LABELS),
        GOOD,
        r"`train` images hold integers in -1..4",
    ),
    "above 255": (
        (IMAGES.astype(int) + 251, LABELS),
        GOOD,
        r"integers in 251..256: rescale",
    ),
    "one-hot": (
        (IMAGES, np.eye(6)),
        GOOD,
        r"`train` labels have shape \(6, 6\): .*argmax",
    ),
    "float labels": (
        (IMAGES, LABELS + 0.5),
        GOOD,
        r"`train` labels have type float64 .*0\.5",
    ),
    "label -1": ((IMAGES, LABELS - 1), GOOD, r"`train` labels hold -1, outside 0.."),
    "huge label": (
        (IMAGES, LABELS + 2**40),
        GOOD,
        r"`train` labels hold 1099511627776",
    ),
    "unseen class": (
        GOOD,
        (IMAGES, LABELS + 1),
        r"`test` labels hold 3, outside 0..2: .*num_cl",
    ),
    "lengths": ((IMAGES, LABELS[:5]), GOOD, r"`train` has 6 images but 5 labels"),
    "empty": (GOOD, (IMAGES[:0], LABELS[:0]), r"`test` has no images \(0\)"),
    "other size": (
        GOOD,
        (IMAGES[:, :1], LABELS),
        r"`test` images have shape \(1, 2, 1\), `train`",
    ),
    "other type": (
        GOOD,
        (with_pixel(1.0), LABELS),
        r"`test` images have type float32, `train` i",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_named(case):
    train, test, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        data.from_arrays("n", train, test)


def test_wrong_numbers_of_classes():
    with pytest.raises(
        ValueError, match=r"`num_classes` is 4, but `class_names` has 3"
    ):
        data.from_arrays("n", GOOD, GOOD, num_classes=4, class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"`train` labels hold 2, outside 0..1"):
        data.from_arrays("n", GOOD, GOOD, num_classes=2)


# --- names and folders ---


def test_unknown_name_lists_the_known():
    with pytest.raises(
        ValueError, match=r"`name` must be one of digits, mnist, .* got 'emnist'"
    ):
        data.load("emnist")
    assert data.NAMES == (
        "digits",
        "mnist",
        "fashion_mnist",
        "kmnist",
        "cifar10",
        "cifar100",
    )


def test_absent_data_without_download(tmp_path):
    with pytest.raises(data.DataError, match=r"nowhere does not exist.*download=True"):
        data.load("mnist", data_dir=tmp_path / "nowhere", download=False)
    with pytest.raises(data.DataError, match=r"has no prepared 'mnist'.*TFDS_DATA_DIR"):
        data.load("mnist", data_dir=tmp_path, download=False)


def test_data_dir_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_variable"))
    with pytest.raises(data.DataError, match="from_variable does not exist"):
        data.load("mnist", download=False)
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(data.DataError, match=str(tmp_path / "tensorflow_datasets")):
        data.load("mnist", download=False)


# --- the real data ---


@needs(TFDS / "mnist")
def test_mnist_is_mnist(tfds_dir):
    mnist = data.load(
        "mnist", data_dir=tfds_dir, download=False, num_validation=5000, seed=1
    )
    assert mnist.image_shape == (28, 28, 1)
    assert mnist.class_names == tuple("0123456789")
    train, validation = mnist.train, mnist.validation
    assert validation is not None
    assert (len(train.labels), len(validation.labels)) == (55000, 5000)
    assert train.images.dtype == np.uint8
    counts = np.bincount(train.labels) + np.bincount(validation.labels)
    assert counts.tolist() == MNIST_TRAIN_COUNTS
    assert np.bincount(mnist.test.labels).tolist() == MNIST_TEST_COUNTS
    # 0.1307 of 255, the mean everyone normalises with, to the digits it is published with
    total = train.images.sum(dtype=np.int64) + validation.images.sum(dtype=np.int64)
    assert total / (60000 * 784) == pytest.approx(33.3184, abs=5e-5)


@needs(TFDS / "cifar10")
def test_cifar10_is_cifar10(tfds_dir):
    splits, class_names = read_splits("cifar10", splits=("test",), data_dir=tfds_dir)
    assert class_names[:4] == ("airplane", "automobile", "bird", "cat")
    assert len(class_names) == 10
    assert splits["test"].images.shape == (10000, 32, 32, 3)
    assert np.bincount(splits["test"].labels).tolist() == [1000] * 10
    # Means per channel of the original test set (0.4942, 0.4851, 0.4504 of 255). The copy may be
    # JPEG, which keeps them to 1e-3; a swap of channels or a wrong scale would be 10 times that.
    means = splits["test"].images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4942, 0.4851, 0.4504], atol=1e-3)


@needs(TFDS / "cifar10")
def test_decoding_agrees_with_tfds(tfds_dir):
    from jsnn.data.prepared import import_tfds

    splits, _ = read_splits("cifar10", splits=("test",), data_dir=tfds_dir)
    source = import_tfds().data_source(
        "cifar10", split="test", data_dir=TFDS, download=False
    )
    for i in (0, 1, 4999, 9999):
        example = source[i]
        np.testing.assert_array_equal(splits["test"].images[i], example["image"])
        assert splits["test"].labels[i] == example["label"]


# --- what is imported ---


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
        env=os.environ | environment,
    )


def test_importing_the_package_imports_no_dataset_library():
    done = run_python(
        "import sys, jsnn.data\n"
        "heavy = {'tensorflow_datasets', 'tensorflow', 'sklearn', 'PIL', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)), 'jsnn.data' in sys.modules)"
    )
    assert (done.stdout, done.stderr) == ("[] True\n", "")


@needs(TFDS / "cifar10")
def test_reading_imports_no_tensorflow_and_is_silent(tmp_path):
    # A TensorFlow that can be imported, and tells when it is.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("print('tensorflow was imported')")
    check = run_python("import tensorflow", PYTHONPATH=str(tmp_path))
    assert check.stdout == "tensorflow was imported\n"
    done = run_python(
        "import sys\n"
        "from jsnn.data.loading import read_splits\n"
        f"splits, _ = read_splits('cifar10', splits=('test',), data_dir={str(TFDS)!r})\n"
        "print(splits['test'].images.shape, 'tensorflow_datasets' in sys.modules)",
        PYTHONPATH=str(tmp_path),
        JSNN_CACHE=str(tmp_path / "cache"),
    )
    assert (done.stdout, done.stderr) == ("(10000, 32, 32, 3) True\n", "")
