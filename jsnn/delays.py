r"""Delays for networks with surrogate gradients: spikes that arrive some steps after they left.

Shapes and units are those of `jsnn.eventprop`: a delay for each input, `[*N]` (of its axon), or for each weight, `[I, O]` (of its synapse), in
the unit of `dt`, of at most `max_steps` steps. A delay $d$ of $\delta = d / \Delta t$ steps is a kernel over the steps $k = 0 \dots K$,
$y_t = \sum_k \kappa_k x_{t-k}$. What differs is the gradient. EventProp's is exact and comes from spike times. A surrogate network has no spike
times, so here the kernel is relaxed: a bump of some width around $\delta$, differentiable in $\delta$. Training makes it narrower, and a
network in use has whole steps (Hammouamri, Khalfaoui-Hassani & Masquelier, 2024, https://arxiv.org/abs/2306.17670, who call it DCLS).

Axes: T time, K longest delay in steps, B batch, N neurons (any number of axes), I inputs, O outputs. A block of time needs the last K steps
before it: the `past`, `[K, B, *N]`, zeros at first.
"""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jsnn import check
from jsnn.precision import like

Kernel = Literal["gaussian", "triangle"]
# A Gaussian of this width in steps is one step for every delay that is not within 1e-4 steps of a tie.
_NARROWEST = 1e-3


def held(x: Array, least: float, most: float) -> Array:
    """`x` within `least` and `most`. The gradient is that of `x` itself, but for what would push a value further out: that is 0.

    So a value at an end of its range comes back as soon as the loss asks for it, and does not wander off meanwhile.
    """
    return _held(least, most, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _held(least: float, most: float, x: Array) -> Any:
    return jnp.clip(x, least, most)


def _held_fwd(least, most, x):
    return _held(least, most, x), x


def _held_bwd(least, most, x, g):
    # Descent moves against the gradient.
    outward = ((x <= least) & (g > 0)) | ((x >= most) & (g < 0))
    return (jnp.where(outward, 0.0, g),)


_held.defvjp(_held_fwd, _held_bwd)


def taps(
    delay: Float[Array, "*N"],
    *,
    dt: float = 1.0,
    max_steps: int,
    width: ArrayLike | None = None,
    kernel: Kernel = "gaussian",
) -> Float[Array, "K1 *N"]:
    r"""How much of a spike arrives after $k = 0 \dots K$ steps. The K + 1 shares add up to 1.

    `"gaussian"`: $\kappa_k \propto \exp(-(k - \delta)^2 / 2\sigma^2)$. As its width goes to 0, all arrives at the step nearest to $\delta$.
    `"triangle"`: $\kappa_k \propto \max(0, 1 + \sigma - |k - \delta|)$. As its width goes to 0, this is linear interpolation between the two
    steps around $\delta$, which for whole delays is a shift. What would arrive before it left, or after K steps, is shared out among the others.

    >>> jsnn.delays.taps(jnp.array([2.0]), max_steps=3)[:, 0].tolist()
    [0.0, 0.0, 1.0, 0.0]
    >>> jsnn.delays.taps(jnp.array([0.25]), max_steps=2, width=0.0, kernel="triangle")[:, 0].tolist()
    [0.75, 0.25, 0.0]

    Args:
      delay: in the unit of `dt`; held within 0 and `max_steps * dt`, see `held`.
      dt: time step.
      max_steps: K, the longest delay in steps.
      width: $\sigma$ in steps, not negative. None rounds to whole steps, as `eventprop` does, without a gradient.
      kernel: `"gaussian"` or `"triangle"`.

    Returns:
      $\kappa$, `[K + 1, *N]`.

    Raises:
      ValueError: if a number is out of range, or the kernel is unknown.
    """
    dt = check.static("dt", dt, "(0, inf)")
    max_steps = check.whole("max_steps", max_steps, 0)
    check.choice("kernel", kernel, get_args(Kernel))
    steps = held(delay / dt, 0.0, float(max_steps))
    k = jnp.arange(max_steps + 1, dtype=steps.dtype)
    k = k.reshape(-1, *[1] * steps.ndim)
    if width is None:
        at = jnp.round(jax.lax.stop_gradient(steps))
        return (k == at[None]).astype(steps.dtype)
    check.number("width", width, "[0, inf)")
    width, away = like(steps, width), k - steps[None]
    if kernel == "gaussian":
        width = jnp.maximum(width, _NARROWEST)
        return jax.nn.softmax(-((away / width) ** 2) / 2, axis=0)
    share = jax.nn.relu(1 + width - jnp.abs(away))
    return share / share.sum(0, keepdims=True)


def _through(
    x: Float[Array, "T B *N"], past: Float[Array, "K B *N"]
) -> tuple[Array, Array]:
    """The steps before and in this block, and the past of the next."""
    both = jnp.concatenate([like(x, past), x])
    return both, like(past, both[x.shape[0] :])


def axonal(
    x: Float[Array, "T B *N"],
    past: Float[Array, "K B *N"],
    shares: Float[Array, "K1 ..."],
) -> tuple[Float[Array, "T B *N"], Float[Array, "K B *N"]]:
    """Delays each input by its own delay.

    >>> shares = jsnn.delays.taps(jnp.array([1.0]), max_steps=2)
    >>> y, past = jsnn.delays.axonal(jnp.array([[[1.0]], [[0.0]], [[0.0]]]), jnp.zeros((2, 1, 1)), shares)
    >>> y[:, 0, 0].tolist()
    [0.0, 1.0, 0.0]

    Args:
      x: `[T, B, *N]`.
      past: the K steps before, `[K, B, *N]`.
      shares: from `taps`, `[K + 1, *N]`; or with axes of size 1, or fewer of them, to share delays.

    Returns:
      What arrives, `[T, B, *N]`, and the past of the next block.
    """
    both, new = _through(x, past)
    most, steps = shares.shape[0] - 1, x.shape[0]
    lead = (1,) * (x.ndim - shares.ndim + 1)
    y = jnp.zeros_like(x)
    for k in range(most + 1):
        share = like(x, shares[k]).reshape(*lead, *shares.shape[1:])
        y = y + share * both[most - k : most - k + steps]
    return y, new


def dense(
    x: Float[Array, "T B I"],
    past: Float[Array, "K B I"],
    weight: Float[Array, "I O"],
    shares: Float[Array, "K1 I O"],
) -> tuple[Float[Array, "T B O"], Float[Array, "K B I"]]:
    """A dense layer with a delay for each weight: a convolution over time with K + 1 taps.

    Args:
      x: `[T, B, I]`.
      past: the K steps before, `[K, B, I]`.
      weight: `[I, O]`.
      shares: from `taps`, `[K + 1, I, O]`.

    Returns:
      What arrives, `[T, B, O]`, and the past of the next block.
    """
    both, new = _through(x, past)
    kernel = like(x, weight[None] * shares)
    y = jax.lax.conv_general_dilated(
        both,
        kernel[::-1],  # lax correlates
        window_strides=(1,),
        padding=[(0, 0)],
        dimension_numbers=("WNC", "WIO", "WNC"),
    )
    return y, new
