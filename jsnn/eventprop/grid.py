r"""EventProp on a time grid: layers whose backward pass is the adjoint system, and that keep one number a neuron a step for it.

Forward, step n (free flow, spike test, arrivals; see `flow`):

    Vm = a V + kappa I;  Im = b I;  spike where Vm >= theta;  V = Vm - (theta - V_r) where it spiked, else Vm;  I = Im + u[n]

Backward, from the last step to the first. In the letters of the paper $\lambda_V, \lambda_I$; here the code carries
$p_V = \partial L/\partial V = -\tau_m\lambda_V$ and $p_I = \partial L/\partial I = -\tau_s\lambda_I$, which makes the cotangent of a layer's
state an ordinary gradient, and blocks of time chain by plain autodiff:

    emit mass cotangent p_I and time cotangent p_I/tau_s - p_V/tau_m                  (= -tau_s lI and lV - lI)
    where it spiked: p_V += [(theta - V_r) p_V - tau_m dL/dt] / g                     (g = tau_m dV/dt just before the spike)
    p_V, p_I = a p_V, b p_I + kappa p_V

The only residual is 1/g where there was a spike and 0 elsewhere: 4 bytes a neuron a step. If a time constant is differentiated
(and only then) V and I are kept as well.

The gradient approaches the exact one (`events`) as dt falls. It is blind to spikes that appear or vanish: a silent neuron gets none.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jsnn.eventprop.flow import (
    Flow,
    LIFParams,
    aligned,
    check_params,
    flow,
)
from jsnn.eventprop.regularise import RatePenalty, rate_push
from jsnn.eventprop.spikes import Drive, TimedSpikes, require_drive

Slope = Literal["substep", "membrane", "threshold"]
Reset = Literal["hard", "subtract"]


class GridState(NamedTuple):
    """State of a layer after a step: `v` membrane, `i` synaptic current, `[B, *N]`."""

    v: Float[Array, "B *N"]
    i: Float[Array, "B *N"]


class Scheme(NamedTuple):
    """Static choices of a layer."""

    dt: float
    slope: Slope
    reset: Reset
    min_slope: float
    unroll: int


class Fired(NamedTuple):
    """What a step reports: `spikes`, inverse slope `inverse` (0 where no spike), time from the crossing to the grid point `lead`."""

    spikes: Array
    inverse: Array
    lead: Array


def make_scheme(
    dt: float, slope: Slope, reset: Reset, min_slope: float, unroll: int
) -> Scheme:
    """Checks the static choices and binds them together."""
    if dt <= 0:
        raise ValueError(f"`dt` must be a positive time, got {dt}.")
    if slope not in ("substep", "membrane", "threshold"):
        raise ValueError(
            f"`slope` must be 'substep', 'membrane' or 'threshold', got {slope!r}."
        )
    if reset not in ("hard", "subtract"):
        raise ValueError(f"`reset` must be 'hard' or 'subtract', got {reset!r}.")
    if min_slope <= 0:
        raise ValueError(
            f"`min_slope` must be positive, or a grazing spike divides by zero; got {min_slope}."
        )
    return Scheme(dt, slope, reset, min_slope, unroll)


def rest_state(drive: Drive) -> GridState:
    """The state at rest, for the layer that `drive` goes to."""
    zeros = jnp.zeros(drive.mass.shape[1:], drive.mass.dtype)
    return GridState(zeros, zeros)


def membrane_step(
    scheme: Scheme, p: LIFParams, coefficients: Flow, state: GridState, u: Array
) -> tuple[GridState, Fired]:
    """One step of the forward system."""
    a, b, kappa = coefficients
    v, i = state
    vm, im = a * v + kappa * i, b * i
    spiked = vm >= p.threshold
    # Where the straight line from V to Vm meets threshold, as a fraction of the step; the current there, on a straight line as well.
    rise = jnp.where(spiked, vm - v, 1.0)
    fraction = jnp.clip(jnp.where(spiked, p.threshold - v, 0.0) / rise, 0.0, 1.0)
    if scheme.slope == "substep":
        g = i + fraction * (im - i) - p.threshold
    else:
        g = im - (vm if scheme.slope == "membrane" else p.threshold)
    # The true slope is positive. On a coarse grid the estimate may not be, and would flip the sign of the gradient.
    inverse = jnp.where(spiked, 1.0 / jnp.maximum(g, scheme.min_slope), 0.0)
    after = p.reset if scheme.reset == "hard" else vm - (p.threshold - p.reset)
    new = GridState(jnp.where(spiked, after, vm), im + u)
    lead = jnp.where(spiked, (1.0 - fraction) * scheme.dt, 0.0)
    return new, Fired(spiked.astype(v.dtype), inverse, lead)


def adjoint_step(
    p: LIFParams,
    coefficients: Flow,
    adjoint: GridState,
    inverse: Array,
    time_gradient: Array,
    push: Array,
) -> tuple[GridState, GridState]:
    """One step of the backward system.

    Args:
      p: physics.
      coefficients: of the free flow.
      adjoint: $(p_V, p_I)$ just after the step.
      inverse: 1/g, 0 where no spike.
      time_gradient: dL/dt of the spikes of this step, direct and through what they cause.
      push: taken from $\\lambda_V$ at a spike, a heuristic (`RatePenalty`).

    Returns:
      The adjoint just after the step before, and the one between the free flow and the spike test of this step.
    """
    a, b, kappa = coefficients
    pv, pi = adjoint
    jump = inverse * ((p.threshold - p.reset) * pv - p.tau_mem * time_gradient)
    pv = pv + jump + p.tau_mem * push * (inverse != 0)
    return GridState(a * pv, b * pi + kappa * pv), GridState(pv, pi)


def time_cotangent(p: Any, adjoint: GridState) -> Array:
    r"""$\lambda_V - \lambda_I$: what a unit mass that arrives now would gain by coming later."""
    return adjoint.i / p.tau_syn - adjoint.v / p.tau_mem


def dense_cotangents(tree: Any) -> Any:
    """Cotangents as arrays where some are symbolic zeros."""

    def is_symbolic(x: Any) -> bool:
        return isinstance(x, SymbolicZero)

    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if is_symbolic(x) else x,
        tree,
        is_leaf=is_symbolic,
    )


def flow_gradient(
    p: Any, dt: float, before: GridState, adjoint: GridState
) -> tuple[Array, Array]:
    """Gradient of one free flow with respect to both time constants, `[B, *N]` each."""
    v, i = before

    def coefficients(tau_mem, tau_syn):
        return flow(jnp.full_like(tau_mem, dt), tau_mem, tau_syn)

    full = [jnp.broadcast_to(t, v.shape) for t in (p.tau_mem, p.tau_syn)]
    _, pull = jax.vjp(coefficients, *full)
    return pull(Flow(adjoint.v * v, adjoint.i * i, adjoint.v * i))


def lif_gradient(
    p: LIFParams,
    dt: float,
    inverse: Array,
    before: GridState | None,
    after: GridState,
    at_spike: GridState,
) -> LIFParams:
    """What one step adds to the gradient of the physics, `[B, *N]` each.

    Args:
      p: physics.
      dt: time step.
      inverse: 1/g, 0 where no spike.
      before: V and I before the step; None if no time constant is differentiated.
      after: adjoint just after the step.
      at_spike: adjoint before the spike, after the free flow.
    """
    zeros = jnp.zeros_like(after.v)
    taus = (zeros, zeros)
    if before is not None:
        taus = flow_gradient(p, dt, before, at_spike)
    spiked = inverse != 0
    return LIFParams(
        *taus,
        threshold=jnp.where(spiked, -at_spike.v, 0.0),
        reset=jnp.where(spiked, after.v, 0.0),
    )


def param_gradient(params: Any, gradient: Any | None) -> Any:
    """Sums a per-neuron gradient `[B, *N]` to the shape in which each parameter was given. None stays None: nobody asked."""
    if gradient is None:
        return None

    def reduce(value, g):
        value = jnp.asarray(value)
        axes = tuple(range(g.ndim - value.ndim))
        g = g.sum(axes)
        keep = tuple(k for k, n in enumerate(value.shape) if n == 1 and g.shape[k] != 1)
        return jnp.sum(g, keep, keepdims=True).astype(value.dtype)

    return jax.tree.map(reduce, params, gradient)


class _Residuals(NamedTuple):
    """What the forward pass leaves for the backward pass.

    `trace` holds V and I before each step if a time constant is differentiated. `wants_params` and `wants_time` are `()` for yes and
    None for no: structure, not data, so that the backward pass leaves out what nobody reads.
    """

    params: Any
    inverse: Array
    penalty: RatePenalty | None
    trace: GridState | None
    wants_params: tuple[()] | None
    wants_time: tuple[()] | None


def lif(
    params: LIFParams,
    state: GridState | None,
    drive: Drive,
    *,
    dt: float,
    penalty: RatePenalty | None = None,
    slope: Slope = "substep",
    reset: Reset = "subtract",
    min_slope: float = 1e-2,
    unroll: int = 1,
) -> tuple[GridState, TimedSpikes]:
    """A layer of current-based LIF neurons over a block of time steps, all of them or a few.

    Args:
      params: physics; differentiable.
      state: of the block before; None for rest.
      drive: what `synapse` returned, `[T, B, *N]`.
      dt: time step, in the unit of the time constants.
      penalty: pushes firing rates towards a target; a heuristic, see `RatePenalty`. It counts the spikes of this block.
      slope: where tau_m dV/dt of a spike is read: at the interpolated crossing, at the grid point with the membrane found there,
        or at the grid point with the membrane at threshold.
      reset: `"subtract"` lowers the membrane by threshold - reset and so keeps what it has risen past threshold within the step, as the
        continuous system does; `"hard"` sets it to the reset potential, and so delays every later spike by a part of dt. Median cosine
        with the exact gradient at dt = 1 / 0.1 ms (tests/test_eventprop_agreement.py): 0.99 / 1.00 against 0.88 / 0.997.
      min_slope: floor of that slope, which bounds the gradient of grazing spikes.
      unroll: of the scan; about 8 on GPU, 1 on CPU.

    Returns:
      The state after the last step, and the spikes `[T, B, *N]`, with their `lead`.

    Raises:
      ValueError: if a choice is unknown or a number out of range.
    """
    check_params(params)
    scheme = make_scheme(dt, slope, reset, min_slope, unroll)
    require_drive(drive)
    state = rest_state(drive) if state is None else state
    params = jax.tree.map(lambda p: jnp.asarray(p, drive.mass.dtype), params)
    out: Any = _lif(scheme, params, state, drive, penalty)
    new, fired = out
    return new, TimedSpikes(fired.spikes, fired.lead)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lif(scheme, params, state, drive, penalty):
    return _run_lif(scheme, params, state, drive.mass)[:2]


def _run_lif(scheme, params, state, mass, *, keep_trace=False):
    p = aligned(params, mass.shape[1:], mass.dtype)
    coefficients = flow(jnp.asarray(scheme.dt, mass.dtype), p.tau_mem, p.tau_syn)

    def step(state, u):
        new, fired = membrane_step(scheme, p, coefficients, state, u)
        return new, (fired, state if keep_trace else None)

    state, (fired, trace) = jax.lax.scan(step, state, mass, unroll=scheme.unroll)
    return state, fired, trace


def _lif_forward(scheme, params, state, drive, penalty):
    wants_params = () if any(x.perturbed for x in params) else None
    wants_time = () if drive.time.perturbed else None
    keep_trace = params.tau_mem.perturbed or params.tau_syn.perturbed
    params, state, mass, penalty = jax.tree.map(
        lambda x: x.value, (params, state, drive.mass, penalty)
    )
    state, fired, trace = _run_lif(scheme, params, state, mass, keep_trace=keep_trace)
    return (state, fired), _Residuals(
        params, fired.inverse, penalty, trace, wants_params, wants_time
    )


def _lif_backward(scheme, residuals, cotangents):
    params, inverse, penalty, trace, wants_params, wants_time = residuals
    state_bar, fired_bar = dense_cotangents(cotangents)
    p = aligned(params, inverse.shape[1:], inverse.dtype)
    coefficients = flow(jnp.asarray(scheme.dt, inverse.dtype), p.tau_mem, p.tau_syn)
    push = rate_push(penalty, inverse)

    def step(carry, x):
        adjoint, total = carry
        inverse, time_gradient, before = x
        emitted = adjoint.i, time_cotangent(p, adjoint) if wants_time == () else None
        new, at_spike = adjoint_step(
            p, coefficients, adjoint, inverse, time_gradient, push
        )
        if total is not None:
            change = lif_gradient(p, scheme.dt, inverse, before, adjoint, at_spike)
            total = jax.tree.map(jnp.add, total, change)
        return (new, total), emitted

    zeros = jnp.zeros_like(state_bar.v)
    total = LIFParams(zeros, zeros, zeros, zeros) if wants_params == () else None
    (adjoint, total), (mass, time) = jax.lax.scan(
        step,
        (state_bar, total),
        (inverse, fired_bar.spikes, trace),
        reverse=True,
        unroll=scheme.unroll,
    )
    return (
        param_gradient(params, total),
        adjoint,
        Drive(mass, time),  # pyright: ignore[reportArgumentType]  # None is a zero
        None,
    )


_lif.defvjp(_lif_forward, _lif_backward, symbolic_zeros=True)
