"""The reference CSNN: its size, and its spikes against the network written out with XLA's own operations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jsnn import layers, neurons
from jsnn.models.csnn import csnn
from jsnn.unroll import Constant


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_csnn_has_the_reference_number_of_parameters():
    model = nnx.eval_shape(lambda: csnn(neuron=neurons.lif(), rngs=nnx.Rngs(0)))
    params = layers.split(model)[1].params
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(params)) == 1_630_090


def test_csnn_equals_its_layers_written_out():
    """Step by step with XLA's convolution and pooling, from the same parameters.

    All numbers are multiples of powers of two, so that no sum is rounded and every spike must agree.
    """
    T, threshold = 4, 0.75
    neuron = neurons.lif(beta=0.5, threshold=threshold)
    graphdef, shapes = layers.split(
        nnx.eval_shape(lambda: csnn((8, 8, 1), 10, neuron=neuron, rngs=nnx.Rngs(0)))
    )

    def fill(
        path, p
    ):  # NumPy's numbers: the initialisers would take seconds to compile
        if path[-1].key in neuron.params._fields:
            return np.float32(getattr(neuron.params, path[-1].key))
        scale = 1 / math.sqrt(math.prod(p.shape[:-1]) * p.ndim)
        return np.round(64 * scale * normal(*p.shape, seed=p.size)) / 64

    split = jax.tree.map_with_path(fill, shapes)
    image = np.round(4 * np.abs(normal(2, 8, 8, 1))) / 4

    def pooled(x, conv):
        y = lax.conv_general_dilated(
            x,
            conv["weight"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ) + conv["bias"].reshape(1, 1, 1, -1)
        window = (1, 2, 2, 1)
        return lax.reduce_window(y, -jnp.inf, lax.max, window, window, "VALID")

    def dense(x, p):
        return x.reshape(2, -1) @ p["weight"] + p["bias"].reshape(1, -1)

    top = split.params["layers"]
    inner = top[2]["layers"]
    stages = [(pooled, top[0]), (pooled, inner[1]), (dense, top[3]), (dense, top[5])]

    @jax.jit
    def step(v, y):
        after = []
        for u, (stage, p) in zip(v, stages, strict=True):
            u = 0.5 * u + stage(y, p)
            y = (u > threshold).astype(jnp.float32)
            after.append(u - threshold * y)
        return after, y

    sizes = [(2, 4, 4, 32), (2, 2, 2, 64), (2, 512), (2, 10)]
    v, want = [np.zeros(size, np.float32) for size in sizes], []
    for _ in range(T):
        v, y = step(v, image)
        want.append(y)
    want = np.stack(want)
    run = jax.jit(lambda split, x: layers.apply(graphdef, split, Constant(x, T))[0])
    got = run(split, image)
    assert 0.05 < want.mean() < 0.95
    assert len(np.unique(want, axis=0)) > 2  # neither silent nor stuck
    np.testing.assert_array_equal(got, want)
