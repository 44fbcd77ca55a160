"""Training on a stream as pure functions: one compilation for all tasks, as long as their classes fit the head.

A `Learner` says what learns and how. The functions here take one, and the state of a training; `jsnn.continual.trainer` makes a `Trainer` of
them. Where in the stream we are is an argument, every task's samples are padded to the same number, and how many steps are taken is traced.
`later` is static everywhere: False in the first task, True in all others.

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
from jaxtyping import Array, Bool, Float, Int

from jsnn import check, head, layers
from jsnn import mesh as meshes
from jsnn.continual import buffer as buffers
from jsnn.continual import method as methods
from jsnn.continual import network as networks
from jsnn.continual.buffer import Batch
from jsnn.continual.method import Memory, Method, Scope, Settings
from jsnn.continual.network import Network
from jsnn.continual.settings import check_settings
from jsnn.continual.spiking import POLICIES, BatchNormMode, BatchNormPolicy
from jsnn.train.trainer import Metrics, TrainState

MAX_STEPS = 256  # the longest stretch of `run`


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
    slots: dict[str, Any]  # of the parts of the method that score
    scope: Scope


class Columns(NamedTuple):
    """A column for each test sample: the best of all open ones, and of those of its task."""

    class_il: Int[Array, "E"]
    task_il: Int[Array, "E"]


class Learner(NamedTuple):
    """What learns a stream, and how: made by `learner`.

    Attributes:
      fresh: `(key, capacity) -> Model`; the capacity, C, is static.
      networks: the network's functions in the first task, and later.
      method: which terms, what memory, which data.
      settings: weights of the method's parts, which may be traced.
      optimizer: with `head.growing` around it.
      image: one image as stored, for shape and type.
      buffer_size: slots of the method's buffer.
      batch_size: B.
      eval_batch_size: test samples at a time.
      keep_optimizer: keep its moments from task to task.
      cosine_epochs: epochs a task over which updates shrink to nothing along half a cosine; None: they keep their size.
      mesh: devices that each batch is cut over.
    """

    fresh: Callable[[Array, int], layers.Model]
    networks: tuple[Network, Network]
    method: Method
    settings: Settings
    optimizer: optax.GradientTransformationExtraArgs
    image: np.ndarray
    buffer_size: int
    batch_size: int
    eval_batch_size: int
    keep_optimizer: bool
    cosine_epochs: int | None
    mesh: Mesh | None

    def later(self, task: int) -> bool:
        """The static argument of that name: the first task differs from the others only where batch norm does."""
        return task > 0 and self.networks[0] is not self.networks[1]


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
    settings: Settings | None = None,
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
      settings: weights of the method's parts, which may be traced; its defaults if None.
      batch_norm: what batch norm does over tasks: `"train"`: follows every task; `"reference"`: normalises by the first task's
        statistics from the second task on, scale and offset still learning; `"freeze"`: those stand still too.
      keep_optimizer: keep its moments from task to task; otherwise it starts anew each time, as in the reference.
      adam_decays: decays of the Adam inside `optimizer`, for columns that open late; None for another one.
      cosine_epochs: epochs a task over which updates shrink to nothing along half a cosine; None: they keep their size.
      mesh: devices to cut each batch over; see `jsnn.mesh`.

    Raises:
      ValueError: if a number is out of range, `method` trains on a buffer that changes as it does, or its memory cannot be made
        (`method.init_memory`).
    """
    batch_size = check.whole("batch_size", batch_size, 1)
    eval_batch_size = check.whole("eval_batch_size", eval_batch_size, 1)
    if cosine_epochs is not None:
        cosine_epochs = check.whole("cosine_epochs", cosine_epochs, 1)
    storage = method.storage
    if "buffer" in method.data and storage is not None and storage.step is not None:
        raise ValueError(
            f"`method` trains on data={method.data!r}, so its `storage` must not change with every step: fill it at a task's border."
        )
    settings = methods.default_settings(method) if settings is None else settings
    check_settings(settings)
    module = nnx.eval_shape(lambda: build(jax.random.key(0), 1))
    graphdef, shapes = layers.split(module)
    is_column = head.column_tree(graphdef, shapes)
    modes = POLICIES[batch_norm]
    first = make_network(graphdef, is_column, modes[0])
    later = first if modes[0] == modes[1] else make_network(graphdef, is_column, modes[1])  # fmt: skip
    found = Learner(
        fresh=lambda key, capacity: layers.split(build(key, capacity))[1],
        networks=(first, later),
        method=method,
        settings=settings,
        optimizer=head.growing(optimizer, is_column, adam_decays=adam_decays),
        image=image,
        buffer_size=buffer_size,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        keep_optimizer=keep_optimizer,
        cosine_epochs=cosine_epochs,
        mesh=mesh,
    )
    # Refuses what will not do, at no cost.
    jax.eval_shape(lambda: init(found, jax.random.key(0), 1, 1))
    return found


