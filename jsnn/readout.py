r"""From what a network's last layer gives over time to one score a class.

Axes: T time, B batch, C classes. Scores `[B, C]` are float32, or wider where the output is; the class is the one with the highest.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jsnn import check


def _wide(outputs: Array) -> Array:
    """16-bit sums of spikes are exact only up to 256 (bfloat16) or 2048 (float16)."""
    check.time_axis("outputs", outputs)
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def mean_membrane(outputs: Float[Array, "T B C"]) -> Float[Array, "B C"]:
    r"""The potential averaged over time, $\frac{1}{T} \sum_t v_t$; of spikes, the firing rate.

    >>> mean_membrane(jnp.array([[[0.0, 1.0]], [[0.5, 2.0]]])).tolist()
    [[0.25, 1.5]]

    Args:
      outputs: of the last layer, `[T, B, C]`.

    Returns:
      Scores, `[B, C]`.
    """
    return _wide(outputs).mean(0)


def max_membrane(outputs: Float[Array, "T B C"]) -> Float[Array, "B C"]:
    r"""The largest potential, $\max_t v_t$.

    >>> max_membrane(jnp.array([[[0.0, 2.0]], [[0.5, 1.0]]])).tolist()
    [[0.5, 2.0]]

    Args:
      outputs: of the last layer, `[T, B, C]`.

    Returns:
      Scores, `[B, C]`.
    """
    return _wide(outputs).max(0)


def last_membrane(outputs: Float[Array, "T B C"]) -> Float[Array, "B C"]:
    r"""The potential after the last step, $v_T$.

    >>> last_membrane(jnp.array([[[0.0, 1.0]], [[0.5, 2.0]]])).tolist()
    [[0.5, 2.0]]

    Args:
      outputs: of the last layer, `[T, B, C]`.

    Returns:
      Scores, `[B, C]`.
    """
    return _wide(outputs)[-1]


def spike_count(outputs: Shaped[Array, "T B C"]) -> Float[Array, "B C"]:
    r"""The number of spikes, $\sum_t s_t$. Equal counts are common; the lowest class then wins.

    >>> spike_count(jnp.array([[[0.0, 1.0]], [[1.0, 1.0]]])).tolist()
    [[1.0, 2.0]]

    Args:
      outputs: of the last layer, `[T, B, C]`.

    Returns:
      Scores, `[B, C]`.
    """
    return _wide(outputs).sum(0)
