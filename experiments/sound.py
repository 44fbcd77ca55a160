"""Trains spiking networks on recordings of sound: spoken digits unless told otherwise.

    python -m experiments.sound --out runs/spoken --data-dir FOLDER
    python -m experiments.sound --out runs/theo --data-dir FOLDER --speaker theo
    python -m experiments.sound --out runs/exact --data-dir FOLDER --recipe eventprop

A front end turns each recording into bands over time within the compiled step: see jsnn.sound. `dense` and `recurrent` learn by surrogate
gradients, `delays` also learns a delay for each connection from a band, and `eventprop` learns by EventProp on a time grid. The test set is the authors'
(takes 0 to 4), or `--speaker`, or `--fold`. docs/sound.md lists what each reaches and costs.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import jsnn
from jsnn import data, layers, losses, neurons, readout, surrogate
from jsnn import mesh as meshes
from jsnn import sound as front_end
from jsnn.data import audio, hold_out
from jsnn.eventprop import losses as eventprop_losses
from jsnn.eventprop import network as chains
from jsnn.eventprop.flow import LIFParams, LIParams
from jsnn.eventprop.spikes import TimedSpikes
from jsnn.model import Network
from jsnn.plot import sound as sound_figures
from jsnn.train import rebuild, supervised, sweep
from jsnn.train import task as tasks
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer

from . import cli, common, flags, rules

_SURROGATE: dict[str, Any] = {
    "hidden": (256, 256), "epochs": 30, "learning_rate": 2e-3, "dropout": 0.2, "centre": 0.0, "gain": 0.3, "warp": 0.1, "trim": 0.05,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "dense": _SURROGATE,
    "delays": _SURROGATE | {"max_delay": 10},
    "recurrent": _SURROGATE,
    "eventprop": _SURROGATE | {
        "hidden": (512,), "learning_rate": 5e-2, "dropout": 0.0, "centre": 3.6, "gain": 0.1, "tau_m": 4.0, "tau_s": 1.0, "min_slope": 1.0,
        "warp": 0.05, "trim": 0.02,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(cli.Data, cli.Supervised):
    """Recordings of sound, by surrogate gradients or EventProp."""

    of: ClassVar = rules.SOUND
    recipes: ClassVar = RECIPES
    sets: ClassVar = ("spoken_digits",)

    recipe: Literal["dense", "delays", "recurrent", "eventprop"] = "dense"
    """Rule of learning, network and defaults of other flags."""
    data: str = "spoken_digits"
    """spoken_digits, the Free Spoken Digit Dataset; or an .npz file of recordings: see jsnn.data.audio.load."""
    speaker: str | None = None
    """Test on this speaker, whom training never hears; on the authors' takes if omitted."""
    fold: flags.Natural | None = None
    """Of cross-validation: number of the fold that is the test set, from 0."""
    folds: flags.Count = 5
    """Of cross-validation: number of folds."""
    seconds: flags.Positive = 1.0
    """Longer recordings are cut off here."""
    epochs: flags.Count = cli.OF_RECIPE
    """Passes over the training set."""
    batch_size: flags.Count = 64
    """Recordings a step."""
    learning_rate: cli.LearningRate = cli.OF_RECIPE
    """AdamW's step size at the start; it decays to zero."""
    weight_decay: flags.NotNegative = 1e-3
    """AdamW's."""
    timesteps: flags.Count = 40
    """T, equally long parts of each recording."""
    bank: Literal["mel", "gammatone"] = "mel"
    """Filters of the front end."""
    bands: flags.Count = 24
    """Number of filters."""
    floor: flags.Positive = 1e-3
    """Loudness at which the logarithm begins to rise."""
    centre: flags.NotNegative = cli.OF_RECIPE
    """Subtracted from the features: their mean, for networks without batch norm."""
    gain: flags.Positive = cli.OF_RECIPE
    """Factor on the features, once centred."""
    hidden: tuple[flags.Count, ...] = cli.OF_RECIPE
    """Neurons of the hidden layers."""
    beta: Annotated[float, "[0, 1]"] = 0.9
    """Surrogate gradients: fraction of the membrane potential kept per step."""
    max_delay: flags.Count | None = None
    """The delays recipe: longest delay, in steps."""
    tau_m: flags.Positive | None = None
    """EventProp: membrane time constant, in steps."""
    tau_s: flags.Positive | None = None
    """EventProp: synaptic time constant, in steps."""
    min_slope: flags.Positive | None = None
    """EventProp: floor of tau_m dV/dt at a spike in the backward pass, in thresholds; heuristic."""
    dropout: Annotated[float, "[0, 1)"] = cli.OF_RECIPE
    """Share of the hidden neurons (surrogate gradients) or bands (EventProp) dropped in training."""
    warp: Annotated[float, "[0, 0.5]"] = cli.OF_RECIPE
    """In training the filters' frequencies are changed by up to this share, as other voices would."""
    trim: Annotated[float, "[0, 0.5]"] = cli.OF_RECIPE
    """In training the first step is up to so many seconds earlier or later."""

    def __post_init__(self):
        super().__post_init__()
        if not self.hidden:
            raise ValueError("`--hidden` must be one or more numbers, got none.")
        if self.speaker is not None and self.fold is not None:
            raise ValueError("Pass either `--speaker` or `--fold`: both name a test set.")  # fmt: skip
        if self.fold is not None and not self.fold < self.folds:
            raise ValueError(
                f"`--fold` must be less than `--folds` {self.folds}, got {self.fold}."
            )

    @property
    def exact(self) -> bool:
        """Whether EventProp is the rule."""
        return self.recipe == "eventprop"


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", "weight_decay", "floor", "gain", "beta", "tau_m", "tau_s")


