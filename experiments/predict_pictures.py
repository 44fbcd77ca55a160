"""One picture of the first sample that `experiments.predict` has predicted, by the script that trained the model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsnn import activity, layers
from jsnn.plot import events as event_figures
from jsnn.plot import sound as sound_figures
from jsnn.plot import spikes as spike_figures
from jsnn.plot import stdp as stdp_figures
from jsnn.stdp import forward
from jsnn.train import rebuild

from . import common

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _of_layers(made: rebuild.Made, model: Any, x: jax.Array) -> "Figure":
    """Surrogate gradients: spikes of every layer."""
    cfg = made.config
    if made.name == "csnn_mnist":
        graphdef = made.script.make_network(cfg, made.shapes).graphdef
    else:
        build = made.script.make_build(cfg, common.one_step(cfg, made.shapes))
        module = nnx.eval_shape(lambda: build(jax.random.key(0), 1))
        graphdef, model = layers.split(module)[0], model.model
    seen = activity.record(graphdef, model, made.script.encoder(cfg)(x, None))
    return spike_figures.raster(seen, activity.neuron_names(graphdef, model))


def _of_recordings(made: rebuild.Made, model: Any, x: jax.Array) -> "Figure":
    """Recordings: spikes of every layer, or, of EventProp, the recording itself."""
    from . import event_networks

    cfg, shapes = made.config, made.shapes
    if cfg.exact:
        frames = event_networks.counts(cfg, shapes)(x)
        return event_figures.strip(frames, ["0"], step_ms=cfg.step)
    graphdef = event_networks.make_network(cfg, shapes).graphdef
    seen = activity.record(graphdef, model, event_networks.encoder(cfg, shapes)(x))
    return spike_figures.raster(seen, activity.neuron_names(graphdef, model))


def _of_first_spikes(made: rebuild.Made, model: Any, x: jax.Array) -> "Figure":
    """STDP on recordings: when the neurons of every layer spike first."""
    network = made.config.network(made.shapes)
    maps = forward.spike_maps(network, model.layers, np.asarray(x[0]))
    return stdp_figures.activation_maps(maps, network.frontend().num_steps)


def _of_sound(made: rebuild.Made, model: Any, x: jax.Array) -> "Figure":
    """Sound: how strong each band is."""
    heard = made.script.encoder(made.config, made.shapes)(x)
    heard = heard.values if made.config.exact else heard
    return sound_figures.spectrograms(np.asarray(heard), ["0"], samples=np.asarray(x))


def _of_grid(made: rebuild.Made, model: Any, x: jax.Array) -> "Figure":
    """EventProp on a grid: spikes of every layer."""
    from . import eventprop_networks

    cfg = made.config
    design = made.script.make_design(cfg, made.shapes)
    none = jnp.zeros(1, jnp.int32)
    traces = eventprop_networks.look(cfg, design, model, x, none)
    seen = [
        activity.Activity(None if t.spikes is None else t.spikes > 0, t.membrane, None)
        for t in traces.values()
    ]
    return spike_figures.raster(seen, list(traces))


def _of_times(made: rebuild.Made, model: Any, x: jax.Array) -> "Figure":
    """Points: the first spike of every neuron, in steps of `--dt`."""
    from . import eventprop_points

    cfg = made.config
    times = eventprop_points.first_spikes(cfg, eventprop_points.weights(model), x)
    steps = np.arange(round(cfg.duration / cfg.dt) + 1).reshape(-1, 1, 1)
    fired = [np.round(t / cfg.dt) == steps for t in times.values()]
    seen = [activity.Activity(jnp.asarray(z), jnp.asarray(z), None) for z in fired]
    return spike_figures.raster(seen, [f"{name}, first spikes" for name in times])


def _of_waves(made: rebuild.Made, model: Any, x: jax.Array) -> "Figure":
    """STDP: when the neurons of every layer spike first."""
    network = made.config.network()
    if made.config.data == "digits":
        x = made.script.enlarge(x)
    image, weights = np.asarray(x[0]), model if network.decision else model.layers
    return stdp_figures.activation_maps(
        forward.spike_maps(network, weights, image),
        network.frontend().num_steps,
        image=image.mean(-1),
    )


PICTURES: dict[str, Callable[[rebuild.Made, Any, jax.Array], "Figure"]] = {
    "csnn_mnist": _of_layers,
    "cil_cifar10": _of_layers,
    "eventprop_mnist": _of_grid,
    "eventprop_yinyang": _of_times,
    "stdp_mnist": _of_waves,
    "events": _of_recordings,
    "events_stdp": _of_first_spikes,
    "sound": _of_sound,
}
