"""Supervised training: a network, a loss and an optimiser, with surrogate gradients or EventProp alike.

Axes: N samples of a data set, B batch, T time, C classes, S steps of an epoch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jsnn import check
from jsnn import mesh as meshes
from jsnn.model import Model
from jsnn.train.program import Program, all_finite
from jsnn.train.task import Task, check_classes
from jsnn.train.trainer import Phase, Trainer, Window, start, train_fn


class Samples(NamedTuple):
    """Inputs `[N, ...]` and labels `[N]`."""

    inputs: Any
    labels: Any


class Data(NamedTuple):
    """What supervised training learns from, and the samples held out: for validation, or the test set."""

    train: Samples
    held: Samples


class Own(NamedTuple):
    """What supervised training changes."""

    model: Model
    opt_state: Any


class Evaluation(NamedTuple):
    """One entry per sample, none dropped."""

    loss: Float[Array, "N"]
    label: Int[Array, "N"]  # the class predicted
    scores: Float[Array, "N C"]
    hit: Bool[Array, "N"]  # whether it is the right one


def prepare(dataset: Any) -> Data:
    """The data set's training samples, and its validation samples or else its test samples."""
    held = dataset.test if dataset.validation is None else dataset.validation
    return Data(Samples(*dataset.train), Samples(*held))


