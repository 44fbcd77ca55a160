"""Unsupervised training of one layer: a pass over images in one program, to `jit` and to `vmap` over seeds and rates."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, UInt8

from jsnn.stdp import layer, plasticity
from jsnn.stdp.layer import Conv
from jsnn.stdp.plasticity import Bounds, Doubling, Rates
from jsnn.stdp.winners import Winners

_RATES = Rates(0.004, -0.003)


class STDPParams(NamedTuple):
    """What a sweep may vary."""

    threshold: ArrayLike
    bounds: Bounds = Bounds()
    doubling: Doubling = Doubling()


class STDPState(NamedTuple):
    """All that training changes: saved and restored as a whole."""

    weights: Float[Array, "F C k k"]
    rates: Rates
    # Images since the last doubling of the rates.
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]


def params(spec: Conv) -> STDPParams:
    """The layer's threshold, bounds 0 and 1, and the reference's schedule."""
    return STDPParams(spec.threshold)


def init(weights: Float[Array, "F C k k"], rates: Rates = _RATES) -> STDPState:
    """State before the first image."""
    return STDPState(weights, plasticity.as_arrays(rates), jnp.zeros((), jnp.int32))


def step(
    spec: Conv,
    state: STDPState,
    inputs: UInt8[Array, "C H W"],
    params: STDPParams,
    num_steps: int,
    *,
    clip: Literal["all", "winners"] = "all",
) -> tuple[STDPState, Winners]:
    """One image: rates double when due, winners are found, and they learn. `clip` is that of `plasticity.learn`."""
    rates, count = plasticity.doubled(state.rates, state.count, params.doubling)
    winners = layer.compete(
        spec, state.weights, inputs, num_steps, threshold=params.threshold
    )
    weights = plasticity.learn(
        state.weights,
        layer.padded(spec, inputs, num_steps),
        winners,
        rates,
        params.bounds,
        stabilise=spec.stabilise,
        clip=clip,
    )
    return STDPState(weights, rates, count), winners


def run(
    spec: Conv,
    state: STDPState,
    inputs: UInt8[Array, "N C H W"],
    order: Int[Array, "S"],
    params: STDPParams,
    num_steps: int,
    *,
    length: ArrayLike | None = None,
) -> STDPState:
    """A pass over images, one after the other.

    Each image clips its winners' weights alone, which is the same to the bit as clipping all: once the first image has clipped all,
    each lies within its bounds, and only winners' move.

    Args:
      spec: the layer.
      state: from `init`, or from an earlier pass.
      inputs: what `layer.pooled` makes of the layers below, for all images.
      order: which images to show, in this order; an epoch is a permutation.
      params: from `params`.
      num_steps: T.
      length: show only so many images of `order`; it may be traced.
    """

    def one(i, state):
        return step(spec, state, inputs[order[i]], params, num_steps, clip="winners")[0]

    def stretch(state, ends):
        state = lax.fori_loop(ends[0], ends[1], one, state)
        clipped = plasticity.clipped(state.weights, params.bounds)
        weights = jnp.where(ends[1] > 0, clipped, state.weights)
        return state._replace(weights=weights), None

    # The first image is a stretch of its own, after which all weights are clipped.
    zero = jnp.zeros((), jnp.int32)
    count = jnp.asarray(len(order) if length is None else length, jnp.int32)
    first = jnp.minimum(count, 1)
    cuts = jnp.stack([jnp.stack([zero, first]), jnp.stack([first, count])])
    return lax.scan(stretch, state, cuts)[0]


def convergence(weights: Float[Array, "F C k k"]) -> Float[Array, ""]:
    r"""Convergence index $\frac{1}{n} \sum w (1 - w)$: near 0 once every weight has gone to one of its bounds 0 and 1."""
    return (weights * (1 - weights)).mean()
