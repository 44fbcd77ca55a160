"""Competition: which neurons of a layer win, and so learn, on one image.

Winners are found one after the other: the neuron with the earliest first spike, among those the one with the largest
potential at that step, among those the lowest feature, row and column. Each winner takes its feature map, and a square of
positions around it, out of the competition. (The reference packs time and potential into one float32 score, in which
potentials closer than about 0.002 are equal; the comparison here is exact.)
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from jsnn import check
from jsnn.stdp.waves import Crossing


class Winners(NamedTuple):
    """k winners in the order in which they were found; a missing one has index −1, time T and value 0."""

    # Feature, row, column; the tuple's own method of that name is of no use here.
    index: Int[Array, "k 3"]  # pyright: ignore[reportIncompatibleMethodOverride]
    times: UInt8[Array, "k"]
    values: Float[Array, "k"]  # potential at the first spike


def near(places: Int[Array, "*S"], place: Array, radius: int) -> Bool[Array, "*S"]:
    """Which places are at most `radius` from one.

    By two comparisons: XLA's CUDA backend (JAX 0.11.2) compiles `abs(places - place) <= radius` to something that is too often true.
    """
    return (places <= place + radius) & (places >= place - radius)


def check_competition(num_winners: int, radius: int) -> None:
    """Raises `ValueError` unless there is a winner to find and `radius` is not negative."""
    check.whole("num_winners", num_winners, 1)
    check.whole("radius", radius, 0)


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

    Raises:
      ValueError: if `num_winners` is below 1 or `radius` negative.
    """
    check_competition(num_winners, radius)
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
    """Winners after pointwise inhibition, which leaves one neuron a position of the `size` = (rows, columns) of a map.

    Raises:
      ValueError: as `k_winners`.
    """
    check_competition(num_winners, radius)
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
