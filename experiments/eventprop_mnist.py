"""Trains spiking networks with EventProp on a time grid; MNIST unless told otherwise.

    python -m experiments.eventprop_mnist --out runs/reference --recipe reference
    python -m experiments.eventprop_mnist --out runs/deep --recipe deep

`reference` is the one-layer original to the letter: every pixel spikes once, white ones at 2 ms, black ones at 12 ms; its Euler scheme
with the hard reset and without the factor tau_s; weights of silent neurons kicked by 0.1; SGD at 1.0, a tenth of it every 10 epochs.
The last batch of an epoch holds the 96 images that are left.
`deep` is the published 784-350-10 network with latency code and maximal voltage of leaky integrators, `recurrent` the same with synapses
among the hidden neurons, `conv` a network of two convolutions. docs/eventprop.md lists what each reaches and costs, and
`--help` the values of the flags that a recipe sets.

Times are in milliseconds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jsnn import check, data, metrics
from jsnn import mesh as meshes
from jsnn.plot import eventprop as eventprop_figures
from jsnn.plot import figures
from jsnn.train import rebuild, supervised, sweep
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer

from . import cli, common, flags, rules
from . import eventprop_networks as networks

_LATENCY: dict[str, Any] = {
    "duration": 25.0, "dt": 1.0, "t_min": 0.0, "t_max": 20.0, "epochs": 15, "batch_size": 16, "learning_rate": 5e-3, "lr_decay": 0.9,
    "lr_decay_epochs": 1, "kick": 0.0, "dropout": 0.2, "shift": 0, "read_out": "max", "min_slope": 1.0,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "reference": {
        "duration": 20.0, "dt": 1.0, "t_min": 2.0, "t_max": 12.0, "epochs": 40, "batch_size": 128, "learning_rate": 1.0, "lr_decay": 0.1,
        "lr_decay_epochs": 10, "kick": 0.1, "hidden": 0, "dropout": 0.0, "shift": 0,
    },
    "deep": _LATENCY | {"epochs": 30, "hidden": 350},
    "recurrent": _LATENCY | {"hidden": 128},
    "conv": _LATENCY | {
        "duration": 26.0, "dt": 2.0, "batch_size": 64, "learning_rate": 2e-2, "lr_decay": 0.8, "hidden": 16, "dropout": 0.05, "shift": 1,
        "read_out": "mean",
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(cli.Frames, cli.Supervised):
    """EventProp on a time grid. Times are in milliseconds."""

    of: ClassVar = rules.EVENTPROP_MNIST
    recipes: ClassVar = RECIPES
    sets: ClassVar = ("digits", "mnist", "fashion_mnist", "kmnist")

    recipe: Literal["reference", "deep", "conv", "recurrent"] = "deep"
    """Network, code, loss and defaults of other flags."""
    data: str = "mnist"
    """Data set: digits, mnist, fashion_mnist or kmnist; or an .npz file of your own: see jsnn.data.from_file."""
    epochs: flags.Count = cli.OF_RECIPE
    """Passes over the training set."""
    batch_size: flags.Count = cli.OF_RECIPE
    """Images a step."""
    learning_rate: cli.LearningRate = cli.OF_RECIPE
    """Step size of SGD (reference) or Adam (others) at the start."""
    lr_decay: flags.Positive = cli.OF_RECIPE
    """Factor on the step size every --lr-decay-epochs."""
    lr_decay_epochs: flags.Count = cli.OF_RECIPE
    """Epochs between two decays of the step size."""
    duration: cli.Duration = cli.OF_RECIPE
    """Length of a trial, in ms."""
    dt: flags.Positive = cli.OF_RECIPE
    """Time step, in ms."""
    tau_m: flags.Positive = 20.0
    """Membrane time constant, in ms."""
    tau_s: flags.Positive = 5.0
    """Synaptic time constant, in ms."""
    t_min: flags.NotNegative = cli.OF_RECIPE
    """When the brightest pixels spike, in ms."""
    t_max: flags.Positive = cli.OF_RECIPE
    """When black (reference) or nearly black pixels (others) spike, in ms."""
    xi: flags.Positive = 0.4
    """Reference: the softmax over first-spike times has the time scale xi tau_s."""
    alpha: flags.NotNegative = 0.01
    """Reference: weight of the loss's term that asks the right neuron to be early."""
    beta: flags.Positive = 2.0
    """Reference: the term that asks the right neuron to be early has the time scale beta tau_s."""
    kick: flags.NotNegative = cli.OF_RECIPE
    """Reference, heuristic: added to all weights of a neuron silent on any sample of a batch, until none is; 0 for none."""
    hidden: flags.Natural = cli.OF_RECIPE
    """Hidden neurons (deep, recurrent), or channels of the first convolution (conv); the second has twice as many."""
    dropout: Annotated[float, "[0, 1)"] = cli.OF_RECIPE
    """Fraction of the input spikes dropped in training; not for reference."""
    shift: flags.Natural = cli.OF_RECIPE
    """Largest shift of the training images along either axis, in whole pixels, drawn anew at each use."""
    read_out: Literal["max", "mean", "weighted"] | None = None
    """What counts of the output membranes: their largest value, their mean, or a mean that weighs early times more; not for reference."""
    min_slope: flags.Positive | None = None
    """Floor of tau_m dV/dt at a spike in the backward pass, in thresholds; heuristic: it bounds the gradient of grazing spikes; not for reference."""
    log_every: flags.Count | None = 50

    def defaults(self) -> Mapping[str, Any]:
        """The recipe's; frames are not shifted."""
        return RECIPES[self.recipe] | ({"shift": 0} if self.frames else {})

    def __post_init__(self):
        super().__post_init__()
        if self.recipe != "reference":
            check.whole("--hidden", self.hidden, 1)
        if round(self.duration / self.dt) < 2:
            raise ValueError(
                f"`--duration` must hold at least 2 steps of `--dt`, got {self.duration} and {self.dt}."
            )
        last = self.duration - self.dt
        if not 0 <= self.t_min < self.t_max <= last:
            raise ValueError(
                f"`--t-min` and `--t-max` must satisfy 0 <= t_min < t_max <= duration - dt = {last}, got {self.t_min} and {self.t_max}."
            )


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", "lr_decay", "tau_m", "tau_s", "xi", "alpha", "beta")