def init(learner: Learner, key: Array, capacity: int, num_samples: int) -> Own:
    """Before the first task; C and N are static."""
    model = learner.fresh(key, capacity)
    memory = methods.init_memory(
        learner.networks[0],
        learner.method,
        model,
        jnp.asarray(learner.image),
        buffer_size=learner.buffer_size,
    )
    return Own(
        model,
        learner.optimizer.init(model.params),
        memory,
        num_old=jnp.zeros((), jnp.int32),
        num_open=jnp.zeros((), jnp.int32),
        valid=jnp.zeros(num_samples, bool),
        first=key,
    )


def begin(
    learner: Learner,
    state: TrainState,
    task: Array,
    data: Batch,
    num_open: ArrayLike,
    later: bool,
) -> TrainState:
    """Opens the task's classes and prepares method and optimiser; `data` are the task's samples."""
    own = state.own
    if learner.method.fresh_start:
        size = own.memory.buffer.num_seen.size
        drawn = learner.fresh(_key(state, _FRESH, task), size)
        model = jax.tree.map(
            lambda new, old: jnp.where(task > 0, new, old), drawn, own.model
        )
        own = own._replace(model=model)
    if not learner.keep_optimizer:
        own = own._replace(opt_state=learner.optimizer.init(own.model.params))
    own = own._replace(
        num_old=own.num_open, num_open=jnp.maximum(own.num_open, num_open)
    )
    memory, valid = methods.begin_task(
        learner.networks[later],
        learner.method,
        own.memory,
        own.model,
        _settings(learner),
        _key(state, _BEGIN, task),
        _scope(own, task),
        data,
    )
    return state._replace(own=own._replace(memory=memory, valid=valid & data.valid))


def pool(learner: Learner, own: Own, data: Batch, seen: Batch) -> Batch:
    """What the method trains on: of the task's samples, or of all `seen` so far."""
    method = learner.method
    if method.data in ("seen", "all"):
        return seen
    if method.data == "buffer":
        return buffers.everything(own.memory.buffer)
    data = data._replace(valid=own.valid)
    if method.data == "task":
        return data
    return buffers.union(data, buffers.everything(own.memory.buffer))


