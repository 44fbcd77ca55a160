"""What a trained network costs to ask: synaptic operations of one sample, for the scripts whose networks are in `jsnn.zoo`.

A spike costs one addition at each neuron that it reaches. An analogue input, such as a pixel's value, costs one multiply-accumulate there.
Biases, batch norm and updates of membranes are not counted. A front end that is no layer of the network, such as the filters of an STDP
network or the bands of sound, is not counted either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jsnn import activity, layers
from jsnn.eventprop.spikes import OccupiedSpikes, TimedSpikes
from jsnn.stdp import forward, waves
from jsnn.train import rebuild

from . import common, event_networks, eventprop_points


class Count(NamedTuple):
    """Sums over all layers, a number a sample."""

    synaptic: Array
    multiply_accumulates: Array


def _of_layers(graphdef: Any, model: Any, x: Any) -> Count:
    found = activity.synaptic_operations(graphdef, model, x)
    zero = jnp.zeros(())
    return Count(
        sum((o.accumulates for o in found), zero), sum((o.macs for o in found), zero)
    )


def _csnn(made: rebuild.Made, model: Any, x: Array) -> Count:
    graphdef = made.script.make_network(made.config, made.shapes).graphdef
    return _of_layers(graphdef, model, made.script.encoder(made.config)(x))


def _cil(made: rebuild.Made, model: Any, x: Array) -> Count:
    """The growing head is part of the network: its columns of classes not yet seen are not."""
    cfg = made.config
    build = made.script.make_build(cfg, common.one_step(cfg, made.shapes))
    module = nnx.eval_shape(lambda: build(jax.random.key(0), 1))
    graphdef = layers.split(module)[0]
    return _of_layers(graphdef, model.model, made.script.encoder(cfg)(x, None))


def _sound(made: rebuild.Made, model: Any, x: Array) -> Count:
    graphdef = made.script.make_network(made.config, made.shapes).graphdef
    return _of_layers(graphdef, model, made.script.encoder(made.config, made.shapes)(x))


def _events(made: rebuild.Made, model: Any, x: Array) -> Count:
    graphdef = event_networks.make_network(made.config, made.shapes).graphdef
    encode = event_networks.encoder(made.config, made.shapes)
    return _of_layers(graphdef, model, encode(x))


def _grid(made: rebuild.Made, model: Any, x: Array) -> Count:
    """EventProp: with weights of one, what arrives at the neurons is the number of additions."""
    design = made.script.make_design(made.config, made.shapes)
    z, total = design.encode(x, None), jnp.zeros(len(x))
    for one, weights in zip(design.layers, model.params, strict=True):
        if isinstance(z, TimedSpikes | OccupiedSpikes) and hasattr(weights, "shape"):
            arrived = one.apply(jnp.ones_like(weights), one.physics, None, z)[1].mass
            total += arrived.sum((0, *range(2, arrived.ndim)))
        z = one.apply(weights, one.physics, None, z)[1]
    return Count(total, jnp.zeros(len(x)))


def _points(made: rebuild.Made, model: Any, x: Array) -> Count:
    """Five inputs spike once, then the hidden neurons."""
    cfg, params = made.config, eventprop_points.weights(model)
    seen = eventprop_points.look(cfg, params, x, jnp.zeros(len(x), jnp.int32))
    spikes: Any = seen["hidden"].spikes
    hidden = (spikes > 0).sum((0, 2), dtype=jnp.float32)
    inputs, outputs = eventprop_points.NUM_INPUTS, eventprop_points.NUM_CLASSES
    return Count(inputs * cfg.hidden + outputs * hidden, jnp.zeros(len(x)))


def _windows(spec: Any, active: Array) -> Array:
    """Additions of a layer of STDP, whose windows step by one: `active` `[N, C, H, W]`."""
    ones = jnp.ones((1, active.shape[1], spec.kernel, spec.kernel))
    pad = [(spec.pad, spec.pad)] * 2
    x = active.astype(jnp.float32)
    found = jax.lax.conv_general_dilated(x, ones, (1, 1), pad)
    return spec.features * found.sum((1, 2, 3))


def _waves(made: rebuild.Made, model: Any, x: Array) -> Count:
    """STDP: neurons spike at most once."""
    network = made.config.network()
    weights = model if network.decision else model.layers
    steps = network.frontend().num_steps
    if made.config.data == "digits":
        x = made.script.enlarge(x)
    times, total = forward.encoded(network, x), jnp.zeros(len(x))
    for number, block in enumerate(network.blocks):
        fired = waves.fired(times, steps)
        total += sum(_windows(spec, fired) for spec in block.branches)
        times = forward.responses(network, number, weights[number], times)
    if network.decision:
        total += sum(_windows(spec, times) for spec in network.decision)
    else:
        total += times.sum((1, 2, 3)) * model.readout.bias.size
    return Count(total, jnp.zeros(len(x)))


_COUNTS: dict[str, Callable[[rebuild.Made, Any, Array], Count]] = {
    "csnn_mnist": _csnn,
    "cil_cifar10": _cil,
    "sound": _sound,
    "events": _events,
    "eventprop_mnist": _grid,
    "eventprop_yinyang": _points,
    "stdp_mnist": _waves,
}


def count(made: rebuild.Made, model: Any, inputs: Any) -> dict[str, float]:
    """Operations of one sample, the mean over `inputs`.

    Args:
      made: how the model was trained.
      model: its arrays.
      inputs: samples `[N, ...]`, a batch.

    Raises:
      ValueError: if they cannot be counted for this kind of network.
    """
    cfg = made.config
    recurrent = getattr(cfg, "recipe", "") in ("recurrent", "reference")
    hard = made.name == "eventprop_mnist" and recurrent
    hard |= made.name == "eventprop_yinyang" and (cfg.solver != "grid" or cfg.delays)
    hard |= getattr(cfg, "exact", False)
    if hard or made.name not in _COUNTS:
        raise ValueError(
            f"Operations of this `{made.name}` network cannot be counted: choose another recipe or solver."
        )
    found = jax.jit(lambda m, x: _COUNTS[made.name](made, m, x))(model, jnp.asarray(inputs))  # fmt: skip
    return {k: float(v.mean()) for k, v in found._asdict().items()}
