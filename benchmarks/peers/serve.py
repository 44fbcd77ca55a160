"""A measured process: does one step of work for every line it reads, and answers with one JSON object a line.

The first answer comes after building and one warm-up step; each later one holds the seconds of a step and the process's
peak memory. Standard library only: this file is run by JAX's Python and by PyTorch's alike, whichever owns the step.
"""

import contextlib
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

_STATUS = pathlib.Path("/proc/self/status")


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    return 0


def peak_bytes() -> int:
    """The most memory this process has held since it began, or since `forget_peak`.

    Linux's own counter, where there is one: `ru_maxrss` starts at the size of whatever process launched this one.
    """
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return kilobyte * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes() -> int:
    """Memory this process holds now; its peak where the system does not say."""
    return _status_bytes("VmRSS") if _STATUS.exists() else peak_bytes()


def forget_peak() -> None:
    """Starts the peak anew at what is held now, where the system can, so that a compiler's memory does not count."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def jax_memory() -> tuple[Callable[[], int], Callable[[], int]] | None:
    """Bytes of the first device held now and at most, for `serve`; None where JAX counts none, as on a CPU."""
    import jax

    device = jax.devices()[0]
    if device.memory_stats() is None:
        return None
    return (
        lambda: device.memory_stats()["bytes_in_use"],
        lambda: device.memory_stats()["peak_bytes_in_use"],
    )


def serve(build: Callable[[], tuple[Callable[[], float], dict[str, Any]]]) -> None:
    """Answers on standard output until standard input ends.

    Args:
      build: returns the step, which blocks until its work is done and returns a loss or any other number to check it by, and
        facts for the first answer; under `memory` two functions that say how many bytes are held now and at most, where they are
        not this process's own but an accelerator's. An `ImportError` in it is answered as `{"missing": ...}`.
    """
    # Libraries print; what they print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(row: dict[str, Any]) -> None:
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    try:
        step, facts = build()
    except ImportError as error:
        answer({"missing": str(error)})
        return
    held, most = facts.pop("memory", None) or (resident_bytes, peak_bytes)
    forget_peak()
    before, start = held(), time.perf_counter()
    check = step()
    warmup = time.perf_counter() - start
    answer(facts | {"check": check, "warmup_seconds": warmup})
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        answer({"wall": wall, "cpu": cpu, "peak_bytes": most() - before})
