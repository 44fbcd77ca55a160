r"""Batch normalisation with the batch's own statistics, and a gradient that keeps no more than its input.

$\hat x = (x - \mu)/\sqrt{\sigma^2 + \epsilon}$, $y = \gamma\hat x + \beta$, with mean and biased variance over all axes but the last. With $\bar g$ the
mean of the cotangent g over the same axes,

$$\frac{\partial L}{\partial x} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}\,(g - \bar g - \hat x\,\overline{g \hat x}).$$

Differentiated step by step, two arrays of the input's size are kept and more passes made over them: in a network over time that
is a third of its memory.

Axes: C channels.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jsnn.precision import floating, wide


def _wide(values: Float[Array, "C"], like: Array) -> Array:
    return values.reshape((1,) * (like.ndim - 1) + (-1,))


def batch_norm(
    x: Shaped[Array, "*B C"],
    scale: Float[Array, "C"],
    offset: Float[Array, "C"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*B C"], Float[Array, "C"], Float[Array, "C"]]:
    """Output in the type of `x`, mean and biased variance in float32 at least. The two statistics are for running averages and carry no gradient."""
    return _batch_norm(floating(x), scale, offset, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm(x, scale, offset, epsilon):
    return _forward(x, scale, offset, epsilon)[0]


def _forward(x, scale, offset, epsilon):
    axes, kept = tuple(range(x.ndim - 1)), x
    x = wide(x)
    mean = x.mean(axes)
    var = jnp.square(x - _wide(mean, x)).mean(axes)
    inverse = jax.lax.rsqrt(var + epsilon)
    gain = scale * inverse
    y = x * _wide(gain, x) + _wide(offset - mean * gain, x)
    return (y.astype(kept.dtype), mean, var), (kept, scale, mean, inverse)


def _backward(epsilon, residuals, cotangents):
    x, scale, mean, inverse = residuals
    g, axes = wide(cotangents[0]), tuple(range(x.ndim - 1))
    normal = (wide(x) - _wide(mean, x)) * _wide(inverse, x)
    count = x.size // x.shape[-1]
    d_offset, d_scale = g.sum(axes), (g * normal).sum(axes)
    centred = g - _wide(d_offset / count, x) - normal * _wide(d_scale / count, x)
    d_x = centred * _wide(scale * inverse, x)
    return d_x.astype(x.dtype), *(d.astype(scale.dtype) for d in (d_scale, d_offset))


_batch_norm.defvjp(_forward, _backward)
