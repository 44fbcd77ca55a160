"""Flax layers: initialisation, batch norm, dropout, learnt and recurrent neurons, sequences under every schedule."""

import functools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from jsnn import layers, neurons, surrogate
from jsnn.unroll import Constant

# Float32 sums of some tens of terms of order one, in another order.
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lif(**kwargs):
    return neurons.lif(beta=0.6, spike_fn=surrogate.arctan(), **kwargs)


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda **k: layers.Dense(200, 3000, **k), 200),
        (lambda **k: layers.Conv(20, 3000, 3, **k), 180),
    ],
)
def test_initial_weights(make, fan_in):
    """Uniform in +-1/sqrt(fan-in) as in PyTorch, the bias too."""
    layer = make(rngs=nnx.Rngs(0))
    for values in (layer.weight[...], layer.bias[...]):
        v = np.asarray(values, np.float64) * math.sqrt(fan_in)
        assert 0.99 < v.max() <= 1.0
        assert -1.0 <= v.min() < -0.99
        # 3,000 values or more: the standard error of the mean is at most 0.011, of the variance 0.006.
        assert abs(v.mean()) < 0.045
        assert abs(v.var() - 1 / 3) < 0.025
    assert not np.array_equal(layer.weight[...].reshape(-1)[:3000], layer.bias[...])
    assert make(bias=False, rngs=nnx.Rngs(0)).bias is None


def test_kaiming_weights():
    """Normal with variance 2/fan-in, and no bias."""
    layer = layers.Conv(20, 3000, 3, init="kaiming", rngs=nnx.Rngs(0))
    v = np.asarray(layer.weight[...], np.float64) * math.sqrt(180 / 2)
    assert abs(v.var() - 1) < 0.01  # 540,000 values: a standard error of 0.002
    assert abs((v**4).mean() - 3) < 0.07  # a normal's kurtosis, standard error 0.013
    assert not layer.bias[...].any()


def torch_batch_norm(xs, gamma, beta, mean, var, momentum=0.1, epsilon=1e-5):
    """PyTorch's rule in float64 for each array of `xs` in turn; the running variance is unbiased, the normalising one is not."""
    out = []
    for x in np.asarray(xs, np.float64):
        axes = tuple(range(x.ndim - 1))
        m, count = x.mean(axes), x.size // x.shape[-1]
        v = ((x - m) ** 2).mean(axes)
        out.append((x - m) / np.sqrt(v + epsilon) * gamma + beta)
        mean = (1 - momentum) * mean + momentum * m
        var = (1 - momentum) * var + momentum * v * count / (count - 1)
    return np.stack(out), mean, var


def batch_norm(**kwargs):
    layer = layers.BatchNorm(3, **kwargs)
    layer.scale[...] = jnp.array([0.5, 1.0, 2.0])
    layer.offset[...] = jnp.array([-1.0, 0.0, 1.0])
    return layer, np.array([0.5, 1.0, 2.0]), np.array([-1.0, 0.0, 1.0])


@pytest.mark.parametrize("statistics", ["step", "block"])
def test_batch_norm_equals_pytorch_s_rule(statistics):
    """Training, the statistics it leaves, and evaluation with them."""
    x = 2 * normal(4, 5, 2, 3, 3) + np.arange(4.0, dtype=np.float32).reshape(
        4, 1, 1, 1, 1
    )
    layer, gamma, beta = batch_norm(statistics=statistics)
    train = jax.jit(functools.partial(layer, train=True))
    state, y = train(layer.init_state((5, 2, 3, 3)), x)
    xs = x if statistics == "step" else x[None]
    want, mean, var = torch_batch_norm(xs, gamma, beta, np.zeros(3), np.ones(3))
    close(y, want.reshape(x.shape))
    close(state.mean, mean)
    close(state.var, var)
    kept, y = jax.jit(layer)(state, x)
    close(y, (x - mean) / np.sqrt(var + 1e-5) * gamma + beta)
    jax.tree.map(np.testing.assert_array_equal, kept, state)


def test_batch_norm_gradient_goes_through_the_statistics():
    """Adding to a feature, or scaling it, changes nothing: the gradient along both is zero."""
    layer, _, _ = batch_norm(epsilon=1e-12)
    x, g = normal(2, 6, 3), normal(2, 6, 3, seed=1)

    @jax.jit
    @jax.grad
    def gradient(x):
        return (layer(layer.init_state((6, 3)), x, train=True)[1] * g).sum()

    dx = np.asarray(gradient(x))
    assert np.abs(dx).max() > 0.1
    close(dx.sum((0, 1)), 0.0)
    close((dx * (x - x.mean((0, 1)))).sum((0, 1)), 0.0)


