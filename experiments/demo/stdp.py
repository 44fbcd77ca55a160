"""STDP and reward-modulated STDP in the demo: a network that learns the bundled digits without a gradient, and what its features look for.

29 seconds of CPU time. 86 % of the 360 test images right after the last epoch (seed 0); this network is the smallest of three that
were tried and compared by these images, between which lay 4 %.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jsnn
from jsnn import data, metrics, stdp
from jsnn.plot import figures, report
from jsnn.plot import stdp as stdp_figures
from jsnn.stdp import filters, forward, networks

from .settings import Config, finish, learn

NUM_EPOCHS = 20  # of R-STDP
SIDE = 16  # pixels to which the digits of 8 x 8 are enlarged
WINDOW = 100  # images after which the rates of R-STDP adapt
DOUBLING = 100  # images after which the rates of STDP double

TEXT = """Here nothing computes a gradient. A synapse changes by what the two neurons do that it connects. This is spike-timing-dependent plasticity, STDP.

Filters like those of the eye turn an image into spikes, at most one a pixel, the strongest first. In the first layer the neurons that fire earliest
win. Their synapses grow where a spike came before, and shrink elsewhere. No label is used. Neighbours of a winner may not learn, so features differ.

In the second layer each digit has 20 features, and the one that is driven most decides. If it is right, it is rewarded: synapses from active inputs grow.
If it is wrong, it is punished: they shrink."""


def frontend() -> stdp.Frontend:
    """ON and OFF cells of 3 and 5 pixels, 15 steps."""
    dog = filters.difference_of_gaussians
    cells = [dog(3, 1 / 3, 2 / 3), dog(3, 2 / 3, 1 / 3)]
    cells += [dog(5, 5 / 9, 10 / 9), dog(5, 10 / 9, 5 / 9)]
    return stdp.Frontend(filters.bank(cells), padding=2, radius=4, num_steps=15)


def network(num_epochs: int) -> stdp.Network:
    """32 features of 3 x 3 that learn by STDP for two epochs, and 200 of 5 x 5 that decide."""
    first = stdp.Conv(32, 3, threshold=3.0, num_winners=4, radius=2, pad=1)
    return stdp.Network(
        (stdp.Block((first,)),),
        (stdp.Decision(200, 5, pool=3),),
        (2, num_epochs),
        frontend,
    )


def enlarged(images: np.ndarray) -> np.ndarray:
    """The digits at twice their size, bilinearly."""
    shape = (len(images), SIDE, SIDE, 1)
    large = jax.image.resize(jnp.asarray(images, jnp.float32), shape, "bilinear")
    return np.asarray(jnp.round(large), np.uint8)


def pictures(
    fitted: jsnn.Fitted,
    net: stdp.Network,
    seed: int,
    test: data.Split,
    prediction: np.ndarray,
    class_names: tuple[str, ...],
) -> list[report.Picture]:
    """Curves, features of both layers, spikes of one image and confusion matrix."""
    initial = stdp.initial_weights(jax.random.key(seed), net)
    first, second = forward.fields(net, fitted.model, initial)
    won = forward.have_won(initial, fitted.model)
    sample = int(np.argmax(prediction == test.labels))
    image = test.images[sample]
    maps = forward.spike_maps(net, fitted.model, image)
    matrix = metrics.confusion_matrix(prediction, test.labels, len(class_names))
    return [
        report.Picture(
            figures.curves(fitted.rows),
            "The second layer learns: the share of wrong decisions (left) and of right ones (right), of each hundred training images in turn.",
        ),
        report.Picture(
            stdp_figures.features(first[0], title="layer 1", columns=16, won=won[0][0]),
            "What the 32 features of the first layer have learnt to look for, drawn in pixels of the image: the bluer, the more it counts. Bars and corners are parts of digits.",
        ),
        report.Picture(
            stdp_figures.features(
                second[0],
                title="layer 2",
                row_names=class_names,
                scale="common",
                won=won[1][0],
            ),
            "What the 200 features of the second layer have learnt to look for, a row for each digit. Only a few of each row have learnt much: those that won early went on winning.",
        ),
        report.Picture(
            stdp_figures.activation_maps(
                maps,
                net.frontend().num_steps,
                image=image[..., 0],
                columns=8,
                limit=16,
            ),
            f"A {class_names[test.labels[sample]]} of the test set on its way through the network. Each small picture is one filter or one feature, at each place of the image: the bluer, the earlier it fires. White: it stays silent.",
        ),
        report.Picture(
            figures.confusion(matrix, class_names),
            "All 360 test images. The row is the true digit, the column the answer. Blue: right. Orange: mistakes, the darker the more often.",
        ),
    ]


def result_table(
    first: tuple[str, str], fitted: jsnn.Fitted, label: np.ndarray, net: stdp.Network
) -> report.Table:
    """What the run reached and what it cost."""
    return report.Table(
        ("result", "value"),
        [
            first,
            ("silent test images", str(int((label < 0).sum()))),
            ("weights", f"{networks.num_weights(net):,}"),
            ("training time", f"{fitted.rows[-1]['train_seconds']:.1f} s"),
            ("with compilation and evaluation", f"{fitted.seconds:.1f} s"),
        ],
    )


def train(cfg: Config, folder: pathlib.Path) -> report.Section:
    """Two epochs of STDP, then R-STDP, on the bundled digits."""
    dataset = data.load("digits")
    train, test = (
        data.Split(enlarged(split.images), split.labels)
        for split in (dataset.train, dataset.test)
    )
    net = network(cfg.epochs(NUM_EPOCHS))
    config = {
        "seed": cfg.seed,
        "epochs": " ".join(map(str, net.epochs)),
        "timesteps": net.frontend().num_steps,
        "window": WINDOW,
        "doubling": DOUBLING,
    }
    trainer = stdp.trainer(net, window=WINDOW, doubling=DOUBLING)
    dataset = dataclasses.replace(dataset, train=train, test=test)
    run, fitted = learn(cfg, folder, trainer, dataset, config, jsnn.Schedule(1))
    label = fitted.predict(test.images).label
    first = finish(run, fitted, label, test.labels)
    return report.Section(
        "STDP and reward",
        TEXT,
        [result_table(first, fitted, label, net)],
        pictures(fitted, net, cfg.seed, test, label, dataset.class_names),
        config,
    )
