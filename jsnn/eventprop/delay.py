r"""Learnable delays on the time grid.

A spike that left at $t$ arrives at $t + d$, so $\partial L/\partial d$ is the time cotangent of what arrives. Forward, a delay is
rounded to the grid; backward, the gradient is the continuous system's at the rounded value (Mészáros, Knight & Nowotny, 2025,
https://arxiv.org/abs/2501.07331). A spike delayed past the last step is lost.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jsnn import check
from jsnn.eventprop.spikes import Drive, TimedSpikes, time_gate


def _whole_steps(delay: Array, dt: float, max_steps: int) -> Int[Array, "..."]:
    """The delay in steps; one above the budget is held at it, one below zero at zero."""
    return jnp.clip(jnp.round(delay / dt), 0, max_steps).astype(jnp.int32)


def _check(dt: float, max_steps: int) -> tuple[float, int]:
    return check.static("dt", dt, "(0, inf)"), check.whole("max_steps", max_steps, 0)


def axonal(
    spikes: TimedSpikes, delay: Float[Array, "*N"], *, dt: float, max_steps: int
) -> TimedSpikes:
    """Delays all spikes of a neuron by the neuron's own delay.

    Args:
      spikes: `[T, B, *N]`.
      delay: one a neuron, in the unit of `dt`. Held within 0 and `max_steps * dt`, where its gradient goes on as if it were free.
      dt: time step.
      max_steps: longest delay that can be learnt, in steps.
    """
    dt, max_steps = _check(dt, max_steps)
    z = spikes.values
    steps = _whole_steps(jax.lax.stop_gradient(delay), dt, max_steps)
    source = jnp.arange(z.shape[0]).reshape(-1, *([1] * delay.ndim)) - steps[None]
    shifted = jnp.take_along_axis(z, jnp.maximum(source, 0)[:, None], axis=0)
    shifted = jnp.where((source >= 0)[:, None], shifted, 0.0)
    return TimedSpikes(shifted * time_gate(delay)[None, None])


def dense(
    spikes: TimedSpikes,
    weight: Float[Array, "I O"],
    delay: Float[Array, "I O"],
    *,
    dt: float,
    max_steps: int,
) -> Drive:
    """A dense synapse with a delay for each weight: a convolution over time with `max_steps + 1` taps.

    Args:
      spikes: `[T, B, I]`.
      weight: `[I, O]`.
      delay: `[I, O]`, in the unit of `dt`; held within 0 and `max_steps * dt`.
      dt: time step.
      max_steps: longest delay that can be learnt, in steps.
    """
    dt, max_steps = _check(dt, max_steps)
    fixed = jax.lax.stop_gradient
    taps = jnp.arange(max_steps + 1).reshape(-1, 1, 1)
    at = taps == _whole_steps(fixed(delay), dt, max_steps)[None]
    kernel = jnp.where(at, weight[None], 0.0)
    timed = fixed(kernel) * time_gate(delay)[None]
    return Drive(
        mass=_over_time(kernel, fixed(spikes.values)),
        time=_over_time(timed, spikes.values),
    )


def _over_time(
    kernel: Float[Array, "K I O"], z: Float[Array, "T B I"]
) -> Float[Array, "T B O"]:
    """u[n] = sum_k kernel[k] z[n - k]."""
    return jax.lax.conv_general_dilated(
        z,
        kernel[::-1],  # lax correlates
        window_strides=(1,),
        padding=[(kernel.shape[0] - 1, 0)],
        dimension_numbers=("WNC", "WIO", "WNC"),
    )
