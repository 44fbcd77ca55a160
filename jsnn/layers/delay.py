"""Layers with learnable delays."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jsnn import advice, check, delays
from jsnn.layers.base import Fixed, Init, Layer, check_rngs, init_parameters
from jsnn.precision import floating, like
from jsnn.unroll import Constant, Signal

# A number of steps, or a function that gives it for the batches trained so far, such as a schedule of Optax.
Width = ArrayLike | Callable[[Array], ArrayLike]


class Batches(nnx.Variable):
    """How many batches a layer has been trained on."""


class DelayState(NamedTuple):
    """`past`: the last K steps of input, `[K, B, ...]`; `batches`: trained so far, where the width follows them, else `()`."""

    past: Float[Array, "K B *N"]
    batches: Int[Array, ""] | tuple[()]


class _Delayed(Layer):
    """What both layers share: the delays, the width of their kernel, and the steps that are still under way."""

    stateless = False

    def _draw(
        self,
        shape: tuple[int, ...],
        rngs: nnx.Rngs | None,
        *,
        max_steps: int,
        dt: float,
        longest: float | None,
        delay: ArrayLike | None,
        learn: bool,
        width: Width,
        kernel: delays.Kernel,
    ) -> None:
        self.dt = check.static("dt", dt, "(0, inf)")
        self.max_steps = check.whole("max_steps", max_steps, 1)
        span = self.max_steps * self.dt
        if delay is None:
            remedy = f"It is a delay in the unit of `dt`, of at most max_steps * dt = {span:g}."
            top = span if longest is None else longest
            check.number("longest", top, f"[0, {span}]", remedy=remedy)
            if rngs is None:
                raise ValueError("`rngs` is needed to draw delays; or give `delay`.")
            check_rngs(rngs)
            start = top * jax.random.uniform(rngs.params(), shape, jnp.float32)
        else:
            remedy = f"It is in the unit of `dt`; a longer one needs a larger `max_steps` than {self.max_steps}."
            check.number("delay", delay, f"[0, {span}]", remedy=remedy)
            start = jnp.broadcast_to(jnp.asarray(delay, jnp.float32), shape)
        self.delay_share = (nnx.Param if learn else Fixed)(start / span)
        check.choice("kernel", kernel, ("gaussian", "triangle"))
        self.kernel: delays.Kernel = kernel
        self.schedule = None
        fixed = batches = None
        if learn and callable(width):
            self.schedule = nnx.static(width)
            batches = Batches(jnp.zeros((), jnp.int32))
        elif learn:
            check.number("width", width, "[0, inf)", remedy="It is in steps.")
            fixed = Fixed(jnp.asarray(width, jnp.float32))
        self.width, self.batches = fixed, batches

    def delays(self) -> Array:
        """The delays in the unit of `dt`, within 0 and `max_steps * dt`."""
        share = jnp.clip(self.delay_share[...], 0.0, 1.0)
        return share * (self.max_steps * self.dt)

    def _shares(self, batches: Any, train: bool) -> Array:
        width = None
        if train and self.schedule is not None:
            width = self.schedule(batches)
        elif train and self.width is not None:
            width = self.width[...]
        steps = self.delay_share[...] * self.max_steps
        return delays.taps(
            steps, max_steps=self.max_steps, width=width, kernel=self.kernel
        )

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """No spike under way."""
        past = jnp.zeros((self.max_steps, *self._sample(shape)), dtype)
        return DelayState(past, () if self.batches is None else self.batches[...])

    def _sample(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the input of one step as the layer keeps it."""
        return tuple(shape)

    def remember(self, state: DelayState) -> None:
        """Counts the batch."""
        if self.batches is not None:
            self.batches[...] = jnp.asarray(state.batches) + 1

    def _input(self, state: DelayState, x: Signal) -> Array:
        """The block as an array, checked."""
        advice.signal(x)
        shape = x.value.shape if isinstance(x, Constant) else x.shape[1:]
        wanted = jax.eval_shape(lambda: self.init_state(shape))
        advice.state(self, state, wanted, x)
        if isinstance(x, Constant):
            x = jnp.broadcast_to(x.value[None], (x.num_steps, *x.value.shape))
        return floating(x).reshape(x.shape[0], *self._sample(shape))


