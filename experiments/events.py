"""Trains spiking networks on recordings of event cameras; on simulated ones unless told otherwise.

    python -m experiments.events --out runs/events
    python -m experiments.events --out runs/nmnist_0 --data nmnist.npz --fold 0 --recipe conv
    python -m experiments.events --out runs/exact_0 --data nmnist.npz --fold 0 --recipe eventprop_conv

`conv`, `dense` and `recurrent` learn by surrogate gradients from a few frames, `eventprop_conv` and `eventprop_dense` by EventProp from spikes
on a time grid. A recording is framed and changed within the compiled step. `--fold` is for cross-validation: that fold is the test set, and all
other recordings train. docs/events.md lists what each reaches and costs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jsnn import data
from jsnn import mesh as meshes
from jsnn.data import hold_out, recorded
from jsnn.plot import events as event_figures
from jsnn.train import rebuild, supervised, sweep
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer

from . import cli, common, event_networks, flags, rules

_SURROGATE: dict[str, Any] = {
    "timesteps": 8, "most": 4.0, "epochs": 40, "batch_size": 32, "learning_rate": 2e-3, "dropout": 0.3, "turn": 12.0, "resize": 0.12, "shift": 2,
    "drop": 0.1,
}  # fmt: skip
_EXACT = _SURROGATE | {
    "timesteps": 30, "most": 1.0, "learning_rate": 5e-3, "dropout": 0.0, "tau_m": 40.0, "tau_s": 10.0, "min_slope": 1.0,
    "read_out": "mean",
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "conv": _SURROGATE | {"hidden": (32, 64, 64)},
    "dense": _SURROGATE | {"hidden": (256,)},
    "recurrent": _SURROGATE | {"hidden": (256,), "timesteps": 20},
    "eventprop_conv": _EXACT
    | {"hidden": (24, 48), "epochs": 60, "turn": 9.0, "resize": 0.09},
    "eventprop_dense": _EXACT | {"hidden": (256,)},
}


@dataclasses.dataclass(frozen=True)
class Config(cli.Data, cli.Supervised):
    """Event recordings, by surrogate gradients or EventProp."""

    of: ClassVar = rules.EVENTS
    recipes: ClassVar = RECIPES
    sets: ClassVar = recorded.NAMES

    recipe: Literal["conv", "dense", "recurrent", "eventprop_conv", "eventprop_dense"] = "conv"  # fmt: skip
    """Rule of learning, network and defaults of other flags."""
    data: str = "digits_events"
    """digits_events, the bundled digits as a simulated event camera sees them; nmnist, dvs_gesture, cifar10_dvs, shd or ssc; or an .npz file: see jsnn.data.recorded."""
    sensor: tuple[flags.Count, flags.Count] | None = None
    """Rows and columns of a file's sensor; as many as its events need if omitted."""
    fold: flags.Natural | None = None
    """Of cross-validation: number of the fold that is the test set, from 0; the data set's own test set if omitted."""
    folds: flags.Count = 5
    """Of cross-validation: number of folds."""
    epochs: flags.Count = cli.OF_RECIPE
    """Passes over the training set."""
    batch_size: flags.Count = cli.OF_RECIPE
    """Recordings a step."""
    learning_rate: cli.LearningRate = cli.OF_RECIPE
    """Peak of AdamW's step size, which is warmed up over a tenth of all steps and decays to zero."""
    weight_decay: flags.NotNegative = 1e-3
    """AdamW's."""
    timesteps: flags.Count = cli.OF_RECIPE
    """T, steps that a recording is cut into."""
    duration: flags.Positive | None = None
    """Length of a recording that is used, in ms; if omitted 150 of digits_events, 1000 of sound, 300 of others."""
    by_count: bool = False
    """Put equally many events of a recording into each step, whatever time they take."""
    most: flags.Positive = cli.OF_RECIPE
    """Events of a cell and step that count; more are cut off."""
    downsample: flags.Count = 1
    """Cells of the sensor along each side that make one."""
    hidden: tuple[flags.Count, ...] = cli.OF_RECIPE
    """Neurons of the hidden layers, or channels of the convolutions (conv: three, eventprop_conv: two)."""
    beta: Annotated[float, "[0, 1]"] = 0.7
    """Surrogate gradients: fraction of the membrane potential kept per step."""
    threshold: flags.Positive = 1.0
    """Surrogate gradients: membrane potential above which a neuron spikes."""
    tau_m: flags.Positive | None = None
    """EventProp: membrane time constant, in ms."""
    tau_s: flags.Positive | None = None
    """EventProp: synaptic time constant, in ms."""
    min_slope: flags.Positive | None = None
    """EventProp: floor of tau_m dV/dt at a spike in the backward pass, in thresholds; heuristic."""
    read_out: Literal["max", "mean"] | None = None
    """EventProp: what counts of the output membranes, their largest value or their mean."""
    dropout: Annotated[float, "[0, 1)"] = cli.OF_RECIPE
    """Share of the hidden neurons (surrogate gradients) or inputs (EventProp) dropped in training."""
    turn: Annotated[float, "[0, 180]"] = cli.OF_RECIPE
    """Training recordings are turned by up to so many degrees, and slanted by up to an eightieth as many columns a row."""
    resize: Annotated[float, "[0, 1)"] = cli.OF_RECIPE
    """Training recordings become larger or smaller by up to this share."""
    shift: flags.Natural = cli.OF_RECIPE
    """Training recordings are shifted by up to so many cells."""
    drop: Annotated[float, "[0, 1)"] = cli.OF_RECIPE
    """Share of the events of training recordings that are left out."""

    @property
    def exact(self) -> bool:
        """Whether EventProp is the rule."""
        return self.recipe.startswith("eventprop")

    @property
    def step(self) -> float:
        """Length of a step, in ms."""
        assert self.duration is not None, "a default"
        return self.duration / self.timesteps

    def defaults(self) -> Mapping[str, Any]:
        """The recipe's, and the length of the recordings."""
        length = {"digits_events": 150.0, "shd": 1000.0, "ssc": 1000.0}.get(
            self.data, 300.0
        )
        return {"duration": length} | RECIPES[self.recipe]

    def __post_init__(self):
        super().__post_init__()
        wanted = {"conv": 3, "eventprop_conv": 2}.get(self.recipe)
        if (wanted and len(self.hidden) != wanted) or not self.hidden:
            raise ValueError(
                f"`--hidden` must be {wanted or 'one or more'} numbers for `--recipe {self.recipe}`, got {' '.join(map(str, self.hidden)) or 'none'}."
            )
        if self.fold is not None and not self.fold < self.folds:
            raise ValueError(
                f"`--fold` must be less than `--folds` {self.folds}, got {self.fold}."
            )


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", "weight_decay", "beta", "threshold", "tau_m", "tau_s")


