"""`experiments.predict --nir`: a graph of another tool on recordings, against a loop in NumPy, and each mistake in one line."""

import csv
import itertools
import json

import nir
import numpy as np
import pytest

from experiments import predict
from jsnn.data import DataError

W = np.random.default_rng(0).normal(size=(3, 18)).astype(np.float32)


def graph(path, *, spikes=True, weight=W, shape=(2, 3, 3)):
    """Flattened events, a linear map, and three neurons, one a class."""
    ones = np.ones(len(weight))
    nodes = {
        "in": nir.Input(np.array(shape)),
        "f": nir.Flatten(np.array(shape), 0, -1),
        "w": nir.Linear(weight),
        "n": nir.IF(ones, ones) if spikes else nir.I(ones),
        "out": nir.Output(np.array([len(weight)])),
    }
    names = list(nodes)
    nir.write(path, nir.NIRGraph(nodes, list(itertools.pairwise(names))))
    return path


@pytest.fixture
def files(tmp_path):
    """A graph, and five recordings of 20 events within 6 ms; the classes are what a NumPy loop says."""
    draws = np.random.default_rng(1)
    events = {
        "x": draws.integers(0, 3, 100),
        "y": draws.integers(0, 3, 100),
        "p": draws.integers(0, 2, 100),
        "t_us": np.sort(draws.integers(0, 6000, (5, 20)), 1).ravel(),
        "offsets": np.arange(0, 101, 20),
    }
    events["t_us"][-1] = 5999
    frames = np.zeros((5, 6, 2, 3, 3))
    where = np.arange(100) // 20, events["t_us"] // 1000
    np.add.at(frames, (*where, events["p"], events["y"], events["x"]), 1)
    counts, v = np.zeros((5, 3)), np.zeros((5, 3))
    for t in range(6):
        v += frames[:, t].reshape(5, 18) @ W.T
        counts += v > 1
        v = np.where(v > 1, 0, v)
    np.savez(tmp_path / "events.npz", **events, label=counts.argmax(1))
    np.savez(tmp_path / "steps.npz", inputs=np.moveaxis(frames, 2, -1))
    return graph(tmp_path / "g.nir"), tmp_path / "events.npz", counts, frames


def config(files, out, **options) -> predict.Config:
    return predict.Config(out, **{"nir": files[0], "data": files[1], "dt": 1e-3, **options})  # fmt: skip


def scores(out) -> tuple[list[int], np.ndarray]:
    with (out / "predictions.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    return [int(r[1]) for r in rows], np.array([[float(s) for s in r[2:]] for r in rows])  # fmt: skip


def test_recordings_are_counted_in_steps_and_classes_are_the_most_spikes(files, tmp_path):  # fmt: skip
    out, wanted = tmp_path / "out", files[2]
    summary = predict.main(config(files, out))
    label, found = scores(out)
    assert label == wanted.argmax(1).tolist()
    np.testing.assert_array_equal(found, wanted)
    assert summary["test_accuracy"] == 1
    assert summary["timesteps"] == 6
    assert summary["convention"]["name"] == "norse"
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (out / "raster.png").read_bytes()[:4] == b"\x89PNG"


def test_inputs_step_by_step_and_outputs_that_do_not_spike(files, tmp_path):
    out, frames = tmp_path / "out", files[3]
    one = graph(tmp_path / "i.nir", spikes=False)
    predict.main(config(files, out, nir=one, data=tmp_path / "steps.npz"))
    wanted = (frames.reshape(5, 6, 18) @ W.T).cumsum(1).mean(1)
    np.testing.assert_allclose(scores(out)[1], wanted, rtol=1e-5)


def test_every_mistake_is_one_line(files, tmp_path):
    whole = files[0].read_bytes()
    cut, other = tmp_path / "cut.nir", tmp_path / "other.nir"
    cut.write_bytes(whole[: len(whole) // 2])
    other.write_text("no graph")
    wide = graph(tmp_path / "wide.nir", weight=W[:, :9], shape=(1, 3, 3))
    small = graph(tmp_path / "small.nir", weight=W[:, :12], shape=(2, 2, 3))
    two = graph(tmp_path / "two.nir", weight=W[:1])
    np.savez(tmp_path / "bare.npz", z=np.zeros(3))
    for options, words in (
        ({"nir": cut}, "damaged or cut off"),
        ({"nir": other}, "is no NIR file"),
        ({"nir": tmp_path / "none.nir"}, "No such file"),
        ({"nir": wide}, r"the graph takes \[3, 3, 1\]"),
        ({"nir": small}, r"must lie in 0\.\.1 \(sensor 2 x 3\)"),
        ({"nir": two}, "outside 0..0"),
        ({"data": tmp_path / "bare.npz"}, r"must hold recordings .*; it holds z"),
        ({"data": tmp_path / "steps.npz", "timesteps": 7}, "more than the 6"),
        ({"spikes_a_step": "several"}, "needs `reset='subtract'`"),
    ):
        with pytest.raises((ValueError, DataError), match=words) as error:
            predict.main(config(files, tmp_path / "out", **options))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    for options, words in (
        ({"dt": None}, "`--nir` needs `--dt`"),
        ({"run": cut}, "either `--run` or `--nir`"),
        ({"nir": None}, "either `--run` or `--nir`"),
    ):
        with pytest.raises(ValueError, match=words):
            config(files, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="`--reset subtract` would do nothing"):
        predict.main(predict.Config(tmp_path / "out", cut, data=cut, reset="subtract"))
