"""Decoded event recordings on disk: written one recording after the other, and read a piece at a time, so that they need not fit into memory.

    <folder>/<split>.events      one row an event: t_us, x, and y and p where the sensor has them
    <folder>/<split>.npz         offsets [N + 1] and labels [N]
    <folder>/<split>.json        checksums of both, written last

A store is only ever a shortcut, as `jsnn.data.cache` is.
"""

import errno
import io
import json
import pathlib
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import files
from jsnn.data import cache
from jsnn.data.dataset import DataError
from jsnn.data.events import Events, check_events

# Label, where it comes from, and arrays x, y, p, t_us.
Stream = Iterator[tuple[int, Any, dict[str, np.ndarray]]]
_PIECE = 4_000_000  # events that are read at a time


class Stored(NamedTuple):
    """Recordings of one split: recording i is `rows[offsets[i]:offsets[i + 1]]`."""

    rows: np.ndarray  # [E] with fields, on disk unless it could not be written
    offsets: np.ndarray  # [N + 1] int64
    labels: np.ndarray  # [N] int32


def row_type(sensor: tuple[int, int], *, polarity: bool) -> np.dtype:
    """The smallest row that holds an event of this sensor."""
    height, width = sensor
    fields = [("t_us", np.int32), ("x", np.min_scalar_type(width - 1))]
    if height > 1:
        fields.append(("y", np.min_scalar_type(height - 1)))
    return np.dtype(fields + ([("p", np.uint8)] if polarity else []))


def read(folder: pathlib.Path, split: str, rows: np.dtype) -> Stored | None:
    """The recordings from the folder if it holds them undamaged, else None."""
    try:
        checksums = json.loads((folder / f"{split}.json").read_text())
        path = folder / f"{split}.events"
        with np.load(folder / f"{split}.npz", allow_pickle=False) as small:
            offsets, labels = small["offsets"], small["labels"]
        found = {"rows": _file_checksum(path), **_checksums(offsets, labels)}
        if checksums != found or path.stat().st_size != offsets[-1] * rows.itemsize:
            return None
        return Stored(np.memmap(path, rows, "r"), offsets, labels)
    except Exception:
        # Whatever stands in a damaged file, the remedy is to decode again.
        return None


def write(
    folder: pathlib.Path, split: str, stream: Stream, *, sensor: tuple[int, int], rows: np.dtype
) -> Stored | None:  # fmt: skip
    """Decodes the recordings into the folder; None, with a warning, if it does not take them.

    Raises:
      DataError: a recording is not what it should be.
    """
    small: dict[str, Any] = {}
    try:
        if cache.is_locked(folder):
            raise PermissionError(errno.EROFS, "it is read-only")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{split}.events"
        files.write(path, lambda out: small.update(_decode(out, stream, sensor, rows)))
        files.write(folder / f"{split}.npz", lambda out: np.savez(out, **small))
        found = {"rows": _file_checksum(path), **_checksums(**small)}
        files.write(folder / f"{split}.json", json.dumps(found))
        return Stored(np.memmap(path, rows, "r"), **small)
    except OSError as error:
        warnings.warn(
            f"the decoded {split} recordings are not kept in {folder} ({error.strerror}), so the next run decodes them again. "
            "Set JSNN_CACHE to a folder that can be written and has space.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def in_memory(stream: Stream, *, sensor: tuple[int, int], rows: np.dtype) -> Stored:
    """Decodes the recordings into memory.

    Raises:
      DataError: a recording is not what it should be.
    """
    out = io.BytesIO()
    small = _decode(out, stream, sensor, rows)
    return Stored(np.frombuffer(out.getbuffer(), rows), **small)


def _decode(
    out: Any, stream: Stream, sensor: tuple[int, int], rows: np.dtype
) -> dict[str, np.ndarray]:
    counts, labels = [0], []
    for label, source, found in stream:
        try:
            check_events(found, np.array([0, len(found["x"])]), sensor)
        except ValueError as error:
            raise DataError(f"{source}: {error}") from error
        table = np.empty(len(found["x"]), rows)
        for name in rows.names or ():
            table[name] = found[name]
        out.write(table.tobytes())
        counts.append(len(table))
        labels.append(label)
    if not labels:
        raise DataError("the data set has no recordings.")
    offsets = np.cumsum(np.array(counts, np.int64))
    return {"offsets": offsets, "labels": np.array(labels, np.int32)}


def _checksums(offsets: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    return {"offsets": zlib.crc32(offsets.data), "labels": zlib.crc32(labels.data)}


def _file_checksum(path: pathlib.Path) -> int:
    result = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            result = zlib.crc32(piece, result)
    return result


def host_events(stored: Stored, sensor: tuple[int, int]) -> Events:
    """The recordings where they are: `take` reads those of a batch."""
    nothing = np.broadcast_to(np.uint8(0), stored.rows.shape)
    names = stored.rows.dtype.names or ()
    columns = {n: stored.rows[n] if n in names else nothing for n in "xyp"}
    return Events(
        **columns,
        t_us=stored.rows["t_us"],
        offsets=stored.offsets,
        sensor=sensor,
        longest=int(np.diff(stored.offsets).max()),
    )


def device_events(stored: Stored, sensor: tuple[int, int]) -> Events:
    """The recordings on the device. The host holds one column of them at a time, beside the piece that is read.

    Raises:
      DataError: more events than 32 bits count.
    """
    total = len(stored.rows)
    if total >= 2**31:
        raise DataError(
            f"{total} events are more than the device counts: leave them on the host by `on_device=False`."
        )
    names = stored.rows.dtype.names or ()
    columns = {}
    for name in ("t_us", "x", "y", "p"):
        if name in names:
            column = jnp.asarray(_column(stored.rows, name))
            columns[name] = jax.block_until_ready(column)  # the host's copy may go
        else:
            columns[name] = jnp.zeros(total, jnp.uint8)
    return Events(
        **columns,
        offsets=jnp.asarray(stored.offsets.astype(np.int32)),
        sensor=sensor,
        longest=int(np.diff(stored.offsets).max()),
    )


def _column(rows: np.ndarray, name: str) -> np.ndarray:
    """One field of all rows, read in pieces: a mapped file would stay in memory."""
    column = np.empty(len(rows), rows.dtype[name])
    source = getattr(rows, "filename", None)
    if source is None:
        column[:] = rows[name]
        return column
    with open(source, "rb") as file:
        for at in range(0, len(rows), _PIECE):
            piece = np.fromfile(file, rows.dtype, min(_PIECE, len(rows) - at))
            column[at : at + len(piece)] = piece[name]
    return column
