"""Trainers made from trainers: the same training from many seeds, and one that keeps its best epoch and may end early.

Axes: S seeds.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jsnn import check
from jsnn.train.trainer import Trainer, TrainState, check_trainer


def seed_keys(seed: int, num_seeds: int) -> Array:
    """Keys of the seeds `seed`, `seed + 1`, ...: each is the key of a run of its own with that seed.

    >>> jsnn.seed_keys(7, 3)[1] == jax.random.key(8)
    Array(True, dtype=bool)

    Args:
      seed: the first one.
      num_seeds: S.

    Returns:
      Keys, `[S]`.

    Raises:
      ValueError: if there is no seed, or the last one is beyond 2^32 - 1.
    """
    num_seeds = check.whole("num_seeds", num_seeds, 1)
    seed = check.whole("seed", seed, 0, 2**32 - num_seeds)
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
    check_trainer(trainer)
    if trainer.advance is not None:
        raise ValueError(
            "`over_seeds` is not for a network that learns layer by layer: each seed would keep its own copy of all layer outputs. "
            "Run the seeds one after another, or sweep them with `train_fn`."
        )
    if at_once is not None:
        at_once = check.whole("at_once", at_once, 1)
    seeds = _Seeds(trainer, at_once)

    def unless_default(name, new):
        same = getattr(trainer, name) is Trainer._field_defaults[name]
        return getattr(trainer, name) if same else new

    return trainer._replace(
        init=lambda keys: seeds.over(trainer.init, keys),
        pool=seeds.pool,
        steps_per_epoch=lambda pool: pool.per_epoch,
        run=seeds.run,
        evaluate=seeds.evaluate,
        begin=unless_default("begin", seeds.begin),
        end=unless_default("end", seeds.end),
        done=unless_default("done", seeds.done),
        model=seeds.view(trainer.model),
        parameters=seeds.view(trainer.parameters),
        samples=trainer.samples and seeds.samples,
        predict=seeds.predict,
        resize=trainer.resize and seeds.unchanged,
        order=None,  # each seed has an order of its own
        inspect=trainer.inspect and seeds.inspect,
        many_seeds=True,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Seeds:
    """A trainer's functions for states whose `own` and `key` have a leading axis of seeds."""

    trainer: Trainer
    at_once: int | None

    def over(self, fn, *xs):
        """`fn(*x)` of each seed."""
        if self.at_once == 1:  # no vmap at all: to the bit what one seed does
            return jax.lax.map(lambda x: fn(*x), xs)
        if self.at_once is None or self.at_once >= len(jax.tree.leaves(xs)[0]):
            return jax.vmap(fn)(*xs)
        return jax.lax.map(lambda x: fn(*x), xs, batch_size=self.at_once)

    def each(self, state, fn, *rest):
        """`fn(state of one seed, *rest)` for all seeds."""

        def one(own, key):
            return fn(state._replace(own=own, key=key), *rest)

        return self.over(one, state.own, state.key)

    def view(self, fn):
        """`fn` of the host loop, which does not compile it."""
        return fn and dataclasses.replace(self, at_once=None)._viewing(fn)

    def _viewing(self, fn):
        return lambda state, *rest: self.each(state, fn, *rest)

    def samples(self, state):
        return len(state.key) * self.trainer.samples(_first_seed(state))  # pyright: ignore[reportOptionalCall]

    def inspect(self, models, data):
        self.trainer.inspect(jax.tree.map(lambda x: x[0], models), data)  # pyright: ignore[reportOptionalCall]

    def pool(self, state, data, program):
        pool = self.trainer.pool(_first_seed(state), data, program)
        return _Pool(data, self.trainer.steps_per_epoch(pool))

    def run(self, state, pool, num_steps, program):
        trainer = self.trainer

        def one(now):
            own_pool = trainer.pool(now, pool.data, program)
            new, metrics = trainer.run(now, own_pool, num_steps, program)
            stopped = trainer.done(now, pool.per_epoch)
            keep = jax.tree.map(lambda a, b: jnp.where(stopped, a, b), now.own, new.own)
            return new._replace(own=keep), metrics

        new, metrics = self.each(state, one)
        return _joined(new), jax.tree.map(lambda m: m.mean(0), metrics)

    def begin(self, state, data, program):
        return _joined(self.each(state, self.trainer.begin, data, program))

    def end(self, state, data, program):
        return _joined(self.each(state, self.trainer.end, data, program))

    def evaluate(self, state, data, program):
        new, found = self.each(state, self.trainer.evaluate, data, program)
        return _joined(new), found

    def done(self, state, per_epoch):
        return self.view(self.trainer.done)(state, per_epoch).all()

    def predict(self, models, inputs):
        return self.over(lambda model: self.trainer.predict(model, inputs), models)

    def unchanged(self, state, phase):
        """Refuses growth, which would come in the middle of a program for all seeds."""
        first, resize = _first_seed(state), self.trainer.resize
        if resize is not None and resize(first, phase) is not first:
            raise ValueError(
                "Several seeds at once need a head that does not grow: give it room for all classes at the start (`--capacity`)."
            )
        return state


