"""The measured process of this library: `python -m benchmarks.cil_worker '{"timesteps": 10, ...}'`, driven by `processes.Worker`."""

import json
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.peers.serve import serve
from benchmarks.timing import compile_step
from jsnn import encoders, head, layers
from jsnn.continual import spiking
from jsnn.models.cil_cnn import cil_cnn

_CLASSES = 10


class Work(NamedTuple):
    """What to run."""

    timesteps: int = 10
    batch_size: int = 64
    width: int = 64
    mode: Literal["train", "eval"] = "train"


class Workload(NamedTuple):
    """A training step `(state, images, labels) -> (state, loss)`, what it starts from, and the same arrays for PyTorch."""

    step: Callable[..., Any]
    state: Any
    images: jax.Array
    labels: jax.Array
    arrays: dict[str, np.ndarray]


def workload(work: Work) -> Workload:
    """The reference network on invented images of normalised pixels."""
    module = cil_cnn(
        (32, 32, 3), _CLASSES, width=work.width, rngs=nnx.Rngs(jax.random.key(0))
    )
    arrays = arrays_of(module)
    graphdef, model = layers.split(module)
    network = spiking.make_network(
        graphdef,
        head.column_tree(graphdef, model),
        encode=encoders.constant(work.timesteps),
        read_out="rate",
        batch_norm=work.mode,
    )
    optimizer = optax.adam(1e-3)

    def step(state, images, labels):
        (params, rest), opt_state = state

        def loss(params):
            here = layers.Model(params, rest)
            output = network.apply(here, jax.random.key(0), images, _CLASSES, True)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                output.logits, labels
            )
            return losses.mean(), output.rest

        (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (layers.Model(params, rest), opt_state), value

    rng = np.random.default_rng(0)
    images = rng.normal(size=(work.batch_size, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(_CLASSES, size=work.batch_size).astype(np.int32)
    arrays |= {"images": images, "labels": labels}
    state = (model, optimizer.init(model.params))
    return Workload(step, state, jnp.asarray(images), jnp.asarray(labels), arrays)


def weighted(module: layers.Sequence) -> dict[str, Any]:
    """The layers that have weights, under the names that the original gives them."""
    found = [x for x in module.flat() if isinstance(x, layers.Conv | layers.Dense)]
    return dict(zip(("conv1", "conv2", "conv3", "fc"), found, strict=True))


def arrays_of(module: layers.Sequence) -> dict[str, np.ndarray]:
    """Their weights and biases."""
    return {
        f"{name}.{part}": np.asarray(getattr(layer, part)[...])
        for name, layer in weighted(module).items()
        for part in ("weight", "bias")
    }


def build(work: Work) -> tuple[Any, dict[str, Any]]:
    """Compiles the step and says what compiling took and what memory the program plans for."""
    load = workload(work)
    state = load.state
    compiled, seconds = compile_step(
        load.step, state, load.images, load.labels, donate=(0,)
    )

    def step() -> float:
        nonlocal state
        state, value = compiled(state, load.images, load.labels)
        return float(value)

    analysis = compiled.memory_analysis()
    return step, {
        "compile_seconds": seconds,
        "temp_bytes": getattr(analysis, "temp_size_in_bytes", None),
        "backend": jax.default_backend(),
        "versions": {"jax": jax.__version__},
    }


if __name__ == "__main__":
    serve(lambda: build(Work(**json.loads(sys.argv[1]))))
