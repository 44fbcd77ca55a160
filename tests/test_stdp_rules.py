"""Waves, inhibition, competition and plasticity against dense loops in float64, golden values and a stored reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stdp_loops as loops
from conftest import REFERENCE, needs
from oracles import competition

from jsnn.stdp import inhibition, layer, plasticity, waves, winners
from jsnn.stdp.layer import Conv
from jsnn.stdp.plasticity import Bounds, Doubling, Rates
from jsnn.stdp.race import race

FILE = REFERENCE / "spyketorch_mozafari2018.npz"
STEPS = 6
RNG = np.random.default_rng(0)


@functools.cache
def reference():
    return dict(np.load(FILE))


def random_times(*shape, silent=0.3, num_steps=STEPS):
    times = RNG.integers(0, num_steps, shape)
    return np.where(RNG.random(shape) < silent, num_steps, times).astype(np.uint8)


def eighths(*shape):
    """Weights whose sums are exact in float32, so that potentials tie and equal thresholds exactly."""
    return (RNG.integers(0, 9, shape) / 8).astype(np.float32)


def test_a_map_of_times_is_a_cumulative_wave():
    times = random_times(2, 3, 4)
    wave = np.asarray(waves.to_dense(jnp.asarray(times), STEPS))
    np.testing.assert_array_equal(wave, loops.dense(times, STEPS))
    np.testing.assert_array_equal(waves.from_dense(jnp.asarray(wave)), times)
    np.testing.assert_array_equal(waves.fired(jnp.asarray(times), STEPS), wave[-1])
    with pytest.raises(ValueError, match="`num_steps`"):
        waves.to_dense(jnp.asarray(times), 0)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 1, 0), (2, 2, 1)]
)
def test_pooling_is_the_earliest_spike(size, stride, padding):
    times = random_times(2, 7, 6, silent=0.9)
    got = waves.pool(
        jnp.asarray(times), size, stride=stride, padding=padding, num_steps=STEPS
    )
    expected = loops.pool(loops.dense(times, STEPS), size, stride, padding)
    np.testing.assert_array_equal(waves.to_dense(got, STEPS), expected)
    assert 0 < (np.asarray(got) == STEPS).mean() < 1


def test_padding_is_silent_and_small_maps_are_refused():
    times = random_times(2, 3, 3)
    padded = waves.pad(jnp.asarray(times), 2, STEPS)
    np.testing.assert_array_equal(
        waves.to_dense(padded, STEPS), loops.pad(loops.dense(times, STEPS), 2)
    )
    with pytest.raises(ValueError, match="`size` 4 of the pooling window"):
        waves.pool(jnp.asarray(times), 4, num_steps=STEPS)


def test_firing_equals_the_dense_rule():
    weights, times, theta = eighths(4, 2, 3, 3), random_times(2, 7, 8), 4.5
    expected = loops.potentials(weights, loops.dense(times, STEPS))
    assert (expected == theta).any()  # equality must not fire
    args = jnp.asarray(weights), jnp.asarray(times)
    for t in range(STEPS):
        np.testing.assert_array_equal(waves.potentials(*args, t), expected[t])
    spikes = expected > theta
    got = waves.fire(*args, theta, STEPS)
    np.testing.assert_array_equal(waves.to_dense(got, STEPS), spikes)
    assert 0 < spikes[-1].mean() < 1
    last = waves.fire_at_last(args[0], args[1] < STEPS, theta)
    np.testing.assert_array_equal(last, spikes[-1])


@pytest.mark.parametrize("num_steps", [1, 2, 6, 15])
def test_bisection_finds_the_first_crossing(num_steps):
    weights, theta = eighths(5, 2, 3, 3), 6.0
    times = random_times(2, 8, 8, silent=0.5, num_steps=num_steps)
    potential = loops.potentials(weights, loops.dense(times, num_steps))
    kept = loops.pointwise(loops.thresholded(potential, theta))
    got = competition.first_crossing(
        jnp.asarray(weights), jnp.asarray(times), theta, num_steps
    )
    expected = num_steps - (kept > 0).sum(0)  # [F, H, W]
    np.testing.assert_array_equal(got.times, expected.min(0).ravel())
    crosses = np.asarray(got.times) < num_steps
    assert 0 < crosses.mean() < 1
    np.testing.assert_array_equal(
        np.asarray(got.features)[crosses], expected.argmin(0).ravel()[crosses]
    )
    place = np.unravel_index(np.flatnonzero(crosses), expected.shape[1:])
    values = potential[
        np.asarray(got.times)[crosses], np.asarray(got.features)[crosses], *place
    ]
    np.testing.assert_array_equal(np.asarray(got.values)[crosses], values)


def test_a_potential_equal_to_the_threshold_does_not_fire():
    potential = jnp.asarray([[[[9.9, 10.0, 10.1]]]])
    times, values = competition.dense_crossings(potential, 10.0)
    assert times.ravel().tolist() == [1, 1, 0]
    assert values.ravel().tolist() == [0, 0, pytest.approx(10.1)]


def test_lateral_inhibition_has_the_published_values():
    x = np.zeros((5, 5), np.float32)
    x[2, 2], x[2, 3] = 2, 1
    y = np.asarray(inhibition.lateral(jnp.asarray(x), (0.15, 0.12)))
    np.testing.assert_allclose([y[2, 2], y[2, 3]], [8.24, 3.97], rtol=1e-6)
    assert np.count_nonzero(y) == 2
    with pytest.raises(ValueError, match="`factors`"):
        inhibition.lateral(jnp.asarray(x), ())


def test_features_are_dropped():
    times = random_times(3, 4, 4, silent=0.0)
    got = inhibition.drop_features(
        jnp.asarray(times), jnp.array([False, True, False]), STEPS
    )
    expected = times.copy()
    expected[1] = STEPS
    np.testing.assert_array_equal(got, expected)


def _firing(num_features=4, size=7):
    """Potentials with many ties, as eighths."""
    steps = RNG.integers(0, 3, (STEPS, num_features, size, size)) / 8
    potential = np.cumsum(steps, 0)
    return potential, np.float32(0.75)


def test_pointwise_inhibition_equals_the_dense_rule():
    potential, theta = _firing()
    kept = loops.pointwise(loops.thresholded(potential, theta))
    times, values = competition.dense_crossings(
        jnp.asarray(potential, jnp.float32), theta
    )
    got = inhibition.pointwise(times, values, STEPS)
    np.testing.assert_array_equal(waves.to_dense(got, STEPS), kept > 0)
    first = np.asarray(times).astype(int)
    among = (first == first.min(0)) & (
        np.asarray(values) == np.where(first == first.min(0), values, -1).max(0)
    )
    assert (among.sum(0) > 1).any()  # ties there are


k_winners = jax.jit(
    competition.k_winners, static_argnames=("num_winners", "radius", "num_steps")
)


@pytest.mark.parametrize(("k", "radius"), [(3, 0), (4, 1), (6, 2)])
def test_winners_equal_the_dense_rule(k, radius):
    potential, theta = _firing()
    expected, first, value = loops.winners(potential, potential > theta, k, radius)
    times, values = competition.dense_crossings(
        jnp.asarray(potential, jnp.float32), theta
    )
    got = k_winners(times, values, num_winners=k, radius=radius, num_steps=STEPS)
    index = np.asarray(got.index)
    assert [tuple(i) for i in index[: len(expected)]] == expected
    assert (index[len(expected) :] == -1).all()
    assert k <= 4 or len(expected) < k  # four maps cannot give six
    for i, at in enumerate(expected):
        assert (got.times[i], got.values[i]) == (first[at], value[at])


@needs(FILE)
def test_reference_primitives():
    ref = reference()
    potential, limited = ref["prim.potentials"], ref["prim.thresholded"]
    theta = 6.0
    assert (limited == loops.thresholded(potential, theta)).all()
    times, values = competition.dense_crossings(jnp.asarray(potential), theta)
    wave = np.asarray(waves.to_dense(times, 15))
    np.testing.assert_array_equal(wave * potential, limited)
    kept = inhibition.pointwise(times, values, 15)
    np.testing.assert_array_equal(
        np.asarray(waves.to_dense(kept, 15)) * potential,
        ref["prim.pointwise_inhibited"],
    )
    got = k_winners(kept, values, num_winners=5, radius=2, num_steps=15)
    expected = ref["prim.winners_k5_r2"]

    def at_first_spike(n, index):
        f, r, c = index
        return np.float64(potential)[got.times[n], f, r, c]

    agreed = loops.same_up_to_ties(got.index, expected, at_first_spike)
    assert agreed == len(expected) or (
        times[tuple(expected[agreed])] == got.times[agreed]  # a tie of one step
    )


def test_winners_are_compared_up_to_ties_and_no_further():
    """A tie in which programs may differ ends the comparison; a difference that is none, or a silent winner, is a fault."""
    potential = {(0, 0, 0): 3000.0, (1, 0, 0): 3000.002, (2, 0, 0): 3000.1}

    def at(_, index):
        return potential[index]

    got, tied = [(2, 0, 0), (1, 0, 0), (0, 0, 0)], [(2, 0, 0), (0, 0, 0), (1, 0, 0)]
    assert loops.same_up_to_ties(got, got, at) == 3
    assert loops.same_up_to_ties(got, tied, at) == 1
    with pytest.raises(AssertionError, match=r"winner 0: 3000.1 and 3000.002"):
        loops.same_up_to_ties(got, got[1:] + got[:1], at)
    with pytest.raises(AssertionError, match="silent"):
        loops.same_up_to_ties(got, [(-1, -1, -1)] * 3, at)


@functools.partial(jax.jit, static_argnames=("k", "radius", "chunk", "num_steps"))
def raced(weights, times, theta, k, radius, chunk, num_steps):
    return race(
        weights,
        times,
        theta,
        num_winners=k,
        radius=radius,
        num_steps=num_steps,
        chunk=chunk,
    )


@functools.partial(jax.jit, static_argnames=("k", "radius", "num_steps"))
def bisected(weights, times, theta, k, radius, num_steps):
    crossing = competition.first_crossing(weights, times, theta, num_steps)
    size = tuple(n - weights.shape[-1] + 1 for n in times.shape[1:])
    return competition.k_winners_of(
        crossing, size, num_winners=k, radius=radius, num_steps=num_steps
    )


@pytest.mark.parametrize(
    ("channels", "k", "radius", "chunk", "theta"),
    [(2, 3, 1, 4, 3.0), (2, 8, 0, 40, 4.0), (40, 6, 2, 7, 90.0), (2, 3, 1, 5, 30.0)],
)
def test_the_race_equals_the_dense_rule(channels, k, radius, chunk, theta):
    for _ in range(3):
        weights = eighths(6, channels, 3, 3)
        times = random_times(channels, 9, 8, silent=0.5)
        potential = loops.potentials(weights, loops.dense(times, STEPS))
        kept = loops.pointwise(loops.thresholded(potential, theta))
        expected, first, value = loops.winners(kept, kept > 0, k, radius)
        args = jnp.asarray(weights), jnp.asarray(times), theta, k, radius
        got = raced(*args, chunk, STEPS)
        found = len(expected)
        assert [tuple(i) for i in np.asarray(got.index)[:found]] == expected
        assert (np.asarray(got.index)[found:] == -1).all()
        np.testing.assert_array_equal(got.times[:found], [first[i] for i in expected])
        np.testing.assert_array_equal(got.values[:found], [value[i] for i in expected])
        assert (found == 0) == (theta == 30)
        jax.tree.map(np.testing.assert_array_equal, got, bisected(*args, STEPS))


@needs(FILE)
def test_the_race_equals_bisection_on_real_images():
    ref = reference()
    shape = ref["spike_waves_shape"]
    wave = np.unpackbits(ref["spike_waves"][:12], axis=-1)[..., : shape[-1]]
    times = waves.pad(jnp.asarray((15 - wave.sum(1)).astype(np.uint8)), 2, 15)
    for name in ("w1_init", "w1_trained"):
        weights = jnp.asarray(ref[name])
        one = jax.lax.map(lambda x, w=weights: raced(w, x, 15.0, 5, 3, None, 15), times)
        two = jax.lax.map(lambda x, w=weights: bisected(w, x, 15.0, 5, 3, 15), times)
        np.testing.assert_array_equal(one.index, two.index)
        np.testing.assert_array_equal(one.times, two.times)
        # Products of other sizes add in another order.
        np.testing.assert_allclose(one.values, two.values, rtol=1e-5)


def test_bad_competitions_are_refused():
    times = jnp.zeros((1, 3, 3), jnp.uint8)
    for options in ({"num_winners": 0, "radius": 0}, {"num_winners": 1, "radius": -1}):
        with pytest.raises(ValueError, match=r"`num_winners`|`radius`"):
            race(jnp.ones((1, 1, 2, 2)), times, 1.0, num_steps=3, **options)
    with pytest.raises(ValueError, match="at most 32767"):
        race(
            jnp.ones((1, 1, 1, 1)),
            jnp.zeros((1, 1, 300), jnp.uint8),
            1.0,
            num_steps=3,
            num_winners=1,
            radius=0,
        )


def test_stdp_has_the_published_values():
    weights = jnp.asarray([[[[0.5, 0.9], [0.2, 0.7]]]])
    times = jnp.asarray([[[0, 1], [2, 3]]], jnp.uint8)
    spec = Conv(1, 2, threshold=1.0, num_winners=1, radius=0)
    found = layer.compete(spec, weights, times, 3)
    assert found.index.tolist() == [[0, 0, 0]]
    assert found.times.tolist() == [1]
    new = plasticity.learn(
        weights, times, found, Rates(0.1, -0.2), Bounds(), stabilise=True
    )
    # Published to three decimals.
    np.testing.assert_allclose(new.ravel(), [0.525, 0.909, 0.168, 0.658], atol=5e-7)


@pytest.mark.parametrize("stabilise", [False, True])
@pytest.mark.parametrize("rates", [(0.05, -0.03), (-0.05, 0.03)])
def test_learning_equals_the_dense_rule(stabilise, rates):
    weights = RNG.normal(0.8, 0.2, (4, 2, 3, 3)).astype(np.float32)
    times = random_times(2, 6, 6)
    index = [(2, 0, 3), (0, 3, 1)]
    first = np.full((4, 4, 4), STEPS)
    for i, t in zip(index, (1, 4), strict=True):
        first[i] = t
    found = winners.Winners(
        jnp.asarray([*index, (-1, -1, -1)]),
        jnp.asarray([1, 4, STEPS], jnp.uint8),
        jnp.zeros(3),
    )
    expected = loops.learn(
        weights.astype(np.float64),
        loops.dense(times, STEPS),
        index,
        first,
        rates,
        0.2,
        0.8,
        stabilise,
    )
    args = (
        jnp.asarray(weights),
        jnp.asarray(times),
        found,
        Rates(*rates),
        Bounds(0.2, 0.8),
    )
    got = np.asarray(plasticity.learn(*args, stabilise=stabilise))
    np.testing.assert_allclose(got, expected, atol=1e-7)  # single precision
    assert (weights[[1, 3]] > 0.8).any()
    assert (got[[1, 3]] <= np.float32(0.8)).all()
    some = np.asarray(plasticity.learn(*args, stabilise=stabilise, clip="winners"))
    np.testing.assert_array_equal(some[[0, 2]], got[[0, 2]])
    np.testing.assert_array_equal(some[[1, 3]], weights[[1, 3]])


def test_rates_double_up_to_their_cap():
    rates, count = plasticity.as_arrays(Rates(0.004, -0.003)), jnp.zeros((), jnp.int32)
    double = jax.jit(lambda r, c: plasticity.doubled(r, c, Doubling(every=3)))
    seen = []
    for _ in range(21):
        rates, count = double(rates, count)
        seen.append(float(rates.ltp))
        assert float(rates.ltd) == pytest.approx(-0.75 * seen[-1])
    expected = np.repeat([0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.15, 0.15], 3)[
        1:22
    ]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_rates_adapt_to_a_fraction():
    got = plasticity.adapted(Rates(0.004, -0.003), jnp.asarray(0.25), 0.2, 0.8)
    np.testing.assert_allclose(got, [0.0016, -0.0012], rtol=1e-6)
