"""Latency code: each input spikes at most once, brighter earlier.

Times are in the unit of `dt`, milliseconds by convention. All functions take a batch of intensities in [0, 1].
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jsnn import check, encoders
from jsnn.eventprop.spikes import OccupiedSpikes, TimedSpikes
from jsnn.precision import floating


def _check_grid(num_steps: int, dt: float) -> tuple[int, float]:
    return check.whole("num_steps", num_steps, 1), check.static("dt", dt, "(0, inf)")


def latency_times(
    intensity: Shaped[Array, "B *N"], *, t_max: Any, silent_below: float = 1 / 255
) -> Float[Array, "B *N"]:
    """Spike time `(1 - x) t_max`; infinite where the intensity is `silent_below` or less, as in Wunderlich & Pehle (2021)."""
    check.number("t_max", t_max, "(0, inf)")
    check.number("silent_below", silent_below)
    intensity = floating(intensity)
    return jnp.where(intensity > silent_below, (1.0 - intensity) * t_max, jnp.inf)


def latency_spikes(
    intensity: Shaped[Array, "B *N"],
    *,
    t_max: Any,
    num_steps: int,
    dt: float,
    silent_below: float = 1 / 255,
) -> TimedSpikes:
    """`latency_times` on a grid, `[T, B, *N]`. Rounded down, so that a time inside the grid never falls off its end."""
    num_steps, dt = _check_grid(num_steps, dt)
    intensity = floating(intensity)
    times = latency_times(intensity, t_max=t_max, silent_below=silent_below)
    # Rounding of the product must not push a time on the grid to the step before.
    steps = jnp.floor(times / dt + 1e-4)
    grid = jnp.arange(num_steps, dtype=steps.dtype)
    grid = grid.reshape((num_steps,) + (1,) * steps.ndim)
    return TimedSpikes((grid == steps[None]).astype(intensity.dtype))


def binary_spikes(
    intensity: Shaped[Array, "B *N"],
    *,
    t_min: Any,
    t_max: Any,
    num_steps: int,
    dt: float,
    split_at: float = 0.5,
) -> OccupiedSpikes:
    """Two times only: bright inputs spike at `t_min`, dark ones at `t_max`. The code of the one-layer reference.

    Only two steps of the grid hold spikes, so only two are stored and multiplied. A time past the grid's end is no spike.
    """
    num_steps, dt = _check_grid(num_steps, dt)
    for name, value in (("t_min", t_min), ("t_max", t_max)):
        remedy = f"The grid has {num_steps} steps of {dt}."
        check.number(name, value, f"[0, {num_steps * dt})", remedy=remedy)
    check.number("split_at", split_at)
    intensity = floating(intensity)
    bright = (intensity >= split_at).astype(intensity.dtype)
    times = jnp.stack([jnp.asarray(t_min), jnp.asarray(t_max)])
    steps = jnp.round(times / dt).astype(jnp.int32)
    return OccupiedSpikes(jnp.stack([bright, 1.0 - bright]), steps, num_steps)


def encoder(*, t_max: float = 20.0, T: float = 25.0, dt: float = 1.0) -> Any:
    """An encoder for `jsnn.classifier`: each feature spikes once, brighter earlier, up to `t_max` of `T` milliseconds; black stays silent.

    Inputs `[B, ...]` are bytes or floats in [0, 1]; further axes are flattened.

    Raises:
      ValueError: if a number is not positive and finite, or `t_max` or `dt` exceeds `T`.
    """
    t_max, T, dt = (check.static(name, x, "(0, inf)") for name, x in (("t_max", t_max), ("T", T), ("dt", dt)))  # fmt: skip
    for name, value in (("t_max", t_max), ("dt", dt)):
        check.ordered(name, value, "T", T, equal=True)
    num_steps = round(T / dt)
    occupied = max(1, round(t_max / dt))

    def encode(inputs: Array, key: Array | None = None) -> OccupiedSpikes:
        x = encoders.unit_interval(inputs.reshape(len(inputs), -1))
        spikes = latency_spikes(x, t_max=t_max, num_steps=occupied, dt=dt)
        return OccupiedSpikes(spikes.values, jnp.arange(occupied), num_steps)

    return encode


def spread(spikes: OccupiedSpikes) -> TimedSpikes:
    """The same spikes on all steps of the grid, for plots and comparisons."""
    z = spikes.values
    grid = jnp.zeros((spikes.num_steps, *z.shape[1:]), z.dtype)
    return TimedSpikes(grid.at[spikes.steps].add(z))


def coordinate_times(
    coordinates: Shaped[Array, "B N"], *, t_max: Any, bias_time: Any = 0.0
) -> Float[Array, "B M"]:
    """Points as spike times: coordinate c spikes at `c * t_max`, and one more input, the bias, at `bias_time`; M is N + 1."""
    check.number("t_max", t_max, "(0, inf)")
    check.number("bias_time", bias_time)
    coordinates = floating(coordinates)
    bias = jnp.full_like(coordinates[:, :1], bias_time)
    return jnp.concatenate([coordinates * t_max, bias], axis=1)
