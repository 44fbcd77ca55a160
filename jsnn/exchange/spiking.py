r"""NIR's neurons in steps: pure `(init, step)` pairs with NIR's parameters, one value or one a neuron.

| node | in steps |
|---|---|
| LIF, LI | $v_t = v_{leak} + \beta (v_{t-1} - v_{leak}) + g x_t$ |
| IF, I | $v_t = v_{t-1} + g x_t$ |
| CubaLIF, CubaLI | $i_t = \alpha i_{t-1} + w x_t$, $v_t = v_{leak} + \beta (v_{t-1} - v_{leak}) + g i_t$ (or $g i_{t-1}$, or $g (m_i i_{t-1} + m_x x_t)$) |

A spike where $v_t > \theta$ (or $\ge$), then the reset. How decays and gains come from time constants is said by a `Convention`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import precision, surrogate
from jsnn.exchange.conventions import Convention
from jsnn.neurons import CurrentLIFState, LIFState, Neuron
from jsnn.neurons.base import cast


class IntegratorParams(NamedTuple):
    """Of LI and I. `beta`: fraction of the membrane kept per step; `gain`: of the input; `v_leak`: where the membrane rests."""

    beta: ArrayLike
    gain: ArrayLike
    v_leak: ArrayLike


class SpikingParams(NamedTuple):
    """Of LIF and IF: as `IntegratorParams`, with `threshold` and `v_reset`."""

    beta: ArrayLike
    gain: ArrayLike
    v_leak: ArrayLike
    threshold: ArrayLike
    v_reset: ArrayLike


class CubaIntegratorParams(NamedTuple):
    """Of CubaLI. `alpha`: fraction of the current kept per step; `w_in`: gain of the input; `mix_i`, `mix_x`: see the module; else as `IntegratorParams`."""

    alpha: ArrayLike
    w_in: ArrayLike
    mix_i: ArrayLike
    mix_x: ArrayLike
    beta: ArrayLike
    gain: ArrayLike
    v_leak: ArrayLike


class CubaSpikingParams(NamedTuple):
    """Of CubaLIF: as `CubaIntegratorParams`, with `threshold` and `v_reset`."""

    alpha: ArrayLike
    w_in: ArrayLike
    mix_i: ArrayLike
    mix_x: ArrayLike
    beta: ArrayLike
    gain: ArrayLike
    v_leak: ArrayLike
    threshold: ArrayLike
    v_reset: ArrayLike


class NodeChoices(NamedTuple):
    """What else defines a neuron that was read from a graph."""

    convention: Convention
    floor: bool


Params = IntegratorParams | SpikingParams | CubaIntegratorParams | CubaSpikingParams


def neuron(
    params: Params,
    convention: Convention,
    *,
    floor: bool = False,
    spike_fn: surrogate.SpikeFn | str | None = None,
) -> Neuron:
    """The neuron with these parameters; with a threshold it spikes, with `alpha` it has a synaptic current.

    >>> params = SpikingParams(beta=0.5, gain=1.0, v_leak=0.0, threshold=1.0, v_reset=0.25)
    >>> lif = neuron(params, Convention())
    >>> state, spikes = lif.step(lif.params, lif.init((1, 1)), jnp.full((1, 1), 1.5))
    >>> spikes.item(), state.v.item()
    (1.0, 0.25)

    Args:
      params: in units of one step.
      convention: of which `current`, `reset`, `spike_at` and `several` matter here.
      floor: keep the membrane above minus the threshold.
      spike_fn: a surrogate, its name, or a function `u -> spikes`; several spikes have the gradient of one.

    Returns:
      A neuron: `init(shape)` rests at `v_leak`.
    """
    kind = type(params)
    cuba, spiking = "alpha" in kind._fields, "threshold" in kind._fields
    fire = _fire(convention, spike_fn) if spiking else None
    rest = np.asarray(params.v_leak)

    def init(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        zero = jnp.zeros(shape, dtype)
        v = zero + cast(zero, rest) if rest.any() else zero
        return CurrentLIFState(zero, v) if cuba else LIFState(v)

    def driven(params: Any, state: Any, x: Array) -> tuple[Array, Array]:
        """The synaptic current after this step, and what enters the membrane."""
        if not cuba:
            return x, x
        i = params.alpha * state.i + params.w_in * x
        if convention.current == "exact":
            return i, params.mix_i * state.i + params.mix_x * x
        return i, i if convention.current == "new" else state.i

    def charge(params: Any, state: Any, x: Float[Array, "..."]) -> Array:
        params = cast(state.v, params)
        _, entering = driven(params, state, x)
        return _membrane(params, state.v, entering)

    @precision.keeping
    def step(params: Any, state: Any, current: Float[Array, "..."]):
        p = cast(state.v, params)
        i, entering = driven(p, state, current)
        v = _membrane(p, state.v, entering)
        output = v
        if fire is not None:
            output = fire(v, p.threshold)
            spikes = jax.lax.stop_gradient(output)
            if convention.reset == "subtract":
                v = v - p.threshold * spikes
            else:
                v = v * (1 - spikes) + p.v_reset * spikes
            v = jnp.maximum(v, -p.threshold) if floor else v
        return (CurrentLIFState(i, v) if cuba else LIFState(v)), output

    choices = NodeChoices(convention, floor)
    return Neuron(params, init, step, elementwise=True, charge=charge, choices=choices)


def _membrane(params: Any, v: Array, entering: Array) -> Array:
    """The membrane before a reset."""
    return params.v_leak + params.beta * (v - params.v_leak) + params.gain * entering


def _fire(convention: Convention, spike_fn: Any) -> Any:
    """Spikes of a membrane."""
    inclusive = convention.spike_at == ">="
    once = surrogate.resolve(spike_fn, at_threshold=inclusive)

    def fire(v: Array, threshold: Array) -> Array:
        one = once(v - threshold, at_threshold=inclusive)
        if not convention.several:
            return one
        # The quotient may be rounded, so it is put right by products.
        count = jnp.floor(jax.lax.stop_gradient(v) / threshold)
        more, less = (count + 1) * threshold, count * threshold
        count = count + (v >= more if inclusive else v > more)
        count = count - (v < less if inclusive else v <= less)
        # The value of `count`, the gradient of `one`.
        return one + jax.lax.stop_gradient(jnp.maximum(count, 0) - one)

    return fire
