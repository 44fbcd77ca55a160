"""The STDP networks as declared: shapes and sizes of the originals, blocks against dense loops, votes, and what trains when."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stdp_loops as loops
from stdp_tiny import JOINT, READ, WIDE

from jsnn.models import stdp, stdp_network, stdp_steps
from jsnn.models.stdp_steps import Schedule
from jsnn.stdp import layer, reward, train
from jsnn.stdp.plasticity import Doubling

# Rows and columns of every layer's output and all weights, from the description of the originals.
EXPECTED = {
    "mozafari2018": ([[28], [14], [4]], 1_322_000),
    "deep2024": ([[28], [14], [7], [2]], 1_632_500),
    "deepr2024": ([[28], [14], [7], [2]], 1_632_500),
    "deepr2024_greedy": ([[28], [14], [7], [2]], 1_632_500),
    "inception2024": ([[28], [14], [7, 5, 3], [2]], 2_147_250),
    "majority2024": ([[28], [14], [6, 4, 2]], 4_222_000),
    "resnet2024": ([[28], [14], [7], [3]], 1_182_500),
    "deeper2024": ([[30], [15], [7], [4], [3]], 1_009_620),
    "kheradpisheh2018": ([[28], [16]], 20_800),
}


@pytest.mark.parametrize("name", stdp.NETWORKS)
def test_maps_and_weights_are_those_of_the_original(name):
    network = stdp.NETWORKS[name]
    sides, count = EXPECTED[name]
    encoded, found = stdp.shapes(network, (28, 28))
    assert encoded[1:] == (28, 28)
    assert [[s[1] for s in outputs] for outputs in found] == sides
    assert all(s[1] == s[2] for outputs in found for s in outputs)
    assert stdp.num_weights(network) == count
    weights = jax.eval_shape(lambda k: stdp_network.init(k, network), jax.random.key(0))
    assert sum(w.size for w in jax.tree.leaves(weights)) == count
    for spec in network.decision:
        assert spec.features == (100 if name == "deeper2024" else 200)


@pytest.mark.parametrize("name", stdp.NETWORKS)
def test_every_stage_of_every_network_fits_the_next(name):
    """Traced, not run: from the encoded image to a decision, and one window of each kind of learning."""
    network = stdp.NETWORKS[name]
    (channels, height, width), _ = stdp.shapes(network, (28, 28))
    num_steps = network.frontend().num_steps
    state = jax.eval_shape(lambda k: stdp_steps.start(k, network), jax.random.key(0))
    order = jax.ShapeDtypeStruct((4,), jnp.int32)
    one = jax.ShapeDtypeStruct((), jnp.int32)
    times = jax.ShapeDtypeStruct((3, channels, height, width), jnp.uint8)
    seen = [times]
    for number, block in enumerate(network.blocks):
        for spec, w in zip(block.branches, state.weights[number], strict=True):
            before = train.STDPState(w, state.rates, state.count)
            after, _ = jax.eval_shape(
                lambda *a, spec=spec: stdp_steps.unsupervised(
                    *a, spec=spec, num_steps=num_steps
                ),
                *(before, seen[-1], order, one, Doubling(one)),
            )
            assert after.weights.shape == w.shape
        after = jax.eval_shape(
            lambda w, x, number=number: stdp_network.responses(network, number, w, x),
            state.weights[number],
            seen[-1],
        )
        seen.append(after)
    if name == "kheradpisheh2018":
        assert seen[-1].shape == (3, 150, 9, 9)  # 12,150 inputs of the machine
        return
    assert seen[-1].dtype == bool
    labels = jax.ShapeDtypeStruct((3,), jnp.int32)
    states = jax.eval_shape(
        lambda s: stdp_steps.reward_states(network, s.weights, s.rewards), state
    )
    inputs = seen[-2] if network.modulated else seen[-1]
    learns = jax.ShapeDtypeStruct((2,), jnp.bool_)
    after, decisions, _ = jax.eval_shape(
        lambda *a: stdp_steps.rewarded(*a, network=network),
        *(states, inputs, labels, order, learns),
    )
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, states)
    assert decisions.shape == (4,)
    decided = jax.eval_shape(
        lambda w, x: stdp_network.decisions(network.decision, w, x),
        *(state.weights[-1], seen[-1]),
    )
    assert decided.scores.shape == (3, 10)


def dense_block(block, weights, times, num_steps):
    """Spike waves slice by slice, padded, convolved, merged: the plain rule in float64."""
    waves = []
    for spec, w in zip(block.branches, weights, strict=True):
        pad, k = spec.pad, spec.kernel
        x = np.pad(times, ((0, 0), (pad, pad), (pad, pad)), constant_values=num_steps)
        side = x.shape[1] - k + 1
        wave = np.zeros((num_steps, spec.features, side, side), bool)
        for t, f, r, c in np.ndindex(wave.shape):
            seen = x[:, r : r + k, c : c + k] <= t
            wave[t, f, r, c] = (np.float64(w[f]) * seen).sum() > spec.threshold
        waves.append(wave)
    largest = max(wave.shape[-1] for wave in waves)
    for n, wave in enumerate(waves):
        edge = (largest - wave.shape[-1]) // 2
        waves[n] = np.pad(wave, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    wave = np.concatenate(waves, 1)
    if block.skip:
        around = times[None] <= np.arange(num_steps)[:, None, None, None]
        for f in range(wave.shape[1]):
            wave[:, f] |= around[:, f % len(times)]
    return num_steps - wave.sum(0)


def test_branches_with_a_way_around_equal_the_dense_rule():
    rng = np.random.default_rng(0)
    block = WIDE.blocks[1]
    plain = dataclasses.replace(block, skip=False)
    times = rng.choice(7, size=(6, 5, 5), p=[0.06] * 6 + [0.64]).astype(np.uint8)
    weights = tuple(
        jnp.asarray(rng.uniform(0.2, 1, (4, 6, k, k)), jnp.float32) for k in (3, 5)
    )
    for one in (block, plain):
        found = np.asarray(stdp_network.fire(one, weights, jnp.asarray(times), 6))
        expected = dense_block(one, weights, times, 6)
        np.testing.assert_array_equal(found, expected)
        assert 0.05 < (expected == 6).mean() < 0.95
        last = stdp_network.fire_at_last(one, weights, jnp.asarray(times) < 6)
        np.testing.assert_array_equal(last, expected < 6)


def test_votes():
    cases = {
        (3, 3, 5): 3,
        (5, 3, 3): 3,
        (4, 2, 4): 4,
        (1, 2, 3): 2,  # no majority: the middle one
        (-1, 2, -1): 2,  # silence is no vote
        (-1, -1, 7): -1,
        (7, -1, 7): 7,
        (-1, -1, -1): -1,
    }
    votes = jnp.array(list(cases)).T
    assert stdp_network.majority(votes).tolist() == list(cases.values())
    single = jnp.array([[4, -1]])
    assert stdp_network.majority(single).tolist() == [4, -1]


def test_decisions_are_the_layers_and_scores_agree_with_them():
    rng = np.random.default_rng(1)
    spec = layer.Decision(20, 3, pad=1)
    w = jnp.asarray(rng.uniform(0.2, 0.8, (20, 4, 3, 3)), jnp.float32)
    active = rng.uniform(size=(7, 4, 5, 5)) < 0.3
    active[2] = False
    found = stdp_network.decide((spec,), (w,), active)
    expected = layer.decide_all(spec, w, jnp.asarray(active)).decision
    np.testing.assert_array_equal(found.prediction, expected)
    assert found.prediction[2] == -1  # a blank image leaves no spikes
    loud = np.arange(7) != 2
    np.testing.assert_array_equal(found.scores.argmax(1)[loud], expected[loud])
    assert len(set(found.prediction.tolist())) > 2


def test_scores_and_votes_of_several_blocks_equal_the_float64_rule():
    """37 images are two full blocks of 16 and a part of one; potentials are computed once, for decision and scores alike."""
    rng = np.random.default_rng(2)
    specs = tuple(layer.Decision(20, k, classes=10, pad=1) for k in (1, 3, 5))
    weights = tuple(
        jnp.asarray(rng.uniform(0.2, 0.8, (20, 4, s.kernel, s.kernel)), jnp.float32)
        for s in specs
    )
    active = rng.uniform(size=(37, 4, 5, 5)) < 0.3
    active[20] = False
    found = stdp_network.decide(specs, weights, active)
    wave = np.pad(active, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
    rated = [
        loops.potentials(np.asarray(w, np.float64), wave).reshape(37, 10, -1).max(-1)
        for w in weights
    ]
    share = [r / np.maximum(r.max(1, keepdims=True), 1e-9) for r in rated]
    # Sums of at most a hundred numbers in single precision.
    np.testing.assert_allclose(found.scores, np.mean(share, 0), atol=1e-6)
    votes = np.stack([np.where(r.max(1) > 0, r.argmax(1), -1) for r in rated])
    for n, three in enumerate(votes.T):
        same = [v for v in three if v >= 0 and (three == v).sum() > 1]
        assert found.prediction[n] == (same[0] if same else three[1])
    assert found.prediction[20] == -1
    program = str(
        jax.make_jaxpr(lambda *a: stdp_network.decisions(specs, *a))(weights, active)
    )
    assert program.count("dot_general") == 1 + 9 + 25  # a product a tap, and no more


def test_networks_that_begin_alike_have_the_same_layers_to_take_over():
    schedule = Schedule((2, 4, 4, 9))
    marks = {
        name: stdp_steps.fingerprints(stdp.NETWORKS[name], schedule, {"seed": 0})
        for name in ("deep2024", "deepr2024", "inception2024")
    }
    assert marks["deep2024"][:2] == marks["deepr2024"][:2]
    assert marks["deep2024"][2] != marks["deepr2024"][2]
    assert marks["inception2024"][0] == marks["deep2024"][0]
    assert marks["inception2024"][1] != marks["deep2024"][1]
    longer = dataclasses.replace(schedule, epochs=(3, 4, 4, 9))
    for other in (
        stdp_steps.fingerprints(stdp.deep2024, schedule, {"seed": 1}),
        stdp_steps.fingerprints(stdp.deep2024, longer, {"seed": 0}),
    ):
        assert not set(other) & set(marks["deep2024"])


def test_alternating_windows_train_one_layer_each():
    greedy = dataclasses.replace(
        JOINT, modulated=dataclasses.replace(JOINT.modulated, how="alternate")
    )
    assert greedy.modulated is not None
    schedule = Schedule((1, 4), window=10)
    state = stdp_steps.start(jax.random.key(0), greedy)
    turns = []
    for epoch in range(3):
        for window in range(3):
            at = state._replace(epoch=jnp.int32(epoch), done=jnp.int32(10 * window))
            turns.append(stdp_steps.learns(greedy.modulated, at, schedule).tolist())
    hidden = [(e + i) % 2 == 0 for e in range(3) for i in range(3)]
    assert turns == [[h, not h] for h in hidden]

    rng = np.random.default_rng(0)
    times = jnp.asarray(rng.integers(0, 7, (12, 2, 14, 14)), jnp.uint8)
    labels, order = jnp.arange(12) % 10, jnp.arange(10)
    states = stdp_steps.reward_states(greedy, state.weights, state.rewards)
    for first in (True, False):
        learns = jnp.array([first, not first])
        after, decisions, _ = stdp_steps.rewarded(
            states, times, labels, order, learns, network=greedy
        )
        changed = [
            bool((a.weights != b.weights).any())
            for a, b in zip(after, states, strict=True)
        ]
        assert changed == [first, not first]
        assert (np.asarray(decisions) >= 0).any()
        hits = float(np.mean(np.asarray(decisions) == np.asarray(labels[:10])))
        # Both adapt to the window just seen: punishment by the fraction of hits.
        expected = reward.RewardParams().punish.ltp * hits
        assert float(after[1].punish.ltp) == pytest.approx(expected, rel=1e-6)


def test_features_reach_image_space():
    weights = stdp_network.init(jax.random.key(0), WIDE)
    found = stdp_network.fields(WIDE, weights)
    assert [[f.shape[0] for f in of] for of in found] == [[6], [4, 4], [10, 20, 10]]
    # 3 pixels of the filter, pooled by 2, five of those: 4 + 4 * 2; pooled again, windows of 3 and 5.
    assert [f.shape[1] for f in found[0] + found[1]] == [12, 14 + 8, 14 + 16]
    assert all(bool(jnp.isfinite(f).all()) for of in found for f in of)


def test_only_the_first_spike_of_a_position_is_left_where_the_block_says_so():
    times = np.full((2, 3, 4, 4), 6, np.uint8)
    times[0, :, 1, 2] = (4, 2, 2)
    found = stdp_network.inhibited(READ.blocks[0], times, 6)
    assert found[0, :, 1, 2].tolist() == [6, 2, 6]
    assert (found == 6).sum() == found.size - 1


def test_wrong_declarations_are_refused():
    with pytest.raises(ValueError, match="`epochs` must be 3 numbers"):
        dataclasses.replace(stdp.mozafari2018, epochs=(2, 4))
    first, second = WIDE.blocks[1].branches
    with pytest.raises(ValueError, match="`branches` must have one `pool`"):
        stdp.Block((first, dataclasses.replace(second, pad=2)))
    with pytest.raises(
        ValueError, match=r"`skip` needs a smallest `kernel`.* 3, .*got 5"
    ):
        stdp.Block((second,), skip=True)
    with pytest.raises(ValueError, match="too few"):
        stdp.shapes(stdp.mozafari2018, (4, 4))
    with pytest.raises(ValueError, match="`epochs` must be at least 1, got 0"):
        Schedule((1, 0))
    with pytest.raises(ValueError, match="`window` must be at least 1, got 0"):
        Schedule((1, 1), window=0)
    with pytest.raises(ValueError, match="`patience`"):
        Schedule((1, 1), patience=-1)
