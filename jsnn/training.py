"""Training as pure functions: whole stretches of steps in one jitted program over data that lies on the device.

`trainer` takes what is specific to a model (a `Task`) and an Optax optimiser and returns pure functions to `jit` and `vmap`:
a sweep over seeds is `vmap(trainer.init)` and `vmap(trainer.run)`. Nothing here prints, writes or reads a clock; `jsnn.driver`
drives these functions through a run folder with progress, metrics and checkpoints.

Axes: N images of a data set, B batch, C classes, S steps of a stretch.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jsnn import check
from jsnn import mesh as meshes
from jsnn.layers import Model


class Task(NamedTuple):
    """What to learn.

    Attributes:
      init: `key -> Model`: parameters and whatever else the model carries.
      loss: `(model, key, images, labels) -> (loss, (rest, accuracy))`: training loss of one batch, with what the batch leaves
        behind in the model and the batch's accuracy.
      predict: `(model, images, labels) -> (loss [B], prediction [B], scores [B, C])`: evaluation, sample by sample.
    """

    init: Callable[[Array], Model]
    loss: Callable[[Model, Array, Array, Array], tuple[Array, tuple[Any, Array]]]
    predict: Callable[[Model, Array, Array], tuple[Array, Array, Array]]


class TrainState(NamedTuple):
    """Everything that a run needs in order to go on: saved and restored as a whole."""

    model: Model
    opt_state: Any
    key: Array  # never changes: epochs and steps fold their number into it
    step: Int[Array, ""]  # optimiser steps taken so far


class StepMetrics(NamedTuple):
    """One entry per step of a stretch; entries past its end are zero."""

    loss: Float[Array, "S"]
    accuracy: Float[Array, "S"]


class Evaluation(NamedTuple):
    """One entry per sample, none dropped."""

    loss: Float[Array, "N"]
    prediction: Int[Array, "N"]
    scores: Float[Array, "N C"]


class Trainer(NamedTuple):
    """Pure functions of one training problem.

    Attributes:
      init: `key -> TrainState`.
      run: `(state, images, labels, num_steps) -> (state, StepMetrics)`: `num_steps` may be traced, so stretches of any length
        share one compilation; a stretch must not cross the end of an epoch.
      evaluate: `(model, images, labels) -> Evaluation`.
      train: `(key, images, labels, num_epochs) -> (state, StepMetrics)`: all epochs at once, metrics `[epochs, S]`.
      steps_per_epoch: number of batches.
    """

    init: Callable[[Array], TrainState]
    run: Callable[[TrainState, Array, Array, ArrayLike], tuple[TrainState, StepMetrics]]
    evaluate: Callable[[Model, Array, Array], Evaluation]
    train: Callable[[Array, Array, Array, int], tuple[TrainState, StepMetrics]]
    steps_per_epoch: int


def unit_interval(images: Array) -> Float[Array, "..."]:
    """Pixels as float32 in [0, 1]: bytes are divided by 255, floats pass."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images.astype(jnp.float32)


