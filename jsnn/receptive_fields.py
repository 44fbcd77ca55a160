r"""What a neuron deep in a network of positive weights looks for, drawn in the image: features put together layer by layer.

A field is the picture of one feature, in pixels of the image. The field of a feature of a convolution is the sum of its inputs'
fields, each moved to where the kernel looks and weighted; of the input features that a kernel could see at one offset only
one spikes first, so they compete instead of adding up:

$$R_f(y, x) = \Big[ \sum_{i,j} \max_c \; w_{fcij} \, R_c(y - s i, \, x - s j) \Big]_+$$

with $s$ the pixels between two neighbouring neurons of the layer below. Pooling moves a feature about in its window; it is drawn in
the middle. `combine="sum"` replaces the maximum by a sum and cuts nothing off, so that the field of a linear network results.

Axes: F features, C features of the layer below, H, W pixels.

Reference: the library SpykeTorch (Mozafari et al. 2019), `get_deep_feature`, https://doi.org/10.3389/fnins.2019.00625
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Combine = Literal["max", "sum"]


class Fields(NamedTuple):
    """Fields of all features of one layer, and the distance of its neurons."""

    images: Float[Array, "F H W"]
    spacing: (
        Array  # pixels of the image between two neighbouring neurons, an integer scalar
    )


def of_pixels() -> Fields:
    """Where every network starts: a pixel sees itself."""
    return Fields(jnp.ones((1, 1, 1)), jnp.array(1))


def through_convolution(
    fields: Fields,
    weights: Float[Array, "F C k k"],
    *,
    combine: Combine = "max",
) -> Fields:
    """Fields of the features of a convolution with stride 1, of which there are F.

    Args:
      fields: of the layer below, or of the pixels if this is the bank of filters in front of the network.
      weights: kernels.
      combine: how the input features of one offset come together: the strongest alone, or all of them.

    Raises:
      ValueError: if `weights` have another number of inputs than there are fields, or `combine` is unknown.
    """
    if combine not in ("max", "sum"):
        raise ValueError(f"`combine` must be 'max' or 'sum', got {combine!r}.")
    if weights.ndim != 4 or weights.shape[1] != len(fields.images):
        raise ValueError(
            f"`weights` {weights.shape} must be [F, C, k, k] with C = {len(fields.images)}, the number of `fields`."
        )
    images = _convolved(fields.images, weights, int(fields.spacing), combine)
    return Fields(images, fields.spacing)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _convolved(images, weights, spacing: int, combine: Combine):
    """The sum over offsets, one feature at a time: all at once they would not fit the cache."""
    kh, kw = weights.shape[2:]
    _, height, width = images.shape
    shape = (height + (kh - 1) * spacing, width + (kw - 1) * spacing)

    def feature(kernel):  # [C, k, k]
        def add(n, field):
            i, j = n // kw, n % kw
            parts = kernel[:, i, j, None, None] * images
            part = parts.max(0) if combine == "max" else parts.sum(0)
            place = (i * spacing, j * spacing)
            there = jax.lax.dynamic_slice(field, place, (height, width))
            return jax.lax.dynamic_update_slice(field, there + part, place)

        field = jax.lax.fori_loop(0, kh * kw, add, jnp.zeros(shape))
        return field if combine == "sum" else jnp.maximum(field, 0.0)

    return jax.lax.map(feature, weights)


def through_pooling(fields: Fields, size: int, stride: int | None = None) -> Fields:
    """The same fields in the middle of a pooling window; behind it neurons stand `stride` times as far apart.

    Args:
      fields: of the layer below.
      size: side of the window, in neurons.
      stride: of the window; `size` if omitted.

    Raises:
      ValueError: if `size` or `stride` is below 1.
    """
    stride = size if stride is None else stride
    for name, value in (("size", size), ("stride", stride)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    larger = (size - 1) * int(fields.spacing)
    before, after = larger // 2, larger - larger // 2
    images = jnp.pad(fields.images, ((0, 0), (before, after), (before, after)))
    return Fields(images, fields.spacing * stride)


def concatenate(fields: Sequence[Fields]) -> Fields:
    """Fields of parallel branches one after another, the smaller ones centred in the size of the largest.

    Raises:
      ValueError: if there are none, or their neurons stand at different distances.
    """
    spacings = {int(f.spacing) for f in fields}
    if len(spacings) != 1:
        raise ValueError(
            f"`fields` must be of branches whose neurons stand at the same distance, got the distances {sorted(spacings)}."
        )
    height = max(f.images.shape[1] for f in fields)
    width = max(f.images.shape[2] for f in fields)

    def centred(images):
        tall, wide = height - images.shape[1], width - images.shape[2]
        rows, columns = (tall // 2, tall - tall // 2), (wide // 2, wide - wide // 2)
        return jnp.pad(images, ((0, 0), rows, columns))

    images = jnp.concatenate([centred(f.images) for f in fields])
    return Fields(images, fields[0].spacing)
