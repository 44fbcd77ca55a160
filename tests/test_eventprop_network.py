"""Networks as lists of layers: depth, convolution, recurrence, delays, blocks with recomputation, sweeps, plots."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jsnn
from jsnn.eventprop import (
    Drive,
    LIFParams,
    LIParams,
    OccupiedSpikes,
    RatePenalty,
    TimedSpikes,
    chain,
    latency,
    network,
    synapse,
    traces,
)
from jsnn.eventprop.grid import leaky_integrator, lif
from jsnn.eventprop.losses import cross_entropy, max_voltage
from jsnn.eventprop.spikes import split
from jsnn.model import Model

# Compiling is what these tests cost, so it goes without optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

T, B = 60, 3
LABELS = jnp.array([0, 1, 2])

LAYERS = (
    network.dense(6, 8, mean=1.5, std=0.8),
    network.lif(dt=0.5),
    network.dense(8, 3, mean=0.5, std=0.5),
    network.leaky(dt=0.5),
)
SHALLOW = chain(*LAYERS)


def deep(**options):
    return chain(
        network.dense(6, 8, mean=1.5, std=0.8),
        network.lif(dt=0.5),
        network.dense(8, 7, mean=0.6, std=0.5),
        network.recurrent(7, mean=0.0, std=0.3, dt=0.5, delay_steps=2),
        network.dense(7, 3, mean=0.5, std=0.5),
        network.leaky(dt=0.5),
        **options,
    )


def spikes(*shape, seed=0, rate=0.1):
    z = np.random.default_rng(seed).uniform(size=(T, B, *shape)) < rate
    return TimedSpikes(jnp.asarray(z, jnp.float32))


def model_of(net, seed=0):
    """A model as `net.init` draws it, from NumPy: JAX's generator takes seconds to compile."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0)).params
    scale = {(6, 8): (1.5, 0.8), (8, 7): (0.6, 0.5), (7, 7): (0.0, 0.3)}

    def draw(a):
        mean, std = scale.get(a.shape, (0.5, 0.4))
        return jnp.asarray(rng.normal(mean, std, a.shape), jnp.float32)

    return Model(jax.tree.map(draw, shapes), ())


def loss_of(net, x):
    def loss(params, rest):
        out = net.apply(Model(params, rest), x)
        return cross_entropy(max_voltage(out.value), LABELS).mean(), out.spikes

    return loss


def test_deep_recurrent_network_learns_and_all_weights_take_part():
    net, x = deep(), spikes(6)
    loss = loss_of(net, x)

    tx = optax.adam(0.02)

    model = model_of(net)

    @jit
    def train(params):
        def step(carry, _):
            params, moments = carry
            (value, hidden), g = jax.value_and_grad(loss, has_aux=True)(
                params, model.rest
            )
            updates, moments = tx.update(g, moments)
            carry = optax.apply_updates(params, updates), moments
            return carry, (value, [s.values.sum() for s in hidden], g)

        return jax.lax.scan(step, (params, tx.init(params)), length=60)[1]

    values, counts, gradients = train(model.params)
    assert len(counts) == 2
    assert all((c[0] > 10) for c in counts)
    used = [float(jnp.abs(g[0]).max()) for g in jax.tree.leaves(gradients)]
    assert len(used) == 4
    assert min(used) > 1e-4
    assert values[-1] < 0.5 * values[0]


def test_blocks_with_recomputation_equal_the_whole():
    """And keep less: no residual as long as T but inputs and read-out."""
    x = spikes(6, seed=1)
    params, rest = model_of(deep())

    def loss(params, **options):
        return loss_of(deep(**options), x)(params, rest)

    (want, hidden), g = jit(jax.value_and_grad(loss, has_aux=True))(params)
    size = {}
    for remat in (False, True):

        def both(params, remat=remat):
            blocks = functools.partial(loss, block_size=10, remat=remat)
            value, pull, fired = jax.vjp(blocks, params, has_aux=True)
            return value, fired, pull

        pull = jax.eval_shape(lambda w: both(w)[2], params)
        size[remat] = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(pull))

    @jit
    def run(params):
        value, fired, pull = both(params)
        return value, fired, pull(jnp.ones(()))[0]

    value, fired, got = run(params)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for a, b in zip(fired, hidden, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        assert float(a.values.sum()) > 10
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), got, g
    )
    assert size[True] < 0.5 * size[False]
    with pytest.raises(ValueError, match="`block_size`"):
        loss(params, block_size=T + 1)


