"""Types of numbers: networks fed with bytes, bfloat16, float32 or float64, and states of any precision."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jsnn import augment, encode, layers, losses, neurons
from jsnn.eventprop import latency
from jsnn.kernels import fused, norm, pool
from jsnn.models.csnn import csnn, fast_csnn
from jsnn.stdp import encode as ranks
from jsnn.stdp import inhibition, layer, reward, traces, unsupervised
from jsnn.unroll import Constant, neuron_block, unroll

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("make", [csnn, fast_csnn])
def test_precision_follows_the_input(make):
    net = make((12, 12, 1), 4, neuron=neurons.lif(), rngs=nnx.Rngs(0))
    graphdef, model = layers.split(net)
    images = np.random.default_rng(0).random((6, 12, 12, 1)).astype(np.float32)

    def loss(params, dtype):
        x = Constant(jnp.asarray(images, dtype), 5)
        y, rest = layers.apply(graphdef, model._replace(params=params), x, train=True)
        assert y.dtype == dtype
        return losses.ce_rate(y, jnp.arange(6) % 4).mean(), rest

    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        grad = jax.grad(loss, has_aux=True)
        found[dtype] = jax.jit(grad, static_argnums=1)(model.params, dtype)
        assert {a.dtype for a in jax.tree.leaves(found[dtype])} == {
            jnp.dtype("float32")
        }
    whole = [
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(f[0])])
        for f in found.values()
    ]
    cosine = whole[0] @ whole[1] / jnp.linalg.norm(whole[0]) / jnp.linalg.norm(whole[1])
    assert cosine > 0.9  # some spikes fall on the other side of the threshold
    assert jnp.linalg.norm(whole[0]) > 0


def test_membranes_keep_what_bfloat16_would_lose():
    """0.001 a step on a membrane near 1: bfloat16 has steps of 0.004 there and would stand still."""
    neuron = neurons.integrate_and_fire(threshold=10.0)
    x = Constant(jnp.full((1, 1), 1e-3, jnp.bfloat16), 1000)
    state = neurons.LIFState(jnp.ones((1, 1)))
    layer = layers.Neurons(neuron)
    state, y = layer(state, x)
    assert (state.v.dtype, y.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(state.v, 2.0, atol=2e-3)


def test_batch_statistics_are_those_of_float32():
    """40,000 entries: a sum in bfloat16 stops growing at 256."""
    x = jnp.asarray(np.random.default_rng(0).normal(3, 1, (40_000, 2)), jnp.bfloat16)
    one, zero = jnp.ones(2), jnp.zeros(2)
    y, mean, var = norm.batch_norm(x, one, zero)
    wide = np.asarray(x, np.float64)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(mean, wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, wide.var(0), rtol=1e-4)
    gradient = jax.grad(lambda x: (norm.batch_norm(x, one, zero)[0] ** 2).sum())(x)
    assert gradient.dtype == jnp.bfloat16


LAYERS = {
    "conv": lambda rngs: layers.Conv(2, 4, 5, rngs=rngs),
    "conv winograd": lambda rngs: layers.Conv(2, 4, 3, rngs=rngs),
    "dense": lambda rngs: layers.Dense(96, 4, rngs=rngs),
    "max_pool": lambda rngs: layers.MaxPool(2),
    "avg_pool": lambda rngs: layers.AvgPool(2),
    "batch_norm": lambda rngs: layers.BatchNorm(2),
    "batch_norm by step": lambda rngs: layers.BatchNorm(2, statistics="step"),
    "dropout": lambda rngs: layers.Dropout(0.5),
    "neurons": lambda rngs: layers.Neurons(neurons.lif()),
    "recurrent": lambda rngs: layers.Neurons(
        neurons.current_lif(), recurrent=2, rngs=rngs
    ),
}


@pytest.mark.parametrize(
    ("name", "constant"),
    [*((name, False) for name in LAYERS), ("dense", True), ("batch_norm", True)],
)
def test_layers_take_whole_numbers_as_float32(name, constant):
    """Frames of counts or spikes, of any type: outputs, running statistics and gradients of the same numbers in float32."""
    graphdef, model = layers.split(LAYERS[name](nnx.Rngs(0)))
    counts = np.random.default_rng(0).poisson(0.7, (5, 3, 8, 6, 2))

    @jax.jit
    def run(x):
        shape, key = x.shape[1:], jax.random.key(0)
        x = Constant(x[0], 5) if constant else x

        def total(params, train):
            layer = layers.merge(graphdef, model._replace(params=params))
            state = layer.init_state(shape, key=key, train=train)
            state, y = layer(state, x, train=train)
            y = y.value if isinstance(y, Constant) else y
            return (y * y).sum(), (y, state)

        return total(model.params, False), jax.grad(total, has_aux=True)(
            model.params, True
        )

    for kind in (np.uint8, np.int32, np.bool_):
        x = jnp.asarray(counts.astype(kind))
        got, want = run(x), run(x.astype(jnp.float32))
        # The conversion is compiled with the sums, which may then come in another order.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), got, want)
        types = [jax.tree.map(lambda a: a.dtype, found) for found in (got, want)]
        assert types[0] == types[1]


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.bool_])
def test_pools_and_batch_norm_of_whole_numbers(kind):
    """NumPy's means: 256 spikes kept as bytes have a mean of 1, not of 256 mod 256."""
    x = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3)).astype(kind)
    wide, x = x.astype(np.float64), jnp.asarray(x)
    for size in (2, 16):
        mean = wide.reshape(4, 16 // size, size, 16 // size, size, 3).mean((2, 4))
        np.testing.assert_allclose(pool.avg_pool(x, size), mean, rtol=1e-6)
    y, mean, var = norm.batch_norm(x, jnp.ones(3), jnp.zeros(3), 0.0)
    axes = (0, 1, 2)
    np.testing.assert_allclose(mean, wide.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var(axes), rtol=1e-5)
    want = (wide - wide.mean(axes)) / wide.std(axes)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


NEURONS = {
    name: getattr(neurons, name)
    for name in ("lif", "current_lif", "adaptive_lif", "leaky_integrator")
}
NEURONS["integrate_and_fire"] = neurons.integrate_and_fire
NEURONS["recurrent"] = lambda: neurons.recurrent(neurons.lif(), jnp.eye(4))
PAIRS = [  # state, input
    (jnp.float32, jnp.float64),
    (jnp.float64, jnp.float32),
    (jnp.bfloat16, jnp.float32),
    (jnp.float16, jnp.float32),
    (jnp.bfloat16, jnp.float16),
    (jnp.float32, jnp.bfloat16),
    (jnp.float32, jnp.uint8),
]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", NEURONS)
def test_outputs_have_the_type_of_the_input_and_states_their_own(name, steps):
    with jax.enable_x64(True):
        neuron = NEURONS[name]()
        for state_type, input_type in PAIRS:
            x = jnp.ones((steps, 2, 4), input_type)
            state = neuron.init((2, 4), state_type)
            wanted = jnp.float32 if input_type == jnp.uint8 else input_type
            block = neuron_block(neuron, neuron.params)
            one: Any = neuron.step(neuron.params, state, x[0])
            many: Any = unroll(block, state, x)
            for new, y in (one, many):
                assert y.dtype == wanted
                assert {a.dtype for a in jax.tree.leaves(new)} == {
                    jnp.dtype(state_type)
                }


def lif_loop(x, state_type):
    """`lif` with beta 0.75, computed in the wider of the types of state and input, the membrane kept in its own."""
    kind = jnp.promote_types(x.dtype, state_type)
    v, spikes = np.zeros(x.shape[1:], state_type), []
    for x_t in x:
        v = kind.type(0.75) * v.astype(kind) + x_t.astype(kind)
        spikes.append(v > 1)
        v = (v - spikes[-1].astype(kind)).astype(state_type)
    return np.stack(spikes), v


@pytest.mark.parametrize(("state_type", "input_type"), PAIRS[:4])
def test_a_step_is_computed_in_the_wider_type(state_type, input_type):
    """Against a NumPy loop with the same rounding; and by the kernel as by the scan."""
    with jax.enable_x64(True):
        neuron = neurons.lif(beta=0.75)
        x = jnp.asarray(
            np.random.default_rng(0).uniform(0.1, 0.9, (9, 3, 4)), input_type
        )
        state = neuron.init((3, 4), state_type)
        new, y = neuron_block(neuron, neuron.params)(state, x)
        spikes, v = lif_loop(np.asarray(x), jnp.dtype(state_type))
        np.testing.assert_array_equal(y, spikes)
        # A fused multiply-add rounds once, NumPy twice: half a unit of the wider type, seen in the narrower as at most one.
        tolerance = 2 * float(jnp.finfo(state_type).eps)
        np.testing.assert_allclose(
            np.asarray(new.v, np.float64), v.astype(np.float64), atol=tolerance, rtol=0
        )

        def kernel(state, x):
            return fused.run(neuron.step, neuron.params, state, x, interpret=True)

        def scan(state, x):
            return neuron_block(neuron, neuron.params)(state, x)

        found = [jax.vjp(run, state, x) for run in (kernel, scan)]
        jax.tree.map(np.testing.assert_array_equal, found[0][0], found[1][0])
        ones = jax.tree.map(jnp.ones_like, found[0][0])
        gradients = [pull(ones) for _, pull in found]
        for got, want in zip(*map(jax.tree.leaves, gradients), strict=True):
            assert got.dtype == want.dtype
            wide = np.asarray(want, np.float64)
            # Sums of nine steps, each rounded to 8 bits at worst.
            np.testing.assert_allclose(np.asarray(got, np.float64), wide, rtol=0.05)


def test_layers_in_float64():
    """Types: outputs float64, what is trained or carried on float32. Values: membranes of float64 see what float32 would lose."""
    with jax.enable_x64(True):
        rngs = nnx.Rngs(0)
        net = layers.Sequence(
            layers.Conv(1, 2, 3, rngs=rngs),
            layers.BatchNorm(2, statistics="step"),
            layers.Neurons(neurons.lif(), learn=("beta",)),
            layers.AvgPool(2),
            layers.Dense(18, 4, rngs=rngs),
            layers.BatchNorm(4),
            layers.Dropout(0.25),
            layers.Neurons(neurons.adaptive_lif(), recurrent=4, rngs=rngs),
            layers.Neurons(neurons.leaky_integrator()),
        )
        graphdef, model = layers.split(net)
        x = np.random.default_rng(0).normal(size=(4, 2, 6, 6, 1))

        def loss(params):
            y, rest = layers.apply(
                graphdef,
                model._replace(params=params),
                jnp.asarray(x),
                key=jax.random.key(0),
                train=True,
            )
            assert y.dtype == jnp.float64
            return y.sum(), rest

        grad, rest = jax.jit(jax.grad(loss, has_aux=True))(model.params)
        for a in jax.tree.leaves((model, grad, rest)):
            assert a.dtype == jnp.float32

        graphdef, model = layers.split(
            layers.Neurons(neurons.integrate_and_fire(threshold=9.0))
        )
        layer = layers.merge(graphdef, model)
        small = Constant(jnp.full((1, 1), 1e-9), 1000)
        state = layer.init_state((1, 1), dtype=jnp.float64)
        state, _ = layer(state._replace(v=state.v + 1), small)
        np.testing.assert_allclose(state.v, 1 + 1e-6, rtol=1e-13)
        state = layers.Sequence(layer).init_state((1, 1), dtype=jnp.bfloat16)
        assert state[0].v.dtype == jnp.bfloat16
        leaky = layers.split(layers.Neurons(neurons.leaky_integrator(beta=1.0)))
        y, _ = layers.apply(*leaky, 1e-9 + jnp.ones((1000, 1, 1)))
        np.testing.assert_allclose(y[-1], 1000 + 1e-6, rtol=1e-13)


def test_readme_lines_in_float64():
    """The program of "In ten lines" with `jax_enable_x64`: rates of a NumPy loop, and finite gradients."""
    code = re.search(
        r"## Neurons as functions\s.*?```python\n(.*?)```", README.read_text(), re.S
    )
    assert code
    names = {}
    with jax.enable_x64(True):
        exec(code[1], names)
        betas = jnp.linspace(0.5, 0.95, 4)
        rates, slopes = jax.vmap(jax.value_and_grad(names["loss"]))(betas)
        x = np.asarray(names["current"], np.float64)
        for beta, rate in zip(np.asarray(betas), rates, strict=True):
            v, count = np.zeros(x.shape[1:]), 0
            for x_t in x:
                v = beta * v + x_t
                count += (v > 1).sum()
                v = v - (v > 1)
            # The membrane is float32: a few of 51,200 spikes may fall on the other side of the threshold.
            assert abs(float(rate) - count / x.size) < 1e-4
        assert np.isfinite(slopes).all()
        assert (slopes > 0).all()


WHOLE = {
    "affine": lambda x: augment.random_affine(jax.random.key(0), x, degrees=20.0),
    "direct": lambda x: encode.direct(x, 3),
    "delta": lambda x: encode.delta(x, threshold=0.5),
    "latency on a grid": lambda x: (
        latency.latency_spikes(x, t_max=4.0, num_steps=5, dt=1.0).values
    ),
    "two times": lambda x: (
        latency.binary_spikes(x, t_min=0.0, t_max=3.0, num_steps=5, dt=1.0).values
    ),
    "coordinates": lambda x: latency.coordinate_times(
        x.reshape(6, -1), t_max=3.0, bias_time=0.5
    ),
    "local mean": lambda x: ranks.normalise_locally(x, 2),
    "rank": lambda x: ranks.rank_order(x[0], 4),
    "lateral": lambda x: inhibition.lateral(x, (0.15, 0.1)),
    "pair window": lambda x: traces.pair_window(x),
    "ce_count": lambda x: losses.ce_count(x[..., 0], jnp.arange(5)),
    "rate_regulariser": lambda x: losses.rate_regulariser(x, lower=0.1, upper=0.3),
}


@pytest.mark.parametrize("name", WHOLE)
def test_encoders_and_losses_take_whole_numbers_as_float32(name):
    counts = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3))
    counts[counts < 100] = 0
    for kind in (np.uint8, np.int32, np.bool_):
        x = jnp.asarray(counts.astype(kind))
        got, want = WHOLE[name](x), WHOLE[name](x.astype(jnp.float32))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), got, want)
        types = [jax.tree.map(lambda a: a.dtype, found) for found in (got, want)]
        assert types[0] == types[1]


