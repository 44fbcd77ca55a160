"""LIF neurons alone, forward and forward with gradient, against a `lax.scan` written by hand.

    python -m benchmarks.neurons [--neurons 512 6272] [--timesteps 25 100] [--block-sizes 1 10] [--save]

On one CUDA device `all steps` is the fused kernel of `jsnn.kernels.fused`. The yardstick is the neuron of the reference as anyone would write it in plain JAX, below; it imports nothing of this library.
Its spikes and gradients are compared first: what is not equal is not timed. `ratio` is seconds over the yardstick's, below 1
where this library is faster. `updates_per_second` counts neurons times time steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import rows, timing
from jsnn import neurons, surrogate
from jsnn.unroll import neuron_block, unroll

YARDSTICK = "plain scan"
COLUMNS = (
    "variant",
    "direction",
    "neurons",
    "batch_size",
    "timesteps",
    "compile_seconds",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_median",
    "updates_per_second",
    "ratio",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """LIF neurons alone, against a plain scan."""

    neurons: tuple[int, ...] = (512, 6272)
    """N, neurons of a layer; 6272 are those of the reference CSNN's first layer."""
    batch_size: int = 128
    """Samples."""
    timesteps: tuple[int, ...] = (25, 100)
    """T, time steps."""
    block_sizes: tuple[int, ...] = (1, 10)
    """K, time steps of a block, besides all T at once."""
    unroll: tuple[int, ...] = ()
    """Steps that the plain scan writes out in a row, as variants: 8 is said to suit a GPU."""
    repeats: int = 7
    """Samples of each variant, in turn."""
    min_seconds: float = 0.05
    """A sample repeats its call until it lasts this long."""
    save: bool = False
    """Append the rows to benchmarks/results/neurons.jsonl."""


@jax.custom_vjp
def _spike(u):
    return (u > 0).astype(u.dtype)


_spike.defvjp(
    lambda u: (_spike(u), u), lambda u, g: (g / jnp.square(1 + 25 * jnp.abs(u)),)
)


def plain_scan(x: jax.Array, *, unroll: int = 1) -> jax.Array:
    """Spikes `[T, B, N]` of LIF neurons: beta 0.5, threshold 1, soft reset one step after the spike, detached."""

    def step(v, x_t):
        v = 0.5 * v + x_t - jax.lax.stop_gradient((v > 1).astype(v.dtype))
        return v, _spike(v - 1)

    return jax.lax.scan(step, jnp.zeros(x.shape[1:], x.dtype), x, unroll=unroll)[1]


def unrolled(block_size: int | None, *, remat: bool = False) -> Callable[..., Any]:
    """The same through this library's neuron and time loop."""
    neuron = neurons.lif(
        beta=0.5, delayed_reset=True, spike_fn=surrogate.fast_sigmoid(25.0)
    )

    def run(x):
        block = neuron_block(neuron, neuron.params)
        state = neuron.init(x.shape[1:])
        return unroll(block, state, x, block_size=block_size, remat=remat)[1]

    return run


def with_gradient(run: Callable[..., Any]) -> Callable[..., Any]:
    """Spikes, and the gradient of a weighted sum of them with respect to the input."""

    def both(x, weights):
        spikes, pull = jax.vjp(run, x)
        return spikes, pull(weights)[0]

    return both


def _check(name: str, found: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Same operations in the same order, but multiply and add may be fused in one program and not in the other: a membrane that close
        # to threshold spikes in one of them, and what that neuron does from then on differs.
        differ = float(jnp.mean(~jnp.isclose(a, b, rtol=1e-4, atol=1e-5)))
        if differ > 1e-4:
            raise RuntimeError(
                f"{name} differs from the plain scan in {differ:.2%} of its entries: the two do not do the same work."
            )


def measure(cfg: Config, num_neurons: int, num_steps: int) -> list[dict[str, Any]]:
    """All variants at one size, both directions."""
    rng = np.random.default_rng(0)
    shape = (num_steps, cfg.batch_size, num_neurons)
    x = jnp.asarray(1.5 * rng.random(shape, np.float32))
    weights = jnp.asarray(rng.standard_normal(shape, np.float32))
    variants = {YARDSTICK: plain_scan, "all steps": unrolled(None)}
    for steps in cfg.unroll:
        variants[f"{YARDSTICK}, unroll {steps}"] = functools.partial(
            plain_scan, unroll=steps
        )
    for size in cfg.block_sizes:
        if size < num_steps:
            variants[f"blocks of {size}"] = unrolled(size)
            variants[f"blocks of {size}, remat"] = unrolled(size, remat=True)
    found = []
    for direction in ("forward", "forward+backward"):
        calls, compile_seconds, expected = {}, {}, None
        for name, run in variants.items():
            fn, args = run, (x,)
            if direction != "forward":
                fn, args = with_gradient(run), (x, weights)
            compiled, compile_seconds[name] = timing.compile_step(fn, *args)
            result = compiled(*args)
            expected = result if expected is None else expected
            _check(name, result, expected)
            calls[name] = timing.timed(
                lambda compiled=compiled, args=args: compiled(*args), cfg.min_seconds
            )
        samples = timing.interleave(calls, cfg.repeats)
        own = timing.summary(samples[YARDSTICK])["seconds_median"]
        for name in variants:
            summary = timing.summary(samples[name])
            found.append(
                {
                    "variant": name,
                    "direction": direction,
                    "neurons": num_neurons,
                    "batch_size": cfg.batch_size,
                    "timesteps": num_steps,
                    "compile_seconds": compile_seconds[name],
                    **summary,
                    "updates_per_second": x.size / summary["seconds_median"],
                    "ratio": summary["seconds_median"] / own,
                }
            )
    return found


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures every size, prints the table, and returns the rows."""
    context = rows.context("neurons")
    found = [
        context | row
        for n in cfg.neurons
        for t in cfg.timesteps
        for row in measure(cfg, n, t)
    ]
    rows.report(found, COLUMNS, benchmark="neurons", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
