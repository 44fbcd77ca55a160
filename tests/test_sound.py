"""The sound front end against NumPy and SciPy, its gradients, and that padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.test_util import check_grads

from jsnn import sound
from jsnn.plot import sound as pictures

RATE, LENGTHS, STEPS = 1000, (300, 170), 9


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def recordings(extra=0):
    """Tones that rise in noise, `[2, 300]`, with zeros after the second."""
    draws = np.random.default_rng(0)
    t = np.arange(LENGTHS[0]) / RATE
    x = np.sin(2 * np.pi * (60 + 400 * t) * t) + 0.1 * draws.normal(size=(2, len(t)))
    x *= 0.3 * (np.arange(len(t)) < np.array(LENGTHS)[:, None])
    return np.pad(x, ((0, 0), (0, extra)))


HOW = {
    "rate": RATE,
    "bands": 5,
    "low_hz": 40.0,
    "high_hz": 450.0,
    "dt_ms": 30.0,
    "floor": 0.01,
}


def features(audio, **how):
    """Compiled, which takes less time than one operation after the other."""
    return jax.jit(lambda a: sound.features(a, STEPS, **{**HOW, **how}))(audio)


# --- the definition, in float64 ---


def mel_loop(bands, low, high, size, rate):
    """Triangles, one weight at a time."""

    def mel(f):
        return 2595 * np.log10(1 + f / 700)

    edges = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(mel(low), mel(high), bands + 2)]  # fmt: skip
    weights = np.zeros((size // 2 + 1, bands))
    for n in range(bands):
        left, centre, right = edges[n : n + 3]
        left = min(left, centre - rate / size)
        right = max(right, centre + rate / size)
        for k in range(size // 2 + 1):
            f = k * rate / size
            if left < f <= centre:
                weights[k, n] = (f - left) / (centre - left)
            elif centre < f < right:
                weights[k, n] = (right - f) / (right - centre)
        weights[:, n] /= weights[:, n].sum()
    return weights


def loop(bank, dt_ms=30.0, start_ms=0.0, floor=0.01, window_ms=64, level=True):
    """Recording by recording, step by step."""
    out = np.zeros((STEPS, 2, 5))
    for b, count in enumerate(LENGTHS):
        x = recordings()[b, :count]
        x = x / np.sqrt(np.mean(x**2)) if level else x
        start = start_ms / 1000 * RATE
        dt = (count - start) / STEPS if dt_ms is None else dt_ms / 1000 * RATE
        for t in range(STEPS):
            middle = start + (t + 0.5) * dt
            if middle >= count:
                continue
            if bank == "mel":
                size = round(window_ms / 1000 * RATE)
                piece = np.zeros(2 ** int(np.ceil(np.log2(size))))
                for j in range(size):
                    n = int(np.ceil(middle - size / 2)) + j
                    if 0 <= n < count:
                        hann = 0.5 + 0.5 * np.cos(2 * np.pi * (n - middle) / size)
                        piece[j] = x[n] * hann
                power = np.abs(np.fft.rfft(piece)) ** 2 / (0.375 * size)
                energy = power @ mel_loop(5, 40.0, 450.0, len(piece), RATE)
            else:
                energy = [rectified_mean(x, f, middle - dt / 2, middle + dt / 2) for f in centres()]  # fmt: skip
            out[t, b] = np.log1p(np.array(energy) / floor)
    return out


def centres():
    """Slaney's spacing: equal steps of the integral of 1 / bandwidth."""
    unit = 24.7 * 9.26449
    place = np.linspace(np.log(40.0 + unit), np.log(450.0 + unit), 5)
    return np.exp(place) - unit


def rectified_mean(x, frequency, first, last):
    response, _ = scipy.signal.gammatone(frequency, "fir", 4, 50, fs=RATE)
    heard = np.maximum(scipy.signal.lfilter(response, 1, x), 0)
    total = 0.0
    for n, value in enumerate(heard):  # what of sample n lies between the edges
        total += value * max(0, min(n + 1, last) - max(n, first))
    return total / (last - first)


# --- tests ---


@pytest.mark.parametrize(
    "how",
    [
        {"bank": "mel", "dt_ms": None, "window_ms": 50, "level": False},
        {"bank": "mel", "dt_ms": 21.7, "start_ms": -13.0, "floor": 0.5},
        {"bank": "gammatone", "dt_ms": None},
        {"bank": "gammatone", "dt_ms": 21.7, "start_ms": 7.3},
    ],
)
def test_features_are_those_of_a_loop(how):
    expected = loop(**how)
    how = {"window_ms": 64, **how}
    assert (expected > 0.01).mean() > 0.4
    with jax.enable_x64(True):
        exact = features(recordings(), **how)
    np.testing.assert_allclose(exact, expected, atol=1e-9)


