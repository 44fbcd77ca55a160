"""The competition of a layer written plainly, to hold `jsnn.stdp.race` to: potentials of all neurons, then winners one by one.

Winners are found one after the other: the neuron with the earliest first spike, among those the one with the largest potential at
that step, among those the lowest feature, row and column. Each winner takes its feature map, and a square of positions around it,
out of the competition.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Shaped, UInt8

from jsnn.stdp.waves import first_argmax, from_dense, patches, product
from jsnn.stdp.winners import Winners, near


class Crossing(NamedTuple):
    """The first feature to cross threshold at each position, which is the one that pointwise inhibition leaves."""

    times: UInt8[Array, "P"]  # T where no feature crosses
    features: Int[Array, "P"]
    values: Float[Array, "P"]  # potential at that step


def first_crossing(
    weights: Float[Array, "F C k k"],
    times: UInt8[Array, "C H W"],
    threshold: ArrayLike,
    num_steps: int,
) -> Crossing:
    """At each position the first step at which any feature exceeds threshold, and the feature with the largest potential then.

    Potentials never decrease with time as long as no weight is negative, so the step is found by bisection: about log2(T)
    products in place of T. Among equal potentials the lowest feature wins.
    """
    kernel = weights.shape[-1]
    flat, seen = weights.reshape(weights.shape[0], -1), patches(times, kernel)
    theta = jnp.asarray(threshold, flat.dtype)
    positions = seen.shape[1]

    def halve(_, carry):
        low, high, features, values = carry
        middle = (low + high) // 2
        wave = (seen <= middle.astype(jnp.uint8)[None]).astype(flat.dtype)
        potential = product(flat, wave)
        best = potential.max(0)
        crosses = (best > theta) & (low < high)
        features = jnp.where(crosses, first_argmax(potential, best), features)
        values = jnp.where(crosses, best, values)
        low = jnp.where(crosses | (low >= high), low, middle + 1)
        return low, jnp.where(crosses, middle, high), features, values

    none = jnp.zeros(positions, jnp.int32)
    start = (none, none + num_steps, none, jnp.zeros(positions, flat.dtype))
    rounds = math.ceil(math.log2(num_steps + 1))
    _, steps, features, values = lax.fori_loop(0, rounds, halve, start)
    return Crossing(steps.astype(jnp.uint8), features, values)


def dense_crossings(
    potential: Shaped[Array, "T F H W"], threshold: ArrayLike
) -> tuple[UInt8[Array, "F H W"], Float[Array, "F H W"]]:
    """First-spike times of given potentials, and the potential at that step (0 for a silent neuron)."""
    above = potential > jnp.asarray(threshold, potential.dtype)
    times = from_dense(lax.cummax(above.astype(jnp.uint8), axis=0))
    index = jnp.minimum(times, potential.shape[0] - 1).astype(jnp.int32)
    values = jnp.take_along_axis(potential, index[None], axis=0)[0]
    return times, jnp.where(times < potential.shape[0], values, 0)


def k_winners(
    times: UInt8[Array, "F H W"],
    values: Float[Array, "F H W"],
    *,
    num_winners: int,
    radius: int,
    num_steps: int,
) -> Winners:
    """Winners among all neurons of a layer.

    Args:
      times: first spikes, `num_steps` for a silent neuron.
      values: potentials at the first spike; above 0 where there is one.
      num_winners: k, at most so many.
      radius: positions up to so many rows and columns from a winner are inhibited in all maps; 0 inhibits none.
      num_steps: T.

    """
    height, width = times.shape[1:]
    flat = jnp.arange(times.size, dtype=jnp.int32)
    crossing = Crossing(times.ravel(), flat // (height * width), values.ravel())
    place = flat % (height * width)
    return _greedy(crossing, place, (height, width), num_winners, radius, num_steps)


def k_winners_of(
    crossing: Crossing,
    size: tuple[int, int],
    *,
    num_winners: int,
    radius: int,
    num_steps: int,
) -> Winners:
    """Winners after pointwise inhibition, which leaves one neuron a position of the `size` = (rows, columns) of a map."""
    place = jnp.arange(crossing.times.size, dtype=jnp.int32)
    return _greedy(crossing, place, size, num_winners, radius, num_steps)


def _greedy(crossing, place, size, num_winners, radius, num_steps) -> Winners:
    height, width = size
    rows, columns = place // width, place % width
    features, values = crossing.features, crossing.values
    order = features * (height * width) + place

    def find(times, _):
        earliest = times.min()
        among = times == earliest
        best = jnp.where(among, values, -jnp.inf).max()
        among &= values == best
        first = jnp.where(among, order, jnp.iinfo(jnp.int32).max).min()
        feature, at = first // (height * width), first % (height * width)
        row, column = at // width, at % width
        out = features == feature
        if radius:
            out |= near(rows, row, radius) & near(columns, column, radius)
        found = earliest < num_steps
        index = jnp.where(found, jnp.stack([feature, row, column]), -1)
        winner = Winners(index, earliest, jnp.where(found, best, 0))
        return jnp.where(out, jnp.asarray(num_steps, jnp.uint8), times), winner

    return lax.scan(find, crossing.times, length=num_winners)[1]