def steps_per_epoch(learner: Learner, pool: Batch) -> Int[Array, ""]:
    """Batches to see every sample once; the last one is filled up with samples that do not count."""
    return -(-pool.valid.sum(dtype=jnp.int32) // learner.batch_size)


_SHUFFLE, _STEP, _BEGIN, _END, _FRESH = range(5)


def _key(state: TrainState, use: int, number: ArrayLike) -> Array:
    return jax.random.fold_in(jax.random.fold_in(state.key, use), number)


def _settings(learner: Learner) -> Settings:
    """Weights as numbers that the compiler does not know: a run and its member of a sweep then round alike."""
    return jax.lax.optimization_barrier(learner.settings)


def _scope(own: Own, task: Array) -> Scope:
    return Scope(task, own.num_old, own.num_open)


def _step(
    learner: Learner,
    state: TrainState,
    task: Array,
    batch: Batch,
    size: Array,
    later: bool,
) -> tuple[TrainState, Metrics]:
    """One optimiser step, of `size` times the optimiser's own."""
    key, key_after = jax.random.split(_key(state, _STEP, state.step))
    network, method = learner.networks[later], learner.method
    own, scope = state.own, _scope(state.own, task)
    model, memory = own.model, own.memory
    update = methods.gradients(
        network, method, memory, model, _settings(learner), key, scope, batch
    )
    change, opt_state = learner.optimizer.update(
        update.gradient, own.opt_state, model.params, num_open=scope.num_open
    )
    change = optax.tree.scale(size, change)
    if method.latent:
        change = networks.hold_lower(network, change, scope.num_old > 0)
    params = optax.apply_updates(model.params, change)
    memory = methods.after_step(
        method, memory, key_after, scope, update, model.params, params
    )
    own = own._replace(
        model=layers.Model(params, update.rest), opt_state=opt_state, memory=memory
    )
    state = state._replace(
        own=own, step=state.step + 1, phase_step=state.phase_step + 1
    )
    return state, {"loss": update.loss, "accuracy": update.accuracy}


def run(
    learner: Learner,
    state: TrainState,
    task: Array,
    pool: Batch,
    num_steps: Array,
    later: bool,
) -> tuple[TrainState, Metrics]:
    """Takes at most `MAX_STEPS` steps, which must not cross the end of an epoch."""
    size, count = learner.batch_size, jnp.maximum(pool.valid.sum(), 1)
    per_epoch = (count + size - 1) // size
    epoch = state.phase_step // per_epoch
    key = jax.random.fold_in(_key(state, _SHUFFLE, task), epoch)
    priority = jax.random.uniform(key, pool.valid.shape, jnp.float32)
    order = jnp.argsort(jnp.where(pool.valid, priority, 2.0))  # valid samples first

    def body(i, carry):
        state, metrics = carry
        place = state.phase_step % per_epoch * size + jnp.arange(size)
        # What the last batch lacks is made up by the epoch's first samples, which count for nothing but batch norm.
        chosen = order[place % count]
        batch = jax.tree.map(lambda x: x[chosen], pool)._replace(valid=place < count)
        batch = batch._replace(is_first=buffers.first_time(batch) & (epoch == 0))
        batch = meshes.shard_batch(batch, learner.mesh)
        shrunk = _step_size(learner.cosine_epochs, state.phase_step, per_epoch)
        with meshes.scope(learner.mesh):
            state, new = _step(learner, state, task, batch, shrunk, later)
        return state, jax.tree.map(lambda m, x: m.at[i].set(x), metrics, new)

    empty = {name: jnp.zeros(MAX_STEPS, jnp.float32) for name in ("loss", "accuracy")}
    return jax.lax.fori_loop(0, num_steps, body, (state, empty))


def _step_size(epochs: int | None, step: Array, per_epoch: Array) -> Array:
    """What is left of the step size after `step` of a task's steps: `(1 + cos(pi step / steps)) / 2`."""
    if epochs is None:
        return jnp.ones(())
    return (1 + jnp.cos(jnp.pi * jnp.minimum(step / (epochs * per_epoch), 1))) / 2


def end(
    learner: Learner, state: TrainState, task: Array, data: Batch, later: bool
) -> TrainState:
    """Closes the task, which counts as a step."""
    own = state.own
    data = data._replace(valid=own.valid)  # nothing that is held out is kept
    memory, model = methods.end_task(
        learner.networks[later],
        learner.method,
        own.memory,
        own.model,
        _settings(learner),
        _key(state, _END, task),
        _scope(own, task),
        data,
    )
    own = own._replace(model=model, memory=memory)
    return state._replace(own=own, step=state.step + 1)


def predictor(learner: Learner, own: Own, task: Array) -> Predictor:
    """What predictions need after `task`."""
    parts = [part.name for part in learner.method.parts if part.scores is not None]
    slots = {k: v for k, v in own.memory.slots.items() if k in parts}
    return Predictor(own.model, slots, _scope(own, task))


def scores(
    learner: Learner, model: Predictor, images: Array, later: bool = True
) -> Float[Array, "B C"]:
    """The method's score of each column; the largest is its prediction."""
    return methods.scores(
        learner.networks[later],
        learner.method,
        model.slots,
        model.model,
        _settings(learner),
        model.scope,
        images,
    )


def columns(
    learner: Learner, model: Predictor, data: Batch, of_task: Array, later: bool
) -> Columns:
    """Predicted columns, `of_task` `[C]` being those of the samples' task. Batches in a loop, as many as there are valid samples: those come first."""
    total = len(data.labels)
    size = min(learner.eval_batch_size, total)

    def body(i, found):
        index = i * size + jnp.arange(size)
        images = data.images[jnp.minimum(index, total - 1)]
        score = scores(learner, model, images, later)
        new = Columns(score.argmax(1), methods.within(score, of_task).argmax(1))
        return jax.tree.map(lambda a, b: a.at[index].set(b, mode="drop"), found, new)

    none = jnp.zeros(total, jnp.int32)
    batches = (data.valid.sum() + size - 1) // size
    return jax.lax.fori_loop(0, batches, body, Columns(none, none))
