"""Learns classes in tasks, one after another, with a spiking network whose head grows; CIFAR-10 in five tasks of two unless told otherwise.

    python -m experiments.cil_cifar10 --out runs/reference --recipe reference
    python -m experiments.cil_cifar10 --out runs/mnist --data mnist --method der++ --buffer 500

`reference` is the class-incremental reference to the letter: three convolutions with batch norm, 10 steps, firing rates as logits, two
epochs a task, Adam 1e-3 made anew for each task, batch norm in evaluation mode from the second task on, nothing against forgetting.
One liberty: where the last batch of an epoch is short, it is filled up with samples that count for batch norm only.
`default` has a read-out without spikes, fewer steps and a network to suit the data. docs/continual.md lists what each method reaches.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

import jsnn
from experiments import cli, flags, rules
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
from jsnn.unroll import steps_in_cache

# What the flags default to.
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
class Config(cli.Devices):
    """Class-incremental training of a spiking network."""

    out: pathlib.Path
    """Folder for config, metrics, figures and checkpoints."""
    recipe: Literal["reference", "default"] = "default"
    """Defaults of the flags whose default is None."""
    method: Name = "naive"
    """What is done against forgetting: see jsnn.continual.methods."""
    data: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"] = "cifar10"
    """Data set."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    tasks: str = "5x2"
    """Tasks by number and size (5x2), or their classes (0,1|5|2,3,4)."""
    class_order: int | None = None
    """Seed that shuffles the classes of 5x2 tasks; their own order if omitted."""
    scenario: stream.Scenario = "class"
    """class: each class has an output of its own; domain: tasks share outputs."""
    repeated: stream.Repeated = "refuse"
    """A class in several tasks: refuse it, train on all of its samples again, or split them."""
    num_validation: int = 0
    """Training images held out, of each class its share; their accuracy is written beside that of the test images."""
    buffer: int = 500
    """Samples that methods with a memory may keep."""
    exemplars: Literal["uniform", "balanced"] = "uniform"
    """What er, er-ace, der and der++ keep: each sample, or each class, with equal share."""
    latent_layer: int | None = None
    """For latent-er: feature layers below the place whose spikes are kept; the last of them must spike (default: the first that does)."""
    settings: tuple[str, ...] = ()
    """Weights of the method's terms, as TERM.WEIGHT=VALUE: replay.beta=0.5."""
    network: Literal["cnn", "small", "mlp"] | None = None
    """cnn: three convolutions with batch norm; small: two with stride, without (default for grey images); mlp: two dense layers."""
    width: int | None = None
    """Channels of the first convolution (reference 64), or neurons of both layers of the mlp."""
    hidden: tuple[int, ...] = (400, 400)
    """Neurons of the mlp's layers."""
    timesteps: int | None = None
    """T, time steps for which each image is shown (reference 10)."""
    read_out: head.ReadOut | None = None
    """How outputs become logits: see jsnn.head.read_out (reference rate)."""
    batch_norm: spiking.BatchNormPolicy | None = None
    """Over tasks: train; reference: evaluation mode from the second task on; freeze: scale and offset too."""
    statistics: Literal["step", "block"] | None = None
    """Batch statistics of each time step (reference), or of all steps together."""
    epochs_per_task: int | None = None
    """Passes over a task's samples (reference 2)."""
    batch_size: int = 64
    """Images a step; replay adds as many."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Over each task: keep the step size (reference), or let it fall to zero along half a cosine."""
    keep_optimizer: bool = False
    """Keep Adam's moments from task to task; the reference makes Adam anew."""
    precision: cli.Precision = "float32"
    """Of spikes and synapses; parameters, membranes and the head stay in float32. bfloat16 pays on GPU and TPU."""
    augment: bool = False
    """Shift and mirror training images (colour), or shift and turn them (grey)."""
    augment_share: float = 1.0
    """Share of the training images that --augment changes, drawn anew at each use; turning blurs, and test images are sharp."""
    capacity: int | None = None
    """Columns of the head at the start, doubled as needed; as many as the stream needs if omitted."""
    evaluate_unseen: bool = False
    """Also test tasks to come, for forward transfer in task-IL."""
    seed: int = 0
    """Decides initial weights, the order of samples and every other draw."""
    seeds: int = 1
    """Number of seeds, from --seed on, trained in one program; pictures are of the first, figures their means."""
    seeds_at_once: int = 1
    """Of these, how many are computed side by side: 1 is right for a CPU, all of them for a GPU."""
    log_every: int = 50
    """Optimiser steps averaged into one row of metrics.jsonl."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints within a task."""
    resume: bool = False
    """Go on with the run in --out."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    progress: bool = True
    """Show progress."""

    def __post_init__(self):
        flags.check_ranges(self, rules.CIL.ranges)
        method = _method(self)
        least = 1 + sum(part.withheld > 0 for part in method.parts)
        if self.buffer < least:
            raise ValueError(
                f"`--buffer` must be at least {least} for {self.method}, which keeps samples apart, got {self.buffer}."
            )
        flags.check_seeds(self)
        parse_settings(self.settings, method)

    def check_needs(self) -> None:
        """Refuses flags that would do nothing."""
        network = "cnn" if "cifar" in self.data else "small"
        recipe = RECIPES.get(self.recipe, {})
        flags.check_needs(self, rules.CIL, {"network": network} | recipe)

    def resolved(self) -> "Config":
        """The same with the recipe's defaults filled in."""
        recipe = {"network": "cnn" if "cifar" in self.data else "small"} | RECIPES[
            self.recipe
        ]
        if self.method == "latent-er":
            recipe["latent_layer"] = FIRST_SPIKES[self.network or recipe["network"]]
        missing = {k: v for k, v in recipe.items() if getattr(self, k) is None}
        wide = self.network == "mlp" and self.width not in (None, recipe["width"])
        if wide and self.hidden == Config.hidden:
            missing["hidden"] = (self.width, self.width)
        # A resolved config passes as it is: in a sweep its fields may be traced, and cannot be checked again.
        return dataclasses.replace(self, **missing) if missing else self


