"""What a stream's evaluations say: rows after each task, matrices of accuracies, classes predicted.

Axes: S tasks; E held-out samples of a task, padded; B batch; C columns of the head; K classes. Arrays of several seeds have theirs in front.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jsnn.continual import metrics
from jsnn.continual.stream import Stream
from jsnn.train.trainer import Prediction

MEASURES = ("accuracy", "task_il_accuracy", "domain_il_accuracy")
_BY_SEED = "_by_seed"


class Found(NamedTuple):
    """Predicted columns of held-out samples, task by task; -1 where a task was not looked at."""

    class_il: Int[Array, "S E"]  # the best of all open columns
    task_il: Int[Array, "S E"]  # the best of those of the sample's task
    labels: Int[Array, "S E"]  # the right ones
    task: Int[Array, ""]  # the task that had just been trained


class Evaluations(NamedTuple):
    """Of test samples, and of those held out of training; `validation` is None where there are none."""

    test: Found
    validation: Found | None


class Result(NamedTuple):
    """The end of a stream. Matrices are tasks trained by tasks tested, NaN where not measured."""

    class_il: Float[np.ndarray, "S S"]
    task_il: Float[np.ndarray, "S S"]
    domain_il: Float[np.ndarray, "S S"]
    counts: Int[np.ndarray, "S"]  # test samples of each task
    labels: Int[np.ndarray, "_"]  # of all tasks' test samples, task by task: the class
    predictions: Int[np.ndarray, "_"]  # and the class predicted, class-IL
    validation: (
        float  # class-IL accuracy on all samples held out; NaN if there are none
    )


def result(
    stream: Stream,
    rows: list[dict[str, Any]],
    found: Evaluations,
    seed: int | None = None,
) -> Result:
    """What a run's rows and its last evaluation come to; of several seeds, of number `seed`."""
    if seed is not None:
        found = jax.tree.map(lambda x: x[seed], found)
    r = matrices(rows, len(stream.tasks), seed)
    held = [row for row in rows if row["split"] == "validation"]
    counts = np.array([len(task.test) for task in stream.tasks])
    last = float("nan") if not held else _value(held[-1], "accuracy", seed)
    labels, predictions = decided(stream, found.test)
    class_il, task_il, domain_il = (r[name] for name in MEASURES)
    return Result(class_il, task_il, domain_il, counts, labels, predictions, last)


