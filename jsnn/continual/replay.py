"""Replay: terms of the loss that look at samples from the buffer, and what fills it.

Every term that draws gets a draw of its own each step.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import check
from jsnn.continual import buffer as buffers
from jsnn.continual import herding as herd
from jsnn.continual.buffer import Buffer, Replay, mean_of
from jsnn.continual.method import Border, Part, Step, Storage
from jsnn.continual.network import cross_entropy, features_of, latent, map_samples


def batch_cross_entropy() -> Part:
    """Cross entropy of the batch over all open classes: by itself, naive training."""

    def loss(network, step: Step, slot, settings) -> Array:
        return cross_entropy(step.output.logits, step.batch.labels, step.batch.valid)

    return Part("classify", loss=loss)


def joint_cross_entropy() -> Part:
    """Experience replay: one mean of the cross entropy over the batch and a draw (Riemer et al., 2019; Chaudhry et al., https://arxiv.org/abs/1902.10486)."""

    def loss(network, step: Step, slot, settings) -> Array:
        (replay,), (output,) = step.replays, step.replay_outputs
        return cross_entropy(
            jnp.concatenate([step.output.logits, output.logits]),
            jnp.concatenate([step.batch.labels, replay.batch.labels]),
            jnp.concatenate([step.batch.valid, replay.batch.valid]),
        )

    return Part("replay", num_draws=1, loss=loss)


def replayed_cross_entropy(*, beta: ArrayLike = 0.5) -> Part:
    r"""$\beta$ times the cross entropy of a draw: with `match_logits` and the batch's, DER++."""

    def loss(network, step: Step, slot, settings) -> Array:
        (replay,), (output,) = step.replays, step.replay_outputs
        value = cross_entropy(output.logits, replay.batch.labels, replay.batch.valid)
        return settings["beta"] * value

    return Part("replay", {"beta": beta}, num_draws=1, loss=loss)


def asymmetric_cross_entropy() -> Part:
    """ER-ACE: new samples compete only with classes in their own batch, replayed ones with all (Caccia et al., ICLR 2022, https://arxiv.org/abs/2104.05025).

    In the first task there is nothing old to protect: its batches see all open classes, and nothing is replayed.
    """

    def loss(network, step: Step, slot, settings) -> Array:
        (replay,), (output,) = step.replays, step.replay_outputs
        old, logits = step.scope.task > 0, step.output.logits
        labels, valid = step.batch.labels, step.batch.valid
        present = jnp.zeros(logits.shape[1], bool).at[labels].max(valid)
        shown = jnp.where((present | ~old)[None], logits, -jnp.inf)
        value = cross_entropy(output.logits, replay.batch.labels, replay.batch.valid)
        return cross_entropy(shown, labels, valid) + jnp.where(old, value, 0.0)

    return Part("classify", num_draws=1, loss=loss)


Closed = Literal["lowest", "leave"]


def logit_distance(
    logits: Float[Array, "B C"], stored: Float[Array, "B C"], *, closed: Closed
) -> Float[Array, "B"]:
    """Mean squared distance of logits from stored ones, over columns that are open; 0 if there is nothing to compare.

    Columns that have opened since a sample was stored have no stored logit: see `match_logits`.
    """
    was_open, is_open = jnp.isfinite(stored), jnp.isfinite(logits)
    target, counted = stored, was_open & is_open
    if closed == "lowest":
        lowest = jnp.where(was_open, stored, jnp.inf).min(1, keepdims=True)
        target = jnp.where(was_open, stored, lowest)
        # With one class open its own logit would be the lowest.
        counted |= is_open & (was_open.sum(1, keepdims=True) > 1)
    # What does not count is replaced before the subtraction: inf - inf is NaN, and NaN times 0 as well.
    error = jnp.where(counted, logits, 0.0) - jnp.where(counted, target, 0.0)
    return jnp.square(error).sum(1) / jnp.maximum(counted.sum(1), 1)


def match_logits(*, alpha: ArrayLike = 0.3, closed: Closed = "lowest") -> Part:
    r"""Dark experience replay: $\alpha \frac{1}{K} \sum_c (z_c - h_c(x))^2$ over the K open columns, the mean over a draw, of stored logits and those now (Buzzega et al., NeurIPS 2020, https://arxiv.org/abs/2004.07211).

    The paper writes a squared norm; its code, and mammoth, take the mean over all columns, of which every one is open there.
    With all columns open this is the same.

    The original's head is open from the start, and training pushes the logits of classes to come far down before they are
    stored. A growing head has nothing to store for them; without a target, nothing keeps new classes from claiming old samples.

    Args:
      alpha: weight.
      closed: target of columns that were closed when the sample was stored: the lowest of its stored logits, or none (they are left out).

    Raises:
      ValueError: if `closed` is neither.
    """
    if closed not in get_args(Closed):
        raise ValueError(f"`closed` must be 'lowest' or 'leave', got {closed!r}.")

    def loss(network, step: Step, slot, settings) -> Array:
        (replay,), (output,) = step.replays, step.replay_outputs
        distance = logit_distance(output.logits, replay.logits, closed=closed)
        return settings["alpha"] * mean_of(distance, replay.batch.valid)

    return Part("match", {"alpha": alpha}, num_draws=1, loss=loss)


Kind = Literal["uniform", "balanced"]


def reservoir(exemplars: Kind = "uniform") -> Storage:
    """A reservoir offered every batch: uniform over all samples, or balanced over classes and uniform within each.

    A sample takes a slot or none when it first comes. When it comes again, in a later epoch or task, it takes no second one, but
    the network's newest answer replaces the stored one.

    Raises:
      ValueError: if `exemplars` is neither.
    """
    check.choice("exemplars", exemplars, get_args(Kind))

    def step(buffer: Buffer, key: Array, scope, replay: Replay) -> Buffer:
        if exemplars == "uniform":
            return buffers.add_reservoir(buffer, key, replay)
        return buffers.add_by(buffer, key, replay, buffers.balanced)

    return Storage(step=step)


def latent_reservoir(exemplars: Kind = "uniform") -> Storage:
    """The same for latent replay, offered a task's samples when it ends: their spikes are those of the lower half as it is by then.

    Raises:
      ValueError: if `exemplars` is neither.
    """
    check.choice("exemplars", exemplars, get_args(Kind))

    def end(network, border: Border) -> Buffer:
        buffer, data, key = border.buffer, border.data, border.key
        if exemplars == "uniform":
            slots, buffer = buffers.draw(buffer, key, data)
        else:
            slots, buffer = buffers.assign(buffer, key, data, buffers.balanced)
        num_slots, order = len(buffer.labels), jnp.arange(len(data.labels))
        # The row that each slot takes, if any: only what is kept is encoded.
        rows = jnp.full(num_slots, -1, jnp.int32).at[slots].max(order, mode="drop")
        replay = _as_replay(border, len(buffer.num_seen))
        kept = jax.tree.map(lambda x: x[jnp.maximum(rows, 0)], replay)
        spikes = map_samples(
            lambda x: latent(network, border.model, x), kept.batch.images
        )
        kept = kept._replace(batch=kept.batch._replace(images=spikes))
        slots = jnp.where(rows >= 0, jnp.arange(num_slots), num_slots)
        return buffers.write(buffer, kept, slots)

    return Storage(end=end)


def _as_replay(border: Border, num_columns: int) -> Replay:
    """A task's samples without the network's answers."""
    count = len(border.data.labels)
    tasks = jnp.full(count, border.scope.task)
    return Replay(
        border.data, tasks, jnp.full((count, num_columns), -jnp.inf, jnp.float32)
    )


def greedy() -> Storage:
    """A greedily balanced buffer (GDumb), filled from a random pass over a task's samples before it is trained."""

    def begin(network, border: Border) -> Buffer:
        key_order, key_slot = jax.random.split(border.key)
        order = jax.random.permutation(key_order, len(border.data.labels))
        replay = _as_replay(border, len(border.buffer.num_seen))
        shuffled = jax.tree.map(lambda x: x[order], replay)
        return buffers.add_by(border.buffer, key_slot, shuffled, buffers.greedy)

    return Storage(begin=begin)


def herding() -> Storage:
    """Exemplars by herding on the trained network's features, chosen when a task ends: see `herding.renew`."""

    def end(network, border: Border) -> Buffer:
        open_now, buffer = border.scope.num_open, border.buffer
        kept = features_of(network, border.model, buffer.images, open_now)
        new = features_of(network, border.model, border.data.images, open_now)
        return herd.renew(
            buffer,
            border.data,
            (kept, new),
            num_open=open_now,
            task=border.scope.task,
        )

    return Storage(end=end)
