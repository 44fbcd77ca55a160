"""Data parallel training of the reference CSNN on 1, 2, 4, ... devices: seconds a step, and what is lost to communication.

    python -m benchmarks.scaling [--devices 1 2 4 8] [--save]

`strong` cuts one batch over all devices, `weak` gives each device a batch of that size. `efficiency` is the time on one device over that on
n, times n in the first case: 1 if nothing is lost. With JAX_PLATFORMS=cpu a device is a core, and no process has more cores than devices.
"""

import contextlib
import dataclasses
import json
import sys
from typing import Any, Literal

import tyro

from benchmarks import processes, rows, timing

COLUMNS = (
    "scaling",
    "devices",
    "timesteps",
    "batch_size",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_median",
    "images_per_second",
    "efficiency",
    "check",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Data parallel training on more and more devices."""

    devices: tuple[int, ...] = (1, 2)
    """Numbers of devices, one process each; the first is what efficiency refers to."""
    scaling: tuple[Literal["strong", "weak"], ...] = ("strong", "weak")
    """One batch for all devices, or one for each."""
    timesteps: int = 25
    """T, time steps."""
    batch_size: int = 128
    """Images a step; of each device if weak."""
    rounds: int = 5
    """Measured steps, after one to warm up."""
    save: bool = False
    """Append the rows to benchmarks/results/scaling.jsonl."""


def measure(cfg: Config, scaling: Literal["strong", "weak"]) -> list[dict[str, Any]]:
    """A row for each number of devices; their processes take turns.

    Raises:
      RuntimeError: if the first loss of one batch depends on the number of devices.
    """
    work = {
        n: {
            "devices": n,
            "timesteps": cfg.timesteps,
            "batch_size": cfg.batch_size * (n if scaling == "weak" else 1),
        }
        for n in cfg.devices
    }
    with contextlib.ExitStack() as stack:
        workers = {}
        for n, w in work.items():
            command = [
                *(sys.executable, "-m", "benchmarks.scaling_worker"),
                json.dumps(w),
            ]
            workers[str(n)] = stack.enter_context(processes.Worker(str(n), command))
        samples = timing.interleave(workers, cfg.rounds)
    found = [
        {"scaling": scaling, **w, **timing.summary(samples[str(n)])}
        | {"check": workers[str(n)].facts["check"]}
        for n, w in work.items()
    ]
    first = found[0]
    for row in found:
        share = row["devices"] / first["devices"] if scaling == "strong" else 1
        row["images_per_second"] = row["batch_size"] / row["seconds_median"]
        row["efficiency"] = first["seconds_median"] / row["seconds_median"] / share
        if scaling == "strong" and abs(row["check"] - first["check"]) > 1e-4:
            raise RuntimeError(
                f"The first loss is {first['check']} on {first['devices']} devices and {row['check']} on {row['devices']}: not the same work."
            )
    return found


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures both kinds, prints the table, and returns the rows."""
    context = rows.context("scaling")
    found = [context | row for kind in cfg.scaling for row in measure(cfg, kind)]
    rows.report(found, COLUMNS, benchmark="scaling", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
