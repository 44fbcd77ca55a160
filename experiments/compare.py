"""Draws curves of several runs over each other, and lists the flags in which they differ.

python -m experiments.compare runs/a runs/b --out compared
python -m experiments.compare runs/a runs/b runs/c --metrics loss convergence --out compared
"""

import dataclasses
import pathlib
from typing import Annotated, Any, ClassVar

import tyro

from jsnn.plot import compare, figures, report
from jsnn.train import folders
from jsnn.train.runs import RunError

from . import cli, flags


@dataclasses.dataclass(frozen=True)
class Config(cli.Checked):
    """Draws curves of several runs over each other, and lists the flags in which they differ."""

    of: ClassVar = flags.Rules("compare")

    runs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional]
    """Folders of runs, two or more; of one that is no run, all runs below it."""
    out: pathlib.Path
    """Folder for compare.png and compare.html; made if it is missing, and files of these names in it are replaced."""
    metrics: tuple[str, ...] = ()
    """Numbers of metrics.jsonl to draw; loss and accuracy if omitted, where the runs have them."""


def find(paths: tuple[pathlib.Path, ...]) -> dict[str, folders.Folder]:
    """The runs, by a name that tells them apart."""
    found = []
    for path in paths:
        if (path / "config.json").exists():
            found.append(folders.read(path))
        else:
            found += folders.find(path)
    found = list({run.path.resolve(): run for run in found}.values())
    if len(found) < 2:
        raise ValueError(
            f"`runs` must name at least two runs, got {len(found)}: name another folder."
        )
    names = [run.path.name for run in found]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in found]
    return dict(zip(names, found, strict=True))


def table(runs: dict[str, folders.Folder]) -> report.Table:
    """A column for each run: flags that differ, then results."""
    flagged = folders.differing([*runs.values()])
    results = [
        n for n in folders.RESULTS if any(n in run.summary for run in runs.values())
    ]
    rows = [["script", *(run.experiment for run in runs.values())]]
    rows += [
        [n, *(folders.shown(run.config.get(n)) for run in runs.values())]
        for n in flagged
    ]
    rows += [[n, *(folders.shown(run.summary.get(n)) for run in runs.values())] for n in results]  # fmt: skip
    if len({rows[0][i] for i in range(1, len(rows[0]))}) == 1:
        rows = rows[1:]
    return report.Table(("", *runs), rows)


def main(cfg: Config) -> dict[str, Any]:
    """Writes the picture and a page with it, and prints the table."""
    runs = find(cfg.runs)
    try:
        figure = compare.curves(
            {name: run.rows() for name, run in runs.items()}, cfg.metrics or None
        )
    except ValueError as error:
        raise ValueError(str(error).replace("`metrics`", "`--metrics`")) from error
    found = table(runs)
    try:
        cfg.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"`--out {cfg.out}` cannot be made ({error.strerror}). Choose another folder.") from error  # fmt: skip
    figures.save_all({"compare": figure}, cfg.out)
    caption = "A colour for each run. Thick lines are of held-out samples, thin ones of training."
    section = report.Section(
        "Flags that differ, results, and curves",
        "",
        [found],
        [report.Picture(figure, caption)],
    )
    report.write_report(cfg.out / "compare.html", "Runs compared", [section])
    print(found.text(), end="\n\n")
    return {"picture": (cfg.out / "compare.png").resolve(), "page": (cfg.out / "compare.html").resolve()}  # fmt: skip


if __name__ == "__main__":
    cli.run(Config, main)
