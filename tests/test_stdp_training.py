"""Whole passes: against dense loops in float64 and a stored reference, shortcuts against the plain rule, `vmap` against a loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stdp_loops as loops
from conftest import REFERENCE, needs

from jsnn.stdp import joint, layer, reward, unsupervised, waves
from jsnn.stdp.layer import Conv, Decision
from jsnn.stdp.plasticity import Bounds, Doubling, Rates
from jsnn.stdp.reward import RewardParams

FILE = REFERENCE / "spyketorch_mozafari2018.npz"
STEPS = 6
RNG = np.random.default_rng(0)
SMALL = Conv(6, 3, threshold=4.0, num_winners=3, radius=1, pad=1)
TOP = Decision(20, 3, classes=10, pad=1)
NEVER = Doubling(every=10**6)
MOZAFARI = (
    Conv(30, 5, threshold=15, num_winners=5, radius=3, pad=2),
    Conv(250, 3, threshold=10, num_winners=8, radius=1, pool=2, pad=1),
    Decision(200, 5, pool=3, pad=2),
)

run_stdp = jax.jit(unsupervised.run, static_argnames=("spec", "num_steps"))
run_window = jax.jit(reward.run_window, static_argnames=("spec", "block"))
compete = jax.jit(layer.compete, static_argnames=("spec", "num_steps"))


def winners_of(spec, state, inputs, order, params, num_steps):
    """The state after a pass, and of every image the winners: of a pass over those before it, and then this one's."""
    found = []
    for i in order:
        theta = params.threshold
        found.append(
            compete(spec, state.weights, inputs[i], num_steps, threshold=theta).index
        )
        one = jnp.asarray([i])
        state = run_stdp(spec, state, inputs, one, params, num_steps)
    return state, np.stack(found)


def run_reward(spec, state, active, labels, order, params, *, window=1000, block=16):
    """Window after window, after each of which the rates adapt."""
    found = []
    for start in range(0, len(order), window):
        chosen = jnp.asarray(order[start : start + window])
        state, verdict = run_window(
            spec, state, active, labels, chosen, params, block=block
        )
        state = reward.adapt(state, verdict.decision, labels[chosen], params)
        found.append(verdict)
    return state, jax.tree.map(lambda *x: jnp.concatenate(x), *found)


@functools.partial(jax.jit, static_argnames=("spec", "num_steps", "above"))
def respond(spec, weights, inputs, num_steps, above):
    """What a layer tells the next."""
    one = lambda x: layer.pooled(above, layer.fire(spec, weights, x, num_steps), num_steps)  # noqa: E731  # fmt: skip
    return jax.lax.map(one, inputs)


@functools.partial(jax.jit, static_argnames=("spec", "above"))
def respond_at_last(spec, weights, active, above):
    """The same at the last step alone."""
    one = lambda x: layer.pooled_activity(above, layer.fire_at_last(spec, weights, x))  # noqa: E731  # fmt: skip
    return jax.lax.map(one, active)


def images(count, channels=2, size=7, silent=0.5):
    times = RNG.integers(0, STEPS, (count, channels, size, size))
    return np.where(RNG.random(times.shape) < silent, STEPS, times).astype(np.uint8)


def normal(*shape):
    return RNG.normal(0.8, 0.1, shape).astype(np.float32)


