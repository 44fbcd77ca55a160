"""From images to first-spike times: filter, normalise locally, and let the strongest responses spike first."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped, UInt8

from jsnn import check
from jsnn.data import events
from jsnn.precision import floating
from jsnn.stdp import filters
from jsnn.stdp.waves import check_num_steps, product

_CHUNK = 50  # images filtered at a time


def normalise_locally(
    responses: Shaped[Array, "*N H W"], radius: int = 8, *, eps: float = 1e-12
) -> Float[Array, "*N H W"]:
    """Divides by the mean over a window of `2 * radius + 1` pixels a side; beyond the border lies zero, and it counts.

    Raises:
      ValueError: if `radius` is negative.
    """
    radius = check.whole("radius", radius, 0)
    check.number("eps", eps, "(0, inf)")
    responses = floating(responses)
    side = 2 * radius + 1
    rows, columns = (_band(n, radius, responses.dtype) for n in responses.shape[-2:])
    total = product(product(rows, responses), columns)
    return responses / (total / (side * side) + eps)


def _band(size: int, radius: int, dtype) -> Float[Array, "n n"]:
    """Ones where two pixels are at most `radius` apart: a sum over a window is a product with it."""
    i = np.arange(size)
    return jnp.asarray(abs(i[:, None] - i[None]) <= radius, dtype)


def rank_order(
    intensities: Shaped[Array, "C H W"], num_steps: int
) -> UInt8[Array, "C H W"]:
    """First-spike times by rank: the n non-zero intensities, strongest first, in T groups of floor(n / T).

    The up to T − 1 weakest that fill no group never spike. Equal intensities keep their order (channel, row, column), where
    the reference leaves it to an unstable sort. With fewer than T non-zero intensities, where the reference fails, the
    strongest spikes at step 0, the next at step 1, and so on; a blank image stays silent.

    Args:
      intensities: of one image, not negative; 0 never spikes.
      num_steps: T.
    """
    num_steps = check_num_steps(num_steps)
    x = floating(intensities).ravel()
    group = jnp.maximum((x != 0).sum(dtype=jnp.int32) // num_steps, 1)
    order = jnp.argsort(-x, stable=True)
    steps = jnp.arange(x.size, dtype=jnp.int32) // group
    steps = jnp.where(x[order] != 0, jnp.minimum(steps, num_steps), num_steps)
    times = jnp.zeros(x.size, jnp.uint8).at[order].set(steps.astype(jnp.uint8))
    return times.reshape(intensities.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Frontend:
    """What turns images into spike times; the defaults are those of the networks on digits."""

    kernels: np.ndarray  # [K, k, k]
    padding: int = 6
    threshold: float = 50.0
    radius: int = 8  # of the local normalisation
    num_steps: int = 15  # T
    absolute: bool = False

    def __post_init__(self):
        for name in ("padding", "radius"):
            object.__setattr__(self, name, check.whole(name, getattr(self, name), 0))
        object.__setattr__(self, "num_steps", check_num_steps(self.num_steps))
        check.number("threshold", self.threshold, "[0, inf)")

    def size(self, image: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of what is encoded, for an image of so many."""
        grown = 2 * self.padding - self.kernels.shape[-1] + 1
        return image[0] + grown, image[1] + grown


class EventFrontend(Frontend):
    """What turns event recordings into spike times: each cell's first event of each polarity, on a grid of T steps.

    >>> front = EventFrontend((34, 34), dt_us=7000.0)
    >>> front.times(jnp.array([[[20_000, 7], [-1, -1]]])).shape  # a recording of one event
    (1, 2, 34, 34)

    Args:
      sensor: rows and columns.
      dt_us: length of a step in µs; a cell whose first event comes after the last step is silent.
      num_steps: T.
      downsample: cells along each side that make one.
    """

    def __init__(
        self,
        sensor: tuple[int, int],
        *,
        dt_us: float,
        num_steps: int = 15,
        downsample: int = 1,
    ):
        # A darker cell is drawn black, a brighter one white.
        kernels = np.array([[[-1.0]], [[1.0]]], np.float32)
        super().__init__(kernels, padding=0, threshold=0.0, radius=0, num_steps=num_steps)  # fmt: skip
        size = tuple(check.whole("sensor", side, 1) for side in sensor)
        object.__setattr__(self, "sensor", size)
        object.__setattr__(self, "dt_us", check.static("dt_us", dt_us, "(0, inf)"))
        downsample = check.whole("downsample", downsample, 1)
        object.__setattr__(self, "downsample", downsample)

    sensor: tuple[int, int]
    dt_us: float
    downsample: int

    def size(self, image: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the cells that are seen, however long a recording is."""
        rows, columns = (-(-side // self.downsample) for side in self.sensor)
        return rows, columns

    def times(self, rows: Array) -> UInt8[Array, "N 2 H W"]:
        """First-spike times of recordings packed as rows `[N, L, 2]`, see `jsnn.data.events.pack`."""
        batch = events.unpack(rows, self.sensor)
        first = events.first_spikes(
            batch, self.num_steps, self.dt_us, downsample=self.downsample
        )
        return jnp.moveaxis(first, -1, 1)


def mnist_frontend() -> Frontend:
    """Six ON and OFF cells, 15 steps."""
    return Frontend(filters.mnist_bank())


def cifar_frontend() -> Frontend:
    """The reference's settings for CIFAR-10: maps grow by two pixels a side."""
    return Frontend(filters.cifar_bank(), padding=8, threshold=40.0, num_steps=20)


def kheradpisheh_frontend() -> Frontend:
    """One ON and one OFF cell."""
    dog = filters.difference_of_gaussians
    return Frontend(filters.bank([dog(7, 1.0, 2.0), dog(7, 2.0, 1.0)]), padding=3)


def spike_times(images: ArrayLike, frontend: Frontend) -> UInt8[Array, "N K H2 W2"]:
    """First-spike times of images with values in 0 ... 255: `filters.apply`, `normalise_locally`, `rank_order`.

    A constant image responds at its border only, where the filter sees the zeros around it. A blank one is silent.

    Args:
      images: `[N, H, W]` or `[N, C, H, W]`, bytes or floats on the scale of bytes, since the threshold is.
      frontend: filters and their settings.

    Raises:
      ValueError: if an image holds NaN or infinity (unless traced), or has another number of axes.
    """
    if not isinstance(images, Tracer) and not np.all(np.isfinite(np.asarray(images))):
        raise ValueError(
            "`images` hold NaN or infinite values; clean them, for NaN has no rank among intensities."
        )
    x = jnp.asarray(images)
    if x.ndim not in (3, 4):
        raise ValueError(
            f"`images` must be [N, H, W] or [N, C, H, W], got shape {x.shape}."
        )
    f = frontend
    return _spike_times(
        x,
        jnp.asarray(f.kernels),
        f.threshold,
        padding=f.padding,
        radius=f.radius,
        num_steps=f.num_steps,
        absolute=f.absolute,
    )


@functools.partial(
    jax.jit, static_argnames=("padding", "radius", "num_steps", "absolute")
)
def _spike_times(
    images, kernels, threshold, *, padding, radius, num_steps, absolute
) -> Array:
    def one(image):
        x = filters.apply(
            image[None],
            kernels,
            padding=padding,
            threshold=threshold,
            absolute=absolute,
        )[0]
        return rank_order(normalise_locally(x, radius), num_steps)

    return lax.map(one, images, batch_size=min(_CHUNK, images.shape[0]))
