"""The training step of the reference CSNN here, in snnTorch and in SpikingJelly: the same weights, images, loss and optimiser.

    python -m benchmarks.against_peers [--peer-python PATH] [--timesteps 100] [--save]

Each library runs in a process of its own, and rounds interleave: every library does one step, then every library the next.
Peers are looked for in the Python given by `--peer-python` (a virtual environment with snntorch or spikingjelly and a CPU
build of torch); what is not installed there is left out with a note. They are never requirements of this library.

`loss` is the first step's. Where the rules of the neuron are the same (snnTorch), it must be equal, or the
benchmark refuses to compare.
"""

import contextlib
import dataclasses
import math
import pathlib
import sys
import tempfile
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks import processes, rows, timing, workload

Peer = Literal["snntorch", "spikingjelly"]
_SCRIPT = pathlib.Path(__file__).parent / "peers" / "worker.py"
VARIANTS: dict[Peer, tuple[str, ...]] = {
    "snntorch": ("snntorch",),
    "spikingjelly": ("spikingjelly-single", "spikingjelly-multi"),
}
COLUMNS = (
    "library",
    "timesteps",
    "batch_size",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_median",
    "ratio_min",
    "ratio_median",
    "peak_gb",
    "loss",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The reference CSNN's training step, against the peers that are installed."""

    peers: tuple[Peer, ...] = ("snntorch", "spikingjelly")
    """Which libraries to compare with."""
    peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter in which they are installed."""
    timesteps: tuple[int, ...] = (100,)
    """T, time steps; one comparison each."""
    batch_size: int = 128
    """Images a step."""
    hoisted: bool = False
    """Also run the peers with the first convolution taken out of their time loop."""
    rounds: int = 5
    """Measured steps of each library, after one to warm up."""
    save: bool = False
    """Append the rows to benchmarks/results/against_peers.jsonl."""


def variants(cfg: Config) -> list[str]:
    """What to run of the peers: each of their ways to step through time."""
    plain = [v for peer in cfg.peers for v in VARIANTS[peer]]
    return plain + [f"{v}-hoisted" for v in plain] if cfg.hoisted else plain


def with_ratios(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with how many times the first one's seconds each took."""
    own = found[0]
    return [
        row
        | {
            f"ratio_{kind}": row[f"seconds_{kind}"] / own[f"seconds_{kind}"]
            for kind in ("min", "median")
        }
        for row in found
    ]


def check_losses(found: list[dict[str, Any]]) -> None:
    """Refuses to compare programs that do different things.

    Float32 sums in another order can flip single spikes at threshold, so the losses of one rule agree closely, not exactly.

    Raises:
      RuntimeError: if snnTorch's first loss is not this library's.
    """
    own = found[0]["loss"]
    for row in found:
        if not math.isfinite(row["loss"]):
            raise RuntimeError(f"The loss of {row['library']} is {row['loss']}.")
        if row["library"].startswith("snntorch") and abs(row["loss"] - own) > 1e-2:
            raise RuntimeError(
                f"The first loss of {row['library']} is {row['loss']:.5f}, this library's {own:.5f}: they do not do the same work."
            )


def compare(cfg: Config, steps: int) -> list[dict[str, Any]]:
    """One comparison, this library's row first."""
    work = {"timesteps": steps, "batch_size": cfg.batch_size}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arrays: Any = workload.reference(steps, cfg.batch_size).arrays
        np.savez(folder / "arrays.npz", **arrays)
        own = stack.enter_context(processes.csnn_worker("jsnn", work))
        workers = {"jsnn": own}
        python, path = str(cfg.peer_python), str(folder / "arrays.npz")
        backend = own.facts["backend"]
        commands = {
            name: [python, str(_SCRIPT), name, str(steps), path, backend]
            for name in variants(cfg)
        }
        workers |= processes.start_peers(stack, commands)
        samples = timing.interleave(workers, cfg.rounds)
    found = [
        {"library": name, **work, **timing.summary(samples[name])}
        | {
            "warmup_seconds": worker.facts["warmup_seconds"],
            "peak_gb": worker.peak_bytes / 1e9,
            "loss": worker.facts["check"],
            "library_versions": worker.facts["versions"],
        }
        for name, worker in workers.items()
    ]
    check_losses(found)
    return with_ratios(found)


def main(cfg: Config) -> list[dict[str, Any]]:
    """Runs every comparison, prints table and ratios, and returns the rows."""
    context, found = rows.context("against_peers"), []
    for steps in cfg.timesteps:
        result = compare(cfg, steps)
        found += [context | row for row in result]
        peers = result[1:]
        if peers:
            best = min(peers, key=lambda row: row["seconds_median"])
            print(
                f"T = {steps}: jsnn is {best['ratio_median']:.2f} times as fast as the fastest peer, {best['library']} (minima: {best['ratio_min']:.2f})."
            )
    rows.report(found, COLUMNS, benchmark="against_peers", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
