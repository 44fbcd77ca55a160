"""The class-incremental experiment end to end on bundled digits, its reference recipe, and mistakes with its flags."""

import json

import jax
import numpy as np
import pytest
from predicted import predicted

import jsnn
from experiments import cil_cifar10
from experiments.cil_cifar10 import Config
from jsnn.continual import training
from jsnn.continual.buffer import Batch
from jsnn.train import runs

TINY = {
    "data": "digits",
    "network": "mlp",
    "hidden": (64,),
    "timesteps": 2,
    "epochs_per_task": 5,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "progress": False,
}


def run(out, **flags):
    return cil_cifar10.main(Config(out=out, **(TINY | flags)))


def test_replay_remembers_what_naive_training_forgets(tmp_path):
    naive = run(tmp_path / "naive")
    replay = run(tmp_path / "er", method="er", buffer=200)
    assert naive["final_accuracy"] < 0.35  # the last task's two classes are a fifth
    assert naive["accuracy_after_5_on_1"] < 0.1
    assert naive["forgetting"] > 0.8
    assert replay["final_accuracy"] > naive["final_accuracy"] + 0.3
    for summary in (naive, replay):
        assert summary["task_il_accuracy"] >= summary["final_accuracy"]
        assert all(not isinstance(v, dict | list) for v in summary.values())
        wanted = "experiment dataset seed test_accuracy wall_seconds samples_per_second device version commit average_incremental_accuracy"
        assert {*wanted.split()} <= summary.keys()
    out = tmp_path / "er"
    assert json.loads((out / "summary.json").read_text()) == replay
    for name in ("matrix", "matrix_task_il", "accuracy", "predictions", "curves"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_reference_recipe_is_the_reference():
    cfg = Config(out=None, recipe="reference")  # pyright: ignore
    assert (cfg.data, cfg.method, cfg.tasks) == ("cifar10", "naive", "5x2")
    assert (cfg.timesteps, cfg.epochs_per_task, cfg.batch_size) == (10, 2, 64)
    assert (cfg.learning_rate, cfg.width, cfg.read_out) == (1e-3, 64, "rate")
    assert (cfg.batch_norm, cfg.statistics) == ("reference", "step")
    assert not cfg.keep_optimizer
    assert cfg.schedule == "constant"
    assert not cfg.augment
    assert cfg.class_order is None
    image = np.zeros((32, 32, 3), np.uint8)
    learner = cil_cifar10.make_learner(cfg, image)
    none, valid = jax.numpy.zeros(0), jax.numpy.ones(10_000, bool)
    assert training.steps_per_epoch(learner, Batch(none, none, valid)) == 157
    model = jax.eval_shape(lambda: learner.fresh(jax.random.key(0), 10))
    assert sum(p.size for p in jax.tree.leaves(model.params)) == 535_562
    pixels = jax.numpy.full((1, 1, 1, 3), 255, jax.numpy.uint8)
    mean, std = cil_cifar10.STATISTICS["cifar10"]
    np.testing.assert_allclose(
        cil_cifar10.spiking.normalise(pixels, mean, std).ravel(),
        (1 - np.array([0.4914, 0.4822, 0.4465])) / [0.2023, 0.1994, 0.2010],
        rtol=1e-6,
    )


@pytest.mark.parametrize("augment", [True, False])
def test_every_method_makes_a_learner(augment):
    image = np.zeros((8, 8, 1), np.uint8)
    for method in ("latent-er", "icarl", "bic", "slda"):
        cfg = Config(out=None, method=method, augment=augment, **TINY)  # pyright: ignore
        cil_cifar10.make_learner(cfg, image)  # makes shapes of all its state


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"buffer": 0}, "--buffer"),
        ({"buffer": 1, "method": "bic"}, "--buffer"),
        ({"epochs_per_task": 0}, "--epochs-per-task"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"capacity": 0}, "--capacity"),
        ({"augment_share": 0.0}, "--augment-share"),
        ({"augment_share": 1.5}, "--augment-share"),
    ],
)
def test_numbers_out_of_range(flags, words):
    with pytest.raises(ValueError, match=words):
        Config(out=None, **flags)  # pyright: ignore


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tasks": "6x2"}, "6 tasks of 2 classes"),
        ({"tasks": "0,1|1,2"}, "class 1 in task 0 and again"),
        ({"tasks": "0,11"}, "class 11"),
        ({"settings": ("replay.gamma=1",)}, r"none\."),
        ({"settings": ("replay.beta=x",), "method": "der++"}, "replay.beta=0.5"),
    ],
)
def test_mistakes_fail_before_a_run_is_made(tmp_path, flags, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "run", **flags)
    assert not (tmp_path / "run").exists()