def supervised(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    epochs: int,
    remainder: Literal["drop", "keep"] = "drop",
    eval_batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Trainer:
    """Trains a task by gradient descent, each epoch on a fresh shuffle of all samples.

    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 3, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(1e-3), batch_size=32, epochs=5)
    >>> trainer.phases[0].epochs
    5

    Args:
      task: from `classifier`, or one's own.
      optimizer: any Optax transformation; schedules count optimiser steps.
      batch_size: B. Each epoch visits N // B batches.
      epochs: passes over the training samples.
      remainder: what becomes of the N % B samples left: `"drop"` leaves them out of this epoch, `"keep"` makes a smaller last
        batch of them.
      eval_batch_size: samples evaluated at a time; `batch_size` if None.
      mesh: devices to cut each batch over; see `jsnn.mesh`.

    Returns:
      A trainer for `fit` or `train_fn`.

    Raises:
      ValueError: if a number is out of range.
    """
    check.kind("task", task, Task, "a task", "make one with `jsnn.classifier(network)`")
    remedy = "write `optax.adam(1e-3)`"
    check.kind(
        "optimizer",
        optimizer,
        optax.GradientTransformation,
        "an Optax optimiser",
        remedy,
    )
    epochs = check.whole("epochs", epochs, 1)
    batch_size = check.whole("batch_size", batch_size, 1)
    eval_size = batch_size if eval_batch_size is None else eval_batch_size
    eval_size = check.whole("eval_batch_size", eval_size, 1)
    check.choice("remainder", remainder, ("drop", "keep"))
    descent = _Descent(task, optimizer, batch_size, remainder == "keep", mesh)

    def prepared(dataset):
        check_classes(task, dataset)
        return prepare(dataset)

    def inspect(model, data):
        from jsnn import activity

        activity.warn_of_silence(task, model, data.held.inputs)

    def evaluate(state, data, program):
        return state, _evaluate(task, state.own.model, data.held, eval_size, mesh)

    return Trainer(
        phases=(Phase("train", epochs=epochs),),
        init=descent.init,
        pool=descent.pool,
        steps_per_epoch=descent.steps_per_epoch,
        run=descent.run,
        evaluate=evaluate,
        model=lambda state: state.own.model,
        predict=lambda model, inputs: task.prediction(task.outputs(model, inputs)),
        accuracy=lambda found: found.hit.mean(),
        parameters=lambda state: state.own.model.params,
        order=descent.order if remainder == "drop" else None,
        prepare=prepared,
        report=_report,
        samples=lambda state: int(state.step) * batch_size,
        inspect=task.awake and inspect,
        mesh=mesh,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Descent:
    """Steps of gradient descent over shuffled batches."""

    task: Task
    optimizer: optax.GradientTransformation
    batch_size: int
    keeps_remainder: bool
    mesh: Mesh | None

    def init(self, key):
        model = self.task.init(key)
        return Own(model, self.optimizer.init(model.params))

    def pool(self, state, data, program):
        count = len(data.train.labels)
        if self.batch_size > count:
            raise ValueError(
                f"`batch_size` must lie between 1 and the {count} training samples, got {self.batch_size}."
            )
        return data.train

    def steps_per_epoch(self, samples):
        steps, left = divmod(len(samples.labels), self.batch_size)
        return steps + (self.keeps_remainder and left > 0)

    def step(self, state, samples):
        """One update from one batch."""
        samples = meshes.shard_batch(samples, self.mesh)
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        model = state.own.model

        def loss_fn(params):
            return self.task.loss(Model(params, model.rest), key, *samples)

        with meshes.scope(self.mesh):
            (loss, (rest, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                model.params
            )
            updates, opt_state = self.optimizer.update(
                grads, state.own.opt_state, model.params
            )
            params = optax.apply_updates(model.params, updates)
        own = Own(Model(params, rest), opt_state)
        state = state._replace(
            own=own, step=state.step + 1, phase_step=state.phase_step + 1
        )
        return state, {"loss": loss, "accuracy": accuracy}

    def permutation(self, state, samples):
        epoch = state.phase_step // self.steps_per_epoch(samples)
        key = jax.random.fold_in(jax.random.fold_in(state.key, 0), epoch)
        return jax.random.permutation(key, len(samples.labels))

    def order(self, state, samples):
        most = self.steps_per_epoch(samples) * self.batch_size
        return self.permutation(state, samples)[:most]

    def run(self, state, samples, num_steps, program):
        if isinstance(samples, Window):
            follow, most = self.of_window(samples)
        else:
            follow, most = self.of_pool(state, samples)

        def body(i, carry):
            state, metrics = carry
            state, new = follow(state)
            return state, jax.tree.map(lambda m, x: m.at[i].set(x), metrics, new)

        empty = {name: jnp.zeros(most, jnp.float32) for name in ("loss", "accuracy")}
        return jax.lax.fori_loop(0, num_steps, body, (state, empty))

    def of_window(self, window):
        """The step whose batch comes next in a window, and the most that it has."""
        size = self.batch_size

        def follow(state):
            first = (state.phase_step % window.per_epoch - window.first) * size
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), window.samples
            )
            return self.step(state, batch)

        return follow, len(window.samples.labels) // size

    def of_pool(self, state, samples):
        """The step whose batch comes next in this epoch's order, and the most that it has."""
        size, per_epoch = self.batch_size, self.steps_per_epoch(samples)
        left = len(samples.labels) % size if self.keeps_remainder else 0
        order = self.permutation(state, samples)

        def take(state, batch):
            return self.step(state, jax.tree.map(lambda x: x[batch], samples))

        def whole(state):
            first = state.phase_step % per_epoch * size
            return take(state, jax.lax.dynamic_slice_in_dim(order, first, size))

        def follow(state):
            if not left:
                return whole(state)
            last = state.phase_step % per_epoch == per_epoch - 1
            return jax.lax.cond(last, lambda s: take(s, order[-left:]), whole, state)

        return follow, per_epoch


def _evaluate(
    task: Task, model: Model, samples: Samples, batch_size: int, mesh: Mesh | None
) -> Evaluation:
    """All samples, in batches. The last batch is filled up with copies of the last sample, whose results are cut off again."""
    count = len(samples.labels)
    size = min(batch_size, count)
    index = jnp.minimum(jnp.arange(-(-count // size) * size), count - 1)

    def look(rows):
        chosen = jax.tree.map(lambda x: x[rows], samples)
        inputs, labels = meshes.shard_batch(chosen, mesh)
        with meshes.scope(mesh):
            value = task.outputs(model, inputs)
            label, scores = task.prediction(value)
            return Evaluation(
                task.losses(value, labels), label, scores, label == labels
            )

    results = jax.lax.map(look, index.reshape(-1, size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], results)


def _report(found: Evaluation) -> list[dict[str, Any]]:
    loss = float(jnp.mean(found.loss))
    return [{"loss": loss, "accuracy": float(np.mean(found.hit))}]


def program(
    make: Callable[[dict[str, Array]], Trainer], data: Data, *, split: str = "test"
) -> Program:
    """A supervised training for `jsnn.train.sweep`.

    A member's metrics are accuracy and loss of the held-out samples after the last epoch, and the mean training loss of that epoch.

    Args:
      make: the trainer for a member's values, which may be traced.
      data: all members'.
      split: what the held-out samples are called in the metrics' names.
    """

    def train(key, values, data):
        trained = train_fn(make(values))(key, data)
        return {
            f"{split}_accuracy": trained.found.hit.mean(),
            f"{split}_loss": trained.found.loss.mean(),
            "train_loss": trained.metrics[-1]["loss"].mean(),
            "finite": all_finite(trained.state.own.model.params),
        }

    return Program(train, data, lambda key, values: start(make(values), key))
