"""Trains spiking networks with EventProp on a time grid; MNIST unless told otherwise.

    python -m experiments.eventprop_mnist --out runs/reference --recipe reference
    python -m experiments.eventprop_mnist --out runs/deep --recipe deep

`reference` is the one-layer original to the letter: every pixel spikes once, white ones at 2 ms, black ones at 12 ms; its Euler scheme
with the hard reset and without the factor tau_s; weights of silent neurons kicked by 0.1; SGD at 1.0, a tenth of it every 10 epochs.
The last batch of an epoch holds the 96 images that are left.
`deep` is the published 784-350-10 network with latency code and maximal voltage of leaky integrators, `recurrent` the same with synapses
among the hidden neurons, `conv` a network of two convolutions. docs/eventprop.md lists what each reaches and costs.

Times are in milliseconds.
"""

import dataclasses
import pathlib
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import cli, common, flags, rules
from experiments import eventprop_networks as networks
from jsnn import check, data, metrics
from jsnn import mesh as meshes
from jsnn.plot import eventprop as eventprop_figures
from jsnn.plot import figures
from jsnn.train import rebuild, runs, supervised, sweep
from jsnn.train.loop import Schedule
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer

_LATENCY: dict[str, Any] = {
    "T": 25.0,
    "dt": 1.0,
    "t_min": 0.0,
    "t_max": 20.0,
    "batch_size": 16,
    "lr": 5e-3,
    "lr_decay": 0.9,
    "lr_decay_epochs": 1,
    "kick": 0.0,
    "hidden": 350,
    "dropout": 0.2,
    "shift": 0,
    "read_out": "max",
    "min_slope": 1.0,
}
# What the flags default to.
RECIPES: dict[str, dict[str, Any]] = {
    "reference": {
        "T": 20.0,
        "dt": 1.0,
        "t_min": 2.0,
        "t_max": 12.0,
        "epochs": 40,
        "batch_size": 128,
        "lr": 1.0,
        "lr_decay": 0.1,
        "lr_decay_epochs": 10,
        "kick": 0.1,
        "hidden": 0,
        "dropout": 0.0,
        "shift": 0,
    },
    "deep": _LATENCY | {"epochs": 30},
    "recurrent": _LATENCY | {"epochs": 15, "hidden": 128},
    "conv": _LATENCY
    | {
        "T": 26.0,
        "dt": 2.0,
        "epochs": 15,
        "batch_size": 64,
        "lr": 2e-2,
        "lr_decay": 0.8,
        "hidden": 16,
        "dropout": 0.05,
        "shift": 1,
        "read_out": "mean",
    },
}


