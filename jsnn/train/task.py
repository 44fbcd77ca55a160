"""What to learn: a network, with a loss, a read-out and an encoder.

Axes: B batch, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsnn import check, encoders, losses, readout
from jsnn.model import Model, Network
from jsnn.train.trainer import Prediction


class Task(NamedTuple):
    """What to learn.

    Attributes:
      init: `key -> Model`: parameters and whatever else the model carries.
      loss: `(model, key, inputs, labels) -> (loss, (rest, accuracy))`: training loss of one batch, with what the batch leaves
        behind in the model and the batch's accuracy.
      outputs: `(model, inputs) -> value`: what the network gives in evaluation.
      losses: `(value, labels) -> loss [B]`.
      prediction: `value -> Prediction`.
      awake: `(model, inputs) -> {layer: truth}`: which spiking layers spike at all; see `jsnn.activity`.
    """

    init: Callable[[Array], Model]
    loss: Callable[[Model, Array, Array, Array], tuple[Array, tuple[Any, Array]]]
    outputs: Callable[[Model, Array], Any]
    losses: Callable[[Any, Array], Float[Array, "B"]]
    prediction: Callable[[Any], Prediction]
    awake: Callable[[Model, Array], dict[str, Array]] | None = None


_USUAL = {
    "encode": encoders.constant(8),
    "loss": losses.ce_mean_membrane,
    "read_out": readout.mean_membrane,
}


def by_score(scores: Float[Array, "B C"]) -> Prediction:
    """The class with the highest score; of equal ones the lowest."""
    return Prediction(scores.argmax(-1).astype(jnp.int32), scores)


def classifier(
    network: Network | Callable[..., Any],
    *,
    encode: Callable[..., Any] | None = None,
    loss: Callable[[Any, Array], Float[Array, "B"]] | None = None,
    read_out: Callable[[Any], Float[Array, "B C"]] | None = None,
    augment: Callable[[Array, Array], Array] | None = None,
) -> Task:
    """A task from a network and three functions, each named once: for training, evaluation and prediction.

    >>> layers = lambda rngs: [jsnn.Dense(4, 8, rngs=rngs), jsnn.LIF(), jsnn.Dense(8, 3, rngs=rngs), jsnn.LI()]
    >>> task = jsnn.classifier(layers, encode=jsnn.constant(10), read_out=jsnn.max_membrane, loss=jsnn.losses.ce_max_membrane)
    >>> task.prediction(task.outputs(task.init(jax.random.key(0)), jnp.ones((2, 4)))).scores.shape
    (2, 3)

    Args:
      network: `rngs -> layers`, or what `jsnn.network` made of it; or one of `jsnn.eventprop`.
      encode: `(inputs [B, ...], key) -> signal`, time first: `jsnn.constant(T)`, by default with T = 8; `jsnn.frames()` for
        inputs that vary in time. In evaluation `key` is None.
      loss: `(value, labels [B]) -> [B]`: see `jsnn.losses`. The default is right for a last layer that does not spike (`LI`).
      read_out: `value -> scores [B, C]`: see `jsnn.readout`; the class is the one with the highest score. By default the mean membrane. A
        network may bring defaults of its own, as `jsnn.eventprop.dense_network` does.
      augment: `(key, inputs) -> inputs`: random changes of training inputs.

    Returns:
      A task for `supervised`.

    Raises:
      TypeError: if something is no function.
    """
    if not isinstance(network, Network):
        from jsnn import layers

        network = layers.network(network)
    usual = {**_USUAL, **(network.usual or {})}
    encode, loss = encode or usual["encode"], loss or usual["loss"]
    read_out = read_out or usual["read_out"]
    check.kind(
        "encode",
        encode,
        callable,
        "a function",
        "write `jsnn.constant(8)`, or see `jsnn.encoders`",
    )
    check.kind("loss", loss, callable, "a function", "see `jsnn.losses`")
    check.kind("read_out", read_out, callable, "a function", "see `jsnn.readout`")
    if augment is not None:
        check.kind(
            "augment",
            augment,
            callable,
            "a function `(key, inputs) -> inputs`",
            "see `jsnn.augment`",
        )

    def value(model, inputs):
        return network.apply(model, encode(inputs, None)).value

    def training_loss(model, key, inputs, labels):
        if augment is not None:
            inputs = augment(jax.random.fold_in(key, 1), inputs)
        signal = encode(inputs, jax.random.fold_in(key, 2))
        out = network.apply(model, signal, key=key, train=True)
        hits = by_score(read_out(out.value)).label == labels
        return loss(out.value, labels).mean(), (out.rest, hits.mean())

    def prediction(value):
        return by_score(read_out(value))

    def awake(model, inputs):
        from jsnn import activity

        return activity.awake(network, model, encode(inputs, None))

    return Task(network.init, training_loss, value, loss, prediction, awake)


def check_classes(task: Task, dataset: Any) -> None:
    """Refuses a network with fewer outputs than the data set has classes.

    Raises:
      ValueError: if so.
    """

    def scores(key, inputs):
        return task.prediction(task.outputs(task.init(key), inputs)).scores

    one = np.asarray(dataset.train[0][:1])
    found = jax.eval_shape(scores, jax.random.key(0), one).shape[-1]
    if found < dataset.num_classes:
        raise ValueError(
            f"The network has {found} outputs, and {dataset.name!r} has {dataset.num_classes} classes: make the last layer as wide."
        )