def test_a_pass_equals_the_dense_rule():
    # Rates double at the fourth image; the third is blank; weights begin above their bound.
    inputs, start = images(8), normal(6, 2, 3, 3)
    inputs[2] = STEPS
    assert (start > 1).any()
    order = np.array([3, 0, 2, 5, 4, 0, 1, 7])
    weights, expected = start.astype(np.float64), []
    for n, i in enumerate(order, start=1):
        double = n // 4
        rates = min(0.05 * 2**double, 0.15), -0.75 * min(0.05 * 2**double, 0.15)
        rates = rates if double else (0.05, -0.0375)
        weights, found, *_ = loops.unsupervised_step(
            weights, inputs[i], STEPS, 4.0, 3, 1, rates, 1
        )
        expected.append(found + [(-1, -1, -1)] * (3 - len(found)))
    params = unsupervised.params(SMALL)._replace(doubling=Doubling(every=4))
    first = unsupervised.init(jnp.asarray(start), Rates(0.05, -0.0375))
    args = jnp.asarray(inputs), jnp.asarray(order), params, STEPS
    state, found = winners_of(SMALL, first, *args)
    np.testing.assert_array_equal(found, expected)
    assert (found[2] == -1).all()
    assert (found[[0, 1, 3]] >= 0).any((1, 2)).all()
    whole = run_stdp(SMALL, first, *args)  # one image after the other, or all at once
    jax.tree.map(np.testing.assert_array_equal, whole, state)
    np.testing.assert_allclose(state.weights, weights, atol=1e-6)  # single precision
    assert float(state.rates.ltp) == pytest.approx(0.15)
    assert int(state.count) == 0


def test_two_halves_are_one_pass():
    inputs, order = jnp.asarray(images(8)), jnp.arange(8)
    params = unsupervised.params(SMALL)._replace(doubling=Doubling(every=3))
    state = unsupervised.init(jnp.asarray(normal(6, 2, 3, 3)))
    whole = run_stdp(SMALL, state, inputs, order, params, STEPS)
    half = run_stdp(SMALL, state, inputs, order[:4], params, STEPS)
    half = run_stdp(SMALL, half, inputs, order[4:], params, STEPS)
    jax.tree.map(np.testing.assert_array_equal, whole, half)


@pytest.mark.parametrize("stabilise", [True, False])
def test_clipping_winners_alone_is_the_same_to_the_bit(stabilise):
    """What trains (`unsupervised.run`, window by window) against steps that clip all weights, as the rule says."""
    spec = dataclasses.replace(SMALL, stabilise=stabilise)
    inputs, start = jnp.asarray(images(9)), normal(6, 2, 3, 3)
    start[0] -= 0.9
    assert (start > 1).any()
    assert (start < 0).any()
    params = unsupervised.params(spec)._replace(doubling=Doubling(every=4))
    step = jax.jit(lambda s, x: unsupervised.step(spec, s, x, params, STEPS)[0])
    run = jax.jit(lambda *a: unsupervised.run(spec, *a[:3], params, STEPS, length=a[3]))
    plain = state = unsupervised.init(jnp.asarray(start), Rates(0.2, -0.15))
    for length in (0, 1, 5, 0, 3):
        for image in inputs[:length]:
            plain = step(plain, image)
        state = run(state, inputs, jnp.arange(9), length)
        jax.tree.map(np.testing.assert_array_equal, state, plain)
    assert (np.asarray(state.weights) != start.clip(0, 1)).any()
    np.testing.assert_array_equal(state.weights, np.clip(state.weights, 0, 1))


def test_vmap_over_seeds_rates_and_thresholds_equals_a_loop():
    inputs, order = jnp.asarray(images(5)), jnp.arange(5)
    weights = jnp.asarray(np.stack([normal(6, 2, 3, 3) for _ in range(2)]))
    ltp, theta = jnp.array([0.01, 0.04]), jnp.array([3.0, 5.0])

    def one(weights, ltp, theta):
        params = unsupervised.STDPParams(theta)
        state = unsupervised.init(weights, Rates(ltp, -0.75 * ltp))
        return unsupervised.run(SMALL, state, inputs, order, params, STEPS)

    together = jax.jit(jax.vmap(one))(weights, ltp, theta)
    alone = [jax.jit(one)(*args) for args in zip(weights, ltp, theta, strict=True)]
    alone = jax.tree.map(lambda *x: jnp.stack(x), *alone)
    assert (np.asarray(alone.weights[0]) != np.asarray(alone.weights[1])).any()
    # Batched products add in another order.
    np.testing.assert_allclose(together.weights, alone.weights, atol=1e-6)


