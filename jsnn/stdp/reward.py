"""Reward-modulated STDP of decision layers: correct decisions are reinforced, wrong ones unlearned, silence changes nothing.

After each window of images the rates adapt to the fractions of hits and misses in it. Reference: Mozafari et al., Pattern
Recognition 94 (2019) 87.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jsnn import check
from jsnn.precision import like
from jsnn.stdp import layer, plasticity
from jsnn.stdp.blocks import in_bounds, run_blocks
from jsnn.stdp.layer import Decision
from jsnn.stdp.plasticity import Bounds, Rates


class RewardParams(NamedTuple):
    """What a sweep may vary. Rates in effect are these times `fraction * gain + floor`."""

    reward: Rates = Rates(0.004, -0.003)
    punish: Rates = Rates(-0.004, 0.0005)
    bounds: Bounds = Bounds(0.2, 0.8)
    floor: ArrayLike = 0.0
    gain: ArrayLike = 1.0


_PARAMS = RewardParams()


class RewardState(NamedTuple):
    """All that training changes: saved and restored as a whole."""

    weights: Float[Array, "F C k k"]
    reward: Rates
    punish: Rates


def init(
    weights: Float[Array, "F C k k"], params: RewardParams = _PARAMS
) -> RewardState:
    """State before the first image: the first window has the base rates themselves."""
    check.number("floor", params.floor)
    check.number("gain", params.gain)
    reward, punish = (plasticity.as_arrays(r) for r in (params.reward, params.punish))
    return RewardState(weights, reward, punish)


def rates_for(
    state: RewardState, decision: Int[Array, ""], label: Int[Array, ""]
) -> Rates:
    """Reward's rates for a correct decision, else punishment's."""
    right = decision == label
    return Rates(
        *(
            jnp.where(right, a, b)
            for a, b in zip(state.reward, state.punish, strict=True)
        )
    )


def step(
    spec: Decision,
    state: RewardState,
    active: Bool[Array, "C H W"],
    label: Int[Array, ""],
    params: RewardParams,
) -> tuple[RewardState, layer.Verdict]:
    """One image by the plain rule: decide, then learn. Silence leaves the weights as they are, unclipped too."""
    verdict = layer.decide(spec, state.weights, active)
    bounds = plasticity.as_arrays(params.bounds)
    image = layer.padded_activity(spec, active)
    feature, row, column = verdict.index
    seen = lax.dynamic_slice(
        image, (jnp.zeros_like(row), row, column), state.weights.shape[1:]
    )
    w = lax.dynamic_index_in_dim(state.weights, feature, keepdims=False)
    rates = rates_for(state, verdict.decision, label)
    new = w + plasticity.change(w, seen, rates, bounds, stabilise=False)
    weights = lax.dynamic_update_index_in_dim(state.weights, like(w, new), feature, 0)
    weights = plasticity.clipped(weights, bounds)
    weights = jnp.where(verdict.decision >= 0, weights, state.weights)
    return state._replace(weights=weights), verdict


def adapt(
    state: RewardState,
    decisions: Int[Array, "S"],
    labels: Int[Array, "S"],
    params: RewardParams,
    shown: Bool[Array, "S"] | None = None,
) -> RewardState:
    """Rates for the next window, from the decisions in this one; `shown` marks those that count (all, if None)."""
    shown = jnp.ones(decisions.shape, bool) if shown is None else shown
    count = jnp.maximum(shown.sum(), 1).astype(jnp.float32)
    hits = (shown & (decisions == labels)).sum() / count
    misses = (shown & (decisions != labels) & (decisions >= 0)).sum() / count
    return state._replace(
        reward=plasticity.adapted(params.reward, misses, params.floor, params.gain),
        punish=plasticity.adapted(params.punish, hits, params.floor, params.gain),
    )


def run_window(
    spec: Decision,
    state: RewardState,
    active: Bool[Array, "N C H W"],
    labels: Int[Array, "N"],
    order: Int[Array, "S"],
    params: RewardParams,
    *,
    block: int = 16,
) -> tuple[RewardState, layer.Verdict]:
    """Images one after the other at constant rates.

    Args:
      spec: the layer.
      state: from `init` or `adapt`.
      active: which neurons of the (pooled) layer below fired at all, for all images.
      labels: their classes.
      order: which images to show, in this order; −1 shows none (decision −1), to fill up.
      params: from `RewardParams`.
      block: images whose potentials are computed as one product; changes the speed alone.

    Returns:
      The new state, and the verdict on every image, with a leading axis S.

    Raises:
      ValueError: if `block` is below 1.
    """
    block = check.whole("block", block, 1)
    count = order.shape[0]
    bounds = plasticity.as_arrays(params.bounds)

    def unclipped(carry):
        i, state, _ = carry
        return (i < count) & ~in_bounds(state.weights, bounds)

    def plain(carry):
        i, state, verdicts = carry
        image = order[i]
        new, verdict = step(spec, state, active[image], labels[image], params)
        weights = jnp.where(image >= 0, new.weights, state.weights)
        verdicts = jax.tree.map(
            lambda all_, one: all_.at[i].set(one), verdicts, verdict
        )
        return i + 1, state._replace(weights=weights), verdicts

    blank = layer.Verdict(
        jnp.full(count, -1, jnp.int32),
        jnp.full((count, 3), -1, jnp.int32),
        jnp.zeros(count, state.weights.dtype),
    )
    first, state, before = lax.while_loop(
        unclipped, plain, (jnp.zeros((), jnp.int32), state, blank)
    )
    done = jnp.arange(count, dtype=jnp.int32) < first
    weights, after = run_blocks(
        spec,
        state.weights,
        active,
        labels,
        jnp.where(done, -1, order),
        state.reward,
        state.punish,
        bounds,
        min(block, count),
    )

    def merged(before, after, blank):
        shape = (-1, *(1,) * (before.ndim - 1))
        shown = (order >= 0).reshape(shape)
        return jnp.where(shown, jnp.where(done.reshape(shape), before, after), blank)

    verdicts = jax.tree.map(merged, before, after, blank)
    return state._replace(weights=weights), verdicts


def run_committee(
    specs: Sequence[Decision],
    states: Sequence[RewardState],
    active: Bool[Array, "N C H W"],
    labels: Int[Array, "N"],
    order: Int[Array, "S"],
    params: RewardParams,
    *,
    vote: Callable[[Int[Array, "M S"]], Int[Array, "S"]],
    block: int = 16,
) -> tuple[tuple[RewardState, ...], tuple[layer.Verdict, ...], Int[Array, "S"]]:
    """One window of M decision layers with the same input, after which their rates adapt: each is rewarded for its own decision; the rates of all adapt to the common one.

    Args:
      specs: the layers.
      states: one a layer.
      active, labels, order, params, block: as for `run_window`.
      vote: the common decision, from the members' (−1 is silence).

    Returns:
      The new states, each layer's verdicts, and the common decisions.
    """
    found = [
        run_window(*args, active, labels, order, params, block=block)
        for args in zip(specs, states, strict=True)
    ]
    verdicts = tuple(v for _, v in found)
    common = vote(jnp.stack([v.decision for v in verdicts]))
    adapted = tuple(
        adapt(s, common, labels[order], params, shown=order >= 0) for s, _ in found
    )
    return adapted, verdicts, common
