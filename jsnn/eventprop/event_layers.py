r"""Layers of the exact solver: dense feed-forward and recurrent, and read-outs; one sample each, `vmap` for a batch.

Without recurrence a neuron depends on its inputs alone, so every neuron runs a loop of its own: as long as its inputs and its own spikes,
not all spikes of the layer, with any delay for each synapse at no cost. Spikes of a layer are then sorted in time for the next one.

Read-outs are leaky integrators. Between arrivals they do nothing but decay: their integrals over time and their maximum need no simulation,
and plain autodiff gives exact gradients in weights, arrival times and time constants.

Axes: I inputs, N neurons, C classes, K arrivals, S spikes.
"""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jsnn import check
from jsnn.eventprop.crossing import Method, peak_time
from jsnn.eventprop.events import (
    Arrivals,
    EventSpikes,
    OnOverflow,
    Recurrence,
    check_solvable,
    in_order,
    solve_in_order,
)
from jsnn.eventprop.flow import LIFParams, LIParams, check_params, flow


class FirstSpikes(NamedTuple):
    """`times` `[N]`, infinite where silent; `overflow`: a layer below had more spikes than its budget, or see `EventSpikes`."""

    times: Float[Array, "N"]
    overflow: Bool[Array, ""]


def input_spikes(times: Float[Array, "I"]) -> EventSpikes:
    """One spike an input, in the order of time; infinite for none. A repeated input is given by writing its index yourself."""
    order = jnp.argsort(times)
    index = jnp.where(jnp.isfinite(times[order]), order, -1).astype(jnp.int32)
    return EventSpikes(times[order], index, jnp.zeros((), bool))


def _rows(weights: Float[Array, "I N"], spikes: EventSpikes) -> Float[Array, "K N"]:
    """The weights of the input behind each spike; zero for padding, NaN for an input that has no row.

    Raises:
      ValueError: if weights or spikes, as far as they are known, are no numbers or do not belong together.
    """
    check.number("weights", weights)
    if jnp.ndim(weights) != 2:
        raise ValueError(
            f"`weights` must be [inputs, neurons], got shape {jnp.shape(weights)}."
        )
    if spikes.times.shape != spikes.neuron.shape:
        raise ValueError(
            f"`spikes.neuron` must name one neuron for each of the `spikes.times`, got shapes {spikes.neuron.shape} and {spikes.times.shape}."
        )
    check.number(
        "spikes.neuron",
        spikes.neuron,
        f"[-1, {weights.shape[0] - 1}]",
        remedy=f"`weights` has {weights.shape[0]} rows, one an input.",
    )
    sender = jnp.maximum(spikes.neuron, 0)
    found = weights.at[sender].get(mode="fill", fill_value=jnp.nan)
    return jnp.where((spikes.neuron >= 0)[:, None], found, 0.0)


def _check_delays(delays: Array | None, weights: Array, *, axonal_only: bool) -> None:
    if delays is None:
        return
    check.number("delays", delays)
    if delays.shape == weights.shape[:1]:
        return
    if axonal_only:
        raise ValueError(
            f"`delays` of a recurrent layer's input must be [{weights.shape[0]}], one an input, got {delays.shape}."
        )
    if delays.shape != weights.shape:
        raise ValueError(
            f"`delays` must be [{weights.shape[0]}] or {list(weights.shape)}, got {delays.shape}."
        )


def _by_neuron(
    params: LIFParams,
    weights: Float[Array, "I N"],
    spikes: EventSpikes,
    delays: Array | None,
    **options,
) -> EventSpikes:
    """Each neuron's own spikes, `[N, S]`."""
    check_solvable(params, options["t_end"])
    _check_delays(delays, weights, axonal_only=False)
    times, jumps = spikes.times, _rows(weights, spikes)
    if delays is None:
        times, jumps = in_order(times, jumps)
    jumps = jumps.T
    times = jnp.broadcast_to(times[None], jumps.shape)
    if delays is not None:
        delays = jnp.broadcast_to(delays.reshape(weights.shape[0], -1), weights.shape)
        times = times + _rows(delays, spikes).T
        order = jnp.argsort(times, axis=1)
        times = jnp.take_along_axis(times, order, axis=1)
        jumps = jnp.take_along_axis(jumps, order, axis=1)
    # A scalar stays one, so that the ratio of Python numbers is still known.
    axes = LIFParams(*(0 if jnp.ndim(p) else None for p in params))

    def neuron(params, times, jumps):
        return solve_in_order(
            params,
            Arrivals(times, jumps[:, None]),
            on_overflow="flag",
            **options,
        )

    return jax.vmap(neuron, in_axes=(axes, 0, 0))(params, times, jumps)


