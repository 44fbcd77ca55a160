"""Training step and inference of the reference CSNN: seconds, compile time, memory.

    python -m benchmarks.csnn [--timesteps 25 100] [--batch-size 128] [--save]

A training step is forward pass, gradient of every step's cross entropy, and Adam. Each case runs in a process of its own.
Peak memory is what the process held at most above what it held before its first step; `temp_bytes` is what the compiled
program asks for beyond its inputs and outputs.
"""

import dataclasses
from typing import Any, Literal

import tyro

from benchmarks import processes, rows, timing, workload

COLUMNS = (
    "mode",
    "timesteps",
    "batch_size",
    "compile_seconds",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_median",
    "images_per_second",
    "gflop_per_second",
    "peak_gb",
    "temp_gb",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Training step and inference of the reference CSNN."""

    timesteps: tuple[int, ...] = (25, 100)
    """T, time steps; one case each."""
    batch_size: int = 128
    """Images a step."""
    modes: tuple[Literal["train", "infer"], ...] = ("train", "infer")
    """What to measure."""
    block_size: int | None = None
    """K, time steps handed to a layer at a time; all if omitted."""
    remat: bool = False
    """Recompute inside time blocks in the backward pass."""
    repeats: int = 5
    """Measured steps, after one to warm up."""
    save: bool = False
    """Append the rows to benchmarks/results/csnn.jsonl."""


def measure(cfg: Config, mode: Literal["train", "infer"], steps: int) -> dict[str, Any]:
    """One case as the columns of a row."""
    work = {
        "mode": mode,
        "timesteps": steps,
        "batch_size": cfg.batch_size,
        "block_size": cfg.block_size,
        "remat": cfg.remat,
    }
    with processes.csnn_worker("jsnn", work) as worker:
        samples = timing.interleave({"jsnn": worker}, cfg.repeats)["jsnn"]
    found = timing.summary(samples)
    gflop = workload.training_gflop(steps, cfg.batch_size)
    return work | {
        "compile_seconds": worker.facts["compile_seconds"],
        **found,
        "images_per_second": cfg.batch_size / found["seconds_median"],
        "gflop_per_second": gflop / found["seconds_median"]
        if mode == "train"
        else None,
        "peak_gb": worker.peak_bytes / 1e9,
        "temp_gb": (worker.facts["temp_bytes"] or 0) / 1e9,
        "check": worker.facts["check"],
    }


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures every case, prints the table, and returns the rows."""
    context = rows.context("csnn")
    found = [context | measure(cfg, m, t) for m in cfg.modes for t in cfg.timesteps]
    rows.report(found, COLUMNS, benchmark="csnn", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
