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
    event_readout,
    feed_forward,
    synapse,
)
from jsnn.eventprop.event_layers import recurrent
from jsnn.eventprop.grid import lif
from jsnn.eventprop.grid_readout import leaky_integrator
from jsnn.eventprop.grid_recurrent import recurrent_lif
from jsnn.eventprop.losses import weighted_voltage

SEEDS, NUM_IN, N, OUT, T_END, DELAY = 16, 6, 5, 3, 80.0, 2.0


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


def flat(gradient):
    return jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(gradient)])


def exact_gradient(loss, x, with_recurrence):
    def total(w):
        inputs = EventSpikes(x["times"], x["neuron"], jnp.zeros((), bool))
        if with_recurrence:
            rec = Recurrence(w["w_rec"], jnp.full(N, DELAY))
            s = recurrent(LIFParams(), w["w"], rec, inputs, t_end=T_END, max_spikes=70)
        else:
            s = feed_forward(LIFParams(), w["w"], inputs, t_end=T_END, max_spikes=12)
        count = (s.neuron >= 0).sum()
        if loss == "times":
            phase = jnp.where(jnp.isfinite(s.times), s.times / 10, 0.0)
            return jnp.sum(-10 * jnp.cos(phase)), count
        v = event_readout.weighted_voltage(LIParams(), x["w_out"], s, t_end=T_END)
        return jnp.sum(v * x["c"]), count

    gradient, count = jax.grad(total, has_aux=True)(trained(x, with_recurrence))
    return flat(gradient), count


def grid_gradient(loss, x, with_recurrence, dt):
    steps = round(T_END / dt)
    at = jnp.round(x["times"] / dt).astype(int)
    z = jnp.zeros((steps, 1, NUM_IN)).at[at, 0, x["neuron"]].add(1.0)

    def hidden(w):
        drive = synapse.synapse(synapse.dense, w["w"], TimedSpikes(z))
        if with_recurrence:
            k = round(DELAY / dt)
            return recurrent_lif(
                LIFParams(), w["w_rec"], None, drive, dt=dt, delay_steps=k
            )[1]
        return lif(LIFParams(), None, drive, dt=dt)[1]

    w = trained(x, with_recurrence)
    if loss == "times":  # d(-10 cos(t / 10))/dt
        spikes, pull = jax.vjp(lambda w: hidden(w).values, w)
        slope = jnp.sin(jnp.arange(steps) * dt / 10).reshape(-1, 1, 1)
        return flat(pull(slope * spikes)[0]), spikes.sum()

    def total(w):
        s = hidden(w)
        drive = synapse.synapse(synapse.dense, x["w_out"], s)
        _, v = leaky_integrator(LIParams(), None, drive, dt=dt)
        return jnp.sum(weighted_voltage(v)[0] * x["c"]), s.values.sum()

    gradient, count = jax.grad(total, has_aux=True)(w)
    return flat(gradient), count


@pytest.mark.parametrize("with_recurrence", [False, True])
@pytest.mark.parametrize("loss", ["voltage", "times"])
def test_grid_gradient_points_where_the_exact_one_does(loss, with_recurrence):
    def run(gradient, **options):
        return jax.jit(
            jax.vmap(lambda x: gradient(loss, x, with_recurrence, **options))
        )(networks())

    want, count = run(exact_gradient)
    assert (count >= 8).all()
    assert np.isfinite(want).all()
    cosine, same = {}, {}
    for dt in (1.0, 0.1):
        got, number = run(grid_gradient, dt=dt)
        scale = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
        cosine[dt] = np.median(np.sum(got * want, axis=1) / scale)
        same[dt] = int((number == count).sum())
    print(loss, with_recurrence, cosine, same, np.asarray(count))
    assert cosine[0.1] >= 0.95
    assert cosine[0.1] > cosine[1.0] > 0
    assert same[0.1] >= max(same[1.0], SEEDS // 2)
