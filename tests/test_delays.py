"""Delays for surrogate gradients: against a loop that shifts, against finite differences, for any cut of time, and trained by themselves."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from flax import nnx

import jsnn
from jsnn import delays, eventprop, layers
from jsnn.eventprop import synapse

T, B, NI, NO, K = 12, 3, 4, 5, 6
RNG = np.random.default_rng(0)
exact = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def spikes(*shape):
    return (RNG.random(shape) < 0.4).astype(np.float64)


def shift_loop(x, weight, steps):
    """The definition: each weight's input, so many steps ago; what lies before the first step is silence."""
    y = np.zeros((*x.shape[:2], weight.shape[1]))
    for t in range(x.shape[0]):
        for i, o in np.ndindex(*weight.shape):
            if t >= steps[i, o]:
                y[t, :, o] += weight[i, o] * x[t - steps[i, o], :, i]
    return y


@pytest.mark.parametrize(
    ("kernel", "width"),
    [("gaussian", None), ("gaussian", 0.0), ("gaussian", 0.02), ("triangle", 0.0)],
)
def test_whole_delays_are_shifts(kernel, width):
    """Rounded ones, and the relaxed form as its width goes to 0: a Gaussian at any delay, a triangle at whole ones."""
    with jax.enable_x64(True):
        x, weight = spikes(T, B, NI), RNG.normal(size=(NI, NO))
        steps = RNG.integers(0, K + 1, (NI, NO))
        steps[0, :2] = 0, K
        off = 0.3 * (kernel == "gaussian")
        delay = np.clip(steps + RNG.uniform(-off, off, (NI, NO)), 0, K)
        options = {"max_steps": K, "dt": 0.5, "width": width, "kernel": kernel}
        past = jnp.zeros((K, B, NI))
        shares = delays.taps(jnp.asarray(0.5 * delay), **options)
        y, _ = delays.dense(jnp.asarray(x), past, jnp.asarray(weight), shares)
        exact(y, shift_loop(x, weight, steps))
        shares = delays.taps(jnp.asarray(0.5 * delay[:, 0]), **options)
        y, _ = delays.axonal(jnp.asarray(x), past, shares)
        exact(y, shift_loop(x, np.eye(NI), np.tile(steps[:, :1], NI)))


def test_the_relaxed_form_is_its_formula():
    """A NumPy loop over steps and taps."""
    with jax.enable_x64(True):
        x, weight = spikes(T, B, NI), RNG.normal(size=(NI, NO))
        delay, width = RNG.uniform(0, K, (NI, NO)), 1.7
        for kernel in ("gaussian", "triangle"):
            kappa = np.zeros((K + 1, NI, NO))
            for k in range(K + 1):
                away = k - delay
                gauss = np.exp(-(away**2) / (2 * width**2))
                linear = np.maximum(0, 1 + width - abs(away))
                kappa[k] = gauss if kernel == "gaussian" else linear
            kappa /= kappa.sum(0)
            want = np.zeros((T, B, NO))
            for t in range(T):
                for k in range(min(t, K) + 1):
                    want[t] += x[t - k] @ (weight * kappa[k])
            shares = delays.taps(
                jnp.asarray(delay), max_steps=K, width=width, kernel=kernel
            )
            y, _ = delays.dense(
                jnp.asarray(x), jnp.zeros((K, B, NI)), jnp.asarray(weight), shares
            )
            exact(y, want)


@pytest.mark.parametrize("kernel", ["gaussian", "triangle"])
def test_gradient_is_that_of_finite_differences(kernel):
    """Of the delays and the width, through both layers, in float64."""
    with jax.enable_x64(True):
        x, weight = (
            jnp.asarray(spikes(T, B, NI)),
            jnp.asarray(RNG.normal(size=(NI, NO))),
        )
        g = jnp.asarray(RNG.normal(size=(T, B, NO)))

        @jax.jit
        def loss(p):
            options = {"max_steps": K, "width": p["width"], "kernel": kernel}
            past = jnp.zeros((K, B, NI))
            h, _ = delays.axonal(x, past, delays.taps(p["axon"], **options))
            shares = delays.taps(p["synapse"], **options)
            y, _ = delays.dense(h, past, weight, shares)
            return (jnp.tanh(y) * g).sum()

        p = {
            "axon": jnp.asarray(RNG.uniform(0.2, K - 0.2, NI)),
            "synapse": jnp.asarray(RNG.uniform(0.2, K - 0.2, (NI, NO))),
            "width": jnp.asarray(1.3),
        }
        slopes = jax.jit(jax.grad(loss))(p)
        for seed in range(5):
            keys = jax.random.split(jax.random.key(seed), 3)
            leaves, tree = jax.tree.flatten(p)
            pairs = zip(keys, leaves, strict=True)
            along = [jax.random.normal(k, a.shape, a.dtype) for k, a in pairs]
            move = jax.tree.unflatten(tree, along)
            h = 1e-6
            up, down = (
                loss(jax.tree.map(lambda a, m, s=s: a + s * m, p, move))
                for s in (h, -h)
            )
            products = jax.tree.map(lambda s, m: (s * m).sum(), slopes, move)
            want = sum(jax.tree.leaves(products))
            assert abs(float(want)) > 1e-3
            # Of second order in h, and 1e-16 / h of rounding.
            np.testing.assert_allclose((up - down) / (2 * h), want, rtol=1e-7)


