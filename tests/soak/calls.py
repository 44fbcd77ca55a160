"""More calls of the library: the events solver, recordings, sound, delays, tasks, searches, folders, and arrays whose shapes do not match."""

import pathlib
import tempfile
from typing import Any

_PADDING = [
    ("an unknown name", "nonsense"),
    ("an empty name", ""),
    ("negative", -1),
    ("half", 0.5),
    ("nothing", None),
]


def _with(given: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    return usual | given


def registry() -> list[Any]:
    """The calls."""
    from soak.library import Call

    found = [*_signals(), *_event_driven(), *_stdp(), *_tasks(), *_training()]
    return [Call(*x) for x in found]


def _signals() -> list[tuple[str, Any, dict[str, Any]]]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    import jsnn
    from jsnn import augment, delays, encode, head, layers, metrics, sound
    from jsnn.data import audio, events, yinyang

    key, positive, share, count, natural = (
        jax.random.key(0),
        "(0, inf)",
        "[0, 1]",
        "whole [1, inf)",
        "whole [0, inf)",
    )
    images, x, labels = (
        jnp.full((2, 8, 8, 1), 0.5),
        jnp.ones((3, 2, 4)),
        jnp.array([0, 1]),
    )
    heard = np.zeros((2, 1600), np.float32)
    rngs = nnx.Rngs(0)
    recorded = events.recordings(
        [0, 1, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 9, 1, 5], [0, 2, 4], sensor=(2, 2)
    )
    batch = events.take(recorded, np.array([0, 1]))
    return [
        ("encode.delta", lambda **o: encode.delta(x, **_with(o, {"threshold": 0.1})), {"threshold": (0.1, "[0, inf)")}),
        ("encode.latency", lambda **o: encode.latency(images, 3, **_with(o, {"threshold": 0.1})), {"threshold": (0.1, "[0, 1)")}),
        ("encode.direct", lambda num_steps: encode.direct(images, num_steps), {"num_steps": (3, count)}),
        ("encode.poisson", lambda **o: encode.poisson(key, images, 3, **_with(o, {"dt": 1.0, "max_rate": 0.1})), {"dt": (1.0, "[0, inf)"), "max_rate": (0.1, "[0, inf)")}),
        ("encode.bernoulli", lambda images: encode.bernoulli(key, images, 3), {"images": (images, [
            ("above 1", images * 3), ("below 0", -images), ("NaN", images * np.nan)])}),
        ("augment.shift", lambda pixels: augment.shift(key, images, pixels), {"pixels": (1, natural)}),
        ("augment.crop_and_flip", lambda pad: augment.crop_and_flip(key, images, pad), {"pad": (1, natural)}),
        ("augment.random_affine", lambda **o: augment.random_affine(key, images, **o), {"degrees": (3.0, "[0, inf)"), "shift": (1.0, "[0, inf)")}),
        ("augment.by_colour", augment.by_colour, {"share": (0.5, share)}),
        ("delays.taps", lambda **o: delays.taps(**_with(o, {"delay": jnp.ones(3), "max_steps": 4})), {
            "dt": (1.0, positive), "max_steps": (4, natural), "width": (0.5, "[0, inf) or None"), "kernel": ("gaussian", ("gaussian", "triangle")),
        }),
        ("layers.Conv", lambda **o: layers.Conv(1, 2, **o, rngs=rngs), {"kernel_size": (3, count), "stride": (1, count), "padding": ("same", _PADDING)}),
        ("layers.DelayedDense", lambda **o: layers.DelayedDense(2, 2, **_with(o, {"max_steps": 3}), rngs=rngs), {"max_steps": (3, natural), "dt": (1.0, positive), "longest": (2.0, "[0, 3] or None"), "kernel": ("triangle", ("gaussian", "triangle"))}),
        ("layers.Dense", lambda **o: layers.Dense(**_with(o, {"num_inputs": 2, "num_outputs": 2}), rngs=rngs), {"num_inputs": (2, count), "num_outputs": (2, count)}),
        ("layers.MaxPool", lambda size: layers.MaxPool(size), {"size": (2, count)}),
        ("layers.AvgPool", lambda size: layers.AvgPool(size), {"size": (2, count)}),
        ("head.room_for", lambda **o: head.room_for(**_with(o, {"num_classes": 3, "capacity": 5})), {"num_classes": (3, natural), "capacity": (5, count)}),
        ("head.read_out", lambda kind: head.read_out(x, kind), {"kind": ("rate", ("rate", "membrane", "integrator", "current"))}),
        ("metrics.confusion_matrix", lambda **o: metrics.confusion_matrix(**_with(o, {"predictions": labels, "labels": labels, "num_classes": 3})), {
            "predictions": (labels, [("as floats", jnp.zeros(2)), ("too many", jnp.zeros(3, jnp.int32)), ("one-hot", jnp.eye(3)[:2]), ("as text", np.array(["a", "b"]))]), "num_classes": (3, "whole [2, inf)")}),
        ("metrics.classification_report", lambda **o: metrics.classification_report(**_with(o, {"predictions": labels, "labels": labels, "num_classes": 3})), {
            "predictions": (labels, [("as floats", jnp.zeros(2)), ("too many", jnp.zeros(3, jnp.int32)), ("one-hot", jnp.eye(3)[:2]), ("as text", np.array(["a", "b"]))]), "labels": (labels, "labels"), "num_classes": (3, "whole [2, inf)")}),
        ("metrics.roc_auc", lambda **o: metrics.roc_auc(**_with(o, {"scores": jnp.eye(3), "labels": jnp.arange(3)})), {
            "labels": (jnp.arange(3), [("too many", jnp.arange(4)), ("-1", jnp.array([0, 1, -1])), ("C", jnp.array([0, 1, 3]))]), "absent": ("skip", ("raise", "skip")),
            "scores": (jnp.eye(3), [("NaN", jnp.eye(3) * np.nan)])}),
        ("metrics.conv_fan_out", lambda **o: metrics.conv_fan_out((8, 8), (3, 3), **_with(o, {"features": 2})), {"features": (2, count), "stride": (1, count)}),
        ("metrics.energy", lambda **o: metrics.energy(**_with(o, {"synaptic_operations": 3.0, "macs": 3.0})), {"synaptic_operations": (3.0, "[0, inf)"), "macs": (3.0, "[0, inf)")}),
        ("sound.features", lambda **o: sound.features(**_with(o, {"audio": heard, "num_steps": 4})), {
            "num_steps": (4, count), "rate": (8000, count), "dt_ms": (10.0, positive + " or None"), "bank": ("mel", ("mel", "gammatone")), "bands": (8, count),
            "low_hz": (100.0, "[0, inf)"), "high_hz": (3000.0, positive), "warp": (1.0, positive), "window_ms": (20.0, positive)}),
        ("sound.mel_bank", lambda **o: sound.mel_bank(**_with(o, {"bands": 4, "low_hz": 100.0, "high_hz": 3000.0, "size": 256, "rate": 8000})), {
            "bands": (4, count), "size": (256, count), "rate": (8000, count), "low_hz": (100.0, "[0, inf)")}),
        ("sound.spikes", lambda **o: sound.spikes(x, **o), {"code": ("delta", ("delta", "lif")), "threshold": (0.5, positive)}),
        ("sound.perturb", lambda **o: sound.perturb(**_with(o, {"key": key, "batch": 2})), {"key": (key, "key"), "batch": (2, count), "warp": (0.1, "[0, 1)")}),
        ("data.events.frames", lambda **o: events.frames(**_with(o, {"batch": batch, "num_steps": 2})), {
            "num_steps": (2, count), "dt_us": (5.0, "(0, inf) or None"), "polarity": ("kept", ("kept", "merged", "signed")), "downsample": (1, count)}),
        ("data.events.first_spikes", lambda **o: events.first_spikes(**_with(o, {"batch": batch, "num_steps": 2, "dt_us": 5.0})), {"num_steps": (2, "whole [1, 255]"), "dt_us": (5.0, positive + " or None")}),
        ("data.events.recordings", lambda **o: events.recordings(**_with(o, {"x": [0, 1], "y": [0, 1], "p": [0, 1], "t_us": [0, 9], "offsets": [0, 2], "sensor": (2, 2)})), {
            "x": ([0, 1], [("beyond the sensor", [0, 2]), ("negative", [-1, 0]), ("of another length", [0, 1, 1])]),
            "p": ([0, 1], [("of 2", [0, 2]), ("of -1", [-1, 1])]),
            "t_us": ([0, 9], [("NaN", [0.0, np.nan]), ("going back", [9, 0])]),
            "offsets": ([0, 2], [("beyond the end", [0, 9]), ("falling", [0, 2, 1, 2]), ("one", [0]), ("an empty recording", [0, 0, 2])]),
            "sensor": ((2, 2), [("of one number", (2,)), ("of nothing", (0, 2)), ("negative", (-2, 2))])}),
        ("data.audio.fold", lambda **o: audio.fold(audio.recordings(np.zeros(9, np.int16), [0, 3, 6, 9], [0, 1, 0], 8000), **_with(o, {"which": 0, "folds": 2})), {
            "which": (0, "whole [0, 1]"), "folds": (2, "whole [2, inf)")}),
        ("data.yin_yang", lambda **o: yinyang.yin_yang(**_with(o, {"size": 4, "seed": 0})), {"size": (4, count), "seed": (0, natural)}),
        ("data.arrays", lambda **o: jsnn.data.arrays(**_with(o, {"inputs": np.zeros((8, 4), "f"), "labels": np.arange(8) % 2, "num_test": 2})), {
            "labels": (np.arange(8) % 2, [("too many", np.arange(9) % 2), ("floats", np.full(8, 0.5)), ("negative", np.arange(8) - 1), ("one-hot", np.eye(8))]),
            "inputs": (np.zeros((8, 4), "f"), [("NaN", np.full((8, 4), np.nan, "f")), ("text", np.full((8, 4), "x")), ("one number", 3.0)])}),
    ]  # fmt: skip


def _event_driven() -> list[tuple[str, Any, dict[str, Any]]]:
    import jax.numpy as jnp

    from jsnn.eventprop import event_layers, events, grid, latency, network, synapse
    from jsnn.eventprop import losses as timing
    from jsnn.eventprop.events import Arrivals, Recurrence
    from jsnn.eventprop.flow import LIFParams
    from jsnn.eventprop.spikes import Drive, TimedSpikes, from_times

    positive, count, natural = "(0, inf)", "whole [1, inf)", "whole [0, inf)"
    params, t = LIFParams(), jnp.array([1.0, 2.0])
    arrivals, weights = Arrivals(t, jnp.ones((2, 3))), jnp.ones((2, 3))
    spikes = event_layers.input_spikes(t)
    grid_spikes = TimedSpikes(jnp.ones((4, 2, 3)))
    images = jnp.full((2, 3), 0.5)

    def solve(**o):
        return events.solve(
            **(
                {"params": params, "arrivals": arrivals, "t_end": 9.0, "max_spikes": 2}
                | o
            )
        )

    def forward(**o):
        return event_layers.feed_forward(
            **(
                {
                    "params": params,
                    "weights": weights,
                    "spikes": spikes,
                    "t_end": 9.0,
                    "max_spikes": 2,
                }
                | o
            )
        )

    solved = {
        "t_end": (9.0, "(0, inf]"), "max_spikes": (2, count), "crossing": ("newton", [("an unknown name", "nonsense"), ("a number", 3)]), "on_overflow": ("nan", ("nan", "flag")),
    }  # fmt: skip
    return [
        ("eventprop.events.solve", solve, solved | {
            "arrivals": (arrivals, [("more times than jumps", Arrivals(jnp.arange(3.0), jnp.ones((2, 3))))]),
            "recurrence": (None, [("of other neurons", Recurrence(jnp.ones((2, 2)))), ("not square", Recurrence(jnp.ones((3, 2))))]),
        }),
        ("eventprop.event_layers.feed_forward", forward, solved | {
            "weights": (weights, [("of fewer inputs", jnp.ones((1, 3))), ("of one axis", jnp.ones(3))]),
            "max_events": (2, count + " or None"),
        }),
        ("eventprop.grid.lif", lambda drive: grid.lif(params, None, drive, dt=1.0), {
            "drive": (Drive(jnp.ones((3, 2, 4)), jnp.ones((3, 2, 4))), [("of other times", Drive(jnp.ones((3, 2, 4)), jnp.ones((4, 2, 4)))), ("an array", jnp.ones((3, 2, 4)))])}),
        ("eventprop.grid.lif", lambda dt: grid.lif(params, None, Drive(jnp.ones((3, 2, 4)), jnp.ones((3, 2, 4))), dt=dt), {"dt": (1.0, positive)}),
        ("eventprop.latency_times", lambda **o: latency.latency_times(images, **_with(o, {"t_max": 20.0})), {"t_max": (20.0, positive), "silent_below": (0.1, "(-inf, inf)")}),
        ("eventprop.latency_spikes", lambda **o: latency.latency_spikes(images, **_with(o, {"t_max": 3.0, "num_steps": 4, "dt": 1.0})), {
            "t_max": (3.0, positive), "num_steps": (4, count), "dt": (1.0, positive)}),
        ("eventprop.latency.encoder", latency.encoder, {"t_max": (20.0, positive), "T": (25.0, positive), "dt": (1.0, positive)}),
        ("eventprop.spikes.from_times", lambda **o: from_times(jnp.ones((2, 3)), **_with(o, {"num_steps": 4, "dt": 1.0})), {"num_steps": (4, count), "dt": (1.0, positive)}),
        ("eventprop.synapse.conv", lambda **o: synapse.conv(**o), {"stride": (1, count), "padding": ("valid", _PADDING)}),
        ("eventprop.synapse.axonal_delay", lambda **o: synapse.axonal_delay(grid_spikes, **_with(o, {"delay": jnp.ones(3), "dt": 1.0, "max_steps": 3})), {"dt": (1.0, positive), "max_steps": (3, natural)}),
        ("eventprop.network.dense", lambda **o: network.dense(**_with(o, {"num_inputs": 2, "num_outputs": 2})), {
            "num_inputs": (2, count), "num_outputs": (2, count), "std": (0.1, "[0, inf) or None"), "mean": (0.1, "(-inf, inf) or None")}),
        ("eventprop.network.conv", lambda **o: network.conv(**_with(o, {"num_inputs": 2, "num_outputs": 2, "size": 3})), {
            "num_inputs": (2, count), "num_outputs": (2, count), "size": (3, count), "stride": (1, count), "padding": ("valid", _PADDING)}),
        ("eventprop.network.lif", lambda **o: network.lif(**_with(o, {"dt": 1.0})), {"dt": (1.0, positive), "slope": ("substep", ("substep", "membrane", "threshold")), "reset": ("hard", ("hard", "subtract")), "min_slope": (0.5, positive)}),
        ("eventprop.network.leaky", lambda **o: network.leaky(**_with(o, {"dt": 1.0})), {"dt": (1.0, positive), "unroll": (1, count)}),
        ("eventprop.network.recurrent", lambda **o: network.recurrent(**_with(o, {"num_neurons": 2, "dt": 1.0})), {"num_neurons": (2, count), "dt": (1.0, positive), "delay_steps": (1, count)}),
        ("eventprop.network.avg_pool", lambda size: network.avg_pool(size), {"size": (2, count)}),
        ("eventprop.network.dense_network", lambda **o: network.dense_network(3, 4, 2, **o), {"dt": (1.0, positive), "T": (25.0, positive)}),
        ("eventprop.losses.first_spike_times", lambda **o: timing.first_spike_times(grid_spikes, **_with(o, {"dt": 1.0})), {"dt": (1.0, positive)}),
        ("eventprop.losses.relative_spike_time_mse", lambda **o: timing.relative_spike_time_mse(**_with(o, {"times": jnp.ones((2, 3)), "labels": jnp.array([0, 1]), "separation": 1.0})), {
            "labels": (jnp.array([0, 1]), "labels"), "separation": (1.0, "(-inf, inf)")}),
        ("eventprop.losses.silent_label_push", lambda **o: timing.silent_label_push(jnp.ones((2, 3)), jnp.ones((2, 3)), **_with(o, {"labels": jnp.array([0, 1]), "strength": 1.0})), {
            "labels": (jnp.array([0, 1]), "labels"), "strength": (1.0, "(-inf, inf)")}),
    ]  # fmt: skip


def _stdp() -> list[tuple[str, Any, dict[str, Any]]]:
    import jax.numpy as jnp

    from jsnn.stdp import encode, filters, layer, plasticity, traces, waves
    from jsnn.stdp import race as races

    positive, count, natural = "(0, inf)", "whole [1, inf)", "whole [0, inf)"
    wave, weights = jnp.zeros((4, 6, 6), jnp.uint8), jnp.ones((3, 4, 3, 3))
    other = [
        ("of other channels", jnp.ones((3, 2, 3, 3))),
        ("of three axes", jnp.ones((3, 3, 3))),
        ("larger than the image", jnp.ones((3, 4, 9, 9))),
    ]
    spec = layer.Conv(3, 3, threshold=1.0, num_winners=1, radius=0)
    pre, post = jnp.ones((4, 2)), jnp.ones((4, 3))

    def trace(**o):
        physics = {n: o.pop(n) for n in [*o] if n in traces.TraceParams._fields}
        given = _with(o, {"weights": jnp.ones((2, 3)), "pre": pre, "post": post})
        return traces.run(**given, params=traces.TraceParams(**physics))

    def homeostatic(**o):
        physics = {n: o.pop(n) for n in [*o] if n in traces.HomeostaticParams._fields}
        state = traces.homeostatic_init(jnp.ones((2, 3)))
        return traces.homeostatic_run(
            state, pre, traces.HomeostaticParams(**physics), **o
        )

    def rates(**o):
        base = {"ltp": 0.1, "ltd": -0.1} | {
            n: o.pop(n) for n in [*o] if n in ("ltp", "ltd")
        }
        bounds = plasticity.Bounds(
            **{n: o.pop(n) for n in [*o] if n in ("low", "high")}
        )
        winners = layer.compete(spec, weights, wave, 3)
        return plasticity.learn(
            weights,
            wave,
            winners,
            plasticity.Rates(**base),
            bounds,
            stabilise=True,
            **o,
        )

    return [
        ("stdp.race", lambda weights: races.race(weights, wave, 1.0, num_winners=1, radius=0, num_steps=3), {"weights": (weights, other)}),
        ("stdp.waves.fire", lambda weights: waves.fire(weights, wave, 1.0, 3), {"weights": (weights, other)}),
        ("stdp.waves.potentials", lambda weights: waves.potentials(weights, wave, 1), {"weights": (weights, other)}),
        ("stdp.layer.compete", lambda weights: layer.compete(spec, weights, wave, 3), {"weights": (weights, other)}),
        ("stdp.layer.Decision", lambda **o: layer.Decision(**_with(o, {"features": 20, "kernel": 3})), {
            "features": (20, count), "kernel": (3, count), "classes": (10, count), "pool": (1, count), "pad": (0, natural)}),
        ("stdp.traces.run", trace, {
            "dt": (1.0, positive), "pairing": ("all", ("all", "nearest")), "tau_pre": (20.0, positive), "tau_post": (20.0, positive),
            "weights": (jnp.ones((2, 3)), [("of more inputs", jnp.ones((3, 3))), ("of fewer outputs", jnp.ones((2, 2)))]),
            "post": (post, [("of fewer steps", jnp.ones((3, 3)))])}),
        ("stdp.traces.homeostatic_run", homeostatic, {
            "dt": (1.0, positive), "tau_pre": (20.0, positive), "tau_membrane": (100.0, positive), "tau_theta": (1e7, positive), "total": (10.0, positive), "target": (0.4, "(-inf, inf)")}),
        ("stdp.traces.normalise", lambda total: traces.normalise(jnp.ones((2, 3)), total), {"total": (1.0, positive)}),
        ("stdp.plasticity.learn", rates, {"ltp": (0.1, "(-inf, inf)"), "ltd": (-0.1, "(-inf, inf)"), "clip": ("all", ("all", "winners"))}),
        ("stdp.waves.pad", lambda **o: waves.pad(wave, **_with(o, {"width": 1, "num_steps": 3})), {"width": (1, natural), "num_steps": (3, "whole [1, 255]")}),
        ("stdp.waves.to_dense", lambda num_steps: waves.to_dense(wave, num_steps), {"num_steps": (3, "whole [1, 255]")}),
        ("stdp.encode.rank_order", lambda num_steps: encode.rank_order(wave.astype(jnp.float32), num_steps), {"num_steps": (3, "whole [1, 255]")}),
        ("stdp.encode.Frontend", lambda **o: encode.Frontend(filters.mnist_bank(), **o), {
            "padding": (6, natural), "threshold": (50.0, "[0, inf)"), "radius": (8, natural), "num_steps": (15, "whole [1, 255]")}),
        ("stdp.encode.EventFrontend", lambda **o: encode.EventFrontend(**_with(o, {"sensor": (8, 8), "dt_us": 9.0})), {
            "dt_us": (9.0, positive), "num_steps": (15, "whole [1, 255]"), "downsample": (1, count)}),
        ("stdp.filters.gabor", lambda **o: filters.gabor(**_with(o, {"size": 5, "degrees": 45.0})), {"size": (5, count), "degrees": (45.0, "(-inf, inf)"), "division": (4.0, positive)}),
        ("stdp.filters.apply", lambda **o: filters.apply(jnp.ones((2, 8, 8)), filters.gabor_bank(), **o), {"padding": (1, natural), "threshold": (0.0, "(-inf, inf)")}),
        ("stdp.inhibition.lateral", lambda factors: __import__("jsnn").stdp.inhibition.lateral(jnp.ones((6, 6)), factors), {
            "factors": ((0.1, 0.2), [("NaN", (0.1, float("nan"))), ("infinite", (0.1, float("inf"))), ("none", ())])}),
    ]  # fmt: skip


def _tasks() -> list[tuple[str, Any, dict[str, Any]]]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jsnn.continual import buffer, methods, stream
    from jsnn.continual import metrics as grades
    from jsnn.train import search

    count, natural = "whole [1, inf)", "whole [0, inf)"
    labels, key = np.arange(12) % 4, jax.random.key(0)
    held = buffer.init(4, jnp.zeros((2, 2)), 4)
    accuracy = np.array([[0.5, np.nan], [0.4, 0.6]])

    def make(**o):
        given: dict[str, Any] = {
            "train_labels": labels,
            "test_labels": labels,
            "tasks": ((0, 1), (2, 3)),
            "num_classes": 4,
        }
        return stream.make_stream(**(given | o))

    return [
        ("continual.make_stream", make, {
            "scenario": ("class", ("class", "domain")), "repeated": ("refuse", ("refuse", "again", "split")), "num_validation": (0, "whole [0, 11]"), "num_classes": (4, "whole [4, inf)"),
            "seed": (0, "whole [0, 4294967295]"),
            "tasks": (((0, 1), (2, 3)), [("an unknown class", ((0, 1), (2, 9))), ("a negative class", ((0, -1),)), ("none", ()), ("repeated", ((0, 1), (1, 2)))]),
        }),
        ("continual.parse_tasks", lambda **o: stream.parse_tasks(**_with(o, {"text": "2x2", "num_classes": 4})), {
            "text": ("2x2", [("too many", "5x3"), ("nonsense", "x"), ("a number", 3), ("nothing", None)]), "num_classes": (4, count), "order_seed": (0, "whole [0, 4294967295] or None")}),
        ("continual.buffer.init", lambda num_slots: buffer.init(num_slots, jnp.zeros((2, 2)), 4), {"num_slots": (4, natural)}),
        ("continual.buffer.sample", lambda **o: buffer.sample(held, **_with(o, {"key": key, "num_samples": 2})), {"num_samples": (2, natural), "key": (key, "key")}),
        ("continual.methods.get", lambda name: methods.get(name), {"name": ("er", tuple(methods.METHODS))}),
        ("continual.methods.er", methods.er, {"exemplars": ("uniform", ("uniform", "balanced"))}),
        ("continual.methods.der_plus_plus", methods.der_plus_plus, {"exemplars": ("uniform", ("uniform", "balanced")), "buffer_size": (500, count)}),
        ("continual.metrics.forgetting", lambda **o: grades.forgetting(**_with(o, {"accuracy": accuracy})), {
            "best": ("ever", ("ever", "before")), "accuracy": (accuracy, [("not square", np.ones((2, 3))), ("one axis", np.ones(3))])}),
        ("continual.metrics.backward_transfer", grades.backward_transfer, {"accuracy": (accuracy, [("not square", np.ones((2, 3))), ("one axis", np.ones(3))])}),
        ("train.search.linear", lambda **o: search.linear(**_with(o, {"name": "x", "low": 0.5, "high": 1.0, "count": 3})), {
            "low": (0.1, "(-inf, 1)"), "high": (1.0, "(0.5, inf)"), "count": (3, count + " or None")}),
        ("train.search.logarithmic", lambda **o: search.logarithmic(**_with(o, {"name": "x", "low": 0.5, "high": 1.0, "count": 3})), {"low": (0.5, "(0, 1)"), "high": (1.0, "(0.5, inf)")}),
        ("train.search.sample", lambda **o: search.sample(**_with(o, {"axes": [search.linear("x", 0.1, 1.0)], "seeds": [0], "num_samples": 2})), {"num_samples": (2, count), "seed": (0, natural)}),
    ]  # fmt: skip


def _training() -> list[tuple[str, Any, dict[str, Any]]]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import jsnn
    from jsnn.train import checkpoint, folders

    count = "whole [1, inf)"
    place = pathlib.Path(tempfile.mkdtemp(prefix="jsnn-soak-"))
    jsnn.Run(place / "run", experiment="x", config={})
    checkpoint.save(place / "kept", 1, {"w": jnp.ones(3)})
    network = jsnn.network(lambda rngs: [jsnn.Dense(4, 2, rngs=rngs), jsnn.LI()])
    task = jsnn.classifier(network)
    data = jsnn.data.arrays(np.zeros((8, 4), "f"), np.arange(8) % 2, num_test=2)
    trainer = jsnn.supervised(task, optax.sgd(1.0), batch_size=2, epochs=1)
    fitted = jsnn.fit(trainer, data, jax.random.key(0), progress=False)
    paths = [("a number", 3), ("nothing", None), ("empty", ""), ("a list", [])]
    no_task = [("nothing", None), ("an array", jnp.ones(3)), ("a network", network)]

    def fit(**o):
        given: dict[str, Any] = {
            "trainer": trainer,
            "data": data,
            "key": jax.random.key(0),
            "progress": False,
        }
        return jsnn.fit(**(given | o))

    return [
        ("jsnn.fit", fit, {
            "trainer": (trainer, [("nothing", None), ("a task", task)]), "data": (data, [("nothing", None), ("an array", np.zeros((8, 4))), ("a pair", (np.zeros(3), np.zeros(3)))]),
            "run": (None, [("a path", "somewhere"), ("a number", 3)]), "schedule": (None, [("a number", 3), ("a dictionary", {})]),
            "split": ("test", [("an unknown name", "nonsense"), ("a number", 3)]), "stream": (None, [("text", "yes")])}),
        ("jsnn.supervised", lambda **o: jsnn.supervised(**_with(o, {"task": task, "optimizer": optax.sgd(1.0), "batch_size": 2, "epochs": 1})), {
            "task": (task, no_task), "optimizer": (optax.sgd(1.0), [("nothing", None), ("a number", 0.1), ("a name", "adam")])}),
        ("jsnn.Run", lambda **o: jsnn.Run(**_with(o, {"out": place / "kept", "experiment": "x", "config": {}})), {"out": (place / "new", paths)}),
        ("fitted.save", lambda path: fitted.save(path), {"path": (place / "model", paths)}),
        ("fitted.predict", lambda **o: fitted.predict(**_with(o, {"inputs": np.zeros((2, 4), "f")})), {
            "inputs": (np.zeros((2, 4), "f"), [("none", np.zeros((0, 4), "f")), ("of another shape", np.zeros((2, 5), "f")), ("of one axis", np.zeros(4, "f")), ("text", "abc")]),
            "batch_size": (2, count)}),
        ("jsnn.load", lambda **o: jsnn.load(**_with(o, {"path": place / "model", "trainer": trainer})), {"path": (place / "model", paths)}),
        ("train.checkpoint.save", lambda **o: checkpoint.save(**_with(o, {"folder": place / "other", "step": 1, "state": {"w": jnp.ones(3)}})), {
            "folder": (place / "other", paths), "step": (1, "whole [0, inf)"), "keep": (2, count)}),
        ("train.checkpoint.restore", lambda folder: checkpoint.restore(folder, {"w": jnp.ones(3)}), {"folder": (place / "kept", paths)}),
        ("train.folders.read", lambda path: folders.read(path), {"path": (place / "run", paths)}),
        ("jsnn.classifier", lambda **o: jsnn.classifier(**_with(o, {"network": network})), {"network": (network, [("nothing", None), ("a list", [jsnn.LI()])]), "loss": (jsnn.losses.ce_rate, [("a name", "mse")])}),
    ]  # fmt: skip
