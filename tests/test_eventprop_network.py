"""Networks as lists of layers: depth, convolution, recurrence, delays, blocks with recomputation, sweeps, plots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.eventprop import (
    Drive,
    LIFParams,
    LIParams,
    RatePenalty,
    TimedSpikes,
    chain,
    in_blocks,
    network,
    synapse,
    traces,
)
from jsnn.eventprop import delay as delays
from jsnn.eventprop.grid import lif
from jsnn.eventprop.grid_readout import leaky_integrator
from jsnn.eventprop.losses import cross_entropy, max_voltage

T, B = 60, 3
LABELS = jnp.array([0, 1, 2])

SHALLOW = chain(
    network.dense(6, 8, mean=1.5, std=0.8),
    network.lif(dt=0.5),
    network.dense(8, 3, mean=0.5, std=0.5),
    network.leaky(dt=0.5),
)


def deep():
    return chain(
        network.dense(6, 8, mean=1.5, std=0.8),
        network.lif(dt=0.5),
        network.dense(8, 7, mean=0.6, std=0.5),
        network.recurrent(7, mean=0.0, std=0.3, dt=0.5, delay_steps=2),
        network.dense(7, 3, mean=0.5, std=0.5),
        network.leaky(dt=0.5),
    )


def spikes(*shape, seed=0, rate=0.1):
    z = np.random.default_rng(seed).uniform(size=(T, B, *shape)) < rate
    return TimedSpikes(jnp.asarray(z, jnp.float32))


def loss_of(net, x):
    def loss(weights, physics):
        out = net.apply(weights, physics, None, x)
        return cross_entropy(max_voltage(out.value), LABELS).mean(), out.spikes

    return loss


def test_deep_recurrent_network_learns_and_all_weights_take_part(key):
    net, x = deep(), spikes(6)
    loss = loss_of(net, x)

    @jax.jit
    def train(weights):
        def step(weights, _):
            (value, hidden), g = jax.value_and_grad(loss, has_aux=True)(
                weights, net.physics
            )
            new = jax.tree.map(lambda w, g: w - 0.05 * g, weights, g)
            return new, (value, [s.values.sum() for s in hidden], g)

        return jax.lax.scan(step, weights, length=60)[1]

    values, counts, gradients = train(net.init(key))
    assert len(counts) == 2
    assert all((c[0] > 10) for c in counts)
    used = [float(jnp.abs(g[0]).max()) for g in jax.tree.leaves(gradients)]
    assert len(used) == 4
    assert min(used) > 1e-4
    assert values[-1] < 0.7 * values[0]


def test_blocks_with_recomputation_equal_the_whole(key):
    """And keep less: no residual as long as T but inputs and read-out."""
    net, x = deep(), spikes(6, seed=1)
    weights = net.init(key)
    loss = loss_of(net, x)

    def by_blocks(weights, remat):
        value, counts = in_blocks(
            net, weights, net.physics, x, block_size=10, remat=remat
        )
        return cross_entropy(max_voltage(value), LABELS).mean(), counts

    (want, hidden), g = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        weights, net.physics
    )
    size = {}
    for remat in (False, True):

        def both(weights, remat=remat):
            value, pull, counts = jax.vjp(
                lambda w: by_blocks(w, remat), weights, has_aux=True
            )
            return value, counts, pull

        value, counts, pull = jax.jit(both)(weights)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        for c, s in zip(counts, hidden, strict=True):
            np.testing.assert_array_equal(c, s.values.sum(0))
            assert float(c.sum()) > 10
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
            pull(jnp.ones(()))[0],
            g,
        )
        size[remat] = sum(a.nbytes for a in jax.tree.leaves(pull))
    assert size[True] < 0.5 * size[False]
    with pytest.raises(ValueError, match="`block_size`"):
        in_blocks(net, weights, net.physics, x, block_size=7)


def test_convolutional_network_runs_and_is_differentiated(key):
    net = chain(
        network.conv(1, 4, 3, mean=0.8, std=0.3),
        network.lif(dt=1.0),
        network.avg_pool(2),
        network.conv(4, 5, 3, mean=0.9, std=0.3, padding="SAME"),
        network.lif(dt=1.0),
        network.flatten(),
        network.dense(45, 3, mean=0.1, std=0.2),
        network.leaky(dt=1.0),
    )
    x = spikes(8, 8, 1)
    value_and_grad = jax.jit(jax.value_and_grad(loss_of(net, x), has_aux=True))
    weights = net.init(key)
    (_, hidden), g = value_and_grad(weights, net.physics)
    assert [s.values.shape[2:] for s in hidden] == [(6, 6, 4), (3, 3, 5)]
    assert all(float(s.values.sum()) > 10 for s in hidden)
    assert all(float(jnp.abs(a).max()) > 0 for a in jax.tree.leaves(g))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(g))


def test_seeds_and_physics_are_swept_by_vmap():
    net, x = SHALLOW, spikes(6)
    keys = jax.random.split(jax.random.key(1), 2)
    taus = jnp.array([15.0, 30.0])

    def gradient(key, tau):
        physics = list(net.physics)
        physics[1] = physics[1]._replace(
            params=LIFParams(tau_mem=tau), penalty=RatePenalty(0.1, 0.1, 2.0)
        )
        g, _ = jax.grad(loss_of(net, x), has_aux=True)(net.init(key), physics)
        return g

    got = jax.jit(jax.vmap(gradient))(keys, taus)
    one = jax.jit(gradient)
    want = [one(k, t) for k, t in zip(keys, taus, strict=True)]
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
            late = delays.axonal(TimedSpikes(z), d, dt=dt, max_steps=12)
            return read(synapse.synapse(synapse.dense, w, late))

        def by_convolution(w, d, z):
            full = jnp.broadcast_to(d[:, None], w.shape)
            return read(delays.dense(TimedSpikes(z), w, full, dt=dt, max_steps=12))

        got = jax.jit(jax.value_and_grad(by_gather, argnums=(0, 1, 2)))(w, d, z)
        want = jax.jit(jax.value_and_grad(by_convolution, argnums=(0, 1, 2)))(w, d, z)
        # By hand: where each spike arrives.
        steps = np.round(np.asarray(d) / dt).astype(int)
        late = np.zeros((T, B, 4))
        for n, b, k in np.argwhere(np.asarray(z)):
            if n + steps[k] < T:
                late[n + steps[k], b, k] += 1
        out = delays.axonal(TimedSpikes(z), d, dt=dt, max_steps=12).values
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

        @jax.jit
        def loss(d):
            drive = delays.dense(
                TimedSpikes(z), jnp.full((1, 1), 1.5), d, dt=dt, max_steps=400
            )
            _, v = leaky_integrator(LIParams(), None, drive, dt=dt)
            return jnp.sum(v**2) * dt

        d = jnp.full((1, 1), 0.3)
        want = (loss(d + dt) - loss(d - dt)) / (2 * dt)
        # Order dt of the sampled loss.
        np.testing.assert_allclose(jax.grad(loss)(d)[0, 0], want, rtol=2e-3)


def test_traces_for_plots():
    """Membranes that a NumPy loop finds, and adjoints that obey their own equation between events."""
    rng = np.random.default_rng(0)
    dt, tau_m, tau_s = 0.5, 20.0, 5.0
    u = jnp.asarray(rng.uniform(0, 1.0, (T, 1, 2)), jnp.float32)
    path = traces.membranes(LIFParams(), Drive(u, u), dt=dt)
    a, b = np.exp(-dt / tau_m), np.exp(-dt / tau_s)
    kap = tau_s / (tau_m - tau_s) * (a - b)
    v = i = np.zeros((1, 2))
    fired = 0
    for n in range(T):
        v, i = a * v + kap * i, b * i
        fired += int((v >= 1).sum())
        v = np.where(v >= 1, v - 1.0, v)
        i = i + np.asarray(u[n])
        np.testing.assert_allclose(path.v[n], v, atol=2e-5)
        np.testing.assert_allclose(path.i[n], i, atol=2e-5)
    assert fired > 2

    def loss(mass, time):
        return lif(LIFParams(), None, Drive(mass, time), dt=dt)[1].values

    z, pull = jax.vjp(loss, u, u)
    adjoint = traces.adjoints(LIFParams(), Drive(*pull(jnp.ones_like(z))))
    quiet = np.asarray(z[1:] == 0)
    assert (~quiet).sum() > 2
    # No spike at n + 1: lambda_V just flows back to n.
    np.testing.assert_allclose(
        np.asarray(adjoint.v[:-1])[quiet],
        a * np.asarray(adjoint.v[1:])[quiet],
        rtol=1e-3,
        atol=1e-5,
    )
    assert float(jnp.abs(adjoint.v).max()) > 1e-3
