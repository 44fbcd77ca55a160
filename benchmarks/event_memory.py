"""What a large set of event recordings takes of the host's memory: made-up files in N-MNIST's format, as many as its training set has.

    python -m benchmarks.event_memory [--recordings 60000] [--events 4167] [--save]

Three processes, one after the other: the first decodes the files and puts all recordings on the device, the second reads what the first has kept,
the third leaves it on disk. Each then frames 20 batches of 128. On a CPU the device's memory is the host's too. Needs 3 GB of disk for the full size.
"""

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import tyro

from benchmarks import rows

COLUMNS = ("case", "recordings", "events", "seconds_load", "seconds_batches", "start_gb", "peak_gb")  # fmt: skip
CASES = ("decoded", "kept", "on disk")


@dataclasses.dataclass(frozen=True)
class Config:
    """Peak memory of reading and framing a set of event recordings."""

    recordings: int = 60_000
    """How many; the training set of N-MNIST has 60,000."""
    events: int = 4167
    """Events of each, 2.5e8 in all at the full size."""
    save: bool = False
    """Append the rows to benchmarks/results/event_memory.jsonl."""


def write(folder: pathlib.Path, cfg: Config) -> None:
    """Random recordings in five bytes an event."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / f"Train/{label}").mkdir(parents=True)
    for i in range(1, cfg.recordings + 1):
        t = np.sort(rng.integers(0, 300_000, cfg.events))
        events = np.empty((cfg.events, 5), np.uint8)
        events[:, :2] = rng.integers(0, 34, (cfg.events, 2))
        events[:, 2] = t >> 16 | rng.integers(0, 2, cfg.events) << 7
        events[:, 3], events[:, 4] = t >> 8 & 255, t & 255
        (folder / f"Train/{i % 10}/{i:05d}.bin").write_bytes(events.tobytes())


def worker(case: str, folder: str) -> dict[str, Any]:
    """Times and the kernel's high-water mark of this process."""
    import jax

    from jsnn.data import event_sets, events

    start, clock = _peak_gb(), time.perf_counter()
    on_device = case != "on disk"
    found, _ = event_sets.load("nmnist", data_dir=folder, on_device=on_device)
    loaded = time.perf_counter()
    rng = np.random.default_rng(0)
    for _ in range(20):
        index = rng.integers(0, len(found.offsets) - 1, 128)
        counts = events.frames(events.take(found, index), 10, 30_000.0)
        jax.block_until_ready(counts)
    return {
        "case": case,
        "seconds_load": loaded - clock,
        "seconds_batches": time.perf_counter() - loaded,
        "start_gb": start,
        "peak_gb": _peak_gb(),
    }


def _peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures, prints the table, and returns the rows."""
    context = rows.context("event_memory")
    found = []
    with tempfile.TemporaryDirectory(prefix="jsnn-") as folder:
        write(pathlib.Path(folder), cfg)
        for case in CASES:
            run = [sys.executable, "-m", "benchmarks.event_memory", "worker", case, folder]  # fmt: skip
            where = os.environ | {"JSNN_CACHE": f"{folder}/cache"}
            done = subprocess.run(run, env=where, stdout=subprocess.PIPE, check=True)
            size = {"recordings": cfg.recordings, "events": cfg.recordings * cfg.events}
            found.append(context | size | json.loads(done.stdout))
    rows.report(found, COLUMNS, benchmark="event_memory", keep=cfg.save)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(worker(*sys.argv[2:])))
    else:
        main(tyro.cli(Config))