def load(cfg: Config) -> data.Dataset:
    """The recordings, with those held out that the seed chooses."""
    whole = audio.load(cfg.data, data_dir=cfg.data_dir, seconds=cfg.seconds)
    if cfg.speaker is not None:
        test = audio.one_speaker(whole, cfg.speaker)
    elif cfg.fold is not None:
        test = audio.fold(whole, cfg.fold, cfg.folds)
    else:
        test = audio.official(whole)
    found = audio.dataset(whole, test)
    train, validation = hold_out(found.train, cfg.num_validation, cfg.seed)
    return dataclasses.replace(found, train=train, validation=validation)


def encoder(
    cfg: Config, shapes: Shapes, values: Mapping[str, Any] = {}
) -> Callable[..., Any]:
    """From samples to bands over time, `[B, L]` to `[T, B, bands]`; in training heard as if by other voices, earlier or later."""
    floor, gain = common.numbers(cfg, values, "floor", "gain")
    assert shapes.rate is not None, "recordings have a rate"
    listen = functools.partial(
        front_end.features,
        num_steps=cfg.timesteps,
        rate=shapes.rate,
        dt_ms=None,
        bank=cfg.bank,
        bands=cfg.bands,
        high_hz=0.475 * shapes.rate,
        floor=floor,
    )

    def hear(samples: jax.Array, **how: Any) -> jax.Array:
        return gain * (listen(samples, **how) - cfg.centre)

    def encode(samples: jax.Array, key: jax.Array | None = None) -> Any:
        if key is None:
            heard = hear(samples)
            return TimedSpikes(heard) if cfg.exact else heard
        k_warp, k_start, k_drop = jax.random.split(key, 3)
        size = (len(samples),)
        warp = 1 + cfg.warp * jax.random.uniform(k_warp, size, minval=-1, maxval=1)
        start = 1000 * cfg.trim * jax.random.uniform(k_start, size, minval=-1, maxval=1)
        heard = hear(samples, warp=warp, start_ms=start)
        if not cfg.exact:
            return heard
        kept = jax.random.bernoulli(k_drop, 1 - cfg.dropout, heard.shape[1:])
        return TimedSpikes(heard * kept / (1 - cfg.dropout))

    return encode


