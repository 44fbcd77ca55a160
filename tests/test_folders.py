"""Runs that people look at: lists, comparisons and reports, of folders as the scripts leave them."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments import cli, compare
from experiments import runs as script
from jsnn.plot import compare as plot
from jsnn.plot import figures, run_report
from jsnn.train import folders, runs


def make(path, *, experiment="csnn_mnist", epochs=3, accuracy=None, **config):
    """A run of so many epochs, finished if it has an accuracy."""
    path.mkdir(parents=True)
    known = {"experiment": experiment, "config": config, "commit": "abc", "device": "CPU"}  # fmt: skip
    (path / "config.json").write_text(json.dumps(known))
    rows = [
        {"split": split, "epoch": e, "step": 10 * e, "loss": 1 / e, "accuracy": 0.2 * e}
        for e in range(1, epochs + 1)
        for split in ("train", "test")
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if accuracy is not None:
        summary = {"experiment": experiment, "test_accuracy": accuracy, "wall_seconds": 12345.6, "commit": "abc"}  # fmt: skip
        (path / "summary.json").write_text(json.dumps(summary))
    return path


@pytest.fixture
def root(tmp_path):
    make(tmp_path / "a", accuracy=0.5, seed=0, beta=0.5)
    make(tmp_path / "deep" / "b", accuracy=0.9, seed=1, beta=0.5)
    make(tmp_path / "c", epochs=2, seed=2, beta=0.5)
    make(tmp_path / "other", experiment="stdp_mnist", accuracy=0.7, window=100)
    make(tmp_path / "a" / "checkpoints" / "none", seed=9)  # not looked at
    return tmp_path


def test_runs_are_listed_with_the_flags_that_differ_and_their_results(root, capsys):
    assert script.main(script.Config(folder=root)) == {"runs": 4, "finished": 3}
    text = capsys.readouterr().out
    first, second = text.split("stdp_mnist\n")
    assert first.split("\n")[2].split() == ["run", "state", "seed", "test_accuracy", "wall_seconds"]  # fmt: skip
    assert "beta" not in text  # the same in all
    lines = {line.split()[0]: line.split() for line in first.splitlines()[4:] if line}
    assert lines["deep/b"][1:4] == ["finished", "1", "0.9"]
    assert lines["c"][1:] == ["epoch", "2", "2"]
    assert "other" in second


def test_runs_are_sorted_and_written(root, capsys, tmp_path):
    cfg = script.Config(folder=root, by="test-accuracy", csv=tmp_path / "all.csv")
    script.main(cfg)
    text = capsys.readouterr().out
    assert text.index("deep/b") < text.index("  finished     0")
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [row["run"] for row in rows] == ["deep/b", "other", "a", "c"]
    assert rows[0]["beta"] == "0.5"
    with pytest.raises(ValueError, match=r"`--by speed`: no run has it. Choose .*test_accuracy"):  # fmt: skip
        script.main(script.Config(folder=root, by="speed"))
    with pytest.raises(ValueError, match=r"`--columns speed`: no run has it"):
        script.main(script.Config(folder=root, columns=("beta", "speed")))


def test_what_is_no_run_is_one_line(root, capsys, tmp_path):
    with pytest.raises(runs.RunError, match="is no folder"):
        folders.find(root / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(runs.RunError, match="There is no run"):
        folders.find(tmp_path / "empty")
    (root / "c" / "config.json").write_text("{")
    assert len(folders.find(root)) == 3
    assert "Left out" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(root):
    """As `head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "experiments.runs", str(root)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_curves_of_runs_lie_over_each_other(root, tmp_path, capsys):
    out = tmp_path / "out"
    compare.main(compare.Config(runs=(root / "a", root / "deep"), out=out))
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "compare.html").read_text()
    rows = {k: folders.read(root / k).rows() for k in ("a", "c")}
    figure = plot.curves(rows, ["accuracy"])
    (ax,) = figure.axes
    ends = sorted(float(np.asarray(line.get_ydata())[-1]) for line in ax.lines)
    np.testing.assert_allclose(ends, [0.4, 0.4, 0.6, 0.6])  # train and test of each
    with pytest.raises(ValueError, match=r"`--metrics` names 'speed', .* loss, accuracy"):  # fmt: skip
        compare.main(compare.Config(runs=(root / "a", root / "c"), out=out, metrics=("speed",)))  # fmt: skip
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        compare.main(compare.Config(runs=(root / "a", root / "a"), out=out))


def test_a_finished_run_gets_a_page(root, monkeypatch):
    drawn = {"curves": figures.curves(folders.read(root / "a").rows())}
    figures.save_all(drawn, root / "a")
    monkeypatch.setattr("sys.argv", ["runs", str(root)])
    cli._report(cli.Run(out=root / "a"))
    text = (root / "a" / "report.html").read_text()
    assert "50.00 %" in text
    assert "12,346 s" in text
    assert '<img alt="Loss and accuracy over epochs' in text
    assert "http" not in text
    cli._report(cli.Run(out=root / "c"))  # has not finished
    assert not (root / "c" / "report.html").exists()
    with pytest.raises(runs.RunError, match="has not finished"):
        run_report.write(root / "c")
