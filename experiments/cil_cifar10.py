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
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from experiments import cil_sweep, cli, flags, rules
from jsnn import augment, check, continual_figures, data, head, runs, sweep, training
from jsnn.continual import (
    driver,
    methods,
    metrics,
    spiking,
    stream,
)
from jsnn.continual import training as continual
from jsnn.continual.method import Method, default_settings
from jsnn.models.cil_cnn import cil_cnn, cil_mlp, cil_small_cnn
from jsnn.unroll import steps_in_cache

# What the flags default to.
RECIPES: dict[str, dict[str, Any]] = {
    "reference": {
        "network": "cnn",
        "width": 64,
        "timesteps": 10,
        "epochs_per_task": 2,
        "read_out": "rate",
        "batch_norm": "reference",
        "statistics": "step",
    },
    "default": {
        "width": 32,
        "timesteps": 4,
        "epochs_per_task": 5,
        "read_out": "current",
        "batch_norm": "train",
        "statistics": "block",
    },
}
# Mean and deviation of the channels: for CIFAR-10 those of the reference.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
# Feature layers up to the first one that spikes: where latent replay enters.
FIRST_SPIKES = {"cnn": 3, "small": 2, "mlp": 2}
Name = Literal[
    "naive",
    "joint",
    "cumulative",
    "er",
    "er-ace",
    "der",
    "der++",
    "latent-er",
    "lwf",
    "ewc",
    "si",
    "icarl",
    "bic",
    "wa",
    "slda",
    "ncm",
    "gdumb",
]


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
        network = "cnn" if "cifar" in self.data else "small"
        recipe = RECIPES.get(self.recipe, {})
        flags.check_all(self, rules.CIL, {"network": network} | recipe)
        method = _method(self)
        least = 1 + sum(part.withheld > 0 for part in method.parts)
        if self.buffer < least:
            raise ValueError(
                f"`--buffer` must be at least {least} for {self.method}, which keeps samples apart, got {self.buffer}."
            )
        _settings(self.settings, default_settings(method))

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


def make_build(cfg: Config, image_shape: tuple[int, int, int]):
    """`(key, capacity) -> Sequence`."""
    width, read_out, statistics = cfg.width, cfg.read_out, cfg.statistics
    assert width is not None
    assert read_out is not None
    assert statistics is not None

    def build(key, capacity):
        rngs = nnx.Rngs(key)
        common: Any = {"read_out": read_out, "rngs": rngs}
        if cfg.network == "mlp":
            return cil_mlp(image_shape, capacity, hidden=cfg.hidden, **common)
        if cfg.network == "small":
            return cil_small_cnn(image_shape, capacity, width=width, **common)
        return cil_cnn(
            image_shape,
            capacity,
            width=width,
            statistics=statistics,
            block_size=steps_in_cache() if statistics == "step" else None,
            **common,
        )

    return build


def _augment_grey(key, images):
    """Bytes in and out, as they are stored."""
    x = augment.random_affine(
        key,
        training.unit_interval(images),
        degrees=10.0,
        shift=2.0,
        scale=0.1,
        shear=0.1,
    )
    return jnp.round(255 * x).astype(jnp.uint8) if images.dtype == jnp.uint8 else x


def _for_some(change, share: float):
    def changed(key, images):
        key_change, key_some = jax.random.split(key)
        return augment.some(key_some, share, change(key_change, images), images)

    return changed


def make_learner(
    cfg: Config, image: np.ndarray, mesh: Mesh | None = None
) -> tuple[continual.Learner, Any]:
    """Pure functions for this configuration, to `jit` or to `vmap` over keys, and `(key, capacity) -> Sequence`."""
    cfg = cfg.resolved()
    assert cfg.timesteps is not None
    assert cfg.read_out is not None
    assert cfg.batch_norm is not None
    build = make_build(cfg, image.shape)
    mean, std = STATISTICS.get(cfg.data, (None, None))
    change = augment.crop_and_flip if image.shape[2] == 3 else _augment_grey
    if cfg.augment_share < 1:
        change = _for_some(change, cfg.augment_share)
    make_network = functools.partial(
        spiking.make_network,
        num_steps=cfg.timesteps,
        read_out=cfg.read_out,
        prepare=functools.partial(
            spiking.normalise, mean=mean, std=std, dtype=jnp.dtype(cfg.precision)
        ),
        augment=change if cfg.augment else None,
        latent_layer=cfg.latent_layer if cfg.method == "latent-er" else None,
    )

    def named(graphdef, is_column, batch_norm):
        return make_network(graphdef, is_column, batch_norm=batch_norm)

    learner = continual.learner(
        build,
        named,
        _method(cfg),
        optax.adam(cfg.learning_rate),
        image=image,
        batch_size=cfg.batch_size,
        buffer_size=cfg.buffer,
        batch_norm=cfg.batch_norm,
        keep_optimizer=cfg.keep_optimizer,
        cosine_epochs=cfg.epochs_per_task if cfg.schedule == "cosine" else None,
        mesh=mesh,
    )
    return learner._replace(settings=_settings(cfg.settings, learner.settings)), build


