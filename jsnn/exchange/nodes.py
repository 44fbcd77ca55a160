"""Layers for what NIR's nodes can say beyond `jsnn.layers`: any convolution and pooling, flattening, scaling, delays, thresholds.

Channels come last, as everywhere in this library. NIR has them first.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array

from jsnn import surrogate
from jsnn.layers import Layer
from jsnn.layers.base import Fixed
from jsnn.neurons.base import cast
from jsnn.precision import floating, like
from jsnn.unroll import Constant, num_steps, unroll

Pads = tuple[tuple[int, int], ...]


class Convolution(Layer):
    """Convolution along one or two axes, with any stride, padding, dilation and groups.

    Args:
      weight: `[K, I / groups, O]` or `[KH, KW, I / groups, O]`.
      bias: `[O]`, or None.
      stride, dilation: one number an axis.
      padding: cells added before and after, for each axis.
      groups: into how many groups the channels fall.
    """

    def __init__(
        self,
        weight: Any,
        bias: Any,
        *,
        stride: tuple[int, ...],
        padding: Pads,
        dilation: tuple[int, ...],
        groups: int,
    ):
        self.weight = nnx.Param(jnp.asarray(weight, jnp.float32))
        self.bias = None if bias is None else nnx.Param(jnp.asarray(bias, jnp.float32))
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, groups

    def forward(self, x: Array) -> Array:
        """`[N, ..., I] -> [N, ..., O]`."""
        x = floating(x)
        axes = "HW"[-len(self.stride) :]
        y = lax.conv_general_dilated(
            x,
            like(x, self.weight[...]),
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        )
        if self.bias is None:
            return y
        return y + like(y, self.bias[...]).reshape(*(1,) * (y.ndim - 1), -1)


class Pool(Layer):
    """Sum or mean over windows, `[B, H, W, C] -> [B, H', W', C]`; cells of the padding count as zeros.

    Args:
      size, stride: rows and columns.
      padding: cells added on each side, for rows and columns.
      mean: divide by the size of the window.
    """

    takes_maps = True

    def __init__(
        self,
        size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        *,
        mean: bool,
    ):
        self.size, self.stride, self.padding = size, stride, padding
        self.mean = mean

    def forward(self, x: Array) -> Array:
        """`[N, H, W, C] -> [N, H', W', C]`."""
        x = floating(x)
        pads = [(0, 0), *((p, p) for p in self.padding), (0, 0)]
        y = lax.reduce_window(
            x,
            jnp.zeros((), x.dtype),
            lax.add,
            (1, *self.size, 1),
            (1, *self.stride, 1),
            pads,
        )
        return y / (self.size[0] * self.size[1]) if self.mean else y


class Flatten(Layer):
    """Some axes as one, in NIR's order, where channels come first.

    Args:
      start, end: first and last axis of a sample `[C, ...]` that become one; -1 is its last.
    """

    def __init__(self, start: int, end: int):
        self.start, self.end = start, end

    def forward(self, x: Array) -> Array:
        """`[N, ..., C] -> [N, ...]`."""
        y = jnp.moveaxis(x, -1, 1)
        shape = y.shape[1:]
        end = self.end % len(shape) + 1
        size = int(np.prod(shape[self.start : end]))
        y = y.reshape(x.shape[0], *shape[: self.start], size, *shape[end:])
        return jnp.moveaxis(y, 1, -1)


class Scale(Layer):
    """Every input times its own number, `[B, ...] -> [B, ...]`."""

    def __init__(self, scale: Any):
        self.scale = nnx.Param(jnp.asarray(scale, jnp.float32))

    def forward(self, x: Array) -> Array:
        """`[N, ...] -> [N, ...]`."""
        x = floating(x)
        return x * cast(x, self.scale[...])


class Threshold(Layer):
    """Spikes without a membrane: 1 where the input exceeds its threshold.

    Args:
      threshold: one number, or one an input.
      inclusive: 1 at the threshold, too.
      spike_fn: a surrogate, for the gradient.
    """

    def __init__(
        self, threshold: Any, *, inclusive: bool = False, spike_fn: Any = None
    ):
        self.threshold = Fixed(jnp.asarray(threshold, jnp.float32))
        self.inclusive = inclusive
        self.fire = surrogate.resolve(spike_fn, at_threshold=inclusive)

    def forward(self, x: Array) -> Array:
        """`[N, ...] -> [N, ...]`."""
        x = floating(x)
        u = x - cast(x, self.threshold[...])
        return self.fire(u, at_threshold=self.inclusive)


class Delay(Layer):
    """What entered some steps ago, zero before the first step.

    Args:
      steps: whole numbers of steps, one number or one an input.
    """

    stateless = False

    def __init__(self, steps: Any):
        self.steps = Fixed(jnp.asarray(steps, jnp.int32))
        self.least, self.most = int(np.min(steps)), int(np.max(steps))

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """The inputs of the last steps, the latest first: none yet."""
        return jnp.zeros((self.most, *shape), dtype)

    def __call__(self, state, x, *, train=False):
        """Reads before it writes, so that a delay of one step or more may close a loop."""

        def block(past: Array, x: Any) -> tuple[Array, Array]:
            now = (x.value if isinstance(x, Constant) else x[0]).astype(past.dtype)
            seen = jnp.concatenate([now[None], past])
            return seen[: self.most], self._read(seen)[None]

        x = Constant(floating(x.value), num_steps(x)) if isinstance(x, Constant) else floating(x)  # fmt: skip
        state, y = unroll(block, state, x, block_size=1)
        return state, like(jax.tree.leaves(x)[0], y)

    def ahead(self, state: Array) -> Array:
        """What comes out of this step, `[1, B, ...]`, before its input is known: for delays of one step or more."""
        nothing = jnp.zeros((1, *state.shape[1:]), state.dtype)
        return self._read(jnp.concatenate([nothing, state]))[None]

    def _read(self, seen: Array) -> Array:
        """Of `[most + 1, B, ...]`, the latest first, what each input's delay asks for."""
        steps = self.steps[...]
        if not steps.ndim:
            return seen[steps]
        index = jnp.broadcast_to(steps[None, None], (1, *seen.shape[1:]))
        return jnp.take_along_axis(seen, index, 0)[0]
