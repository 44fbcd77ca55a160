"""Trains deep spiking networks by STDP and reward-modulated STDP, without gradients; MNIST unless told otherwise.

    python -m experiments.stdp_mnist --out runs/mozafari --model mozafari2018 --epochs 2 4 20
    python -m experiments.stdp_mnist --out runs/deep --model deep2024 --reuse runs/mozafari

Layers learn one after another, each on outputs of the finished ones that are computed once. The decision layer learns by reward and
punishment until 5,000 training images held out (of MNIST) have not improved for `--patience` epochs; the test set is looked at
once, at the end. `--reuse` takes over layers that another run has trained and this one would train to the bit. docs/stdp.md lists
what each network reaches and costs.
"""

import dataclasses
import pathlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, flags, rules, stdp_pictures, stdp_rules
from jsnn import augment, data, metrics, runs, sweep
from jsnn.models import (
    stdp,
    stdp_network,
    stdp_steps,
    stdp_training,
    stdp_whole,
)
from jsnn.models.stdp_steps import Encoded
from jsnn.stdp import encode


@dataclasses.dataclass(frozen=True)
class Config(stdp_rules.Rules):
    """STDP and R-STDP training of a deep spiking network."""

    out: pathlib.Path
    """Folder for config, metrics, figures, layers and checkpoints."""
    model: str = "mozafari2018"
    """Network: mozafari2018, deep2024, deepr2024, deepr2024_greedy, inception2024, majority2024, resnet2024, deeper2024 or kheradpisheh2018."""
    epochs: tuple[int, ...] | None = None
    """Passes over the training set, one number a block and, last, the most of R-STDP; the network's own if omitted."""
    data: Literal["mnist", "fashion_mnist", "cifar10", "digits"] = "mnist"
    """Data set; digits are enlarged from 8 to 28 pixels."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    seed: int = 0
    """Decides initial weights, the order of images, and which are held out or left out."""
    ratio: float = 1.0
    """Share of the training images used; with --augment of the changed copies, 0 < ratio <= 1. The test set is always whole."""
    augment: bool = False
    """Train on the images and a copy of them turned by up to 30 degrees."""
    flips: bool = False
    """With --augment: also mirror half of the copies left to right, and half upside down."""
    window: int | None = None
    """Images after which the rates of R-STDP adapt; 1,000, or a twelfth of a small training set, if omitted."""
    doubling: int = 500
    """Images after which the rates of STDP double, up to 0.15; small training sets want fewer."""
    num_validation: int | None = None
    """Training images held out to end R-STDP by; a twelfth of them, 5,000 of MNIST, if omitted. 0: R-STDP takes all its epochs."""
    patience: int = 5
    """R-STDP ends when the held-out images have not improved for more epochs than this."""
    reuse: tuple[pathlib.Path, ...] = ()
    """Folders of other runs, whose finished layers are taken over where this run would train the very same."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Go on with the run in --out, for more epochs of R-STDP if --epochs names more."""
    tensorboard: bool = False
    """Also write TensorBoard event files, with the figures."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self):
        if self.model not in stdp.NETWORKS:
            raise ValueError(
                f"`--model` must be one of {', '.join(stdp.NETWORKS)}, got {self.model!r}."
            )
        flags.check_all(self, rules.STDP)
        if missing := [str(path) for path in self.reuse if not path.is_dir()]:
            raise ValueError(
                f"`--reuse {missing[0]}` is no folder. Name the `--out` of a run that has trained layers."
            )
        self.check_rules(self.network(), self.model)

    def network(self) -> stdp.Network:
        """The declaration, with the epochs, the filters and the numbers that were asked for."""
        found = self.ruled(stdp.NETWORKS[self.model])
        if self.epochs is not None:
            wanted = len(found.epochs)
            if len(self.epochs) != wanted or min(self.epochs) < 1:
                raise ValueError(
                    f"`--epochs` must be {wanted} numbers of at least 1 for {self.model}, got {' '.join(map(str, self.epochs)) or 'none'}."
                )
            found = dataclasses.replace(found, epochs=self.epochs)
        if self.data == "cifar10":
            found = dataclasses.replace(found, frontend=encode.cifar_frontend)
        return found


# What else may change between a run and its resumption: neither `patience` nor the epochs of R-STDP change what comes before the end, so a
# run may be given more.
_FREE = ("patience", "reuse")


class Prepared(NamedTuple):
    """Data as the network takes it, and as people look at it."""

    train: Encoded
    validation: Encoded | None
    test: Encoded
    images: np.ndarray  # of the test set, at the network's size
    class_names: tuple[str, ...]


def enlarge(images: np.ndarray) -> np.ndarray:
    """The bundled digits at the 28 pixels a side that the networks are made for, bilinearly."""
    shape = (len(images), 28, 28, images.shape[-1])
    large = jax.image.resize(jnp.asarray(images, jnp.float32), shape, "bilinear")
    return np.asarray(jnp.round(large), np.uint8)


def changed_copy(key: jax.Array, images: np.ndarray, *, flips: bool) -> np.ndarray:
    """Images turned by up to 30 degrees, and mirrored along either axis with probability 1/2 each if `flips`."""
    turn = jax.jit(lambda k, x: augment.random_affine(k, x, degrees=30.0))
    parts = []
    for number, start in enumerate(range(0, len(images), 1000)):
        part = jnp.asarray(images[start : start + 1000], jnp.float32)
        key_turn, key_flip = jax.random.split(jax.random.fold_in(key, number))
        part = turn(key_turn, part)
        if flips:
            mirrored = jax.random.bernoulli(key_flip, 0.5, (2, len(part), 1, 1, 1))
            part = jnp.where(mirrored[0], part[:, :, ::-1], part)
            part = jnp.where(mirrored[1], part[:, ::-1], part)
        parts.append(np.asarray(jnp.round(part), np.uint8))
    return np.concatenate(parts)


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
    copy = changed_copy(key_copy, images[kept], flips=cfg.flips)
    return np.concatenate([images, copy]), np.concatenate([labels, labels[kept]])


def prepare(cfg: Config, network: stdp.Network, dataset: data.Dataset) -> Prepared:
    """Filters and encodes every set once."""
    large = enlarge if cfg.data == "digits" else np.asarray

    def encoded(images, labels):
        return Encoded(stdp_network.spike_times(network, images), labels)

    train, held, test = dataset.train, dataset.validation, dataset.test
    images = large(test.images)
    return Prepared(
        encoded(*training_set(cfg, large(train.images), train.labels)),
        None if held is None else encoded(large(held.images), held.labels),
        encoded(images, test.labels),
        images,
        dataset.class_names,
    )


def schedule_for(cfg: Config, network: stdp.Network, count: int) -> stdp_steps.Schedule:
    """How long so many images are trained on."""
    window = cfg.window or min(1000, max(1, count // 12))
    return stdp_steps.Schedule(
        network.epochs, window, cfg.doubling, cfg.patience, cfg.checkpoint_seconds
    )


def load(cfg: Config) -> data.Dataset:
    """The data set, with a twelfth of the training images held out unless told otherwise."""
    count = cfg.num_validation
    if count is None:
        whole = data.load(cfg.data, data_dir=cfg.data_dir)
        count = len(whole.train.labels) // 12
    return data.load(
        cfg.data, data_dir=cfg.data_dir, num_validation=count, seed=cfg.seed
    )


def read_out(
    network: stdp.Network,
    weights: tuple[stdp_network.Weights, ...],
    train: Encoded,
    test: Encoded,
) -> stdp_network.Decided:
    """Decisions of the last layers, or of a linear support vector machine where there are none; −1 for an image that leaves nothing."""

    def seen(times):
        for number in range(len(network.blocks)):
            times = stdp_network.respond(network, number, weights[number], times)
        return times

    active = seen(test.times)
    if network.decision:
        return stdp_network.decide(network.decision, weights[-1], active)
    from scipy.sparse import csr_matrix
    from sklearn.svm import LinearSVC

    flat = active.reshape(len(active), -1)
    known = csr_matrix(seen(train.times).reshape(len(train.labels), -1), dtype=float)
    machine = LinearSVC(C=2.4, random_state=0).fit(known, train.labels)
    scores = machine.decision_function(csr_matrix(flat, dtype=float))
    if scores.ndim == 1:  # two classes
        scores = np.stack([-scores, scores], axis=1)
    guess = machine.classes_[scores.argmax(1)]
    return stdp_network.Decided(np.where(flat.any(1), guess, -1), scores)


# What a sweep may vary within one compiled program.
SWEPT = stdp_rules.SWEPT


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.sweep`: as with `--num-validation 0`, R-STDP takes all its epochs and the last one counts.

    With `num_validation` the metrics are of the images held out. Which those are, and what `ratio` and `augment` make of the others,
    is the same in all members and as for `--seed 0`.

    Raises:
      ValueError: for a network whose read-out is a support vector machine.
    """
    network = cfg.network()
    if not network.decision:
        raise ValueError(
            f"`--model {cfg.model}` cannot be swept: scikit-learn fits its read-out outside of the compiled program. Choose a model with R-STDP."
        )
    held = cfg.num_validation or 0
    prepared = prepare(
        cfg, network, load(dataclasses.replace(cfg, num_validation=held))
    )
    split = "validation" if held else "test"
    schedule = schedule_for(cfg, network, len(prepared.train.labels))

    def train(key, values, data):
        network, (known, others) = sweep.with_values(cfg, values).network(), data
        weights = stdp_whole.train(key, network, known, schedule)
        decided = stdp_whole.decide(network, weights, others.times)
        leaves = jax.tree.leaves(weights)
        return {
            f"{split}_accuracy": (decided == others.labels).mean(),
            "silent": (decided < 0).sum(),
            "finite": jnp.all(jnp.stack([jnp.isfinite(w).all() for w in leaves])),
        }

    return sweep.Program(
        train,
        jax.device_put((prepared.train, prepared.validation or prepared.test)),
        lambda key, values: stdp_network.init(key, network),
    )


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Trains, evaluates on the whole test set, and writes everything to `cfg.out`."""
    network = cfg.network()
    dataset = load(cfg)
    height, width, _ = (28, 28, 1) if cfg.data == "digits" else dataset.image_shape
    stdp.shapes(network, (height, width))
    config = cli.decisive(cfg, free=_FREE)
    config["epochs"] = network.epochs[: len(network.blocks)]
    run = runs.Run(
        cfg.out,
        experiment="stdp_mnist",
        config=config,
        resume=cfg.resume,
        tensorboard=cfg.tensorboard,
        before=rules.STDP.before(cfg),
    )
    clock = stdp_training.Clock(run.rows())
    prepared = prepare(cfg, network, dataset)
    schedule = schedule_for(cfg, network, len(prepared.train.labels))
    names = ("data", "seed", "ratio", "augment", "flips", "num_validation")
    state = stdp_training.drive(
        run,
        network,
        jax.random.key(cfg.seed),
        (prepared.train, prepared.validation),
        schedule,
        data={name: config[name] for name in names},
        reuse=list(cfg.reuse),
        clock=clock,
        progress=cfg.progress,
    )
    decided = read_out(network, state.weights, prepared.train, prepared.test)
    drawn = stdp_pictures.draw(cfg, run, state, prepared, decided)
    stdp_pictures.write_figures(cfg, run, drawn)
    if network.decision:
        stdp_pictures.write_history(run)
    labels = prepared.test.labels
    quality = metrics.classification_report(
        decided.prediction, labels, dataset.num_classes
    )
    seconds = clock.read()
    return run.finish(
        {
            "dataset": cfg.data,
            "model": cfg.model,
            "seed": cfg.seed,
            "epochs": " ".join(map(str, network.epochs)),
            "epochs_rewarded": int(state.epoch) if network.decision else 0,
            "best_epoch": int(state.best_epoch),
            "test_accuracy": quality["accuracy"],
            "validation_accuracy": float(state.best_accuracy),
            "silent": int((decided.prediction < 0).sum()),
            "macro_f1": quality["macro_f1"],
            "macro_precision": quality["macro_precision"],
            "macro_recall": quality["macro_recall"],
            "roc_auc": metrics.roc_auc(
                np.asarray(decided.scores), labels, absent="skip"
            ),
            "convergence": _convergence(run),
            "wall_seconds": seconds["seconds"],
            "cpu_seconds": seconds["cpu_seconds"],
            "samples_per_second": int(state.step) / max(seconds["train_seconds"], 1e-9),
        }
    )


def _convergence(run: runs.Run) -> str:
    """Of every layer at the end of its training."""
    last = {r["layer"]: r["convergence"] for r in run.rows() if "convergence" in r}
    return ", ".join(f"{name} {value:.2g}" for name, value in last.items())


if __name__ == "__main__":
    cli.run(Config, main)