@dataclasses.dataclass(frozen=True)
class Config(cli.Seeds, cli.Devices):
    """EventProp on a time grid. Times are in milliseconds."""

    out: pathlib.Path
    """Folder for config, metrics, figures and checkpoints."""
    recipe: Literal["reference", "deep", "conv", "recurrent"] = "deep"
    """Network, code, loss and defaults of the flags whose default is None."""
    data: Literal["digits", "mnist", "fashion_mnist", "kmnist"] = "mnist"
    """Data set."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    seed: int = 0
    """Decides initial weights and the order of samples."""
    epochs: int | None = None
    """Passes over the training set (reference 40, deep 30, others 15)."""
    batch_size: int | None = None
    """Images a step (reference 128, conv 64, others 16)."""
    lr: float | None = None
    """Step size of SGD (reference, 1.0) or Adam (conv 2e-2, others 5e-3)."""
    lr_decay: float | None = None
    """Factor on the step size every --lr-decay-epochs (reference 0.1, conv 0.8, others 0.9)."""
    lr_decay_epochs: int | None = None
    """Epochs between decays (reference 10, others 1)."""
    T: float | None = None
    """Length of a trial (reference 20, others 25)."""
    dt: float | None = None
    """Time step (conv 2, others 1)."""
    tau_m: float = 20.0
    """Membrane time constant."""
    tau_s: float = 5.0
    """Synaptic time constant."""
    t_min: float | None = None
    """When the brightest pixels spike (reference 2, others 0)."""
    t_max: float | None = None
    """When black (reference, 12) or nearly black pixels (others, 20) spike."""
    xi: float = 0.4
    """Reference: the softmax over first-spike times has the scale xi tau_s."""
    alpha: float = 0.01
    """Reference: weight of the term that asks the right neuron to be early."""
    beta: float = 2.0
    """Reference: that term has the time scale beta tau_s."""
    kick: float | None = None
    """Reference, heuristic: added to all weights of a neuron silent on any sample of a batch, until none is; 0 for none (0.1)."""
    hidden: int | None = None
    """Hidden neurons (deep 350, recurrent 128), or channels of the first convolution (16); the second has twice as many."""
    dropout: float | None = None
    """Fraction of the input spikes dropped in training (reference 0, conv 0.05, others 0.2)."""
    shift: int | None = None
    """Largest shift of the training images along either axis, in whole pixels, drawn anew at each use (conv 1, others 0)."""
    read_out: Literal["max", "mean", "weighted"] | None = None
    """What counts of the output membranes: their largest value, their mean, or a mean that weighs early times more (conv mean, others max; not for reference)."""
    min_slope: float | None = None
    """Floor of tau_m dV/dt at a spike in the backward pass, in thresholds; heuristic: it bounds the gradient of grazing spikes (1; not for reference)."""
    num_validation: int = 0
    """Training images held out; if any, evaluations during training use them and the test set is left for the end."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Go on with the run in --out."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self):
        flags.check_ranges(self, rules.EVENTPROP_MNIST.ranges)
        flags.check_seeds(self)
        if self.recipe != "reference" and self.hidden is not None:
            check.whole("--hidden", self.hidden, 1)

    def check_needs(self) -> None:
        """Refuses flags that would do nothing."""
        flags.check_needs(self, rules.EVENTPROP_MNIST, RECIPES.get(self.recipe, {}))

    def resolved(self) -> "Config":
        """The same with the recipe's defaults filled in, and times checked against each other."""
        found = {
            name: value
            for name, value in RECIPES[self.recipe].items()
            if getattr(self, name) is None
        }
        cfg: Any = dataclasses.replace(self, **found)
        if round(cfg.T / cfg.dt) < 2:
            raise ValueError(
                f"`--T` must hold at least 2 steps of `--dt`, got {cfg.T} and {cfg.dt}."
            )
        if not 0 <= cfg.t_min < cfg.t_max <= cfg.T - cfg.dt:
            raise ValueError(
                f"`--t-min` and `--t-max` must satisfy 0 <= t_min < t_max <= T - dt = {cfg.T - cfg.dt}, got {cfg.t_min} and {cfg.t_max}."
            )
        return cfg


