r"""Spike waves as maps of first-spike times, and what integrate-and-fire neurons make of them.

A neuron of these networks fires at most once an image. The reference stores a *cumulative* wave, 1 from the first spike on,
in T slices; here a map holds the step of the first spike, 0 ... T − 1, and T for a neuron that stays silent. That is the
same information in a T-th of the memory, and slice t of the wave is `times <= t`.

Axes: C channels (or features), H rows, W columns, F features of the next layer, K = C·k² synapses of a feature, P positions
(row by row), T steps. Weights are `[F, C, k, k]`. Functions take one image; `vmap` or `lax.map` does many.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from jsnn import check

_MAX_STEPS = 255


def check_num_steps(num_steps: int) -> int:
    """Raises `ValueError` unless times of `num_steps` steps, and silence, fit a byte."""
    remedy = "Times are kept as bytes."
    return check.whole("num_steps", num_steps, 1, _MAX_STEPS, remedy=remedy)


def check_synapses(
    weights: Array,
    image: tuple[int, ...],
    *,
    features: int | None = None,
    name: str = "times",
) -> tuple[int, int]:
    """The sides of the map that weights `[F, C, k, k]` make of an image of shape `[C, H, W]`, or of several.

    Raises:
      ValueError: if they do not belong together.
    """
    shape = weights.shape
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ValueError(f"`weights` must be [F, C, k, k], got shape {shape}.")
    if features is not None and shape[0] != features:
        raise ValueError(
            f"`weights` have {shape[0]} rows, their layer {features} features: make them by `init_weights` of this layer."
        )
    if len(image) < 3 or image[-3] != shape[1]:
        raise ValueError(
            f"`weights` take {shape[1]} channels, `{name}` have shape {image}: they must be [C, H, W] with C = {shape[1]}."
        )
    height, width = (n - shape[3] + 1 for n in image[-2:])
    if min(height, width) < 1:
        raise ValueError(
            f"`weights` have kernels of {shape[3]} x {shape[3]}, larger than the maps of `{name}`, {image[-2]} x {image[-1]}; pad them by `pad`."
        )
    return height, width


def from_dense(wave: Array) -> UInt8[Array, "*shape"]:
    """Cumulative wave `[T, ...]` of zeros and ones to first-spike times `[...]`."""
    num_steps = wave.shape[0]
    check_num_steps(num_steps)
    return (num_steps - (wave > 0).sum(0, dtype=jnp.int32)).astype(jnp.uint8)


def to_dense(times: UInt8[Array, "*shape"], num_steps: int) -> UInt8[Array, "T *shape"]:
    """First-spike times `[...]` to the cumulative wave `[T, ...]`."""
    check_num_steps(num_steps)
    steps = jnp.arange(num_steps, dtype=jnp.uint8)
    return (times[None] <= steps.reshape(-1, *(1,) * times.ndim)).astype(jnp.uint8)


def fired(times: UInt8[Array, "*shape"], num_steps: int) -> Bool[Array, "*shape"]:
    """Who fired at all: the last slice of the wave."""
    return times < num_steps


def pad(
    times: UInt8[Array, "*N C H W"], width: int, num_steps: int
) -> UInt8[Array, "*N C H2 W2"]:
    """Surrounds every map with `width` silent neurons.

    Raises:
      ValueError: if `width` is negative, or times of so many steps do not fit a byte.
    """
    width, num_steps = check.whole("width", width, 0), check_num_steps(num_steps)
    edges = [(0, 0)] * (times.ndim - 2) + [(width, width)] * 2
    return jnp.pad(times, edges, constant_values=num_steps)


def pool(
    times: UInt8[Array, "*N C H W"],
    size: int,
    *,
    stride: int | None = None,
    padding: int = 0,
    num_steps: int,
) -> UInt8[Array, "*N C H2 W2"]:
    """The earliest spike of each window: max-pooling of the cumulative wave. An incomplete window at the border is dropped.

    Raises:
      ValueError: if the padded map is smaller than a window.
    """
    size = check.whole("size", size, 1)
    step: int = size if stride is None else check.whole("stride", stride, 1)
    padding = check.whole("padding", padding, 0)
    x = pad(times, padding, num_steps) if padding else times
    h, w = ((n - size) // step + 1 for n in x.shape[-2:])
    if h < 1 or w < 1:
        raise ValueError(
            f"`size` {size} of the pooling window exceeds the padded map of {x.shape[-2:]}; pad more or pool less."
        )
    slices = [
        x[
            ...,
            i : i + step * (h - 1) + 1 : step,
            j : j + step * (w - 1) + 1 : step,
        ]
        for i in range(size)
        for j in range(size)
    ]
    return functools.reduce(jnp.minimum, slices)


def patches(image: Array, kernel: int) -> Array:
    """`[C, H, W] -> [K, P]`: column p holds what a feature at position p sees, in the order of `weights[f].ravel()`."""
    channels, h, w = image.shape
    h, w = h - kernel + 1, w - kernel + 1
    taps = [
        image[:, i : i + h, j : j + w] for i in range(kernel) for j in range(kernel)
    ]
    return jnp.stack(taps, axis=1).reshape(channels * kernel * kernel, h * w)


def product(a: Array, b: Array) -> Array:
    """Matrix product with nothing rounded on the way: potentials are compared, and the products that JAX takes on recent GPUs keep three digits of a weight."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def potentials(
    weights: Float[Array, "F C k k"], times: UInt8[Array, "C H W"], step: ArrayLike
) -> Float[Array, "F H2 W2"]:
    """What non-leaky neurons have integrated by the end of `step`: weights times the wave's slice, no padding, stride 1."""
    kernel, side = weights.shape[-1], check_synapses(weights, times.shape)
    seen = patches(times, kernel) <= jnp.asarray(step, jnp.uint8)
    flat = weights.reshape(weights.shape[0], -1)
    return product(flat, seen.astype(flat.dtype)).reshape(-1, *side)