@pytest.mark.parametrize("bank", sound.BANKS)
def test_features_in_float32_are_near(bank):
    got = features(recordings(), bank=bank, window_ms=64)
    # A power may lose five digits beside the largest of its window.
    np.testing.assert_allclose(got, loop(bank), atol=2e-3)


def test_filters_are_those_of_scipy_and_of_a_loop():
    with jax.enable_x64(True):
        bank = sound.gammatone_bank(jnp.asarray(centres()), RATE, taps=60)
        for response, f in zip(bank, centres(), strict=True):
            expected, _ = scipy.signal.gammatone(f, "fir", 4, 60, fs=RATE)
            np.testing.assert_allclose(response, expected, rtol=1e-12, atol=1e-15)
        mel = sound.mel_bank(12, 40.0, 450.0, 64, RATE)  # low ones are narrow
        np.testing.assert_allclose(mel, mel_loop(12, 40.0, 450.0, 64, RATE), atol=1e-12)


@pytest.mark.parametrize("bank", sound.BANKS)
def test_padding_and_neighbours_have_no_effect(bank):
    kept = features(recordings(), bank=bank)
    longer = features(recordings(217), bank=bank)
    alone = features(recordings()[1:, : LENGTHS[1]], bank=bank)
    np.testing.assert_allclose(
        kept, longer, atol=1e-5
    )  # Fourier transforms of other sizes
    np.testing.assert_allclose(kept[:, 1:], alone, atol=1e-5)
    assert float(kept[6:, 1].max()) == 0 < float(kept[6:, 0].min())
    silent = features(np.zeros((1, 50), np.int16), bank=bank)
    assert not silent.any()


@pytest.mark.parametrize("bank", sound.BANKS)
def test_gradients_are_those_of_finite_differences(bank):
    names = ("dt_ms", "start_ms", "low_hz", "high_hz", "warp", "floor")
    values = (
        29.317,
        np.array([3.131, -4.713]),
        41.3,
        433.7,
        np.array([1.03, 0.98]),
        0.02,
    )
    with jax.enable_x64(True):
        weights = jax.random.normal(jax.random.key(1), (STEPS, 2, 5))
        x = jnp.asarray(recordings())

        @jax.jit
        def score(gain, *values):
            how = {**HOW, **dict(zip(names, values, strict=True)), "bank": bank}
            shaped = x * jnp.exp(gain * jnp.sin(jnp.arange(x.shape[1]) / 9.0))[None]
            return jnp.sum(weights * sound.features(shaped, STEPS, **how))

        arguments = tuple(jnp.asarray(v) for v in (0.3, *values))
        # No edge of a step and no frequency lies so near to a corner (a sample, the end of a band) that a change of 1e-6 crosses it.
        check_grads(score, arguments, 1, ("rev",), eps=1e-6, rtol=1e-5, atol=1e-5)


def test_a_sweep_varies_numbers_in_one_program():
    def one(dt, low):
        return sound.features(recordings(), STEPS, **{**HOW, "dt_ms": dt, "low_hz": low})  # fmt: skip

    steps, lows = jnp.array([10.0, 30.0]), jnp.array([20.0, 60.0])
    got = jax.jit(jax.vmap(one))(steps, lows)
    for a, dt, low in zip(got, steps, lows, strict=True):
        np.testing.assert_allclose(
            a, features(recordings(), dt_ms=dt, low_hz=low), atol=1e-4
        )


def test_sixteen_bits_are_the_same_as_floats():
    whole = np.round(recordings() * 32768).astype(np.int16)
    got = features(whole)
    np.testing.assert_allclose(got, features(whole / np.float32(32768)), rtol=1e-6)


