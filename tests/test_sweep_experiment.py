"""The sweep's command line: every swept flag can be traced, tables, going on, and mistakes told before anything is compiled."""

import csv
import dataclasses
import importlib
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from stdp_tiny import TINY

from experiments import cil_cifar10, csnn_mnist, stdp_mnist
from experiments import sweep as script
from jsnn import data, stdp
from jsnn.continual import methods
from jsnn.continual.method import default_settings
from jsnn.train import sweep

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


@pytest.fixture
def tiny_networks(monkeypatch):
    for name, network in TINY.items():
        monkeypatch.setitem(stdp.NETWORKS, name, network)


@pytest.fixture
def quick():
    """Compiling is most of the work here; without optimisation it takes half as long."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def few_digits(quick, monkeypatch):
    """The first of the bundled digits only, for sweeps and single runs alike."""
    whole = data.load

    def load(*args, **options):
        found = whole(*args, **options)
        train, test = (
            data.Split(part.images[:count], part.labels[:count])
            for part, count in ((found.train, 150), (found.test, 100))
        )
        return dataclasses.replace(found, train=train, test=test)

    monkeypatch.setattr(data, "load", load)


def shapes(name, flags, swept):
    """What the program of an experiment returns for two members, from tracing alone."""
    return traced(name, flags, swept)[1]


def traced(name, flags, swept):
    """The program of an experiment for two members, and what it returns."""
    module = importlib.import_module(f"experiments.{name}")
    program = module.program(module.Config(UNUSED, **flags))
    values = {n: jax.ShapeDtypeStruct((2,), jnp.float32) for n in swept}
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    train = jax.vmap(program.train, in_axes=(0, 0, None))
    return jax.make_jaxpr(train, return_shape=True)(keys, values, program.data)


@pytest.mark.parametrize(("name", "flags"), CONFIGS)
def test_every_swept_flag_may_be_traced(name, flags):
    """Traced only: no flag is compared, rounded or made a shape on the way to training and evaluation."""
    module = importlib.import_module(f"experiments.{name}")
    found = shapes(name, flags, module.SWEPT)
    assert {"test_accuracy", "test_loss", "train_loss", "finite"} == found.keys()
    assert all(x.shape == (2,) for x in found.values())


@pytest.mark.parametrize("model", ["chain", "wide", "joint"])
def test_every_rate_and_threshold_of_stdp_may_be_traced(tiny_networks, model):
    """And no product of potentials is left to what a GPU takes for float32, three digits."""
    flags = {"data": "digits", "ratio": 0.05, "recipe": model, "num_validation": 30}
    blocks = len(stdp.NETWORKS[model].blocks)
    beyond = [f"threshold_{n}" for n in range(blocks + 1, 5)]
    swept = set(stdp_mnist.SWEPT).difference(beyond)
    assert len(swept) == 6 + blocks
    program, found = traced("stdp_mnist", flags, swept)
    assert {"validation_accuracy", "silent", "finite"} == found.keys()
    assert all(x.shape == (2,) for x in found.values())
    text = str(program)
    products = text.count("dot_general[")
    assert products > 5
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def texts(*flags, **more):
    """As `--set` and `--vary` have them: "epochs 2 4" and epochs="2 4" alike."""
    named = (f"{name} {value}" for name, value in more.items())
    return tuple(tuple(flag.split()) for flag in (*flags, *named))


def table(out, experiment, **changes):
    """The rows of a small sweep."""
    script.main(script.Config(out, experiment=experiment, progress=False, **changes))
    return lines(out / "table.jsonl")


def test_members_of_an_stdp_sweep_are_their_single_runs(
    tmp_path, tiny_networks, few_digits
):
    """Driven layer by layer, window by window, through a run folder, from the same flags and seed."""
    flags = {"data": "digits", "recipe": "chain", "window": 40, "doubling": 20}
    fixed = texts("epochs 1 2", **flags)
    rates = texts("ltp 0.002 0.01", "threshold-1 5", reward_ltp=0.003, punish_ltd=0.001)
    # Two abreast, and two turns.
    changes = {"set": fixed, "vary": rates, "seeds": 2, "at_once": 2}
    rows = table(tmp_path / "sweep", "stdp_mnist", **changes)
    found = [(row["ltp"], row["seed"]) for row in rows]
    assert found == [(0.002, 0), (0.002, 1), (0.01, 0), (0.01, 1)]
    assert len({row["test_accuracy"] for row in rows}) > 2
    for i in (1, 2):
        seed = rows[i]["seed"]
        own = {"ltp": rows[i]["ltp"], "threshold_1": 5.0, "seed": seed}
        own |= {"reward_ltp": 0.003, "punish_ltd": 0.001, "num_validation": 0}
        own |= {"epochs": (1, 2), "progress": False}
        alone = stdp_mnist.main(
            stdp_mnist.Config(out=tmp_path / str(seed), **flags, **own)
        )
        # Weights differ by 1e-7, for programs round differently; that moves none of 100 decisions here.
        assert rows[i]["test_accuracy"] == pytest.approx(alone["test_accuracy"])
        assert rows[i]["silent"] == alone["silent"]


def test_a_sweep_of_stdp_may_be_judged_by_images_held_out(
    tmp_path, tiny_networks, few_digits
):
    """They are those of the single run with seed 0, whose last row of validation says the same."""
    flags = {"data": "digits", "recipe": "joint", "num_validation": 100}
    rows = table(
        tmp_path / "sweep",
        "stdp_mnist",
        set=texts("epochs 1 1", **flags),
        vary=texts("threshold-1 5 7"),
    )
    own = {"epochs": (1, 1), "threshold_1": 7.0, "progress": False}
    stdp_mnist.main(stdp_mnist.Config(out=tmp_path / "alone", **flags, **own))
    last = lines(tmp_path / "alone" / "metrics.jsonl")[-1]
    assert last["split"] == "validation"
    assert rows[1]["validation_accuracy"] == pytest.approx(last["accuracy"])
    assert rows[0]["validation_accuracy"] != rows[1]["validation_accuracy"]


CIL = {
    "data": "digits",
    "network": "mlp",
    "timesteps": 2,
    "epochs_per_task": 2,
    "batch_size": 16,
}
FIGURES = "final_accuracy average_incremental_accuracy forgetting backward_transfer task_il_accuracy task_il_forgetting"


@pytest.mark.parametrize(
    ("flags", "vary"),
    [
        # Batch norm's policy makes two programs of a run, one for the first task.
        (
            {"method": "der", "recipe": "reference", "tasks": "3x2", "buffer": 40},
            "match.alpha 0.1 0.5",
        ),
        ({"method": "slda", "tasks": "2x3"}, "predict.shrinkage 0.01 0.5"),  # freezes
        ({"method": "joint", "tasks": "2x3"}, "lr 0.001 0.01"),  # one task of all
    ],
)
def test_members_of_a_class_incremental_sweep_are_their_single_runs(
    tmp_path, few_digits, flags, vary
):
    """Led through a run folder, task by task, from the same flags and seed."""
    rows = table(
        tmp_path / "sweep",
        "cil_cifar10",
        set=texts("hidden 32", **CIL, **flags),
        vary=texts(vary) if vary.startswith("lr ") else texts("lr 0.01", vary),
        seeds=2,
        at_once=2,
    )
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    assert len({row["average_incremental_accuracy"] for row in rows}) > 2
    row = rows[3]
    own = {"hidden": (32,), "learning_rate": 0.01, "seed": 1, "progress": False}
    if not vary.startswith("lr "):
        own["settings"] = (f"{vary.partition(' ')[0]}=0.5",)
    alone = cil_cifar10.main(
        cil_cifar10.Config(out=tmp_path / "alone", **CIL, **flags, **own)
    )
    known = {name for name in FIGURES.split() if alone[name] is not None}
    assert known == row.keys() & {*FIGURES.split()}
    for name in known:
        assert row[name] == pytest.approx(alone[name], abs=1e-9), name
    assert not row["failed"]


def test_a_class_incremental_sweep_has_the_validation_accuracy_of_single_runs(
    tmp_path, few_digits
):
    fixed = CIL | {"tasks": "2x2", "num_validation": 24}
    rows = table(
        tmp_path / "sweep",
        "cil_cifar10",
        set=texts("hidden 16", **fixed),
        vary=texts("lr 0.0001 0.01"),
    )
    own = {"hidden": (16,), "learning_rate": 0.01, "progress": False}
    alone = cil_cifar10.main(cil_cifar10.Config(tmp_path / "alone", **fixed, **own))
    found = [row["validation_accuracy"] for row in rows]
    assert found[1] == pytest.approx(alone["validation_accuracy"], abs=1e-6)
    assert found[0] != found[1]


@pytest.mark.parametrize("method", ["er", "bic", "gdumb", "latent-er", "ewc"])
def test_every_weight_of_a_class_incremental_method_may_be_traced(few_digits, method):
    flags = CIL | {"method": method, "hidden": (16,)}
    weights = default_settings(methods.get(method)).items()
    swept = [f"{term}.{weight}" for term, of_term in weights for weight in of_term]
    assert set(swept) <= set(cil_cifar10.SWEPT)
    found = shapes("cil_cifar10", flags, ["learning_rate", *swept])
    assert {k: x.shape for k, x in found.items()} == {
        "class_il": (2, 5, 5),
        "task_il": (2, 5, 5),
        "finite": (2,),
    }


def config(out: pathlib.Path, **changes) -> script.Config:
    """Two step sizes, two lengths of a trial and two seeds of the one-layer EventProp reference on digits, one epoch."""
    flags = {
        "experiment": "eventprop_mnist",
        "set": texts("data digits", "recipe reference", "epochs 1"),
        "vary": texts("T 15 20"),
        "log_range": (("lr", 0.1, 1.0, 2),),
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
    settings = [
        (row["duration"], round(row["learning_rate"], 6), row["seed"]) for row in rows
    ]
    assert settings == list(itertools.product((15, 20), (0.1, 1.0), (0, 1)))
    assert len({row["test_loss"] for row in rows}) == 8
    assert (out / "sweep.png").stat().st_size > 0
    means = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    best = max(means, key=lambda row: float(row["test_accuracy"]))
    found = [summary[f"best_by_test_{n}"] for n in ("duration", "learning_rate")]
    assert found == [
        float(best["duration"]),
        pytest.approx(float(best["learning_rate"])),
    ]

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


CIL_ER = {
    "experiment": "cil_cifar10",
    "set": texts("data digits", "method er"),
    "vary": texts("match.alpha 0.1"),
    "log_range": (),
}
LR = {"log_range": ()}
CSNN = {"experiment": "csnn_mnist", "vary": texts("beta 0.5"), "log_range": ()}
STDP = {
    "experiment": "stdp_mnist",
    "set": texts("data digits"),
    "vary": texts("ltp 0.01"),
    "log_range": (),
}


@pytest.mark.parametrize("experiment", ["csnn_mnist", "stdp_mnist"])
def test_values_have_the_type_of_their_flag(experiment):
    """What the experiment's own command line makes of them; what it switches on and off is True or False."""
    module = importlib.import_module(f"experiments.{experiment}")
    own = "epochs 2 4 4" if experiment == "stdp_mnist" else "lr 1"
    for text, value in (("False", False), ("True", True)):
        given = script.named(module, texts(f"augment {text}", own), "--set")
        cfg = script.parse(module, given)
        assert cfg.augment is value
        expected = (2, 4, 4) if experiment == "stdp_mnist" else 1.0
        assert getattr(cfg, [*given][1]) == expected
    with pytest.raises(
        ValueError, match=r"invalid choice 'perhaps'.*'--augment'.*'True'"
    ):
        script.parse(module, {"augment": ("perhaps",)})