def test_cached_responses_equal_the_dense_rule():
    inputs, weights = (
        images(3),
        (RNG.integers(0, 9, (6, 2, 3, 3)) / 8).astype(np.float32),
    )
    above = Conv(1, 2, threshold=1, num_winners=1, radius=0, pool=2, pool_padding=1)
    args = SMALL, jnp.asarray(weights)
    got = respond(*args, jnp.asarray(inputs), STEPS, above)
    active = respond_at_last(*args, waves.fired(jnp.asarray(inputs), STEPS), above)
    for i in range(3):
        wave = loops.pad(loops.dense(inputs[i], STEPS), 1)
        spikes = (loops.potentials(weights, wave) > 4.0).astype(float)
        expected = loops.pool(spikes, 2, 2, 1)
        np.testing.assert_array_equal(waves.to_dense(got[i], STEPS), expected)
        np.testing.assert_array_equal(active[i], expected[-1])
        assert 0 < expected[-1].mean() < 1


RATES = RewardParams(Rates(0.03125, -0.015625), Rates(-0.03125, 0.0078125))


def quarters(*shape):
    """Sums and changes of these are exact in float32, so potentials tie and any order of adding gives the same."""
    return (RNG.integers(26, 57, shape) / 64).astype(np.float32)


def reward_case(count=13):
    active, labels = RNG.random((count, 3, 4, 4)) < 0.5, RNG.integers(0, 10, count)
    active[0] = active[5] = False
    return active, labels.astype(np.int32)


def dense_reward(weights, active, labels, order, window):
    weights, found = weights.astype(np.float64), []
    rates = [np.array(r) for r in (RATES.reward, RATES.punish)]
    now = rates
    for start in range(0, len(order), window):
        batch = order[start : start + window]
        decisions = []
        for i in batch:
            weights, decision, index = loops.reward_step(
                weights, active[i], labels[i], now, TOP.pad, low=0.25, high=0.875
            )
            decisions.append(decision)
            found.append((decision, *index))
        decisions = np.array(decisions)
        hits = (decisions == labels[batch]).mean()
        misses = ((decisions != labels[batch]) & (decisions >= 0)).mean()
        now = [rates[0] * misses, rates[1] * hits]
    return weights, np.array(found), now


@pytest.mark.parametrize(
    ("block", "window", "outside"), [(1, 100, True), (4, 100, False), (5, 7, True)]
)
def test_blocks_equal_the_dense_rule(block, window, outside):
    active, labels = reward_case()
    weights = quarters(20, 3, 3, 3)
    if outside:  # clipped at the first image that is not silent
        weights[::2, 0] += 0.5
    order = np.concatenate([np.arange(13), RNG.permutation(13)])
    expected, found, rates = dense_reward(weights, active, labels, order, window)
    params = RATES._replace(bounds=Bounds(0.25, 0.875))
    state, verdict = run_reward(
        TOP,
        reward.init(jnp.asarray(weights), params),
        jnp.asarray(active),
        jnp.asarray(labels),
        jnp.asarray(order),
        params,
        window=window,
        block=block,
    )
    np.testing.assert_array_equal(verdict.decision, found[:, 0])
    np.testing.assert_array_equal(verdict.index, found[:, 1:])
    np.testing.assert_allclose(
        state.weights, expected, atol=1e-6
    )  # rates after a window are no longer exact
    np.testing.assert_allclose(
        [*state.reward, *state.punish], np.ravel(rates), rtol=1e-5
    )
    assert (found[[0, 5], 0] == -1).all()
    assert len(set(found[:, 1])) < len(found) - 2  # some features win more than once
    assert (weights > 0.875).any() == outside


def test_images_that_are_all_silent_leave_weights_unclipped():
    weights = jnp.ones((20, 3, 3, 3))
    state, verdict = run_reward(
        TOP,
        reward.init(weights),
        jnp.zeros((4, 3, 4, 4), bool),
        jnp.zeros(4, jnp.int32),
        jnp.arange(4),
        RewardParams(),
        window=100,
        block=4,
    )
    np.testing.assert_array_equal(state.weights, weights)
    assert (np.asarray(verdict.decision) == -1).all()


