"""Leads a learner through a stream and a run folder: progress, rows of metrics, the matrix of accuracies, checkpoints.

Everything that decides a result is in the state, so a run killed at any moment and resumed ends with the same parameters and
the same rows; only the rows' times differ. Rows of `metrics.jsonl`:

| `split` | when | what |
|---|---|---|
| `train` | every `log_every` steps and at the end of an epoch | mean loss and batch accuracy |
| `task` | after a task, for each task tested | accuracy on its test samples: class-IL, task-IL, domain-IL |
| `test` | after a task | the same over all tasks seen, weighted by samples |
| `validation` | after a task, if samples are held out | the same on these |
"""

import dataclasses
import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jsnn import check, checkpoint, driver, head
from jsnn.continual import samples
from jsnn.continual.buffer import Batch
from jsnn.continual.method import Settings
from jsnn.continual.samples import Samples
from jsnn.continual.spiking import BatchNormPolicy
from jsnn.continual.stream import Stream
from jsnn.continual.training import MAX_STEPS, Learner, State
from jsnn.data import Split
from jsnn.runs import Run
from jsnn.training import TrainState


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long each task is trained, and when a run does what.

    Raises:
      ValueError: if a number is out of range.
    """

    epochs_per_task: int
    log_every: int = 50
    """Steps averaged into one row of training metrics."""
    checkpoint_seconds: float = 60.0
    """A checkpoint is written at the next row once this many seconds have passed, and at the end of each task."""
    evaluate_unseen: bool = False
    """Also test tasks that are still to come, for forward transfer."""

    def __post_init__(self):
        for name in ("epochs_per_task", "log_every"):
            object.__setattr__(self, name, check.whole(name, getattr(self, name), 1))
        check.number("checkpoint_seconds", self.checkpoint_seconds, "[0, inf]")


class Result(NamedTuple):
    """The end of a stream. Matrices are tasks trained by tasks tested, NaN where not measured."""

    state: State
    class_il: Float[np.ndarray, "S S"]
    task_il: Float[np.ndarray, "S S"]
    domain_il: Float[np.ndarray, "S S"]
    counts: Int[np.ndarray, "S"]  # test samples of each task
    labels: Int[np.ndarray, "E"]  # test samples of all tasks, task by task: their class
    predictions: Int[np.ndarray, "E"]  # and the class predicted, class-IL
    validation: (
        float  # class-IL accuracy on all samples held out; NaN if there are none
    )
    seconds: float
    samples_per_second: float  # training alone


class _Jitted(NamedTuple):
    begin: Any
    pool: Any
    run: Any
    end: Any
    predict: Any


class _Course(NamedTuple):
    """What stays the same from task to task."""

    run: Run
    learner: Learner
    jitted: _Jitted
    settings: Settings
    stream: Stream
    data: Samples
    schedule: Schedule
    policy: BatchNormPolicy
    clock: Any
    progress: bool


def jit(learner: Learner) -> _Jitted:
    """The learner's functions, compiled once for all tasks (twice where batch norm differs in the first)."""
    return _Jitted(
        jax.jit(learner.begin, static_argnums=4),
        jax.jit(learner.pool),
        jax.jit(learner.run, static_argnums=4, donate_argnums=0),
        jax.jit(learner.end, static_argnums=3),
        jax.jit(learner.predict, static_argnums=5),
    )


def drive_stream(
    run: Run,
    learner: Learner,
    key: jax.Array,
    stream: Stream,
    train: Split,
    test: Split,
    schedule: Schedule,
    *,
    settings: Settings | None = None,
    capacity: int | None = None,
    batch_norm: BatchNormPolicy = "train",
    progress: bool = True,
) -> Result:
    """Trains on all tasks from `key`, or goes on from the newest checkpoint.

    Args:
      run: where rows and checkpoints go.
      learner: the pure functions.
      key: decides initial weights and every other draw.
      stream: the tasks.
      train: the samples that `stream` indexes.
      test: likewise.
      schedule: how long, and when to write rows and checkpoints.
      settings: weights of the method's parts; its defaults if None.
      capacity: columns of the head at the start, doubled when classes outnumber them; None: as many as the stream needs.
      batch_norm: as given to the learner.
      progress: show a bar for each task.

    Raises:
      FloatingPointError: if the loss or a parameter becomes NaN or infinite. Rows up to there and the last checkpoint stay.
    """
    size = stream.num_columns if capacity is None else capacity
    state, size = _start(run, learner, key, stream, size)
    run.rewind(int(state.step))
    course = _Course(
        run,
        learner,
        jit(learner),
        learner.settings if settings is None else settings,
        stream,
        samples.put(stream, train, test),
        schedule,
        batch_norm,
        driver.Clock(run.rows()),
        progress,
    )
    last, seen = len(stream.tasks) - 1, None
    if learner.method.data == "all":
        state = state._replace(task=jnp.maximum(state.task, last))
    while int(state.task) <= last:
        needed = head.room_for(stream.num_open(int(state.task)), size)
        if needed > size:
            larger = _make(learner, key, state.valid.size)(needed)
            state, size = head.grow(state, larger), needed
        state = _train_task(course, state)
        state, seen = _close_task(course, state)
    if seen is None:  # a finished run, resumed
        seen = [_test(course, state, last, i)[0] for i in range(last + 1)]
    return _result(course, state, seen)