def make_build(
    cfg: Config, image_shape: tuple[int, ...]
) -> Callable[[jax.Array, int], layers.Sequence]:
    """`(key, capacity) -> Sequence`."""
    width, read_out, statistics = cfg.width, cfg.read_out, cfg.statistics
    assert width is not None
    assert read_out is not None
    assert statistics is not None

    def build(key, capacity):
        common: Any = {"read_out": read_out, "rngs": nnx.Rngs(key)}
        shape: Any = image_shape
        if cfg.network == "mlp":
            return cil_mlp(shape, capacity, hidden=cfg.hidden, **common)
        if cfg.network == "small":
            return cil_small_cnn(shape, capacity, width=width, **common)
        return cil_cnn(
            shape,
            capacity,
            width=width,
            statistics=statistics,
            block_size=steps_in_cache() if statistics == "step" else None,
            **common,
        )

    return build


def make_learner(
    cfg: Config, image: np.ndarray, mesh: Mesh | None = None
) -> continual.Learner:
    """Network, method and optimiser of this configuration, whose numbers may be traced."""
    cfg = cfg.resolved()
    assert cfg.timesteps is not None
    assert cfg.read_out is not None
    assert cfg.batch_norm is not None
    mean, std = STATISTICS.get(cfg.data, (None, None))
    make_network = functools.partial(
        spiking.make_network,
        encode=spiking.shown(cfg.timesteps, mean, std, jnp.dtype(cfg.precision)),
        read_out=cfg.read_out,
        augment=augment.by_colour(cfg.augment_share) if cfg.augment else None,
        latent_layer=cfg.latent_layer if cfg.method == "latent-er" else None,
    )
    method = _method(cfg)
    return continual.learner(
        make_build(cfg, image.shape),
        make_network,
        method,
        optax.adam(cfg.learning_rate),
        image=image,
        batch_size=cfg.batch_size,
        buffer_size=cfg.buffer,
        settings=parse_settings(cfg.settings, method),
        batch_norm=cfg.batch_norm,
        keep_optimizer=cfg.keep_optimizer,
        cosine_epochs=cfg.epochs_per_task if cfg.schedule == "cosine" else None,
        mesh=mesh,
    )


def make_trainer(
    cfg: Config,
    learner: continual.Learner,
    tasks: continual.Stream,
    capacity: int | None = None,
) -> Trainer:
    """Pure functions for this configuration; `capacity` in place of the flag."""
    cfg = cfg.resolved()
    assert cfg.epochs_per_task is not None
    return continual.trainer(
        learner,
        tasks,
        epochs_per_task=cfg.epochs_per_task,
        capacity=capacity or cfg.capacity,
        evaluate_unseen=cfg.evaluate_unseen,
    )


