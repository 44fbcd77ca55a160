"""Kills at random moments: after any number of them a run ends as one that was never killed, to the bit."""

import pathlib
import random
import signal
import time
from collections.abc import Iterator

from soak import runs, warm
from soak.outcome import chosen

PER_KIND = 6
_SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


class Reference:
    """Runs that nothing disturbs, one of each kind, and how long they take."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.seconds = folder, {}

    def of(self, name: str) -> pathlib.Path:
        """The folder of one; made when first asked for, twice, so that later runs find their programs compiled."""
        out = self.folder / f"whole-{runs.NAMES.index(name)}"
        if name not in self.seconds:
            for place in (out.with_name(out.name + "-first"), out):
                began = time.monotonic()
                ended = warm.start(runs.command(name, place)).wait()
                if ended.code:
                    raise RuntimeError(f"{name} does not run: {ended.said[-2000:]}")
                self.seconds[name] = time.monotonic() - began
        return out


def compare(one: pathlib.Path, other: pathlib.Path) -> str | None:
    """`runs.difference`, in a child, for it needs JAX."""

    def look() -> None:
        found = runs.difference(one, other)
        print(f"\ndifference: {found}")

    ended = warm.start(look).wait()
    line = ended.said.splitlines()[-1] if ended.said else ""
    found = line.removeprefix("difference: ")
    return None if found == "None" and ended.code == 0 else found or ended.said[-300:]


def finish(name: str, out: pathlib.Path, whole: pathlib.Path) -> str | None:
    """Resumes a run to its end and compares it with one that nothing disturbed."""
    ended = warm.start(runs.command(name, out, "--resume")).wait()
    if ended.code:
        return f"does not resume ({ended.code}): {' / '.join(ended.lines[-4:])[:600]}"
    return compare(whole, out)


def check(
    name: str, trial: int, seed: int, reference: Reference, out: pathlib.Path
) -> str | None:
    """What did not hold, in words."""
    rng = random.Random(f"{seed} {name} {trial}")
    whole, more = reference.of(name), []
    for _ in range(rng.choice([1, 1, 2, 3])):
        number = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT])
        child = warm.start(runs.command(name, out, *more))
        last = time.monotonic() + rng.uniform(0.0, reference.seconds[name])
        while child.poll() is None and time.monotonic() < last:
            time.sleep(0.002)
        child.send(number)
        ended, more = child.wait(), ["--resume"]
        if ended.code not in (0, _SIGNALS[number]):
            return f"{number.name} ended it with {ended.code}: {ended.said[-300:]}"
        if "Traceback" in ended.said:
            return f"{number.name} ended it with a traceback: {ended.said[-600:]}"
        if ended.code > 128 and "topped" not in ended.lines[-1]:
            return f"{number.name} ended it with: {ended.lines[-1]}"
    return finish(name, out, whole)


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    cases = [(name, trial) for name in runs.NAMES for trial in range(PER_KIND)]
    reference = Reference(folder)
    few = sorted(chosen(cases, seed, share))
    for number, (name, trial) in enumerate(few):
        why = check(name, trial, seed, reference, folder / str(number))
        yield f"{name}, trial {trial}", why
