"""The sweep's command line: every swept flag can be traced, tables, going on, and mistakes told before anything is compiled."""

import csv
import importlib
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from experiments import sweep as script
from jsnn import sweep

UNUSED = pathlib.Path("unused")
CONFIGS = [
    ("csnn_mnist", {"data": "digits", "recipe": "fast"}),
    ("csnn_mnist", {"data": "digits", "recipe": "reference", "timesteps": 3}),
    ("eventprop_yinyang", {"solver": "grid"}),
    ("eventprop_yinyang", {"solver": "events", "delays": True}),
    ("eventprop_mnist", {"data": "digits", "recipe": "reference"}),
    ("eventprop_mnist", {"data": "digits", "recipe": "deep"}),
    ("eventprop_mnist", {"data": "digits", "recipe": "recurrent"}),
]


@pytest.mark.parametrize(("name", "flags"), CONFIGS)
def test_every_swept_flag_may_be_traced(name, flags):
    """Traced only: no flag is compared, rounded or made a shape on the way to training and evaluation."""
    module = importlib.import_module(f"experiments.{name}")
    program = module.program(module.Config(UNUSED, **flags))
    values = {n: jax.ShapeDtypeStruct((2,), jnp.float32) for n in module.SWEPT}
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    train = jax.vmap(program.train, in_axes=(0, 0, None))
    found = jax.eval_shape(train, keys, values, program.data)
    assert {"test_accuracy", "test_loss", "train_loss", "finite"} == found.keys()
    assert all(x.shape == (2,) for x in found.values())


def config(out: pathlib.Path, **changes) -> script.Config:
    """Two step sizes, two lengths of a trial and two seeds of the one-layer EventProp reference on digits, one epoch."""
    flags = {
        "experiment": "eventprop_mnist",
        "set": ("data=digits", "recipe=reference", "epochs=1"),
        "vary": ("T=15,20", "lr=log:0.1:1:2"),
        "seeds": 2,
        "chunk": 3,
        "progress": False,
    }
    return script.Config(out, **(flags | changes))


def lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(x) for x in path.read_text().splitlines()]


def test_a_killed_sweep_resumes_to_the_same_table(tmp_path):
    """The length changes the program, so each gets one; the four members of each come in chunks of three."""
    out = tmp_path / "sweep"
    summary = script.main(config(out))
    assert summary["runs"] == 8
    assert summary["failed"] == 0
    rows = lines(out / "table.jsonl")
    settings = [(row["T"], round(row["lr"], 6), row["seed"]) for row in rows]
    assert settings == list(itertools.product((15, 20), (0.1, 1.0), (0, 1)))
    assert len({row["test_loss"] for row in rows}) == 8
    assert (out / "sweep.png").stat().st_size > 0
    means = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    best = max(means, key=lambda row: float(row["test_accuracy"]))
    assert (summary["best_T"], summary["best_lr"]) == (
        float(best["T"]),
        pytest.approx(float(best["lr"])),
    )

    table, chunks = (out / "table.csv").read_text(), lines(out / "metrics.jsonl")
    assert [(c["group"], c["first"]) for c in chunks] == [
        (0, 0),
        (0, 3),
        (1, 0),
        (1, 3),
    ]
    left = (out / "metrics.jsonl").read_text().splitlines()[:3]  # killed in the last
    (out / "metrics.jsonl").write_text("\n".join(left) + "\n")
    script.main(config(out, resume=True))
    assert (out / "table.csv").read_text() == table
    assert lines(out / "metrics.jsonl")[:3] == chunks[:3]  # untouched, times included


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vary": ("speed=1,2",)}, "names 'speed', which is no flag.*Its flags are"),
        ({"vary": ("lr=log:0:1:3",)}, "a logarithmic range must be positive"),
        ({"vary": ("lr=-1,1",)}, "`--lr` must be positive, got -1"),
        ({"vary": ("seed=1,2",)}, "names 'seed', which is no flag"),
        ({"vary": ("epochs=1,2",)}, "'epochs' is both"),
        ({"seeds": 0}, "`--seeds` must be at least 1"),
        ({"chunk": 0}, "`--chunk` must be at least 1"),
        ({"set": ("data=1,2",)}, "`--set` takes one value each"),
        ({"set": ("recipe=none",)}, "`recipe` must be one of reference,.* got 'none'"),
    ],
)
def test_mistakes_come_before_compiling(tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr(sweep, "_compile", lambda *_: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=words):
        script.main(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
