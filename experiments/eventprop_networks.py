"""The networks of `experiments.eventprop_mnist`: layers, code of the input and read-out of each recipe, and the task made of them.

Times are in milliseconds. Axes: T time, B batch, C classes; H, W, K height, width and channels of an image.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jsnn import activity, augment
from jsnn.encoders import frames, unit_interval
from jsnn.eventprop import latency, losses, network, regularise, traces
from jsnn.eventprop.flow import LIFParams, LIParams
from jsnn.eventprop.spikes import OccupiedSpikes, TimedSpikes
from jsnn.model import Model
from jsnn.train import task as tasks
from jsnn.train.rebuild import Shapes

from . import common

if TYPE_CHECKING:
    from .eventprop_mnist import Config

# Of a sweep: see `experiments.common.numbers`.
Values = Mapping[str, Any]

READ_OUTS: dict[str, Callable[[Array], Array]] = {
    "max": losses.max_voltage,
    "mean": losses.mean_voltage,
    "weighted": losses.weighted_voltage,
}


class Design(NamedTuple):
    """A network with the code of its input and the meaning of its output.

    Attributes:
      layers: for `network.chain`.
      encode: `(inputs [B, ...], key or None) -> spikes`; a key drops inputs at random.
      read: value of the last layer -> `[B, C]`, spike times or voltages.
      loss: `([B, C], labels) -> [B]`.
      scores: `[B, C] -> [B, C]`, larger is likelier.
    """

    layers: Sequence[network.Layer]
    encode: Callable[[Array, Array | None], Any]
    read: Callable[[Any], Array]
    loss: Callable[[Array, Array], Array]
    scores: Callable[[Array], Array]


def num_steps(cfg: "Config", shapes: Shapes) -> int:
    """Steps of the grid: the file's, or as many as a trial lasts."""
    return shapes.inputs[0] if cfg.frames else round(cfg.duration / cfg.dt)


def _physics(cfg: "Config", values: Values) -> dict[str, Any]:
    tau_m, tau_s = common.numbers(cfg, values, "tau_m", "tau_s")
    return {"dt": cfg.dt, "params": LIFParams(tau_m, tau_s)}


def _neurons(cfg: "Config", values: Values) -> dict[str, Any]:
    return _physics(cfg, values) | {"min_slope": cfg.min_slope}


def reference(cfg: "Config", shapes: Shapes, values: Values) -> Design:
    """One layer, two input times, first-spike cross entropy, the original's Euler scheme."""
    steps = num_steps(cfg, shapes)
    last = (steps - 1) * cfg.dt
    tau_s, xi, alpha, beta = common.numbers(cfg, values, "tau_s", "xi", "alpha", "beta")

    def encode(images: Shaped[Array, "B ..."], key: Array | None) -> OccupiedSpikes:
        if cfg.frames:
            return _spikes_of_frames(images, flat=True)
        return latency.binary_spikes(
            unit_interval(images.reshape(len(images), -1)),
            t_min=cfg.t_min,
            t_max=cfg.t_max,
            num_steps=steps,
            dt=cfg.dt,
        )

    def read(spikes: TimedSpikes) -> Float[Array, "B C"]:
        # The original takes a silent neuron for one that spikes at the last step.
        return losses.first_spike_times(spikes, dt=cfg.dt, silent=last)

    def loss(times: Float[Array, "B C"], labels: Int[Array, "B"]) -> Float[Array, "B"]:
        return losses.first_spike_cross_entropy(
            times,
            labels,
            tau_softmax=xi * tau_s,
            early=alpha,
            tau_early=beta * tau_s,
        )

    layers = (
        network.dense(
            math.prod(common.one_step(cfg, shapes)),
            shapes.num_classes,
            mean=0.1,
            std=0.1,
        ),
        network.reference_lif(**_physics(cfg, values)),
    )
    return Design(layers, encode, read, loss, lambda times: -times)


def _spikes_of_frames(inputs: Shaped[Array, "B T ..."], *, flat: bool) -> OccupiedSpikes:  # fmt: skip
    """Inputs of T steps as they are: a value is the number of spikes that arrive at its step, or their mass."""
    z = frames()(inputs)
    z = z.reshape(*z.shape[:2], -1) if flat else z
    return OccupiedSpikes(z, jnp.arange(len(z)), len(z))


def _code(
    cfg: "Config", shapes: Shapes, *, flat: bool
) -> Callable[[Array, Array | None], OccupiedSpikes]:
    """Frames as they are. Of still inputs brighter is earlier, black is silent. Nothing arrives after `t_max`, so only the steps before it are stored and multiplied."""
    first = round(cfg.t_min / cfg.dt)
    occupied = max(1, round((cfg.t_max - cfg.t_min) / cfg.dt))

    def still(images: Shaped[Array, "B ..."]) -> OccupiedSpikes:
        x = unit_interval(images.reshape(len(images), -1) if flat else images)
        spikes = latency.latency_spikes(
            x, t_max=cfg.t_max - cfg.t_min, num_steps=occupied, dt=cfg.dt
        )
        steps = num_steps(cfg, shapes)
        return OccupiedSpikes(spikes.values, first + jnp.arange(occupied), steps)

    def encode(inputs: Shaped[Array, "B ..."], key: Array | None) -> OccupiedSpikes:
        found = _spikes_of_frames(inputs, flat=flat) if cfg.frames else still(inputs)
        if key is None or not cfg.dropout:
            return found
        z = found.values
        kept = jax.random.bernoulli(key, 1 - cfg.dropout, z.shape[1:])
        z = z * kept.astype(z.dtype)[None] / (1 - cfg.dropout)
        return dataclasses.replace(found, values=z)

    return encode


