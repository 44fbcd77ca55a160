"""Encoders for `jsnn.classifier`: from a batch of inputs, as the data set holds them, to a signal over time.

An encoder is a function `(inputs [B, ...], key) -> signal`. In evaluation `key` is None, and the same inputs give the same signal. The codes
themselves are in `jsnn.encode`.

Axes: T time, B batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jsnn import check, encode
from jsnn.unroll import Constant


def unit_interval(images: Array) -> Array:
    """Pixels as float32 in [0, 1]: bytes are divided by 255, floats pass."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images.astype(jnp.float32)


def constant(num_steps: int) -> Callable[..., Constant]:
    """Shows each image as the same current for `num_steps` steps; bytes are scaled to [0, 1].

    >>> constant(5)(jnp.zeros((2, 8, 8, 1), jnp.uint8)).num_steps
    5

    Args:
      num_steps: T.

    Returns:
      An encoder `(images [B, ...], key) -> Constant`. It draws nothing.
    """
    num_steps = check.whole("num_steps", num_steps, 1)
    return lambda images, key=None: Constant(unit_interval(images), num_steps)


def frames() -> Callable[..., Array]:
    """Takes inputs that vary in time already, `[B, T, ...]`: frames, or the spikes of each step. Counts stay counts.

    >>> frames()(jnp.zeros((2, 7, 30))).shape  # to [T, B, ...]
    (7, 2, 30)

    Returns:
      An encoder `(inputs [B, T, ...], key) -> [T, B, ...]`. It draws nothing.

    Raises:
      ValueError: by the encoder, if inputs have no time axis.
    """

    def encoder(inputs: Array, key: Array | None = None) -> Array:
        if inputs.ndim < 3:
            raise ValueError(
                f"`inputs` must be [B, T, ...], got shape {inputs.shape}. For images that do not change, use `jsnn.constant(T)`."
            )
        return jnp.moveaxis(jnp.asarray(inputs, jnp.float32), 1, 0)

    return encoder


def rate(num_steps: int) -> Callable[..., Array]:
    """Rate code: a pixel $x$ in [0, 1] spikes with probability $x$ at each step, independently of the others.

    >>> spikes = rate(100)(jnp.full((2, 4), 0.5), jax.random.key(1))  # [T, B, ...]
    >>> spikes.shape, bool(abs(spikes.mean() - 0.5) < 0.1)
    ((100, 2, 4), True)

    Args:
      num_steps: T.

    Returns:
      An encoder `(images [B, ...], key) -> spikes [T, B, ...]`. In evaluation its draws are always the same.
    """
    num_steps = check.whole("num_steps", num_steps, 1)

    def encoder(images: Array, key: Array | None = None) -> Array:
        key = jax.random.key(0) if key is None else key
        return encode.bernoulli(key, unit_interval(images), num_steps)

    return encoder


def latency(num_steps: int) -> Callable[..., Array]:
    """Latency code: a pixel spikes at most once, and earlier the brighter it is; see `encode.latency`.

    >>> latency(5)(jnp.array([[1.0, 0.0]]), None)[:, 0, 0].tolist()  # the bright pixel spikes at the first step
    [1.0, 0.0, 0.0, 0.0, 0.0]

    Args:
      num_steps: T.

    Returns:
      An encoder `(images [B, ...], key) -> spikes [T, B, ...]`. It draws nothing.
    """
    num_steps = check.whole("num_steps", num_steps, 1)
    return lambda images, key=None: encode.latency(unit_interval(images), num_steps)
