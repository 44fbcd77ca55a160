"""Event recordings from files: `.npz`, and the five bytes an event of N-MNIST."""

import os
import pathlib
from typing import Any

import numpy as np

from jsnn.data.arrays import read_arrays
from jsnn.data.dataset import DataError
from jsnn.data.events import Events, recordings

KEYS = ("x", "y", "p", "t_us", "offsets")


def read_events(
    path: str | os.PathLike[str], *, split: str = "", sensor: tuple[int, int]
) -> tuple[Events, np.ndarray | None]:
    """Reads recordings and, if there are any, their labels from an `.npz` file.

    The file holds flat arrays `x`, `y`, `p`, `t_us`, and `offsets`: recording i is `offsets[i]:offsets[i+1]`. `label` is a class index a recording.

    Args:
      path: the file, written by `numpy.savez`.
      split: `"train"` reads `train_x`, `train_y` and so on.
      sensor: rows and columns `(H, W)`.

    Raises:
      DataError: no such file, no `.npz` file, an array that is missing, labels that do not fit.
      ValueError: what `recordings` refuses.
    """
    path = pathlib.Path(path)
    found = read_arrays(path)
    prefix = f"{split}_" if split else ""
    missing = [prefix + key for key in KEYS if prefix + key not in found]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(found) or 'nothing'}."
        )
    events = recordings(*(found[prefix + key] for key in KEYS), sensor=sensor)
    labels = found.get(f"{prefix}label")
    if labels is not None and labels.shape != (len(events.offsets) - 1,):
        raise DataError(
            f"`{prefix}label` of {path} has shape {labels.shape}, but there are {len(events.offsets) - 1} recordings."
        )
    return events, labels


def read_nmnist(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads one recording of N-MNIST (`.bin`, `.bs2`): arrays `x`, `y`, `p` and `t_us` `[E]`.

    An event has five bytes: column, row, then one bit of polarity and 23 bits of µs, the highest first.

    Raises:
      DataError: no such file, an empty or truncated one, or one that holds something else (times that fall, or cells outside 34 x 34).

    Reference: Orchard et al. 2015, https://doi.org/10.3389/fnins.2015.00437
    """
    path = pathlib.Path(path)
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not raw.size or raw.size % 5:
        raise DataError(
            f"{path} has {raw.size} bytes, but five an event are expected: it is empty, cut off, or of another format. Fetch it again."
        )
    b = raw.reshape(-1, 5).astype(np.int32)
    times = (b[:, 2] & 127) << 16 | b[:, 3] << 8 | b[:, 4]
    if max(b[:, 0].max(), b[:, 1].max()) > 33 or (np.diff(times) < 0).any():
        raise DataError(
            f"{path} is no recording of N-MNIST: its times fall, or cells lie outside 34 x 34."
        )
    return {"x": raw[::5], "y": raw[1::5], "p": raw[2::5] >> 7, "t_us": times}