def test_whole_numbers_from_a_range_are_whole():
    values = script.search.linear("timesteps", 2.0, 8.0, 4).values
    found = [script.parse(csnn_mnist, {"timesteps": (v,)}).timesteps for v in values]
    assert [(x, type(x)) for x in found] == [(n, int) for n in (2, 4, 6, 8)]


def test_the_command_line_is_the_documented_one():
    """Each line of the docstring, whose members its experiment accepts."""
    commands = [x.split()[3:] for x in script.__doc__.splitlines() if " -m " in x]  # pyright: ignore
    assert len(commands) == 4
    sizes = []
    for args in commands:
        cfg = script.cli.parse(script.Config, args)
        module = importlib.import_module(f"experiments.{cfg.experiment}")
        groups = script.groups(cfg, module)
        assert len(groups) == 1  # all that is varied there may be traced
        sizes.append(len(groups[0][2]))
    assert sizes == [8 * 4, 20, 2 * 3, 2 * 2]


def program_of(metrics):
    """A program that trains nothing."""

    def train(key, values, data):
        return {name: jnp.float32(x) for name, x in metrics.items()}

    return sweep.Program(train, jnp.zeros(1), lambda key, values: jnp.zeros(1))


@pytest.mark.parametrize("first", ["fast", "reference"])
def test_runs_of_different_metrics_share_a_table(tmp_path, monkeypatch, first):
    of = {
        "fast": {"test_accuracy": 0.25, "forgetting": 0.5},
        "reference": {"test_accuracy": 0.75},
    }
    monkeypatch.setattr(csnn_mnist, "program", lambda cfg: program_of(of[cfg.recipe]))
    second = "fast" if first == "reference" else "reference"
    changes = CSNN | {"set": texts("data digits"), "chunk": None, "seeds": 1}
    changes["vary"] = texts(f"recipe {first} {second}")
    summary = script.main(config(tmp_path, **changes))
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert {r["recipe"]: r["forgetting"] for r in rows} == {
        "fast": "0.5",
        "reference": "",
    }
    assert all({"recipe", "seed", "test_accuracy", "failed"} <= r.keys() for r in rows)
    assert (tmp_path / "summary.csv").read_text().count("\n") == 3
    assert summary["best_by_test_recipe"] == "reference"
    assert not any(name.startswith("best_test") for name in summary)


