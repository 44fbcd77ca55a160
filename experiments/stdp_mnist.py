"""Trains deep spiking networks by STDP and reward-modulated STDP, without gradients; MNIST unless told otherwise.

    python -m experiments.stdp_mnist --out runs/mozafari --recipe mozafari2018 --epochs 2 4 20
    python -m experiments.stdp_mnist --out runs/deep --recipe deep2024 --reuse runs/mozafari

Layers learn one after another, each on outputs of the finished ones that are computed once. The decision layer learns by reward and
punishment until 5,000 training images held out (of MNIST) have not improved for `--patience` epochs; the test set is looked at
once, at the end. `--reuse` takes over layers that another run has trained and this one would train to the bit. docs/stdp.md lists
what each network reaches and costs.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jsnn
from jsnn import augment, data, metrics, stdp
from jsnn.plot import figures
from jsnn.plot import stdp as stdp_figures
from jsnn.stdp import encode, finished, forward, networks, readout
from jsnn.train import rebuild, sweep
from jsnn.train.program import all_finite

from . import cli, common, flags, rules


@dataclasses.dataclass(frozen=True)
class Config(cli.Data, cli.Run):
    """STDP and R-STDP training of a deep spiking network."""

    of: ClassVar = rules.STDP
    sets: ClassVar = ("digits", "mnist", "fashion_mnist", "cifar10")

    recipe: Annotated[str, tyro.conf.arg(aliases=("--model",))] = "mozafari2018"
    """Network: mozafari2018, deep2024, deepr2024, deepr2024_greedy, inception2024, majority2024, resnet2024, deeper2024 or kheradpisheh2018."""
    epochs: tuple[flags.Count, ...] | None = None
    """Passes over the training set, one number a block and, last, the most of R-STDP; the network's own if omitted."""
    data: str = "mnist"
    """Data set: mnist, fashion_mnist, cifar10, or digits enlarged from 8 to 28 pixels; or an .npz file of grey images: see jsnn.data.from_file."""
    seeds: flags.Count = 1
    """1: each seed would keep its own outputs of every layer. `jsnn sweep --seeds` trains several."""
    mesh: str | None = None
    """Not for this script: images are learnt from one after another, so there is no batch to cut over devices."""
    ratio: flags.Share = 1.0
    """Share of the training images used; with --augment of the changed copies, 0 < ratio <= 1. The test set is always whole."""
    augment: bool = False
    """Train on the images and a copy of them turned by up to 30 degrees."""
    flips: bool = False
    """With --augment: also mirror half of the copies left to right, and half upside down."""
    window: flags.Count | None = None
    """Images after which the rates of R-STDP adapt; 1,000, or a twelfth of a small training set, if omitted."""
    doubling: flags.Count = 500
    """Images after which the rates of STDP double, up to 0.15; small training sets want fewer."""
    num_validation: flags.Natural | None = None
    """Training images held out to end R-STDP by; a twelfth of them, 5,000 of MNIST, if omitted. 0: R-STDP takes all its epochs."""
    patience: flags.Natural = 5
    """R-STDP ends when the held-out images have not improved for more epochs than this."""
    reuse: tuple[pathlib.Path, ...] = ()
    """Folders of other runs, whose finished layers are taken over where this run would train the very same."""
    threshold_1: flags.Positive | None = None
    """Potential that a neuron of the first layer must exceed to fire; the network's own if omitted."""
    threshold_2: flags.Positive | None = None
    """Potential that a neuron of the second layer must exceed to fire; the network's own if omitted."""
    threshold_3: flags.Positive | None = None
    """Potential that a neuron of the third layer, or of those side by side there, must exceed to fire; the network's own if omitted."""
    threshold_4: flags.Positive | None = None
    """Potential that a neuron of the fourth layer must exceed to fire; the network's own if omitted."""
    ltp: Annotated[float, "(0, 0.15]"] | None = None
    """STDP's first rate, before it doubles, of synapses whose input came in time; 0.004 if omitted."""
    ltd: flags.NotPositive | None = None
    """STDP's first rate, which doubles with --ltp, of other synapses; -0.003 if omitted."""
    reward_ltp: flags.NotNegative | None = None
    """The decision's rate, before it adapts, of synapses whose input came when it was right; 0.004 if omitted."""
    reward_ltd: flags.NotPositive | None = None
    """The decision's rate, before it adapts, of other synapses when it was right; -0.003 if omitted."""
    punish_ltp: flags.NotPositive | None = None
    """The decision's rate, before it adapts, of synapses whose input came when it was wrong; -0.004 if omitted."""
    punish_ltd: flags.NotNegative | None = None
    """The decision's rate, before it adapts, of other synapses when it was wrong; 0.0005 if omitted."""

    def __post_init__(self):
        if self.recipe not in stdp.NETWORKS:
            raise ValueError(
                f"`--recipe` must be one of {', '.join(stdp.NETWORKS)}, got {self.recipe!r}."
            )
        super().__post_init__()
        if missing := [str(path) for path in self.reuse if not path.is_dir()]:
            raise ValueError(
                f"`--reuse {missing[0]}` is no folder. Name the `--out` of a run that has trained layers."
            )
        network, blocks = self.network(), len(self.network().blocks)
        refused = dict.fromkeys(
            THRESHOLDS[blocks:], f"{blocks} layers with a threshold"
        )
        if not network.decision:
            refused |= dict.fromkeys(REWARDED, "no layer that learns by reward")
        for name, has in refused.items():
            if (value := getattr(self, name)) is not None:
                raise ValueError(
                    f"`{flags.name(name)}` must be left out: {self.recipe} has {has}, got {value}."
                )

    def network(self, values: Mapping[str, Any] = {}) -> stdp.Network:
        """The declaration, with the epochs, the filters and the numbers that were asked for, by flags or for a member of a sweep."""
        found = stdp.NETWORKS[self.recipe]
        thresholds = common.numbers(self, values, *THRESHOLDS)
        rates = common.numbers(self, values, *RATES)
        pairs = zip(found.blocks, thresholds, strict=False)
        found = dataclasses.replace(
            found,
            blocks=tuple(_with_threshold(*pair) for pair in pairs),
            rates=_given(found.rates, *rates[:2]),
            reward=_given(found.reward, *rates[2:4]),
            punish=_given(found.punish, *rates[4:]),
        )
        if self.epochs is not None:
            wanted = len(found.epochs)
            if len(self.epochs) != wanted:
                raise ValueError(
                    f"`--epochs` must be {wanted} numbers of at least 1 for {self.recipe}, got {' '.join(map(str, self.epochs)) or 'none'}."
                )
            found = dataclasses.replace(found, epochs=self.epochs)
        if self.data == "cifar10":
            found = dataclasses.replace(found, frontend=encode.cifar_frontend)
        return found


