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
from jaxtyping import Array, Bool, Float, Int, UInt8

from jsnn.stdp.waves import check_num_steps, first_argmax
from jsnn.stdp.winners import Winners, check_competition

# The bound on potentials and the potentials are rounded differently; the margin is many times that of the longest sums.
_MARGIN = 1 + 1e-3


class _Slice(NamedTuple):
    """What crosses threshold in the slice at hand; a value of 0 stands for none."""

    places: Int[Array, "S"]
    features: Int[Array, "S"]
    values: Float[Array, "S"]


class _Race(NamedTuple):
    step: Int[Array, ""]
    settled: Bool[Array, "H2 W2"]
    taken: Bool[Array, "F"]
    found: Int[Array, ""]
    winners: Winners


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
    """The winners of `waves.first_crossing` and `winners.k_winners_of`, found together.

    Args:
      weights: of the layer; none negative.
      times: first spikes of its padded input.
      threshold: crossed by potentials above it; not negative.
      num_winners: k, at most so many.
      radius: positions up to so many rows and columns from a winner are out.
      num_steps: T.
      chunk: positions whose potentials are computed at once; changes the speed alone.

    Raises:
      ValueError: if `num_winners` is below 1 or `radius` negative.
    """
    check_num_steps(num_steps)
    check_competition(num_winners, radius)
    kernel = weights.shape[-1]
    height, width = (n - kernel + 1 for n in times.shape[1:])
    chunk = _chunk(height * width) if chunk is None else min(chunk, height * width)
    theta = jnp.asarray(threshold, weights.dtype)
    bound = weights.max() * _MARGIN

    def running(race):
        return (race.found < num_winners) & (race.step < num_steps)

    def visit(race):
        wave = (times <= race.step.astype(jnp.uint8)).astype(weights.dtype)
        count = _window_sums(wave.sum(0), kernel)
        able = ~race.settled & (count * bound > theta)
        waiting = jnp.where(able, count, 0).ravel()
        crossing = _evaluate(weights, wave, waiting, theta, width, chunk)
        crossed = jnp.zeros(height * width, bool).at[crossing.places].max(crossing.values > 0)
        race = _pick(race, crossing, (height, width), num_winners, radius)
        settled = race.settled | crossed.reshape(height, width)
        return race._replace(step=race.step + 1, settled=settled)

    none = Winners(
        jnp.full((num_winners, 3), -1, jnp.int32),
        jnp.full(num_winners, num_steps, jnp.uint8),
        jnp.zeros(num_winners, weights.dtype),
    )
    zero = jnp.zeros((), jnp.int32)
    start = _Race(
        zero, jnp.zeros((height, width), bool), jnp.zeros(weights.shape[0], bool), zero, none
    )
    return lax.while_loop(running, visit, start).winners


def _chunk(positions: int) -> int:
    return max(1, min(48, positions // 8))


def _window_sums(x: Float[Array, "H W"], kernel: int) -> Float[Array, "H2 W2"]:
    height, width = (n - kernel + 1 for n in x.shape)
    rows = sum(x[i : i + height] for i in range(1, kernel)) + x[:height]
    return sum(rows[:, j : j + width] for j in range(1, kernel)) + rows[:, :width]


def _evaluate(weights, wave, waiting, theta, width, chunk) -> _Slice:
    """Potentials at all positions where `waiting` is above 0, chunk by chunk, those with most active synapses first."""
    features, kernel = weights.shape[0], weights.shape[-1]
    flat = weights.reshape(features, -1)
    chunks = -(-waiting.size // chunk)
    empty = jnp.zeros((), jnp.int32)
    size = chunks * chunk
    found = _Slice(
        jnp.zeros(size, jnp.int32), jnp.zeros(size, jnp.int32), jnp.zeros(size, flat.dtype)
    )

    def one(carry):
        waiting, number, found = carry
        score, place = lax.top_k(waiting, chunk)
        place = place.astype(jnp.int32)
        windows = jax.vmap(
            lambda p: lax.dynamic_slice(
                wave, (0, p // width, p % width), (wave.shape[0], kernel, kernel)
            ),
            out_axes=-1,
        )(place)
        potential = flat @ windows.reshape(-1, chunk)
        best = potential.max(0)
        crosses = (best > theta) & (score > 0)
        new = _Slice(place, first_argmax(potential, best), jnp.where(crosses, best, 0))
        found = _Slice(
            *(
                lax.dynamic_update_slice(a, b, (number * chunk,))
                for a, b in zip(found, new, strict=True)
            )
        )
        return waiting.at[place].set(0), number + 1, found

    return lax.while_loop(lambda c: c[0].max() > 0, one, (waiting, empty, found))[2]


def _pick(race, crossing, size, num_winners, radius) -> _Race:
    """Takes winners from one slice: the largest potential, then the lowest feature and position."""
    height, width = size
    order = crossing.features * (height * width) + crossing.places
    rows, columns = crossing.places // width, crossing.places % width
    all_rows = jnp.arange(height, dtype=jnp.int32)[:, None]
    all_columns = jnp.arange(width, dtype=jnp.int32)[None]
    # The features taken in earlier slices. What earlier winners' squares cover was never evaluated.
    values = jnp.where(race.taken[crossing.features], 0, crossing.values)

    def more(carry):
        values, race = carry
        return (race.found < num_winners) & (values.max() > 0)

    def one(carry):
        values, race = carry
        best = values.max()
        last = jnp.iinfo(jnp.int32).max
        first = jnp.where(values == best, order, last).min()
        feature, place = first // (height * width), first % (height * width)
        row, column = place // width, place % width
        out = crossing.features == feature
        settled = race.settled
        if radius:
            out |= (abs(rows - row) <= radius) & (abs(columns - column) <= radius)
            settled |= (abs(all_rows - row) <= radius) & (abs(all_columns - column) <= radius)
        index = jnp.stack([feature, row, column])
        old = race.winners
        winners = Winners(
            old.index.at[race.found].set(index),
            old.times.at[race.found].set(race.step.astype(jnp.uint8)),
            old.values.at[race.found].set(best),
        )
        race = race._replace(
            settled=settled,
            taken=race.taken.at[feature].set(True),
            found=race.found + 1,
            winners=winners,
        )
        return jnp.where(out, 0, values), race

    return lax.while_loop(more, one, (values, race))[1]
