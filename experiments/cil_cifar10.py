"""Learns classes in tasks, one after another, with a spiking network whose head grows; CIFAR-10 in five tasks of two unless told otherwise.

    python -m experiments.cil_cifar10 --out runs/reference --recipe reference
    python -m experiments.cil_cifar10 --out runs/mnist --data mnist --method der++ --buffer 500

`reference` is the class-incremental reference to the letter: three convolutions with batch norm, 10 steps, firing rates as logits, two
epochs a task, Adam 1e-3 made anew for each task, batch norm in evaluation mode from the second task on, nothing against forgetting.
One liberty: where the last batch of an epoch is short, it is filled up with samples that count for batch norm only.
`default` has a read-out without spikes, fewer steps and a network to suit the data. docs/continual.md lists what each method reaches, and
`--help` the values of the flags that a recipe sets.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

import jsnn
from jsnn import augment, continual, data, head, layers
from jsnn import mesh as meshes
from jsnn.continual import members, methods, report, samples, spiking, stream
from jsnn.continual.method import Method
from jsnn.continual.settings import parse_settings, with_settings
from jsnn.models.cil_cnn import cil_cnn, cil_mlp, cil_small_cnn
from jsnn.plot import continual as continual_figures
from jsnn.train import fitted as models
from jsnn.train import rebuild, runs, sweep
from jsnn.train.trainer import Trainer
from jsnn.unroll import Signal, steps_in_cache

from . import cli, common, flags, rules

RECIPES: dict[str, dict[str, Any]] = {
    "reference": {"network": "cnn", "width": 64, "timesteps": 10, "epochs_per_task": 2, "read_out": "rate", "batch_norm": "reference", "statistics": "step"},
    "default": {"width": 32, "timesteps": 4, "epochs_per_task": 5, "read_out": "current", "batch_norm": "train", "statistics": "block"},
}  # fmt: skip
# Mean and deviation of the channels: for CIFAR-10 those of the reference.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
# Feature layers up to the first one that spikes: where latent replay enters.
FIRST_SPIKES = {"cnn": 3, "small": 2, "mlp": 2}
Name = Literal["naive", "joint", "cumulative", "er", "er-ace", "der", "der++", "latent-er", "lwf", "ewc", "si", "icarl", "bic", "wa", "slda", "ncm", "gdumb"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(cli.Frames, cli.Devices, cli.Seeds, cli.Run):
    """Class-incremental training of a spiking network."""

    of: ClassVar = rules.CIL
    recipes: ClassVar = RECIPES
    sets: ClassVar = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")

    recipe: Literal["reference", "default"] = "default"
    """Defaults of other flags: those of the class-incremental reference, or of this library."""
    method: Name = "naive"
    """What is done against forgetting: see jsnn.continual.methods."""
    data: str = "cifar10"
    """Data set: digits, mnist, fashion_mnist, cifar10 or cifar100; or an .npz file of your own: see jsnn.data.from_file."""
    tasks: str = "5x2"
    """Tasks by number and size (5x2), or their classes (0,1|5|2,3,4)."""
    class_order: flags.Seed | None = None
    """Seed that shuffles the classes of 5x2 tasks; their own order if omitted."""
    scenario: stream.Scenario = "class"
    """class: each class has an output of its own; domain: tasks share outputs."""
    repeated: stream.Repeated = "refuse"
    """A class in several tasks: refuse it, train on all of its samples again, or split them."""
    num_validation: flags.Natural = 0
    """Training images held out, of each class its share; their accuracy is written beside that of the test images."""
    buffer: flags.Count = 500
    """Samples that methods with a memory may keep."""
    exemplars: Literal["uniform", "balanced"] = "uniform"
    """What er, er-ace, der and der++ keep: each sample, or each class, with equal share."""
    latent_layer: flags.Count | None = None
    """For latent-er: feature layers below the place whose spikes are kept; the last of them must spike; the first that does if omitted."""
    settings: tuple[str, ...] = ()
    """Weights of the method's terms, as TERM.WEIGHT=VALUE: replay.beta=0.5."""
    network: Literal["cnn", "small", "mlp"] | None = None
    """cnn: three convolutions with batch norm; small: two with stride, without; mlp: two dense layers. If omitted cnn for CIFAR and small for others."""
    width: flags.Count = cli.OF_RECIPE
    """Channels of the first convolution, or neurons of both layers of the mlp."""
    hidden: tuple[flags.Count, ...] | None = None
    """Neurons of the mlp's layers; 400 400, or --width for both, if omitted."""
    timesteps: flags.Count = cli.OF_RECIPE
    """T, time steps for which each image is shown."""
    read_out: head.ReadOut = cli.OF_RECIPE
    """How outputs become logits: see jsnn.head.read_out."""
    batch_norm: spiking.BatchNormPolicy = cli.OF_RECIPE
    """Over tasks: train; reference: evaluation mode from the second task on; freeze: scale and offset too."""
    statistics: Literal["step", "block"] = cli.OF_RECIPE
    """Batch statistics of each time step, or of all steps together."""
    epochs_per_task: flags.Count = cli.OF_RECIPE
    """Passes over a task's samples."""
    batch_size: flags.Count = 64
    """Images a step; replay adds as many."""
    learning_rate: cli.LearningRate = 1e-3
    """Adam's step size."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Over each task: keep the step size (reference), or let it fall to zero along half a cosine."""
    keep_optimizer: bool = False
    """Keep Adam's moments from task to task; the reference makes Adam anew."""
    precision: cli.Precision = "float32"
    """Of spikes and synapses; parameters, membranes and the head stay in float32. bfloat16 pays on GPU and TPU."""
    augment: bool = False
    """Shift and mirror training images (colour), or shift and turn them (grey)."""
    augment_share: flags.Share = 1.0
    """Share of the training images that --augment changes, drawn anew at each use; turning blurs, and test images are sharp."""
    capacity: flags.Count | None = None
    """Columns of the head at the start, doubled as needed; as many as the stream needs if omitted."""
    evaluate_unseen: bool = False
    """Also test tasks to come, for forward transfer in task-IL."""
    log_every: flags.Count = 50
    """Optimiser steps averaged into one row of metrics.jsonl."""

    def defaults(self) -> dict[str, Any]:
        """The recipe's, and what follows from the data set, the network and its width."""
        found: dict[str, Any]
        found = {"network": "cnn" if self.data in STATISTICS else "small"}
        found |= RECIPES[self.recipe]
        network, width = self.network or found["network"], self.width
        wide = network == "mlp" and width not in (None, found.get("width"))
        found["hidden"] = (width, width) if wide else (400, 400)
        if self.method == "latent-er":
            found["latent_layer"] = FIRST_SPIKES.get(network)
        return found

    def __post_init__(self):
        super().__post_init__()
        method = _method(self)
        least = 1 + sum(part.withheld > 0 for part in method.parts)
        if self.buffer < least:
            raise ValueError(
                f"`--buffer` must be at least {least} for {self.method}, which keeps samples apart, got {self.buffer}."
            )
        parse_settings(self.settings, method)


