r"""Convolution with 3 x 3 kernels and stride 1 in a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3).

An output tile of 4 x 4 pixels comes from an input tile d of 6 x 6 and a kernel w as

$$Y = A^T\,[(G w G^T) \odot (B^T d B)]\,A,$$

36 multiplications an input and output channel instead of 144; summed over input channels they are 36 matrix products. The transforms are
matrix products too, whose cost does not grow with the product of the channels. The same bilinear form transposed gives the
gradient of the kernel, $G^T [(A\,g\,A^T) \odot (B^T d B)]\,G$ summed over tiles; that of the input is a convolution with the kernel turned round.

Rounding is that of float32 with transforms whose entries reach 8: about 1e-5 of the largest output, where a plain sum has 1e-6.

Axes: N images, H, W pixels, I and O channels in and out, P tiles, K the 36 points of a tile.

Reference: Lavin & Gray, 2016, https://arxiv.org/abs/1509.09308.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_OUT, _IN = 4, 6  # sides of an output and an input tile
_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]])
_G = _G / 24
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0]])
_A = np.concatenate([_A, [[0, 1, -1, 8, -8, 1]]])
# Of both axes of a tile at once.
_INPUT, _KERNEL, _OUTPUT = (np.kron(m, m) for m in (_B, _G, _A))

Pads = tuple[tuple[int, int], tuple[int, int]]
# Transformed tiles of one block of images, in bytes: what the cores' private caches hold.
_BLOCK_BYTES = 4 << 20


def pays(height: int, width: int, inputs: int, outputs: int) -> bool:
    """Whether products and transforms together take less than half of the plain multiplications, for an output of `height` by `width`.

    Half, because transforms are slower than one large product: at 32 to 64 channels on 14 x 14 pixels, where it is 0.67, one core gains a
    tenth and two, on a busy machine, lost as much.
    """
    tiles = math.ceil(height / _OUT) * math.ceil(width / _OUT)
    points = _IN**2
    tile = points * (inputs * outputs + points * inputs + _OUT**2 * outputs)
    return 2 * tiles * tile < 9 * height * width * inputs * outputs


def _counts(shape: tuple[int, ...], pads: Pads) -> tuple[int, int]:
    """Tiles along both axes."""
    sides = (n + sum(p) - 2 for n, p in zip(shape[1:3], pads, strict=True))
    down, along = (math.ceil(n / _OUT) for n in sides)
    return down, along


def _transformed_input(x: Float[Array, "N H W I"], pads: Pads) -> Float[Array, "K P I"]:
    counts = _counts(x.shape, pads)
    edges = [
        (low, _OUT * count + 2 - low - size)
        for (low, _), count, size in zip(pads, counts, x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    rows, columns = (_OUT * (n - 1) + 1 for n in counts)
    taps = [
        x[:, i : i + rows : _OUT, j : j + columns : _OUT].reshape(-1, x.shape[3])
        for i in range(_IN)
        for j in range(_IN)
    ]
    flat = jnp.stack(taps).reshape(_IN**2, -1)
    return (jnp.asarray(_INPUT, x.dtype) @ flat).reshape(_IN**2, -1, x.shape[3])


def _products(a: Float[Array, "K M L"], b: Float[Array, "K L R"]) -> Array:
    return lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))))


def _blocks(x: Array, pads: Pads, outputs: int) -> int:
    """Into how many blocks of equally many images to cut."""
    n, tiles = len(x), math.prod(_counts(x.shape, pads))
    size = 4 * _IN**2 * tiles * (x.shape[3] + outputs)
    blocks = max(1, min(n, math.ceil(n * size / _BLOCK_BYTES)))
    while n % blocks:
        blocks += 1
    return blocks


def _cut(a: Array, blocks: int) -> Array:
    return a.reshape(blocks, -1, *a.shape[1:])


def forward(
    x: Float[Array, "N H W I"], weight: Float[Array, "3 3 I O"], pads: Pads
) -> Float[Array, "N H2 W2 O"]:
    """Cross-correlation with stride 1 of images with zeros added at the ends of both axes."""
    inputs, outputs = weight.shape[2:]
    points = jnp.asarray(_KERNEL, x.dtype) @ weight.reshape(9, -1)
    points = points.reshape(_IN**2, inputs, outputs)
    down, along = _counts(x.shape, pads)
    height, width = (n + sum(p) - 2 for n, p in zip(x.shape[1:3], pads, strict=True))

    def block(x: Array) -> Array:
        products = _products(_transformed_input(x, pads), points)
        y = jnp.asarray(_OUTPUT, x.dtype) @ products.reshape(_IN**2, -1)
        y = y.reshape(_OUT, _OUT, len(x), down, along, outputs)
        y = y.transpose(2, 3, 0, 4, 1, 5)
        return y.reshape(len(x), _OUT * down, _OUT * along, outputs)[:, :height, :width]

    blocks = _blocks(x, pads, outputs)
    if blocks == 1:
        return block(x)
    return lax.map(block, _cut(x, blocks)).reshape(len(x), height, width, outputs)


def input_grad(
    g: Float[Array, "N H2 W2 O"], weight: Float[Array, "3 3 I O"], pads: Pads
) -> Float[Array, "N H W I"]:
    """The transpose of `forward` in its images, for pads of at most 2."""
    return forward(g, *turned(weight, pads))


def turned(
    weight: Float[Array, "kh kw I O"], pads: Pads
) -> tuple[Float[Array, "kh kw O I"], Pads]:
    """The kernel and the zeros with which the gradient of the images is a convolution itself, with stride 1."""
    high, wide = (side - 1 for side in weight.shape[:2])
    (top, bottom), (left, right) = pads
    ends = (high - top, high - bottom), (wide - left, wide - right)
    return weight[::-1, ::-1].transpose(0, 1, 3, 2), ends


def weight_grad(
    x: Float[Array, "N H W I"], g: Float[Array, "N H2 W2 O"], pads: Pads
) -> Float[Array, "3 3 I O"]:
    """The transpose of `forward` in its kernel."""
    inputs, outputs = x.shape[3], g.shape[3]
    down, along = _counts(x.shape, pads)
    edges = ((0, _OUT * down - g.shape[1]), (0, _OUT * along - g.shape[2]))

    def block(x: Array, g: Array) -> Array:
        g = jnp.pad(g, ((0, 0), *edges, (0, 0)))
        g = g.reshape(len(g), down, _OUT, along, _OUT, outputs)
        g = g.transpose(2, 4, 0, 1, 3, 5).reshape(_OUT**2, -1)
        points = (jnp.asarray(_OUTPUT.T, g.dtype) @ g).reshape(_IN**2, -1, outputs)
        seen = _transformed_input(x, pads)
        return lax.dot_general(seen, points, (((1,), (1,)), ((0,), (0,))))

    blocks = _blocks(x, pads, outputs)
    if blocks == 1:
        total = block(x, g)
    else:
        total = lax.scan(
            lambda total, cut: (total + block(*cut), None),
            jnp.zeros((_IN**2, inputs, outputs), g.dtype),
            (_cut(x, blocks), _cut(g, blocks)),
        )[0]
    kernel = jnp.asarray(_KERNEL.T, g.dtype) @ total.reshape(_IN**2, -1)
    return kernel.reshape(3, 3, inputs, outputs)
