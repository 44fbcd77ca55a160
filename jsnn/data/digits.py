"""The 1,797 real handwritten digits that scikit-learn brings along: no download."""

import numpy as np

from jsnn.data.dataset import Labels, Split

NUM_TEST = 360  # one in five
CLASS_NAMES = tuple(str(digit) for digit in range(10))


def digits() -> tuple[Split, Split]:
    """Training and test images, `[1437, 8, 8, 1]` and `[360, 8, 8, 1]`, with their labels.

    A pixel counts the dots (0..16) of a 4x4 field of a scan; here it is scaled to 0..255, and
    `round(pixel * 16 / 255)` gives the count back. The split is fixed and stratified: a class is
    in the test set by its share, up to one image. Both sets keep scikit-learn's order.

    Reference: https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
    """
    from sklearn.datasets import load_digits

    counts, targets = load_digits(return_X_y=True)
    images = np.round(counts * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = targets.astype(np.int32)
    is_test = _stratified(labels, NUM_TEST)
    test = Split(images[is_test], labels[is_test])
    return Split(images[~is_test], labels[~is_test]), test


def _stratified(labels: Labels, num_chosen: int) -> np.ndarray:
    """A mask of `num_chosen` images: every fifth or so of all images, shuffled and sorted by class."""
    num_images = len(labels)
    order = np.random.RandomState(0).permutation(num_images)
    order = order[np.argsort(labels[order], kind="stable")]
    chosen = np.zeros(num_images, bool)
    chosen[order[(np.arange(num_chosen) * num_images) // num_chosen]] = True
    return chosen
