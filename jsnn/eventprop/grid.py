r"""EventProp on a time grid: layers whose backward pass is the adjoint system, and that keep one number a neuron a step for it.

What happens within a step, forward and backward, stands in `grid_step`. This file leads a layer through time.

Neurons of a recurrent layer hear themselves K >= 1 steps later. A spike that crosses in the middle of step n arrives K dt later in the middle
of a step: it is shared out to the steps n + K - 1 and n + K, as `spikes.split` does, and gathers from both what it causes. (With
`reset="hard"` it lies at the grid point, and arrives with step n + K.) The gradient of the recurrent weights is one product over all
time steps, after the scan.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jsnn import check
from jsnn.eventprop.flow import LIFParams, LIParams, aligned, check_params, flow
from jsnn.eventprop.grid_step import (
    Fired,
    GridState,
    IntegratorStep,
    LIFStep,
    Reset,
    Slope,
    pack,
    unpack,
)
from jsnn.eventprop.regularise import RatePenalty, rate_push
from jsnn.eventprop.spikes import Drive, TimedSpikes, require_drive
from jsnn.eventprop.synapse import Linear, dense
from jsnn.unroll import folded


def lif(
    params: LIFParams,
    state: GridState | None,
    drive: Drive,
    *,
    dt: float,
    weights: Any = None,
    delay_steps: int = 1,
    linear: Linear = dense,
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
      weights: of synapses within the layer, `[N, N]` (from, to) for `dense`. None: a layer without recurrence.
      delay_steps: K, the recurrent delay in steps.
      linear: map of the recurrent synapse, `(weights, z[M, *N]) -> [M, *N]`.
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
    rule, delay_steps = check_options(dt=dt, slope=slope, reset=reset, min_slope=min_slope, delay_steps=delay_steps, unroll=unroll)  # fmt: skip
    under_way = 0 if weights is None else delay_steps
    if state is None and under_way:
        rest = jnp.zeros((1 + under_way, *drive.mass.shape[1:]), drive.mass.dtype)
        state = GridState(rest[0], rest[0], rest[1:])
    if state is not None:
        found = 0 if state.pending is None else state.pending.shape[0]
        if found != under_way:
            raise ValueError(
                f"`state` belongs to a delay of {found} steps, `delay_steps` is {under_way} (0: a layer without recurrent `weights`)."
            )
    new, fired = over_time(
        rule, params, state, drive, penalty, weights, linear, unroll=unroll
    )
    return new, TimedSpikes(fired.spikes, fired.lead)


def check_options(
    *,
    dt: float,
    slope: Slope = "substep",
    reset: Reset = "subtract",
    min_slope: float = 1e-2,
    delay_steps: int = 1,
    unroll: int = 1,
) -> tuple[LIFStep, int]:
    """The rule of a step, and the delay in steps.

    Raises:
      ValueError: if a choice is unknown or a number out of range.
    """
    remedy = "On a time grid no spike is heard at once; `events` allows that."
    delay_steps = check.whole("delay_steps", delay_steps, 1, remedy=remedy)
    check.whole("unroll", unroll, 1)
    return LIFStep(check.static("dt", dt, "(0, inf)"), slope, reset, min_slope), delay_steps  # fmt: skip


def leaky_integrator(
    params: LIParams,
    state: GridState | None,
    drive: Drive,
    *,
    dt: float,
    unroll: int = 1,
) -> tuple[GridState, Float[Array, "T B *N"]]:
    """A layer of leaky integrators over a block of time steps: a read-out whose membrane is the output, and which never spikes.

    `V = a V + kappa I; I = b I + u[n]`: an arrival shows in the membrane one step later, as in `lif`.

    Args:
      params: physics; differentiable.
      state: of the block before; None for rest.
      drive: what `synapse` returned, `[T, B, *N]`.
      dt: time step, in the unit of the time constants.
      unroll: of the scan; about 8 on GPU, 1 on CPU.

    Returns:
      The state after the last step, and the membrane at every step, `[T, B, *N]`.
    """
    rule = IntegratorStep(check.static("dt", dt, "(0, inf)"))
    return over_time(rule, params, state, drive, unroll=unroll)


class _Static(NamedTuple):
    """The rule of a step, the linear map of the recurrent synapse, steps of the scan unrolled."""

    rule: Any
    linear: Linear
    unroll: int


class _Residuals(NamedTuple):
    """What the forward pass leaves for the backward pass.

    `arriving` holds the recurrent spikes that arrive at each step, `trace` V and I before each step if a time constant is differentiated.
    `wants_params` and `wants_time` are `()` for yes and None for no: structure, not data, so that the backward pass does not compute what
    is not used.
    """

    params: Any
    weights: Any
    penalty: RatePenalty | None
    kept: Any
    arriving: Array | None
    trace: GridState | None
    wants_params: tuple[()] | None
    wants_time: tuple[()] | None


def over_time(
    rule: Any,
    params: Any,
    state: GridState | None,
    drive: Drive,
    penalty: RatePenalty | None = None,
    weights: Any = None,
    linear: Linear = dense,
    *,
    unroll: int = 1,
) -> Any:
    """Leads a layer of any rule through all steps of `drive`; differentiable in all arguments but the penalty.

    Args:
      rule: `LIFStep`, or another with the same functions.
      params: physics.
      state: of the block before; None for rest.
      drive: `[T, B, *N]`.
      penalty: see `lif`.
      weights: see `lif`; with them the state holds spikes under way.
      linear: see `lif`.
      unroll: of the scan.

    Returns:
      The state after the last step, and what the rule reports of each step, stacked.

    Raises:
      ValueError: if `state` or `weights` belong to other neurons.
    """
    check_params(params)
    require_drive(drive)
    unroll = check.whole("unroll", unroll, 1)
    if state is None:
        zeros = jnp.zeros(drive.mass.shape[1:], drive.mass.dtype)
        state = GridState(zeros, zeros)
    _check_belongs(state, weights, linear, drive.mass.shape[1:])
    params = jax.tree.map(lambda p: jnp.asarray(p, drive.mass.dtype), params)
    static = _Static(rule, linear, unroll)
    return _over_time(static, params, weights, state, drive, penalty)


def _check_belongs(
    state: GridState, weights: Any, linear: Linear, shape: tuple[int, ...]
) -> None:
    """Refuses the state, or the synapses, of other neurons than those of `drive`, `[B, *N]`."""
    for name, x in state._asdict().items():
        found = None if x is None else x.shape[name == "pending" :]
        if found not in (None, shape):
            raise ValueError(
                f"`state.{name}` is of neurons of shape {found}, `drive` of {shape}: give the state of the block before, or None for rest."
            )
    if weights is None:
        return
    spikes = jax.ShapeDtypeStruct(shape, state.v.dtype)
    try:
        found = jax.eval_shape(lambda z: linear(weights, z), spikes).shape
    except (TypeError, ValueError) as error:
        found = f"none ({str(error).splitlines()[0]})"
    if found != shape:
        raise ValueError(
            f"`weights` of synapses within a layer must lead from its neurons, {shape}, to themselves; the shape they lead to is {found}."
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_time(static, params, weights, state, drive, penalty):
    return _run(static, params, weights, state, drive.mass)[0]


def _swap(ring: Array, n: Array, value: Array) -> tuple[Array, Array]:
    """What lies in slot n mod K of the ring, and the ring with `value` in its place."""
    slot = n % ring.shape[0]
    old = jax.lax.dynamic_index_in_dim(ring, slot, keepdims=False)
    return old, jax.lax.dynamic_update_index_in_dim(ring, value, slot, 0)


def _physics(rule, params, shape, dtype):
    """Parameters that broadcast against the neurons, and the coefficients of the free flow over a step."""
    p = aligned(params, shape, dtype)
    return p, flow(jnp.asarray(rule.dt, dtype), p.tau_mem, p.tau_syn)


def _run(static, params, weights, state, mass, *, keep_trace=False) -> Any:
    rule, linear, unroll = static
    p, coefficients = _physics(rule, params, mass.shape[1:], mass.dtype)
    num_steps = mass.shape[0]

    def step(carry, x):
        n, u = x
        state, ring = carry
        new, out, crossing = rule.forward(p, coefficients, state, u)
        arriving = None
        if ring is not None:
            # The part that crossed early arrives a step before the rest; with a delay of one step that is now.
            early = out.spikes * crossing.left
            ring = ring.at[(n - 1) % ring.shape[0]].add(early)
            arriving, ring = _swap(ring, n, out.spikes - early)
            new = new._replace(i=new.i + linear(weights, arriving))
        return (new, ring), (
            out,
            pack(crossing),
            arriving,
            state if keep_trace else None,
        )

    carry = state._replace(pending=None), state.pending
    (state, ring), (out, *kept) = jax.lax.scan(
        step, carry, (jnp.arange(num_steps), mass), unroll=unroll
    )
    if ring is not None:
        ring = jnp.roll(ring, -(num_steps % ring.shape[0]), axis=0)  # oldest first
    return (state._replace(pending=ring), out), kept


def _forward(static, params, weights, state, drive, penalty):
    wants_params = () if any(x.perturbed for x in params) else None
    wants_time = () if drive.time.perturbed else None
    keep_trace = params.tau_mem.perturbed or params.tau_syn.perturbed
    params, weights, state, mass, penalty = jax.tree.map(
        lambda x: x.value, (params, weights, state, drive.mass, penalty)
    )
    out, (kept, arriving, trace) = _run(
        static, params, weights, state, mass, keep_trace=keep_trace
    )
    given = params, weights, penalty
    return out, _Residuals(*given, kept, arriving, trace, wants_params, wants_time)


def _backward(static, residuals, cotangents):
    rule, linear, unroll = static
    params, weights, penalty, kept, arriving, trace, *wants = residuals
    wants_params, wants_time = (w == () for w in wants)
    state_bar, bar = dense_cotangents(cotangents)
    bar = bar.spikes if isinstance(bar, Fired) else bar
    zeros = jnp.zeros_like(state_bar.v)
    p, coefficients = _physics(rule, params, zeros.shape, zeros.dtype)
    push = None if penalty is None else rate_push(penalty, unpack(kept).inverse)
    num_steps, ring = bar.shape[0], state_bar.pending
    to_spikes: Any = None
    if ring is not None:
        # Linear, so it may be differentiated anywhere; unlike `linear_transpose` this takes maps with a rule of their own.
        _, to_spikes = jax.vjp(lambda z: linear(weights, z), zeros)
        ring = jnp.roll(ring, num_steps % ring.shape[0], axis=0)

    def step(carry, x):
        adjoint, ring, total = carry
        n, kept, bar, before = x
        crossing = unpack(kept)
        mass, time = rule.emit(p, adjoint, bar)
        if ring is not None:
            later, ring = _swap(ring, n, to_spikes(time)[0])
            soon = ring[(n - 1) % ring.shape[0]]
            bar = bar + (later + crossing.left * (soon - later))
        adjoint, change = rule.backward(
            p, coefficients, adjoint, crossing, bar, push, before, wants_params
        )
        total = jax.tree.map(jnp.add, total, change)
        return (adjoint, ring, total), (mass, time if wants_time else None)

    total = jax.tree.map(lambda _: zeros, params) if wants_params else None
    (adjoint, ring, total), (mass, time) = jax.lax.scan(
        step,
        (state_bar._replace(pending=None), ring, total),
        (jnp.arange(num_steps), kept, bar, trace),
        reverse=True,
        unroll=unroll,
    )
    weights_bar = None
    if ring is not None:
        _, to_weights = jax.vjp(
            lambda w: folded(functools.partial(linear, w), arriving), weights
        )
        (weights_bar,) = to_weights(mass)
    return (
        param_gradient(params, total),
        weights_bar,
        adjoint._replace(pending=ring),
        Drive(mass, time),  # pyright: ignore[reportArgumentType]  # None is a zero
        None,
    )


_over_time.defvjp(_forward, _backward, symbolic_zeros=True)


def dense_cotangents(tree: Any) -> Any:
    """Cotangents as arrays where some are symbolic zeros."""

    def is_symbolic(x: Any) -> bool:
        return isinstance(x, SymbolicZero)

    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if is_symbolic(x) else x,
        tree,
        is_leaf=is_symbolic,
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
