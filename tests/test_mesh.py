"""Data parallel training on eight devices of one process and on two processes: the result of one device, and kills."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from experiments import cli
from jsnn import mesh
from jsnn.train import checkpoint

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = [sys.executable, str(ROOT / "tests" / "data_parallel.py")]
FLAGS = ["--data", "digits", "--recipe", "fast", "--timesteps", "2"]
FLAGS += ["--batch-size", "64", "--log-every", "5", "--eval-every", "0"]
FLAGS += ["--checkpoint-seconds", "0", "--no-progress", "--augment", "False"]


def environment(num_devices: int) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        # Compiling is most of the work here; without optimisation it takes half as long.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def start():
    """Starts a command on so many devices; whatever still runs at the end is killed."""
    started = []

    def start(command: list[str], num_devices: int, log: pathlib.Path):
        with log.open("a") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(num_devices),
                stdout=file,
                stderr=file,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def together(command: list[str]) -> list[list[str]]:
    """The same command for two processes of one run."""
    address = f"127.0.0.1:{free_port()}"
    flags = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    return [[*command, *flags, str(i)] for i in range(2)]


def check_equal(log: pathlib.Path) -> None:
    """50 steps of Adam move a weight by up to 0.25, so 1e-5 is a hundred times the rounding of sums in another order."""
    num_devices, difference, accuracy, share = log.read_text().split()[-4:]
    assert int(num_devices) == 8
    assert float(difference) <= 1e-5
    assert float(accuracy) > 0.7  # it has learned: ten classes
    assert float(share) < 1.2 / 8  # nothing is gathered and done by all


def test_eight_devices_give_the_result_of_one(start, tmp_path):
    log = tmp_path / "log"
    assert start(PROGRAM, 8, log).wait(300) == 0, log.read_text()
    check_equal(log)


def test_two_processes_give_the_result_of_one(start, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    logs = [tmp_path / str(i) for i in range(2)]
    processes = [
        start([*PROGRAM, address, "2", str(i)], 4, log) for i, log in enumerate(logs)
    ]
    for process, log in zip(processes, logs, strict=True):
        assert process.wait(300) == 0, log.read_text()
        check_equal(log)


def script(out: pathlib.Path, *flags: str) -> list[str]:
    program = [sys.executable, "-m", "experiments.csnn_mnist", "--out", str(out)]
    return [*program, *FLAGS, *flags]


def wait_for(process: subprocess.Popen, out: pathlib.Path, step: int) -> int:
    """Waits until a checkpoint of this step or a later one exists; returns which."""
    while (found := [0, *checkpoint.steps(out / "checkpoints")][-1]) < step:
        assert process.poll() is None, out.with_suffix(".log").read_text()
        time.sleep(0.1)
    return found


def test_a_dead_process_ends_the_other_and_the_restart_resumes_on_any_mesh(
    start, tmp_path
):
    out = tmp_path / "run"
    log = out.with_suffix(".log")
    program = [sys.executable, "-m", "experiments.csnn_mnist", "--out", str(out)]
    endless = [*program, *FLAGS, "--epochs", "400"]
    first, second = (start(c, 4, log) for c in together(endless))
    saved = wait_for(first, out, 6)
    second.send_signal(signal.SIGKILL)
    assert first.wait(120) != 0
    said = log.read_text()
    assert "another process of this run" in said or "another task died" in said
    assert "--resume" in said

    for num_devices in (1, 8):
        flags = ["--resume", "--mesh", f"data={num_devices}"]
        process = start([*endless, *flags], num_devices, log)
        saved = wait_for(process, out, saved + 6)
        process.kill()
        process.wait()
    rows = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == sorted(set(steps))  # none lost, none twice
    assert steps[-1] >= saved


@pytest.mark.parametrize("text", ["data", "data=0", "model=2", "data=two", "2"])
def test_malformed_mesh(text):
    with pytest.raises(
        ValueError, match=f"`--mesh` must have the form .* got '{text}'"
    ):
        mesh.parse(text)


def test_mesh_that_does_not_fit():
    with pytest.raises(ValueError, match="asks for more devices than the 1 there are"):
        mesh.make(2, batch_size=64)
    with pytest.raises(ValueError, match="does not divide `--batch-size 3`"):
        cli.Devices(mesh="data=2").devices(3)
