"""Layers of a grid network, and their chain: a `Network` as any other of this library.

>>> from jsnn.eventprop import chain, network
>>> net = chain(network.dense(64, 20), network.lif(dt=1.0), network.dense(20, 10), network.leaky(dt=1.0))
>>> model = net.init(jax.random.key(0))
>>> net.apply(model, jsnn.eventprop.TimedSpikes(jnp.ones((5, 2, 64)))).value.shape  # [T, B, C]
(5, 2, 10)

What is trained are `model.params`, the weights of each layer. What is given, the physics of each, is part of the layers. A model whose `rest`
is a list of physics, one a layer, runs with these instead: so `vmap` and `grad` see them.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jsnn import check
from jsnn.eventprop import euler, grid, latency, losses, spikes, synapse
from jsnn.eventprop.flow import LIFParams, LIParams, check_params
from jsnn.eventprop.grid_step import Reset, Slope
from jsnn.eventprop.regularise import RatePenalty
from jsnn.eventprop.spikes import OccupiedSpikes, TimedSpikes
from jsnn.kernels.conv import Padding
from jsnn.model import Model, Network, Output
from jsnn.unroll import unroll as over_blocks

_LIF, _LI = LIFParams(), LIParams()


class Layer(NamedTuple):
    """One layer, a synapse or neurons.

    Attributes:
      init: `key -> weights`, `()` if it has none.
      physics: of neurons, `()` if it has none.
      apply: `(weights, physics, state, x) -> (state, y)`; a state of None is rest.
    """

    init: Callable[[Array], Any]
    physics: Any
    apply: Callable[[Any, Any, Any, Any], tuple[Any, Any]]


class Physics(NamedTuple):
    """Of a layer of neurons: its parameters, and a heuristic push of its rates."""

    params: LIFParams = LIFParams()
    penalty: RatePenalty | None = None


def chain(
    *layers: Layer, block_size: int | None = None, remat: bool = False
) -> Network:
    """Layers one after another, as a network for `jsnn.classifier`.

    Its input are spikes, or what the first layer takes; its `Output.spikes` those of every spiking layer.

    Args:
      *layers: of this module, or one's own.
      block_size: time steps handed to each layer at a time, all if None; see `jsnn.unroll`.
      remat: keep only the states between blocks and run each block again in the backward pass. The gradient stays exact.

    Raises:
      ValueError: if there is no layer.
    """
    if not layers:
        raise ValueError("`layers` is empty: a network needs at least one.")

    def init(key: Array) -> Model:
        keys = jax.random.split(key, len(layers))
        # No physics in it: as constants of the program they round alike in every program.
        weights = [layer.init(k) for layer, k in zip(layers, keys, strict=True)]
        return Model(weights, ())

    def apply(
        model: Model, x: Any, *, key: Array | None = None, train: bool = False
    ) -> Output:
        def run(states: Any, x: Any) -> tuple[Any, Any]:
            new, fired = [], []
            physics = model.rest or [layer.physics for layer in layers]
            for layer, w, p, s in zip(
                layers, model.params, physics, states, strict=True
            ):
                s, y = layer.apply(w, p, s, x)
                # A layer of neurons turns a drive into spikes; no other layer does.
                if isinstance(y, TimedSpikes) and not isinstance(x, TimedSpikes):
                    fired.append(y)
                new.append(s)
                x = y
            return new, (x, tuple(fired))

        def block(states: Any, z: Array) -> tuple[Any, Any]:
            return run(states, TimedSpikes(z))

        at_rest = [None] * len(layers)
        if block_size is None:
            _, (value, fired) = run(at_rest, x)
        else:
            z = (latency.spread(x) if isinstance(x, OccupiedSpikes) else x).values
            like = jax.eval_shape(lambda z: block(at_rest, z[:1])[0], z)
            zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
            y: Any = over_blocks(block, zeros, z, block_size=block_size, remat=remat)[1]
            value, fired = y
        return Output(value, model.rest, fired)

    return Network(init, apply)


def _stateless(fn: Callable[[Any, Any], Any], init=lambda key: ()) -> Layer:
    return Layer(init, (), lambda w, p, s, x: ((), fn(w, x)))


def _sizes(**sizes: int) -> tuple[int, ...]:
    """Whole numbers from 1 on."""
    return tuple(check.whole(name, size, 1) for name, size in sizes.items())


def _normal(
    shape: tuple[int, ...],
    mean: float | None,
    std: float | None,
    spread: float = 10.0,
):
    """Draws weights of which the last axis is that of the outputs; see `dense` for the defaults."""
    num_inputs = math.prod(shape[:-1])
    around = (12 + 216 / num_inputs) / num_inputs if mean is None else mean
    width = spread / num_inputs**0.5 if std is None else std
    check.number("mean", around)
    check.number("std", width, "[0, inf)")
    return lambda key: around + width * jax.random.normal(key, shape)


def dense(
    num_inputs: int,
    num_outputs: int,
    *,
    mean: float | None = None,
    std: float | None = None,
) -> Layer:
    r"""All to all. Weights are drawn from a normal distribution, whose mean must be positive enough for neurons to fire: a silent one has no gradient.

    By default its mean is $12 / I + 216 / I^2$ and its deviation $10 / \sqrt I$, for I inputs of a neuron, whatever kind of layer it is: with
    the default time constants, spikes at the same time reach threshold if their weights add up to 6.3. The second term is for small kernels, of
    whose few inputs an image may leave most silent. Digits and random spikes then wake nearly all neurons of each layer of a deep network,
    and few spike at every step.

    Raises:
      ValueError: if a size is less than 1, or a number out of range.
    """
    num_inputs, num_outputs = _sizes(num_inputs=num_inputs, num_outputs=num_outputs)
    init = _normal((num_inputs, num_outputs), mean, std)
    return _stateless(lambda w, x: synapse.synapse(synapse.dense, w, x), init)


def delayed_dense(
    num_inputs: int,
    num_outputs: int,
    *,
    mean: float | None = None,
    std: float | None = None,
    dt: float,
    max_steps: int,
    longest: float = 0.0,
) -> Layer:
    """All to all with a delay to learn for each weight, drawn uniformly from 0 to `longest`. Weights: `{"weight", "delay"}`, drawn as those of `dense`."""
    shape = _sizes(num_inputs=num_inputs, num_outputs=num_outputs)
    dt, max_steps = synapse.check_delays(dt, max_steps)
    check.number("longest", longest, "[0, inf)")

    def init(key: Array) -> dict[str, Array]:
        k_weight, k_delay = jax.random.split(key)
        return {
            "weight": _normal(shape, mean, std)(k_weight),
            "delay": jax.random.uniform(k_delay, shape, maxval=longest),
        }

    def apply(w: dict[str, Array], x: TimedSpikes):
        return synapse.delayed_dense(
            x, w["weight"], w["delay"], dt=dt, max_steps=max_steps
        )

    return _stateless(apply, init)


def conv(
    num_inputs: int,
    num_outputs: int,
    size: int,
    *,
    mean: float | None = None,
    std: float | None = None,
    stride: int = 1,
    padding: Padding = "valid",
) -> Layer:
    """Convolution, spikes `[T, B, H, W, C]`; see `jsnn.kernels.conv`. Weights are drawn as those of `dense`, with I = size² · C inputs."""
    linear = synapse.conv(stride=stride, padding=padding)
    shape = _sizes(size=size, num_inputs=num_inputs, num_outputs=num_outputs)
    init = _normal((shape[0], *shape), mean, std)
    return _stateless(lambda w, x: synapse.synapse(linear, w, x), init)


def avg_pool(size: int) -> Layer:
    """Mean over windows of the spikes of each step."""
    pool = synapse.avg_pool(size)
    return _stateless(lambda _, x: synapse.relay(pool, x))


def flatten() -> Layer:
    """`[T, B, H, W, C]` to `[T, B, H·W·C]`."""
    return _stateless(
        lambda _, x: synapse.relay(lambda z: z.reshape(z.shape[0], -1), x)
    )


def split(*, dt: float) -> Layer:
    """Shares each spike of the `lif` below out to the two grid points around its crossing: second order in dt, see `spikes.split`.

    A part of a spike arrives one step before it is found, so all steps must be there at once.
    """

    def apply(_: Any, __: Any, state: Any, z: TimedSpikes) -> tuple[Any, TimedSpikes]:
        if state is not None:
            raise ValueError(
                "`split` needs all time steps at once: a spike in the first step of a block belongs in part to the block before. Leave it out of a `chain` with a `block_size`."
            )
        return (), spikes.split(z, dt=dt)

    return Layer(lambda key: (), (), apply)


def lif(
    *,
    dt: float,
    params: LIFParams = _LIF,
    penalty: RatePenalty | None = None,
    slope: Slope = "substep",
    reset: Reset = "subtract",
    min_slope: float = 1e-2,
    unroll: int = 1,
) -> Layer:
    """Spiking neurons, see `grid.lif`."""
    options = {"slope": slope, "reset": reset, "min_slope": min_slope}
    return _neurons(lambda key: (), params, penalty, dt=dt, unroll=unroll, **options)


def recurrent(
    num_neurons: int,
    *,
    mean: float = 0.0,
    std: float | None = None,
    dt: float,
    delay_steps: int = 1,
    params: LIFParams = _LIF,
    penalty: RatePenalty | None = None,
    slope: Slope = "substep",
    reset: Reset = "subtract",
    min_slope: float = 1e-2,
    unroll: int = 1,
) -> Layer:
    """Spiking neurons that hear each other `delay_steps` later, see `grid.lif`. By default their weights are weak, with a deviation of 0.25 / sqrt(N)."""
    (num_neurons,) = _sizes(num_neurons=num_neurons)
    init = _normal((num_neurons, num_neurons), mean, std, spread=0.25)
    options = {"slope": slope, "reset": reset, "min_slope": min_slope}
    options |= {"delay_steps": delay_steps, "unroll": unroll}
    return _neurons(init, params, penalty, dt=dt, **options)


def _neurons(init: Any, params: LIFParams, penalty: Any, **options: Any) -> Layer:
    check_params(params)
    grid.check_options(**options)

    def apply(weights: Any, physics: Physics, state: Any, drive: Any):
        weights = None if isinstance(weights, tuple) else weights
        params, penalty = physics
        return grid.lif(
            params, state, drive, weights=weights, penalty=penalty, **options
        )

    return Layer(init, Physics(params, penalty), apply)


def leaky(*, dt: float, params: LIParams = _LI, unroll: int = 1) -> Layer:
    """Leaky integrators as read-out: the network's value is their membrane, `[T, B, C]`."""
    check_params(params)
    grid.check_options(dt=dt, unroll=unroll)

    def apply(_: Any, params: LIParams, state: Any, drive: Any):
        return grid.leaky_integrator(params, state, drive, dt=dt, unroll=unroll)

    return Layer(lambda key: (), params, apply)


