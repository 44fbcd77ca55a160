r"""A window of R-STDP with the potentials of a block of images as one set of products, corrected row by row.

Within a window the rates are constant and an image changes the weights of one feature, its winner's. So potentials of B
images are computed at once, with the weights as they are before the block; for each image in turn, the potentials of the
at most B − 1 features that the block has changed so far are computed anew. The result is that of one image after the other.

One thing more changes in the plain rule: the first update clips all weights. Until they lie within their bounds,
images are shown one by one; that is over after the first that is not silent.

Here weights lie tap by tap, `[k², F, C]`: each tap of the kernel is a product of its own, over the input pixels that it sees
within the border, so no patches are copied and no padding is multiplied. Sums of 6,000 weights also come out more exact so.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jsnn.precision import like
from jsnn.stdp import plasticity
from jsnn.stdp.layer import Decision, Verdict, verdict_of
from jsnn.stdp.plasticity import Bounds, Rates
from jsnn.stdp.taps import by_tap, from_taps, potentials, row_potentials


class _Block(NamedTuple):
    """What a block of B images has changed so far."""

    rows: Float[Array, "k2 B C"]  # new weights of a changed feature
    features: Int[Array, "B"]  # which one; F for a free slot


def in_bounds(weights: Array, bounds: Bounds) -> Bool[Array, ""]:
    """Whether clipping would change nothing."""
    return (weights.min() >= bounds.low) & (weights.max() <= bounds.high)


def run_blocks(
    spec: Decision,
    weights: Float[Array, "F C k k"],
    active: Bool[Array, "N C H W"],
    labels: Int[Array, "N"],
    order: Int[Array, "S"],
    reward: Rates,
    punish: Rates,
    bounds: Bounds,
    block: int,
) -> tuple[Float[Array, "F C k k"], Verdict]:
    """Weights within `bounds`, and constant rates: see `reward.run_window`, which is the way to call this."""
    count = order.shape[0]
    slots = jnp.pad(order, (0, -count % block), constant_values=-1).reshape(-1, block)
    height, width = (n + 2 * spec.pad - spec.kernel + 1 for n in active.shape[2:])
    side = (height, width)

    def body(taps, slots):
        images = active[slots].astype(taps.dtype)  # [B, C, H, W]
        fresh = potentials(taps, jnp.moveaxis(images, 0, -1), spec.kernel, spec.pad)
        fresh = jnp.moveaxis(fresh.reshape(spec.features, -1, block), -1, 0)
        start = _Block(
            jnp.zeros((taps.shape[0], block, taps.shape[2]), taps.dtype),
            jnp.full(block, spec.features, jnp.int32),
        )

        def one(changed, item):
            slot, image, fresh, label, shown = item
            found = _decide(spec, changed, image, fresh, side)
            right = found.decision == label
            rates = Rates(
                *(jnp.where(right, a, b) for a, b in zip(reward, punish, strict=True))
            )
            learns = shown & (found.decision >= 0)
            return _learn(
                spec, taps, changed, image, found, rates, bounds, slot, learns
            ), found

        items = (jnp.arange(block), images, fresh, labels[slots], slots >= 0)
        changed, found = lax.scan(one, start, items)
        return _write(taps, changed), found

    taps, found = lax.scan(body, by_tap(weights), slots)
    found = Verdict(*(x.reshape(-1, *x.shape[2:])[:count] for x in found))
    return from_taps(taps, spec.kernel), found


def _decide(spec, changed, image, fresh, side) -> Verdict:
    """The largest among the fresh potentials of unchanged features and the new ones of changed features."""
    features = jnp.arange(spec.features, dtype=jnp.int32)
    stale = (features[:, None] == changed.features[None]).any(1)
    again = row_potentials(changed.rows, image, spec.kernel, spec.pad)
    fresh = jnp.where(stale[:, None], -jnp.inf, fresh)
    again = jnp.where(changed.features[:, None] < spec.features, again, -jnp.inf)
    place = jnp.arange(fresh.shape[1], dtype=jnp.int32)[None]
    best = jnp.maximum(fresh.max(), again.max())

    def first(values, rows):
        number = rows[:, None] * fresh.shape[1] + place
        return jnp.where(values == best, number, jnp.iinfo(jnp.int32).max).min()

    number = jnp.minimum(first(fresh, features), first(again, changed.features))
    return verdict_of(spec, best, number, side)


def _learn(spec, taps, changed, image, found, rates, bounds, slot, learns) -> _Block:
    feature, row, column = found.index
    kernel, channels = spec.kernel, image.shape[0]
    edges = ((0, 0), (spec.pad, spec.pad), (spec.pad, spec.pad))
    seen = lax.dynamic_slice(
        jnp.pad(image, edges),
        (jnp.zeros_like(row), row, column),
        (channels, kernel, kernel),
    )
    seen = seen.reshape(channels, kernel * kernel).T > 0
    same = changed.features == feature
    again = same.any()
    slot = jnp.where(again, same.argmax().astype(slot.dtype), slot)
    old = lax.dynamic_index_in_dim(taps, feature, 1, keepdims=False)
    newer = lax.dynamic_index_in_dim(changed.rows, slot, 1, keepdims=False)
    w = jnp.where(again, newer, old)
    w = w + plasticity.change(w, seen, rates, bounds, stabilise=False)
    w = jnp.where(learns, plasticity.clipped(like(taps, w), bounds), newer)
    feature = jnp.where(learns, feature, changed.features[slot])
    return _Block(
        lax.dynamic_update_index_in_dim(changed.rows, w, slot, 1),
        changed.features.at[slot].set(feature),
    )


def _write(taps, changed):
    """The block's new rows take their places."""

    def one(slot, taps):
        feature = changed.features[slot]
        used = feature < taps.shape[1]
        old = lax.dynamic_index_in_dim(taps, feature, 1)
        new = lax.dynamic_index_in_dim(changed.rows, slot, 1)
        return lax.dynamic_update_index_in_dim(
            taps, jnp.where(used, new, old), feature, 1
        )

    return lax.fori_loop(0, changed.features.shape[0], one, taps)