def test_adaptation_takes_the_running_mean_away():
    x = np.random.default_rng(0).random((7, 2, 3))
    mean, expected = np.zeros((2, 3)), []
    for x_t in x:
        expected.append(np.maximum(x_t - 0.8 * mean, 0))
        mean = 0.6 * mean + 0.4 * x_t
    got = sound.adapted(jnp.asarray(x, jnp.float32), 0.6, 0.8)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_codes_are_those_of_a_loop():
    x = 3 * np.random.default_rng(0).random((20, 2, 3)).astype(np.float32)
    last, membrane = np.zeros((2, 3)), np.zeros((2, 3))
    for t, (delta, lif) in enumerate(zip(sound.spikes(jnp.asarray(x), threshold=0.7), sound.spikes(jnp.asarray(x), code="lif", threshold=1.3, beta=0.6), strict=True)):  # fmt: skip
        change = np.trunc((x[t] - last) / 0.7)
        last = last + 0.7 * change
        np.testing.assert_array_equal(delta[..., 1], np.maximum(change, 0))
        np.testing.assert_array_equal(delta[..., 0], np.maximum(-change, 0))
        membrane = 0.6 * membrane + x[t]
        fired = membrane > 1.3
        membrane -= 1.3 * fired
        np.testing.assert_array_equal(lif, fired)


def test_input_times_are_the_spikes_in_order():
    counts = np.random.default_rng(0).poisson(0.4, (6, 2, 3, 2))
    times, neuron = sound.input_times(jnp.asarray(counts, jnp.float32), 40, 4.0)
    fewer, _ = sound.input_times(jnp.asarray(counts, jnp.float32), 8, 4.0)
    np.testing.assert_array_equal(fewer, times[:, :8])
    for b in range(2):
        expected = [
            (4.0 * (t + 0.5), unit)
            for t in range(6)
            for unit, count in enumerate(counts[t, b].ravel())
            for _ in range(count)
        ]
        assert 8 < len(expected) < 40
        kept = np.stack([times[b], neuron[b]], 1)[: len(expected)]
        np.testing.assert_array_equal(kept, expected)
        assert np.isinf(times[b, len(expected) :]).all()
        assert (neuron[b, len(expected) :] == -1).all()


def test_perturbed_recordings_differ_within_bounds(key):
    drawn = sound.perturb(key, 500, warp=0.2, start_ms=30.0)
    for values, low, high in ((drawn["warp"], 0.8, 1.2), (drawn["start_ms"], -30, 30)):
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    with pytest.raises(ValueError, match="`warp` must lie in"):
        sound.perturb(key, 5, warp=1.0)


def test_lif_spikes_have_a_gradient_in_the_front_end():
    def count(floor):
        x = sound.features(recordings(), STEPS, **{**HOW, "floor": floor})
        return sound.spikes(x, code="lif", threshold=2.0, spike_fn="arctan").mean()

    value, slope = jax.jit(jax.value_and_grad(count))(0.01)
    assert 0 < value < 1
    assert slope < 0  # a higher floor is less sound


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"bank": "bark"}, "`bank` must be one of 'mel', 'gammatone'"),
        ({"high_hz": 900.0}, "`high_hz` must lie in .*holds no higher ones"),
        ({"low_hz": 500.0, "high_hz": 400.0}, "`high_hz` must lie above `low_hz`"),
        ({"dt_ms": 0.0}, "`dt_ms` must be positive"),
        ({"floor": -1.0}, "`floor` must be positive"),
        ({"num_steps": 0}, "`num_steps` must be at least 1"),
        ({"audio": np.zeros(5)}, r"must be recordings \[B, L\]"),
    ],
)
def test_what_cannot_be_is_refused(how, message):
    how = {"audio": recordings(), "num_steps": STEPS, **HOW, **how}
    with pytest.raises(ValueError, match=message):
        sound.features(**how)


def test_unknown_codes_are_refused():
    with pytest.raises(ValueError, match="`code` must be one of 'delta', 'lif'"):
        sound.spikes(jnp.zeros((2, 1, 1)), code="rate")


def test_pictures_show_the_features_and_every_spike():
    draws = np.random.default_rng(0)
    x, counts = draws.random((7, 3, 4)), draws.integers(0, 3, (7, 3, 4, 2))
    figure = pictures.spectrograms(x, ["a", "b"], spikes=counts, samples=recordings())
    assert len(figure.axes) == 6
    for b, ax in enumerate(figure.axes[2:4]):
        (image,) = ax.get_images()
        alpha = np.asarray(image.get_array())[..., 3]
        np.testing.assert_allclose(alpha, x[:, b].T / x[:, :2].max())
    for b, ax in enumerate(figure.axes[4:]):
        falling, rising = (c.get_segments() for c in ax.collections)
        for channel, strokes in ((0, falling), (1, rising)):
            at = sorted((s[0][0], s[:, 1].mean()) for s in map(np.asarray, strokes))
            np.testing.assert_allclose(at, np.argwhere(counts[:, b, :, channel]))
    with pytest.raises(ValueError, match="`titles` names 4 recordings"):
        pictures.spectrograms(x, list("abcd"))
