"""Convolution on `[N, H, W, C]`, with gradients that are fast on every backend.

On GPU and TPU convolution and both its gradients are the backend's own. On a CPU each takes the fastest of three:

- Winograd's transformed tiles, all three, for 3 x 3 kernels with channels enough;
- XLA's forward convolution: the forward pass, and with stride 1 the gradient of the images, which is the forward pass of the
  kernel turned round. XLA's own gradients are up to three times slower;
- else matrix products over patches (im2col), in blocks of images that stay in the cache.

Weights that `vmap` batches would make XLA's convolutions grouped ones, slow everywhere, so batched weights take the matrix products.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Shaped

from jsnn import check
from jsnn.kernels import winograd
from jsnn.precision import floating, like

Padding = Literal["same", "valid"] | int
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Patches of one block, in bytes: about what the cores' private caches and their share of the last level hold.
_BLOCK_BYTES = 4 << 20


def _pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
    return padding, padding


def transposed(w: Float[Array, "I O"]) -> Float[Array, "O I"]:
    """The transpose, laid out anew: XLA's CPU products take a transposed operand at half speed, so it must not fold into them."""
    return lax.optimization_barrier(w.T)


def linear(x: Shaped[Array, "N I"], weight: Float[Array, "I O"]) -> Float[Array, "N O"]:
    """Matrix product whose input gradient is as fast as the product itself, in the precision of `x`."""
    x = floating(x)
    return _linear(x, like(x, weight))


@jax.custom_vjp
def _linear(x: Array, weight: Array) -> Array:
    return x @ weight


_linear.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda residuals, g: (g @ transposed(residuals[1]), residuals[0].T @ g),
)


class _Geometry:
    """Static shape of one convolution, hashable so that `jit` may key on it."""

    def __init__(self, x_shape, w_shape, stride: int, padding: Padding):
        self.key = (tuple(x_shape[1:]), tuple(w_shape), stride, padding)
        _, self.h, self.w, self.cin = x_shape
        self.kh, self.kw, _, self.cout = w_shape
        self.stride = stride
        self.pads = (
            _pads(self.h, self.kh, stride, padding),
            _pads(self.w, self.kw, stride, padding),
        )
        self.oh = (self.h + sum(self.pads[0]) - self.kh) // stride + 1
        self.ow = (self.w + sum(self.pads[1]) - self.kw) // stride + 1

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return self.key == other.key

    @property
    def taps(self):
        return [(i, j) for i in range(self.kh) for j in range(self.kw)]

    @property
    def patch(self) -> int:
        return self.kh * self.kw * self.cin

    @property
    def turns(self) -> bool:
        """Whether the gradient of the images is a plain convolution with the kernel turned round."""
        sides = zip((self.kh, self.kw), self.pads, strict=True)
        return self.stride == 1 and all(max(p) < side for side, p in sides)

    def winograd(self, dtype) -> bool:
        """Whether `jsnn.kernels.winograd` computes it, exactly enough and faster."""
        fits = (self.kh, self.kw, self.stride) == (3, 3, 1)
        fits = fits and max(max(p) for p in self.pads) <= 2
        fits = fits and jnp.finfo(dtype).bits >= 32
        return fits and winograd.pays(self.oh, self.ow, self.cin, self.cout)


def _patches(geo: _Geometry, x: Array) -> Array:
    """`[N, H, W, C] -> [N * OH * OW, kh * kw * C]`."""
    x = jnp.pad(x, ((0, 0), *geo.pads, (0, 0)))
    s = geo.stride
    rows, cols = s * (geo.oh - 1) + 1, s * (geo.ow - 1) + 1
    taps = [x[:, i : i + rows : s, j : j + cols : s] for i, j in geo.taps]
    return jnp.concatenate(taps, axis=-1).reshape(-1, geo.patch)


def _unpatch(geo: _Geometry, p: Array) -> Array:
    """The transpose of `_patches`: every patch entry is added back to the pixel it came from."""
    p = p.reshape(-1, geo.oh, geo.ow, geo.kh * geo.kw, geo.cin)
    zero = jnp.zeros((), p.dtype)

    def place(k, i, j):
        def axis(size, out, offset, low):
            # The tap's first pixel, then one every `stride`; what would fall outside is cut off by negative padding.
            return (
                offset - low,
                size - (offset - low) - (geo.stride * (out - 1) + 1),
                geo.stride - 1,
            )

        edges = (
            axis(geo.h, geo.oh, i, geo.pads[0][0]),
            axis(geo.w, geo.ow, j, geo.pads[1][0]),
        )
        return lax.pad(p[:, :, :, k], zero, ((0, 0, 0), *edges, (0, 0, 0)))

    return functools.reduce(
        jnp.add, (place(k, i, j) for k, (i, j) in enumerate(geo.taps))
    )


