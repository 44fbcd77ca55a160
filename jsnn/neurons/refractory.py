"""The absolute refractory period, around any neuron with a membrane."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn import check, precision
from jsnn.neurons.base import Neuron


class RefractoryState(NamedTuple):
    """`neuron`: the neuron's own state; `left`: steps of rest still to come `[B, N]`, as floats so that kernels take them like membranes."""

    neuron: Any
    left: Float[Array, "..."]

    @property
    def v(self) -> Float[Array, "..."]:
        """The membrane."""
        return self.neuron.v


def check_refractory(refractory: int, delayed_reset: bool) -> int:
    """Refuses what is no number of steps, and a rest that would begin before the reset."""
    remedy = "It is a number of time steps."
    refractory = check.whole("refractory", refractory, 0, remedy=remedy)
    if refractory and delayed_reset:
        raise ValueError(
            f"`refractory` is {refractory}, which needs delayed_reset=False: while a neuron rests, its membrane is held at the value after the reset."
        )
    return refractory


def _membrane_held(params: Any, old: Any, new: Any) -> Any:
    return new._replace(v=old.v)


def refractory(
    neuron: Neuron,
    num_steps: int,
    *,
    held: Callable[[Any, Any, Any], Any] = _membrane_held,
) -> Neuron:
    """The same neuron with a rest of `num_steps` steps after each spike; itself if there are none. See `lif` for the convention.

    Args:
      neuron: one whose state has a membrane `v`, reset at once.
      num_steps: of rest.
      held: `(params, old, new) -> state` of a neuron at rest, from its state before and what a step would make of it.
    """
    charge, threshold = neuron.charge, neuron.threshold
    if not num_steps or charge is None:
        return neuron

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> RefractoryState:
        return RefractoryState(neuron.init(shape, dtype), jnp.zeros(shape, dtype))

    def step(params: Any, state: RefractoryState, current: Float[Array, "..."]):
        rests = state.left > 0
        new, spikes = neuron.step(params, state.neuron, current)
        quiet = held(params, state.neuron, new)
        new = jax.tree.map(lambda q, n: jnp.where(rests, q, n), quiet, new)
        spikes = jnp.where(rests, jnp.zeros_like(spikes), spikes)
        waits = jnp.maximum(state.left - 1, 0)
        left = jnp.where(spikes > 0, jnp.full_like(waits, num_steps), waits)
        return RefractoryState(new, jax.lax.stop_gradient(left)), spikes

    def charged(params: Any, state: RefractoryState, current: Float[Array, "..."]):
        v = charge(params, state.neuron, current)
        return jnp.where(state.left > 0, state.v, v)

    return neuron._replace(
        init=init,
        step=precision.keeping(step),
        charge=charged,
        threshold=threshold and (lambda p, s: threshold(p, s.neuron)),
        refractory=num_steps,
    )
