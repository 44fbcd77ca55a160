r"""The competition of a layer run in the order of time, which is exact and does a fraction of the work.

Winners come out earliest first, so the slices of the wave are visited from the first on, and the race ends with the last
winner; on digits that is at step 2 of 15. Within a slice only some positions need their potentials:

- a position that crossed in an earlier slice is settled: pointwise inhibition has left it one feature;
- a position within the radius of a winner is out;
- a potential is at most the number of active synapses times the largest weight, and where that does not exceed the
  threshold, none does.

What is left, on digits one position in fifty, is gathered into chunks and multiplied with the weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from jsnn import check
from jsnn.stdp.waves import (
    check_num_steps,
    check_synapses,
    divided,
    first_argmax,
    product,
)
from jsnn.stdp.winners import Winners, check_competition, near

# The bound on potentials and the potentials are rounded differently; the margin is many times that of the longest sums.
_MARGIN = 1 + 1e-3


# Feature, row and column share an integer, whose order is the order in which ties are settled.
_ROW, _FEATURE = 8, 16
_NONE = jnp.iinfo(jnp.int32).max
_WORD = 32  # channels of a slice of the wave that are gathered at once


class _Slice(NamedTuple):
    """Who crosses threshold in the slice at hand; a value of 0 stands for none."""

    keys: Int[Array, "S"]
    values: Float[Array, "S"]


class _Race(NamedTuple):
    step: Int[Array, ""]
    settled: Bool[Array, "H2 W2"]
    found: Int[Array, ""]
    keys: Int[Array, "k"]
    times: UInt8[Array, "k"]
    values: Float[Array, "k"]


def race(
    weights: Float[Array, "F C k k"],
    times: UInt8[Array, "C H W"],
    threshold: ArrayLike,
    *,
    num_winners: int,
    radius: int,
    num_steps: int,
    chunk: int | None = None,
) -> Winners:
    """The winners of a layer, at most one a feature.

    Args:
      weights: of the layer; none negative.
      times: first spikes of its padded input.
      threshold: crossed by potentials above it; not negative.
      num_winners: k, at most so many.
      radius: positions up to so many rows and columns from a winner are out.
      num_steps: T.
      chunk: positions whose potentials are computed at once; changes the speed alone.

    Raises:
      ValueError: if `num_winners` is below 1, `radius` negative, shapes disagree, or a map larger than 255 by 255 or than 32,767 features.
    """
    check_num_steps(num_steps)
    check_competition(num_winners, radius)
    check.number("threshold", threshold, "[0, inf)")
    height, width = check_synapses(weights, times.shape)
    kernel = weights.shape[-1]
    if max(height, width) > 255 or weights.shape[0] > 32767:
        raise ValueError(
            f"`weights` and `times` make {weights.shape[0]} maps of {height} x {width}; at most 32767 of 255 x 255 can compete."
        )
    chunk = _chunk(height * width) if chunk is None else min(chunk, height * width)
    theta = jnp.asarray(threshold, weights.dtype)
    bound = weights.max() * _MARGIN

    def running(race):
        return (race.found < num_winners) & (race.step < num_steps)

    def visit(race):
        words = _pack(times <= race.step.astype(jnp.uint8))
        count = _window_sums(
            lax.population_count(words).sum(0, dtype=jnp.int32), kernel
        )
        able = ~race.settled & (count.astype(theta.dtype) * bound > theta)
        crossing = _evaluate(weights, words, able, theta, chunk)
        taken = (crossing.keys[None] >> _FEATURE) == (race.keys[:, None] >> _FEATURE)
        open_values = jnp.where(taken.any(0), 0, crossing.values)
        settled = _settle(race.settled, crossing)
        race = _pick(race._replace(settled=settled), crossing.keys, open_values, radius)
        return race._replace(step=race.step + 1)

    zero = jnp.zeros((), jnp.int32)
    start = _Race(
        zero,
        jnp.zeros((height, width), bool),
        zero,
        jnp.full(num_winners, -1, jnp.int32),
        jnp.full(num_winners, num_steps, jnp.uint8),
        jnp.zeros(num_winners, weights.dtype),
    )
    end = lax.while_loop(running, visit, start)
    index = jnp.stack(_unpacked(end.keys), axis=1)
    return Winners(jnp.where(end.keys[:, None] < 0, -1, index), end.times, end.values)


def _chunk(positions: int) -> int:
    return max(1, min(64, positions // 8))


def _unpacked(keys):
    return keys >> _FEATURE, (keys >> _ROW) & 255, keys & 255


def _pack(wave: Bool[Array, "C H W"]) -> UInt32[Array, "M H W"]:
    """Channels as bits of words, for the cost of gathering is that of the number of elements."""
    channels = wave.shape[0]
    groups = [wave[c : c + _WORD] for c in range(0, channels, _WORD)]

    def word(group):
        bits = jnp.arange(group.shape[0], dtype=jnp.uint32)[:, None, None]
        return (group.astype(jnp.uint32) << bits).sum(0, dtype=jnp.uint32)

    return jnp.stack([word(g) for g in groups])


def _unpack(words: UInt32[Array, "M ..."], channels: int) -> UInt32[Array, "C ..."]:
    bits = jnp.arange(min(channels, _WORD), dtype=jnp.uint32)
    bits = bits.reshape(1, -1, *(1,) * (words.ndim - 1))
    found = (words[:, None] >> bits) & 1
    return found.reshape(-1, *words.shape[1:])[:channels]


def _window_sums(x: Int[Array, "H W"], kernel: int) -> Int[Array, "H2 W2"]:
    height, width = (n - kernel + 1 for n in x.shape)
    rows = sum((x[i : i + height] for i in range(1, kernel)), x[:height])
    return sum((rows[:, j : j + width] for j in range(1, kernel)), rows[:, :width])


def _ranks(able: Bool[Array, "H W"]) -> Int[Array, "HW"]:
    """How many are able up to each position, row by row: small products, where a cumulative sum would be a chain."""
    height, width = able.shape
    x = able.astype(jnp.float32)
    within = product(x, jnp.triu(jnp.ones((width, width), x.dtype)))
    rows_above = jnp.tril(jnp.ones((height, height), x.dtype), -1)
    above = product(rows_above, within[:, -1:])
    return (within + above).ravel().astype(jnp.int32)


def _evaluate(weights, words, able, theta, chunk) -> _Slice:
    """Potentials at all positions that are able to cross, chunk by chunk."""
    features, channels, kernel, _ = weights.shape
    flat = weights.reshape(features, -1)
    width, size = able.shape[1], -(-able.size // chunk) * chunk
    ranks = _ranks(able)
    total = ranks[-1]
    found = _Slice(jnp.full(size, _NONE, jnp.int32), jnp.zeros(size, flat.dtype))
    zero = jnp.zeros((), jnp.int32)

    def one(carry):
        number, found = carry
        wanted = number * chunk + jnp.arange(chunk, dtype=jnp.int32)
        # The place of the n-th that is able is the number of positions with fewer than n up to there.
        place = (ranks[:, None] <= wanted[None]).sum(0, dtype=jnp.int32)
        row, column = divided(place, width)
        windows = jax.vmap(
            lambda r, c: lax.dynamic_slice(
                words, (jnp.zeros_like(r), r, c), (words.shape[0], kernel, kernel)
            ),
            out_axes=-1,
        )(row, column)
        seen = _unpack(windows, channels).reshape(-1, chunk).astype(flat.dtype)
        potential = product(flat, seen)
        best = potential.max(0)
        feature = first_argmax(potential, best)
        keys = (feature << _FEATURE) | (row << _ROW) | column
        crosses = (best > theta) & (wanted < total)
        new = _Slice(jnp.where(crosses, keys, _NONE), jnp.where(crosses, best, 0))
        at = (number * chunk,)
        update = lax.dynamic_update_slice
        return number + 1, _Slice(
            *(update(a, b, at) for a, b in zip(found, new, strict=True))
        )

    return lax.while_loop(lambda c: c[0] * chunk < total, one, (zero, found))[1]


def _settle(settled, crossing):
    """Positions that crossed have their one feature now."""
    _, row, column = _unpacked(crossing.keys)
    row = jnp.where(crossing.values > 0, row, settled.shape[0])
    return settled.at[row, column].set(True, mode="drop")


def _pick(race, keys, values, radius) -> _Race:
    """Takes winners from one slice: the largest potential, then the lowest feature and position."""
    limit = race.keys.shape[0]
    features, rows, columns = _unpacked(keys)
    all_rows = jnp.arange(race.settled.shape[0], dtype=jnp.int32)[:, None]
    all_columns = jnp.arange(race.settled.shape[1], dtype=jnp.int32)[None]

    def more(carry):
        _, best, race = carry
        return (race.found < limit) & (best > 0)

    def one(carry):
        values, best, race = carry
        key = jnp.where(values == best, keys, _NONE).min()
        feature, row, column = _unpacked(key)
        out, settled = features == feature, race.settled
        if radius:
            out |= near(rows, row, radius) & near(columns, column, radius)
            settled |= near(all_rows, row, radius) & near(all_columns, column, radius)
        values = jnp.where(out, 0, values)
        race = race._replace(
            settled=settled,
            found=race.found + 1,
            keys=race.keys.at[race.found].set(key),
            times=race.times.at[race.found].set(race.step.astype(jnp.uint8)),
            values=race.values.at[race.found].set(best),
        )
        return values, values.max(), race

    return lax.while_loop(more, one, (values, values.max(), race))[2]
