"""The demo as a user starts it, shortened, and that it never touches what it has not made."""

import json

import pytest

from experiments.demo import __main__ as demo
from experiments.demo.settings import Config
from jsnn.train import runs


def test_demo_trains_and_writes_a_report(tmp_path, capsys):
    """One epoch of twenty is far from done, but chance is 10 %."""
    cfg = Config(out=tmp_path, rules=("surrogate",), effort=0.05, progress=False)
    path = demo.main(cfg)["report"]
    assert path == (tmp_path / "run-1/report.html").resolve()
    text, printed = path.read_text(), capsys.readouterr().out
    assert text.count("<svg") == 5
    assert "http" not in text

    folder = tmp_path / "run-1/surrogate"
    summary = json.loads((folder / "summary.json").read_text())
    right = round(360 * summary["test_accuracy"])
    assert summary["test_accuracy"] > 0.5
    for shown in (text, printed):
        assert f"{100 * right / 360:.2f} % ({right} of 360)" in shown
        for layer in ("conv 1", "conv 2", "dense 1"):
            assert layer in shown
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train", "test"]
    assert rows[1]["accuracy"] == pytest.approx(summary["test_accuracy"])


def test_each_run_has_a_folder_of_its_own(tmp_path):
    out = tmp_path / "demo"
    assert demo.new_folder(out) == out / "run-1"
    (out / "run-1/report.html").write_text("mine")
    (out / "run-9").mkdir()
    (out / "run-x").write_text("a file of the user's")
    assert demo.new_folder(out) == out / "run-10"
    assert (out / "run-1/report.html").read_text() == "mine"
    assert (out / "run-x").exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(runs.RunError, match=r"`--out .*file` cannot be written"):
        demo.new_folder(tmp_path / "file")


def test_flags_are_checked():
    with pytest.raises(ValueError, match=r"`--effort` must lie in \(0, 1\], got nan"):
        Config(effort=float("nan"))
    with pytest.raises(ValueError, match="`--rules` is empty"):
        Config(rules=())


def test_every_rule_has_its_part():
    assert set(demo.RULES) == set(Config().rules)