def make_optimizer(cfg: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD (reference) or Adam, with a step size that falls by a factor every so many epochs."""
    assert cfg.lr is not None
    assert cfg.lr_decay is not None
    assert cfg.lr_decay_epochs is not None
    lr, decay, every = cfg.lr, cfg.lr_decay, cfg.lr_decay_epochs * steps_per_epoch

    # Optax's own schedule compares the factor with zero, which a sweep's traced one cannot be.
    def schedule(step):
        return lr * decay ** (step // every)

    return optax.sgd(schedule) if cfg.recipe == "reference" else optax.adam(schedule)


def make_design(settings: Any, shapes: Shapes) -> networks.Design:
    """The recipe's network; numbers of a resolved configuration may be traced by a sweep.

    Raises:
      ValueError: if images are too small for it or for `--shift`.
    """
    size = min(shapes.inputs[:2])
    if settings.shift >= size:
        raise ValueError(
            f"`--shift` must be less than the images' {size} pixels, got {settings.shift}."
        )
    return networks.DESIGNS[settings.recipe](
        settings, shapes.inputs, shapes.num_classes
    )


def make_trainer(settings: Any, shapes: Shapes, mesh: Mesh | None = None) -> Trainer:
    """The trainer of one seed, for a resolved configuration, whose numbers a sweep may have traced."""
    common.check_batch(settings.batch_size, shapes.num_train)
    keep = settings.recipe == "reference"
    steps, left = divmod(shapes.num_train, settings.batch_size)
    steps += keep and left > 0
    return supervised.supervised(
        networks.make_task(settings, make_design(settings, shapes)),
        make_optimizer(settings, steps),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        remainder="keep" if keep else "drop",
        eval_batch_size=500,
        mesh=mesh,
    )


def trainer_for(cfg: Config, shapes: Shapes, mesh: Mesh | None = None) -> Trainer:
    """The trainer of one seed of a run."""
    return make_trainer(cfg.resolved(), shapes, mesh)


# What a sweep may vary within one compiled program.
SWEPT = ("lr", "lr_decay", "tau_m", "tau_s", "xi", "alpha", "beta")


def load(cfg: Config, seed: int) -> data.Dataset:
    """The data set, with the images held out that the seed chooses."""
    return data.load(
        cfg.data, data_dir=cfg.data_dir, num_validation=cfg.num_validation, seed=seed
    )


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`; with `num_validation` its metrics are of the validation split."""
    settings = cfg.resolved()
    dataset = load(cfg, 0)
    shapes = rebuild.shapes_of(dataset)
    return supervised.program(
        lambda values: make_trainer(sweep.with_values(settings, values), shapes),
        supervised.prepare(dataset),
        split="test" if dataset.validation is None else "validation",
    )


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    cfg = cfg.resolved()
    assert cfg.batch_size is not None
    mesh = cfg.devices(cfg.batch_size)
    dataset = load(cfg, cfg.seed)
    shapes = rebuild.shapes_of(dataset)
    schedule = Schedule(50, checkpoint_seconds=cfg.checkpoint_seconds)
    trainer, of = trainer_for(cfg, shapes, mesh), rules.EVENTPROP_MNIST
    trained = common.train("eventprop_mnist", cfg, trainer, dataset, schedule, of)
    if not meshes.is_primary():
        return {}
    prediction, labels = np.asarray(trained.found.label[0]), dataset.test.labels
    design = make_design(cfg, shapes)
    save_figures(trained.run, cfg, design, trained.model, dataset, prediction)
    quality = metrics.classification_report(prediction, labels, dataset.num_classes)
    return trained.run.finish(
        {
            "dataset": cfg.data,
            "recipe": cfg.recipe,
            "seed": cfg.seed,
            "seeds": cfg.seeds,
            "epochs": cfg.epochs,
            "timesteps": networks.num_steps(cfg),  # pyright: ignore[reportArgumentType]
            **common.accuracies(cfg, trained, labels),
            "test_loss": float(jnp.mean(trained.found.loss)),
            "macro_f1": quality["macro_f1"],
            "wall_seconds": trained.fitted.seconds,
            "samples_per_second": trained.fitted.samples_per_second,
        }
    )


def save_figures(
    run: runs.Run,
    cfg: Config,
    design: networks.Design,
    model: Any,
    dataset: data.Dataset,
    prediction: np.ndarray,
) -> None:
    """Writes curves.png, confusion.png, spike_times.png and adjoints.png."""
    images, labels = dataset.test
    settings: Any = cfg
    shown = jnp.asarray(images[:64]), jnp.asarray(labels[:64])
    looked = networks.look(settings, design, model, *shown)
    times = {
        name: np.where(z.any(0), settings.dt * z.argmax(0), np.inf)
        for name, trace in looked.items()
        if (z := np.asarray(trace.spikes)).ndim
    }
    matrix = metrics.confusion_matrix(prediction, labels, dataset.num_classes)
    drawn = {
        "curves": figures.curves(run.rows()),
        "confusion": figures.confusion(matrix, dataset.class_names),
        "spike_times": eventprop_figures.first_spikes(
            times, labels[:64], t_end=settings.T
        ),
        "adjoints": eventprop_figures.adjoints(looked, dt=settings.dt),
    }
    figures.save_all(drawn, run.out)


if __name__ == "__main__":
    cli.run(Config, main)