def test_a_shorter_last_block_and_occupied_steps():
    """What T leaves over makes a block of its own; spikes stored on a few steps are spread out."""
    x = spikes(6, seed=2)
    occupied = OccupiedSpikes(x.values[10:15], jnp.arange(10, 15), T)
    model = model_of(SHALLOW)
    for given in (x, occupied):
        want = SHALLOW.apply(model, given)
        got = chain(*LAYERS, block_size=7).apply(model, given)
        assert float(want.spikes[0].values.sum()) > 5
        np.testing.assert_array_equal(got.spikes[0].values, want.spikes[0].values)
        np.testing.assert_allclose(got.value, want.value, rtol=1e-5, atol=1e-6)


def test_convolutional_network_runs_and_is_differentiated():
    net = chain(
        network.conv(1, 4, 3, mean=0.8, std=0.3),
        network.lif(dt=1.0),
        network.avg_pool(2),
        network.conv(4, 5, 3, mean=0.9, std=0.3, padding="same"),
        network.lif(dt=1.0),
        network.flatten(),
        network.dense(45, 3, mean=0.1, std=0.2),
        network.leaky(dt=1.0),
    )
    x = spikes(8, 8, 1)
    value_and_grad = jit(jax.value_and_grad(loss_of(net, x), has_aux=True))
    (_, hidden), g = value_and_grad(*model_of(net))
    assert [s.values.shape[2:] for s in hidden] == [(6, 6, 4), (3, 3, 5)]
    assert all(float(s.values.sum()) > 10 for s in hidden)
    assert all(float(jnp.abs(a).max()) > 0 for a in jax.tree.leaves(g))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(g))


def test_split_layer_is_the_function_and_wants_all_steps():
    parts = (
        network.dense(6, 5, mean=0.8, std=0.3),
        network.lif(dt=1.0),
        network.dense(5, 3, mean=0.4, std=0.4),
        network.leaky(dt=1.0),
    )
    first, none, second, _ = model_of(chain(*parts)).params
    x = spikes(6)
    below = Model([first, none], ())
    hidden = chain(*parts[:2]).apply(below, x).value
    shared = split(hidden, dt=1.0)
    above = Model([second, ()], ())
    want = chain(*parts[2:]).apply(above, shared).value
    parts = (*parts[:2], network.split(dt=1.0), *parts[2:])
    model = Model([first, none, (), second, ()], ())
    out = chain(*parts).apply(model, x)
    np.testing.assert_array_equal(out.value, want)
    (counted,) = out.spikes
    np.testing.assert_array_equal(counted.values, hidden.values)
    assert float(jnp.abs(shared.values - hidden.values).max()) > 0.1
    with pytest.raises(ValueError, match="all time steps at once"):
        chain(*parts, block_size=1).apply(model, x)


def test_weights_are_drawn_as_declared(key):
    net = chain(
        network.dense(400, 50, mean=1.5, std=0.8),
        network.lif(dt=1.0),
        network.delayed_dense(
            50, 40, mean=-1.0, std=0.1, dt=1.0, max_steps=9, longest=7.0
        ),
        network.leaky(dt=1.0),
    )
    first, none, delayed, _ = jit(net.init)(key).params
    assert none == ()
    # 20,000 and 2,000 draws, five standard errors.
    np.testing.assert_allclose(first.mean(), 1.5, atol=5 * 0.8 / 141)
    np.testing.assert_allclose(first.std(), 0.8, atol=5 * 0.8 / 200)
    np.testing.assert_allclose(delayed["weight"].mean(), -1.0, atol=5 * 0.1 / 44)
    assert 6.9 < float(delayed["delay"].max()) <= 7.0
    assert float(delayed["delay"].min()) >= 0


def test_seeds_and_physics_are_swept_by_vmap():
    net, x = SHALLOW, spikes(6)
    seeds = [model_of(net, 0), model_of(net, 1)]
    taus = jnp.array([15.0, 30.0])

    def gradient(model, tau):
        physics = [layer.physics for layer in LAYERS]
        physics[1] = physics[1]._replace(
            params=LIFParams(tau_mem=tau), penalty=RatePenalty(0.1, 0.1, 2.0)
        )
        g, _ = jax.grad(loss_of(net, x), has_aux=True)(model.params, physics)
        return g

    stacked = jax.tree.map(lambda *a: jnp.stack(a), *seeds)
    got = jit(jax.vmap(gradient))(stacked, taus)
    one = jit(gradient)
    want = [one(w, t) for w, t in zip(seeds, taus, strict=True)]
    for a, b, c in zip(*map(jax.tree.leaves, (got, *want)), strict=True):
        assert float(jnp.abs(b - c).max()) > 1e-5
        np.testing.assert_allclose(a, jnp.stack([b, c]), rtol=1e-3, atol=1e-5)