@pytest.mark.parametrize("constant", [False, True])
def test_batch_norm_per_step_is_a_sequence_of_single_steps(constant):
    """The same output and running statistics, for a signal and for a constant one."""
    x = 2 * normal(4, 5, 3) + 1
    x = Constant(jnp.asarray(x[0]), 4) if constant else jnp.asarray(x)
    results = []
    for statistics, size in [("step", None), ("block", 1), ("step", 2)]:
        layer, _, _ = batch_norm(statistics=statistics)
        sequence = layers.Sequence(layer, layers.Neurons(lif()), block_size=size)
        run = jax.jit(functools.partial(sequence, train=True))
        (statistics, _), y = run(sequence.init_state((5, 3)), x)
        results.append((statistics, y))
    for other in results[1:]:
        jax.tree.map(close, results[0], other)
    assert 0 < results[0][1].mean() < 1


def test_batch_norm_alone_on_a_constant_keeps_time_and_batch_apart():
    layer, gamma, beta = batch_norm()
    x = normal(5, 3)
    sequence = layers.Sequence(layer, block_size=2)
    _, y = sequence(sequence.init_state((5, 3)), Constant(jnp.asarray(x), 3))
    close(y, np.broadcast_to(x / np.sqrt(1 + 1e-5) * gamma + beta, (3, 5, 3)))


def test_running_statistics_are_remembered_by_apply():
    x = 2 * normal(4, 5, 3) + 1
    model = layers.Sequence(
        layers.Sequence(batch_norm(statistics="step")[0]), layers.Neurons(lif())
    )
    graphdef, split = layers.split(model)
    train = jax.jit(functools.partial(layers.apply, graphdef, train=True))
    _, rest = train(split, x)
    _, mean, var = torch_batch_norm(x, 1, 0, np.zeros(3), np.ones(3))
    kept = rest["layers"][0]["layers"][0]
    close(kept["mean"], mean)
    close(kept["var"], var)
    evaluate = jax.jit(functools.partial(layers.apply, graphdef))
    before, unchanged = evaluate(split, x)
    after, _ = evaluate(split._replace(rest=rest), x)
    assert np.any(before != after)
    jax.tree.map(np.testing.assert_array_equal, unchanged, split.rest)
    assert jax.tree.structure(rest) == jax.tree.structure(split.rest)


def test_dropout(key):
    """One mask over time, of ones over 1 - rate; another key another mask; nothing in evaluation or at rate 0."""
    layer, shape = layers.Dropout(0.3), (40, 500)
    mask = layer.init_state(shape, key=key, train=True)
    x = jnp.asarray(normal(3, *shape))
    _, y = layer(mask, x, train=True)
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_array_equal(y, np.asarray(x) * np.asarray(mask))
    # Mean of 20,000 draws with standard deviation sqrt(0.3 / 0.7): four standard errors.
    assert abs(mask.mean() - 1) < 4 * math.sqrt(0.3 / 0.7 / mask.size)
    _, constant = layer(mask, Constant(x[0], 3), train=True)
    np.testing.assert_array_equal(constant.value, y[0])
    other = layer.init_state(shape, key=jax.random.split(key)[0], train=True)
    assert np.any(mask != other)
    one, two = layers.Sequence(layer, layer).init_state(shape, key=key, train=True)
    assert np.any(one != two)
    assert layer((), x) == ((), x)
    assert layers.Dropout(0.0)((), x, train=True) == ((), x)


def test_learnt_decay_has_a_gradient_and_stays_in_its_range():
    """Trained through a sigmoid; what is not learnt is no parameter."""
    model = layers.Neurons(lif(threshold=0.5), learn=("beta",))
    graphdef, split = layers.split(model)
    assert set(split.params["params"]) == {"beta"}
    assert set(split.rest["params"]) == {"threshold"}
    x = jnp.asarray(np.abs(normal(6, 2, 3)) / 2)

    def beta(params):
        return nnx.merge(graphdef, params, split.rest).model()[1].beta

    @jax.jit
    @jax.grad
    def gradient(params):
        return layers.apply(graphdef, split._replace(params=params), x)[0].sum()

    @jax.jit
    @jax.grad
    def by_beta(beta):
        params = neurons.LIFParams(beta, 0.5)
        state, y = jnp.zeros((2, 3)), 0.0
        for x_t in x:
            state, s = lif().step(params, neurons.LIFState(state), x_t)
            state, y = state.v, y + s.sum()
        return y

    np.testing.assert_allclose(beta(split.params), 0.6, rtol=1e-6)
    got = gradient(split.params)["params"]["beta"]
    assert got > 0
    # The sigmoid's slope at 0.6 is 0.24.
    np.testing.assert_allclose(got, 0.24 * by_beta(0.6), rtol=1e-5)
    for step in (-5.0, 5.0):
        moved = jax.tree.map(lambda p, step=step: p + step, split.params)
        assert 0 < beta(moved) < 1


