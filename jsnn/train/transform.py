"""Trainers made from trainers: the same training from many seeds, and one that keeps its best epoch and may end early.

Axes: S seeds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jsnn.train.trainer import Trainer, TrainState


def seed_keys(seed: int, num_seeds: int) -> Array:
    """Keys of the seeds `seed`, `seed + 1`, ...: each is the key of a run of its own with that seed.

    >>> jsnn.seed_keys(7, 3)[1] == jax.random.key(8)
    Array(True, dtype=bool)

    Args:
      seed: the first one.
      num_seeds: S.

    Returns:
      Keys, `[S]`.
    """
    seeds = np.uint32(seed) + np.arange(num_seeds, dtype=np.uint32)
    return jax.vmap(jax.random.key)(seeds)


class _Pool(NamedTuple):
    """What the seeds share: each draws its own pool from the data, so that none is stored S times."""

    data: Any
    per_epoch: Any


def over_seeds(trainer: Trainer, *, at_once: int | None = None) -> Trainer:
    """The same training from S seeds in one program: the key is then `[S]`, see `seed_keys`.

    >>> inputs, labels = np.eye(4, dtype=np.float32).repeat(8, axis=0), np.arange(32) // 8
    >>> data = jsnn.data.arrays(inputs, labels, num_test=8)
    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 4, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(0.1), batch_size=8, epochs=2)
    >>> fitted = jsnn.fit(jsnn.over_seeds(trainer), data, jsnn.seed_keys(0, 3), progress=False)
    >>> fitted.found.hit.mean(axis=1).shape  # test accuracy of each seed
    (3,)

    Each seed ends as it would alone. Model, optimiser and memory have a leading axis S, and so have evaluations and predictions.
    Metrics of training and rows of evaluations are means over seeds. A seed that is done before the others stands still.

    Args:
      trainer: of one seed.
      at_once: seeds that are `vmap`ped; the others wait their turn in a loop around them. None: all, which is right for a GPU. On a CPU,
        where one seed fills the caches, 1 is fastest.

    Returns:
      A trainer of all seeds.

    Raises:
      ValueError: if the trainer's data depend on what a seed has learnt, as those of a network that learns layer by layer do.
    """
    if trainer.advance is not None:
        raise ValueError(
            "`over_seeds` is not for a network that learns layer by layer: each seed would keep its own copy of all layer outputs. "
            "Run the seeds one after another, or sweep them with `train_fn`."
        )

    def over(fn, *xs):
        if at_once == 1:  # no vmap at all: to the bit what one seed does
            return jax.lax.map(lambda x: fn(*x), xs)
        if at_once is None or at_once >= len(jax.tree.leaves(xs)[0]):
            return jax.vmap(fn)(*xs)
        return jax.lax.map(lambda x: fn(*x), xs, batch_size=at_once)

    def each(state, fn, *rest, over=over):
        """`fn(state of one seed, *rest)` for all seeds."""

        def one(own, key):
            return fn(state._replace(own=own, key=key), *rest)

        return over(one, state.own, state.key)

    def view(fn):
        """Of the host loop, which does not compile it."""
        return fn and (
            lambda state, *rest: each(
                state, fn, *rest, over=lambda fn, *x: jax.vmap(fn)(*x)
            )
        )

    def unless_default(name, new):
        same = getattr(trainer, name) is Trainer._field_defaults[name]
        return getattr(trainer, name) if same else new

    def samples(state):
        first = state._replace(own=_first(state.own), key=state.key[0])
        return len(state.key) * trainer.samples(first)  # pyright: ignore[reportOptionalCall]

    def joined(new):
        """Seeds go through phases and steps together."""
        return new._replace(
            phase=new.phase[0], phase_step=new.phase_step[0], step=new.step[0]
        )

    def pool(state, data, program):
        first = state._replace(own=_first(state.own), key=state.key[0])
        steps = trainer.steps_per_epoch(trainer.pool(first, data, program))
        return _Pool(data, steps)

    def run(state, pool, num_steps, program):
        def one(now):
            own_pool = trainer.pool(now, pool.data, program)
            new, metrics = trainer.run(now, own_pool, num_steps, program)
            stopped = trainer.done(now, pool.per_epoch)
            keep = jax.tree.map(lambda a, b: jnp.where(stopped, a, b), now.own, new.own)
            return new._replace(own=keep), metrics

        new, metrics = each(state, one)
        return joined(new), jax.tree.map(lambda m: m.mean(0), metrics)

    def evaluate(state, data, program):
        new, found = each(state, trainer.evaluate, data, program)
        return joined(new), found

    return trainer._replace(
        init=lambda keys: over(trainer.init, keys),
        pool=pool,
        steps_per_epoch=lambda pool: pool.per_epoch,
        run=run,
        evaluate=evaluate,
        begin=unless_default(
            "begin", lambda *args: joined(each(args[0], trainer.begin, *args[1:]))
        ),
        end=unless_default(
            "end", lambda *args: joined(each(args[0], trainer.end, *args[1:]))
        ),
        done=unless_default("done", lambda *args: view(trainer.done)(*args).all()),
        model=view(trainer.model),
        parameters=view(trainer.parameters),
        samples=trainer.samples and samples,
        predict=lambda models, inputs: over(
            lambda model: trainer.predict(model, inputs), models
        ),
        resize=trainer.resize and _unchanged(trainer.resize),
        order=None,  # each seed has an order of its own
    )


def _unchanged(resize: Any) -> Any:
    """Refuses growth, which would come in the middle of a program for all seeds."""

    def checked(state: TrainState, phase: int) -> TrainState:
        first = state._replace(own=_first(state.own), key=state.key[0])
        if resize(first, phase) is not first:
            raise ValueError(
                "Several seeds at once need a head that does not grow: give it room for all classes at the start (`--capacity`)."
            )
        return state

    return checked


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


class Best(NamedTuple):
    """What `keep_best` carries beside the trainer's own."""

    own: Any
    model: Any  # of the best epoch so far
    accuracy: Float[
        Array, ""
    ]  # on the held-out samples; -1 before the first evaluation
    epoch: Int[Array, ""]  # when that was


