"""When a run does what."""

import dataclasses

from jsnn import check
from jsnn.train.trainer import Phase


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a run does what, in steps of a phase.

    >>> jsnn.Schedule(log_every=100, eval_every=0).checkpoint_seconds
    60.0

    Raises:
      ValueError: if an interval is out of range.
    """

    log_every: int | None = None
    """Steps averaged into one row of training metrics; None: an epoch's."""
    eval_every: int | None = None
    """Steps n between two evaluations of the held-out samples: after steps 1, 1 + n, 1 + 2n, ... and at the end of each epoch. None: only at the end of each epoch. 0: only at the end of the phase."""
    checkpoint_seconds: float = 60.0
    """A checkpoint is written at the next row once this many seconds have passed, and at the end of each phase."""

    def __post_init__(self):
        for name, least in (("log_every", 1), ("eval_every", 0)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check.whole(name, value, least))
        check.number("checkpoint_seconds", self.checkpoint_seconds, "[0, inf]")

    def look(self, done: int, per_epoch: int, phase: Phase) -> int:
        """The next step of the phase at which an epoch ends or the held-out samples are due, after `done` steps."""
        end = (done // per_epoch + 1) * per_epoch
        if not self.eval_every or phase.evaluate != "epochs":
            return end
        return min(end, 1 + -(-done // self.eval_every) * self.eval_every)

    def rows(self, done: int, look: int) -> list[int]:
        """The steps after `done` at which rows are due, up to `look`."""
        if self.log_every is None:
            return [look]
        first = (done // self.log_every + 1) * self.log_every
        return [*range(first, look, self.log_every), look]

    def evaluates(self, done: int, per_epoch: int, phase: Phase) -> bool:
        """Whether the held-out samples are due after `done` steps of the phase."""
        if phase.evaluate != "epochs":
            return False
        if done == phase.epochs * per_epoch:
            return True
        if self.eval_every == 0:
            return False
        at_interval = self.eval_every and (done - 1) % self.eval_every == 0
        return bool(done % per_epoch == 0 or at_interval)
