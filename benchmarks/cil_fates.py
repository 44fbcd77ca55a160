"""What becomes of the class-incremental reference in its first task: this library's program and the original's in PyTorch.

    python -m benchmarks.cil_fates --seeds 0 1 2 3 --steps 12
    python -m benchmarks.cil_fates --program pytorch --peer-python PEERS/bin/python --weights jsnn --order jsnn
    python -m benchmarks.cil_fates --mirror

Two classes of CIFAR-10, batches of 64, one pass of at most 156 whole batches. A program starts from its own weights and order of samples,
or from the other's, so that only the arithmetic differs. `--mirror` exchanges the two classes: labels, and columns of the head.
Logits are firing rates in tenths and tie often, and a tie goes to class 0. So a row tells the accuracy on training batches under both
rules: with ties to class 0, as it is, and to class 1.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
import tyro

from benchmarks import cil_steps, rows
from benchmarks.cil_steps import Arrays, Name, Step
from jsnn import data

COLUMNS = (
    "program",
    "weights",
    "order",
    "seed",
    "order_seed",
    "mirror",
    "channels",
    "channels_last",
    "steps",
    "fate",
    "loss",
    "accuracy",
    "accuracy_ties_to_1",
    "rates",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The class-incremental reference's first steps, and what they lead to."""

    program: Name = "jsnn"
    """What trains."""
    seeds: tuple[int, ...] = (0,)
    """Of the initial weights, and of the order."""
    weights: Name | None = None
    """Whose initial weights; the program's own if omitted."""
    order: Name | None = None
    """Whose order of samples; the program's own if omitted."""
    order_seed: int | None = None
    """Seed of the order, if not that of the weights."""
    mirror: bool = False
    """Exchange the two classes."""
    steps: int = 12
    """Optimiser steps, at most one pass."""
    last: int = 10
    """Steps at the end over which a row's figures are means."""
    channels: tuple[int, int, int] = (64, 128, 256)
    """Of the three convolutions; 64 128 256 in the reference."""
    timesteps: int = 10
    """T, time steps; 10 in the reference."""
    batch_size: int = 64
    """Images a step; 64 in the reference."""
    learning_rate: float = 1e-3
    """Adam's step size; 0.001 in the reference."""
    channels_last: bool = False
    """PyTorch's other memory layout: the same program with sums in other orders."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter that has PyTorch."""
    save: bool = False
    """Append the rows to benchmarks/results/cil_fates.jsonl."""

    @property
    def reference(self) -> cil_steps.Reference:
        """What the programs are told."""
        names = cil_steps.Reference._fields
        return cil_steps.Reference(*(getattr(self, name) for name in names))


def fate(accuracy: float, other: float) -> str:
    """`learns`; `chance`: it would learn if ties went to class 1; `stuck`: not under either rule."""
    if accuracy >= 0.6:
        return "learns"
    return "chance" if other >= 0.6 else "stuck"


def describe(steps: list[Step], labels: np.ndarray, last: int) -> dict[str, Any]:
    """What happened in each step, and means over the last ones.

    `rates[c][k]` is the mean firing rate of class c's neuron on images of class k.
    """
    size = len(steps[0].rates)
    wanted = labels[: len(steps) * size].reshape(len(steps), size)
    rates = np.array([s.rates for s in steps])
    lead = np.round(rates[..., 1] - rates[..., 0], 4)
    accuracy = {
        "accuracy": np.mean((lead > 0) == wanted, 1),
        "accuracy_ties_to_1": np.mean((lead >= 0) == wanted, 1),
    }

    def by_class(some: slice) -> list[list[float]]:
        found = [rates[some][wanted[some] == k].mean(0) for k in (0, 1)]
        return [
            [round(float(x), 3) for x in neuron] for neuron in zip(*found, strict=True)
        ]

    means = {name: float(x[-last:].mean()) for name, x in accuracy.items()}
    return {
        "fate": fate(*means.values()),
        "loss": float(np.mean([s.loss for s in steps[-last:]])),
        **means,
        "rates": by_class(slice(-last, None)),
        "first_batch": np.bincount(wanted[0], minlength=2).tolist(),
        "losses": [round(s.loss, 4) for s in steps],
        "all_rates": [by_class(slice(i, i + 1)) for i in range(len(steps))],
    } | {f"{name}_of_steps": x.round(3).tolist() for name, x in accuracy.items()}


def mirrored(start: Arrays, labels: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """The same with the classes exchanged."""
    columns = {k: v[..., ::-1].copy() for k, v in start.items() if k[:3] == "fc."}
    return start | columns, 1 - labels


def run(cfg: Config, seed: int, images: np.ndarray, labels: np.ndarray) -> dict:
    """One seed's row."""
    python, reference = cfg.peer_python, cfg.reference

    def begin(program: Name, seed: int) -> Arrays:
        if program == "jsnn":
            return cil_steps.start_jsnn(reference, seed, len(labels))
        return cil_steps.start_pytorch(reference, seed, len(labels), python)

    facts = {
        "program": cfg.program,
        "weights": cfg.weights or cfg.program,
        "order": cfg.order or cfg.program,
        "seed": seed,
        "order_seed": seed if cfg.order_seed is None else cfg.order_seed,
        "mirror": cfg.mirror,
        "last": cfg.last,
    } | reference._asdict()
    order = begin(facts["order"], facts["order_seed"])["order"]
    chosen = order[: cfg.steps * cfg.batch_size]
    start, x, y = begin(facts["weights"], seed), images[chosen], labels[chosen]
    if cfg.mirror:
        start, y = mirrored(start, y)
    if cfg.program == "jsnn":
        steps = cil_steps.train_jsnn(reference, start, x, y)
    else:
        steps = cil_steps.train_pytorch(reference, start, x, y, python)
    found = []
    for step in steps:
        found.append(step)
        rates = ", ".join(f"{rate:.2f}" for rate in step.rates.mean(0))
        print(f"seed {seed} step {len(found)} loss {step.loss:.4f} rates {rates}")
    return facts | {"steps": len(found)} | describe(found, y, cfg.last)


def main(cfg: Config) -> list[dict[str, Any]]:
    """Runs each seed, prints the table, and returns the rows."""
    split = data.load("cifar10", data_dir=cfg.data_dir).train
    task = np.flatnonzero(split.labels < 2)
    most = len(task) // cfg.batch_size
    if not 1 <= cfg.steps <= most:
        raise ValueError(
            f"`--steps` must lie between 1 and {most}, one pass of whole batches, got {cfg.steps}."
        )
    found = []
    for seed in cfg.seeds:
        context = rows.context("cil_fates")
        images, labels = split.images[task], split.labels[task].astype(np.int32)
        found.append(context | run(cfg, seed, images, labels))
        if cfg.save:
            rows.save(found[-1:], "cil_fates")
    print(rows.table(found, COLUMNS))
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