def keep_best(trainer: Trainer, *, patience: int | None = None) -> Trainer:
    """The same training, ending with the model of the epoch that did best on the held-out samples; of equal ones, the last.

    Held-out samples choose the model here, so they must not be the test set.

    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 3, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(1e-3), batch_size=32, epochs=50)
    >>> jsnn.keep_best(trainer, patience=5).keeps_best
    True

    Args:
      trainer: one that is evaluated after each epoch.
      patience: a phase ends once more epochs than this have not improved; None: never.

    Returns:
      A trainer.

    Raises:
      ValueError: if the trainer is not evaluated after each epoch.
    """
    accuracy = trainer.accuracy
    if accuracy is None or not any(p.evaluate == "epochs" for p in trainer.phases):
        raise ValueError(
            "`keep_best` needs a trainer that is evaluated after each epoch, on validation samples: hold some out (`--num-validation`)."
        )

    def inner(state):
        return state._replace(own=state.own.own)

    def outer(new, best):
        return new._replace(own=best._replace(own=new.own))

    def init(key):
        own = trainer.init(key)
        zero = jnp.zeros((), jnp.int32)
        model = trainer.model(TrainState(own, key, zero, zero, zero))
        return Best(own, _copy(model), jnp.float32(-1), zero)

    def begin(state, data, program):
        new = trainer.begin(inner(state), data, program)
        model = _copy(trainer.model(new))
        return outer(new, Best((), model, jnp.float32(-1), jnp.int32(0)))

    def run(state, pool, num_steps, program):
        new, metrics = trainer.run(inner(state), pool, num_steps, program)
        return outer(new, state.own), metrics

    def evaluate(state, data, program):
        """Looks at the model as it is now, and keeps it if it is the best."""
        new, found = trainer.evaluate(inner(state), data, program)
        best, now = state.own, accuracy(found).astype(jnp.float32)
        steps = trainer.steps_per_epoch(trainer.pool(new, data, program))
        better = now >= best.accuracy

        def chosen(new, old):
            return jnp.where(better, new, old)

        return outer(
            new,
            Best(
                (),
                jax.tree.map(chosen, trainer.model(new), best.model),
                chosen(now, best.accuracy),
                chosen(new.phase_step // steps, best.epoch),
            ),
        ), found

    def done(state, per_epoch):
        early = trainer.done(inner(state), per_epoch)
        if patience is None:
            return early
        looked = jnp.array([p.evaluate == "epochs" for p in trainer.phases])
        waited = state.phase_step // jnp.maximum(per_epoch, 1) - state.own.epoch
        return early | (looked[state.phase] & (waited > patience))

    def end(state, data, program):
        return outer(trainer.end(inner(state), data, program), state.own)

    # Nothing to end: the last phase stays open for more epochs.
    open_ended = trainer.end is Trainer._field_defaults["end"]

    def view(fn):
        return fn and (lambda state, *rest: fn(inner(state), *rest))

    return trainer._replace(
        init=init,
        begin=begin,
        run=run,
        evaluate=evaluate,
        end=trainer.end if open_ended else end,
        done=done,
        model=lambda state: state.own.model,
        pool=view(trainer.pool),
        advance=view(trainer.advance),
        parameters=view(trainer.parameters or trainer.model),
        samples=view(trainer.samples),
        resize=None,
        order=view(trainer.order),
        keeps_best=True,
    )


def _copy(tree: Any) -> Any:
    """Arrays of their own, so that the originals can be handed over to the next step."""
    return jax.tree.map(jnp.copy, tree)
