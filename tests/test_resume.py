"""A real training killed with SIGKILL, several times in mid-epoch, ends exactly where an uninterrupted one does."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from jsnn.train import checkpoint

ROOT = pathlib.Path(__file__).parents[1]
BATCH, EPOCHS = 64, 2
VARIES = (
    "seconds",
    "train_seconds",
    "cpu_seconds",
    "wall_seconds",
    "samples_per_second",
    "commit",
)


FLAGS = f"""--data digits --recipe fast --timesteps 3 --epochs {EPOCHS} --batch-size {BATCH}
    --log-every 3 --eval-every 8 --checkpoint-seconds 0 --no-progress"""


@pytest.fixture
def start():
    """Starts two epochs of the fast CSNN on digits: batch norm, Adam with a schedule, random augmentation."""
    started = []

    def start(out: pathlib.Path, *flags: str, cache: pathlib.Path | None = None):
        command = [sys.executable, "-m", "experiments.csnn_mnist", "--out", str(out)]
        env = {k: v for k, v in os.environ.items() if "CACHE" not in k}
        # Compiling is most of the work here; without optimisation it takes half as long.
        env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        env["JAX_PLATFORMS"] = "cpu"
        if cache is not None:
            env["JAX_COMPILATION_CACHE_DIR"] = str(cache)
            env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        with out.with_suffix(".log").open("a") as log:
            process = subprocess.Popen(
                [*command, *FLAGS.split(), *flags],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def rows(out: pathlib.Path) -> list[dict]:
    """Whole rows without what may differ."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: v for k, v in row.items() if k not in VARIES} for row in whole]


def kill_when(process: subprocess.Popen, due: Callable[[], bool]) -> None:
    while not due():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def summary(out: pathlib.Path) -> dict:
    """summary.json, checked to be flat and complete, without what may differ."""
    found = json.loads((out / "summary.json").read_text())
    assert not any(isinstance(value, list | dict) for value in found.values())
    needed = "experiment dataset seed test_accuracy device version commit"
    assert {*needed.split(), "wall_seconds", "samples_per_second"} <= found.keys()
    assert found["wall_seconds"] > 0
    assert found["samples_per_second"] > 0
    return {k: v for k, v in found.items() if k not in VARIES}


def arrays(out: pathlib.Path, step: int) -> dict:
    """Everything that the checkpoint of `step` holds, as bytes."""
    found = ocp.load(str(out / f"checkpoints/step_{step:08d}"))
    return {name: np.asarray(array).tobytes() for name, array in found.items()}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path, start):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(whole)  # compiles for itself; the parts below share a cache
    checkpoints, cache = killed / "checkpoints", tmp_path / "cache"
    per_epoch = 1437 // BATCH

    def step() -> int:
        return max((row["step"] for row in rows(killed)), default=0)

    def saving() -> bool:
        return step() >= 5 and any(checkpoints.glob("*.part*"))

    stood = []
    for due, flags in (
        (saving, ()),
        (lambda: step() >= per_epoch + 5, ("--resume",)),
    ):
        kill_when(start(killed, *flags, cache=cache), due)
        stood.append(checkpoint.steps(checkpoints)[-1])
    assert 0 < stood[0] < per_epoch < stood[1] < EPOCHS * per_epoch, "not in mid-epoch"
    log = killed.with_suffix(".log")
    assert start(killed, "--resume", cache=cache).wait() == 0, log.read_text()
    assert uninterrupted.wait() == 0, whole.with_suffix(".log").read_text()

    assert rows(killed) == rows(whole)
    losses = [row["loss"] for row in rows(whole) if row["split"] == "train"]
    assert len(set(losses)) == len(losses) > 15
    assert summary(killed) == summary(whole)
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds)

    end = EPOCHS * per_epoch
    expected = arrays(whole, end)
    assert {"key", "step", "own.model.params.layers.0.weight"} <= expected.keys()
    assert arrays(killed, end) == expected
    before = arrays(whole, checkpoint.steps(whole / "checkpoints")[0])
    changed = {name for name in expected if expected[name] != before[name]}
    assert {"step", "own.model.params.layers.0.weight"} <= changed