def _joined(new: TrainState) -> TrainState:
    """Seeds go through phases and steps together."""
    return new._replace(
        phase=new.phase[0], phase_step=new.phase_step[0], step=new.step[0]
    )


def _first_seed(state: TrainState) -> TrainState:
    return state._replace(own=jax.tree.map(lambda x: x[0], state.own), key=state.key[0])


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
    check_trainer(trainer)
    if patience is not None:
        patience = check.whole("patience", patience, 0)
    looks = [phase.evaluate == "epochs" for phase in trainer.phases]
    if trainer.accuracy is None or not any(looks):
        raise ValueError(
            "`keep_best` needs a trainer that is evaluated after each epoch, on validation samples: hold some out (`--num-validation`)."
        )
    keeper = _Keeper(trainer, patience)
    # Nothing to end: the last phase stays open for more epochs.
    open_ended = trainer.end is Trainer._field_defaults["end"]
    return trainer._replace(
        init=keeper.init,
        begin=keeper.begin,
        run=keeper.run,
        evaluate=keeper.evaluate,
        end=trainer.end if open_ended else keeper.end,
        done=keeper.done,
        model=lambda state: state.own.model,
        pool=_view(trainer.pool),
        advance=_view(trainer.advance),
        parameters=_view(trainer.parameters or trainer.model),
        samples=_view(trainer.samples),
        resize=None,
        order=_view(trainer.order),
        keeps_best=True,
    )


def _inner(state: TrainState) -> TrainState:
    return state._replace(own=state.own.own)


def _outer(new: TrainState, best: Best) -> TrainState:
    return new._replace(own=best._replace(own=new.own))


def _view(fn):
    return fn and (lambda state, *rest: fn(_inner(state), *rest))


@dataclasses.dataclass(frozen=True, eq=False)
class _Keeper:
    """A trainer's functions for states that carry the best model beside."""

    trainer: Trainer
    patience: int | None

    def init(self, key):
        own = self.trainer.init(key)
        zero = jnp.zeros((), jnp.int32)
        model = self.trainer.model(TrainState(own, key, zero, zero, zero))
        return Best(own, _copy(model), jnp.float32(-1), zero)

    def begin(self, state, data, program):
        new = self.trainer.begin(_inner(state), data, program)
        model = _copy(self.trainer.model(new))
        return _outer(new, Best((), model, jnp.float32(-1), jnp.int32(0)))

    def run(self, state, pool, num_steps, program):
        new, metrics = self.trainer.run(_inner(state), pool, num_steps, program)
        return _outer(new, state.own), metrics

    def evaluate(self, state, data, program):
        """Looks at the model as it is now, and keeps it if it is the best."""
        trainer, best = self.trainer, state.own
        new, found = trainer.evaluate(_inner(state), data, program)
        now = trainer.accuracy(found).astype(jnp.float32)  # pyright: ignore[reportOptionalCall]
        steps = trainer.steps_per_epoch(trainer.pool(new, data, program))
        better = now >= best.accuracy

        def chosen(new, old):
            return jnp.where(better, new, old)

        model = jax.tree.map(chosen, trainer.model(new), best.model)
        epoch = chosen(new.phase_step // steps, best.epoch)
        kept = Best((), model, chosen(now, best.accuracy), epoch)
        return _outer(new, kept), found

    def done(self, state, per_epoch):
        early = self.trainer.done(_inner(state), per_epoch)
        if self.patience is None:
            return early
        looked = jnp.array([p.evaluate == "epochs" for p in self.trainer.phases])
        waited = state.phase_step // jnp.maximum(per_epoch, 1) - state.own.epoch
        return early | (looked[state.phase] & (waited > self.patience))

    def end(self, state, data, program):
        return _outer(self.trainer.end(_inner(state), data, program), state.own)


def _copy(tree: Any) -> Any:
    """Arrays of their own, so that the originals can be handed over to the next step."""
    return jax.tree.map(jnp.copy, tree)
