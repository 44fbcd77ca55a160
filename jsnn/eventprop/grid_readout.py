r"""The leaky integrator on the grid: a read-out whose membrane is the output, and which never spikes.

It is linear, so its adjoint is plain autodiff, but for the time cotangent of what drives it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn import check
from jsnn.eventprop.flow import LIParams, aligned, check_params, flow
from jsnn.eventprop.grid import (
    GridState,
    dense_cotangents,
    flow_gradient,
    param_gradient,
    rest_state,
    time_cotangent,
)
from jsnn.eventprop.spikes import Drive, require_drive


class _Residuals(NamedTuple):
    """As for `grid.lif`: nothing is kept unless a time constant is differentiated."""

    params: Any
    trace: GridState | None
    wants_time: tuple[()] | None


def leaky_integrator(
    params: LIParams,
    state: GridState | None,
    drive: Drive,
    *,
    dt: float,
    unroll: int = 1,
) -> tuple[GridState, Float[Array, "T B *N"]]:
    """A layer of leaky integrators over a block of time steps.

    `V = a V + kappa I; I = b I + u[n]`: an arrival shows in the membrane one step later, as in `grid.lif`.

    Args:
      params: physics; differentiable.
      state: of the block before; None for rest.
      drive: what `synapse` returned, `[T, B, *N]`.
      dt: time step, in the unit of the time constants.
      unroll: of the scan; about 8 on GPU, 1 on CPU.

    Returns:
      The state after the last step, and the membrane at every step, `[T, B, *N]`.
    """
    check_params(params)
    dt = check.static("dt", dt, "(0, inf)")
    unroll = check.whole("unroll", unroll, 1)
    require_drive(drive)
    state = rest_state(drive) if state is None else state
    params = jax.tree.map(lambda p: jnp.asarray(p, drive.mass.dtype), params)
    return _integrate((dt, unroll), params, state, drive)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _integrate(static, params, state, drive):
    return _run(static, params, state, drive.mass)[:2]


def _run(static, params, state, mass, *, keep_trace=False):
    dt, unroll = static
    p = aligned(params, mass.shape[1:], mass.dtype)
    a, b, kappa = flow(jnp.asarray(dt, mass.dtype), p.tau_mem, p.tau_syn)

    def step(state, u):
        v = a * state.v + kappa * state.i
        return GridState(v, b * state.i + u), (v, state if keep_trace else None)

    state, (v, trace) = jax.lax.scan(step, state, mass, unroll=unroll)
    return state, v, trace


def _forward(static, params, state, drive):
    wants_time = () if drive.time.perturbed else None
    keep_trace = any(x.perturbed for x in params)
    params, state, mass = jax.tree.map(lambda x: x.value, (params, state, drive.mass))
    state, v, trace = _run(static, params, state, mass, keep_trace=keep_trace)
    return (state, v), _Residuals(params, trace, wants_time)


def _backward(static, residuals, cotangents):
    dt, unroll = static
    params, trace, wants_time = residuals
    state_bar, v_bar = dense_cotangents(cotangents)
    p = aligned(params, v_bar.shape[1:], v_bar.dtype)
    a, b, kappa = flow(jnp.asarray(dt, v_bar.dtype), p.tau_mem, p.tau_syn)

    def step(carry, x):
        adjoint, total = carry
        v_bar, before = x
        # Just after the reading an arrival is not seen by it, just before it is: on average it is by half.
        half = GridState(adjoint.v + 0.5 * v_bar, adjoint.i)
        emitted = adjoint.i, time_cotangent(p, half) if wants_time == () else None
        at_read = GridState(adjoint.v + v_bar, adjoint.i)
        if total is not None:
            change = flow_gradient(p, dt, before, at_read)
            total = jax.tree.map(jnp.add, total, LIParams(*change))
        new = GridState(a * at_read.v, b * at_read.i + kappa * at_read.v)
        return (new, total), emitted

    zeros = jnp.zeros_like(state_bar.v)
    total = None if trace is None else LIParams(zeros, zeros)
    (adjoint, total), (mass, time) = jax.lax.scan(
        step, (state_bar, total), (v_bar, trace), reverse=True, unroll=unroll
    )
    return param_gradient(params, total), adjoint, Drive(mass, time)  # pyright: ignore[reportArgumentType]  # None is a zero


_integrate.defvjp(_forward, _backward, symbolic_zeros=True)
