"""The other end of `peers/serve.py`: starts a measured process and asks it for steps.

A fresh process has its own peak memory and its own threads. Several are started first and then asked in turn, so compilation
and warm-up stay out of the measurement and every variant meets the same machine.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import machine
from benchmarks.timing import Sample

# Threads of the process whose turn it was may still spin this long, waiting for more work.
_PAUSE_SECONDS = 0.3
_ROOT = pathlib.Path(__file__).parents[1]
# On a GPU, JAX would take most of the memory at its start and leave none for the next process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class WorkerError(RuntimeError):
    """A measured process ended before it answered."""


class Missing(RuntimeError):
    """The library that a measured process needs is not installed there."""


class Worker:
    """A measured process. `facts` is its first answer, `peak_bytes` its peak memory above that before the first step.

    Of each turn the first `warm_steps` steps do not count. Where a step takes and returns gigabytes, the one after a pause waits
    for memory that the system has meanwhile put to other uses; steps of a training follow each other without one.

    Raises:
      Missing: if it lacks the library.
      WorkerError: if it fails otherwise.
    """

    def __init__(self, name: str, command: Sequence[str], *, warm_steps: int = 0):
        self.name, self.peak_bytes, self._warm_steps = name, 0, warm_steps
        with contextlib.ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=_ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    text=True,
                )
            except OSError as error:
                raise WorkerError(
                    f"{name}: {command[0]} cannot be run ({error.strerror})."
                ) from error
            stack.callback(self._end)
            self.facts = self._answer()
            if "missing" in self.facts:
                raise Missing(f"{name}: {self.facts['missing']} ({command[0]})")
            self._stack = stack.pop_all()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        tail = "".join(self._errors.readlines()[-15:]).strip()
        raise WorkerError(
            f"{self.name}: the process ended with code {code} (-9: probably out of memory). Its last words:\n{tail}"
        )

    def __call__(self) -> Sample:
        """One step, after those that do not count; who else works is counted from the pause on."""
        before = machine.read()
        time.sleep(_PAUSE_SECONDS)
        for _ in range(self._warm_steps):
            self._step()
        sample = self._step()
        return sample._replace(foreign=machine.foreign_share(before, machine.read()))

    def _step(self) -> Sample:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` finds out why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        answer = self._answer()
        self.peak_bytes = answer["peak_bytes"]
        return Sample(answer["wall"], answer["cpu"])

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        with self._process:  # waits, and closes the pipes
            pass

    def close(self) -> None:
        """Ends the process."""
        self._stack.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_peers(
    stack: contextlib.ExitStack,
    commands: Mapping[str, Sequence[str]],
    *,
    warm_steps: int = 0,
) -> dict[str, Worker]:
    """Starts the peers that can be, and says which are left out and why; `stack` ends them."""
    found = {}
    for name, command in commands.items():
        try:
            worker = Worker(name, command, warm_steps=warm_steps)
            found[name] = stack.enter_context(worker)
        except Missing as missing:
            print(f"Left out, not installed: {missing}")
        except WorkerError as error:
            print(f"Left out, failed: {error}")
    return found


def csnn_worker(name: str, work: dict[str, Any]) -> Worker:
    """A process that runs the reference CSNN of this library; `work` holds fields of `benchmarks.csnn_worker.Work`."""
    return Worker(
        name, [sys.executable, "-m", "benchmarks.csnn_worker", json.dumps(work)]
    )
