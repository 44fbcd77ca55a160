"""Two layers that learn from one decision: a layer with a threshold, and the decision layer above it, both by reward and punishment."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, UInt8

from jsnn.stdp import layer, plasticity, reward
from jsnn.stdp.layer import Conv, Decision
from jsnn.stdp.reward import RewardParams, RewardState


class JointState(NamedTuple):
    """All that training changes: saved and restored as a whole."""

    hidden: RewardState
    decision: RewardState


class JointParams(NamedTuple):
    """What a sweep may vary."""

    threshold: ArrayLike  # of the hidden layer
    hidden: RewardParams
    decision: RewardParams = RewardParams()


def step(
    specs: tuple[Conv, Decision],
    state: JointState,
    inputs: UInt8[Array, "C H W"],
    label: Int[Array, ""],
    params: JointParams,
    num_steps: int,
    learns: Bool[Array, "2"],
) -> tuple[JointState, layer.Verdict]:
    """One image: both layers' winners are found with the weights as they are, then those of the layers that learn change."""
    hidden, decision = specs
    theta, weights = params.threshold, state.hidden.weights
    fired = layer.fire_at_last(hidden, weights, inputs < num_steps, threshold=theta)
    active = layer.pooled_activity(decision, fired)
    after, verdict = reward.step(
        decision, state.decision, active, label, params.decision
    )
    winners = layer.compete(hidden, weights, inputs, num_steps, threshold=theta)
    learnt = plasticity.learn(
        weights,
        layer.padded(hidden, inputs, num_steps),
        winners,
        reward.rates_for(state.hidden, verdict.decision, label),
        params.hidden.bounds,
        stabilise=hidden.stabilise,
    )
    loud = learns & (verdict.decision >= 0)
    return JointState(
        _choose(loud[0], learnt, state.hidden),
        _choose(loud[1], after.weights, state.decision),
    ), verdict


def _choose(new: Bool[Array, ""], weights: Array, state: RewardState) -> RewardState:
    return state._replace(weights=jnp.where(new, weights, state.weights))


def run_window(
    specs: tuple[Conv, Decision],
    state: JointState,
    inputs: UInt8[Array, "N C H W"],
    labels: Int[Array, "N"],
    order: Int[Array, "S"],
    params: JointParams,
    num_steps: int,
    *,
    learns: Bool[Array, "2"] | None = None,
) -> tuple[JointState, layer.Verdict]:
    """Images one after the other, after which the rates of both layers adapt.

    Args:
      specs: the layer with a threshold, and the decision layer that sees its (pooled) spikes.
      state: of both; each from `reward.init`.
      inputs: what `layer.pooled` makes of the layers below the first, for all images.
      labels: their classes.
      order: which images to show, in this order; −1 shows none (decision −1), to fill up.
      params: of both.
      num_steps: T.
      learns: whether the hidden and the decision layer learn; both, if None.
    """
    learns = jnp.ones(2, bool) if learns is None else learns

    def body(state, i):
        shown = i >= 0
        state, verdict = step(
            specs, state, inputs[i], labels[i], params, num_steps, learns & shown
        )
        return state, verdict._replace(decision=jnp.where(shown, verdict.decision, -1))

    state, verdicts = lax.scan(body, state, order)
    hidden, decision = (
        reward.adapt(s, verdicts.decision, labels[order], p, shown=order >= 0)
        for s, p in zip(state, (params.hidden, params.decision), strict=True)
    )
    return JointState(hidden, decision), verdicts
