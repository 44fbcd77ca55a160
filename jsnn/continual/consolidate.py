r"""Consolidation: parameters that mattered for earlier tasks are held where they were.

Both methods add $\frac{\lambda}{2} \sum_i \Omega_i (\theta_i - \theta_i^*)^2$ (SI without the half); they differ in what they take for the importance $\Omega$.

Axes: N samples, B samples of a chunk.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from jsnn import check
from jsnn.continual.buffer import Batch
from jsnn.continual.method import Border, Part
from jsnn.continual.network import Network, cross_entropy, evaluate
from jsnn.layers import Model


class Anchored(NamedTuple):
    """EWC's memory: a tree like the parameters in each field."""

    importance: Any  # F, the Fisher information's diagonal
    anchor: Any  # theta*, parameters at the end of the last task


def distance(params: Any, anchored: Anchored) -> Array:
    r"""$\sum_i \Omega_i (\theta_i - \theta_i^*)^2$."""
    terms = jax.tree.map(
        lambda p, f, a: jnp.sum(f * jnp.square(p - a)), params, *anchored
    )
    return sum(jax.tree.leaves(terms), jnp.zeros(()))


def fisher(
    network: Network,
    model: Model,
    data: Batch,
    num_open: Int[Array, ""],
    *,
    chunk_size: int = 16,
) -> Any:
    r"""The empirical Fisher information's diagonal, $F_i = \frac{1}{N} \sum_n (\partial_i \log p(y_n | x_n))^2$, over valid samples.

    Each sample's own gradient is squared, not the batch's; batch norm is as in evaluation. Memory holds `chunk_size` gradients.
    """

    def negative_log_likelihood(params: Any, image: Array, label: Array) -> Array:
        here, known = Model(params, model.rest), jnp.ones(1, bool)
        logits = evaluate(network, here, image[None], num_open).logits
        return cross_entropy(logits, label[None], known)

    per_sample = jax.vmap(jax.grad(negative_log_likelihood), in_axes=(None, 0, 0))

    def add(total: Any, rows: Array) -> tuple[Any, None]:
        valid = data.valid[rows % count] & (rows < count)
        images, labels = data.images[rows % count], data.labels[rows % count]

        def squares() -> Any:
            # Padding may carry the label of a closed column, whose gradient is NaN: it takes column 0 and then counts for nothing.
            each = per_sample(model.params, images, jnp.where(valid, labels, 0))
            return jax.tree.map(
                lambda t, g: t + jnp.tensordot(valid.astype(g.dtype), jnp.square(g), 1),
                total,
                each,
            )

        return jax.lax.cond(valid.any(), squares, lambda: total), None

    count = len(data.labels)
    size = max(1, min(chunk_size, count))
    rows = jnp.arange(-(-count // size) * size).reshape(-1, size)
    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, model.params), rows)
    return jax.tree.map(lambda t: t / jnp.maximum(data.valid.sum(), 1), total)


def choose(data: Batch, key: Array, num_samples: int | None) -> Batch:
    """`num_samples` of the valid samples at random, all if None or if there are fewer."""
    if num_samples is None or num_samples >= len(data.labels):
        return data
    priority = jnp.where(
        data.valid, jax.random.uniform(key, data.valid.shape, jnp.float32), -1.0
    )
    chosen = jax.lax.top_k(priority, num_samples)[1]
    return jax.tree.map(lambda x: x[chosen], data)


