"""S members of a sweep in one program, against S runs one after another in one process; compilation counted in both.

    python -m benchmarks.sweep [--members 1 4 16] [--experiments csnn_digits] [--save]

`ratio` is seconds of the one program over those of the runs in turn. `turn` compiles once and calls the compiled program S times, as a careful user
would; `anew` compiles for every run, as S calls of a script's `main` do.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import tyro

from benchmarks import rows, timing
from experiments import csnn_mnist, eventprop_yinyang
from jsnn.train import search, sweep

COLUMNS = (
    "experiment",
    "members",
    "at_once",
    "seconds_one_program",
    "seconds_in_turn",
    "seconds_anew",
    "ratio_in_turn",
    "ratio_anew",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sweeps against runs one after another."""

    experiments: tuple[str, ...] = ("csnn_digits", "yinyang")
    """Which programs to sweep."""
    members: tuple[int, ...] = (1, 2, 4, 8, 16)
    """S, seeds in one program; one comparison each."""
    at_once: tuple[int, ...] = (1, 16)
    """Members that are vmapped, of those in one program; the others wait in a loop within it."""
    epochs: int = 5
    """Epochs of each run."""
    save: bool = False
    """Append the rows to benchmarks/results/sweep.jsonl."""


def csnn_digits(epochs: int) -> sweep.Program:
    """The fast convolutional network on 1,437 digits."""
    cfg = csnn_mnist.Config(
        pathlib.Path("unused"), data="digits", epochs=epochs, batch_size=64
    )
    return csnn_mnist.program(cfg)


def yinyang(epochs: int) -> sweep.Program:
    """EventProp on a grid: 200 hidden neurons, 5,000 points."""
    cfg = eventprop_yinyang.Config(pathlib.Path("unused"), epochs=epochs)
    return eventprop_yinyang.program(cfg)


PROGRAMS: dict[str, Callable[[int], sweep.Program]] = {
    "csnn_digits": csnn_digits,
    "yinyang": yinyang,
}


def _once(call: Callable[[], Any]) -> timing.Sample:
    """Compilation counted."""
    jax.clear_caches()
    return timing.once(call)


def measure(cfg: Config, name: str, num_members: int) -> list[dict[str, Any]]:
    """One comparison: a row for each way to run the one program."""
    program = PROGRAMS[name](cfg.epochs)
    members = search.grid([], range(num_members))

    def one_program(at_once):
        return [chunk for chunk, _ in sweep.run(program, members, at_once=at_once)]

    def in_turn():
        return [chunk for chunk, _ in sweep.run(program, members, chunk=1)]

    def single():
        return [chunk for chunk, _ in sweep.run(program, members[:1])]

    samples = [_once(in_turn), _once(single)]
    turn, anew = samples[0].wall, num_members * samples[1].wall
    found = []
    for at_once in cfg.at_once:
        samples[2:] = [_once(lambda at_once=at_once: one_program(at_once))]
        together = samples[2].wall
        found.append(
            {
                "experiment": name,
                "members": num_members,
                "at_once": at_once,
                "epochs": cfg.epochs,
                "seconds_one_program": together,
                "seconds_in_turn": turn,
                "seconds_anew": anew,
                "ratio_in_turn": together / turn,
                "ratio_anew": together / anew,
            }
            | timing.evidence(samples, needed=3)
        )
    return found


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures every size, prints the table, and returns the rows."""
    context = rows.context("sweep")
    found = [
        context | row
        for name in cfg.experiments
        for size in cfg.members
        for row in measure(cfg, name, size)
    ]
    rows.report(found, COLUMNS, benchmark="sweep", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
