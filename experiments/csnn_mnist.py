"""Trains a convolutional spiking network with surrogate gradients; MNIST unless told otherwise.

    python -m experiments.csnn_mnist --out runs/reference --recipe reference
    python -m experiments.csnn_mnist --out runs/fast --recipe fast --epochs 15

`reference` is the snnTorch CSNN to the letter: the same image for 100 steps, Adam 1e-2, batches of 128, cross entropy of every
step's output spikes, one epoch, the test set after iterations 0, 50, ...; but all 10,000 test images, where the original drops 16.
`fast` asks for the best accuracy for little work: 4 steps, batch norm, arctan surrogate, a membrane read-out, a warm-up and cosine
decay of the step size, and over more than one epoch random shifts, turns and sizes. The README lists what each reaches and costs;
`--help` lists the values of the flags that a recipe sets.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jsnn import (
    activity,
    augment,
    layers,
    losses,
    metrics,
    neurons,
    readout,
    surrogate,
)
from jsnn import mesh as meshes
from jsnn.encoders import unit_interval
from jsnn.model import Network
from jsnn.models.csnn import csnn, fast_csnn, mlp
from jsnn.plot import report
from jsnn.train import rebuild, supervised, sweep
from jsnn.train import task as tasks
from jsnn.train.rebuild import Shapes
from jsnn.train.trainer import Trainer
from jsnn.unroll import Constant, Signal

from . import cli, common, flags, rules

RECIPES: dict[str, dict[str, Any]] = {
    "reference": {"timesteps": 100, "learning_rate": 1e-2, "surrogate": "fast_sigmoid", "eval_every": 50, "augment": False},
    "fast": {"timesteps": 4, "learning_rate": 4e-3, "surrogate": "arctan"},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(cli.Frames, cli.Supervised):
    """Surrogate-gradient training of a convolutional spiking network."""

    of: ClassVar = rules.CSNN
    recipes: ClassVar = RECIPES
    sets: ClassVar = ("digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")  # fmt: skip

    recipe: Literal["reference", "fast"] = "fast"
    """Network, loss and defaults of other flags: the snnTorch CSNN to the letter, or the best accuracy for little work."""
    data: str = "mnist"
    """Data set: digits, mnist, fashion_mnist, kmnist, cifar10 or cifar100; or an .npz file of your own: see jsnn.data.from_file."""
    network: Literal["cnn", "mlp"] = "cnn"
    """cnn: the recipe's, for images [H, W, C]; mlp: dense layers with the recipe's neurons and read-out, for inputs of any shape."""
    hidden: tuple[flags.Count, ...] = (256,)
    """Neurons of the mlp's hidden layers."""
    epochs: flags.Count = 1
    """Passes over the training set."""
    timesteps: flags.Count = cli.OF_RECIPE
    """T, time steps for which each image is shown."""
    batch_size: flags.Count = 128
    """Images a step."""
    learning_rate: cli.LearningRate = cli.OF_RECIPE
    """Adam's step size, in the fast recipe its peak."""
    beta: Annotated[float, "[0, 1]"] = 0.5
    """Fraction of the membrane potential kept per time step, in [0, 1]."""
    threshold: flags.Positive = 1.0
    """Membrane potential above which a neuron spikes."""
    init_scale: flags.Positive = 1.0
    """Factor on the initial weights of synapses."""
    slope: flags.Positive | None = None
    """Slope of the surrogate's curve, in units of 1 / potential, larger is steeper: see jsnn.surrogate; its own default if omitted."""
    surrogate: str = cli.OF_RECIPE
    """Curve of the backward pass: see jsnn.surrogate."""
    precision: cli.Precision = "float32"
    """Of spikes and synapses; parameters and membranes stay in float32. bfloat16 pays on GPU and TPU."""
    augment: bool | None = None
    """Random shifts, turns and sizes of training images; if omitted, in the fast recipe where there is more than one epoch."""
    log_every: flags.Count | None = 10
    remat: bool = False
    """Recompute the network inside time blocks in the backward pass: less memory, more time."""
    block_size: flags.Count | None = None
    """Time steps a block; all if omitted. With --remat, about the square root of --timesteps needs least memory."""

    def defaults(self) -> dict[str, Any]:
        """The recipe's."""
        still = self.network == "cnn" and not self.frames
        return {"augment": still and self.epochs > 1} | RECIPES[self.recipe]


# What a sweep may vary within one compiled program.
SWEPT = ("learning_rate", "beta", "threshold", "init_scale", "slope")