def ewc(
    *,
    strength: ArrayLike = 20.0,
    decay: ArrayLike = 1.0,
    num_samples: int | None = None,
    chunk_size: int = 16,
) -> Part:
    r"""Online elastic weight consolidation: $\frac{\lambda}{2} \sum_i F_i (\theta_i - \theta_i^*)^2$, with $F \leftarrow \gamma F + F_{new}$ and $\theta^* \leftarrow \theta$ after each task.

    Kirkpatrick et al., PNAS 2017, https://arxiv.org/abs/1612.00796; one running sum over tasks as in Schwarz et al., ICML 2018,
    https://arxiv.org/abs/1805.06370.

    mammoth's penalty has no half, so its $\lambda = 10$ is 20 here. Its Fisher information weighs each sample's square with
    $p(y_n | x_n)$; here, as in most codebases, all samples count alike.

    Args:
      strength: $\lambda$.
      decay: $\gamma$.
      num_samples: samples of a task in its Fisher information, drawn at random; all if None.
      chunk_size: samples whose gradients are held at a time.

    Raises:
      ValueError: if `num_samples` or `chunk_size` is less than 1.
    """
    if num_samples is not None:
        remedy = "None takes all samples."
        num_samples = check.whole("num_samples", num_samples, 1, remedy=remedy)
    chunk_size = check.whole("chunk_size", chunk_size, 1)

    def init(network, model: Model, output, buffer) -> Anchored:
        return Anchored(jax.tree.map(jnp.zeros_like, model.params), model.params)

    def penalty(params: Any, slot: Anchored, settings) -> Array:
        return 0.5 * settings["strength"] * distance(params, slot)

    def end_task(network, border: Border, slot: Anchored, settings):
        data = choose(border.data, border.key, num_samples)
        open_now, model = border.scope.num_open, border.model
        new = fisher(network, model, data, open_now, chunk_size=chunk_size)
        gamma = settings["decay"]
        total = jax.tree.map(lambda f, n: gamma * f + n, slot.importance, new)
        return model, Anchored(total, model.params)

    return Part(
        "consolidate",
        {"strength": strength, "decay": decay},
        init=init,
        penalty=penalty,
        end_task=end_task,
    )


class Path(NamedTuple):
    """SI's memory: a tree like the parameters in each field."""

    importance: Any  # Omega
    anchor: Any  # parameters at the end of the last task, where this one starts
    path: Any  # omega, the task's own sum


def si(*, strength: ArrayLike = 0.5, damping: ArrayLike = 1.0) -> Part:
    r"""Synaptic intelligence: $c \sum_i \Omega_i (\theta_i - \theta_i^*)^2$ (Zenke et al., ICML 2017, https://arxiv.org/abs/1703.04200).

    Each step adds $-g_i \Delta\theta_i$ to $\omega_i$, $g$ the gradient of the loss without the penalty; after a task
    $\Omega_i \leftarrow \Omega_i + \max(0, \omega_i) / ((\theta_i - \theta_i^*)^2 + \xi)$, $\omega_i \leftarrow 0$, $\theta^* \leftarrow \theta$.
    Codebases differ on the maximum.

    Args:
      strength: $c$.
      damping: $\xi$.
    """

    def init(network, model: Model, output, buffer) -> Path:
        zeros = jax.tree.map(jnp.zeros_like, model.params)
        return Path(zeros, model.params, zeros)

    def penalty(params: Any, slot: Path, settings) -> Array:
        return settings["strength"] * distance(params, Anchored(*slot[:2]))

    def after_step(slot: Path, before: Any, after: Any, gradient: Any) -> Path:
        path = jax.tree.map(
            lambda w, b, a, g: w - g * (a - b), slot.path, before, after, gradient
        )
        return slot._replace(path=path)

    def end_task(network, border: Border, slot: Path, settings):
        params, xi = border.model.params, settings["damping"]
        importance = jax.tree.map(
            lambda total, start, w, p: (
                total + jnp.maximum(w, 0.0) / (jnp.square(p - start) + xi)
            ),
            *slot,
            params,
        )
        zeros = jax.tree.map(jnp.zeros_like, params)
        return border.model, Path(importance, params, zeros)

    return Part(
        "consolidate",
        {"strength": strength, "damping": damping},
        init=init,
        penalty=penalty,
        after_step=after_step,
        end_task=end_task,
    )
