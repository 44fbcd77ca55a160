"""The front door: a stream, a network with a growing head and a method, joined to a trainer.

Axes: T time, B batch, F features.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from jsnn import check, encoders, head, layers
from jsnn.continual import methods, spiking, stream
from jsnn.continual.course import trainer
from jsnn.continual.method import Method, Settings
from jsnn.continual.settings import with_settings
from jsnn.continual.spiking import BatchNormPolicy
from jsnn.continual.stream import Scenario
from jsnn.continual.training import learner
from jsnn.data import Dataset
from jsnn.models import cil_cnn
from jsnn.train.trainer import Trainer
from jsnn.unroll import Constant, Signal

_FOUR_STEPS = encoders.constant(4)
_NAMED: dict[str, Callable[..., layers.Sequence]] = {
    "mlp": cil_cnn.cil_mlp,
    "small": cil_cnn.cil_small_cnn,
    "cnn": cil_cnn.cil_cnn,
}


def incremental(
    data: Dataset,
    network: str | Callable[[nnx.Rngs], Any],
    *,
    optimizer: optax.GradientTransformation,
    method: str | Method = "er",
    tasks: str | Sequence[Sequence[int]] | stream.Stream = "5x2",
    batch_size: int = 64,
    epochs_per_task: int = 1,
    buffer: int = 500,
    encode: Callable[..., Any] = _FOUR_STEPS,
    read_out: head.ReadOut = "current",
    augment: Callable[[Array, Array], Array] | None = None,
    settings: Settings | None = None,
    scenario: Scenario = "class",
    num_validation: int = 0,
    seed: int = 0,
    batch_norm: BatchNormPolicy = "train",
    keep_optimizer: bool = False,
    evaluate_unseen: bool = False,
    mesh: Mesh | None = None,
) -> Trainer:
    """Learns classes in tasks, one after another: a `Trainer` for `jsnn.fit`, `jsnn.train_fn` and `jsnn.over_seeds`.

    Args:
      data: samples of any shape; `fit` must be given the same.
      network: `rngs -> layers`: a list of layers and functions up to the features, as in `jsnn.network`. A head with a column a class
        is put on top. Or `"mlp"`, `"small"`, `"cnn"`: see `jsnn.models.cil_cnn`.
      optimizer: any Optax transformation, made anew for each task.
      method: what is done against forgetting: a name of `methods.METHODS`, or a `Method` of one's own.
      tasks: `"5x2"`, five tasks of two classes, or `"0,1|5|2,3,4"`; or the classes of each task; or a stream from `make_stream`,
        which says for itself what `scenario`, `num_validation` and `seed` are.
      batch_size: B, of the task at hand; replay adds as many.
      epochs_per_task: passes over a task's samples.
      buffer: samples that a method with a memory may keep.
      encode: `(inputs [B, ...], key) -> signal`, time first: by default each sample as the same current for 4 steps; `jsnn.frames()`
        for inputs that vary in time.
      read_out: how the head's output becomes logits: see `jsnn.head.read_out`.
      augment: `(key, inputs) -> inputs`: random changes of training inputs, replayed ones too.
      settings: weights of the method's terms, where they are not to be its defaults: `{"replay": {"beta": 1.0}}`.
      scenario: `"class"`: each class has an output of its own; `"domain"`: tasks share outputs.
      num_validation: training samples held out, of each class its share.
      seed: decides which.
      batch_norm: what batch norm does over tasks: see `learner`.
      keep_optimizer: keep the optimiser's moments from task to task.
      evaluate_unseen: also test tasks to come.
      mesh: devices to cut each batch over; see `jsnn.mesh`.

    Raises:
      ValueError: if an argument is out of range, a name is unknown, or the tasks do not fit the data.
    """
    course = _stream(data, tasks, scenario, num_validation, seed)
    if isinstance(method, str):
        more: Any = {"buffer_size": buffer} if method == "der++" else {}
        method = methods.get(method, **more)
    sample = data.train.images[0]
    build = _build(network, encode, sample, read_out)

    make_network = functools.partial(
        spiking.make_network,
        encode=encode,
        read_out=read_out,
        augment=augment,
        latent_layer=_first_spikes(build) if method.latent else None,
    )
    made = learner(
        build,
        make_network,
        method,
        optimizer,
        image=sample,
        batch_size=batch_size,
        buffer_size=buffer,
        settings=with_settings(method, settings or {}),
        batch_norm=batch_norm,
        keep_optimizer=keep_optimizer,
        adam_decays=(0.9, 0.999) if _is_adam(optimizer) else None,
        mesh=mesh,
    )
    return trainer(
        made,
        course,
        epochs_per_task=epochs_per_task,
        evaluate_unseen=evaluate_unseen,
    )


def _stream(
    data: Dataset,
    tasks: str | Sequence[Sequence[int]] | stream.Stream,
    scenario: Scenario,
    num_validation: int,
    seed: int,
) -> stream.Stream:
    """The data set cut into tasks."""
    if data.validation is not None:
        raise ValueError(
            "`data` holds validation samples already. Leave `num_validation` to this function, which holds out of each class its share."
        )
    if isinstance(tasks, stream.Stream):
        return tasks
    if isinstance(tasks, str):
        tasks = stream.parse_tasks(tasks, data.num_classes)
    return stream.make_stream(
        data.train.labels,
        data.test.labels,
        tasks,
        num_classes=data.num_classes,
        scenario=scenario,
        num_validation=num_validation,
        seed=seed,
    )


def _build(
    network: str | Callable[[nnx.Rngs], Any],
    encode: Callable[..., Any],
    sample: np.ndarray,
    read_out: head.ReadOut,
) -> Callable[[Array, int], layers.Sequence]:
    """`(key, capacity) -> Sequence`: features and a head that fits them."""
    one = jnp.asarray(sample)[None]
    if isinstance(network, str):
        check.choice("network", network, _NAMED)
        shape = jax.eval_shape(lambda x: _step(encode(x, None)), one).shape[1:]
        named: Any = _NAMED[network]
        return lambda key, capacity: named(
            shape, capacity, read_out=read_out, rngs=nnx.Rngs(key)
        )

    def features(rngs: nnx.Rngs) -> layers.Sequence:
        made = network(rngs)
        made = made if isinstance(made, list | tuple) else [made]
        return layers.Sequence(*made)

    graphdef, model = layers.split(nnx.eval_shape(lambda: features(nnx.Rngs(0))))

    def outputs(model, x):
        return _step(layers.apply(graphdef, model, encode(x, None))[0])

    size = math.prod(jax.eval_shape(outputs, model, one).shape[1:])

    def build(key: Array, capacity: int) -> layers.Sequence:
        rngs = nnx.Rngs(key)
        neuron = cil_cnn.reference_neuron()
        return cil_cnn.with_head(features(rngs), size, capacity, neuron, read_out, rngs)

    return build


def _step(signal: Signal) -> Array:
    """One step of a signal, `[B, ...]`."""
    return signal.value if isinstance(signal, Constant) else signal[0]


def _first_spikes(build: Callable[[Array, int], layers.Sequence]) -> int | None:
    """The first place at which latent replay may enter."""
    module = nnx.eval_shape(lambda: build(jax.random.key(0), 1))
    return next(iter(spiking.latent_places(module.layers[0])), None)


def _is_adam(optimizer: optax.GradientTransformation) -> bool:
    """Whether Adam's moments are in its state."""
    state = optimizer.init({"w": jnp.zeros(1)})
    kinds = (optax.ScaleByAdamState, optax.ScaleByAmsgradState)
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kinds))
    return any(isinstance(x, kinds) for x in leaves)
