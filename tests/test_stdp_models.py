"""The STDP networks as declared: shapes and sizes of the originals, blocks against dense loops, votes, and what trains when."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stdp_loops as loops
from stdp_tiny import JOINT, READ, WIDE

import jsnn
from jsnn import stdp
from jsnn.stdp import finished, forward, layer, networks, reward
from jsnn.stdp.training import Data, Encoded
from jsnn.train import trainer as trainers

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
    encoded, found = networks.shapes(network, (28, 28))
    assert encoded[1:] == (28, 28)
    assert [[s[1] for s in outputs] for outputs in found] == sides
    assert all(s[1] == s[2] for outputs in found for s in outputs)
    assert networks.num_weights(network) == count
    weights = jax.eval_shape(lambda k: forward.init(k, network), jax.random.key(0))
    assert sum(w.size for w in jax.tree.leaves(weights)) == count
    for spec in network.decision:
        assert spec.features == (100 if name == "deeper2024" else 200)


@pytest.mark.parametrize("name", stdp.NETWORKS)
def test_every_stage_of_every_network_fits_the_next(name):
    """Traced, not run: every phase from its beginning to its end, and the decision on a held-out set."""
    network = stdp.NETWORKS[name]
    encoded, _ = networks.shapes(network, (28, 28))
    times = jax.ShapeDtypeStruct((5, *encoded), jnp.uint8)
    samples = Encoded(times, jax.ShapeDtypeStruct((5,), jnp.int32))
    made = stdp.trainer(network, window=2)
    found = jax.eval_shape(
        jsnn.train_fn(made), jax.random.key(0), Data(samples, samples)
    )
    start = jax.eval_shape(lambda k: trainers.start(made, k), jax.random.key(0))
    assert jax.tree.map(jnp.shape, found.state) == jax.tree.map(jnp.shape, start)
    assert [p.epochs for p in made.phases][-1] == network.epochs[-1]
    if network.decision:
        assert found.found.scores.shape == (5, 10)
        return
    seen = jax.eval_shape(
        lambda w, x: forward.through(network, w, x), start.own.weights, times
    )
    assert seen.shape == (5, 150, 9, 9)  # 12,150 inputs of the machine


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
        found = np.asarray(forward.fire(one, weights, jnp.asarray(times), 6))
        expected = dense_block(one, weights, times, 6)
        np.testing.assert_array_equal(found, expected)
        assert 0.05 < (expected == 6).mean() < 0.95
        last = forward.fire_at_last(one, weights, jnp.asarray(times) < 6)
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
    assert forward.majority(votes).tolist() == list(cases.values())
    single = jnp.array([[4, -1]])
    assert forward.majority(single).tolist() == [4, -1]


def test_decisions_are_the_layers_and_scores_agree_with_them():
    rng = np.random.default_rng(1)
    spec = layer.Decision(20, 3, pad=1)
    w = jnp.asarray(rng.uniform(0.2, 0.8, (20, 4, 3, 3)), jnp.float32)
    active = rng.uniform(size=(7, 4, 5, 5)) < 0.3
    active[2] = False
    found = forward.decide((spec,), (w,), jnp.asarray(active))
    expected = layer.rate_all(spec, w, jnp.asarray(active))[0].decision
    np.testing.assert_array_equal(found.label, expected)
    assert found.label[2] == -1  # a blank image leaves no spikes
    loud = np.arange(7) != 2
    np.testing.assert_array_equal(found.scores.argmax(1)[loud], expected[loud])
    assert len(set(found.label.tolist())) > 2


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
    found = jax.jit(forward.decide, static_argnums=0)(specs, weights, active)
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
        assert found.label[n] == (same[0] if same else three[1])
    assert found.label[20] == -1
    program = str(jax.make_jaxpr(lambda *a: forward.decide(specs, *a))(weights, active))
    assert program.count("dot_general") == 1 + 9 + 25  # a product a tap, and no more


def test_networks_that_begin_alike_have_the_same_layers_to_take_over():
    marks = {
        name: finished.fingerprints(stdp.NETWORKS[name], 500, {"seed": 0})
        for name in ("deep2024", "deepr2024", "inception2024")
    }
    assert marks["deep2024"][:2] == marks["deepr2024"][:2]
    assert marks["deep2024"][2] != marks["deepr2024"][2]
    assert marks["inception2024"][0] == marks["deep2024"][0]
    assert marks["inception2024"][1] != marks["deep2024"][1]
    longer = dataclasses.replace(networks.deep2024, epochs=(3, 4, 4, 9))
    for network, doubling, seed in (
        (networks.deep2024, 500, 1),
        (networks.deep2024, 400, 0),
        (longer, 500, 0),
    ):
        other = finished.fingerprints(network, doubling, {"seed": seed})
        assert not set(other) & set(marks["deep2024"])
    rewarded = dataclasses.replace(networks.deep2024, epochs=(2, 4, 4, 9))
    assert finished.fingerprints(rewarded, 500, {"seed": 0}) == marks["deep2024"]


def test_alternating_windows_train_one_layer_each():
    greedy = dataclasses.replace(
        JOINT, modulated=dataclasses.replace(JOINT.modulated, how="alternate")
    )
    rng = np.random.default_rng(0)
    times = jnp.asarray(rng.integers(0, 7, (12, 2, 14, 14)), jnp.uint8)
    samples = Encoded(times, jnp.arange(12) % 10)
    made = stdp.trainer(greedy, window=4)
    run = jax.jit(made.run, static_argnums=3)
    state = trainers.start(made, jax.random.key(0))
    moved: set[bool] = set()
    for number in range(7):  # three windows an epoch
        after, found = run(state, samples, jnp.int32(1), 1)
        changed = [
            bool((a[0] != b[0]).any())
            for a, b in zip(after.own.weights, state.own.weights, strict=True)
        ]
        epoch, window = divmod(number, 3)
        hidden = (epoch + window) % 2 == 0
        assert not changed[hidden]  # the one whose turn it is not
        moved |= {hidden} if any(changed) else set()
        assert int(found["silent"][0]) < 4
        # Both adapt to the window just seen: punishment by the fraction of hits.
        hits = int(found["hits"][0]) / 4
        expected = reward.RewardParams().punish.ltp * hits
        punish = after.own.rewards[1][1]
        assert float(punish.ltp) == pytest.approx(expected, rel=1e-6)
        state = after
    assert moved == {True, False}  # both have learnt


def test_features_reach_image_space():
    weights = forward.init(jax.random.key(0), WIDE)
    found = forward.fields(WIDE, weights)
    assert [[f.shape[0] for f in of] for of in found] == [[6], [4, 4], [10, 20, 10]]
    # 3 pixels of the filter, pooled by 2, five of those: 4 + 4 * 2; pooled again, windows of 3 and 5.
    assert [f.shape[1] for f in found[0] + found[1]] == [12, 14 + 8, 14 + 16]
    assert all(bool(jnp.isfinite(f).all()) for of in found for f in of)


def test_only_the_first_spike_of_a_position_is_left_where_the_block_says_so():
    times = np.full((2, 3, 4, 4), 6, np.uint8)
    times[0, :, 1, 2] = (4, 2, 2)
    made = stdp.trainer(READ)
    state = trainers.start(made, jax.random.key(0))
    data = Data(*[Encoded(jnp.asarray(times), jnp.zeros(2, jnp.int32))] * 2)
    found = np.asarray(made.pool(state, data, 0).times)
    assert found[0, :, 1, 2].tolist() == [6, 2, 6]
    assert (found == 6).sum() == found.size - 1


def test_wrong_declarations_are_refused():
    with pytest.raises(ValueError, match="`epochs` must be 3 numbers"):
        dataclasses.replace(networks.mozafari2018, epochs=(2, 4))
    first, second = WIDE.blocks[1].branches
    with pytest.raises(ValueError, match="`branches` must have one `pool`"):
        stdp.Block((first, dataclasses.replace(second, pad=2)))
    with pytest.raises(
        ValueError, match=r"`skip` needs a smallest `kernel`.* 3, .*got 5"
    ):
        stdp.Block((second,), skip=True)
    with pytest.raises(ValueError, match="too few"):
        networks.shapes(networks.mozafari2018, (4, 4))
    wide = dataclasses.replace(networks.kheradpisheh2018, readout=(99, 0))
    with pytest.raises(ValueError, match="`pool` 99 of the read-out"):
        networks.shapes(wide, (28, 28))
    with pytest.raises(ValueError, match="`window` must be at least 1, got 0"):
        stdp.trainer(networks.deep2024, window=0)
    with pytest.raises(ValueError, match="`doubling` must be at least 1, got 0"):
        stdp.trainer(networks.deep2024, doubling=0)
    dataset = jsnn.data.arrays(
        np.zeros((24, 28, 28), np.uint8), np.arange(24) % 12, num_test=2
    )
    with pytest.raises(ValueError, match=r"`data` has 12 classes.*layer 10"):
        jsnn.fit(stdp.trainer(networks.mozafari2018), dataset, jax.random.key(0))
