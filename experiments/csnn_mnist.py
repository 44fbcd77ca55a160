"""Trains a convolutional spiking network with surrogate gradients; MNIST unless told otherwise.

    python -m experiments.csnn_mnist --out runs/reference --recipe reference
    python -m experiments.csnn_mnist --out runs/fast --recipe fast --epochs 15

`reference` is the snnTorch CSNN to the letter: the same image for 100 steps, Adam 1e-2, batches of 128, cross entropy of every
step's output spikes, one epoch, the test set after iterations 0, 50, ...; but all 10,000 test images, where the original drops 16.
`fast` asks for the best accuracy for little work: 4 steps, batch norm, arctan surrogate, a membrane read-out, a warm-up and cosine
decay of the step size, and over more than one epoch random shifts, turns and sizes. The README lists what each reaches and costs.
"""

import dataclasses
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import cli, common, flags, rules
from jsnn import (
    activity,
    augment,
    data,
    layers,
    losses,
    metrics,
    neurons,
    readout,
    surrogate,
)
from jsnn import mesh as meshes
from jsnn.encoders import unit_interval
from jsnn.model import Network
from jsnn.models.csnn import csnn, fast_csnn
from jsnn.plot import report
from jsnn.train import rebuild, supervised, sweep
from jsnn.train import task as tasks
from jsnn.train.loop import Schedule
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer
from jsnn.unroll import Constant

# What the flags default to. `epochs` and the rest may be set by hand; the summary says what was used.
RECIPES: dict[str, dict[str, Any]] = {
    "reference": {
        "timesteps": 100,
        "learning_rate": 1e-2,
        "surrogate": "fast_sigmoid",
        "eval_every": 50,
        "augment": False,
    },
    "fast": {
        "timesteps": 4,
        "learning_rate": 4e-3,
        "surrogate": "arctan",
        "eval_every": None,
        "augment": None,
    },
}


@dataclasses.dataclass(frozen=True)
class Config(cli.Seeds, cli.Devices):
    """Surrogate-gradient training of a convolutional spiking network."""

    out: pathlib.Path
    """Folder for config, metrics, figures and checkpoints."""
    recipe: Literal["reference", "fast"] = "fast"
    """Network, loss and defaults of the flags whose default is None."""
    data: Literal[
        "digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"
    ] = "mnist"
    """Data set."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    seed: int = 0
    """Decides initial weights, the order of samples and augmentation."""
    epochs: int = 1
    """Passes over the training set."""
    timesteps: int | None = None
    """T, time steps for which each image is shown (reference 100, fast 4)."""
    batch_size: int = 128
    """Images a step."""
    learning_rate: float | None = None
    """Adam's step size, its peak in the fast recipe (reference 1e-2, fast 4e-3)."""
    beta: float = 0.5
    """Fraction of the membrane potential kept per time step, in [0, 1]."""
    threshold: float = 1.0
    """Membrane potential above which a neuron spikes."""
    init_scale: float = 1.0
    """Factor on the initial weights of synapses."""
    slope: float | None = None
    """Slope of the surrogate's curve, in units of 1 / potential, larger is steeper: see jsnn.surrogate; its own default if omitted."""
    surrogate: str | None = None
    """Curve of the backward pass: see jsnn.surrogate (reference fast_sigmoid, fast arctan)."""
    precision: cli.Precision = "float32"
    """Of spikes and synapses; parameters and membranes stay in float32. bfloat16 pays on GPU and TPU."""
    augment: bool | None = None
    """Random shifts, turns and sizes of training images (reference: no; fast: if there is more than one epoch)."""
    eval_every: int | None = None
    """Optimiser steps between evaluations of the whole test set, 0 for the end only (reference 50, fast once an epoch)."""
    log_every: int = 10
    """Optimiser steps averaged into one row of metrics.jsonl."""
    num_validation: int = 0
    """Training images held out; if any, evaluations during training use them and the test set is left for the end."""
    remat: bool = False
    """Recompute the network inside time blocks in the backward pass: less memory, more time."""
    block_size: int | None = None
    """Time steps a block; all if omitted. With --remat, about the square root of --timesteps needs least memory."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Go on with the run in --out."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self):
        flags.check_ranges(self, rules.CSNN.ranges)
        flags.check_seeds(self)

    def check_needs(self) -> None:
        """Refuses flags that would do nothing."""
        flags.check_needs(self, rules.CSNN, RECIPES.get(self.recipe, {}))

    def resolved(self) -> "Config":
        """The same with the recipe's defaults filled in."""
        defaults = dict(RECIPES[self.recipe])
        if defaults["augment"] is None:
            defaults["augment"] = self.epochs > 1
        found = {
            name: value
            for name, value in defaults.items()
            if value is not None and getattr(self, name) is None
        }
        # A resolved config passes as it is: in a sweep its fields may be traced, and cannot be checked again.
        if not found:
            return self
        return dataclasses.replace(self, **found)


def make_network(cfg: Config, shapes: Shapes) -> Network:
    """The recipe's network."""
    reference = cfg.recipe == "reference"
    assert cfg.surrogate is not None
    spike_fn = surrogate.get(cfg.surrogate, cfg.slope)
    neuron = neurons.lif(
        beta=cfg.beta,
        threshold=cfg.threshold,
        reset="subtract" if reference else "zero",
        delayed_reset=reference,
        spike_fn=spike_fn,
    )
    make = csnn if reference else fast_csnn
    network = layers.network(
        lambda rngs: make(
            shapes.inputs,
            shapes.num_classes,
            neuron=neuron,
            block_size=cfg.block_size,
            remat=cfg.remat,
            rngs=rngs,
        )
    )
    if isinstance(cfg.init_scale, float) and cfg.init_scale == 1:
        return network

    def scale(path, x):
        return x * cfg.init_scale if path[-1].key == "weight" else x

    def init(key):
        model = network.init(key)
        return model._replace(params=jax.tree.map_with_path(scale, model.params))

    return network._replace(init=init)


