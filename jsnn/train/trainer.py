"""What every way to learn is to the rest of the library: pure functions over a state, in phases.

Supervised training has one phase, a network trained by STDP has a phase a layer, a stream of tasks a phase a task. `fit` leads a
trainer through its phases with progress, rows of metrics, evaluations and checkpoints. `train_fn` makes one pure function of it,
to `jit`, `vmap` and sweep. Both call the same functions in the same order, so they end with the same parameters.

Axes: B batch, C classes, S steps of one call of `run`.
"""

from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jsnn import check

Metrics = dict[str, Array]


class Phase(NamedTuple):
    """One part of a training.

    Attributes:
      name: what the progress bar says: `train`, `layer 2`, `task 3/5`.
      program: what the trainer's functions are told about the phase at compile time. Phases with equal programs share a compilation.
      epochs: passes over what the phase learns from; 0: it learns nothing, but begins and ends.
      evaluate: when the held-out samples are looked at: after each epoch, once the phase has ended, or never.
    """

    name: str
    program: Hashable = None
    epochs: int = 1
    evaluate: Literal["epochs", "end", "never"] = "epochs"


class TrainState(NamedTuple):
    """Everything that a run needs to go on: saved and restored as a whole, for all ways to learn."""

    own: Any  # the trainer's: model, optimiser, memory, rates; `fit` never opens it
    key: Array  # never changes: epochs and steps fold their number into it
    phase: Int[Array, ""]  # the one at hand; the number of phases once all have ended
    phase_step: Int[Array, ""]  # steps taken in it
    step: Int[Array, ""]  # in all, in the trainer's unit: optimiser steps, or images


class Place(NamedTuple):
    """How far a training has come, in numbers of Python's own; named as in `TrainState`."""

    phase: int
    phase_step: int
    step: int


class Window(NamedTuple):
    """Part of a pool, in the order in which an epoch's batches take it: what `run` gets of a pool that streams from the host."""

    samples: Any  # the rows of W steps, one batch after another
    first: Int[Array, ""]  # step of the epoch that takes the first of them
    per_epoch: Int[Array, ""]


class Prediction(NamedTuple):
    """What a model says about samples.

    >>> said = jsnn.Prediction(label=np.array([2, 0]), scores=np.array([[0.0, 0.1, 0.9], [0.5, 0.3, 0.2]]))
    >>> said.label.tolist()
    [2, 0]

    Attributes:
      label: the class of each sample, `[B]`; -1 where the network stays silent.
      scores: one number a class, `[B, C]`; the larger, the likelier.
    """

    label: Int[Array, "B"]  # the class; -1 where the network stays silent
    scores: Float[Array, "B C"]  # larger is likelier


def _same(state: TrainState, data: Any, program: Hashable) -> TrainState:
    return state


def _never(state: TrainState, per_epoch: Any) -> Array:
    return jnp.zeros((), bool)


