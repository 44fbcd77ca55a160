"""Lists the runs in a folder: the flags in which they differ, and their results.

    python -m experiments.runs runs
    python -m experiments.runs runs --by test_accuracy --columns forgetting --csv runs.csv

Runs of different scripts stand in different tables. Of a run that has not finished it says how far it has come.
"""

import csv
import dataclasses
import io
import pathlib
from typing import Annotated, Any, ClassVar

import tyro

from jsnn import files
from jsnn.plot.report import Table
from jsnn.train import folders
from jsnn.train.folders import Folder

from . import cli, flags


@dataclasses.dataclass(frozen=True)
class Config(cli.Checked):
    """Lists the runs in a folder: the flags in which they differ, and their results."""

    of: ClassVar = flags.Rules("runs")

    folder: Annotated[pathlib.Path, tyro.conf.Positional]
    """Folder with runs in it, at any depth."""
    by: str | None = None
    """Sort by this column, the largest first; by path if omitted."""
    columns: tuple[str, ...] = ()
    """More columns, of flags or results."""
    csv: pathlib.Path | None = None
    """Also write all runs, with all flags and results, to this file."""


def state(run: Folder) -> str:
    """Whether a run has finished, and how far it has come if not."""
    if run.summary:
        return "finished"
    rows = run.rows()
    if not rows:
        return "begun"
    last = rows[-1]
    return f"epoch {last['epoch']:.3g}" if "epoch" in last else f"step {last.get('step', 0)}"  # fmt: skip


def of_run(run: Folder, name: str) -> Any:
    """A flag or a result."""
    return run.config.get(name, run.summary.get(name, run.about.get(name)))


def name_of(run: Folder, root: pathlib.Path) -> str:
    """Its path below the folder that is listed."""
    return str(run.path.relative_to(root)) if run.path != root else run.path.name


def table(runs: list[Folder], root: pathlib.Path, more: tuple[str, ...]) -> Table:
    """Runs of one script."""
    flagged = folders.differing(runs) if len(runs) > 1 else []
    results = [n for n in folders.RESULTS if any(n in run.summary for run in runs)]
    names = list(dict.fromkeys([*flagged, *results, *more]))
    rows = [
        [
            name_of(run, root),
            state(run),
            *(folders.shown(of_run(run, name)) for name in names),
        ]
        for run in runs
    ]
    return Table(("run", "state", *names), rows)


def as_csv(runs: list[Folder], root: pathlib.Path) -> str:
    """All runs, with all that their configs and summaries hold."""
    rows = [
        {"run": name_of(run, root), "state": state(run), "experiment": run.experiment}
        | {k: folders.shown(v) for k, v in run.config.items()}
        | {k: v for k, v in run.summary.items() if k != "experiment"}
        for run in runs
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def known(runs: list[Folder], flag: str, name: str) -> str:
    """The name of a flag or a result as configs and summaries have it.

    Raises:
      ValueError: if no run has it.
    """
    field = name.replace("-", "_")
    if not any(field in {**run.config, **run.summary, **run.about} for run in runs):
        results = sorted(name for name in {n for r in runs for n in r.summary} if name not in folders.PLACE)  # fmt: skip
        raise ValueError(
            f"`{flag} {name}`: no run has it. Choose a flag, or one of {', '.join(results[:12])}."
        )
    return field


def sort(runs: list[Folder], by: str) -> list[Folder]:
    """The largest first; runs without a number there come last."""

    def key(run: Folder) -> float:
        value = of_run(run, by)
        return float(value) if isinstance(value, int | float) else float("-inf")

    return sorted(runs, key=key, reverse=True)


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Prints a table for each script."""
    runs = folders.find(cfg.folder)
    more = tuple(known(runs, "--columns", name) for name in cfg.columns)
    if cfg.by is not None:
        by = known(runs, "--by", cfg.by)
        runs, more = sort(runs, by), (*more, by)
    for script in dict.fromkeys(run.experiment for run in runs):
        chosen = [run for run in runs if run.experiment == script]
        print(f"{script}\n\n{table(chosen, cfg.folder, more).text()}\n")
    if cfg.csv is not None:
        files.write(cfg.csv, as_csv(runs, cfg.folder))
    return {"runs": len(runs), "finished": sum(bool(run.summary) for run in runs)}


if __name__ == "__main__":
    cli.run(Config, main)