def test_recurrent_layer_equals_a_loop():
    layer = layers.Neurons(lif(), recurrent=3, rngs=nnx.Rngs(1))
    layer.recurrent[...] = 2 * layer.recurrent[...]  # strong enough to matter
    weight = np.asarray(layer.recurrent[...], np.float64)
    assert 0.5 < np.abs(weight).max() <= 2 / math.sqrt(3)
    x = 1.5 * normal(8, 2, 3)
    v, s, want, alone = np.zeros((2, 3)), np.zeros((2, 3)), [], []
    for x_t in x:
        v = 0.6 * v + x_t + s @ weight
        s = (v > 1) * 1.0
        v = v - s
        want.append(s)
    _, y = jax.jit(layer)(layer.init_state((2, 3)), x)
    _, alone = jax.jit(layers.Neurons(lif()))(
        neurons.LIFState(np.zeros((2, 3), "f")), x
    )
    np.testing.assert_array_equal(y, want)
    assert np.any(y != alone)


def network(outer, inner, remat):
    """Three kinds of neurons, two of them in a sequence of its own. All weights have one shape: drawing each takes a compilation."""
    rngs = nnx.Rngs(5)
    return layers.Sequence(
        layers.Dense(4, 4, rngs=rngs),
        layers.Neurons(lif(threshold=0.5), learn=("beta",)),
        layers.Sequence(
            layers.Dense(4, 4, rngs=rngs),
            layers.Neurons(neurons.adaptive_lif(threshold=0.5), recurrent=4, rngs=rngs),
            layers.Neurons(neurons.leaky_integrator()),
            block_size=inner,
        ),
        block_size=outer,
        remat=remat,
    )


def output_and_gradients(model):
    graphdef, split = layers.split(model)

    @jax.jit
    def run(params, x):
        y, vjp = jax.vjp(
            lambda params: layers.apply(graphdef, split._replace(params=params), x)[0],
            params,
        )
        return y, vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return functools.partial(run, split.params)


def test_schedules_change_neither_output_nor_gradients():
    """Block sizes of both levels, one larger than what it is handed, rematerialisation, and a constant input."""
    plain = output_and_gradients(network(None, None, False))
    x = 3 * np.abs(normal(7, 3, 4))
    want = plain(x)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(want))
    jax.tree.map(close, output_and_gradients(network(3, 2, True))(x), want)
    want = plain(np.broadcast_to(x[0], x.shape))
    cut = output_and_gradients(network(2, 5, False))
    jax.tree.map(close, cut(Constant(jnp.asarray(x[0]), 7)), want)


calls = []


class Counting(layers.Layer):
    """Passes its input on and counts how often it runs, not how often it is traced."""

    def __init__(self, name):
        self.name = name

    def forward(self, x):
        jax.debug.callback(lambda name=self.name: calls.append(name))
        return x


def test_stateless_layers_before_the_first_neuron_see_a_constant_once():
    model = layers.Sequence(
        Counting("before"),
        layers.MaxPool(),
        Counting("before"),
        layers.Neurons(lif()),
        Counting("after"),
        block_size=2,
    )
    state = model.init_state((2, 4, 4, 1))
    image = jnp.ones((2, 4, 4, 1))
    for x, counts in [
        (Constant(image, 6), {"before": 2, "after": 3}),
        (jnp.stack([image] * 6), {"before": 6, "after": 3}),
    ]:
        calls.clear()
        jax.block_until_ready(model(state, x))
        jax.effects_barrier()
        assert {name: calls.count(name) for name in counts} == counts


def test_stateless_sequence_keeps_a_constant():
    model = layers.Sequence(layers.AvgPool(), layers.Dense(4, 2, rngs=nnx.Rngs(0)))
    x = jnp.asarray(normal(3, 4, 4, 1))
    _, y = model(model.init_state(x.shape), Constant(x, 5))
    assert isinstance(y, Constant)
    assert (y.num_steps, y.value.shape) == (5, (3, 2))


def test_split_and_merge_give_the_model_back():
    model = network(2, None, False)
    graphdef, split = layers.split(model)
    x = 3 * np.abs(normal(5, 3, 4))
    run = jax.jit(lambda split, x: layers.apply(graphdef, split, x)[0])
    want = jax.jit(lambda x: model(model.init_state((3, 4)), x)[1])(x)
    np.testing.assert_array_equal(run(split, x), want)
    doubled = split._replace(params=jax.tree.map(lambda p: 2 * p, split.params))
    assert not np.array_equal(run(doubled, x), want)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(split))
    names = [type(layer).__name__ for layer in model.flat()]
    assert names == ["Dense", "Neurons", "Dense", "Neurons", "Neurons"]