class Delay(_Delayed):
    r"""Delays each input by a time of its own, that of its axon, `[T, B, N] -> [T, B, N]`: $y_t = x_{t - d}$.

    >>> narrower = optax.linear_schedule(5.0, 0.5, 1000)  # steps wide, over the first 1,000 batches
    >>> net = jsnn.network(lambda rngs: [jsnn.Delay(4, max_steps=10, width=narrower, rngs=rngs), jsnn.Dense(4, 8, rngs=rngs), jsnn.LIF()])
    >>> net.apply(net.init(jax.random.key(0)), jnp.ones((20, 2, 4))).value.shape
    (20, 2, 8)
    >>> jsnn.Delay(2, max_steps=10, delay=jnp.array([0.0, 3.0]), learn=False).delays().tolist()
    [0.0, 3.0]

    In training a delay is a bump over the steps around it, so that it has a gradient; see `jsnn.delays`. In evaluation it is rounded to whole steps.
    So the bump should be narrow by the end of training: let `width` fall from about half of `max_steps` to 0.5 or less.

    What is trained is `delay_share`, the delay as a share of the longest, held within 0 and 1 (`jsnn.delays.held`). So a step of Adam moves a delay by about
    its learning rate times `max_steps` steps, as fits beside weights. For another rate give it an optimiser of its own by `optax.partition`.

    Args:
      num_inputs: N; or a shape that broadcasts against an input, such as `(1, 1, C)` for one delay a channel.
      max_steps: K, the longest delay in steps. It sets the memory: the last K steps are kept.
      dt: time step. It only says in what unit `longest`, `delay` and `delays()` are: in steps if it is 1.
      longest: delays start uniformly from 0 to this; from 0 to `max_steps * dt` if None.
      delay: start from these delays instead.
      learn: train the delays. If not, they are rounded to whole steps in training too.
      width: of the relaxed kernel, in steps; or a function of the number of batches that the layer has been trained on, such as a schedule of Optax.
        The layer counts them itself.
      kernel: `"gaussian"` or `"triangle"`, see `jsnn.delays.taps`.
      rngs: `nnx.Rngs(seed)`, from which delays are drawn.

    Raises:
      ValueError: if a number is out of range, or, when called, the input has another number of features.
    """

    def __init__(
        self,
        num_inputs: int | tuple[int, ...],
        *,
        max_steps: int,
        dt: float = 1.0,
        longest: float | None = None,
        delay: ArrayLike | None = None,
        learn: bool = True,
        width: Width = 1.0,
        kernel: delays.Kernel = "gaussian",
        rngs: nnx.Rngs | None = None,
    ):
        given = num_inputs if isinstance(num_inputs, tuple) else (num_inputs,)
        shape = tuple(check.whole("num_inputs", n, 1) for n in given)
        options = {"max_steps": max_steps, "dt": dt, "longest": longest, "delay": delay}
        self._draw(shape, rngs, learn=learn, width=width, kernel=kernel, **options)

    def __call__(self, state, x, *, train=False):
        """Delays a block; what is still under way goes into the state."""
        x = self._input(state, x)
        shape = self.delay_share.shape
        ends = list(zip(shape[::-1], x.shape[:1:-1], strict=False))
        if len(ends) < len(shape) or any(n not in (1, m) for n, m in ends):
            raise ValueError(
                f"`num_inputs` of this Delay is {shape}, its input has {x.shape[2:]}: write as many delays as there are inputs."
            )
        y, past = delays.axonal(x, state.past, self._shares(state.batches, train))
        return state._replace(past=past), y


class DelayedDense(_Delayed):
    r"""Dense layer with a delay for each weight, `[T, B, I] -> [T, B, O]`: $y_{t,o} = \sum_i w_{io} x_{t - d_{io},\,i} + b_o$.

    >>> layer = jsnn.DelayedDense(4, 8, max_steps=10, width=2.0, rngs=nnx.Rngs(0))
    >>> state, y = layer(layer.init_state((2, 4)), jnp.ones((20, 2, 4)), train=True)
    >>> y.shape, layer.delays().shape
    ((20, 2, 8), (4, 8))

    It costs as much as `max_steps + 1` dense layers. All else about delays is as in `Delay`.

    Args:
      num_inputs: I, features of a sample. Inputs of more axes, `[B, H, W, C]`, are flattened first.
      num_outputs: O.
      max_steps, dt, longest, delay, learn, width, kernel: as in `Delay`, delays being `[I, O]`.
      bias: add $b$.
      init: how weights start, see `jsnn.layers`.
      rngs: `nnx.Rngs(seed)`, from which weights and delays are drawn.

    Raises:
      ValueError: if a number is out of range, or, when called, the input has another number of features.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        max_steps: int,
        dt: float = 1.0,
        longest: float | None = None,
        delay: ArrayLike | None = None,
        learn: bool = True,
        width: Width = 1.0,
        kernel: delays.Kernel = "gaussian",
        bias: bool = True,
        init: Init = "pytorch",
        rngs: nnx.Rngs,
    ):
        num_inputs = check.whole("num_inputs", num_inputs, 1)
        num_outputs = check.whole("num_outputs", num_outputs, 1)
        shape = (num_inputs, num_outputs)
        self.weight, self.bias = init_parameters(shape, num_inputs, bias, init, rngs)
        options = {"max_steps": max_steps, "dt": dt, "longest": longest, "delay": delay}
        self._draw(shape, rngs, learn=learn, width=width, kernel=kernel, **options)

    def _sample(self, shape):
        return shape[0], math.prod(shape[1:])

    def __call__(self, state, x, *, train=False):
        """Runs the layer over a block; what is still under way goes into the state."""
        x, weight = self._input(state, x), self.weight[...]
        if x.shape[2] != weight.shape[0]:
            raise ValueError(
                f"`num_inputs` of this DelayedDense layer is {weight.shape[0]}, its input has {x.shape[2]} features."
            )
        shares = self._shares(state.batches, train)
        y, past = delays.dense(x, state.past, weight, shares)
        if self.bias is not None:
            y = y + like(y, self.bias[...]).reshape(1, 1, -1)
        return state._replace(past=past), y
