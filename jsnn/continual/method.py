"""Class-incremental methods as small terms over one pytree memory.

A `Method` is a declaration: which `Part`s make up its loss, penalty and prediction, what its buffer keeps (`Storage`), and
what data it trains on. The functions below run any such declaration: `init_memory` once, then for each task `begin_task`,
per step `gradients` and `after_step`, at last `end_task`; `scores` whenever it is asked. All are pure, jit-able, and to be
`vmap`ped over seeds: task number and open classes are traced (`Scope`), and so are weights such as alpha and lambda (`settings`).

A label is a *column* of the head: the first class to open is 0, whatever it is called in the data set.

Axes: B batch (in a `Replay`, rows of a draw), N samples of a task, M slots of the buffer, C columns of the head (its capacity), F features, T time.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from jsnn.continual import buffer as buffers
from jsnn.continual import network as networks
from jsnn.continual.buffer import Batch, Buffer, Replay
from jsnn.continual.network import Network, Output
from jsnn.layers import Model

Settings = dict[str, dict[str, ArrayLike]]  # part's name -> its weights


class Scope(NamedTuple):
    """Where in the stream we are; traced, so that one compilation serves all tasks."""

    task: Int[Array, ""]  # 0-based
    num_old: Int[Array, ""]  # columns open before this task
    num_open: Int[Array, ""]  # columns open now


class Border(NamedTuple):
    """What hooks at the border of a task may use."""

    key: Array
    model: Model
    scope: Scope
    data: Batch  # the task's samples, N of them, padded: mind `valid`
    buffer: Buffer


class Step(NamedTuple):
    """One batch, and this part's draws from the buffer, through the network."""

    key: Array
    model: Model  # as differentiated
    scope: Scope
    batch: Batch
    inputs: Shaped[Array, "B ..."]  # the batch's images after augmentation
    output: Output
    replays: tuple[Replay, ...]
    replay_inputs: tuple[Array, ...]
    replay_outputs: tuple[Output, ...]


class Part(NamedTuple):
    """One term of a method. Hooks that are None do nothing; `slot` is this part's place in the memory.

    Attributes:
      name: key of its slot and its settings.
      settings: default weights, to be overridden by argument.
      num_draws: independent draws from the buffer that `loss` needs each step.
      withheld: share of the method's slots that this part keeps apart for itself (BiC's validation samples), at least one.
      init: `(network, model, output, buffer) -> slot`; `output` holds shapes only, `buffer` is empty, of the slots kept apart or all others.
      begin_task: `(network, border, slot, settings) -> (slot, valid [N])`, which may withhold samples from training.
      loss: `(network, step, slot, settings) -> scalar`, added to the others.
      penalty: `(params, slot, settings) -> scalar`, likewise, of parameters alone.
      after_step: `(slot, before, after, gradient) -> slot`: parameters before and after, gradient of the losses without penalties.
      end_task: `(network, border, slot, settings) -> (model, slot)`; the buffer is that of the next task.
      scores: `(network, model, slot, settings, scope, images) -> [B, C]`, in place of the logits; closed columns -inf.
    """

    name: str
    settings: dict[str, ArrayLike] = {}  # noqa: RUF012 (read only)
    num_draws: int = 0
    withheld: float = 0.0
    init: Callable[..., Any] | None = None
    begin_task: Callable[..., tuple[Any, Array]] | None = None
    loss: Callable[..., Array] | None = None
    penalty: Callable[..., Array] | None = None
    after_step: Callable[..., Any] | None = None
    end_task: Callable[..., tuple[Model, Any]] | None = None
    scores: Callable[..., Array] | None = None


class Storage(NamedTuple):
    """What the buffer keeps, and when it is asked.

    Attributes:
      step: `(buffer, key, scope, replay) -> buffer`, offered every training batch of every epoch, without augmentation.
      begin: `(network, border) -> buffer`, before a task is trained.
      end: `(network, border) -> buffer`, after it.
    """

    step: Callable[..., Buffer] | None = None
    begin: Callable[..., Buffer] | None = None
    end: Callable[..., Buffer] | None = None


class Method(NamedTuple):
    """A declaration of a method.

    Attributes:
      parts: terms, whose names differ.
      storage: what fills the buffer; None for none.
      data: what a task trains on: its own samples, these and the buffer's as one set, those of all tasks so far, those of all
        tasks of the stream (in one run, the last task's), or the buffer's alone (as it is after `begin_task`).
      fresh_start: parameters are drawn anew for each task.
      freeze_after: number of tasks after which the network is no longer trained; None: never.
      passes: draws go through the network in one pass with the batch ("together": batch norm sees the mixture) or one after the
        other ("apart": each its own statistics, `rest` handed on from pass to pass).
      draw_size: samples a draw; None: as many as the batch has.
      latent: the buffer holds bit-packed spikes of `network.lower`, which is frozen once there are old classes. So its storage
        fills the buffer when a task ends.
    """

    parts: tuple[Part, ...]
    storage: Storage | None = None
    data: Literal["task", "task+buffer", "seen", "all", "buffer"] = "task"
    fresh_start: bool = False
    freeze_after: int | None = None
    passes: Literal["together", "apart"] = "apart"
    draw_size: int | None = None
    latent: bool = False


