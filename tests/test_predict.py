"""`experiments.predict`: image files, files of arrays, models of every script, and each mistake in one line.

That it predicts as a run's own evaluation did is held by the scripts' tests, through `predicted.predicted`.
"""

import csv
import functools
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from predicted import predicted

import jsnn
from experiments import cil_cifar10, cli, eventprop_mnist, eventprop_yinyang, predict
from jsnn.data import DataError
from jsnn.train import rebuild, runs, saved
from jsnn.train.trainer import start

OUT = pathlib.Path("unused")
POINTS = rebuild.Shapes((4,), 3, 64, "float32")
GREY = rebuild.Shapes((8, 8, 1), 10, 640)
MODELS = {
    "events": (eventprop_yinyang, POINTS, {"solver": "events", "hidden": 6, "max_spikes": 1}),
    "reference": (eventprop_mnist, GREY, {"recipe": "reference"}),
    "recurrent": (eventprop_mnist, GREY, {"recipe": "recurrent", "hidden": 6}),
    "conv": (eventprop_mnist, GREY._replace(inputs=(9, 9, 1)), {"recipe": "conv", "hidden": 2}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick():
    """Compiling is most of the work here; without optimisation it takes half as long."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`name -> (file, Fitted)`: models as they start, saved as a script saves them."""

    @functools.cache
    def made(name: str) -> tuple[pathlib.Path, jsnn.Fitted]:
        module, shapes, options = MODELS[name]
        cfg = module.Config(out=OUT, **options)
        trainer = module.trainer_for(cfg, shapes)
        tree = jax.jit(lambda: trainer.model(start(trainer, jax.random.key(0))))()
        about = rebuild.about(cfg.of.script, cli.decisive(cfg), shapes)
        path = saved.write(tmp_path_factory.mktemp("models") / name, tree, about)
        return path, jsnn.load(path, trainer)

    return made


def inputs_of(name: str, count: int = 7) -> np.ndarray:
    draws, shapes = np.random.default_rng(0), MODELS[name][1]
    x = draws.random((count, *shapes.inputs), np.float32)
    return (255 * x).astype(np.uint8) if shapes.dtype == "uint8" else x


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_of_every_kind_predicts_from_a_file(tmp_path, models, name):
    x = inputs_of(name)
    labels = np.arange(7) % MODELS[name][1].num_classes
    label, scores = predicted(models(name)[0], tmp_path / "said", x, labels)
    heard = label >= 0  # a silent network says no class
    np.testing.assert_array_equal(label[heard], scores.argmax(1)[heard])
    assert len(np.unique(scores)) > 1


def test_where_classes_share_outputs_the_right_output_is_enough():
    """In five tasks of two the odd classes share one, as the run's own accuracy counts."""
    said, labels = np.array([8, 9, 9, 8]), np.array([0, 1, 2, 8])
    for scenario, right in (("domain", 0.75), ("class", 0.25)):
        cfg = cil_cifar10.Config(OUT, data="digits", scenario=scenario)
        made = rebuild.Made("cil_cifar10", cil_cifar10, cfg, GREY)
        assert predict.accuracy(made, said, labels) == right


def read_csv(path: pathlib.Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def _config(run, out, inputs, labels=None, **more) -> predict.Config:
    path = out.with_name(f"{out.name}.npz")
    known = {} if labels is None else {"labels": labels}
    np.savez(path, inputs=inputs, **known, **more)
    return predict.Config(out, run, data=path)


def test_without_labels_there_is_no_summary_and_test_inputs_come_first(
    tmp_path, models
):
    path, fitted = models("reference")
    x = inputs_of("reference")
    predict.main(_config(path, tmp_path / "one", x[..., 0]))  # grey without channels
    assert not (tmp_path / "one/summary.json").exists()
    more = {"test_inputs": x[:3], "test_labels": np.array([0, 1, 2])}
    predict.main(_config(path, tmp_path / "two", x, np.arange(7), **more))
    for out, count in (("one", 7), ("two", 3)):
        rows = read_csv(tmp_path / out / "predictions.csv")
        assert [int(r[1]) for r in rows[1:]] == fitted.predict(x).label[:count].tolist()
    assert json.loads((tmp_path / "two/summary.json").read_text())["samples"] == 3


def test_image_files_are_brought_to_the_model(tmp_path, models, capsys):
    x = inputs_of("reference", 1)[0]
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    Image.fromarray(x[..., 0]).save(grey)
    Image.fromarray(np.repeat(x, 3, -1)).resize((16, 16), 0).save(colour)
    for channels in (1, 3):
        found = predict.read_images((grey, colour), (8, 8, channels), True)
        assert found.values.shape == (2, 8, 8, channels)
        np.testing.assert_array_equal(found.values[0], np.repeat(x, channels, -1))
        said = "\n".join(found.done)
        assert f"{colour}: 16 x 16 pixels resized" in said
        assert ("RGB made grey" in said) == (channels == 1)
        assert ("L made colour" in said) == (channels == 3)
    path, fitted = models("reference")
    predict.main(predict.Config(tmp_path / "out", path, images=(grey,)))
    rows = read_csv(tmp_path / "out/predictions.csv")
    assert int(rows[1][1]) == fitted.predict(x[None]).label
    assert f"{grey}  class {rows[1][1]}" in capsys.readouterr().out


def test_every_mistake_is_one_line(tmp_path, models):
    path, _ = models("reference")
    points, _ = models("events")
    x = inputs_of("reference")
    none, wide = tmp_path / "none.png", tmp_path / "wide.png"
    none.write_text("no image")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(wide)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_text("{}")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 broken")
    bare = jsnn.load(path, eventprop_mnist.trainer_for(eventprop_mnist.Config(OUT, recipe="reference"), GREY))  # fmt: skip
    bare.about = {}
    out, other = tmp_path / "out", bare.save(tmp_path / "other")

    def of(run=path, **options):
        return predict.Config(out, run, **options)

    for cfg, kind, words in (
        (of(tmp_path / "nothing", images=(wide,)), ValueError, "does not exist"),
        (of(tmp_path / "begun", images=(wide,)), saved.ModelError, "has not finished"),
        (of(wide, images=(wide,)), saved.ModelError, "wide.png"),
        (of(other, images=(wide,)), saved.ModelError, "does not say how"),
        (
            of(data=OUT, resize=True),
            ValueError,
            "`--resize` would do nothing: it needs --images",
        ),
        (of(images=(none,)), ValueError, "cannot be read as an image"),
        (of(images=(OUT,)), ValueError, "There is no file"),
        (of(images=(deep,)), ValueError, "more than 8 bits"),
        (of(images=(wide,)), ValueError, "8 x 9 pixels.*8 x 8.*`--resize`"),
        (of(points, images=(wide,)), ValueError, "`--images` needs a model of grey"),
        (of(data=OUT), DataError, "There is no file"),
        (of(data=tmp_path / "bad.npz"), DataError, "is no .npz file"),
    ):
        with pytest.raises(kind, match=words) as error:
            predict.main(cfg)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="either `--images` or `--data`"):
        of()
    arrays: Any
    for name, arrays, words in (
        ("a", {"x": x}, "must hold `inputs`; it holds x"),
        ("b", {"inputs": x[:, :7]}, r"\[N, 8, 8, 1\], got \[7, 7, 8, 1\]"),
        ("c", {"inputs": x, "labels": np.arange(6)}, "7 inputs but 6 labels"),
        ("d", {"inputs": x, "labels": np.full(7, 10)}, "10, outside 0..9"),
        ("e", {"inputs": x[:0]}, "at least one sample"),
        ("f", {"inputs": x.astype(np.int64) - 1}, "trained on uint8.*int64 from -1"),
        ("g", {"inputs": 2 * x.astype(float)}, "same type and scale"),
        ("h", {"inputs": x + np.inf}, "finite"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises((ValueError, DataError), match=words):
            predict.main(of(data=tmp_path / f"{name}.npz"))
    assert not out.exists()
    out.mkdir()
    (out / "config.json").write_text("{}")
    with pytest.raises(runs.RunError, match="already holds a run"):
        predict.main(of(data=_config(path, tmp_path / "made", x).data))


def test_floats_in_the_unit_interval_are_what_bytes_are():
    x = inputs_of("reference")
    made = rebuild.Made("eventprop_mnist", eventprop_mnist, eventprop_mnist.Config(OUT), GREY)  # fmt: skip
    given = predict.Inputs(x / 255, None, [], [])
    np.testing.assert_array_equal(predict.fitting(given, made).values, x)


def test_the_command_line_says_a_mistake_in_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.predict", "--run", str(tmp_path)]
    command += ["--out", str(tmp_path / "out"), "--data", "x.npz"]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is no run" in done.stderr
