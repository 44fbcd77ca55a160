r"""Herding: exemplars whose running mean stays closest to their class mean (iCaRL, Rebuffi et al., CVPR 2017, https://arxiv.org/abs/1611.07725).

Axes: N candidates, M slots, C columns of the head, F features.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jsnn.continual import buffer as buffers
from jsnn.continual.buffer import Batch, Buffer


def normalise(features: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """Rows of length 1; a row of zeros (a silent sample) stays what it is."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.where(length > 0, length, 1.0)


def herd(
    features: Float[Array, "N F"],
    member: Bool[Array, "N"],
    num_picks: Int[Array, ""],
    max_picks: int,
) -> Int[Array, "P"]:
    r"""The order in which one class's exemplars are picked; N where no candidate is left or `num_picks` are reached.

    Pick k minimises $\lVert \mu - \frac{1}{k} (\phi(x) + \sum_{j<k} \phi_j) \rVert$ over members not yet picked, of which
    $\phi$ are the features, of length 1, and $\mu$ their mean. Ties go to the lowest index. The first m of more picks are what m picks would
    have been, so a prefix is kept when room shrinks.
    """
    count, phi = len(member), normalise(features)
    mean = jnp.where(member[:, None], phi, 0.0).sum(0) / jnp.maximum(member.sum(), 1)
    square = jnp.square(phi).sum(1)

    def pick(k, carry):
        order, total, free = carry
        # The minimum of |(k + 1) mu - total - phi|^2 over phi, without its constant.
        distance = square - 2.0 * phi @ ((k + 1) * mean - total)
        best = jnp.argmin(jnp.where(free, distance, jnp.inf))
        order = order.at[k].set(best)
        return order, total + phi[best], free.at[best].set(False)

    order = jnp.full(max_picks, count, jnp.int32)
    last = jnp.minimum(jnp.minimum(num_picks, max_picks), member.sum())
    carry = (order, jnp.zeros(phi.shape[1], phi.dtype), member)
    return jax.lax.fori_loop(0, last, pick, carry)[0]


def quotas(num_slots: int, num_open: Int[Array, ""], num_columns: int) -> Array:
    """Slots for each column: M / K for each of K open ones, and one more for the oldest where that leaves a remainder."""
    column, share = jnp.arange(num_columns), num_slots // jnp.maximum(num_open, 1)
    extra = column < num_slots - share * num_open
    return jnp.where(column < num_open, share + extra.astype(share.dtype), 0)


def renew(
    buffer: Buffer,
    data: Batch,
    features: tuple[Float[Array, "M F"], Float[Array, "N F"]],
    *,
    num_open: Int[Array, ""],
    task: Int[Array, ""],
) -> Buffer:
    """The buffer after a task: classes of the task are herded anew, from what the buffer has of them and the task's samples; others keep a prefix.

    With fewer slots than classes the oldest classes keep one each and the others none.

    Args:
      buffer: as it was during the task.
      data: the task's samples.
      features: of the buffer's images and of the task's.
      num_open: K, classes seen by now.
      task: the number of the task.
    """
    num_slots, num_columns = len(buffer.labels), len(buffer.num_seen)
    labels = jnp.concatenate([buffer.labels, data.labels])
    # A sample that comes again is a candidate once.
    only_kept = buffer.valid & ~buffers.is_in(buffers.everything(buffer), data)
    valid = jnp.concatenate([only_kept, data.valid])
    pool, size = jnp.concatenate(features), len(labels)
    present = jnp.zeros(num_columns, bool).at[data.labels].max(data.valid)
    room = quotas(num_slots, num_open, num_columns)

    def order(column: Array) -> Array:
        member = valid & (labels == column)
        return jax.lax.cond(
            present[column],
            lambda: herd(pool, member, room[column], num_slots),
            # Slots are filled class by class in the order of picks, so their order is that of the picks.
            lambda: jnp.nonzero(member, size=num_slots, fill_value=size)[0],
        )

    orders = jax.lax.map(order, jnp.arange(num_columns))
    ends, slot = jnp.cumsum(room), jnp.arange(num_slots)
    column = jnp.minimum(jnp.searchsorted(ends, slot, side="right"), num_columns - 1)
    source = orders[column, slot - (ends - room)[column]]
    source = jnp.where(slot < ends[-1], source, size)
    old, new = source < num_slots, jnp.clip(source - num_slots, 0, len(data.labels) - 1)
    kept = jnp.minimum(source, num_slots - 1)

    def take(ours: Array, theirs: Array) -> Array:
        shape = (-1, *[1] * (ours.ndim - 1))
        return jnp.where(old.reshape(shape), ours[kept], theirs[new].astype(ours.dtype))

    return Buffer(
        take(buffer.images, data.images),
        take(buffer.labels, data.labels),
        jnp.where(old, buffer.tasks[kept], task),
        jnp.where(old[:, None], buffer.logits[kept], -jnp.inf),
        source < size,
        buffer.num_seen.at[data.labels].add(buffers.first_time(data)),
        buffer.was_largest,
        take(buffer.identity, buffers.identities(data)),
    )