def _start(
    run: Run, learner: Learner, key: jax.Array, stream: Stream, capacity: int
) -> tuple[State, int]:
    """A fresh state, or the newest checkpoint's with the capacity it had by then."""
    num_samples = max(1, *(len(task.train) for task in stream.tasks))
    make = _make(learner, key, num_samples)
    if run.resume:
        sizes = [capacity]
        while sizes[0] < stream.num_columns:
            sizes.insert(0, 2 * sizes[0])
        if found := head.restore(run.checkpoints, make, sizes):
            return found
    return make(capacity), capacity


def _make(learner: Learner, key: jax.Array, num_samples: int) -> Any:
    """`capacity -> State`, compiled: op by op it takes long."""
    init = jax.jit(learner.init, static_argnums=(1, 2))
    return lambda capacity: init(key, capacity, num_samples)


_of_task = jax.jit(samples.of_task)
_DATA = {"test": jax.jit(samples.tested), "validation": jax.jit(samples.validated)}


def _train_task(course: _Course, state: State) -> State:
    """All epochs of a task, or what is left of them."""
    from tqdm import tqdm

    task, learner = int(state.task), course.learner
    data, seen = _of_task(course.data, task), samples.seen(course.data, task)
    later = learner.later(task, course.policy)
    if int(state.task_step) == 0:
        opened = jnp.int32(course.stream.num_open(task))
        state = course.jitted.begin(state, course.settings, data, opened, later)
    pool = course.jitted.pool(state, data, seen)
    per_epoch = learner.steps_per_epoch(int(pool.valid.sum()))
    frozen = learner.method.freeze_after
    epochs = course.schedule.epochs_per_task
    total = 0 if frozen is not None and task >= frozen else epochs * per_epoch
    saved = time.monotonic()
    if int(state.task_step) < total:  # compiles, and takes no step
        state, _ = course.jitted.run(state, course.settings, pool, jnp.int32(0), later)
    name = f"task {task + 1}/{len(course.stream.tasks)}"
    options = {"unit": "step", "desc": name, "disable": not course.progress}
    with tqdm(total=total, initial=int(state.task_step), **options) as bar:
        while (done := int(state.task_step)) < total:
            every = course.schedule.log_every
            stop = min((done // per_epoch + 1) * per_epoch, (done // every + 1) * every)
            state, row = _advance(
                course, state, pool, min(stop, total) - done, later, bar
            )
            row |= {"split": "train", "step": int(state.step), "task": task}
            row["epoch"] = task * epochs + int(state.task_step) / per_epoch
            course.run.log(row | course.clock.read())
            view = TrainState(state.model, (), state.key, state.step)
            driver.check_finite(row, view, course.run)
            due = time.monotonic() - saved >= course.schedule.checkpoint_seconds
            if due and int(state.task_step) < total:
                checkpoint.save(course.run.checkpoints, int(state.step), state)
                saved = time.monotonic()
    return state


def _advance(
    course, state, pool, num_steps, later, bar
) -> tuple[State, dict[str, Any]]:
    """Takes `num_steps` in stretches that keep the bar moving; returns their mean loss and accuracy."""
    losses, accuracies, left = [], [], num_steps
    while left:
        length, start = min(left, course.clock.stretch(), MAX_STEPS), time.monotonic()
        state, found = course.jitted.run(
            state, course.settings, pool, jnp.int32(length), later
        )
        losses.append(np.asarray(found.loss)[:length])  # waits for the device
        accuracies.append(np.asarray(found.accuracy)[:length])
        course.clock.trained(length, time.monotonic() - start)
        left -= length
        bar.update(length)
    # Means over steps, whatever stretches they came in: a resumed run writes the same rows.
    loss = float(np.concatenate(losses).mean())
    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    return state, {"loss": loss, "accuracy": float(np.concatenate(accuracies).mean())}


def _close_task(course: _Course, state: State) -> tuple[State, list[np.ndarray]]:
    """Ends a task, tests what is to be tested, writes rows and a checkpoint."""
    task, stream = int(state.task), course.stream
    data = _of_task(course.data, task)
    later = course.learner.later(task, course.policy)
    state = course.jitted.end(state, course.settings, data, later)
    last = len(stream.tasks) - 1 if course.schedule.evaluate_unseen else task
    found = [_test(course, state, task, i) for i in range(last + 1)]
    step = {"step": int(state.step), "task": task}
    epoch = (task + 1) * course.schedule.epochs_per_task
    measures = [measure for _, measure in found]
    for i, measure in enumerate(measures):
        row = {"split": "task", "epoch": epoch, "on_task": i} | step
        course.run.log(row | measure | course.clock.read())
    overall = _overall(measures[: task + 1])
    rows = {"test": overall}
    if any(len(t.validation) for t in stream.tasks):
        held = [_test(course, state, task, i, "validation") for i in range(task + 1)]
        rows["validation"] = _overall([measure for _, measure in held])
    for split, found_here in rows.items():
        row = {"split": split, "epoch": epoch} | step
        course.run.log(row | found_here | course.clock.read())
    if course.progress:
        shares = "  ".join(
            f"{100 * m['accuracy']:5.1f}" for m in measures if m["count"]
        )
        print(
            f"after task {task + 1}: {100 * overall.get('accuracy', np.nan):6.2f} %  (by task {shares})",
            flush=True,
        )
    checkpoint.save(course.run.checkpoints, int(state.step), state)
    return state, [predictions for predictions, _ in found]


def _overall(measures: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracies over several tasks, weighted by their samples."""
    measures = [m for m in measures if m["count"]]
    names = ("accuracy", "task_il_accuracy", "domain_il_accuracy") if measures else ()
    weights = [m["count"] for m in measures]
    return {
        name: float(np.average([m[name] for m in measures], weights=weights))
        for name in names
    }


def _test(
    course: _Course,
    state: State,
    task: int,
    on_task: int,
    split: Literal["test", "validation"] = "test",
) -> tuple[np.ndarray, dict[str, Any]]:
    """Predicted columns of a task's samples, and how many are right."""
    stream, data = course.stream, _DATA[split](course.data, on_task)
    count = len(getattr(stream.tasks[on_task], split))
    columns = samples.columns_of(stream, state.memory.buffer.num_seen.size)[on_task]
    opened = stream.num_open(max(task, on_task))
    later = course.learner.later(task, course.policy)
    found = course.jitted.predict(
        state, course.settings, data, columns, jnp.int32(opened), later
    )
    class_il, task_il = (np.asarray(p)[:count] for p in found)
    labels = np.asarray(data.labels)[:count]
    _, place = stream.positions(max(task, on_task))
    right = {
        "accuracy": class_il == labels,
        "task_il_accuracy": task_il == labels,
        "domain_il_accuracy": place[class_il] == place[labels],
    }
    means = {k: float(v.mean()) if count else float("nan") for k, v in right.items()}
    return class_il, means | {"count": count}


def matrices(rows: list[dict[str, Any]], num_tasks: int) -> dict[str, np.ndarray]:
    """R for class-IL, task-IL and domain-IL from the rows of a run."""
    names = ("accuracy", "task_il_accuracy", "domain_il_accuracy")
    found = {name: np.full((num_tasks, num_tasks), np.nan) for name in names}
    for row in rows:
        if row["split"] == "task":
            for name, matrix in found.items():
                value = row[name]
                matrix[row["task"], row["on_task"]] = np.nan if value is None else value
    return found


def _result(course: _Course, state: State, seen: list[np.ndarray]) -> Result:
    stream, rows = course.stream, course.run.rows()
    r = matrices(rows, len(stream.tasks))
    class_of = np.full(stream.num_columns, -1)
    known = stream.column_of >= 0
    class_of[stream.column_of[known]] = np.flatnonzero(known)
    labels = [np.asarray(course.data.test_columns)[t.test] for t in stream.tasks]
    held = [row for row in rows if row["split"] == "validation"]
    seconds, train_seconds = course.clock.read().values()
    steps = int(state.step) - sum(row["split"] == "test" for row in rows)
    speed = steps * course.learner.batch_size / train_seconds if train_seconds else 0.0
    return Result(
        state,
        r["accuracy"],
        r["task_il_accuracy"],
        r["domain_il_accuracy"],
        np.array([len(t.test) for t in stream.tasks]),
        class_of[np.concatenate(labels)],
        class_of[np.concatenate(seen[: len(stream.tasks)])],
        held[-1]["accuracy"] if held else float("nan"),
        seconds,
        speed,
    )


def untrained(
    learner: Learner, key: jax.Array, stream: Stream, test: Split
) -> Float[np.ndarray, "S"]:
    """Task-IL accuracy of the network as it starts, on each task: what forward transfer is measured against."""
    state = _make(learner, key, 1)(stream.num_columns)
    predict = jax.jit(learner.predict, static_argnums=5)
    found = []
    for task in stream.tasks:
        labels = stream.column_of[test.labels[task.test]]
        columns = np.isin(np.arange(stream.num_columns), task.columns)
        images, valid = test.images[task.test], np.ones(len(labels), bool)
        if not len(labels):
            found.append(np.nan)
            continue
        data = Batch(
            jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.asarray(valid)
        )
        answer = predict(
            state, learner.settings, data, columns, jnp.int32(stream.num_columns), False
        )
        found.append(float((np.asarray(answer.task_il) == labels).mean()))
    return np.array(found)
