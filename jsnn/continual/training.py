"""Training on a stream as pure functions: one compilation for all tasks, as long as their classes fit the head.

A `Learner` joins network, method and optimiser. Its functions are to be jitted and `vmap`ped over seeds: where in the stream we are
is in the state, every task's samples are padded to the same number, and how many steps are taken is traced.
`jsnn.continual.driver` leads them through a run folder.

Axes: N samples of a task, padded; P samples of a pool, from which batches are drawn; B batch; E test samples of a task, padded;
C columns of the head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from jsnn import check, head, layers, training
from jsnn import mesh as meshes
from jsnn.continual import buffer as buffers
from jsnn.continual import method as methods
from jsnn.continual import network as networks
from jsnn.continual.buffer import Batch
from jsnn.continual.method import Memory, Method, Scope, Settings
from jsnn.continual.network import Network
from jsnn.continual.spiking import POLICIES, BatchNormMode, BatchNormPolicy
from jsnn.training import StepMetrics

MAX_STEPS = 256  # the longest stretch of `run`


class State(NamedTuple):
    """Everything that a run needs in order to go on: saved, restored and grown as a whole."""

    model: layers.Model
    opt_state: Any
    memory: Memory
    key: Array  # never changes: steps and tasks fold their number into it
    step: Int[Array, ""]  # optimiser steps, and one more for the end of each task
    task: Int[Array, ""]  # the one at hand, or the next
    task_step: Int[Array, ""]  # optimiser steps within it; 0: it may not have begun
    num_old: Int[Array, ""]  # columns open before this task
    num_open: Int[Array, ""]
    valid: Bool[Array, "N"]  # the task's samples that its method trains on


class Predictions(NamedTuple):
    """A column for each test sample: the best of all open ones, and of those of its task."""

    class_il: Int[Array, "E"]
    task_il: Int[Array, "E"]


class Learner(NamedTuple):
    """Pure functions of one way to learn a stream. `later` is static: whether this is not the first task.

    Attributes:
      init: `(key, capacity, num_samples) -> State`; the numbers are static: C and N.
      begin: `(state, settings, data, num_open, later) -> State`: opens classes and prepares method and optimiser; `data` are the task's samples.
      pool: `(state, data, seen) -> Batch`: what the method trains on, of the task's samples or of all `seen` so far.
      run: `(state, settings, pool, num_steps, later) -> (State, StepMetrics)`: `num_steps`
        may be traced, is at most `MAX_STEPS`, and must not cross the end of an epoch.
      end: `(state, settings, data, later) -> State`: closes the task.
      predict: `(state, settings, data, columns, num_open, later) -> Predictions`, `columns` `[C]` being those of the samples' task.
      batch_size: B.
      method: the method.
      settings: the method's default weights.
      start: as `init`, from the key of the initial weights alone.
      scores: `(model, memory, scope, settings, images) -> [B, C]`: for predictions.
      mesh: devices that each batch is cut over.
    """

    init: Callable[[Array, int, int], State]
    begin: Callable[..., State]
    pool: Callable[[State, Batch, Batch], Batch]
    run: Callable[..., tuple[State, StepMetrics]]
    end: Callable[..., State]
    predict: Callable[..., Predictions]
    batch_size: int
    method: Method
    settings: Settings
    start: Callable[[Array, int, int], State]
    scores: Callable[..., Array]
    mesh: Mesh | None

    def steps_per_epoch(self, num_samples: int) -> int:
        """Batches to see every sample once; the last one is filled up with samples that do not count."""
        return -(-num_samples // self.batch_size)

    def later(self, task: int, policy: BatchNormPolicy) -> bool:
        """The static argument of that name: the first task differs from the others only where batch norm does."""
        return task > 0 and len(set(POLICIES[policy])) > 1


class _Parts(NamedTuple):
    """What all functions of a learner share."""

    networks: tuple[Network, Network]  # in the first task, and later
    method: Method
    optimizer: optax.GradientTransformationExtraArgs
    batch_size: int
    eval_batch_size: int
    cosine_epochs: int | None
    mesh: Mesh | None


def learner(
    build: Callable[[Array, int], layers.Sequence],
    make_network: Callable[[Any, Any, BatchNormMode], Network],
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    image: np.ndarray,
    batch_size: int,
    eval_batch_size: int = 250,
    buffer_size: int = 0,
    batch_norm: BatchNormPolicy = "train",
    keep_optimizer: bool = False,
    adam_decays: tuple[float, float] | None = (0.9, 0.999),
    cosine_epochs: int | None = None,
    mesh: Mesh | None = None,
) -> Learner:
    """Joins network, method and optimiser.

    Args:
      build: `(key, capacity) -> Sequence`: features, growing head, read-out neurons.
      make_network: `(graphdef, is_column, batch_norm mode) -> Network`.
      method: which terms, what memory, which data.
      optimizer: any Optax transformation; `head.growing` is put around it.
      image: one image as stored, for shape and type.
      batch_size: B.
      eval_batch_size: test samples at a time.
      buffer_size: slots of the method's buffer.
      batch_norm: what batch norm does over tasks: `"train"`: follows every task; `"reference"`: normalises by the first task's
        statistics from the second task on, scale and offset still learning; `"freeze"`: those stand still too.
      keep_optimizer: keep its moments from task to task; otherwise it starts anew each time, as in the reference.
      adam_decays: decays of the Adam inside `optimizer`, for columns that open late; None for another one.
      cosine_epochs: epochs a task over which updates shrink to nothing along half a cosine; None: they keep their size.
      mesh: devices of this process to cut each batch over; see `jsnn.mesh`.

    Raises:
      ValueError: if a number is out of range, `method` trains on a buffer that changes as it does, or its memory cannot be made
        (`method.init_memory`).
    """
    for name, value in (
        ("batch_size", batch_size),
        ("eval_batch_size", eval_batch_size),
        ("cosine_epochs", cosine_epochs),
    ):
        if name != "cosine_epochs" or value is not None:
            check.whole(name, value, 1)
    storage = method.storage
    if "buffer" in method.data and storage is not None and storage.step is not None:
        raise ValueError(
            f"`method` trains on data={method.data!r}, so its `storage` must not change with every step: fill it at a task's border."
        )
    key = jax.random.key(0)
    module = nnx.eval_shape(lambda: build(key, 1))
    graphdef, shapes = layers.split(module)
    is_column = head.column_tree(graphdef, shapes)
    first, later = (make_network(graphdef, is_column, m) for m in POLICIES[batch_norm])
    parts = _Parts(
        (first, later),
        method,
        head.growing(optimizer, is_column, adam_decays=adam_decays),
        batch_size,
        eval_batch_size,
        cosine_epochs,
        mesh,
    )

    def fresh(key, capacity):
        return layers.split(build(key, capacity))[1]

    def start(key, capacity, num_samples):
        model = fresh(key, capacity)
        memory = methods.init_memory(
            first, method, model, jnp.asarray(image), buffer_size=buffer_size
        )
        zero = jnp.zeros((), jnp.int32)
        valid = jnp.zeros(num_samples, bool)
        opt_state = parts.optimizer.init(model.params)
        state = State(
            model, opt_state, memory, key, zero, zero, zero, zero, zero, valid
        )
        return training.strongly_typed(state)

    def init(key, capacity, num_samples):
        key_init, key_run = jax.random.split(key)
        return start(key_init, capacity, num_samples)._replace(key=key_run)

    def scores(model, memory, scope, settings, images):
        args = later, method, memory, model, settings, scope
        return methods.scores(*args, images)

    jax.eval_shape(lambda: init(key, 1, 1))  # refuses what will not do, at no cost

    def begin(state, settings, data, num_open, later):
        model = state.model
        if method.fresh_start:
            size = _num_columns(parts, model)
            drawn = fresh(_key(state, _FRESH, state.task), size)
            again = state.task > 0
            model = jax.tree.map(
                lambda new, old: jnp.where(again, new, old), drawn, model
            )
        opt_state = state.opt_state
        if not keep_optimizer:
            opt_state = parts.optimizer.init(model.params)
        state = state._replace(
            model=model,
            opt_state=opt_state,
            num_old=state.num_open,
            num_open=jnp.maximum(state.num_open, num_open),
            task_step=jnp.zeros((), jnp.int32),
        )
        return _begin(parts, state, settings, data, later)

    return Learner(
        init,
        begin,
        lambda state, data, seen: _pool(method, state, data, seen),
        lambda state, settings, pool, num_steps, later: _run(
            parts, state, settings, pool, num_steps, later
        ),
        lambda state, settings, data, later: _end(parts, state, settings, data, later),
        lambda state, settings, data, columns, num_open, later: _predict(
            parts, state, settings, data, columns, num_open, later
        ),
        batch_size,
        method,
        methods.default_settings(method),
        start,
        scores,
        mesh,
    )


def _num_columns(parts: _Parts, model: layers.Model) -> int:
    """Columns of the head."""
    assert parts.networks[0].head is not None
    return parts.networks[0].head(model.params).bias.size


_SHUFFLE, _STEP, _BEGIN, _END, _FRESH = range(5)


def _key(state: State, use: int, number: ArrayLike) -> Array:
    return jax.random.fold_in(jax.random.fold_in(state.key, use), number)


def _scope(state: State) -> Scope:
    return Scope(state.task, state.num_old, state.num_open)


def _begin(parts: _Parts, state: State, settings, data: Batch, later: bool) -> State:
    memory, valid = methods.begin_task(
        parts.networks[later],
        parts.method,
        state.memory,
        state.model,
        settings,
        _key(state, _BEGIN, state.task),
        _scope(state),
        data,
    )
    return state._replace(memory=memory, valid=valid & data.valid)


def _pool(method: Method, state: State, data: Batch, seen: Batch) -> Batch:
    if method.data in ("seen", "all"):
        return seen
    if method.data == "buffer":
        return buffers.everything(state.memory.buffer)
    own = data._replace(valid=state.valid)
    if method.data == "task":
        return own
    return buffers.union(own, buffers.everything(state.memory.buffer))


def _step(
    parts: _Parts, state: State, settings, batch: Batch, size: Array, later: bool
) -> tuple[State, StepMetrics]:
    """One optimiser step, of `size` times the optimiser's own."""
    key, key_after = jax.random.split(_key(state, _STEP, state.step))
    model, scope = state.model, _scope(state)
    update = methods.gradients(
        parts.networks[later],
        parts.method,
        state.memory,
        model,
        settings,
        key,
        scope,
        batch,
    )
    change, opt_state = parts.optimizer.update(
        update.gradient, state.opt_state, model.params, num_open=scope.num_open
    )
    change = optax.tree.scale(size, change)
    if parts.method.latent:
        change = networks.hold_lower(parts.networks[later], change, scope.num_old > 0)
    params = optax.apply_updates(model.params, change)
    memory = methods.after_step(
        parts.method, state.memory, key_after, scope, update, model.params, params
    )
    state = state._replace(
        model=layers.Model(params, update.rest),
        opt_state=opt_state,
        memory=memory,
        step=state.step + 1,
        task_step=state.task_step + 1,
    )
    return state, StepMetrics(update.loss, update.accuracy)


