"""Time spent on a run, over all its parts."""

import time
from typing import Any

# A stretch this long keeps the progress bar alive and costs nothing in dispatch.
_STRETCH_SECONDS = 2.0


class Clock:
    """Seconds of the whole run, of its training steps alone, and of all cores together. It goes on from the last row, so the parts of a resumed run add up."""

    def __init__(self, rows: list[dict[str, Any]]):
        last = rows[-1] if rows else {}
        self._began = time.monotonic() - last.get("seconds", 0.0)
        self._cpu_before = last.get("cpu_seconds", 0.0) - time.process_time()
        self._train_seconds = last.get("train_seconds", 0.0)
        self._pace: float | None = None

    def stretch(self) -> int:
        """Steps to take at a time: one at first, which tells the pace."""
        return 1 if self._pace is None else max(1, int(_STRETCH_SECONDS / self._pace))

    def trained(self, num_steps: int, seconds: float) -> None:
        """Counts a stretch."""
        self._pace = seconds / num_steps
        self._train_seconds += seconds

    def read(self) -> dict[str, float]:
        """All three, for a row."""
        return {
            "seconds": time.monotonic() - self._began,
            "train_seconds": self._train_seconds,
            "cpu_seconds": time.process_time() + self._cpu_before,
        }