def strongly_typed(state: Any) -> Any:
    """The same values: weak types would turn strong over the first steps, and each change would compile a step anew."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)


def trainer(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_train: int,
    batch_size: int,
    eval_batch_size: int | None = None,
    remainder: Literal["drop", "keep"] = "drop",
    mesh: Mesh | None = None,
) -> Trainer:
    """Builds the pure functions of one training problem.

    Args:
      task: model, loss and prediction.
      optimizer: any Optax transformation; schedules count optimiser steps.
      num_train: N, number of training samples.
      batch_size: B. Each epoch visits N // B batches of a fresh shuffle.
      remainder: what becomes of the N % B samples left: `"drop"` leaves them out of this epoch, `"keep"` makes a smaller last
        batch of them.
      eval_batch_size: samples evaluated at a time; `batch_size` if None.
      mesh: devices to cut each batch over; see `jsnn.mesh`.

    Raises:
      ValueError: if `batch_size` is not between 1 and `num_train`, `eval_batch_size` is not positive, or `remainder` unknown.
    """
    num_train = check.whole("num_train", num_train, 1)
    remedy = "It is at most the number of training samples."
    batch_size = check.whole("batch_size", batch_size, 1, num_train, remedy=remedy)
    if eval_batch_size is None:
        eval_batch_size = batch_size
    eval_batch_size = check.whole("eval_batch_size", eval_batch_size, 1)
    check.choice("remainder", remainder, ("drop", "keep"))
    steps_per_epoch, left = divmod(num_train, batch_size)
    left = left if remainder == "keep" else 0
    steps_per_epoch += left > 0

    def init(key: Array) -> TrainState:
        check.key(key)
        key_init, key_run = jax.random.split(key)
        model = task.init(key_init)
        state = TrainState(
            model, optimizer.init(model.params), key_run, jnp.zeros((), jnp.int32)
        )
        return strongly_typed(state)

    def step(state: TrainState, images: Array, labels: Array) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)

        def loss_fn(params):
            return task.loss(Model(params, state.model.rest), key, images, labels)

        (loss, (rest, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.model.params
        )
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.model.params
        )
        params = optax.apply_updates(state.model.params, updates)
        model = Model(params, rest)
        return TrainState(model, opt_state, state.key, state.step + 1), (loss, accuracy)

    def run(state, images, labels, num_steps):
        epoch = state.step // steps_per_epoch
        shuffle = jax.random.fold_in(jax.random.fold_in(state.key, 0), epoch)
        order = jax.random.permutation(shuffle, num_train)

        def take(state, batch):
            samples = meshes.shard_batch((images[batch], labels[batch]), mesh)
            with meshes.scope(mesh):
                return step(state, *samples)

        def whole(state):
            start = state.step % steps_per_epoch * batch_size
            return take(state, jax.lax.dynamic_slice_in_dim(order, start, batch_size))

        def body(i, carry):
            state, metrics = carry
            if left:
                last = state.step % steps_per_epoch == steps_per_epoch - 1
                state, new = jax.lax.cond(
                    last, lambda s: take(s, order[-left:]), whole, state
                )
            else:
                state, new = whole(state)
            return state, jax.tree.map(
                lambda m, x: m.at[i].set(x), metrics, StepMetrics(*new)
            )

        empty = jnp.zeros(steps_per_epoch)
        return jax.lax.fori_loop(0, num_steps, body, (state, StepMetrics(empty, empty)))

    def evaluate(model, images, labels):
        count = images.shape[0]
        size = min(eval_batch_size, count)
        # The last batch is filled up with copies of the last sample, whose results are cut off again.
        index = jnp.minimum(jnp.arange(-(-count // size) * size), count - 1)

        def predict(i):
            samples = meshes.shard_batch((images[i], labels[i]), mesh)
            with meshes.scope(mesh):
                return task.predict(model, *samples)

        results = jax.lax.map(predict, index.reshape(-1, size))
        flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], results)
        return Evaluation(*flat)

    def train(key, images, labels, num_epochs):
        num_epochs = check.whole("num_epochs", num_epochs, 1)
        return jax.lax.scan(
            lambda state, _: run(state, images, labels, steps_per_epoch),
            init(key),
            length=num_epochs,
        )

    return Trainer(init, run, evaluate, train, steps_per_epoch)


def final_metrics(
    trainer: Trainer,
    key: Array,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    *,
    num_epochs: int,
    split: str = "test",
) -> dict[str, Array]:
    """Trains from `key` and returns how it ended, as scalars: for sweeps.

    Returns:
      `test_accuracy` and `test_loss` over all of `test`, or what `split` calls it, `train_loss` over the last epoch, and whether all
      is `finite`.
    """
    images, labels = train
    state, metrics = trainer.train(key, images, labels, num_epochs)
    evaluation = trainer.evaluate(state.model, *test)
    leaves = jax.tree.leaves(state.model.params)
    return {
        f"{split}_accuracy": (evaluation.prediction == test[1]).mean(),
        f"{split}_loss": evaluation.loss.mean(),
        "train_loss": metrics.loss[-1].mean(),
        "finite": jnp.all(jnp.stack([jnp.isfinite(x).all() for x in leaves])),
    }
