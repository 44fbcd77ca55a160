"""EventProp: the one-layer reference's training step against the original's scheme in PyTorch, and what the adjoint keeps in memory.

    python -m benchmarks.eventprop [--peer-python PATH] [--save]

Time: each program trains in a process of its own, and they take turns. A turn of this library is whole stretches of steps in one compiled
program, as its scripts train; PyTorch's a few steps of the loop the original has. Both encode the images, simulate, kick, differentiate and
take the SGD step. The program in PyTorch is a transcription (benchmarks/peers/eventprop_worker.py).

Memory: the compiler's plan for one layer's forward and backward pass at T = 1,000, per neuron and step, beyond its arguments (the
drive, the cotangent of its spikes) and results (the spikes, both gradients of the drive); the same layer with surrogate gradients by plain
autodiff beside it.

Axes: T time, B batch, N neurons, I inputs.
"""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import processes, rows, timing
from jsnn import surrogate
from jsnn.eventprop import Drive, LIFParams, grid
from jsnn.eventprop.flow import flow

_PEER = pathlib.Path(__file__).parent / "peers" / "eventprop_worker.py"
_STRETCH = 40  # batches, and steps of this library a turn
_PEER_STEPS = 2
TIME_COLUMNS = (
    "library",
    "batch_size",
    "ms_min",
    "ms_median",
    "cpu_ms_median",
    "ratio_min",
    "ratio_median",
)
MEMORY_COLUMNS = ("layer", "timesteps", "bytes_per_neuron_step", "temp_mb")


@dataclasses.dataclass(frozen=True)
class Config:
    """Time of the reference's step, memory of the adjoint."""

    peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter in which torch is installed."""
    batch_size: int = 128
    """Images a step."""
    rounds: int = 7
    """Measured turns of each program, after one to warm up."""
    timesteps: int = 1000
    """T of the memory measurement."""
    neurons: int = 256
    """Neurons of its layer, with 32 samples."""
    save: bool = False
    """Append the rows to benchmarks/results/eventprop.jsonl."""


def arrays(batch_size: int) -> dict[str, np.ndarray]:
    """Invented images, a fifth of the pixels white as in handwritten digits, and the reference's initial weights."""
    rng = np.random.default_rng(0)
    images = (rng.random((_STRETCH, batch_size, 784)) < 0.2).astype(np.float32)
    return {
        "images": images,
        "labels": rng.integers(10, size=(_STRETCH, batch_size)).astype(np.int32),
        "weight": (0.1 + 0.1 * rng.normal(size=(784, 10))).astype(np.float32),
    }


def compare(cfg: Config) -> list[dict[str, Any]]:
    """Milliseconds a step, this library's row first."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "arrays.npz"
        contents: Any = arrays(cfg.batch_size)
        np.savez(path, **contents)
        own = [sys.executable, "-m", "benchmarks.eventprop_worker"]
        own += [str(_STRETCH), str(path)]
        peer = [str(cfg.peer_python), str(_PEER), str(_PEER_STEPS), str(path)]
        workers = {"jsnn": stack.enter_context(processes.Worker("jsnn", own))}
        workers |= processes.start_peers(stack, {"PyTorch, transcribed": peer})
        samples = timing.interleave(workers, cfg.rounds)
    found = []
    for name, worker in workers.items():
        found.append({"library": name, "batch_size": cfg.batch_size})
        for key, value in timing.summary(samples[name]).items():
            if "seconds" in key:
                key, value = key.replace("seconds", "ms"), 1e3 * value
                value /= worker.facts["steps"]
            found[-1][key] = value
        found[-1] |= {"library_versions": worker.facts["versions"]}
    for row in found:
        for kind in ("min", "median"):
            row[f"ratio_{kind}"] = row[f"ms_{kind}"] / found[0][f"ms_{kind}"]
    return found


def _surrogate_layer(drive: Drive, dt: float) -> jax.Array:
    """The same neurons with a surrogate for the step, by plain autodiff."""
    a, b, kappa = flow(jnp.float32(dt), jnp.float32(20.0), jnp.float32(5.0))
    spike_fn = surrogate.arctan()

    def step(state, u):
        v, i = state
        v = a * v + kappa * i
        s = spike_fn(v - 1.0)
        return (v - s, b * i + u), s

    rest = jnp.zeros_like(drive.mass[0])
    return jax.lax.scan(step, (rest, rest), drive.mass)[1]


def _adjoint_layer(drive: Drive, dt: float) -> jax.Array:
    return grid.lif(LIFParams(), None, drive, dt=dt)[1].values


def memory(cfg: Config) -> list[dict[str, Any]]:
    """What each backward pass needs between forward and backward, from the compiled programs."""
    shape, found = (cfg.timesteps, 32, cfg.neurons), []
    like = jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, layer in (
        ("EventProp adjoint", _adjoint_layer),
        ("surrogate BPTT", _surrogate_layer),
    ):

        def both(mass, time, bar, layer=layer):
            spikes, pull = jax.vjp(lambda drive: layer(drive, 0.1), Drive(mass, time))
            return spikes, pull(bar)[0]

        compiled = jax.jit(both).lower(like, like, like).compile()
        analysis: Any = compiled.memory_analysis()
        size = analysis.temp_size_in_bytes
        found.append(
            {
                "layer": name,
                "timesteps": cfg.timesteps,
                "bytes_per_neuron_step": size / np.prod(shape),
                "temp_mb": size / 1e6,
            }
        )
    return found


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures, prints both tables, and returns the rows."""
    context = rows.context("eventprop")
    kept = [context | row for row in memory(cfg)]
    rows.report(kept, MEMORY_COLUMNS, benchmark="eventprop", keep=cfg.save)
    timed = [context | row for row in compare(cfg)]
    rows.report(timed, TIME_COLUMNS, benchmark="eventprop", keep=cfg.save)
    return kept + timed


if __name__ == "__main__":
    main(tyro.cli(Config))
