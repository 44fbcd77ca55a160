"""Potentials of the last step, tap by tap of the kernel: no copied patches, no products with padding.

With 250 maps of 4 x 4 pixels and a kernel of 5 x 5, half of what patches hold is padding. Sums over one tap at a time are
also more exact than one sum over thousands of synapses, most of whose weights sit at the same bound.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn.stdp.waves import product


def by_tap(weights: Float[Array, "F C k k"]) -> Float[Array, "k2 F C"]:
    """Weights tap by tap, row by row of the kernel."""
    features, channels, kernel, _ = weights.shape
    return weights.transpose(2, 3, 0, 1).reshape(kernel * kernel, features, channels)


def from_taps(taps: Float[Array, "k2 F C"], kernel: int) -> Float[Array, "F C k k"]:
    """The inverse of `by_tap`."""
    _, features, channels = taps.shape
    return taps.reshape(kernel, kernel, features, channels).transpose(2, 3, 0, 1)


def _overlap(size: int, offset: int, outputs: int) -> tuple[int, int]:
    """First and last output whose input, `offset` pixels further, lies on the map of `size` pixels."""
    return max(0, -offset), min(outputs, size - offset)


def potentials(
    taps: Float[Array, "k2 F C"], x: Float[Array, "C H W B"], kernel: int, pad: int
) -> Float[Array, "F H2 W2 B"]:
    """Potentials of B images that are 1 where a neuron fired; `pad` silent pixels surround them."""
    height, width, images = x.shape[1:]
    sides = (height + 2 * pad - kernel + 1, width + 2 * pad - kernel + 1)
    out = jnp.zeros((taps.shape[1], *sides, images), taps.dtype)
    for tap in range(kernel * kernel):
        down, right = tap // kernel - pad, tap % kernel - pad
        top, bottom = _overlap(height, down, sides[0])
        left, end = _overlap(width, right, sides[1])
        if top >= bottom or left >= end:
            continue
        seen = x[:, top + down : bottom + down, left + right : end + right]
        part = product(taps[tap], seen.reshape(x.shape[0], -1))
        part = part.reshape(-1, bottom - top, end - left, images)
        out = out.at[:, top:bottom, left:end].add(part)
    return out


def row_potentials(
    rows: Float[Array, "k2 R C"], image: Float[Array, "C H W"], kernel: int, pad: int
) -> Float[Array, "R P"]:
    """Potentials of R features on one image: what every tap makes of every pixel, as one product, shifted and added."""
    channels, height, width = image.shape
    sides = (height + 2 * pad - kernel + 1, width + 2 * pad - kernel + 1)
    every = product(rows.reshape(-1, channels), image.reshape(channels, -1))
    every = every.reshape(kernel * kernel, -1, height, width)
    edges = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    every = jnp.pad(every, edges)
    total = jnp.zeros((rows.shape[1], *sides), rows.dtype)
    for tap in range(kernel * kernel):
        down, right = divmod(tap, kernel)
        total = total + every[tap, :, down : down + sides[0], right : right + sides[1]]
    return total.reshape(rows.shape[1], -1)
