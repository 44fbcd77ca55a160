"""Convolution and pooling against XLA's own operations and loops over pixels, gradients included."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import lax

from jsnn.kernels import conv, pool

# Float32 sums of at most some hundred terms of order one, in another order.
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lax_conv(x, w, *, stride=1, padding="same"):
    padding = [(padding,) * 2] * 2 if isinstance(padding, int) else padding.upper()
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def with_gradients(fn):
    """The result and its gradients by both arguments, for a cotangent that differs from pixel to pixel."""

    def run(x, w):
        y, vjp = jax.vjp(fn, x, w)
        cotangent = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return y, *vjp(cotangent)

    return run


# Images [N, H, W, I], kernel (kh, kw), O, stride, padding.
GEOMETRIES = {
    "csnn": ((2, 8, 8, 3), (3, 3), 4, 1, "same"),
    "one_channel_one_image": ((1, 7, 9, 1), (3, 3), 6, 1, "same"),
    "same_with_stride": ((2, 7, 10, 3), (3, 3), 4, 2, "same"),
    "even_kernel_odd_stride": ((2, 9, 8, 2), (4, 2), 3, 3, "same"),
    "stride_beyond_kernel": ((2, 8, 7, 4), (2, 2), 2, 3, "valid"),
    "pointwise_with_stride": ((2, 6, 5, 2), (1, 1), 3, 2, "same"),
    "valid": ((3, 6, 8, 2), (3, 5), 1, 1, "valid"),
    "padded_with_stride": ((2, 6, 7, 2), (3, 5), 2, 2, 4),
    "kernel_of_the_image": ((2, 3, 3, 8), (3, 3), 2, 1, 0),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution_equals_lax(name):
    """Forward and both gradients; and those that other backends run, by the same names."""
    shape, kernel, outputs, stride, padding = GEOMETRIES[name]
    x, w = normal(*shape), normal(*kernel, shape[-1], outputs, seed=1)
    options = {"stride": stride, "padding": padding}

    @jax.jit
    def all_three(x, w):
        geometry = conv._Geometry(x.shape, w.shape, stride, padding)
        want = with_gradients(functools.partial(lax_conv, **options))(x, w)
        g = jnp.cos(jnp.arange(want[0].size, dtype=x.dtype)).reshape(want[0].shape)
        native = (
            conv._forward_lax(geometry, x, w),
            conv._input_grad_lax(geometry, g, w),
            conv._weight_grad_lax(geometry, x, g),
        )
        got = with_gradients(functools.partial(conv.conv2d, **options))(x, w)
        return got, native, want

    got, native, want = all_three(x, w)
    jax.tree.map(close, got, want)
    jax.tree.map(close, native, want)
    assert all(np.any(np.asarray(a) != 0) for a in want)


def test_convolution_equals_a_loop_over_pixels():
    """Cross-correlation of the zero-padded image, in float64."""
    x, w = normal(2, 4, 5, 2), normal(3, 2, 2, 3, seed=1)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = np.zeros((2, 2, 3, 3))
    for n, i, j, o in np.ndindex(want.shape):
        window = padded[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2]
        want[n, i, j, o] = (window * w[..., o]).sum()
    close(jax.jit(functools.partial(conv.conv2d, stride=2, padding=1))(x, w), want)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="blocks are for the CPU")
@pytest.mark.parametrize(
    ("images", "block_images", "blocks"), [(6, 6, 1), (6, 2, 3), (7, 2, 7)]
)
def test_blocks_of_images_change_nothing(images, block_images, blocks, monkeypatch):
    """Several blocks, a number of images they do not divide, and one block. Batched weights take products for all three."""
    x, w = normal(images, 5, 4, 3), normal(3, 3, 3, 2, seed=1)
    monkeypatch.setattr(conv, "_BLOCK_BYTES", block_images * 4 * 5 * 4 * 27)
    jax.clear_caches()  # what was traced for these shapes had another block size
    geometry = conv._Geometry(x.shape, w.shape, 1, "same")
    assert conv._num_blocks(geometry, images) == blocks
    batched = jax.vmap(with_gradients(conv.conv2d), in_axes=(None, 0))
    run = jax.jit(batched).lower(x, w[None])
    assert run.as_text().count("stablehlo.while") == (3 if blocks > 1 else 0)
    want = jax.jit(with_gradients(lax_conv))(x, w)
    jax.tree.map(lambda a, b: close(a[0], b), run.compile()(x, w[None]), want)


def test_convolution_inside_a_scan():
    """Gradients through three layers of the same weights, unrolled by hand for `lax`."""
    x, w = normal(2, 5, 5, 3), normal(3, 3, 3, 3, seed=1) / 5

    def scanned(x, w):
        return lax.scan(lambda y, _: (conv.conv2d(y, w), None), x, length=3)[0]

    def by_hand(x, w):
        return lax_conv(lax_conv(lax_conv(x, w), w), w)

    both = jax.jit(
        lambda x, w: (with_gradients(scanned)(x, w), with_gradients(by_hand)(x, w))
    )
    jax.tree.map(close, *both(x, w))


@pytest.mark.parametrize(
    ("axes", "blocked"),
    [((0, None), False), ((None, 0), False), ((0, 0), False), ((0, 0), True)],
)
def test_convolution_under_vmap_equals_a_loop(axes, blocked, monkeypatch):
    """Over images, over weights, over both; each sample with gradients of its own."""
    if blocked:
        monkeypatch.setattr(conv, "_BLOCK_BYTES", 1)
    x = normal(3, 2, 5, 4, 2)[: 3 if axes[0] == 0 else 1]
    w = normal(3, 3, 3, 2, 4, seed=1)[: 3 if axes[1] == 0 else 1]
    one = jax.jit(with_gradients(lax_conv))
    want = [one(x[k % len(x)], w[k % len(w)]) for k in range(3)]
    a, b = (v if axis == 0 else v[0] for v, axis in zip((x, w), axes, strict=True))
    got = jax.jit(jax.vmap(with_gradients(conv.conv2d), axes)).lower(a, b)
    assert ("stablehlo.while" in got.as_text()) == blocked
    got = got.compile()(a, b)
    for k in range(3):
        jax.tree.map(close, jax.tree.map(lambda v, k=k: v[k], got), want[k])


def test_gradient_of_nested_vmaps():
    """Seeds of weights outside, images inside, one gradient of it all."""
    x, w = normal(2, 3, 2, 5, 4, 2), normal(2, 3, 3, 2, 4, seed=1)

    def loss(conv_fn, x, w):
        y = jax.vmap(jax.vmap(conv_fn, (0, None)))(x, w)
        return jnp.sin(y).sum()

    def looped(x, w):
        return sum(
            jnp.sin(lax_conv(x[i, j], w[i])).sum() for i in range(2) for j in range(3)
        )

    gradient = functools.partial(jax.grad, argnums=(0, 1))
    got = jax.jit(gradient(functools.partial(loss, conv.conv2d)))(x, w)
    jax.tree.map(close, got, jax.jit(gradient(looped))(x, w))


@pytest.mark.parametrize("axes", [None, (0, None), (None, 0), (0, 0)])
def test_linear_is_the_matrix_product(axes):
    x, w = normal(3, 5, 4), normal(3, 4, 6, seed=1)

    def batched(fn):
        return (
            with_gradients(fn) if axes is None else jax.vmap(with_gradients(fn), axes)
        )

    x, w = (v if axes and axes[i] == 0 else v[0] for i, v in enumerate((x, w)))
    got, want = jax.jit(
        lambda x, w: (batched(conv.linear)(x, w), batched(jnp.matmul)(x, w))
    )(x, w)
    jax.tree.map(close, got, want)


def pooled_loop(x, g, size, mode):
    """Pooling and the gradient of `sum(pooled * g)`, window by window; the first maximum row by row takes it all."""
    n, h, w, c = x.shape
    y = np.zeros((n, h // size, w // size, c), x.dtype)
    dx = np.zeros_like(x)
    for index in np.ndindex(y.shape):
        b, i, j, k = index
        at = (b, slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size), k)
        if mode == "max":
            y[index] = x[at].max()
            first = np.unravel_index(x[at].argmax(), (size, size))  # row-major, first
            dx[at][first] += g[index]
        else:
            y[index] = x[at].mean()
            dx[at] += g[index] / size**2
    return y, dx


POOLS = {"max": pool.max_pool, "avg": pool.avg_pool}
IMAGES = {
    "distinct": normal(2, 6, 6, 3),
    "constant": np.ones((2, 4, 4, 1), np.float32),
    "spikes": (normal(2, 7, 5, 2) > 0).astype(np.float32),  # ties, odd sizes
    "negative": -np.abs(normal(1, 5, 8, 1)) - 1,  # a padded border would win
}


@pytest.mark.parametrize("mode", POOLS)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_pooling_equals_the_loop(mode, size, name):
    """Remainders dropped, with zero gradient; ties go to the first of a window."""
    x = IMAGES[name]
    n, h, w, c = x.shape
    g = normal(n, h // size, w // size, c, seed=2)

    @jax.jit
    def run(x, g):
        y, vjp = jax.vjp(lambda x: POOLS[mode](x, size), x)
        return y, POOLS[mode](x, size), *vjp(g)

    y, without_gradient, dx = run(x, g)
    want, want_dx = pooled_loop(x, g, size, mode)
    # A maximum is exact; a mean is a sum of up to nine terms and a division.
    exact = {"rtol": 0 if mode == "max" else 1e-6, "atol": 0 if mode == "max" else 1e-6}
    np.testing.assert_allclose(y, want, **exact)
    np.testing.assert_allclose(without_gradient, want, **exact)
    np.testing.assert_allclose(dx, want_dx, **exact)


def test_max_pool_equals_lax_without_ties():
    x = normal(2, 7, 6, 3)
    assert len(np.unique(x)) == x.size

    def reduce_window(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )

    @jax.jit
    def run(x, g):
        results = []
        for fn in (functools.partial(pool.max_pool, size=2), reduce_window):
            y, vjp = jax.vjp(fn, x)
            results.append((y, *vjp(g)))
        return results

    jax.tree.map(np.testing.assert_array_equal, *run(x, normal(2, 3, 3, 3, seed=2)))


def test_max_pool_over_more_pixels_than_a_byte_counts():
    x = np.zeros((1, 17, 18, 1), np.float32)
    x[0, 16, 16] = 1  # the 289th pixel of the window
    dx = jax.jit(jax.grad(lambda x: pool.max_pool(x, 17).sum()))(x)
    np.testing.assert_array_equal(dx, x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes_are_kept(dtype):
    def network(x, w):
        y = pool.avg_pool(pool.max_pool(conv.conv2d(x, w)))
        return conv.linear(y.reshape(4, -1), w[0, 0].reshape(8, 1)).sum()

    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        shapes = [(2, 8, 8, 2), (3, 3, 2, 4)]
        x, w = (jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in shapes)
        y, (dx, dw) = jax.eval_shape(jax.value_and_grad(network, (0, 1)), x, w)
    assert y.dtype == dx.dtype == dw.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, w: conv.conv2d(x[..., :1], w),
            r"`x` has 1 channels, `weight` takes 2",
        ),
        (
            lambda x, w: conv.conv2d(x, w, stride=0),
            "`stride` must be at least 1, got 0",
        ),
        (lambda x, w: conv.conv2d(x, w, padding="SAME"), "`padding`.*'same'.*'SAME'"),
        (lambda x, w: conv.conv2d(x, w, padding=-1), "`padding`.*non-negative.*-1"),
        (
            lambda x, w: conv.conv2d(x[:, :2], w, padding="valid"),
            r"`weight` of \(3, 3\).*larger than the padded image \(2, 4\)",
        ),
        (lambda x, w: pool.max_pool(x, 5), "`size`.*between 1 and.*4 pixels, got 5"),
        (lambda x, w: pool.avg_pool(x, 0), "`size`.*got 0"),
    ],
)
def test_errors_name_argument_and_value(call, message, monkeypatch):
    # What a user sees, who runs without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((1, 5, 4, 2)), jnp.ones((3, 3, 2, 1)))
