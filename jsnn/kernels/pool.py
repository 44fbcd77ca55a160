"""Pooling on `[N, H, W, C]`: windows that do not overlap, with gradients that are fast on every backend."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jsnn.precision import floating


def _windows(x: Array, size: int) -> list[Array]:
    """The size² interleaved images whose elementwise maximum, or mean, is the pooled one. A remainder is cut off."""
    n, h, w, c = x.shape
    if not 1 <= size <= min(h, w):
        raise ValueError(
            f"`size` of the pooling window must lie between 1 and the image's {min(h, w)} pixels, got {size}."
        )
    x = x[:, : h // size * size, : w // size * size].reshape(
        n, h // size, size, w // size, size, c
    )
    return [x[:, :, i, :, j] for i in range(size) for j in range(size)]


def _scatter(shape: tuple[int, ...], size: int, values: Array) -> Array:
    """`[N, h, size, w, size, C] -> shape`: windows laid side by side, a cut-off remainder filled with zeros."""
    n, h, w, c = shape
    y = values.reshape(n, h // size * size, w // size * size, c)
    return jnp.pad(y, ((0, 0), (0, h % size), (0, w % size), (0, 0)))


def max_pool(x: Shaped[Array, "N H W C"], size: int = 2) -> Float[Array, "N H2 W2 C"]:
    """Maximum over windows of `size` by `size` pixels that do not overlap; a remainder at the border is dropped.

    The gradient goes to the first maximum of a window, row by row, as in PyTorch.
    """
    return _max_pool(floating(x), size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, size: int) -> Array:
    return functools.reduce(jnp.maximum, _windows(x, size))


def _max_pool_fwd(x, size):
    windows = _windows(x, size)
    index = jnp.uint8 if len(windows) <= 256 else jnp.int32
    best, where = windows[0], jnp.zeros(windows[0].shape, index)
    for k, window in enumerate(windows[1:], start=1):
        where = jnp.where(window > best, index(k), where)
        best = jnp.maximum(best, window)
    # Only shapes are needed of `x`: an empty array of its shape carries them through `jit`.
    return best, (where, jnp.zeros((0, *x.shape[1:])))


def _max_pool_bwd(size, residuals, g):
    where, like = residuals
    tap = jnp.arange(size * size, dtype=where.dtype).reshape(1, 1, size, 1, size, 1)
    hit = where[:, :, None, :, None, :] == tap
    values = jnp.where(hit, g[:, :, None, :, None, :], jnp.zeros((), g.dtype))
    return (_scatter((g.shape[0], *like.shape[1:]), size, values),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def avg_pool(x: Shaped[Array, "N H W C"], size: int = 2) -> Float[Array, "N H2 W2 C"]:
    """Mean over windows of `size` by `size` pixels that do not overlap; a remainder at the border is dropped."""
    return functools.reduce(jnp.add, _windows(floating(x), size)) / (size * size)
