r"""EventProp on a time grid: layers whose backward pass is the adjoint system, and that keep one number a neuron a step for it.

Forward, step n (free flow, spike test, arrivals; see `flow`). Where `Vm >= theta` the neuron spikes. The straight line from V to Vm meets
theta at a time `lead` before the grid point; there the membrane falls by theta - V_r, of which the rest of the step leaves a part:

    Vm = a V + kappa I;  Im = b I
    V = Vm - (theta - V_r) exp(-lead / tau_m) where it spiked, else Vm;  I = Im + u[n]

Backward, from the last step to the first. In the letters of the paper $\lambda_V, \lambda_I$; here the code carries
$p_V = \partial L/\partial V = -\tau_m\lambda_V$ and $p_I = \partial L/\partial I = -\tau_s\lambda_I$, which makes the cotangent of a layer's
state an ordinary gradient, and blocks of time chain by plain autodiff:

    emit mass cotangent p_I and time cotangent p_I/tau_s - p_V/tau_m                  (= -tau_s lI and lV - lI)
    flow back to the crossing; p_V += [(theta - V_r) p_V - tau_m dL/dt] / g           (g = tau_m dV/dt just before the spike)
    flow back to the step before                                                      (p_V, p_I = a p_V, b p_I + kappa p_V)

This is the adjoint of the continuous system, with the spike at its crossing. It approaches the exact gradient (`events`) with the second
power of dt, as spikes and membranes do. It is not the derivative of the grid's own rounding: moving a spike across a grid point
changes nothing. It is blind to spikes that appear or vanish: a silent neuron gets none.

Kept for it: 1/g where there was a spike, with the place of the crossing in its last digits (`pack`), 4 bytes a neuron a step. If a time
constant is differentiated (and only then) V and I are kept as well.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jsnn import check
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
    """What a step reports: `spikes`, and the time from the crossing to the grid point `lead`, both 0 where no spike."""

    spikes: Array
    lead: Array


class Crossing(NamedTuple):
    """What the adjoint needs of a spike, both 0 where no spike: `inverse` slope, and the part of the step that was `left`."""

    inverse: Array
    left: Array


# Of the 23 binary digits of a float32.
_LEFT_DIGITS = 10


def pack(crossing: Crossing) -> Any:
    """In float32 one word for both: 13 binary digits of 1/g and 10 of the place in the step, far more than the grid has right."""
    inverse, left = crossing
    if inverse.dtype != jnp.float32:
        return crossing
    room = 1 << _LEFT_DIGITS
    word = jax.lax.bitcast_convert_type(inverse, jnp.int32) + room // 2
    return (word & -room) + (left * (room - 1) + 0.5).astype(jnp.int32)


def unpack(kept: Any) -> Crossing:
    """What was given to `pack`."""
    if isinstance(kept, Crossing):
        return kept
    room = 1 << _LEFT_DIGITS
    inverse = jax.lax.bitcast_convert_type(kept & -room, jnp.float32)
    return Crossing(inverse, (kept & (room - 1)).astype(jnp.float32) * (1 / (room - 1)))


def make_scheme(
    dt: float, slope: Slope, reset: Reset, min_slope: float, unroll: int
) -> Scheme:
    """Checks the static choices and binds them together."""
    dt = check.static("dt", dt, "(0, inf)")
    check.choice("slope", slope, get_args(Slope))
    check.choice("reset", reset, get_args(Reset))
    remedy = "A grazing spike must not divide by zero."
    min_slope = check.static("min_slope", min_slope, "(0, inf)", remedy=remedy)
    unroll = check.whole("unroll", unroll, 1)
    return Scheme(dt, slope, reset, min_slope, unroll)


def rest_state(drive: Drive) -> GridState:
    """The state at rest, for the layer that `drive` goes to."""
    zeros = jnp.zeros(drive.mass.shape[1:], drive.mass.dtype)
    return GridState(zeros, zeros)


def membrane_step(
    scheme: Scheme, p: LIFParams, coefficients: Flow, state: GridState, u: Array
) -> tuple[GridState, Fired, Crossing]:
    """One step of the forward system."""
    a, b, kappa = coefficients
    v, i = state
    vm, im = a * v + kappa * i, b * i
    spiked = vm >= p.threshold
    # Where the straight line from V to Vm meets threshold, as a fraction of the step; the current there, on a straight line as well.
    # A membrane that the last reset left above threshold crosses at once.
    rises = spiked & (v < p.threshold)
    fraction = jnp.where(rises, p.threshold - v, 0.0) / jnp.where(rises, vm - v, 1.0)
    left = jnp.where(spiked, 1.0 - fraction, 0.0)
    lead = left * scheme.dt
    if scheme.slope == "substep":
        g = i + fraction * (im - i) - p.threshold
    else:
        g = im - (vm if scheme.slope == "membrane" else p.threshold)
    # The true slope is positive. On a coarse grid the estimate may not be, and would flip the sign of the gradient.
    inverse = jnp.where(spiked, 1.0 / jnp.maximum(g, scheme.min_slope), 0.0)
    if scheme.reset == "hard":
        after, left = p.reset, jnp.zeros_like(left)
    else:
        after = vm - (p.threshold - p.reset) * jnp.exp(left * (-scheme.dt / p.tau_mem))
    new = GridState(jnp.where(spiked, after, vm), im + u)
    return new, Fired(spiked.astype(v.dtype), lead), Crossing(inverse, left)


def part_of_step(p: LIFParams, dt: float, step: Flow, x: Array) -> Flow:
    """The free flow over a part x of a step, by the parabola with its value and slope at the start and its value at the end.

    Off by a third power of dt, and much cheaper than `flow`.
    """
    a, b, kappa = step
    mem, syn, rest = dt / p.tau_mem, dt / p.tau_syn, 1.0 - x
    return Flow(
        a=1.0 + x * (a - 1.0 + rest * (1.0 - a - mem)),
        b=1.0 + x * (b - 1.0 + rest * (1.0 - b - syn)),
        kappa=x * (kappa + rest * (mem - kappa)),
    )


def adjoint_step(
    p: LIFParams,
    dt: float,
    coefficients: Flow,
    adjoint: GridState,
    crossing: Crossing,
    time_gradient: Array,
    push: Array | None,
) -> tuple[GridState, Array]:
    """One step of the backward system.

    Args:
      p: physics.
      dt: time step.
      coefficients: of the free flow.
      adjoint: $(p_V, p_I)$ just after the step.
      crossing: of the spikes of this step.
      time_gradient: dL/dt of the spikes of this step, direct and through what they cause.
      push: taken from $\\lambda_V$ at a spike, a heuristic (`RatePenalty`).

    Returns:
      The adjoint just after the step before, and the jump of $p_V$ at the crossing.
    """
    a, b, kappa = coefficients
    pv, pi = adjoint
    inverse, left = crossing
    after = pv * part_of_step(p, dt, coefficients, left).a
    jump = inverse * ((p.threshold - p.reset) * after - p.tau_mem * time_gradient)
    if push is not None:
        jump = jump + p.tau_mem * push * (inverse != 0)
    rest = part_of_step(p, dt, coefficients, 1.0 - left)
    new = GridState(a * pv + rest.a * jump, b * pi + kappa * pv + rest.kappa * jump)
    return new, jump


def time_cotangent(p: Any, adjoint: GridState) -> Array:
    r"""$\lambda_V - \lambda_I$: what a unit mass that arrives now would gain by coming later."""
    return adjoint.i * (1.0 / p.tau_syn) - adjoint.v * (1.0 / p.tau_mem)


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
    p: Any, time: Array | float, before: GridState, adjoint: GridState
) -> tuple[Array, Array]:
    """Gradient of one free flow over `time` with respect to both time constants, `[B, *N]` each."""
    v, i = before

    def coefficients(tau_mem, tau_syn):
        return flow(jnp.broadcast_to(time, v.shape), tau_mem, tau_syn)

    full = [jnp.broadcast_to(t, v.shape) for t in (p.tau_mem, p.tau_syn)]
    _, pull = jax.vjp(coefficients, *full)
    return pull(Flow(adjoint.v * v, adjoint.i * i, adjoint.v * i))


def lif_gradient(
    p: LIFParams,
    dt: float,
    coefficients: Flow,
    crossing: Crossing,
    before: GridState | None,
    after: GridState,
    jump: Array,
) -> LIFParams:
    """What one step adds to the gradient of the physics, `[B, *N]` each.

    Args:
      p: physics.
      dt: time step.
      coefficients: of the free flow.
      crossing: of the spikes of this step.
      before: V and I before the step; None if no time constant is differentiated.
      after: adjoint just after the step.
      jump: of $p_V$ at the crossing.
    """
    inverse, left = crossing
    spiked = inverse != 0
    late = part_of_step(p, dt, coefficients, left)
    pv, pi = late.a * after.v, late.b * after.i + late.kappa * after.v
    zeros = jnp.zeros_like(after.v)
    taus = (zeros, zeros)
    if before is not None:
        # One flow to the crossing, one from there to the grid point.
        early = part_of_step(p, dt, coefficients, 1.0 - left)
        v, i = early.a * before.v + early.kappa * before.i, early.b * before.i
        v = v - jnp.where(spiked, p.threshold - p.reset, 0.0)
        first = flow_gradient(p, (1.0 - left) * dt, before, GridState(pv + jump, pi))
        second = flow_gradient(p, left * dt, GridState(v, i), after)
        taus = jax.tree.map(jnp.add, first, second)
    return LIFParams(
        *taus,
        threshold=jnp.where(spiked, -pv - jump, 0.0),
        reset=jnp.where(spiked, pv, 0.0),
    )


def param_gradient(params: Any, gradient: Any | None) -> Any:
    """Sums a per-neuron gradient `[B, *N]` to the shape in which each parameter was given. None stays None: that gradient was not asked for."""
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
    None for no: structure, not data, so that the backward pass does not compute what is not used.
    """

    params: Any
    kept: Any
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
        or at the grid point with the membrane at threshold. Only the first makes the gradient of second order.
      reset: `"subtract"` resets the membrane at the crossing, as the continuous system does: at the grid point it lacks what is left of
        threshold - reset, and keeps what it has risen since; second order in dt. `"hard"` sets it to the reset potential at the grid
        point, and takes the spike to lie there: every later spike is late by a part of dt, first order.
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
        new, fired, crossing = membrane_step(scheme, p, coefficients, state, u)
        return new, (fired, pack(crossing), state if keep_trace else None)

    state, (fired, kept, trace) = jax.lax.scan(step, state, mass, unroll=scheme.unroll)
    return state, fired, kept, trace


