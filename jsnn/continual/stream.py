"""Streams: a labelled data set cut into tasks that come one after another.

A class gets its *column* of the growing head when it first appears: the first to appear has column 0, whatever its label is. So
any order of classes, any number of them a task and any labels will do. In a domain-incremental stream the tasks share columns
instead: a class has the column of its place within its task (Split MNIST: even or odd).

Axes: K classes of the data set.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from jsnn import check

Scenario = Literal["class", "domain"]
Repeated = Literal["refuse", "again", "split"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: its classes, their columns, and which samples of the data set are its: of the training set, of the test set, and held out of the training set."""

    classes: tuple[int, ...]
    columns: tuple[int, ...]
    train: Int[np.ndarray, "N"]
    test: Int[np.ndarray, "M"]
    validation: Int[np.ndarray, "V"]  # training samples that no task trains on


@dataclasses.dataclass(frozen=True)
class Stream:
    """Tasks in order.

    Attributes:
      tasks: in the order of training.
      column_of: column of every class of the data set, -1 for classes that never come, `[K]`.
      num_left_out: training samples whose class never comes.
    """

    tasks: tuple[Task, ...]
    column_of: Int[np.ndarray, "K"]
    num_left_out: int

    def num_open(self, task: int) -> int:
        """Columns open once task number `task` has begun; -1 stands before the first."""
        seen = [c for t in self.tasks[: task + 1] for c in t.columns]
        return max(seen, default=-1) + 1

    @property
    def num_columns(self) -> int:
        """Columns open at the end."""
        return self.num_open(len(self.tasks) - 1)

    def positions(self, task: int) -> tuple[Int[np.ndarray, "C"], Int[np.ndarray, "C"]]:
        """For each column up to `num_open(task)`, the first task that has it and its place within that task: what domain-IL asks of a prediction."""
        of_task = np.zeros(self.num_open(task), int)
        place = np.zeros(self.num_open(task), int)
        for number in reversed(range(task + 1)):
            for i, column in enumerate(self.tasks[number].columns):
                of_task[column], place[column] = number, i
        return of_task, place


