"""Layers one after another, and networks as pure functions."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jsnn import advice, check, neurons
from jsnn.layers.base import Layer
from jsnn.layers.stateless import Stateless
from jsnn.model import Model, Network, Output
from jsnn.precision import wide_type
from jsnn.unroll import Constant, Signal, num_steps, unroll


def _as_layer(value: Any) -> Any:
    """A function or a foreign module as a layer; anything else as it is."""
    if isinstance(value, Layer | type | neurons.Neuron) or value in advice.FACTORIES:
        return value
    return Stateless(value) if callable(value) else value


class Sequence(Layer):
    """Layers one after another, over all time steps.

    >>> net = jsnn.Sequence(jsnn.Dense(4, 8, rngs=nnx.Rngs(0)), jsnn.LIF(), block_size=1)
    >>> state, spikes = net(net.init_state((2, 4)), jnp.ones((5, 2, 4)))  # [T, B, I] to [T, B, O]
    >>> spikes.shape
    (5, 2, 8)

    Layers in front of the first one with a state see a constant input once, not once a step. The others are unrolled over time.

    Args:
      layers: what to run. A `Sequence` may be one of them and brings its own schedule, so a convolutional part can go step by step while
        the dense part goes layer by layer. So may a plain function or a Flax module without state, see `Stateless`.
      block_size: K, time steps handed to each layer at a time; all if None. See `unroll`.
      remat: store only the states between blocks.
      truncate: stop the gradient between blocks.

    Raises:
      TypeError: if something is no layer; the message says what to write instead.
    """

    stateless = False

    def __init__(
        self,
        *layers: Any,
        block_size: int | None = None,
        remat: bool = False,
        truncate: bool = False,
    ):
        layers = tuple(_as_layer(value) for value in layers)
        advice.layers(layers, Layer)
        self.layers = nnx.List(layers)
        self.block_size, self.remat, self.truncate = block_size, remat, truncate

    def flat(self) -> Iterator[Layer]:
        """All layers, nested sequences opened."""
        for layer in self.layers:
            if isinstance(layer, Sequence):
                yield from layer.flat()
            else:
                yield layer

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """States of all layers; shapes are followed through the network."""
        keys = [None] * len(self.layers)
        if key is not None:
            check.key(key)
            keys = list(jax.random.split(key, len(self.layers)))
        states, x = [], jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        for layer, k in zip(self.layers, keys, strict=True):
            states.append(
                layer.init_state(x.shape[1:], key=k, train=train, dtype=dtype)
            )
            x = jax.eval_shape(
                lambda s, x, layer=layer: layer(s, x, train=train)[1], states[-1], x
            )
        return states

    def remember(self, state) -> None:
        """Keeps what outlives a batch in every layer."""
        for layer, s in zip(self.layers, state, strict=True):
            layer.remember(s)

    def __call__(self, state, x, *, train=False):
        """Runs all layers over all steps."""
        advice.signal(x)
        if not isinstance(state, list | tuple) or len(state) != len(self.layers):
            raise TypeError(
                f"`state` must hold one state for each of {len(self.layers)} layers: write `net(state, x)` with `state = net.init_state(x.shape[1:])` at first."
            )
        start = 0
        if isinstance(x, Constant):
            while start < len(self.layers) and self.layers[start].stateless:
                _, x = self.layers[start](state[start], x, train=train)
                start += 1
        rest = list(self.layers)[start:]
        if not rest:
            return state, x

        def block(states, x):
            new = []
            for layer, s in zip(rest, states, strict=True):
                s, x = layer(s, x, train=train)
                new.append(s)
            return new, x

        size = None if self.block_size is None else min(self.block_size, num_steps(x))
        new, y = unroll(
            block,
            state[start:],
            x,
            block_size=size,
            remat=self.remat,
            truncate=self.truncate,
        )
        return [*state[:start], *new], y


def split(model: Layer) -> tuple[Any, Model]:
    """The static part of a model and its arrays as plain dictionaries."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, Model(nnx.as_pure(params), nnx.as_pure(rest))


def merge(graphdef: Any, model: Model) -> Any:
    """The module that `split` took apart."""
    if not isinstance(model, Model):
        raise TypeError(
            f"`model` must be the second thing that `split` returns, got {type(model).__name__}: write `graphdef, model = split(net)`."
        )
    return nnx.merge(graphdef, model.params, model.rest)


def apply(
    graphdef: Any,
    model: Model,
    x: Signal,
    *,
    key: Array | None = None,
    train: bool = False,
) -> tuple[Array, Any]:
    """Runs a model from rest over `x` `[T, B, ...]` or a `Constant`; returns the output and the new `rest`.

    Membranes are as precise as `x`, and float32 at least.
    """
    advice.signal(x)
    module = merge(graphdef, model)
    shape = x.value.shape if isinstance(x, Constant) else x.shape[1:]
    dtype = wide_type(*jax.tree.leaves(x))
    state = module.init_state(shape, key=key, train=train, dtype=dtype)
    state, y = module(state, x, train=train)
    if not train:
        return y, model.rest
    module.remember(state)
    return y, nnx.as_pure(nnx.split(module, nnx.Param, ...)[2])


def network(build: Any) -> Network:
    """Layers as pure functions, to be trained: see `jsnn.classifier`.

    >>> net = network(lambda rngs: [jsnn.Dense(4, 8, rngs=rngs), jsnn.LIF(beta=0.9), jsnn.Dense(8, 3, rngs=rngs), jsnn.LI()])
    >>> model = net.init(jax.random.key(0))
    >>> net.apply(model, jnp.ones((5, 2, 4))).value.shape  # [T, B, I] to [T, B, C]
    (5, 2, 3)

    Args:
      build: `rngs -> layers`: a layer, or a list of layers and functions, see `Sequence`. Or a chain of `jsnn.eventprop`.

    Returns:
      A `Network`: `init(key)` draws a model, `apply(model, x)` runs it on `x` `[T, B, ...]` or a `Constant`.

    Raises:
      TypeError: if `build` is no function.
    """
    if isinstance(build, Network):
        return build
    if not callable(build) or isinstance(build, nnx.Module):
        raise TypeError(
            f"`build` must be a function `rngs -> layers`, got {type(build).__name__}: write `jsnn.network(lambda rngs: [jsnn.Dense(64, 10, rngs=rngs), jsnn.LI()])`."
        )

    def make(key: Array) -> Any:
        made = build(nnx.Rngs(key))
        return Sequence(*made) if isinstance(made, list | tuple) else made

    graphdef, _ = split(nnx.eval_shape(lambda: make(jax.random.key(0))))

    def run(model, x, *, key=None, train=False) -> Output:
        return Output(*apply(graphdef, model, x, key=key, train=train))

    return Network(lambda key: split(make(key))[1], run, graphdef=graphdef)
