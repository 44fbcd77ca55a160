"""Grid against exact: the direction of the gradient, over many random networks, and how it gets better with dt.

Six inputs of three spikes each, five LIF neurons, three leaky integrators. A single network may gain or lose a spike on a coarse grid and
then has another gradient altogether, so what is asserted is the median over 16.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.eventprop import (
    EventSpikes,
    LIFParams,
    LIParams,
    Recurrence,
    TimedSpikes,
    event_layers,
    feed_forward,
    synapse,
)
from jsnn.eventprop.event_layers import recurrent
from jsnn.eventprop.grid import leaky_integrator, lif
from jsnn.eventprop.losses import weighted_voltage

# Compiling is what these tests cost, so it goes without optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SEEDS, NUM_IN, N, OUT, T_END, DELAY = 16, 6, 5, 3, 70.0, 2.0


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


@functools.cache
def networks():
    """Input times on a grid of 1 ms, so that every dt sees the same input; weights that make 2 to 6 spikes a neuron."""
    rng = np.random.default_rng(0)
    times = np.stack([np.sort(rng.choice(40, 3 * NUM_IN)) for _ in range(SEEDS)])
    return jax.tree.map(
        jnp.asarray,
        {
            "times": times.astype(float),
            "neuron": rng.permuted(
                np.tile(np.repeat(np.arange(NUM_IN), 3), (SEEDS, 1)), axis=1
            ).astype(np.int32),
            "w": rng.uniform(0.2, 2.4, (SEEDS, NUM_IN, N)),
            "w_rec": rng.normal(0, 0.5, (SEEDS, N, N)),
            "w_out": rng.normal(0, 1, (SEEDS, N, OUT)),
            "c": rng.normal(size=(SEEDS, OUT)),
        },
    )


def trained(x, with_recurrence):
    names = ("w", "w_rec") if with_recurrence else ("w",)
    return {name: x[name] for name in names}


def both_gradients(hidden, heads, w):
    """Of two losses at the cost of one forward pass: `hidden(w)` to spikes, each head from spikes to a scalar or its cotangent."""
    out, pull = jax.vjp(hidden, w)
    bars = jnp.stack([head(out) for head in heads])
    gradients = jax.vmap(lambda bar: pull(bar)[0])(bars)
    return jnp.concatenate(
        [g.reshape(2, -1) for g in jax.tree.leaves(gradients)], axis=1
    )


def exact_gradient(x, with_recurrence):
    """`[2, P]`: of -10 sum cos(t / 10) over all spikes, and of an exponentially weighted voltage."""
    inputs = EventSpikes(x["times"], x["neuron"], jnp.zeros((), bool))

    def spikes(w):
        if with_recurrence:
            rec = Recurrence(w["w_rec"], jnp.full(N, DELAY))
            return recurrent(
                LIFParams(), w["w"], rec, inputs, t_end=T_END, max_spikes=50
            )
        return feed_forward(LIFParams(), w["w"], inputs, t_end=T_END, max_spikes=10)

    w = trained(x, with_recurrence)
    s = spikes(w)

    def voltage(times):
        v = event_layers.weighted_voltage(
            LIParams(), x["w_out"], s._replace(times=times), t_end=T_END
        )
        return jnp.sum(v * x["c"])

    heads = (
        lambda t: jnp.where(jnp.isfinite(t), jnp.sin(t / 10), 0.0),
        jax.grad(voltage),
    )
    gradients = both_gradients(lambda w: spikes(w).times, heads, w)
    return gradients, (s.neuron >= 0).sum()


def grid_gradient(x, with_recurrence, dt):
    """The same two on a grid."""
    steps = round(T_END / dt)
    at = jnp.round(x["times"] / dt).astype(int)
    z = jnp.zeros((steps, 1, NUM_IN)).at[at, 0, x["neuron"]].add(1.0)

    def hidden(w):
        drive = synapse.synapse(synapse.dense, w["w"], TimedSpikes(z))
        if with_recurrence:
            k = round(DELAY / dt)
            recurrence = {"weights": w["w_rec"], "delay_steps": k}
            return lif(LIFParams(), None, drive, dt=dt, **recurrence)[1].values
        return lif(LIFParams(), None, drive, dt=dt)[1].values

    def voltage(spikes):
        drive = synapse.synapse(synapse.dense, x["w_out"], TimedSpikes(spikes))
        _, v = leaky_integrator(LIParams(), None, drive, dt=dt)
        return jnp.sum(weighted_voltage(v)[0] * x["c"])

    slope = jnp.sin(jnp.arange(steps) * dt / 10).reshape(-1, 1, 1)
    w = trained(x, with_recurrence)
    heads = (lambda s: slope * s, jax.grad(voltage))
    return both_gradients(hidden, heads, w), hidden(w).sum()


@pytest.mark.parametrize("with_recurrence", [False, True])
def test_grid_gradient_points_where_the_exact_one_does(with_recurrence):
    def run(gradient, *options):
        return jit(jax.vmap(lambda x: gradient(x, with_recurrence, *options)))(
            networks()
        )

    want, count = run(exact_gradient)
    assert (count >= 8).all()
    assert np.isfinite(want).all()
    cosine, same = {}, {}
    for dt in (1.0, 0.1):
        got, number = run(grid_gradient, dt)
        scale = np.linalg.norm(got, axis=2) * np.linalg.norm(want, axis=2)
        cosine[dt] = np.median(np.sum(np.asarray(got * want), axis=2) / scale, axis=0)
        same[dt] = int((number == count).sum())
    assert (cosine[0.1] >= 0.95).all()
    assert (cosine[0.1] > cosine[1.0]).all()
    assert (cosine[1.0] > 0.7).all()
    assert same[0.1] >= max(same[1.0], SEEDS // 2)
