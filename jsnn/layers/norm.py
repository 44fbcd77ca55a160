"""Batch normalisation and dropout, whose state goes through time."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jsnn import check
from jsnn.kernels import norm
from jsnn.layers.base import Layer
from jsnn.precision import floating, like
from jsnn.unroll import Constant, per_step


class BatchNormState(NamedTuple):
    """Running statistics, `[C]` each."""

    mean: Float[Array, "C"]
    var: Float[Array, "C"]


class BatchNorm(Layer):
    r"""Batch normalisation over all axes but the last, $y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \delta$.

    >>> norm = jsnn.BatchNorm(3)
    >>> state, y = norm(norm.init_state((2, 3)), jnp.ones((5, 2, 3)))  # [T, B, C]
    >>> y.shape
    (5, 2, 3)

    In training, $\mu$ and $\sigma^2$ are the mean and variance of the mini-batch. In evaluation they are the running ones, which follow
    those of the mini-batches with `momentum` and the unbiased variance, as in PyTorch. The running ones are carried through time.

    Args:
      num_features: C, size of the last axis.
      statistics: over what mean and variance are taken: `"step"`, each time step by itself; `"block"`, all steps that the layer gets at
        once, which are all T unless the sequence is cut.
      momentum: share of the new value in a running statistic, once a step or a block.
      epsilon: $\epsilon$.
      initial_scale: $\gamma$ before training. $\delta$ starts at 0.

    Raises:
      ValueError: if a number is out of range.
    """

    stateless = False

    def __init__(
        self,
        num_features: int,
        *,
        statistics: Literal["step", "block"] = "block",
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        initial_scale: float = 1.0,
    ):
        check.choice("statistics", statistics, ("step", "block"))
        num_features = check.whole("num_features", num_features, 1)
        check.number("momentum", momentum, "[0, 1]")
        check.number("epsilon", epsilon, "(0, inf)")
        check.number("initial_scale", initial_scale)
        self.scale = nnx.Param(jnp.full(num_features, initial_scale, jnp.float32))
        self.offset = nnx.Param(jnp.zeros(num_features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(num_features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(num_features, jnp.float32))
        self.statistics, self.momentum, self.epsilon = statistics, momentum, epsilon

    def init_state(
        self, shape, *, key=None, train=False, dtype=jnp.float32
    ) -> BatchNormState:
        """The running statistics kept so far, in their own type."""
        return BatchNormState(self.mean[...], self.var[...])

    def remember(self, state: BatchNormState) -> None:
        """Keeps the running statistics."""
        self.mean[...], self.var[...] = state.mean, state.var

    def _normalise(self, x: Array, mean: Array, var: Array) -> Array:
        gain = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (-1,)
        y = x * gain.reshape(shape) + (self.offset[...] - mean * gain).reshape(shape)
        return like(x, y)

    def _by_batch(self, x: Array) -> tuple[BatchNormState, Array]:
        """The batch's own mean and unbiased variance, and `x` normalised by mean and biased variance."""
        found: Any = norm.batch_norm(x, self.scale[...], self.offset[...], self.epsilon)
        y, mean, var = found
        count = x.size // x.shape[-1]
        return BatchNormState(mean, var * (count / max(count - 1, 1))), y

    def _follow(
        self, state: BatchNormState, batch: BatchNormState, steps: int = 1
    ) -> BatchNormState:
        """The running statistics after `steps` updates by the same batch."""
        keep = (1 - self.momentum) ** steps
        return jax.tree.map(
            lambda old, b: like(old, keep * old + (1 - keep) * b), state, batch
        )

    def __call__(self, state, x, *, train=False):
        """Normalises a block."""
        x = floating(x)
        if not train:
            return state, per_step(lambda x: self._normalise(x, *state), x)
        if isinstance(x, Constant):
            # Every step has the same statistics, so their K updates of the running ones are one.
            steps = x.num_steps if self.statistics == "step" else 1
            batch, y = self._by_batch(x.value)
            return self._follow(state, batch, steps), Constant(y, x.num_steps)
        if self.statistics == "block":
            batch, y = self._by_batch(x)
            return self._follow(state, batch), y
        batches, y = jax.vmap(self._by_batch)(x)
        state, _ = jax.lax.scan(lambda s, b: (self._follow(s, b), None), state, batches)
        return state, y


class Dropout(Layer):
    """Sets inputs to zero with probability `rate` in training and scales the others by 1 / (1 - rate).

    >>> drop = jsnn.Dropout(0.5)
    >>> mask = drop.init_state((2, 8), key=jax.random.key(0), train=True)
    >>> drop(mask, jnp.ones((5, 2, 8)), train=True)[1].max().item()
    2.0

    One mask serves all time steps of a sample, so that a dropped connection stays dropped while the neuron integrates.

    Args:
      rate: from 0 up to, but not including, 1.
    """

    stateless = False

    def __init__(self, rate: float = 0.5):
        check.number("rate", rate, "[0, 1)")
        self.rate = rate

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """The mask `[B, ...]`; nothing outside training."""
        if not train or self.rate == 0:
            return ()
        if key is None:
            raise ValueError("`key` is needed to draw a dropout mask in training.")
        keep = jax.random.bernoulli(key, jnp.float32(1 - self.rate), shape)
        return keep.astype(dtype) / (1 - self.rate)

    def __call__(self, state, x, *, train=False):
        """Applies the mask at every step."""
        x = floating(x)
        if not train or self.rate == 0:
            return state, x
        if isinstance(x, Constant):
            return state, Constant(x.value * like(x.value, state), x.num_steps)
        return state, x * like(x, state)[None]
