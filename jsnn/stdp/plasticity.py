r"""The learning rules: what one image does to the weights of the winners, and how rates change over images.

A winner that fired at step $t$ compares itself with each of its synapses, whose input fired first at $t_{in}$ (T: never):

$$\Delta w = \begin{cases} a_{ltp} & t_{in} \le t \\ a_{ltd} & \text{otherwise}\end{cases}
  \times \bigl[(w - w_{low})(w_{high} - w)\bigr]$$

The bracket is the stabiliser. STDP has $a_{ltp} > 0 > a_{ltd}$, anti-STDP the opposite. Afterwards all weights of the layer
are clipped to $[w_{low}, w_{high}]$, winners' and others'. Reference: Mozafari et al., Pattern Recognition 94 (2019) 87.
"""

from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from jsnn import check
from jsnn.precision import like
from jsnn.stdp.winners import Winners


class Rates(NamedTuple):
    """Learning rates of synapses whose input fired in time (`ltp`), and of the others (`ltd`)."""

    ltp: ArrayLike
    ltd: ArrayLike


class Bounds(NamedTuple):
    """Weights stay within these."""

    low: ArrayLike = 0.0
    high: ArrayLike = 1.0


class Doubling(NamedTuple):
    """Schedule of unsupervised layers: every so many images `ltp` doubles, up to `cap`, and `ltd` follows it."""

    every: ArrayLike = 500
    cap: ArrayLike = 0.15
    ltd_ratio: ArrayLike = -0.75


_Pair = TypeVar("_Pair", Rates, Bounds)


def as_arrays(pair: _Pair) -> _Pair:
    """The same pair, its numbers as float32 arrays.

    Raises:
      ValueError: if a number is not finite, or bounds are out of order.
    """
    for name, x in pair._asdict().items():
        check.number(name, x)
    if isinstance(pair, Bounds):
        check.ordered("low", pair.low, "high", pair.high, equal=True)
    return type(pair)(*(jnp.asarray(x, jnp.float32) for x in pair))


def learn(
    weights: Float[Array, "F C k k"],
    times: UInt8[Array, "C H W"],
    winners: Winners,
    rates: Rates,
    bounds: Bounds,
    *,
    stabilise: bool,
    clip: Literal["all", "winners"] = "all",
) -> Float[Array, "F C k k"]:
    """Weights after one image. With anti-STDP's rates it unlearns; with zero rates it only clips.

    Args:
      weights: of the layer.
      times: the layer's padded input.
      winners: at most one a feature.
      rates: of this image.
      bounds: of all weights.
      stabilise: whether changes vanish towards the bounds.
      clip: `"winners"` leaves other weights alone, which is the same, and cheaper, once all lie within the bounds.

    Raises:
      ValueError: if `clip` is neither, or a number out of range.
    """
    check.choice("clip", clip, ("all", "winners"))
    rates, bounds = as_arrays(rates), as_arrays(bounds)
    feature, row, column = winners.index.T

    def window(row, column):
        return lax.dynamic_slice(
            times, (jnp.zeros_like(row), row, column), weights.shape[1:]
        )

    seen = jax.vmap(window)(row, column) <= winners.times[:, None, None, None]
    w = weights[feature]
    new = w + change(w, seen, rates, bounds, stabilise=stabilise)
    new = like(w, jnp.clip(new, bounds.low, bounds.high))
    # A missing winner, -1, is sent out of range and dropped.
    feature = jnp.where(feature >= 0, feature, weights.shape[0])
    weights = weights.at[feature].set(new, mode="drop", unique_indices=True)
    return weights if clip == "winners" else clipped(weights, bounds)


def clipped(weights: Float[Array, "*K"], bounds: Bounds) -> Float[Array, "*K"]:
    """Weights within their bounds."""
    bounds = as_arrays(bounds)
    return like(weights, jnp.clip(weights, bounds.low, bounds.high))


def change(
    weights: Float[Array, "*K"],
    in_time: Bool[Array, "*K"],
    rates: Rates,
    bounds: Bounds,
    *,
    stabilise: bool,
) -> Float[Array, "*K"]:
    """Change of a winner's weights, not clipped yet."""
    step = jnp.where(in_time, rates.ltp, rates.ltd)
    if stabilise:
        step = step * ((weights - bounds.low) * (bounds.high - weights))
    return step


def doubled(
    rates: Rates, count: Int[Array, ""], schedule: Doubling
) -> tuple[Rates, Int[Array, ""]]:
    """Rates for the next image, and the number of images since the last doubling, that image included."""
    check.number("every", schedule.every, "[1, inf)")
    check.number("cap", schedule.cap)
    check.number("ltd_ratio", schedule.ltd_ratio)
    count = count + 1
    due = count >= jnp.asarray(schedule.every, jnp.int32)
    cap, ratio = (
        jnp.asarray(x, jnp.float32) for x in (schedule.cap, schedule.ltd_ratio)
    )
    ltp = jnp.minimum(2 * rates.ltp, cap)
    new = Rates(jnp.where(due, ltp, rates.ltp), jnp.where(due, ratio * ltp, rates.ltd))
    return new, jnp.where(due, 0, count)


def adapted(
    base: Rates, fraction: Float[Array, ""], floor: ArrayLike, gain: ArrayLike
) -> Rates:
    """Adaptive rates of reward-modulated STDP: `base * (fraction * gain + floor)`.

    Rewards take the fraction of misses of the window just seen, punishments that of hits, so that what happens rarely counts more.
    """
    scale = fraction * jnp.asarray(gain, jnp.float32) + jnp.asarray(floor, jnp.float32)
    return Rates(*(jnp.asarray(a, jnp.float32) * scale for a in base))
