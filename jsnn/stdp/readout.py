"""A linear support vector machine, which reads what networks without decision layers leave: which neurons have spiked.

scikit-learn fits it once the layers have learnt; its numbers are saved with the weights.

Axes: N images, D neurons of the last block, pooled, C classes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsnn.data import Split
from jsnn.stdp import forward
from jsnn.stdp.forward import Weights
from jsnn.stdp.networks import Network
from jsnn.train.fitted import Fitted
from jsnn.train.trainer import Prediction, Trainer


class Linear(NamedTuple):
    """Scores are `x @ weights + bias`."""

    weights: Float[Array, "D C"]
    bias: Float[Array, "C"]


class Model(NamedTuple):
    """What predictions need."""

    layers: tuple[Weights, ...]
    readout: Linear


def linear(
    trainer: Trainer, network: Network, image: tuple[int, ...], num_classes: int
) -> Trainer:
    """The same training, whose model has a read-out: a blank one, until `fit` is called on what was trained.

    Args:
      trainer: from `jsnn.stdp.trainer`.
      network: without decision layers.
      image: shape of one image.
      num_classes: C.
    """

    def model(state) -> Model:
        def seen(weights):
            blank = jnp.zeros((1, *image), jnp.uint8)
            return forward.through(network, weights, forward.encoded(network, blank))

        weights = trainer.model(state)
        size = jax.eval_shape(seen, weights).size
        blank = Linear(jnp.zeros((size, num_classes)), jnp.zeros(num_classes))
        return Model(weights, blank)

    def predict(model: Model, images) -> Prediction:
        times = forward.encoded(network, images)
        active = forward.through(network, model.layers, times)
        active = active.reshape(len(active), -1)
        scores = jnp.dot(
            active.astype(jnp.float32),
            model.readout.weights,
            precision=jax.lax.Precision.HIGHEST,
        )
        scores += model.readout.bias[None]
        label = jnp.where(active.any(1), scores.argmax(1), -1)
        return Prediction(label.astype(jnp.int32), scores)

    return trainer._replace(model=model, predict=predict)


def fit(fitted: Fitted, network: Network, train: Split) -> Fitted:
    """The same model with its read-out fitted to the training images; an image that leaves no spike is silent, label −1."""
    from scipy.sparse import csr_matrix
    from sklearn.svm import LinearSVC

    model: Any = fitted.model
    layers, blank = model
    through = jax.jit(functools.partial(forward.through, network, layers))
    times = forward.spike_times(network, train.images)
    active: Any = forward.in_batches(through, times)
    active = csr_matrix(active.reshape(len(active), -1), dtype=float)
    machine = LinearSVC(C=2.4, random_state=0).fit(active, train.labels)
    weights, bias = machine.coef_, np.asarray(machine.intercept_)
    if len(weights) == 1:  # two classes
        weights, bias = np.vstack([-weights, weights]), np.append(-bias, bias)
    # A class without an image scores lowest.
    scores = np.full(blank.bias.shape, np.finfo(np.float32).min, np.float32)
    table = np.zeros(blank.weights.shape, np.float32)
    scores[machine.classes_], table[:, machine.classes_] = bias, weights.T
    fitted.model = Model(layers, Linear(jnp.asarray(table), jnp.asarray(scores)))
    return fitted