def test_bytes_do_not_wrap():
    """Two encoders by hand: the strongest of 15 pixels come first; a pixel is raised by each weaker neighbour, zeros outside too."""
    x = np.arange(0, 240, 16).reshape(1, 3, 5).astype(np.uint8)
    times = ranks.rank_order(jnp.asarray(x), 7)  # 14 that are not 0: two a step
    np.testing.assert_array_equal(times.ravel(), [7, *np.repeat(range(7), 2)[::-1]])
    image = jnp.asarray([[[0, 200], [100, 0]]], jnp.uint8)
    raised = inhibition.lateral(image, (0.5,))
    np.testing.assert_allclose(raised, [[[0, 200 * 5.0], [100 * 4.5, 0]]])


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "bool"])
@pytest.mark.parametrize(
    ("weights", "error"), [("float32", 3e-7), ("float64", 1e-14), ("bfloat16", 4e-3)]
)
def test_traces_keep_the_type_of_the_weights(kind, weights, error):
    """One pair of spikes seven steps apart: the closed window."""
    with jax.enable_x64(True):
        pre, post = (jnp.asarray(np.eye(30)[:, [t]], kind) for t in (3, 10))
        start = jnp.full((1, 1), 0.5, weights)
        w = traces.run(start, pre, post)
        assert w.dtype == start.dtype
        want = 0.5 + 0.01 * np.exp(-7 / 20)
        np.testing.assert_allclose(float(w[0, 0]), want, rtol=error)
        state = traces.homeostatic_init(start)
        new, spikes = traces.homeostatic_run(state, pre)
        for a, b in zip(state, new, strict=True):
            assert a.dtype == b.dtype
        assert spikes.dtype == state.membrane.dtype


