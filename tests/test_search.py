"""Axes of a sweep: their text, grids, samples, and what is refused."""

import math

import numpy as np
import pytest

from jsnn.train import search


def test_forms():
    assert search.parse("beta=0.5,0.9").values == (0.5, 0.9)
    assert search.parse("timesteps=4,8").values == (4, 8)
    assert search.parse("augment=True,False").values == (True, False)
    assert search.parse("surrogate=arctan,sigmoid").values == ("arctan", "sigmoid")
    assert search.parse("learning-rate=1e-3").name == "learning_rate"
    np.testing.assert_allclose(search.parse("x=lin:0:1:5").values, np.arange(5) / 4)
    logs = search.parse("lr=log:1e-4:1e-1:4").values
    np.testing.assert_allclose(logs, [1e-4, 1e-3, 1e-2, 1e-1])
    drawn = search.parse("lr=log:1e-4:1e-1")
    assert drawn == search.Axis("lr", (), "log", 1e-4, 1e-1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr", "must have the form name=values"),
        ("=3", "must have the form name=values"),
        ("lr=", "must have the form name=values"),
        ("lr=log:0:1:4", "must be positive, got 0 to 1"),
        ("lr=log:-1:1:4", "must be positive, got -1 to 1"),
        ("lr=lin:1:1:4", "from a lower to a higher number, got 1 to 1"),
        ("lr=lin:2:1:4", "from a lower to a higher number"),
        ("lr=lin:0:inf:4", "from a lower to a higher number"),
        ("lr=lin:0:1:1", "at least 2 values, got 1"),
        ("lr=lin:0:1:x", "has the form"),
        ("lr=cos:0:1:4", "has the form"),
        ("lr=lin:nan:1:4", "has the form"),
        ("lr=lin:0", "has the form"),
    ],
)
def test_malformed(text, words):
    with pytest.raises(ValueError, match=words):
        search.parse(text)


def test_grid_holds_every_combination_once_with_seeds_fastest():
    axes = [search.parse("a=1,2"), search.parse("b=x,y,z")]
    members = search.grid(axes, range(2))
    assert members[:3] == [
        search.Member({"a": 1, "b": "x"}, 0),
        search.Member({"a": 1, "b": "x"}, 1),
        search.Member({"a": 1, "b": "y"}, 0),
    ]
    assert len({(m.values["a"], m.values["b"], m.seed) for m in members}) == 12
    assert search.grid([], range(3)) == [search.Member({}, s) for s in range(3)]


def test_grid_refuses():
    axis = search.parse("a=1,2")
    with pytest.raises(ValueError, match="names a more than once"):
        search.grid([axis, axis], range(1))
    with pytest.raises(ValueError, match="`--seeds` must be at least 1"):
        search.grid([axis], [])
    with pytest.raises(ValueError, match="a grid needs the number of values"):
        search.grid([search.parse("a=lin:0:1")], range(1))


def test_samples_fill_their_ranges_evenly():
    """Of 2,000 uniform draws each quarter holds 500, give or take 20; six standard deviations are 120."""
    axes = [
        search.parse("a=log:1e-4:1"),
        search.parse("b=lin:2:4"),
        search.parse("c=x,y"),
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
    members = search.sample([search.parse("a=lin:0:1")], range(3), 2)
    assert [m.seed for m in members] == [0, 1, 2, 0, 1, 2]
    assert members[0].values == members[2].values != members[3].values
    with pytest.raises(ValueError, match="`--samples` must be at least 1"):
        search.sample([], range(1), 0)
