r"""Filter banks: differences of Gaussians and Gabor functions, and images filtered with them.

Kernels have zero mean and maximum 1. Where the surround of a difference of Gaussians holds the maximum (an OFF cell, inner
Gaussian the wider one), that makes its centre about −10: OFF responses come out ten times as strong as ON responses, and
the threshold of the filter bites less. This is the reference's normalisation, kept because its thresholds rely on it.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32

from jsnn import check


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    size = check.whole("size", size, 1)
    if size % 2 == 0:
        raise ValueError(f"`size` must be an odd number of pixels, got {size}.")
    reach = size // 2
    x, y = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    return x, y


def _normalised(kernel: np.ndarray) -> Float32[np.ndarray, "k k"]:
    kernel = kernel - kernel.mean()
    return (kernel / kernel.max()).astype(np.float32)


def difference_of_gaussians(
    size: int, inner: float, outer: float
) -> Float32[np.ndarray, "k k"]:
    r"""$\frac{1}{2\pi}\bigl(s_1^{-2} e^{-r^2/2 s_1^2} - s_2^{-2} e^{-r^2/2 s_2^2}\bigr)$, less its mean, over its maximum.

    Args:
      size: pixels a side, odd.
      inner: $s_1$ in pixels; below `outer` an ON cell, above it an OFF cell.
      outer: $s_2$ in pixels.

    Raises:
      ValueError: if `size` is even, or the widths are equal or not positive.
    """
    check.number("inner", inner, "(0, inf)")
    check.number("outer", outer, "(0, inf)")
    if inner == outer:
        raise ValueError(
            f"`inner` and `outer` must differ, or the filter is nothing; got {inner} twice."
        )
    x, y = _grid(size)
    square = x**2 + y**2

    def gauss(s):
        return np.exp(-square / (2 * s**2)) / (2 * np.pi * s**2)

    return _normalised(gauss(inner) - gauss(outer))


def gabor(
    size: int, degrees: float, *, division: float = 4.0
) -> Float32[np.ndarray, "k k"]:
    r"""$e^{-(X^2 + \gamma^2 Y^2)/2\sigma^2} \cos(2\pi X/\lambda)$, less its mean, over its maximum.

    $\lambda = 2\,size/division$, $\sigma = 0.8\lambda$, $\gamma = 0.3$; with x the row and y the column of a pixel from the
    centre, $X = y \sin\theta + x \cos\theta$ and $Y = y \cos\theta - x \sin\theta$.

    Args:
      size: pixels a side, odd.
      degrees: $\theta$.
      division: larger is finer.

    Raises:
      ValueError: if `size` is even.
    """
    check.number("degrees", degrees)
    check.number("division", division, "(0, inf)")
    x, y = _grid(size)
    theta, wavelength = np.deg2rad(degrees), 2 * size / division
    along = y * np.sin(theta) + x * np.cos(theta)
    across = y * np.cos(theta) - x * np.sin(theta)
    envelope = np.exp(-(along**2 + 0.09 * across**2) / (2 * (0.8 * wavelength) ** 2))
    return _normalised(envelope * np.cos(2 * np.pi * along / wavelength))


def bank(kernels: Sequence[np.ndarray]) -> Float32[np.ndarray, "K k k"]:
    """Square kernels of odd sizes, padded with zeros to the largest.

    Raises:
      ValueError: if there are none, or one is not square and odd.
    """
    if not kernels:
        raise ValueError("`kernels` is empty; a bank needs at least one.")
    for kernel in kernels:
        if (
            kernel.ndim != 2
            or kernel.shape[0] != kernel.shape[1]
            or kernel.shape[0] % 2 == 0
        ):
            raise ValueError(
                f"`kernels` must be square with an odd side, got one of shape {kernel.shape}."
            )
    side = max(kernel.shape[0] for kernel in kernels)
    return np.stack([np.pad(k, (side - k.shape[0]) // 2) for k in kernels])


def mnist_bank() -> Float32[np.ndarray, "6 13 13"]:
    """ON and OFF cells of three sizes, the input of all networks on digits."""
    widths = [(3, 3 / 9, 6 / 9), (7, 7 / 9, 14 / 9), (13, 13 / 9, 26 / 9)]
    pairs = [((n, a, b), (n, b, a)) for n, a, b in widths]
    return bank([difference_of_gaussians(*args) for pair in pairs for args in pair])


def cifar_bank() -> Float32[np.ndarray, "18 15 15"]:
    """The reference's bank for colour images: ON and OFF cells of three sizes, each three times, as its authors wrote it."""
    widths = [(5, 3 / 9, 6 / 9), (9, 7 / 9, 14 / 9), (15, 13 / 9, 26 / 9)]
    pairs = [((n, a, b), (n, b, a)) for n, a, b in widths]
    return bank(
        [
            difference_of_gaussians(*args)
            for pair in pairs
            for args in pair
            for _ in range(3)
        ]
    )