def test_axonal_delays_equal_delayed_synapses():
    """Two ways to compute the same: a gather, and a convolution over time. Values and all gradients."""
    rng = np.random.default_rng(0)
    dt = 0.5
    with jax.enable_x64(True):
        z = jnp.asarray((rng.uniform(size=(T, B, 4)) < 0.1).astype(float))
        w = jnp.asarray(rng.uniform(1, 4, (4, 3)))
        d = jnp.asarray(rng.uniform(0, 6, 4))
        v_bar = jnp.asarray(rng.normal(size=(T, B, 3)))

        def read(drive):
            _, s = lif(LIFParams(), None, drive, dt=dt)
            _, v = leaky_integrator(LIParams(), None, Drive(s.values, s.values), dt=dt)
            return jnp.sum(v * v_bar)

        def by_gather(w, d, z):
            late = synapse.axonal_delay(TimedSpikes(z), d, dt=dt, max_steps=12)
            return read(synapse.synapse(synapse.dense, w, late))

        def by_convolution(w, d, z):
            full = jnp.broadcast_to(d[:, None], w.shape)
            return read(
                synapse.delayed_dense(TimedSpikes(z), w, full, dt=dt, max_steps=12)
            )

        got = jit(jax.value_and_grad(by_gather, argnums=(0, 1, 2)))(w, d, z)
        want = jit(jax.value_and_grad(by_convolution, argnums=(0, 1, 2)))(w, d, z)
        # By hand: where each spike arrives.
        steps = np.round(np.asarray(d) / dt).astype(int)
        late = np.zeros((T, B, 4))
        for n, b, k in np.argwhere(np.asarray(z)):
            if n + steps[k] < T:
                late[n + steps[k], b, k] += 1
        out = jit(
            lambda z: (
                synapse.axonal_delay(TimedSpikes(z), d, dt=dt, max_steps=12).values
            )
        )(z)
        np.testing.assert_array_equal(out, late)
    assert steps.max() > 3
    assert np.abs(want[1][1]).min() > 1e-6
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), got, want
    )


def test_delay_gradient_is_the_experiment_of_delaying():
    """A leaky integrator at dt = 1 microsecond: longer and shorter by one step."""
    dt = 1e-3
    with jax.enable_x64(True):
        z = jnp.zeros((3000, 1, 1)).at[200].set(1.0)

        def loss(d):
            drive = synapse.delayed_dense(
                TimedSpikes(z), jnp.full((1, 1), 1.5), d, dt=dt, max_steps=400
            )
            _, v = leaky_integrator(LIParams(), None, drive, dt=dt)
            return jnp.sum(v**2) * dt

        d = jnp.full((1, 1), 0.3)
        run = jit(loss)
        want = (run(d + dt) - run(d - dt)) / (2 * dt)
        # Order dt of the sampled loss.
        np.testing.assert_allclose(jit(jax.grad(loss))(d)[0, 0], want, rtol=2e-3)


def test_traces_for_plots():
    """Membranes that a NumPy loop finds, and adjoints that obey their own equation between events."""
    rng = np.random.default_rng(0)
    dt, tau_m, tau_s = 0.5, 20.0, 5.0
    u = jnp.asarray(rng.uniform(0, 1.0, (T, 1, 2)), jnp.float32)
    path = jit(lambda u: traces.membranes(LIFParams(), Drive(u, u), dt=dt))(u)
    a, b = np.exp(-dt / tau_m), np.exp(-dt / tau_s)
    kap = tau_s / (tau_m - tau_s) * (a - b)
    v = i = np.zeros((1, 2))
    fired = 0
    for n in range(T):
        before, v, i = v, a * v + kap * i, b * i
        fired += int((v >= 1).sum())
        np.testing.assert_allclose(path.v[n], v, atol=2e-5)  # before the reset
        left = (v - 1.0) / np.where(v >= 1, v - before, 1.0)
        v = np.where(v >= 1, v - np.exp(-left * dt / tau_m), v)
        i = i + np.asarray(u[n])
        np.testing.assert_allclose(path.i[n], i, atol=2e-5)
    assert fired > 2

    def loss(mass, time):
        return lif(LIFParams(), None, Drive(mass, time), dt=dt)[1].values

    @jit
    def both(u):
        z, pull = jax.vjp(loss, u, u)
        return z, traces.adjoints(LIFParams(), Drive(*pull(jnp.ones_like(z))))

    z, adjoint = both(u)
    quiet = np.asarray(z[1:]) == 0
    assert (~quiet).sum() > 2
    # No spike at n + 1: lambda_V just flows back to n.
    np.testing.assert_allclose(
        np.asarray(adjoint.v[:-1])[quiet],
        a * np.asarray(adjoint.v[1:])[quiet],
        rtol=1e-3,
        atol=1e-5,
    )
    assert float(jnp.abs(adjoint.v).max()) > 1e-3


