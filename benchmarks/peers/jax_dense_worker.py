"""The measured process of a peer in JAX: PEER_PYTHON benchmarks/peers/jax_dense_worker.py LIBRARY '{"network": "linear_lif", ...}'."""

import json
import math
import sys
from importlib.metadata import version
from typing import Any

import dense_inputs
from serve import jax_memory, serve

BETA = dense_inputs.BETA


def _spyx(network: str, n: int, w: dict[str, Any]) -> tuple[Any, Any]:
    """`(run, parameters)` of modules in a `Sequential`, stepped by the library's `run`; dense layers stay within the loop."""
    import spyx.nn as snn  # pyright: ignore[reportMissingImports]
    from flax import nnx
    from spyx import axn  # pyright: ignore[reportMissingImports]

    rngs = nnx.Rngs(0)

    def linear(weights):
        layer = nnx.Linear(*weights.shape, use_bias=False, rngs=rngs)
        layer.kernel.set_value(weights)
        return layer

    settings = {"beta": BETA, "activation": axn.arctan(), "rngs": rngs}
    if network == "lif":
        model = snn.LIF((n,), **settings)
    elif network == "linear_lif":
        model = snn.Sequential(linear(w["in"]), snn.LIF((n,), **settings))
    else:
        hidden = snn.RLIF((n,), **settings)
        hidden.recurrent_w.set_value(w["recurrent"])
        model = snn.Sequential(linear(w["in"]), hidden, linear(w["out"]))
    graph, params = nnx.split(model)
    return lambda params, x: snn.run(nnx.merge(graph, params), x)[0], params


def _jaxpike(network: str, n: int, w: dict[str, Any]) -> tuple[Any, Any]:
    """Likewise; dense layers of a chain leave its loop. The neuron takes `1 - beta` of its input, so weights into it are as much larger."""
    import equinox as eqx  # pyright: ignore[reportMissingImports]
    import jax
    import jaxpike as jp  # pyright: ignore[reportMissingImports]

    gain = 1 / (1 - BETA)

    def dense(weights, gain=1.0):
        layer = jp.Dense(*weights.shape, key=jax.random.key(0), use_bias=False)
        return eqx.tree_at(lambda layer: layer.weight, layer, gain * weights.T)

    lif = jp.LIF(tau=-1 / math.log(BETA), surrogate=jp.ATan())
    if network == "lif":
        return lambda net, x: jp.unroll(net, gain * x)[0], lif
    if network == "linear_lif":
        net = jp.Sequential(dense(w["in"], gain), lif)
    else:
        nodes = {
            "in": dense(w["in"], gain),
            "hidden": lif,
            "recurrent": dense(w["recurrent"], gain),
            "out": dense(w["out"]),
        }
        edges = [("input", "in"), ("in", "hidden"), ("hidden", "recurrent")]
        edges += [("recurrent", "hidden"), ("hidden", "out")]
        net = jp.Graph(nodes, edges, output="out")
    return lambda net, x: jp.unroll(net, x)[0], net


def build() -> tuple[Any, dict[str, Any]]:
    """The compiled call, with gradients or without."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "float32")  # no TF32
    library, work = sys.argv[1], json.loads(sys.argv[2])
    network, n = work["network"], work["neurons"]
    drawn = dense_inputs.weights(network, n)
    w = {name: jnp.asarray(value) for name, value in drawn.items()}
    x = jnp.asarray(
        dense_inputs.inputs(network, n, work["timesteps"], work["batch_size"])
    )
    run, params = (_spyx if library == "spyx" else _jaxpike)(network, n, w)

    def total(params, x):
        return run(params, x).sum()

    fn = total if work["direction"] == "forward" else jax.value_and_grad(total, (0, 1))
    # Activations and settings of a module are leaves too, but no arrays: they stay in the program.
    leaves, tree = jax.tree.flatten(params)
    variable = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def call(arrays, x):
        filled = list(leaves)
        for k, array in zip(variable, arrays, strict=True):
            filled[k] = array
        return fn(jax.tree.unflatten(tree, filled), x)

    compiled = jax.jit(call)

    def step() -> float:
        y = jax.block_until_ready(compiled([leaves[k] for k in variable], x))
        return float(y if work["direction"] == "forward" else y[0])

    versions = {library: version(library), "jax": jax.__version__}
    facts = {"backend": jax.default_backend(), "memory": jax_memory()}
    return step, {"versions": versions} | facts


if __name__ == "__main__":
    serve(build)
