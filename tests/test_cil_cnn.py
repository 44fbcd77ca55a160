"""The class-incremental reference network: sizes, golden values, and a loop written from its definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jsnn import augment, encoders, head, layers, neurons, surrogate
from jsnn.continual import spiking
from jsnn.models.cil_cnn import (
    cil_cnn,
    cil_mlp,
    cil_small_cnn,
    reference_neuron,
)

T, CLASSES = 3, 4


def count(module):
    return sum(p.size for p in jax.tree.leaves(layers.split(module)[1].params))


@pytest.mark.parametrize(("classes", "parameters"), [(2, 404_482), (10, 535_562)])
def test_reference_has_the_references_parameters(classes, parameters):
    assert (
        count(nnx.eval_shape(lambda: cil_cnn(capacity=classes, rngs=nnx.Rngs(0))))
        == parameters
    )


def test_golden_values_of_the_neuron():
    neuron = reference_neuron()
    x = jnp.array([0.4, 0.4, 0.4, 0.4, 1.5, 0.0, 0.0])

    def step(state, x_t):
        state, s = neuron.step(neuron.params, state, x_t)
        return state, (s, state.v)

    _, (spikes, v) = jax.lax.scan(step, neuron.init(()), x)
    np.testing.assert_array_equal(spikes, [0, 0, 1, 0, 1, 0, 0])
    # The golden values have five digits.
    golden = [0.4, 0.76, 0.084, 0.4756, 0.92804, 0.83524, 0.75171]
    np.testing.assert_allclose(v, golden, atol=5e-6)
    spike = surrogate.arctan_fixed_peak(2.0)
    slope = jax.vmap(jax.grad(lambda u: spike(u, at_threshold=True)))
    u = jnp.array([-1.0, -0.5, 0.0, 0.25, 1.0])
    golden = [0.007864, 0.029284, 0.318310, 0.091801, 0.007864]
    np.testing.assert_allclose(slope(u), golden, atol=5e-7)
    assert spike(jnp.zeros(()), at_threshold=True) == 1


@pytest.mark.parametrize(("classes", "floor"), [(2, 0.3133), (4, 0.7437), (10, 1.4612)])
def test_firing_rates_as_logits_bound_the_loss(classes, floor):
    best = jax.nn.one_hot(0, classes)
    assert -jax.nn.log_softmax(best)[0] == pytest.approx(floor, abs=5e-5)
    assert math.log(1 + (classes - 1) / math.e) == pytest.approx(floor, abs=5e-5)


class Setup:
    """A small network, its functions in a mode of batch norm, and images."""

    def __init__(self, **options):
        def build(key):
            return cil_cnn((4, 8, 3), CLASSES, width=2, rngs=nnx.Rngs(key), **options)

        key = jax.random.key(1)
        self.graphdef, _ = layers.split(nnx.eval_shape(lambda: build(key)))
        self.model = jax.jit(lambda key: layers.split(build(key))[1])(key)
        # Larger weights, so that every layer spikes.
        self.model = self.model._replace(
            params=jax.tree.map(lambda p: 2 * p, self.model.params)
        )
        self.is_column = head.column_tree(self.graphdef, self.model)
        rng = np.random.default_rng(2)
        self.images = jnp.asarray(rng.integers(0, 256, (5, 4, 8, 3)), jnp.uint8)

    def answer(self, mode="train", num_open=CLASSES, train=True):
        """The network's output, compiled: op by op it takes ten times as long."""
        network = self.network(mode)

        @jax.jit
        def run(model, images):
            return network.apply(model, jax.random.key(0), images, num_open, train)

        return run(self.model, self.images)

    def network(self, mode="train", read_out="rate", **options):
        return spiking.make_network(
            self.graphdef,
            self.is_column,
            encode=encoders.constant(T),
            read_out=read_out,
            batch_norm=mode,
            **options,
        )


@pytest.fixture(scope="module")
def setup():
    return Setup()


