"""A network fed with bfloat16: spikes and synapses in bfloat16, membranes, parameters and statistics in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jsnn import layers, losses, neurons, norm
from jsnn.models.csnn import csnn, fast_csnn
from jsnn.unroll import Constant


@pytest.mark.parametrize("make", [csnn, fast_csnn])
def test_precision_follows_the_input(make):
    net = make((12, 12, 1), 4, neuron=neurons.lif(), rngs=nnx.Rngs(0))
    graphdef, model = layers.split(net)
    images = np.random.default_rng(0).random((6, 12, 12, 1)).astype(np.float32)

    def loss(params, dtype):
        x = Constant(jnp.asarray(images, dtype), 5)
        y, rest = layers.apply(graphdef, model._replace(params=params), x, train=True)
        assert y.dtype == dtype
        return losses.ce_rate(y, jnp.arange(6) % 4).mean(), rest

    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        grad = jax.grad(loss, has_aux=True)
        found[dtype] = jax.jit(grad, static_argnums=1)(model.params, dtype)
        assert {a.dtype for a in jax.tree.leaves(found[dtype])} == {
            jnp.dtype("float32")
        }
    whole = [
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(f[0])])
        for f in found.values()
    ]
    cosine = whole[0] @ whole[1] / jnp.linalg.norm(whole[0]) / jnp.linalg.norm(whole[1])
    assert cosine > 0.9  # some spikes fall on the other side of the threshold
    assert jnp.linalg.norm(whole[0]) > 0


def test_membranes_keep_what_bfloat16_would_lose():
    """0.001 a step on a membrane near 1: bfloat16 has steps of 0.004 there and would stand still."""
    neuron = neurons.integrate_and_fire(threshold=10.0)
    x = Constant(jnp.full((1, 1), 1e-3, jnp.bfloat16), 1000)
    state = neurons.LIFState(jnp.ones((1, 1)))
    layer = layers.Neurons(neuron)
    state, y = layer(state, x)
    assert (state.v.dtype, y.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(state.v, 2.0, atol=2e-3)


def test_batch_statistics_are_those_of_float32():
    """40,000 entries: a sum in bfloat16 stops growing at 256."""
    x = jnp.asarray(np.random.default_rng(0).normal(3, 1, (40_000, 2)), jnp.bfloat16)
    one, zero = jnp.ones(2), jnp.zeros(2)
    y, mean, var = norm.batch_norm(x, one, zero)
    wide = np.asarray(x, np.float64)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(mean, wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, wide.var(0), rtol=1e-4)
    gradient = jax.grad(lambda x: (norm.batch_norm(x, one, zero)[0] ** 2).sum())(x)
    assert gradient.dtype == jnp.bfloat16
