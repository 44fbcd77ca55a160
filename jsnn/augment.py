"""Random changes of training images that leave their class alone, on the device, one draw an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jsnn import check
from jsnn.encoders import unit_interval
from jsnn.precision import floating


def _check_images(images: Array) -> None:
    if images.ndim != 4:
        raise ValueError(
            f"`images` must be [B, H, W, C], got shape {images.shape}: give grey images a channel by `images[..., None]`."
        )


def random_affine(
    key: Array,
    images: Shaped[Array, "B H W C"],
    *,
    degrees: ArrayLike = 0.0,
    shift: ArrayLike = 0.0,
    scale: ArrayLike = 0.0,
    shear: ArrayLike = 0.0,
) -> Float[Array, "B H W C"]:
    """Rotates, shears, scales and shifts each image by its own uniform draw, with bilinear interpolation and zeros outside.

    Args:
      key: decides the draws.
      images: any range of values.
      degrees: largest rotation, either way, about the centre.
      shift: largest shift, in pixels, along each axis.
      scale: largest change of size along each axis, as a fraction: 0.1 gives sizes from 0.9 to 1.1.
      shear: largest slant: horizontal displacement per row, either way.

    Raises:
      ValueError: if a number is negative, `scale` is 1 or more, or images have other axes.
    """
    check.key(key)
    for name, value in (("degrees", degrees), ("shift", shift), ("shear", shear)):
        check.number(name, value, "[0, inf)")
    check.number("scale", scale, "[0, 1)")
    _check_images(images)
    images = floating(images)
    batch, height, width, _ = images.shape
    draw = jax.random.uniform(key, (6, batch), jnp.float32, minval=-1.0, maxval=1.0)
    angle = draw[0] * jnp.deg2rad(degrees)
    slant = draw[5] * shear
    # From output to input pixels: shift back, turn back, then undo slant and scale.
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    inverse_y, inverse_x = 1 / (1 + draw[1] * scale), 1 / (1 + draw[2] * scale)
    rows = jnp.arange(height, dtype=images.dtype) - (height - 1) / 2
    cols = jnp.arange(width, dtype=images.dtype) - (width - 1) / 2

    def one(image, cos, sin, inverse_y, inverse_x, slant, dy, dx):
        y, x = jnp.meshgrid(rows - dy, cols - dx, indexing="ij")
        y, x = cos * y + sin * x, cos * x - sin * y
        x = (x - slant * y) * inverse_x + (width - 1) / 2
        y = y * inverse_y + (height - 1) / 2
        sample = jax.vmap(
            lambda channel: jax.scipy.ndimage.map_coordinates(
                channel, [y, x], order=1, mode="constant"
            ),
            in_axes=-1,
            out_axes=-1,
        )
        return sample(image)

    dy, dx = draw[3] * shift, draw[4] * shift
    return jax.vmap(one)(images, cos, sin, inverse_y, inverse_x, slant, dy, dx)


def shift(
    key: Array, images: Shaped[Array, "B H W C"], pixels: int
) -> Shaped[Array, "B H W C"]:
    """Each image moved by its own draw of up to `pixels` whole pixels either way along each axis, with zeros outside; sharp images stay sharp.

    Raises:
      ValueError: if `pixels` is negative.
    """
    check.key(key)
    pixels = check.whole("pixels", pixels, 0)
    _check_images(images)
    size = images.shape[1:]
    edges = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    corner = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1, jnp.int32)
    return jax.vmap(
        lambda image, at: jax.lax.dynamic_slice(image, (*at, jnp.int32(0)), size)
    )(jnp.pad(images, edges), corner)


def crop_and_flip(
    key: Array, images: Shaped[Array, "B H W C"], pad: int = 4
) -> Shaped[Array, "B H W C"]:
    """Each image shifted by up to `pad` pixels either way, with zeros outside, and mirrored every other time."""
    check.key(key)
    pad = check.whole("pad", pad, 0)
    key_shift, key_flip = jax.random.split(key)
    cut = shift(key_shift, images, pad)
    flip = jax.random.bernoulli(key_flip, jnp.float32(0.5), (len(images), 1, 1, 1))
    return jnp.where(flip, cut[:, :, ::-1], cut)


def some(key: Array, share: ArrayLike, changed: Array, images: Array) -> Array:
    """`changed` for a share of the images, drawn one by one, and the rest of `images` as they are.

    Interpolation blurs, and a network that never sees a sharp image in training may misread those of the test.
    """
    check.key(key)
    check.number("share", share, "[0, 1]")
    drawn = jax.random.bernoulli(key, jnp.asarray(share, jnp.float32), (len(images),))
    return jnp.where(drawn.reshape(-1, *[1] * (images.ndim - 1)), changed, images)


def by_colour(share: float = 1.0) -> Callable[[Array, Array], Array]:
    """`(key, images) -> images`: `crop_and_flip` for images of three channels, small shifts, turns and sizes for others.

    Bytes stay bytes. With a `share` below 1 only so many of them change: see `some`.

    Raises:
      ValueError: if `share` lies outside [0, 1].
    """
    share = check.static("share", share, "[0, 1]")

    def change(key, images):
        if images.shape[-1] == 3:
            return crop_and_flip(key, images)
        x = unit_interval(images)
        x = random_affine(key, x, degrees=10.0, shift=2.0, scale=0.1, shear=0.1)
        whole = images.dtype == jnp.uint8
        return jnp.round(255 * x).astype(jnp.uint8) if whole else x

    def for_some(key, images):
        key_change, key_some = jax.random.split(key)
        return some(key_some, share, change(key_change, images), images)

    return change if share == 1 else for_some


def changed_copy(key: jax.Array, images: np.ndarray, *, flips: bool) -> np.ndarray:
    """Images turned by up to 30 degrees, and mirrored along either axis with probability 1/2 each if `flips`."""
    turn = jax.jit(lambda k, x: random_affine(k, x, degrees=30.0))
    parts = []
    for number, start in enumerate(range(0, len(images), 1000)):
        part = jnp.asarray(images[start : start + 1000], jnp.float32)
        key_turn, key_flip = jax.random.split(jax.random.fold_in(key, number))
        part = turn(key_turn, part)
        if flips:
            mirrored = jax.random.bernoulli(key_flip, 0.5, (2, len(part), 1, 1, 1))
            part = jnp.where(mirrored[0], part[:, :, ::-1], part)
            part = jnp.where(mirrored[1], part[:, ::-1], part)
        parts.append(np.asarray(jnp.round(part), np.uint8))
    return np.concatenate(parts)