def summary(
    stream: Stream,
    rows: list[dict[str, Any]],
    found: Evaluations,
    num_seeds: int = 1,
    at_random: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Figures of a run and its matrices entry by entry; of several seeds their means, and with `_std` how far single ones lie apart.

    Args:
      stream: the tasks.
      rows: of the run.
      found: its last evaluation.
      num_seeds: more than one: of a trainer over so many seeds.
      at_random: for each seed what `untrained` gives, for forward transfer.
    """
    seeds = [None] if num_seeds == 1 else range(num_seeds)
    each, whole = [], [result(stream, rows, found, seed) for seed in seeds]
    for number, one in enumerate(whole):
        figures = metrics.figures(one.class_il, one.task_il, one.counts)
        figures = {"test_accuracy": figures["final_accuracy"], **figures}
        if any(len(task.validation) for task in stream.tasks):
            figures["validation_accuracy"] = one.validation
        if at_random is not None:
            start = at_random[number]
            figures["forward_transfer"] = metrics.forward_transfer(one.task_il, start)
        each.append(figures)
    means: dict[str, Any] = {name: float(np.mean([f[name] for f in each])) for name in each[0]}  # fmt: skip
    if num_seeds > 1:
        means |= {f"{name}_std": float(np.std([f[name] for f in each], ddof=1)) for name in each[0]}  # fmt: skip
        accuracies = (f"{100 * f['test_accuracy']:.1f}" for f in each)
        means["test_accuracy_by_seed"] = " ".join(accuracies)
    class_il = np.mean([one.class_il for one in whole], axis=0)
    task_il = np.mean([one.task_il for one in whole], axis=0)
    return means | metrics.entries(class_il, task_il)


def rows(stream: Stream, found: Evaluations) -> list[dict[str, Any]]:
    """A row for each task looked at, and one for all seen so far."""
    task = int(np.ravel(found.test.task)[0])
    tested = [
        measures(stream, found.test, number, task)
        for number in range(len(stream.tasks))
    ]
    each = [
        {"split": "task", "on_task": number, **measure}
        for number, measure in enumerate(tested)
        if measure is not None
    ]
    whole = [{"split": "test", **overall(tested[: task + 1])}]
    if found.validation is not None:
        held = [
            measures(stream, found.validation, number, task, "validation")
            for number in range(task + 1)
        ]
        whole.append({"split": "validation", **overall(held)})
    return each + whole


def measures(
    stream: Stream, found: Found, number: int, task: int, split: str = "test"
) -> dict[str, Any] | None:
    """Accuracies on the samples of task `number` after `task` has ended, and of several seeds those of each; None where they were not looked at."""
    count = len(getattr(stream.tasks[number], split))
    class_il, task_il, labels = (np.asarray(x)[..., number, :count] for x in found[:3])
    if number > task and (class_il < 0).all():
        return None
    _, place = stream.positions(max(task, number))
    right = {
        "accuracy": class_il == labels,
        "task_il_accuracy": task_il == labels,
        "domain_il_accuracy": place[class_il] == place[labels],
    }
    if not count:
        right = {name: np.full((*hits.shape[:-1], 1), np.nan) for name, hits in right.items()}  # fmt: skip
    means = {name: float(hits.mean()) for name, hits in right.items()}
    if class_il.ndim > 1:
        means |= {name + _BY_SEED: hits.mean(-1).tolist() for name, hits in right.items()}  # fmt: skip
    return means | {"count": count}


def overall(measured: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Accuracies over several tasks, weighted by their samples."""
    known = [m for m in measured if m is not None and m["count"]]
    weights = [m["count"] for m in known]
    names = [name for name in known[0] if name != "count"] if known else []
    return {
        name: np.average([m[name] for m in known], axis=0, weights=weights).tolist()
        for name in names
    }


def _value(row: dict[str, Any], name: str, seed: int | None) -> float:
    """A row's number, or that of one of its seeds; NaN where nothing was measured."""
    value = row[name] if seed is None else row[name + _BY_SEED][seed]
    return float("nan") if value is None else value


def matrices(
    rows: list[dict[str, Any]], num_tasks: int, seed: int | None = None
) -> dict[str, np.ndarray]:
    """Accuracies after each task on each task, by kind, from the rows of a run; NaN where none were measured. Of several seeds, means or those of number `seed`."""
    found = {name: np.full((num_tasks, num_tasks), np.nan) for name in MEASURES}
    for row in rows:
        if row["split"] == "task":
            for name, matrix in found.items():
                matrix[row["task"], row["on_task"]] = _value(row, name, seed)
    return found


def hits(
    stream: Stream, found: Found, split: str = "test"
) -> tuple[Int[Array, "S"], Int[Array, "S"]]:
    """How many samples of each task are right, class-IL and task-IL, `[S]`; -1 where a task was not looked at. Pure."""
    counts = jnp.asarray([len(getattr(task, split)) for task in stream.tasks])
    valid = jnp.arange(found.labels.shape[-1])[None] < counts[:, None]

    def right(guess):
        number = ((guess == found.labels) & valid).sum(-1, dtype=jnp.int32)
        return jnp.where(found.labels[:, 0] < 0, -1, number)

    return right(found.class_il), right(found.task_il)


def classes_of(stream: Stream) -> Int[np.ndarray, "C"]:
    """The class of each column, -1 for one that has none; of those that share a column, the last."""
    found = np.full(stream.num_columns, -1)
    known = stream.column_of >= 0
    found[stream.column_of[known]] = np.flatnonzero(known)
    return found


def by_class(stream: Stream, scores: Float[Array, "B C"]) -> Prediction:
    """Predictions by the scores of columns: classes, and one score a class `[B, K]`, -inf for those that never come. Where classes share columns, scores stay those of columns."""
    label = jnp.asarray(classes_of(stream), jnp.int32)[scores.argmax(1)]
    column = stream.column_of
    if len(np.unique(column[column >= 0])) == (column >= 0).sum():
        where = np.where(column < 0, scores.shape[1], column)
        scores = scores.at[:, where].get(mode="fill", fill_value=-jnp.inf)
    return Prediction(label, scores)


def decided(stream: Stream, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Right and predicted classes of all tasks' test samples, task by task."""
    classes = classes_of(stream)
    counts = [len(task.test) for task in stream.tasks]
    pairs = [(found.labels[i, :n], found.class_il[i, :n]) for i, n in enumerate(counts)]
    right, guess = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return classes[right], classes[guess]
