"""A stream of tasks as a trainer: a phase a task, tested on all tasks seen so far once it has ended.

`state.step` counts optimiser steps, and one more for the end of each task. Rows of an evaluation:

| `split` | what |
|---|---|
| `task` | for each task tested, accuracy on its test samples: class-IL, task-IL, domain-IL |
| `test` | the same over all tasks seen, weighted by samples |
| `validation` | the same on samples held out, if there are any |

Of several seeds they are means, and `accuracy_by_seed` and its like have one number a seed.

Axes: S tasks; E test samples of a task, padded; C columns of the head; B batch of a prediction; K classes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsnn import check, head
from jsnn.continual import report, samples, training
from jsnn.continual.buffer import Batch
from jsnn.continual.report import Evaluations, Found
from jsnn.continual.samples import Samples
from jsnn.continual.stream import Stream
from jsnn.continual.training import Learner, Own, Predictor
from jsnn.train import trainer as trainers
from jsnn.train.trainer import Metrics, Phase, Place, Prediction, Trainer, TrainState


class _Course(NamedTuple):
    """What all functions of a trainer share."""

    learner: Learner
    stream: Stream
    epochs_per_task: int
    first: int  # the task of the first phase: the last one, if all classes come at once
    evaluate_unseen: bool


def trainer(
    learner: Learner,
    stream: Stream,
    *,
    epochs_per_task: int,
    capacity: int | None = None,
    evaluate_unseen: bool = False,
) -> Trainer:
    """Trains a learner on the tasks of a stream, one after another.

    Args:
      learner: network, method and optimiser.
      stream: the tasks.
      epochs_per_task: passes over a task's samples.
      capacity: columns of the head at the start, doubled when classes outnumber them; None: as many as the stream needs.
      evaluate_unseen: also test tasks that are still to come, for forward transfer.

    Raises:
      ValueError: if a number is out of range.
    """
    epochs_per_task = check.whole("epochs_per_task", epochs_per_task, 1)
    size = stream.num_columns if capacity is None else capacity
    size = check.whole("capacity", size, 1)
    first = len(stream.tasks) - 1 if learner.method.data == "all" else 0
    course = _Course(learner, stream, epochs_per_task, first, evaluate_unseen)

    def of(fn: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(fn, course)

    return Trainer(
        phases=_phases(course),
        init=lambda key: _init(course, key, size),
        begin=of(_begin),
        pool=of(_pool),
        steps_per_epoch=functools.partial(training.steps_per_epoch, learner),
        run=of(_run),
        end=of(_end),
        evaluate=of(_evaluate),
        model=of(_model),
        predict=of(_predict),
        parameters=lambda state: state.own.model.params,
        resize=of(_resize),
        prepare=lambda dataset: samples.put(stream, dataset.train, dataset.test),
        where=of(_where),
        report=lambda found: report.rows(stream, found),
        samples=of(_num_shown),
        mesh=learner.mesh,
    )


def untrained(
    trainer: Trainer, stream: Stream, data: Samples, key: Array
) -> Float[np.ndarray, "S"]:
    """Task-IL accuracy on each task of the network as it starts: what forward transfer is measured against.

    Args:
      trainer: made with `evaluate_unseen`.
      stream: its tasks.
      data: their samples.
      key: that of the training.
    """
    start = jax.jit(lambda key: trainers.start(trainer, key))(key)
    state = trainers.grown(trainer, start)[-1]
    look = jax.jit(trainer.evaluate, static_argnums=2)
    found = jax.tree.map(np.asarray, look(state, data, trainer.phases[0].program)[1])
    task = int(found.test.task)
    each = [
        report.measures(stream, found.test, number, task)
        for number in range(len(stream.tasks))
    ]
    return np.array([np.nan if m is None else m["task_il_accuracy"] for m in each])


def _phases(course: _Course) -> tuple[Phase, ...]:
    count, frozen = len(course.stream.tasks), course.learner.method.freeze_after

    def phase(task: int) -> Phase:
        held = frozen is not None and task >= frozen
        epochs = 0 if held else course.epochs_per_task
        name = f"task {task + 1}/{count}"
        return Phase(name, course.learner.later(task), epochs, "end")

    return tuple(phase(task) for task in range(course.first, count))


def _task(course: _Course, state: TrainState) -> Array:
    return state.phase + course.first


def _init(course: _Course, key: Array, capacity: int) -> Own:
    largest = max(1, *(len(task.train) for task in course.stream.tasks))
    return training.init(course.learner, key, capacity, largest)


def _begin(
    course: _Course, state: TrainState, data: Samples, later: bool
) -> TrainState:
    task = _task(course, state)
    own, num_open = samples.of_task(data, task), data.num_open[task]
    return training.begin(course.learner, state, task, own, num_open, later)


def _pool(course: _Course, state: TrainState, data: Samples, later: bool) -> Batch:
    task = _task(course, state)
    own, seen = samples.of_task(data, task), samples.seen(data, task)
    return training.pool(course.learner, state.own, own, seen)


def _run(
    course: _Course, state: TrainState, pool: Batch, num_steps: Array, later: bool
) -> tuple[TrainState, Metrics]:
    task = _task(course, state)
    return training.run(course.learner, state, task, pool, num_steps, later)


def _end(course: _Course, state: TrainState, data: Samples, later: bool) -> TrainState:
    task = _task(course, state)
    own = samples.of_task(data, task)
    return training.end(course.learner, state, task, own, later)


def _evaluate(
    course: _Course, state: TrainState, data: Samples, later: bool
) -> tuple[TrainState, Evaluations]:
    test = _look(course, state, data, samples.tested, later)
    held = None
    if any(len(task.validation) for task in course.stream.tasks):
        held = _look(course, state, data, samples.validated, later)
    return state, Evaluations(test, held)


def _look(
    course: _Course,
    state: TrainState,
    data: Samples,
    of: Callable[[Samples, Array], Batch],
    later: bool,
) -> Found:
    """Predictions on the samples `of` each task seen so far, or of all."""
    task, count = _task(course, state), len(course.stream.tasks)
    size = state.own.memory.buffer.num_seen.size
    of_task = jnp.asarray(samples.columns_of(course.stream, size))
    model = training.predictor(course.learner, state.own, task)
    last = count - 1 if course.evaluate_unseen else task

    def one(number):
        batch = of(data, number)
        scope = model.scope._replace(num_open=data.num_open[jnp.maximum(task, number)])
        here = model._replace(scope=scope)
        args = course.learner, here, batch, of_task[number], later
        return *training.columns(*args), batch.labels

    tasks = jnp.arange(count, dtype=jnp.int32)
    shapes = jax.eval_shape(one, tasks[0])
    none = jax.tree.map(lambda x: jnp.full(x.shape, -1, x.dtype), shapes)
    found = jax.lax.map(
        lambda i: jax.lax.cond(i <= last, one, lambda _: none, i), tasks
    )
    class_il, task_il, labels = found
    return Found(class_il, task_il, labels, task)


def _model(course: _Course, state: TrainState) -> Predictor:
    """After the last phase that has ended."""
    task = course.first + jnp.maximum(state.phase - 1, 0)
    return training.predictor(course.learner, state.own, task)


def _predict(course: _Course, model: Predictor, inputs: Array) -> Prediction:
    scores = training.scores(course.learner, model, inputs)
    return report.by_class(course.stream, scores)


def _resize(course: _Course, state: TrainState, number: int) -> TrainState:
    columns = state.own.memory.buffer.num_seen.shape[-1]
    needed = head.room_for(course.stream.num_open(number + course.first), columns)
    if needed == columns:
        return state
    make = jax.jit(lambda key: trainers.strongly_typed(_init(course, key, needed)))
    return state._replace(own=head.grow(state.own, make(state.own.first)))


def _where(course: _Course, place: Place, pool: Any, per_epoch: int) -> dict[str, Any]:
    task = min(place.phase + course.first, len(course.stream.tasks) - 1)
    done = place.phase_step / per_epoch if per_epoch else course.epochs_per_task
    return {"task": task, "epoch": task * course.epochs_per_task + done}


def _num_shown(course: _Course, state: TrainState) -> int:
    """Samples in optimiser steps alone."""
    return (int(state.step) - int(state.phase)) * course.learner.batch_size
