"""The measured process of this library: `python -m benchmarks.dense_worker '{"network": "linear_lif", ...}'`, driven by `processes.Worker`."""

import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.dense_inputs import BETA, OUTPUTS, inputs, weights
from benchmarks.peers.serve import jax_memory, serve
from benchmarks.timing import compile_step
from jsnn import neurons, surrogate
from jsnn.unroll import neuron_block, unroll


class Work(NamedTuple):
    """What to run; see `benchmarks.dense`."""

    network: str
    neurons: int
    timesteps: int
    batch_size: int
    direction: str


def _over_time(neuron: neurons.Neuron, params: Any, current: jax.Array) -> Any:
    block = neuron_block(neuron, params)
    return unroll(block, neuron.init(current.shape[1:]), current)[1]


def forward(work: Work):
    """`(weights, x) -> y [T, B, ...]`."""
    lif = neurons.lif(beta=BETA, delayed_reset=True, spike_fn=surrogate.arctan())

    def run(w, x):
        if work.network == "lif":
            return _over_time(lif, lif.params, x)
        if work.network == "linear_lif":
            return _over_time(lif, lif.params, x @ w["in"])
        cell = neurons.recurrent(lif, w["recurrent"])
        params = neurons.RecurrentParams(lif.params, w["recurrent"])
        return _over_time(cell, params, x @ w["in"]) @ w["out"]

    return run


def build(work: Work) -> tuple[Any, dict[str, Any]]:
    """Compiles the call."""
    drawn = weights(work.network, work.neurons)
    w = {name: jnp.asarray(value) for name, value in drawn.items()}
    x = jnp.asarray(inputs(work.network, work.neurons, work.timesteps, work.batch_size))
    run = forward(work)

    def with_gradient(w, x):
        def total(w, x):
            y = run(w, x)
            return y.sum(), y

        (_, y), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(w, x)
        return y.sum(), gradients

    fn = with_gradient
    if work.direction == "forward":
        fn = lambda w, x: (run(w, x).sum(), ())  # noqa: E731
    compiled, seconds = compile_step(fn, w, x)

    def step() -> float:
        return float(np.asarray(jax.block_until_ready(compiled(w, x))[0]))

    facts = {
        "compile_seconds": seconds,
        "backend": jax.default_backend(),
        "outputs": OUTPUTS,
        "versions": {"jax": jax.__version__},
        "memory": jax_memory(),
    }
    return step, facts


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "float32")  # no TF32
    serve(lambda: build(Work(**json.loads(sys.argv[1]))))