def reference_lif(
    *, dt: float, params: LIFParams = _LIF, omit_tau_syn: bool = True
) -> Layer:
    """Spiking neurons of the one-layer reference, see `euler.euler_lif`; whole sequences only."""
    check_params(params)

    def apply(_: Any, params: LIFParams, state: Any, drive: Any):
        return (), euler.euler_lif(params, drive, dt=dt, omit_tau_syn=omit_tau_syn)

    return Layer(lambda key: (), params, apply)


def dense_network(*sizes: int, dt: float = 1.0, T: float = 25.0) -> Network:
    """Dense layers of LIF neurons, to be trained by EventProp: inputs as a latency code, leaky integrators as read-out, the largest voltage wins.

    >>> task = jsnn.classifier(jsnn.eventprop.dense_network(64, 100, 10))
    >>> model = task.init(jax.random.key(0))
    >>> [weights.shape for weights in jax.tree.leaves(model.params)]
    [(64, 100), (100, 10)]

    For other layers, codes and losses, write a `chain` and name `encode`, `loss` and `read_out` in `jsnn.classifier`.

    Args:
      *sizes: number of input features, of neurons in each spiking layer, and of classes.
      dt: step of the time grid, in ms.
      T: length of a trial, in ms. Inputs spike in its first four fifths.

    Returns:
      A network for `jsnn.classifier`. Its inputs are bytes, or numbers in [0, 1].

    Raises:
      ValueError: if there are fewer than two sizes, or a number is out of range.
    """
    check.static("dt", dt, "(0, inf)")
    check.static("T", T, "(0, inf)")
    if len(sizes) < 2:
        raise ValueError(
            f"`sizes` must name inputs and classes at least, got {sizes}: write `dense_network(64, 100, 10)`."
        )
    layers = []
    for num_inputs, num_outputs in itertools.pairwise(sizes):
        layers += [dense(num_inputs, num_outputs), lif(dt=dt)]
    layers[-1] = leaky(dt=dt)
    usual = {
        "encode": latency.encoder(t_max=0.8 * T, T=T, dt=dt),
        "loss": losses.ce_max_voltage,
        "read_out": losses.max_voltage,
    }
    return chain(*layers)._replace(usual=usual)
