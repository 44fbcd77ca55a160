"""The bundled digits as a simulated event camera sees them: no download. Simulated, so not a benchmark of real sensors.

A digit of 8 x 8 pixels is enlarged to 16 x 16, lies in the middle of a sensor of 20 x 20, and the camera makes three saccades along a
triangle, as in N-MNIST. A cell reports each time the logarithm of its brightness has changed by a threshold since its last event.

Axes: N recordings, H, W rows and columns of the sensor.
"""

from typing import Any

import numpy as np

from jsnn import check
from jsnn.data.digits import digits
from jsnn.data.events import Events, recordings

SENSOR = (20, 20)
DURATION_US = 150_000  # three saccades of 50 ms
_SEED = 20  # of the thresholds' scatter: the data are the same for everybody


def simulate(
    images: Any,
    *,
    threshold: float = 0.4,
    refractory_us: float = 3_000.0,
    step_us: float = 2_000.0,
    reach: float = 2.0,
    scatter: float = 0.05,
    seed: int = _SEED,
) -> Events:
    r"""An event camera that moves over still images.

    A cell whose reference is $\ell$ fires as soon as $|\log(I + 0.1) - \ell| \ge \theta$, brighter or darker by the sign, and then $\ell$ moves by
    $\pm\theta$. Within a step of the simulation brightness changes linearly, so times are finer than steps.

    >>> events = simulate(np.eye(8)[None])
    >>> events.sensor, len(events.offsets) - 1
    ((20, 20), 1)

    Args:
      images: `[N, 8, 8]`, brightness in [0, 1].
      threshold: $\theta$, on the scale of logarithms.
      refractory_us: µs after an event in which its cell is silent.
      step_us: µs of a step of the simulation.
      reach: cells the camera moves along each axis.
      scatter: standard deviation of the cells' thresholds, as a share of `threshold`; those for brighter and darker differ.
      seed: of the scatter, anew in each recording.

    Returns:
      Recordings of 150 ms. A blank image, which no camera sees, gets one event in its corner.
    """
    for name, value in {"threshold": threshold, "step_us": step_us}.items():
        check.number(name, value, "(0, inf)")
    for name, value in {"refractory_us": refractory_us, "scatter": scatter}.items():
        check.number(name, value, "[0, inf)")
    check.number("reach", reach, "[0, 2]")
    images = np.asarray(images, np.float32)
    if images.ndim != 3 or images.shape[1:] != (8, 8):
        raise ValueError(f"`images` must be [N, 8, 8], got shape {images.shape}.")
    scene, draw = _scene(images), np.random.RandomState(seed)
    shape = (len(images), *SENSOR)
    own = draw.standard_normal((2, *shape)).astype(np.float32)
    levels = np.maximum(threshold * (1 + scatter * own), threshold / 2)
    before = _seen(scene, *_gaze(0.0, reach))
    reference, ready = before.copy(), np.zeros(shape, np.float32)
    found = []
    for k in range(round(DURATION_US / step_us)):
        start = np.float32(k * step_us)
        now = _seen(scene, *_gaze((k + 1) * step_us / DURATION_US, reach))
        change = now - reference
        up = np.where(change >= 0, np.float32(1), np.float32(-1))
        level = np.where(change >= 0, levels[1], levels[0])
        fires = (abs(change) >= level) & (ready <= start + step_us)
        at = np.flatnonzero(fires)
        slope, aim = (now - before).flat[at], (reference + up * level).flat[at]
        share = (aim - before.flat[at]) / np.where(slope == 0, 1, slope)
        time = start + step_us * np.clip(np.where(slope == 0, 0, share), 0, 1)
        time = np.minimum(np.maximum(time, ready.flat[at]), DURATION_US - 1)
        reference.flat[at] = aim
        ready.flat[at] = time + refractory_us
        found.append((at, up.flat[at] > 0, time.astype(np.int32)))
        before = now
    return _sorted(found, len(images))


def _gaze(phase: float, reach: float) -> tuple[float, float]:
    """Where the camera looks, rows and columns: a triangle that ends where it began."""
    corners = np.array([[0.0, 0.0], [1.0, 0.5], [0.0, 1.0], [0.0, 0.0]]) * reach
    leg = min(int(3 * phase), 2)
    share = 3 * phase - leg
    y, x = (1 - share) * corners[leg] + share * corners[leg + 1]
    return float(y), float(x)


def _scene(images: np.ndarray) -> np.ndarray:
    """The images twice as large, bilinearly, with room around them for the camera to move: `[N, 23, 23]`."""
    at = (np.arange(16) + 0.5) / 2 - 0.5
    low = np.clip(np.floor(at).astype(int), 0, 7)
    high, share = np.minimum(low + 1, 7), np.clip(at - low, 0, 1).astype(np.float32)
    rows = images[:, low] * (1 - share)[:, None] + images[:, high] * share[:, None]
    large = rows[:, :, low] * (1 - share) + rows[:, :, high] * share
    return np.pad(large, ((0, 0), (3, 4), (3, 4)))


def _seen(scene: np.ndarray, y: float, x: float) -> np.ndarray:
    """Logarithm of the brightness of each cell, the camera displaced by y rows and x columns."""
    (row, dy), (column, dx) = ((int(a), np.float32(a - int(a))) for a in (y, x))
    height, width = SENSOR

    def cut(i: int, j: int) -> np.ndarray:
        return scene[:, row + i : row + i + height, column + j : column + j + width]

    upper = cut(0, 0) * (1 - dx) + cut(0, 1) * dx
    lower = cut(1, 0) * (1 - dx) + cut(1, 1) * dx
    return np.log(upper * (1 - dy) + lower * dy + np.float32(0.1))


def _sorted(found: list[Any], count: int) -> Events:
    """Events in order of recording and time."""
    at, up, time = (np.concatenate(column) for column in zip(*found, strict=True))
    cells = SENSOR[0] * SENSOR[1]
    blank = np.setdiff1d(np.arange(count), at // cells)
    at = np.concatenate([at, blank * cells])
    up = np.concatenate([up, np.zeros(len(blank), bool)])
    time = np.concatenate([time, np.zeros(len(blank), np.int32)])
    which, cell = np.divmod(at, cells)
    order = np.lexsort((cell, time, which))
    y, x = np.divmod(cell[order], SENSOR[1])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(which, minlength=count))])
    return recordings(x, y, up[order].astype(int), time[order], offsets, sensor=SENSOR)


def digits_events() -> tuple[tuple[Events, np.ndarray], tuple[Events, np.ndarray]]:
    """Training and test recordings with their labels, split as `digits` is."""
    found = [
        (simulate(images[..., 0].astype(np.float32) / 255, seed=_SEED + k), labels)
        for k, (images, labels) in enumerate(digits())
    ]
    return found[0], found[1]
