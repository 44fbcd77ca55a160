"""Trains a convolutional spiking network with surrogate gradients.

    python -m experiments.csnn_mnist --out runs/reference --recipe reference
    python -m experiments.csnn_mnist --out runs/fast --recipe fast --epochs 15

`reference` is the snnTorch CSNN to the letter: 100 steps of the same image, Adam 1e-2, batches of 128, cross entropy of every
step's output spikes, one epoch, the test set after iterations 0, 50, ..., but all 10,000 test images, where the original drops 16.
"""

import dataclasses
import pathlib
import sys
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from jsnn import data, layers, losses, metrics, neurons, runs, surrogate, training
from jsnn.models.csnn import csnn
from jsnn.unroll import Constant


@dataclasses.dataclass(frozen=True)
class Config:
    """Surrogate-gradient training of a convolutional spiking network."""

    out: pathlib.Path
    """Folder for config, metrics, figures and checkpoints."""
    recipe: Literal["reference", "fast"] = "fast"
    """Which published or tuned set of defaults to start from; the flags below override it."""
    data: str = "mnist"
    """Data set: digits, mnist, fashion_mnist, kmnist, cifar10 or cifar100."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    seed: int = 0
    """Decides initial weights and the order of samples."""
    epochs: int = 1
    """Passes over the training set."""
    timesteps: int = 100
    """T, time steps for which each image is shown."""
    batch_size: int = 128
    """Images a step."""
    learning_rate: float = 1e-2
    """Adam's step size (its peak, in the fast recipe)."""
    beta: float = 0.5
    """Fraction of the membrane potential kept per time step."""
    slope: float = 25.0
    """Slope k of the fast-sigmoid surrogate 1 / (1 + k|u|)^2."""
    eval_every: int | None = 50
    """Optimiser steps between evaluations of the whole test set; 0: at the end only."""
    log_every: int = 10
    """Optimiser steps averaged into one row of metrics.jsonl."""
    num_validation: int = 0
    """Training images held out; if any, evaluations during training use them instead of the test set."""
    remat: bool = False
    """Recompute inside time blocks in the backward pass, to save memory."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Go on with the run in `out`."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs tensorboardX)."""
    progress: bool = True
    """Show a progress bar."""


NOT_PART_OF_THE_RESULT = (
    "out",
    "resume",
    "tensorboard",
    "progress",
    "data_dir",
    "checkpoint_seconds",
)


def make_task(
    cfg: Config, image_shape: tuple[int, int, int], num_classes: int
) -> training.Task:
    """The model and its loss."""
    neuron = neurons.lif(
        beta=cfg.beta, delayed_reset=True, spike_fn=surrogate.fast_sigmoid(cfg.slope)
    )

    def build(key):
        return csnn(
            image_shape, num_classes, neuron=neuron, remat=cfg.remat, rngs=nnx.Rngs(key)
        )

    graphdef, _ = layers.split(nnx.eval_shape(lambda: build(jax.random.key(0))))

    def forward(model, images, **kwargs):
        x = Constant(training.unit_interval(images), cfg.timesteps)
        return layers.apply(graphdef, model, x, **kwargs)

    def loss(model, key, images, labels):
        spikes, rest = forward(model, images, key=key, train=True)
        accuracy = (metrics.predict_by_count(spikes) == labels).mean()
        return losses.ce_rate(spikes, labels).mean(), (rest, accuracy)

    def predict(model, images, labels):
        spikes, _ = forward(model, images)
        return (
            losses.ce_rate(spikes, labels),
            metrics.predict_by_count(spikes),
            spikes.sum(0),
        )

    return training.Task(lambda key: layers.split(build(key))[1], loss, predict)


def make_trainer(cfg: Config, image_shape, num_classes, num_train) -> training.Trainer:
    """Pure functions for this configuration: `jit` or `vmap` them over keys."""
    return training.trainer(
        make_task(cfg, image_shape, num_classes),
        optax.adam(cfg.learning_rate),
        num_train=num_train,
        batch_size=cfg.batch_size,
    )


def main(cfg: Config) -> dict:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    dataset = data.load(
        cfg.data,
        data_dir=cfg.data_dir,
        num_validation=cfg.num_validation,
        seed=cfg.seed,
    )
    config = {
        k: v
        for k, v in dataclasses.asdict(cfg).items()
        if k not in NOT_PART_OF_THE_RESULT
    }
    run = runs.Run(
        cfg.out,
        experiment="csnn_mnist",
        config=config,
        resume=cfg.resume,
        tensorboard=cfg.tensorboard,
    )
    trainer = make_trainer(
        cfg, dataset.image_shape, dataset.num_classes, len(dataset.train.labels)
    )
    result = runs.drive(
        run,
        trainer,
        jax.random.key(cfg.seed),
        dataset.train,
        dataset.validation or dataset.test,
        runs.Schedule(
            cfg.epochs, cfg.log_every, cfg.eval_every, cfg.checkpoint_seconds
        ),
        batch_size=cfg.batch_size,
        progress=cfg.progress,
    )
    correct = np.asarray(result.evaluation.prediction) == dataset.test.labels
    return run.finish(
        {
            "dataset": cfg.data,
            "recipe": cfg.recipe,
            "seed": cfg.seed,
            "test_accuracy": float(correct.mean()),
            "wall_seconds": result.seconds,
            "samples_per_second": result.samples_per_second,
        }
    )


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
