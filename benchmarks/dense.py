"""`Linear(N, N)` and LIF neurons, LIF neurons alone, and a recurrent layer over many steps: here and in the peers that are installed.

    python -m benchmarks.dense [--network linear_lif] [--neurons 512 2048] [--peer-python PATH] [--jax-peer-python PATH] [--save]
    python -m benchmarks.dense --figure docs/pictures/dense.png --drawn-only           # what has been saved

The Open Neuromorphic benchmark (T = 500, batch 16, N = 512 to 16,384; https://open-neuromorphic.org/p/snn-library-benchmarks), with what it leaves open
settled for all sides: float32 with TF32 off, compiled and warmed up before the clock starts, results waited for, forward and
forward+backward apart, the same weights and inputs, peak memory of a fresh process. `recurrent` has the sizes of a network for
Spiking Heidelberg Digits: 700 inputs, N recurrent neurons, 20 outputs.

Every library is driven as its own documentation drives it: a loop over time where it wants one, all steps at once where it takes them.
`check` is the number of spikes of the first step; where the neuron's rule is the same it must agree.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import tyro

from benchmarks import processes, rows, timing
from benchmarks.against_peers import with_ratios
from jsnn.plot import figures

Network = Literal["linear_lif", "lif", "recurrent"]
Direction = Literal["forward", "forward+backward"]
Peer = Literal["snntorch", "spikingjelly", "norse", "spyx", "jaxpike"]
_IN_JAX = ("spyx", "jaxpike")
_SCRIPTS = pathlib.Path(__file__).parent / "peers"
_HUES = ("orange", "green", "muted", "ink")  # blue is this library
_TITLES = {
    "linear_lif": "Linear(N, N) and LIF",
    "lif": "LIF alone",
    "recurrent": "700 to N recurrent to 20",
}
COLUMNS = (
    "library",
    "network",
    "direction",
    "neurons",
    "timesteps",
    "batch_size",
    "seconds_min",
    "seconds_median",
    "ratio_min",
    "ratio_median",
    "peak_gb",
    "check",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Dense spiking layers, against the peers that are installed."""

    network: tuple[Network, ...] = ("linear_lif",)
    """Linear and LIF, LIF alone, or a recurrent layer between 700 inputs and 20 outputs."""
    directions: tuple[Direction, ...] = ("forward", "forward+backward")
    """With the gradient of all weights and inputs, or without."""
    neurons: tuple[int, ...] = (512, 2048, 4096)
    """N; 16384 needs 24 GB with gradients."""
    timesteps: tuple[int, ...] = (500,)
    """T, time steps."""
    batch_size: int = 16
    """B, samples."""
    peers: tuple[Peer, ...] = ("snntorch", "spikingjelly", "norse", "spyx", "jaxpike")
    """Which libraries to compare with."""
    peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter in which those in PyTorch are installed."""
    jax_peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter in which those in JAX are installed."""
    rounds: int = 5
    """Measured calls of each library, after one to warm up."""
    save: bool = False
    """Append the rows to benchmarks/results/dense.jsonl."""
    figure: pathlib.Path | None = None
    """Where to draw seconds against N, a panel for each network and direction."""
    drawn_only: bool = False
    """Measure nothing: draw the newest saved row of each library and size."""


def compare(cfg: Config, work: dict[str, Any]) -> list[dict[str, Any]]:
    """One comparison, this library's row first."""
    with contextlib.ExitStack() as stack:
        text = json.dumps(work)
        own = processes.Worker(
            "jsnn", [sys.executable, "-m", "benchmarks.dense_worker", text]
        )
        workers = {"jsnn": stack.enter_context(own)}
        commands = {
            name: [str(cfg.jax_peer_python), str(_SCRIPTS / "jax_dense_worker.py")]
            if name in _IN_JAX
            else [str(cfg.peer_python), str(_SCRIPTS / "dense_worker.py")]
            for name in cfg.peers
        }
        commands = {name: [*start, name, text] for name, start in commands.items()}
        workers |= processes.start_peers(stack, commands)
        samples = timing.interleave(workers, cfg.rounds)
    return with_ratios(
        [
            {"library": name, **work, **timing.summary(samples[name])}
            | {
                "warmup_seconds": worker.facts["warmup_seconds"],
                "peak_gb": worker.peak_bytes / 1e9,
                "check": worker.facts["check"],
                "library_versions": worker.facts["versions"],
            }
            for name, worker in workers.items()
        ]
    )


def draw(found: Sequence[dict[str, Any]]) -> Any:
    """Median seconds against N, a panel for each device and kind of work; of rows for the same library and work the last counts."""
    newest = {
        tuple(
            row[k]
            for k in (
                "device",
                "network",
                "direction",
                "timesteps",
                "library",
                "neurons",
            )
        ): row["seconds_median"]
        for row in found
    }
    panels = list(dict.fromkeys(key[:4] for key in newest))
    libraries = list(dict.fromkeys(key[4] for key in newest))
    columns = min(2, len(panels))
    height = -(-len(panels) // columns)
    with figures.style():
        figure = figures.new_figure(2.6 * height + 0.3)
        axes = list(figure.subplots(height, columns, squeeze=False).flat)
        for ax, panel in zip(axes, panels, strict=False):
            device, network, direction, timesteps = panel
            for k, library in enumerate(libraries):
                points = sorted(
                    (key[5], seconds)
                    for key, seconds in newest.items()
                    if key[:5] == (*panel, library)
                )
                if points:
                    own = library == "jsnn"
                    ax.plot(
                        *zip(*points, strict=True),
                        marker="os^Dvx"[k % 6],
                        ms=4,
                        lw=2 if own else 1,
                        color=figures.COLOURS["blue" if own else _HUES[k % len(_HUES)]],
                        label=library,
                    )
            sizes = sorted({key[5] for key in newest if key[:4] == panel})
            ax.set_xscale("log", base=2)
            ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
            ax.set_yscale("log")
            ax.set_xlabel("neurons N")
            ax.set_ylabel("seconds")
            ax.set_title(f"{_TITLES[network]}, T = {timesteps}\n{direction}\n{device}")
        for ax in axes[len(panels) :]:
            ax.remove()
        named = {  # not every library is in every panel
            label: line
            for ax in figure.axes
            for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.axes[0].legend(named.values(), named.keys(), fontsize=7)
    return figure


def main(cfg: Config) -> list[dict[str, Any]]:
    """Runs every comparison, prints the table, draws, and returns the rows.

    Raises:
      ValueError: if only saved rows are to be drawn, and there are none or no `--figure`.
    """
    if cfg.drawn_only:
        if cfg.figure is None:
            raise ValueError("`--drawn-only` needs a `--figure` to draw.")
        found = rows.load("dense")
        _save(found, cfg.figure)
        return found
    found = _measure(cfg)
    rows.report(found, COLUMNS, benchmark="dense", keep=cfg.save)
    if cfg.figure is not None:
        _save(found, cfg.figure)
    return found


def _save(found: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with figures.style():
        draw(found).savefig(path, facecolor="white")


def _measure(cfg: Config) -> list[dict[str, Any]]:
    context, found = rows.context("dense"), []
    for network in cfg.network:
        for n in cfg.neurons:
            for t in cfg.timesteps:
                for direction in cfg.directions:
                    work = {
                        "network": network,
                        "neurons": n,
                        "timesteps": t,
                        "batch_size": cfg.batch_size,
                        "direction": direction,
                    }
                    found += [context | row for row in compare(cfg, work)]
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
