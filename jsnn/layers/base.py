"""What a layer is: parameters inside, state outside."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jsnn import advice, check
from jsnn.unroll import Signal, per_step

Init = Literal["pytorch", "kaiming"]


class Fixed(nnx.Variable):
    """A value that belongs to the model but is not trained: a neuron's decay, say."""


class Layer(nnx.Module):
    """Base class. A stateless layer defines `forward([N, ...]) -> [N, ...]` and nothing else."""

    stateless = True

    # Whether inputs are maps `[H, W, C]`.
    takes_maps = False

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = advice.with_state(cls.__call__)

    def init_state(
        self,
        shape: tuple[int, ...],
        *,
        key: Array | None = None,
        train: bool = False,
        dtype: Any = jnp.float32,
    ) -> Any:
        """The state before the first step, for inputs of `shape` `[B, ...]`; membranes and masks have type `dtype`."""
        return ()

    def forward(self, x: Array) -> Array:
        """Output of one step for a stateless layer."""
        raise NotImplementedError(f"{type(self).__name__} defines no `forward`.")

    @advice.with_state
    def __call__(
        self, state: Any, x: Signal, *, train: bool = False
    ) -> tuple[Any, Signal]:
        """Runs the layer over the K steps of a block."""
        advice.signal(x)
        if self.takes_maps:
            advice.maps(type(self).__name__, x)
        return state, per_step(self.forward, x)

    def remember(self, state: Any) -> None:
        """Keeps in the layer what must outlive a batch (batch-norm statistics)."""


def check_rngs(rngs: Any) -> None:
    """Refuses what is no `nnx.Rngs`."""
    if not isinstance(rngs, nnx.Rngs):
        got = " ".join(repr(rngs).split())
        raise TypeError(f"`rngs` must be `nnx.Rngs(seed)`, got {got}.")


def uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    r"""Uniform in $\pm 1/\sqrt{\text{fan-in}}$, as PyTorch draws weights."""
    edge = fan_in**-0.5
    return jax.random.uniform(key, shape, jnp.float32, minval=-edge, maxval=edge)


def init_parameters(
    shape: tuple[int, ...], fan_in: int, bias: bool, init: Init, rngs: nnx.Rngs
) -> tuple[nnx.Param, nnx.Param | None]:
    """Weight and bias of a layer."""
    check.choice("init", init, get_args(Init))
    check_rngs(rngs)
    if init == "pytorch":
        weight = uniform(rngs.params(), shape, fan_in)
        offset = uniform(rngs.params(), shape[-1:], fan_in)
    else:
        weight = jax.random.normal(rngs.params(), shape, jnp.float32)
        weight, offset = (
            weight * (2 / fan_in) ** 0.5,
            jnp.zeros(shape[-1:], jnp.float32),
        )
    return nnx.Param(weight), nnx.Param(offset) if bias else None
