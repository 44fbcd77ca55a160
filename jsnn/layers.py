r"""Flax NNX layers over the pure functions: the only room that knows Flax.

A layer holds parameters; what changes during a run (membranes, dropout masks, batch-norm statistics) is an explicit state
that enters and leaves every call, so it can be a scan carry:

    state, y = layer(state, x, train=...)

`x` and `y` are blocks `[K, B, ...]` of K time steps or a `Constant`. `Sequence` strings layers together and is one itself;
`split` and `apply` turn a model into a pure function of plain pytrees.

A layer computes in the precision of its input and hands that on; bytes and truth values count as float32. Parameters and batch
statistics stay in float32, membranes in the type that `init_state` is given, float32 by default. So a network fed with bfloat16 runs in
bfloat16 where it matters for speed, and nothing else need be said.

Weights and biases start as in PyTorch unless stated: uniform in $\pm 1/\sqrt{\text{fan-in}}$ (LeCun-uniform with a third of
the variance). `init="kaiming"` draws weights from a normal with variance $2/\text{fan-in}$ and sets biases to zero.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jsnn import advice, check, conv, neurons, norm
from jsnn.model import Model, Network, Output
from jsnn.precision import floating, like, wide_type
from jsnn.unroll import (
    Constant,
    Signal,
    neuron_block,
    num_steps,
    per_step,
    unroll,
)

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


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    edge = fan_in**-0.5
    return jax.random.uniform(key, shape, jnp.float32, minval=-edge, maxval=edge)


def _parameters(
    shape: tuple[int, ...], fan_in: int, bias: bool, init: Init, rngs: nnx.Rngs
) -> tuple[nnx.Param, nnx.Param | None]:
    check.choice("init", init, get_args(Init))
    check_rngs(rngs)
    if init == "pytorch":
        weight = _uniform(rngs.params(), shape, fan_in)
        offset = _uniform(rngs.params(), shape[-1:], fan_in)
    else:
        weight = jax.random.normal(rngs.params(), shape, jnp.float32)
        weight, offset = (
            weight * (2 / fan_in) ** 0.5,
            jnp.zeros(shape[-1:], jnp.float32),
        )
    return nnx.Param(weight), nnx.Param(offset) if bias else None


class Dense(Layer):
    """$y = xW + b$ on the last axis, `[B, I] -> [B, O]`; further axes of the input are flattened first."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        bias: bool = True,
        init: Init = "pytorch",
        rngs: nnx.Rngs,
    ):
        num_inputs = check.whole("num_inputs", num_inputs, 1)
        num_outputs = check.whole("num_outputs", num_outputs, 1)
        self.weight, self.bias = _parameters(
            (num_inputs, num_outputs), num_inputs, bias, init, rngs
        )

    def forward(self, x: Array) -> Array:
        """`[N, ...] -> [N, O]`."""
        x = x.reshape(x.shape[0], -1)
        weight = self.weight[...]
        if x.shape[1] != weight.shape[0]:
            raise ValueError(
                f"`num_inputs` of this Dense layer is {weight.shape[0]}, its input has {x.shape[1]} features. "
                "Inputs are [T, B, ...]: an image shown for T steps is `Constant(images, T)`, and batch-first data are turned by `x.swapaxes(0, 1)`."
            )
        y = conv.linear(x, weight)
        return y if self.bias is None else y + like(y, self.bias[...]).reshape(1, -1)


class Conv(Layer):
    """Two-dimensional convolution, `[B, H, W, I] -> [B, H', W', O]`: see `conv.conv2d`."""

    takes_maps = True

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: conv.Padding = "same",
        bias: bool = True,
        init: Init = "pytorch",
        rngs: nnx.Rngs,
    ):
        kernel_size = check.whole("kernel_size", kernel_size, 1)
        num_inputs = check.whole("num_inputs", num_inputs, 1)
        num_outputs = check.whole("num_outputs", num_outputs, 1)
        shape = (kernel_size, kernel_size, num_inputs, num_outputs)
        self.weight, self.bias = _parameters(
            shape, kernel_size**2 * num_inputs, bias, init, rngs
        )
        self.stride = check.whole("stride", stride, 1)
        self.padding: conv.Padding = conv.check_padding(padding)

    def forward(self, x: Array) -> Array:
        """`[N, H, W, I] -> [N, H', W', O]`."""
        y = conv.conv2d(x, self.weight[...], stride=self.stride, padding=self.padding)
        if self.bias is None:
            return y
        return y + like(y, self.bias[...]).reshape(1, 1, 1, -1)


