"""Recordings of an event camera made into frames: recordings a second, packed on the device and from flat events.

    python -m benchmarks.framing [--recordings 128] [--peer-python PATH] [--save]

Recordings are made up, in N-MNIST's size: 34 x 34 cells, two polarities, 300 ms. `packed` is what training does in its compiled step, `flat` cuts
the recordings out of one long list first. Beside them Tonic's `ToFrame`, which works on NumPy arrays recording by recording, in a process of its
own (benchmarks/peers/tonic_worker.py). It divides the time from a recording's first event to its last; so the sums of all frames are compared.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import processes, rows, timing
from jsnn.data import events

SENSOR, LONGEST_US = (34, 34), 300_000
_PEER = pathlib.Path(__file__).parent / "peers" / "tonic_worker.py"
COLUMNS = (
    "library",
    "recordings",
    "events",
    "timesteps",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_min",
    "recordings_per_second",
    "ratio_min",
    "ratio_median",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Recordings made into frames, beside Tonic."""

    recordings: int = 128
    """How many at once."""
    events: int = 4167
    """Events of each; about as many as N-MNIST's have."""
    timesteps: int = 10
    """T, frames of each."""
    rounds: int = 7
    """Measured samples of each."""
    min_seconds: float = 0.2
    """Length of a sample: a batch is framed repeatedly until it lasts so long."""
    peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter in which tonic is installed."""
    save: bool = False
    """Append the rows to benchmarks/results/framing.jsonl."""


def invented(cfg: Config) -> dict[str, np.ndarray]:
    """Columns of events `[B, L]`, each recording sorted by time."""
    rng, size = np.random.default_rng(0), (cfg.recordings, cfg.events)
    x, y = (rng.integers(0, side, size) for side in reversed(SENSOR))
    times = np.sort(rng.integers(0, LONGEST_US, size), axis=1)
    return {"x": x, "y": y, "p": rng.integers(0, 2, size), "t": times}


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures, prints the table and returns the rows.

    Raises:
      ValueError: if Tonic counts other events.
    """
    context, columns = rows.context("framing"), invented(cfg)
    offsets = np.arange(cfg.recordings + 1) * cfg.events
    x, y, p, t = (columns[name].ravel() for name in "xypt")
    held = events.recordings(x, y, p, t, offsets, sensor=SENSOR)
    packed = jnp.asarray(events.pack(held))
    step_us = LONGEST_US / cfg.timesteps

    def frames(batch: events.Batch) -> jax.Array:
        return events.frames(batch, cfg.timesteps, step_us)

    cases = {
        "packed": (lambda rows: frames(events.unpack(rows, SENSOR)), packed),
        "flat": (lambda index: frames(events.take(held, index)), np.arange(cfg.recordings)),
    }  # fmt: skip
    calls: dict[Any, Any] = {}
    total = 0.0
    for name, (fn, argument) in cases.items():
        compiled, _ = timing.compile_step(fn, argument)
        total = float(compiled(argument).sum())
        calls[f"jsnn, {name}"] = timing.timed(functools.partial(compiled, argument), cfg.min_seconds)  # fmt: skip
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.savez(folder / "a.npz", **columns)  # pyright: ignore[reportArgumentType]
        command = [str(cfg.peer_python), str(_PEER), str(folder / "a.npz"), str(cfg.timesteps)]  # fmt: skip
        for name, worker in processes.start_peers(stack, {"tonic": command}).items():
            # A few events on the edge of its last frame are left out there.
            if abs(worker.facts["check"] - total) > 0.01 * total:
                raise ValueError(
                    f"{name} counts {worker.facts['check']:.0f} events, jsnn {total:.0f}: not the same work."
                )
            calls[name] = worker
        samples = timing.interleave(calls, cfg.rounds)
    size = {"recordings": cfg.recordings, "events": cfg.events, "timesteps": cfg.timesteps}  # fmt: skip
    found: list[dict[str, Any]] = [
        context | {"library": name} | size | timing.summary(taken)
        for name, taken in samples.items()
    ]
    for row in found:
        row["recordings_per_second"] = cfg.recordings / row["seconds_min"]
        for kind in ("min", "median"):
            row[f"ratio_{kind}"] = row[f"seconds_{kind}"] / found[0][f"seconds_{kind}"]
    rows.report(found, COLUMNS, benchmark="framing", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
