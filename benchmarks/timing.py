"""Timing: compile time apart from run time, repeats interleaved, CPU seconds beside wall seconds.

One run of something is a `Sample`. Variants that are to be compared take turns, so that a disturbance hits all of them; a
`summary` keeps the minimum and the median. Each sample also says how much of the machine's CPU time other processes took
meanwhile (`benchmarks.machine`); disturbed samples do not count.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from benchmarks import machine

_NEEDED = 3  # samples that must be left for a row to count


class Sample(NamedTuple):
    """Seconds of one run: by the clock, and of processor time over all threads; and the share of the machine that others took."""

    wall: float
    cpu: float
    foreign: float | None = None  # None: unknown

    @property
    def disturbed(self) -> bool:
        """Whether others took more than is allowed."""
        return self.foreign is not None and self.foreign > machine.ALLOWED


def once(call: Callable[[], Any], number: int = 1) -> Sample:
    """Seconds per call over `number` calls in a row; each is waited for."""
    before = machine.read()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(number):
        jax.block_until_ready(call())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    foreign = machine.foreign_share(before, machine.read())
    return Sample(wall / number, cpu / number, foreign)


def compile_step(
    fn: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()
) -> tuple[Any, float]:
    """The compiled function for these arguments, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    compiled = jax.jit(fn, donate_argnums=donate).lower(*args).compile()
    return compiled, time.perf_counter() - start


def timed(call: Callable[[], Any], min_seconds: float) -> Callable[[], Sample]:
    """`call` made ready for `interleave`: warmed up, and repeated so often within a sample that this lasts `min_seconds`."""
    once(call)
    number = max(1, round(min_seconds / max(once(call).wall, 1e-7)))
    return lambda: once(call, number)


def interleave(
    calls: Mapping[str, Callable[[], Sample]], repeats: int
) -> dict[str, list[Sample]]:
    """Runs all calls in turn, `repeats` rounds; every round begins with another one.

    Raises:
      ValueError: if `repeats` is not positive.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
    names, samples = list(calls), {name: [] for name in calls}
    for i in range(repeats):
        first = i % max(len(names), 1)
        for name in names[first:] + names[:first]:
            samples[name].append(calls[name]())
    return samples


def evidence(samples: Sequence[Sample], needed: int = _NEEDED) -> dict[str, Any]:
    """Whether a row of these samples counts, and why, as columns of it.

    `counted` of the `repeats` samples are undisturbed; the row `passes` if those are at least `needed`, or all where fewer were taken,
    and others were counted at all. `foreign_share` is the largest of a counted sample, or of all if none counts.
    """
    counted = [s for s in samples if not s.disturbed]
    shares = [s.foreign for s in counted or samples]
    known = [share for share in shares if share is not None]
    enough = len(counted) >= min(needed, len(samples))
    return {
        "repeats": len(samples),
        "counted": len(counted),
        "foreign_share": max(known, default=None),
        "passes": enough and len(known) == len(shares),
    }


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Minimum and median of wall and of CPU seconds of the undisturbed samples, and `evidence`, as columns of a row.

    Where every sample was disturbed they are those of all, and the row does not pass.
    """
    found = evidence(samples)
    samples = [s for s in samples if not s.disturbed] or samples
    wall, cpu = [s.wall for s in samples], [s.cpu for s in samples]
    return found | {
        "seconds_min": min(wall),
        "seconds_median": statistics.median(wall),
        "cpu_seconds_min": min(cpu),
        "cpu_seconds_median": statistics.median(cpu),
    }
