"""What every data source becomes: checked arrays in memory.

Axes: N images, H height, W width, C colour channels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from jsnn import check

Images = UInt8[np.ndarray, "N H W C"] | Float32[np.ndarray, "N H W C"]
Labels = Int32[np.ndarray, "N"]

# Class names are made up for every label below the inferred number of classes; a label of a
# billion is a mistake, not a class.
_MAX_INFERRED_CLASSES = 65_536


class DataError(RuntimeError):
    """A data set cannot be found, fetched, read or stored; the message says what to do."""


class Split(NamedTuple):
    """Images and their labels, index by index."""

    images: Images  # uint8 in 0..255, or float32 in units of the caller's choice
    labels: Labels  # class indices in 0..num_classes-1


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training, validation and test images; `validation` is None where none was held out."""

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    sensor: tuple[int, int] | None = None  # of event recordings: rows and columns
    rate: int | None = None  # of sound: samples a second

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        _, height, width, channels = self.train.images.shape
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """Number of classes, whether or not each one occurs."""
        return len(self.class_names)


def from_arrays(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    num_validation: int = 0,
    seed: int = 0,
) -> Dataset:
    """Makes a `Dataset` of arrays that lie in memory.

    >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 3
    >>> dataset = from_arrays("mine", (images, labels), (images, labels), num_validation=2)
    >>> dataset.image_shape, dataset.num_classes, dataset.train.labels.shape
    ((8, 8, 1), 3, (4,))

    Args:
      name: What reports call the data.
      train: Images `[N, H, W, C]` or grey `[N, H, W]`, and class indices `[N]`. Arrays that
        already have the right type are not copied.
      test: The same; it may hold another number of images.
      num_classes: Defaults to the number of `class_names`, else to the largest training label plus 1.
      class_names: Defaults to the class indices.
      num_validation: Images taken from `train`, chosen by `seed`; see `hold_out`.
      seed: Seed of that choice.

    Raises:
      ValueError: an array has a wrong shape, type or value.
    """
    if class_names is not None:
        if num_classes not in (None, len(class_names)):
            raise ValueError(
                f"`num_classes` is {num_classes}, but `class_names` has {len(class_names)} names: "
                "pass one of the two, or as many names as classes."
            )
        num_classes = len(class_names)
    train_split = check_split("train", *train, num_classes=num_classes)
    if num_classes is None:
        num_classes = int(train_split.labels.max()) + 1
    test_split = check_split("test", *test, num_classes=num_classes)
    for what, of_train, of_test in (
        ("shape", train_split.images.shape[1:], test_split.images.shape[1:]),
        ("type", train_split.images.dtype, test_split.images.dtype),
    ):
        if of_train != of_test:
            raise ValueError(
                f"`test` images have {what} {of_test}, `train` images {of_train}: "
                "bring both to the same one."
            )
    if class_names is None:
        class_names = [str(i) for i in range(num_classes)]
    train_split, validation = hold_out(train_split, num_validation, seed)
    return Dataset(name, train_split, validation, test_split, tuple(class_names))


def check_split(
    argument: str, images: Any, labels: Any, *, num_classes: int | None
) -> Split:
    """Returns the arrays in the types and shapes of a `Split`, or raises what is wrong with them.

    Args:
      argument: What the message calls the pair, `train` or `test`.
      images: `[N, H, W, C]` or grey `[N, H, W]`; integers in 0..255 become uint8, floats float32.
      labels: Class indices `[N]`, of any integer type.
      num_classes: Labels must lie below it; None leaves the number open.

    Raises:
      ValueError: naming the argument, the value and the remedy.
    """
    checked_images = check_images(argument, np.asarray(images))
    checked_labels = check_labels(
        f"`{argument}` labels", np.asarray(labels), num_classes
    )
    if len(checked_images) != len(checked_labels):
        raise ValueError(
            f"`{argument}` has {len(checked_images)} images but {len(checked_labels)} labels: "
            "give each image one label."
        )
    if len(checked_images) == 0:
        raise ValueError(f"`{argument}` has no images (0): give at least one.")
    return Split(checked_images, checked_labels)


