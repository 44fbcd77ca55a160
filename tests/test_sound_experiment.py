"""The experiments on sound and on first spikes end to end, on small made-up recordings."""

import json

import jax
import numpy as np
import pytest
import small_disk
from predicted import predicted

from experiments import events_stdp, report, sound
from experiments.sound import Config
from jsnn.data import recorded
from jsnn.train import rebuild
from jsnn.train.runs import RunError
from jsnn.train.trainer import start

TINY = {"timesteps": 6, "bands": 6, "batch_size": 16, "progress": False, "trim": 0.0, "warp": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """80 tones of a tenth of a second, low or high, by two speakers."""
    rng = np.random.default_rng(0)
    label = np.arange(80) % 2
    hz = np.where(label, 1500, 400)[:, None] * rng.uniform(0.9, 1.1, (80, 1))
    waves = 8000 * np.sin(2 * np.pi * hz * np.arange(800) / 8000) + rng.normal(0, 500, (80, 800))  # fmt: skip
    path = tmp_path_factory.mktemp("sound") / "tones.npz"
    np.savez(
        path,
        audio=waves.astype(np.int16).ravel(),
        offsets=np.arange(81) * 800,
        label=label,
        rate=8000,
        speaker=np.where(np.arange(80) // 2 % 2, "ada", "bob"),
        index=np.arange(80) // 4,
    )
    return str(path)


def drawn_later(main, cfg):
    """The summary of a run whose pictures met a full disk: it stays, and `jsnn report` draws them."""
    refused = pytest.raises(RunError, match=r"png could not be written")
    with small_disk.without_pictures(), refused:
        main(cfg)
    summary = json.loads((cfg.out / "summary.json").read_text())
    again = report.main(report.Config(cfg.out))
    assert again["test_accuracy"] == summary["test_accuracy"]
    return summary


def test_it_learns_tones_and_leaves_everything_behind(file, tmp_path):
    cfg = Config(tmp_path, data=file, hidden=(12,), epochs=15, learning_rate=1e-2, speaker="ada", **TINY)  # fmt: skip
    summary = drawn_later(sound.main, cfg)
    assert summary["test_accuracy"] > 0.9  # half by chance
    assert summary["protocol"] == "speaker ada"
    for name in ("sound", "curves", "raster", "membranes", "confusion"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    test = sound.load(cfg).test
    assert len(test.labels) == 40
    labels, _ = predicted(tmp_path, tmp_path / "predicted", *test)
    assert (labels == test.labels).mean() == summary["test_accuracy"]


@pytest.mark.parametrize("recipe", sound.RECIPES)
def test_every_recipe_fits_its_data(file, recipe):
    cfg = Config("unused", data=file, recipe=recipe, **TINY)
    dataset = sound.load(cfg)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (60, 20)
    shapes = rebuild.shapes_of(dataset)
    assert shapes.rate == 8000
    trainer = sound.trainer_for(cfg, shapes)
    state = jax.eval_shape(lambda key: start(trainer, key), jax.random.key(0))
    found = jax.eval_shape(trainer.predict, state.own.model, dataset.train.images[:5])
    assert found.scores.shape == (5, 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"speaker": "eve"}, "`--speaker` must be one of"),
        ({"speaker": "ada", "fold": 1}, "either `--speaker` or `--fold`"),
        ({"fold": 5}, "`--fold` must be less than `--folds` 5"),
        ({"data": "nothing"}, "`--data` must be one of spoken_digits"),
        ({"batch_size": 61}, "`--batch-size` must lie between 1 and 60"),
        ({"hidden": ()}, "`--hidden` must be one or more"),
    ],
)
def test_mistakes_leave_no_folder(file, tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        sound.main(Config(tmp_path / "run", **{"data": file} | TINY | given))
    assert not (tmp_path / "run").exists()


def test_stdp_learns_from_first_spikes(tmp_path):
    """Recordings of a bar that stands or lies, on a sensor of 12 x 12."""
    rng = np.random.default_rng(1)
    label = np.arange(50) % 2
    along, across = rng.integers(2, 10, (50, 40)), rng.integers(4, 7, (50, 1)) + rng.integers(0, 2, (50, 40))  # fmt: skip
    x, y = (np.where(label[:, None] == c, along, across) for c in (0, 1))
    t = np.sort(rng.integers(0, 80_000, (50, 40)), axis=1)
    path = tmp_path / "bars.npz"
    flat = {"x": x.ravel(), "y": y.ravel(), "p": np.ones(2000, int), "t_us": t.ravel()}
    np.savez(path, **flat, offsets=np.arange(51) * 40, label=label)
    cfg = events_stdp.Config(tmp_path / "run", data=str(path), sensor=(12, 12), features=(6,), thresholds=(4.0,), epochs=(1,), pool=4, fold=0, progress=False)  # fmt: skip
    summary = drawn_later(events_stdp.main, cfg)
    assert summary["test_accuracy"] == 1.0
    assert (summary["silent"], summary["fold"]) == (0, 0)
    for name in ("convergence", "confusion", "features_layer_1"):
        assert (cfg.out / f"{name}.png").exists()
    test = recorded.fold(recorded.load(path, sensor=(12, 12)), 0, 5).test
    predicted(cfg.out, tmp_path / "predicted", *test)
    with pytest.raises(ValueError, match="equally many numbers"):
        events_stdp.Config(tmp_path, features=(3, 4))