def test_decisions_of_many_images_are_those_of_one():
    active, _ = reward_case()
    weights = jnp.asarray(quarters(20, 3, 3, 3))
    many, _ = jax.jit(layer.rate_all, static_argnames="spec")(
        TOP, weights, jnp.asarray(active)
    )
    one = jax.jit(layer.decide, static_argnames="spec")
    for i, image in enumerate(active):
        jax.tree.map(
            np.testing.assert_array_equal,
            one(TOP, weights, jnp.asarray(image)),
            jax.tree.map(lambda x, i=i: x[i], many),
        )


def test_a_committee_adapts_to_its_common_vote():
    active, labels = reward_case()
    other = Decision(20, 1, classes=10)
    states = tuple(
        reward.init(jnp.asarray(quarters(20, 3, k, k)), RATES) for k in (3, 1)
    )
    args = jnp.asarray(labels), jnp.arange(13), RATES
    active = jnp.asarray(active)
    new, verdicts, common = jax.jit(
        lambda s: reward.run_committee(
            (TOP, other), s, active, *args, vote=lambda d: d[1], block=4
        )
    )(states)
    decisions = np.asarray(common)
    np.testing.assert_array_equal(decisions, verdicts[1].decision)
    assert (decisions != np.asarray(verdicts[0].decision)).any()
    hits = (decisions == labels).mean()
    for state in new:
        np.testing.assert_allclose(
            state.punish, np.array(RATES.punish) * hits, rtol=1e-5
        )
    alone = reward.run_window(TOP, states[0], active, *args, block=4)
    np.testing.assert_array_equal(alone[1].decision, verdicts[0].decision)


def test_two_layers_learn_from_one_decision():
    inputs, labels = (
        images(8, channels=2, size=4),
        RNG.integers(0, 10, 8).astype(np.int32),
    )
    top = Decision(20, 3, classes=10, pad=1)
    hidden = Conv(6, 3, threshold=4.0, num_winners=3, radius=0, pad=1, stabilise=False)
    below, above = quarters(6, 2, 3, 3), quarters(20, 6, 3, 3)
    bounds, rates = Bounds(0.25, 0.875), (RATES.reward, RATES.punish)
    params = joint.JointParams(4.0, *(RATES._replace(bounds=bounds) for _ in range(2)))
    state = joint.JointState(
        reward.init(jnp.asarray(below), params.hidden),
        reward.init(jnp.asarray(above), params.decision),
    )
    run = jax.jit(
        lambda s, order, learns: joint.run_window(
            (hidden, top),
            s,
            *(jnp.asarray(inputs), jnp.asarray(labels), order, params, STEPS),
            learns=learns,
        )
    )
    new, found = run(state, jnp.arange(4), jnp.array([True, False]))
    new, later = run(new, jnp.arange(4, 8), jnp.array([False, True]))
    decided = np.concatenate([found.decision, later.decision])
    w, v = below.astype(np.float64), above.astype(np.float64)
    now, hits, misses = rates, 0, 0
    for i in range(8):
        wave = loops.pad(loops.dense(inputs[i], STEPS), 1)
        kept = loops.thresholded(loops.potentials(w, wave), 4.0)
        changed, decision, _ = loops.reward_step(
            v, kept[-1] > 0, labels[i], now, 1, *bounds
        )
        assert decision == decided[i]
        if i >= 4:  # the second window, in which the decision layer learns
            v = changed
            continue
        hits += decision == labels[i]
        misses += decision not in (labels[i], -1)
        if i == 3:
            now = [np.array(rates[0]) * misses / 4, np.array(rates[1]) * hits / 4]
        inhibited = loops.pointwise(kept)
        found, first, _ = loops.winners(inhibited, inhibited > 0, 3, 0)
        chosen = rates[0 if decision == labels[i] else 1]
        if decision >= 0:
            w = loops.learn(w, wave, found, first, chosen, *bounds, False)
    assert hits > 0
    assert misses > 0
    for new_weights, expected, old in (
        (new.hidden.weights, w, below),
        (new.decision.weights, v, above),
    ):
        np.testing.assert_allclose(new_weights, expected, atol=1e-6)
        assert abs(expected - old).max() > 0.003


