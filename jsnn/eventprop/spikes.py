r"""The types that keep EventProp's spikes and currents apart from everybody else's.

EventProp differentiates spike *times*. So in this package the cotangent of a spike tensor is not dL/dz but

    dL/dt_k of the spike k that stands at that entry.

A surrogate layer means something else by the same array, and mixing the two would train on nonsense without a word. Hence the wrappers:
an ordinary layer that is handed one fails at once, and the layers here accept nothing else.

Axes: T time, B batch, N neurons (any number of axes, also I, O), L occupied time steps.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jsnn import check

_MESSAGE = (
    "{} carries spike times: its cotangent means dL/dt, not dL/dz, so it is no array. Pass it to a layer of `jsnn.eventprop`; "
    "`{}.values` under `jax.lax.stop_gradient` is the plain tensor, for counting and plotting."
)


class _NoArray:
    """Refuses to become an array, whichever way it is asked."""

    def __jax_array__(self):
        raise TypeError(_MESSAGE.format(type(self).__name__, "spikes"))

    def __array__(self, *_: Any, **__: Any):
        raise TypeError(_MESSAGE.format(type(self).__name__, "spikes"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TimedSpikes(_NoArray):
    """Spikes on a time grid. A dataclass, because a named tuple would pass for a sequence of arrays.

    Attributes:
      values: 1 where there is a spike, `[T, B, *N]`; after a pooling, its mass. Cotangent: dL/dt of the spike.
      lead: how long before its grid point the membrane crossed threshold, in [0, dt), `[T, B, *N]`; None where it was not asked for.
    """

    values: Float[Array, "T B *N"]
    lead: Float[Array, "T B *N"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OccupiedSpikes(_NoArray):
    """Spikes that all fall on a few steps of the grid: only those steps are stored, and only they are multiplied with weights.

    Exact, and T / L times cheaper than `TimedSpikes` in the synapse that reads it.

    Attributes:
      values: 1 where there is a spike, `[L, B, *N]`. Cotangent: dL/dt of the spike.
      steps: the grid step of each entry, `[L]`. They may repeat; spikes of equal steps add up.
      num_steps: T of the grid.
    """

    values: Float[Array, "L B *N"]
    steps: Int[Array, "L"]
    num_steps: int = dataclasses.field(metadata={"static": True})


class Drive(NamedTuple):
    """Input of a layer of neurons: what the spikes that arrive at each step add to the synaptic current.

    Both fields hold the same numbers. They differ in what flows back: through `mass` the gradient with respect to the weights,
    through `time` that with respect to arrival times. See `synapse.synapse`.
    """

    mass: Float[Array, "T B *N"]
    time: Float[Array, "T B *N"]

    def __add__(self, other: "Drive") -> "Drive":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Drives of several synapses onto the same neurons add up."""
        if not isinstance(other, Drive):
            raise TypeError(
                f"a Drive adds up with another Drive, not with {type(other).__name__}."
            )
        return Drive(self.mass + other.mass, self.time + other.time)


def require_drive(drive: Any) -> None:
    """Refuses a bare array, whose gradient would mean something else."""
    if not isinstance(drive, Drive):
        raise TypeError(
            f"`drive` must be a Drive, as `synapse` returns it; got {type(drive).__name__}."
        )
    if drive.mass.shape != drive.time.shape:
        raise ValueError(
            f"`drive.mass` and `drive.time` must hold the same numbers, got shapes {drive.mass.shape} and {drive.time.shape}."
        )


def from_times(
    times: Float[Array, "B *N"], *, num_steps: int, dt: float, split: bool = False
) -> TimedSpikes:
    """One spike a neuron; none where the time is infinite or past the grid.

    Differentiable in `times`: the gradient is that of the continuous system, taken at the time on the grid.

    Args:
      times: in the unit of `dt`, not negative.
      num_steps: T.
      dt: time step.
      split: share a spike out to the grid points before and after it, see `split`; otherwise it goes to the nearest.
    """
    dt = check.static("dt", dt, "(0, inf)")
    num_steps = check.whole("num_steps", num_steps, 1)
    finite = jnp.isfinite(times)
    at = jnp.where(finite, times, -2 * dt) / dt
    grid = jnp.arange(num_steps, dtype=times.dtype)
    grid = grid.reshape((num_steps,) + (1,) * times.ndim)
    if split:
        values = jnp.maximum(1.0 - jnp.abs(grid - jax.lax.stop_gradient(at)[None]), 0)
    else:
        values = (grid == jnp.round(at)[None]).astype(times.dtype)
    return TimedSpikes(values * time_gate(jnp.where(finite, times, 0.0))[None])


def split(spikes: TimedSpikes, *, dt: float) -> TimedSpikes:
    """Shares each spike out to the grid points before and after its crossing, so that it arrives on time on average.

    Without it a spike counts from the grid point after its crossing, half a step late, and the next layer is of first order in dt; with
    it of second order, in values and gradients. A part of the spike then arrives one step before the spike was found, so the layers
    above must run after this one. `grid_recurrent` does the same for its own synapses, whose delay of a step or more leaves time for it.

    Raises:
      ValueError: if the spikes do not carry their `lead`.
    """
    if spikes.lead is None:
        raise ValueError(
            "`spikes` must come straight from `grid.lif`: pooled, delayed or made by hand they have no `lead`."
        )
    z, early = spikes.values, jax.lax.stop_gradient(spikes.lead) / dt
    before = (z * early)[1:]
    return TimedSpikes((z * (1.0 - early)).at[:-1].add(before))


def time_gate(time: Array) -> Array:
    """1, whose gradient is 1: multiplied onto spikes it collects their dL/dt as the gradient of `time`."""
    return 1.0 + (time - jax.lax.stop_gradient(time))


def counts(spikes: TimedSpikes) -> Float[Array, "B *N"]:
    """Spikes per neuron. No gradient: EventProp's derivative of a number of spikes is zero."""
    return jax.lax.stop_gradient(spikes.values).sum(0)