def gabor_bank(
    size: int = 5, degrees: Sequence[float] = (67.5, 112.5, 157.5, 202.5)
) -> Float32[np.ndarray, "K k k"]:
    """Four orientations, the input of the shallow networks."""
    return bank([gabor(size, d) for d in degrees])


def apply(
    images: Array | np.ndarray,
    kernels: Float[Array | np.ndarray, "K k k"],
    *,
    padding: int = 0,
    threshold: ArrayLike = 0.0,
    absolute: bool = False,
) -> Float[Array, "N K H2 W2"]:
    """Responses of a bank to images; each kernel sums its responses over the images' channels.

    Args:
      images: `[N, H, W]`, or `[N, C, H, W]` with channels.
      kernels: from `bank`; cross-correlated at stride 1.
      padding: zeros added on each side.
      threshold: one number, or one a kernel: what lies below it becomes 0, what equals it stays.
      absolute: takes the absolute value, after the threshold.

    Raises:
      ValueError: if `images` has another number of axes, or `threshold` another length than the bank.
    """
    if images.ndim not in (3, 4):
        raise ValueError(
            f"`images` must be [N, H, W] or [N, C, H, W], got shape {images.shape}."
        )
    padding = check.whole("padding", padding, 0)
    check.number("threshold", threshold)
    kernels = jnp.asarray(kernels, jnp.float32)
    limit = jnp.asarray(threshold, jnp.float32)
    if limit.shape not in ((), (kernels.shape[0],)):
        raise ValueError(
            f"`threshold` must be one number or one for each of {kernels.shape[0]} kernels, got shape {limit.shape}."
        )
    x = jnp.asarray(images, jnp.float32)
    # The same kernel for every channel: the sum over channels may come first.
    x = x if x.ndim == 3 else x.sum(1)
    out = _correlate(x, kernels, padding)
    limit = jnp.broadcast_to(limit, (kernels.shape[0],))[None, :, None, None]
    out = jnp.where(out < limit, 0.0, out)
    return abs(out) if absolute else out


def _correlate(
    x: Float[Array, "N H W"], kernels: Float[Array, "K k k"], padding: int
) -> Float[Array, "N K H2 W2"]:
    """Cross-correlation as one product of strips of rows with banded matrices: kernels are large, and channels few."""
    count, side, _ = kernels.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = (n - side + 1 for n in x.shape[1:])
    strips = jnp.stack([x[:, i : i + height] for i in range(side)], axis=2)
    offset = np.arange(x.shape[2])[:, None] - np.arange(width)[None]
    inside = (offset >= 0) & (offset < side)
    band = jnp.where(inside, kernels[:, :, np.clip(offset, 0, side - 1)], 0.0)
    out = jnp.einsum("nhiu,kiuw->nkhw", strips, band, precision=lax.Precision.HIGHEST)
    return out.reshape(-1, count, height, width)
