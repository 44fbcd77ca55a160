"""Your own arrays, of any shape, as a `Dataset`: images, feature vectors, or inputs that vary in time.

Axes: N samples, then whatever a sample holds: `[F]` features, `[H, W, C]` an image, `[T, ...]` frames or spikes of T steps.
"""

import dataclasses
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jsnn import check
from jsnn.data.dataset import (
    DataError,
    Dataset,
    Split,
    check_images,
    check_labels,
    hold_out,
)

KEYS = ("inputs", "labels", "test_inputs", "test_labels")


def arrays(
    inputs: Any,
    labels: Any,
    *,
    test: tuple[Any, Any] | None = None,
    num_test: int = 0,
    num_validation: int = 0,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Makes a `Dataset` of arrays that lie in memory.

    >>> x, y = np.zeros((60, 20, 5), np.float32), np.arange(60) % 3  # 60 recordings of 20 steps and 5 channels
    >>> dataset = arrays(x, y, num_test=10, num_validation=10)
    >>> len(dataset.train.labels), len(dataset.validation.labels), len(dataset.test.labels), dataset.num_classes
    (40, 10, 10, 3)

    Args:
      inputs: `[N, ...]`, floats or whole numbers; bytes stay bytes. The trainer's encoder says what they mean.
      labels: class indices `[N]`.
      test: inputs and labels of a test set of their own.
      num_test: without `test`: how many samples to hold out for testing, chosen by `seed`.
      num_validation: training samples to hold out for choices on the way, chosen by `seed`.
      seed: of both choices.
      class_names: one a class; their numbers if None.
      name: what reports call the data.

    Raises:
      ValueError: if an array has a wrong shape, type or value, or there is no test set.
    """
    num_classes = None if class_names is None else len(class_names)
    train = _split("", inputs, labels, num_classes)
    if test is not None:
        if num_test:
            raise ValueError(
                f"`num_test` is {num_test}, but `test` is given too: pass one of the two."
            )
        count = num_classes or int(train.labels.max()) + 1
        held = _split("test ", *test, count)
        if held.images.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"`test` inputs have shape {held.images.shape[1:]} a sample, `inputs` {train.images.shape[1:]}: bring both to the same one."
            )
    else:
        num_test = check.whole("num_test", num_test)
        if not 0 < num_test < len(train.labels):
            raise ValueError(
                f"`num_test` must lie in 1..{len(train.labels) - 1}, got {num_test}: hold samples out for testing, or pass `test`."
            )
        train, held = hold_out(train, num_test, seed)
        assert held is not None
    if class_names is None:
        most = max(int(train.labels.max()), int(held.labels.max()))
        class_names = [str(i) for i in range(most + 1)]
    train, validation = hold_out(train, num_validation, seed)
    return Dataset(name, train, validation, held, tuple(class_names))


def from_file(
    path: str | os.PathLike[str],
    *,
    frames: bool = False,
    num_validation: int = 0,
    seed: int = 0,
) -> Dataset:
    """Reads a data set from an `.npz` file, as scripts do with `--data FILE.npz`.

    | key | what |
    |---|---|
    | `inputs` | images `[N, H, W, C]` or grey `[N, H, W]`, bytes or floats in [0, 1]; feature vectors `[N, F]`; with `frames` inputs of T steps `[N, T, ...]` |
    | `labels` | class indices `[N]`, from 0 |
    | `test_inputs`, `test_labels` | a test set; without it a fifth of the samples is held out for testing, always the same |

    Args:
      path: the file, written by `numpy.savez`.
      frames: the second axis is time. Values of a step, spikes or currents, are then taken as they are; whole numbers are counts.
      num_validation: training samples to hold out, chosen by `seed`.
      seed: of this choice alone.

    Raises:
      DataError: if there is no such file, or it is no `.npz` file with these arrays.
      ValueError: if an array has a wrong shape, type or value.
    """
    path = pathlib.Path(path)
    found = read_arrays(path)
    missing = [key for key in KEYS[:2] if key not in found]
    if missing or ("test_inputs" in found) != ("test_labels" in found):
        raise DataError(
            f"{path} must hold `inputs` and `labels`, and `test_inputs` and `test_labels` together or not at all; it holds {', '.join(found) or 'nothing'}."
        )
    for name in {"inputs", "test_inputs"} & found.keys():
        x, kind = found[name], name.removesuffix("inputs")
        if frames and x.ndim < 3:
            raise ValueError(
                f"`frames`: the {name} of {path} have shape {x.shape}, but frames are [N, T, ...]: leave it out for inputs that do not vary in time."
            )
        if not frames and x.ndim > 4:
            raise ValueError(
                f"The {name} of {path} have shape {x.shape}: pass `frames` if the second axis is time."
            )
        if not frames and x.ndim > 2:
            found[name] = check_images(f"{kind}inputs", x)
    test = (found["test_inputs"], found["test_labels"]) if "test_inputs" in found else None  # fmt: skip
    num_test = 0 if test else max(1, len(found["labels"]) // 5)
    whole = arrays(
        found["inputs"], found["labels"], test=test, num_test=num_test, name=path.stem
    )
    train, validation = hold_out(whole.train, num_validation, seed)
    return dataclasses.replace(whole, train=train, validation=validation)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file, by name.

    Raises:
      DataError: if there is no such file, or it is none.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in sorted(stored.files)}
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise DataError(
            f"{path} is no .npz file of numbers, or is damaged. Write one with `np.savez({path.name!r}, inputs=..., labels=...)`."
        ) from error


def _split(kind: str, inputs: Any, labels: Any, num_classes: int | None) -> Split:
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if inputs.ndim < 2 or 0 in inputs.shape:
        raise ValueError(
            f"The {kind}inputs must be [N, ...] with at least one sample and one feature, got shape {inputs.shape}."
        )
    if inputs.dtype == bool:
        inputs = inputs.astype(np.uint8)
    if np.issubdtype(inputs.dtype, np.floating):
        inputs = inputs.astype(np.float32, copy=False)
        if not np.isfinite(inputs).all():
            raise ValueError(
                f"The {kind}inputs hold NaN or infinite values: replace them, or drop these samples."
            )
    elif not np.issubdtype(inputs.dtype, np.integer):
        raise ValueError(
            f"The {kind}inputs have type {inputs.dtype}: convert them to float32, or to uint8."
        )
    labels = check_labels("`test` labels" if kind else "`labels`", labels, num_classes)
    if len(inputs) != len(labels):
        raise ValueError(
            f"There are {len(inputs)} {kind}inputs but {len(labels)} labels: give each sample one label."
        )
    return Split(inputs, labels)