def _lif_forward(scheme, params, state, drive, penalty):
    wants_params = () if any(x.perturbed for x in params) else None
    wants_time = () if drive.time.perturbed else None
    keep_trace = params.tau_mem.perturbed or params.tau_syn.perturbed
    params, state, mass, penalty = jax.tree.map(
        lambda x: x.value, (params, state, drive.mass, penalty)
    )
    state, fired, kept, trace = _run_lif(
        scheme, params, state, mass, keep_trace=keep_trace
    )
    return (state, fired), _Residuals(
        params, kept, penalty, trace, wants_params, wants_time
    )


def _lif_backward(scheme, residuals, cotangents):
    params, kept, penalty, trace, wants_params, wants_time = residuals
    state_bar, fired_bar = dense_cotangents(cotangents)
    zeros = jnp.zeros_like(state_bar.v)
    p = aligned(params, zeros.shape, zeros.dtype)
    coefficients = flow(jnp.asarray(scheme.dt, zeros.dtype), p.tau_mem, p.tau_syn)
    push = rate_push(penalty, unpack(kept).inverse)

    def step(carry, x):
        adjoint, total = carry
        kept, time_gradient, before = x
        crossing = unpack(kept)
        emitted = adjoint.i, time_cotangent(p, adjoint) if wants_time == () else None
        new, jump = adjoint_step(
            p, scheme.dt, coefficients, adjoint, crossing, time_gradient, push
        )
        if total is not None:
            change = lif_gradient(
                p, scheme.dt, coefficients, crossing, before, adjoint, jump
            )
            total = jax.tree.map(jnp.add, total, change)
        return (new, total), emitted

    total = LIFParams(zeros, zeros, zeros, zeros) if wants_params == () else None
    (adjoint, total), (mass, time) = jax.lax.scan(
        step,
        (state_bar, total),
        (kept, fired_bar.spikes, trace),
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
