"""The grid comes nearer to the exact solver with the second power of dt: spikes, outputs and every gradient, with one spike a neuron or several.

Random 6-5-3 networks whose inputs lie on whole milliseconds, so that every dt sees the same input. The order is the slope of the error against dt
from 1 to 1/8 ms, both as logarithms, of the median over networks: a spike of one of them may
lie near a grid point or graze threshold.
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
    first_spikes,
    losses,
    synapse,
)
from jsnn.eventprop.event_layers import recurrent
from jsnn.eventprop.grid import leaky_integrator, lif
from jsnn.eventprop.spikes import split

# Compiling is what these tests cost, so it goes without optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

NETWORKS, NUM_IN, N, OUT, T_END, DELAY = 10, 6, 5, 3, 48.0, 2.0
STEPS = (1.0, 0.5, 0.25, 0.125)
OUTPUTS = ("spike times", "mean voltage", "weighted voltage", "first output spikes")


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def networks(per_input, weight):
    rng = np.random.default_rng(0)
    count = per_input * NUM_IN
    draws = {
        "times": np.stack([np.sort(rng.choice(30, count)) for _ in range(NETWORKS)]),
        "neuron": rng.permuted(
            np.tile(np.arange(count) % NUM_IN, (NETWORKS, 1)), axis=1
        ),
        "w": rng.uniform(*weight, (NETWORKS, NUM_IN, N)),
        "w_rec": rng.normal(0, 0.5, (NETWORKS, N, N)),
        "w_out": rng.uniform(0.5, 4, (NETWORKS, N, OUT)),
        "c": rng.normal(size=(NETWORKS, OUT)),
    }
    x = {k: jnp.asarray(v, float) for k, v in draws.items()}
    return x | {"neuron": x["neuron"].astype(jnp.int32)}


def trained(x, with_recurrence):
    """What gradients are taken of: weights, input times, physics."""
    p = {k: x[k] for k in ("w", "w_out", "times")}
    if with_recurrence:
        p["w_rec"] = x["w_rec"]
    return p | {"physics": LIFParams(*map(jnp.asarray, (20.0, 5.0, 1.0, 0.1)))}


def of_times(times, c):
    """Smooth in every spike time."""
    return jnp.where(jnp.isfinite(times), c * jnp.sin(times / 10), 0.0).sum()


def exact(p, x):
    """Four outputs, and the number of spikes of both layers."""
    inputs = EventSpikes(p["times"], x["neuron"], jnp.zeros((), bool))
    if "w_rec" in p:
        rec = Recurrence(p["w_rec"], jnp.full(N, DELAY))
        hidden = recurrent(
            p["physics"], p["w"], rec, inputs, t_end=T_END, max_spikes=40
        )
    else:
        hidden = feed_forward(p["physics"], p["w"], inputs, t_end=T_END, max_spikes=6)
    li = LIParams(*p["physics"][:2])
    voltages = [
        read(li, p["w_out"], hidden, t_end=T_END) @ x["c"]
        for read in (event_layers.mean_voltage, event_layers.weighted_voltage)
    ]
    first = first_spikes(p["physics"], p["w_out"], hidden, t_end=T_END).times
    value = jnp.stack([of_times(hidden.times, 1.0), *voltages, of_times(first, x["c"])])
    number = jnp.isfinite(hidden.times).sum(), jnp.isfinite(first).sum()
    return value, jnp.stack(number)


def on_grid(dt, p, x):
    """The same on a grid; the inputs' times are learnt through a gate that adds zero."""
    steps = round(T_END / dt)
    at = jnp.round(x["times"] / dt).astype(int)
    z = jnp.zeros((steps, 1, NUM_IN)).at[at, 0, x["neuron"]]
    z = z.add(1.0 + p["times"] - x["times"])
    drive = synapse.synapse(synapse.dense, p["w"], TimedSpikes(z))
    if "w_rec" in p:
        delay = round(DELAY / dt)
        recurrence = {"weights": p["w_rec"], "delay_steps": delay}
        _, hidden = lif(p["physics"], None, drive, dt=dt, **recurrence)
    else:
        _, hidden = lif(p["physics"], None, drive, dt=dt)
    drive = synapse.synapse(synapse.dense, p["w_out"], split(hidden, dt=dt))
    _, v = leaky_integrator(LIParams(*p["physics"][:2]), None, drive, dt=dt)
    _, out = lif(p["physics"], None, drive, dt=dt)
    voltages = [
        read(v)[0] @ x["c"] for read in (losses.mean_voltage, losses.weighted_voltage)
    ]
    first = losses.first_spike_times(out, dt=dt, substep=True)[0]
    z = jax.lax.stop_gradient(hidden.values)
    times = (jnp.arange(steps) * dt).reshape(-1, 1, 1) - hidden.lead
    spiked = z * jnp.sin(times / 10) + (hidden.values - z) * jnp.cos(times / 10) / 10
    value = jnp.stack([spiked.sum(), *voltages, of_times(first, x["c"])])
    return value, jnp.stack([z.sum(), jnp.isfinite(first).sum()]).astype(int)


def solve(run, x, with_recurrence):
    """Outputs `[S, 4]`, their gradients by name `[S, 4, P]`, numbers of spikes `[S, 2]`."""

    def one(x):
        p = trained(x, with_recurrence)
        value, pull, number = jax.vjp(lambda p: run(p, x), p, has_aux=True)
        (gradient,) = jax.vmap(pull)(jnp.eye(len(OUTPUTS)))
        rows = {k: v for k, v in gradient.items() if k != "physics"}
        rows |= gradient["physics"]._asdict()
        return value, {k: v.reshape(len(OUTPUTS), -1) for k, v in rows.items()}, number

    return jax.tree.map(np.asarray, jit(jax.vmap(one))(x))


def order(errors):
    """Slope against dt of errors `[dt]`, both as logarithms."""
    return np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def test_grid_is_of_second_order_with_several_spikes_a_neuron():
    x = networks(2, (0.2, 2.4))
    value, gradient, number = solve(exact, x, False)
    assert (number[:, 0] > N).any()
    found = [solve(functools.partial(on_grid, dt), x, False) for dt in STEPS]
    # The gradient of a network that has gained or lost a spike on some grid is that of another network.
    kept = np.all([n == number for _, _, n in found], axis=(0, 2))
    assert kept.sum() >= 0.8 * NETWORKS
    orders = {}
    for k, output in enumerate(OUTPUTS):
        orders[output] = order(
            [np.median(np.abs(v - value)[kept, k]) for v, _, _ in found]
        )
        for name, want in gradient.items():
            size = np.linalg.norm(want[kept, k], axis=1)
            if np.median(size) < 1e-6:
                continue
            off = [np.linalg.norm(g[name] - want, axis=2)[kept, k] for _, g, _ in found]
            orders[output, name] = order(np.median(off, axis=1))
    assert len(orders) > 20
    # Medians over 10 networks scatter around 2; first order would be 1.
    assert min(orders.values()) > 1.6, orders
