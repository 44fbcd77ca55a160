"""Runs the campaigns and prints what held, n of n."""

import argparse
import math
import pathlib
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from soak import cost, damage, faults, flag_cases, folders, kills, library, pairs, warm

# (seed, share, folder) -> each case and what did not hold of it.
Campaign = Callable[[int, float, pathlib.Path], Iterator[tuple[str, str | None]]]
CAMPAIGNS: dict[str, Campaign] = {
    "flags": flag_cases.run,
    "folders": folders.run,
    "library": library.run,
    "kills": kills.run,
    "damage": damage.run,
    "faults": faults.run,
    "pairs": pairs.run,
    "cost": cost.run,
}


class Row(NamedTuple):
    """Of the table."""

    name: str
    held: int
    tried: int
    seconds: float
    cpu: float


def cpu() -> float:
    """Seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def campaign(name: str, given: argparse.Namespace, place: pathlib.Path) -> Row:
    """Runs one to its end, or for so long; Ctrl-C goes on with the next."""
    began, used, held, count = time.monotonic(), cpu(), 0, 0
    place.mkdir()
    try:
        for case, why in CAMPAIGNS[name](given.seed, given.share, place):
            count, held = count + 1, held + (why is None)
            if why is not None:
                print(f"{name}: {case}: {why}", flush=True)
            if time.monotonic() - began > given.seconds:
                break
    except KeyboardInterrupt:
        print(f"{name} was stopped", file=sys.stderr)
    print(f"{name}: {held} of {count}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    return Row(name, held, count, time.monotonic() - began, cpu() - used)


def main() -> int:
    """1 if anything did not hold."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides cases and moments")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=[*CAMPAIGNS])
    parser.add_argument("--seconds", type=float, default=math.inf, help="for each campaign at most")  # fmt: skip
    parser.add_argument("--cache", type=pathlib.Path, help="folder of compiled programs, for the next time")  # fmt: skip
    given = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jsnn-soak-"))
    warm.prepare(given.cache or folder / "cache")
    rows = [campaign(name, given, folder / name) for name in given.only]
    print(f"\n{'campaign':<10} {'held':>6} {'of':>6} {'seconds':>8} {'CPU':>6}   seed {given.seed}")  # fmt: skip
    for row in rows:
        print(f"{row.name:<10} {row.held:>6} {row.tried:>6} {row.seconds:>8.0f} {row.cpu:>6.0f}")  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    return int(any(row.held < row.tried for row in rows))


if __name__ == "__main__":
    sys.exit(main())
