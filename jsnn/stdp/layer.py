"""Layers as declarations, and what they do with one image or many.

A layer pools the map of the layer below, pads it, and integrates and fires. `pooled` does the first, once, and its result is
what training functions take and caches hold; padding happens on the fly. `Conv` layers learn by STDP, `Decision` layers by
reward; a decision layer has no threshold: it looks at the last step only, and its largest potential decides.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from jsnn import check
from jsnn.stdp import waves
from jsnn.stdp.race import race
from jsnn.stdp.taps import by_tap, potentials
from jsnn.stdp.waves import check_synapses, divided
from jsnn.stdp.winners import Winners


@dataclasses.dataclass(frozen=True)
class Conv:
    """A layer that fires at its threshold and learns from its winners."""

    features: int
    """F, number of feature maps."""
    kernel: int
    """Pixels a side."""
    threshold: ArrayLike
    """A neuron fires at the first step whose potential exceeds this."""
    num_winners: int
    """k, neurons that learn from an image, at most."""
    radius: int
    """Rows and columns around a winner in which no other may win."""
    pool: int = 1
    """Pixels a side of the windows in which the input is pooled first."""
    pool_padding: int = 0
    """Silent pixels on each side before pooling."""
    pad: int = 0
    """Silent pixels on each side after pooling."""
    stabilise: bool = True
    """Whether changes of weights vanish towards the bounds."""

    def __post_init__(self):
        _check(self)


@dataclasses.dataclass(frozen=True)
class Decision:
    """A layer whose strongest neuron at the last step names the class, and which learns by reward and punishment."""

    features: int
    """F, number of feature maps; feature f stands for class f // (F / classes)."""
    kernel: int
    """Pixels a side."""
    classes: int = 10
    """C, number of classes, which divides `features`."""
    pool: int = 1
    """Pixels a side of the windows in which the input is pooled first."""
    pool_padding: int = 0
    """Silent pixels on each side before pooling."""
    pad: int = 0
    """Silent pixels on each side after pooling."""

    def __post_init__(self):
        _check(self)
        if self.features % self.classes:
            raise ValueError(
                f"`classes` must divide the {self.features} `features`, got {self.classes}."
            )


Layer = Conv | Decision
_BATCH = 16  # images whose decisions are computed at once


def _check(spec: Layer) -> None:
    least = {"features": 1, "kernel": 1, "pool": 1, "pool_padding": 0, "pad": 0}
    if isinstance(spec, Conv):
        least |= {"num_winners": 1, "radius": 0}
        check.number("threshold", spec.threshold, "[0, inf)")
    else:
        least |= {"classes": 1}
    for name, n in least.items():
        object.__setattr__(spec, name, check.whole(name, getattr(spec, name), n))


def init_weights(
    key: PRNGKeyArray,
    spec: Layer,
    channels: int,
    *,
    mean: ArrayLike = 0.8,
    std: ArrayLike = 0.05,
) -> Float[Array, "F C k k"]:
    """Normally distributed weights for an input of `channels` maps."""
    channels = check.whole("channels", channels, 1)
    check.number("mean", mean)
    check.number("std", std, "[0, inf)")
    shape = (spec.features, channels, spec.kernel, spec.kernel)
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    drawn = _rounded(jax.random.normal(key, shape, jnp.float32))
    return mean + _rounded(std * drawn)


