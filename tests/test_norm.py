"""Batch norm's own gradient against the one JAX derives from its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import norm


def by_definition(x, scale, offset, epsilon):
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    shape = (1,) * len(axes) + (-1,)
    normal = (x - mean.reshape(shape)) / jnp.sqrt(var + epsilon).reshape(shape)
    return normal * scale.reshape(shape) + offset.reshape(shape), mean, var


@pytest.mark.parametrize("shape", [(7, 3), (4, 5, 2, 3), (2, 3, 2, 2, 3)])
def test_equals_its_definition_with_gradients(shape):
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(2, 3, shape), jnp.float32) for _ in range(2))
    scale, offset = jnp.array([0.5, 1.0, -2.0]), jnp.array([0.0, 1.0, 3.0])

    def value(fn):
        return lambda *args: (fn(*args, 1e-5)[0] * g).sum()

    found = norm.batch_norm(x, scale, offset, 1e-5)
    wanted = by_definition(x, scale, offset, 1e-5)
    # Float32 sums of up to a few dozen terms.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found,
        wanted,
    )
    args = (0, 1, 2)
    found = jax.grad(value(norm.batch_norm), args)(x, scale, offset)
    wanted = jax.grad(value(by_definition), args)(x, scale, offset)
    assert all((np.abs(w) > 1e-3).any() for w in wanted)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        found,
        wanted,
    )


def test_statistics_carry_no_gradient():
    x = jnp.arange(6.0).reshape(3, 2)
    gradient = jax.grad(
        lambda x: sum(
            s.sum() for s in norm.batch_norm(x, jnp.ones(2), jnp.ones(2), 1e-5)[1:]
        )
    )(x)
    np.testing.assert_array_equal(gradient, 0.0)
