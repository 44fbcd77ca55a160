"""Encoders against loops over single pixels in float64, closed forms, and the statistics they promise."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jsnn import encode, encoders

T = 8


@pytest.fixture
def images():
    """Two 3×4 images with black, white and everything between, float32 as the encoders see them."""
    x = np.random.default_rng(0).uniform(size=(2, 3, 4)).astype(np.float32)
    x[0, 0, :] = [0.0, 1.0, 0.5, 0.21]
    return jnp.asarray(x)


ENCODERS = {
    "direct": lambda key, x: encode.direct(x, T),
    "bernoulli": lambda key, x: encode.bernoulli(key, x, T, max_probability=0.7),
    "poisson": lambda key, x: encode.poisson(key, x, T, dt=1e-3, max_rate=300.0),
    "latency_linear": lambda key, x: encode.latency(x, T),
    "latency_log": lambda key, x: encode.latency(x, T, threshold=0.2, tau_steps=4.0),
    "delta": lambda key, x: encode.delta(
        jnp.stack([x, 1 - x, x]), threshold=0.1, off_spikes=False
    ),
}


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=list(ENCODERS))
@pytest.mark.parametrize("source", [np.float32, np.float64, jnp.float32, jnp.bfloat16])
def test_output_is_float32_time_major(encoder, source, images, key):
    module = np if source in (np.float32, np.float64) else jnp
    spikes = encoder(key, module.asarray(images, source))
    assert spikes.dtype == jnp.float32
    assert spikes.shape[1:] == images.shape
    assert spikes.max() == 1


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=list(ENCODERS))
def test_jit_and_vmap_equal_a_loop(encoder, images, key):
    keys = jax.random.split(key, 3)
    with jax.numpy_dtype_promotion("strict"):
        got = jax.jit(jax.vmap(encoder, in_axes=(0, None)))(keys, images)
    want = jnp.stack([encoder(k, images) for k in keys])
    np.testing.assert_array_equal(got, want)


def test_direct_repeats_the_image(images):
    current = encode.direct(images - 0.5, T)  # negative currents are allowed
    np.testing.assert_array_equal(current, np.repeat(images[None] - 0.5, T, 0))


@pytest.mark.parametrize("max_probability", [1.0, 0.25])
def test_bernoulli_rates(max_probability, key):
    """Binomial counts: 4 standard errors, with 20 fixed draws, is a chance of failure of about 1e-3 for a new key."""
    n, x = 20_000, jnp.linspace(0, 1, 20)[None]
    spikes = encode.bernoulli(key, x, n, max_probability=max_probability)
    assert set(np.unique(spikes)) == {0.0, 1.0}
    p = np.linspace(0, 1, 20) * max_probability
    error = np.abs(np.mean(spikes, 0)[0] - p)
    assert np.all(error <= 4 * np.sqrt(p * (1 - p) / n) + 1e-6)  # 1e-6: float32 mean


def test_bernoulli_spikes_are_independent_over_time_and_pixels(key):
    n = 20_000
    s = np.asarray(encode.bernoulli(key, jnp.full((1, 2), 0.5), n))[:, 0]
    over_time = np.corrcoef(s[:-1, 0], s[1:, 0])[0, 1]
    over_pixels = np.corrcoef(s[:, 0], s[:, 1])[0, 1]
    assert max(abs(over_time), abs(over_pixels)) < 4 / np.sqrt(n)  # 4 standard errors


def test_bernoulli_extremes_are_certain(key):
    x = jnp.array([[0.0, 1.0]])
    spikes = encode.bernoulli(key, x, 5000)
    np.testing.assert_array_equal(spikes.mean(0), x)


def test_poisson_probability_of_at_least_one_event(key):
    """Coarse steps on purpose: r dt up to 3, where p = r dt would be no probability."""
    n, dt, max_rate, x = 20_000, 0.01, 300.0, np.linspace(0, 1, 11)
    spikes = encode.poisson(
        key, jnp.asarray(x)[None], n, dt=dt, max_rate=jnp.float32(max_rate)
    )
    p = 1 - np.exp(-x * max_rate * dt)
    error = np.abs(np.mean(spikes, 0)[0] - p)
    assert np.all(error <= 4 * np.sqrt(p * (1 - p) / n) + 1e-6)


def test_poisson_rate_in_hz_for_small_steps(key):
    rate = encode.poisson(key, jnp.ones((1, 50)), 4000, dt=1e-4, max_rate=100.0)
    hz = float(rate.mean()) / 1e-4
    # 2e5 draws at p = 0.01: one standard error is 2.2 %; the bias r dt / 2 is 0.5 %.
    np.testing.assert_allclose(hz, 100.0, rtol=0.09)


def test_a_swept_probability_may_be_traced(images, key):
    rates = jax.vmap(
        lambda p: encode.bernoulli(key, images, T, max_probability=p).mean()
    )(jnp.array([0.0, 0.5, 1.0]))
    assert rates[0] == 0
    assert rates[0] < rates[1] < rates[2]


def linear_time(x, theta):
    return T * (1 - x) / (1 - theta) if x > theta else np.inf


def charging_time(x, theta, tau):
    """When v of tau dv/dt = x − v, v(0) = 0 reaches theta."""
    return -tau * np.log(1 - theta / x) if x > theta else np.inf


@pytest.mark.parametrize("theta", [0.0, 0.01, 0.3])
def test_linear_latency_by_pixel(theta, images):
    want = np.vectorize(linear_time)(np.float64(images), np.float64(np.float32(theta)))
    times = encode.latency_times(images, T, threshold=theta)
    assert np.isinf(want).any()
    assert np.isfinite(want).any()
    np.testing.assert_allclose(times, want, rtol=1e-6, atol=1e-6)  # float32 arithmetic
    spikes = encode.latency(images, T, threshold=theta)
    by_step = [np.floor(want) == t for t in range(T)]
    np.testing.assert_array_equal(spikes, np.array(by_step))


def test_logarithmic_latency_by_pixel(images):
    theta, tau = 0.2, 4.0
    want = np.vectorize(charging_time)(
        np.float64(images), np.float64(np.float32(theta)), tau
    )
    late = np.isfinite(want) & (want >= T)
    assert late.any()  # crosses threshold after the window
    assert np.isinf(want).any()
    times = encode.latency_times(images, T, threshold=theta, tau_steps=tau)
    # The difference x − theta amplifies float32 rounding: relative 1e-5 where it is near 1e-2.
    np.testing.assert_allclose(times, want, rtol=1e-5)
    spikes = encode.latency(images, T, threshold=theta, tau_steps=tau)
    np.testing.assert_array_equal(spikes, [np.floor(want) == t for t in range(T)])
    assert np.all(np.asarray(spikes.sum(0))[late] == 0)


@pytest.mark.parametrize("kwargs", [{}, {"threshold": 0.05, "tau_steps": 10.0}])
def test_brighter_is_never_later_and_dark_never_spikes(kwargs):
    x = jnp.linspace(0, 1, 200)[None]
    times = np.asarray(encode.latency_times(x, 20, **kwargs))[0]
    theta = kwargs.get("threshold", 0.01)
    np.testing.assert_array_equal(np.isinf(times), x[0] <= theta)
    seen = times[np.isfinite(times)]
    assert np.all(np.diff(seen) < 0)
    spikes = encode.latency(x, 20, **kwargs)
    assert spikes.sum(0).max() == 1


@pytest.mark.parametrize("num_steps", [1, 7, 100, 1000])
def test_linear_latency_keeps_every_bright_pixel_inside_the_window(num_steps):
    """Also the darkest: just above the threshold, where 1 − x and 1 − theta round to the same float32."""
    x = jnp.array([[np.nextafter(np.float32(1e-3), np.float32(1)), 1e-12, 1.0]])
    for theta in (0.0, 1e-13, 1e-3):
        spikes = encode.latency(x, num_steps, threshold=theta)
        np.testing.assert_array_equal(spikes.sum(0), x > np.float32(theta))
        assert spikes[-1, 0, 0] == 1


def test_linear_latency_gives_every_step_an_equal_share():
    x = (jnp.arange(1000, dtype=jnp.float32)[None] + 0.5) / 1000
    per_step = encode.latency(x, 10, threshold=0.0).sum((1, 2))
    np.testing.assert_array_equal(per_step, 100)


def test_delta_by_hand():
    x = jnp.array([0.0, 0.5, 0.5, 1.5, 1.0, -1.0, -0.75])[:, None]
    both = encode.delta(x, threshold=0.25)
    np.testing.assert_array_equal(both[:, 0], [0, 1, 0, 1, -1, -1, 0])
    on = encode.delta(x, threshold=0.25, off_spikes=False)
    np.testing.assert_array_equal(on[:, 0], [0, 1, 0, 1, 0, 0, 0])


def test_delta_by_loop(key):
    x, theta = jax.random.normal(key, (30, 2, 5)), 0.7
    want = np.zeros(x.shape)
    values = np.asarray(x)  # float32: the difference is rounded as in the encoder
    for t in range(1, 30):
        for i in np.ndindex(2, 5):
            d = values[t][i] - values[t - 1][i]
            want[t][i] = 1 if d > theta else -1 if d < -theta else 0
    assert {-1, 0, 1} == set(np.unique(want))
    np.testing.assert_array_equal(encode.delta(x, threshold=theta), want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k, x: encode.bernoulli(k, x + 0.5, T), r"`images`.*\[0, 1\].*255"),
        (lambda k, x: encode.latency(x - 0.5, T), r"`images`.*\[0, 1\]"),
        (lambda k, x: encode.latency(x * np.nan, T), r"`images`.*nan"),
        (
            lambda k, x: encode.bernoulli(k, np.ones((2, 3), np.uint8), T),
            "`images`.*uint8.*255",
        ),
        (
            lambda k, x: jax.jit(lambda z: encode.latency(z, T))(
                np.ones((2, 3), np.uint8)
            ),
            "`images`.*uint8.*255",
        ),
        (lambda k, x: encode.direct(x, 0), "`num_steps`.*0"),
        (lambda k, x: encode.bernoulli(k, x, 0), "`num_steps`.*0"),
        (lambda k, x: encode.latency(x, -1), "`num_steps`.*-1"),
        (
            lambda k, x: encode.bernoulli(k, x, T, max_probability=1.5),
            "`max_probability`.*1.5",
        ),
        (lambda k, x: encode.poisson(k, x, T, dt=-1e-3, max_rate=1.0), "`dt`.*-0.001"),
        (
            lambda k, x: encode.poisson(k, x, T, dt=1e-3, max_rate=-5.0),
            "`max_rate`.*-5",
        ),
        (lambda k, x: encode.latency(x, T, threshold=1.0), "`threshold`.*below 1"),
        (lambda k, x: encode.latency(x, T, threshold=-0.1), "`threshold`.*-0.1"),
        (
            lambda k, x: encode.latency(x, T, threshold=0.0, tau_steps=2.0),
            "`threshold`.*above 0",
        ),
        (
            lambda k, x: encode.latency(x, T, threshold=0.1, tau_steps=-2.0),
            "`tau_steps`.*-2",
        ),
        (lambda k, x: encode.delta(x, threshold=-1.0), "`threshold`.*-1"),
        (lambda k, x: encode.delta(x[:0], threshold=1.0), r"`sequence`.*T >= 1.*\(0,"),
    ],
)
def test_errors_name_argument_and_value(call, message, images, key, monkeypatch):
    # What a user sees, who runs without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call(key, images)


def test_intensities_are_not_checked_while_traced(images, key):
    spikes = jax.jit(lambda x: encode.bernoulli(key, x, T))(images * 3)
    assert spikes.shape == (T, *images.shape)


def test_unit_interval():
    pixels = jnp.asarray([0, 51, 255], jnp.uint8)
    np.testing.assert_allclose(encoders.unit_interval(pixels), [0, 0.2, 1], rtol=1e-7)
    floats = jnp.asarray([-1.5, 0.25, 3.0], jnp.float16)
    assert encoders.unit_interval(floats).dtype == jnp.float32
    np.testing.assert_array_equal(encoders.unit_interval(floats), floats)
