r"""What goes on inside a grid layer, for plots: membranes on the way there, adjoints on the way back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn.eventprop.flow import LIFParams, LIParams, aligned, flow
from jsnn.eventprop.grid import GridState, Reset, make_scheme, membrane_step, rest_state
from jsnn.eventprop.spikes import Drive


class Adjoint(NamedTuple):
    r"""$\lambda_V$ and $\lambda_I$ at every step, just after it, `[T, B, *N]`."""

    v: Float[Array, "T B *N"]
    i: Float[Array, "T B *N"]


def membranes(
    params: LIFParams, drive: Drive, *, dt: float, reset: Reset = "subtract"
) -> GridState:
    """Membrane and synaptic current of `grid.lif` after every step, `[T, B, *N]`, from rest. No gradient."""
    scheme = make_scheme(dt, "substep", reset, 1e-2, 1)
    mass = jax.lax.stop_gradient(drive.mass)
    p = aligned(params, mass.shape[1:], mass.dtype)
    coefficients = flow(jnp.asarray(dt, mass.dtype), p.tau_mem, p.tau_syn)

    def step(state, u):
        state, _ = membrane_step(scheme, p, coefficients, state, u)
        return state, state

    return jax.lax.scan(step, rest_state(drive), mass)[1]


def adjoints(params: LIFParams | LIParams, gradient: Drive) -> Adjoint:
    r"""$\lambda_V, \lambda_I$ from the gradient of a loss with respect to the drive of a layer.

    The two cotangents of a drive are $-\tau_s\lambda_I$ and $\lambda_V - \lambda_I$; so `jax.grad` of anything that takes the drive as an
    argument holds both adjoints already.
    """
    tau_syn = aligned(params, gradient.mass.shape[1:], gradient.mass.dtype).tau_syn
    lambda_i = -gradient.mass / tau_syn
    return Adjoint(v=gradient.time + lambda_i, i=lambda_i)
