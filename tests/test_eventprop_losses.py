"""Losses and read-outs against their formulas, data against the published points, heuristics against what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from jsnn.data import yinyang
from jsnn.eventprop import OccupiedSpikes, TimedSpikes, lift_silent, losses
from jsnn.eventprop.latency import (
    binary_spikes,
    coordinate_times,
    latency_spikes,
    latency_times,
    spread,
)


def test_first_spike_times_and_their_gradient():
    z = jnp.zeros((6, 1, 3)).at[2, 0, 0].set(1).at[4, 0, 0].set(1).at[3, 0, 1].set(1)
    lead = jnp.full_like(z, 0.125)

    def times(z, lead=None, **options):
        return losses.first_spike_times(TimedSpikes(z, lead), dt=0.5, **options)

    @jax.jit
    def both(z, bar):
        out, pull = jax.vjp(times, z)
        return out, pull(bar)[0]

    out, bar = both(z, jnp.array([[2.0, 3.0, 5.0]]))
    np.testing.assert_array_equal(out, [[1.0, 1.5, np.inf]])
    want = np.zeros((6, 1, 3))
    want[2, 0, 0], want[3, 0, 1] = 2.0, 3.0
    np.testing.assert_array_equal(bar, want)
    np.testing.assert_array_equal(times(z, silent=9.0), [[1.0, 1.5, 9.0]])
    np.testing.assert_array_equal(
        times(z, lead, substep=True), [[0.875, 1.375, np.inf]]
    )


def test_first_spike_cross_entropy_equals_its_formula():
    rng = np.random.default_rng(0)
    t = rng.uniform(0, 20, (6, 4))
    labels = np.array([0, 1, 2, 3, 0, 1])
    tau0, tau1, alpha = 2.0, 10.0, 0.3
    p = np.exp(-t / tau0) / np.exp(-t / tau0).sum(1, keepdims=True)
    label_time = t[np.arange(6), labels]
    want = log_loss(labels, p) + np.mean(alpha * (np.exp(label_time / tau1) - 1))

    def loss(t):
        return losses.first_spike_cross_entropy(
            t, jnp.asarray(labels), tau_softmax=tau0, early=alpha, tau_early=tau1
        ).mean()

    value, g = jax.jit(jax.value_and_grad(loss))(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(value, want, rtol=1e-5)
    onehot = np.eye(4)[labels]
    dt = ((onehot - p) / tau0 + onehot * alpha / tau1 * np.exp(t / tau1)) / 6
    np.testing.assert_allclose(g, dt, rtol=1e-4, atol=1e-7)


def test_silent_neurons_leave_the_softmax_without_nan():
    inf = np.inf
    t = jnp.array([[3.0, inf, 4.0], [inf, 2.0, 3.0], [inf, inf, inf]])
    labels = jnp.array([0, 0, 1])

    def loss(t):
        return losses.first_spike_cross_entropy(
            t, labels, tau_softmax=1.0, early=0.1, tau_early=5.0
        )

    value, g = jax.jit(lambda t: (loss(t), jax.grad(lambda t: loss(t).sum())(t)))(t)
    want = np.log(1 + np.exp(-1.0)) + 0.1 * np.expm1(0.6)
    np.testing.assert_allclose(value, [want, 0.0, 0.0], rtol=1e-6)
    assert np.isfinite(g).all()
    np.testing.assert_array_equal(g[1:], 0.0)
    assert g[0, 1] == 0
    np.testing.assert_array_equal(losses.predicted_class(t), [0, 1, 0])


def test_relative_spike_time_mse_by_hand():
    t = jnp.array([[2.0, 5.0, np.inf], [np.inf, 1.0, 2.0]])
    labels = jnp.array([0, 0])

    def loss(t):
        return losses.relative_spike_time_mse(t, labels, separation=1.0)

    # The label at 2, another at 5 that should come at 3; the silent pair is left out, and so is the silent label.
    value, g = jax.jit(lambda t: (loss(t), jax.grad(lambda t: loss(t).sum())(t)))(t)
    np.testing.assert_allclose(value, [0.5 * (5 - 2 - 1) ** 2, 0.0])
    np.testing.assert_allclose(g, [[-2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    # Only differences count.
    np.testing.assert_allclose(jax.jit(loss)(t + 7.0), value, rtol=1e-6)


def test_voltage_read_outs():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(50, 3, 4))
    labels = np.array([1, 0, 3])
    # The trapezium rule on 50 intervals, the last value held to the end.
    ends = np.concatenate([v, v[-1:]])
    t = np.minimum(np.arange(51), 49) / 50
    mean = np.trapezoid(ends, axis=0) / 50
    weighted = np.trapezoid(np.exp(-t)[:, None, None] * ends, axis=0) / 50
    x = jnp.asarray(v, jnp.float32)
    np.testing.assert_allclose(losses.max_voltage(x), v.max(0), rtol=1e-6)
    np.testing.assert_allclose(losses.mean_voltage(x), mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(losses.weighted_voltage(x), weighted, rtol=1e-4)
    logits = losses.max_voltage(x)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = losses.cross_entropy(logits, jnp.asarray(labels))
    np.testing.assert_allclose(
        got.mean(), log_loss(labels, p, labels=range(4)), rtol=1e-5
    )
    # The maximum hands its gradient to one instant of each read-out.
    g = jax.grad(lambda x: losses.max_voltage(x).sum())(x)
    np.testing.assert_array_equal(g, (v == v.max(0)[None]).astype(float))


def test_silent_label_push_lifts_only_silent_labels():
    times = jnp.array([[np.inf, 2.0], [3.0, np.inf]])
    labels = jnp.array([0, 0])
    g = jax.grad(
        lambda v: losses.silent_label_push(v, times, labels, strength=0.5).sum()
    )(jnp.zeros((2, 2)))
    np.testing.assert_array_equal(g, [[-0.5, 0.0], [0.0, 0.0]])


def test_lift_wakes_only_who_never_spiked():
    number = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    got = lift_silent(jnp.zeros((4, 3)), number, amount=0.25)
    np.testing.assert_array_equal(got, np.array([[0.25, 0.0, 0.0]] * 4))


def test_latency_code_on_every_dt():
    x = jnp.array([[0.0, 0.1, 0.5, 1.0]])
    np.testing.assert_allclose(
        latency_times(x, t_max=20.0), [[np.inf, 18.0, 10.0, 0.0]], rtol=1e-6
    )
    for dt in (0.1, 0.25, 1.0):
        steps = round(20 / dt)
        z = latency_spikes(x, t_max=20.0, num_steps=steps, dt=dt).values
        assert z.shape == (steps, 1, 4)
        np.testing.assert_array_equal(z.sum(0), [[0, 1, 1, 1]])
        np.testing.assert_allclose(
            np.asarray(z).argmax(0)[0, 1:] * dt, [18.0, 10.0, 0.0], atol=dt * 0.01
        )


@pytest.mark.parametrize("dt", [1.0, 0.5])
def test_binary_code_of_the_reference(dt):
    x = jnp.array([[0.2, 0.5, 0.9]])
    options = dict(t_min=2.0, t_max=12.0, num_steps=round(20 / dt), dt=dt)
    got = binary_spikes(x, **options)
    assert isinstance(got, OccupiedSpikes)
    assert got.values.shape == (2, 1, 3)
    times = np.asarray(spread(got).values).argmax(0) * dt
    np.testing.assert_array_equal(times, [[12.0, 2.0, 2.0]])
    with pytest.raises(ValueError, match="`t_max`"):
        binary_spikes(x, **(options | {"t_max": 20.0}))


def test_yin_yang_is_the_published_set():
    data = yinyang.yin_yang(300, seed=yinyang.SEEDS["train"])
    golden = [(0.680308, 0.450499), (0.097672, 0.684233), (0.755361, 0.425156)]
    np.testing.assert_allclose(data.coordinates[:3, :2], golden, atol=5e-7)
    np.testing.assert_array_equal(data.labels[:3], [2, 1, 2])
    x, y = data.coordinates[:, 0], data.coordinates[:, 1]
    np.testing.assert_allclose(data.coordinates[:, 2:], np.stack([1 - x, 1 - y], 1))
    assert ((x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25).all()
    np.testing.assert_array_equal(yinyang.class_of(x, y), data.labels)
    # Classes are drawn first, each with probability 1/3: 300 draws, 5 standard deviations.
    assert np.abs(np.bincount(data.labels, minlength=3) - 100).max() < 41
    # The symbol is its own negative: turned by half, yin becomes yang.
    turned = yinyang.class_of(1 - x, 1 - y)
    np.testing.assert_array_equal(turned, np.array([1, 0, 2])[data.labels])
    other = yinyang.yin_yang(5, seed=yinyang.SEEDS["test"])
    assert not np.allclose(other.coordinates, data.coordinates[:5])


def test_yin_yang_inputs_have_a_bias_spike():
    c = jnp.array([[0.25, 0.5, 0.75, 0.5]])
    got = coordinate_times(c, t_max=30.0, bias_time=1.0)
    np.testing.assert_allclose(got, [[7.5, 15.0, 22.5, 15.0, 1.0]])


def test_an_exceeded_budget_is_never_a_hit():
    times = jnp.array([[jnp.nan, jnp.nan], [2.0, 1.0], [jnp.nan, 1.0]])
    np.testing.assert_array_equal(losses.predicted_class(times), [-1, 1, -1])


def test_an_exceeded_budget_reaches_the_loss():
    """The event solver makes all times NaN then; taken for silence it would go unnoticed."""
    times, labels = jnp.array([[jnp.nan, jnp.nan], [1.0, 2.0]]), jnp.array([0, 1])
    for loss in (
        losses.first_spike_cross_entropy(times, labels, tau_softmax=1.0),
        losses.relative_spike_time_mse(times, labels, separation=1.0),
    ):
        np.testing.assert_array_equal(jnp.isnan(loss), [True, False])
