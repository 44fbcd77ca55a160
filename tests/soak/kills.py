"""Kills at random moments: after any number of them a run ends as one that was never killed, to the bit."""

import json
import pathlib
import random
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from soak import runs, warm
from soak.outcome import chosen

PER_KIND = 6
_FOUND = "difference: "
_SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


class Reference:
    """Runs that nothing disturbs, one of each kind, and how long they take. Campaigns of one soak share them.

    Args:
      folder: of the campaign.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.seconds = folder.parent / "whole", {}
        self.folder.mkdir(exist_ok=True)

    def of(self, name: str) -> pathlib.Path:
        """The folder of one; made when first asked for, twice, so that later runs find their programs compiled."""
        out = self.folder / f"whole-{runs.NAMES.index(name)}"
        told = out.with_suffix(".seconds")
        if told.exists():
            self.seconds[name] = float(told.read_text())
        if name not in self.seconds:
            for place in (out.with_name(out.name + "-first"), out):
                began = time.monotonic()
                ended = warm.start(runs.command(name, place)).wait()
                if ended.code:
                    raise RuntimeError(f"{name} does not run: {ended.said[-2000:]}")
                self.seconds[name] = time.monotonic() - began
            told.write_text(str(self.seconds[name]))
        return out


def compare(one: pathlib.Path, other: pathlib.Path) -> str | None:
    """`runs.difference`, in a child, for it needs JAX."""
    return finish("", [(other, False)], one)[0]


def finish(
    name: str, ends: Sequence[tuple[pathlib.Path, bool]], whole: pathlib.Path
) -> list[str | None]:
    """What did not hold of several runs of a kind: resumes those that have not ended, and compares each with one that nothing disturbed.

    All in one child, which traces their programs once.

    Args:
      name: of the kind.
      ends: folders, and whether the run in it is to be resumed.
      whole: the folder of the run that nothing disturbed.
    """

    def look() -> None:
        for out, resume in ends:
            code: Any = 0
            if resume:
                try:
                    runs.command(name, out, "--resume")()
                except SystemExit as error:
                    code = error.code
            why = f"does not resume ({code})" if code else runs.difference(whole, out)
            print(f"\n{_FOUND}{json.dumps(why)}", flush=True)

    ended = warm.start(look).wait(300 + 60 * len(ends))
    lines = ended.said.splitlines()
    found = [json.loads(x.removeprefix(_FOUND)) for x in lines if x.startswith(_FOUND)]
    said = " / ".join(x for x in ended.lines[-4:] if not x.startswith(_FOUND))[:600]
    lost = f"ended with {ended.code}: {said}"
    found = [f"{why}: {said}" if why and "resume" in why else why for why in found]
    return found + [lost] * (len(ends) - len(found))


def kill(
    name: str, trial: int, seed: int, reference: Reference, out: pathlib.Path
) -> str | None:
    """Kills a run one to three times; what did not hold, in words."""
    rng, more = random.Random(f"{seed} {name} {trial}"), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
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
    return None


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    cases = [(name, trial) for name in runs.NAMES for trial in range(PER_KIND)]
    reference, few = Reference(folder), chosen(cases, seed, share)
    for name in dict.fromkeys(sorted(name for name, _ in few)):
        whole = reference.of(name)
        trials = [trial for n, trial in few if n == name]
        outs = {t: folder / f"{runs.NAMES.index(name)}-{t}" for t in trials}
        wrong = {t: kill(name, t, seed, reference, outs[t]) for t in trials}
        alive = [t for t in trials if wrong[t] is None]
        found = finish(name, [(outs[t], True) for t in alive], whole)
        wrong |= dict(zip(alive, found, strict=True))
        for trial, why in wrong.items():
            yield f"{name}, trial {trial}", why
