"""Winograd's convolution against XLA's own, gradients included, and where `conv2d` takes it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jsnn.kernels import conv, winograd

# Images [N, H, W, I], O, and the zeros added above and below, left and right.
GEOMETRIES = {
    "whole_tiles": ((2, 8, 8, 5), 7, ((1, 1), (1, 1))),
    "parts_of_tiles": ((3, 7, 10, 4), 3, ((1, 1), (1, 1))),
    "no_padding": ((2, 6, 9, 3), 4, ((0, 0), (0, 0))),
    "uneven_padding": ((1, 5, 4, 2), 6, ((2, 0), (0, 1))),
    "smaller_than_a_tile": ((2, 3, 2, 3), 2, ((1, 1), (2, 2))),
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def lax_conv(x, w, pads):
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=names)


@functools.partial(jax.jit, static_argnums=2)
def both(x, w, pads):
    """Output and both gradients, and the same of `lax`; the cotangent differs from pixel to pixel."""
    want, vjp = jax.vjp(functools.partial(lax_conv, pads=pads), x, w)
    g = jnp.cos(jnp.arange(want.size, dtype=x.dtype)).reshape(want.shape)
    got = winograd.forward(x, w, pads)
    gradients = winograd.input_grad(g, w, pads), winograd.weight_grad(x, g, pads)
    return (got, *gradients), (want, *vjp(g))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
def test_it_is_a_convolution(name, block_bytes, monkeypatch):
    """To the rounding of float64, in one block and in many."""
    monkeypatch.setattr(winograd, "_BLOCK_BYTES", block_bytes)
    both.clear_cache()
    shape, outputs, pads = GEOMETRIES[name]
    with jax.enable_x64(True):
        got, want = both(normal(*shape), normal(3, 3, shape[-1], outputs), pads)
    for a, b in zip(got, want, strict=True):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_rounding_of_float32():
    """Transforms with entries up to 8 cost a digit: 3e-5 of the largest value is what the docstring of `conv2d` promises, with room."""
    x, w = normal(2, 16, 16, 64), normal(3, 3, 64, 64)
    got, want = both(x.astype(np.float32), w.astype(np.float32), ((1, 1), (1, 1)))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * np.abs(b).max())


def products(shape, outputs, dtype=np.float32, **options):
    """Matrix products with a batch of 36 in the program of a convolution and its gradients."""

    def run(x, w):
        y, vjp = jax.vjp(functools.partial(conv.conv2d, **options), x, w)
        return y, vjp(y)

    args = [jax.ShapeDtypeStruct(s, dtype) for s in (shape, (3, 3, shape[3], outputs))]
    text = jax.jit(run).lower(*args).as_text()
    return text.count("batching_dims = [0] x [0]")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU has cuDNN")
def test_convolutions_with_channels_enough_take_it():
    # One each for the output and both gradients.
    assert products((2, 16, 16, 64), 128) == 3
    assert products((2, 18, 18, 64), 128, padding="valid") == 3
    assert products((2, 28, 28, 1), 32) == 0
    assert products((2, 14, 14, 32), 64) == 0
    assert products((2, 16, 16, 64), 128, stride=2) == 0
    assert products((2, 16, 16, 64), 128, padding=3) == 0
    assert products((2, 16, 16, 64), 128, dtype=jnp.bfloat16) == 0


def test_batched_weights_take_it_too():
    x, w = normal(2, 8, 8, 64).astype(np.float32), normal(3, 3, 3, 64, 64)
    w = w.astype(np.float32)
    assert winograd.pays(8, 8, 64, 64)
    got = jax.jit(jax.vmap(conv.conv2d, (None, 0)))(x, w)
    for one, weights in zip(got, w, strict=True):
        want = jax.jit(lax_conv, static_argnums=2)(x, weights, "SAME")
        np.testing.assert_allclose(one, want, rtol=0, atol=1e-3)
