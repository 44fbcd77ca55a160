"""Event recordings from files: `.npz`, N-MNIST's five bytes an event, AEDAT 2.0, 3.1 and 4, and the HDF5 of spiking speech.

A single recording is read as arrays `x`, `y`, `p` and `t_us` `[E]`. `jsnn.data.event_sets` reads whole data sets by name.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jsnn.data.arrays import read_arrays
from jsnn.data.dataset import DataError
from jsnn.data.events import Events, recordings

KEYS = ("x", "y", "p", "t_us", "offsets")
NUM_UNITS = 700  # of the artificial ear behind SHD and SSC

Recording = dict[str, np.ndarray]


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


def read_recording(path: str | os.PathLike[str]) -> Events:
    """Reads one recording from a file of an event camera, by the ending of its name.

    | ending | format | sensor |
    |---|---|---|
    | `.bin`, `.bs2` | N-MNIST | 34 x 34 |
    | `.aedat` | AEDAT 2.0 or 3.1 of a DVS128 | 128 x 128 |
    | `.aedat4` | AEDAT 4 | as the file says |

    Raises:
      DataError: another ending, no such file, or one that holds something else.
    """
    path = pathlib.Path(path)
    sensor = (128, 128)
    if path.suffix in (".bin", ".bs2"):
        found, sensor = read_nmnist(path), (34, 34)
    elif path.suffix == ".aedat4":
        found, sensor = read_aedat4(path)
    elif path.suffix == ".aedat":
        content = read_bytes(path)
        old = content.startswith(b"#!AER-DAT2")
        found = parse_aedat2(content, path) if old else parse_aedat3(content, path)
        found = since_start(found)
    else:
        raise DataError(
            f"{path} must end in .bin, .bs2, .aedat or .aedat4: read other recordings by a program of their own, and write an .npz file for `read_events`."
        )
    return recordings(**found, offsets=np.array([0, len(found["x"])]), sensor=sensor)


def read_bytes(path: pathlib.Path) -> bytes:
    """The content of a file, or a `DataError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def read_nmnist(path: str | os.PathLike[str]) -> Recording:
    """Reads one recording of N-MNIST (`.bin`, `.bs2`): arrays `x`, `y`, `p` and `t_us` `[E]`.

    Raises:
      DataError: no such file, or what `parse_nmnist` refuses.
    """
    return parse_nmnist(read_bytes(pathlib.Path(path)), path)


def parse_nmnist(content: bytes, path: Any) -> Recording:
    """One recording of N-MNIST from the bytes of its file.

    An event has five bytes: column, row, then one bit of polarity and 23 bits of µs, the highest first. Row 240 is no event: 8,192 µs have passed
    more than the times say.

    Raises:
      DataError: an empty or truncated file, or one that holds something else (times that fall, or cells outside 34 x 34).

    Reference: Orchard et al. 2015, https://doi.org/10.3389/fnins.2015.00437
    """
    raw = np.frombuffer(content, np.uint8)
    if not raw.size or raw.size % 5:
        raise DataError(
            f"{path} has {raw.size} bytes, but five an event are expected: it is empty, cut off, or of another format. Fetch it again."
        )
    b = raw.reshape(-1, 5).astype(np.int32)
    over = b[:, 1] == 240
    times = ((b[:, 2] & 127) << 16 | b[:, 3] << 8 | b[:, 4]) + 8192 * np.cumsum(over)
    b, times = b[~over], times[~over].astype(np.int32)
    if not times.size or max(b[:, 0].max(), b[:, 1].max()) > 33 or (np.diff(times) < 0).any():  # fmt: skip
        raise DataError(
            f"{path} is no recording of N-MNIST: its times fall, or cells lie outside 34 x 34."
        )
    x, y, p = (b[:, i].astype(np.uint8) for i in range(3))
    return {"x": x, "y": y, "p": p >> 7, "t_us": times}


def parse_aedat2(content: bytes, path: Any) -> Recording:
    """A recording of a DVS128 in AEDAT 2.0, with its own clock.

    After lines that begin with `#`, an event has two numbers of 32 bits, the highest byte first: an address and µs. Of the address, bit 0 is the
    polarity (0 brighter), bits 1 to 7 the column and 8 to 14 the row as the chip counts them. Rows and columns are turned as in the program
    `dat2mat.m` that the authors of CIFAR10-DVS and MNIST-DVS name.

    Raises:
      DataError: another format, an empty or truncated file.
    """
    body = _after_header(content, b"#!AER-DAT2", path)
    if not body or len(body) % 8:
        raise _cut_off(path, len(body), "eight bytes an event")
    numbers = np.frombuffer(body, ">u4").reshape(-1, 2)
    address, times = numbers[:, 0], numbers[:, 1].astype(np.int64)
    if (address >> 15).any():
        raise DataError(f"{path} holds addresses that a DVS128 does not have.")
    column, row = address >> 1 & 127, address >> 8 & 127
    x, y, p = 127 - row, 127 - column, 1 - (address & 1)
    return {"x": x, "y": y, "p": p, "t_us": times}


def parse_aedat3(content: bytes, path: Any) -> Recording:
    """The polarity events of an AEDAT 3.1 file, with its own clock.

    After lines that begin with `#` come packets. Each has a header of 28 bytes (type, source, size of an event, offset of its time, overflows of
    the clock, capacity, number, number valid), then the events: 32 bits of data and 32 of µs. Of the data, bit 0 says whether the event is valid,
    bit 1 the polarity, bits 2 to 16 the row and 17 to 31 the column.

    Raises:
      DataError: another format, an empty or truncated file.
    """
    body = _after_header(content, b"#!AER-DAT3", path)
    parts, at = [], 0
    while at < len(body):
        if at + 28 > len(body):
            raise _cut_off(path, len(body), "whole packets")
        kind = int.from_bytes(body[at : at + 2], "little")
        size, _, overflow, _, number, _ = np.frombuffer(body, "<i4", 6, at + 4).tolist()
        at += 28
        if size < 8 or number < 0 or at + size * number > len(body):
            raise _cut_off(path, len(body), "whole packets")
        if kind == 1 and size == 8:  # polarity
            pairs = np.frombuffer(body, "<u4", 2 * number, at).reshape(-1, 2)
            times = pairs[:, 1].astype(np.int64) + (overflow << 31)
            parts.append((pairs[:, 0], times))
        at += size * number
    if not parts:
        raise DataError(f"{path} holds no events of a camera.")
    data, times = (np.concatenate(part) for part in zip(*parts, strict=True))
    data, times = data[data & 1 == 1], times[data & 1 == 1]
    x, y, p = data >> 17, data >> 2 & 0x7FFF, data >> 1 & 1
    return {"x": x, "y": y, "p": p, "t_us": times}


def _after_header(content: bytes, magic: bytes, path: Any) -> bytes:
    """What follows the lines that begin with `#`."""
    if not content.startswith(magic):
        raise DataError(
            f"{path} is no {magic[2:].decode()} file: it begins with {content[:12]!r}."
        )
    at, end = 0, content.find(b"#!END-HEADER")
    if end >= 0:  # of 3.1
        return content[content.index(b"\n", end) + 1 :]
    while content[at : at + 1] == b"#" and (newline := content.find(b"\n", at)) >= 0:
        at = newline + 1
    return content[at:]


def _cut_off(path: Any, size: int, expected: str) -> DataError:
    return DataError(
        f"{path} has {size} bytes of events, but {expected} are expected: it is empty or cut off. Fetch it again."
    )


def since_start(found: Recording) -> Recording:
    """The recording in the order of its times, which count from its first event."""
    order = np.argsort(found["t_us"], kind="stable")
    found = {name: values[order] for name, values in found.items()}
    return {**found, "t_us": found["t_us"] - found["t_us"][:1]}


def read_aedat4(
    path: str | os.PathLike[str],
) -> tuple[Recording, tuple[int, int]]:
    """Reads the events of an AEDAT 4 file, and rows and columns of its sensor. Needs the package `aedat` (`pip install jsnn[events]`).

    Raises:
      DataError: no such file, a damaged one, or one without events; or the package is missing.
    """
    try:
        import aedat
    except ImportError as error:
        raise _no_package("aedat", path) from error
    try:
        decoder = aedat.Decoder(os.fspath(path))
        streams: Any = decoder.id_to_stream()
        cameras = {k: s for k, s in streams.items() if s["type"] == "events"}
        parts = [p["events"] for p in decoder if p["stream_id"] in cameras]
    except Exception as error:  # of the Rust reader
        raise DataError(
            f"{path} is no AEDAT 4 file, is damaged or cut off ({error})."
        ) from error
    if len(cameras) != 1 or not sum(map(len, parts)):
        raise DataError(
            f"{path} has {len(cameras)} event cameras and {sum(map(len, parts))} events, but one camera with events is expected."
        )
    events = np.concatenate(parts)
    (camera,) = cameras.values()
    found = {"x": events["x"], "y": events["y"], "p": events["on"].astype(np.uint8)}
    found = since_start({**found, "t_us": events["t"].astype(np.int64)})
    return found, (camera["height"], camera["width"])


def read_hdf5(
    path: str | os.PathLike[str], *, units: int = NUM_UNITS
) -> tuple[Events, np.ndarray]:
    """Reads recordings and their labels from an HDF5 file like those of SHD and SSC. Needs `h5py` (`pip install jsnn[events]`).

    The file holds `spikes/times` (s) and `spikes/units`, one array a recording, and `labels`. A channel of the ear is a column; there is one row.

    Args:
      path: the file.
      units: number of channels.

    Raises:
      DataError: no such file, one that holds something else, or the package is missing.
      ValueError: what `recordings` refuses.

    Reference: Cramer et al. 2020, https://doi.org/10.1109/TNNLS.2020.3044364
    """
    labels, parts = [], []
    for label, found in stream_hdf5(path):
        labels.append(label)
        parts.append(found)
    if not parts:
        raise DataError(f"{path} holds no recordings.")
    flat = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    ends = np.cumsum([0, *(len(p["x"]) for p in parts)])
    return recordings(**flat, offsets=ends, sensor=(1, units)), np.array(labels, np.int32)  # fmt: skip


def stream_hdf5(path: str | os.PathLike[str]) -> Iterator[tuple[int, Recording]]:
    """Label and recording, one after the other, of a file as for `read_hdf5`.

    Raises:
      DataError: as there.
    """
    try:
        import h5py
    except ImportError as error:
        raise _no_package("h5py", path) from error
    file: Any
    try:
        with h5py.File(path, "r") as file:
            times, units = file["spikes/times"], file["spikes/units"]
            for i, label in enumerate(np.asarray(file["labels"])):
                t_us = np.round(np.asarray(times[i], np.float64) * 1e6)
                x = np.asarray(units[i], np.uint16)
                nothing = np.zeros(len(x), np.uint8)
                found = {"x": x, "y": nothing, "p": nothing, "t_us": t_us}
                order = np.argsort(t_us, kind="stable")
                found = {name: values[order] for name, values in found.items()}
                yield int(label), {**found, "t_us": found["t_us"].astype(np.int64)}
    except (OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
        raise DataError(
            f"{path} is no HDF5 file with spikes/times, spikes/units and labels, or is cut off ({type(error).__name__}: {error})."
        ) from error


def _no_package(name: str, path: Any) -> DataError:
    return DataError(
        f"reading {path} needs the package {name}: `pip install {name}`, or `pip install jsnn[events]`."
    )
