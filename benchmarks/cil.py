"""Training step of the class-incremental reference network: here, and the original's in PyTorch.

    python -m benchmarks.cil [--peer-python PATH] [--timesteps 10] [--batch-size 64] [--save]

Three convolutions (64, 128, 256) with batch norm over each time step, LIF neurons, firing rates as logits, Adam. Each library runs
in a process of its own, from the same weights on the same images; rounds interleave, and the first step of each turn does not count. PyTorch is looked for in `--peer-python`
and left out with a note where it is missing. The first losses must agree, or nothing is compared.

`--mode eval` is the reference's step from the second task on, when batch norm uses running statistics.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks import cil_worker, processes, rows, timing

_PEER = pathlib.Path(__file__).parent / "peers" / "torch_cil.py"
COLUMNS = (
    "library",
    "mode",
    "timesteps",
    "batch_size",
    "width",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_median",
    "ratio_min",
    "ratio_median",
    "gflop_per_second",
    "peak_gb",
    "loss",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The class-incremental reference network's training step, against the original in PyTorch."""

    peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter that has PyTorch."""
    mode: Literal["train", "eval"] = "train"
    """Batch norm by the batch (first task), or by running statistics (later ones)."""
    timesteps: int = 10
    """T, time steps."""
    batch_size: int = 64
    """Images a step."""
    width: int = 64
    """Channels of the first convolution."""
    rounds: int = 5
    """Measured steps of each library, after one to warm up."""
    save: bool = False
    """Append the rows to benchmarks/results/cil.jsonl."""


def training_gflop(timesteps: int, batch_size: int, width: int) -> float:
    """10⁹ operations in the products of a step, three times those of the forward pass.

    The first convolution sees a constant image: it runs once, and its input needs no gradient.
    """
    first = 32 * 32 * 9 * 3 * width
    second = 32 * 32 * 9 * width * 2 * width
    third = 16 * 16 * 9 * 2 * width * 4 * width
    dense = 8 * 8 * 4 * width * 10
    every_step = second + third + dense
    return 2e-9 * batch_size * (2 * first + 3 * timesteps * every_step)


def check_losses(found: list[dict[str, Any]]) -> None:
    """Refuses to compare programs that do different things; float32 sums in another order can flip single spikes, no more.

    Raises:
      RuntimeError: if the first losses differ by more than one in a hundred.
    """
    own = found[0]["loss"]
    for row in found:
        if not abs(row["loss"] - own) <= 1e-2 * own:
            raise RuntimeError(
                f"The first loss of {row['library']} is {row['loss']:.5f}, this library's {own:.5f}: they do not do the same work."
            )


def compare(cfg: Config) -> list[dict[str, Any]]:
    """This library's row, and PyTorch's if there is one."""
    work = {
        "timesteps": cfg.timesteps,
        "batch_size": cfg.batch_size,
        "width": cfg.width,
        "mode": cfg.mode,
    }
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arrays: Any = cil_worker.workload(cil_worker.Work(**work)).arrays
        np.savez(folder / "arrays.npz", **arrays)
        text = json.dumps(work)
        own = [sys.executable, "-m", "benchmarks.cil_worker", text]
        peer = [str(cfg.peer_python), str(_PEER), text, str(folder / "arrays.npz")]
        workers = {
            "jsnn": stack.enter_context(processes.Worker("jsnn", own, warm_steps=1))
        }
        workers |= processes.start_peers(stack, {"pytorch": peer}, warm_steps=1)
        samples = timing.interleave(workers, cfg.rounds)
    gflop = training_gflop(cfg.timesteps, cfg.batch_size, cfg.width)
    found = []
    for name, worker in workers.items():
        measured = timing.summary(samples[name])
        found.append(
            {"library": name, **work, **measured}
            | {
                "compile_seconds": worker.facts.get("compile_seconds"),
                "gflop_per_second": gflop / measured["seconds_median"],
                "peak_gb": worker.peak_bytes / 1e9,
                "loss": worker.facts["check"],
                "library_versions": worker.facts["versions"],
            }
        )
    check_losses(found)
    own = found[0]
    for row in found:
        for kind in ("min", "median"):
            row[f"ratio_{kind}"] = row[f"seconds_{kind}"] / own[f"seconds_{kind}"]
    return found


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures, prints the table, and returns the rows."""
    context = rows.context("cil")
    found = [context | row for row in compare(cfg)]
    rows.report(found, COLUMNS, benchmark="cil", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
