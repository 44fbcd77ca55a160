"""Runs the campaigns and prints what held, n of n."""

import argparse
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

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


def main() -> int:
    """1 if anything did not hold."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides cases and moments")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=[*CAMPAIGNS])
    parser.add_argument("--cache", type=pathlib.Path, help="folder of compiled programs, for the next time")  # fmt: skip
    given = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jsnn-soak-"))
    warm.prepare(given.cache or folder / "cache")
    rows, failures = [], 0
    for name in given.only:
        began, held, count = time.monotonic(), 0, 0
        place = folder / name
        place.mkdir()
        for case, why in CAMPAIGNS[name](given.seed, given.share, place):
            count, held = count + 1, held + (why is None)
            if why is not None:
                print(f"{name}: {case}: {why}", flush=True)
        failures += count - held
        rows.append((name, held, count, time.monotonic() - began))
        print(f"{name}: {held} of {count}", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
    print(
        f"\n{'campaign':<10} {'held':>6} {'of':>6} {'seconds':>8}   seed {given.seed}"
    )
    for name, held, count, seconds in rows:
        print(f"{name:<10} {held:>6} {count:>6} {seconds:>8.0f}")
    shutil.rmtree(folder, ignore_errors=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