def loop(model, images, running=None):
    """The reference in NumPy float64, step by step; batch statistics of each step, or `running` ones. Spikes by layer, and statistics."""
    p = jax.tree.map(
        lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(model.params)
    )
    features, dense = p["layers"][0]["layers"], p["layers"][1]

    def conv(x, layer):
        w, padded = layer["weight"], np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h, b = x.shape[1:3]
        out = np.zeros((*x.shape[:3], w.shape[3]))
        for i in range(3):
            for j in range(3):
                out += padded[:, i : i + h, j : j + b] @ w[i, j]
        return out + layer["bias"]

    def pool(x):
        return (
            x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
        ) / 4

    stats = {k: [np.zeros(c), np.ones(c)] for k, c in ((1, 2), (4, 4), (8, 8))}

    def norm(x, k):
        layer, axes = features[k], (0, 1, 2)
        mean, var = (x.mean(axes), x.var(axes)) if running is None else running[k]
        n = x.size // x.shape[-1]
        stats[k][0] = 0.9 * stats[k][0] + 0.1 * x.mean(axes)
        stats[k][1] = 0.9 * stats[k][1] + 0.1 * x.var(axes) * n / (n - 1)
        return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["offset"]

    v, count = [0.0] * 4, [0.0] * 4

    def lif(k, x):
        v[k] = 0.9 * v[k] + x
        s = (v[k] >= 1).astype(float)
        v[k] = v[k] - s
        count[k] = count[k] + s
        return s

    x = np.asarray(images) / 255
    for _ in range(T):
        s = lif(0, norm(conv(x, features[0]), 1))
        s = lif(1, pool(norm(conv(s, features[3]), 4)))
        s = pool(lif(2, norm(conv(s, features[7]), 8)))
        lif(3, s.reshape(len(s), -1) @ dense["weight"] + dense["bias"])
    return [c / T for c in count], stats


