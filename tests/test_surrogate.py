"""Surrogates against their documented curves: written out in float64, differenced numerically, and the spec's goldens."""

import functools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from experiments import csnn_mnist
from jsnn import neurons, surrogate

phi = np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))


def triangle_curve(u, k):
    """The quadratic pieces on |u| <= 1 / k, constant outside."""
    inside = 0.5 + k * u - k**2 * u * np.abs(u) / 2
    return np.where(np.abs(u) <= 1 / k, inside, (u > 0) * 1.0)


# Name: the documented curve, its documented derivative, two parameters.
DOCUMENTED = {
    "arctan": (
        lambda u, k: np.arctan(np.pi / 2 * k * u) / np.pi,
        lambda u, k: k / 2 / (1 + (np.pi / 2 * k * u) ** 2),
        (2.0, 0.5),
    ),
    "arctan_fixed_peak": (
        lambda u, k: np.arctan(np.pi * k * u) / (np.pi**2 * k),
        lambda u, k: 1 / (np.pi * (1 + (np.pi * k * u) ** 2)),
        (2.0, 0.5),
    ),
    "fast_sigmoid": (
        lambda u, k: u / (1 + k * np.abs(u)),
        lambda u, k: (1 + k * np.abs(u)) ** -2.0,
        (25.0, 1.0),
    ),
    "sigmoid": (
        lambda u, k: 1 / (1 + np.exp(-k * u)),
        lambda u, k: k * np.exp(-k * u) / (1 + np.exp(-k * u)) ** 2,
        (5.0, 0.5),
    ),
    "triangle": (
        triangle_curve,
        lambda u, k: k * np.maximum(0, 1 - k * np.abs(u)),
        (1.0, 3.0),
    ),
    "gaussian": (
        lambda u, k: phi(k * u),
        lambda u, k: k * np.exp(-((k * u) ** 2) / 2) / np.sqrt(2 * np.pi),
        (2.0, 0.5),
    ),
    "straight_through": (
        lambda u, c: c * u,
        lambda u, c: c * np.ones_like(u),
        (1.0, 0.3),
    ),
}
U = np.linspace(-1.7, 1.7, 35)  # holds 0, and both sides of the triangles' edges


def gradient(spike_fn, u):
    return jax.grad(lambda u: spike_fn(u).sum())(u)


def make(name, parameter):
    return getattr(surrogate, name)(parameter)