def _rounded(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """The same numbers. A compiler does not merge operations across this, so weights are the same to the bit in every program."""
    largest = jnp.finfo(x.dtype).max
    return jnp.clip(x, -largest, largest)


def output_shape(spec: Layer, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """`(F, H, W)` of the layer's output for the `(C, H, W)` of the map below, before pooling.

    Raises:
      ValueError: if the map is too small for the layer.
    """
    pooled = [(n + 2 * spec.pool_padding) // spec.pool for n in shape[1:]]
    sides = [n + 2 * spec.pad - spec.kernel + 1 for n in pooled]
    if min(*sides, *pooled) < 1:
        raise ValueError(
            f"The map below has {shape[1]} x {shape[2]} neurons, too few for pooling by {spec.pool} and a `kernel` of {spec.kernel}; pad more or use smaller ones."
        )
    return spec.features, sides[0], sides[1]


def shapes(
    network: tuple[Layer, ...], shape: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """Output shapes of all layers of a chain, for an input of `(C, H, W)`.

    Raises:
      ValueError: if a layer's input is too small for it.
    """
    found = []
    for spec in network:
        shape = output_shape(spec, shape)
        found.append(shape)
    return found


def pooled(
    spec: Layer, times: UInt8[Array, "*N C H W"], num_steps: int
) -> UInt8[Array, "*N C H2 W2"]:
    """The input that the layer's other functions take: the map below, pooled, not padded."""
    if spec.pool == 1 and spec.pool_padding == 0:
        return times
    return waves.pool(times, spec.pool, padding=spec.pool_padding, num_steps=num_steps)


def pooled_activity(
    spec: Layer, active: Bool[Array, "*N C H W"]
) -> Bool[Array, "*N C H2 W2"]:
    """As `pooled`, at the last step alone: whether any neuron of a window fired."""
    times = jnp.where(active, 0, 1).astype(jnp.uint8)
    return pooled(spec, times, 1) < 1


def padded(
    spec: Layer, inputs: UInt8[Array, "*N C H W"], num_steps: int
) -> UInt8[Array, "*N C H2 W2"]:
    """What the layer's kernels slide over."""
    return waves.pad(inputs, spec.pad, num_steps) if spec.pad else inputs


def padded_activity(
    spec: Layer, active: Bool[Array, "*N C H W"]
) -> Bool[Array, "*N C H2 W2"]:
    """As `padded`, at the last step alone."""
    edges = [(0, 0)] * (active.ndim - 2) + [(spec.pad, spec.pad)] * 2
    return jnp.pad(active, edges)


def fire(
    spec: Conv,
    weights: Float[Array, "F C k k"],
    inputs: UInt8[Array, "C H W"],
    num_steps: int,
    *,
    threshold: ArrayLike | None = None,
) -> UInt8[Array, "F H2 W2"]:
    """First-spike times of all neurons of the layer, from its pooled input. No inhibition: this is what the next layer sees."""
    theta = spec.threshold if threshold is None else threshold
    image = padded(spec, inputs, num_steps)
    check_synapses(weights, image.shape, features=spec.features, name="inputs")
    return waves.fire(weights, image, theta, num_steps)


def fire_at_last(
    spec: Conv,
    weights: Float[Array, "F C k k"],
    active: Bool[Array, "C H W"],
    *,
    threshold: ArrayLike | None = None,
) -> Bool[Array, "F H2 W2"]:
    """Who fires at all, from who fired below at all: T times cheaper than `fire`, and all that a decision layer asks."""
    theta = spec.threshold if threshold is None else threshold
    image = padded_activity(spec, active)
    check_synapses(weights, image.shape, features=spec.features, name="active")
    return waves.fire_at_last(weights, image, theta)


def compete(
    spec: Conv,
    weights: Float[Array, "F C k k"],
    inputs: UInt8[Array, "C H W"],
    num_steps: int,
    *,
    threshold: ArrayLike | None = None,
) -> Winners:
    """Winners on one image: pointwise inhibition, then k winners with the layer's radius."""
    theta = spec.threshold if threshold is None else threshold
    image = padded(spec, inputs, num_steps)
    check_synapses(weights, image.shape, features=spec.features, name="inputs")
    return race(
        weights,
        image,
        theta,
        num_winners=spec.num_winners,
        radius=spec.radius,
        num_steps=num_steps,
    )


class Verdict(NamedTuple):
    """What a decision layer says to one image; −1 and zeros where no potential is above zero."""

    decision: Int[Array, ""]  # class, or -1
    # Feature, row, column; the tuple's own method of that name is of no use here.
    index: Int[Array, "3"]  # pyright: ignore[reportIncompatibleMethodOverride]
    potential: Float[Array, ""]


def decide(
    spec: Decision, weights: Float[Array, "F C k k"], active: Bool[Array, "C H W"]
) -> Verdict:
    """The neuron with the largest potential at the last step, the first among equals (feature, row, column), and its class."""
    image = padded_activity(spec, active)
    size = check_synapses(weights, image.shape, features=spec.features, name="active")
    seen = waves.patches(image, spec.kernel).astype(weights.dtype)
    seen = seen.reshape(weights.shape[1], spec.kernel**2, -1)
    # Tap by tap, and then their sum: more exact than one sum over thousands of synapses.
    parts = jnp.einsum(
        "kfc,ckp->kfp", by_tap(weights), seen, precision=lax.Precision.HIGHEST
    )
    return _strongest(spec, parts.sum(0), size)


def _strongest(spec: Decision, potential: Float[Array, "F P"], size) -> Verdict:
    best = potential.max()
    number = jnp.arange(potential.size, dtype=jnp.int32).reshape(potential.shape)
    first = jnp.where(potential == best, number, potential.size).min()
    return verdict_of(spec, best, first, size)


def verdict_of(
    spec: Decision,
    best: Float[Array, ""],
    number: Int[Array, ""],
    size: tuple[int, int],
) -> Verdict:
    """The verdict for the winning potential and its neuron's number, counted by feature, row and column of `size`."""
    feature, place = divided(number, size[0] * size[1])
    index = jnp.stack([feature, *divided(place, size[1])])
    loud = best > 0
    decision, _ = divided(feature, spec.features // spec.classes)
    return Verdict(
        jnp.where(loud, decision, -1),
        jnp.where(loud, index, -1),
        jnp.where(loud, best, 0),
    )


def rate_all(
    spec: Decision, weights: Float[Array, "F C k k"], active: Bool[Array, "N C H W"]
) -> tuple[Verdict, Float[Array, "N G"]]:
    """`decide` for many images, computed in batches, and the largest potential of each of the G classes from the same potentials."""
    padding = (0, 0, 2 * spec.pad, 2 * spec.pad)
    image = tuple(n + more for n, more in zip(active.shape, padding, strict=True))
    check_synapses(weights, image, features=spec.features, name="active")
    count, size = active.shape[0], min(_BATCH, active.shape[0])
    taps = by_tap(weights)
    filled = jnp.pad(active, ((0, -count % size), (0, 0), (0, 0), (0, 0)))

    def batch(images):
        x = jnp.moveaxis(images, 0, -1).astype(weights.dtype)
        potential = potentials(taps, x, spec.kernel, spec.pad)
        sides = potential.shape[1:3]
        flat = potential.reshape(spec.features, -1, size)
        verdict = jax.vmap(lambda p: _strongest(spec, p, sides), in_axes=-1)(flat)
        return verdict, potential.reshape(spec.classes, -1, size).max(1).T

    found = lax.map(batch, filled.reshape(-1, size, *active.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)