def fire(
    weights: Float[Array, "F C k k"],
    times: UInt8[Array, "C H W"],
    threshold: ArrayLike,
    num_steps: int,
) -> UInt8[Array, "F H2 W2"]:
    """First-spike times of integrate-and-fire neurons: the first step whose potential exceeds (not equals) `threshold`.

    The input is padded already. Potentials never decrease (weights are not negative), so a neuron's time is the number of
    steps at which it is not above threshold.

    Raises:
      ValueError: if shapes disagree, or a number is out of range.
    """
    kernel, side = weights.shape[-1], check_synapses(weights, times.shape)
    num_steps = check_num_steps(num_steps)
    check.number("threshold", threshold, "[0, inf)")
    flat, seen = weights.reshape(weights.shape[0], -1), patches(times, kernel)
    theta = jnp.asarray(threshold, flat.dtype)

    def step(t, count):
        wave = (seen <= t.astype(jnp.uint8)).astype(flat.dtype)
        return count + (product(flat, wave) <= theta).astype(jnp.uint8)

    silent = jnp.zeros((flat.shape[0], seen.shape[1]), jnp.uint8)
    return lax.fori_loop(0, num_steps, step, silent).reshape(-1, *side)


def fire_at_last(
    weights: Float[Array, "F C k k"], active: Bool[Array, "C H W"], threshold: ArrayLike
) -> Bool[Array, "F H2 W2"]:
    """Who fires at all, from who fired below at all: the last slice depends on the last slice alone."""
    kernel, side = (
        weights.shape[-1],
        check_synapses(weights, active.shape, name="active"),
    )
    check.number("threshold", threshold, "[0, inf)")
    flat = weights.reshape(weights.shape[0], -1)
    potential = product(flat, patches(active, kernel).astype(flat.dtype))
    return (potential > jnp.asarray(threshold, flat.dtype)).reshape(-1, *side)


def divided(
    number: Int[Array, "*N"], by: int
) -> tuple[Int[Array, "*N"], Int[Array, "*N"]]:
    """Quotient and remainder of numbers that are not negative, in their own type: a Python number would be 64 bits wide under `jax_enable_x64`."""
    divisor = jnp.asarray(by, number.dtype)
    return lax.div(number, divisor), lax.rem(number, divisor)


def first_argmax(x: Float[Array, "F P"], best: Float[Array, "P"]) -> Int[Array, "P"]:
    """Row of the first maximum of each column, given the maxima: two passes that vectorise, where `argmax` does not."""
    rows = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
    return jnp.where(x == best[None], rows, x.shape[0]).min(0)
