r"""What the neuron does between events: the free flow of membrane and current, in a form that holds for every pair of time constants.

The neuron is a current-based LIF (Wunderlich & Pehle, 2021, https://arxiv.org/abs/2009.08378):

$\tau_m \dot V = -V + I$, $\tau_s \dot I = -I$; a spike that arrives adds its weight to $I$; at $V = \theta$ the neuron spikes and $V \leftarrow V_r$.

Over a time $t$ without events $V \leftarrow a V + \kappa I$, $I \leftarrow b I$, with $a = e^{-t/\tau_m}$, $b = e^{-t/\tau_s}$ and
$\kappa = \frac{\tau_s}{\tau_m - \tau_s}(a - b)$. Written like this $\kappa$ is 0/0 for equal time constants and loses its digits near them,
so here it is $\kappa = \frac{t}{\tau_m} e^{-t/\tau_{max}} \varphi(t|\delta|)$ with $\varphi(x) = (1 - e^{-x})/x$ and $\delta = 1/\tau_s - 1/\tau_m$:
the same number, without cancellation or overflow.

Times may be in any one unit; milliseconds keep float32 comfortable and are what the defaults mean.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn import check

# A number, or an array of the neurons' shape; traced or not.
Parameter = Any


class LIFParams(NamedTuple):
    """Physics of a layer. Every field is a scalar or has the shape of the neurons, so `vmap` can sweep it and `grad` can learn it."""

    tau_mem: Parameter = 20.0  # ms
    tau_syn: Parameter = 5.0  # ms
    threshold: Parameter = 1.0
    reset: Parameter = 0.0  # membrane after a spike


class LIParams(NamedTuple):
    """Physics of a leaky integrator, the neuron that never spikes."""

    tau_mem: Parameter = 20.0  # ms
    tau_syn: Parameter = 5.0  # ms


class Flow(NamedTuple):
    """Coefficients of the free flow over one stretch of time: `V <- a V + kappa I`, `I <- b I`."""

    a: Array
    b: Array
    kappa: Array


def check_params(params: Any) -> None:
    """Refuses time constants that are no times and thresholds that a neuron at reset has passed already, as far as they are known."""
    fields = params._asdict()
    for name, value in fields.items():
        interval = "(0, inf)" if name.startswith("tau_") else "(-inf, inf)"
        check.number(name, value, interval)
    if "threshold" in fields:
        check.ordered(
            "reset",
            fields["reset"],
            "threshold",
            fields["threshold"],
            "A neuron at reset above threshold never stops spiking.",
        )


def aligned(params, shape: tuple[int, ...], dtype):
    """Parameters as arrays of `dtype` that broadcast against `shape`, of which the neurons' axes are the last.

    Raises:
      ValueError: if a parameter fits neither as a scalar nor neuron by neuron.
    """

    def align(p):
        p = jnp.asarray(p, dtype)
        if p.ndim == 0:
            return p
        tail = shape[len(shape) - p.ndim :]
        if p.ndim > len(shape) or any(
            n not in (1, m) for n, m in zip(p.shape, tail, strict=True)
        ):
            raise ValueError(
                f"a parameter of `params` has shape {p.shape}, the layer {shape}: give a scalar or one value a neuron."
            )
        return p.reshape((1,) * (len(shape) - p.ndim) + p.shape)

    return jax.tree.map(align, params)


def relative_decay(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""$\varphi(x) = (1 - e^{-x})/x$ for $x \ge 0$, 1 at 0; its gradient is finite there as well."""
    small = x < 1e-4
    safe = jnp.where(small, 1.0, x)
    # The first term left out is x³/24 < 5e-14.
    series = 1.0 - x / 2.0 + x * x / 6.0
    return jnp.where(small, series, -jnp.expm1(-safe) / safe)


def rate_difference(tau_mem: Array, tau_syn: Array) -> Array:
    r"""$\delta = 1/\tau_s - 1/\tau_m$, from the difference of the time constants so that near-equal ones keep their digits."""
    return (tau_mem - tau_syn) / (tau_mem * tau_syn)


def flow(time: Array, tau_mem: Array, tau_syn: Array) -> Flow:
    """Coefficients of the free flow over `time`; all arguments broadcast against each other."""
    difference = rate_difference(tau_mem, tau_syn)
    # One branch, chosen by hand: `max` and `abs` would each pick a gradient of their own where the time constants are equal.
    forward = difference >= 0
    slow = jnp.exp(-time / jnp.where(forward, tau_mem, tau_syn))
    apart = time * jnp.where(forward, difference, -difference)
    return Flow(
        a=jnp.exp(-time / tau_mem),
        b=jnp.exp(-time / tau_syn),
        kappa=time / tau_mem * slow * relative_decay(apart),
    )
