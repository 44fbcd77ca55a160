"""Sentences for what newcomers write: what is wrong with a layer, a neuron or a signal, and what to write instead."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from jsnn import neurons
from jsnn.unroll import Constant, num_steps

FACTORIES = (
    neurons.lif,
    neurons.integrate_and_fire,
    neurons.current_lif,
    neurons.adaptive_lif,
    neurons.leaky_integrator,
)


def with_state(call: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `__call__`, with a sentence for `layer(x)`, which forgets the state."""

    @functools.wraps(call)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        if len(args) + len(options.keys() & {"state", "x"}) < 2:
            raise TypeError(
                "A layer is called with its state and the input: `state, y = net(state, x)`, where `state = net.init_state(x.shape[1:])` at "
                "first. Or write `y, _ = apply(*split(net), x)`."
            )
        return call(self, *args, **options)

    return run


def layers(given: tuple[Any, ...], kind: type) -> None:
    """Refuses what is no layer among the arguments of `Sequence`.

    Raises:
      TypeError: that says what to write instead.
    """
    for place, value in enumerate(given):
        if isinstance(value, kind):
            continue
        name = getattr(value, "__name__", type(value).__name__)
        if isinstance(value, neurons.Neuron):
            remedy = "is a neuron model: write `Neurons(neuron)`."
        elif value in FACTORIES:
            remedy = f"is a function: write `Neurons(neurons.{name}())`."
        elif isinstance(value, list | tuple | nnx.List):
            remedy = "is a list: write `Sequence(*layers)`, each layer an argument."
        elif isinstance(value, type) and issubclass(value, kind):
            remedy = f"is a class: write `{name}(...)`."
        else:
            remedy = f"is {value!r}, no layer."
        raise TypeError(f"`layers[{place}]` of this `Sequence` {remedy}")


def neuron(value: Any) -> None:
    """Refuses what is no neuron model.

    Raises:
      TypeError: that says what to write instead.
    """
    if isinstance(value, neurons.Neuron):
        return
    if value in FACTORIES:
        remedy = f"is a function: write `neurons.{value.__name__}()`."
    elif isinstance(value, nnx.Module):
        remedy = f"is a layer already: use this {type(value).__name__} as it is, without `Neurons` around it."
    else:
        remedy = f"must be a neuron model such as `neurons.lif()`, got {value!r}."
    raise TypeError(f"`neuron` {remedy}")


def signal(x: Any) -> None:
    """Refuses what is no signal over time.

    Raises:
      TypeError: if `x` is neither an array nor a `Constant`.
      ValueError: if there is no time step or no batch.
    """
    array = x.value if isinstance(x, Constant) else x
    if not isinstance(array, jax.Array | np.ndarray):
        raise TypeError(
            f"`x` must be an array [T, B, ...] or `Constant(images, T)`, got {type(x).__name__}: make an array of it by `jnp.asarray`."
        )
    if isinstance(x, Constant):
        return
    if x.ndim < 2 or num_steps(x) < 1:
        raise ValueError(
            f"`x` must be [T, B, ...] with at least one time step, got shape {x.shape}. One sample gets a batch axis by `x[:, None]`; an image "
            "shown for T steps is `Constant(images, T)`."
        )


def maps(layer: str, x: Any) -> None:
    """Refuses a signal that is not of maps `[H, W, C]`, for layers that need them.

    Raises:
      ValueError: that says what to write instead.
    """
    constant = isinstance(x, Constant)
    shape = x.value.shape if constant else x.shape
    if len(shape) == (4 if constant else 5):
        return
    wanted = "Constant([B, H, W, C], T)" if constant else "[T, B, H, W, C]"
    raise ValueError(
        f"`x` of {layer} must be {wanted}, got shape {shape}: give grey images a channel by `images[..., None]`, and show images [B, H, W, C] for T steps by "
        "`Constant(images, T)`."
    )


def state(layer: Any, given: Any, wanted: Any, x: Any) -> None:
    """Refuses a state whose shapes are not the `wanted` ones.

    Raises:
      ValueError: if a shape differs.
    """
    shapes = [[a.shape for a in jax.tree.leaves(s)] for s in (given, wanted)]
    if shapes[0] != shapes[1]:
        shape = x.value.shape if isinstance(x, Constant) else x.shape[1:]
        raise ValueError(
            f"`state` of {type(layer).__name__} has arrays of {shapes[0]}, its input needs {shapes[1]}: write `init_state({tuple(shape)})`, the "
            "shape of one time step `[B, ...]`."
        )
