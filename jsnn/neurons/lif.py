"""Leaky and perfect integrate-and-fire neurons."""

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
from jsnn.neurons.refractory import check_refractory
from jsnn.neurons.refractory import refractory as with_rest


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
    refractory: int = 0,
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""Leaky integrate-and-fire neuron.

    With an immediate reset, $v_t = \beta v_{t-1} + x_t$, $s_t = H(v_t - \theta)$, then $v_t \leftarrow v_t - \theta s_t$
    (or $0$). With a delayed one, $r_t = H(v_{t-1} - \theta)$, $v_t = \beta v_{t-1} + x_t - \theta r_t$ (or
    $\beta(1 - r_t)v_{t-1} + x_t$), $s_t = H(v_t - \theta)$: the spike of a step lowers the membrane of the next.

    With `refractory` $= R$, a neuron that spikes at step t rests during the R steps t + 1 … t + R: its membrane stays where the reset put it, without
    leak and input, and it cannot spike. So two spikes are at least R + 1 steps apart. This is Norse's `rho_reset` and Lava's `refractory_period`.
    As there, a synaptic current (`current_lif`) runs on meanwhile, and so does an adaptation.

    Gradients flow through time along $\beta$, and through the reset unless `detach_reset`. While a neuron rests, the gradient of its membrane passes
    unchanged, and none enters by its input.

    Args:
      beta: fraction of the membrane kept per step, in [0, 1]; see `decay`.
      threshold: $\theta$, positive.
      reset: `"subtract"` lowers the membrane by $\theta$, `"zero"` sets it to 0, `"none"` leaves it.
      delayed_reset: reset one step after the spike.
      detach_reset: no gradient through the reset.
      spike_at: `">"` or `">="` threshold.
      scale_input: the input enters with gain $1 - \beta$.
      refractory: R, steps of rest after a spike. It needs an immediate reset.
      spike_fn: a surrogate, its name, or any function `u -> spikes` of $u = v - \theta$; `fast_sigmoid(25)` if None.

    Returns:
      A neuron: `init(shape)` gives the state, `step(params, state, current [B, N])` the next state and the spikes `[B, N]`.

    Raises:
      ValueError: if a choice is unknown, `beta` lies outside [0, 1], `threshold` is not positive, or `refractory` is negative or meets a delayed reset.

    Example:
      >>> neuron = lif(beta=0.5)
      >>> state = neuron.init((2, 3))
      >>> state, spikes = neuron.step(neuron.params, state, jnp.full((2, 3), 1.5))
      >>> float(spikes.sum())
      6.0
    """
    check.choice("reset", reset, get_args(Reset))
    check.choice("spike_at", spike_at, get_args(SpikeAt))
    check_decay("beta", beta)
    check_threshold(threshold)
    refractory = check_refractory(refractory, delayed_reset)
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
        beta, theta = cast(state.v, params)
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
        theta = cast(state.v, params.threshold)
        v = charge(params, state, current)
        spikes = fire(v - theta, at_threshold=inclusive)
        if delayed_reset:
            return LIFState(v), spikes
        fired = jax.lax.stop_gradient(spikes) if detach_reset else spikes
        return LIFState(apply_reset(reset, v, fired, theta)), spikes

    neuron = Neuron(LIFParams(beta, threshold), init, step, True, charge)
    choices = Choices("lif", reset, delayed_reset, spike_at, scale_input)
    return with_rest(neuron._replace(choices=choices), refractory)


def integrate_and_fire(
    *,
    threshold: ArrayLike = 1.0,
    reset: Reset = "subtract",
    delayed_reset: bool = False,
    detach_reset: bool = True,
    spike_at: SpikeAt = ">",
    refractory: int = 0,
    spike_fn: SpikeFn | str | None = None,
) -> Neuron:
    r"""Integrate-and-fire neuron without leak: `lif` with $\beta = 1$, and with the same arguments.

    >>> neuron = integrate_and_fire(threshold=2.0)
    >>> state, spikes = neuron.step(neuron.params, neuron.init((1, 1)), jnp.full((1, 1), 1.5))
    >>> state, spikes = neuron.step(neuron.params, state, jnp.full((1, 1), 1.5))
    >>> spikes.item(), state.v.item()  # 3 exceeds the threshold, which is subtracted
    (1.0, 1.0)
    """
    return lif(
        beta=1.0,
        threshold=threshold,
        reset=reset,
        delayed_reset=delayed_reset,
        detach_reset=detach_reset,
        spike_at=spike_at,
        refractory=refractory,
        spike_fn=spike_fn,
    )
