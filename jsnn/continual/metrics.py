r"""What is said about a stream, from the matrix of accuracies.

$R_{t,i}$ is the accuracy on the test samples of task i after training on task t, both counted from 0. What was not measured is NaN:
tasks to come, unless forward transfer is wanted, and tasks without test samples. NaN is left out of every mean.

- *Class-IL*: the prediction is one of all classes seen so far.
- *Task-IL*: the sample's task is told, the prediction is one of its classes. Never below class-IL, since a class that scores highest
  among all does so within its task.
- *Domain-IL*: right is a prediction at the right place within its task, whichever task.

Definitions differ between papers, and are named here. Axes: S tasks of the stream.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from jsnn import check

Matrix = Float[np.ndarray, "trained tested"]  # both S
Counts = Num[np.ndarray, "S"]


def _check(accuracy: Matrix) -> None:
    if (
        accuracy.ndim != 2
        or accuracy.shape[0] != accuracy.shape[1]
        or not accuracy.size
    ):
        raise ValueError(
            f"`accuracy` must be a square matrix, tasks trained by tasks tested, got shape {accuracy.shape}."
        )


def _check_tasks(name: str, values: np.ndarray, accuracy: Matrix) -> None:
    if values.shape != accuracy.shape[:1]:
        raise ValueError(
            f"`{name}` must have one number a task, {len(accuracy)}, got shape {values.shape}."
        )


def _mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean of what is not NaN; NaN if nothing is left."""
    weights = np.ones(values.shape) if weights is None else weights
    known = ~np.isnan(values) & (weights > 0)
    if not known.any():
        return float("nan")
    return float(np.average(values[known], weights=weights[known]))


def average_accuracy(
    accuracy: Matrix, counts: Counts | None = None
) -> Float[np.ndarray, "S"]:
    r"""$A_t$: mean of $R_{t,i}$ over the tasks $i \le t$ seen so far.

    Args:
      accuracy: R.
      counts: test samples of each task, for the share of all samples that is right; None for the mean of tasks. The two differ
        where tasks have unequal test sets.
    """
    _check(accuracy)
    weights = np.ones(len(accuracy)) if counts is None else np.asarray(counts, float)
    _check_tasks("counts", weights, accuracy)
    return np.array(
        [_mean(row[: t + 1], weights[: t + 1]) for t, row in enumerate(accuracy)]
    )


def final_accuracy(accuracy: Matrix, counts: Counts | None = None) -> float:
    r"""$A_{S-1}$, over all tasks after the last one."""
    return float(average_accuracy(accuracy, counts)[-1])


def average_incremental_accuracy(
    accuracy: Matrix, counts: Counts | None = None
) -> float:
    r"""Mean of $A_t$ over t, the first task included: PyCIL's "average accuracy"."""
    return _mean(average_accuracy(accuracy, counts))


def forgetting(accuracy: Matrix, best: Literal["ever", "before"] = "ever") -> float:
    r"""$\frac{1}{S-1} \sum_{i < S-1} (\max_t R_{t,i} - R_{S-1,i})$: what was lost since a task was known best.

    Args:
      accuracy: R.
      best: `"ever"`: the maximum includes the last row, so it is never negative (mammoth, PyCIL); `"before"`: it does not, and
        forgetting is negative where the last task helped (FACIL).

    Returns:
      NaN for a single task. Avalanche calls something else forgetting: `-backward_transfer`.
    """
    _check(accuracy)
    check.choice("best", best, ("ever", "before"))
    rows = accuracy if best == "ever" else accuracy[:-1]
    lost = [
        np.nanmax(rows[i:, i], initial=-np.inf) - accuracy[-1, i]
        for i in range(len(accuracy) - 1)
        if not np.isnan(accuracy[-1, i])
    ]
    return _mean(np.array(lost))


def backward_transfer(accuracy: Matrix) -> float:
    r"""$\frac{1}{S-1} \sum_{i < S-1} (R_{S-1,i} - R_{i,i})$: how later tasks changed earlier ones; negative is forgetting. NaN for a single task."""
    _check(accuracy)
    return _mean((accuracy[-1] - np.diag(accuracy))[:-1])


def forward_transfer(accuracy: Matrix, at_random: Float[np.ndarray, "S"]) -> float:
    r"""$\frac{1}{S-1} \sum_{i > 0} (R_{i-1,i} - r_i)$: how earlier tasks help one that has not been trained yet.

    It needs accuracies above the diagonal. In class-IL those are 0, as unseen classes cannot be predicted: use task-IL.

    Args:
      accuracy: R, with what was measured before a task was trained.
      at_random: $r_i$, accuracy of the untrained network.
    """
    _check(accuracy)
    at_random = np.asarray(at_random)
    _check_tasks("at_random", at_random, accuracy)
    return _mean(np.diag(accuracy, 1) - at_random[1:])


def figures(class_il: Matrix, task_il: Matrix, counts: Counts) -> dict[str, float]:
    """All figures by name, accuracies weighted by test samples."""
    return {
        "final_accuracy": final_accuracy(class_il, counts),
        "average_incremental_accuracy": average_incremental_accuracy(class_il, counts),
        "forgetting": forgetting(class_il),
        "backward_transfer": backward_transfer(class_il),
        "task_il_accuracy": final_accuracy(task_il, counts),
        "task_il_forgetting": forgetting(task_il),
    }


def entries(class_il: Matrix, task_il: Matrix) -> dict[str, float]:
    """Both matrices entry by entry (`accuracy_after_2_on_1`, tasks from 1)."""
    found = {}
    for name, matrix in (("accuracy", class_il), ("task_il_accuracy", task_il)):
        for (t, i), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                found[f"{name}_after_{t + 1}_on_{i + 1}"] = float(value)
    return found
