"""Leaky integrators, which do not spike, and recurrence around any neuron."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import precision
from jsnn.neurons.base import Choices, Neuron, cast, check_decay
from jsnn.neurons.lif import LIFState


class LeakyIntegratorParams(NamedTuple):
    """`beta`: fraction of the membrane kept per step."""

    beta: ArrayLike


def leaky_integrator(*, beta: ArrayLike = 0.9, scale_input: bool = False) -> Neuron:
    r"""Neuron without spikes, $v_t = \beta v_{t-1} + x_t$. Its output is the membrane itself.

    >>> neuron = leaky_integrator(beta=0.5)
    >>> state, v = neuron.step(neuron.params, neuron.init((1, 1)), jnp.ones((1, 1)))
    >>> neuron.step(neuron.params, state, jnp.ones((1, 1)))[1].item()
    1.5

    Args:
      beta: fraction of the membrane kept per step, in [0, 1]; see `decay`.
      scale_input: the input enters with gain $1 - \beta$.

    Returns:
      A neuron: `init(shape)` gives the state, `step(params, state, current [B, N])` the next state and the membranes `[B, N]`.
    """
    check_decay("beta", beta)

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> LIFState:
        return LIFState(jnp.zeros(shape, dtype))

    @precision.keeping
    def step(
        params: LeakyIntegratorParams, state: LIFState, current: Float[Array, "..."]
    ):
        (beta,) = cast(state.v, params)
        v = beta * state.v + ((1 - beta) * current if scale_input else current)
        return LIFState(v), v

    choices = Choices("leaky_integrator", scale_input=scale_input)
    return Neuron(
        LeakyIntegratorParams(beta), init, step, elementwise=True, choices=choices
    )


class RecurrentParams(NamedTuple):
    """`neuron`: the inner neuron's parameters; `weight`: `[N, N]`, from presynaptic row to postsynaptic column."""

    neuron: Any
    weight: Float[Array, "N N"]


class RecurrentState(NamedTuple):
    """`neuron`: the inner neuron's state; `spikes`: its output one step ago, `[B, N]`."""

    neuron: Any
    spikes: Float[Array, "... N"]


def recurrent(neuron: Neuron, weight: Float[Array, "N N"]) -> Neuron:
    r"""The same neuron, with the spikes of its own layer one step ago as further input: $x_t + s_{t-1}W$.

    >>> neuron = recurrent(leaky_integrator(beta=0.5), jnp.eye(2))
    >>> neuron.init((3, 2)).spikes.shape
    (3, 2)

    Args:
      neuron: any neuron of this room.
      weight: $W$, `[N, N]`, from row to column.

    Returns:
      A neuron whose parameters and state hold those of the inner one.
    """

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> RecurrentState:
        return RecurrentState(neuron.init(shape, dtype), jnp.zeros(shape, dtype))

    def driven(
        params: RecurrentParams, state: RecurrentState, current: Float[Array, "... N"]
    ):
        """What the inner neuron's own functions take."""
        weight = jnp.asarray(params.weight, state.spikes.dtype)
        size = current.shape[-1]
        if weight.shape != (size, size):
            raise ValueError(
                f"Recurrent weights are {list(weight.shape)}, but the layer has {size} neurons: write `recurrent={size}`."
            )
        return params.neuron, state.neuron, current + state.spikes @ weight

    @precision.keeping
    def step(
        params: RecurrentParams, state: RecurrentState, current: Float[Array, "... N"]
    ):
        inner, spikes = neuron.step(*driven(params, state, current))
        return RecurrentState(inner, spikes), spikes

    charge, threshold = neuron.charge, neuron.threshold
    return Neuron(
        RecurrentParams(neuron.params, weight),
        init,
        step,
        charge=charge and (lambda p, s, x: charge(*driven(p, s, x))),
        threshold=threshold and (lambda p, s: threshold(p.neuron, s.neuron)),
    )
