"""The STDP experiment end to end on bundled digits, killed and resumed, and every mistake a user can make with its flags."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from predicted import predicted
from stdp_tiny import CHAIN, TINY

import jsnn
from experiments import stdp_mnist
from experiments.stdp_mnist import Config
from jsnn import data, stdp
from jsnn.stdp import forward

ROOT = pathlib.Path(__file__).parents[1]
VARIES = ("seconds", "train_seconds", "cpu_seconds")
FLAGS = {"data": "digits", "ratio": 0.1, "window": 40, "progress": False}


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    for name, network in TINY.items():
        monkeypatch.setitem(stdp.NETWORKS, name, network)


def rows(out: pathlib.Path) -> list[dict]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: v for k, v in row.items() if k not in VARIES} for row in whole]


def test_everything_is_left_behind_and_layers_are_taken_over(tmp_path):
    out = tmp_path / "first"
    cfg = Config(out=out, recipe="chain", doubling=20, **FLAGS)
    summary = stdp_mnist.main(cfg)
    assert json.loads((out / "summary.json").read_text()) == summary
    wanted = "experiment dataset seed test_accuracy device version commit macro_f1 roc_auc silent wall_seconds samples_per_second"
    assert set(wanted.split()) <= summary.keys()
    assert not any(isinstance(v, list | dict) for v in summary.values())
    right = 360 * summary["test_accuracy"]
    assert right == pytest.approx(round(right))  # all 360 test images count
    found = rows(out)
    # 132 images in windows of 40, 40, 40 and 12
    seen = [r["seen"] for r in found if r["layer"] == "layer 1"]
    assert seen == [40, 80, 120, 132]
    assert found[-1]["split"] == "validation"
    assert found[-1]["step"] == 132 * 3
    for row in found:
        if row["layer"] == "decision":
            total = row["accuracy"] + row["loss"] + row["silent"]
            assert total == pytest.approx(1)
    indices = [r["convergence"] for r in found if r["split"] == "train"]
    assert len(set(indices)) == 12  # weights move in every window
    assert found[0]["ltp"] == pytest.approx(0.016)  # doubled after 20 and 40 images

    assert_loaded_predicts(out, summary)
    names = ("features_layer_1", "features_layer_2", "history", "confusion")
    for name in (*names, "convergence", "activation_maps"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    history = (out / "history.csv").read_text().splitlines()
    assert history[0].startswith("epoch,train_acc,train_loss")
    assert len(history) == 3

    # With another number of epochs of R-STDP the first layer is the same: taken over to the bit, not trained.
    other = tmp_path / "other"
    again = dataclasses.replace(cfg, out=other, reuse=(out,), epochs=(1, 1))
    stdp_mnist.main(again)
    mine, theirs = (np.load(o / "layers/layer_1.npz") for o in (out, other))
    np.testing.assert_array_equal(mine["weights"], theirs["weights"])
    assert [r["seen"] for r in rows(other) if r["layer"] == "layer 1"] == [132]
    first_epoch = [r for r in found if r["layer"] == "decision"][:5]
    assert [r for r in rows(other) if r["layer"] == "decision"] == first_epoch
    # Given more epochs, it goes on to where the first one came.
    stdp_mnist.main(dataclasses.replace(again, epochs=(1, 2), resume=True))
    decision = [r for r in found if r["layer"] == "decision"]
    assert [r for r in rows(other) if r["layer"] == "decision"] == decision
    assert_equal_models(out, other)


def assert_equal_models(one: pathlib.Path, two: pathlib.Path) -> None:
    models = (jsnn.load(out).model for out in (one, two))
    jax.tree.map(np.testing.assert_array_equal, *models)


def assert_loaded_predicts(out: pathlib.Path, summary: dict) -> None:
    """A run's folder is enough to predict as the run itself did, from images as they come."""
    test = data.load("digits").test
    found, _ = predicted(out, out / "test", *test)
    assert (found == test.labels).mean() == summary["test_accuracy"]
    assert (found < 0).sum() == summary["silent"]
    assert len(set(found.tolist())) > 2


def test_a_support_vector_machine_reads_what_no_decision_layer_does(tmp_path):
    cfg = Config(out=tmp_path, recipe="read", doubling=10, **(FLAGS | {"ratio": 0.4}))
    summary = stdp_mnist.main(cfg)
    assert summary["test_accuracy"] > 0.4  # a tenth by chance
    assert_loaded_predicts(tmp_path, summary)
    assert not (tmp_path / "history.csv").exists()


def test_a_blank_image_is_silent_everywhere():
    network = CHAIN
    images = np.zeros((2, 28, 28, 1), np.uint8)
    images[1, 5:20, 10:12] = 255
    weights = forward.init(jax.random.key(0), network)
    times = forward.spike_times(network, images)
    assert (times[0] == 6).all()
    assert (times[1] < 6).any()
    decided = jax.jit(stdp.trainer(network).predict)(weights, images)
    assert decided.label[0] == -1
    assert decided.label[1] >= 0
    assert np.isfinite(decided.scores).all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"epochs": (2, 4)}, ["--epochs", "3 numbers", "mozafari2018", "2 4"]),
        ({"epochs": (2, 4, 0)}, ["--epochs", "at least 1"]),
        ({"epochs": ()}, ["--epochs", "none"]),
        ({"recipe": "mozafari"}, ["--recipe", "mozafari2018", "'mozafari'"]),
        ({"ratio": 0.0}, ["--ratio", "(0, 1]", "0.0"]),
        ({"ratio": float("nan")}, ["--ratio", "nan"]),
        ({"window": 0}, ["--window", "at least 1"]),
        ({"doubling": 0}, ["--doubling", "at least 1"]),
        ({"num_validation": -1}, ["--num-validation", "not be negative", "-1"]),
        ({"patience": -1}, ["--patience", "not be negative", "-1"]),
        ({"flips": True}, ["--flips", "--augment"]),
    ],
)
def test_mistakes_are_explained_before_anything_is_made(tmp_path, flags, words):
    with pytest.raises(ValueError, match="`--") as error:
        stdp_mnist.main(Config(out=tmp_path / "run", **flags))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "run").exists()


def test_impossible_validation_set_fails_before_a_run_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"--num-validation.*1436"):
        stdp_mnist.main(
            Config(out=tmp_path / "run", data="digits", num_validation=5000)
        )
    assert not (tmp_path / "run").exists()


def test_ratio_and_augmentation_choose_the_training_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28, 1)).astype(np.uint8)
    labels = np.arange(40, dtype=np.int32)
    half = Config(out=pathlib.Path("unused"), ratio=0.5)
    chosen, of = stdp_mnist.training_set(half, images, labels)
    assert len(of) == 20
    np.testing.assert_array_equal(chosen, images[of])
    both = Config(out=pathlib.Path("unused"), ratio=0.5, augment=True)
    chosen, of = stdp_mnist.training_set(both, images, labels)
    assert of.tolist()[:40] == labels.tolist()
    assert len(of) == 60
    np.testing.assert_array_equal(chosen[:40], images)
    copies = images[of[40:]]
    assert all((a != b).any() for a, b in zip(chosen[40:], copies, strict=True))
    # A turn about the centre leaves the four pixels there nearly in place.
    middle = (slice(None), slice(13, 15), slice(13, 15))
    difference = chosen[40:][middle].mean((1, 2, 3)) - copies[middle].mean((1, 2, 3))
    assert np.abs(difference).mean() < 40
