"""A stream learnt from a key to the matrix of accuracies in one pure function, to `jit` and to `vmap` over keys, step sizes and settings.

The same functions in the same order as in `jsnn.continual.driver`; what is missing is what a run folder is for.

Axes: S tasks trained or tested, C columns of the head.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jsnn.continual import metrics, samples
from jsnn.continual.buffer import Batch
from jsnn.continual.method import Settings
from jsnn.continual.samples import Samples
from jsnn.continual.spiking import BatchNormPolicy
from jsnn.continual.training import MAX_STEPS, Learner, State


class Hits(NamedTuple):
    """Samples predicted right, tasks trained by tasks tested; −1 where none were tested."""

    class_il: Int[Array, "S S"]
    task_il: Int[Array, "S S"]


def train(
    learner: Learner,
    key: Array,
    data: Samples,
    settings: Settings,
    columns: Bool[Array | np.ndarray, "S C"],
    *,
    epochs_per_task: int,
    batch_norm: BatchNormPolicy = "train",
) -> tuple[State, Hits]:
    """Trains on all tasks and tests those seen so far after each.

    Args:
      learner: may hold traced numbers.
      key: decides initial weights and every other draw.
      data: from `samples.put`.
      settings: weights of the method's parts, which may be traced.
      columns: which columns are each task's, from `samples.columns_of`; C is the head's capacity.
      epochs_per_task: passes over a task's samples.
      batch_norm: as given to the learner.
    """
    count, capacity = columns.shape
    state = learner.init(key, capacity, data.train.shape[1])
    columns = jnp.asarray(columns)

    def learn(state: State, task: Array, later: bool) -> tuple[State, Hits]:
        batch = samples.of_task(data, task)
        state = learner.begin(state, settings, batch, data.num_open[task], later)
        pool = learner.pool(state, batch, samples.seen(data, task))
        state = _epochs(learner, state, settings, pool, task, epochs_per_task, later)
        state = learner.end(state, settings, batch, later)
        return state, hits_on(learner, state, data, settings, columns, task, later)

    tasks = range(count)
    if learner.method.data == "all":  # all classes in one run
        tasks = range(count - 1, count)
        state = state._replace(task=jnp.int32(count - 1))
    hits = [Hits(*[jnp.full((tasks[0], count), -1, jnp.int32)] * 2)]
    # One program for all tasks, or one for the first and one for the others.
    for later, group in itertools.groupby(
        tasks, lambda task: learner.later(task, batch_norm)
    ):
        state, found = jax.lax.scan(
            lambda state, task, later=later: learn(state, task, later),
            state,
            jnp.array(list(group), jnp.int32),
        )
        hits.append(found)
    return state, jax.tree.map(lambda *rows: jnp.concatenate(rows), *hits)


def hits_on(
    learner: Learner,
    state: State,
    data: Samples,
    settings: Settings,
    columns: Array,
    task: Array,
    later: bool,
    *,
    of_task: Callable[[Samples, Array], Batch] = samples.tested,
) -> Hits:
    """What is right on each task up to `task`, the one just ended; `of_task`: `samples.tested` or `samples.validated`."""

    def one(on_task):
        batch = of_task(data, on_task)
        found = learner.predict(
            state, settings, batch, columns[on_task], data.num_open[task], later
        )
        right = [(p == batch.labels) & batch.valid for p in found]
        return Hits(*(r.sum(dtype=jnp.int32) for r in right))

    none = Hits(jnp.int32(-1), jnp.int32(-1))
    return jax.lax.map(
        lambda i: jax.lax.cond(i <= task, one, lambda _: none, i),
        jnp.arange(len(columns), dtype=jnp.int32),
    )


def _epochs(
    learner: Learner,
    state: State,
    settings: Settings,
    pool: Batch,
    task: Array,
    epochs: int,
    later: bool,
) -> State:
    """All of a task's epochs, in stretches as long as `run` can take."""
    size, frozen = learner.batch_size, learner.method.freeze_after
    per_epoch = jnp.maximum(-(-pool.valid.sum(dtype=jnp.int32) // size), 1)
    total = jnp.where(pool.valid.any(), epochs * per_epoch, 0)
    if frozen is not None:
        total = jnp.where(task < frozen, total, 0)

    def stretch(state):
        left = per_epoch - state.task_step % per_epoch
        length = jnp.minimum(left, MAX_STEPS)
        return learner.run(state, settings, pool, length, later)[0]

    return jax.lax.while_loop(lambda s: s.task_step < total, stretch, state)


def accuracies(
    hits: Int[np.ndarray, "S S"], counts: Int[np.ndarray, "S"]
) -> metrics.Matrix:
    """The matrix of accuracies, NaN where none were tested."""
    known = (hits >= 0) & (counts > 0)
    return np.where(known, hits / np.maximum(counts, 1), np.nan)