def test_bad_layers_are_refused():
    with pytest.raises(ValueError, match="`classes` must divide"):
        Decision(25, 3, classes=10)
    with pytest.raises(ValueError, match="`kernel` must be at least 1"):
        Conv(5, 0, threshold=1, num_winners=1, radius=0)
    with pytest.raises(ValueError, match="too few for pooling"):
        layer.shapes(MOZAFARI, (6, 4, 4))
    with pytest.raises(ValueError, match="`block` must be at least 1"):
        reward.run_window(
            TOP,
            reward.init(jnp.ones((20, 3, 3, 3))),
            jnp.zeros((1, 3, 4, 4), bool),
            jnp.zeros(1, jnp.int32),
            jnp.arange(1),
            RATES,
            block=0,
        )


def test_shapes_and_initial_weights():
    assert layer.shapes(MOZAFARI, (6, 28, 28)) == [
        (30, 28, 28),
        (250, 14, 14),
        (200, 4, 4),
    ]
    draw = functools.partial(layer.init_weights, spec=MOZAFARI[1], channels=30)
    weights = draw(jax.random.key(0))
    assert weights.shape == (250, 30, 3, 3)
    compiled = jax.jit(draw)(jax.random.key(0))
    np.testing.assert_array_equal(weights, compiled)  # to the bit
    # 67,500 draws: standard errors are 0.0002 and 0.00014.
    assert float(weights.mean()) == pytest.approx(0.8, abs=1e-3)
    assert float(weights.std()) == pytest.approx(0.05, abs=1e-3)
    assert float(
        unsupervised.convergence(jnp.array([[[[0.0, 1.0], [0.5, 1.0]]]]))
    ) == pytest.approx(0.0625)


@functools.cache
def reference():
    ref = dict(np.load(FILE))
    shape = ref["spike_waves_shape"]
    wave = np.unpackbits(ref["spike_waves"], axis=-1)[..., : shape[-1]]
    times = jnp.asarray((15 - wave.sum(1)).astype(np.uint8))
    first, second = (jnp.asarray(ref[f"w{n}_trained"]) for n in "12")
    above = respond(MOZAFARI[0], first, times, 15, MOZAFARI[1])
    fired = waves.fired(above, 15)
    active = respond_at_last(MOZAFARI[1], second, fired, MOZAFARI[2])
    return ref, {"1": times, "2": above}, active


@needs(FILE)
@pytest.mark.parametrize("name", ["1", "2"])
def test_reference_passes(name):
    ref, inputs, _ = reference()
    spec = MOZAFARI[int(name) - 1]
    params = unsupervised.params(spec)._replace(doubling=NEVER)
    state, found = winners_of(
        spec,
        unsupervised.init(jnp.asarray(ref[f"w{name}_init"])),
        inputs[name],
        jnp.arange(60),
        params,
        15,
    )
    np.testing.assert_array_equal(found, ref[f"winners{name}"])
    np.testing.assert_allclose(state.weights, ref[f"w{name}_after"], atol=1e-6)


@needs(FILE)
def test_reference_reward_pass():
    ref, _, active = reference()
    a, b, c, d = ref["rl_rates"]
    params = RewardParams(Rates(a, b), Rates(d, c))

    def run(order):
        return run_reward(
            MOZAFARI[2],
            reward.init(jnp.asarray(ref["w3_init"]), params),
            active,
            jnp.asarray(ref["labels"].astype(np.int32)),
            order,
            params,
            window=1000,
            block=16,
        )

    def at_image(n, index):
        """Float64 potential of a neuron for image n, from the weights before it."""
        f, r, c = index
        weights = ref["w3_init"] if n == 0 else run(jnp.arange(n))[0].weights
        seen = np.pad(np.asarray(active[n]), ((0, 0), (2, 2), (2, 2)))
        seen = seen[:, r : r + 5, c : c + 5]
        return (np.asarray(weights[f], np.float64) * seen).sum()

    state, verdict = run(jnp.arange(60))
    agreed = loops.same_up_to_ties(verdict.index, ref["winners3"], at_image)
    np.testing.assert_array_equal(verdict.decision[:agreed], ref["decisions"][:agreed])
    if agreed == 60:
        np.testing.assert_allclose(state.weights, ref["w3_after"], atol=1e-6)
