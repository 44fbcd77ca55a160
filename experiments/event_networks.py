"""The networks of `experiments.events`: what is made of recordings, and what learns from it.

Axes: B batch, L events of the longest recording, T time, H, W rows and columns of the sensor. Times of EventProp are in milliseconds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import jsnn
from jsnn import layers, losses, neurons, readout, surrogate
from jsnn.data import event_changes, events
from jsnn.eventprop import losses as eventprop_losses
from jsnn.eventprop import network as chains
from jsnn.eventprop.flow import LIFParams, LIParams
from jsnn.eventprop.spikes import TimedSpikes
from jsnn.model import Network
from jsnn.train import task as tasks
from jsnn.train.rebuild import Shapes

from . import common

if TYPE_CHECKING:
    from .events import Config

Values = Mapping[str, Any]
_VOLTAGES = {"max": eventprop_losses.max_voltage, "mean": eventprop_losses.mean_voltage}


def sensor_of(shapes: Shapes) -> tuple[int, int]:
    """Rows and columns of the sensor."""
    assert shapes.sensor is not None, "recordings have a sensor"
    return shapes.sensor


def grid(cfg: "Config", shapes: Shapes) -> tuple[int, int, int]:
    """Rows, columns and polarities of a step."""
    rows, columns = (-(-side // cfg.downsample) for side in sensor_of(shapes))
    return rows, columns, 2


def counts(cfg: "Config", shapes: Shapes) -> Callable[..., Array]:
    """An encoder: events of each step, cell and polarity, `[T, B, H, W, 2]`, at most `--most` of them."""

    def encode(inputs: Any, key: Array | None = None) -> Array:
        batch = inputs
        if not isinstance(inputs, events.Batch):
            batch = events.unpack(inputs, sensor_of(shapes))
        dt_us = None if cfg.by_count else 1000 * cfg.step
        found = events.frames(batch, cfg.timesteps, dt_us, downsample=cfg.downsample)
        return jnp.minimum(found, cfg.most)

    return encode


def changes(cfg: "Config", shapes: Shapes) -> Callable[[Array, Array], Any] | None:
    """Random changes of training recordings."""
    if not (cfg.turn or cfg.resize or cfg.shift or cfg.drop):
        return None

    def change(key: Array, inputs: Array) -> events.Batch:
        keys = jax.random.split(key, 3)
        batch = events.unpack(inputs, sensor_of(shapes))
        batch = event_changes.affine(
            keys[0], batch, degrees=cfg.turn, scale=cfg.resize, shear=cfg.turn / 80
        )
        if cfg.shift:
            batch = event_changes.shift(keys[1], batch, cfg.shift)
        return event_changes.drop(keys[2], batch, cfg.drop) if cfg.drop else batch

    return change


def _surrogate(cfg: "Config", shapes: Shapes, values: Values) -> Network:
    """Layers of LIF neurons, a current as read-out."""
    beta, threshold = common.numbers(cfg, values, "beta", "threshold")
    neuron = neurons.lif(
        beta=beta,
        threshold=threshold,
        reset="zero",
        spike_fn=surrogate.get("arctan", None),
    )
    size, classes = grid(cfg, shapes), shapes.num_classes
    inputs = size[0] * size[1] * size[2]

    def spiking(recurrent: int | None = None, rngs: Any = None) -> Any:
        return layers.Neurons(neuron, recurrent=recurrent, rngs=rngs)

    def dense(rngs):
        recurrent = cfg.hidden[0] if cfg.recipe == "recurrent" else None
        found, before = [], inputs
        for width in cfg.hidden:
            found += [
                jsnn.Dense(before, width, init="kaiming", rngs=rngs),
                jsnn.BatchNorm(width),
                spiking(recurrent and width, rngs),
                jsnn.Dropout(cfg.dropout),
            ]
            before = width
        return [*found, jsnn.Dense(before, classes, rngs=rngs)]

    def conv(rngs):
        make = functools.partial(jsnn.Conv, bias=False, init="kaiming", rngs=rngs)
        first, second, third = cfg.hidden
        pixels = (size[0] // 8) * (size[1] // 8)
        return [
            make(size[2], first, 5),
            jsnn.MaxPool(),
            jsnn.BatchNorm(first),
            spiking(),
            make(first, second, 3),
            jsnn.MaxPool(),
            jsnn.BatchNorm(second),
            spiking(),
            make(second, third, 3),
            jsnn.BatchNorm(third),
            spiking(),
            jsnn.AvgPool(),
            jsnn.Dropout(cfg.dropout),
            jsnn.Dense(pixels * third, classes, rngs=rngs),
        ]

    return layers.network(conv if cfg.recipe == "conv" else dense)


def _eventprop(cfg: "Config", shapes: Shapes, values: Values) -> Network:
    """Layers of LIF neurons on a time grid, leaky integrators as read-out."""
    tau_m, tau_s = common.numbers(cfg, values, "tau_m", "tau_s")
    dt, classes = cfg.step, shapes.num_classes
    size = grid(cfg, shapes)
    lif = functools.partial(
        chains.lif,
        dt=dt,
        params=LIFParams(tau_m, tau_s),
        min_slope=cfg.min_slope or 1.0,
    )
    found: list[Any] = []
    if cfg.recipe == "eventprop_conv":
        first, second = cfg.hidden[:2]
        rows, columns = (((n - 5) // 2 + 1 - 3) // 2 + 1 for n in size[:2])
        found += [
            chains.conv(size[2], first, 5, stride=2),
            lif(),
            chains.conv(first, second, 3, stride=2),
            lif(),
            chains.flatten(),
        ]
        before = rows * columns * second
    else:
        before, found = size[0] * size[1] * size[2], [chains.flatten()]
        for width in cfg.hidden:
            found += [chains.dense(before, width), lif()]
            before = width
    top = chains.leaky(dt=dt, params=LIParams(tau_m, tau_s))
    return chains.chain(*found, chains.dense(before, classes), top)


def make_network(
    cfg: "Config", shapes: Shapes, values: Mapping[str, Any] = {}
) -> Network:
    """The recipe's."""
    made = _eventprop if cfg.exact else _surrogate
    return made(cfg, shapes, values)


def encoder(cfg: "Config", shapes: Shapes) -> Callable[..., Any]:
    """The recipe's signal over time."""
    encode = counts(cfg, shapes)
    if not cfg.exact:
        return encode

    def spikes(inputs: Any, key: Array | None = None) -> TimedSpikes:
        z = encode(inputs)
        if key is not None and cfg.dropout:
            kept = jax.random.bernoulli(key, 1 - cfg.dropout, z.shape[1:])
            z = z * kept[None] / (1 - cfg.dropout)
        return TimedSpikes(z)

    return spikes


def make_task(cfg: "Config", shapes: Shapes, network: Network) -> tasks.Task:
    """What is made of recordings, the network, and the meaning of its output."""
    voltage = _VOLTAGES[cfg.read_out or "mean"]
    exact = {
        "loss": lambda v, labels: eventprop_losses.cross_entropy(voltage(v), labels),
        "read_out": voltage,
    }
    usual = {"loss": losses.ce_mean_membrane, "read_out": readout.mean_membrane}
    return tasks.classifier(
        network,
        encode=encoder(cfg, shapes),
        augment=changes(cfg, shapes),
        **(exact if cfg.exact else usual),
    )
