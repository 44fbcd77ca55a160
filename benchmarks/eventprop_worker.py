"""The measured process of `benchmarks.eventprop`: `python -m benchmarks.eventprop_worker STEPS ARRAYS.npz`, driven by `processes.Worker`."""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.serve import serve
from experiments import eventprop_mnist
from jsnn.layers import Model


def build() -> tuple[Any, dict[str, Any]]:
    """The reference recipe of `experiments.eventprop_mnist`: batches in the given order, weights as given."""
    number, arrays = int(sys.argv[1]), np.load(sys.argv[2])
    count, batch, size = arrays["images"].shape
    images = jnp.asarray(arrays["images"].reshape(count * batch, 1, size, 1))
    labels = jnp.asarray(arrays["labels"].reshape(-1))
    cfg = eventprop_mnist.Config(
        out=pathlib.Path(), recipe="reference", batch_size=batch
    )
    trainer, _ = eventprop_mnist.make_trainer(cfg, (1, size, 1), 10, count * batch)
    state = jax.jit(trainer.init)(jax.random.key(0))
    weights = [jnp.asarray(arrays["weight"]), *state.model.params[1:]]
    state = state._replace(model=Model(weights, state.model.rest))
    run = jax.jit(trainer.run, donate_argnums=0)

    def step() -> float:
        nonlocal state
        loss = 0.0
        for _ in range(0, number, trainer.steps_per_epoch):  # whole epochs
            state, metrics = run(state, images, labels, trainer.steps_per_epoch)
            loss = float(metrics.loss[-1])
        return loss

    return step, {"versions": {"jax": jax.__version__}, "steps": number}


if __name__ == "__main__":
    serve(build)
