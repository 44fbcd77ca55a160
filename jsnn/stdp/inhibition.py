"""Inhibition: between features at one position, of whole features, and between neighbouring intensities."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from jsnn import check
from jsnn.precision import floating
from jsnn.stdp.waves import first_argmax


def pointwise(
    times: UInt8[Array, "F H W"], values: Float[Array, "F H W"], num_steps: int
) -> UInt8[Array, "F H W"]:
    """Pointwise inhibition: at each position only the feature that fires first, and most strongly then, keeps its spike.

    Args:
      times: first spikes.
      values: potentials at that step.
      num_steps: T, the time of the silenced.
    """
    features, *size = times.shape
    # The earliest feature, among those the one with the largest potential, among those the lowest.
    among = jnp.where(times == times.min(0)[None], values, -jnp.inf)
    among = among.reshape(features, -1)
    winner = first_argmax(among, among.max(0)).reshape(1, *size)
    rows = jnp.arange(times.shape[0], dtype=jnp.int32)[:, None, None]
    return jnp.where(rows == winner, times, jnp.asarray(num_steps, jnp.uint8))


def drop_features(
    times: UInt8[Array, "*N F H W"], dropped: Bool[Array, "F"], num_steps: int
) -> UInt8[Array, "*N F H W"]:
    """Feature inhibition: silences whole feature maps, as dropout does."""
    silent = jnp.asarray(num_steps, jnp.uint8)
    return jnp.where(dropped.reshape(*(1,) * (times.ndim - 3), -1, 1, 1), silent, times)


def lateral(
    intensities: Shaped[Array, "*N H W"], factors: Sequence[ArrayLike]
) -> Float[Array, "*N H W"]:
    r"""Lateral intensity inhibition as the reference computes it: $y = x \, (1 + \sum f_d)$ over weaker neighbours.

    The sum runs over the neighbours at Chebyshev distance d = 1 ... n with an intensity strictly below the pixel's own;
    beyond the border lies zero. The reference's documentation says that weaker neighbours are decreased; its code, and
    this function, raise local maxima instead, which orders the spikes in the same way.

    Args:
      intensities: not negative.
      factors: $f_1, f_2, ..., f_n$ by distance.

    Raises:
      ValueError: if `factors` is empty.
    """
    reach = len(factors)
    if reach == 0:
        raise ValueError("`factors` must name at least one distance, got none.")
    for factor in factors:
        check.number("factors", factor)
    intensities = floating(intensities)
    h, w = intensities.shape[-2:]
    edges = [(0, 0)] * (intensities.ndim - 2) + [(reach, reach)] * 2
    padded = jnp.pad(intensities, edges)
    total = jnp.zeros_like(intensities)
    for i, j in np.ndindex(2 * reach + 1, 2 * reach + 1):
        distance = max(abs(i - reach), abs(j - reach))
        if distance:
            weaker = padded[..., i : i + h, j : j + w] < intensities
            factor = jnp.asarray(factors[distance - 1], intensities.dtype)
            total = total + jnp.where(weaker, factor, 0)
    return intensities * (1 + total)
