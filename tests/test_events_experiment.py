"""The experiment on recordings end to end, on small made-up ones: a bar that moves to the right or to the left."""

import json

import jax
import numpy as np
import pytest
from predicted import predicted

from experiments import event_networks, events
from experiments.events import Config
from jsnn.data import recorded
from jsnn.train import rebuild
from jsnn.train.trainer import start

TINY = {"timesteps": 4, "duration": 40.0, "batch_size": 8, "epochs": 25, "learning_rate": 1e-2, "progress": False, "shift": 0, "turn": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """60 recordings of 30 events on a sensor of 12 x 12."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    t = np.sort(rng.integers(0, 40_000, (60, 30)), axis=1)
    x = t * 11 // 40_000
    x = np.where(labels[:, None] == 1, x, 11 - x)
    y, p = rng.integers(0, 12, (2, 60, 30))
    path = tmp_path_factory.mktemp("recordings") / "bars.npz"
    flat = {"x": x.ravel(), "y": y.ravel(), "p": p.ravel() % 2, "t_us": t.ravel()}
    np.savez(path, **flat, offsets=np.arange(61) * 30, label=labels)
    return str(path)


def test_it_learns_and_leaves_everything_behind(file, tmp_path):
    cfg = Config(tmp_path, data=file, recipe="dense", hidden=(16,), fold=1, **TINY)
    summary = events.main(cfg)
    assert summary["test_accuracy"] > 0.8  # half by chance
    assert summary["fold"] == 1
    wanted = {"experiment", "dataset", "seed", "wall_seconds", "samples_per_second"}
    assert wanted <= summary.keys()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    for name in ("recordings", "curves", "raster", "membranes", "confusion"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    whole = recorded.fold(recorded.load(file), 1, 5)
    labels, _ = predicted(
        tmp_path, tmp_path / "predicted", whole.test.images, whole.test.labels
    )
    assert (labels == whole.test.labels).mean() == summary["test_accuracy"]


def test_eventprop_trains(file, tmp_path):
    cfg = Config(tmp_path, data=file, recipe="eventprop_dense", hidden=(12,), **TINY | {"epochs": 1})  # fmt: skip
    summary = events.main(cfg)
    assert np.isfinite(summary["test_loss"])
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("recipe", events.RECIPES)
def test_every_recipe_fits_its_data(file, recipe):
    cfg = Config("unused", data=file, recipe=recipe, **TINY)
    dataset = events.load(cfg)
    trainer = events.trainer_for(cfg, rebuild.shapes_of(dataset))
    state = jax.eval_shape(lambda key: start(trainer, key), jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((5, *dataset.train.images.shape[1:]), np.int32)
    found = jax.eval_shape(trainer.predict, state.own.model, inputs)
    assert found.scores.shape == (5, 2)


def test_augmentation_and_counts_are_in_the_step(file):
    cfg = Config("unused", data=file, recipe="dense", by_count=True, **TINY | {"turn": 30.0, "shift": 1})  # fmt: skip
    shapes = rebuild.shapes_of(events.load(cfg))
    assert shapes.sensor == (12, 12)
    encode = event_networks.encoder(cfg, shapes)
    change = event_networks.changes(cfg, shapes)
    rows = jax.ShapeDtypeStruct((5, 30, 2), np.int32)
    found = jax.eval_shape(lambda key, x: encode(change(key, x), key), jax.random.key(0), rows)  # fmt: skip
    assert found.shape == (4, 5, 12, 12, 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"recipe": "conv", "hidden": (4,)}, "`--hidden` must be 3 numbers"),
        ({"fold": 5}, "`--fold` must be less than `--folds` 5"),
        ({"data": "nothing"}, "`--data` must be one of digits_events"),
        ({"downsample": 4, "recipe": "conv"}, "at least 9 by 9 cells"),
        ({"batch_size": 49}, "`--batch-size` must lie between 1 and 48"),
    ],
)
def test_mistakes_leave_no_folder(file, tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        events.main(Config(tmp_path / "run", **{"data": file} | TINY | given))
    assert not (tmp_path / "run").exists()
