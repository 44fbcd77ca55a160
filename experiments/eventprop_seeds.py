"""One training problem from many seeds at once, in one compiled program."""

import jax
import numpy as np
from jaxtyping import Array

from jsnn.training import Trainer, TrainState


def keys(seed: int, num_seeds: int) -> Array:
    """Keys of the seeds `seed`, `seed + 1`, ...; each is the key of a run of its own with that seed."""
    seeds = np.uint32(seed) + np.arange(num_seeds, dtype=np.uint32)
    return jax.vmap(jax.random.key)(seeds)


def over_seeds(trainer: Trainer, *, at_once: int | None = None) -> Trainer:
    """The same problem from S keys in one program: `init` takes keys `[S]`.

    Models, optimiser states and keys gain a leading axis S, evaluations are `[S, N]`, and metrics of training are means over seeds; so
    `jsnn.driver` drives this trainer too, and its rows are means over seeds.

    Args:
      trainer: of one seed.
      at_once: seeds that are `vmap`ped; the others wait their turn in a loop around them. All of them if None, which is right for a
        GPU. Where the work of one seed fills the caches, as on a CPU, 1 is twice as fast.
    """

    def over(fn, xs):
        return jax.lax.map(fn, xs, batch_size=at_once or len(jax.tree.leaves(xs)[0]))

    def init(keys):
        state = over(trainer.init, keys)
        return state._replace(step=state.step[0])

    def run(state, samples, labels, num_steps):
        def one(own):
            full = TrainState(*own, step=state.step)
            return trainer.run(full, samples, labels, num_steps)

        new, metrics = over(one, (state.model, state.opt_state, state.key))
        metrics = jax.tree.map(lambda m: m.mean(0), metrics)
        return new._replace(step=new.step[0]), metrics

    def evaluate(model, samples, labels):
        return over(lambda model: trainer.evaluate(model, samples, labels), model)

    def train(keys, samples, labels, num_epochs):
        return jax.lax.scan(
            lambda state, _: run(state, samples, labels, trainer.steps_per_epoch),
            init(keys),
            length=num_epochs,
        )

    return Trainer(init, run, evaluate, train, trainer.steps_per_epoch)