def test_stdp_is_the_same_with_64_bits():
    """Indices of 32 and 64 bits meet in slices and loops; weights and decisions are those of the program without them."""
    spec = layer.Conv(3, 3, threshold=2.0, num_winners=2, radius=1, pad=1)
    above = layer.Decision(4, 3, classes=2, pool=2, pad=1)
    rng = np.random.default_rng(0)
    times = rng.integers(0, 6, (5, 2, 6, 6)).astype(np.uint8)
    first = rng.uniform(0.2, 0.8, (3, 2, 3, 3)).astype(np.float32)
    second = rng.uniform(0.2, 0.8, (4, 3, 3, 3)).astype(np.float32)

    def run():
        state, params = unsupervised.init(jnp.asarray(first)), unsupervised.params(spec)
        order, images = jnp.arange(5), jnp.asarray(times)
        state = unsupervised.run(spec, state, images, order, params, 5)
        fired = jnp.stack([layer.fire(spec, state.weights, x, 5) for x in images])
        active = layer.pooled(above, fired, 5) < 5
        start, labels = reward.init(jnp.asarray(second)), jnp.arange(5) % 2
        params = reward.RewardParams()
        return state, reward.run_window(
            above, start, active, labels, order, params, block=2
        )

    want = run()
    with jax.enable_x64(True):
        got = run()
    assert (np.asarray(want[0].weights) != first).any()
    assert (np.asarray(want[1][1].decision) >= 0).any()
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert [a.dtype for a in jax.tree.leaves(got)] == [
        a.dtype for a in jax.tree.leaves(want)
    ]