def test_the_best_is_chosen_by_images_held_out(tmp_path, monkeypatch):
    """Where there are any; by the test set only on request, and then the names say so."""
    of = {
        "fast": {"test_accuracy": 0.75, "validation_accuracy": 0.25},
        "reference": {"test_accuracy": 0.25, "validation_accuracy": 0.75},
    }
    monkeypatch.setattr(csnn_mnist, "program", lambda cfg: program_of(of[cfg.recipe]))
    changes = CSNN | {"set": texts("data digits"), "chunk": None, "seeds": 1}
    changes["vary"] = texts("recipe fast reference")
    summary = script.main(config(tmp_path / "a", **changes))
    assert summary["best_recipe"] == "reference"
    assert summary["best_validation_accuracy"] == 0.75
    summary = script.main(config(tmp_path / "b", metric="test_accuracy", **changes))
    assert summary["best_by_test_recipe"] == "fast"
    assert "best_recipe" not in summary


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"vary": texts("speed 1 2")},
            "names 'speed', which is no flag.*Its flags are",
        ),
        ({"log_range": (("lr", 0.0, 1.0, 3),)}, "a logarithmic range must be positive"),
        ({"log_range": (("lr", 0.1, 1.0),)}, "a grid needs the number of values"),
        (LR | {"vary": texts("lr -1 1")}, "`--learning-rate` must be positive.*got -1"),
        ({"vary": texts("seed 1 2")}, "names 'seed', which is no flag"),
        ({"vary": texts("epochs 1 2")}, "'epochs' is both"),
        ({"set": texts("epochs 1", "epochs 2")}, "`--set` names 'epochs' twice"),
        ({"vary": texts("T 15", "T 20")}, "names 'duration' twice, once as 'T'"),
        ({"vary": texts("lr 1 2")}, "names 'learning_rate' twice, once as 'lr'"),
        ({"set": texts("epochs 1.5")}, "--epochs: invalid literal for int.* '1.5'"),
        ({"set": texts("epochs many")}, "--epochs: invalid literal for int.* 'many'"),
        ({"set": texts("epochs")}, "`--set epochs` names no value"),
        (LR | {"set": texts("lr true"), "vary": ()}, "--learning-rate: .* 'true'"),
        (
            CSNN | {"set": texts("lr 1e-3", "learning-rate 1e-2")},
            "names 'learning_rate' twice, once as 'learning-rate'",
        ),
        (CSNN | {"set": texts("remat perhaps")}, "invalid choice 'perhaps'.*'--remat'"),
        (
            CIL_ER | {"set": texts("method der", "settings match.alpha=1")},
            "'match.alpha' is named twice",
        ),
        (STDP | {"set": texts("patience 3")}, "names 'patience', which is no flag"),
        (
            {
                "experiment": "eventprop_yinyang",
                "set": (),
                "vary": (),
                "data_dir": UNUSED,
            },
            "`--data-dir unused` would do nothing",
        ),
        ({"data_dir": UNUSED}, "`--data-dir unused` would do nothing"),
        ({"seeds": 0}, "`--seeds` must be at least 1"),
        ({"chunk": 0}, "`--chunk` must be at least 1"),
        (
            {"vary": (), "log_range": (), "samples": 3},
            "`--samples 3` would do nothing: it needs --vary",
        ),
        ({"set": texts("data digits mnist")}, "Unrecognized options: mnist"),
        ({"set": texts("recipe none")}, "invalid choice 'none'.*'--recipe'.*'ref"),
        (LR | {"vary": texts("lr high")}, "--learning-rate: .* 'high'"),
        (CIL_ER, "`--settings match.alpha=0.1` must be TERM.WEIGHT=VALUE"),
        (CIL_ER | {"vary": texts("match.beta 0.1")}, "names 'match.beta', which is no"),
        (
            CIL_ER | {"vary": texts("network deep")},
            "invalid choice 'deep'.*'--network'",
        ),
        (
            CIL_ER | {"vary": texts("evaluate_unseen True")},
            "`--evaluate-unseen` and .* not for sweeps",
        ),
        (
            STDP | {"vary": texts("ltp 0.1 0.2")},
            r"`--ltp` must lie in \(0, 0.15\], got 0.2",
        ),
        (STDP | {"vary": texts("threshold-3 5")}, "`--threshold-3` must be left out"),
        (STDP | {"vary": texts("epochs 1 1 1")}, "`--epochs` must be 3 numbers.*got 1"),
        (STDP | {"set": texts("epochs 1 1")}, "`--epochs` must be 3 numbers.*got 1 1"),
        (
            STDP | {"set": texts("model kheradpisheh2018")},
            "`--recipe kheradp.* cannot be sw",
        ),
    ],
)
def test_mistakes_come_before_compiling(tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr(sweep, "_compile", lambda *_: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=words):
        script.main(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
