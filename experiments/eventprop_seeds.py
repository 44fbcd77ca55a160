"""One training problem from many seeds at once, in one compiled program."""

import jax
from jaxtyping import Array

from jsnn.training import Trainer, TrainState

# The step is the same for all seeds, so positions in the epoch stay plain numbers.
_AXES = TrainState(model=0, opt_state=0, key=0, step=None)  # pyright: ignore[reportArgumentType]


def keys(seed: int, num_seeds: int) -> Array:
    """Keys of the seeds `seed`, `seed + 1`, ...; each is the key of a run of its own with that seed."""
    return jax.vmap(jax.random.key)(seed + jax.numpy.arange(num_seeds))


def over_seeds(trainer: Trainer) -> Trainer:
    """The same problem from S keys at once: `init` takes keys `[S]`.

    Models, optimiser states and keys gain a leading axis S. Metrics are `[steps, S]`, evaluations `[S, N]`, so `jsnn.driver` drives
    this trainer too, and its rows are means over seeds.
    """

    def init(keys):
        return jax.vmap(trainer.init, out_axes=_AXES)(keys)

    def run(state, samples, labels, num_steps):
        fn = jax.vmap(trainer.run, (_AXES, None, None, None), (_AXES, 1))
        return fn(state, samples, labels, num_steps)

    def evaluate(model, samples, labels):
        return jax.vmap(trainer.evaluate, (0, None, None))(model, samples, labels)

    def train(keys, samples, labels, num_epochs):
        fn = jax.vmap(lambda key: trainer.train(key, samples, labels, num_epochs))
        return fn(keys)

    return Trainer(init, run, evaluate, train, trainer.steps_per_epoch)