def test_at_the_ends_of_the_range_only_the_way_back_is_open():
    x = jnp.array([-0.5, 0.0, 0.5, 1.0, 1.5])
    for sign, want in ((1.0, [0, 0, 1, 1, 1]), (-1.0, [-1, -1, -1, 0, 0])):
        got = jax.grad(lambda x, s=sign: s * delays.held(x, 0.0, 1.0).sum())(x)
        assert got.tolist() == want
    assert delays.held(x, 0.0, 1.0).tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("kind", ["axon", "synapse"])
def test_whole_delays_are_those_of_eventprop(kind):
    """The same arrays in the same unit."""
    x = jnp.asarray(spikes(T, B, NI), jnp.float32)
    z, past, options = eventprop.TimedSpikes(x), jnp.zeros((K, B, NI)), {"dt": 0.25, "max_steps": K}  # fmt: skip
    weight = jnp.asarray(RNG.normal(size=(NI, NO)), jnp.float32)
    delay = jnp.asarray(RNG.uniform(-0.1, 1.1 * K / 4, (NI, NO)), jnp.float32)
    if kind == "axon":
        delay = delay[:, 0]
        want = synapse.axonal_delay(z, delay, **options).values
        got, _ = delays.axonal(x, past, delays.taps(delay, **options))
    else:
        want = synapse.delayed_dense(z, weight, delay, **options).mass
        got, _ = delays.dense(x, past, weight, delays.taps(delay, **options))
    close(got, want)


@pytest.mark.parametrize("train", [False, True])
def test_any_cut_of_time_gives_the_same(train):
    """Delays longer than a block, and than the whole input, included; in values, and in the gradient where there is one."""
    x = jnp.asarray(spikes(T, B, NI), jnp.float32)
    rngs, found = nnx.Rngs(0), []
    net = [
        jsnn.Delay(NI, max_steps=2, width=1.5, rngs=rngs),
        jsnn.DelayedDense(NI, NO, max_steps=T + 2, width=1.5, rngs=rngs),
        jsnn.LI(),
    ]
    cuts = ((None, False), (1, False), (5, True)) if train else ((None, False), (5, False))  # fmt: skip
    for size, remat in cuts:
        cut = layers.Sequence(*net, block_size=size, remat=remat)
        graphdef, model = layers.split(cut)

        def loss(params, graphdef=graphdef, model=model):
            model_ = layers.Model(params, model.rest)
            y, _ = layers.apply(graphdef, model_, x, train=train)
            return (y**2).sum(), y

        run = jax.value_and_grad(loss, has_aux=True) if train else loss
        found.append(jax.jit(run)(model.params))
    assert all(float(jnp.abs(a).max()) > 0 for a in jax.tree.leaves(found[0]))
    for other in found[1:]:
        jax.tree.map(close, other, found[0])


def test_layers_use_whole_steps_in_evaluation():
    """And so they do in training where delays are not learnt."""
    x = spikes(T, B, NI)
    delay = RNG.uniform(0, 0.1 * K, (NI, NO))
    steps = np.round(10 * delay).astype(int)
    for learn, train in ((True, False), (False, True)):
        layer = jsnn.DelayedDense(NI, NO, max_steps=K, dt=0.1, delay=delay, learn=learn, width=2.0, bias=False, rngs=nnx.Rngs(0))  # fmt: skip
        close(layer.delays(), delay)
        x32 = jnp.asarray(x, jnp.float32)
        _, y = layer(layer.init_state((B, NI)), x32, train=train)
        close(y, shift_loop(x, np.asarray(layer.weight[...]), steps))
    with_bias = jsnn.DelayedDense(NI, NO, max_steps=K, rngs=nnx.Rngs(0))
    _, y = with_bias(with_bias.init_state((B, NI)), jnp.zeros((2, B, NI)))
    close(y[0, 0], with_bias.bias[...])


def test_one_step_a_constant_maps_and_half_precision():
    layer = jsnn.Delay((1, 1, 2), max_steps=3, delay=jnp.array([0.0, 2.0]))
    x = jnp.asarray(spikes(B, 4, 5, 2), jnp.float32)
    _, y = layer(layer.init_state(x.shape), jsnn.Constant(x, 4))
    assert jnp.array_equal(y[:, ..., 0], jnp.broadcast_to(x[..., 0], (4, B, 4, 5)))
    assert not y[:2, ..., 1].any()
    assert jnp.array_equal(y[3, ..., 1], x[..., 1])
    state, y = layer(layer.init_state(x.shape), x[None])
    assert jnp.array_equal(y[0, ..., 0], x[..., 0])
    assert not y[..., 1].any()
    assert jnp.array_equal(state.past[-1], x)
    half = jsnn.DelayedDense(NI, NO, max_steps=K, width=1.0, rngs=nnx.Rngs(0))
    x = jnp.asarray(spikes(T, B, NI), jnp.bfloat16)
    for train in (False, True):
        state, y = half(half.init_state((B, NI)), x, train=train)
        _, want = half(half.init_state((B, NI)), x.astype(jnp.float32), train=train)
        assert y.dtype == jnp.bfloat16
        assert state.past.dtype == jnp.float32
        # Sums of some four products, each rounded to 8 bits.
        np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.03)


