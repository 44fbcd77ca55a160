"""Random changes of event recordings for training, each recording by its own draw, inside the compiled step.

Axes: B recordings of a batch, L events of the longest of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsnn import check
from jsnn.data.events import Batch


def shift(key: Array, batch: Batch, pixels: int) -> Batch:
    """Each recording moved by its own draw of up to `pixels` either way along each axis; what leaves the sensor is lost."""
    check.key(key)
    pixels = check.whole("pixels", pixels, 0)
    size = (2, len(batch.x), 1)
    dy, dx = jax.random.randint(key, size, -pixels, pixels + 1, jnp.int32)
    y, x = batch.y + dy, batch.x + dx
    height, width = batch.sensor
    valid = batch.valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return dataclasses.replace(batch, x=x, y=y, valid=valid)


def affine(
    key: Array,
    batch: Batch,
    *,
    degrees: Any = 0.0,
    scale: Any = 0.0,
    shear: Any = 0.0,
) -> Batch:
    """Each recording turned, slanted and made larger or smaller by its own uniform draw, about the middle of the sensor.

    Events go to the nearest cell; what leaves the sensor is lost.

    Args:
      key: decides the draws.
      batch: recordings `[B, L]`.
      degrees: largest rotation, either way.
      scale: largest change of size along each axis, as a fraction: 0.1 gives sizes from 0.9 to 1.1.
      shear: largest slant: columns a row, either way.
    """
    check.key(key)
    check.number("degrees", degrees, "[0, inf)")
    check.number("scale", scale, "[0, 1)")
    check.number("shear", shear, "[0, inf)")
    draw = jax.random.uniform(key, (4, len(batch.x), 1), minval=-1.0, maxval=1.0)
    angle, slant = draw[0] * jnp.deg2rad(degrees), draw[3] * shear
    middle = [(side - 1) / 2 for side in batch.sensor]
    y = (batch.y - middle[0]) * (1 + draw[1] * scale)
    x = (batch.x - middle[1]) * (1 + draw[2] * scale) + slant * y
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = cos * y + sin * x, cos * x - sin * y
    y, x = (jnp.round(a + m).astype(jnp.int32) for a, m in zip((y, x), middle, strict=True))  # fmt: skip
    height, width = batch.sensor
    valid = batch.valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return dataclasses.replace(batch, x=x, y=y, valid=valid)


def flip(key: Array, batch: Batch) -> Batch:
    """Left and right exchanged, in half of the recordings."""
    check.key(key)
    flipped = jax.random.bernoulli(key, shape=(len(batch.x), 1))
    x = jnp.where(flipped, batch.sensor[1] - 1 - batch.x, batch.x)
    return dataclasses.replace(batch, x=x)


def jitter(key: Array, batch: Batch, sigma_us: Any) -> Batch:
    """Times moved by normal draws of standard deviation `sigma_us` (µs), never below 0. Frames by count keep the former order."""
    check.key(key)
    noise = sigma_us * jax.random.normal(key, batch.t_us.shape)
    return dataclasses.replace(batch, t_us=jnp.maximum(batch.t_us + noise, 0.0))


def drop(key: Array, batch: Batch, probability: Any) -> Batch:
    """Each event left out with `probability`."""
    check.key(key)
    stays = jax.random.bernoulli(key, 1 - probability, batch.valid.shape)
    return dataclasses.replace(batch, valid=batch.valid & stays)
