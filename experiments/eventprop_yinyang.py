"""Trains a small network on the Yin-Yang set with EventProp, on a time grid or event by event; many seeds in one program.

    python -m experiments.eventprop_yinyang --out runs/grid --solver grid --seeds 10
    python -m experiments.eventprop_yinyang --out runs/events --solver events --seeds 10
    python -m experiments.eventprop_yinyang --out runs/delays --solver events --hidden 30 --delays --max-delay 30 --max-spikes 7 --duration 60 --output-scale 0.4 --learning-rate 0.01 --seeds 10

Four coordinates are spike times, a fifth input is the bias. One hidden layer; the output neuron that spikes first names the class. Both
solvers start from the same weights and have the same loss, so their results may be compared seed by seed. docs/eventprop.md lists them.

Times are in milliseconds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jsnn import data, metrics
from jsnn import mesh as meshes
from jsnn.data import yinyang
from jsnn.plot import eventprop as eventprop_figures
from jsnn.plot import figures
from jsnn.train import rebuild, supervised, sweep
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer

from . import cli, common, flags, rules
from . import eventprop_points as points


@dataclasses.dataclass(frozen=True)
class Config(cli.Supervised):
    """EventProp on the Yin-Yang set. Times are in milliseconds."""

    of: ClassVar = rules.EVENTPROP_YINYANG

    solver: Literal["grid", "events"] = "grid"
    """A time grid, or exact events."""
    hidden: flags.Count = 200
    """Hidden neurons."""
    delays: bool = False
    """Learn a delay for each synapse of both layers."""
    max_delay: flags.Positive = 10.0
    """Longest delay that can be learnt, in ms."""
    output_scale: flags.Positive = 1.0
    """Factor on the initial weights of the output: the smaller, the more hidden spikes it waits for."""
    epochs: flags.Count = 60
    """Passes over the training set."""
    batch_size: flags.Count = 32
    """Points a step."""
    learning_rate: cli.LearningRate = 5e-3
    """Adam's step size at the start."""
    lr_decay: flags.Positive = 0.95
    """Factor on the step size each epoch."""
    duration: cli.Duration = 40.0
    """Length of a trial, in ms."""
    dt: flags.Positive = 1.0
    """Time step of the grid, in ms; the output's spikes are read between its points."""
    tau_m: flags.Positive = 20.0
    """Membrane time constant, in ms."""
    tau_s: flags.Positive = 5.0
    """Synaptic time constant, in ms."""
    t_max: flags.Positive = 30.0
    """A coordinate c spikes at c t_max, in ms."""
    tau_softmax: flags.Positive = 0.5
    """Time scale of the softmax over the output's first spikes, in ms."""
    alpha: flags.NotNegative = 0.003
    """Weight of the loss's term that asks the right neuron to be early."""
    tau_early: flags.Positive = 6.4
    """Time scale of the term that asks the right output to come early (`alpha`), in ms."""
    lift: flags.NotNegative = 0.0
    """Heuristic: added at each step to all weights of hidden neurons that no point of the batch woke, for they have no gradient; 0 for none."""
    max_spikes: flags.Count = 3
    """Events: budget of spikes of a hidden neuron."""
    max_events: flags.Count = 320
    """Events: budget of spikes of the hidden layer."""
    min_slope: flags.Positive = 1e-2
    """Floor of tau_m dV/dt at a spike in the backward pass, in thresholds; heuristic: it bounds the gradient of grazing spikes."""
    num_validation: flags.Natural = 0
    """Points of the published validation split (1,000) that evaluations during training use; the test points are then left for the end."""
    num_train: flags.Count = 5000
    """Training points; all of the published set by default."""

    def defaults(self) -> dict[str, Any]:
        """No more events than the neurons may make."""
        return {"max_events": self.hidden * self.max_spikes}

    def __post_init__(self):
        super().__post_init__()
        if self.t_max >= self.duration:
            raise ValueError(
                f"`--t-max` must be less than `--duration`, or inputs come after the end; got {self.t_max} and {self.duration}."
            )
        if round(self.duration / self.dt) < 2:
            raise ValueError(
                f"`--duration` must hold at least 2 steps of `--dt`, got {self.duration} and {self.dt}."
            )
        most = min(self.max_events, self.hidden * self.max_spikes)
        object.__setattr__(self, "max_events", most)


