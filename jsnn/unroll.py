"""Time: the one loop over it, cut into blocks.

A *block* is a function `(state, x[K, B, ...]) -> (state, y[K, B, ...])` of K consecutive steps. `unroll` cuts T steps into
blocks of K and scans over them. K = T is layer-by-layer (few large products, most memory); K = 1 is step-by-step (least
memory); K near sqrt(T) with `remat` stores only the states between blocks.

Axes: T time, K steps of a block, B batch. Time comes first.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jsnn import check, neurons, precision
from jsnn import mesh as meshes
from jsnn.kernels import fused


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constant:
    """A signal that is the same at every time step, as an image shown for `num_steps` steps. It is not repeated in memory.

    >>> jsnn.Constant(jnp.ones((2, 4)), num_steps=5).value.shape
    (2, 4)

    Attributes:
      value: the input of one step, `[B, ...]`.
      num_steps: T.

    Raises:
      ValueError: if `num_steps` is less than 1.
    """

    value: Array
    num_steps: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self):
        remedy = "Write `Constant(images, T)`, T a number of time steps."
        steps = check.whole("num_steps", self.num_steps, 1, remedy=remedy)
        object.__setattr__(self, "num_steps", steps)


Signal = Array | Constant
Block = Callable[[Any, Any], tuple[Any, Any]]


def num_steps(x: Signal) -> int:
    """T, the number of time steps of a signal."""
    return x.num_steps if isinstance(x, Constant) else x.shape[0]


def per_step(fn: Callable[[Array], Array], x: Signal) -> Signal:
    """Applies a stateless `fn([N, ...]) -> [N, ...]` at every step: time folded into the batch, a constant signal visited once."""
    if isinstance(x, Constant):
        value = precision.floating(x.value)
        return Constant(meshes.by_device(fn, value), x.num_steps)
    return folded(fn, x)


def folded(fn: Callable[[Array], Array], x: Array) -> Array:
    """`fn([N, ...])` at every step of `[T, B, ...]`, with N = T B, or a device's part of it."""

    def run(x: Array) -> Array:
        y = fn(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]))
        return y.reshape(*x.shape[:2], *y.shape[1:])

    return meshes.by_device(run, precision.floating(x), axis=1)


def neuron_block(neuron: neurons.Neuron, params: Any) -> Block:
    """The block of a neuron: its `step` scanned over K, or run by one kernel where `fused` pays. One step is called without a scan.

    Outputs have the precision of the input; the state keeps its own (`precision.keeping`). So in a network fed with bfloat16, spikes and
    synapses are bfloat16 and membranes float32.
    """

    step = precision.keeping(neuron.step)

    def block(state: Any, x: Signal) -> tuple[Any, Array]:
        x = precision.floating(x)
        steps, x_0 = num_steps(x), x.value if isinstance(x, Constant) else x[0]
        if steps == 1:
            state, y = step(params, state, x_0)
            return state, y[None]
        if neuron.elementwise and fused.pays() and fused.fits(step, params, state, x_0):
            if isinstance(x, Constant):
                return fused.run(step, params, state, x.value, num_steps=steps)
            return fused.run(step, params, state, x)
        if isinstance(x, Constant):
            return jax.lax.scan(
                lambda s, _: step(params, s, x.value), state, length=steps
            )
        return jax.lax.scan(lambda s, x_t: step(params, s, x_t), state, x)

    return block


def steps_in_cache() -> int | None:
    """Steps at a time for convolutional layers: one on a CPU, whose caches then hold what a step needs; all (None) elsewhere, for large products."""
    return 1 if jax.default_backend() == "cpu" else None


def _split(x: Signal, size: int) -> tuple[Signal | None, Signal | None]:
    """The first T // size blocks, stacked, and what is left over (None if nothing)."""
    total = num_steps(x)
    count = total // size
    if isinstance(x, Constant):
        rest = Constant(x.value, total % size) if total % size else None
        return None, rest
    rest = x[count * size :] if total % size else None
    return x[: count * size].reshape(count, size, *x.shape[1:]), rest


def _array(y: Any) -> Any:
    """A constant output as `[K, B, ...]`, so that blocks can be stacked."""
    if isinstance(y, Constant):
        return jnp.broadcast_to(y.value[None], (y.num_steps, *y.value.shape))
    return y


def unroll(
    block: Block,
    state: Any,
    x: Signal,
    *,
    block_size: int | None = None,
    remat: bool = False,
    truncate: bool = False,
) -> tuple[Any, Any]:
    """Runs `block` over all T steps of `x`, `block_size` of them at a time.

    Args:
      block: function of a state and K steps of input; a neuron's is `neuron_block(neuron, params)`.
      state: the state before the first step.
      x: `[T, B, ...]`, or a `Constant`.
      block_size: K, the steps handed to `block` at a time; all T if None. What T leaves over makes a shorter last block.
      remat: store only the states between blocks and recompute the rest in the backward pass: memory goes as T/K + K.
      truncate: stop the gradient between blocks (truncated backpropagation through time). It changes the gradient.

    Returns:
      The state after the last step, and the output of all steps, `[T, B, ...]`, or a tree of such; a `Constant` if an only block returns one.

    Raises:
      ValueError: if there are no steps, or `block_size` lies outside 1 ... T.
    """
    total = num_steps(x)
    if total < 1:
        raise ValueError(
            f"`x` must have at least one time step on its first axis, got {total}."
        )
    size = total
    if block_size is not None:
        remedy = "It is a number of the input's time steps."
        size = check.whole("block_size", block_size, 1, total, remedy=remedy)

    def body(state: Any, x_block: Any) -> tuple[Any, Any]:
        if truncate:
            state = jax.lax.stop_gradient(state)
        return block(
            state, Constant(x.value, size) if isinstance(x, Constant) else x_block
        )

    # Inside a scan XLA cannot merge the recomputation with the first pass, so the costly barrier is not needed.
    body = jax.checkpoint(body, prevent_cse=False) if remat else body
    if size == total:
        return body(state, x)
    blocks, rest = _split(x, size)

    def stacked(state: Any, x_block: Any) -> tuple[Any, Any]:
        state, y = body(state, x_block)
        return state, _array(y)

    state, y = jax.lax.scan(stacked, state, blocks, length=total // size)
    y = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), y)
    if rest is not None:
        tail = jax.lax.stop_gradient(state) if truncate else state
        state, y_rest = (jax.checkpoint(block, prevent_cse=False) if remat else block)(
            tail, rest
        )
        y = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y, _array(y_rest))
    return state, y