def make_network(
    cfg: Config, shapes: Shapes, values: Mapping[str, Any] = {}
) -> Network:
    """The recipe's network."""
    reference = cfg.recipe == "reference"
    beta, threshold, scale, slope = common.numbers(
        cfg, values, "beta", "threshold", "init_scale", "slope"
    )
    neuron = neurons.lif(
        beta=beta,
        threshold=threshold,
        reset="subtract" if reference else "zero",
        delayed_reset=reference,
        spike_fn=surrogate.get(cfg.surrogate, slope),
    )
    make: Any = csnn if reference else fast_csnn
    if cfg.network == "mlp":
        make = functools.partial(mlp, hidden=cfg.hidden, spiking_output=reference)
    network = layers.network(
        lambda rngs: make(
            common.one_step(cfg, shapes),
            shapes.num_classes,
            neuron=neuron,
            block_size=cfg.block_size,
            remat=cfg.remat,
            rngs=rngs,
        )
    )

    def scaled(path, x):
        return x * scale if path[-1].key == "weight" else x

    def init(key):
        model = network.init(key)
        return model._replace(params=jax.tree.map_with_path(scaled, model.params))

    return network._replace(init=init)


def encoder(cfg: Config, precision: str = "float32") -> Callable[..., Signal]:
    """Each input as the same current at every step, or frames as they are."""
    if cfg.frames:
        return common.framed(precision)
    return lambda x, key=None: Constant(
        unit_interval(x).astype(precision), cfg.timesteps
    )


def make_task(cfg: Config, network: Network) -> tasks.Task:
    """What the recipe makes of the network's output: of spikes their rates, of membranes their means."""

    def changed(key, images):
        images = unit_interval(images)
        return augment.random_affine(
            key, images, degrees=10.0, shift=2.0, scale=0.1, shear=0.1
        )

    return tasks.classifier(
        network,
        encode=encoder(cfg, cfg.precision),
        loss=losses.ce_rate if cfg.recipe == "reference" else losses.ce_mean_membrane,
        read_out=readout.mean_membrane,
        augment=changed if cfg.augment else None,
    )


def make_optimizer(cfg: Config, peak: Any, num_steps: int) -> Any:
    """Adam, at a constant step size (reference) or warmed up to its peak and decayed to zero over all steps (fast)."""
    if cfg.recipe == "reference":
        return optax.adam(peak)
    warmup = min(max(1, num_steps // 7), 500)
    # Optax's schedules want a peak they can compare with zero, which a sweep's traced one cannot be.
    shape = optax.warmup_cosine_decay_schedule(1 / 20, 1.0, warmup, num_steps + 1)
    return optax.adam(lambda step: peak * shape(step))


def trainer_for(
    cfg: Config,
    shapes: Shapes,
    values: Mapping[str, Any] = {},
    mesh: Mesh | None = None,
) -> Trainer:
    """The trainer of one seed, or of a member of a sweep."""
    common.check_batch(cfg.batch_size, shapes.num_train)
    named = "--network cnn" if cfg.network == "cnn" else None
    common.check_shape(cfg, shapes, named, "--network mlp")
    (peak,) = common.numbers(cfg, values, "learning_rate")
    num_steps = cfg.epochs * (shapes.num_train // cfg.batch_size)
    return supervised.supervised(
        make_task(cfg, make_network(cfg, shapes, values)),
        make_optimizer(cfg, peak, num_steps),
        batch_size=cfg.batch_size,
        epochs=cfg.epochs,
        mesh=mesh,
    )


def program(cfg: Config) -> sweep.Program:
    """This experiment for `jsnn.train.sweep`."""
    return common.program(trainer_for, cfg, common.load(cfg))


def _spending(graphdef, model, x: Signal) -> dict[str, float]:
    """Firing rate, synaptic operations and energy a sample; warns of silent and saturated layers."""

    @jax.jit
    def look(model, x):
        activities = activity.record(graphdef, model, x)
        operations = activity.synaptic_operations(graphdef, model, x)
        firing = [activity.firing(a) for a in activities if a.spikes is not None]
        return activities, operations, activity.energy(operations), firing

    activities, operations, joules, firing = look(model, x)
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
    mesh = cfg.devices(cfg.batch_size)
    dataset = common.load(cfg)
    shapes = rebuild.shapes_of(dataset)
    trainer = trainer_for(cfg, shapes, mesh=mesh)
    steps = common.num_steps(cfg, shapes)
    trained = common.train(cfg, trainer, dataset, steps)
    if not meshes.is_primary():
        return {}
    images, labels = dataset.test
    first = jax.tree.map(lambda x: x[0], trained.found)
    graphdef = make_network(cfg, shapes).graphdef
    some = encoder(cfg)(jnp.asarray(images[:64]))
    # The result first: it stays if a figure cannot be written.
    result = common.finish(
        cfg,
        trained,
        dataset,
        timesteps=common.num_steps(cfg, shapes),
        roc_auc=metrics.roc_auc(first.scores, labels, absent="skip"),
        **_spending(graphdef, trained.model, some),
        **common.neurobench(graphdef, trained.model, some),
    )
    report.save_figures(
        trained.run.out,
        graphdef,
        trained.model,
        images=images,
        labels=labels,
        prediction=first.label,
        encode=encoder(cfg),
        class_names=dataset.class_names,
    )
    return result


if __name__ == "__main__":
    cli.run(Config, main)