def check_images(argument: str, images: np.ndarray) -> Images:
    """Images `[N, H, W, C]`, or grey without channels, as bytes or float32, or a `ValueError` that says what is wrong with them."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        remedy = "reshape them to [N, H, W, C], or to [N, H, W] if they are grey."
        if images.ndim == 5:
            remedy = (
                "a data set holds images [N, H, W, C], no sequences. Give a batch of sequences to a network itself, time first: "
                "`apply(graphdef, model, frames.swapaxes(0, 1))` for frames [N, T, H, W, C]."
            )
        raise ValueError(f"`{argument}` images have shape {images.shape}: {remedy}")
    if 0 in images.shape[1:]:
        raise ValueError(
            f"`{argument}` images have shape {images.shape}: height, width and channels must be "
            "at least 1."
        )
    if np.issubdtype(images.dtype, np.floating):
        with np.errstate(
            over="ignore"
        ):  # what is too large becomes infinite, and is named below
            images = images.astype(np.float32, copy=False)
        finite = np.isfinite(images)
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"`{argument}` images hold {images[where]} at index {where} ({(~finite).sum()} such "
                "pixels): replace NaN and infinite pixels, or drop these images."
            )
        return images
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(
            f"`{argument}` images have type {images.dtype}: convert them to uint8 or float32."
        )
    if (
        images.dtype != np.uint8
        and images.size
        and (images.min() < 0 or images.max() > 255)
    ):
        raise ValueError(
            f"`{argument}` images hold integers in {images.min()}..{images.max()}: rescale them to "
            "0..255, or convert them to float32."
        )
    return images.astype(np.uint8, copy=False)


def check_labels(what: str, labels: np.ndarray, num_classes: int | None) -> Labels:
    """Class indices `[N]` as int32, or a `ValueError` that says what is wrong with them."""
    if labels.ndim != 1:
        raise ValueError(
            f"{what} have shape {labels.shape}: pass class indices of shape [N] "
            "(`labels.argmax(-1)` of one-hot rows, `labels.ravel()` of a column)."
        )
    if labels.size and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{what} have type {labels.dtype} (the first is {labels[0]!r}): pass "
            "integer class indices, for instance `labels.astype(np.int32)`."
        )
    limit = _MAX_INFERRED_CLASSES if num_classes is None else num_classes
    if labels.size and (labels.min() < 0 or labels.max() >= limit):
        wrong = labels[(labels < 0) | (labels >= limit)][0]
        raise ValueError(
            f"{what} hold {wrong}, outside 0..{limit - 1}: number the classes from 0, "
            "and pass `num_classes` if there are more than the training labels show."
        )
    return labels.astype(np.int32, copy=False)


def hold_out(
    train: Split, num_validation: int, seed: int
) -> tuple[Split, Split | None]:
    """Takes `num_validation` images from the training set: the first of a seeded permutation.

    Both parts keep the order of the training set, so the choice depends on that order and the seed.

    Raises:
      ValueError: fewer than 0 images asked for, or so many that none is left to train on.
    """
    num_train = len(train.labels)
    remedy = "An image must be left to train on."
    num_validation = check.whole(
        "num_validation", num_validation, 0, num_train - 1, remedy=remedy
    )
    seed = check.whole("seed", seed, 0, 2**32 - 1)
    if num_validation == 0:
        return train, None
    # RandomState, since NumPy promises that its stream stays the same in later versions.
    chosen = np.zeros(num_train, bool)
    chosen[np.random.RandomState(seed).permutation(num_train)[:num_validation]] = True
    rest = Split(train.images[~chosen], train.labels[~chosen])
    return rest, Split(train.images[chosen], train.labels[chosen])
