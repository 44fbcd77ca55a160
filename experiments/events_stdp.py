"""Trains a network by STDP, without gradients, on the first spikes of event recordings; on simulated ones unless told otherwise.

    python -m experiments.events_stdp --out runs/stdp
    python -m experiments.events_stdp --out runs/stdp_0 --data nmnist.npz --fold 0

Of each cell and polarity only the first event counts. Layers of convolutions learn one after another, and a linear support vector machine reads
which of their neurons have spiked. docs/events.md lists what it reaches and costs.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

import jsnn
from jsnn import data, metrics, stdp
from jsnn.data import hold_out, recorded
from jsnn.plot import figures
from jsnn.plot import stdp as stdp_figures
from jsnn.stdp import encode, networks, readout
from jsnn.stdp.layer import Conv
from jsnn.stdp.networks import Block, Network
from jsnn.train import rebuild
from jsnn.train.rebuild import Shapes

from . import cli, common, flags, rules


@dataclasses.dataclass(frozen=True)
class Config(cli.Data, cli.Run):
    """STDP on the first spikes of event recordings."""

    of: ClassVar = rules.EVENTS_STDP
    sets: ClassVar = recorded.NAMES

    data: str = "digits_events"
    """digits_events, the bundled digits as a simulated event camera sees them; nmnist, dvs_gesture or cifar10_dvs; or an .npz file: see jsnn.data.recorded."""
    sensor: tuple[flags.Count, flags.Count] | None = None
    """Rows and columns of a file's sensor; as many as its events need if omitted."""
    fold: flags.Natural | None = None
    """Of cross-validation: number of the fold that is the test set, from 0; the data set's own test set if omitted."""
    folds: flags.Count = 5
    """Of cross-validation: number of folds."""
    num_validation: flags.Natural = 0
    """Training recordings held out; if any, they stand in for the test set."""
    timesteps: Annotated[int, "[1, 255]"] = 15
    """T, steps of the grid of first spikes, which are kept as bytes."""
    step: flags.Positive = 7.0
    """Length of a step, in ms. A cell is silent whose first event comes after the last step."""
    downsample: flags.Count = 1
    """Cells of the sensor along each side that make one."""
    features: tuple[flags.Count, ...] = (30,)
    """Feature maps of each layer."""
    thresholds: tuple[flags.Positive, ...] = (8.0,)
    """Potential of each layer that a neuron must exceed to fire."""
    epochs: tuple[flags.Count, ...] = (2,)
    """Passes over the training set for each layer."""
    doubling: flags.Count = 100
    """Recordings after which the rates of STDP double, up to 0.15."""
    pool: flags.Count = 2
    """Side of the windows in which the last layer's spikes are pooled for the read-out."""

    def __post_init__(self):
        super().__post_init__()
        sizes = {len(self.features), len(self.thresholds), len(self.epochs)}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(
                f"`--features`, `--thresholds` and `--epochs` must be equally many numbers, one a layer, got {len(self.features)}, {len(self.thresholds)} and "
                f"{len(self.epochs)}."
            )
        if self.fold is not None and not self.fold < self.folds:
            raise ValueError(
                f"`--fold` must be less than `--folds` {self.folds}, got {self.fold}."
            )

    def network(self, shapes: Shapes) -> Network:
        """Its declaration."""
        assert shapes.sensor is not None, "recordings have a sensor"
        return _network(
            shapes.sensor, self.timesteps, self.step, self.downsample, self.features, self.thresholds, self.epochs, self.pool
        )  # fmt: skip


@functools.cache  # programs are compiled for one declaration, and found again by it
def _network(
    sensor: tuple[int, int],
    timesteps: int,
    step: float,
    downsample: int,
    features: tuple[int, ...],
    thresholds: tuple[float, ...],
    epochs: tuple[int, ...],
    pool: int,
) -> Network:
    front = encode.EventFrontend(
        sensor, dt_us=1000 * step, num_steps=timesteps, downsample=downsample
    )
    blocks = []
    for number, (count, threshold) in enumerate(zip(features, thresholds, strict=True)):
        winners = 5 if number == 0 else 8
        side = 2 if number else 1
        spec = Conv(count, 5, threshold=threshold, num_winners=winners, radius=2, pool=side, pad=2)  # fmt: skip
        blocks.append(Block((spec,), inhibited=number > 0))
    return Network(tuple(blocks), (), epochs=epochs, frontend=lambda: front, readout=(pool, 0))  # fmt: skip


def load(cfg: Config) -> data.Dataset:
    """The recordings; with `--num-validation` those held out in place of the test set."""
    found = recorded.load(cfg.data, sensor=cfg.sensor, data_dir=cfg.data_dir)
    if cfg.fold is not None:
        found = recorded.fold(found, cfg.fold, cfg.folds)
    train, validation = hold_out(found.train, cfg.num_validation, cfg.seed)
    return dataclasses.replace(found, train=train, test=validation or found.test)


def trainer_for(
    cfg: Config, shapes: Shapes, values: Mapping[str, Any] = {}
) -> jsnn.Trainer:
    """STDP, layer by layer, and a read-out that is fitted afterwards.

    Raises:
      ValueError: if the sensor is too small for the network.
    """
    network = cfg.network(shapes)
    assert shapes.sensor is not None, "recordings have a sensor"
    networks.shapes(network, shapes.sensor)
    made = stdp.trainer(network, doubling=cfg.doubling)
    return readout.linear(made, network, shapes.inputs, shapes.num_classes)


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    dataset = load(cfg)
    shapes = rebuild.shapes_of(dataset)
    trainer, network = trainer_for(cfg, shapes), cfg.network(shapes)
    common.check_size(cfg, trainer, dataset)
    run = common.open_run(cfg)
    fitted = jsnn.fit(
        trainer,
        dataset,
        jax.random.key(cfg.seed),
        run=run,
        schedule=jsnn.Schedule(log_every=1, checkpoint_seconds=cfg.checkpoint_seconds),
        progress=cfg.progress,
    )
    readout.fit(fitted, network, dataset.train)
    fitted.about = rebuild.about(cfg.of.script, cli.decisive(cfg), shapes)
    fitted.save(cfg.out / rebuild.MODEL)
    inputs, labels = dataset.test
    found = fitted.predict(inputs)
    name = "validation_accuracy" if cfg.num_validation else "test_accuracy"
    quality = metrics.classification_report(found.label, labels, dataset.num_classes)
    # The result first: it stays if a figure cannot be written.
    result = run.finish(
        {
            **common.asked(cfg, "data seed"),
            "fold": cfg.fold,
            name: quality["accuracy"],
            "silent": int((jnp.asarray(found.label) < 0).sum()),
            "macro_f1": quality["macro_f1"],
            "cpu_seconds": fitted.cpu_seconds,
            **common.costs(fitted),
        }
    )
    matrix = metrics.confusion_matrix(found.label, labels, dataset.num_classes)
    initial = stdp.initial_weights(jax.random.key(cfg.seed), network)
    drawn = {
        "convergence": stdp_figures.convergence(fitted.rows),
        "confusion": figures.confusion(matrix, dataset.class_names),
        **stdp_figures.feature_sheets(network, fitted.model.layers, initial, dataset.class_names),
    }  # fmt: skip
    figures.save_all(drawn, cfg.out, dpi=100)
    return result


if __name__ == "__main__":
    cli.run(Config, main)
