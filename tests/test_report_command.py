"""`jsnn report DIR` draws again what a run drew; a result stays where its pictures cannot be written."""

import json
import shutil

import pytest
import small_disk

from experiments import csnn_mnist, report
from jsnn.train.runs import RunError

FLAGS = {
    "data": "digits",
    "network": "mlp",
    "hidden": (8,),
    "timesteps": 2,
    "batch_size": 512,
    "progress": False,
}
DRAWN = {"curves.png", "raster.png", "membranes.png", "confusion.png"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that could not write its figures."""
    out = tmp_path_factory.mktemp("runs") / "run"
    refused = pytest.raises(RunError, match=r"png could not be written.*jsnn report")
    with small_disk.without_pictures(), refused:
        csnn_mnist.main(csnn_mnist.Config(out, **FLAGS))
    return out


def test_a_result_stays_if_the_pictures_fail_and_they_are_drawn_later(finished):
    result = json.loads((finished / "summary.json").read_text())
    model = (finished / "model.safetensors").read_bytes()
    rows = (finished / "metrics.jsonl").read_bytes()
    assert not DRAWN & {p.name for p in finished.iterdir()}
    again = report.main(report.Config(finished))
    assert {p.name for p in finished.iterdir()} >= DRAWN
    assert again["test_accuracy"] == result["test_accuracy"]
    assert (finished / "model.safetensors").read_bytes() == model
    assert (finished / "metrics.jsonl").read_bytes() == rows


def test_what_has_not_finished_or_is_no_run_is_refused(finished, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        report.main(report.Config(tmp_path))
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "model.safetensors").unlink()
    before = sorted(out.rglob("*"))
    with pytest.raises(RunError, match=r"has not finished.*--resume"):
        report.main(report.Config(out))
    assert sorted(out.rglob("*")) == before
