"""Run folders: what is refused, what is written, and what survives a kill or a full disk."""

import dataclasses
import errno
import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_disk import fill, make_read_only, mounted

from jsnn import files
from jsnn.train import lock, provenance, runs


def open_run(out: pathlib.Path, *, config=None, **kwargs) -> runs.Run:
    return runs.Run(out, experiment="test", config=config or {"seed": 0}, **kwargs)


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk") as folder:
        yield folder


def test_config_records_what_was_asked_for_and_where(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        out: pathlib.Path
        sizes: tuple[int, ...] = (3, 4)
        rate: float = math.inf
        start: object = np.float32(0.5)

    open_run(tmp_path / "a" / "b", config=Config(pathlib.Path("x")))
    record = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert record["experiment"] == "test"
    expected = {"out": "x", "sizes": [3, 4], "rate": None, "start": 0.5}
    assert record["config"] == expected
    assert record["versions"]["jax"] == jax.__version__
    on_cpu = jax.default_backend() == "cpu"
    assert record["device"].startswith("CPU") == on_cpu
    assert record["commit"]


@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_a_file_in_the_way(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(runs.RunError, match=r"`--out .*cannot be written.*Choose"):
        open_run(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_disk(small_disk):
    make_read_only(small_disk)
    with pytest.raises(runs.RunError, match=r"cannot be written \(Read-only"):
        open_run(small_disk)
    with pytest.raises(runs.RunError, match=r"cannot be written \(Read-only"):
        open_run(small_disk / "new")


def test_a_run_is_never_overwritten(tmp_path):
    open_run(tmp_path).log({"split": "train", "step": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(runs.RunError, match=r"already holds a run\. Pass --resume"):
        open_run(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert open_run(tmp_path, resume=True).rows() == [{"split": "train", "step": 1}]


HOLDER = """
import pathlib, sys
from jsnn.train import lock, provenance, runs
run = runs.Run(pathlib.Path(sys.argv[1]), experiment="test", config={"seed": 0}, resume=True)
run.log({"split": "train", "step": 1})
print("ready", flush=True)
sys.stdin.readline()
run.finish({})
print("finished", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the run open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_belongs_to_one_process_until_its_death(tmp_path, holder):
    out = tmp_path / "run"
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(runs.RunError, match=rf"in use by process {holder.pid} on"):
        open_run(out, resume=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    run = open_run(out, resume=True)
    assert run.rows() == [{"split": "train", "step": 1}]
    assert open_run(out, resume=True).rows() == run.rows()  # the same process again


def test_a_finished_run_lets_go_of_its_folder(tmp_path, holder):
    print(file=holder.stdin, flush=True)
    assert holder.stdout.readline() == "finished\n"
    assert holder.poll() is None
    open_run(tmp_path / "run", resume=True)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\)"):
        open_run(tmp_path).log({"step": 1})


@pytest.mark.parametrize("name", [".lock", ".probe", ".config.json.part"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.write_text("mine")
    out.mkdir()
    (out / name).symlink_to(mine)
    if name == ".lock":
        with pytest.raises(runs.RunError, match="cannot be written"):
            open_run(out)
    else:
        open_run(out).finish({})
    assert mine.read_text() == "mine"


def test_what_else_lies_there_stays_and_what_a_kill_left_goes(tmp_path):
    names = ["probe", ".probe", ".config.json.part", ".notes.part"]
    for name in names:
        (tmp_path / name).write_text("mine")
    left = tmp_path / f".summary.json.{'0' * 32}.part"
    left.write_text("half")
    open_run(tmp_path)
    assert [(tmp_path / name).read_text() for name in names] == ["mine"] * len(names)
    assert not left.exists()


def test_an_address_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(runs.RunError, match=r"`--out gs:/b/run` is an address"):
        open_run(pathlib.Path("gs://b/run"))
    assert not list(tmp_path.iterdir())
    open_run(tmp_path / "gs:" / "run")


def test_a_run_older_than_a_flag_did_what_it_declares(tmp_path):
    open_run(tmp_path, config={"seed": 0})
    now = {"seed": 0, "share": 1.0, "sizes": (1, 2)}
    before = {"share": 1.0, "sizes": (1, 2), "seed": 7, "gone": 3}
    open_run(tmp_path, config=now, resume=True, before=before)
    with pytest.raises(runs.RunError, match=r"\(share was 1.0, now 0.5\)"):
        open_run(tmp_path, config=now | {"share": 0.5}, resume=True, before=before)
    with pytest.raises(runs.RunError, match=r"\(share was None, now 1.0\)"):
        open_run(tmp_path, config={"seed": 0, "share": 1.0}, resume=True)


def test_resuming_nothing_starts(tmp_path):
    run = open_run(tmp_path, resume=True)
    assert run.rows() == []
    assert run.restore({"a": jnp.ones(2)})["a"].sum() == 2


def test_another_configuration_is_refused_by_name(tmp_path):
    open_run(tmp_path, config={"seed": 0, "rate": 0.1, "old": 1, "same": [1, 2]})
    config = {"seed": 1, "rate": 0.1, "new": 2, "same": (1, 2)}
    with pytest.raises(runs.RunError) as caught:
        open_run(tmp_path, config=config, resume=True)
    message = str(caught.value)
    for words in ("seed was 0, now 1", "old was 1, now None", "new was None, now 2"):
        assert words in message
    assert "rate" not in message
    assert "same" not in message
    with pytest.raises(runs.RunError, match="experiment was 'test', now 'other'"):
        runs.Run(tmp_path, experiment="other", config={}, resume=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"config": {}}',
        b"[" * 5000,
        b'{"experiment": "test", "config": 3}',
        b"\xff",
    ],
)
def test_a_damaged_config(tmp_path, content):
    open_run(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(runs.RunError, match=r"config\.json is damaged.*another folder"):
        open_run(tmp_path, resume=True)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints"])
def test_a_run_without_its_config_is_not_touched(tmp_path, left, resume):
    (tmp_path / left).mkdir()
    with pytest.raises(runs.RunError, match=r"not the config\.json of a run"):
        open_run(tmp_path, resume=resume)


def test_a_row_cut_short_is_left_out_and_written_over(tmp_path):
    run = open_run(tmp_path)
    rows = [{"split": "train", "step": step, "loss": step / 7} for step in range(1, 5)]
    for row in rows:
        run.log(row)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    lengths = [len(line) for line in whole.splitlines(keepends=True)]
    for cut in range(1, lengths[-1] + 1):
        path.write_bytes(whole[:-cut])
        # Without the newline alone, the row itself is whole.
        assert run.rows() == (rows if cut == 1 else rows[:3])
    path.write_bytes(whole[:-5])
    run = open_run(tmp_path, resume=True)
    run.rewind(2)
    assert path.read_bytes() == whole[: sum(lengths[:2])]
    run.log(rows[2])
    run.log(rows[3])
    assert path.read_bytes() == whole


def test_damage_elsewhere_is_not_dropped_in_silence(tmp_path):
    run = open_run(tmp_path)
    for step in range(3):
        run.log({"step": step})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step": 1', b'"st\x00p" 1'))
    before = path.read_bytes()
    with pytest.raises(runs.RunError, match=r"Line 2 of .*metrics\.jsonl is damaged"):
        run.rewind(2)
    assert path.read_bytes() == before


def test_a_full_disk_while_writing(small_disk):
    run = open_run(small_disk)
    row = {"split": "train", "step": 1, "text": "x" * 3000}
    filler = fill(small_disk)

    def log_on():
        while True:  # the rest of the file's last page may still take one
            run.log(row)

    with pytest.raises(runs.RunError, match=r"metrics\.jsonl.*No space.*--resume"):
        log_on()
    logged = len(run.rows())
    assert logged < 5
    with pytest.raises(runs.RunError, match=r"summary\.json.*No space"):
        run.finish({"text": "x" * 10_000})
    assert not (small_disk / "summary.json").exists()
    filler.unlink()
    run = open_run(small_disk, resume=True)
    assert run.rows() == [row] * logged
    run.rewind(1)
    run.log(row)
    assert run.rows() == [row] * (logged + 1)


def test_a_full_disk_at_the_start(small_disk):
    fill(small_disk)
    with pytest.raises(runs.RunError, match=r"config\.json could not be written"):
        open_run(small_disk)
    assert not (small_disk / "config.json").exists()


def test_summary_is_flat_and_says_where_it_comes_from(tmp_path):
    found = open_run(tmp_path).finish({"seed": 3, "test_accuracy": np.float32(0.5)})
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    assert found["experiment"] == "test"
    assert found["test_accuracy"] == 0.5
    assert {"device", "version", "jax_version", "commit"} < found.keys()


def test_commit_is_this_repository_s_or_unknown(tmp_path, monkeypatch):
    def git(*args):
        done = subprocess.run(["git", *args], cwd=tmp_path, capture_output=True)
        return done.stdout.decode().strip()

    code = tmp_path / "site" / "provenance.py"
    code.parent.mkdir()
    code.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert provenance.commit() == "unknown"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    git("init")
    git(*identity, "commit", "--allow-empty", "-m", "someone else's project")
    assert provenance.commit() == "unknown"
    git("add", "site/provenance.py")
    git(*identity, "commit", "-m", "ours")
    assert provenance.commit() == git("rev-parse", "--short", "HEAD") != ""
    code.write_text("changed")
    assert provenance.commit() == git("rev-parse", "--short", "HEAD") + "+"


def events(out: pathlib.Path) -> list[tuple[str, int, float]]:
    """Scalars in the event files: records of a length, its checksum, a message, its checksum."""
    from tensorboardX.proto import event_pb2

    message = vars(event_pb2)["Event"]

    found = []
    for path in sorted((out / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = message.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                found.append((value.tag, event.step, value.simple_value))
    return found


def test_tensorboard_shows_the_rows_and_no_others(tmp_path):
    pytest.importorskip("tensorboardX")
    rows = [
        {"split": "train", "step": step, "loss": step / 4, "seconds": 1.0}
        for step in range(1, 5)
    ]
    run = open_run(tmp_path, tensorboard=True)
    for row in rows:
        run.log(row)
    del run  # killed: nothing closes the files
    run = open_run(tmp_path, resume=True, tensorboard=True)
    run.rewind(2)
    run.log(rows[2] | {"loss": 9.0})
    run.finish({})
    expected = [("train/loss", 1, 0.25), ("train/loss", 2, 0.5), ("train/loss", 3, 9.0)]
    assert events(tmp_path) == expected


def test_event_files_on_a_full_disk_are_one_clear_error(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    run = open_run(tmp_path, tensorboard=True)
    run.log({"split": "train", "step": 1, "loss": 0.5})
    add = files.add

    def full(path, data):
        if "tensorboard" in str(path):
            raise OSError(28, "No space left on device")
        add(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "add", full)
        with pytest.raises(runs.RunError, match=r"tensorboard could not .*--resume"):
            run.log({"split": "train", "step": 2, "loss": 0.25})
    del run
    open_run(tmp_path, resume=True, tensorboard=True)
    assert events(tmp_path) == [("train/loss", 1, 0.5), ("train/loss", 2, 0.25)]


def test_tensorboard_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(runs.RunError, match=r"`--tensorboard`.*pip install"):
        open_run(tmp_path, tensorboard=True)
    assert not (tmp_path / "config.json").exists()
    open_run(tmp_path)  # so the same command without the flag just runs


@pytest.mark.parametrize("name", ["summary.json", "mine.png", "table.csv", "tensorboard", "report.html"])  # fmt: skip
def test_a_folder_with_what_a_run_would_write_is_not_used(tmp_path, name):
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(runs.RunError, match=rf"holds {name}.*Choose another"):
            open_run(tmp_path, resume=resume)
    assert {p.name for p in tmp_path.iterdir()} == {name, "notes.txt"}
    (tmp_path / name).unlink()
    open_run(tmp_path)


def test_a_resumed_run_follows_no_link(tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"
    open_run(out)
    mine.write_text("mine")
    (out / "metrics.jsonl").symlink_to(mine)
    with pytest.raises(runs.RunError, match=r"holds a link, metrics\.jsonl"):
        open_run(out, resume=True)
    assert mine.read_text() == "mine"


def test_a_finished_run_without_checkpoints_is_not_trained_anew(tmp_path):
    run = open_run(tmp_path)
    run.log({"split": "train", "step": 3})
    run.finish({})
    run = open_run(tmp_path, resume=True)
    with pytest.raises(runs.RunError, match="is finished, but its checkpoints"):
        run.restore({"a": jnp.ones(2)})
    assert run.rows() == [{"split": "train", "step": 3}]


def test_a_torn_last_row_is_mended_when_the_run_is_opened(tmp_path):
    open_run(tmp_path).log({"step": 1})
    path = tmp_path / "metrics.jsonl"
    for torn in (b'{"step": 2', b'{"step": 2}'):
        path.write_bytes(b'{"step": 1}\n' + torn)
        run = open_run(tmp_path, resume=True)
        run.log({"step": 3})
        assert path.read_bytes().endswith(b"\n")
        kept = [1, 2, 3] if torn.endswith(b"}") else [1, 3]
        assert [row["step"] for row in run.rows()] == kept


def test_another_commit_is_said(tmp_path, capsys):
    open_run(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"commit": "abc"}))
    open_run(tmp_path, resume=True)
    assert "began at commit abc" in capsys.readouterr().err
