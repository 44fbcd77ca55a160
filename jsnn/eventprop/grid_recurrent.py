r"""A recurrent layer on the grid: neurons that hear themselves K >= 1 steps later.

The same two systems as `grid`, coupled in time. A spike that crosses in the middle of step n arrives K dt later in the middle of a step: it is
shared out to the steps n + K - 1 and n + K, as `spikes.split` does, and gathers from both what it causes. (With `reset="hard"` it lies at
the grid point, and arrives with step n + K.) The gradient of the recurrent weights is one product over all time steps, after the scan.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jsnn import check
from jsnn.eventprop.flow import LIFParams, aligned, check_params, flow
from jsnn.eventprop.grid import (
    GridState,
    Reset,
    Scheme,
    Slope,
    adjoint_step,
    dense_cotangents,
    lif_gradient,
    make_scheme,
    membrane_step,
    pack,
    param_gradient,
    rest_state,
    time_cotangent,
    unpack,
)
from jsnn.eventprop.regularise import RatePenalty, rate_push
from jsnn.eventprop.spikes import Drive, TimedSpikes, require_drive
from jsnn.eventprop.synapse import Linear, dense
from jsnn.unroll import folded


class RecurrentState(NamedTuple):
    """Neurons and the spikes under way, or their parts: `pending[k]` arrives with step k of the next block, `[K, B, *N]`."""

    neurons: GridState
    pending: TimedSpikes


class _Static(NamedTuple):
    """Static choices: the scheme of `grid`, the linear map of the recurrent synapse."""

    scheme: Scheme
    linear: Linear


class _Residuals(NamedTuple):
    """As for `grid.lif`, and the spikes that arrive at each step, for the gradient of the recurrent weights."""

    params: Any
    weights: Any
    kept: Any
    arriving: Array
    penalty: RatePenalty | None
    trace: GridState | None
    wants_params: tuple[()] | None


def recurrent_lif(
    params: LIFParams,
    weights: Any,
    state: RecurrentState | None,
    drive: Drive,
    *,
    dt: float,
    delay_steps: int = 1,
    linear: Linear = dense,
    penalty: RatePenalty | None = None,
    slope: Slope = "substep",
    reset: Reset = "subtract",
    min_slope: float = 1e-2,
    unroll: int = 1,
) -> tuple[RecurrentState, TimedSpikes]:
    """A layer of current-based LIF neurons with recurrent synapses.

    Args:
      params: physics; differentiable.
      weights: of the recurrent synapse, `[N, N]` (from, to) for `dense`.
      state: of the block before; None for rest.
      drive: from outside, `[T, B, *N]`.
      dt: time step, in the unit of the time constants.
      delay_steps: K, the recurrent delay in steps.
      linear: map of the recurrent synapse, `(weights, z[M, *N]) -> [M, *N]`.
      penalty: see `grid.lif`.
      slope: see `grid.lif`.
      reset: see `grid.lif`.
      min_slope: see `grid.lif`.
      unroll: see `grid.lif`.

    Returns:
      The state after the last step, and the spikes `[T, B, *N]`.
    """
    check_params(params)
    require_drive(drive)
    scheme = make_scheme(dt, slope, reset, min_slope, unroll)
    remedy = "On a time grid no spike is heard at once; `events` allows that."
    delay_steps = check.whole("delay_steps", delay_steps, 1, remedy=remedy)
    if state is None:
        rest = rest_state(drive)
        pending = jnp.zeros((delay_steps, *rest.v.shape), rest.v.dtype)
        state = RecurrentState(rest, TimedSpikes(pending))
    if state.pending.values.shape[0] != delay_steps:
        raise ValueError(
            f"`state` belongs to a delay of {state.pending.values.shape[0]} steps, `delay_steps` is {delay_steps}."
        )
    params = jax.tree.map(lambda p: jnp.asarray(p, drive.mass.dtype), params)
    out: Any = _recurrent(
        _Static(scheme, linear),
        params,
        weights,
        state.neurons,
        state.pending.values,
        drive,
        penalty,
    )
    neurons, pending, fired = out
    spikes = TimedSpikes(fired.spikes, fired.lead)
    return RecurrentState(neurons, TimedSpikes(pending)), spikes


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrent(static, params, weights, neurons, pending, drive, penalty):
    return _run(static, params, weights, neurons, pending, drive.mass)[0]


def _swap(ring: Array, n: Array, value: Array) -> tuple[Array, Array]:
    """What lies in slot n mod K of the ring, and the ring with `value` in its place."""
    slot = n % ring.shape[0]
    old = jax.lax.dynamic_index_in_dim(ring, slot, keepdims=False)
    return old, jax.lax.dynamic_update_index_in_dim(ring, value, slot, 0)


def _run(static, params, weights, neurons, pending, mass, *, keep_trace=False):
    scheme, linear = static
    p = aligned(params, mass.shape[1:], mass.dtype)
    coefficients = flow(jnp.asarray(scheme.dt, mass.dtype), p.tau_mem, p.tau_syn)
    num_steps, delay = mass.shape[0], pending.shape[0]

    def step(carry, x):
        state, ring = carry
        n, u = x
        new, fired, crossing = membrane_step(scheme, p, coefficients, state, u)
        # The part that crossed early arrives a step before the rest; with a delay of one step that is now.
        early = fired.spikes * crossing.left
        ring = ring.at[(n - 1) % delay].add(early)
        arriving, ring = _swap(ring, n, fired.spikes - early)
        new = new._replace(i=new.i + linear(weights, arriving))
        kept = pack(crossing), arriving, state if keep_trace else None
        return (new, ring), (fired, kept)

    (neurons, ring), (fired, kept) = jax.lax.scan(
        step, (neurons, pending), (jnp.arange(num_steps), mass), unroll=scheme.unroll
    )
    pending = jnp.roll(ring, -(num_steps % delay), axis=0)  # oldest first
    return (neurons, pending, fired), kept


def _forward(static, params, weights, neurons, pending, drive, penalty):
    wants_params = () if any(x.perturbed for x in params) else None
    keep_trace = params.tau_mem.perturbed or params.tau_syn.perturbed
    params, weights, neurons, pending, mass, penalty = jax.tree.map(
        lambda x: x.value, (params, weights, neurons, pending, drive.mass, penalty)
    )
    out, (kept, arriving, trace) = _run(
        static, params, weights, neurons, pending, mass, keep_trace=keep_trace
    )
    return out, _Residuals(
        params, weights, kept, arriving, penalty, trace, wants_params
    )


def _backward(static, residuals, cotangents):
    scheme, linear = static
    params, weights, kept, arriving, penalty, trace, wants_params = residuals
    state_bar, pending_bar, fired_bar = dense_cotangents(cotangents)
    zeros = jnp.zeros_like(state_bar.v)
    p = aligned(params, zeros.shape, zeros.dtype)
    coefficients = flow(jnp.asarray(scheme.dt, zeros.dtype), p.tau_mem, p.tau_syn)
    push = rate_push(penalty, unpack(kept).inverse)
    num_steps, delay = arriving.shape[0], pending_bar.shape[0]
    # Linear, so it may be differentiated anywhere; unlike `linear_transpose` this takes maps with a rule of their own.
    _, to_spikes = jax.vjp(lambda z: linear(weights, z), zeros)

    def step(carry, x):
        adjoint, ring, total = carry
        n, kept, direct, before = x
        crossing = unpack(kept)
        mass, time = adjoint.i, time_cotangent(p, adjoint)
        later, ring = _swap(ring, n, to_spikes(time)[0])
        caused = later + crossing.left * (ring[(n - 1) % delay] - later)
        new, jump = adjoint_step(
            p, scheme.dt, coefficients, adjoint, crossing, direct + caused, push
        )
        if total is not None:
            change = lif_gradient(
                p, scheme.dt, coefficients, crossing, before, adjoint, jump
            )
            total = jax.tree.map(jnp.add, total, change)
        return (new, ring, total), (mass, time)

    total = LIFParams(zeros, zeros, zeros, zeros) if wants_params == () else None
    ring = jnp.roll(pending_bar, num_steps % delay, axis=0)
    (adjoint, ring, total), (mass, time) = jax.lax.scan(
        step,
        (state_bar, ring, total),
        (jnp.arange(num_steps), kept, fired_bar.spikes, trace),
        reverse=True,
        unroll=scheme.unroll,
    )
    _, to_weights = jax.vjp(
        lambda w: folded(functools.partial(linear, w), arriving), weights
    )
    return (
        param_gradient(params, total),
        to_weights(mass)[0],
        adjoint,
        ring,
        Drive(mass, time),
        None,
    )


_recurrent.defvjp(_forward, _backward, symbolic_zeros=True)
