"""Draws the pictures of a finished run again, from what it saved: after a full disk, or with newer code.

    python -m experiments.report runs/fast

Nothing is trained: it reads the model, the rows and the last checkpoint, looks at the test set once more, and writes figures, tables, summary.json and report.html.
"""

import dataclasses
import pathlib
from typing import Annotated, Any, ClassVar

import tyro

from jsnn import commands
from jsnn.train import folders, rebuild, saved
from jsnn.train.runs import RunError

from . import cli, flags


@dataclasses.dataclass(frozen=True)
class Config(cli.Checked):
    """Draws the pictures of a finished run again, from what it saved."""

    of: ClassVar = flags.Rules("report")

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """Folder of the run."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""

    @property
    def out(self) -> pathlib.Path:
        """Where report.html goes."""
        return self.run


def main(cfg: Config) -> dict[str, Any]:
    """Runs the script of the run from its end."""
    run = folders.read(cfg.run)
    if run.experiment == "sweep":
        if not run.summary:
            raise _unfinished(cfg.run)
        made = rebuild.config_of("sweep", run.config)
    elif run.experiment in rebuild.SCRIPTS:
        path = cfg.run / rebuild.MODEL
        if not path.is_file():
            raise _unfinished(cfg.run)
        made = rebuild.made_by(path, saved.read(path)[1]).config
    else:
        raise RunError(
            f"{cfg.run} is a run of {run.experiment!r}, which no script here writes."
        )
    fields = {field.name for field in dataclasses.fields(made)}
    changed = {"out": cfg.run, "resume": True, "progress": False, "data_dir": cfg.data_dir}  # fmt: skip
    found = dataclasses.replace(
        made, **{k: v for k, v in changed.items() if k in fields}
    )
    return commands.script(run.experiment).main(found)


def _unfinished(folder: pathlib.Path) -> RunError:
    return RunError(
        f"The run in {folder} has not finished: run its command again with --resume, which draws its pictures too."
    )


if __name__ == "__main__":
    cli.run(Config, main)