class Trainer(NamedTuple):
    """One training problem: what `fit` and `train_fn` carry out. Make one with `supervised`, or with the trainers of `stdp` and `continual`.

    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 3, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.sgd(0.1), batch_size=8, epochs=2)
    >>> trainer.phases[0].epochs
    2

    All functions down to `parameters` are pure. `program` is that of the phase, and static.

    Attributes:
      phases: one after another.
      init: `key -> own`: model, optimiser state and whatever else the trainer carries.
      pool: `(state, data, program) -> pool`: what the phase draws its batches from.
      steps_per_epoch: `pool -> steps`; it may be traced.
      run: `(state, pool, num_steps, program) -> (state, metrics)`: takes steps that must not cross the end of an epoch. `num_steps` may be
        traced, so calls of any length up to S share a compilation. Metrics are `[S]`; those past the end are zero. Rows show
        what `row` makes of them. One named `advance` says by how much each step raises `state.step`; 1 if there is none.
      evaluate: `(state, data, program) -> (state, found)`: looks at the held-out samples. None: a training that cannot be evaluated.
      model: `state -> model`: what predictions need.
      predict: `(model, inputs) -> Prediction`: inputs as the user holds them, without labels.
      begin: `(state, data, program) -> state`: called once as the phase begins.
      end: likewise, as it ends.
      advance: `(state, data, program) -> data`: what later phases learn from, once the phase has ended: outputs of a finished layer.
        Computed again when a run is resumed, so it depends on what no longer changes. None: the data stay.
      done: `(state, per_epoch) -> bool`: end the phase before its last epoch.
      accuracy: `found -> accuracy`, of an evaluation; for `keep_best`.
      parameters: `state -> tree`: what must stay finite.
      order: `(state, pool) -> rows`: which rows of the pool the epoch's batches take, in this order, for pools that stream from the host;
        `run` then gets a `Window` of them. None: the pool must lie on the device.
      resize: `(state, phase) -> state`: on the host, before a phase begins: arrays with room for it. None: shapes never change.
      prepare: `dataset -> data`: a `jsnn.data.Dataset` as the functions above take it.
      where: `(place, pool, per_epoch) -> dict`: entries that say in a row how far the training has come; its epoch if None.
      row: `metrics -> dict`: a row's numbers from the metrics of its steps; their means if None.
      report: `found -> rows`: rows of an evaluation; arrays may have a leading axis of seeds.
      samples: `state -> number`: samples learnt from so far, for the speed.
      inspect: `(model, data)`: on the host, once a run, before the first evaluation: warns of what will not learn.
      keeps_best: whether evaluations decide what the training ends with; see `keep_best`.
      mesh: devices that each batch is cut over.
      many_seeds: whether it takes several keys, see `over_seeds`.
    """

    phases: tuple[Phase, ...]
    init: Callable[[Array], Any]
    pool: Callable[[TrainState, Any, Any], Any]
    steps_per_epoch: Callable[[Any], Any]
    run: Callable[[TrainState, Any, Any, Any], tuple[TrainState, Metrics]]
    evaluate: Any  # a callable, or None
    model: Callable[[TrainState], Any]
    predict: Callable[[Any, Any], Prediction]
    begin: Callable[[TrainState, Any, Any], TrainState] = _same
    end: Callable[[TrainState, Any, Any], TrainState] = _same
    advance: Callable[[TrainState, Any, Any], Any] | None = None
    done: Callable[[TrainState, Any], Array] = _never
    accuracy: Callable[[Any], Array] | None = None
    parameters: Callable[[TrainState], Any] | None = None
    order: Callable[[TrainState, Any], Array] | None = None
    resize: Callable[[TrainState, int], TrainState] | None = None
    prepare: Callable[[Any], Any] | None = None
    where: Callable[[Place, Any, int], dict[str, Any]] | None = None
    row: Callable[[dict[str, Any]], dict[str, float]] | None = None
    report: Callable[[Any], list[dict[str, Any]]] | None = None
    samples: Callable[[TrainState], int] | None = None
    inspect: Callable[[Any, Any], None] | None = None
    keeps_best: bool = False
    mesh: Mesh | None = None
    many_seeds: bool = False


def check_trainer(value: Any) -> None:
    """Refuses what is no trainer.

    Raises:
      TypeError: if it is none.
    """
    remedy = "make one with `jsnn.supervised(task, optimizer, batch_size=..., epochs=...)`, or with those of `jsnn.stdp` and `jsnn.continual`"
    check.kind("trainer", value, Trainer, "a `jsnn.Trainer`", remedy)