def _with_threshold(block: stdp.Block, threshold: Any) -> stdp.Block:
    if threshold is None:
        return block
    branches = (dataclasses.replace(b, threshold=threshold) for b in block.branches)
    return dataclasses.replace(block, branches=tuple(branches))


def _given(pair: networks.Pair, *given: Any) -> networks.Pair:
    first, second = (
        own if new is None else new for own, new in zip(pair, given, strict=True)
    )
    return first, second


THRESHOLDS = tuple(f"threshold_{n}" for n in range(1, 5))
REWARDED = ("reward_ltp", "reward_ltd", "punish_ltp", "punish_ltd")
RATES = ("ltp", "ltd", *REWARDED)
# What a sweep may vary within one compiled program.
SWEPT = THRESHOLDS + RATES


def enlarge(images: Any) -> jax.Array:
    """The bundled digits at the 28 pixels a side that the networks are made for, bilinearly."""
    shape = (len(images), 28, 28, images.shape[-1])
    large = jax.image.resize(jnp.asarray(images, jnp.float32), shape, "bilinear")
    return jnp.round(large).astype(jnp.uint8)


def training_set(
    cfg: Config, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels to train on, after `--augment` and `--ratio`."""
    key_choice, key_copy = jax.random.split(jax.random.key(cfg.seed))
    count = len(images)
    kept = np.asarray(jax.random.permutation(key_choice, count))
    kept = np.sort(kept[: max(1, round(cfg.ratio * count))])
    if not cfg.augment:
        return images[kept], labels[kept]
    copy = augment.changed_copy(key_copy, images[kept], flips=cfg.flips)
    return np.concatenate([images, copy]), np.concatenate([labels, labels[kept]])


def chosen(cfg: Config, dataset: data.Dataset) -> data.Dataset:
    """The images at the network's size, those to train on after `--augment` and `--ratio`."""
    if cfg.data == "digits":

        def large(split):
            return split and data.Split(np.asarray(enlarge(split.images)), split.labels)

        train, held, test = map(
            large, (dataset.train, dataset.validation, dataset.test)
        )
        dataset = dataclasses.replace(dataset, train=train, validation=held, test=test)
    return dataclasses.replace(
        dataset, train=data.Split(*training_set(cfg, *dataset.train))
    )


def load(cfg: Config) -> data.Dataset:
    """The data set, with a twelfth of the training images held out unless told otherwise, and a name for each class that the network tells apart.

    Raises:
      ValueError: if a file holds anything but still grey images.
    """
    count = cfg.num_validation
    if count is None:
        count = len(common.load(cfg, 0).train.labels) // 12
    found = common.load(cfg, count)
    if cfg.data in cfg.sets:
        return found
    shape = found.train.images.shape[1:]
    if len(shape) != 3 or shape[2] != 1:
        raise ValueError(
            f"STDP networks take still grey images [N, H, W], but the inputs of {cfg.data} have shape {shape}: bring them to it, or use another script."
        )

    def of_bytes(split: data.Split) -> data.Split:
        if split.images.dtype == np.uint8:
            return split
        if not 0 <= split.images.min() <= split.images.max() <= 1:
            raise ValueError(
                f"The images of {cfg.data} must be bytes, or floats in [0, 1]."
            )
        return split._replace(images=np.round(255 * split.images).astype(np.uint8))

    train, test = map(of_bytes, (found.train, found.test))
    held = found.validation and of_bytes(found.validation)
    known = range(found.num_classes, max([0, *(d.classes for d in cfg.network().decision)]))  # fmt: skip
    names = (*found.class_names, *map(str, known))
    return data.Dataset(found.name, train, held, test, names)


def bare_trainer(
    cfg: Config, values: Mapping[str, Any] = {}, *, validate: bool = False
) -> jsnn.Trainer:
    """STDP, and R-STDP to its last epoch."""
    return stdp.trainer(
        cfg.network(values),
        window=cfg.window,
        doubling=cfg.doubling,
        validate=validate,
    )


def trainer_for(
    cfg: Config, shapes: rebuild.Shapes, values: Mapping[str, Any] = {}
) -> jsnn.Trainer:
    """What this script trains with; it takes and predicts images as the data set holds them.

    Raises:
      ValueError: if the images are too small for the network.
    """
    network, held = cfg.network(values), cfg.num_validation != 0
    image = (28, 28, 1) if cfg.data == "digits" else shapes.inputs
    networks.shapes(network, (image[0], image[1]))
    made = bare_trainer(cfg, values, validate=held)
    if not network.decision:
        made = readout.linear(made, network, image, shapes.num_classes)
    elif held:
        made = jsnn.keep_best(made, patience=cfg.patience)
    trains, predicts = made.prepare, made.predict
    if cfg.data == "digits":
        made = made._replace(predict=lambda model, x: predicts(model, enlarge(x)))
    assert trains is not None
    return made._replace(prepare=lambda dataset: trains(chosen(cfg, dataset)))


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`: as with `--num-validation 0`, R-STDP takes all its epochs and the last one counts.

    With `num_validation` the metrics are of the images held out. Which those are, and what `ratio` and `augment` make of the others,
    is the same in all members and as for `--seed 0`.

    Raises:
      ValueError: for a network whose read-out is a support vector machine.
    """
    if not cfg.network().decision:
        raise ValueError(
            f"`--recipe {cfg.recipe}` cannot be swept: scikit-learn fits its read-out outside of the compiled program. Choose one with R-STDP."
        )
    held = cfg.num_validation or 0
    dataset = chosen(cfg, load(dataclasses.replace(cfg, num_validation=held)))
    split = "validation" if held else "test"
    prepare = bare_trainer(cfg).prepare
    assert prepare is not None

    def train(key, values, data):
        trainer = bare_trainer(cfg, values)
        state, _, found = jsnn.train_fn(trainer)(key, data)
        return {
            f"{split}_accuracy": found.hit.mean(),
            "silent": (found.label < 0).sum(),
            "finite": all_finite(state.own.weights),
        }

    return sweep.Program(
        train,
        jax.device_put(prepare(dataset)),
        lambda key, values: forward.init(key, cfg.network()),
    )


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    network, dataset = cfg.network(), load(cfg)
    shapes = rebuild.Shapes(
        dataset.image_shape, dataset.num_classes, len(dataset.train.labels)
    )
    trainer = trainer_for(cfg, shapes)
    common.check_size(cfg, trainer, dataset)
    config = cli.decisive(cfg) | {"epochs": network.epochs[: len(network.blocks)]}
    names = ("data", "seed", "ratio", "augment", "flips", "num_validation")
    layers = finished.Layers(
        cfg.out, network, cfg.doubling, {n: config[n] for n in names}, cfg.reuse
    )
    layers.check()
    run = common.open_run(cfg, epochs=config["epochs"])
    fitted = jsnn.fit(
        trainer,
        dataset,
        jax.random.key(cfg.seed),
        run=run,
        schedule=jsnn.Schedule(log_every=1, checkpoint_seconds=cfg.checkpoint_seconds),
        reuse=layers.reuse,
        finished=layers.keep,
        progress=cfg.progress,
    )
    if not network.decision:
        readout.fit(fitted, network, chosen(cfg, dataset).train)
    fitted.about = rebuild.about(cfg.of.script, cli.decisive(cfg), shapes)
    fitted.save(cfg.out / rebuild.MODEL)
    found, labels = fitted.predict(dataset.test.images), dataset.test.labels
    rewarded = [r for r in fitted.rows if r["layer"] == "decision"]
    if network.decision:
        run.write("history.csv", stdp_figures.history(rewarded))
    epochs = round(rewarded[-1]["epoch"]) if rewarded else 0
    best = getattr(fitted.state.own, "epoch", epochs)
    looks = [r["accuracy"] for r in rewarded if r["split"] == "validation"]
    quality = metrics.classification_report(found.label, labels, dataset.num_classes)
    result = run.finish(
        {
            **common.asked(cfg, "data seed"),
            "model": cfg.recipe,
            "epochs": " ".join(map(str, network.epochs)),
            "epochs_rewarded": epochs,
            "best_epoch": int(best),
            "test_accuracy": quality["accuracy"],
            "validation_accuracy": float(np.float32(max(looks, default=-1))),
            "silent": int((found.label < 0).sum()),
            **{k: quality[k] for k in ("macro_f1", "macro_precision", "macro_recall")},
            "roc_auc": metrics.roc_auc(found.scores, labels, absent="skip"),
            "convergence": _convergence(fitted.rows),
            "cpu_seconds": fitted.cpu_seconds,
            **common.costs(fitted),
        }
    )
    write_figures(cfg, fitted, chosen(cfg, dataset), found)
    return result


def write_figures(
    cfg: Config, fitted: jsnn.Fitted, dataset: data.Dataset, found: jsnn.Prediction
) -> None:
    """As PNG, and in TensorBoard on request: convergence, history, confusion, features of every layer, spikes for one image."""
    network, test = cfg.network(), dataset.test
    weights = fitted.model if network.decision else fitted.model.layers
    matrix = metrics.confusion_matrix(found.label, test.labels, dataset.num_classes)
    image = test.images[int(np.argmax(found.label == test.labels))]
    initial = stdp.initial_weights(jax.random.key(cfg.seed), network)
    drawn = {
        "convergence": stdp_figures.convergence(fitted.rows),
        "confusion": figures.confusion(matrix, dataset.class_names),
        "activation_maps": stdp_figures.activation_maps(
            forward.spike_maps(network, weights, image),
            network.frontend().num_steps,
            image=image.mean(-1),
        ),
        **stdp_figures.feature_sheets(network, weights, initial, dataset.class_names),
    }
    if network.decision:
        drawn["history"] = figures.curves(fitted.rows)
    figures.save_all(drawn, cfg.out, dpi=100)
    if cfg.tensorboard:
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(cfg.out / "tensorboard" / "figures")) as writer:
            for name, figure in drawn.items():
                writer.add_figure(name, figure, close=False)


def _convergence(rows: list[dict[str, Any]]) -> str:
    """Of every layer at the end of its training."""
    last = {r["layer"]: r["convergence"] for r in rows if "convergence" in r}
    return ", ".join(f"{name} {value:.2g}" for name, value in last.items())


if __name__ == "__main__":
    cli.run(Config, main)
