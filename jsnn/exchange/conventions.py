r"""What NIR leaves open: how its equations become steps.

NIR states equations in continuous time. A network that runs in steps of `dt` needs more than they say, and simulators differ.
Each choice is a field of `Convention`; `CONVENTIONS` has those of others by name.
"""

import dataclasses
from typing import Any, Literal, get_args

from jsnn import check

Method = Literal["euler", "exact"]
Current = Literal["new", "old", "exact"]
Reset = Literal["v_reset", "subtract"]
SpikeAt = Literal[">", ">="]
Floor = Literal["none", "threshold"]


class GraphError(ValueError):
    """A network cannot be read from a graph or a file of weights, or cannot be written as one; the message names the node."""


@dataclasses.dataclass(frozen=True)
class Convention:
    r"""How a graph in continuous time is computed in steps.

    >>> Convention(method="exact", reset="subtract").reset
    'subtract'

    Attributes:
      method: a time constant becomes the decay $\beta = 1 - \Delta t/\tau$ (`"euler"`, forward Euler) or $\beta = e^{-\Delta t/\tau}$
        (`"exact"`).
      scale_leaky: input enters neurons with a leak with gain $(1 - \beta) r$: a current that is held over the step. If False, with
        gain $r$.
      scale_if: input enters neurons without leak (IF, I) with gain $r \Delta t$. If False, with gain $r$: one spike adds $r$.
      current: which synaptic current the membrane of CubaLIF and CubaLI sees: the one after this step's input (`"new"`), the one before
        (`"old"`), or the current as it changes within the step (`"exact"`, the solution of both equations for an input that is held).
      reset: a spike sets the membrane to NIR's `v_reset`, or lowers it by the threshold (`"subtract"`).
      spike_at: `">"` (as NIR says) or `">="` threshold.
      several: as many spikes a step as the membrane holds thresholds, instead of one at most. Needs `reset="subtract"`.
      floor: IF neurons keep their membrane above minus the threshold (`"threshold"`), or not (`"none"`).

    Raises:
      ValueError: if a choice is unknown, or two do not go together.
    """

    method: Method = "euler"
    scale_leaky: bool = True
    scale_if: bool = False
    current: Current = "new"
    reset: Reset = "v_reset"
    spike_at: SpikeAt = ">"
    several: bool = False
    floor: Floor = "none"

    def __post_init__(self):
        choices = {"method": Method, "current": Current, "reset": Reset, "spike_at": SpikeAt, "floor": Floor}  # fmt: skip
        for name, kind in choices.items():
            check.choice(name, getattr(self, name), get_args(kind))
        for name in ("scale_leaky", "scale_if", "several"):
            check.choice(name, getattr(self, name), (False, True))
        if self.several and self.reset != "subtract":
            raise ValueError(
                "`several=True` needs `reset='subtract'`: what several resets to `v_reset` within a step are is said nowhere."
            )
        if self.current == "exact" and not (self.method == "exact" and self.scale_leaky):  # fmt: skip
            raise ValueError(
                "`current='exact'` needs `method='exact'` and `scale_leaky=True`: it solves both equations for an input that is held over the step."
            )


CONVENTIONS: dict[str, Convention] = {
    # Norse 1.1: `LIFBox`, `LIBox` and `IAF`, which its import uses.
    "norse": Convention(),
    # snnTorch 1.0: the same steps; its files are written for dt = 1e-4 s and leave out the reset, which is a choice of the layer.
    "snntorch": Convention(),
    # Sinabs 2.0: exponential decay, input with gain r, soft reset, several spikes a step, IF with a floor.
    "sinabs": Convention(
        "exact",
        scale_leaky=False,
        reset="subtract",
        spike_at=">=",
        several=True,
        floor="threshold",
    ),
    # The solution of NIR's equations for an input that is held over a step; spikes still come at the ends of steps.
    "exact": Convention("exact", scale_if=True, current="exact"),
}


def resolve(convention: Any, **changes: Any) -> Convention:
    """A convention by name or as given, with the changes that are not None.

    >>> resolve("sinabs", several=False).several
    False

    Raises:
      ValueError: if the name is unknown, or choices do not go together.
    """
    if not isinstance(convention, Convention):
        check.choice("convention", convention, CONVENTIONS)
        convention = CONVENTIONS[convention]
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(convention, **given)