def make_build(
    cfg: Config, image_shape: tuple[int, ...]
) -> Callable[[jax.Array, int], layers.Sequence]:
    """`(key, capacity) -> Sequence`."""

    def build(key, capacity):
        shared: Any = {"read_out": cfg.read_out, "rngs": nnx.Rngs(key)}
        shape: Any = image_shape
        if cfg.network == "mlp":
            return cil_mlp(shape, capacity, hidden=cfg.hidden or (), **shared)
        if cfg.network == "small":
            return cil_small_cnn(shape, capacity, width=cfg.width, **shared)
        return cil_cnn(
            shape,
            capacity,
            width=cfg.width,
            statistics=cfg.statistics,
            block_size=steps_in_cache() if cfg.statistics == "step" else None,
            **shared,
        )

    return build


def encoder(cfg: Config) -> Callable[..., Signal]:
    """Each image, normalised, as the same current at every step, or frames as they are."""
    if cfg.frames:
        return common.framed(cfg.precision)
    mean, std = STATISTICS.get(cfg.data, (None, None))
    return spiking.shown(cfg.timesteps, mean, std, jnp.dtype(cfg.precision))


def make_learner(
    cfg: Config,
    image: np.ndarray,
    values: Mapping[str, Any] = {},
    mesh: Mesh | None = None,
) -> continual.Learner:
    """Network, method and optimiser, of this configuration or of a member of a sweep; `image` is one as stored."""
    make_network = functools.partial(
        spiking.make_network,
        encode=encoder(cfg),
        read_out=cfg.read_out,
        augment=augment.by_colour(cfg.augment_share) if cfg.augment else None,
        latent_layer=cfg.latent_layer,
    )
    method = _method(cfg)
    rates, weights = members.split(dict(values))
    return continual.learner(
        make_build(cfg, image.shape[cfg.frames :]),
        make_network,
        method,
        optax.adam(*common.numbers(cfg, rates, "learning_rate")),
        image=image,
        batch_size=cfg.batch_size,
        buffer_size=cfg.buffer,
        settings=with_settings(method, weights, parse_settings(cfg.settings, method)),
        batch_norm=cfg.batch_norm,
        keep_optimizer=cfg.keep_optimizer,
        cosine_epochs=cfg.epochs_per_task if cfg.schedule == "cosine" else None,
        mesh=mesh,
    )


def trainer_for(
    cfg: Config,
    shapes: rebuild.Shapes,
    values: Mapping[str, Any] = {},
    *,
    tasks: continual.Stream | None = None,
    mesh: Mesh | None = None,
    capacity: int | None = None,
) -> Trainer:
    """The trainer of one seed, or of a member of a sweep; without `tasks` it predicts only. `capacity` in place of the flag."""
    if tasks is None:
        none = np.zeros(0, np.int32)
        bare = dataclasses.replace(cfg, num_validation=0)
        tasks = make_stream(bare, none, none, shapes.num_classes)
    named = None if cfg.network == "mlp" else f"--network {cfg.network}"
    common.check_shape(cfg, shapes, named, "--network mlp")
    image = np.zeros(shapes.inputs, shapes.dtype)
    return continual.trainer(
        make_learner(cfg, image, values, mesh),
        tasks,
        epochs_per_task=cfg.epochs_per_task,
        capacity=capacity or cfg.capacity,
        evaluate_unseen=cfg.evaluate_unseen,
    )


