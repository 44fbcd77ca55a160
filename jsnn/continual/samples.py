"""A stream's samples as arrays on the device, task by task: what a stream's trainer learns from.

Axes: S tasks; N training samples of a task, E test and V validation samples, padded to the largest task's number; A training samples of the data set;
C columns of the head; K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Shaped

from jsnn.continual.buffer import Batch
from jsnn.continual.stream import Stream
from jsnn.data import Split


class Samples(NamedTuple):
    """Images, columns in place of labels, and which of them are whose."""

    images: Shaped[Array, "A ..."]
    columns: Int[Array, "A"]
    test_images: Shaped[Array, "_ ..."]
    test_columns: Int[Array, "_"]
    train: Int[Array, "S N"]
    num_train: Int[Array, "S"]
    test: Int[Array, "S E"]
    num_test: Int[Array, "S"]
    validation: Int[Array, "S V"]  # rows of `images`
    num_validation: Int[Array, "S"]
    first: Int[Array, "A"]  # the first task that has the sample; S: none
    num_open: Int[Array, "S"]  # columns open once the task has begun


def put(stream: Stream, train: Split, test: Split) -> Samples:
    """Everything on the device once."""
    tasks = stream.tasks
    first = np.full(len(train.labels), len(tasks), np.int32)
    for number in reversed(range(len(tasks))):
        first[tasks[number].train] = number
    numbers = range(len(tasks))
    found = Samples(
        jnp.asarray(train.images),
        jnp.asarray(stream.column_of[train.labels], jnp.int32),
        jnp.asarray(test.images),
        jnp.asarray(stream.column_of[test.labels], jnp.int32),
        *_padded([task.train for task in tasks]),
        *_padded([task.test for task in tasks]),
        *_padded([task.validation for task in tasks]),
        jnp.asarray(first),
        jnp.asarray([stream.num_open(task) for task in numbers], jnp.int32),
    )
    return jax.device_put(found)


def _padded(indices: list[np.ndarray]) -> tuple[Array, Array]:
    """Rows of one length, which is at least 1, and how long each was."""
    counts = [len(index) for index in indices]
    rows = np.zeros((len(indices), max(1, *counts)), np.int32)
    for row, index in zip(rows, indices, strict=True):
        row[: len(index)] = index
    return jnp.asarray(rows), jnp.asarray(counts, jnp.int32)


def of_task(samples: Samples, task: ArrayLike) -> Batch:
    """A task's training samples."""
    index = samples.train[task]
    valid = jnp.arange(len(index)) < samples.num_train[task]
    is_first = samples.first[index] == task
    images, columns = samples.images[index], samples.columns[index]
    return Batch(images, columns, valid, index, is_first)


def seen(samples: Samples, task: ArrayLike) -> Batch:
    """All training samples; valid are those of the tasks so far."""
    index, first = jnp.arange(len(samples.first), dtype=jnp.int32), samples.first
    return Batch(samples.images, samples.columns, first <= task, index, first == task)


def tested(samples: Samples, task: ArrayLike) -> Batch:
    """A task's test samples."""
    index = samples.test[task]
    valid = jnp.arange(len(index)) < samples.num_test[task]
    return Batch(samples.test_images[index], samples.test_columns[index], valid)


def validated(samples: Samples, task: ArrayLike) -> Batch:
    """A task's validation samples."""
    index = samples.validation[task]
    valid = jnp.arange(len(index)) < samples.num_validation[task]
    return Batch(samples.images[index], samples.columns[index], valid)


def columns_of(stream: Stream, capacity: int) -> Bool[np.ndarray, "S C"]:
    """Which columns are each task's; those that the head has no room for yet are left out."""
    number = np.arange(capacity)
    return np.stack([np.isin(number, task.columns) for task in stream.tasks])