def make_optimizer(
    cfg: Config, steps_per_epoch: int, values: Mapping[str, Any] = {}
) -> optax.GradientTransformation:
    """SGD (reference) or Adam, with a step size that falls by a factor every so many epochs."""
    rate, decay = common.numbers(cfg, values, "learning_rate", "lr_decay")
    schedule = common.decayed(rate, decay, cfg.lr_decay_epochs * steps_per_epoch)
    return optax.sgd(schedule) if cfg.recipe == "reference" else optax.adam(schedule)


def make_design(
    cfg: Config, shapes: Shapes, values: Mapping[str, Any] = {}
) -> networks.Design:
    """The recipe's network.

    Raises:
      ValueError: if images are too small for it or for `--shift`.
    """
    named = "--recipe conv" if cfg.recipe == "conv" else None
    common.check_shape(cfg, shapes, named, "--recipe deep")
    size = min(shapes.inputs[:2])
    if cfg.shift and cfg.shift >= size:
        raise ValueError(
            f"`--shift` must be less than the images' {size} pixels, got {cfg.shift}."
        )
    return networks.DESIGNS[cfg.recipe](cfg, shapes, values)


def trainer_for(
    cfg: Config,
    shapes: Shapes,
    values: Mapping[str, Any] = {},
    mesh: Mesh | None = None,
) -> Trainer:
    """The trainer of one seed, or of a member of a sweep."""
    common.check_batch(cfg.batch_size, shapes.num_train)
    keep = cfg.recipe == "reference"
    steps, left = divmod(shapes.num_train, cfg.batch_size)
    steps += keep and left > 0
    return supervised.supervised(
        networks.make_task(cfg, make_design(cfg, shapes, values)),
        make_optimizer(cfg, steps, values),
        batch_size=cfg.batch_size,
        epochs=cfg.epochs,
        remainder="keep" if keep else "drop",
        eval_batch_size=500,
        mesh=mesh,
    )


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`."""
    return common.program(trainer_for, cfg, common.load(cfg))


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    mesh = cfg.devices(cfg.batch_size)
    dataset = common.load(cfg)
    shapes = rebuild.shapes_of(dataset)
    steps = networks.num_steps(cfg, shapes)
    trained = common.train(cfg, trainer_for(cfg, shapes, mesh=mesh), dataset, steps)
    if not meshes.is_primary():
        return {}
    result = common.finish(cfg, trained, dataset, timesteps=steps)
    save_figures(cfg, trained, make_design(cfg, shapes), dataset, steps * cfg.dt)
    return result


def save_figures(
    cfg: Config,
    trained: common.Trained,
    design: networks.Design,
    dataset: data.Dataset,
    duration: float,
) -> None:
    """Writes curves.png, confusion.png, spike_times.png and adjoints.png."""
    images, labels = dataset.test
    shown = jnp.asarray(images[:64]), jnp.asarray(labels[:64])
    looked = networks.look(cfg, design, trained.model, *shown)
    times = {
        name: np.where(z.any(0), cfg.dt * z.argmax(0), np.inf)
        for name, trace in looked.items()
        if (z := np.asarray(trace.spikes)).ndim
    }
    matrix = metrics.confusion_matrix(
        trained.found.label[0], labels, dataset.num_classes
    )
    drawn = {
        "curves": figures.curves(trained.run.rows()),
        "confusion": figures.confusion(matrix, dataset.class_names),
        "spike_times": eventprop_figures.first_spikes(
            times, labels[:64], t_end=duration
        ),
        "adjoints": eventprop_figures.adjoints(looked, dt=cfg.dt),
    }
    figures.save_all(drawn, trained.run.out)


if __name__ == "__main__":
    cli.run(Config, main)
