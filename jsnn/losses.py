r"""Losses on what a read-out layer emits over time.

Axes: T time, B batch, C classes. Outputs are spikes or membrane potentials `[T, B, C]`, labels are class indices `[B]`.
Every loss returns one value a sample, `[B]`, as Optax's losses do: the caller takes the mean, or a weighted mean over a
padded batch. They are computed and returned in float32, or in the outputs' type where that is wider.

Labels are checked for their range where their values are known; the data room does that for all when it loads them.
Cross entropy takes logits of −inf (closed classes of a growing head); squared errors need finite outputs.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Shaped

from jsnn import check


def _prepare(name: str, outputs: Array, labels: Array) -> Array:
    """Checks shapes and returns the outputs in at least float32."""
    check.time_axis(name, outputs)
    if outputs.ndim != 3:
        raise ValueError(f"`{name}` must be [T, B, C], got shape {outputs.shape}.")
    check.labels("labels", labels, outputs.shape[2], outputs.shape[1:2])
    return _widen(outputs)


def _widen(x: Array) -> Array:
    # 16-bit sums of spikes are exact only up to 256 (bfloat16) or 2048 (float16).
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def _cross_entropy_per_step(outputs: Array, labels: Array) -> Array:
    every_step = jnp.broadcast_to(labels, outputs.shape[:2])
    return jnp.mean(_cross_entropy(outputs, every_step), axis=0)


def ce_rate(
    spikes: Shaped[Array, "T B C"], labels: Integer[Array, "B"]
) -> Float[Array, "B"]:
    r"""Cross entropy at every step, with that step's spikes as logits, averaged over time.

    $L = \frac{1}{T} \sum_t \mathrm{CE}(s_t, y)$: snnTorch's `ce_rate_loss`. Despite the name it is not the cross entropy of
    the firing rate (that is `ce_mean_membrane` of spikes). Spikes are 0 or 1, so it cannot fall below
    $\ln(1 + (C - 1)/e)$, 1.4612 for ten classes; silence gives $\ln C$.

    >>> spikes = jnp.zeros((4, 2, 10)).at[:, 0, 3].set(1.0)
    >>> print(f"{ce_rate(spikes, jnp.array([3, 5])).mean():.5f}")
    1.88187

    Raises:
      ValueError: if there is no time step, or shapes disagree.
    """
    return _cross_entropy_per_step(_prepare("spikes", spikes, labels), labels)


def ce_count(
    spikes: Shaped[Array, "T B C"], labels: Integer[Array, "B"]
) -> Float[Array, "B"]:
    r"""Cross entropy with spike counts as logits, $L = \mathrm{CE}(\sum_t s_t, y)$: snnTorch's `ce_count_loss`.

    Raises:
      ValueError: if there is no time step, or shapes disagree.
    """
    counts = jnp.sum(_prepare("spikes", spikes, labels), axis=0)
    return _cross_entropy(counts, labels)


def ce_mean_membrane(
    membrane: Shaped[Array, "T B C"], labels: Integer[Array, "B"]
) -> Float[Array, "B"]:
    r"""Cross entropy with time-averaged potentials as logits, $L = \mathrm{CE}(\frac{1}{T} \sum_t v_t, y)$.

    For a read-out that does not spike. Given spikes, the logits are firing rates in [0, 1], with the floor of `ce_rate`.

    Raises:
      ValueError: if there is no time step, or shapes disagree.
    """
    mean = jnp.mean(_prepare("membrane", membrane, labels), axis=0)
    return _cross_entropy(mean, labels)


def ce_max_membrane(
    membrane: Shaped[Array, "T B C"], labels: Integer[Array, "B"]
) -> Float[Array, "B"]:
    r"""Cross entropy with the largest potentials as logits, $L = \mathrm{CE}(\max_t v_t, y)$.

    The gradient reaches the step of the maximum only, shared equally between steps that tie.

    Raises:
      ValueError: if there is no time step, or shapes disagree.
    """
    peak = jnp.max(_prepare("membrane", membrane, labels), axis=0)
    return _cross_entropy(peak, labels)


def mse_rate(
    spikes: Shaped[Array, "T B C"],
    labels: Integer[Array, "B"],
    *,
    correct_rate: ArrayLike = 0.8,
    incorrect_rate: ArrayLike = 0.2,
) -> Float[Array, "B"]:
    r"""Squared error of firing rates, averaged over classes: $L = \frac{1}{C} \sum_c (n_c / T - r_c)^2$.

    $n_c$ is the spike count; the target $r_c$ is `correct_rate` for the label and `incorrect_rate` for every other class,
    both in spikes a step.

    Raises:
      ValueError: if there is no time step, shapes disagree, or a rate lies outside [0, 1].
    """
    check.number("correct_rate", correct_rate, "[0, 1]")
    check.number("incorrect_rate", incorrect_rate, "[0, 1]")
    rates = jnp.mean(_prepare("spikes", spikes, labels), axis=0)
    is_label = jax.nn.one_hot(labels, rates.shape[-1], dtype=jnp.bool_)
    correct = jnp.asarray(correct_rate, rates.dtype)
    target = jnp.where(is_label, correct, jnp.asarray(incorrect_rate, rates.dtype))
    return jnp.mean(optax.losses.squared_error(rates, target), axis=-1)


def mse_count(
    spikes: Shaped[Array, "T B C"],
    labels: Integer[Array, "B"],
    *,
    correct_rate: ArrayLike = 0.8,
    incorrect_rate: ArrayLike = 0.2,
) -> Float[Array, "B"]:
    r"""Squared error of spike counts over the number of steps: $L = \frac{1}{T C} \sum_c (n_c - T r_c)^2$, T times `mse_rate`.

    snnTorch's `mse_count_loss` (there the rates default to 1 and 0). It truncates the targets $T r_c$ to whole spikes;
    here they are not, so the two differ where $T r_c$ is no whole number.

    Raises:
      ValueError: if there is no time step, shapes disagree, or a rate lies outside [0, 1].
    """
    error = mse_rate(
        spikes, labels, correct_rate=correct_rate, incorrect_rate=incorrect_rate
    )
    return spikes.shape[0] * error


def tet(
    outputs: Shaped[Array, "T B C"],
    labels: Integer[Array, "B"],
    *,
    weight: ArrayLike = 1e-3,
    target: ArrayLike = 1.0,
) -> Float[Array, "B"]:
    r"""Temporal efficient training: cross entropy at every step, and outputs held near a target.

    $L = (1 - \lambda) \frac{1}{T} \sum_t \mathrm{CE}(O_t, y) + \lambda \frac{1}{T C} \sum_{t,c} (O_{t,c} - \phi)^2$
    (Deng et al., ICLR 2022, https://openreview.net/forum?id=_XNtisL32jv).

    Args:
      outputs: the read-out at each step, before any spike.
      labels: class indices.
      weight: $\lambda$ in [0, 1]; 0.001 to 0.05 in published use.
      target: $\phi$, in the units of `outputs`; of the order of the threshold.

    Raises:
      ValueError: if there is no time step, shapes disagree, or `weight` lies outside [0, 1].
    """
    check.number("weight", weight, "[0, 1]")
    check.number("target", target)
    o = _prepare("outputs", outputs, labels)
    lam, phi = jnp.asarray(weight, o.dtype), jnp.asarray(target, o.dtype)
    classify = _cross_entropy_per_step(o, labels)
    hold = jnp.mean(jnp.square(o - phi), axis=(0, 2))
    return (1.0 - lam) * classify + lam * hold


def rate_regulariser(
    spikes: Shaped[Array, "T B *neurons"], *, lower: ArrayLike, upper: ArrayLike
) -> Float[Array, "B"]:
    r"""Squared hinge on each hidden neuron's firing rate outside [`lower`, `upper`], averaged over neurons.

    $L = \frac{1}{N} \sum_n \max(0, r_{lo} - r_n)^2 + \max(0, r_n - r_{hi})^2$, where $r_n$ is the neuron's rate on this one
    sample, in spikes a step. So `lower` asks every neuron to answer every sample: keep it small, or 0, where a sparse,
    selective code is wanted. Scale the result and add it to a loss.

    Raises:
      ValueError: if there is no time step or no neuron axis, a bound lies outside [0, 1], or `lower` exceeds `upper`.
    """
    check.time_axis("spikes", spikes)
    if spikes.ndim < 3:
        raise ValueError(f"`spikes` must be [T, B, neurons], got shape {spikes.shape}.")
    check.number("lower", lower, "[0, 1]")
    check.number("upper", upper, "[0, 1]")
    check.ordered("lower", lower, "upper", upper, equal=True)
    rates = jnp.mean(_widen(spikes), axis=0)
    low, high = jnp.asarray(lower, rates.dtype), jnp.asarray(upper, rates.dtype)
    excess = jax.nn.relu(low - rates) + jax.nn.relu(rates - high)
    return jnp.mean(jnp.square(excess), axis=tuple(range(1, rates.ndim)))