def test_every_factory_is_documented_here():
    assert set(DOCUMENTED) == set(surrogate.NAMES) == set(surrogate.CURVES)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_gradient_is_the_derivative_of_the_documented_curve(name):
    value, derivative, parameters = DOCUMENTED[name]
    curve = surrogate.CURVES[name].value

    @jax.jit
    def evaluate(u, k):
        automatic = jax.vmap(jax.grad(curve), (0, None))(u, k)
        return gradient(make(name, k), u), curve(u, k), automatic

    for k in parameters:
        with jax.enable_x64(True):
            got, curve_at_u, automatic = map(np.asarray, evaluate(jnp.asarray(U), k))
        # All in float64: what remains is the rounding of a few operations.
        np.testing.assert_allclose(got, derivative(U, k), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(curve_at_u, value(U, k), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(got, automatic, rtol=1e-9, atol=1e-12)
        # Central differences over h: at a kink half the jump of the curvature, at most 25, times h; else far less.
        h = 1e-6
        numeric = (value(U + h, k) - value(U - h, k)) / (2 * h)
        np.testing.assert_allclose(got, numeric, rtol=1e-6, atol=5e-5)
        assert got.max() > 0.1


@pytest.mark.parametrize("name", DOCUMENTED)
def test_defaults_in_float32(name):
    _, derivative, (default, _) = DOCUMENTED[name]
    got = jax.jit(lambda u: gradient(surrogate.get(name), u))(U.astype(np.float32))
    u = U.astype(np.float32).astype(np.float64)
    # Ten float32 roundings, of numbers the sigmoid's exponential magnifies by its argument of up to 9.
    np.testing.assert_allclose(got, derivative(u, default), rtol=5e-6, atol=1e-7)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize(("name", "peak"), [("arctan", 1.5), ("sigmoid", 0.75)])
def test_stated_peaks(name, peak):
    got = jax.jit(lambda u: gradient(surrogate.get(name, 3.0), u))(np.zeros(1, "f"))
    np.testing.assert_allclose(got, peak, rtol=1e-6)


@pytest.mark.parametrize("name", ["arctan", "sigmoid", "triangle", "gaussian"])
def test_unit_area(name):
    edges = jax.jit(surrogate.CURVES[name].value)(jnp.array([-1e9, 1e9]), 0.7)
    np.testing.assert_allclose(edges[1] - edges[0], 1.0, rtol=1e-6)


def test_golden_values_of_the_reference_networks():
    """seed-systems §1.1 (arctan of fixed peak, alpha 2) and §2.1 (fast sigmoid, slope 25), to their printed digits."""
    u = jnp.array([-1.0, -0.5, 0.0, 0.25, 1.0])
    want = [0.007864, 0.029284, 0.318310, 0.091801, 0.007864]
    got = jax.jit(lambda u: gradient(surrogate.arctan_fixed_peak(2.0), u))(u)
    np.testing.assert_allclose(got, want, atol=5e-7)
    u = jnp.array([-0.1, 0.0, 0.1])
    got = jax.jit(lambda u: gradient(surrogate.fast_sigmoid(25.0), u))(u)
    np.testing.assert_allclose(got, [0.0816, 1.0, 0.0816], atol=5e-5)


@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_forward_is_the_heaviside_step(name, dtype):
    u = np.array([-1.0, -1e-3, -0.0, 0.0, 1e-3, 1.0], dtype)
    spike_fn = surrogate.get(name)
    both = jax.jit(lambda u: (spike_fn(u), spike_fn(u, at_threshold=True)))
    strict, inclusive = both(u)
    np.testing.assert_array_equal(strict, np.array([0, 0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(inclusive, np.array([0, 0, 1, 1, 1, 1]))
    assert strict.dtype == inclusive.dtype == dtype


@pytest.mark.parametrize("name", DOCUMENTED)
def test_sweep_of_the_parameter(name):
    """Over three parameters: `vmap` equals a loop, one compilation serves all, cotangents multiply, none reaches the parameter."""
    u, g = jnp.linspace(-1, 1, 7), jnp.arange(7.0)
    ks = jnp.array([0.4, 1.0, 3.0])
    traces = 0

    def both(k):
        nonlocal traces
        traces += 1
        spikes, vjp = jax.vjp(lambda u, k: make(name, k)(u), u, k)
        return spikes, vjp(g)

    compiled = jax.jit(both)
    looped = [compiled(k) for k in ks]
    assert traces == 1
    spikes, (du, dk) = jax.jit(jax.vmap(both))(ks)
    for i, k in enumerate(ks):
        want = g * DOCUMENTED[name][1](np.asarray(u, np.float64), float(k))
        np.testing.assert_array_equal(looped[i][0], spikes[i])
        # The same float32 operations, which two compilations may fuse differently.
        np.testing.assert_allclose(looped[i][1][0], du[i], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(du[i], want, rtol=1e-5, atol=1e-6)
    assert not np.allclose(du[0], du[2])
    np.testing.assert_array_equal(dk, np.zeros(3))


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("arctan", "alpha"),
        ("arctan_fixed_peak", "alpha"),
        ("fast_sigmoid", "slope"),
        ("sigmoid", "slope"),
        ("triangle", "slope"),
        ("gaussian", "slope"),
        ("straight_through", "scale"),
    ],
)
def test_parameter_must_be_positive(name, parameter, value):
    with pytest.raises(ValueError, match=f"`{parameter}`.*`{name}`.*{value}"):
        getattr(surrogate, name)(**{parameter: value})


def test_unknown_name_lists_the_known_ones(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"arctan, .*straight_through, got 'atan'"):
        surrogate.get("atan")


@pytest.mark.parametrize("name", surrogate.FACTORIES)
def test_larger_slope_is_steeper(name):
    """Half-width of the derivative at half its peak: as 1 / slope, by bisection on the documented formula in float64."""
    widths = []
    for slope in (1.0, 4.0):
        u = jnp.linspace(0, 3, 30_001)
        d = np.asarray(gradient(surrogate.get(name, slope), u))
        widths.append(float(u[np.argmax(d <= d[0] / 2)]))
        formula = DOCUMENTED[name][1]
        low, high = 0.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            above = formula(middle, slope) > formula(0.0, slope) / 2
            low, high = (middle, high) if above else (low, middle)
        assert widths[-1] == pytest.approx(low, abs=2e-4)
    assert widths[0] == pytest.approx(4 * widths[1], rel=2e-3)


def test_default_curves_are_what_they_were_by_width():
    """Triangle of width 1 and Gaussian of width 0.5, to the bit, as written before slopes."""
    u = jnp.asarray(np.random.default_rng(0).normal(size=999), jnp.float32)
    width = jnp.float32(0.5)
    old = {
        "triangle": jnp.maximum(0, 1 - jnp.abs(u) / 1.0) / 1.0,
        "gaussian": jnp.exp(-0.5 * jnp.square(u / width))
        / (width * math.sqrt(2 * math.pi)),
    }
    for name, want in old.items():
        np.testing.assert_array_equal(gradient(surrogate.get(name), u), want)


def test_a_slope_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"`slope`.*`straight_through` has none"):
        surrogate.get("straight_through", 2.0)
    out = tmp_path / "run"
    none = csnn_mnist.Config(out, data="digits", surrogate="straight_through", slope=2.0)  # fmt: skip
    unknown = csnn_mnist.Config(out, data="digits", surrogate="atan")
    with pytest.raises(ValueError, match=r"`--slope`.*`straight_through` has none"):
        csnn_mnist.main(none)
    with pytest.raises(
        ValueError, match=r"`--surrogate` must be one of arctan, .*atan"
    ):
        csnn_mnist.main(unknown)
    assert not out.exists()


def spikes_of(spike_fn, **options):
    neuron = neurons.lif(beta=0.5, spike_fn=spike_fn, **options)
    x = jnp.asarray(np.random.default_rng(1).integers(0, 5, (12, 7)) / 4, jnp.float32)

    def run(x):
        return jax.lax.scan(
            lambda s, x_t: neuron.step(neuron.params, s, x_t), neuron.init((7,)), x
        )[1]

    both = jax.value_and_grad(
        lambda x: ((run(x) @ jnp.arange(7.0)).sum(), run(x)), has_aux=True
    )
    (_, spikes), slope = jax.jit(both)(x)
    return spikes, slope


@pytest.mark.parametrize("options", [{}, dict(spike_at=">=", detach_reset=False)])
def test_a_name_gives_what_its_surrogate_gives(options):
    for name in ("arctan", "straight_through"):
        named = spikes_of(name, **options)
        for got, want in zip(
            named, spikes_of(surrogate.get(name), **options), strict=True
        ):
            np.testing.assert_array_equal(got, want)
        assert named[0].sum() > 10


@pytest.mark.parametrize("make", [neurons.lif, neurons.adaptive_lif])
def test_any_function_of_the_distance_spikes(make):
    """A straight-through step written by hand gives what the library's does; so do truth values."""

    def by_hand(u):
        return u + jax.lax.stop_gradient((u > 0).astype(u.dtype) - u)

    want = spikes_of(surrogate.straight_through())
    for got, expected in zip(spikes_of(by_hand), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_array_equal(spikes_of(lambda u: u > 0)[0], want[0])
    make(spike_fn=functools.partial(by_hand))


@pytest.mark.parametrize(
    ("spike_fn", "options", "message"),
    [
        ("atan", {}, "must be one of arctan, .*'atan'"),
        (surrogate.arctan, {}, r"factory: write `surrogate.arctan\(\)`"),
        (2.0, {}, "`spike_fn` must be one of arctan, .*2.0"),
        (lambda u: u >= 0, dict(spike_at=">="), "takes `at_threshold`"),
    ],
)
def test_what_is_no_spike_function_is_refused(spike_fn, options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for neuron in (neurons.lif, neurons.adaptive_lif, neurons.current_lif):
        with pytest.raises((ValueError, TypeError), match=message):
            neuron(spike_fn=spike_fn, **options)