class MaxPool(Layer):
    """Maximum over windows that do not overlap: see `conv.max_pool`."""

    takes_maps = True

    def __init__(self, size: int = 2):
        self.size = check.whole("size", size, 1)

    def forward(self, x: Array) -> Array:
        """`[N, H, W, C] -> [N, H', W', C]`."""
        return conv.max_pool(x, self.size)


class AvgPool(Layer):
    """Mean over windows that do not overlap: see `conv.avg_pool`."""

    takes_maps = True

    def __init__(self, size: int = 2):
        self.size = check.whole("size", size, 1)

    def forward(self, x: Array) -> Array:
        """`[N, H, W, C] -> [N, H', W', C]`."""
        return conv.avg_pool(x, self.size)


class BatchNormState(NamedTuple):
    """Running statistics, `[C]` each."""

    mean: Float[Array, "C"]
    var: Float[Array, "C"]


class BatchNorm(Layer):
    """Batch normalisation over all axes but the last, running statistics carried through time.

    In training, statistics are those of the mini-batch: of each time step by itself (`statistics="step"`), or of all steps of
    the block handed to the layer together (`"block"`; the whole run if the sequence is not cut). The running ones follow with
    `momentum`, once a step or a block, with the unbiased variance, as in PyTorch; evaluation uses them.
    """

    stateless = False

    def __init__(
        self,
        num_features: int,
        *,
        statistics: Literal["step", "block"] = "block",
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        initial_scale: float = 1.0,
    ):
        check.choice("statistics", statistics, ("step", "block"))
        num_features = check.whole("num_features", num_features, 1)
        check.number("momentum", momentum, "[0, 1]")
        check.number("epsilon", epsilon, "(0, inf)")
        check.number("initial_scale", initial_scale)
        self.scale = nnx.Param(jnp.full(num_features, initial_scale, jnp.float32))
        self.offset = nnx.Param(jnp.zeros(num_features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(num_features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(num_features, jnp.float32))
        self.statistics, self.momentum, self.epsilon = statistics, momentum, epsilon

    def init_state(
        self, shape, *, key=None, train=False, dtype=jnp.float32
    ) -> BatchNormState:
        """The running statistics kept so far, in their own type."""
        return BatchNormState(self.mean[...], self.var[...])

    def remember(self, state: BatchNormState) -> None:
        """Keeps the running statistics."""
        self.mean[...], self.var[...] = state.mean, state.var

    def _normalise(self, x: Array, mean: Array, var: Array) -> Array:
        gain = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (-1,)
        y = x * gain.reshape(shape) + (self.offset[...] - mean * gain).reshape(shape)
        return like(x, y)

    def _by_batch(self, x: Array) -> tuple[BatchNormState, Array]:
        """The batch's own mean and unbiased variance, and `x` normalised by mean and biased variance."""
        found: Any = norm.batch_norm(x, self.scale[...], self.offset[...], self.epsilon)
        y, mean, var = found
        count = x.size // x.shape[-1]
        return BatchNormState(mean, var * (count / max(count - 1, 1))), y

    def _follow(
        self, state: BatchNormState, batch: BatchNormState, steps: int = 1
    ) -> BatchNormState:
        """The running statistics after `steps` updates by the same batch."""
        keep = (1 - self.momentum) ** steps
        return jax.tree.map(
            lambda old, b: like(old, keep * old + (1 - keep) * b), state, batch
        )

    def __call__(self, state, x, *, train=False):
        """Normalises a block."""
        x = floating(x)
        if not train:
            return state, per_step(lambda x: self._normalise(x, *state), x)
        if isinstance(x, Constant):
            # Every step has the same statistics, so their K updates of the running ones are one.
            steps = x.num_steps if self.statistics == "step" else 1
            batch, y = self._by_batch(x.value)
            return self._follow(state, batch, steps), Constant(y, x.num_steps)
        if self.statistics == "block":
            batch, y = self._by_batch(x)
            return self._follow(state, batch), y
        batches, y = jax.vmap(self._by_batch)(x)
        state, _ = jax.lax.scan(lambda s, b: (self._follow(s, b), None), state, batches)
        return state, y


class Dropout(Layer):
    """Sets inputs to zero with probability `rate` in training and scales the rest by 1 / (1 - rate).

    One mask serves all time steps of a sample, so that a dropped connection stays dropped while the neuron integrates.
    """

    stateless = False

    def __init__(self, rate: float = 0.5):
        check.number("rate", rate, "[0, 1)")
        self.rate = rate

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """The mask `[B, ...]`; nothing outside training."""
        if not train or self.rate == 0:
            return ()
        if key is None:
            raise ValueError("`key` is needed to draw a dropout mask in training.")
        keep = jax.random.bernoulli(key, jnp.float32(1 - self.rate), shape)
        return keep.astype(dtype) / (1 - self.rate)

    def __call__(self, state, x, *, train=False):
        """Applies the mask at every step."""
        x = floating(x)
        if not train or self.rate == 0:
            return state, x
        if isinstance(x, Constant):
            return state, Constant(x.value * like(x.value, state), x.num_steps)
        return state, x * like(x, state)[None]


_DECAYS = ("alpha", "beta", "rho")


def _to_free(name: str, value: Array) -> Array:
    """What is trained in place of a neuron's parameter, so that no step can take that out of its range."""
    if name in _DECAYS:
        return jax.scipy.special.logit(value)
    # The inverse of softplus, without overflow.
    return value + jnp.log(-jnp.expm1(-value)) if name == "threshold" else value


def _from_free(name: str, free: Array) -> Array:
    """The inverse of `_to_free`; rounding never reaches the ends of the range."""
    limits = jnp.finfo(free.dtype)
    if name in _DECAYS:
        return jnp.clip(jax.nn.sigmoid(free), limits.tiny, 1 - limits.epsneg)
    if name == "threshold":
        return jnp.maximum(jax.nn.softplus(free), limits.tiny)
    return free


class Neurons(Layer):
    """A layer of neurons, one per input.

    Args:
      neuron: the model; its default parameters are this layer's.
      learn: names of parameters to train, or one name. Decays are trained through a sigmoid, so they stay in (0, 1), and the threshold through a
        softplus, so it stays positive.
      recurrent: number of neurons N, to give the layer recurrent weights `[N, N]` from its own spikes one step ago.
      rngs: needed for recurrent weights.
    """

    stateless = False

    def __init__(
        self,
        neuron: neurons.Neuron,
        *,
        learn: tuple[str, ...] | str = (),
        recurrent: int | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        advice.neuron(neuron)
        if recurrent is not None:
            remedy = "Write the layer's number of neurons."
            recurrent = check.whole("recurrent", recurrent, 1, remedy=remedy)
        learn = (learn,) if isinstance(learn, str) else tuple(learn)
        fields = neuron.params._asdict()
        if unknown := set(learn) - set(fields):
            raise ValueError(
                f"`learn` names {sorted(unknown)}, but this neuron's parameters are {sorted(fields)}."
            )
        self.neuron = nnx.static(neuron._replace(params=type(neuron.params)))
        self.learn = learn
        values = {name: jnp.asarray(v, jnp.float32) for name, v in fields.items()}
        for name in learn:
            interval = "(0, inf)" if name == "threshold" else "(-inf, inf)"
            interval = "(0, 1)" if name in _DECAYS else interval
            # As float32, which may round to 1 what was less.
            remedy = (
                f"`learn` names {name!r}: training starts strictly within its range."
            )
            check.number(name, values[name], interval, remedy=remedy)
            values[name] = _to_free(name, values[name])
        self.params = nnx.data(
            {n: (nnx.Param if n in learn else Fixed)(v) for n, v in values.items()}
        )
        weight = None
        if recurrent is not None:
            if rngs is None:
                raise ValueError("`rngs` is needed to draw recurrent weights.")
            weight = nnx.Param(
                _uniform(rngs.params(), (recurrent, recurrent), recurrent)
            )
        self.recurrent = weight

    def model(self) -> tuple[neurons.Neuron, Any]:
        """The pure neuron and the parameters it has now."""
        values = {
            n: _from_free(n, v[...]) if n in self.learn else v[...]
            for n, v in self.params.items()
        }
        params = self.neuron.params(**values)
        neuron = self.neuron._replace(params=params)
        if self.recurrent is not None:
            neuron = neurons.recurrent(neuron, self.recurrent[...])
            return neuron, neurons.RecurrentParams(params, self.recurrent[...])
        return neuron, params

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """Neurons at rest."""
        return self.model()[0].init(shape, dtype)

    def __call__(self, state, x, *, train=False):
        """Scans the neuron over the block."""
        neuron, params = self.model()
        advice.signal(x)
        at_rest = functools.partial(
            neuron.init, x.shape[1:] if not isinstance(x, Constant) else x.value.shape
        )
        advice.state(self, state, jax.eval_shape(at_rest), x)
        return neuron_block(neuron, params)(state, x)


class Stateless(Layer):
    """A plain function `[N, ...] -> [N, ...]`, or a Flax module without state, at every step: `jax.nn.relu`, `nnx.Linear(...)`, `nnx.Conv(...)`.

    >>> net = Sequence(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), jax.nn.relu, LIF())
    >>> apply(*split(net), jnp.ones((5, 2, 4)))[0].shape
    (5, 2, 8)

    Raises:
      TypeError: if a module has state (running statistics, random numbers): use `BatchNorm` and `Dropout` of this library, whose
        state is carried through time.
    """

    def __init__(self, function: Callable[..., Any]):
        if isinstance(function, nnx.Module):
            kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(function))}
            if other := sorted(
                k.__name__ for k in kinds if not issubclass(k, nnx.Param)
            ):
                raise TypeError(
                    f"`{type(function).__name__}` has state ({', '.join(other)}), which a network over time must carry: use `jsnn.BatchNorm` or `jsnn.Dropout`, or "
                    "write a subclass of `Layer` with `init_state`."
                )
        self.function = function

    def forward(self, x: Array) -> Array:
        """`[N, ...] -> [N, ...]`."""
        return self.function(x)


def _as_layer(value: Any) -> Any:
    """A function or a foreign module as a layer; anything else as it is."""
    if isinstance(value, Layer | type | neurons.Neuron) or value in advice.FACTORIES:
        return value
    return Stateless(value) if callable(value) else value


class Sequence(Layer):
    """Layers one after another, over all time steps.

    Layers that come before the first one with a state see a constant input once, not once a step. The rest is unrolled:

    Args:
      layers: what to run. A `Sequence` may be one of them and brings its own schedule, so a convolutional part can go step by step while
        the dense part goes layer by layer. So may a plain function or a Flax module without state, see `Stateless`.
      block_size: K, time steps handed to each layer at a time; all if None. See `unroll`.
      remat: store only the states between blocks.
      truncate: stop the gradient between blocks.
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

    >>> net = network(lambda rngs: [Dense(4, 8, rngs=rngs), LIF(beta=0.9), Dense(8, 3, rngs=rngs), LI()])
    >>> model = net.init(jax.random.key(0))
    >>> net.apply(model, jnp.ones((5, 2, 4))).value.shape  # [T, B, I] to [T, B, C]
    (5, 2, 3)

    Args:
      build: `rngs -> layers`: a layer, or a list of layers and functions, see `Sequence`. Or a chain of `jsnn.eventprop`.
    """
    if hasattr(build, "trainable"):
        return build.trainable()

    def make(key: Array) -> Any:
        made = build(nnx.Rngs(key))
        return Sequence(*made) if isinstance(made, list | tuple) else made

    graphdef, _ = split(nnx.eval_shape(lambda: make(jax.random.key(0))))

    def run(model, x, *, key=None, train=False) -> Output:
        return Output(*apply(graphdef, model, x, key=key, train=train))

    return Network(lambda key: split(make(key))[1], run)


def _neurons(factory: Callable[..., neurons.Neuron]) -> Callable[..., Neurons]:
    """The layer of a neuron whose parameters are named at once."""

    def layer(*, learn=(), recurrent=None, rngs=None, **parameters) -> Neurons:
        neuron = factory(**parameters)
        return Neurons(neuron, learn=learn, recurrent=recurrent, rngs=rngs)

    layer.__doc__ = (
        f"A layer of `neurons.{factory.__name__}`, which says what `parameters` there are; `learn`, `recurrent` and `rngs` are those "
        "of `Neurons`."
    )
    return layer


LIF = _neurons(neurons.lif)
IF = _neurons(neurons.integrate_and_fire)
CurrentLIF = _neurons(neurons.current_lif)
AdaptiveLIF = _neurons(neurons.adaptive_lif)
LI = _neurons(neurons.leaky_integrator)
