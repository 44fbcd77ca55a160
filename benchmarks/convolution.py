"""3 by 3 convolution: `conv.conv2d` against `lax.conv_general_dilated`, forward and both gradients, outside and inside a scan.

    python -m benchmarks.convolution [--shapes 128 14 32 64] [--save]

`gflop_per_second` counts the products of a convolution, the same for all three operations; the first row is one large matrix
product, what the machine can do at most. Inside a scan every step does the operation on other images and the results are
summed, as in training. `ratio` is seconds over `lax`'s, below 1 where `conv2d` is faster.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import rows, timing
from jsnn.kernels import conv

_KERNEL = 3
COLUMNS = (
    "operation",
    "inside_scan",
    "images",
    "side",
    "channels_in",
    "channels_out",
    "variant",
    "compile_seconds",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_median",
    "gflop_per_second",
    "ratio",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Convolution and its gradients, against XLA's own."""

    shapes: tuple[tuple[int, int, int, int], ...] = (
        (128, 28, 1, 32),
        (128, 14, 32, 64),
        (64, 32, 64, 128),
        (64, 16, 128, 256),
    )
    """Images, side, channels in, channels out."""
    scan_steps: int = 4
    """Steps of the scan around the operation; 0 measures it outside only."""
    repeats: int = 5
    """Samples of each variant, in turn."""
    min_seconds: float = 0.1
    """A sample repeats its call until it lasts this long."""
    matrix: int = 2048
    """Rows and columns of the matrix product that serves as the ceiling."""
    save: bool = False
    """Append the rows to benchmarks/results/convolution.jsonl."""


def _lax_conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


VARIANTS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "lax": _lax_conv,
    "conv2d": conv.conv2d,
}
# Each takes the convolution and (images, kernels, cotangent). The forward pass of the gradients is dead code to XLA.
OPERATIONS: dict[str, Callable[..., jax.Array]] = {
    "forward": lambda f, x, w, g: f(x, w),
    "input gradient": lambda f, x, w, g: jax.vjp(f, x, w)[1](g)[0],
    "weight gradient": lambda f, x, w, g: jax.vjp(f, x, w)[1](g)[1],
}


def in_scan(operation: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The sum of the operation over a leading axis of images and cotangents."""

    def run(f, x, w, g):
        like = jax.eval_shape(lambda: operation(f, x[0], w, g[0]))
        return jax.lax.scan(
            lambda total, each: (total + operation(f, each[0], w, each[1]), None),
            jnp.zeros(like.shape, like.dtype),
            (x, g),
        )[0]

    return run


def _compare(
    cfg: Config, operation: Callable[..., jax.Array], arrays: Any, gflop: float
) -> list[dict[str, Any]]:
    """Both variants of one operation: checked to agree, then timed in turn."""
    calls, compile_seconds, expected = {}, {}, None
    for name, fn in VARIANTS.items():
        compiled, compile_seconds[name] = timing.compile_step(
            lambda x, w, g, fn=fn: operation(fn, x, w, g), *arrays
        )
        result = np.asarray(compiled(*arrays))
        expected = result if expected is None else expected
        # Sums of up to a million float32 products in another order; errors are relative to the largest entry.
        error = np.abs(result - expected).max() / np.abs(expected).max()
        if not error < 1e-3:
            raise RuntimeError(
                f"{name} differs from lax by {error:.2g} of the maximum."
            )
        calls[name] = timing.timed(
            lambda compiled=compiled: compiled(*arrays), cfg.min_seconds
        )
    samples = timing.interleave(calls, cfg.repeats)
    own = timing.summary(samples["lax"])["seconds_median"]
    found = []
    for name in VARIANTS:
        summary = timing.summary(samples[name])
        found.append(
            {"variant": name, "compile_seconds": compile_seconds[name]}
            | summary
            | {
                "gflop_per_second": gflop / summary["seconds_median"],
                "ratio": summary["seconds_median"] / own,
            }
        )
    return found


def measure(
    cfg: Config, shape: tuple[int, int, int, int], steps: int
) -> list[dict[str, Any]]:
    """The three operations at one shape; inside a scan if `steps` is not 0."""
    images, side, cin, cout = shape
    time = (steps,) if steps else ()
    rng = np.random.default_rng(0)
    arrays = tuple(
        jnp.asarray(rng.standard_normal(shape, np.float32))
        for shape in (
            (*time, images, side, side, cin),
            (_KERNEL, _KERNEL, cin, cout),
            (*time, images, side, side, cout),
        )
    )
    gflop = 2e-9 * max(steps, 1) * images * side**2 * _KERNEL**2 * cin * cout
    return [
        {
            "operation": name,
            "inside_scan": bool(steps),
            "images": images,
            "side": side,
            "channels_in": cin,
            "channels_out": cout,
        }
        | row
        for name, operation in OPERATIONS.items()
        for row in _compare(
            cfg, in_scan(operation) if steps else operation, arrays, gflop
        )
    ]


def ceiling(cfg: Config) -> dict[str, Any]:
    """One large matrix product."""
    a = jnp.ones((cfg.matrix, cfg.matrix))
    compiled, seconds = timing.compile_step(jnp.matmul, a, a)
    call = timing.timed(lambda: compiled(a, a), cfg.min_seconds)
    summary = timing.summary(timing.interleave({"": call}, cfg.repeats)[""])
    return {
        "operation": f"matrix product {cfg.matrix}",
        "compile_seconds": seconds,
        **summary,
        "gflop_per_second": 2e-9 * cfg.matrix**3 / summary["seconds_median"],
    }


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures every shape, prints the table, and returns the rows."""
    context = rows.context("convolution")
    found = [ceiling(cfg)]
    for shape in cfg.shapes:
        for steps in sorted({0, cfg.scan_steps}):
            found += measure(cfg, shape, steps)
    found = [context | row for row in found]
    rows.report(found, COLUMNS, benchmark="convolution", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