def points_of(name: str, size: int | None = None) -> data.Split:
    """Coordinates `[M, 4]` and labels `[M]` of a published split."""
    drawn = yinyang.yin_yang(size or yinyang.SIZES[name], seed=yinyang.SEEDS[name])
    return data.Split(drawn.coordinates.astype(np.float32), drawn.labels)


def load(cfg: Config) -> data.Dataset:
    """The published splits."""
    held = cfg.num_validation
    common.check_points("--num-validation", held)
    common.check_points("--num-train", cfg.num_train)
    return data.Dataset(
        "yinyang",
        points_of("train", cfg.num_train),
        points_of("validation", held) if held else None,
        points_of("test"),
        yinyang.CLASSES,
    )


def trainer_for(
    cfg: Config,
    shapes: Shapes,
    values: Mapping[str, Any] = {},
    mesh: Mesh | None = None,
) -> Trainer:
    """The trainer of one seed, or of a member of a sweep."""
    common.check_batch(cfg.batch_size, shapes.num_train)
    rate, decay = common.numbers(cfg, values, "learning_rate", "lr_decay")
    steps = shapes.num_train // cfg.batch_size
    return supervised.supervised(
        points.make_task(cfg, values),
        optax.adam(common.decayed(rate, decay, steps)),
        batch_size=cfg.batch_size,
        epochs=cfg.epochs,
        eval_batch_size=250,
        mesh=mesh,
    )


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", "lr_decay", "tau_m", "tau_s", "tau_softmax", "alpha", "tau_early")  # fmt: skip


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`."""
    return common.program(trainer_for, cfg, load(cfg))


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the test set, and writes everything to `cfg.out`."""
    mesh = cfg.devices(cfg.batch_size)
    dataset = load(cfg)
    trainer = trainer_for(cfg, rebuild.shapes_of(dataset), mesh=mesh)
    try:
        steps = cfg.duration / cfg.dt if cfg.solver == "grid" else 1
        trained = common.train(cfg, trainer, dataset, steps)
    except FloatingPointError as error:
        if cfg.solver == "grid":
            raise
        raise FloatingPointError(
            f"{error} With `--solver events` it also means that a point made more spikes than `--max-spikes {cfg.max_spikes}` a neuron or "
            f"`--max-events {cfg.max_events}` a layer allow: raise them."
        ) from error
    if not meshes.is_primary():
        return {}
    prediction, test = np.asarray(trained.found.label), dataset.test
    accuracy = (prediction == test.labels).mean(1)
    result = trained.run.finish(
        {
            "dataset": "yinyang",
            **common.asked(cfg, "solver hidden delays seed seeds epochs"),
            "test_accuracy": float(accuracy.mean()),
            "test_accuracy_std": float(accuracy.std(ddof=1)) if cfg.seeds > 1 else None,
            "test_accuracy_min": float(accuracy.min()),
            "test_accuracy_max": float(accuracy.max()),
            "test_accuracy_by_seed": " ".join(f"{100 * a:.1f}" for a in accuracy),
            "test_loss": float(jnp.mean(trained.found.loss)),
            "test_overflows": int((prediction < 0).sum()),
            **common.costs(trained.fitted),
        }
    )
    save_figures(cfg, trained, test, prediction[0])
    return result


def save_figures(
    cfg: Config, trained: common.Trained, test: data.Split, prediction: np.ndarray
) -> None:
    """Writes curves.png, confusion.png, decision_map.png, spike_times.png and, on a grid, adjoints.png."""
    (coordinates, labels), params = test, points.weights(trained.model)
    matrix = metrics.confusion_matrix(prediction, labels, 3)
    times = points.first_spikes(cfg, params, jnp.asarray(coordinates[:200]))
    drawn = {
        "curves": figures.curves(trained.run.rows()),
        "confusion": figures.confusion(matrix, yinyang.CLASSES),
        "decision_map": eventprop_figures.decision_map(
            points.decision_map(cfg, params, 81),
            coordinates[:, :2],
            labels,
            prediction,
            yinyang.CLASSES,
        ),
        "spike_times": eventprop_figures.first_spikes(
            times, labels[:200], t_end=cfg.duration
        ),
    }
    if cfg.solver == "grid" and not cfg.delays:
        looked = points.look(cfg, params, coordinates[:1], labels[:1])
        drawn["adjoints"] = eventprop_figures.adjoints(looked, dt=cfg.dt)
    figures.save_all(drawn, trained.run.out)


if __name__ == "__main__":
    cli.run(Config, main)