def _method(cfg: Config) -> Method:
    options: dict[str, Any] = {}
    if cfg.method in ("er", "er-ace", "der", "der++", "latent-er"):
        options["exemplars"] = cfg.exemplars
    if cfg.method == "der++":
        options["buffer_size"] = cfg.buffer
    return methods.get(cfg.method, **options)


def make_stream(
    cfg: Config, train_labels: np.ndarray, test_labels: np.ndarray, num_classes: int
) -> continual.Stream:
    """The tasks."""
    return stream.make_stream(
        train_labels,
        test_labels,
        stream.parse_tasks(cfg.tasks, num_classes, order_seed=cfg.class_order),
        num_classes=num_classes,
        scenario=cfg.scenario,
        repeated=cfg.repeated,
        num_validation=cfg.num_validation,
        seed=cfg.seed,
    )


def load(cfg: Config) -> tuple[data.Dataset, continual.Stream]:
    """The data set and the tasks made of it."""
    found = common.load(cfg, 0)  # of each class a stream holds out its share
    labels = found.train.labels, found.test.labels
    return found, make_stream(cfg, *labels, found.num_classes)


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", *members.WEIGHTS)


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`, with the figures of its summary but for the matrices."""
    if cfg.evaluate_unseen or cfg.seeds > 1:
        raise ValueError(
            "`--evaluate-unseen` and `--seeds` of the experiment are not for sweeps: leave them out. Sweeps have seeds of their own, and "
            "single runs forward transfer."
        )
    dataset, tasks = load(cfg)
    room = head.room_for(tasks.num_columns, cfg.capacity or tasks.num_columns)
    make = functools.partial(
        trainer_for, cfg, rebuild.shapes_of(dataset), tasks=tasks, capacity=room
    )
    return members.program(make, tasks, samples.put(tasks, dataset.train, dataset.test))


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains on all tasks, tests after each, and writes everything to `cfg.out`."""
    mesh = cfg.devices(cfg.batch_size)
    dataset, tasks = load(cfg)
    single = trainer_for(cfg, rebuild.shapes_of(dataset), tasks=tasks, mesh=mesh)
    if cfg.seeds > 1 and (cfg.capacity or tasks.num_columns) < tasks.num_columns:
        raise ValueError(
            f"`--seeds {cfg.seeds}` needs a head that does not grow: leave `--capacity` out, or make it {tasks.num_columns}."
        )
    steps = common.num_steps(cfg, rebuild.shapes_of(dataset))
    common.check_batch(cfg.batch_size, len(dataset.train.labels))
    common.check_size(cfg, single, dataset, steps)
    trainer, key = common.keys(cfg, single)
    run = common.open_run(cfg)
    schedule = jsnn.Schedule(cfg.log_every, checkpoint_seconds=cfg.checkpoint_seconds)
    fitted = jsnn.fit(
        trainer, dataset, key, run=run, schedule=schedule, progress=cfg.progress
    )
    if not meshes.is_primary():
        return {}
    return finish(cfg, run, single, fitted, tasks, dataset)


def finish(
    cfg: Config,
    run: runs.Run,
    trainer: Trainer,
    fitted: models.Fitted,
    tasks: continual.Stream,
    dataset: data.Dataset,
) -> dict[str, Any]:
    """Writes pictures, model and summary; of several seeds, pictures and model of the first."""
    first = None if cfg.seeds == 1 else 0
    result = report.result(tasks, fitted.rows, fitted.found, first)
    model: Any = fitted.model
    if first is not None:
        model = jax.tree.map(lambda x: x[first], model)
    about = rebuild.about(cfg.of.script, cli.decisive(cfg), rebuild.shapes_of(dataset))
    models.restored(trainer, model, about).save(run.out / rebuild.MODEL)
    at_random = None
    if cfg.evaluate_unseen:
        put = samples.put(tasks, dataset.train, dataset.test)
        keys = [jax.random.key(cfg.seed + k) for k in range(cfg.seeds)]
        at_random = [continual.untrained(trainer, tasks, put, key) for key in keys]
    figures = report.summary(tasks, fitted.rows, fitted.found, cfg.seeds, at_random)
    summary = run.finish(
        {
            **common.asked(cfg, "data recipe method tasks buffer seed seeds"),
            **common.asked(cfg, "epochs_per_task network"),
            "timesteps": common.num_steps(cfg, rebuild.shapes_of(dataset)),
            "width": None if cfg.network == "mlp" else cfg.width,
            "parameters": sum(p.size for p in jax.tree.leaves(model.model.params)),
            **figures,
            **common.costs(fitted),
        }
    )
    continual_figures.save(run.out, run.rows(), result, dataset.class_names)
    return summary


if __name__ == "__main__":
    cli.run(Config, main)
