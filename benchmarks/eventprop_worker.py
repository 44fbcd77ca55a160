"""The measured process of `benchmarks.eventprop`: `python -m benchmarks.eventprop_worker STEPS ARRAYS.npz`, driven by `processes.Worker`."""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.serve import serve
from experiments import eventprop_mnist
from jsnn.train import rebuild, supervised
from jsnn.train.trainer import start


def build() -> tuple[Any, dict[str, Any]]:
    """The reference recipe of `experiments.eventprop_mnist`: batches in the given order, weights as given."""
    number, arrays = int(sys.argv[1]), np.load(sys.argv[2])
    count, batch, size = arrays["images"].shape
    samples = supervised.Samples(
        jnp.asarray(arrays["images"].reshape(count * batch, 1, size, 1)),
        jnp.asarray(arrays["labels"].reshape(-1)),
    )
    cfg = eventprop_mnist.Config(
        out=pathlib.Path(), recipe="reference", batch_size=batch
    )
    shapes = rebuild.Shapes((1, size, 1), 10, count * batch)
    trainer = eventprop_mnist.trainer_for(cfg, shapes)
    state = jax.jit(lambda key: start(trainer, key))(jax.random.key(0))
    model = state.own.model
    weights = [jnp.asarray(arrays["weight"]), *model.params[1:]]
    model = model._replace(params=weights)
    state = state._replace(own=state.own._replace(model=model))
    run = jax.jit(trainer.run, donate_argnums=0, static_argnums=3)

    def step() -> float:
        nonlocal state
        loss = 0.0
        for _ in range(0, number, count):  # whole epochs
            state, metrics = run(state, samples, count, None)
            loss = float(metrics["loss"][-1])
        return loss

    return step, {"versions": {"jax": jax.__version__}, "steps": number}


if __name__ == "__main__":
    serve(build)
