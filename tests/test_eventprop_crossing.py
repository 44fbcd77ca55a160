"""Threshold crossings against bisection in extended precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.eventprop import LIFParams
from jsnn.eventprop.crossing import (
    check_method,
    choose_method,
    crossing,
    lambert_w,
    peak_time,
)
from jsnn.eventprop.flow import flow

# Compiling is what these tests cost, so it goes without optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

RATIOS = [0.25, 1.0, 1.001, 1.1, 2.0, 4.0, 20.0]
TAU_MEM, THETA = 20.0, 1.0


def bisect(rising, low, high):
    """Where `rising` turns from true to false, element by element."""
    for _ in range(90):
        middle = (low + high) / 2
        up = rising(middle)
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return low


def reference(v, i, tau_s):
    """Crossing time and slope, infinite and 0 where there is none: first the peak, then the root before it."""
    v, i = v.astype(np.longdouble), i.astype(np.longdouble)

    def membrane(t):
        a, b = np.exp(-t / TAU_MEM), np.exp(-t / np.longdouble(tau_s))
        if tau_s == TAU_MEM:
            return v * a + i * t / TAU_MEM * a
        return v * a + i * tau_s / np.longdouble(TAU_MEM - tau_s) * (a - b)

    def current(t):
        return i * np.exp(-t / np.longdouble(tau_s))

    zero = np.zeros_like(v)
    end = zero + 40 * max(TAU_MEM, tau_s)
    peak = bisect(lambda t: current(t) > membrane(t), zero, end)
    exists = (membrane(peak) >= THETA) & (i > THETA)
    time = bisect(lambda t: membrane(t) < THETA, zero, peak)
    return np.where(exists, time, np.inf), np.where(exists, current(time) - THETA, 0)


def states(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-3, 1, size), rng.uniform(-1, 15, size)


def params(ratio, dtype=float):
    return LIFParams(
        *(jnp.asarray(x, dtype) for x in (TAU_MEM, TAU_MEM / ratio, THETA, 0.0))
    )


@pytest.mark.parametrize(
    ("ratio", "method"),
    [(r, "newton") for r in RATIOS] + [(1.0, "equal"), (2.0, "double")],
)
def test_crossing_equals_bisection(ratio, method):
    v, i = states(4_000)
    want, slope = reference(v, i, TAU_MEM / ratio)
    hit = np.isfinite(want)
    assert 200 < hit.sum() < 4_000
    with jax.enable_x64(True):
        got = np.asarray(
            jit(lambda v, i: crossing(params(ratio), v, i, method=method))(v, i)
        )
    np.testing.assert_array_equal(np.isfinite(got), hit)
    error = np.abs(got[hit] - want[hit])
    # Where the membrane grazes threshold a root is as uncertain as sqrt(rounding); error times slope is the error in V.
    assert (error * slope[hit]).max() < 1e-11
    assert np.quantile(error, 0.999) < 1e-11
    assert error.max() < 1e-7


@pytest.mark.parametrize("ratio", RATIOS)
def test_float32_is_good_to_a_microsecond(ratio):
    """In milliseconds. 99 of 100 random crossings; grazing ones are worse conditioned."""
    v, i = (x.astype(np.float32) for x in states(2_000))
    want, _ = reference(v, i, TAU_MEM / ratio)
    got = np.asarray(jit(lambda v, i: crossing(params(ratio, "f4"), v, i))(v, i))
    assert got.dtype == np.float32
    both = np.isfinite(got) & np.isfinite(want)
    assert (np.isfinite(got) != np.isfinite(want)).sum() <= 2
    assert both.sum() > 100
    assert np.quantile(np.abs(got[both] - want[both]), 0.99) < 2e-5


def test_states_at_and_past_threshold():
    """Standing at threshold and rising: now. Standing there and falling: never again. Grazing from below: at the peak."""
    with jax.enable_x64(True):
        p = params(4.0)
        v = jnp.array([1.0, 1.0, 1.0 + 1e-12, 0.0, 0.0, 0.5])
        i = jnp.array([2.0, 0.5, 2.0, 0.0, -3.0, 1.0])
        run = jit(lambda v, i: crossing(p, v, i))
        np.testing.assert_array_equal(
            run(v, i), [0.0, np.inf, 0.0, np.inf, np.inf, np.inf]
        )
        # From rest the peak is I0 (1/4)^(4/3): this current reaches threshold within rounding.
        graze = 4.0 ** (4.0 / 3.0) * (1 + 1e-14)
        t = run(jnp.zeros(6), jnp.full(6, graze))
        np.testing.assert_allclose(t, 20.0 / 3.0 * np.log(4.0), rtol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_free_flow_equals_its_differential_equation(ratio):
    """Order 4 Runge-Kutta with 1,000 steps; and kappa has the gradient of the solution, equal time constants included."""
    tau_s, t, v, i = TAU_MEM / ratio, 7.0, -0.4, 3.0
    n = 1000

    def slope(y):
        return np.array([(y[1] - y[0]) / TAU_MEM, -y[1] / tau_s])

    y, h = np.array([v, i]), t / n
    for _ in range(n):
        k1 = slope(y)
        k2 = slope(y + h / 2 * k1)
        k3 = slope(y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3))
    with jax.enable_x64(True):
        a, b, kappa = jit(flow)(*(jnp.asarray(x) for x in (t, TAU_MEM, tau_s)))
        np.testing.assert_allclose(
            [a * v + kappa * i, b * i], y, rtol=1e-11, atol=1e-12
        )

        def k(tau_m, tau_s):
            return flow(*map(jnp.asarray, (t, tau_m, tau_s))).kappa

        eps = 1e-5
        got = jit(jax.grad(k, argnums=(0, 1)))(TAU_MEM, tau_s)
        k = jit(k)
        want = [
            (k(TAU_MEM + eps, tau_s) - k(TAU_MEM - eps, tau_s)) / (2 * eps),
            (k(TAU_MEM, tau_s + eps) - k(TAU_MEM, tau_s - eps)) / (2 * eps),
        ]
        # Rounding of the difference: 1e-16 / 1e-5.
        np.testing.assert_allclose(got, want, rtol=1e-7)


def test_flow_survives_long_times_and_extreme_ratios_in_float32():
    """Exponents far beyond 88, where exp overflows float32."""
    t = jnp.asarray(3000.0)
    for tau_m, tau_s in ((20.0, 1.0), (1.0, 20.0), (5.0, 5.0), (5.0, 5.000001)):
        f = jit(flow)(t, jnp.asarray(tau_m), jnp.asarray(tau_s))
        s = jnp.asarray(tau_s)
        g = jit(jax.grad(lambda m, s: flow(t, m, s).kappa))(jnp.asarray(tau_m), s)
        assert all(np.isfinite(x) and x >= 0 for x in f)
        assert np.isfinite(g)


def test_peak_is_where_membrane_meets_current():
    v, i = states(2000, seed=1)
    i = np.abs(i) + 0.1
    with jax.enable_x64(True):
        for ratio in RATIOS:
            p = params(ratio)
            t = jit(peak_time)(v, i, p.tau_mem, p.tau_syn)
            inside = np.isfinite(t) & (np.asarray(t) > 0) & (np.asarray(t) < 500)
            assert inside.sum() > 500
            a, b, kappa = jit(flow)(t, p.tau_mem, p.tau_syn)
            np.testing.assert_allclose(
                (np.asarray(a) * v + np.asarray(kappa) * i)[inside],
                (np.asarray(b) * i)[inside],
                rtol=1e-9,
                atol=1e-12,
            )


def test_lambert_w_inverts():
    with jax.enable_x64(True):
        w = jnp.linspace(-1.0, 0.0, 10_001)
        # Near the branch point w is a square root of x, and so of its rounding.
        np.testing.assert_allclose(lambert_w(w * jnp.exp(w)), w, atol=3e-8)
        np.testing.assert_allclose(lambert_w(w * jnp.exp(w))[100:], w[100:], atol=1e-13)


def test_method_follows_the_ratio():
    assert choose_method(LIFParams(20.0, 10.0)) == "double"
    assert choose_method(LIFParams(8.0, 8.0)) == "equal"
    assert choose_method(LIFParams(20.0, 5.0)) == "newton"
    assert choose_method(LIFParams(jnp.asarray(20.0), 10.0)) == "newton"
    with pytest.raises(ValueError, match="tau_mem / tau_syn = 2"):
        check_method("double", LIFParams(20.0, 5.0))
