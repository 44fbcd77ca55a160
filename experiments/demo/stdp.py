"""STDP and reward-modulated STDP in the demo: a network that learns the bundled digits without a gradient, and what its features look for.

29 seconds of CPU time. 86 % of the 360 test images right after the last epoch (seed 0); this network is the smallest of three that
were tried and compared by these images, between which lay 4 %.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.demo.settings import Config
from jsnn import data, figures, metrics, report, runs, stdp_figures
from jsnn.models import stdp, stdp_network, stdp_steps, stdp_training
from jsnn.stdp import encode, filters, layer

NUM_EPOCHS = 20  # of R-STDP
SIDE = 16  # pixels to which the digits of 8 x 8 are enlarged
WINDOW = 100  # images after which the rates of R-STDP adapt
DOUBLING = 100  # images after which the rates of STDP double

TEXT = """Nothing here computes a gradient: a synapse changes by what its two neurons do. Filters like those of the retina turn an image into
one spike a pixel at most, the strongest response first. In the first layer the few neurons that fire earliest strengthen the synapses
whose input came in time and weaken the others; no label is used, and neighbours inhibit each other, so that features differ.

In the second layer each class has 20 features, and the neuron with the largest potential decides. If it is right, its synapses from active
inputs are strengthened and the others weakened; if it is wrong, the other way round."""


def frontend() -> encode.Frontend:
    """ON and OFF cells of 3 and 5 pixels, 15 steps."""
    dog = filters.difference_of_gaussians
    cells = [dog(3, 1 / 3, 2 / 3), dog(3, 2 / 3, 1 / 3)]
    cells += [dog(5, 5 / 9, 10 / 9), dog(5, 10 / 9, 5 / 9)]
    return encode.Frontend(filters.bank(cells), padding=2, radius=4, num_steps=15)


def network(num_epochs: int) -> stdp.Network:
    """32 features of 3 x 3 that learn by STDP for two epochs, and 200 of 5 x 5 that decide."""
    first = layer.Conv(32, 3, threshold=3.0, num_winners=4, radius=2, pad=1)
    return stdp.Network(
        (stdp.Block((first,)),),
        (layer.Decision(200, 5, pool=3),),
        (2, num_epochs),
        frontend,
    )


def enlarged(images: np.ndarray) -> np.ndarray:
    """The digits at twice their size, bilinearly."""
    shape = (len(images), SIDE, SIDE, 1)
    large = jax.image.resize(jnp.asarray(images, jnp.float32), shape, "bilinear")
    return np.asarray(jnp.round(large), np.uint8)


def pictures(
    net: stdp.Network,
    state: stdp_steps.State,
    seed: int,
    rows: list[dict[str, Any]],
    test: tuple[np.ndarray, stdp_steps.Encoded],
    prediction: np.ndarray,
    class_names: tuple[str, ...],
) -> list[report.Picture]:
    """Curves, features of both layers, spikes of one image and confusion matrix."""
    images, encoded = test
    initial = stdp_training.initial_weights(jax.random.key(seed), net)
    first, second = stdp_network.fields(net, state.weights, initial)
    won = stdp_network.have_won(initial, state.weights)
    sample = int(np.argmax(prediction == encoded.labels))
    times = encoded.times[sample]
    spec, num_steps = net.blocks[0].branches[0], net.frontend().num_steps
    fired = layer.fire(spec, state.weights[0][0], jnp.asarray(times), num_steps)
    maps = {"filters": times, "layer 1": np.asarray(fired)}
    matrix = metrics.confusion_matrix(prediction, encoded.labels, len(class_names))
    return [
        report.Picture(
            figures.curves(rows),
            "R-STDP: fractions of wrong (loss) and right decisions in windows of 100 training images, as they were learnt from.",
        ),
        report.Picture(
            stdp_figures.features(first[0], title="layer 1", columns=16, won=won[0][0]),
            "What the 32 features of the first layer look for, drawn in pixels of the image through the filters in front of them.",
        ),
        report.Picture(
            stdp_figures.features(
                second[0],
                title="layer 2",
                row_names=class_names,
                scale="common",
                won=won[1][0],
            ),
            "What the 200 features that decide look for, a row for each class: what their weights have gained. Pale ones have learnt little.",
        ),
        report.Picture(
            stdp_figures.activation_maps(
                maps, num_steps, image=images[sample, ..., 0], columns=8, limit=16
            ),
            f"A {class_names[encoded.labels[sample]]} of the test set, and when neurons first fire for it: the bluer, the earlier.",
        ),
        report.Picture(
            figures.confusion(matrix, class_names), "All 360 test images by class."
        ),
    ]


def result_table(
    decided: stdp_network.Decided, labels: np.ndarray, net: stdp.Network, clock: Any
) -> report.Table:
    """What the run reached and what it cost."""
    right, silent = (
        int((decided.prediction == labels).sum()),
        int((decided.prediction < 0).sum()),
    )
    return report.Table(
        ("result", "value"),
        [
            (
                "test accuracy, last epoch",
                f"{100 * right / len(labels):.2f} % ({right} of {len(labels)})",
            ),
            ("silent test images", str(silent)),
            ("weights", f"{stdp.num_weights(net):,}"),
            ("training time", f"{clock['train_seconds']:.1f} s"),
            ("with compilation and evaluation", f"{clock['seconds']:.1f} s"),
        ],
    )


def train(cfg: Config, folder: pathlib.Path) -> report.Section:
    """Two epochs of STDP, then R-STDP, on the bundled digits."""
    dataset = data.load("digits")
    net = network(cfg.epochs(NUM_EPOCHS))
    config = {
        "seed": cfg.seed,
        "epochs": " ".join(map(str, net.epochs)),
        "timesteps": net.frontend().num_steps,
        "window": WINDOW,
        "doubling": DOUBLING,
    }
    run = runs.Run(folder, experiment="demo", config=config)
    clock = stdp_training.Clock([])
    images = enlarged(dataset.test.images)
    known, test = (
        stdp_steps.Encoded(stdp_network.spike_times(net, x), split.labels)
        for x, split in (
            (enlarged(dataset.train.images), dataset.train),
            (images, dataset.test),
        )
    )
    state = stdp_training.drive(
        run,
        net,
        jax.random.key(cfg.seed),
        (known, None),
        stdp_steps.Schedule(net.epochs, WINDOW, DOUBLING),
        clock=clock,
        progress=cfg.progress,
    )
    active = stdp_network.respond(net, 0, state.weights[0], test.times)
    decided = stdp_network.decide(net.decision, state.weights[-1], active)
    accuracy = float((decided.prediction == test.labels).mean())
    seconds = clock.read()
    run.finish({"test_accuracy": accuracy, "wall_seconds": seconds["seconds"]})
    return report.Section(
        "STDP and reward",
        TEXT,
        [result_table(decided, test.labels, net, seconds)],
        pictures(
            net,
            state,
            cfg.seed,
            run.rows(),
            (images, test),
            np.asarray(decided.prediction),
            dataset.class_names,
        ),
        config,
    )
