"""The demo's flags, which every learning rule's part of it sees."""

import dataclasses
import pathlib
from typing import Any, ClassVar, Literal, get_args

import jax

import jsnn
from jsnn import data
from jsnn.train import runs

from .. import cli, flags

Rule = Literal["surrogate", "eventprop", "stdp", "continual"]


@dataclasses.dataclass(frozen=True)
class Config(cli.Checked):
    """Trains spiking networks with each learning rule, on data that needs no download, and writes a report."""

    of: ClassVar = flags.Rules("demo")

    out: pathlib.Path = pathlib.Path("demo")
    """Folder for runs of the demo; each run makes a folder of its own in it, run-1, run-2, ..."""
    rules: tuple[Rule, ...] = get_args(Rule)
    """Learning rules to show; all of them unless named."""
    seed: flags.Seed = 0
    """Decides initial weights and the order of samples."""
    effort: flags.Share = 1.0
    """Share of each rule's full number of epochs, 0 < effort <= 1; less is quicker and worse."""
    progress: bool = True
    """Show progress bars."""

    def __post_init__(self):
        super().__post_init__()
        if not self.rules:
            raise ValueError("`--rules` is empty: name at least one, or leave it out.")

    def epochs(self, full: int) -> int:
        """The share of `full` epochs that `effort` asks for, at least one."""
        return max(1, round(self.effort * full))


def learn(
    cfg: Config,
    folder: pathlib.Path,
    trainer: jsnn.Trainer,
    dataset: data.Dataset,
    config: dict[str, Any],
    schedule: jsnn.Schedule = jsnn.Schedule(),  # noqa: B008
) -> tuple[runs.Run, jsnn.Fitted]:
    """Trains through a folder, whose summary is still to come."""
    run = runs.Run(folder, experiment="demo", config=config)
    key = jax.random.key(cfg.seed)
    options: Any = {"run": run, "schedule": schedule, "progress": cfg.progress}
    return run, jsnn.fit(trainer, dataset, key, **options)


def finish(
    run: runs.Run, fitted: jsnn.Fitted, label: Any, labels: Any
) -> tuple[str, str]:
    """Writes the summary; returns the first line of the table of results."""
    right, count = int((label == labels).sum()), len(labels)
    run.finish({"test_accuracy": right / count, "wall_seconds": fitted.seconds})
    shown = f"{100 * right / count:.2f} % ({right} of {count:,})"
    return "test accuracy, last epoch", shown