def strongly_typed(tree: Any) -> Any:
    """The same values: weak types would turn strong over the first steps, and each change would compile a step anew."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)


def start(trainer: Trainer, key: Array) -> TrainState:
    """The state before the first step; of several seeds for keys `[S]`.

    Raises:
      TypeError: if `key` is none.
      ValueError: if the trainer takes one key and `key` holds several, or the converse.
    """
    check.key(key)
    if key.dtype == jnp.uint32:  # of the old kind
        key = jax.random.wrap_key_data(key)
    if key.ndim and not trainer.many_seeds:
        raise ValueError(
            f"`key` holds {key.size} keys, and this trainer takes one: write `jsnn.over_seeds(trainer)`, or pass one of them."
        )
    if key.ndim != trainer.many_seeds:
        raise ValueError(
            f"`key` must hold one key a seed, [S], got shape {key.shape}: write `jsnn.seed_keys(seed, num_seeds)`."
        )
    split = jax.vmap(jax.random.split) if key.ndim else jax.random.split
    key_init, key_run = jnp.moveaxis(split(key), -1, 0)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(strongly_typed(trainer.init(key_init)), key_run, zero, zero, zero)


def max_steps(trainer: Trainer, state: TrainState, pool: Any, program: Any) -> int:
    """S, the most steps that one call of `run` may take."""

    def none(state, pool):
        return trainer.run(state, pool, jnp.int32(0), program)[1]

    metrics = jax.eval_shape(none, state, pool)
    return jax.tree.leaves(metrics)[0].shape[0]


def grown(trainer: Trainer, state: TrainState) -> list[TrainState]:
    """The state before the first step, and with it what its arrays grow to on the way."""
    found = [state]
    for number in range(len(trainer.phases)):
        larger = trainer.resize(found[-1], number) if trainer.resize else state
        if larger is not found[-1]:
            found.append(larger)
    return found


class Trained(NamedTuple):
    """What `train_fn` returns.

    Attributes:
      state: after the last phase.
      metrics: of the last call of `run` in each phase that took a step: its last epoch, or what `max_steps` leaves of it.
      found: evaluations, one a phase that is evaluated at its end, stacked; otherwise that after the last phase.
    """

    state: TrainState
    metrics: list[Metrics]
    found: Any


def train_fn(trainer: Trainer) -> Callable[[Array, Any], Trained]:
    """The whole training as one pure function `(key, data) -> Trained`, to `jit`, `vmap` and sweep.

    >>> inputs, labels = np.eye(4, dtype=np.float32).repeat(8, axis=0), np.arange(32) // 8
    >>> data = jsnn.data.arrays(inputs, labels, num_test=8)
    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 4, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(0.1), batch_size=8, epochs=2)
    >>> train = jax.jit(jax.vmap(jsnn.train_fn(trainer), in_axes=(0, None)))  # three seeds in one program
    >>> train(jsnn.seed_keys(0, 3), trainer.prepare(data)).found.scores.shape  # seeds, test samples, classes
    (3, 8, 4)

    Phases that follow one another and have the same program become one loop. Held-out samples are looked at once at the end of each phase
    that asks for it, and after the last phase; not in between, unless the trainer keeps its best state by them (`keep_best`).

    Args:
      trainer: from `supervised`, `stdp` or `continual`.

    Returns:
      The function. Its data are what `trainer.prepare` makes of a `jsnn.data.Dataset`.

    Raises:
      TypeError: if `trainer` is none.
      ValueError: when called, if arrays must grow on the way, which a compiled program cannot do.
    """

    check_trainer(trainer)

    def train(key: Array, data: Any) -> Trained:
        state, metrics, found = start(trainer, key), [], []
        if (resize := trainer.resize) is not None:
            last = len(trainer.phases) - 1
            shapes = jax.eval_shape(lambda: resize(state, last))
            if jax.tree.map(jnp.shape, shapes) != jax.tree.map(jnp.shape, state):
                raise ValueError(
                    "A compiled training needs a head that does not grow: give it room for all classes at the start (`--capacity`)."
                )
        for group in _groups(trainer):
            if len(group) == 1 or trainer.advance is not None:
                for phase in group:
                    state, last, seen = _phase(trainer, state, data, phase)
                    metrics.append(last)
                    found.append(jax.tree.map(lambda x: x[None], seen))
                    if trainer.advance is not None:
                        data = trainer.advance(state, data, phase.program)
                    state = state._replace(phase=state.phase + 1)
                continue

            def one(state, _, phase=group[0], data=data):
                state, last, seen = _phase(trainer, state, data, phase)
                return state._replace(phase=state.phase + 1), (last, seen)

            state, (last, seen) = jax.lax.scan(one, state, length=len(group))
            metrics.append(jax.tree.map(lambda x: x[-1], last))
            found.append(seen)
        asked = [f for f in found if f is not None]
        if asked:
            return Trained(
                state, metrics, jax.tree.map(lambda *x: jnp.concatenate(x), *asked)
            )
        program = trainer.phases[-1].program
        if trainer.evaluate is None:
            return Trained(state, metrics, None)
        return Trained(state, metrics, trainer.evaluate(state, data, program)[1])

    return train


def _groups(trainer: Trainer) -> list[list[Phase]]:
    """Phases that follow one another and differ in their names alone."""
    groups: list[list[Phase]] = []
    for phase in trainer.phases:
        if groups and groups[-1][0][1:] == phase[1:]:
            groups[-1].append(phase)
        else:
            groups.append([phase])
    return groups


def _phase(trainer: Trainer, state: TrainState, data: Any, phase: Phase):
    """One phase from its beginning to its end, with the metrics of its last steps, and its evaluation or None."""
    program = phase.program
    state = state._replace(phase_step=jnp.zeros((), jnp.int32))
    state = trainer.begin(state, data, program)
    pool = trainer.pool(state, data, program)
    per_epoch = trainer.steps_per_epoch(pool)
    most = max_steps(trainer, state, pool, program)

    def stretch(carry):
        state, _ = carry
        left = per_epoch - state.phase_step % jnp.maximum(per_epoch, 1)
        state, metrics = trainer.run(state, pool, jnp.minimum(left, most), program)
        if trainer.keeps_best and phase.evaluate == "epochs":
            state = jax.lax.cond(
                state.phase_step % per_epoch == 0,
                lambda state: trainer.evaluate(state, data, program)[0],
                lambda state: state,
                state,
            )
        return state, metrics

    def more(carry):
        state, _ = carry
        left = state.phase_step < phase.epochs * per_epoch
        return left & ~trainer.done(state, per_epoch)

    _, shapes = jax.eval_shape(stretch, (state, None))
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state, metrics = jax.lax.while_loop(more, stretch, (state, none))
    state = trainer.end(state, data, program)
    found = None
    if phase.evaluate == "end":
        state, found = trainer.evaluate(state, data, program)
    return state, metrics, found
