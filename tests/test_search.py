"""Axes of a sweep: ranges, grids, samples, and what is refused."""

import math

import numpy as np
import pytest

from jsnn.train import search


def test_ranges():
    np.testing.assert_allclose(search.linear("x", 0.0, 1.0, 5).values, np.arange(5) / 4)
    logs = search.logarithmic("rate", 1e-4, 1e-1, 4).values
    np.testing.assert_allclose(logs, [1e-4, 1e-3, 1e-2, 1e-1])
    drawn = search.logarithmic("rate", 1e-4, 1e-1)
    assert drawn == search.Axis("rate", (), "log", 1e-4, 1e-1)


@pytest.mark.parametrize(
    ("make", "ends", "words"),
    [
        (search.logarithmic, (0.0, 1.0, 4), "must be positive"),
        (search.logarithmic, (-1.0, 1.0, 4), "-log-range x -1 1`: .* must be positive"),
        (search.linear, (1.0, 1.0, 4), "from a lower to a higher number"),
        (search.linear, (2.0, 1.0, 4), "-linear-range x 2 1`: .* a lower to a higher"),
        (search.linear, (0.0, math.inf, 4), "from a lower to a higher number"),
        (search.linear, (math.nan, 1.0, 4), "from a lower to a higher number"),
        (search.linear, (0.0, 1.0, 1), "at least 2 values, got 1"),
    ],
)
def test_malformed(make, ends, words):
    with pytest.raises(ValueError, match=words):
        make("x", *ends)


def test_grid_holds_every_combination_once_with_seeds_fastest():
    axes = [search.Axis("a", (1, 2)), search.Axis("b", ("x", "y", "z"))]
    members = search.grid(axes, range(2))
    assert members[:3] == [
        search.Member({"a": 1, "b": "x"}, 0),
        search.Member({"a": 1, "b": "x"}, 1),
        search.Member({"a": 1, "b": "y"}, 0),
    ]
    assert len({(m.values["a"], m.values["b"], m.seed) for m in members}) == 12
    assert search.grid([], range(3)) == [search.Member({}, s) for s in range(3)]


def test_grid_refuses():
    axis = search.Axis("a", (1, 2))
    with pytest.raises(ValueError, match="names 'a' twice"):
        search.grid([axis, axis], range(1))
    with pytest.raises(ValueError, match="`--seeds` must be at least 1"):
        search.grid([axis], [])
    with pytest.raises(ValueError, match="a grid needs the number of values"):
        search.grid([search.linear("a", 0.0, 1.0)], range(1))


def test_samples_fill_their_ranges_evenly():
    """Of 2,000 uniform draws each quarter holds 500, give or take 20; six standard deviations are 120."""
    axes = [
        search.logarithmic("a", 1e-4, 1.0),
        search.linear("b", 2.0, 4.0),
        search.Axis("c", ("x", "y")),
    ]
    members = search.sample(axes, range(1), 2000, seed=3)
    assert members == search.sample(axes, range(1), 2000, seed=3)
    assert members != search.sample(axes, range(1), 2000, seed=4)
    log = [math.log10(m.values["a"]) for m in members]
    lin = [m.values["b"] for m in members]
    for values, low, high in ((log, -4, 0), (lin, 2, 4)):
        counts, _ = np.histogram(values, bins=4, range=(low, high))
        assert sum(counts) == 2000
        assert np.all(np.abs(counts - 500) < 120)
    assert abs(sum(m.values["c"] == "x" for m in members) - 1000) < 135


def test_samples_are_each_run_with_every_seed():
    members = search.sample([search.linear("a", 0.0, 1.0)], range(3), 2)
    assert [m.seed for m in members] == [0, 1, 2, 0, 1, 2]
    assert members[0].values == members[2].values != members[3].values
    with pytest.raises(ValueError, match="`--samples` must be at least 1"):
        search.sample([], range(1), 0)
