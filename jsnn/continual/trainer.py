"""A stream of tasks as a trainer: a phase a task, tested on all tasks seen so far once it has ended.

`state.step` counts optimiser steps, and one more for the end of each task. Rows of an evaluation:

| `split` | what |
|---|---|
| `task` | for each task tested, accuracy on its test samples: class-IL, task-IL, domain-IL |
| `test` | the same over all tasks seen, weighted by samples |
| `validation` | the same on samples held out, if there are any |

Axes: S tasks; E test samples of a task, padded; C columns of the head; B batch of a prediction; K classes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jsnn import check, head, layers
from jsnn.continual import report, samples
from jsnn.continual.method import Memory, Scope, Settings
from jsnn.continual.report import Evaluations, Found
from jsnn.continual.samples import Samples
from jsnn.continual.spiking import BatchNormPolicy
from jsnn.continual.stream import Stream
from jsnn.continual.training import Learner, State
from jsnn.train.trainer import Phase, Place, Prediction, Trainer, TrainState


class Own(NamedTuple):
    """What training changes, and the key that a head which grows draws its columns from."""

    model: layers.Model
    opt_state: Any
    memory: Memory
    num_old: Int[Array, ""]  # columns open before this task
    num_open: Int[Array, ""]
    valid: Bool[Array, "N"]  # the task's samples that its method trains on
    first: Array


class Predictor(NamedTuple):
    """What predictions need."""

    model: layers.Model
    memory: Memory
    scope: Scope


def _check_settings(settings: Settings) -> None:
    """Weights of losses are not negative, temperatures positive, decays and shrinkages fractions; all finite."""
    ranges = {"temperature": "(0, inf)", "decay": "[0, 1]", "shrinkage": "[0, 1]"}
    for part, values in settings.items():
        for name, value in values.items():
            check.number(f"{part}.{name}", value, ranges.get(name, "[0, inf)"))


def trainer(
    learner: Learner,
    stream: Stream,
    *,
    epochs_per_task: int,
    settings: Settings | None = None,
    capacity: int | None = None,
    batch_norm: BatchNormPolicy = "train",
    evaluate_unseen: bool = False,
) -> Trainer:
    """Trains a learner on the tasks of a stream, one after another.

    Args:
      learner: network, method and optimiser.
      stream: the tasks.
      epochs_per_task: passes over a task's samples.
      settings: weights of the method's parts, which may be traced in `train_fn`; its defaults if None.
      capacity: columns of the head at the start, doubled when classes outnumber them; None: as many as the stream needs.
      batch_norm: as given to the learner.
      evaluate_unseen: also test tasks that are still to come, for forward transfer.
    """
    epochs_per_task = check.whole("epochs_per_task", epochs_per_task, 1)
    settings = learner.settings if settings is None else settings
    _check_settings(settings)
    size = stream.num_columns if capacity is None else capacity
    count, frozen = len(stream.tasks), learner.method.freeze_after
    skipped = count - 1 if learner.method.data == "all" else 0  # all classes at once
    num_samples = max(1, *(len(task.train) for task in stream.tasks))
    has_validation = any(len(task.validation) for task in stream.tasks)

    def phase(task: int) -> Phase:
        held = frozen is not None and task >= frozen
        name = f"task {task + 1}/{count}"
        later = learner.later(task, batch_norm)
        return Phase(name, later, 0 if held else epochs_per_task, "end")

    def own_of(key: Array, columns: int) -> Own:
        start = learner.start(key, columns, num_samples)
        kept = {name: getattr(start, name) for name in Own._fields[:-1]}
        return Own(**kept, first=key)

    def opened(state: TrainState) -> State:
        """The state as the learner takes it."""
        task = state.phase + skipped
        return State(
            **{name: getattr(state.own, name) for name in Own._fields[:-1]},
            key=state.key,
            step=state.step,
            task=task,
            task_step=state.phase_step,
        )

    def closed(state: TrainState, new: State) -> TrainState:
        """The way back."""
        own = state.own._replace(
            **{name: getattr(new, name) for name in Own._fields[:-1]}
        )
        return state._replace(own=own, step=new.step, phase_step=new.task_step)

    def begin(state: TrainState, data: Samples, later: bool) -> TrainState:
        old = opened(state)
        batch, num_open = samples.of_task(data, old.task), data.num_open[old.task]
        return closed(state, learner.begin(old, settings, batch, num_open, later))

    def pool(state: TrainState, data: Samples, later: bool):
        old = opened(state)
        seen = samples.seen(data, old.task)
        return learner.pool(old, samples.of_task(data, old.task), seen)

    def run(state: TrainState, pool: Any, num_steps: Any, later: bool):
        new, found = learner.run(opened(state), settings, pool, num_steps, later)
        return closed(state, new), found._asdict()

    def end(state: TrainState, data: Samples, later: bool) -> TrainState:
        old = opened(state)
        batch = samples.of_task(data, old.task)
        new = learner.end(old, settings, batch, later)
        return closed(state, new)._replace(phase_step=state.phase_step)

    def look(state: TrainState, data: Samples, later: bool, of) -> Found:
        task = state.phase + skipped
        # As after `end`, which counts the task.
        old = opened(state)._replace(task=task + 1)
        columns = jnp.asarray(
            samples.columns_of(stream, state.own.memory.buffer.num_seen.size)
        )
        tasks = jnp.arange(count, dtype=jnp.int32)
        last = count - 1 if evaluate_unseen else task

        def one(number):
            batch = of(data, number)
            num_open = data.num_open[jnp.maximum(task, number)]
            args = old, settings, batch, columns[number], num_open, later
            return (*learner.predict(*args), batch.labels)

        shapes = jax.eval_shape(one, tasks[0])
        none = jax.tree.map(lambda x: jnp.full(x.shape, -1, x.dtype), shapes)
        class_il, task_il, labels = jax.lax.map(
            lambda i: jax.lax.cond(i <= last, one, lambda _: none, i), tasks
        )
        return Found(class_il, task_il, labels, task)

    def evaluate(state: TrainState, data: Samples, later: bool):
        held = look(state, data, later, samples.validated) if has_validation else None
        return state, Evaluations(look(state, data, later, samples.tested), held)

    def model(state: TrainState) -> Predictor:
        own = state.own
        task = jnp.maximum(state.phase - 1, 0) + skipped
        return Predictor(own.model, own.memory, Scope(task, own.num_old, own.num_open))

    def predict(model: Predictor, images: Array) -> Prediction:
        found = learner.scores(model.model, model.memory, model.scope, settings, images)
        label = jnp.asarray(report.classes_of(stream))[found.argmax(1)]
        return Prediction(label, found)

    def resize(state: TrainState, number: int) -> TrainState:
        columns = state.own.memory.buffer.num_seen.shape[-1]
        needed = head.room_for(stream.num_open(number + skipped), columns)
        if needed == columns:
            return state
        larger = jax.jit(own_of, static_argnums=1)(state.own.first, needed)
        return state._replace(own=head.grow(state.own, larger))

    def where(place: Place, pool: Any, per_epoch: int) -> dict[str, Any]:
        task = min(place.phase + skipped, count - 1)
        done = place.phase_step / per_epoch if per_epoch else epochs_per_task
        return {"task": task, "epoch": task * epochs_per_task + done}

    return Trainer(
        phases=tuple(phase(task) for task in range(skipped, count)),
        init=lambda key: own_of(key, size),
        pool=pool,
        steps_per_epoch=lambda pool: (
            -(-pool.valid.sum(dtype=jnp.int32) // learner.batch_size)
        ),
        run=run,
        evaluate=evaluate,
        model=model,
        predict=predict,
        begin=begin,
        end=end,
        parameters=lambda state: state.own.model.params,
        resize=resize,
        prepare=lambda dataset: samples.put(stream, dataset.train, dataset.test),
        where=where,
        report=lambda found: report.rows(stream, found),
        samples=lambda state: (int(state.step) - int(state.phase)) * learner.batch_size,
        mesh=learner.mesh,
    )
