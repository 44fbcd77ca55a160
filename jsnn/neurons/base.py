"""What a neuron model is, and what all of them share."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jsnn import check, surrogate

Reset = Literal["subtract", "zero", "none"]
SpikeAt = Literal[">", ">="]
# A surrogate, its name, or any function from `v - threshold` to spikes.
SpikeFn = surrogate.SpikeFn | Callable[[Array], Array]


class Choices(NamedTuple):
    """What was chosen when a neuron was made, for whoever writes it down elsewhere (`jsnn.exchange`).

    Attributes:
      model: name of its factory.
      reset, delayed_reset, spike_at, scale_input: as its factory was given them.
    """

    model: str
    reset: str = "none"
    delayed_reset: bool = False
    spike_at: str = ">"
    scale_input: bool = False


class Neuron(NamedTuple):
    """A neuron model in the spirit of `optax.GradientTransformation`.

    Attributes:
      params: default parameters; scalars, or arrays that broadcast against the neurons' axes, to learn or to sweep.
      init: `(shape, dtype=float32) -> state`: the state at rest.
      step: `(params, state, current) -> (state, output)`: one time step, the body `lax.scan` wants. The output has the type of the current,
        the new state that of the old (`precision.keeping`).
      elementwise: whether `step` treats every neuron by itself, so that one kernel may run all steps of some of them (`jsnn.kernels.fused`).
      charge: `(params, state, current) -> membrane`: what `step` compares with the threshold, before it resets. For figures; without
        it they show `v` of the new state.
      threshold: `(params, state) -> threshold` of the step that starts from `state`, where it moves; otherwise that of `params`.
      refractory: steps of rest after a spike.
      choices: what else defines it, hashable: `Choices`, or what `jsnn.exchange` keeps of a neuron that it read.
    """

    params: Any
    init: Callable[..., Any]
    step: Callable[[Any, Any, Array], tuple[Any, Array]]
    elementwise: bool = False
    charge: Callable[[Any, Any, Array], Array] | None = None
    threshold: Callable[[Any, Any], Array] | None = None
    refractory: int = 0
    choices: Any = None


def decay(dt: float, tau: ArrayLike) -> ArrayLike:
    r"""$\beta = e^{-\Delta t/\tau}$: the factor by which a quantity with time constant `tau` falls in one step of `dt`, both in seconds."""
    check.number("dt", dt, "(0, inf)", remedy="It is a time in seconds.")
    check.number("tau", tau, "(0, inf)", remedy="It is a time in seconds.")
    if isinstance(dt, int | float | np.number) and isinstance(tau, int | float):
        return math.exp(-dt / tau)
    return jnp.exp(-dt / tau)


def check_decay(name: str, value: ArrayLike) -> None:
    """Refuses a decay outside [0, 1]."""
    remedy = "It is the fraction kept per time step; `decay(dt, tau)` makes one from seconds."
    check.number(name, value, "[0, 1]", remedy=remedy)


def check_threshold(value: ArrayLike) -> None:
    """Refuses a threshold that is not positive."""
    check.number("threshold", value, "(0, inf)")


def cast(like: Array, params: Any) -> Any:
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


def apply_reset(reset: Reset, v: Array, fired: Array, threshold: Array) -> Array:
    """The membrane after the reset of those that fired."""
    if reset == "subtract":
        return v - threshold * fired
    return v * (1 - fired) if reset == "zero" else v