def _method(cfg: Config) -> Method:
    options: dict[str, Any] = {}
    if cfg.method in ("er", "er-ace", "der", "der++", "latent-er"):
        options["exemplars"] = cfg.exemplars
    if cfg.method == "der++":
        options["buffer_size"] = cfg.buffer
    return methods.get(cfg.method, **options)


def _settings(texts: tuple[str, ...], defaults):
    """The method's weights with those of `--settings`."""
    found = {term: dict(weights) for term, weights in defaults.items()}
    known = ", ".join(f"{t}.{w}={v}" for t, ws in found.items() for w, v in ws.items())
    for text in texts:
        name, _, value = text.partition("=")
        term, _, weight = name.partition(".")
        try:
            number = float(value)
        except ValueError:
            number = None
        if number is None or weight not in found.get(term, {}):
            raise ValueError(
                f"`--settings {text}` must be TERM.WEIGHT=VALUE; this method has {known or 'none'}."
            )
        check.number(
            f"--settings {name}", number, rules.WEIGHTS.get(weight, "[0, inf)")
        )
        found[term][weight] = number
    return found


def _forward_transfer(cfg: Config, learner, result, dataset, tasks) -> dict[str, float]:
    """Task-IL forward transfer, against the untrained network."""
    if not cfg.evaluate_unseen:
        return {}
    at_random = driver.untrained(learner, jax.random.key(cfg.seed), tasks, dataset.test)
    return {"forward_transfer": metrics.forward_transfer(result.task_il, at_random)}


def make_stream(cfg: Config, dataset: data.Dataset) -> stream.Stream:
    """The tasks."""
    return stream.make_stream(
        dataset.train.labels,
        dataset.test.labels,
        stream.parse_tasks(cfg.tasks, dataset.num_classes, order_seed=cfg.class_order),
        num_classes=dataset.num_classes,
        scenario=cfg.scenario,
        repeated=cfg.repeated,
        num_validation=cfg.num_validation,
        seed=cfg.seed,
    )


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", *cil_sweep.WEIGHTS)


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.sweep`, with the figures of its summary but for the matrices."""
    cfg = cfg.resolved()
    dataset = data.load(cfg.data, data_dir=cfg.data_dir)
    return cil_sweep.program(
        cfg,
        dataset,
        make_stream(cfg, dataset),
        lambda cfg: make_learner(cfg, dataset.train.images[0])[0],
    )


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains on all tasks, tests after each, and writes everything to `cfg.out`."""
    cfg = cfg.resolved()
    assert cfg.epochs_per_task is not None
    assert cfg.batch_norm is not None
    if cfg.distributed or cfg.coordinator is not None:
        raise ValueError(
            "`--distributed` is not for streams of tasks yet: use the devices of one process with `--mesh data=N`."
        )
    mesh = cfg.devices(cfg.batch_size)
    config = cli.decisive(cfg)
    dataset = data.load(cfg.data, data_dir=cfg.data_dir)
    tasks = make_stream(cfg, dataset)
    learner, _ = make_learner(cfg, dataset.train.images[0], mesh)
    run = runs.Run(
        cfg.out,
        experiment="cil_cifar10",
        config=config,
        resume=cfg.resume,
        tensorboard=cfg.tensorboard,
        before=rules.CIL.before(cfg),
    )
    result = driver.drive_stream(
        run,
        learner,
        jax.random.key(cfg.seed),
        tasks,
        dataset.train,
        dataset.test,
        driver.Schedule(
            cfg.epochs_per_task,
            cfg.log_every,
            cfg.checkpoint_seconds,
            cfg.evaluate_unseen,
        ),
        capacity=cfg.capacity,
        batch_norm=cfg.batch_norm,
        progress=cfg.progress,
    )
    continual_figures.save(run.out, run.rows(), result, dataset.class_names)
    figures = metrics.summary(result.class_il, result.task_il, result.counts)
    params = result.state.model.params
    return run.finish(
        {
            "dataset": cfg.data,
            "recipe": cfg.recipe,
            "method": cfg.method,
            "tasks": cfg.tasks,
            "buffer": cfg.buffer,
            "seed": cfg.seed,
            "epochs_per_task": cfg.epochs_per_task,
            "timesteps": cfg.timesteps,
            "network": cfg.network,
            "width": None if cfg.network == "mlp" else cfg.width,
            "parameters": sum(p.size for p in jax.tree.leaves(params)),
            "test_accuracy": figures["final_accuracy"],
            **figures,
            **(
                {"validation_accuracy": result.validation} if cfg.num_validation else {}
            ),
            **_forward_transfer(cfg, learner, result, dataset, tasks),
            "wall_seconds": result.seconds,
            "samples_per_second": result.samples_per_second,
        }
    )


if __name__ == "__main__":
    cli.run(Config, main)
