"""The class-incremental reference's first task, step by step: this library's program and the original's in PyTorch, with exchangeable starts.

A start is a dictionary of arrays: weights under the names of `cil_worker.arrays_of`, the head's for two classes, and `order` [N], the
order of samples in the first epoch.

Axes: N samples of the task; B batch; H height, W width, C colour channels.
"""

import functools
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import cil_worker
from experiments import cil_cifar10
from jsnn import head, layers
from jsnn.continual import spiking
from jsnn.models import cil_cnn
from jsnn.unroll import steps_in_cache

_PEER = pathlib.Path(__file__).parent / "peers" / "torch_fates.py"
_STATISTICS = cil_cifar10.STATISTICS["cifar10"]
_CAPACITY = 10  # columns of this library's head, of which the first task opens two
Name = Literal["jsnn", "pytorch"]
Arrays = dict[str, np.ndarray]


class Reference(NamedTuple):
    """What is the same in all runs of a comparison."""

    channels: tuple[int, int, int] = (64, 128, 256)
    timesteps: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    channels_last: bool = False  # PyTorch's other memory layout: other orders of sums


class Step(NamedTuple):
    """Loss of a batch, and the firing rates that are its logits, `[B, 2]`."""

    loss: float
    rates: np.ndarray


def _build(channels: tuple[int, int, int], key) -> layers.Sequence:
    """`jsnn.models.cil_cnn` with any number of channels."""
    rngs, (first, second, third) = nnx.Rngs(key), channels

    def lif():
        return layers.Neurons(cil_cnn.reference_neuron())

    features = layers.Sequence(
        layers.Conv(3, first, rngs=rngs),
        layers.BatchNorm(first),
        lif(),
        layers.Conv(first, second, rngs=rngs),
        layers.BatchNorm(second),
        layers.AvgPool(),
        lif(),
        layers.Conv(second, third, rngs=rngs),
        layers.BatchNorm(third),
        lif(),
        layers.AvgPool(),
        block_size=steps_in_cache(),
    )
    columns = head.GrowingHead(64 * third, _CAPACITY, rngs=rngs)
    return layers.Sequence(features, columns, lif())


class Program(NamedTuple):
    """This library's: `fresh(seed)` gives model and key of the draws, `step(model, opt_state, x, y)` trains."""

    graphdef: Any
    fresh: Callable[[int], tuple[layers.Model, jax.Array]]
    init: Callable[[Any], Any]
    step: Callable[..., Any]


@functools.cache
def program(reference: Reference) -> Program:
    """The reference as `experiments.cil_cifar10 --recipe reference` begins and trains it; compiled once."""
    build = functools.partial(_build, reference.channels)
    shapes = nnx.eval_shape(lambda: build(jax.random.key(0)))
    graphdef, model = layers.split(shapes)
    is_column = head.column_tree(graphdef, model)
    network = spiking.make_network(
        graphdef,
        is_column,
        encode=spiking.shown(reference.timesteps, *_STATISTICS),
        read_out="rate",
    )
    optimizer = head.growing(optax.adam(reference.learning_rate), is_column)
    draw = jax.jit(lambda key: layers.split(build(key))[1])

    def fresh(seed):
        key_init, key_run = jax.random.split(jax.random.key(seed))
        return draw(key_init), key_run

    @jax.jit
    def step(model, opt_state, x, y):
        def objective(params):
            here = layers.Model(params, model.rest)
            output = network.apply(here, jax.random.key(0), x, 2, True)
            logits = output.logits
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), output

        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, output), grads = gradient(model.params)
        updates, opt_state = optimizer.update(
            grads, opt_state, model.params, num_open=2
        )
        params = optax.apply_updates(model.params, updates)
        return layers.Model(params, output.rest), opt_state, loss, output.logits[:, :2]

    return Program(graphdef, fresh, optimizer.init, step)


def start_jsnn(reference: Reference, seed: int, num_samples: int) -> Arrays:
    """What this library's run of that seed begins with."""
    own = program(reference)
    model, key = own.fresh(seed)
    for number in (0, 0, 0):  # shuffles, first task, first epoch: as in `training`
        key = jax.random.fold_in(key, number)
    order = jnp.argsort(jax.random.uniform(key, (num_samples,)))
    found = cil_worker.arrays_of(layers.merge(own.graphdef, model))
    found |= {"order": np.asarray(order)}
    return found | {k: v[..., :2] for k, v in found.items() if k.startswith("fc")}


def train_jsnn(reference: Reference, start: Arrays, images, labels) -> Iterator[Step]:
    """One pass over the images (bytes, `[N, H, W, C]`), a batch a step."""
    own = program(reference)
    module = layers.merge(own.graphdef, own.fresh(0)[0])
    for name, layer in cil_worker.weighted(module).items():
        for part in ("weight", "bias"):
            value, new = getattr(layer, part), start[f"{name}.{part}"]
            value[...] = value[...].at[..., : new.shape[-1]].set(new)
    model = layers.split(module)[1]
    opt_state, size = own.init(model.params), reference.batch_size
    for at in range(0, len(labels), size):
        x, y = images[at : at + size], labels[at : at + size]
        model, opt_state, loss, rates = own.step(model, opt_state, x, y)
        yield Step(float(loss), np.asarray(rates))


def start_pytorch(
    reference: Reference, seed: int, num_samples: int, python: pathlib.Path
) -> Arrays:
    """What the original begins with after `torch.manual_seed(seed)`."""
    work = reference._asdict() | {"seed": seed, "samples": num_samples}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/start.npz"
        subprocess.run([python, _PEER, json.dumps(work), path], check=True)
        return dict(np.load(path))


def train_pytorch(
    reference: Reference, start: Arrays, images, labels, python: pathlib.Path
) -> Iterator[Step]:
    """The same pass by the original's program."""
    x = np.asarray(spiking.normalise(jnp.asarray(images), *_STATISTICS))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/arrays.npz"
        arrays: Any = start | {"images": x, "labels": labels}
        np.savez(path, **arrays)
        command = [python, _PEER, json.dumps(reference._asdict()), path, "train"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                loss, rates = json.loads(line)
                yield Step(loss, np.array(rates, np.float32))
        if process.returncode:
            raise RuntimeError(
                f"The program in PyTorch ended with code {process.returncode}."
            )
