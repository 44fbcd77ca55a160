"""Data sets of event recordings, by name or from a file: inputs are the rows that `events.pack` makes."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jsnn import check
from jsnn.data import digits_events, event_files, event_sets, events
from jsnn.data.arrays import read_arrays
from jsnn.data.dataset import DataError, Dataset, Split, check_labels, hold_out

NAMES = ("digits_events", *event_sets.SETS)
Part = tuple[events.Events, np.ndarray]  # recordings and their labels


def load(
    name: str | os.PathLike[str],
    *,
    sensor: tuple[int, int] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    num_validation: int = 0,
    seed: int = 0,
) -> Dataset:
    """Loads recordings as a `Dataset` whose inputs are `[N, L, 2]`: time and cell of each event, see `events.pack`.

    >>> dataset = load("digits_events")
    >>> dataset.train.images.shape[2], dataset.sensor, dataset.num_classes
    (2, (20, 20), 10)

    Args:
      name: one of `NAMES`, or the path of an `.npz` file: see `event_files.read_events`. It holds a training and a test set (`train_x`,
        `test_x`, and so on), or one set, of which a fifth is held out for testing, always the same.
      sensor: rows and columns of a file's sensor; as many as its events need if None.
      data_dir: of a set by name: the folder that holds it, see `event_sets.load`.
      num_validation: training recordings to hold out, chosen by `seed`.
      seed: of this choice alone.

    Raises:
      DataError: a file that is missing, holds something else, or no labels.
      ValueError: an unknown name, or recordings that are wrong.
    """
    names: Any = None
    if os.fspath(name) == "digits_events":
        train, test = digits_events.digits_events()
    elif name in event_sets.SETS:
        train, test = (event_sets.load(str(name), split, data_dir=data_dir) for split in ("train", "test"))  # fmt: skip
        names = event_sets.SETS[str(name)].class_names
    else:
        if pathlib.Path(name).suffix != ".npz":
            raise ValueError(
                f"`name` must be one of {', '.join(NAMES)}, or the path of an .npz file, got {os.fspath(name)!r}."
            )
        train, test = _of_file(pathlib.Path(name), sensor)
    found = dataset(pathlib.Path(name).stem, train, test, class_names=names)
    kept, validation = hold_out(found.train, num_validation, seed)
    return dataclasses.replace(found, train=kept, validation=validation)


def dataset(
    name: str, train: Part, test: Part, *, class_names: Sequence[str] | None = None
) -> Dataset:
    """Recordings with labels as a `Dataset`.

    Args:
      name: what reports call the data.
      train: recordings and class indices `[N]`.
      test: the same, of the same sensor.
      class_names: their numbers if None.

    Raises:
      ValueError: labels that do not fit, or two kinds of sensor.
    """
    if train[0].sensor != test[0].sensor:
        raise ValueError(
            f"`test` has a sensor of {test[0].sensor}, `train` of {train[0].sensor}: bring both to the same one."
        )
    count = None if class_names is None else len(class_names)
    labels = [
        check_labels(f"{what} labels", np.asarray(labels), count)
        for what, (_, labels) in (("train", train), ("test", test))
    ]
    names = class_names or [str(i) for i in range(max(map(np.max, labels)) + 1)]
    longest = max(train[0].longest, test[0].longest)
    parts = [
        Split(events.pack(part[0], length=longest), own)
        for part, own in zip((train, test), labels, strict=True)
    ]
    return Dataset(name, parts[0], None, parts[1], tuple(names), train[0].sensor)


def _of_file(path: pathlib.Path, sensor: tuple[int, int] | None) -> tuple[Part, Part]:
    found = read_arrays(path)
    prefixes = [p for p in ("train_", "test_", "") if f"{p}x" in found]
    if prefixes not in (["train_", "test_"], [""]):
        raise DataError(
            f"{path} must hold recordings as `x`, `y`, `p`, `t_us`, `offsets` and `label`, or as `train_x`, ..., `test_x`, ...; it holds "
            f"{', '.join(found) or 'nothing'}."
        )
    if sensor is None:
        reach = [max(int(found[p + axis].max(initial=0)) for p in prefixes) for axis in "yx"]  # fmt: skip
        sensor = (reach[0] + 1, reach[1] + 1)
    parts: list[Any] = []
    for prefix in prefixes:
        recordings, labels = event_files.read_events(
            path, split=prefix.removesuffix("_"), sensor=sensor
        )
        if labels is None:
            raise DataError(f"{path} lacks `{prefix}label`, a class index a recording.")
        parts.append((recordings, labels))
    if len(parts) == 2:
        return parts[0], parts[1]
    whole, labels = parts[0]
    count = len(labels)
    if count < 2:
        raise ValueError(f"{path} holds one recording: at least two are needed.")
    test = np.zeros(count, bool)
    test[np.random.RandomState(0).permutation(count)[: max(1, count // 5)]] = True
    return tuple((events.chosen(whole, of), labels[of]) for of in (~test, test))  # pyright: ignore[reportReturnType]


def fold(whole: Dataset, number: int, count: int) -> Dataset:
    """All samples of a data set anew divided: fold `number` of `count` is the test set, the others train. The same folds for everybody.

    >>> parts = [fold(load("digits_events"), k, 5) for k in (0, 1)]
    >>> [len(part.test.labels) for part in parts]
    [360, 360]

    Args:
      whole: of which training and test samples are put together; validation samples too.
      number: 0 to `count - 1`.
      count: of folds.

    Raises:
      ValueError: if there are fewer samples than folds, or a number is out of range.
    """
    splits = [whole.train, whole.test] + ([whole.validation] if whole.validation else [])  # fmt: skip
    inputs, labels = (np.concatenate(column) for column in zip(*splits, strict=True))
    count = check.whole("count", count, 2, len(labels))
    number = check.whole("number", number, 0, count - 1)
    order = np.random.RandomState(0).permutation(len(labels))
    inputs, labels = inputs[order], labels[order]
    held = np.arange(len(labels)) % count == number
    return dataclasses.replace(
        whole,
        train=Split(inputs[~held], labels[~held]),
        validation=None,
        test=Split(inputs[held], labels[held]),
    )
