"""Replay buffers: a fixed number of slots in one pytree, and who may take them.

Each policy decides, for every sample of a batch in turn, on a slot or on none; images are then written once. All of it runs
under `jit` and `vmap`, and the buffer is saved like any other array.

Axes: B batch, M slots, C columns of the head, T time, N samples, F features.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from jsnn import check


class Batch(NamedTuple):
    """Samples as they come from the stream."""

    images: Shaped[Array, "B ..."]  # as given, bytes as a rule
    labels: Int[Array, "B"]  # column of the head
    valid: Bool[Array, "B"]  # False: padding, to be ignored
    identity: Int[Array, "B"] | None = None  # which training sample; None: unknown
    is_first: Bool[Array, "B"] | None = None  # shown for the first time; None: all


class Replay(NamedTuple):
    """Samples as a buffer takes and gives them."""

    batch: Batch
    tasks: Int[Array, "B"]  # in which task each was seen
    logits: Float[
        Array, "B C"
    ]  # the network's answer when it was stored; -inf where a column was closed


class Buffer(NamedTuple):
    """M slots."""

    images: Shaped[Array, "M ..."]
    labels: Int[Array, "M"]
    tasks: Int[Array, "M"]
    logits: Float[Array, "M C"]
    valid: Bool[Array, "M"]  # slots in use
    num_seen: Int[Array, "C"]  # different samples offered so far, by column
    was_largest: Bool[Array, "C"]  # classes that once held most slots of a full buffer
    identity: Int[Array, "M"]  # which training sample; -1: unknown


def init(num_slots: int, image: Shaped[Array, "..."], num_columns: int) -> Buffer:
    """An empty buffer for images like `image` (one, without batch axis).

    Raises:
      ValueError: if `num_slots` is negative.
    """
    num_slots = check.whole("num_slots", num_slots, 0)
    return Buffer(
        jnp.zeros((num_slots, *image.shape), image.dtype),
        jnp.zeros(num_slots, jnp.int32),
        jnp.zeros(num_slots, jnp.int32),
        jnp.full((num_slots, num_columns), -jnp.inf, jnp.float32),
        jnp.zeros(num_slots, bool),
        jnp.zeros(num_columns, jnp.int32),
        jnp.zeros(num_columns, bool),
        jnp.full(num_slots, -1, jnp.int32),
    )


def mean_of(values: Float[Array, "B"], valid: Bool[Array, "B"]) -> Float[Array, ""]:
    """Mean of valid entries; 0 if there are none."""
    return jnp.where(valid, values, 0.0).sum() / jnp.maximum(valid.sum(), 1)


def first_time(batch: Batch) -> Bool[Array, "B"]:
    """Valid samples that the stream shows for the first time."""
    return batch.valid if batch.is_first is None else batch.valid & batch.is_first


def identities(batch: Batch) -> Int[Array, "B"]:
    """Which training sample each is; -1 if unknown or padding."""
    unknown = jnp.full(batch.valid.shape, -1, jnp.int32)
    return (
        unknown
        if batch.identity is None
        else jnp.where(batch.valid, batch.identity, -1)
    )


def is_in(batch: Batch, others: Batch) -> Bool[Array, "B"]:
    """Whether a sample is one of `others` as well; False where that is unknown."""
    own = identities(batch)
    return (own >= 0) & jnp.isin(own, identities(others))


def union(batch: Batch, others: Batch) -> Batch:
    """Samples of both as one set: of a sample that is in both, `others` loses its copy."""
    others = others._replace(valid=others.valid & ~is_in(others, batch))
    pair = [
        b._replace(identity=identities(b), is_first=first_time(b))
        for b in (batch, others)
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *pair)


def sample(buffer: Buffer, key: Array, num_samples: int) -> Replay:
    """`num_samples` different slots at random; if fewer are in use, all of these, and the remaining rows are not `valid`.

    Raises:
      TypeError: if `key` is none.
      ValueError: if `num_samples` is no whole number, or negative.
    """
    check.key(key)
    num_samples = check.whole("num_samples", num_samples, 0)
    slots = len(buffer.labels)
    priority = jnp.where(
        buffer.valid, jax.random.uniform(key, (slots,), jnp.float32), -1.0
    )
    # A buffer smaller than the draw: further rows repeat slot 0 and are marked.
    chosen = jax.lax.top_k(priority, min(num_samples, slots))[1]
    chosen = jnp.pad(chosen, (0, num_samples - len(chosen)))
    valid = jnp.arange(num_samples) < buffer.valid.sum()
    batch = jax.tree.map(lambda x: x[chosen], everything(buffer))._replace(valid=valid)
    return Replay(batch, buffer.tasks[chosen], buffer.logits[chosen])


def everything(buffer: Buffer) -> Batch:
    """All slots as a batch."""
    seen = jnp.zeros_like(buffer.valid)
    return Batch(buffer.images, buffer.labels, buffer.valid, buffer.identity, seen)


def write(buffer: Buffer, replay: Replay, slots: Int[Array, "B"]) -> Buffer:
    """Puts row i into slot `slots[i]`; M or more means nowhere. Of rows that want the same slot the last one gets it."""
    slots = last_writers(slots, len(buffer.labels))

    def put(old: Array, new: Array) -> Array:
        return old.at[slots].set(new.astype(old.dtype), mode="drop")

    return Buffer(
        put(buffer.images, replay.batch.images),
        put(buffer.labels, replay.batch.labels),
        put(buffer.tasks, replay.tasks),
        put(buffer.logits, replay.logits),
        put(buffer.valid, jnp.ones_like(replay.batch.valid)),
        buffer.num_seen,
        buffer.was_largest,
        put(buffer.identity, identities(replay.batch)),
    )


def last_writers(slots: Int[Array, "B"], num_slots: int) -> Int[Array, "B"]:
    """`slots` with `num_slots` (nowhere) for rows whose slot a later row takes."""
    order = jnp.arange(len(slots))
    last = jnp.full(num_slots, -1, jnp.int32).at[slots].max(order, mode="drop")
    kept = last[jnp.minimum(slots, num_slots - 1)] == order
    return jnp.where(kept & (slots < num_slots), slots, num_slots)


def draw(buffer: Buffer, key: Array, batch: Batch) -> tuple[Int[Array, "B"], Buffer]:
    """Algorithm R: sample number n (from 0) takes slot n if n < M, else draws r from 0 … n and takes slot r if r < M.

    Every sample offered is in the buffer with equal probability (Vitter, ACM TOMS 1985, https://doi.org/10.1145/3147.3165).
    One that is offered again is not counted again, and takes no further slot.

    Returns:
      Slots that the samples take in turn (M: none), and the buffer with its counters advanced.
    """
    new, num_slots = first_time(batch), len(buffer.labels)
    number = buffer.num_seen.sum() + jnp.cumsum(new.astype(jnp.int32)) - 1
    drawn = jax.random.randint(key, number.shape, 0, jnp.maximum(number, 0) + 1)
    slots = jnp.where(number < num_slots, number, drawn)
    count = buffer.num_seen.at[batch.labels].add(new.astype(jnp.int32))
    return jnp.where(new, slots, num_slots), buffer._replace(num_seen=count)


def add_reservoir(buffer: Buffer, key: Array, replay: Replay) -> Buffer:
    """Offers a batch to a buffer that is a uniform sample of what it was offered: see `draw`."""
    slots, counted = draw(buffer, key, replay.batch)
    return _answer_again(write(counted, replay, slots), replay)


def _answer_again(buffer: Buffer, replay: Replay) -> Buffer:
    """Puts the network's newest answers to samples that the buffer holds already."""
    batch, num_slots = replay.batch, len(buffer.labels)
    if batch.identity is None:
        return buffer
    same = buffer.valid[None] & (buffer.identity[None] == batch.identity[:, None])
    again = batch.valid & ~first_time(batch) & same.any(1)
    slots = jnp.where(again, same.argmax(1), num_slots)
    logits = replay.logits.astype(buffer.logits.dtype)
    return buffer._replace(logits=buffer.logits.at[slots].set(logits, mode="drop"))


class _Turn(NamedTuple):
    """What a policy knows when a sample's turn comes."""

    label: Int[Array, ""]
    is_first: Bool[Array, ""]  # this sample has not been offered before
    counts: Int[Array, "C"]  # slots held by each class
    num_seen: Int[Array, "C"]  # with this sample
    was_largest: Bool[Array, "C"]
    own: Bool[Array, "M"]  # slots held by this sample's class
    largest: Bool[Array, "M"]  # slots held by the classes that hold most


Policy = Callable[
    [Array, _Turn], tuple[Array, Array]
]  # -> whether to store, over which slots


def balanced(key: Array, turn: _Turn) -> tuple[Bool[Array, ""], Bool[Array, "M"]]:
    """Class-balancing reservoir sampling (Chrysakis and Moens, ICML 2020, https://proceedings.mlr.press/v119/chrysakis20a.html).

    A class that has never been the largest takes a slot from a class that is; one that has, of which m samples are stored
    and n were seen, replaces one of its own with probability m / n. So each class is a uniform sample of what was seen of it.
    """
    was = turn.was_largest[turn.label]
    share = turn.counts[turn.label] / turn.num_seen[turn.label]
    stores = ~was | (jax.random.uniform(key, (), jnp.float32) <= share)
    return stores & turn.is_first, jnp.where(was, turn.own, turn.largest)


def greedy(key: Array, turn: _Turn) -> tuple[Bool[Array, ""], Bool[Array, "M"]]:
    """GDumb's greedy balancing (Prabhu et al., ECCV 2020, https://doi.org/10.1007/978-3-030-58536-5_31).

    A sample is stored if its class is new or holds fewer than M / K slots, K classes being seen so far; it replaces one of a
    class that holds most.
    """
    per_class = len(turn.own) // jnp.maximum((turn.num_seen > 0).sum(), 1)
    is_new = turn.num_seen[turn.label] <= 1
    return is_new | (turn.counts[turn.label] < per_class), turn.largest


def assign(
    buffer: Buffer, key: Array, batch: Batch, policy: Policy
) -> tuple[Int[Array, "B"], Buffer]:
    """Slots that a policy gives to the samples in turn (M: none), and the buffer with its counters advanced.

    A sample that the buffer holds already gets no second slot.
    """
    num_slots, num_columns = len(buffer.labels), len(buffer.num_seen)

    def turn(state, row):
        labels, valid, index, num_seen, was_largest = state
        key, label, is_valid, is_first, number = row
        counts = jnp.zeros(num_columns, jnp.int32).at[labels].add(valid)
        is_largest = counts == counts.max()
        is_full = valid.all()
        was_largest |= is_largest & is_full
        num_seen = num_seen.at[label].add(is_first)
        key_policy, key_slot = jax.random.split(key)
        own, largest = valid & (labels == label), valid & is_largest[labels]
        stores, over = policy(
            key_policy,
            _Turn(label, is_first, counts, num_seen, was_largest, own, largest),
        )
        noise = jax.random.uniform(key_slot, (num_slots,), jnp.float32)
        slot = jnp.where(
            is_full, jnp.argmax(jnp.where(over, noise, -1.0)), jnp.argmin(valid)
        )
        is_held = (valid & (index == number) & (number >= 0)).any()
        takes = is_valid & ~is_held & (stores | (is_first & ~is_full))
        slot = jnp.where(takes, slot, num_slots)
        index = index.at[slot].set(number, mode="drop")
        labels = labels.at[slot].set(label, mode="drop")
        valid = valid.at[slot].set(True, mode="drop")
        return (labels, valid, index, num_seen, was_largest), slot

    start = (
        buffer.labels,
        buffer.valid,
        buffer.identity,
        buffer.num_seen,
        buffer.was_largest,
    )
    keys = jax.random.split(key, len(batch.labels))
    rows = keys, batch.labels, batch.valid, first_time(batch), identities(batch)
    (_, _, _, num_seen, was_largest), slots = jax.lax.scan(turn, start, rows)
    return slots, buffer._replace(num_seen=num_seen, was_largest=was_largest)


def add_by(buffer: Buffer, key: Array, replay: Replay, policy: Policy) -> Buffer:
    """Offers a batch to a buffer that fills as it may and then follows `policy`: `balanced` or `greedy`."""
    slots, counted = assign(buffer, key, replay.batch, policy)
    return _answer_again(write(counted, replay, slots), replay)


def packed_size(shape: tuple[int, ...]) -> int:
    """Bytes that `pack` needs for one sample's spikes of `shape` `[T, ...]`."""
    return -(-math.prod(shape) // 8)


def pack(spikes: Shaped[Array, "T B ..."]) -> UInt8[Array, "B P"]:
    """Spikes of 0 and 1 as bits, sample by sample: P = ceil(T · neurons / 8) bytes each.

    Raises:
      ValueError: if the values are known, which inside `jit` they are not, and one of them is neither 0 nor 1.
    """
    values = check.known(spikes)
    if values is not None and (wrong := (values != 0) & (values != 1)).any():
        raise ValueError(
            f"`spikes` must be 0 or 1 to be packed into bits, got {values[wrong][0]}: take them behind a layer of neurons that spike."
        )
    rows = jnp.moveaxis(spikes, 1, 0)
    return jnp.packbits(rows.reshape(len(rows), -1) != 0, axis=1)


def unpack(
    packed: UInt8[Array, "B P"], shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Shaped[Array, "T B ..."]:
    """What `pack` was given, for spikes of `shape` `[T, ...]` a sample."""
    bits = jnp.unpackbits(packed, axis=1, count=math.prod(shape))
    return jnp.moveaxis(bits.reshape(-1, *shape), 0, 1).astype(dtype)