def load(cfg: Config) -> data.Dataset:
    """The recordings, with those held out that the seed chooses."""
    name = cfg.data
    found = recorded.load(name, sensor=cfg.sensor, data_dir=cfg.data_dir)
    if cfg.fold is not None:
        found = recorded.fold(found, cfg.fold, cfg.folds)
    train, validation = hold_out(found.train, cfg.num_validation, cfg.seed)
    return dataclasses.replace(found, train=train, validation=validation)


def trainer_for(
    cfg: Config,
    shapes: Shapes,
    values: Mapping[str, Any] = {},
    mesh: Mesh | None = None,
) -> Trainer:
    """The trainer of one seed, or of a member of a sweep."""
    common.check_batch(cfg.batch_size, shapes.num_train)
    rows, columns, _ = event_networks.grid(cfg, shapes)
    if cfg.recipe.endswith("conv") and min(rows, columns) < 9:
        raise ValueError(
            f"`--recipe {cfg.recipe}` needs at least 9 by 9 cells, got {rows} by {columns}: pass a smaller `--downsample`, or `--recipe dense`."
        )
    rate, decay = common.numbers(cfg, values, "learning_rate", "weight_decay")
    steps = cfg.epochs * (shapes.num_train // cfg.batch_size)
    # Optax's schedules want a peak they can compare with zero, which a sweep's traced one cannot be.
    shape = optax.warmup_cosine_decay_schedule(1 / 20, 1.0, max(1, steps // 10), steps + 1)  # fmt: skip
    network = event_networks.make_network(cfg, shapes, values)
    return supervised.supervised(
        event_networks.make_task(cfg, shapes, network),
        optax.adamw(lambda step: rate * shape(step), weight_decay=decay),
        batch_size=cfg.batch_size,
        epochs=cfg.epochs,
        mesh=mesh,
    )


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`."""
    return common.program(trainer_for, cfg, load(cfg))


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    mesh = cfg.devices(cfg.batch_size)
    dataset = load(cfg)
    shapes = rebuild.shapes_of(dataset)
    trainer = trainer_for(cfg, shapes, mesh=mesh)
    trained = common.train(cfg, trainer, dataset, cfg.timesteps)
    if not meshes.is_primary():
        return {}
    more = {"fold": cfg.fold, "timesteps": cfg.timesteps}
    result = common.finish(cfg, trained, dataset, **more)
    save_figures(cfg, trained, dataset, shapes)
    return result


def save_figures(
    cfg: Config, trained: common.Trained, dataset: data.Dataset, shapes: Shapes
) -> None:
    """Writes recordings.png, curves.png and confusion.png; with surrogate gradients also raster.png and membranes.png."""
    inputs, labels = dataset.test
    frames = event_networks.counts(cfg, shapes)(jnp.asarray(inputs[:4]))
    strip = event_figures.strip(
        np.asarray(frames),
        labels[:4].tolist(),
        step_ms=None if cfg.by_count else cfg.step,
    )
    layers = None if cfg.exact else event_networks.make_network(cfg, shapes).graphdef
    common.save_figures(
        trained,
        dataset,
        {"recordings": strip},
        graphdef=layers,
        encode=event_networks.encoder(cfg, shapes),
    )


if __name__ == "__main__":
    cli.run(Config, main)
