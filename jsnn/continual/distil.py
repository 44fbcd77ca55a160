r"""Distillation: the network as it was before the task is the teacher of the old columns.

The teacher lies in the memory, parameters and running statistics. It sees the same augmented images as the network and is only asked
from the second task on.

Axes: B batch, C columns of the head.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jsnn.continual.buffer import mean_of
from jsnn.continual.method import Border, Part, Scope, Step
from jsnn.continual.network import Network, cross_entropy, evaluate
from jsnn.layers import Model

_CLOSED = -1e30  # stands for -inf where 0 times it must be 0


class Teacher(NamedTuple):
    """The network before the task, and which columns the task's own classes have: new ones, and old ones that come again."""

    model: Model
    own: Bool[Array, "C"]


def init_teacher(network, model: Model, output, buffer) -> Teacher:
    """Hook `init`."""
    return Teacher(model, jnp.zeros(output.logits.shape[1], bool))


def remember_teacher(
    network: Network, border: Border, slot: Teacher, settings: Any
) -> tuple[Teacher, Array]:
    """Hook `begin_task`: the model before the task becomes the teacher."""
    data = border.data
    own = jnp.zeros_like(slot.own).at[data.labels].max(data.valid)
    return Teacher(border.model, own), data.valid


def ask(
    network: Network, teacher: Teacher, scope: Scope, inputs: Array, logits: Array
) -> Float[Array, "B C"]:
    """The teacher's logits; zeros, at no cost, in the first task. `logits` are the student's, for their shape."""

    def answer() -> Array:
        # All columns open now. No loss here reads those that were opened after the teacher was kept.
        return evaluate(network, teacher.model, inputs, scope.num_open).logits

    silent = jnp.zeros(logits.shape, logits.dtype)
    return jax.lax.stop_gradient(
        jax.lax.cond(scope.num_old > 0, answer, lambda: silent)
    )


def divergence(
    logits: Float[Array, "B C"],
    teacher: Float[Array, "B C"],
    num_old: Int[Array, ""],
    *,
    temperature: ArrayLike,
) -> Float[Array, "B"]:
    r"""$\mathrm{KL}(p \Vert q) = \sum_c p_c \log (p_c / q_c)$ of softmaxes over the first `num_old` columns at one temperature.

    $p$ is the teacher's, $q$ the student's (Hinton et al., 2015, https://arxiv.org/abs/1503.02531, without their $T^2$). 0 if `num_old` is 0.
    """
    old = (jnp.arange(logits.shape[1]) < num_old)[None]

    def log_softmax(z: Array) -> Array:
        return jax.nn.log_softmax(jnp.where(old, z / temperature, _CLOSED))

    log_p, log_q = log_softmax(teacher), log_softmax(logits)
    return (jnp.exp(log_p) * jnp.where(old, log_p - log_q, 0.0)).sum(1)


def lwf(*, alpha: ArrayLike = 3.0, temperature: ArrayLike = 2.0) -> Part:
    r"""Learning without forgetting: $\alpha \mathrm{KL}$ on the old columns, to be added to the cross entropy over all (Li and Hoiem, 2016, https://arxiv.org/abs/1606.09282).

    As in the paper and in mammoth there is no $T^2$; these write the cross entropy of the two softmaxes, which differs by the
    teacher's entropy and has the same gradient. Codebases differ on whether the other cross entropy runs over new classes only.
    """

    def loss(network, step: Step, teacher: Teacher, settings) -> Array:
        logits, heat = step.output.logits, settings["temperature"]
        target = ask(network, teacher, step.scope, step.inputs, logits)
        value = divergence(logits, target, step.scope.num_old, temperature=heat)
        return settings["alpha"] * mean_of(value, step.batch.valid)

    return Part(
        "distil",
        {"alpha": alpha, "temperature": temperature},
        init=init_teacher,
        begin_task=remember_teacher,
        loss=loss,
    )


