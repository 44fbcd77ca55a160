"""The Yin-Yang data set: points in a circle, three classes, two of which need a hidden layer to tell apart.

Kriener, Göltz & Petrovici, 2022, https://arxiv.org/abs/2102.08211. Generated with the published random streams, so that splits are
those of every other paper: seed 42 trains, 41 validates, 40 tests; with 5,000, 1,000 and 1,000 points.

As input of a spiking network each coordinate is a spike time, and a fifth input, the bias, spikes at a fixed one:
`jsnn.eventprop.latency.coordinate_times`.
"""

from typing import Any, NamedTuple

import numpy as np

from jsnn import check

SEEDS = {"train": 42, "validation": 41, "test": 40}
SIZES = {"train": 5000, "validation": 1000, "test": 1000}
CLASSES = ("yin", "yang", "dot")


class YinYang(NamedTuple):
    """`coordinates` `[M, 4]`: x, y, 1 - x, 1 - y, all in [0, 1]; `labels` `[M]`."""

    coordinates: np.ndarray
    labels: np.ndarray


def class_of(x: Any, y: Any, *, r_big: float = 0.5, r_small: float = 0.1) -> np.ndarray:
    """Class of points inside the big circle: 0 yin, 1 yang, 2 dot."""
    x, y = np.asarray(x), np.asarray(y)
    right = np.sqrt((x - 1.5 * r_big) ** 2 + (y - r_big) ** 2)
    left = np.sqrt((x - 0.5 * r_big) ** 2 + (y - r_big) ** 2)
    yang = (
        (right <= r_small)
        | ((left > r_small) & (left <= r_big / 2))
        | ((y > r_big) & (right > r_big / 2))
    )
    dot = (right < r_small) | (left < r_small)
    return np.where(dot, 2, yang.astype(int))


def yin_yang(
    size: int, *, seed: int, r_big: float = 0.5, r_small: float = 0.1
) -> YinYang:
    """Draws `size` points: the class first, then points until one is of that class, so that classes are about equally frequent.

    Args:
      size: number of points.
      seed: of the published generator; see `SEEDS`.
      r_big: radius of the circle.
      r_small: radius of the dots.
    """
    size = check.whole("size", size, 1)
    seed = check.whole("seed", seed, 0, 2**32 - 1)
    check.number("r_big", r_big, "(0, inf)")
    check.number("r_small", r_small, "(0, inf)")
    if not 0 < r_small < r_big / 2:
        raise ValueError(
            f"`r_small` must lie between 0 and r_big / 2 = {r_big / 2}, got {r_small}."
        )
    random = np.random.RandomState(seed)
    points, labels = np.empty((size, 2)), np.empty(size, np.int32)
    for k in range(size):
        wanted = random.randint(3)
        while True:
            x, y = random.rand(2) * 2.0 * r_big
            if np.sqrt((x - r_big) ** 2 + (y - r_big) ** 2) > r_big:
                continue
            if class_of(x, y, r_big=r_big, r_small=r_small) == wanted:
                break
        points[k], labels[k] = (x, y), wanted
    return YinYang(np.concatenate([points, 1.0 - points], axis=1), labels)
