"""How busy other processes keep the machine while a sample is taken, from the counters that Linux keeps in `/proc`.

The machine counts the seconds that all its cores were busy, and each process its own. What is left of the first after this
process and its descendants is other people's work, and that of a virtual machine's host. A sample during which it takes more
than `ALLOWED` of the machine's CPU time is disturbed, and does not count.
"""

import os
import pathlib
import time
from typing import NamedTuple

ALLOWED = 0.05
_PROC = pathlib.Path("/proc")


class Reading(NamedTuple):
    """Seconds: by the clock, of all cores' work so far, and of this process and its descendants alone."""

    clock: float
    busy: float
    own: float
    cores: int


def _own_ticks(proc: pathlib.Path, root: int) -> int:
    """Of a process and all its descendants, those that have ended included."""
    parents, ticks = {}, {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold blanks and brackets itself.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        number = int(path.parent.name)
        parents[number] = int(fields[1])
        ticks[number] = sum(map(int, fields[11:15]))
    family, grown = {root}, True
    while grown:
        more = {n for n, parent in parents.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return sum(ticks.get(n, 0) for n in family)


def read(proc: pathlib.Path = _PROC, root: int | None = None) -> Reading | None:
    """The counters now; None where there are none, as on macOS."""
    try:
        lines = (proc / "stat").read_text().splitlines()
    except OSError:
        return None
    user, nice, system, _, _, *stolen = map(int, lines[0].split()[1:9])
    cores = sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    own = _own_ticks(proc, os.getpid() if root is None else root)
    busy = user + nice + system + sum(stolen)
    return Reading(time.perf_counter(), tick * busy, tick * own, cores)


def foreign_share(before: Reading | None, after: Reading | None) -> float | None:
    """The part of the machine's CPU time that others took between two readings, less a tick a core: Linux counts no finer."""
    if before is None or after is None:
        return None
    grain = after.cores / os.sysconf("SC_CLK_TCK")
    others = (after.busy - before.busy) - (after.own - before.own) - grain
    return max(0.0, others) / (after.cores * (after.clock - before.clock))