def test_vmap_over_seeds_equals_a_loop():
    """Initialisation, batch norm and neurons in training, with gradients."""
    x = Constant(jnp.asarray(3 * np.abs(normal(3, 4))), 3)

    def train(key):
        model = layers.Sequence(
            layers.Dense(4, 4, bias=False, rngs=nnx.Rngs(key)),
            layers.BatchNorm(4),
            layers.Neurons(lif(threshold=0.5)),
        )
        graphdef, split = layers.split(model)

        def count(params):
            model = split._replace(params=params)
            y, rest = layers.apply(graphdef, model, x, train=True)
            return y.sum(), rest

        return jax.value_and_grad(count, has_aux=True)(split.params)

    keys = jax.random.wrap_key_data(np.arange(4, dtype=np.uint32).reshape(2, 2))
    got = jax.jit(jax.vmap(train))(keys)
    one = jax.jit(train)
    for i in range(2):
        want = one(keys[i])
        jax.tree.map(close, jax.tree.map(lambda a, i=i: a[i], got), want)
        assert np.any(np.asarray(want[1]["layers"][0]["weight"]) != 0)
    weights = np.asarray(got[1]["layers"][0]["weight"])
    assert not np.array_equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: layers.Dense(3, 2, init="he", rngs=nnx.Rngs(0)),
            "`init`.*'kaiming', got 'he'",
        ),
        (
            lambda: layers.Dense(3, 2, rngs=nnx.Rngs(0)).forward(jnp.ones((2, 4))),
            "`num_inputs`.*is 3, its input has 4",
        ),
        (lambda: layers.BatchNorm(3, statistics="run"), "`statistics`.*'run'"),
        (lambda: layers.Dropout(1.0), r"`rate` must lie in \[0, 1\), got 1.0"),
        (
            lambda: layers.Dropout(0.5).init_state((2, 3), train=True),
            "`key` is needed",
        ),
        (
            lambda: layers.Neurons(neurons.lif(), learn=("tau",)),
            r"`learn` names \['tau'\].*\['beta', 'threshold'\]",
        ),
        (
            lambda: layers.Neurons(neurons.integrate_and_fire(), learn=("beta",)),
            "`beta`.*between 0 and 1.*got 1.0.*`learn` names 'beta'",
        ),
        (lambda: layers.Neurons(neurons.lif(), recurrent=3), "`rngs` is needed"),
        (
            lambda: layers.Sequence(layers.Neurons(neurons.lif()), block_size=0)(
                [neurons.LIFState(jnp.zeros((2, 3)))], jnp.ones((4, 2, 3))
            ),
            "`block_size`.*got 0",
        ),
    ],
)
def test_errors_name_argument_and_value(call, message, monkeypatch):
    # What a user sees, who runs without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call()


def test_a_layer_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Layer defines no `forward`"):
        layers.Layer()((), jnp.ones((2, 3, 4)))


def test_flax_modules_and_functions_stand_in_a_sequence():
    foreign = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    own = layers.Dense(6, 4, rngs=nnx.Rngs(1))
    own.weight, own.bias = nnx.Param(foreign.kernel[...]), nnx.Param(foreign.bias[...])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 6)), jnp.float32)

    def double(x):
        return 2 * x

    def run(*parts):
        graphdef, model = layers.split(layers.Sequence(*parts))
        loss = lambda m: layers.apply(graphdef, m, x)[0].mean()  # noqa: E731
        y = layers.apply(graphdef, model, x)[0]
        return y, jax.tree.leaves(jax.grad(loss, allow_int=True)(model).params)

    got, gradient = run(foreign, double, layers.LIF(beta=0.5))
    want, wanted = run(own, double, layers.LIF(beta=0.5))
    assert got.any()
    np.testing.assert_allclose(got, want)
    for a, b in zip(gradient, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    image = jnp.ones((5, 2, 8, 8, 1))
    conv = nnx.Conv(1, 3, (3, 3), rngs=nnx.Rngs(0))
    y = layers.apply(*layers.split(layers.Sequence(conv, jax.nn.relu)), image)[0]
    np.testing.assert_allclose(y[0], jax.nn.relu(conv(image[0])), rtol=1e-5)


@pytest.mark.parametrize("make", [nnx.BatchNorm, lambda n, rngs: nnx.Dropout(0.5, rngs=rngs)])  # fmt: skip
def test_a_module_with_state_is_refused_by_name(make):
    with pytest.raises(TypeError, match=r"has state .* use `jsnn\.BatchNorm`"):
        layers.Sequence(make(4, rngs=nnx.Rngs(0)))
