"""What a sweep tries: axes of values, every combination of them or a random sample, over seeds."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jsnn import check

_MOST = 1_000_000  # runs of a sweep


class Axis(NamedTuple):
    """One parameter and what it takes: `values`, or a range (`scale`, `low`, `high`) to draw from."""

    name: str
    values: tuple[Any, ...] = ()
    scale: str = ""
    low: float = math.nan
    high: float = math.nan


class Member(NamedTuple):
    """One run of a sweep: the values of the axes, and a seed."""

    values: dict[str, Any]
    seed: int


def linear(name: str, low: float, high: float, count: int | None = None) -> Axis:
    """Numbers evenly spaced from `low` to `high`, or a range to draw from if `count` is left out.

    >>> linear("beta", 0.5, 0.9, 3).values
    (0.5, 0.7, 0.9)

    Raises:
      ValueError: if the range is empty, or `count` is less than 2.
    """
    return _range("linear", name, low, high, count)


def logarithmic(name: str, low: float, high: float, count: int | None = None) -> Axis:
    """Numbers evenly spaced in the logarithm, as `linear` has them.

    Raises:
      ValueError: as for `linear`, and if the range is not positive.
    """
    return _range("log", name, low, high, count)


def _range(scale: str, name: str, low: float, high: float, count: int | None) -> Axis:
    flag, remedy = f"--{scale}-range {name}", "It goes from a lower to a higher number."
    low, high = (check.static(flag, x, "[-inf, inf]", remedy=remedy) for x in (low, high))  # fmt: skip
    count = None if count is None else check.whole(flag, count)
    given = f"`--{scale}-range {name} {low:g} {high:g}`"
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{given}: it must go from a lower to a higher number.")
    if scale == "log" and low <= 0:
        raise ValueError(
            f"{given}: a logarithmic range must be positive. Use --linear-range, or raise its start."
        )
    if count is None:
        return Axis(name, (), scale, low, high)
    if count < 2:
        raise ValueError(f"{given}: a range needs at least 2 values, got {count}.")
    if count > _MOST:
        raise ValueError(f"{given}: at most {_MOST} values, got {count}.")
    spaced = np.linspace if scale == "linear" else np.geomspace
    return Axis(name, tuple(map(float, spaced(low, high, count))))


def grid(axes: Sequence[Axis], seeds: Sequence[int]) -> list[Member]:
    """Every combination of the axes' values, each with every seed; seeds vary fastest.

    Raises:
      ValueError: if an axis is named twice, is a range without a count, or there is no seed.
    """
    _check(axes, seeds)
    for axis in axes:
        if not axis.values:
            raise ValueError(
                f"`--{axis.scale}-range {axis.name} {axis.low:g} {axis.high:g}`: a grid needs the number of values behind it. To draw from the range, ask for --samples."
            )
    _check_count(seeds, math.prod(len(axis.values) for axis in axes))
    combinations = itertools.product(*(axis.values for axis in axes))
    names = [axis.name for axis in axes]
    return [
        Member(dict(zip(names, values, strict=True)), seed)
        for values in combinations
        for seed in seeds
    ]


def sample(
    axes: Sequence[Axis], seeds: Sequence[int], num_samples: int, *, seed: int = 0
) -> list[Member]:
    """`num_samples` independent draws, uniform or log-uniform from ranges and uniform from values, each with every seed.

    Random search covers the axes that matter better than a grid of as many points (Bergstra & Bengio, 2012,
    https://jmlr.org/papers/v13/bergstra12a.html).

    Raises:
      ValueError: if an axis is named twice, there is no seed, or `num_samples` is not positive.
    """
    _check(axes, seeds)
    num_samples = check.whole("--samples", num_samples, 1)
    seed = check.whole("seed", seed, 0)
    _check_count(seeds, num_samples)
    rng = np.random.default_rng(seed)

    def draw(axis: Axis) -> Any:
        if axis.values:
            return axis.values[rng.integers(len(axis.values))]
        if axis.scale == "linear":
            return float(rng.uniform(axis.low, axis.high))
        return float(np.exp(rng.uniform(math.log(axis.low), math.log(axis.high))))

    drawn = [{axis.name: draw(axis) for axis in axes} for _ in range(num_samples)]
    return [Member(values, seed) for values in drawn for seed in seeds]


def _check_count(seeds: Sequence[int], settings: int) -> None:
    count = len(seeds) * settings
    if count > _MOST:
        raise ValueError(
            f"`--seeds {len(seeds)}` and {settings} settings make {count} runs; a sweep takes at most {_MOST}. Choose fewer seeds, values or `--samples`."
        )


def _check(axes: Sequence[Axis], seeds: Sequence[int]) -> None:
    names = [axis.name for axis in axes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"`--vary` names {min(twice)!r} twice: keep one.")
    if not seeds:
        raise ValueError("`--seeds` must be at least 1, got 0.")
