r"""Spike functions: the Heaviside step forward, the derivative of a documented curve backward.

A spike is $s = H(u)$ of the distance $u = v - \theta$ between membrane and threshold. Its true derivative is zero almost
everywhere, so the backward pass uses the derivative $\sigma'(u)$ of a smooth curve $\sigma$ instead (Neftci, Mostafa &
Zenke, 2019, https://arxiv.org/abs/1901.09948). Every curve here is listed with its derivative in `CURVES`, and the tests
hold one against the other.

Every curve but the straight line has a slope, in units of 1 / potential: it stretches the axis of $u$, so that a larger slope is a
steeper, narrower curve. It may be a tracer, so that `vmap` can sweep it; no gradient flows to it.
"""

import functools
import inspect
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


def _triangle_value(u, k):
    x = jnp.clip(k * u, -1.0, 1.0)
    return 0.5 + x - 0.5 * x * jnp.abs(x)


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
        lambda u, k: k * jnp.maximum(0, 1 - jnp.abs(k * u)),
    ),
    "gaussian": Curve(
        lambda u, k: 0.5 * (1 + jax.lax.erf(k * u / math.sqrt(2))),
        lambda u, k: k * jnp.exp(-0.5 * jnp.square(k * u)) / math.sqrt(2 * math.pi),
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


def triangle(slope: ArrayLike = 1.0) -> SpikeFn:
    r"""$\sigma'(u) = k\max(0, 1 - k|u|)$, the derivative of $\sigma(u) = \frac12 + ku - \frac12 k^2u|u|$ on $|u| \le 1/k$.

    Unit area, peak $k$; exactly zero further than the width $1/k$ from threshold (Bellec et al., 2018,
    https://arxiv.org/abs/1803.09574).
    """
    return _spike_fn("triangle", "slope", slope)


def gaussian(slope: ArrayLike = 2.0) -> SpikeFn:
    r"""$\sigma(u) = \Phi(ku)$, the normal distribution function, so $\sigma'(u) = \frac{k}{\sqrt{2\pi}}e^{-k^2u^2/2}$.

    Unit area; the width (standard deviation) is $1/k$.
    """
    return _spike_fn("gaussian", "slope", slope)


def straight_through(scale: ArrayLike = 1.0) -> SpikeFn:
    r"""$\sigma(u) = cu$, so $\sigma'(u) = c$ everywhere (Bengio et al., 2013, https://arxiv.org/abs/1308.3432).

    The one curve without a slope: $c$ is its height.
    """
    return _spike_fn("straight_through", "scale", scale)


# Curves whose one parameter is a slope.
FACTORIES: dict[str, Callable[..., SpikeFn]] = {
    "arctan": arctan,
    "arctan_fixed_peak": arctan_fixed_peak,
    "fast_sigmoid": fast_sigmoid,
    "sigmoid": sigmoid,
    "triangle": triangle,
    "gaussian": gaussian,
}
WITHOUT_SLOPE: dict[str, Callable[..., SpikeFn]] = {
    "straight_through": straight_through
}
NAMES = (*FACTORIES, *WITHOUT_SLOPE)


def get(name: str, slope: ArrayLike | None = None) -> SpikeFn:
    """The surrogate called `name`, with its default slope or the one given. Larger is steeper.

    Raises:
      ValueError: if no surrogate is called that, it has no slope, or the slope is not positive.
    """
    if name not in NAMES:
        raise ValueError(
            f"`surrogate` must be one of {', '.join(NAMES)}, got {name!r}."
        )
    if slope is None:
        return (FACTORIES | WITHOUT_SLOPE)[name]()
    if name in WITHOUT_SLOPE:
        raise ValueError(
            f"`slope` must be left out: the surrogate `{name}` has none, its derivative is the same everywhere."
        )
    return FACTORIES[name](slope)


def resolve(spike_fn: Any, *, at_threshold: bool = False) -> SpikeFn:
    """The spike function that a user means: `None` (`fast_sigmoid()`), the name of a surrogate, or any function `u -> spikes`.

    A function without the argument `at_threshold` decides by itself what happens at threshold.

    Raises:
      ValueError: if the name is unknown, or spikes at threshold are asked of a function that cannot be told so.
      TypeError: if it is nothing to call, or a factory that was not called.
    """
    if spike_fn is None:
        return fast_sigmoid()
    if isinstance(spike_fn, str):
        return get(spike_fn)
    for name, factory in (FACTORIES | WITHOUT_SLOPE).items():
        if spike_fn is factory:
            raise TypeError(f"`spike_fn` is a factory: write `surrogate.{name}()`.")
    if not callable(spike_fn):
        raise TypeError(
            f"`spike_fn` must be one of {', '.join(NAMES)} or a function `u -> spikes`, got {spike_fn!r}."
        )
    given: Any = spike_fn
    if "at_threshold" in _arguments(given):
        return given
    if at_threshold:
        raise ValueError(
            "`spike_at='>='` needs a `spike_fn` that takes `at_threshold`: add that argument, spikes are 1 at u = 0 where it is true."
        )
    return lambda u, *, at_threshold=False: jnp.asarray(given(u), u.dtype)


def _arguments(fn: Callable[..., Any]) -> tuple[str, ...]:
    try:
        found = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # written in C
        return ()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in found)
    return (*(p.name for p in found), *(("at_threshold",) if takes_all else ()))
