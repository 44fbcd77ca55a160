r"""Neuron models: default parameters and a pair of pure functions each.

Axes: B batch, N neurons (any number of axes); `step` works elementwise on any leading axes. Voltages are in units of the
caller's choice, usually threshold minus rest. A decay is dimensionless and belongs to one time step; `decay(dt, tau)`
makes one from seconds.

Conventions differ between libraries, so every choice is a named argument here:

| argument | choices | who does what |
|---|---|---|
| `reset` | `"subtract"` (soft), `"zero"` (hard), `"none"` | |
| `delayed_reset` | `True`: one step after the spike; `False`: at once | snnTorch delays, SpikingJelly and Norse do not |
| `detach_reset` | `True`: no gradient through the reset | snnTorch detaches; the class-incremental reference does not |
| `spike_at` | `">"` or `">="` threshold | snnTorch `">"`, SpikingJelly `">="` |
| `scale_input` | `True`: input enters with gain $1 - \beta$; `False`: with gain 1 | SpikingJelly scales (`decay_input`), snnTorch does not |
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import check, precision, surrogate

Reset = Literal["subtract", "zero", "none"]
SpikeAt = Literal[">", ">="]
# A surrogate, its name, or any function from `v - threshold` to spikes.
SpikeFn = surrogate.SpikeFn | Callable[[Array], Array]


class Neuron(NamedTuple):
    """A neuron model in the spirit of `optax.GradientTransformation`.

    Attributes:
      params: default parameters; scalars, or arrays that broadcast against the neurons' axes, to learn or to sweep.
      init: `(shape, dtype=float32) -> state`: the state at rest.
      step: `(params, state, current) -> (state, output)`: one time step, the body `lax.scan` wants. The output has the type of the current,
        the new state that of the old (`precision.keeping`).
      elementwise: whether `step` treats every neuron by itself, so that one kernel may run all steps of some of them (`jsnn.fused`).
      charge: `(params, state, current) -> membrane`: what `step` compares with the threshold, before it resets. For figures; without
        it they show `v` of the new state.
      threshold: `(params, state) -> threshold` of the step that starts from `state`, where it moves; otherwise that of `params`.
    """

    params: Any
    init: Callable[..., Any]
    step: Callable[[Any, Any, Array], tuple[Any, Array]]
    elementwise: bool = False
    charge: Callable[[Any, Any, Array], Array] | None = None
    threshold: Callable[[Any, Any], Array] | None = None


def decay(dt: float, tau: ArrayLike) -> ArrayLike:
    r"""$\beta = e^{-\Delta t/\tau}$: the factor by which a quantity with time constant `tau` falls in one step of `dt`, both in seconds."""
    check.number("dt", dt, "(0, inf)", remedy="It is a time in seconds.")
    check.number("tau", tau, "(0, inf)", remedy="It is a time in seconds.")
    if isinstance(dt, int | float | np.number) and isinstance(tau, int | float):
        return math.exp(-dt / tau)
    return jnp.exp(-dt / tau)


def _check_decay(name: str, value: ArrayLike) -> None:
    remedy = "It is the fraction kept per time step; `decay(dt, tau)` makes one from seconds."
    check.number(name, value, "[0, 1]", remedy=remedy)


def _check_threshold(value: ArrayLike) -> None:
    check.number("threshold", value, "(0, inf)")


def _as(like: Array, params: Any) -> Any:
    """Parameters in the type in which the step is computed, so that Python floats and float32 sweeps never promote it.

    Values per neuron `[N]` get the membrane's leading axes, `[1, N]`.
    """

    def one(p: ArrayLike) -> Array:
        p = jnp.asarray(p, like.dtype)
        ends = zip(p.shape[::-1], like.shape[::-1], strict=False)
        if p.ndim > like.ndim or any(n not in (1, m) for n, m in ends):
            raise ValueError(
                f"A parameter of the neurons has shape {p.shape}, their layer {like.shape[1:]}: give one number, or one a neuron."
            )
        return p.reshape((1,) * (like.ndim - p.ndim) + p.shape) if p.ndim else p

    return jax.tree.map(one, params)


def _apply_reset(reset: Reset, v: Array, fired: Array, threshold: Array) -> Array:
    if reset == "subtract":
        return v - threshold * fired
    return v * (1 - fired) if reset == "zero" else v


class LIFParams(NamedTuple):
    """`beta`: fraction of the membrane kept per step; `threshold`: membrane at which it spikes."""

    beta: ArrayLike
    threshold: ArrayLike


class LIFState(NamedTuple):
    """`v`: membrane `[B, N]`, after an immediate reset, before a delayed one."""

    v: Float[Array, "..."]


def lif(
    *,
    beta: ArrayLike = 0.9,
    threshold: ArrayLike = 1.0,
    reset: Reset = "subtract",
    delayed_reset: bool = False,
    detach_reset: bool = True,
    spike_at: SpikeAt = ">",
    scale_input: bool = False,
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""Leaky integrate-and-fire neuron.

    With an immediate reset, $v_t = \beta v_{t-1} + x_t$, $s_t = H(v_t - \theta)$, then $v_t \leftarrow v_t - \theta s_t$
    (or $0$). With a delayed one, $r_t = H(v_{t-1} - \theta)$, $v_t = \beta v_{t-1} + x_t - \theta r_t$ (or
    $\beta(1 - r_t)v_{t-1} + x_t$), $s_t = H(v_t - \theta)$: the spike of a step lowers the membrane of the next.

    `spike_fn` is a surrogate, its name, or any function `u -> spikes` of $u = v - \theta$; `fast_sigmoid(25)` if omitted. Gradients
    flow through time along $\beta$, and through the reset unless `detach_reset`.

    Raises:
      ValueError: if a choice is unknown, `beta` lies outside [0, 1] or `threshold` is not positive.

    Example:
      >>> neuron = lif(beta=0.5)
      >>> state = neuron.init((2, 3))
      >>> state, spikes = neuron.step(neuron.params, state, jnp.full((2, 3), 1.5))
      >>> float(spikes.sum())
      6.0
    """
    check.choice("reset", reset, get_args(Reset))
    check.choice("spike_at", spike_at, get_args(SpikeAt))
    _check_decay("beta", beta)
    _check_threshold(threshold)
    inclusive = spike_at == ">="
    fire = surrogate.resolve(spike_fn, at_threshold=inclusive)

    def fired_at(v, theta):
        if detach_reset:
            return jax.lax.stop_gradient(
                (v >= theta if inclusive else v > theta).astype(v.dtype)
            )
        return fire(v - theta, at_threshold=inclusive)

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> LIFState:
        return LIFState(jnp.zeros(shape, dtype))

    def charge(
        params: LIFParams, state: LIFState, current: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        beta, theta = _as(state.v, params)
        x = (1 - beta) * current if scale_input else current
        if not delayed_reset or reset == "none":
            return beta * state.v + x
        fired = fired_at(state.v, theta)
        if reset == "subtract":
            return beta * state.v + x - theta * fired
        return beta * (1 - fired) * state.v + x

    @precision.keeping
    def step(
        params: LIFParams, state: LIFState, current: Float[Array, "..."]
    ) -> tuple[LIFState, Float[Array, "..."]]:
        theta = _as(state.v, params.threshold)
        v = charge(params, state, current)
        spikes = fire(v - theta, at_threshold=inclusive)
        if delayed_reset:
            return LIFState(v), spikes
        fired = jax.lax.stop_gradient(spikes) if detach_reset else spikes
        return LIFState(_apply_reset(reset, v, fired, theta)), spikes

    return Neuron(
        LIFParams(beta, threshold), init, step, elementwise=True, charge=charge
    )


def integrate_and_fire(
    *,
    threshold: ArrayLike = 1.0,
    reset: Reset = "subtract",
    delayed_reset: bool = False,
    detach_reset: bool = True,
    spike_at: SpikeAt = ">",
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""Integrate-and-fire neuron without leak: `lif` with $\beta = 1$."""
    return lif(
        beta=1.0,
        threshold=threshold,
        reset=reset,
        delayed_reset=delayed_reset,
        detach_reset=detach_reset,
        spike_at=spike_at,
        spike_fn=spike_fn,
    )


class CurrentLIFParams(NamedTuple):
    """`alpha`: fraction of the synaptic current kept per step; `beta`: of the membrane; `threshold`: as in `LIFParams`."""

    alpha: ArrayLike
    beta: ArrayLike
    threshold: ArrayLike


class CurrentLIFState(NamedTuple):
    """`i`: synaptic current `[B, N]`; `v`: membrane `[B, N]`."""

    i: Float[Array, "..."]
    v: Float[Array, "..."]


def current_lif(
    *,
    alpha: ArrayLike = 0.8,
    beta: ArrayLike = 0.9,
    threshold: ArrayLike = 1.0,
    reset: Reset = "subtract",
    delayed_reset: bool = False,
    detach_reset: bool = True,
    spike_at: SpikeAt = ">",
    scale_input: bool = False,
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""Current-based LIF neuron: $i_t = \alpha i_{t-1} + x_t$, and `lif` driven by $i_t$.

    `alpha = decay(dt, tau_syn)`, `beta = decay(dt, tau_mem)`. With `scale_input` the membrane sees $(1 - \beta)i_t$, the exact
    solution of $\tau_{mem}\dot v = -v + i$ for a current held over the step. The reset leaves the current alone.
    """
    _check_decay("alpha", alpha)
    membrane = lif(
        beta=beta,
        threshold=threshold,
        reset=reset,
        delayed_reset=delayed_reset,
        detach_reset=detach_reset,
        spike_at=spike_at,
        scale_input=scale_input,
        spike_fn=spike_fn,
    )

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> CurrentLIFState:
        return CurrentLIFState(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def driven(
        params: CurrentLIFParams, state: CurrentLIFState, current: Float[Array, "..."]
    ):
        """What the membrane's own functions take."""
        i = _as(state.i, params.alpha) * state.i + current
        return LIFParams(params.beta, params.threshold), LIFState(state.v), i

    def charge(params, state, current):
        assert membrane.charge is not None
        return membrane.charge(*driven(params, state, current))

    @precision.keeping
    def step(
        params: CurrentLIFParams, state: CurrentLIFState, current: Float[Array, "..."]
    ):
        args = driven(params, state, current)
        new, spikes = membrane.step(*args)
        return CurrentLIFState(args[-1], new.v), spikes

    return Neuron(
        CurrentLIFParams(alpha, beta, threshold),
        init,
        step,
        elementwise=True,
        charge=charge,
    )


class AdaptiveLIFParams(NamedTuple):
    """`rho`: fraction of the adaptation kept per step; `strength`: how far one unit of it lifts the threshold; others as in `LIFParams`."""

    beta: ArrayLike
    threshold: ArrayLike
    rho: ArrayLike
    strength: ArrayLike


class AdaptiveLIFState(NamedTuple):
    """`v`: membrane `[B, N]`; `a`: adaptation `[B, N]`."""

    v: Float[Array, "..."]
    a: Float[Array, "..."]


def adaptive_lif(
    *,
    beta: ArrayLike = 0.9,
    threshold: ArrayLike = 1.0,
    rho: ArrayLike = 0.97,
    strength: ArrayLike = 0.2,
    reset: Reset = "subtract",
    detach_reset: bool = True,
    spike_at: SpikeAt = ">",
    scale_input: bool = False,
    scale_adaptation: bool = False,
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""LIF neuron whose threshold rises with its own spikes.

    $a_t = \rho a_{t-1} + s_{t-1}$, $\theta_t = \theta + c\,a_t$, $v_t = \beta v_{t-1} + x_t$, $s_t = H(v_t - \theta_t)$, then
    $v_t \leftarrow v_t - \theta_t s_t$ (or $0$). Gradients flow through $a$; through the membrane's reset unless `detach_reset`.

    This adaptation is that of Bellec et al. 2020 (https://doi.org/10.1038/s41467-020-17236-y), who subtract $\theta$ alone. With `scale_adaptation`
    it is that of Bellec et al. 2018 (https://arxiv.org/abs/1803.09574), who subtract $\theta_t$: $a_t = \rho a_{t-1} + (1 - \rho) s_{t-1}$, so that
    one spike lifts the threshold by $(1 - \rho) c$; their membrane has `scale_input`.
    """
    check.choice("reset", reset, get_args(Reset))
    check.choice("spike_at", spike_at, get_args(SpikeAt))
    _check_decay("beta", beta)
    _check_decay("rho", rho)
    _check_threshold(threshold)
    check.number("strength", strength)
    inclusive = spike_at == ">="
    fire = surrogate.resolve(spike_fn, at_threshold=inclusive)

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> AdaptiveLIFState:
        return AdaptiveLIFState(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def charge(
        params: AdaptiveLIFParams, state: AdaptiveLIFState, current: Float[Array, "..."]
    ):
        beta = _as(state.v, params.beta)
        return beta * state.v + ((1 - beta) * current if scale_input else current)

    def threshold_at(params: AdaptiveLIFParams, state: AdaptiveLIFState):
        theta, strength = _as(state.v, (params.threshold, params.strength))
        return theta + strength * state.a

    @precision.keeping
    def step(
        params: AdaptiveLIFParams, state: AdaptiveLIFState, current: Float[Array, "..."]
    ):
        rho = _as(state.v, params.rho)
        v = charge(params, state, current)
        theta_t = threshold_at(params, state)
        spikes = fire(v - theta_t, at_threshold=inclusive)
        fired = jax.lax.stop_gradient(spikes) if detach_reset else spikes
        lift = (1 - rho) * spikes if scale_adaptation else spikes
        return AdaptiveLIFState(
            _apply_reset(reset, v, fired, theta_t), rho * state.a + lift
        ), spikes

    return Neuron(
        AdaptiveLIFParams(beta, threshold, rho, strength),
        init,
        step,
        elementwise=True,
        charge=charge,
        threshold=threshold_at,
    )


class LeakyIntegratorParams(NamedTuple):
    """`beta`: fraction of the membrane kept per step."""

    beta: ArrayLike


def leaky_integrator(*, beta: ArrayLike = 0.9, scale_input: bool = False) -> Neuron:
    r"""Read-out without spikes: $v_t = \beta v_{t-1} + x_t$; the output is the membrane itself."""
    _check_decay("beta", beta)

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> LIFState:
        return LIFState(jnp.zeros(shape, dtype))

    @precision.keeping
    def step(
        params: LeakyIntegratorParams, state: LIFState, current: Float[Array, "..."]
    ):
        (beta,) = _as(state.v, params)
        v = beta * state.v + ((1 - beta) * current if scale_input else current)
        return LIFState(v), v

    return Neuron(LeakyIntegratorParams(beta), init, step, elementwise=True)


class RecurrentParams(NamedTuple):
    """`neuron`: the inner neuron's parameters; `weight`: `[N, N]`, from presynaptic row to postsynaptic column."""

    neuron: Any
    weight: Float[Array, "N N"]


class RecurrentState(NamedTuple):
    """`neuron`: the inner neuron's state; `spikes`: its output one step ago, `[B, N]`."""

    neuron: Any
    spikes: Float[Array, "... N"]


def recurrent(neuron: Neuron, weight: Float[Array, "N N"]) -> Neuron:
    r"""The same neuron, fed its own layer's output of the step before: $x_t + s_{t-1}W$."""

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> RecurrentState:
        return RecurrentState(neuron.init(shape, dtype), jnp.zeros(shape, dtype))

    def driven(
        params: RecurrentParams, state: RecurrentState, current: Float[Array, "... N"]
    ):
        """What the inner neuron's own functions take."""
        weight = jnp.asarray(params.weight, state.spikes.dtype)
        size = current.shape[-1]
        if weight.shape != (size, size):
            raise ValueError(
                f"Recurrent weights are {list(weight.shape)}, but the layer has {size} neurons: write `recurrent={size}`."
            )
        return params.neuron, state.neuron, current + state.spikes @ weight

    @precision.keeping
    def step(
        params: RecurrentParams, state: RecurrentState, current: Float[Array, "... N"]
    ):
        inner, spikes = neuron.step(*driven(params, state, current))
        return RecurrentState(inner, spikes), spikes

    charge, threshold = neuron.charge, neuron.threshold
    return Neuron(
        RecurrentParams(neuron.params, weight),
        init,
        step,
        charge=charge and (lambda p, s, x: charge(*driven(p, s, x))),
        threshold=threshold and (lambda p, s: threshold(p.neuron, s.neuron)),
    )