def parse_tasks(
    text: str, num_classes: int, *, order_seed: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Classes of each task, from `"5x2"` (five tasks of two classes) or `"0,1|5|2,3,4"` (listed).

    >>> parse_tasks("2x2", 10)
    ((0, 1), (2, 3))
    >>> parse_tasks("7,3|1", 10)
    ((7, 3), (1,))

    Args:
      text: numbers of tasks and classes, or lists; nothing between two strokes is a task without classes.
      num_classes: K, classes of the data set.
      order_seed: for `"5x2"`, shuffles the classes first, with NumPy's `RandomState` as PyCIL does (its CIFAR-100 order is 1993).
        None keeps the order of labels.

    Raises:
      ValueError: if `text` reads as neither, asks for more classes than there are, or lists are to be shuffled.
    """
    check.kind("text", text, str, "text", "write `'5x2'` or `'0,1|2,3'`")
    num_classes = check.whole("num_classes", num_classes, 1)
    if order_seed is not None:
        order_seed = check.whole("order_seed", order_seed, 0, 2**32 - 1)
    if grid := re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text):
        count, size = int(grid[1]), int(grid[2])
        if count < 1 or size < 1 or count * size > num_classes:
            raise ValueError(
                f"`tasks` {text!r} asks for {count} tasks of {size} classes, but the data set has {num_classes} classes."
            )
        order = np.arange(num_classes)
        if order_seed is not None:
            order = np.random.RandomState(order_seed).permutation(num_classes)
        rows = order[: count * size].reshape(count, size)
        return tuple(tuple(int(c) for c in row) for row in rows)
    if order_seed is not None:
        raise ValueError(
            f"`order_seed` {order_seed} shuffles classes of '5x2' tasks; listed tasks {text!r} already say their order."
        )
    try:
        return tuple(
            tuple(int(c) for c in part.split(",") if c.strip())
            for part in text.split("|")
        )
    except ValueError as error:
        raise ValueError(
            f"`tasks` must look like '5x2' or '0,1|2,3', got {text!r}."
        ) from error


def make_stream(
    train_labels: Int[np.ndarray, "N"],
    test_labels: Int[np.ndarray, "M"],
    tasks: Sequence[Sequence[int]],
    *,
    num_classes: int,
    scenario: Scenario = "class",
    repeated: Repeated = "refuse",
    num_validation: int = 0,
    seed: int = 0,
) -> Stream:
    """Cuts a data set into tasks.

    Args:
      train_labels: class of each training sample.
      test_labels: class of each test sample.
      tasks: classes of each task, in order. A task may have one class, or none.
      num_classes: K.
      scenario: `"class"`: every class has a column of its own; `"domain"`: tasks share columns by the place of a class in its task.
      repeated: what a class in several tasks means: `"refuse"`: a mistake; `"again"`: each of them trains on all its samples; `"split"`: they
        share its training samples out in equal parts, in the order of the data set. Each of them is tested on all its test samples.
      num_validation: training samples held out from all tasks: of each class its share, at least one; see `hold_out`.
      seed: decides which.

    Raises:
      ValueError: if a class does not exist, is named twice within a task, or is in several tasks where that is refused, or
        `num_validation` samples cannot be held out.
    """
    check.choice("scenario", scenario, get_args(Scenario))
    check.choice("repeated", repeated, get_args(Repeated))
    num_classes = check.whole("num_classes", num_classes, 1)
    _check(tasks, num_classes, repeated)
    column_of = np.full(num_classes, -1)
    for task in tasks:
        for place, c in enumerate(task):
            if column_of[c] < 0:
                column_of[c] = place if scenario == "domain" else column_of.max() + 1
            elif scenario == "domain" and column_of[c] != place:
                raise ValueError(
                    f"`tasks` name class {c} at two different places, so in a domain-incremental stream it has two columns: list it at the same place."
                )
    labels = np.asarray(train_labels)
    comes = np.isin(labels, [c for t in tasks for c in t])
    held = hold_out(np.where(comes, labels, -1), num_validation, seed)
    shares = _shares(np.where(held, -1, labels), tasks, repeated)
    found = tuple(
        Task(
            tuple(map(int, task)),
            tuple(int(column_of[c]) for c in task),
            share,
            np.flatnonzero(np.isin(test_labels, task)),
            np.flatnonzero(held & np.isin(labels, task)),
        )
        for task, share in zip(tasks, shares, strict=True)
    )
    return Stream(found, column_of, int((~comes).sum()))


def hold_out(
    labels: Int[np.ndarray, "N"], num_validation: int, seed: int
) -> Bool[np.ndarray, "N"]:
    """Marks `num_validation` samples, of each class in proportion to its samples but at least one; labels of -1 do not count.

    Raises:
      ValueError: if there are fewer than classes, or a class would have none left.
    """
    num_validation = check.whole("num_validation", num_validation)  # its range is below
    seed = check.whole("seed", seed, 0, 2**32 - 1)
    held = np.zeros(len(labels), bool)
    if num_validation == 0:
        return held
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    most = sizes - 1  # one is left to train on
    if not len(classes) <= num_validation <= most.sum() or min(most) < 1:
        raise ValueError(
            f"`num_validation` must be 0, or lie in {len(classes)}..{most.sum()} so that each of {len(classes)} classes has a sample to hold out "
            f"and one to train on, got {num_validation}; the smallest class has {min(sizes, default=0)}."
        )
    wanted = num_validation * sizes / sizes.sum()
    counts = np.maximum(np.floor(wanted).astype(int), 1)
    while (lacking := num_validation - counts.sum()) != 0:
        # The class that is farthest from its share gets one more, or one less.
        room = counts < most if lacking > 0 else counts > 1
        counts[
            np.where(room, np.sign(lacking) * (wanted - counts), -np.inf).argmax()
        ] += np.sign(lacking)
    # RandomState, since NumPy promises that its stream stays the same in later versions.
    random = np.random.RandomState(seed)
    for c, count in zip(classes, counts, strict=True):
        held[random.permutation(np.flatnonzero(labels == c))[:count]] = True
    return held


def _check(
    tasks: Sequence[Sequence[int]], num_classes: int, repeated: Repeated
) -> None:
    if not any(len(task) for task in tasks):
        raise ValueError(f"`tasks` name no class, got {tasks!r}.")
    seen: dict[int, int] = {}
    for number, task in enumerate(tasks):
        for c in task:
            if not 0 <= c < num_classes:
                raise ValueError(
                    f"`tasks` name class {c}, but the data set has classes 0 to {num_classes - 1}."
                )
        if len(set(task)) < len(task):
            raise ValueError(
                f"`tasks` name a class twice within task {number}: {tuple(task)}."
            )
        for c in task:
            if c in seen and repeated == "refuse":
                raise ValueError(
                    f"`tasks` name class {c} in task {seen[c]} and again in task {number}. If that is meant, say whether it comes "
                    "with all its samples each time (`repeated='again'`) or with a part of them (`'split'`)."
                )
            seen[c] = number


def _shares(
    labels: np.ndarray, tasks: Sequence[Sequence[int]], repeated: Repeated
) -> list[np.ndarray]:
    """Training samples of each task, in the order of the data set."""
    if repeated != "split":
        return [np.flatnonzero(np.isin(labels, task)) for task in tasks]
    shares: list[list[np.ndarray]] = [[] for _ in tasks]
    for c in {c for task in tasks for c in task}:
        users = [i for i, task in enumerate(tasks) if c in task]
        parts = np.array_split(np.flatnonzero(labels == c), len(users))
        for user, part in zip(users, parts, strict=True):
            shares[user].append(part)
    none = np.zeros(0, int)
    return [np.sort(np.concatenate([none, *share])) for share in shares]
