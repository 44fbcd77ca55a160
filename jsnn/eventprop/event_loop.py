r"""The loop over events in the order of time, forward: find the earliest event, flow there, apply it, write it down.

One clock for all neurons of a layer, so feedback is exact. One sample; the loop has a fixed length and idles when it is done.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jsnn.eventprop.crossing import Method, crossing
from jsnn.eventprop.flow import LIFParams, flow

# What can happen. Of events at equal times the first of these comes first, as on the grid.
SPIKE, ARRIVAL, DELAYED, END = range(4)


class Static(NamedTuple):
    """Static choices. `groups`: arrivals that a recurrent spike makes: 0 at once, 1 with an axon's delay, N with a synapse's."""

    max_spikes: int
    groups: int
    method: Method
    min_slope: float
    first_only: bool


class System(NamedTuple):
    """All a layer needs to run: physics and neurons `[N]`, arrivals `[K]`, recurrent `weights` `[N, N]` and `delays` `[N, groups]` or None."""

    params: LIFParams
    times: Float[Array, "K"]
    jumps: Float[Array, "K N"]
    weights: Float[Array, "N N"] | None
    delays: Float[Array, "N G"] | None
    end: Float[Array, ""]


class LoopState(NamedTuple):
    """The carry. `pending[s, g]`: when spike s arrives at its targets g; infinite if it is not under way."""

    time: Float[Array, ""]
    v: Float[Array, "N"]
    i: Float[Array, "N"]
    next_arrival: Int[Array, ""]
    num_spikes: Int[Array, ""]
    spike_times: Float[Array, "S"]
    spike_index: Int[Array, "S"]
    pending: Float[Array, "S G"]
    finished: Bool[Array, ""]
    overflow: Bool[Array, ""]


class Record(NamedTuple):
    """One step of the loop: all the backward pass needs to know.

    Attributes:
      elapsed: time since the step before.
      kind: `SPIKE`, `ARRIVAL`, `DELAYED` or `END`, the idle step.
      which: the neuron that spikes, the arrival, or the target group of a delayed spike.
      spike: the number of the spike, of `SPIKE` and `DELAYED`.
      slope: tau_m dV/dt just before a spike.
    """

    elapsed: Array
    kind: Array
    which: Array
    spike: Array
    slope: Array


def row(x: Array, k: Array) -> Array:
    """x[k], with k held inside; what lies there otherwise is masked by the caller."""
    return jax.lax.dynamic_index_in_dim(
        x, jnp.clip(k, 0, x.shape[0] - 1), keepdims=False
    )


def targets(static: Static, group: Array, size: int, dtype: Any) -> Array:
    """1 for the neurons of a target group, `[N]`: all of them, or one each."""
    if static.groups <= 1:
        return jnp.ones(size, dtype)
    return (jnp.arange(size) == group).astype(dtype)


def start(static: Static, system: System) -> LoopState:
    """At rest, before anything arrives."""
    budget, dtype = static.max_spikes, system.jumps.dtype
    count, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    rest = jnp.zeros(system.jumps.shape[1], dtype)
    first = system.times[0] if system.times.shape[0] else jnp.zeros((), dtype)
    return LoopState(
        time=jnp.minimum(first, 0.0).astype(dtype),
        v=rest,
        i=rest,
        next_arrival=count,
        num_spikes=count,
        spike_times=jnp.full(budget, jnp.inf, dtype),
        spike_index=jnp.full(budget, -1, jnp.int32),
        pending=jnp.full((budget, static.groups), jnp.inf, dtype),
        finished=no,
        overflow=no,
    )


def next_event(
    static: Static, system: System, s: LoopState
) -> tuple[Array, Array, Array, Array]:
    """The earliest event: kind, time, `Record.which`, `Record.spike`."""
    until = crossing(system.params, s.v, s.i, method=static.method)
    neuron = jnp.argmin(until).astype(jnp.int32)
    never = jnp.asarray(jnp.inf, s.time.dtype)
    left = s.next_arrival < system.times.shape[0]
    arrival = jnp.where(left, row(system.times, s.next_arrival), never)
    due, slot = never, jnp.zeros((), jnp.int32)
    if static.groups:
        pending = s.pending.reshape(-1)
        slot = jnp.argmin(pending).astype(jnp.int32)
        due = pending[slot]
    order = jnp.stack([s.time + until[neuron], arrival, due, system.end])
    kind = jnp.argmin(order)
    groups = max(static.groups, 1)
    which = jnp.stack([neuron, s.next_arrival, slot % groups, slot])[kind]
    spike = jnp.where(kind == DELAYED, slot // groups, s.num_spikes)
    return kind, order[kind], which, spike


def _pending(
    static: Static, system: System, s: LoopState, record: Record, time: Array
) -> Array:
    """Takes a delayed spike that has arrived off the list, and puts a new one on it."""
    if system.delays is None:
        return s.pending
    this = (jnp.arange(static.max_spikes) == record.spike)[:, None]
    group = (jnp.arange(static.groups) == record.which)[None]
    arrived = this & group & (record.kind == DELAYED)
    launched = this & (record.kind == SPIKE)
    arrival = (time + row(system.delays, record.which))[None]
    return jnp.where(launched, arrival, jnp.where(arrived, jnp.inf, s.pending))


def current_jump(
    static: Static, system: System, record: Record, sender: Array
) -> tuple[Array, Array]:
    """What an event adds to the current of each neuron, and to whom it speaks, `[N]` each.

    Args:
      static: choices.
      system: the layer.
      record: the event.
      sender: the neuron behind a spike, now or delayed.
    """
    size, dtype = system.jumps.shape[1], system.jumps.dtype
    jump = jnp.zeros(size, dtype)
    if system.jumps.shape[0]:
        outside = row(system.jumps, record.which)
        jump = jnp.where(record.kind == ARRIVAL, outside, 0.0)
    mask = jnp.zeros(size, dtype)
    if system.weights is not None:
        heard = record.kind == (DELAYED if static.groups else SPIKE)
        mask = jnp.where(heard, targets(static, record.which, size, dtype), 0.0)
        jump = jump + row(system.weights, sender) * mask
    return jump, mask


def step(
    static: Static, system: System, s: LoopState
) -> tuple[LoopState, Record, Array]:
    """One event. Also returns the neuron behind it, if it is a spike."""
    kind, time, which, spike = next_event(static, system, s)
    overflow = (kind == SPIKE) & (s.num_spikes >= static.max_spikes) & ~s.finished
    finished = s.finished | overflow | (kind == END)
    kind = jnp.where(finished, END, kind)
    time = jnp.where(finished, s.time, time)

    p = system.params
    a, b, kappa = flow(time - s.time, p.tau_mem, p.tau_syn)
    v, i = a * s.v + kappa * s.i, b * s.i
    spiked = kind == SPIKE
    neuron = (jnp.arange(v.shape[0]) == which) & spiked
    slope = jnp.where(neuron, i - p.threshold, 0.0).sum()
    slope = jnp.where(spiked, jnp.maximum(slope, static.min_slope), 1.0)
    record = Record(time - s.time, kind.astype(jnp.int8), which, spike, slope)

    sender = jnp.where(spiked, which, row(s.spike_index, spike))
    jump, _ = current_jump(static, system, record, sender)
    slot = (jnp.arange(static.max_spikes) == spike) & spiked
    num_spikes = s.num_spikes + spiked
    if static.first_only:
        finished = finished | (num_spikes >= static.max_spikes)
    new = LoopState(
        time=time,
        v=jnp.where(neuron, p.reset, v),
        i=i + jump,
        next_arrival=s.next_arrival + (kind == ARRIVAL),
        num_spikes=num_spikes,
        spike_times=jnp.where(slot, time, s.spike_times),
        spike_index=jnp.where(slot, which, s.spike_index),
        pending=_pending(static, system, s, record, time),
        finished=finished,
        overflow=s.overflow | overflow,
    )
    return new, record, sender


def run(
    static: Static, system: System, *, keep_trace: bool
) -> tuple[LoopState, Record, Array, tuple[Array, Array] | None]:
    """The whole loop.

    Returns:
      The final state; the record, the senders and (if `keep_trace`) V and I before each event, stacked over steps.
    """

    def body(s: LoopState, _: None):
        new, record, sender = step(static, system, s)
        return new, (record, sender, (s.v, s.i) if keep_trace else None)

    # Every arrival, every spike, every delayed arrival, and one step that sees the budget exceeded.
    length = system.times.shape[0] + static.max_spikes * (1 + static.groups) + 1
    final, (record, sender, trace) = jax.lax.scan(
        body, start(static, system), length=length
    )
    return final, record, sender, trace
