r"""Keeping neurons alive and rates in bounds. All of this is heuristic, none of it a gradient.

EventProp's gradient of a *number* of spikes is zero, and a silent neuron has no gradient at all. Published networks therefore add terms
to the adjoint, or change weights outside it. They are kept apart here, and off unless asked for.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import check
from jsnn.eventprop.spikes import TimedSpikes, counts


class RatePenalty(NamedTuple):
    r"""Heuristic: pushes the spikes per neuron towards a target (Nowotny, Turner & Knight, 2025, https://arxiv.org/abs/2212.01232).

    At each spike of a hidden neuron, after the exact jump and not divided by the slope, $\lambda_V$ is lowered by
    $\lambda_{reg}(\bar N_n - \nu)/B$, $\bar N_n$ the batch mean of the neuron's spikes. It acts through the spikes there are, so it cannot
    wake a neuron that has none.
    """

    too_many: ArrayLike = 0.0  # strength above the target
    too_few: ArrayLike = 0.0  # strength below it
    target: ArrayLike = 14.0  # spikes per neuron and sample


def rate_push(
    penalty: RatePenalty | None, inverse_slope: Float[Array, "T B *N"]
) -> Array | None:
    """What every spike subtracts from its neuron's adjoint voltage, `[1, *N]`; None without a penalty."""
    if penalty is None:
        return None
    for name, value in penalty._asdict().items():
        check.number(name, value, "[0, inf)")
    strength_up, strength_down, target = jax.tree.map(
        lambda x: jnp.asarray(x, inverse_slope.dtype), penalty
    )
    spikes = (inverse_slope != 0).astype(inverse_slope.dtype).sum(0)
    excess = spikes.mean(0, keepdims=True) - target
    strength = jnp.where(excess > 0, strength_up, strength_down)
    return strength * excess / spikes.shape[0]


def kick_silent(
    weight: Float[Array, "I *N"],
    simulate: Callable[[Float[Array, "I *N"]], TimedSpikes],
    *,
    amount: ArrayLike = 0.1,
    max_rounds: int = 100,
) -> Float[Array, "I *N"]:
    """Heuristic of the one-layer reference: raises all weights of neurons that missed a sample, until none does.

    A neuron silent for *at least one* sample of the batch gets `amount` on each of its weights; then the batch is simulated again.
    Not differentiable: call it before the gradient, on the weights that the step starts from.

    Args:
      weight: `[I, *N]`.
      simulate: weights to spikes `[T, B, *N]`.
      amount: added to a weight per round.
      max_rounds: the reference goes on for ever; here an input without spikes does not hang.
    """
    max_rounds = check.whole("max_rounds", max_rounds, 1)
    check.number("amount", amount)
    kick = jnp.asarray(amount, weight.dtype)

    def missed(weight: Array) -> Array:
        return (counts(simulate(weight)) == 0).any(0)

    def body(carry):
        weight, silent, rounds = carry
        weight = weight + kick * silent.astype(weight.dtype)[None]
        return weight, missed(weight), rounds + 1

    weight = jax.lax.stop_gradient(weight)
    carry = weight, missed(weight), 0

    def more(carry):
        return carry[1].any() & (carry[2] < max_rounds)

    return jax.lax.while_loop(more, body, carry)[0]


def lift_silent(
    weight: Float[Array, "I *N"],
    spike_counts: Float[Array, "B *N"],
    *,
    amount: ArrayLike = 2e-3,
) -> Float[Array, "I *N"]:
    """Heuristic, the gentle one: raises all weights of neurons that no sample of the batch woke, once, by a little."""
    check.number("amount", amount)
    silent = (spike_counts == 0).all(0).astype(weight.dtype)
    return weight + jnp.asarray(amount, weight.dtype) * silent[None]