class Memory(NamedTuple):
    """All that a method remembers besides the model: one pytree, saved and restored with the rest of the run."""

    buffer: Buffer
    slots: dict[str, Any]


class Update(NamedTuple):
    """What one batch teaches."""

    gradient: Any  # of everything: for the optimiser
    task_gradient: Any  # without penalties
    rest: Any
    loss: Float[Array, ""]
    accuracy: Float[Array, ""]  # of the batch's own samples
    replay: Replay  # the batch as it is offered to the buffer


def default_settings(method: Method) -> Settings:
    """The weights of a method's parts, to be changed or given an axis for `vmap`."""
    return {part.name: dict(part.settings) for part in method.parts}


def init_memory(
    network: Network,
    method: Method,
    model: Model,
    image: Shaped[Array, "..."],
    *,
    buffer_size: int,
) -> Memory:
    """An empty memory for images like `image` (one, without batch axis).

    Raises:
      ValueError: if a method that replays has no room, parts share a name, or latent replay lacks a network in two parts
        or a storage that waits for the end of a task.
    """
    names = [part.name for part in method.parts]
    if len(set(names)) < len(names):
        raise ValueError(f"`parts` must have different names, got {names}.")
    # Slots that parts keep apart, and those left to the buffer: `buffer_size` together.
    apart = {
        p.name: max(1, round(buffer_size * p.withheld))
        for p in method.parts
        if p.withheld
    }
    size = 0 if method.storage is None else buffer_size - sum(apart.values())
    if method.storage is not None and size < 1:
        raise ValueError(
            f"`buffer_size` must be at least {1 + len(apart)} for this method, got {buffer_size}."
        )
    if method.storage is None and any(part.num_draws for part in method.parts):
        raise ValueError("`storage` must be given for parts that draw from the buffer.")
    output = jax.eval_shape(
        lambda m, x: networks.evaluate(network, m, x, jnp.int32(1)),
        model,
        image[None],
    )
    if method.latent:
        if method.storage is None or method.storage.step or method.storage.begin:
            raise ValueError(
                "`storage` of latent replay must fill the buffer at the end of a task: before, the spikes to be kept still change."
            )
        spikes = networks.latent_struct(network, model, image[None])
        image = jnp.zeros(buffers.packed_size(spikes.shape), jnp.uint8)
    empty = functools.partial(
        buffers.init, image=image, num_columns=output.logits.shape[1]
    )
    slots = {
        part.name: part.init(network, model, output, empty(apart.get(part.name, size)))
        for part in method.parts
        if part.init is not None
    }
    return Memory(empty(size), slots)


def begin_task(
    network: Network,
    method: Method,
    memory: Memory,
    model: Model,
    settings: Settings,
    key: Array,
    scope: Scope,
    data: Batch,
) -> tuple[Memory, Bool[Array, "N"]]:
    """Prepares for a task with samples `data`; returns which of them may be trained on."""
    border = Border(key, model, scope, data, memory.buffer)
    if method.storage is not None and method.storage.begin is not None:
        border = border._replace(buffer=method.storage.begin(network, border))
    slots = dict(memory.slots)
    for number, part in enumerate(method.parts):
        if part.begin_task is not None:
            here = border._replace(key=jax.random.fold_in(key, number))
            slots[part.name], valid = part.begin_task(
                network, here, slots.get(part.name), settings[part.name]
            )
            border = border._replace(data=border.data._replace(valid=valid))
    return Memory(border.buffer, slots), border.data.valid


def gradients(
    network: Network,
    method: Method,
    memory: Memory,
    model: Model,
    settings: Settings,
    key: Array,
    scope: Scope,
    batch: Batch,
) -> Update:
    """Draws from the buffer, runs the network and differentiates the sum of all parts."""
    key_draw, key_look, key_loss = jax.random.split(key, 3)
    count = sum(part.num_draws for part in method.parts)
    size = len(batch.labels) if method.draw_size is None else method.draw_size
    keys = jax.random.split(key_draw, count)
    replays = [buffers.sample(memory.buffer, k, size) for k in keys]

    def objective(params: Any) -> tuple[Array, tuple[Output, Any]]:
        here = Model(params, model.rest)
        step, rest = _look(network, method, here, key_look, scope, batch, replays)
        step = step._replace(key=key_loss)
        return _loss(network, method, memory, settings, step), (step.output, rest)

    (loss, (output, rest)), task_gradient = jax.value_and_grad(objective, has_aux=True)(
        model.params
    )
    gradient = task_gradient
    for part in method.parts:
        if part.penalty is not None:
            value, pull = jax.value_and_grad(part.penalty)(
                model.params, memory.slots.get(part.name), settings[part.name]
            )
            loss, gradient = loss + value, jax.tree.map(jnp.add, gradient, pull)
    hits = (output.logits.argmax(1) == batch.labels).astype(jnp.float32)
    replay = Replay(batch, jnp.full_like(batch.labels, scope.task), output.logits)
    hit = buffers.mean_of(hits, batch.valid)
    return Update(gradient, task_gradient, rest, loss, hit, replay)