def _voltage_design(
    cfg: "Config",
    shapes: Shapes,
    values: Values,
    layers: Sequence[network.Layer],
    *,
    flat: bool,
) -> Design:
    """Leaky integrators on top; the class is the one whose membrane is highest, at its peak or on average."""
    tau_m, tau_s = common.numbers(cfg, values, "tau_m", "tau_s")
    top = network.leaky(dt=cfg.dt, params=LIParams(tau_m, tau_s))
    return Design(
        (*layers, top),
        _code(cfg, shapes, flat=flat),
        READ_OUTS[cfg.read_out or "max"],
        losses.cross_entropy,
        lambda voltages: voltages,
    )


def _first_weights(num_inputs: int) -> dict[str, float]:
    """The published distribution, which drives 350 neurons with 784 inputs, at the same drive from fewer or more."""
    ratio = 784 / num_inputs
    return {"mean": 0.078 * ratio, "std": 0.045 * ratio**0.5}


def deep(cfg: "Config", shapes: Shapes, values: Values) -> Design:
    """Wunderlich and Pehle's network: one hidden layer, maximal voltage of leaky integrators; recurrent, with synapses among the hidden neurons, one step late."""
    size, neurons = math.prod(common.one_step(cfg, shapes)), _neurons(cfg, values)
    if cfg.recipe == "recurrent":
        hidden = network.recurrent(cfg.hidden, mean=0.0, std=0.02, **neurons)
    else:
        hidden = network.lif(**neurons)
    layers = (
        network.dense(size, cfg.hidden, **_first_weights(size)),
        hidden,
        network.dense(cfg.hidden, shapes.num_classes, mean=0.2, std=0.37),
    )
    return _voltage_design(cfg, shapes, values, layers, flat=True)


def conv(cfg: "Config", shapes: Shapes, values: Values) -> Design:
    """Two convolutions of stride 2, each followed by spiking neurons, and a dense read-out.

    Weights are drawn so that a digit wakes a third of the first layer's neurons and half of the second's. Spikes are shared out
    between grid points, for at this coarse dt half a step late is much.

    Raises:
      ValueError: if the image is too small for them.
    """
    height, width, channels = common.one_step(cfg, shapes)
    sides = [((n - 5) // 2 + 1 - 3) // 2 + 1 for n in (height, width)]
    if min(sides) < 1:
        raise ValueError(
            f"`--recipe conv` needs images of at least 9 by 9 pixels, got {height} by {width}."
        )
    size = sides[0] * sides[1] * 2 * cfg.hidden
    layers = (
        network.conv(channels, cfg.hidden, 5, stride=2, mean=0.8, std=1.0),
        network.lif(**_neurons(cfg, values)),
        network.split(dt=cfg.dt),
        network.conv(cfg.hidden, 2 * cfg.hidden, 3, stride=2, mean=0.1, std=0.3),
        network.lif(**_neurons(cfg, values)),
        network.split(dt=cfg.dt),
        network.flatten(),
        network.dense(size, shapes.num_classes, mean=0.02, std=0.1),
    )
    return _voltage_design(cfg, shapes, values, layers, flat=False)


DESIGNS: dict[str, Callable[..., Design]] = {
    "reference": reference,
    "deep": deep,
    "conv": conv,
    "recurrent": deep,
}


def make_task(cfg: "Config", design: Design) -> tasks.Task:
    """Initial weights, loss and prediction. The model's parameters are the weights; `rest` is what kicks have added to them."""
    net = network.chain(*design.layers)
    physics = [layer.physics for layer in design.layers]

    def whole(params, lift):
        if cfg.kick:
            params = [params[0] + lift, *params[1:]]
        return Model(params, physics)

    def value(params, lift, x):
        return net.apply(whole(params, lift), x).value

    def init(key):
        params = net.init(key).params
        lift = jnp.zeros((1, params[0].shape[1])) if cfg.kick else ()
        return Model(params, lift)

    def loss(model, key, images, labels):
        params, lift = model
        if cfg.shift:
            images = augment.shift(jax.random.fold_in(key, 1), images, cfg.shift)
        x = design.encode(images, key)
        if cfg.kick:
            fixed = jax.lax.stop_gradient(params)
            lift = regularise.kick_silent(
                lift, lambda lift: value(fixed, lift, x), amount=cfg.kick
            )
        y = design.read(value(params, lift, x))
        hits = design.scores(y).argmax(1) == labels
        return design.loss(y, labels).mean(), (lift, hits.mean())

    def outputs(model, images):
        x = design.encode(images, None)
        return design.read(value(model.params, model.rest, x))

    def prediction(y):
        return tasks.by_score(design.scores(y))

    def awake(model, images):
        return activity.awake(net, whole(*model), design.encode(images, None))

    return tasks.Task(init, loss, outputs, design.loss, prediction, awake)


def look(
    cfg: "Config",
    design: Design,
    model: Model,
    images: Array,
    labels: Array,
) -> dict[str, traces.LayerTrace]:
    """Membranes, spikes and adjoints of every layer of neurons for a few images, by name; the adjoint is that of the summed loss."""
    params, lift = model
    if cfg.kick:
        params = [params[0] + lift, *params[1:]]
    physics = [layer.physics for layer in design.layers]

    @jax.jit
    def run(params, images, labels):
        x = design.encode(images, None)

        def loss(value):
            return design.loss(design.read(value), labels).sum()

        return traces.look(design.layers, Model(params, physics), x, loss, dt=cfg.dt)

    found = run(params, images, jnp.asarray(labels))
    names = [f"hidden {k + 1}" for k in range(len(found) - 1)] + ["output"]
    return dict(zip(names, found, strict=True))
