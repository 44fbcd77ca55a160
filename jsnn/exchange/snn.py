r"""Neurons of snnTorch that no neuron of `jsnn.neurons` is equal to.

With $r_t = H(v_{t-1} - \theta)$ and $i_t = x_t$, or $i_t = \alpha i_{t-1} + x_t$:

| reset | membrane that is compared with the threshold |
|---|---|
| subtract | $v_t = \beta v_{t-1} + i_t - \theta r_t$ |
| zero | $v_t = (1 - r_t)(\beta v_{t-1} + i_t)$: the input of the step after a spike is lost, too |

Without delay it then takes back what $r_t$ did: $v_t \leftarrow v_t - (s_t - r_t)\theta$, or $v_t \leftarrow v_t - (s_t - r_t) v_t$. So a membrane
that is still above threshold after a spike is compared one threshold lower in the next step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import precision, surrogate
from jsnn.neurons import CurrentLIFState, LIFState, Neuron
from jsnn.neurons.base import cast


class SnnParams(NamedTuple):
    """`alpha`: fraction of the current kept per step, 0 without a current; `beta`: of the membrane; `threshold`."""

    alpha: ArrayLike
    beta: ArrayLike
    threshold: ArrayLike


def neuron(
    *,
    alpha: ArrayLike | None,
    beta: ArrayLike,
    threshold: ArrayLike,
    reset: str,
    reset_delay: bool,
    spike_fn: Any = None,
) -> Neuron:
    """Leaky, Synaptic, RLeaky and RSynaptic in snnTorch's own order of operations; see the module.

    >>> cell = neuron(alpha=None, beta=1.0, threshold=1.0, reset="zero", reset_delay=True)
    >>> state, _ = cell.step(cell.params, cell.init((1, 1)), jnp.full((1, 1), 2.0))
    >>> cell.step(cell.params, state, jnp.full((1, 1), 2.0))[0].v.item()
    0.0

    Args:
      alpha: fraction of the synaptic current kept per step; None without one.
      beta: of the membrane.
      threshold: a spike where the membrane exceeds it.
      reset: `"subtract"`, `"zero"` or `"none"`.
      reset_delay: reset one step after the spike.
      spike_fn: a surrogate, for the gradient.
    """
    current = alpha is not None
    fire = surrogate.resolve(spike_fn)
    params = SnnParams(alpha if current else 0.0, beta, threshold)

    def init(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        zero = jnp.zeros(shape, dtype)
        return CurrentLIFState(zero, zero) if current else LIFState(zero)

    def charged(p: SnnParams, state: Any, x: Array) -> tuple[Array, Array, Array]:
        """The current, the membrane, and where the last one was above threshold."""
        i = p.alpha * state.i + x if current else x
        last = jax.lax.stop_gradient((state.v > p.threshold).astype(x.dtype))
        v = p.beta * state.v + i
        if reset == "subtract":
            v = v - p.threshold * last
        elif reset == "zero":
            v = v * (1 - last)
        return i, v, last

    def charge(p: SnnParams, state: Any, x: Float[Array, "..."]) -> Array:
        return charged(cast(state.v, p), state, x)[1]

    @precision.keeping
    def step(p: SnnParams, state: Any, x: Float[Array, "..."]):
        p = cast(state.v, p)
        i, v, last = charged(p, state, x)
        spikes = fire(v - p.threshold)
        if not reset_delay and reset != "none":
            now = jax.lax.stop_gradient(spikes) - last
            v = v - now * (p.threshold if reset == "subtract" else v)
        return (CurrentLIFState(i, v) if current else LIFState(v)), spikes

    return Neuron(params, init, step, elementwise=True, charge=charge)