def feed_forward(
    params: LIFParams,
    weights: Float[Array, "I N"],
    spikes: EventSpikes,
    *,
    delays: Float[Array, "*N"] | None = None,
    t_end: ArrayLike,
    max_spikes: int,
    max_events: int | None = None,
    crossing: Method | None = None,
    on_overflow: OnOverflow = "nan",
    min_slope: float = 1e-6,
) -> EventSpikes:
    """A dense layer without recurrence.

    Args:
      params: physics, scalars or `[N]`; differentiable.
      weights: `[I, N]`.
      spikes: of the layer below; they are sorted in time.
      delays: `[I]`, one an input (axonal), or `[I, N]`, one a synapse.
      t_end: nothing happens after it.
      max_spikes: budget of spikes a neuron.
      max_events: budget of spikes of the layer, which the next one will read; N · `max_spikes` if None. Less is faster.
      crossing: see `events.solve`.
      on_overflow: see `events.solve`; an overflow below counts as one here.
      min_slope: see `events.solve`.
    """
    max_spikes = check.whole("max_spikes", max_spikes, 1)
    check.choice("on_overflow", on_overflow, get_args(OnOverflow))
    total = jnp.shape(weights)[-1] * max_spikes
    size = total
    if max_events is not None:
        remedy = "At most there are neurons times `max_spikes`."
        size = check.whole("max_events", max_events, 1, total, remedy=remedy)
    own = _by_neuron(
        params,
        weights,
        spikes,
        delays,
        t_end=t_end,
        max_spikes=max_spikes,
        crossing=crossing,
        min_slope=min_slope,
    )
    flat = own.times.reshape(-1)
    # The earliest `size`, in order, and one more that tells of an overflow; cheaper than to sort them all.
    _, order = jax.lax.top_k(-jax.lax.stop_gradient(flat), min(size + 1, total))
    times = flat[order[:size]]
    overflow = spikes.overflow | own.overflow.any()
    if size < total:
        overflow = overflow | jnp.isfinite(flat[order[size]])
    index = jnp.where(jnp.isfinite(times), order[:size] // max_spikes, -1)
    if on_overflow == "nan":
        times = jnp.where(overflow, jnp.nan, times)
    return EventSpikes(times, index.astype(jnp.int32), overflow)


def first_spikes(
    params: LIFParams,
    weights: Float[Array, "I N"],
    spikes: EventSpikes,
    *,
    delays: Float[Array, "*N"] | None = None,
    t_end: ArrayLike,
    crossing: Method | None = None,
    on_overflow: OnOverflow = "nan",
    min_slope: float = 1e-6,
) -> FirstSpikes:
    """A dense layer of which only the time of each neuron's first spike is wanted: the read-out by latency."""
    own = _by_neuron(
        params,
        weights,
        spikes,
        delays,
        t_end=t_end,
        max_spikes=1,
        first_only=True,
        crossing=crossing,
        min_slope=min_slope,
    )
    times, overflow = own.times[:, 0], spikes.overflow | own.overflow.any()
    if on_overflow == "nan":
        times = jnp.where(overflow, jnp.nan, times)
    return FirstSpikes(times, overflow)


def recurrent(
    params: LIFParams,
    weights: Float[Array, "I N"],
    recurrence: Recurrence,
    spikes: EventSpikes,
    *,
    delays: Float[Array, "I"] | None = None,
    t_end: ArrayLike,
    max_spikes: int,
    crossing: Method | None = None,
    on_overflow: OnOverflow = "nan",
    min_slope: float = 1e-6,
) -> EventSpikes:
    """A dense layer with recurrent synapses: one clock for all its neurons.

    Args:
      params: physics, scalars or `[N]`; differentiable.
      weights: from the layer below, `[I, N]`.
      recurrence: synapses within the layer, with or without delays.
      spikes: of the layer below; they are sorted in time.
      delays: `[I]`, one an input.
      t_end: nothing happens after it.
      max_spikes: budget of spikes of the whole layer.
      crossing: see `events.solve`.
      on_overflow: see `events.solve`; an overflow below counts as one here.
      min_slope: see `events.solve`.
    """
    check_solvable(params, t_end)
    _check_delays(delays, weights, axonal_only=True)
    times, jumps = spikes.times, _rows(weights, spikes)
    if delays is not None:
        times = times + _rows(delays[:, None], spikes)[:, 0]
    out = solve_in_order(
        params,
        in_order(times, jumps),
        recurrence,
        t_end=t_end,
        max_spikes=max_spikes,
        crossing=crossing,
        on_overflow="flag",
        min_slope=min_slope,
    )
    overflow = out.overflow | spikes.overflow
    times = out.times
    if on_overflow == "nan":
        times = jnp.where(overflow, jnp.nan, times)
    return EventSpikes(times, out.neuron, overflow)


def mean_voltage(
    params: LIParams,
    weights: Float[Array, "I C"],
    spikes: EventSpikes,
    *,
    t_end: ArrayLike,
) -> Float[Array, "C"]:
    r"""$\frac1T\int_0^T V\,dt$, `T = t_end`."""
    return _integral(params, weights, spikes, t_end, rate=0.0)


def weighted_voltage(
    params: LIParams,
    weights: Float[Array, "I C"],
    spikes: EventSpikes,
    *,
    t_end: ArrayLike,
) -> Float[Array, "C"]:
    r"""$\frac1T\int_0^T e^{-t/T} V\,dt$, `T = t_end`."""
    return _integral(params, weights, spikes, t_end, rate=1.0 / t_end)


def _integral(
    params: LIParams,
    weights: Array,
    spikes: EventSpikes,
    t_end: Any,
    rate: Any,
) -> Array:
    r"""$\frac1T\int e^{-rt}V$ for each read-out. With $X = \int e^{-rs}I$, the membrane equation gives $\int e^{-rs}V = (X - \tau_m e^{-rD}V(D)) / (1 + r\tau_m)$."""
    check_params(params)
    rows = _rows(weights, spikes)
    t_end = jnp.asarray(t_end, rows.dtype)
    tau_mem, tau_syn = (jnp.asarray(x, rows.dtype)[..., None] for x in params)
    at = jnp.minimum(spikes.times, t_end)  # what comes later adds nothing
    left = t_end - at
    _, _, kappa = flow(left, tau_mem, tau_syn)
    decay = 1.0 / tau_syn + rate
    current = -jnp.expm1(-decay * left) / decay
    voltage = (current - tau_mem * jnp.exp(-rate * left) * kappa) / (1 + rate * tau_mem)
    psp = jnp.exp(-rate * at) * voltage
    return (rows * psp.T.reshape(rows.shape[0], -1)).sum(0) / t_end


def max_voltage(
    params: LIParams,
    weights: Float[Array, "I C"],
    spikes: EventSpikes,
    *,
    t_end: ArrayLike,
) -> Float[Array, "C"]:
    """Largest membrane in [0, t_end], at least its value at rest, 0."""
    check_params(params)
    rows = _rows(weights, spikes)
    t_end = jnp.asarray(t_end, rows.dtype)
    tau_mem, tau_syn = (jnp.asarray(x, rows.dtype) for x in params)
    times = jnp.append(jnp.minimum(spikes.times, t_end), t_end)
    elapsed = jnp.diff(times, prepend=jnp.minimum(times[:1], 0.0))

    def interval(carry, x):
        v, i, top = carry
        elapsed, jump = x
        peak = jax.lax.stop_gradient(peak_time(v, i, tau_mem, tau_syn))
        inside = (i > 0) & (peak > 0) & (peak < elapsed)
        # The peak's own motion changes nothing at first order; the interval's end does.
        a, b, kappa = flow(jnp.where(inside, peak, elapsed), tau_mem, tau_syn)
        top = jnp.maximum(top, a * v + kappa * i)
        a, b, kappa = flow(elapsed, tau_mem, tau_syn)
        return (a * v + kappa * i, b * i + jump, top), None

    rest = jnp.zeros(rows.shape[1], rows.dtype)
    jumps = jnp.concatenate([rows, rest[None]])
    (_, _, top), _ = jax.lax.scan(interval, (rest, rest, rest), (elapsed, jumps))
    return top