def test_a_dense_network_is_the_chain_that_it_stands_for(key):
    """With the encoder, loss and read-out of the same grid."""
    inputs = jax.random.uniform(key, (5, 6))
    labels = jnp.arange(5) % 3
    layers = (
        network.dense(6, 4),
        network.lif(dt=0.5),
        network.dense(4, 3),
        network.leaky(dt=0.5),
    )
    own = jsnn.classifier(
        network.chain(*layers),
        encode=jsnn.eventprop.latency.encoder(t_max=16.0, T=20.0, dt=0.5),
        loss=jsnn.eventprop.losses.ce_max_voltage,
        read_out=jsnn.eventprop.losses.max_voltage,
    )
    ready = jsnn.classifier(jsnn.eventprop.dense_network(6, 4, 3, dt=0.5, T=20.0))
    model = ready.init(key)
    jax.tree.map(np.testing.assert_array_equal, model, own.init(key))
    for task in (ready, own):
        assert task.outputs(model, inputs).shape == (40, 5, 3)
    loss, grad = jax.value_and_grad(lambda m: ready.loss(m, key, inputs, labels)[0])(
        model
    )
    other, expected = jax.value_and_grad(lambda m: own.loss(m, key, inputs, labels)[0])(
        model
    )
    assert loss == other
    jax.tree.map(np.testing.assert_array_equal, grad, expected)
    said = ready.prediction(ready.outputs(model, inputs))
    np.testing.assert_array_equal(
        said.scores, jsnn.eventprop.losses.max_voltage(ready.outputs(model, inputs))
    )


def test_a_dense_network_needs_inputs_and_classes():
    with pytest.raises(ValueError, match=r"`sizes` must name inputs and classes"):
        jsnn.eventprop.dense_network(64)


def convolutional():
    return (
        network.conv(1, 8, 3, padding="same"),
        network.lif(dt=1.0),
        network.avg_pool(2),
        network.conv(8, 16, 3, padding="same"),
        network.lif(dt=1.0),
        network.flatten(),
        network.dense(256, 20),
        network.lif(dt=1.0),
    )


def thrice_dense():
    sizes = (64, 100, 100, 20)
    pairs = itertools.pairwise(sizes)
    layers = [(network.dense(*pair), network.lif(dt=1.0)) for pair in pairs]
    return (network.flatten(), *sum(layers, ()))


@pytest.mark.parametrize("layers", [thrice_dense, convolutional])
@pytest.mark.parametrize("source", ["digits", "random"])
def test_weights_drawn_by_default_wake_every_layer_and_do_not_saturate_it(
    layers, source, key
):
    """Of the bundled digits, whose rims are black, at least nine neurons in ten; of random spikes nearly all. Also the mean, by hand."""
    net = chain(*layers())
    if source == "digits":
        images = jnp.asarray(load_digits().images[:100, ..., None] / 16, jnp.float32)
        x = latency.latency_spikes(images, t_max=20.0, num_steps=25, dt=1.0)
    else:
        z = np.random.default_rng(0).uniform(size=(25, 100, 8, 8, 1)) < 0.02
        x = TimedSpikes(jnp.asarray(z, jnp.float32))
    model, out = jit(lambda key: (net.init(key), net.apply(net.init(key), x)))(key)
    least = 0.9 if source == "digits" else 0.98
    for fired in out.spikes:
        number = fired.values.sum(0)
        assert (number > 0).any(0).mean() >= least
        assert 0.3 < number.mean() < 0.7 * 25
    for weight in jax.tree.leaves(model.params):
        inputs = weight[..., 0].size
        error = 10 / inputs**0.5 / weight.size**0.5
        wanted = 12 / inputs + 216 / inputs**2
        np.testing.assert_allclose(weight.mean(), wanted, atol=5 * error)