def _run(
    parts: _Parts, state: State, settings, pool: Batch, num_steps, later: bool
) -> tuple[State, StepMetrics]:
    size, count = parts.batch_size, jnp.maximum(pool.valid.sum(), 1)
    per_epoch = (count + size - 1) // size
    epoch = state.task_step // per_epoch
    key = jax.random.fold_in(_key(state, _SHUFFLE, state.task), epoch)
    priority = jax.random.uniform(key, pool.valid.shape)
    order = jnp.argsort(jnp.where(pool.valid, priority, 2.0))  # valid samples first

    def body(i, carry):
        state, metrics = carry
        place = state.task_step % per_epoch * size + jnp.arange(size)
        # What the last batch lacks is made up by the epoch's first samples, which count for nothing but batch norm.
        chosen = order[place % count]
        batch = jax.tree.map(lambda x: x[chosen], pool)._replace(valid=place < count)
        batch = batch._replace(is_first=buffers.first_time(batch) & (epoch == 0))
        batch = meshes.shard_batch(batch, parts.mesh)
        shrunk = _step_size(parts.cosine_epochs, state.task_step, per_epoch)
        with meshes.scope(parts.mesh):
            state, new = _step(parts, state, settings, batch, shrunk, later)
        return state, jax.tree.map(lambda m, x: m.at[i].set(x), metrics, new)

    empty = jnp.zeros(MAX_STEPS)
    start = (state, StepMetrics(empty, empty))
    return jax.lax.fori_loop(0, num_steps, body, start)