def make_task(cfg: Config, network: Network) -> tasks.Task:
    """What the recipe makes of the network's output: of spikes their rates, of membranes their means."""
    num_steps = cfg.timesteps
    assert num_steps is not None

    def shown(inputs, key):
        return Constant(unit_interval(inputs).astype(cfg.precision), num_steps)

    def changed(key, images):
        images = unit_interval(images)
        return augment.random_affine(
            key, images, degrees=10.0, shift=2.0, scale=0.1, shear=0.1
        )

    return tasks.classifier(
        network,
        encode=shown,
        loss=losses.ce_rate if cfg.recipe == "reference" else losses.ce_mean_membrane,
        read_out=readout.mean_membrane,
        augment=changed if cfg.augment else None,
    )


def make_optimizer(cfg: Config, num_steps: int) -> optax.GradientTransformation:
    """Adam, at a constant step size (reference) or warmed up and decayed to zero over all steps (fast)."""
    assert cfg.learning_rate is not None
    if cfg.recipe == "reference":
        return optax.adam(cfg.learning_rate)
    peak = cfg.learning_rate
    warmup = min(max(1, num_steps // 7), 500)
    # Optax's schedules want a peak they can compare with zero, which a sweep's traced one cannot be.
    shape = optax.warmup_cosine_decay_schedule(1 / 20, 1.0, warmup, num_steps + 1)
    return optax.adam(lambda step: peak * shape(step))


def trainer_for(cfg: Config, shapes: Shapes, mesh: Mesh | None = None) -> Trainer:
    """The trainer of one seed."""
    cfg = cfg.resolved()
    common.check_batch(cfg.batch_size, shapes.num_train)
    num_steps = cfg.epochs * (shapes.num_train // cfg.batch_size)
    return supervised.supervised(
        make_task(cfg, make_network(cfg, shapes)),
        make_optimizer(cfg, num_steps),
        batch_size=cfg.batch_size,
        epochs=cfg.epochs,
        mesh=mesh,
    )


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", "beta", "threshold", "init_scale", "slope")


def load(cfg: Config, seed: int) -> data.Dataset:
    """The data set, with the images held out that the seed chooses."""
    return data.load(
        cfg.data, data_dir=cfg.data_dir, num_validation=cfg.num_validation, seed=seed
    )


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`; with `num_validation` its metrics are of the validation split."""
    cfg = cfg.resolved()
    dataset = load(cfg, 0)
    shapes = rebuild.shapes_of(dataset)
    return supervised.program(
        lambda values: trainer_for(sweep.with_values(cfg, values), shapes),
        supervised.prepare(dataset),
        split="test" if dataset.validation is None else "validation",
    )


def _spending(graphdef, model, images, num_steps: int) -> dict[str, float]:
    """Firing rate, synaptic operations and energy a sample over 64 test images; warns of silent and saturated layers."""

    @jax.jit
    def look(model, images):
        x = Constant(unit_interval(images), num_steps)
        activities = activity.record(graphdef, model, x)
        operations = activity.synaptic_operations(graphdef, model, x)
        firing = [activity.firing(a) for a in activities if a.spikes is not None]
        return activities, operations, activity.energy(operations), firing

    activities, operations, joules, firing = look(model, jnp.asarray(images[:64]))
    activity.check(activities, activity.neuron_names(graphdef, model))
    return {
        "firing_rate": float(np.mean([f.rate for f in firing])),
        "synaptic_operations": float(sum(o.accumulates.mean() for o in operations)),
        "energy_joules": float(joules.spiking.mean()),
        "energy_joules_conventional": float(joules.conventional),
    }


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    cfg = cfg.resolved()
    num_steps = cfg.timesteps
    assert num_steps is not None
    mesh = cfg.devices(cfg.batch_size)
    dataset = load(cfg, cfg.seed)
    shapes = rebuild.shapes_of(dataset)
    schedule = Schedule(cfg.log_every, cfg.eval_every, cfg.checkpoint_seconds)
    trained = common.train(
        "csnn_mnist", cfg, trainer_for(cfg, shapes, mesh), dataset, schedule, rules.CSNN
    )
    if not meshes.is_primary():
        return {}
    (images, labels), model = dataset.test, trained.model
    first = jax.tree.map(lambda x: x[0], trained.found)
    graphdef = make_network(cfg, shapes).graphdef
    report.save_figures(
        trained.run.out,
        graphdef,
        model,
        images=images,
        labels=labels,
        prediction=first.label,
        num_steps=num_steps,
        class_names=dataset.class_names,
    )
    spending = _spending(graphdef, model, images, num_steps)
    quality = metrics.classification_report(first.label, labels, dataset.num_classes)
    return trained.run.finish(
        {
            "dataset": cfg.data,
            "recipe": cfg.recipe,
            "seed": cfg.seed,
            "seeds": cfg.seeds,
            "epochs": cfg.epochs,
            "timesteps": num_steps,
            **common.accuracies(cfg, trained, labels),
            "test_loss": float(jnp.mean(trained.found.loss)),
            "macro_f1": quality["macro_f1"],
            "roc_auc": metrics.roc_auc(first.scores, labels),
            **spending,
            "wall_seconds": trained.fitted.seconds,
            "samples_per_second": trained.fitted.samples_per_second,
        }
    )


if __name__ == "__main__":
    cli.run(Config, main)
