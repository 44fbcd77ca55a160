r"""What an EventProp network is trained on: spike times, or the membranes of leaky integrators.

Losses are per sample, `[B]`; take their mean. Axes: T time, B batch, C classes. A silent neuron has an infinite spike time.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Shaped

from jsnn import check
from jsnn.eventprop.spikes import TimedSpikes


def first_spike_times(
    spikes: TimedSpikes,
    *,
    dt: float,
    silent: ArrayLike = jnp.inf,
    substep: bool = False,
) -> Float[Array, "B *N"]:
    r"""Time of each neuron's first spike; its gradient arrives at that spike as $\partial L/\partial t_k$.

    Args:
      spikes: `[T, B, *N]`.
      dt: time step.
      silent: the time of neurons that never spike; it has no gradient.
      substep: read the time at which the membrane crossed threshold, instead of the grid point after it.

    Raises:
      ValueError: if `substep` is asked of spikes that do not carry it.
    """
    dt = check.static("dt", dt, "(0, inf)")
    if substep and spikes.lead is None:
        raise ValueError(
            "`substep` needs the `lead` of spikes straight from `grid.lif`; these have none (pooled, delayed or made by hand)."
        )
    z = spikes.values
    num_steps = z.shape[0]
    grid = jnp.arange(num_steps).reshape((num_steps,) + (1,) * (z.ndim - 1))
    spiked = jax.lax.stop_gradient(z) > 0
    first = jnp.where(spiked, grid, num_steps).min(0)
    at_first = grid == first[None]
    time = first.astype(z.dtype) * dt
    if substep and spikes.lead is not None:
        lead = jax.lax.stop_gradient(spikes.lead)
        time = time - jnp.where(at_first, lead, 0.0).sum(0)
    # Adds zero; hands the cotangent of the time to the entry of the spike.
    gate = jnp.where(at_first, z - jax.lax.stop_gradient(z), 0.0).sum(0)
    silent = jnp.asarray(silent, z.dtype)
    return jnp.where(first < num_steps, time, silent) + gate


def _of_label(x: Shaped[Array, "B C"], labels: Int[Array, "B"]) -> Shaped[Array, "B"]:
    check.labels("labels", labels, x.shape[1], x.shape[:1])
    return jnp.take_along_axis(x, labels[:, None], axis=1)[:, 0]


def cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, "B"]
) -> Float[Array, "B"]:
    """Minus the log-probability of the label; give it what a voltage read-out returns."""
    return -_of_label(jax.nn.log_softmax(logits), labels)


def first_spike_cross_entropy(
    times: Float[Array, "B C"],
    labels: Int[Array, "B"],
    *,
    tau_softmax: ArrayLike,
    early: ArrayLike = 0.0,
    tau_early: ArrayLike = 1.0,
) -> Float[Array, "B"]:
    r"""$-\log\frac{e^{-t_l/\tau_0}}{\sum_k e^{-t_k/\tau_0}} + \alpha(e^{t_l/\tau_1} - 1)$ (Wunderlich & Pehle, 2021).

    The first output spike names the class; the second term asks the right one to come early. A silent neuron leaves the softmax; where
    the label's own neuron is silent the loss is 0 and has no gradient (`silent_label_push`, `regularise.lift_silent` wake it).

    Args:
      times: first spikes, infinite where silent.
      labels: class of each sample.
      tau_softmax: $\tau_0$; in the reference $\xi\tau_s$.
      early: $\alpha$.
      tau_early: $\tau_1$; in the reference $\beta\tau_s$.
    """
    check.number("tau_softmax", tau_softmax, "(0, inf)")
    check.number("early", early, "[0, inf)")
    check.number("tau_early", tau_early, "(0, inf)")
    spiked = ~jnp.isposinf(times)  # NaN, an exceeded budget, must reach the loss
    t = jnp.where(spiked, times, 0.0)
    # Finite, so that a sample without any spike makes no NaN; its probability is still exactly 0.
    logits = jnp.where(spiked, -t / tau_softmax, jnp.finfo(times.dtype).min / 4)
    late = early * jnp.expm1(_of_label(t, labels) / tau_early)
    loss = cross_entropy(logits, labels) + late
    return jnp.where(_of_label(spiked, labels), loss, 0.0)


def relative_spike_time_mse(
    times: Float[Array, "B C"], labels: Int[Array, "B"], *, separation: Any
) -> Float[Array, "B"]:
    r"""$\frac12\sum_k [(t_k - t_l) - \Delta(1 - \delta_{kl})]^2$: every other neuron shall come $\Delta$ after the label's (Göltz et al., 2025).

    Only differences of times enter. Pairs with a silent neuron are left out.
    """
    check.number("separation", separation)
    spiked = ~jnp.isposinf(times)  # NaN, an exceeded budget, must reach the loss
    t = jnp.where(spiked, times, 0.0)
    later = t - _of_label(t, labels)[:, None]
    other = jnp.arange(times.shape[1])[None] != labels[:, None]
    error = later - separation * other
    pair = spiked & _of_label(spiked, labels)[:, None]
    return 0.5 * jnp.where(pair, error * error, 0.0).sum(1)


def ce_max_voltage(
    v: Float[Array, "T B C"], labels: Int[Array, "B"]
) -> Float[Array, "B"]:
    """Cross entropy with the largest voltages as logits: a loss for `jsnn.classifier`."""
    return cross_entropy(max_voltage(v), labels)


def predicted_class(times: Float[Array, "B C"]) -> Int[Array, "B"]:
    """The neuron that spikes first; of equals the lowest. A sample without a spike is given to class 0.

    A sample with a NaN, which exceeded a budget of the event solver, has no class: it gets -1, and so is never a hit.
    """
    return jnp.where(jnp.isnan(times).any(1), -1, times.argmin(1))


def max_voltage(v: Float[Array, "T B C"]) -> Float[Array, "B C"]:
    """Largest membrane over time."""
    return v.max(0)


def _trapezium(v: Float[Array, "T B C"]) -> Float[Array, "T"]:
    """Weights of the integral over the T steps that start at the points of `v`; past the last point the membrane is held. Their sum is T."""
    return jnp.ones(v.shape[0], v.dtype).at[0].add(-0.5).at[-1].add(0.5)


def mean_voltage(v: Float[Array, "T B C"]) -> Float[Array, "B C"]:
    r"""$\frac1T\int V\,dt$ by the trapezium rule, second order in dt."""
    return jnp.tensordot(_trapezium(v) / v.shape[0], v, axes=1)


def weighted_voltage(v: Float[Array, "T B C"]) -> Float[Array, "B C"]:
    r"""$\frac1T\int e^{-t/T}V\,dt$ by the trapezium rule: early evidence counts more (Nowotny, Turner & Knight, 2025).

    Best of the voltage read-outs on long inputs.
    """
    num_steps = v.shape[0]
    weight = jnp.exp(-jnp.arange(num_steps, dtype=v.dtype) / num_steps) / num_steps
    return jnp.tensordot(weight * _trapezium(v), v, axes=1)


def silent_label_push(
    final_voltage: Float[Array, "B C"],
    times: Float[Array, "B C"],
    labels: Int[Array, "B"],
    *,
    strength: Any,
) -> Float[Array, "B"]:
    """Heuristic: where the label's neuron never spiked, lowers the loss with its final membrane, so that it rises towards a spike.

    A phantom spike at the end of time, as GeNN's EventProp has it. `final_voltage` is `v` of the state that `grid.lif` returns.
    """
    check.number("strength", strength)
    silent = jnp.isposinf(_of_label(jax.lax.stop_gradient(times), labels))
    return jnp.where(silent, -strength * _of_label(final_voltage, labels), 0.0)