def _loss(
    network: Network, method: Method, memory: Memory, settings: Settings, step: Step
) -> Float[Array, ""]:
    """The sum of all parts' losses, each of which sees its own draws."""
    loss, start = jnp.zeros(()), 0
    for number, part in enumerate(method.parts):
        own = slice(start, start + part.num_draws)
        start += part.num_draws
        if part.loss is not None:
            view = step._replace(
                key=jax.random.fold_in(step.key, number),
                replays=step.replays[own],
                replay_inputs=step.replay_inputs[own],
                replay_outputs=step.replay_outputs[own],
            )
            slot = memory.slots.get(part.name)
            loss += part.loss(network, view, slot, settings[part.name])
    return loss


def after_step(
    method: Method,
    memory: Memory,
    key: Array,
    scope: Scope,
    update: Update,
    before: Any,
    after: Any,
) -> Memory:
    """Lets parts and buffer learn from an optimiser step that moved parameters from `before` to `after`."""
    slots = dict(memory.slots)
    for part in method.parts:
        if part.after_step is not None:
            slots[part.name] = part.after_step(
                slots[part.name], before, after, update.task_gradient
            )
    buffer = memory.buffer
    if method.storage is not None and method.storage.step is not None:
        buffer = method.storage.step(buffer, key, scope, update.replay)
    return Memory(buffer, slots)


def end_task(
    network: Network,
    method: Method,
    memory: Memory,
    model: Model,
    settings: Settings,
    key: Array,
    scope: Scope,
    data: Batch,
) -> tuple[Memory, Model]:
    """Closes a task: the buffer first, then the parts in order, each of which may change the model."""
    border = Border(key, model, scope, data, memory.buffer)
    if method.storage is not None and method.storage.end is not None:
        border = border._replace(buffer=method.storage.end(network, border))
    slots = dict(memory.slots)
    for number, part in enumerate(method.parts):
        if part.end_task is not None:
            here = border._replace(key=jax.random.fold_in(key, number))
            model, slots[part.name] = part.end_task(
                network, here, slots.get(part.name), settings[part.name]
            )
            border = border._replace(model=model)
    return Memory(border.buffer, slots), border.model


def scores(
    network: Network,
    method: Method,
    slots: dict[str, Any],
    model: Model,
    settings: Settings,
    scope: Scope,
    images: Shaped[Array, "B ..."],
) -> Float[Array, "B C"]:
    """What the method predicts from, the largest being its class: the last part that has `scores`, or else the logits."""
    for part in reversed(method.parts):
        if part.scores is not None:
            slot = slots.get(part.name)
            return part.scores(network, model, slot, settings[part.name], scope, images)
    return networks.evaluate(network, model, images, scope.num_open).logits


def within(
    scores: Float[Array, "B C"], columns: Bool[Array, "C"] | Bool[Array, "B C"]
) -> Float[Array, "B C"]:
    """Scores for task-IL: -inf outside the columns of the sample's task."""
    return jnp.where(jnp.broadcast_to(columns, scores.shape), scores, -jnp.inf)


def _look(
    network: Network,
    method: Method,
    model: Model,
    key: Array,
    scope: Scope,
    batch: Batch,
    replays: list[Replay],
) -> tuple[Step, Any]:
    """Batch and draws through the network."""
    key_augment, key_apply = jax.random.split(key)

    def augment(number: int, images: Array) -> Array:
        return network.augment(jax.random.fold_in(key_augment, number), images)

    inputs = [augment(0, batch.images)]
    if method.latent:
        inputs += [replay.batch.images for replay in replays]
        outputs, rest = networks.forward_latent(
            network,
            model,
            key_apply,
            scope.num_open,
            inputs[0],
            replays,
            frozen=scope.num_old > 0,
        )
    else:
        for i, drawn in enumerate(replay.batch for replay in replays):
            shown = networks.instead_of(batch.images, drawn.images, drawn.valid)
            inputs.append(augment(i + 1, shown))
        outputs, rest = networks.forward(
            network, model, key_apply, scope.num_open, inputs, method.passes
        )
    seen = tuple(replays), tuple(inputs[1:]), tuple(outputs[1:])
    return Step(key, model, scope, batch, inputs[0], outputs[0], *seen), rest
