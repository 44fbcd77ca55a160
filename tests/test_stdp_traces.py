"""Pair- and trace-based STDP, and the rule with homeostasis, against sums over pairs and loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.stdp import traces
from jsnn.stdp.traces import HomeostaticParams, TraceParams

RNG = np.random.default_rng(0)
WIDE = TraceParams(0.02, 0.015, 10.0, 15.0, -10.0, 10.0)
run = jax.jit(traces.run, static_argnames=("dt", "pairing"))


def trains(steps=30, inputs=4, outputs=3, rate=0.2):
    return [
        (RNG.random((steps, n)) < rate).astype(np.float32) for n in (inputs, outputs)
    ]


@pytest.mark.parametrize(
    ("interval", "change"), [(0.0, 0.0), (10.0, 0.02 / np.e), (-15.0, -0.015 / np.e)]
)
def test_the_window_of_a_pair(interval, change):
    got = traces.pair_window(jnp.asarray(interval), WIDE)
    assert float(got) == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("pairing", ["all", "nearest"])
def test_traces_are_sums_over_pairs(pairing):
    pre, post = trains()
    dt, weights = 0.5, np.full((4, 3), 0.5)
    for i, o in np.ndindex(4, 3):
        before, after = np.flatnonzero(pre[:, i]), np.flatnonzero(post[:, o])
        for t in after:  # an output spike looks back at input spikes
            seen = before[before < t]
            for s in seen if pairing == "all" else seen[-1:]:
                weights[i, o] += 0.02 * np.exp(-(t - s) * dt / 10)
        for t in before:  # an input spike looks back at output spikes
            seen = after[after < t]
            for s in seen if pairing == "all" else seen[-1:]:
                weights[i, o] -= 0.015 * np.exp(-(t - s) * dt / 15)
    got = run(
        jnp.full((4, 3), 0.5),
        jnp.asarray(pre),
        jnp.asarray(post),
        WIDE,
        dt=dt,
        pairing=pairing,
    )
    np.testing.assert_allclose(got, weights, atol=1e-6)  # single precision
    assert abs(weights - 0.5).max() > 0.02


def test_weights_stay_within_bounds():
    pre, post = trains(rate=0.5)
    strong = TraceParams(0.5, 0.4)
    got = np.asarray(
        run(jnp.full((4, 3), 0.5), jnp.asarray(pre), jnp.asarray(post), strong)
    )
    assert got.min() >= 0
    assert got.max() <= 1
    assert np.isin(got, [0, 1]).any()


def test_vmap_over_rates_equals_a_loop():
    pre, post = map(jnp.asarray, trains())
    rates, start = jnp.array([0.01, 0.03]), jnp.full((4, 3), 0.5)

    def one(ltp):
        return traces.run(start, pre, post, WIDE._replace(ltp=ltp))

    together = jax.vmap(one)(rates)
    np.testing.assert_allclose(together, jnp.stack([one(r) for r in rates]), atol=1e-6)


def test_the_rule_with_homeostasis_equals_a_loop():
    p = HomeostaticParams(
        rate=0.1,
        theta_plus=0.2,
        tau_theta=50.0,
        tau_membrane=10.0,
        inhibition=0.3,
        total=1.5,
    )
    pre = (RNG.random((40, 5)) < 0.4).astype(np.float32)
    start = RNG.random((5, 3)).astype(np.float32)
    start[:, 2] = 0  # an output without weights
    w = start.astype(np.float64)
    w[:, :2] *= 1.5 / w[:, :2].sum(0)
    theta, v, x, z = np.zeros(3), np.zeros(3), np.zeros(5), np.zeros(3)
    fired = []
    for s in pre:
        x = np.where(s > 0, 1, x * np.exp(-1 / 20))
        v = v * np.exp(-1 / 10) + s @ w - 0.3 * (z.sum() - z)
        z = (v > 1 + theta).astype(float)
        theta = theta * np.exp(-1 / 50) + 0.2 * z
        v = np.where(z > 0, 0, v)
        for o in np.flatnonzero(z):
            w[:, o] = (w[:, o] + 0.1 * (x - 0.4) * (1 - w[:, o])).clip(0, 1)
        fired.append(z)
    state, spikes = jax.jit(traces.homeostatic_run)(
        traces.homeostatic_init(jnp.asarray(start)), jnp.asarray(pre), p
    )
    np.testing.assert_array_equal(spikes, fired)
    assert np.sum(fired, 0)[:2].min() >= 2
    for got, expected in (
        (state.weights, w),
        (state.theta, theta),
        (state.membrane, v),
        (state.pre, x),
    ):
        np.testing.assert_allclose(
            got, expected, atol=1e-5
        )  # forty steps in single precision


def test_bad_options_are_refused():
    args = jnp.ones((1, 1)), traces.init(1, 1), jnp.ones(1), jnp.ones(1), WIDE
    with pytest.raises(ValueError, match="`dt` must be positive"):
        traces.step(*args, dt=0.0)
    with pytest.raises(ValueError, match="`pairing`"):
        traces.step.__wrapped__(*args, pairing="some")
