"""Networks of grid layers, declared as a list.

    net = chain(dense(784, 350, mean=0.078, std=0.045), lif(dt=1.0), dense(350, 10, mean=0.2, std=0.37), leaky(dt=1.0))
    weights = net.init(key)
    voltage = net.apply(weights, net.physics, None, spikes).value

What is trained (`weights`) and what is given (`physics`) are separate arguments, both visible to `vmap` and `grad`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn import check
from jsnn import model as models
from jsnn.eventprop import (
    delay,
    euler,
    grid,
    grid_readout,
    grid_recurrent,
    spikes,
    synapse,
)
from jsnn.eventprop.flow import LIFParams, LIParams
from jsnn.eventprop.grid import Reset, Slope
from jsnn.eventprop.regularise import RatePenalty
from jsnn.eventprop.spikes import TimedSpikes, counts
from jsnn.kernels.conv import Padding

_LIF, _LI = LIFParams(), LIParams()


class Layer(NamedTuple):
    """One layer, a synapse or neurons.

    Attributes:
      init: `key -> weights`, `()` if it has none.
      physics: default physics, `()` if it has none.
      apply: `(weights, physics, state, x) -> (state, y)`; a state of None is rest.
    """

    init: Callable[[Array], Any]
    physics: Any
    apply: Callable[[Any, Any, Any, Any], tuple[Any, Any]]


class Physics(NamedTuple):
    """Of a layer of neurons: its parameters, and a heuristic push of its rates."""

    params: LIFParams = LIFParams()
    penalty: RatePenalty | None = None


class Output(NamedTuple):
    """`state` after the last step; `value` of the last layer; `spikes` of every spiking layer, in order."""

    state: list[Any]
    value: Any
    spikes: tuple[TimedSpikes, ...]


class Network(NamedTuple):
    """Layers in a row: `init(key) -> weights`, default `physics`, `apply(weights, physics, state, x) -> Output`."""

    init: Callable[[Array], list[Any]]
    physics: list[Any]
    apply: Callable[[Any, Any, Any, Any], Output]

    def trainable(self) -> models.Network:
        """The same from rest and with its own physics, as `jsnn.classifier` takes it: `params` are the weights, nothing else is carried along."""

        def apply(model, x, *, key=None, train=False) -> models.Output:
            out = self.apply(model.params, self.physics, None, x)
            return models.Output(out.value, model.rest, out.spikes)

        return models.Network(lambda key: models.Model(self.init(key), ()), apply)


def chain(*layers: Layer) -> Network:
    """Layers one after another, over whatever block of time steps the input holds."""
    if not layers:
        raise ValueError("`layers` is empty: a network needs at least one.")

    def init(key: Array) -> list[Any]:
        keys = jax.random.split(key, len(layers))
        return [layer.init(k) for layer, k in zip(layers, keys, strict=True)]

    def apply(weights: Any, physics: Any, state: Any, x: Any) -> Output:
        states = [None] * len(layers) if state is None else state
        new, fired = [], []
        for layer, w, p, s in zip(layers, weights, physics, states, strict=True):
            s, y = layer.apply(w, p, s, x)
            # A layer of neurons turns a drive into spikes; no other layer does.
            if isinstance(y, TimedSpikes) and not isinstance(x, TimedSpikes):
                fired.append(y)
            new.append(s)
            x = y
        return Output(new, x, tuple(fired))

    return Network(init, [layer.physics for layer in layers], apply)


def in_blocks(
    network: Network,
    weights: Any,
    physics: Any,
    x: TimedSpikes,
    *,
    block_size: int,
    remat: bool = False,
) -> tuple[Any, tuple[Float[Array, "B *N"], ...]]:
    """Runs the whole network over `block_size` steps at a time, its state carried on.

    Args:
      network: from `chain`.
      weights: of the network.
      physics: of the network.
      x: `[T, B, *I]`.
      block_size: K, a divisor of T.
      remat: keep only the states between blocks and run each block again in the backward pass: memory goes as T/K + K, the gradient
        stays exact.

    Returns:
      The last layer's value over all steps, and the spike counts of every spiking layer.

    Raises:
      ValueError: if `block_size` does not divide T.
    """
    total = x.values.shape[0]
    block_size = check.whole("block_size", block_size, 1)
    if total % block_size:
        raise ValueError(
            f"`block_size` must divide the number of time steps, {total}; got {block_size}."
        )

    def body(leaves: Any, z: Array) -> tuple[Any, Any]:
        state = None if leaves is None else jax.tree.unflatten(structure, leaves)
        out = network.apply(weights, physics, state, TimedSpikes(z))
        return jax.tree.leaves(out.state), (
            out.value,
            tuple(counts(s) for s in out.spikes),
        )

    z = x.values.reshape(-1, block_size, *x.values.shape[1:])
    structure, rest = _rest(network, weights, physics, z[0])
    body = jax.checkpoint(body, prevent_cse=False) if remat else body
    _, (value, number) = jax.lax.scan(body, rest, z)
    value = jax.tree.map(lambda a: a.reshape(total, *a.shape[2:]), value)
    return value, tuple(n.sum(0) for n in number)


def _rest(network: Network, weights: Any, physics: Any, z: Array) -> tuple[Any, Any]:
    """The structure of a network's state and its leaves at rest, which are zero."""
    structure = None

    def leaves(z: Array) -> list[Array]:
        nonlocal structure
        state = network.apply(weights, physics, None, TimedSpikes(z)).state
        found, structure = jax.tree.flatten(state)
        return found

    like = jax.eval_shape(leaves, z)
    return structure, [jnp.zeros(a.shape, a.dtype) for a in like]