def _num_blocks(geo: _Geometry, n: int) -> int:
    per_image = 4 * geo.oh * geo.ow * max(geo.patch, 1)
    blocks = max(1, min(n, math.ceil(n * per_image / _BLOCK_BYTES)))
    while n % blocks:
        blocks += 1
    return blocks


def _blocked(geo: _Geometry, fn: Callable[..., Array], *images: Array) -> Array:
    """Maps `fn` over blocks of images; results are stacked along the images' axis."""
    n = images[0].shape[0]
    blocks = _num_blocks(geo, n)
    if blocks == 1:
        return fn(*images)
    cut = [a.reshape(blocks, n // blocks, *a.shape[1:]) for a in images]
    out = lax.map(lambda block: fn(*block), cut)
    return out.reshape(n, *out.shape[2:])


def _forward_products(geo: _Geometry, x: Array, w: Array) -> Array:
    if geo.winograd(x.dtype):
        return winograd.forward(x, w, geo.pads)

    def one(x):
        return (_patches(geo, x) @ w.reshape(geo.patch, geo.cout)).reshape(
            -1, geo.oh, geo.ow, geo.cout
        )

    return _blocked(geo, one, x)


def _input_grad_products(geo: _Geometry, g: Array, w: Array) -> Array:
    if geo.winograd(g.dtype):
        return winograd.input_grad(g, w, geo.pads)
    wt = transposed(w.reshape(geo.patch, geo.cout))
    return _blocked(geo, lambda g: _unpatch(geo, g.reshape(-1, geo.cout) @ wt), g)


def _weight_grad_products(geo: _Geometry, x: Array, g: Array) -> Array:
    if geo.winograd(x.dtype):
        return winograd.weight_grad(x, g, geo.pads)

    def one(x, g):
        # Cotangent first: the product with the long axis of both contracted is a quarter faster this way round.
        return lax.dot_general(
            g.reshape(-1, geo.cout), _patches(geo, x), (((0,), (0,)), ((), ()))
        )

    n, blocks = x.shape[0], _num_blocks(geo, x.shape[0])
    if blocks == 1:
        dw = one(x, g)
    else:
        cut = [a.reshape(blocks, n // blocks, *a.shape[1:]) for a in (x, g)]
        dw = lax.scan(
            lambda acc, b: (acc + one(*b), None),
            jnp.zeros((geo.cout, geo.patch), g.dtype),
            cut,
        )[0]
    return dw.T.reshape(geo.kh, geo.kw, geo.cin, geo.cout)


def _forward_cpu(geo: _Geometry, x: Array, w: Array) -> Array:
    found = _forward_products if geo.winograd(x.dtype) else _forward_lax
    return found(geo, x, w)


def _input_grad_cpu(geo: _Geometry, g: Array, w: Array) -> Array:
    if geo.winograd(g.dtype) or not geo.turns:
        return _input_grad_products(geo, g, w)
    turned, pads = winograd.turned(w, geo.pads)
    return lax.conv_general_dilated(
        g, turned, (1, 1), pads, dimension_numbers=_DIMENSIONS
    )


def _forward_lax(geo: _Geometry, x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(
        x, w, (geo.stride, geo.stride), geo.pads, dimension_numbers=_DIMENSIONS
    )


def _input_grad_lax(geo: _Geometry, g: Array, w: Array) -> Array:
    x = jax.ShapeDtypeStruct((g.shape[0], geo.h, geo.w, geo.cin), g.dtype)
    return jax.linear_transpose(lambda x: _forward_lax(geo, x, w), x)(g)[0]


def _weight_grad_lax(geo: _Geometry, x: Array, g: Array) -> Array:
    w = jax.ShapeDtypeStruct((geo.kh, geo.kw, geo.cin, geo.cout), x.dtype)
    return jax.linear_transpose(lambda w: _forward_lax(geo, x, w), w)(g)[0]


def _kernel(
    cpu: Callable[..., Array],
    native: Callable[..., Array],
    products: Callable[..., Array],
    folds: bool,
) -> Callable[[_Geometry], Callable[[Array, Array], Array]]:
    """One of the three operations: what is fastest on a CPU, the backend's convolution elsewhere, and a rule for `vmap`.

    Where only the images are batched (and the result has an image axis: `folds`), the batch joins the image axis.
    """

    @functools.lru_cache(maxsize=256)
    def build(geo: _Geometry) -> Callable[[Array, Array], Array]:
        @custom_vmap
        def run(a: Array, b: Array) -> Array:
            return lax.platform_dependent(
                a,
                b,
                cpu=functools.partial(cpu, geo),
                default=functools.partial(native, geo),
            )

        @run.def_vmap
        def _(size, batched, a, b):
            if folds and batched[0] and not batched[1]:
                y = run(a.reshape(-1, *a.shape[2:]), b)
                return y.reshape(size, -1, *y.shape[1:]), True
            axes = tuple(0 if is_batched else None for is_batched in batched)
            return jax.vmap(functools.partial(products, geo), in_axes=axes)(a, b), True

        return run

    return build


_forward = _kernel(_forward_cpu, _forward_lax, _forward_products, folds=True)
_input_grad = _kernel(
    _input_grad_cpu, _input_grad_lax, _input_grad_products, folds=True
)
_weight_grad = _kernel(
    _weight_grad_products, _weight_grad_lax, _weight_grad_products, folds=False
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(geo: _Geometry, x: Array, w: Array) -> Array:
    return _forward(geo)(x, w)


_conv.defvjp(
    lambda geo, x, w: (_forward(geo)(x, w), (x, w)),
    lambda geo, residuals, g: (
        _input_grad(geo)(g, residuals[1]),
        _weight_grad(geo)(residuals[0], g),
    ),
)


def conv2d(
    x: Shaped[Array, "N H W I"],
    weight: Float[Array, "kh kw I O"],
    *,
    stride: int = 1,
    padding: Padding = "same",
) -> Float[Array, "N H2 W2 O"]:
    """Two-dimensional cross-correlation, the convolution of deep learning.

    Equal to `lax.conv_general_dilated` with `("NHWC", "HWIO", "NHWC")`, gradients included, and faster on the CPU. Where `jsnn.kernels.winograd`
    pays, its rounding there is 1e-5 of the largest output instead of 1e-6.

    Args:
      x: images; their precision is that of the output.
      weight: kernels.
      stride: step between outputs, the same in both directions.
      padding: `"same"` (output of ceil(size / stride), as in TensorFlow), `"valid"` (none), or zeros added on each side.

    Raises:
      ValueError: if channels differ, `stride` or `padding` is out of range, or the kernel is larger than the padded image.
    """
    if x.ndim != 4:
        raise ValueError(
            f"`x` must be [N, H, W, C], got shape {x.shape}: give grey images a channel by `x[..., None]`."
        )
    if weight.shape[2] != x.shape[3]:
        first = " Channels come last: `jnp.moveaxis(x, -3, -1)` puts them there."
        raise ValueError(
            f"`x` has {x.shape[3]} channels, `weight` takes {weight.shape[2]} (shapes {x.shape}, {weight.shape})."
            + first * (weight.shape[2] == x.shape[1])
        )
    stride = check.whole("stride", stride, 1)
    padding = check_padding(padding)
    x = floating(x)
    geo = _Geometry(x.shape, weight.shape, stride, padding)
    if geo.oh < 1 or geo.ow < 1:
        raise ValueError(
            f"`weight` of {weight.shape[:2]} pixels is larger than the padded image {x.shape[1:3]}; pad more or use a smaller kernel."
        )
    return _conv(geo, x, like(x, weight))


def check_padding(padding: object) -> Padding:
    """The padding, a number of pixels as Python's `int`.

    Raises:
      ValueError: if it is neither a known word nor a non-negative number of pixels.
    """
    if isinstance(padding, str) and padding in ("same", "valid"):
        return padding
    try:
        return check.whole("padding", padding, 0)
    except ValueError:
        raise ValueError(
            f"`padding` must be 'same', 'valid' or a non-negative number of pixels, got {padding!r}."
        ) from None
