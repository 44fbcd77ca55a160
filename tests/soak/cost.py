"""What checks cost of a training: under one hundredth of its CPU time."""

import functools
import importlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from soak import warm

MOST = 0.01
# Rooms whose functions named `check...` are counted, and all of `jsnn.check`.
ROOMS = (
    "jsnn.check",
    "jsnn.train.size",
    "jsnn.train.trainer",
    "jsnn.train.task",
    "jsnn.train.loop",
    "jsnn.stdp.waves",
    "jsnn.stdp.networks",
    "jsnn.continual.settings",
    "jsnn.eventprop.flow",
    "jsnn.eventprop.grid",
    "experiments.common",
    "experiments.flags",
    "experiments.cli",
)
# Of about forty seconds: a program is traced once for its sizes, whatever its length. Most of that trace is used again, but counted here.
TRAININGS = {
    "csnn": "csnn_mnist --data digits --network mlp --hidden 128 --timesteps 16 --epochs 400 --no-progress",
    "eventprop": "eventprop_yinyang --hidden 60 --num-train 1000 --epochs 90 --no-progress",
    "stdp": "stdp_mnist --data digits --recipe tiny_chain --epochs 4 8 --no-progress",
    "tasks": "cil_cifar10 --data digits --network mlp --hidden 128 --timesteps 8 --epochs-per-task 8 --method er --buffer 200 --no-progress",
}


class Clock:
    """Seconds within checks, those within others counted once."""

    def __init__(self):
        self.seconds, self.inside = 0.0, False

    def timed(self, check: Callable[..., Any]) -> Callable[..., Any]:
        """The same check, with its time added up."""

        @functools.wraps(check)
        def run(*args: Any, **options: Any) -> Any:
            if self.inside:
                return check(*args, **options)
            self.inside, began = True, time.process_time()
            try:
                return check(*args, **options)
            finally:
                self.seconds += time.process_time() - began
                self.inside = False

        return run


def watch() -> Clock:
    """Counts from now on."""
    clock = Clock()
    for room in ROOMS:
        module = importlib.import_module(room)
        for name, value in [*vars(module).items()]:
            own = getattr(value, "__module__", "") == room and callable(value)
            if own and not isinstance(value, type) and ("check" in name or room == "jsnn.check"):  # fmt: skip
                setattr(module, name, clock.timed(value))
    return clock


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    told = folder / "told"
    for number, (name, flags) in enumerate(TRAININGS.items()):
        script, *more = flags.split()
        args = [script, "--out", str(folder / str(number)), "--seed", str(seed), *more]

        def train(args: list[str] = args) -> None:
            clock, began = watch(), time.process_time()
            warm.script(args)()
            spent = time.process_time() - began
            told.write_text(f"{clock.seconds} {spent}")

        ended = warm.start(train).wait(1200)
        if ended.code:
            yield name, f"ended with {ended.code}: {ended.said[-300:]}"
            continue
        checks, whole = map(float, told.read_text().split())
        words = f"{name}: checks took {checks:.2f} of {whole:.1f} s"
        print(words, flush=True)
        yield name, None if checks < MOST * whole else words
