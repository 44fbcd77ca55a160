r"""Synapses: any map that is linear in spikes and in weights, without an adjoint rule of its own.

The adjoint needs two different numbers back from one product $u = f(W, z)$: with respect to $W$ the cotangent of a *mass*,
$-\tau_s\lambda_I$, and with respect to the spikes that of a *time*, $\lambda_V - \lambda_I$. So a synapse returns the product twice,
once with its spikes held fixed and once with its weights held fixed (`Drive`), and the neuron gives each its own cotangent. Autodiff of
$f$ does the rest: dense, convolution, pooling, delay. Only one of the two products survives compilation, because no neuron reads the
value of the second.

All products run over all time steps at once: `[T, B]` is folded into one batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn.eventprop.spikes import Drive, OccupiedSpikes, TimedSpikes
from jsnn.kernels import conv as convolution
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
    """Two-dimensional convolution as a linear map, weights `[kh, kw, C, O]`, `[M, H, W, C] -> [M, H', W', O]`; see `jsnn.kernels.conv`."""

    def linear(
        weight: Float[Array, "kh kw C O"], x: Float[Array, "M H W C"]
    ) -> Float[Array, "M H2 W2 O"]:
        return convolution.conv2d(x, weight, stride=stride, padding=padding)

    return linear


def avg_pool(size: int) -> Callable[[Array], Array]:
    """Mean over windows that do not overlap, `[M, H, W, C] -> [M, H/size, W/size, C]`; rows and columns left over are dropped."""
    return lambda x: convolution.avg_pool(x, size)