def _step_size(epochs: int | None, step: Array, per_epoch: Array) -> Array:
    """What is left of the step size after `step` of a task's steps: `(1 + cos(pi step / steps)) / 2`."""
    if epochs is None:
        return jnp.ones(())
    return (1 + jnp.cos(jnp.pi * jnp.minimum(step / (epochs * per_epoch), 1))) / 2


def _end(parts: _Parts, state: State, settings, data: Batch, later: bool) -> State:
    data = data._replace(valid=state.valid)  # nothing that is held out is kept
    memory, model = methods.end_task(
        parts.networks[later],
        parts.method,
        state.memory,
        state.model,
        settings,
        _key(state, _END, state.task),
        _scope(state),
        data,
    )
    zero = jnp.zeros((), jnp.int32)
    return state._replace(
        model=model,
        memory=memory,
        task=state.task + 1,
        task_step=zero,
        step=state.step + 1,
    )


def _predict(
    parts: _Parts, state: State, settings, data: Batch, columns, num_open, later: bool
) -> Predictions:
    """Batches in a loop, as many as there are valid samples: those come first."""
    total, size = len(data.labels), min(parts.eval_batch_size, len(data.labels))
    # The task just ended: `end` has counted it already.
    scope = Scope(state.task - 1, state.num_old, jnp.asarray(num_open, jnp.int32))

    def body(i, found):
        index = i * size + jnp.arange(size)
        scores = methods.scores(
            parts.networks[later],
            parts.method,
            state.memory,
            state.model,
            settings,
            scope,
            data.images[jnp.minimum(index, total - 1)],
        )
        new = Predictions(scores.argmax(1), methods.within(scores, columns).argmax(1))
        return jax.tree.map(lambda a, b: a.at[index].set(b, mode="drop"), found, new)

    none = jnp.zeros(total, jnp.int32)
    batches = (data.valid.sum() + size - 1) // size
    return jax.lax.fori_loop(0, batches, body, Predictions(none, none))