def trainer_for(cfg: Config, shapes: rebuild.Shapes) -> Trainer:
    """The trainer of a run, without its data: for `jsnn.load`."""
    none = np.zeros(0, np.int32)
    bare = dataclasses.replace(cfg, num_validation=0)
    image = np.zeros(shapes.inputs, shapes.dtype)
    tasks = make_stream(bare, none, none, shapes.num_classes)
    return make_trainer(cfg, make_learner(cfg, image), tasks)


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


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", *members.WEIGHTS)


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`, with the figures of its summary but for the matrices."""
    if cfg.evaluate_unseen or cfg.seeds > 1:
        raise ValueError(
            "`--evaluate-unseen` and `--seeds` of the experiment are not for sweeps: leave them out. Sweeps have seeds of their own, and "
            "single runs forward transfer."
        )
    cfg = cfg.resolved()
    dataset = data.load(cfg.data, data_dir=cfg.data_dir)
    labels = dataset.train.labels, dataset.test.labels
    tasks = make_stream(cfg, *labels, dataset.num_classes)
    room = head.room_for(tasks.num_columns, cfg.capacity or tasks.num_columns)

    def make(values):
        numbers, weights = members.split(values)
        own = sweep.with_values(cfg, numbers)
        learner = make_learner(own, dataset.train.images[0])
        settings = with_settings(learner.method, weights, learner.settings)
        return make_trainer(own, learner._replace(settings=settings), tasks, room)

    put = samples.put(tasks, dataset.train, dataset.test)
    return members.program(make, tasks, put)


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains on all tasks, tests after each, and writes everything to `cfg.out`."""
    cfg = cfg.resolved()
    mesh = cfg.devices(cfg.batch_size)
    dataset = data.load(cfg.data, data_dir=cfg.data_dir)
    labels = dataset.train.labels, dataset.test.labels
    tasks = make_stream(cfg, *labels, dataset.num_classes)
    trainer = make_trainer(cfg, make_learner(cfg, dataset.train.images[0], mesh), tasks)
    single, key = trainer, jax.random.key(cfg.seed)
    if cfg.seeds > 1:
        if cfg.capacity is not None and cfg.capacity < tasks.num_columns:
            raise ValueError(
                f"`--seeds {cfg.seeds}` needs a head that does not grow: leave `--capacity` out, or make it {tasks.num_columns}."
            )
        trainer = jsnn.over_seeds(single, at_once=cfg.seeds_at_once)
        key = jsnn.seed_keys(cfg.seed, cfg.seeds)
    run = runs.Run(
        cfg.out,
        experiment="cil_cifar10",
        config=cli.decisive(cfg),
        resume=cfg.resume,
        tensorboard=cfg.tensorboard,
        before=rules.CIL.before(cfg),
    )
    fitted = jsnn.fit(
        trainer,
        dataset,
        key,
        run=run,
        schedule=jsnn.Schedule(
            cfg.log_every, checkpoint_seconds=cfg.checkpoint_seconds
        ),
        progress=cfg.progress,
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
    continual_figures.save(run.out, run.rows(), result, dataset.class_names)
    model: Any = fitted.model
    if first is not None:
        model = jax.tree.map(lambda x: x[first], model)
    about = rebuild.about("cil_cifar10", cfg, rebuild.shapes_of(dataset))
    models.restored(trainer, model, about).save(run.out / rebuild.MODEL)
    at_random = None
    if cfg.evaluate_unseen:
        put = samples.put(tasks, dataset.train, dataset.test)
        keys = [jax.random.key(cfg.seed + k) for k in range(cfg.seeds)]
        at_random = [continual.untrained(trainer, tasks, put, key) for key in keys]
    figures = report.summary(tasks, fitted.rows, fitted.found, cfg.seeds, at_random)
    return run.finish(
        {
            "dataset": cfg.data,
            "recipe": cfg.recipe,
            "method": cfg.method,
            "tasks": cfg.tasks,
            "buffer": cfg.buffer,
            "seed": cfg.seed,
            "seeds": cfg.seeds,
            "epochs_per_task": cfg.epochs_per_task,
            "timesteps": cfg.timesteps,
            "network": cfg.network,
            "width": None if cfg.network == "mlp" else cfg.width,
            "parameters": sum(p.size for p in jax.tree.leaves(model.model.params)),
            **figures,
            "wall_seconds": fitted.seconds,
            "samples_per_second": fitted.samples_per_second,
        }
    )


if __name__ == "__main__":
    cli.run(Config, main)
