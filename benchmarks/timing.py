"""Timing: compile time apart from run time, repeats interleaved, CPU seconds beside wall seconds.

One run of something is a `Sample`. Variants that are to be compared take turns, so that a disturbance hits all of them; a
`summary` keeps the minimum and the median. CPU seconds (all threads of the process) tell a disturbed run from a slow one:
other work on the machine stretches wall seconds, and CPU seconds far less.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax


class Sample(NamedTuple):
    """Seconds of one run: by the clock, and of processor time over all threads."""

    wall: float
    cpu: float


def once(call: Callable[[], Any], number: int = 1) -> Sample:
    """Seconds per call over `number` calls in a row; each is waited for."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(number):
        jax.block_until_ready(call())
    return Sample(
        (time.perf_counter() - wall) / number, (time.process_time() - cpu) / number
    )


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


def summary(samples: Sequence[Sample]) -> dict[str, float | int]:
    """Minimum and median of wall and of CPU seconds, as columns of a row."""
    wall, cpu = [s.wall for s in samples], [s.cpu for s in samples]
    return {
        "seconds_min": min(wall),
        "seconds_median": statistics.median(wall),
        "cpu_seconds_min": min(cpu),
        "cpu_seconds_median": statistics.median(cpu),
        "repeats": len(samples),
    }
