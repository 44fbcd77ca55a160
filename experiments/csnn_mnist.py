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
from flax import nnx
from jax.sharding import Mesh

from experiments import cli, flags, rules
from jsnn import (
    activity,
    augment,
    data,
    driver,
    layers,
    losses,
    metrics,
    neurons,
    report,
    runs,
    surrogate,
    sweep,
    training,
)
from jsnn import mesh as meshes
from jsnn.models.csnn import csnn, fast_csnn
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
class Config(cli.Devices):
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
        flags.check_all(self, rules.CSNN, RECIPES.get(self.recipe, {}))

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


def make_task(
    cfg: Config, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[training.Task, Any]:
    """Network, loss and prediction, and the network's static part for whoever wants to look inside."""
    reference = cfg.recipe == "reference"
    assert cfg.surrogate is not None
    assert cfg.timesteps is not None
    num_steps = cfg.timesteps
    spike_fn = surrogate.get(cfg.surrogate, cfg.slope)
    neuron = neurons.lif(
        beta=cfg.beta, threshold=cfg.threshold, delayed_reset=True, spike_fn=spike_fn
    )
    if not reference:
        neuron = neurons.lif(
            beta=cfg.beta, threshold=cfg.threshold, reset="zero", spike_fn=spike_fn
        )
    network = csnn if reference else fast_csnn
    loss_fn = losses.ce_rate if reference else losses.ce_mean_membrane

    def build(key):
        return network(
            image_shape,
            num_classes,
            neuron=neuron,
            block_size=cfg.block_size,
            remat=cfg.remat,
            rngs=nnx.Rngs(key),
        )

    graphdef, _ = layers.split(nnx.eval_shape(lambda: build(jax.random.key(0))))

    def init(key):
        model = layers.split(build(key))[1]
        if isinstance(cfg.init_scale, float) and cfg.init_scale == 1:
            return model

        def scale(path, x):
            return x * cfg.init_scale if path[-1].key == "weight" else x

        return model._replace(params=jax.tree.map_with_path(scale, model.params))

    def shown(x):
        return Constant(x.astype(cfg.precision), num_steps)

    def predicted(outputs):
        if reference:
            return metrics.predict_by_count(outputs)
        return metrics.predict_by_membrane(outputs)

    def loss(model, key, images, labels):
        x, key_augment = training.unit_interval(images), jax.random.fold_in(key, 1)
        if cfg.augment:
            x = augment.random_affine(
                key_augment, x, degrees=10.0, shift=2.0, scale=0.1, shear=0.1
            )
        outputs, rest = layers.apply(graphdef, model, shown(x), key=key, train=True)
        accuracy = (predicted(outputs) == labels).mean()
        return loss_fn(outputs, labels).mean(), (rest, accuracy)

    def predict(model, images, labels):
        outputs, _ = layers.apply(
            graphdef, model, shown(training.unit_interval(images))
        )
        scores = outputs.astype(jnp.float32).mean(0)
        return loss_fn(outputs, labels), predicted(outputs), scores

    return training.Task(init, loss, predict), graphdef


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


def make_trainer(
    cfg: Config,
    image_shape: tuple[int, int, int],
    num_classes: int,
    num_train: int,
    mesh: Mesh | None = None,
) -> tuple[training.Trainer, Any]:
    """Pure functions for this configuration, to `jit` or to `vmap` over keys, and the network's static part."""
    cfg = cfg.resolved()
    task, graphdef = make_task(cfg, image_shape, num_classes)
    # At least one step for the schedule: `trainer` explains a batch that is larger than the training set.
    num_steps = max(1, cfg.epochs * (num_train // cfg.batch_size))
    optimizer = make_optimizer(cfg, num_steps)
    return training.trainer(
        task, optimizer, num_train=num_train, batch_size=cfg.batch_size, mesh=mesh
    ), graphdef


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", "beta", "threshold", "init_scale", "slope")


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.sweep`; with `num_validation` its metrics are of the validation split."""
    cfg = cfg.resolved()
    dataset = data.load(
        cfg.data, data_dir=cfg.data_dir, num_validation=cfg.num_validation, seed=0
    )
    shapes = dataset.image_shape, dataset.num_classes, len(dataset.train.labels)

    return sweep.of_trainer(
        lambda values: make_trainer(sweep.with_values(cfg, values), *shapes)[0],
        dataset.train,
        dataset.validation or dataset.test,
        num_epochs=cfg.epochs,
        split="test" if dataset.validation is None else "validation",
    )


def _spending(graphdef, model, images, num_steps: int) -> dict[str, float]:
    """Firing rate, synaptic operations and energy a sample over 64 test images; warns of silent and saturated layers."""

    @jax.jit
    def look(model, images):
        x = Constant(training.unit_interval(images), num_steps)
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
    mesh = cfg.devices(cfg.batch_size)
    num_steps = cfg.timesteps
    assert num_steps is not None
    config = cli.decisive(cfg)
    dataset = data.load(
        cfg.data,
        data_dir=cfg.data_dir,
        num_validation=cfg.num_validation,
        seed=cfg.seed,
    )
    shapes = dataset.image_shape, dataset.num_classes, len(dataset.train.labels)
    trainer, graphdef = make_trainer(cfg, *shapes, mesh=mesh)
    jax.eval_shape(trainer.init, jax.random.key(0))  # a wrong shape fails here
    schedule = driver.Schedule(
        cfg.epochs, cfg.log_every, cfg.eval_every, cfg.checkpoint_seconds
    )
    run = runs.Run(
        cfg.out,
        experiment="csnn_mnist",
        config=config,
        resume=cfg.resume,
        tensorboard=cfg.tensorboard,
        before=rules.CSNN.before(cfg),
    )
    result = driver.drive(
        run,
        trainer,
        jax.random.key(cfg.seed),
        dataset.train,
        dataset.validation or dataset.test,
        schedule,
        batch_size=cfg.batch_size,
        mesh=mesh,
        split="validation" if dataset.validation else "test",
        progress=cfg.progress,
    )
    evaluation = result.evaluation
    if dataset.validation is not None:
        evaluation = driver.evaluate(
            trainer, result.state.model, dataset.test, mesh=mesh
        )
    if not meshes.is_primary():
        return {}
    prediction = np.asarray(evaluation.prediction)
    report.save_figures(
        run.out,
        graphdef,
        result.state.model,
        images=dataset.test.images,
        labels=dataset.test.labels,
        prediction=prediction,
        num_steps=num_steps,
        class_names=dataset.class_names,
    )
    spending = _spending(graphdef, result.state.model, dataset.test.images, num_steps)
    quality = metrics.classification_report(
        prediction, dataset.test.labels, dataset.num_classes
    )
    auc = metrics.roc_auc(np.asarray(evaluation.scores), dataset.test.labels)
    return run.finish(
        {
            "dataset": cfg.data,
            "recipe": cfg.recipe,
            "seed": cfg.seed,
            "epochs": cfg.epochs,
            "timesteps": num_steps,
            "test_accuracy": float((prediction == dataset.test.labels).mean()),
            "test_loss": float(np.mean(evaluation.loss)),
            "macro_f1": quality["macro_f1"],
            "roc_auc": auc,
            **spending,
            "wall_seconds": result.seconds,
            "samples_per_second": result.samples_per_second,
        }
    )


if __name__ == "__main__":
    cli.run(Config, main)
