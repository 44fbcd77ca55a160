r"""Layers without state: dense, convolution, pooling, and functions and Flax modules of other origin."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array

from jsnn import check
from jsnn.kernels import conv, pool
from jsnn.layers.base import Init, Layer, init_parameters
from jsnn.precision import like


class Dense(Layer):
    """Dense layer, $y = xW + b$.

    >>> jsnn.Dense(4, 8, rngs=nnx.Rngs(0)).forward(jnp.ones((2, 4))).shape  # [B, I] to [B, O]
    (2, 8)

    Args:
      num_inputs: I, features of a sample. Inputs of more axes, `[B, H, W, C]`, are flattened first.
      num_outputs: O.
      bias: add $b$.
      init: how weights start, see `jsnn.layers`.
      rngs: `nnx.Rngs(seed)`, from which they are drawn.

    Raises:
      ValueError: if a size is less than 1, or, when called, the input has another number of features.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        bias: bool = True,
        init: Init = "pytorch",
        rngs: nnx.Rngs,
    ):
        num_inputs = check.whole("num_inputs", num_inputs, 1)
        num_outputs = check.whole("num_outputs", num_outputs, 1)
        self.weight, self.bias = init_parameters(
            (num_inputs, num_outputs), num_inputs, bias, init, rngs
        )

    def forward(self, x: Array) -> Array:
        """`[N, ...] -> [N, O]`."""
        x = x.reshape(x.shape[0], -1)
        weight = self.weight[...]
        if x.shape[1] != weight.shape[0]:
            raise ValueError(
                f"`num_inputs` of this Dense layer is {weight.shape[0]}, its input has {x.shape[1]} features. "
                "Inputs are [T, B, ...]: an image shown for T steps is `Constant(images, T)`, and batch-first data are turned by `x.swapaxes(0, 1)`."
            )
        y = conv.linear(x, weight)
        return y if self.bias is None else y + like(y, self.bias[...]).reshape(1, -1)


class Conv(Layer):
    """Two-dimensional convolution of maps, as in `conv.conv2d`.

    >>> jsnn.Conv(1, 8, 3, rngs=nnx.Rngs(0)).forward(jnp.ones((2, 10, 10, 1))).shape  # [B, H, W, I] to [B, H', W', O]
    (2, 10, 10, 8)

    Args:
      num_inputs: I, channels of the input.
      num_outputs: O, channels of the output.
      kernel_size: side of the square kernel.
      stride: pixels from one output to the next.
      padding: `"same"` keeps height and width at stride 1, `"valid"` adds no border; or the width of the border in pixels.
      bias: add one number a channel.
      init: how weights start, see `jsnn.layers`.
      rngs: `nnx.Rngs(seed)`, from which they are drawn.

    Raises:
      ValueError: if a size is less than 1 or the padding is unknown.
    """

    takes_maps = True

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: conv.Padding = "same",
        bias: bool = True,
        init: Init = "pytorch",
        rngs: nnx.Rngs,
    ):
        kernel_size = check.whole("kernel_size", kernel_size, 1)
        num_inputs = check.whole("num_inputs", num_inputs, 1)
        num_outputs = check.whole("num_outputs", num_outputs, 1)
        shape = (kernel_size, kernel_size, num_inputs, num_outputs)
        self.weight, self.bias = init_parameters(
            shape, kernel_size**2 * num_inputs, bias, init, rngs
        )
        self.stride = check.whole("stride", stride, 1)
        self.padding: conv.Padding = conv.check_padding(padding)

    def forward(self, x: Array) -> Array:
        """`[N, H, W, I] -> [N, H', W', O]`."""
        y = conv.conv2d(x, self.weight[...], stride=self.stride, padding=self.padding)
        if self.bias is None:
            return y
        return y + like(y, self.bias[...]).reshape(1, 1, 1, -1)


class MaxPool(Layer):
    """Maximum over square windows that do not overlap, `[B, H, W, C] -> [B, H', W', C]`.

    >>> jsnn.MaxPool(2).forward(jnp.arange(4.0).reshape(1, 2, 2, 1)).item()
    3.0

    Args:
      size: side of a window in pixels. Rows and columns that fill no window are left out.
    """

    takes_maps = True

    def __init__(self, size: int = 2):
        self.size = check.whole("size", size, 1)

    def forward(self, x: Array) -> Array:
        """`[N, H, W, C] -> [N, H', W', C]`."""
        return pool.max_pool(x, self.size)


class AvgPool(Layer):
    """Mean over square windows that do not overlap, `[B, H, W, C] -> [B, H', W', C]`.

    >>> jsnn.AvgPool(2).forward(jnp.arange(4.0).reshape(1, 2, 2, 1)).item()
    1.5

    Args:
      size: side of a window in pixels. Rows and columns that fill no window are left out.
    """

    takes_maps = True

    def __init__(self, size: int = 2):
        self.size = check.whole("size", size, 1)

    def forward(self, x: Array) -> Array:
        """`[N, H, W, C] -> [N, H', W', C]`."""
        return pool.avg_pool(x, self.size)


class Stateless(Layer):
    """A plain function `[N, ...] -> [N, ...]`, or a Flax module without state, at every step: `jax.nn.relu`, `nnx.Linear(...)`, `nnx.Conv(...)`.

    >>> net = jsnn.network(lambda rngs: [nnx.Linear(4, 8, rngs=rngs), jax.nn.relu, jsnn.LIF()])
    >>> net.apply(net.init(jax.random.key(0)), jnp.ones((5, 2, 4))).value.shape
    (5, 2, 8)

    Raises:
      TypeError: if a module has state (running statistics, random numbers): use `BatchNorm` and `Dropout` of this library, whose
        state is carried through time.
    """

    def __init__(self, function: Callable[..., Any]):
        if isinstance(function, nnx.Module):
            kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(function))}
            if other := sorted(
                k.__name__ for k in kinds if not issubclass(k, nnx.Param)
            ):
                raise TypeError(
                    f"`{type(function).__name__}` has state ({', '.join(other)}), which a network over time must carry: use `jsnn.BatchNorm` or `jsnn.Dropout`, or "
                    "write a subclass of `Layer` with `init_state`."
                )
        self.function = function

    def forward(self, x: Array) -> Array:
        """`[N, ...] -> [N, ...]`."""
        return self.function(x)
