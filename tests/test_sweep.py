"""Sweeps of a small pure function: members against single runs, chunks, failures, going on after a kill, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jsnn.plot import sweep as sweep_figures
from jsnn.train import search, sweep
from jsnn.train.runs import Run, RunError

CALLS = []


def program(fail_at: float = -1.0) -> sweep.Program:
    """Gradient descent on a random quadratic: as many steps as the closed form needs."""

    def init(key, values):
        return jax.random.normal(key, (8,))

    def train(key, values, target):
        rate = jnp.where(values["rate"] == fail_at, jnp.nan, values["rate"])
        end = jax.lax.fori_loop(
            0, 100, lambda _, w: w - rate * (w - target), init(key, values)
        )
        return {
            "distance": jnp.square(end - target).sum(),
            "finite": jnp.isfinite(end).all(),
        }

    return sweep.Program(train, jnp.arange(8.0), init)


def members(num_rates: int = 5, num_seeds: int = 2) -> list[search.Member]:
    rates = search.Axis("rate", tuple(np.linspace(0.01, 0.03, num_rates).tolist()))
    return search.grid([rates], range(num_seeds))


def collect(chunks) -> list[dict]:
    return [m for chunk, _ in chunks for m in chunk.metrics]


def single(member: search.Member) -> float:
    """The closed form in float64: the distance shrinks by (1 - rate)² a step."""
    start = np.asarray(jax.random.normal(jax.random.key(member.seed), (8,)), np.float64)
    left = (1 - member.values["rate"]) ** 100 * (start - np.arange(8.0))
    return float(np.square(left).sum())


@pytest.mark.parametrize(
    ("chunk", "at_once"),
    [(None, None), (None, 100), (None, 3), (1, None), (3, 2), (4, 1), (100, 100)],
)
def test_members_equal_single_runs_whatever_the_chunk(chunk, at_once):
    """100 steps of float32 lose about 100 rounding errors of 6e-8."""
    runs = members()
    found = collect(sweep.run(program(), runs, chunk=chunk, at_once=at_once))
    assert len(found) == len(runs)
    expected = [single(m) for m in runs]
    np.testing.assert_allclose([m["distance"] for m in found], expected, rtol=2e-5)
    assert len(set(np.round(expected, 6))) == len(runs)
    assert not any(m["failed"] for m in found)


def test_a_failed_member_is_reported_and_spoils_no_other():
    runs = members()
    bad = runs[4].values["rate"]
    whole = collect(sweep.run(program(), runs))
    spoilt = collect(sweep.run(program(fail_at=np.float32(bad)), runs))
    for member, a, b in zip(runs, whole, spoilt, strict=True):
        assert b["failed"] == (member.values["rate"] == bad)
        assert b["failed"] or a == b
    assert sum(m["failed"] for m in spoilt) == 2


def test_finished_chunks_are_not_run_again(tmp_path):
    runs = members()

    def make():
        CALLS.append(1)
        return program()

    def go(out, resume=False, stop=None):
        run = Run(out, experiment="sweep", config={}, resume=resume)
        if stop is not None:  # as if killed after so many chunks
            rows = run.rows()[:stop]
            (out / "metrics.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in rows)
            )
        return sweep.drive(run, [({"kind": "a"}, make, runs)], chunk=4, progress=False)

    table = go(tmp_path / "run")
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["first"] for x in lines] == [0, 4, 8]
    assert table[3] == {"kind": "a", **runs[3].values, "seed": 1} | table[3]

    assert go(tmp_path / "run", resume=True, stop=2) == table
    after = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert after[:2] == lines[:2]  # untouched, times included
    assert len(after) == 3

    CALLS.clear()
    assert go(tmp_path / "run", resume=True) == table
    assert not CALLS  # nothing left to compile


def test_chunks_of_another_sweep_are_refused(tmp_path):
    run = Run(tmp_path, experiment="sweep", config={})
    run.log({"group": 0, "first": 8, "size": 4, "metrics": [{}] * 4, "run_seconds": 1})
    with pytest.raises(RunError, match="holds chunks of another sweep"):
        sweep.drive(run, [({}, program, members(2))], progress=False)


def test_a_chunk_larger_than_memory_is_refused_before_compiling(monkeypatch):
    monkeypatch.setattr(sweep, "free_bytes", lambda: 100)
    monkeypatch.setattr(sweep, "_compile", lambda *_: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=r"`--chunk 10` does not fit.*--chunk 1 "):
        list(sweep.run(program(), members(), chunk=10))


def test_the_chunk_is_cut_until_it_fits(monkeypatch):
    monkeypatch.setattr(sweep, "_needs", lambda compiled: 1000)
    monkeypatch.setattr(sweep, "free_bytes", lambda: 500)
    with pytest.raises(ValueError, match="One member alone is too large"):
        list(sweep.run(program(), members()))
    needs = iter([1000, 400])
    monkeypatch.setattr(sweep, "_needs", lambda compiled: next(needs))
    chunks = [chunk for chunk, _ in sweep.run(program(), members())]
    assert [c.size for c in chunks] == [4, 4, 4]
    assert [len(c.metrics) for c in chunks] == [4, 4, 2]


def test_splitting_flags():
    member = search.Member({"rate": 1, "kind": "a"}, 7)
    assert sweep.split(member, ("rate",)) == (
        {"kind": "a"},
        search.Member({"rate": 1.0}, 7),
    )


def test_summary_against_scipy():
    rows = [
        {"a": a, "seed": s, "x": a + s**2, "failed": s == 3 and a == 1}
        for a in (1.0, 2.0)
        for s in range(4)
    ]
    first, second = sweep.summarise(rows, ["a"], ["x"])
    assert (first["runs"], first["failed"]) == (4, 1)
    for line, x in ((first, [1, 2, 5]), (second, [2, 3, 6, 11])):
        low, high = stats.t.interval(0.95, len(x) - 1, np.mean(x), stats.sem(x))
        assert line["x"] == pytest.approx(np.mean(x))
        assert line["x_ci95"] == pytest.approx((high - low) / 2)
    lone = sweep.summarise(rows[:1], ["a"], ["x"])[0]
    assert np.isnan(lone["x_ci95"])


@pytest.mark.parametrize("num_axes", [0, 1, 2, 3])
def test_figures(num_axes):
    axes = [search.Axis(n, (0.1, 1, 10)) for n in "abc"[:num_axes]]
    rows = [
        {**m.values, "seed": m.seed, "x": float(i), "failed": i == 0}
        for i, m in enumerate(search.grid(axes, range(2)))
    ]
    names = [axis.name for axis in axes]
    figure = sweep_figures.draw(sweep.summarise(rows, names, ["x"]), names, "x")
    shown = " ".join(t.get_text() for t in figure.findobj() if hasattr(t, "get_text"))
    for name in [*names, "x"]:
        assert name in shown
