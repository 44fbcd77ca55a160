"""Command lines in children of one process that has imported everything: a case costs a fork, and not the import of JAX."""

import contextlib
import ctypes
import dataclasses
import importlib
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

SCRIPTS = (
    "csnn_mnist",
    "eventprop_mnist",
    "eventprop_yinyang",
    "stdp_mnist",
    "cil_cifar10",
    "events",
    "events_stdp",
    "sound",
    "sweep",
    "predict",
    "runs",
    "compare",
    "report",
    "demo",
)
_TRACE = "Traceback (most recent call last)"


def prepare(cache: pathlib.Path) -> None:
    """Imports what children need, touches no device, and starts no thread: these would not live on in a child."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["MPLBACKEND"] = "agg"
    # Compiling is most of the work of tiny runs.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    for name in SCRIPTS:
        module(name)
    for name in ("orbax.checkpoint", "sklearn.datasets", "matplotlib.pyplot", "tqdm", "safetensors.numpy"):  # fmt: skip
        importlib.import_module(name)
    from stdp_tiny import TINY

    from jsnn import stdp

    for name, network in TINY.items():  # small enough to compile quickly
        stdp.NETWORKS[f"tiny_{name}"] = network


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
      code: its exit code; minus a signal's number if one ended it.
      said: what it wrote to stdout and stderr.
      cpu: seconds of all its threads.
      in_time: whether it ended by itself before it was given up.
    """

    code: int
    said: str
    cpu: float
    in_time: bool

    @property
    def lines(self) -> list[str]:
        """Lines of what it said, but for warnings, which no case counts, and bars."""
        found, skip = [], False
        for line in self.said.replace("\r", "\n").splitlines():
            warning = "Warning: " in line
            # The line after a warning shows its source.
            if line.strip() and not warning and not (skip and line.startswith("  ")):
                found.append(line)
            skip = warning
        return found

    @property
    def one_line(self) -> bool:
        """Whether it ended in one line that says what is wrong, and no traceback."""
        errors = [x for x in self.lines if x.startswith("error: ")]
        return len(errors) == 1 and errors[0] == self.lines[-1] and _TRACE not in self.said  # fmt: skip


class Child:
    """A command line that runs. It says what it has to say through a pipe, which no full disk and no limit on files stops."""

    def __init__(self, pid: int, ear: int):
        self.pid, self.ear, self.said = pid, ear, b""
        self.ended: Ended | None = None

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> Ended | None:
        """How it ended, if it has."""
        if self.ended is None:
            self._hear()
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._close(status, usage, in_time=True)
        return self.ended

    def wait(self, seconds: float = 300.0) -> Ended:
        """Waits until it ends; after so many seconds ends it."""
        last = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > last:
                os.kill(self.pid, signal.SIGKILL)
                _, status, usage = os.wait4(self.pid, 0)
                self._close(status, usage, in_time=False)
                break
            time.sleep(0.005)
        assert self.ended is not None
        return self.ended

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while heard := os.read(self.ear, 1 << 16):
                self.said += heard

    def _close(self, status, usage, *, in_time: bool) -> None:
        self._hear()
        os.close(self.ear)
        code = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime
        self.ended = Ended(code, self.said.decode(errors="replace"), cpu, in_time)


def module(name: str) -> Any:
    """The module of a script."""
    return importlib.import_module(f"experiments.{name}{'.__main__' * (name == 'demo')}")  # fmt: skip


def script(args: Sequence[str]) -> Callable[[], None]:
    """`python -m experiments.NAME FLAG ...` as a function."""
    name, *flags = args
    main = module(name)

    def run() -> None:
        sys.argv = [f"experiments/{name}.py", *flags]
        main.cli.run(main.Config, main.main)

    return run


def start(
    run: Callable[[], object], *, inside: Callable[[], object] | None = None
) -> Child:
    """Starts a function in a child.

    Args:
      run: what it does.
      inside: called in the child before, to change its world.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ear, mouth = os.pipe()
    pid = os.fork()
    if pid:
        os.close(mouth)
        os.set_blocking(ear, False)
        return Child(pid, ear)
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with its parent (Linux)
        os.dup2(mouth, 1)
        os.dup2(mouth, 2)
        if inside is not None:
            inside()
        run()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)  # fmt: skip
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
