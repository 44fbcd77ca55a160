r"""What goes on inside a grid layer, for plots: membranes on the way there, adjoints on the way back."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn.eventprop import euler, network, synapse
from jsnn.eventprop.flow import LIFParams, LIParams, aligned, flow
from jsnn.eventprop.grid_step import GridState, LIFStep, Reset
from jsnn.eventprop.spikes import Drive, TimedSpikes
from jsnn.model import Model


class Adjoint(NamedTuple):
    r"""$\lambda_V$ and $\lambda_I$ at every step, just after it, `[T, B, *N]`."""

    v: Float[Array, "T B *N"]
    i: Float[Array, "T B *N"]


def membranes(
    params: LIFParams, drive: Drive, *, dt: float, reset: Reset = "subtract"
) -> GridState:
    """Membrane of `grid.lif` before any reset, and synaptic current, after every step, `[T, B, *N]`, from rest. No gradient."""
    rule = LIFStep(dt, reset=reset)
    mass = jax.lax.stop_gradient(drive.mass)
    p = aligned(params, mass.shape[1:], mass.dtype)
    coefficients = flow(jnp.asarray(dt, mass.dtype), p.tau_mem, p.tau_syn)

    def step(state, u):
        charged = coefficients.a * state.v + coefficients.kappa * state.i
        state, *_ = rule.forward(p, coefficients, state, u)
        return state, state._replace(v=charged)

    rest = jnp.zeros_like(mass[0])
    return jax.lax.scan(step, GridState(rest, rest), mass)[1]


def adjoints(params: LIFParams | LIParams, gradient: Drive) -> Adjoint:
    r"""$\lambda_V, \lambda_I$ from the gradient of a loss with respect to the drive of a layer.

    The two cotangents of a drive are $-\tau_s\lambda_I$ and $\lambda_V - \lambda_I$; so `jax.grad` of anything that takes the drive as an
    argument holds both adjoints already.
    """
    tau_syn = aligned(params, gradient.mass.shape[1:], gradient.mass.dtype).tau_syn
    lambda_i = -gradient.mass / tau_syn
    return Adjoint(v=gradient.time + lambda_i, i=lambda_i)


class LayerTrace(NamedTuple):
    """What went on inside one layer of neurons, `[T, B, *N]` each; `spikes` is None for leaky integrators."""

    membrane: Float[Array, "T B *N"]  # compared with the threshold, before any reset
    spikes: Float[Array, "T B *N"] | None
    adjoint: Adjoint

    @property
    def steps(self) -> int:
        """T."""
        return self.membrane.shape[0]


def look(
    layers: Sequence[network.Layer],
    model: Model,
    x: Any,
    loss: Callable[[Any], Array],
    *,
    dt: float,
) -> list[LayerTrace]:
    """Runs a network forward and its adjoint backward, and keeps both for every layer of neurons.

    Args:
      layers: as given to `network.chain`; neurons with the subtractive reset or of the one-layer reference.
      model: weights and physics of each layer.
      x: input spikes.
      loss: value of the last layer to a scalar.
      dt: time step.
    """
    weights, physics = model
    found = []
    for k, layer in enumerate(layers):
        if layer.physics == ():
            continue
        below, rest = (
            Model(weights[i], physics[i]) for i in (slice(k), slice(k, None))
        )

        def above(drive: Drive, k: int = k, rest: Model = rest) -> tuple[Array, Any]:
            out = network.chain(*layers[k:]).apply(rest, drive)
            return loss(out.value), out.spikes or (out.value,)

        drive = network.chain(*layers[:k]).apply(below, x).value
        gradient, (first, *_) = jax.grad(above, has_aux=True)(drive)
        found.append(_layer_trace(weights[k], physics[k], drive, gradient, first, dt))
    return found


def _layer_trace(
    weights: Any, physics: Any, drive: Drive, gradient: Drive, output: Any, dt: float
) -> LayerTrace:
    if not isinstance(output, TimedSpikes):
        return LayerTrace(output, None, adjoints(physics, gradient))
    spikes = jax.lax.stop_gradient(output.values)
    if isinstance(physics, LIFParams):
        v = euler.membranes(physics, drive, dt=dt)
        return LayerTrace(v, spikes, Adjoint(*euler.adjoints(gradient)))
    mass = drive.mass
    if not isinstance(weights, tuple):  # recurrent: heard one step later
        assert output.lead is not None
        early = spikes * output.lead / dt
        heard = early.at[1:].add((spikes - early)[:-1])
        mass = mass + jax.vmap(synapse.dense, (None, 0))(weights, heard)
    state = membranes(physics.params, Drive(mass, mass), dt=dt)
    return LayerTrace(state.v, spikes, adjoints(physics.params, gradient))