def test_equals_the_definition_step_by_step(setup):
    output = setup.answer()
    rates, stats = loop(setup.model, setup.images)
    assert all(0.02 < r.mean() < 0.98 for r in rates), "a layer is silent or saturated"
    # Spikes are whole: equal, or a membrane lay within rounding of its threshold, which it does not here.
    np.testing.assert_allclose(output.logits, rates[3], atol=1e-6)
    kept = nnx.to_pure_dict(output.rest)["layers"][0]["layers"]
    for k, (mean, var) in stats.items():
        np.testing.assert_allclose(kept[k]["mean"], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(kept[k]["var"], var, rtol=1e-4)


def test_evaluation_mode_uses_and_keeps_running_statistics(setup):
    still = setup.answer(train=False)
    for mode in ("eval", "frozen"):
        train = setup.answer(mode)
        np.testing.assert_array_equal(train.logits, still.logits)
        jax.tree.map(np.testing.assert_array_equal, train.rest, setup.model.rest)
    running = {k: (np.zeros(c), np.ones(c)) for k, c in ((1, 2), (4, 4), (8, 8))}
    rates, _ = loop(setup.model, setup.images, running)
    np.testing.assert_allclose(still.logits, rates[3], atol=1e-6)


@pytest.mark.parametrize(("mode", "learns"), [("eval", True), ("frozen", False)])
def test_scale_and_offset_learn_unless_frozen(setup, mode, learns):
    network = setup.network(mode)

    def loss(params):
        output = network.apply(
            layers.Model(params, setup.model.rest),
            jax.random.key(0),
            setup.images,
            CLASSES,
            True,
        )
        return jnp.square(output.features).sum()

    gradient = nnx.to_pure_dict(jax.jit(jax.grad(loss))(setup.model.params))
    features = gradient["layers"][0]["layers"]
    assert (features[0]["weight"] != 0).any()
    for k in (1, 4, 8):
        for name in ("scale", "offset"):
            assert (features[k][name] != 0).any() == learns


def test_block_statistics_are_those_of_all_steps():
    block = Setup(statistics="block", block_size=None)
    output = block.answer()
    rates, _ = loop(block.model, block.images)
    assert np.abs(output.logits - rates[3]).max() > 0.1


def test_the_two_halves_make_the_whole(setup):
    key = jax.random.key(0)
    for latent_layer in (3, 7):
        network = setup.network(latent_layer=latent_layer)
        assert network.lower is not None
        assert network.upper is not None
        lower, upper = network.lower, network.upper

        @jax.jit
        def in_parts(model, images, lower=lower, upper=upper):
            spikes, _ = lower(model, key, images, False)
            return spikes, upper(model, key, spikes, 2, False)

        spikes, found = in_parts(setup.model, setup.images)
        assert set(np.unique(spikes)) == {0, 1}
        whole = setup.answer(num_open=2, train=False)
        np.testing.assert_array_equal(found.logits, whole.logits)
        np.testing.assert_array_equal(found.features, whole.features)


def test_head_is_found_and_put_back(setup):
    network = setup.network()
    assert network.head is not None
    assert network.with_head is not None
    found = network.head(setup.model.params)
    assert found.weight.shape == (2 * 8, CLASSES)
    doubled = network.with_head(
        setup.model.params, jax.tree.map(lambda x: 2 * x, found)
    )
    changed = jax.tree.map(
        lambda a, b: bool((a != b).any()), setup.model.params, doubled
    )
    assert jax.tree.leaves(changed) == jax.tree.leaves(setup.is_column)


@pytest.mark.parametrize("read_out", ["rate", "membrane", "integrator", "current"])
def test_mlp_has_every_read_out(read_out):
    module = cil_mlp(
        (8, 8, 1), 10, hidden=(16, 12), read_out=read_out, rngs=nnx.Rngs(0)
    )
    assert count(module) == 64 * 16 + 16 + 16 * 12 + 12 + 12 * 10 + 10
    graphdef, model = layers.split(module)
    network = spiking.make_network(
        graphdef,
        head.column_tree(graphdef, model),
        encode=encoders.constant(T),
        read_out=read_out,
    )
    images = jnp.asarray(
        np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)), jnp.uint8
    )
    output = jax.jit(
        lambda model, images: network.apply(model, jax.random.key(0), images, 4, True)
    )(model, images)
    assert output.features.shape == (3, 12)
    assert np.isfinite(output.logits[:, :4]).all()
    assert np.isneginf(output.logits[:, 4:]).all()
    if read_out == "current":  # linear in the rates of the features
        assert network.head is not None
        weight, bias = network.head(model.params)
        features = np.asarray(output.features, np.float64)
        wanted = features @ np.asarray(weight) + np.asarray(bias)
        np.testing.assert_allclose(
            output.logits[:, :4], wanted[:, :4], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(("side", "pixels"), [(28, 7), (8, 4), (9, 5), (21, 6)])
def test_small_cnn_fits_its_images(side, pixels):
    graphdef, model = layers.split(
        cil_small_cnn((side, side, 1), 4, width=2, rngs=nnx.Rngs(0))
    )
    is_column = head.column_tree(graphdef, model)
    network = spiking.make_network(
        graphdef, is_column, encode=encoders.constant(T), read_out="current"
    )
    output = jax.eval_shape(
        lambda model, x: network.apply(model, jax.random.key(0), x, 4, False),
        model,
        jnp.zeros((2, side, side, 1), jnp.uint8),
    )
    assert output.features.shape == (2, pixels**2 * 4)


def test_augmentation_keeps_type_and_content():
    images = jnp.asarray(
        np.random.default_rng(0).integers(1, 256, (64, 6, 6, 3)), jnp.uint8
    )
    moved = augment.crop_and_flip(jax.random.key(0), images, pad=1)
    assert moved.shape == images.shape
    assert moved.dtype == jnp.uint8
    unmoved = np.array([(a == b).all() for a, b in zip(moved, images, strict=True)])
    mirrored = np.array(
        [(a == b[:, ::-1]).all() for a, b in zip(moved, images, strict=True)]
    )
    # One in eighteen stays as it was, one in eighteen is mirrored in place; the others have an edge of zeros or are cut.
    assert 0 < unmoved.sum() < 16
    assert 0 < mirrored.sum() < 16
    assert (moved == 0).any(axis=(1, 2, 3)).sum() > 32


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda r: cil_cnn((3, 8, 1), rngs=r), "image_shape"),
        (lambda r: cil_cnn(width=0, rngs=r), "width"),
        (lambda r: cil_mlp(hidden=(), rngs=r), "hidden"),
        (lambda r: cil_small_cnn((3, 8, 1), rngs=r), "image_shape"),
    ],
)
def test_impossible_networks(build, words):
    with pytest.raises(ValueError, match=words):
        build(nnx.Rngs(0))


def test_the_neuron_is_the_references():
    assert reference_neuron().params == neurons.LIFParams(0.9, 1.0)