def test_the_width_follows_the_batches_trained():
    """A schedule of Optax, and no one else has to know: the layer counts, in what goes with the model."""
    narrower = optax.linear_schedule(3.0, 1.0, 2)
    net = jsnn.network(
        lambda rngs: [jsnn.Delay(NI, max_steps=K, width=narrower, rngs=rngs)]
    )
    model = net.init(jax.random.key(0))
    x = jnp.asarray(spikes(T, B, NI), jnp.float32)
    share = model.params["layers"][0]["delay_share"]
    for width in (3.0, 2.0, 1.0, 1.0):
        out = net.apply(model, x, train=True)
        shares = delays.taps(K * share, max_steps=K, width=width)
        close(out.value, delays.axonal(x, jnp.zeros((K, B, NI)), shares)[0])
        seen = net.apply(model, x).rest
        assert seen["layers"][0]["batches"] == model.rest["layers"][0]["batches"]
        model = layers.Model(model.params, out.rest)
    assert model.rest["layers"][0]["batches"] == 4


def test_delays_are_learnt_and_seeds_may_be_vmapped():
    """Four inputs spike at times that only the right delays bring together: what training finds makes the neuron's peak, rounded too."""
    times = jnp.array([0, 2, 5, 6])
    x = jax.nn.one_hot(times, T + K, axis=0)[:, None]

    def make(rngs):
        width = optax.exponential_decay(3.0, 150, 0.1, end_value=0.3)
        return [jsnn.Delay(NI, max_steps=8, width=width, rngs=rngs), lambda x: x.sum(-1, keepdims=True)]  # fmt: skip

    net = jsnn.network(make)
    optimizer = optax.adam(0.02)

    @jax.jit
    @jax.vmap
    def train(key):
        model = net.init(key)

        def step(_, carry):
            model, state = carry

            def loss(params):
                out = net.apply(layers.Model(params, model.rest), x, train=True)
                return -(out.value**2).sum(), out.rest

            grads, rest = jax.grad(loss, has_aux=True)(model.params)
            updates, state = optimizer.update(grads, state)
            params = optax.apply_updates(model.params, updates)
            return layers.Model(params, rest), state

        model, _ = jax.lax.fori_loop(0, 300, step, (model, optimizer.init(model.params)))  # fmt: skip
        return net.apply(model, x).value[:, 0, 0].max()

    assert train(jsnn.seed_keys(0, 3)).tolist() == [4.0, 4.0, 4.0]


def test_operations_are_those_of_a_dense_layer():
    net = jsnn.network(
        lambda rngs: [jsnn.DelayedDense(NI, NO, max_steps=K, rngs=rngs), jsnn.LIF()]
    )
    model, x = net.init(jax.random.key(0)), jnp.asarray(spikes(T, B, NI), jnp.float32)
    (found,) = jsnn.activity.synaptic_operations(net.graphdef, model, x)
    assert found.accumulates.tolist() == (NO * x.sum((0, 2))).tolist()
    assert jsnn.activity.weight_names(net.graphdef, model) == ["delayeddense 1"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jsnn.Delay(4, max_steps=0, rngs=nnx.Rngs(0)), "`max_steps` must be at least 1"),
        (lambda: jsnn.Delay(4, max_steps=3), "`rngs` is needed"),
        (lambda: jsnn.Delay(4, max_steps=3, dt=0.0, rngs=nnx.Rngs(0)), "`dt` must be positive"),
        (lambda: jsnn.Delay(4, max_steps=3, dt=0.1, longest=1.0, rngs=nnx.Rngs(0)), r"`longest` must lie in \[0, 0.3"),
        (lambda: jsnn.Delay(4, max_steps=3, delay=4.0), "needs a larger `max_steps`"),
        (lambda: jsnn.Delay(4, max_steps=3, width=-1.0, rngs=nnx.Rngs(0)), "`width` must be finite and not negative"),
        (lambda: jsnn.Delay(4, max_steps=3, kernel="box", rngs=nnx.Rngs(0)), "`kernel` must be one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make, words, monkeypatch):
    # Otherwise the type checker refuses a wrong choice first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=words):
        make()


def test_another_number_of_inputs_is_refused():
    for layer in (
        jsnn.Delay(4, max_steps=3, rngs=nnx.Rngs(0)),
        jsnn.DelayedDense(4, 2, max_steps=3, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(ValueError, match=r"`num_inputs` of this .* its input has"):
            layer(layer.init_state((B, 5)), jnp.zeros((2, B, 5)))
        with pytest.raises(ValueError, match=r"`state` of .* has arrays of"):
            layer(layer.init_state((B, 4)), jnp.zeros((2, B + 1, 4)))
