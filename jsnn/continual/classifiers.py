"""What predicts in place of the head's logits: class means of features, and streaming discriminant analysis.

A class without a sample yet has score -inf.

Axes: B batch, N samples, M slots, C columns of the head, F features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jsnn.continual.buffer import first_time
from jsnn.continual.herding import normalise
from jsnn.continual.method import Border, Part
from jsnn.continual.network import evaluate, features_of


class Means(NamedTuple):
    """Class means of features."""

    mean: Float[Array, "C F"]
    num_samples: Float[Array, "C"]


def class_means(
    features: Float[Array, "N F"],
    labels: Int[Array, "N"],
    valid: Bool[Array, "N"],
    num_columns: int,
) -> Means:
    """Mean and number of valid samples of each class; zeros where there is none."""
    member = jax.nn.one_hot(labels, num_columns) * valid[:, None].astype(jnp.float32)
    count = member.sum(0)
    return Means(member.T @ features / jnp.maximum(count, 1.0)[:, None], count)


def _nothing_yet(network, model, output, buffer) -> Means:
    (_, num_features), (_, num_columns) = output.features.shape, output.logits.shape
    return Means(
        jnp.zeros((num_columns, num_features), jnp.float32),
        jnp.zeros(num_columns, jnp.float32),
    )


def _flip(images: Array) -> Array:
    return jnp.flip(images, axis=-2)


def nearest_exemplar_mean(*, flip: bool = False) -> Part:
    r"""iCaRL's rule: the class whose exemplars' mean is nearest, $-\lVert \phi(x) - \mu_c \rVert^2$, features and means of length 1.

    Means are those of the buffer's samples under the network at the end of each task.

    Args:
      flip: features are the mean of those of an image `[H, W, channels]` and of its mirror image.
    """

    def look(network, model, images: Array, num_open: Array) -> Array:
        phi = normalise(features_of(network, model, images, num_open))
        if not flip:
            return phi
        mirrored = features_of(network, model, _flip(images), num_open)
        return normalise(0.5 * (phi + normalise(mirrored)))

    def end_task(network, border: Border, slot, settings):
        buffer, model = border.buffer, border.model
        phi = look(network, model, buffer.images, border.scope.num_open)
        means = class_means(phi, buffer.labels, buffer.valid, len(buffer.num_seen))
        return model, means._replace(mean=normalise(means.mean))

    def scores(network, model, slot: Means, settings, scope, images: Array) -> Array:
        phi = look(network, model, images, scope.num_open)
        # |phi - mu|^2 from products: B x C x F differences would need much memory.
        square = jnp.square(phi).sum(1)[:, None] + jnp.square(slot.mean).sum(1)[None]
        return jnp.where(
            (slot.num_samples > 0)[None], 2.0 * phi @ slot.mean.T - square, -jnp.inf
        )

    return Part("predict", init=_nothing_yet, end_task=end_task, scores=scores)


def merge_means(old: Means, new: Means) -> Means:
    """Means of two sets of samples together."""
    count = old.num_samples + new.num_samples
    weight = (new.num_samples / jnp.maximum(count, 1.0))[:, None]
    return Means(old.mean + weight * (new.mean - old.mean), count)


def nearest_class_mean() -> Part:
    """The class whose mean over all its samples has the largest cosine with the features, which must be frozen for means to stay true."""

    def end_task(network, border: Border, slot: Means, settings):
        data, open_now = border.data, border.scope.num_open
        phi = features_of(network, border.model, data.images, open_now)
        new = class_means(phi, data.labels, first_time(data), len(slot.num_samples))
        return border.model, merge_means(slot, new)

    def scores(network, model, slot: Means, settings, scope, images: Array) -> Array:
        phi = evaluate(network, model, images, scope.num_open).features
        cosine = normalise(phi) @ normalise(slot.mean).T
        return jnp.where((slot.num_samples > 0)[None], cosine, -jnp.inf)

    return Part("predict", init=_nothing_yet, end_task=end_task, scores=scores)


class Gaussians(NamedTuple):
    """Streaming discriminant analysis: class means, a common scatter, and the linear rule that follows from them."""

    means: Means
    scatter: Float[Array, "F F"]  # sum over samples of (x - mean)(x - mean)^T
    weight: Float[Array, "F C"]
    bias: Float[Array, "C"]


def add_samples(
    slot: Gaussians,
    features: Float[Array, "N F"],
    labels: Int[Array, "N"],
    valid: Bool[Array, "N"],
) -> Gaussians:
    r"""Means and scatter with further samples: what one sample after the other would give, $S \leftarrow S + \frac{n}{n + 1} \delta\delta^\top$.

    $\delta$ is the sample's distance from the mean of the n samples of its class so far. So $S$ is the scatter within classes to
    rounding, whatever the order (Chan et al., 1983). Hayes and Kanan take n of all classes together instead, so that the first
    sample of a class enters with its whole length.
    """
    old = slot.means
    new = class_means(features, labels, valid, len(old.num_samples))
    inner = jnp.where(valid[:, None], features - new.mean[labels], 0.0)
    weight = (
        old.num_samples
        * new.num_samples
        / jnp.maximum(old.num_samples + new.num_samples, 1.0)
    )
    delta = jnp.sqrt(weight)[:, None] * (new.mean - old.mean)
    scatter = slot.scatter + inner.T @ inner + delta.T @ delta
    return slot._replace(means=merge_means(old, new), scatter=scatter)


def solve(slot: Gaussians, *, shrinkage: ArrayLike) -> Gaussians:
    r"""The rule: $x^\top \Lambda \mu_c - \frac{1}{2} \mu_c^\top \Lambda \mu_c$ with $\Lambda = ((1 - \epsilon) \Sigma + \epsilon I)^{-1}$, $\Sigma = S / n$."""
    total, size = slot.means.num_samples.sum(), slot.scatter.shape[0]
    covariance = slot.scatter / jnp.maximum(total, 1.0)
    shrunk = (1.0 - shrinkage) * covariance + shrinkage * jnp.eye(size)
    weight = jax.scipy.linalg.solve(shrunk, slot.means.mean.T, assume_a="pos")
    bias = -0.5 * (slot.means.mean * weight.T).sum(1)
    return slot._replace(weight=weight, bias=bias)


def slda(*, shrinkage: ArrayLike = 1e-4) -> Part:
    r"""Streaming linear discriminant analysis on frozen features (Hayes and Kanan, CVPR-W 2020, https://arxiv.org/abs/1909.01520).

    Needs memory for F x F numbers. The samples of a task are taken in when it ends; the result is that of one at a time.

    Args:
      shrinkage: $\epsilon$ in [0, 1], in units of squared features.
    """

    def init(network, model, output, buffer) -> Gaussians:
        means = _nothing_yet(network, model, output, buffer)
        num_columns, size = means.mean.shape
        empty = (
            jnp.zeros((size, num_columns), jnp.float32),
            jnp.zeros(num_columns, jnp.float32),
        )
        return Gaussians(means, jnp.zeros((size, size), jnp.float32), *empty)

    def end_task(network, border: Border, slot: Gaussians, settings):
        data, open_now = border.data, border.scope.num_open
        phi = features_of(network, border.model, data.images, open_now)
        slot = add_samples(slot, phi, data.labels, first_time(data))
        return border.model, solve(slot, shrinkage=settings["shrinkage"])

    def scores(network, model, slot, settings, scope, images: Array) -> Array:
        phi = evaluate(network, model, images, scope.num_open).features
        known = (slot.means.num_samples > 0)[None]
        return jnp.where(known, phi @ slot.weight + slot.bias[None], -jnp.inf)

    return Part(
        "predict", {"shrinkage": shrinkage}, init=init, end_task=end_task, scores=scores
    )
