"""Signals that end a run: it finishes the steps under way, saves, and stops."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has saved what it had.

    Attributes:
      code: what a program that ends now returns: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.code = 128 + number


class Listener:
    """What was asked for so far: the number of a signal, or 0."""

    number = 0

    def together(self) -> int:
        """The signal that any of the processes of a run has got; all must call this at the same step."""
        if jax.process_count() == 1:
            return self.number
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(np.int32(self.number)).max())


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """While this is open, SIGINT and SIGTERM are noted and not acted upon; a second Ctrl-C ends the process at once.

    In a thread beside the main one, where Python has no say in signals, nothing is noted.
    """
    listener = Listener()
    if threading.current_thread() is not threading.main_thread():
        yield listener
        return

    def note(number: int, frame: object) -> None:
        listener.number = listener.number or number

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    with _at_once():
        try:
            yield listener
        finally:
            for number, handler in before.items():
                # None: one that was not set from Python, which cannot be set again from here.
                signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _at_once() -> Iterator[None]:
    """A thread that hears of signals also while the main one compiles or computes, and ends the process at the second Ctrl-C."""
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)

    def listen() -> None:
        presses = 0
        while heard := os.read(ear, 1):
            presses += heard[0] == signal.SIGINT
            if presses > 1:
                os._exit(130)
            if presses == 1 and heard[0] == signal.SIGINT:
                os.write(2, b"\nStopping after the step under way; press Ctrl-C again to stop at once.\n")  # fmt: skip

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(mouth)
        thread.join()
        os.close(ear)
