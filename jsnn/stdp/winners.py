"""Competition: which neurons of a layer win, and so learn, on one image.

Winners are found one after the other: the neuron with the earliest first spike, among those the one with the largest
potential at that step, among those the lowest feature, row and column. Each winner takes its feature map, and a square of
positions around it, out of the competition. (The reference packs time and potential into one float32 score, in which
potentials closer than about 0.002 are equal; the comparison here is exact.)
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8

from jsnn import check


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
