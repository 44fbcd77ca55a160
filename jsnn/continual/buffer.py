"""Replay buffers: a fixed number of slots in one pytree, and who may take them.

Each policy decides, for every sample of a batch in turn, on a slot or on none; images are then written once. All of it runs
under `jit` and `vmap`, and the buffer is saved like any other array.

Axes: B batch, M slots, C columns of the head, T time, N samples, F features.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8


class Batch(NamedTuple):
    """Samples as they come from the stream."""

    images: Shaped[Array, "B ..."]  # as given, bytes as a rule
    labels: Int[Array, "B"]  # column of the head
    valid: Bool[Array, "B"]  # False: padding, to be ignored


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
    num_seen: Int[Array, "C"]  # samples offered so far, by column


def init(num_slots: int, image: Shaped[Array, "..."], num_columns: int) -> Buffer:
    """An empty buffer for images like `image` (one, without batch axis).

    Raises:
      ValueError: if `num_slots` is negative.
    """
    if num_slots < 0:
        raise ValueError(f"`num_slots` must not be negative, got {num_slots}.")
    return Buffer(
        jnp.zeros((num_slots, *image.shape), image.dtype),
        jnp.zeros(num_slots, jnp.int32),
        jnp.zeros(num_slots, jnp.int32),
        jnp.full((num_slots, num_columns), -jnp.inf),
        jnp.zeros(num_slots, bool),
        jnp.zeros(num_columns, jnp.int32),
    )


def mean_of(values: Float[Array, "B"], valid: Bool[Array, "B"]) -> Float[Array, ""]:
    """Mean of valid entries; 0 if there are none."""
    return jnp.where(valid, values, 0.0).sum() / jnp.maximum(valid.sum(), 1)


def sample(buffer: Buffer, key: Array, num_samples: int) -> Replay:
    """`num_samples` different slots at random; if fewer are in use, all of these, and the remaining rows are not `valid`."""
    slots = len(buffer.labels)
    priority = jnp.where(buffer.valid, jax.random.uniform(key, (slots,)), -1.0)
    # A buffer smaller than the draw: further rows repeat slot 0 and are marked.
    chosen = jax.lax.top_k(priority, min(num_samples, slots))[1]
    chosen = jnp.pad(chosen, (0, num_samples - len(chosen)))
    valid = jnp.arange(num_samples) < buffer.valid.sum()
    batch = Batch(buffer.images[chosen], buffer.labels[chosen], valid)
    return Replay(batch, buffer.tasks[chosen], buffer.logits[chosen])


def everything(buffer: Buffer) -> Batch:
    """All slots as a batch."""
    return Batch(buffer.images, buffer.labels, buffer.valid)


def write(buffer: Buffer, replay: Replay, slots: Int[Array, "B"]) -> Buffer:
    """Puts row i into slot `slots[i]`; M or more means nowhere. Of rows that want the same slot the last one gets it."""
    order = jnp.arange(len(slots))
    later = (slots[None] == slots[:, None]) & (order[None] > order[:, None])
    slots = jnp.where(later.any(1), len(buffer.labels), slots)

    def put(old: Array, new: Array) -> Array:
        return old.at[slots].set(new.astype(old.dtype), mode="drop")

    return Buffer(
        put(buffer.images, replay.batch.images),
        put(buffer.labels, replay.batch.labels),
        put(buffer.tasks, replay.tasks),
        put(buffer.logits, replay.logits),
        put(buffer.valid, jnp.ones_like(replay.batch.valid)),
        buffer.num_seen,
    )


def _count(buffer: Buffer, batch: Batch) -> Int[Array, "C"]:
    return buffer.num_seen.at[batch.labels].add(batch.valid.astype(jnp.int32))


def add_reservoir(buffer: Buffer, key: Array, replay: Replay) -> Buffer:
    """Algorithm R: sample number n (from 0) takes slot n if n < M, else draws r from 0 … n and takes slot r if r < M.

    Every sample offered is in the buffer with equal probability (Vitter, ACM TOMS 1985, https://doi.org/10.1145/3147.3165).
    """
    valid, num_slots = replay.batch.valid, len(buffer.labels)
    number = buffer.num_seen.sum() + jnp.cumsum(valid.astype(jnp.int32)) - 1
    drawn = jax.random.randint(key, number.shape, 0, jnp.maximum(number, 0) + 1)
    slots = jnp.where(number < num_slots, number, drawn)
    slots = jnp.where(valid, slots, num_slots)
    return write(buffer, replay, slots)._replace(num_seen=_count(buffer, replay.batch))


def packed_size(shape: tuple[int, ...]) -> int:
    """Bytes that `pack` needs for one sample's spikes of `shape` `[T, ...]`."""
    return -(-math.prod(shape) // 8)


def pack(spikes: Shaped[Array, "T B ..."]) -> UInt8[Array, "B P"]:
    """Spikes of 0 and 1 as bits, sample by sample: P = ceil(T · neurons / 8) bytes each."""
    rows = jnp.moveaxis(spikes, 1, 0)
    return jnp.packbits(rows.reshape(len(rows), -1) != 0, axis=1)


def unpack(
    packed: UInt8[Array, "B P"], shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Shaped[Array, "T B ..."]:
    """What `pack` was given, for spikes of `shape` `[T, ...]` a sample."""
    bits = jnp.unpackbits(packed, axis=1, count=math.prod(shape))
    return jnp.moveaxis(bits.reshape(-1, *shape), 0, 1).astype(dtype)
