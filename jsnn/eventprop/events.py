r"""Exact EventProp: no grid, one loop over events in the order of time.

Forward, see `event_loop`. Backward, the adjoint walks the recorded events in reverse, in the letters of `grid`
($p_V = -\tau_m\lambda_V$, $p_I = -\tau_s\lambda_I$):

    arrival with weights w at time t:   dL/dw = p_I;   dL/dt = w . (p_I/tau_s - p_V/tau_m)
    spike of neuron j with slope g:     p_V[j] += [(theta - V_r) p_V[j] - tau_m dL/dt] / g
    then over the free flow before it:  p_V, p_I = a p_V, b p_I + kappa p_V

Nothing but the event list is kept for that; if a time constant is differentiated, the states at the events as well.

This is one sample: `vmap` for a batch. A layer without recurrence is faster neuron by neuron: `event_layers.feed_forward`.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jsnn import check
from jsnn.eventprop import event_loop
from jsnn.eventprop.crossing import Method, check_method, choose_method
from jsnn.eventprop.event_loop import ARRIVAL, DELAYED, SPIKE, Record, Static, System
from jsnn.eventprop.flow import Flow, LIFParams, aligned, check_params, flow
from jsnn.eventprop.grid import dense_cotangents, param_gradient

OnOverflow = Literal["nan", "flag"]


class Arrivals(NamedTuple):
    """Input of a layer: at `times[k]` the current of every neuron jumps by `jumps[k]`. In any order, padded with infinity."""

    times: Float[Array, "K"]
    jumps: Float[Array, "K N"]


class Recurrence(NamedTuple):
    """Synapses within a layer, `weights` `[N, N]` (from, to).

    `delays`: None for instant ones; `[N]` for one delay a neuron (its axon's); `[N, N]` for one a synapse, which makes each arrival an
    event of its own and the loop N times longer.
    """

    weights: Float[Array, "N N"]
    delays: Float[Array, "*N"] | None = None


class EventSpikes(NamedTuple):
    """Spikes in the order of time.

    Attributes:
      times: infinite past the last one.
      neuron: which, -1 past the last one.
      overflow: there were more spikes than the budget, or an input that only the running program knew was out of range, such as NaN;
        `times` is then incomplete, or NaN.
    """

    times: Float[Array, "S"]
    neuron: Int[Array, "S"]
    overflow: Bool[Array, ""]


def solve(
    params: LIFParams,
    arrivals: Arrivals,
    recurrence: Recurrence | None = None,
    *,
    t_end: ArrayLike,
    max_spikes: int,
    first_only: bool = False,
    crossing: Method | None = None,
    on_overflow: OnOverflow = "nan",
    min_slope: float = 1e-6,
) -> EventSpikes:
    """Simulates one layer on one sample, event by event.

    Differentiable in `params`, arrival times, jumps, recurrent weights and delays.

    Args:
      params: physics, scalars or `[N]`.
      arrivals: what comes from outside.
      recurrence: synapses within the layer.
      t_end: nothing happens after it.
      max_spikes: budget of spikes of the whole layer. The loop always takes its full length, arrivals + spikes (+ delayed arrivals).
      first_only: stop at spike number `max_spikes`, which is then no overflow. With one neuron and `max_spikes=1`: time to first spike.
      crossing: how threshold crossings are found, see `crossing`. None: by the ratio of the time constants.
      on_overflow: `"nan"` makes all times NaN where `EventSpikes.overflow` is set, so that no training goes on from half a simulation; `"flag"`
        only sets `overflow`.
      min_slope: floor of tau_m dV/dt at a spike, for grazing ones; far below what others reach.

    Raises:
      ValueError: if a budget, a shape, a choice, or a number that is not traced is out of range.
    """
    check_solvable(params, t_end)
    check.number("arrivals.times", arrivals.times, "(-inf, inf]")
    check.number("arrivals.jumps", arrivals.jumps)
    if arrivals.times.shape != arrivals.jumps.shape[:1]:
        raise ValueError(
            f"`arrivals.jumps` must have a row for each of the {arrivals.times.shape[0]} `arrivals.times`, got shape {arrivals.jumps.shape}."
        )
    arrivals = in_order(arrivals.times, arrivals.jumps)
    return solve_in_order(
        params,
        arrivals,
        recurrence,
        t_end=t_end,
        max_spikes=max_spikes,
        first_only=first_only,
        crossing=crossing,
        on_overflow=on_overflow,
        min_slope=min_slope,
    )


def check_solvable(params: LIFParams, t_end: ArrayLike) -> None:
    """Refuses physics that the solver cannot handle, as far as they are known: above all a threshold that a neuron at rest has reached."""
    check_params(params)
    check.number(
        "threshold",
        params.threshold,
        "(0, inf)",
        remedy="The exact solver looks for the first time at which a neuron rises from rest, 0, to its threshold.",
    )
    check.number("t_end", t_end, "(0, inf]")
    if jnp.ndim(t_end):
        raise ValueError(f"`t_end` must be one number, got shape {jnp.shape(t_end)}.")


def in_order(times: Array, jumps: Array) -> Arrivals:
    """Sorted in time; of equal times the first given comes first."""
    order = jnp.argsort(jax.lax.stop_gradient(times), stable=True)
    return Arrivals(times[order], jumps[order])


def solve_in_order(
    params: LIFParams,
    arrivals: Arrivals,
    recurrence: Recurrence | None = None,
    *,
    t_end: ArrayLike,
    max_spikes: int,
    first_only: bool = False,
    crossing: Method | None = None,
    on_overflow: OnOverflow = "nan",
    min_slope: float = 1e-6,
) -> EventSpikes:
    """`solve` for arrivals that have been checked and sorted."""
    max_spikes = check.whole("max_spikes", max_spikes, 1)
    min_slope = check.static("min_slope", min_slope, "(0, inf)")
    check.choice("on_overflow", on_overflow, get_args(OnOverflow))
    method = choose_method(params) if crossing is None else crossing
    check_method(method, params)
    dtype, size = arrivals.jumps.dtype, arrivals.jumps.shape[1]
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
    weights, delays = _recurrent_arrays(recurrence, size, dtype)
    groups = 0 if delays is None else delays.shape[1]
    static = Static(max_spikes, groups, method, min_slope, first_only)
    end = jax.lax.stop_gradient(jnp.asarray(t_end, dtype))
    times = arrivals.times.astype(dtype)
    out: Any = _solve(static, params, times, arrivals.jumps, weights, delays, end)
    overflow = out.overflow | _broken(params, arrivals, weights, delays)
    spike_times = out.times
    if on_overflow == "nan":
        spike_times = jnp.where(overflow, jnp.nan, spike_times)
    return EventSpikes(spike_times, out.neuron, overflow)


def _broken(
    params: LIFParams, arrivals: Arrivals, weights: Array | None, delays: Array | None
) -> Array:
    """What `solve` refuses where it is known, found while the program runs; else it would pass for silence."""
    numbers = [x for x in (*params, *arrivals, weights, delays) if x is not None]
    broken = jnp.stack([jnp.isnan(x).any() for x in numbers]).any()
    low = jnp.maximum(params.reset, 0.0)
    broken = broken | (params.threshold <= low).any()
    return broken if delays is None else broken | (delays < 0).any()


def _recurrent_arrays(
    recurrence: Recurrence | None, size: int, dtype: Any
) -> tuple[Array | None, Array | None]:
    if recurrence is None:
        return None, None
    weights, delays = recurrence
    check.number("recurrence.weights", weights)
    if weights.shape != (size, size):
        raise ValueError(
            f"`recurrence.weights` must be [{size}, {size}], got {weights.shape}."
        )
    if delays is None:
        return weights, None
    check.number("recurrence.delays", delays, "[0, inf]")
    if delays.shape not in ((size,), (size, size)):
        raise ValueError(
            f"`recurrence.delays` must be [{size}] or [{size}, {size}], got {delays.shape}."
        )
    return weights, delays.reshape(size, -1).astype(dtype)


def _system(params, times, jumps, weights, delays, end) -> System:
    """Physics spread to every neuron, and arrays together."""
    size = jumps.shape[1]
    p = aligned(params, (size,), jumps.dtype)
    p = LIFParams(*(jnp.broadcast_to(x, (size,)) for x in p))
    return System(p, times, jumps, weights, delays, end)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(static, params, times, jumps, weights, delays, end):
    system = _system(params, times, jumps, weights, delays, end)
    final, *_ = event_loop.run(static, system, keep_trace=False)
    return EventSpikes(final.spike_times, final.spike_index, final.overflow)


class _Residuals(NamedTuple):
    """The arguments, the event list, the neuron behind each event, and V and I before each if a time constant is differentiated."""

    arguments: tuple
    record: Record
    sender: Array
    trace: tuple[Array, Array] | None


def _forward(static, params, times, jumps, weights, delays, end):
    keep_trace = params.tau_mem.perturbed or params.tau_syn.perturbed
    arguments = jax.tree.map(
        lambda x: x.value, (params, times, jumps, weights, delays, end)
    )
    final, record, sender, trace = event_loop.run(
        static, _system(*arguments), keep_trace=keep_trace
    )
    out = EventSpikes(final.spike_times, final.spike_index, final.overflow)
    return out, _Residuals(arguments, record, sender, trace)


class _Adjoint(NamedTuple):
    """Carry of the backward pass: $p_V$ and $p_I$ `[N]`, dL/dt of each spike `[S]`, gradient of the physics `[N]`."""

    v: Array
    i: Array
    spike_times: Array
    params: LIFParams


class _Emitted(NamedTuple):
    """What a step of the backward pass has found out: $p_I$ for the weights of the event, dL/dt of its arrival, whom it spoke to."""

    mass: Array
    time: Array
    mask: Array


def _adjoint_step(static: Static, system: System, carry: _Adjoint, x):
    record, sender, before = x
    p = system.params
    pv, pi = carry.v, carry.i
    jump, mask = event_loop.current_jump(static, system, record, sender)
    caused = jnp.sum(jump * (pi / p.tau_syn - pv / p.tau_mem))

    this = jnp.arange(static.max_spikes) == record.spike
    direct = jnp.where(this, carry.spike_times, 0.0).sum()
    # A delayed spike gains at its arrival; an instant one here and now.
    late = jnp.where(record.kind == DELAYED, caused, 0.0)
    spike_times = carry.spike_times + jnp.where(this, late, 0.0)
    gradient = direct if static.groups else direct + caused

    neuron = (jnp.arange(pv.shape[0]) == record.which) & (record.kind == SPIKE)
    kick = ((p.threshold - p.reset) * pv - p.tau_mem * gradient) / record.slope
    at_spike = pv + jnp.where(neuron, kick, 0.0)
    change = LIFParams(
        tau_mem=jnp.zeros_like(pv),
        tau_syn=jnp.zeros_like(pv),
        threshold=jnp.where(neuron, -at_spike, 0.0),
        reset=jnp.where(neuron, pv, 0.0),
    )
    coefficients, pull = jax.vjp(
        lambda tau_mem, tau_syn: flow(record.elapsed, tau_mem, tau_syn),
        p.tau_mem,
        p.tau_syn,
    )
    if before is not None:
        v, i = before
        tau_mem, tau_syn = pull(Flow(at_spike * v, pi * i, at_spike * i))
        change = change._replace(tau_mem=tau_mem, tau_syn=tau_syn)
    a, b, kappa = coefficients
    total = jax.tree.map(jnp.add, carry.params, change)
    new = _Adjoint(a * at_spike, b * pi + kappa * at_spike, spike_times, total)
    return new, _Emitted(pi, caused, mask)


def _backward(static, residuals, cotangents):
    arguments, record, sender, trace = residuals
    params, times, jumps, weights, delays, _ = arguments
    system = _system(*arguments)
    times_bar = dense_cotangents(cotangents.times)
    zeros = jnp.zeros(jumps.shape[1], jumps.dtype)
    carry = _Adjoint(
        zeros,
        zeros,
        # Padding is infinite, and whatever was made of it has no gradient.
        jnp.where(jnp.isfinite(times_bar), times_bar, 0.0),
        LIFParams(zeros, zeros, zeros, zeros),
    )
    carry, emitted = jax.lax.scan(
        lambda c, x: _adjoint_step(static, system, c, x),
        carry,
        (record, sender, trace),
        reverse=True,
    )
    arrived = record.kind == ARRIVAL
    # Events of other kinds write to a place that does not exist, and are dropped.
    place = jnp.where(arrived, record.which, times.shape[0])
    times_bar = jnp.zeros_like(times).at[place].add(emitted.time, mode="drop")
    jumps_bar = jnp.zeros_like(jumps).at[place].add(emitted.mass, mode="drop")
    weights_bar = delays_bar = None
    if weights is not None:
        mass = emitted.mass * emitted.mask
        weights_bar = jnp.zeros_like(weights).at[sender].add(mass, mode="drop")
    if delays is not None:
        late = jnp.where(record.kind == DELAYED, emitted.time, 0.0)
        place = (sender, record.which)
        delays_bar = jnp.zeros_like(delays).at[place].add(late, mode="drop")
    params_bar = param_gradient(params, carry.params)
    return params_bar, times_bar, jumps_bar, weights_bar, delays_bar, None


_solve.defvjp(_forward, _backward, symbolic_zeros=True)
