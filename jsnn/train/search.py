"""What a sweep tries: axes of values, every combination of them or a random sample, over seeds.

lr=log:1e-4:1e-1:8        8 values from 1e-4 to 1e-1, evenly spaced in the logarithm
beta=lin:0.5:0.95:4       4 values, evenly spaced
beta=0.5,0.9,0.95         these values
surrogate=arctan,sigmoid  likewise
lr=log:1e-4:1e-1          a range to draw from; so is beta=lin:0.5:0.95
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jsnn import check

_SCALES = ("lin", "log")


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


def parse(text: str) -> Axis:
    """The axis that `name=...` describes, in one of the forms above.

    Raises:
      ValueError: if the text has another form, a logarithmic range is not positive, or a range is empty.
    """
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise ValueError(
            f"`--vary` must have the form name=values, such as lr=log:1e-4:1e-1:8 or beta=0.5,0.9, got {text!r}."
        )
    name = name.replace("-", "_")
    head, *numbers = rest.split(":")
    if not numbers:
        return Axis(name, tuple(_value(x) for x in rest.split(",")))
    return _range(name, text, head, numbers)


def _range(name: str, text: str, scale: str, numbers: list[str]) -> Axis:
    try:
        low, high = map(float, numbers[:2])
        count = int(numbers[2]) if len(numbers) == 3 else None
    except ValueError:
        low = high = math.nan
        count = None
    if scale not in _SCALES or not 2 <= len(numbers) <= 3 or not math.isfinite(low):
        raise ValueError(
            f"`--vary`: a range has the form lin:low:high:count or log:low:high:count, got {text!r}."
        )
    if not low < high < math.inf:
        raise ValueError(
            f"`--vary {text}`: the range must go from a lower to a higher number, got {low:g} to {high:g}."
        )
    if scale == "log" and low <= 0:
        raise ValueError(
            f"`--vary {text}`: a logarithmic range must be positive, got {low:g} to {high:g}. Use lin, or raise its start."
        )
    if count is None:
        return Axis(name, (), scale, low, high)
    if count < 2:
        raise ValueError(
            f"`--vary {text}`: a range needs at least 2 values, got {count}."
        )
    spaced = np.linspace if scale == "lin" else np.geomspace
    return Axis(name, tuple(map(float, spaced(low, high, count))))


def _value(text: str) -> Any:
    """A whole number, a number, a truth value or a word."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        check.number("--vary", value)
        return value
    return text


def grid(axes: Sequence[Axis], seeds: Sequence[int]) -> list[Member]:
    """Every combination of the axes' values, each with every seed; seeds vary fastest.

    Raises:
      ValueError: if an axis is named twice, is a range without a count, or there is no seed.
    """
    _check(axes, seeds)
    for axis in axes:
        if not axis.values:
            raise ValueError(
                f"`--vary {axis.name}`: a grid needs the number of values, {axis.scale}:{axis.low:g}:{axis.high:g}:count. To draw from the range, ask for --samples."
            )
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
    rng = np.random.default_rng(seed)

    def draw(axis: Axis) -> Any:
        if axis.values:
            return axis.values[rng.integers(len(axis.values))]
        if axis.scale == "lin":
            return float(rng.uniform(axis.low, axis.high))
        return float(np.exp(rng.uniform(math.log(axis.low), math.log(axis.high))))

    drawn = [{axis.name: draw(axis) for axis in axes} for _ in range(num_samples)]
    return [Member(values, seed) for values in drawn for seed in seeds]


def _check(axes: Sequence[Axis], seeds: Sequence[int]) -> None:
    names = [axis.name for axis in axes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"`--vary` names {min(twice)} more than once.")
    if not seeds:
        raise ValueError("`--seeds` must be at least 1, got 0.")
