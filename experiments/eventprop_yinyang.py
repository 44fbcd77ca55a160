"""Trains a small network on the Yin-Yang set with EventProp, on a time grid or event by event; many seeds in one program.

    python -m experiments.eventprop_yinyang --out runs/grid --solver grid --seeds 10
    python -m experiments.eventprop_yinyang --out runs/events --solver events --seeds 10
    python -m experiments.eventprop_yinyang --out runs/delays --solver events --hidden 30 --delays --max-delay 30 --max-spikes 7 --T 60 --output-scale 0.4 --lr 0.01 --seeds 10

Four coordinates are spike times, a fifth input is the bias. One hidden layer; the output neuron that spikes first names the class. Both
solvers start from the same weights and have the same loss, so their results may be compared seed by seed. docs/eventprop.md lists them.

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
from experiments import eventprop_points as points
from jsnn import data, metrics
from jsnn import mesh as meshes
from jsnn.data import yinyang
from jsnn.plot import eventprop as eventprop_figures
from jsnn.plot import figures
from jsnn.train import rebuild, runs, supervised, sweep
from jsnn.train.loop import Schedule
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Config(cli.Seeds, cli.Devices):
    """EventProp on the Yin-Yang set. Times are in milliseconds."""

    out: pathlib.Path
    """Folder for config, metrics, figures and checkpoints."""
    solver: Literal["grid", "events"] = "grid"
    """A time grid, or exact events."""
    hidden: int = 200
    """Hidden neurons."""
    delays: bool = False
    """Learn a delay for each synapse of both layers."""
    max_delay: float = 10.0
    """Longest delay that can be learnt."""
    output_scale: float = 1.0
    """Factor on the initial weights of the output: the smaller, the more hidden spikes it waits for."""
    seed: int = 0
    """First seed; it decides initial weights and the order of samples. The data are the published ones."""
    epochs: int = 60
    """Passes over the training set."""
    batch_size: int = 32
    """Points a step."""
    lr: float = 5e-3
    """Adam's step size at the start."""
    lr_decay: float = 0.95
    """Factor on the step size each epoch."""
    T: float = 40.0
    """Length of a trial."""
    dt: float = 1.0
    """Time step of the grid; the output's spikes are read between its points."""
    tau_m: float = 20.0
    """Membrane time constant."""
    tau_s: float = 5.0
    """Synaptic time constant."""
    t_max: float = 30.0
    """A coordinate c spikes at c t_max."""
    tau_softmax: float = 0.5
    """Time scale of the softmax over the output's first spikes."""
    alpha: float = 0.003
    """Weight of the term that asks the right neuron to be early."""
    tau_early: float = 6.4
    """Time scale of the term that asks the right output to come early (`alpha`), in ms."""
    lift: float = 0.0
    """Heuristic: added at each step to all weights of hidden neurons that no point of the batch woke, for they have no gradient; 0 for none."""
    max_spikes: int = 3
    """Events: budget of spikes of a hidden neuron."""
    max_events: int = 320
    """Events: budget of spikes of the hidden layer."""
    min_slope: float = 1e-2
    """Floor of tau_m dV/dt at a spike in the backward pass, in thresholds; heuristic: it bounds the gradient of grazing spikes."""
    validation: bool = False
    """Evaluate on the 1,000 validation points during training and leave the test points for the end."""
    num_train: int = 5000
    """Training points; all of the published set by default."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Go on with the run in --out."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self):
        most_events = self.hidden * self.max_spikes
        flags.check_ranges(self, rules.EVENTPROP_YINYANG.ranges)
        flags.check_seeds(self)
        if self.t_max >= self.T:
            raise ValueError(
                f"`--t-max` must be less than `--T`, or inputs come after the end; got {self.t_max} and {self.T}."
            )
        if round(self.T / self.dt) < 2:
            raise ValueError(
                f"`--T` must hold at least 2 steps of `--dt`, got {self.T} and {self.dt}."
            )
        if self.max_events > most_events:
            object.__setattr__(self, "max_events", most_events)

    def check_needs(self) -> None:
        """Refuses flags that would do nothing."""
        most_events = {"max_events": self.hidden * self.max_spikes}
        flags.check_needs(self, rules.EVENTPROP_YINYANG, most_events)


def points_of(name: str, size: int | None = None) -> data.Split:
    """Coordinates `[M, 4]` and labels `[M]` of a published split."""
    drawn = yinyang.yin_yang(size or yinyang.SIZES[name], seed=yinyang.SEEDS[name])
    return data.Split(drawn.coordinates.astype(np.float32), drawn.labels)


def load(cfg: Config) -> data.Dataset:
    """The published splits."""
    return data.Dataset(
        "yinyang",
        points_of("train", cfg.num_train),
        points_of("validation") if cfg.validation else None,
        points_of("test"),
        yinyang.CLASSES,
    )


def trainer_for(cfg: Config, shapes: Shapes, mesh: Mesh | None = None) -> Trainer:
    """The trainer of one seed."""
    common.check_batch(cfg.batch_size, shapes.num_train)
    steps = shapes.num_train // cfg.batch_size

    # Optax's own schedule compares the factor with zero, which a sweep's traced one cannot be.
    def schedule(step):
        return cfg.lr * cfg.lr_decay ** (step // steps)

    return supervised.supervised(
        points.make_task(cfg),
        optax.adam(schedule),
        batch_size=cfg.batch_size,
        epochs=cfg.epochs,
        eval_batch_size=250,
        mesh=mesh,
    )


# What a sweep may vary within one compiled program.
SWEPT = ("lr", "lr_decay", "tau_m", "tau_s", "tau_softmax", "alpha", "tau_early")


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`; with `validation` its metrics are of the validation points."""
    dataset = load(cfg)
    shapes = rebuild.shapes_of(dataset)
    return supervised.program(
        lambda values: trainer_for(sweep.with_values(cfg, values), shapes),
        supervised.prepare(dataset),
        split="test" if dataset.validation is None else "validation",
    )


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the test set, and writes everything to `cfg.out`."""
    mesh = cfg.devices(cfg.batch_size)
    dataset = load(cfg)
    trainer = trainer_for(cfg, rebuild.shapes_of(dataset), mesh)
    schedule = Schedule(checkpoint_seconds=cfg.checkpoint_seconds)
    of = rules.EVENTPROP_YINYANG
    try:
        trained = common.train("eventprop_yinyang", cfg, trainer, dataset, schedule, of)
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
    save_figures(trained.run, cfg, points.weights(trained.model), test, prediction[0])
    return trained.run.finish(
        {
            "dataset": "yinyang",
            "solver": cfg.solver,
            "hidden": cfg.hidden,
            "delays": cfg.delays,
            "seed": cfg.seed,
            "seeds": cfg.seeds,
            "epochs": cfg.epochs,
            "test_accuracy": float(accuracy.mean()),
            "test_accuracy_std": float(accuracy.std(ddof=1)) if cfg.seeds > 1 else None,
            "test_accuracy_min": float(accuracy.min()),
            "test_accuracy_max": float(accuracy.max()),
            "test_accuracy_by_seed": " ".join(f"{100 * a:.1f}" for a in accuracy),
            "test_loss": float(jnp.mean(trained.found.loss)),
            "test_overflows": int((prediction < 0).sum()),
            "wall_seconds": trained.fitted.seconds,
            "samples_per_second": trained.fitted.samples_per_second,
        }
    )


def save_figures(
    run: runs.Run,
    cfg: Config,
    params: Any,
    test: data.Split,
    prediction: np.ndarray,
) -> None:
    """Writes curves.png, confusion.png, decision_map.png, spike_times.png and, on a grid, adjoints.png."""
    coordinates, labels = test
    matrix = metrics.confusion_matrix(prediction, labels, 3)
    times = points.first_spikes(cfg, params, jnp.asarray(coordinates[:200]))
    drawn = {
        "curves": figures.curves(run.rows()),
        "confusion": figures.confusion(matrix, yinyang.CLASSES),
        "decision_map": eventprop_figures.decision_map(
            points.decision_map(cfg, params, 81),
            coordinates[:, :2],
            labels,
            prediction,
            yinyang.CLASSES,
        ),
        "spike_times": eventprop_figures.first_spikes(times, labels[:200], t_end=cfg.T),
    }
    if cfg.solver == "grid" and not cfg.delays:
        looked = points.look(cfg, params, coordinates[:1], labels[:1])
        drawn["adjoints"] = eventprop_figures.adjoints(looked, dt=cfg.dt)
    figures.save_all(drawn, run.out)


if __name__ == "__main__":
    cli.run(Config, main)
