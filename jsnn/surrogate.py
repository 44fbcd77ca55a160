r"""Spike functions: the Heaviside step forward, the derivative of a documented curve backward.

A spike is $s = H(u)$ of the distance $u = v - \theta$ between membrane and threshold. Its true derivative is zero almost
everywhere, so the backward pass uses the derivative $\sigma'(u)$ of a smooth curve $\sigma$ instead (Neftci, Mostafa &
Zenke, 2019, https://arxiv.org/abs/1901.09948). Every curve here is listed with its derivative in `CURVES`, and the tests
hold one against the other.

The width or slope of a curve may be a tracer, so that `vmap` can sweep it; no gradient flows to it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import check


@runtime_checkable
class SpikeFn(Protocol):
    """Maps `u = v - threshold` to spikes in {0, 1} of the same shape and dtype."""

    def __call__(self, u: Array, *, at_threshold: bool = False) -> Array:
        """Spikes where `u > 0`, or where `u >= 0` if `at_threshold`."""
        ...


class Curve(NamedTuple):
    """A smooth step and its derivative, both functions of `(u, k)` with `k` the curve's one parameter."""

    value: Callable[[Array, Any], Array]
    derivative: Callable[[Array, Any], Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _spike(
    derivative, at_threshold: bool, u: Float[Array, "..."], k: Array
) -> Float[Array, "..."]:
    return _heaviside(at_threshold, u)


def _heaviside(at_threshold: bool, u: Array) -> Array:
    return (u >= 0 if at_threshold else u > 0).astype(u.dtype)


def _spike_fwd(derivative, at_threshold, u, k):
    # Not through `_spike`: a fused kernel takes no custom rule within another.
    return _heaviside(at_threshold, u), (u, k)


def _spike_bwd(derivative, at_threshold, residuals, g):
    u, k = residuals
    return g * derivative(u, k), jnp.zeros_like(k)


_spike.defvjp(_spike_fwd, _spike_bwd)


def _triangle_value(u, width):
    w = jnp.clip(u / width, -1.0, 1.0)
    return 0.5 + w - 0.5 * w * jnp.abs(w)


CURVES: dict[str, Curve] = {
    "arctan": Curve(
        lambda u, k: jnp.arctan(math.pi / 2 * k * u) / math.pi,
        lambda u, k: k / 2 / (1 + jnp.square(math.pi / 2 * k * u)),
    ),
    "arctan_fixed_peak": Curve(
        lambda u, k: jnp.arctan(math.pi * k * u) / (math.pi**2 * k),
        lambda u, k: (1 / math.pi) / (1 + jnp.square(math.pi * k * u)),
    ),
    "fast_sigmoid": Curve(
        lambda u, k: u / (1 + k * jnp.abs(u)),
        lambda u, k: 1 / jnp.square(1 + k * jnp.abs(u)),
    ),
    "sigmoid": Curve(
        lambda u, k: jax.nn.sigmoid(k * u),
        lambda u, k: k * jax.nn.sigmoid(k * u) * jax.nn.sigmoid(-k * u),
    ),
    "triangle": Curve(
        _triangle_value,
        lambda u, width: jnp.maximum(0, 1 - jnp.abs(u) / width) / width,
    ),
    "gaussian": Curve(
        lambda u, width: 0.5 * (1 + jax.lax.erf(u / (width * math.sqrt(2)))),
        lambda u, width: (
            jnp.exp(-0.5 * jnp.square(u / width)) / (width * math.sqrt(2 * math.pi))
        ),
    ),
    "straight_through": Curve(
        lambda u, scale: scale * u, lambda u, scale: scale * jnp.ones_like(u)
    ),
}


def _spike_fn(name: str, parameter: str, k: ArrayLike) -> SpikeFn:
    check.number(f"{parameter}` of the surrogate `{name}", k, "(0, inf)")
    derivative = CURVES[name].derivative

    def spike(u: Array, *, at_threshold: bool = False) -> Array:
        return _spike(derivative, at_threshold, u, jnp.asarray(k, u.dtype))

    return spike


def arctan(alpha: ArrayLike = 2.0) -> SpikeFn:
    r"""$\sigma(u) = \frac{1}{\pi}\arctan(\frac{\pi}{2}\alpha u)$, so $\sigma'(u) = \frac{\alpha/2}{1 + (\frac{\pi}{2}\alpha u)^2}$.

    The convention of snnTorch and SpikingJelly: unit area, peak $\alpha/2$ (Fang et al., 2021, https://arxiv.org/abs/2007.05785).
    """
    return _spike_fn("arctan", "alpha", alpha)


def arctan_fixed_peak(alpha: ArrayLike = 2.0) -> SpikeFn:
    r"""$\sigma(u) = \frac{\arctan(\pi\alpha u)}{\pi^2\alpha}$, so $\sigma'(u) = \frac{1}{\pi(1 + (\pi\alpha u)^2)}$.

    The convention of the class-incremental reference network: the peak is $1/\pi$ whatever $\alpha$, the area $1/(\pi\alpha)$.
    """
    return _spike_fn("arctan_fixed_peak", "alpha", alpha)


def fast_sigmoid(slope: ArrayLike = 25.0) -> SpikeFn:
    r"""$\sigma(u) = \frac{u}{1 + k|u|}$, so $\sigma'(u) = (1 + k|u|)^{-2}$ (Zenke & Ganguli, 2018, https://arxiv.org/abs/1705.11146)."""
    return _spike_fn("fast_sigmoid", "slope", slope)


def sigmoid(slope: ArrayLike = 5.0) -> SpikeFn:
    r"""$\sigma(u) = (1 + e^{-ku})^{-1}$, so $\sigma'(u) = k\,\sigma(u)\,\sigma(-u)$: unit area, peak $k/4$."""
    return _spike_fn("sigmoid", "slope", slope)


def triangle(width: ArrayLike = 1.0) -> SpikeFn:
    r"""$\sigma'(u) = \max(0, 1 - |u|/w)/w$, the derivative of $\sigma(u) = \frac12 + \frac{u}{w} - \frac{u|u|}{2w^2}$ on $|u| \le w$.

    Unit area; exactly zero further than $w$ from threshold (Bellec et al., 2018, https://arxiv.org/abs/1803.09574).
    """
    return _spike_fn("triangle", "width", width)


def gaussian(width: ArrayLike = 0.5) -> SpikeFn:
    r"""$\sigma(u) = \Phi(u/w)$, the normal distribution function, so $\sigma'(u) = \frac{1}{w\sqrt{2\pi}}e^{-u^2/2w^2}$."""
    return _spike_fn("gaussian", "width", width)


def straight_through(scale: ArrayLike = 1.0) -> SpikeFn:
    r"""$\sigma(u) = cu$, so $\sigma'(u) = c$ everywhere (Bengio et al., 2013, https://arxiv.org/abs/1308.3432)."""
    return _spike_fn("straight_through", "scale", scale)


FACTORIES: dict[str, Callable[..., SpikeFn]] = {
    "arctan": arctan,
    "arctan_fixed_peak": arctan_fixed_peak,
    "fast_sigmoid": fast_sigmoid,
    "sigmoid": sigmoid,
    "triangle": triangle,
    "gaussian": gaussian,
    "straight_through": straight_through,
}


def get(name: str, parameter: ArrayLike | None = None) -> SpikeFn:
    """The surrogate called `name`, with its default parameter or the one given.

    Raises:
      ValueError: if no surrogate is called that.
    """
    if name not in FACTORIES:
        raise ValueError(
            f"`surrogate` must be one of {', '.join(FACTORIES)}, got {name!r}."
        )
    return FACTORIES[name]() if parameter is None else FACTORIES[name](parameter)
