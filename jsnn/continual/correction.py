"""Corrections of a head that favours new classes: WA's weight alignment and BiC's bias layer.

Axes: B batch, V validation samples, C columns of the head, F features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jsnn import check
from jsnn.continual import buffer as buffers
from jsnn.continual import distil
from jsnn.continual.buffer import Buffer, Replay
from jsnn.continual.method import Border, Part, Scope, Step
from jsnn.continual.network import Head, cross_entropy, evaluate, map_samples
from jsnn.layers import Model


def align(head: Head, scope: Scope) -> Head:
    r"""New columns' weights times $\mathrm{mean}\lVert w_{old} \rVert / \mathrm{mean}\lVert w_{new} \rVert$; no change in the first task."""
    column = jnp.arange(len(head.bias))
    old = column < scope.num_old
    new = ~old & (column < scope.num_open)
    norms = jnp.linalg.norm(head.weight, axis=0)
    ratio = buffers.mean_of(norms, old) / buffers.mean_of(norms, new)
    applies = new & old.any() & jnp.isfinite(ratio)
    return head._replace(
        weight=jnp.where(applies[None], head.weight * ratio, head.weight)
    )


def align_weights() -> Part:
    """Weight alignment when a task ends (Zhao et al., CVPR 2020, https://arxiv.org/abs/1911.07053); the network must have `head` and `with_head`."""

    def init(network, model: Model, output, buffer) -> tuple[()]:
        if network.head is None or network.with_head is None:
            raise ValueError(
                "`network` must define `head` and `with_head` for weight alignment, got None."
            )
        return ()

    def end_task(network, border: Border, slot, settings):
        model = border.model
        head = align(network.head(model.params), border.scope)
        return model._replace(params=network.with_head(model.params, head)), slot

    return Part("align", init=init, end_task=end_task)


class BiasLayer(NamedTuple):
    """BiC's memory. The columns of a task share a scale and a shift, 1 and 0 for the first task's."""

    teacher: distil.Teacher
    scale: Float[Array, "C"]
    shift: Float[Array, "C"]
    validation: Buffer  # samples held out from training, balanced over classes


def corrected(
    logits: Float[Array, "B C"], scale: Float[Array, "C"], shift: Float[Array, "C"]
) -> Float[Array, "B C"]:
    """Scaled and shifted logits; closed columns stay -inf whatever the scale's sign."""
    is_open = jnp.isfinite(logits)
    z = jnp.where(is_open, logits, 0.0) * scale[None] + shift[None]
    return jnp.where(is_open, z, -jnp.inf)


def fit_bias(
    logits: Float[Array, "V C"],
    labels: Int[Array, "V"],
    valid: Bool[Array, "V"],
    new: Bool[Array, "C"],
    *,
    ridge: ArrayLike,
    num_steps: int = 30,
) -> tuple[Array, Array]:
    r"""$\alpha, \beta$ that minimise the cross entropy of $z_{new} \leftarrow \alpha z_{new} + \beta$, and a ridge $\frac{r}{2} ((\alpha - 1)^2 + \beta^2)$.

    The problem is convex in two numbers: Newton's method with a line search, where the original takes gradient steps. The
    ridge keeps the answer finite where few samples can be separated. No valid sample leaves 1 and 0.
    """

    def objective(point: Array) -> Array:
        scale, shift = jnp.where(new, point[0], 1.0), jnp.where(new, point[1], 0.0)
        value = cross_entropy(corrected(logits, scale, shift), labels, valid)
        distance = jnp.square(point - jnp.asarray([1.0, 0.0])).sum()
        return value + 0.5 * ridge * distance

    lengths = 0.5 ** jnp.arange(8.0)

    def newton(_, point: Array) -> Array:
        direction = jnp.linalg.solve(
            jax.hessian(objective)(point), jax.grad(objective)(point)
        )
        tried = point[None] - lengths[:, None] * direction[None]
        values = jax.vmap(objective)(tried)
        best = jnp.argmin(values)
        return jnp.where(values[best] < objective(point), tried[best], point)

    alpha, beta = jax.lax.fori_loop(0, num_steps, newton, jnp.asarray([1.0, 0.0]))
    return alpha, beta


def _init(network, model: Model, output, buffer: Buffer) -> BiasLayer:
    count = len(buffer.num_seen)
    teacher = distil.init_teacher(network, model, output, buffer)
    return BiasLayer(
        teacher,
        jnp.ones(count, jnp.float32),
        jnp.zeros(count, jnp.float32),
        validation=buffer,
    )


def _begin_task(network, border: Border, slot: BiasLayer, settings):
    data, store = border.data, slot.validation
    slots, store = buffers.assign(store, border.key, data, buffers.balanced)
    slots = buffers.last_writers(slots, len(store.labels))
    count = len(data.labels)
    empty = jnp.full((count, len(store.num_seen)), -jnp.inf, jnp.float32)
    replay = Replay(data, jnp.full(count, border.scope.task), empty)
    store = buffers.write(store, replay, slots)
    # New ones, and those of an earlier task that come again.
    withheld = (slots < len(store.labels)) | buffers.is_in(
        data, buffers.everything(store)
    )
    teacher, _ = distil.remember_teacher(network, border, slot.teacher, settings)
    slot = slot._replace(teacher=teacher, validation=store)
    return slot, data.valid & ~withheld


def _loss(network, step: Step, slot: BiasLayer, settings) -> Array:
    logits = step.output.logits
    target = distil.ask(network, slot.teacher, step.scope, step.inputs, logits)
    return distil.balanced_loss(
        corrected(logits, slot.scale, slot.shift),
        corrected(target, slot.scale, slot.shift),
        step.batch.labels,
        step.batch.valid,
        step.scope,
        num_own=slot.teacher.own.sum(),
        temperature=settings["temperature"],
    )


def _end_task(network, border: Border, slot: BiasLayer, settings):
    scope, store = border.scope, slot.validation
    logits = map_samples(
        lambda x: evaluate(network, border.model, x, scope.num_open).logits,
        store.images,
    )
    column = jnp.arange(len(slot.scale))
    new = (column >= scope.num_old) & (column < scope.num_open) & (scope.num_old > 0)
    alpha, beta = fit_bias(
        corrected(logits, slot.scale, slot.shift),
        store.labels,
        store.valid,
        new,
        ridge=settings["ridge"],
    )
    scale, shift = (
        jnp.where(new, alpha, slot.scale),
        jnp.where(new, beta, slot.shift),
    )
    return border.model, slot._replace(scale=scale, shift=shift)


def _scores(network, model, slot: BiasLayer, settings, scope, images) -> Array:
    logits = evaluate(network, model, images, scope.num_open).logits
    return corrected(logits, slot.scale, slot.shift)


def bias_correction(
    *, temperature: ArrayLike = 2.0, ridge: ArrayLike = 1e-3, share: float = 0.1
) -> Part:
    """BiC: distillation, and a bias layer for the new classes fitted on held-out samples (Wu et al., CVPR 2019, https://arxiv.org/abs/1905.13260).

    The held-out samples, as many of each class, are a `share` of all the method's slots (`Part.withheld`). While they are held
    out they are neither trained on nor exemplars, and none was trained on before. Earlier tasks' layers stay in force: the loss, the teacher and predictions see corrected logits.

    Raises:
      ValueError: if `share` does not lie between 0 and 1.
    """
    share = check.static("share", share, "(0, 1)")

    return Part(
        "correct",
        {"temperature": temperature, "ridge": ridge},
        withheld=share,
        init=_init,
        begin_task=_begin_task,
        loss=_loss,
        end_task=_end_task,
        scores=_scores,
    )