def test_another_runs_folder_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(runs.RunError, match="another folder"):
        run(tmp_path)


def test_validation_images_of_the_script(tmp_path):
    flags = {"tasks": "2x2", "epochs_per_task": 1, "num_validation": 40}
    summary = run(tmp_path / "run", **flags)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    rows = [json.loads(x) for x in text.splitlines()]
    held = [row for row in rows if row["split"] == "validation"]
    assert [row["task"] for row in held] == [0, 1]
    assert summary["validation_accuracy"] == held[-1]["accuracy"]
    # Of 40 images the share that is right has no finer steps.
    assert round(40 * held[-1]["accuracy"], 6) == round(40 * held[-1]["accuracy"])
    for number in (-1, 3, 5000):
        with pytest.raises(ValueError, match=rf"num.validation.* {number}"):
            run(tmp_path / "bad", **flags | {"num_validation": number})
    assert not (tmp_path / "bad").exists()


SHORT = {"hidden": (16,), "epochs_per_task": 1, "tasks": "7,1|0,9|3"}


@pytest.mark.parametrize("method", ["er", "icarl", "bic"])
def test_a_run_is_loaded_and_predicts(tmp_path, method):
    """With a head that grew, classes in an order of their own, and some that never come."""
    summary = run(tmp_path, method=method, buffer=60, capacity=2, **SHORT)
    test = jsnn.data.load("digits").test
    model = jsnn.load(tmp_path)
    found = model.predict(test.images)
    comes = np.isin(test.labels, [7, 1, 0, 9, 3])
    right = (found.label == test.labels)[comes].mean()
    assert right == pytest.approx(summary["test_accuracy"])
    np.testing.assert_array_equal(found.scores.argmax(1), found.label)
    assert np.isneginf(found.scores[:, [2, 4, 5, 6, 8]]).all()
    assert {*found.label.tolist()} <= {7, 1, 0, 9, 3}
    again = jsnn.load(model.save(tmp_path / "elsewhere")).predict(test.images)
    np.testing.assert_array_equal(again.scores, found.scores)
    label, scores = predicted(tmp_path, tmp_path / "test", *test)
    np.testing.assert_array_equal(label, found.label)
    np.testing.assert_allclose(scores, found.scores, rtol=1e-6)  # seven digits


def test_several_seeds_of_the_script(tmp_path):
    flags = SHORT | {"method": "er", "buffer": 60, "evaluate_unseen": True}
    flags |= {"num_validation": 40}
    many = run(tmp_path / "many", seed=3, seeds=2, **flags)
    # Which images are held out is decided by the first seed.
    alone = run(tmp_path / "alone", seed=3, **flags)
    accuracies = [float(x) for x in many["test_accuracy_by_seed"].split()]
    assert accuracies[0] == pytest.approx(100 * alone["test_accuracy"], abs=0.05)
    assert many["test_accuracy"] == pytest.approx(np.mean(accuracies) / 100, abs=1e-3)
    spread = abs(np.diff(accuracies)).item() / 2**0.5 / 100
    assert many["test_accuracy_std"] == pytest.approx(spread, abs=1e-3)
    for name in ("forward_transfer", "validation_accuracy", "forgetting"):
        low, high = many[name] - many[f"{name}_std"], many[name] + many[f"{name}_std"]
        assert low - 1e-6 <= alone[name] <= high + 1e-6
    test = jsnn.data.load("digits").test
    both = (jsnn.load(tmp_path / n).predict(test.images) for n in ("many", "alone"))
    np.testing.assert_array_equal(*(found.label for found in both))
    with pytest.raises(ValueError, match="`--seeds 2` needs a head that does not grow"):
        run(tmp_path / "bad", seeds=2, capacity=2, **flags)
    assert not (tmp_path / "bad").exists()


def test_a_resumed_run_that_has_ended_says_the_same(tmp_path):
    flags = SHORT | {"method": "er", "buffer": 60}
    first = run(tmp_path, **flags)
    again = run(tmp_path, resume=True, **flags)
    changing = ("wall_seconds", "samples_per_second")
    same = [{k: v for k, v in s.items() if k not in changing} for s in (first, again)]
    assert same[0] == same[1]
