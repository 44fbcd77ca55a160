"""What a stream's evaluations say: rows after each task, matrices of accuracies, classes predicted.

Axes: S tasks; E held-out samples of a task, padded; C columns of the head.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int

from jsnn.continual.stream import Stream

MEASURES = ("accuracy", "task_il_accuracy", "domain_il_accuracy")


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
    """Accuracies on the samples of task `number` after `task` has ended; None where they were not looked at. Seeds are averaged."""
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
    means = {k: float(v.mean()) if count else float("nan") for k, v in right.items()}
    return means | {"count": count}


def overall(measured: list[dict[str, Any] | None]) -> dict[str, float]:
    """Accuracies over several tasks, weighted by their samples."""
    known = [m for m in measured if m is not None and m["count"]]
    weights = [m["count"] for m in known]
    return {
        name: float(np.average([m[name] for m in known], weights=weights))
        for name in (MEASURES if known else ())
    }


def matrices(rows: list[dict[str, Any]], num_tasks: int) -> dict[str, np.ndarray]:
    """Accuracies after each task on each task, by kind, from the rows of a run; NaN where none were measured."""
    found = {name: np.full((num_tasks, num_tasks), np.nan) for name in MEASURES}
    for row in rows:
        if row["split"] == "task":
            for name, matrix in found.items():
                value = row[name]
                matrix[row["task"], row["on_task"]] = np.nan if value is None else value
    return found


def classes_of(stream: Stream) -> Int[np.ndarray, "C"]:
    """The class of each column, -1 for one that has none; of those that share a column, the last."""
    found = np.full(stream.num_columns, -1)
    known = stream.column_of >= 0
    found[stream.column_of[known]] = np.flatnonzero(known)
    return found


def decided(stream: Stream, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Right and predicted classes of all tasks' test samples, task by task."""
    classes = classes_of(stream)
    counts = [len(task.test) for task in stream.tasks]
    pairs = [(found.labels[i, :n], found.class_il[i, :n]) for i, n in enumerate(counts)]
    right, guess = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return classes[right], classes[guess]