def _stateless(fn: Callable[[Any, Any], Any], init=lambda key: ()) -> Layer:
    return Layer(init, (), lambda w, p, s, x: ((), fn(w, x)))


def _normal(shape: tuple[int, ...], mean: float, std: float):
    shape = tuple(check.whole("size of a layer", n, 1) for n in shape)
    check.number("mean", mean)
    check.number("std", std, "[0, inf)")
    return lambda key: mean + std * jax.random.normal(key, shape)


def dense(
    num_inputs: int,
    num_outputs: int,
    *,
    mean: float | None = None,
    std: float | None = None,
) -> Layer:
    r"""All to all. Weights are drawn from a normal distribution, whose mean must be positive enough for neurons to fire: a silent one has no gradient.

    By default its mean is $61 / I$ and its deviation $3 / \sqrt I$ for I inputs: the drive of Wunderlich and Pehle's network (2021), whatever its
    size, and more spread than there, so that few inputs find different neurons.
    """
    init = _normal(
        (num_inputs, num_outputs),
        61 / num_inputs if mean is None else mean,
        3 / num_inputs**0.5 if std is None else std,
    )
    return _stateless(lambda w, x: synapse.synapse(synapse.dense, w, x), init)


def delayed_dense(
    num_inputs: int,
    num_outputs: int,
    *,
    mean: float,
    std: float,
    dt: float,
    max_steps: int,
    longest: float = 0.0,
) -> Layer:
    """All to all with a delay to learn for each weight, drawn uniformly from 0 to `longest`. Weights: `{"weight", "delay"}`."""
    shape = (num_inputs, num_outputs)
    check.number("longest", longest, "[0, inf)")

    def init(key: Array) -> dict[str, Array]:
        k_weight, k_delay = jax.random.split(key)
        return {
            "weight": _normal(shape, mean, std)(k_weight),
            "delay": jax.random.uniform(k_delay, shape, maxval=longest),
        }

    def apply(w: dict[str, Array], x: TimedSpikes):
        return delay.dense(x, w["weight"], w["delay"], dt=dt, max_steps=max_steps)

    return _stateless(apply, init)


def conv(
    num_inputs: int,
    num_outputs: int,
    size: int,
    *,
    mean: float,
    std: float,
    stride: int = 1,
    padding: Padding = "valid",
) -> Layer:
    """Convolution, spikes `[T, B, H, W, C]`; see `jsnn.kernels.conv`."""
    linear = synapse.conv(stride=stride, padding=padding)
    init = _normal((size, size, num_inputs, num_outputs), mean, std)
    return _stateless(lambda w, x: synapse.synapse(linear, w, x), init)


def avg_pool(size: int) -> Layer:
    """Mean over windows of the spikes of each step."""
    return _stateless(lambda _, x: synapse.relay(synapse.avg_pool(size), x))


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
                "`split` needs all time steps at once: a spike in the first step of a block belongs in part to the block before. Leave it out of networks that run `in_blocks` or go on from a `state`."
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

    def apply(_: Any, physics: Physics, state: Any, drive: Any):
        return grid.lif(
            physics.params,
            state,
            drive,
            dt=dt,
            penalty=physics.penalty,
            slope=slope,
            reset=reset,
            min_slope=min_slope,
            unroll=unroll,
        )

    return Layer(lambda key: (), Physics(params, penalty), apply)


def recurrent(
    num_neurons: int,
    *,
    mean: float,
    std: float,
    dt: float,
    delay_steps: int = 1,
    params: LIFParams = _LIF,
    penalty: RatePenalty | None = None,
    slope: Slope = "substep",
    reset: Reset = "subtract",
    min_slope: float = 1e-2,
    unroll: int = 1,
) -> Layer:
    """Spiking neurons that hear each other `delay_steps` later, see `grid_recurrent.recurrent_lif`."""

    def apply(weights: Array, physics: Physics, state: Any, drive: Any):
        return grid_recurrent.recurrent_lif(
            physics.params,
            weights,
            state,
            drive,
            dt=dt,
            delay_steps=delay_steps,
            penalty=physics.penalty,
            slope=slope,
            reset=reset,
            min_slope=min_slope,
            unroll=unroll,
        )

    init = _normal((num_neurons, num_neurons), mean, std)
    return Layer(init, Physics(params, penalty), apply)


def leaky(*, dt: float, params: LIParams = _LI, unroll: int = 1) -> Layer:
    """Leaky integrators as read-out: the network's value is their membrane, `[T, B, C]`."""

    def apply(_: Any, params: LIParams, state: Any, drive: Any):
        return grid_readout.leaky_integrator(params, state, drive, dt=dt, unroll=unroll)

    return Layer(lambda key: (), params, apply)


def reference_lif(
    *, dt: float, params: LIFParams = _LIF, omit_tau_syn: bool = True
) -> Layer:
    """Spiking neurons of the one-layer reference, see `euler.euler_lif`; whole sequences only."""

    def apply(_: Any, params: LIFParams, state: Any, drive: Any):
        return (), euler.euler_lif(params, drive, dt=dt, omit_tau_syn=omit_tau_syn)

    return Layer(lambda key: (), params, apply)
