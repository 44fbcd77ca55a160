r"""Synapses: any map that is linear in spikes and in weights, without an adjoint rule of its own.

The adjoint needs two different numbers back from one product $u = f(W, z)$: with respect to $W$ the cotangent of a *mass*,
$-\tau_s\lambda_I$, and with respect to the spikes that of a *time*, $\lambda_V - \lambda_I$. So a synapse returns the product twice,
once with its spikes held fixed and once with its weights held fixed (`Drive`), and the neuron gives each its own cotangent. Autodiff of
$f$ does the rest: dense, convolution, pooling, delay. Only one of the two products survives compilation, because no neuron reads the
value of the second.

All products run over all time steps at once: `[T, B]` is folded into one batch.

Delays can be learnt. A spike that left at $t$ arrives at $t + d$, so $\partial L/\partial d$ is the time cotangent of what arrives. Forward, a
delay is rounded to the grid; backward, the gradient is the continuous system's at the rounded value (Mészáros, Knight & Nowotny, 2025,
https://arxiv.org/abs/2501.07331). A spike delayed past the last step is lost.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jsnn import check
from jsnn.eventprop.spikes import Drive, OccupiedSpikes, TimedSpikes, time_gate
from jsnn.kernels import conv as convolution
from jsnn.kernels import pool as pooling
from jsnn.unroll import folded

Linear = Callable[[Any, Array], Array]
Spikes = TimedSpikes | OccupiedSpikes


def _check_spikes(spikes: Any) -> None:
    if not isinstance(spikes, TimedSpikes | OccupiedSpikes):
        raise TypeError(
            f"`spikes` must be TimedSpikes or OccupiedSpikes, got {type(spikes).__name__}. The gradient of a surrogate layer "
            "means dL/dz and that of an EventProp layer dL/dt: they cannot be chained. Wrap input data with `TimedSpikes(values)`."
        )


def synapse(linear: Linear, weights: Any, spikes: Spikes) -> Drive:
    """Sends spikes through a linear map.

    Args:
      linear: `(weights, x[M, *I]) -> [M, *O]`, linear in each argument: `dense`, `conv`, or your own. M is T·B.
      weights: whatever `linear` takes; its gradient is dL/dW.
      spikes: `[T, B, *I]`.

    Returns:
      What arrives at each step, `[T, B, *O]`.
    """
    _check_spikes(spikes)
    z = spikes.values

    def run(w: Any, z: Array) -> Array:
        u = folded(functools.partial(linear, w), z)
        if isinstance(spikes, OccupiedSpikes):
            grid = jnp.zeros((spikes.num_steps, *u.shape[1:]), u.dtype)
            u = grid.at[spikes.steps].add(u)
        return u

    fixed = jax.lax.stop_gradient
    return Drive(mass=run(weights, fixed(z)), time=run(fixed(weights), z))


def relay(linear: Callable[[Array], Array], spikes: Spikes) -> Spikes:
    """Applies a weightless linear map `[M, *I] -> [M, *O]` to the spikes of each step: average pooling, flattening, dropout.

    Maximum pooling is not linear and has no place here.
    """
    _check_spikes(spikes)

    y = folded(linear, spikes.values)
    if isinstance(spikes, OccupiedSpikes):
        return OccupiedSpikes(y, spikes.steps, spikes.num_steps)
    return TimedSpikes(y)


def dense(weight: Float[Array, "I O"], x: Float[Array, "M I"]) -> Float[Array, "M O"]:
    """All to all."""
    return convolution.linear(x, weight)


def conv(
    *, stride: int = 1, padding: convolution.Padding = "valid"
) -> Callable[[Array, Array], Array]:
    """Two-dimensional convolution as a linear map, weights `[kh, kw, C, O]`, `[M, H, W, C] -> [M, H', W', O]`; see `jsnn.kernels.conv`.

    Raises:
      ValueError: if `stride` or `padding` is out of range.
    """
    stride = check.whole("stride", stride, 1)
    padding = convolution.check_padding(padding)

    def linear(
        weight: Float[Array, "kh kw C O"], x: Float[Array, "M H W C"]
    ) -> Float[Array, "M H2 W2 O"]:
        return convolution.conv2d(x, weight, stride=stride, padding=padding)

    return linear


def avg_pool(size: int) -> Callable[[Array], Array]:
    """Mean over windows that do not overlap, `[M, H, W, C] -> [M, H/size, W/size, C]`; rows and columns left over are dropped.

    Raises:
      ValueError: if `size` is less than 1.
    """
    size = check.whole("size", size, 1)
    return lambda x: pooling.avg_pool(x, size)


def _whole_steps(delay: Array, dt: float, max_steps: int) -> Int[Array, "..."]:
    """The delay in steps; one above the budget is held at it, one below zero at zero."""
    return jnp.clip(jnp.round(delay / dt), 0, max_steps).astype(jnp.int32)


def check_delays(dt: float, max_steps: int) -> tuple[float, int]:
    """Refuses a step or a longest delay that is none."""
    return check.static("dt", dt, "(0, inf)"), check.whole("max_steps", max_steps, 0)


def axonal_delay(
    spikes: TimedSpikes, delay: Float[Array, "*N"], *, dt: float, max_steps: int
) -> TimedSpikes:
    """Delays all spikes of a neuron by the neuron's own delay.

    Args:
      spikes: `[T, B, *N]`.
      delay: one a neuron, in the unit of `dt`. Held within 0 and `max_steps * dt`, where its gradient goes on as if it were free.
      dt: time step.
      max_steps: longest delay that can be learnt, in steps.
    """
    dt, max_steps = check_delays(dt, max_steps)
    z = spikes.values
    steps = _whole_steps(jax.lax.stop_gradient(delay), dt, max_steps)
    source = jnp.arange(z.shape[0]).reshape(-1, *([1] * delay.ndim)) - steps[None]
    shifted = jnp.take_along_axis(z, jnp.maximum(source, 0)[:, None], axis=0)
    shifted = jnp.where((source >= 0)[:, None], shifted, 0.0)
    return TimedSpikes(shifted * time_gate(delay)[None, None])


def delayed_dense(
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
    dt, max_steps = check_delays(dt, max_steps)
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
