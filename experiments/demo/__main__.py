"""Trains a spiking network with each learning rule, prints what it reaches and costs, and writes one report.

    python -m experiments.demo --out demo

`report.html` is one file with curves, spikes, membranes and classified digits.
"""

import contextlib
import pathlib
import re
from collections.abc import Callable
from typing import Any

from jsnn.plot import report
from jsnn.train import runs

from .. import cli
from . import continual, eventprop, stdp, surrogate
from .settings import Config

LEAD = (
    "A spiking neuron adds up what it receives, in its membrane. When the membrane reaches a threshold, the neuron sends a spike and starts anew. "
    "Here four small networks of such neurons have just learnt, each in another way. Three of them know handwritten digits: 1,797 images of 8 by 8 pixels, "
    "1,437 to train on and 360 to test. One knows points of a plane. Below each picture stands what it shows and how to read it."
)


def new_folder(out: pathlib.Path) -> pathlib.Path:
    """Makes `out/run-N` with the next free N. Nothing is ever replaced, so any `out` is safe to name, and old reports stay.

    Raises:
      RunError: if the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        while True:
            found = (re.fullmatch(r"run-(\d+)", path.name) for path in out.iterdir())
            number = 1 + max((int(match[1]) for match in found if match), default=0)
            with contextlib.suppress(FileExistsError):  # another demo was faster
                (out / f"run-{number}").mkdir()
                return out / f"run-{number}"
    except OSError as error:
        raise runs.RunError(
            f"`--out {out}` cannot be written ({error.strerror}). Choose a folder you may write to."
        ) from error


# A learning rule joins the demo with one line: its name and a function from the config and a folder of its own to a section.
RULES: dict[str, Callable[[Config, pathlib.Path], report.Section]] = {
    "surrogate": surrogate.train,
    "eventprop": eventprop.train,
    "stdp": stdp.train,
    "continual": continual.train,
}


def main(cfg: Config) -> dict[str, Any]:
    """Runs every learning rule, prints its tables, and writes one report of them all."""
    folder = new_folder(cfg.out)
    sections = []
    for name in cfg.rules:
        section = RULES[name](cfg, folder / name)
        sections.append(section)
        print(f"\n{section.title}\n")
        for table in (*section.tables, *section.more):
            print(table.text(), end="\n\n")
    path = folder / "report.html"
    report.write_report(
        path,
        "Spiking networks, four ways to learn",
        sections,
        lead=LEAD,
    )
    return {"report": path.resolve()}


if __name__ == "__main__":
    cli.run(Config, main)
