"""Recordings of an event sensor: ragged arrays on the device, and what is made of them inside the compiled step.

Axes: E all events, N recordings, B recordings of a batch, L events of the longest of them, T steps; H, W rows and columns of the sensor.
Times are microseconds since the start of a recording.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from jsnn import check

# Numbers of 32 bits, by which XLA counts places.
_COUNTED = 2**31
POLARITIES = ("kept", "signed", "merged")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "y", "p", "t_us", "offsets"],
    meta_fields=["sensor", "longest"],
)
@dataclasses.dataclass(frozen=True)
class Events:
    """Recordings of different length in flat arrays: recording i is `offsets[i]:offsets[i+1]`. `recordings` makes a checked one."""

    x: Any  # [E]
    y: Any  # [E]
    p: Any  # [E]
    t_us: Any  # [E]
    offsets: Any  # [N + 1]
    sensor: tuple[int, int]
    longest: int


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "y", "p", "t_us", "valid"],
    meta_fields=["sensor"],
)
@dataclasses.dataclass(frozen=True)
class Batch:
    """Some recordings, padded to one length; only `valid` events count."""

    x: Any  # [B, L]
    y: Any  # [B, L]
    p: Any  # [B, L]
    t_us: Any  # [B, L]
    valid: Any  # [B, L]
    sensor: tuple[int, int]


def recordings(
    x: Any, y: Any, p: Any, t_us: Any, offsets: Any, *, sensor: tuple[int, int]
) -> Events:
    """Makes checked recordings that lie on the device.

    >>> recordings([0, 1, 1], [0, 0, 1], [1, 0, 1], [5, 9, 2], [0, 2, 3], sensor=(2, 2)).longest
    2

    Args:
      x: columns `[E]`, `0..W-1`.
      y: rows `[E]`, `0..H-1`.
      p: polarities `[E]`, 0 (darker) or 1 (brighter).
      t_us: times `[E]` in µs, not falling within a recording.
      offsets: where each recording begins, and the end of the last, `[N + 1]`.
      sensor: rows and columns `(H, W)`.

    Returns:
      The recordings. Coordinates keep the smallest integer type that holds them; times are int32.

    Raises:
      ValueError: unequal lengths, offsets that do not fit, an empty recording, times that fall, values out of range.
    """
    if len(sensor) != 2:
        raise ValueError(f"`sensor` must be rows and columns (H, W), got {sensor!r}.")
    height, width = (check.whole("sensor", side, 1) for side in sensor)
    named = {"x": x, "y": y, "p": p, "t_us": t_us, "offsets": offsets}
    flat = {name: _whole_numbers(name, values) for name, values in named.items()}
    ends = flat.pop("offsets")
    sizes = {name: len(values) for name, values in flat.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"x, y, p and t_us must be equally long, got {sizes}.")
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != sizes["x"]:
        raise ValueError(
            f"`offsets` must begin with 0 and end with the number of events, {sizes['x']}, got {ends[:1]}…{ends[-1:]}."
        )
    counts = check_events(flat, ends, (height, width))
    limits = {"x": width, "y": height, "p": 2}
    small = {
        name: flat[name].astype(np.min_scalar_type(limits[name] - 1)) for name in "xyp"
    }
    return Events(
        **{name: jnp.asarray(values) for name, values in small.items()},
        t_us=jnp.asarray(flat["t_us"].astype(np.int32)),
        offsets=jnp.asarray(ends.astype(np.int32)),
        sensor=(height, width),
        longest=int(counts.max()),
    )


def check_events(
    flat: dict[str, np.ndarray], ends: np.ndarray, sensor: tuple[int, int]
) -> np.ndarray:
    """How many events each recording has, `[N]`; flat `x`, `y`, `p` and `t_us` are looked at.

    Raises:
      ValueError: an empty recording, values out of range, times that fall.
    """
    height, width = sensor
    counts = np.diff(ends.astype(np.int64))
    if (counts < 1).any():
        at = int(np.argmax(counts < 1))
        raise ValueError(
            f"recording {at} is empty (`offsets[{at}:{at + 2}]` is {ends[at : at + 2]}): leave it out, with its label."
        )
    limits = {"x": width, "y": height, "p": 2, "t_us": 2**31}
    for name, limit in limits.items():
        values = flat[name]
        if values.min() < 0 or values.max() >= limit:
            at = int(np.argmax((values < 0) | (values >= limit)))
            raise ValueError(
                f"`{name}[{at}]` is {values[at]}, but must lie in 0..{limit - 1} (sensor {height} x {width})."
            )
    falls = flat["t_us"][1:] < flat["t_us"][:-1]
    falls[ends[1:-1] - 1] = False  # a new recording starts anew
    if falls.any():
        at = int(np.argmax(falls)) + 1
        raise ValueError(
            f"`t_us` falls at event {at}, within recording {int(np.searchsorted(ends, at, 'right')) - 1}: sort the events of a recording by time."
        )
    return counts


def _whole_numbers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise ValueError(
            f"`{name}` must be whole numbers along one axis, at least one, got {array.dtype} of shape {array.shape}."
        )
    return array


def chosen(events: Events, which: Any) -> Events:
    """Some of the recordings, in this order: `which` holds their numbers, or a truth for each.

    >>> events = recordings([0, 1, 1], [0, 0, 1], [1, 0, 1], [5, 9, 2], [0, 2, 3], sensor=(2, 2))
    >>> chosen(events, [1]).t_us.tolist()
    [2]
    """
    offsets, which = np.asarray(events.offsets), np.asarray(which)
    if which.dtype == bool:
        which = np.flatnonzero(which)
    counts = offsets[which + 1] - offsets[which]
    ends = np.concatenate([[0], np.cumsum(counts)])
    at = np.arange(ends[-1]) + np.repeat(offsets[which] - ends[:-1], counts)
    x, y, p, t = (np.asarray(a)[at] for a in (events.x, events.y, events.p, events.t_us))  # fmt: skip
    return recordings(x, y, p, t, ends, sensor=events.sensor)


def take(
    events: Events, index: Int[Array | np.ndarray, " B"], length: int | None = None
) -> Batch:
    """The recordings at `index`, padded to `length` events (the longest of all if None; later events of longer ones are left out).

    Recordings that `event_sets.load` left on the host are read here, and only those at `index`.

    >>> events = recordings([0, 1, 1], [0, 0, 1], [1, 0, 1], [5, 9, 2], [0, 2, 3], sensor=(2, 2))
    >>> take(events, jnp.array([1, 0])).valid.astype(int).tolist()
    [[1, 0], [1, 1]]
    """
    count: int = events.longest if length is None else check.whole("length", length, 1)  # fmt: skip
    if isinstance(events.x, np.ndarray):  # on the host, perhaps on disk
        known = check.known(index)
        if known is None:
            raise ValueError(
                "`index` is traced, but these recordings are on the host: call `take` outside of `jit`, or load them with `on_device=True`."
            )
        start, end = (np.asarray(events.offsets)[known + i][:, None] for i in (0, 1))
        position = start + np.arange(count)[None]
        valid = position < end
        position = np.minimum(position, end - 1)
    else:
        start = events.offsets[index][:, None]
        position = start + jnp.arange(count, dtype=jnp.int32)[None]
        valid = position < events.offsets[index + 1][:, None]
        position = jnp.minimum(position, len(events.x) - 1)
    columns = [a[position] for a in (events.x, events.y, events.p)]
    x, y, p = (jnp.asarray(a).astype(jnp.int32) for a in columns)
    times = jnp.asarray(events.t_us[position])
    return Batch(x, y, p, times, jnp.asarray(valid), events.sensor)


def pack(events: Events, index: Any = None, length: int | None = None) -> np.ndarray:
    """Recordings as one array on the host, for a `Dataset`: `unpack` is the way back, within the compiled step.

    >>> events = recordings([0, 1, 1], [0, 0, 1], [1, 0, 1], [5, 9, 2], [0, 2, 3], sensor=(2, 2))
    >>> pack(events)[1].tolist()  # one event: 2 µs, row 1, column 1, brighter
    [[2, 7], [-1, -1]]

    Args:
      events: all recordings.
      index: which of them, `[N]`; all if None.
      length: L, the longest of all if None; later events of longer recordings are left out.

    Returns:
      `[N, L, 2]` int32: time in µs, and `(row * W + column) * 2 + polarity`; -1 past the last event.
    """
    offsets, width = np.asarray(events.offsets), events.sensor[1]
    index = np.arange(len(offsets) - 1) if index is None else np.asarray(index)
    counts = offsets[index + 1] - offsets[index]
    size = events.longest if length is None else check.whole("length", length, 1)
    columns = [np.asarray(a) for a in (events.t_us, events.x, events.y, events.p)]
    packed = np.full((len(index), size, 2), -1, np.int32)
    for row, start, count in zip(packed, offsets[index], counts, strict=True):
        some = slice(start, start + min(count, size))
        # One recording at a time: they may be many, and on disk.
        t, x, y, p = (column[some].astype(np.int32) for column in columns)
        row[: len(t)] = np.stack([t, (y * width + x) * 2 + p], -1)
    return packed


def unpack(rows: Any, sensor: tuple[int, int]) -> Batch:
    """The recordings that `pack` packed.

    >>> unpack(jnp.array([[[2, 7], [-1, -1]]]), sensor=(2, 2)).y.tolist()
    [[1, 0]]
    """
    if rows.ndim != 3 or rows.shape[-1] != 2:
        raise ValueError(
            f"`rows` must be recordings [B, L, 2] of time and cell, got shape {rows.shape}: make them with `jsnn.data.events.pack`."
        )
    t, code = rows[..., 0], rows[..., 1]
    valid = code >= 0
    code = jnp.maximum(code, 0)
    cell = code // 2
    return Batch(cell % sensor[1], cell // sensor[1], code % 2, jnp.maximum(t, 0), valid, sensor)  # fmt: skip


def frames(
    batch: Batch,
    num_steps: int,
    dt_us: Any = None,
    *,
    polarity: str = "kept",
    downsample: int = 1,
    crop: tuple[int, int, int, int] | None = None,
    soft: bool = False,
) -> Float[Array, "T B H W C"]:
    r"""Counts of events per step, cell of the sensor, and polarity.

    $$ F_{t,b,i,j,c} = \sum_{e \in b} k(t_e/\Delta t - t) \, [\, y_e, x_e \in (i, j) \,]\, [\, p_e = c \,] $$

    with $k(u) = [0 \le u < 1]$. With `soft`, $k(u) = \max(0, 1 - |u - 1/2|)$: an event is shared by the two steps whose
    middles are nearest to it, and the frames have a gradient in $\Delta t$ and in times.

    >>> events = recordings([0, 1], [0, 0], [1, 0], [5, 19], [0, 2], sensor=(1, 2))
    >>> frames(take(events, jnp.array([0])), 2, 10.0, polarity="signed")[:, 0, 0, :, 0].tolist()
    [[1.0, 0.0], [0.0, -1.0]]

    Args:
      batch: recordings `[B, L]`, as `take` gives.
      num_steps: T.
      dt_us: length of a step in µs; may be traced. Events from `num_steps * dt_us` on are left out. If None, the steps of a
        recording hold equally many of its events instead.
      polarity: `"kept"` (C = 2), `"signed"` (brighter minus darker, C = 1) or `"merged"` (C = 1).
      downsample: cells of the sensor along each side that make one.
      crop: `(top, left, height, width)` of the part of the sensor that is seen, before downsampling.
      soft: shares an event between steps (needs `dt_us`).

    Returns:
      `[T, B, H, W, C]`, float32, or the type of `dt_us` if that is float64.

    Raises:
      ValueError: an unknown polarity, a number out of range, a crop outside the sensor, `soft` without `dt_us`.
    """
    check.choice("polarity", polarity, POLARITIES)
    num_steps = check.whole("num_steps", num_steps, 1)
    if soft and dt_us is None:
        raise ValueError("`soft` frames need `dt_us`: a count has no middle to share.")
    row, column, size, seen = _cells(batch, crop, check.whole("downsample", downsample, 1))  # fmt: skip
    if dt_us is None:
        count = jnp.maximum(jnp.sum(batch.valid, 1, keepdims=True), 1)
        rank = jnp.cumsum(batch.valid, 1) - 1
        phase = jnp.floor_divide(rank * num_steps, count).astype(jnp.float32)
    else:
        check.number("dt_us", dt_us, "(0, inf)")
        dt = jnp.asarray(dt_us)
        phase = batch.t_us / dt
        if not soft:  # XLA may multiply by a rounded 1/dt: an event on the edge of a step must not slip into the one before
            step = jnp.floor(phase)
            late, early = batch.t_us >= (step + 1) * dt, batch.t_us < step * dt
            phase = step + late - early
    value = 2 * batch.p.astype(phase.dtype) - 1 if polarity == "signed" else 1
    channel = batch.p if polarity == "kept" else 0
    channels = 2 if polarity == "kept" else 1
    cell = (row * size[1] + column) * channels + channel
    which = jnp.arange(len(batch.x))[:, None]
    shape = (num_steps, len(batch.x), *size, channels)
    # XLA adds to one axis in half the time that it takes for five.
    flat = (math.prod(shape),)
    if flat[0] + flat[0] // num_steps >= _COUNTED:  # with the step that is dropped
        flat = (num_steps * len(batch.x), flat[0] // (num_steps * len(batch.x)))
    result = jnp.zeros(flat, phase.dtype)

    def add(result: Array, step: Array, share: Array | int) -> Array:
        good = batch.valid & seen & (step >= 0) & (step < num_steps)
        step = jnp.where(good, step, num_steps).astype(jnp.int32)  # dropped
        image = step * len(batch.x) + which
        where = (image, cell) if result.ndim == 2 else image * math.prod(shape[2:]) + cell  # fmt: skip
        return result.at[where].add(value * share, mode="drop")

    if not soft:
        counts = add(result, jnp.floor(phase), 1)
        return counts.reshape(shape)
    early = jnp.floor(jax.lax.stop_gradient(phase) - 0.5)
    late_share = phase - 0.5 - early
    counts = add(add(result, early, 1 - late_share), early + 1, late_share)
    return counts.reshape(shape)


def _cells(
    batch: Batch, crop: tuple[int, int, int, int] | None, downsample: int
) -> tuple[Array, Array, tuple[int, int], Array]:
    """Row and column of each event after cropping and downsampling, the size, and which events are seen."""
    height, width = batch.sensor
    top, left, rows, columns = (0, 0, height, width) if crop is None else crop
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:  # fmt: skip
        raise ValueError(
            f"`crop` {crop} (top, left, height, width) must lie within the sensor, {height} x {width}."
        )
    y, x = batch.y - top, batch.x - left
    seen = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    size = (-(-rows // downsample), -(-columns // downsample))
    row, column = (jnp.where(seen, a // downsample, 0) for a in (y, x))
    return row, column, size, seen


def spikes(*args: Any, **kwargs: Any) -> Float[Array, "T B H W C"]:
    """Spikes on a grid: `frames` (whose arguments it takes), but at most one spike a step; not for `polarity="signed"`."""
    return jnp.minimum(frames(*args, **kwargs), 1.0)


def first_spikes(
    batch: Batch, num_steps: int, dt_us: Any, **cells: Any
) -> UInt8[Array, "B H W C"]:
    """The step of each cell's first event, and T where there is none, as `jsnn.stdp` takes it. `cells`: as for `frames`.

    Raises:
      ValueError: more than 255 steps, which uint8 does not hold.
    """
    num_steps = check.whole("num_steps", num_steps, 1)
    if num_steps > 255:
        raise ValueError(
            f"`num_steps` must be at most 255, got {num_steps}: take longer steps."
        )
    some = frames(batch, num_steps, dt_us, **cells) != 0
    first = jnp.argmax(some, 0).astype(jnp.uint8)
    return jnp.where(jnp.any(some, 0), first, jnp.uint8(num_steps))


def input_times(
    batch: Batch, unit_us: Any = 1000.0, **cells: Any
) -> tuple[Float[Array, "B L"], Int[Array, "B L"]]:
    """The events themselves, for a solver that needs no grid.

    >>> events = recordings([0, 1], [0, 0], [1, 0], [500, 1750], [0, 2], sensor=(1, 2))
    >>> times, neuron = input_times(take(events, jnp.array([0]), 3), unit_us=1.0)
    >>> times.tolist(), neuron.tolist()
    ([[500.0, 1750.0, inf]], [[1, 2, -1]])

    Args:
      batch: recordings `[B, L]`.
      unit_us: how many µs the unit of time has, a millisecond by default.
      cells: `crop` and `downsample`, as for `frames`.

    Returns:
      Times in order, infinite past the last one, and which input each belongs to: `(row * W + column) * 2 + polarity`, -1 past the last.
      `jsnn.eventprop.EventSpikes` holds the same pair.
    """
    row, column, size, seen = _cells(batch, cells.pop("crop", None), check.whole("downsample", cells.pop("downsample", 1), 1))  # fmt: skip
    if cells:
        raise ValueError(f"unknown arguments: {', '.join(cells)}.")
    good = batch.valid & seen
    times = jnp.where(good, batch.t_us / jnp.asarray(unit_us), jnp.inf)
    neuron = jnp.where(good, (row * size[1] + column) * 2 + batch.p, -1)
    order = jnp.argsort(times, axis=1, stable=True)
    return jnp.take_along_axis(times, order, 1), jnp.take_along_axis(neuron, order, 1)
