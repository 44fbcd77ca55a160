"""Integrate-and-fire neurons with a second state: a synaptic current, or an adaptation."""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import check, precision, surrogate
from jsnn.neurons.base import (
    Choices,
    Neuron,
    Reset,
    SpikeAt,
    SpikeFn,
    apply_reset,
    cast,
    check_decay,
    check_threshold,
)
from jsnn.neurons.lif import LIFParams, LIFState, lif
from jsnn.neurons.refractory import check_refractory
from jsnn.neurons.refractory import refractory as with_rest


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
    refractory: int = 0,
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""Current-based LIF neuron: $i_t = \alpha i_{t-1} + x_t$, and `lif` driven by $i_t$.

    `alpha = decay(dt, tau_syn)`, `beta = decay(dt, tau_mem)`. With `scale_input` the membrane sees $(1 - \beta)i_t$, the exact
    solution of $\tau_{mem}\dot v = -v + i$ for a current held over the step. The reset leaves the current alone.

    >>> neuron = current_lif(alpha=0.5, beta=0.5, threshold=10.0)
    >>> state, _ = neuron.step(neuron.params, neuron.init((1, 1)), jnp.ones((1, 1)))
    >>> state, _ = neuron.step(neuron.params, state, jnp.zeros((1, 1)))
    >>> state.i.item(), state.v.item()
    (0.5, 1.0)

    Args:
      alpha: fraction of the synaptic current kept per step, in [0, 1].
      beta: fraction of the membrane kept per step, in [0, 1].
      threshold, reset, delayed_reset, detach_reset, spike_at, scale_input, refractory, spike_fn: as in `lif`.

    Returns:
      A neuron: `init(shape)` gives the state, `step(params, state, current [B, N])` the next state and the spikes `[B, N]`.
    """
    check_decay("alpha", alpha)
    refractory = check_refractory(refractory, delayed_reset)
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
        i = cast(state.i, params.alpha) * state.i + current
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

    neuron = Neuron(
        CurrentLIFParams(alpha, beta, threshold),
        init,
        step,
        elementwise=True,
        charge=charge,
        choices=Choices("current_lif", reset, delayed_reset, spike_at, scale_input),
    )
    return with_rest(neuron, refractory)


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


def _at_rest(
    params: AdaptiveLIFParams, old: AdaptiveLIFState, new: AdaptiveLIFState
) -> AdaptiveLIFState:
    """What a step would make of the adaptation may hold a spike that is not fired."""
    return AdaptiveLIFState(old.v, cast(old.a, params.rho) * old.a)


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
    refractory: int = 0,
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""LIF neuron whose threshold rises with its own spikes.

    $a_t = \rho a_{t-1} + s_{t-1}$, $\theta_t = \theta + c\,a_t$, $v_t = \beta v_{t-1} + x_t$, $s_t = H(v_t - \theta_t)$, then
    $v_t \leftarrow v_t - \theta_t s_t$ (or $0$). Gradients flow through $a$; through the membrane's reset unless `detach_reset`.

    This adaptation is that of Bellec et al. 2020 (https://doi.org/10.1038/s41467-020-17236-y), who subtract $\theta$ alone. With `scale_adaptation`
    it is that of Bellec et al. 2018 (https://arxiv.org/abs/1803.09574), who subtract $\theta_t$: $a_t = \rho a_{t-1} + (1 - \rho) s_{t-1}$, so that
    one spike lifts the threshold by $(1 - \rho) c$; their membrane has `scale_input`.

    >>> neuron = adaptive_lif(rho=0.5)
    >>> state, spikes = neuron.step(neuron.params, neuron.init((1, 1)), jnp.full((1, 1), 1.5))
    >>> spikes.item(), state.a.item()
    (1.0, 1.0)

    Args:
      rho: $\rho$, fraction of the adaptation kept per step, in [0, 1].
      strength: $c$, how far one unit of adaptation lifts the threshold.
      scale_adaptation: a spike adds $1 - \rho$ to the adaptation instead of 1.
      beta, threshold, reset, detach_reset, spike_at, scale_input, refractory, spike_fn: as in `lif`.

    Returns:
      A neuron: `init(shape)` gives the state, `step(params, state, current [B, N])` the next state and the spikes `[B, N]`.
    """
    check.choice("reset", reset, get_args(Reset))
    check.choice("spike_at", spike_at, get_args(SpikeAt))
    check_decay("beta", beta)
    check_decay("rho", rho)
    check_threshold(threshold)
    check.number("strength", strength)
    refractory = check_refractory(refractory, delayed_reset=False)
    inclusive = spike_at == ">="
    fire = surrogate.resolve(spike_fn, at_threshold=inclusive)

    def init(shape: tuple[int, ...], dtype=jnp.float32) -> AdaptiveLIFState:
        return AdaptiveLIFState(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def charge(
        params: AdaptiveLIFParams, state: AdaptiveLIFState, current: Float[Array, "..."]
    ):
        beta = cast(state.v, params.beta)
        return beta * state.v + ((1 - beta) * current if scale_input else current)

    def threshold_at(params: AdaptiveLIFParams, state: AdaptiveLIFState):
        theta, strength = cast(state.v, (params.threshold, params.strength))
        return theta + strength * state.a

    @precision.keeping
    def step(
        params: AdaptiveLIFParams, state: AdaptiveLIFState, current: Float[Array, "..."]
    ):
        rho = cast(state.v, params.rho)
        v = charge(params, state, current)
        theta_t = threshold_at(params, state)
        spikes = fire(v - theta_t, at_threshold=inclusive)
        fired = jax.lax.stop_gradient(spikes) if detach_reset else spikes
        lift = (1 - rho) * spikes if scale_adaptation else spikes
        v = apply_reset(reset, v, fired, theta_t)
        return AdaptiveLIFState(v, rho * state.a + lift), spikes

    neuron = Neuron(
        AdaptiveLIFParams(beta, threshold, rho, strength),
        init,
        step,
        elementwise=True,
        charge=charge,
        threshold=threshold_at,
        choices=Choices("adaptive_lif", reset, False, spike_at, scale_input),
    )
    return with_rest(neuron, refractory, held=_at_rest)