def make_network(
    cfg: Config, shapes: Shapes, values: Mapping[str, Any] = {}
) -> Network:
    """The recipe's."""
    sizes = (cfg.bands, *cfg.hidden)
    if cfg.exact:
        tau_m, tau_s = common.numbers(cfg, values, "tau_m", "tau_s")
        found: list[Any] = []
        options = {"dt": 1.0, "params": LIFParams(tau_m, tau_s)}
        for pair in itertools.pairwise(sizes):
            found += [chains.dense(*pair), chains.lif(min_slope=cfg.min_slope or 1.0, **options)]  # fmt: skip
        top = chains.leaky(dt=1.0, params=LIParams(tau_m, tau_s))
        return chains.chain(*found, chains.dense(sizes[-1], shapes.num_classes), top)
    (beta,) = common.numbers(cfg, values, "beta")
    neuron = neurons.lif(beta=beta, spike_fn=surrogate.get("arctan", None))

    def build(rngs):
        found = []
        for number, (before, width) in enumerate(itertools.pairwise(sizes)):
            if cfg.recipe == "delays" and number == 0:
                assert cfg.max_delay is not None, "a default"
                steps = cfg.epochs * (shapes.num_train // cfg.batch_size)
                narrower = optax.linear_schedule(cfg.max_delay / 2, 0.5, steps * 3 // 4)
                synapses = jsnn.DelayedDense(before, width, max_steps=cfg.max_delay, width=narrower, rngs=rngs)  # fmt: skip
            else:
                synapses = jsnn.Dense(before, width, rngs=rngs)
            recurrent = width if cfg.recipe == "recurrent" else None
            found += [
                synapses,
                jsnn.BatchNorm(width),
                layers.Neurons(neuron, recurrent=recurrent, rngs=rngs),
                jsnn.Dropout(cfg.dropout),
            ]
        return [*found, jsnn.Dense(sizes[-1], shapes.num_classes, rngs=rngs), jsnn.LI(beta=0.95)]  # fmt: skip

    return layers.network(build)


def make_task(
    cfg: Config, shapes: Shapes, values: Mapping[str, Any] = {}
) -> tasks.Task:
    """Front end, network, and the mean of the output membranes."""
    exact = {
        "loss": lambda v, labels: eventprop_losses.cross_entropy(
            eventprop_losses.mean_voltage(v), labels
        ),
        "read_out": eventprop_losses.mean_voltage,
    }
    usual = {"loss": losses.ce_mean_membrane, "read_out": readout.mean_membrane}
    return tasks.classifier(
        make_network(cfg, shapes, values),
        encode=encoder(cfg, shapes, values),
        **(exact if cfg.exact else usual),
    )


def trainer_for(
    cfg: Config,
    shapes: Shapes,
    values: Mapping[str, Any] = {},
    mesh: Mesh | None = None,
) -> Trainer:
    """The trainer of one seed, or of a member of a sweep."""
    common.check_batch(cfg.batch_size, shapes.num_train)
    rate, decay = common.numbers(cfg, values, "learning_rate", "weight_decay")
    steps = cfg.epochs * (shapes.num_train // cfg.batch_size)
    # Optax's schedules want a peak they can compare with zero, which a sweep's traced one cannot be.
    shape = optax.cosine_decay_schedule(1.0, steps)
    return supervised.supervised(
        make_task(cfg, shapes, values),
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
    protocol = "authors" if cfg.fold is None else f"fold {cfg.fold} of {cfg.folds}"
    protocol = protocol if cfg.speaker is None else f"speaker {cfg.speaker}"
    # The result first: it stays if a figure cannot be written.
    result = common.finish(cfg, trained, dataset, protocol=protocol)
    save_figures(cfg, trained, dataset, shapes)
    return result


def save_figures(
    cfg: Config, trained: common.Trained, dataset: data.Dataset, shapes: Shapes
) -> None:
    """Writes sound.png, curves.png and confusion.png; with surrogate gradients also raster.png and membranes.png."""
    samples, labels = dataset.test
    encode = encoder(cfg, shapes)
    shown = np.unique(labels, return_index=True)[1][:3]  # one of each of three classes
    heard = encode(jnp.asarray(samples[shown]))
    heard = heard.values if cfg.exact else heard
    titles = [dataset.class_names[label] for label in labels[shown]]
    drawn = {"sound": sound_figures.spectrograms(np.asarray(heard), titles, samples=samples[shown])}  # fmt: skip
    layers = None if cfg.exact else make_network(cfg, shapes).graphdef
    common.save_figures(trained, dataset, drawn, graphdef=layers, encode=encode)


if __name__ == "__main__":
    cli.run(Config, main)
