r"""Leaky integrators driven by exact spike times: their membrane is a sum of known curves, so read-outs are closed forms.

Between arrivals a leaky integrator does nothing but decay; its integrals over time and its maximum need no simulation, and plain autodiff
gives their exact gradients in weights, arrival times and time constants. One sample, `vmap` for a batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn.eventprop.crossing import peak_time
from jsnn.eventprop.event_layers import _rows
from jsnn.eventprop.events import EventSpikes
from jsnn.eventprop.flow import LIParams, check_params, flow


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
