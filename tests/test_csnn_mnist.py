"""The experiment end to end on bundled digits, and every mistake a user can make with its flags."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from predicted import predicted

import jsnn
from experiments import csnn_mnist
from experiments.csnn_mnist import Config
from jsnn import data
from jsnn.train import runs
from jsnn.train.rebuild import Shapes
from jsnn.train.supervised import Samples

TINY = {"data": "digits", "timesteps": 2, "batch_size": 128, "progress": False}


@pytest.fixture
def unchecked(monkeypatch):
    """Lets a wrong value reach the library's own check instead of the type checker that tests install."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_fast_recipe_learns_digits_and_leaves_everything_behind(tmp_path):
    cfg = Config(out=tmp_path, recipe="fast", epochs=6, **(TINY | {"timesteps": 4}))
    summary = csnn_mnist.main(cfg)
    assert summary["test_accuracy"] > 0.8  # a tenth by chance
    assert summary["test_accuracy"] * 360 == pytest.approx(
        round(summary["test_accuracy"] * 360)
    )  # all 360 test images count
    wanted = {
        *("experiment", "dataset", "seed", "test_accuracy", "wall_seconds"),
        *("samples_per_second", "device", "version", "commit", "energy_joules"),
    }
    assert wanted <= summary.keys()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert all(not isinstance(v, dict | list) for v in summary.values())
    rows = [
        json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [r["step"] for r in rows if r["split"] == "test"] == [
        11 * e for e in range(1, 7)
    ]
    for name in ("curves", "raster", "membranes", "confusion"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert config["augment"] is True  # filled in from the recipe
    assert config["learning_rate"] == 4e-3


def test_two_seeds_are_two_runs_and_are_loaded(tmp_path):
    """One after the other, so to the bit."""
    flags = TINY | {"epochs": 1, "num_validation": 100}
    both = csnn_mnist.main(Config(out=tmp_path / "both", seed=3, seeds=2, **flags))
    alone = csnn_mnist.main(Config(out=tmp_path / "alone", seed=3, **flags))
    assert both["test_accuracy_seed_3"] == alone["test_accuracy"]
    each = [both[f"test_accuracy_seed_{seed}"] for seed in (3, 4)]
    assert both["test_accuracy"] == pytest.approx(np.mean(each))
    images, labels = data.load("digits").test
    label, scores = predicted(tmp_path / "alone", tmp_path / "test", images, labels)
    assert (label == labels).mean() == pytest.approx(alone["test_accuracy"])
    first = jsnn.load(tmp_path / "both").predict(images)
    np.testing.assert_allclose(scores, first.scores, rtol=1e-6)  # seven digits


def test_reference_recipe_is_the_reference():
    cfg = Config(out=None, recipe="reference")  # pyright: ignore
    assert (cfg.timesteps, cfg.learning_rate, cfg.batch_size) == (100, 1e-2, 128)
    assert (cfg.epochs, cfg.eval_every, cfg.beta, cfg.augment) == (1, 50, 0.5, False)
    trainer = csnn_mnist.trainer_for(cfg, Shapes((28, 28, 1), 10, 60_000))
    images = np.zeros(60_000)
    assert trainer.steps_per_epoch(Samples(images, images)) == 468
    own = jax.eval_shape(trainer.init, jax.random.key(0))
    assert sum(p.size for p in jax.tree.leaves(own.model.params)) == 1_630_090


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"timesteps": 0}, ["--timesteps", "at least 1", "0"]),
        ({"epochs": 0}, ["--epochs", "at least 1"]),
        ({"batch_size": 0}, ["--batch-size", "at least 1"]),
        ({"learning_rate": -1.0}, ["--learning-rate", "positive", "-1.0"]),
        ({"learning_rate": float("nan")}, ["--learning-rate", "positive"]),
    ],
)
def test_numbers_out_of_range_fail_before_anything_else(tmp_path, flags, words):
    with pytest.raises(ValueError, match=r"must be") as error:
        Config(out=tmp_path / "run", **flags)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"beta": -0.1}, ["beta", "[0, 1]", "-0.1"]),
        ({"surrogate": "arctangent"}, ["surrogate", "arctan", "arctangent"]),
        ({"data": "minst"}, ["minst", "mnist", "digits"]),
        ({"num_validation": 5000}, ["--num-validation", "5000"]),
        ({"batch_size": 5000}, ["--batch-size", "1437", "5000"]),
    ],
)
def test_unknown_or_impossible_choices_fail_before_a_run_is_made(
    tmp_path, unchecked, flags, words
):
    with pytest.raises(ValueError, match=words[0]) as error:
        csnn_mnist.main(Config(out=tmp_path / "run", **(TINY | flags)))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_image_too_small_for_the_network_is_refused():
    cfg = Config(out=None, recipe="reference")  # pyright: ignore
    with pytest.raises(ValueError, match=r"image_shape.*4 x 4"):
        csnn_mnist.trainer_for(cfg, Shapes((3, 28, 1), 10, 100_000))


def test_unwritable_out_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(runs.RunError, match=r"--out .* cannot be written"):
        csnn_mnist.main(Config(out=tmp_path / "file" / "run", **TINY))


def test_the_command_line_prints_a_mistake_as_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.csnn_mnist",
        "--out",
        str(tmp_path / "x"),
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, "--timesteps", "0"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert "`--timesteps` must be at least 1, got 0." in done.stderr
    assert "Traceback" not in done.stderr
