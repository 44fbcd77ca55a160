"""The demo's flags, which every learning rule's part of it sees."""

import dataclasses
import pathlib
from typing import Literal, get_args

from experiments import flags, rules

Rule = Literal["surrogate", "eventprop", "stdp", "continual"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains spiking networks with each learning rule, on data that needs no download, and writes a report."""

    out: pathlib.Path = pathlib.Path("demo")
    """Folder for runs of the demo; each run makes a folder of its own in it, run-1, run-2, ..."""
    rules: tuple[Rule, ...] = get_args(Rule)
    """Learning rules to show; all of them unless named."""
    seed: int = 0
    """Decides initial weights and the order of samples."""
    effort: float = 1.0
    """Share of each rule's full number of epochs, 0 < effort <= 1; less is quicker and worse."""
    progress: bool = True
    """Show progress bars."""

    def __post_init__(self):
        flags.check_all(self, rules.DEMO)
        if not self.rules:
            raise ValueError("`--rules` is empty: name at least one, or leave it out.")

    def epochs(self, full: int) -> int:
        """The share of `full` epochs that `effort` asks for, at least one."""
        return max(1, round(self.effort * full))
