r"""STDP for spikes in time: pairs, traces, and a network rule with homeostasis, for users who come from that side.

Axes: T steps, I inputs, O outputs; weights `[I, O]`; spikes are 0 or 1; `dt` and time constants in milliseconds. A trace
decays by $e^{-dt/\tau}$ a step and grows by 1 at a spike (`all`: every earlier spike counts) or is set to 1 (`nearest`:
only the last one does).
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jsnn import check
from jsnn.precision import floating, like, wide_type
from jsnn.stdp.waves import product

Pairing = Literal["all", "nearest"]


class TraceParams(NamedTuple):
    """What a sweep may vary."""

    ltp: ArrayLike = 0.01  # change at an output spike, times the input's trace
    ltd: ArrayLike = (
        0.012  # change at an input spike, times the output's trace; subtracted
    )
    tau_pre: ArrayLike = 20.0  # ms
    tau_post: ArrayLike = 20.0  # ms
    low: ArrayLike = 0.0
    high: ArrayLike = 1.0


_TRACES = TraceParams()


class TraceState(NamedTuple):
    """Traces of both sides."""

    pre: Float[Array, "I"]
    post: Float[Array, "O"]


def pair_window(
    interval: Shaped[Array, "*N"], params: TraceParams = _TRACES
) -> Float[Array, "*N"]:
    r"""Change of a weight by one pair of spikes, $\Delta = t_{post} - t_{pre}$ in ms.

    $a_{ltp} e^{-\Delta/\tau_{pre}}$ for $\Delta > 0$, $-a_{ltd} e^{\Delta/\tau_{post}}$ for $\Delta < 0$, and 0 for
    $\Delta = 0$. Reference: Song, Miller, Abbott, Nature Neuroscience 3 (2000) 919.
    """
    interval = floating(interval)
    p = _floats(params, interval)
    later = p.ltp * jnp.exp(-abs(interval) / p.tau_pre)
    earlier = -p.ltd * jnp.exp(-abs(interval) / p.tau_post)
    return jnp.where(interval > 0, later, jnp.where(interval < 0, earlier, 0.0))


def _floats(params: Any, like: Any) -> Any:
    """Parameters in the type of `like`, and float32 at least; those that are known are checked: time constants positive, all finite, bounds in order."""
    for name, x in params._asdict().items():
        check.number(name, x, "(0, inf)" if name.startswith("tau_") else "(-inf, inf)")
    if isinstance(params, TraceParams):
        check.ordered("low", params.low, "high", params.high, equal=True)
    return type(params)(*(jnp.asarray(x, wide_type(like)) for x in params))


def _check(dt: float, pairing: str) -> None:
    check.number("dt", dt, "(0, inf)", remedy="It is a time in milliseconds.")
    check.choice("pairing", pairing, get_args(Pairing))


def init(num_inputs: int, num_outputs: int, dtype: Any = jnp.float32) -> TraceState:
    """No spike yet."""
    return TraceState(jnp.zeros(num_inputs, dtype), jnp.zeros(num_outputs, dtype))


def _grown(trace, spikes, pairing):
    return trace + spikes if pairing == "all" else jnp.maximum(trace, spikes)


def step(
    weights: Float[Array, "I O"],
    state: TraceState,
    pre: Shaped[Array, "I"],
    post: Shaped[Array, "O"],
    params: TraceParams,
    *,
    dt: float = 1.0,
    pairing: Pairing = "all",
) -> tuple[Float[Array, "I O"], TraceState]:
    r"""One step of trace-based STDP: $\Delta w_{io} = a_{ltp}\, x_i s_o - a_{ltd}\, s_i y_o$, clipped to the bounds.

    Traces $x$, $y$ are those of earlier steps, so two spikes of the same step leave the weight alone. With `pairing="all"` and no
    clipping, the sum over steps is that of `pair_window` over all pairs of spikes.

    Raises:
      ValueError: if `dt` is not positive, or `pairing` is unknown.
    """
    _check(dt, pairing)
    pre, post = floating((pre, post))
    p = _floats(params, weights)
    x, y = state.pre * jnp.exp(-dt / p.tau_pre), state.post * jnp.exp(-dt / p.tau_post)
    change = p.ltp * jnp.outer(x, post) - p.ltd * jnp.outer(pre, y)
    learnt = jnp.clip(weights + change, p.low, p.high)
    traces = TraceState(_grown(x, pre, pairing), _grown(y, post, pairing))
    return jax.tree.map(like, (weights, state), (learnt, traces))


def run(
    weights: Float[Array, "I O"],
    pre: Shaped[Array, "T I"],
    post: Shaped[Array, "T O"],
    params: TraceParams = _TRACES,
    *,
    dt: float = 1.0,
    pairing: Pairing = "all",
) -> Float[Array, "I O"]:
    """Weights after given spike trains.

    Raises:
      ValueError: as `step`, and if shapes do not belong together.
    """
    if weights.shape != (*pre.shape[1:], *post.shape[1:]) or len(pre) != len(post):
        raise ValueError(
            f"`weights` must be [I, O] with `pre` [T, I] and `post` [T, O], got {weights.shape}, {pre.shape} and {post.shape}."
        )

    def body(carry, spikes):
        (weights, state), (s_pre, s_post) = carry, spikes
        new = step(weights, state, s_pre, s_post, params, dt=dt, pairing=pairing)
        return new, None

    inputs, outputs = weights.shape
    start = weights, init(inputs, outputs, wide_type(weights))
    return lax.scan(body, start, (pre, post))[0][0]


class HomeostaticParams(NamedTuple):
    """A layer in the manner of Diehl and Cook; potentials in units of the base threshold, resting at 0."""

    rate: ArrayLike = 0.01
    target: ArrayLike = (
        0.4  # input trace at which an output spike leaves the weight alone
    )
    tau_pre: ArrayLike = 20.0  # ms
    tau_membrane: ArrayLike = 100.0  # ms
    threshold: ArrayLike = 1.0
    theta_plus: ArrayLike = (
        0.05  # rise of a neuron's own threshold at each of its spikes
    )
    tau_theta: ArrayLike = 1e7  # ms
    inhibition: ArrayLike = 1.0  # drop of all other membranes at a spike
    high: ArrayLike = 1.0
    total: ArrayLike = 10.0  # sum of an output's weights after `normalise`


_HOMEOSTATIC = HomeostaticParams()


class HomeostaticState(NamedTuple):
    """All that changes; `theta` and `weights` are kept from one sample to the next."""

    weights: Float[Array, "I O"]
    theta: Float[Array, "O"]
    membrane: Float[Array, "O"]
    pre: Float[Array, "I"]
    spikes: Float[Array, "O"]  # of the last step


def homeostatic_init(weights: Float[Array, "I O"]) -> HomeostaticState:
    """State before the first sample."""
    inputs, outputs = weights.shape
    zero = jnp.zeros(outputs, wide_type(weights))
    return HomeostaticState(weights, zero, zero, jnp.zeros(inputs, zero.dtype), zero)


def normalise(weights: Float[Array, "I O"], total: ArrayLike) -> Float[Array, "I O"]:
    """Scales every output's weights to the same sum; an output without weights stays so.

    Raises:
      ValueError: if `total` is not one positive number.
    """
    check.number("total", total, "(0, inf)")
    if jnp.ndim(total):
        raise ValueError(f"`total` must be one number, got shape {jnp.shape(total)}.")
    sums = weights.sum(0, keepdims=True)
    scale = jnp.asarray(total, weights.dtype) / jnp.where(sums > 0, sums, 1)
    return weights * jnp.where(sums > 0, scale, 1)


def homeostatic_step(
    state: HomeostaticState,
    pre: Shaped[Array, "I"],
    params: HomeostaticParams = _HOMEOSTATIC,
    *,
    dt: float = 1.0,
) -> HomeostaticState:
    r"""One step: leaky neurons with lateral inhibition and adaptive thresholds; weights learn at output spikes.

    $v \leftarrow v e^{-dt/\tau_m} + W^T s - c \sum_{o' \ne o} z_{o'}$ with the spikes $z$ of the step before; spike where $v$ exceeds
    threshold + $\theta$, then $v \leftarrow 0$ and $\theta \leftarrow \theta + \theta_+$, while $\theta$ decays with $\tau_\theta$.
    At an output spike $\Delta w_{io} = \eta (x_i - x_{target}) (w_{max} - w_{io})$, clipped to 0 ... $w_{max}$; $x$ is the input's trace,
    set to 1 by a spike (of this step too). Reference: Diehl and Cook, Frontiers in Computational Neuroscience 9 (2015) 99,
    their rule with $\mu = 1$; current-based synapses and direct inhibition stand for its conductances and its inhibitory layer.

    Raises:
      ValueError: if `dt` is not positive.
    """
    _check(dt, "all")
    pre, p = floating(pre), _floats(params, state.weights)
    trace = jnp.maximum(state.pre * jnp.exp(-dt / p.tau_pre), pre)
    others = state.spikes.sum() - state.spikes
    v = state.membrane * jnp.exp(-dt / p.tau_membrane) + product(pre, state.weights)
    v = v - p.inhibition * others
    spikes = (v > p.threshold + state.theta).astype(v.dtype)
    theta = state.theta * jnp.exp(-dt / p.tau_theta) + p.theta_plus * spikes
    change = p.rate * (trace - p.target)[:, None] * (p.high - state.weights)
    weights = jnp.clip(state.weights + change * spikes[None], 0.0, p.high)
    new = HomeostaticState(weights, theta, v * (1 - spikes), trace, spikes)
    return jax.tree.map(like, state, new)


def homeostatic_run(
    state: HomeostaticState,
    pre: Shaped[Array, "T I"],
    params: HomeostaticParams = _HOMEOSTATIC,
    *,
    dt: float = 1.0,
) -> tuple[HomeostaticState, Float[Array, "T O"]]:
    """One sample: weights are normalised first, membranes and traces start at rest. Returns the output's spikes too.

    Raises:
      ValueError: as `homeostatic_step`.
    """
    start = homeostatic_init(normalise(state.weights, params.total))
    start = start._replace(theta=state.theta)

    def body(state, spikes):
        state = homeostatic_step(state, spikes, params, dt=dt)
        return state, state.spikes

    return lax.scan(body, start, pre)
