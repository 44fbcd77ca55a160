"""Training over many time steps: what blocks and rematerialisation save in memory, and what they cost in time.

    python -m benchmarks.memory [--timesteps 1000] [--batch-size 16] [--block-sizes 25] [--save]

The reference CSNN's training step, unblocked and in blocks of K steps with `remat`, in two processes that take turns. With
`remat` the forward pass runs twice, so a time ratio of 4/3 is expected; memory should go as T/K + K.

`peak_ratio` compares what the processes held beyond what they held before the first step; `temp_ratio` what the compiled
programs ask for.
"""

import contextlib
import dataclasses
from typing import Any

import tyro

from benchmarks import processes, rows, timing

COLUMNS = (
    "timesteps",
    "batch_size",
    "block_size",
    "remat",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_median",
    "peak_gb",
    "temp_gb",
    "time_ratio",
    "cpu_ratio",
    "peak_ratio",
    "temp_ratio",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Memory and time of training in blocks with rematerialisation, against training unblocked."""

    timesteps: int = 1000
    """T, time steps."""
    batch_size: int = 16
    """Images a step. Unblocked, a sample needs about 95 kB a time step."""
    block_sizes: tuple[int, ...] = (25,)
    """K, time steps of a block. Least memory near sqrt(T); a K that divides T compiles one block instead of two."""
    repeats: int = 3
    """Measured steps of each, after one to warm up."""
    save: bool = False
    """Append the rows to benchmarks/results/memory.jsonl."""


def with_ratios(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with its time and memory as a fraction of the first one's."""
    ratios = {
        "time_ratio": "seconds_median",
        "cpu_ratio": "cpu_seconds_median",
        "peak_ratio": "peak_gb",
        "temp_ratio": "temp_gb",
    }
    return [
        row | {name: row[column] / found[0][column] for name, column in ratios.items()}
        for row in found
    ]


def measure(cfg: Config) -> list[dict[str, Any]]:
    """All cases, the unblocked one first."""
    size = {"timesteps": cfg.timesteps, "batch_size": cfg.batch_size}
    cases: dict[str, dict[str, Any]] = {"unblocked": {}}
    for block in cfg.block_sizes:
        cases[f"blocks of {block}"] = {"block_size": block, "remat": True}
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(processes.csnn_worker(name, size | options))
            for name, options in cases.items()
        }
        samples = timing.interleave(workers, cfg.repeats)
    return with_ratios(
        [
            size
            | {"block_size": None, "remat": False}
            | options
            | timing.summary(samples[name])
            | {
                "compile_seconds": workers[name].facts["compile_seconds"],
                "peak_gb": workers[name].peak_bytes / 1e9,
                "temp_gb": workers[name].facts["temp_bytes"] / 1e9,
                "check": workers[name].facts["check"],
            }
            for name, options in cases.items()
        ]
    )


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures, prints the table, and returns the rows."""
    context = rows.context("memory")
    found = [context | row for row in measure(cfg)]
    rows.report(found, COLUMNS, benchmark="memory", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