def balanced_loss(
    logits: Float[Array, "B C"],
    teacher: Float[Array, "B C"],
    labels: Int[Array, "B"],
    valid: Bool[Array, "B"],
    scope: Scope,
    *,
    num_own: Int[Array, ""],
    temperature: ArrayLike,
) -> Float[Array, ""]:
    r"""$(1 - \lambda) \mathrm{CE} + \lambda \mathrm{KL}$ with $\lambda = K_{old} / (K_{old} + K_{own})$, as in BiC and WA (no $T^2$).

    `num_own` counts the task's classes, with those that come again. Without these, as in the papers, $\lambda$ is the share of
    old classes among all; with them it still leaves the task's classes their part.
    """
    share = scope.num_old / jnp.maximum(scope.num_old + num_own, 1)
    value = divergence(logits, teacher, scope.num_old, temperature=temperature)
    kept = mean_of(value, valid)
    return (1.0 - share) * cross_entropy(logits, labels, valid) + share * kept


def balanced_distillation(*, temperature: ArrayLike = 2.0) -> Part:
    """`balanced_loss` of the batch: the loss of WA (Zhao et al., CVPR 2020, https://arxiv.org/abs/1911.07053)."""

    def loss(network, step: Step, teacher: Teacher, settings) -> Array:
        logits = step.output.logits
        target = ask(network, teacher, step.scope, step.inputs, logits)
        return balanced_loss(
            logits,
            target,
            step.batch.labels,
            step.batch.valid,
            step.scope,
            num_own=teacher.own.sum(),
            temperature=settings["temperature"],
        )

    return Part(
        "distil",
        {"temperature": temperature},
        init=init_teacher,
        begin_task=remember_teacher,
        loss=loss,
    )


class Sigmoids(NamedTuple):
    """Targets and weights of a binary cross entropy, column by column."""

    targets: Float[Array, "B C"]
    counted: Bool[Array, "C"]


def sigmoid_targets(
    teacher: Float[Array, "B C"],
    labels: Int[Array, "B"],
    own: Bool[Array, "C"],
    scope: Scope,
) -> Sigmoids:
    """iCaRL's targets: the label's one-hot on the task's `own` columns, the teacher's sigmoid on old ones; closed ones do not count."""
    column = jnp.arange(teacher.shape[1])
    soft, one_hot = jax.nn.sigmoid(teacher), labels[:, None] == column[None]
    old = (~own & (column < scope.num_old))[None]
    targets = jnp.where(old, soft, one_hot.astype(soft.dtype))
    return Sigmoids(targets, column < scope.num_open)


def sigmoid_loss(logits: Float[Array, "B C"], sigmoids: Sigmoids) -> Float[Array, "B"]:
    r"""$-\frac{1}{K} \sum_c t_c \log \sigma(z_c) + (1 - t_c) \log \sigma(-z_c)$ over the K columns that count."""
    counted = sigmoids.counted[None]
    z = jnp.where(counted, logits, 0.0)
    right, wrong = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
    losses = -(sigmoids.targets * right + (1.0 - sigmoids.targets) * wrong)
    count = jnp.maximum(sigmoids.counted.sum(), 1)
    return jnp.where(counted, losses, 0.0).sum(1) / count


def icarl_loss() -> Part:
    """iCaRL's loss, of the batch alone: sigmoids, old ones distilled (Rebuffi et al., CVPR 2017, https://arxiv.org/abs/1611.07725)."""

    def loss(network, step: Step, teacher: Teacher, settings) -> Array:
        logits = step.output.logits
        target = ask(network, teacher, step.scope, step.inputs, logits)
        sigmoids = sigmoid_targets(target, step.batch.labels, teacher.own, step.scope)
        return mean_of(sigmoid_loss(logits, sigmoids), step.batch.valid)

    return Part("distil", init=init_teacher, begin_task=remember_teacher, loss=loss)
