"""Supervised training: a network, a loss and an optimiser, with surrogate gradients or EventProp alike.

Axes: N samples of a data set, B batch, T time, C classes, S steps of an epoch.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jsnn import check, encoders, losses, readout
from jsnn import mesh as meshes
from jsnn.model import Model, Network
from jsnn.train.program import Program
from jsnn.train.trainer import Phase, Prediction, Trainer, Window, start, train_fn


class Task(NamedTuple):
    """What to learn.

    Attributes:
      init: `key -> Model`: parameters and whatever else the model carries.
      loss: `(model, key, inputs, labels) -> (loss, (rest, accuracy))`: training loss of one batch, with what the batch leaves
        behind in the model and the batch's accuracy.
      outputs: `(model, inputs) -> value`: what the network gives in evaluation.
      losses: `(value, labels) -> loss [B]`.
      prediction: `value -> Prediction`.
    """

    init: Callable[[Array], Model]
    loss: Callable[[Model, Array, Array, Array], tuple[Array, tuple[Any, Array]]]
    outputs: Callable[[Model, Array], Any]
    losses: Callable[[Any, Array], Float[Array, "B"]]
    prediction: Callable[[Any], Prediction]


_USUAL = {
    "encode": encoders.constant(8),
    "loss": losses.ce_mean_membrane,
    "read_out": readout.mean_membrane,
}


def by_score(scores: Float[Array, "B C"]) -> Prediction:
    """The class with the highest score; of equal ones the lowest."""
    return Prediction(scores.argmax(-1).astype(jnp.int32), scores)


def classifier(
    network: Network | Callable[..., Any],
    *,
    encode: Callable[..., Any] | None = None,
    loss: Callable[[Any, Array], Float[Array, "B"]] | None = None,
    read_out: Callable[[Any], Float[Array, "B C"]] | None = None,
    augment: Callable[[Array, Array], Array] | None = None,
) -> Task:
    """A task from a network and three functions, each named once: for training, evaluation and prediction.

    >>> layers = lambda rngs: [jsnn.Dense(4, 8, rngs=rngs), jsnn.LIF(), jsnn.Dense(8, 3, rngs=rngs), jsnn.LI()]
    >>> task = jsnn.classifier(layers, encode=jsnn.constant(10), read_out=jsnn.max_membrane, loss=jsnn.losses.ce_max_membrane)
    >>> task.prediction(task.outputs(task.init(jax.random.key(0)), jnp.ones((2, 4)))).scores.shape
    (2, 3)

    Args:
      network: `rngs -> layers`, or what `jsnn.network` made of it; or one of `jsnn.eventprop`.
      encode: `(inputs [B, ...], key) -> signal`, time first: `jsnn.constant(T)`, by default with T = 8; `jsnn.frames()` for
        inputs that vary in time. In evaluation `key` is None.
      loss: `(value, labels [B]) -> [B]`: see `jsnn.losses`. The default is right for a last layer that does not spike (`LI`).
      read_out: `value -> scores [B, C]`: see `jsnn.readout`; the class is the one with the highest score. By default the mean membrane. A
        network may bring defaults of its own, as `jsnn.eventprop.dense_network` does.
      augment: `(key, inputs) -> inputs`: random changes of training inputs.

    Returns:
      A task for `supervised`.
    """
    if not isinstance(network, Network):
        from jsnn import layers

        network = layers.network(network)
    usual = {**_USUAL, **(network.usual or {})}
    encode, loss = encode or usual["encode"], loss or usual["loss"]
    read_out = read_out or usual["read_out"]

    def value(model, inputs):
        return network.apply(model, encode(inputs, None)).value

    def training_loss(model, key, inputs, labels):
        if augment is not None:
            inputs = augment(jax.random.fold_in(key, 1), inputs)
        signal = encode(inputs, jax.random.fold_in(key, 2))
        out = network.apply(model, signal, key=key, train=True)
        hits = by_score(read_out(out.value)).label == labels
        return loss(out.value, labels).mean(), (out.rest, hits.mean())

    return Task(
        network.init, training_loss, value, loss, lambda v: by_score(read_out(v))
    )


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
    epochs = check.whole("epochs", epochs, 1)
    batch_size = check.whole("batch_size", batch_size, 1)
    eval_size = batch_size if eval_batch_size is None else eval_batch_size
    eval_size = check.whole("eval_batch_size", eval_size, 1)
    check.choice("remainder", remainder, ("drop", "keep"))

    def init(key):
        model = task.init(key)
        return Own(model, optimizer.init(model.params))

    def pool(state, data, program):
        count = len(data.train.labels)
        if not batch_size <= count:
            raise ValueError(
                f"`batch_size` must lie between 1 and the {count} training samples, got {batch_size}."
            )
        return data.train

    def steps_per_epoch(samples):
        steps, left = divmod(len(samples.labels), batch_size)
        return steps + (remainder == "keep" and left > 0)

    def step(state, samples):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        model = state.own.model

        def loss_fn(params):
            return task.loss(Model(params, model.rest), key, *samples)

        (loss, (rest, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            model.params
        )
        updates, opt_state = optimizer.update(grads, state.own.opt_state, model.params)
        params = optax.apply_updates(model.params, updates)
        own = Own(Model(params, rest), opt_state)
        state = state._replace(
            own=own, step=state.step + 1, phase_step=state.phase_step + 1
        )
        return state, {"loss": loss, "accuracy": accuracy}

    def permutation(state, samples):
        epoch = state.phase_step // steps_per_epoch(samples)
        key = jax.random.fold_in(jax.random.fold_in(state.key, 0), epoch)
        return jax.random.permutation(key, len(samples.labels))

    def order(state, samples):
        return permutation(state, samples)[: steps_per_epoch(samples) * batch_size]

    def run_window(state, window, num_steps):
        def body(i, carry):
            state, metrics = carry
            first = (state.phase_step % window.per_epoch - window.first) * batch_size
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, first, batch_size),
                window.samples,
            )
            batch = meshes.shard_batch(batch, mesh)
            with meshes.scope(mesh):
                state, new = step(state, batch)
            return state, jax.tree.map(lambda m, x: m.at[i].set(x), metrics, new)

        empty = jnp.zeros(len(window.samples.labels) // batch_size)
        start = state, {"loss": empty, "accuracy": empty}
        return jax.lax.fori_loop(0, num_steps, body, start)

    def run(state, samples, num_steps, program):
        if isinstance(samples, Window):
            return run_window(state, samples, num_steps)
        count, per_epoch = len(samples.labels), steps_per_epoch(samples)
        left = count % batch_size if remainder == "keep" else 0
        order = permutation(state, samples)

        def take(state, batch):
            chosen = jax.tree.map(lambda x: x[batch], samples)
            chosen = meshes.shard_batch(chosen, mesh)
            with meshes.scope(mesh):
                return step(state, chosen)

        def whole(state):
            first = state.phase_step % per_epoch * batch_size
            return take(state, jax.lax.dynamic_slice_in_dim(order, first, batch_size))

        def body(i, carry):
            state, metrics = carry
            if left:
                last = state.phase_step % per_epoch == per_epoch - 1
                state, new = jax.lax.cond(
                    last, lambda s: take(s, order[-left:]), whole, state
                )
            else:
                state, new = whole(state)
            return state, jax.tree.map(lambda m, x: m.at[i].set(x), metrics, new)

        empty = {name: jnp.zeros(per_epoch) for name in ("loss", "accuracy")}
        return jax.lax.fori_loop(0, num_steps, body, (state, empty))

    def evaluate(state, data, program):
        return state, _evaluate(task, state.own.model, data.held, eval_size, mesh)

    return Trainer(
        phases=(Phase("train", epochs=epochs),),
        init=init,
        pool=pool,
        steps_per_epoch=steps_per_epoch,
        run=run,
        evaluate=evaluate,
        model=lambda state: state.own.model,
        predict=lambda model, inputs: task.prediction(task.outputs(model, inputs)),
        accuracy=lambda found: found.hit.mean(),
        parameters=lambda state: state.own.model.params,
        order=order if remainder == "drop" else None,
        prepare=prepare,
        report=_report,
        samples=lambda state: int(state.step) * batch_size,
        mesh=mesh,
    )


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
        leaves = jax.tree.leaves(trained.state.own.model.params)
        return {
            f"{split}_accuracy": trained.found.hit.mean(),
            f"{split}_loss": trained.found.loss.mean(),
            "train_loss": trained.metrics[-1]["loss"].mean(),
            "finite": jnp.all(jnp.stack([jnp.isfinite(x).all() for x in leaves])),
        }

    return Program(train, data, lambda key, values: start(make(values), key))
