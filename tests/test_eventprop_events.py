"""The exact solver: gradients against central finite differences, its edges, and what it does when a budget is short."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import TypeCheckError

from jsnn.eventprop import (
    Arrivals,
    EventSpikes,
    LIFParams,
    LIParams,
    Recurrence,
    event_layers,
    feed_forward,
    first_spikes,
    input_spikes,
    solve,
)
from jsnn.eventprop.event_layers import recurrent

NUM_IN, N, BATCH, T_END = 6, 5, 2, 60.0
EPS = 1e-6
# Central differences: EPS² of truncation, 1e-16 / EPS of rounding, on losses of order 1.
TOLERANCE = {"t": 1e-5}


# Compiling is what these tests cost, so it goes without optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def values(seed, delays):
    """Weights, input times, delays and physics of a layer, one value a neuron."""
    rng = np.random.default_rng(seed)
    shapes = {"axon": (N,), "synapse": (N, N), "instant": (N, N)}
    draws = {
        "w": rng.uniform(1, 5, (NUM_IN, N)),
        "t": rng.uniform(0, 35, (BATCH, NUM_IN)),
        "w_rec": rng.normal(0, 1, (N, N)),
        "d": rng.uniform(0.5, 5, shapes[delays]),
        "d_in": rng.uniform(0, 4, NUM_IN),
        "tau_mem": rng.uniform(18, 22, N),
        "tau_syn": rng.uniform(4, 6, N),
        "threshold": rng.uniform(0.9, 1.1, N),
        "reset": rng.uniform(-0.1, 0.1, N),
    }
    return jax.tree.map(jnp.asarray, draws), rng


def physics(x):
    return LIFParams(x["tau_mem"], x["tau_syn"], x["threshold"], x["reset"])


def check_against_differences(loss, x, *, absent=()):
    """`loss(x) -> (value, (which neurons spiked, overflow))`; the order of spikes must not change within the differences."""
    flat, unravel = ravel_pytree(x)
    shifts = EPS * jnp.concatenate([jnp.eye(flat.size), -jnp.eye(flat.size)])
    points = flat[None] + jnp.concatenate([jnp.zeros((1, flat.size)), shifts])
    # One program for all: what these tests cost is compiling.
    run = jax.vmap(jax.value_and_grad(lambda s: loss(unravel(s)), has_aux=True))
    (values, (neuron, overflow)), grads = jit(run)(points)
    assert (neuron[0] >= 0).sum() > 15
    assert not overflow.any()
    np.testing.assert_array_equal(neuron, np.broadcast_to(neuron[:1], neuron.shape))
    grad = unravel(grads[0])
    plus, minus = values[1:].reshape(2, -1)
    want = unravel((plus - minus) / (2 * EPS))
    for name in x:
        if name in absent:
            np.testing.assert_array_equal(grad[name], 0.0)
            continue
        size = np.linalg.norm(want[name])
        assert size > 1e-4, f"{name} is not exercised"
        error = np.linalg.norm(grad[name] - want[name]) / size
        assert error < TOLERANCE.get(name, 1e-6), (name, error)


def spike_time_loss(times, c):
    """Smooth in every spike time, differently for each."""
    return jnp.sum(jnp.where(jnp.isfinite(times), jnp.sin(0.3 * times) * c, 0.0))


@pytest.mark.parametrize("delays", ["axon", "synapse", "instant"])
def test_recurrent_gradients_equal_finite_differences(delays):
    """Under jit and vmap: weights, recurrent weights, both kinds of delays, input times, thresholds, resets, time constants."""
    x, rng = values(0, delays)
    c = jnp.asarray(rng.normal(size=(BATCH, 60)))

    def loss(x):
        def one(t, c):
            rec = Recurrence(x["w_rec"], None if delays == "instant" else x["d"])
            s = recurrent(
                physics(x),
                x["w"],
                rec,
                input_spikes(t),
                delays=x["d_in"],
                t_end=T_END,
                max_spikes=60,
            )
            return spike_time_loss(s.times, c), (s.neuron, s.overflow)

        value, aux = jax.vmap(one)(x["t"], c)
        return value.sum(), aux

    check_against_differences(loss, x, absent=("d",) if delays == "instant" else ())


def test_gradients_through_layers_equal_finite_differences():
    """Delayed synapses, a hidden layer, and every read-out: what a network is trained with."""
    x, rng = values(1, "instant")
    x = {k: v for k, v in x.items() if k not in ("w_rec", "d", "d_in")}
    x["d"] = jnp.asarray(rng.uniform(0, 5, (NUM_IN, N)))
    x["w_out"] = jnp.asarray(rng.uniform(-1, 3, (N, 3)))
    x["d_out"] = jnp.asarray(rng.uniform(0, 3, N))
    x["tau_out"] = jnp.asarray([17.0, 6.0])
    c = jnp.asarray(rng.normal(size=(BATCH, 4, 3)))
    reads = (
        event_layers.mean_voltage,
        event_layers.weighted_voltage,
        event_layers.max_voltage,
    )

    def loss(x):
        def one(t, c):
            inputs = input_spikes(t)
            options = dict(delays=x["d"], t_end=T_END, max_spikes=8)
            hidden = feed_forward(physics(x), x["w"], inputs, **options)
            out = first_spikes(
                LIFParams(), x["w_out"], hidden, delays=x["d_out"], t_end=T_END
            )
            value = spike_time_loss(out.times, c[3])
            li = LIParams(x["tau_out"][0], x["tau_out"][1])
            for k, read in enumerate(reads):
                value += jnp.sum(read(li, x["w_out"], hidden, t_end=T_END) * c[k])
            return value, (hidden.neuron, out.overflow | jnp.isinf(out.times).any())

        value, aux = jax.vmap(one)(x["t"], c)
        return value.sum(), aux

    check_against_differences(loss, x)


@pytest.mark.parametrize("tau_syn", [5.0, 10.0, 20.0])
def test_spikes_equal_a_fine_simulation(tau_syn):
    """A NumPy loop of 1 microsecond steps, recurrent, two closed forms and Newton: same neurons in the same order, times to its step."""
    x, _ = values(2, "axon")
    rec = Recurrence(x["w_rec"], jnp.round(x["d"], 2))
    arrivals = input_spikes(jnp.round(x["t"][0], 2))
    jumps = x["w"][arrivals.neuron] * (2.0 if tau_syn == 5 else 1.0)
    run = jit(
        lambda: solve(
            LIFParams(tau_syn=tau_syn),
            Arrivals(arrivals.times, jumps),
            rec,
            t_end=30.0,
            max_spikes=80,
        )
    )
    got = run()
    dt, steps = 1e-3, 30_000
    a, b = np.exp(-dt / 20.0), np.exp(-dt / tau_syn)
    kap = dt / 20.0 * a if tau_syn == 20 else tau_syn / (20 - tau_syn) * (a - b)
    u = np.zeros((steps + 6000, N))
    for t, jump in zip(np.asarray(arrivals.times), np.asarray(jumps), strict=True):
        u[round(t / dt)] += jump
    delay = np.round(np.asarray(rec.delays) / dt).astype(int)
    w_rec = np.asarray(x["w_rec"])
    v = i = np.zeros(N)
    spikes = []
    for n in range(1, steps):
        i = i + u[n - 1]
        v, i = a * v + kap * i, b * i
        for j in np.flatnonzero(v >= 1.0):
            spikes.append((n * dt, j))
            v[j] = 0.0
            u[n + delay[j]] += w_rec[j]
    count = len(spikes)
    assert count > 5
    assert not got.overflow
    assert int(jnp.isfinite(got.times).sum()) == count
    np.testing.assert_array_equal(got.neuron[:count], [j for _, j in spikes])
    np.testing.assert_allclose(got.times[:count], [t for t, _ in spikes], atol=0.05)


def test_feed_forward_equals_one_clock_for_all():
    """Neuron by neuron and all in one loop: the same spikes, the same gradients."""
    x, rng = values(3, "instant")
    c = jnp.asarray(rng.normal(size=N * 8))

    def by_neuron(w, t):
        s = feed_forward(LIFParams(), w, input_spikes(t), t_end=T_END, max_spikes=8)
        return spike_time_loss(s.times, c), s

    def one_clock(w, t):
        i = input_spikes(t)
        s = solve(
            LIFParams(), Arrivals(i.times, w[i.neuron]), t_end=T_END, max_spikes=N * 8
        )
        return spike_time_loss(s.times, c), s

    args = (x["w"], x["t"][0])
    (_, a), got = jit(jax.value_and_grad(by_neuron, argnums=(0, 1), has_aux=True))(
        *args
    )
    (_, b), want = jit(jax.value_and_grad(one_clock, argnums=(0, 1), has_aux=True))(
        *args
    )
    assert (a.neuron >= 0).sum() > 10
    np.testing.assert_array_equal(a.neuron, b.neuron)
    np.testing.assert_allclose(a.times, b.times, rtol=1e-12)
    for g, h in zip(got, want, strict=True):
        np.testing.assert_allclose(g, h, rtol=1e-9, atol=1e-12)


def test_read_outs_equal_a_fine_sum():
    """Membranes on a grid of 1 microsecond: the mean and weighted integrals by the trapezium rule, the maximum by looking."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 50, 12))
    times[9:] = np.inf
    neuron = rng.integers(0, 4, 12)
    neuron[9:] = -1
    w = rng.normal(0, 2, (4, 3))
    spikes = EventSpikes(
        jnp.asarray(times), jnp.asarray(neuron, jnp.int32), jnp.zeros((), bool)
    )
    t = np.linspace(0, T_END, 60_001)
    for taus in ((20.0, 5.0), (10.0, 10.0)):
        v = np.zeros((t.size, 3))
        for at, k in zip(times[:9], neuron[:9], strict=True):
            s = np.maximum(t - at, 0.0)
            if taus[0] == taus[1]:
                psp = s / taus[0] * np.exp(-s / taus[0])
            else:
                psp = (
                    taus[1]
                    / (taus[0] - taus[1])
                    * (np.exp(-s / taus[0]) - np.exp(-s / taus[1]))
                )
            v += psp[:, None] * w[k]
        weight = np.exp(-t / T_END)[:, None]
        want = {
            "mean_voltage": np.trapezoid(v, t, axis=0) / T_END,
            "weighted_voltage": np.trapezoid(v * weight, t, axis=0) / T_END,
            "max_voltage": v.max(0),
        }

        def read(w, taus=taus, names=tuple(want)):
            reads = (getattr(event_layers, name) for name in names)
            return [r(LIParams(*taus), w, spikes, t_end=T_END) for r in reads]

        for got, expected in zip(jit(read)(w), want.values(), strict=True):
            # The trapezium rule is off where an arrival bends the curve, dt² for each, the maximum where it falls between points.
            np.testing.assert_allclose(got, expected, atol=5e-5)


def test_overflow_is_reported():
    """Neither flag nor NaN can be missed, one budget below the need and not at it, through layers as well."""
    x, _ = values(3, "instant")
    spikes = input_spikes(x["t"][0])

    @jit
    def exact(w):
        return feed_forward(LIFParams(), w, spikes, t_end=T_END, max_spikes=8)

    number = int((exact(x["w"]).neuron >= 0).sum())
    assert number > 5
    arrivals = Arrivals(spikes.times, x["w"][spikes.neuron])

    def solve_for(arrivals, budget, **options):
        return jit(
            lambda a: solve(LIFParams(), a, t_end=T_END, max_spikes=budget, **options)
        )(arrivals)

    enough = solve_for(arrivals, number)
    assert not enough.overflow
    assert int(jnp.isfinite(enough.times).sum()) == number
    short = solve_for(arrivals, number - 1)
    assert short.overflow
    assert np.isnan(short.times).all()

    @jit
    def layers(w, w_out):
        options = dict(t_end=T_END, max_spikes=8)
        merged = feed_forward(LIFParams(), w, spikes, max_events=number - 1, **options)
        return merged, first_spikes(LIFParams(), w_out, merged, t_end=T_END)

    for out in layers(x["w"], jnp.ones((N, 2))):
        assert out.overflow
        assert np.isnan(out.times).all()


def test_first_spike_is_the_first_of_all():
    x, _ = values(3, "instant")
    spikes = input_spikes(x["t"][0])

    @jit
    def both(w):
        return (
            feed_forward(LIFParams(), w, spikes, t_end=T_END, max_spikes=8),
            first_spikes(LIFParams(), w, spikes, t_end=T_END),
        )

    all_of_them, first = both(x["w"])
    assert not first.overflow
    for n in range(N):
        mine = np.asarray(all_of_them.times)[np.asarray(all_of_them.neuron) == n]
        np.testing.assert_allclose(first.times[n], mine.min() if mine.size else np.inf)


def test_silent_networks_have_zero_gradient_and_no_nan():
    x, _ = values(4, "axon")

    def loss(x):
        spikes = input_spikes(x["t"][0])
        s = recurrent(
            physics(x),
            -x["w"],
            Recurrence(x["w_rec"], x["d"]),
            spikes,
            t_end=T_END,
            max_spikes=4,
        )
        out = first_spikes(LIFParams(), x["w_rec"], s, t_end=T_END)
        times = jnp.concatenate([s.times, out.times])
        return jnp.sum(jnp.where(jnp.isfinite(times), times, 60.0)), s.neuron

    (value, neuron), grad = jit(jax.value_and_grad(loss, has_aux=True))(x)
    assert (neuron == -1).all()
    assert np.isfinite(value)
    for g in jax.tree.leaves(grad):
        np.testing.assert_array_equal(g, 0.0)


def test_grazing_spike_has_a_finite_gradient():
    """A peak that clears threshold by 1e-12 of it: the true gradient is about 1e6, and finite."""
    weight = 4.0 ** (4.0 / 3.0) * (1 + 1e-12)

    def first(w):
        arrivals = Arrivals(jnp.zeros(1), jnp.full((1, 1), w))
        return solve(LIFParams(), arrivals, t_end=T_END, max_spikes=2).times[0]

    time, g = jit(jax.value_and_grad(first))(weight)
    np.testing.assert_allclose(time, 20 / 3 * np.log(4.0), rtol=1e-4)
    assert np.isfinite(g)
    assert -1e8 < g < -1e3


def test_absent_inputs_and_ties():
    """Infinite inputs do nothing and get no gradient; two inputs at the same time act like their sum."""
    w = jnp.asarray(np.random.default_rng(0).uniform(3, 6, (3, 2)))

    def loss(t, w):
        s = first_spikes(LIFParams(), w, input_spikes(t), t_end=T_END)
        return s.times.sum()

    grad = jit(jax.value_and_grad(loss, argnums=(0, 1)))
    got = grad(jnp.array([2.0, 2.0, jnp.inf]), w)
    want = grad(
        jnp.array([2.0, jnp.inf, jnp.inf]), w[:1].at[0].add(w[1]) + jnp.zeros((3, 2))
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got[1][0].sum(), want[1][0].sum(), rtol=1e-12)
    assert got[1][0][2] == 0
    np.testing.assert_allclose(got[1][1][0], got[1][1][1], rtol=1e-12)
    np.testing.assert_array_equal(got[1][1][2], 0.0)


def test_nothing_but_the_event_list_is_kept():
    """Unless a time constant is differentiated, no residual has the size of events times neurons."""
    many = 64
    spikes = input_spikes(jnp.linspace(0, 30, 10))
    w = jnp.ones((10, many))

    def times(w, p):
        return solve(
            p, Arrivals(spikes.times, w), t_end=T_END, max_spikes=70, on_overflow="flag"
        ).times

    def largest(pull):
        return max(x.size for x in jax.tree.leaves(pull) if hasattr(x, "size"))

    p = LIFParams()
    events = 10 + 70 + 1
    pull = jax.eval_shape(lambda w: jax.vjp(lambda w: times(w, p), w)[1], w)
    assert largest(pull) < events * 10
    p = jax.tree.map(jnp.asarray, p)
    pull = jax.eval_shape(lambda p: jax.vjp(lambda p: times(w, p), p)[1], p)
    assert largest(pull) >= events * many


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(max_spikes=0), "`max_spikes`"),
        (dict(max_spikes=2, min_slope=0.0), "`min_slope`"),
        (dict(max_spikes=2, crossing="double"), "tau_mem / tau_syn"),
        (
            dict(max_spikes=2, recurrence=Recurrence(np.ones((3, 3)))),
            "recurrence.weights",
        ),
        (
            dict(max_spikes=2, recurrence=Recurrence(np.ones((2, 2)), np.ones(5))),
            "recurrence.delays",
        ),
    ],
)
def test_errors_say_what_to_change(options, match):
    rec = options.pop("recurrence", None)
    rec = (
        None
        if rec is None
        else Recurrence(*(x if x is None else jnp.asarray(x) for x in rec))
    )
    with pytest.raises(ValueError, match=match):
        solve(
            LIFParams(),
            Arrivals(jnp.zeros(1), jnp.ones((1, 2))),
            rec,
            t_end=9.0,
            **options,
        )


ONE = Arrivals(np.zeros(1), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("params", "arrivals", "t_end", "match"),
    [
        (dict(threshold=0.0, reset=-1.0), ONE, 9.0, "`threshold`"),
        (dict(threshold=np.array([1.0, -0.5]), reset=-1.0), ONE, 9.0, "`threshold`"),
        (dict(threshold=1.0, reset=np.float32(1.0)), ONE, 9.0, "`reset`"),
        (dict(), Arrivals(np.zeros(1), np.full((1, 2), np.nan)), 9.0, "jumps"),
        (dict(), Arrivals(np.zeros(1), np.full((1, 2), np.inf)), 9.0, "jumps"),
        (dict(), Arrivals(np.full(1, np.nan), np.ones((1, 2))), 9.0, "times"),
        (dict(), Arrivals(np.zeros(3), np.ones((1, 2))), 9.0, "jumps"),
        (dict(), ONE, -1.0, "`t_end`"),
        (dict(), ONE, jnp.nan, "`t_end`"),
    ],
)
def test_what_cannot_be_solved_is_refused(params, arrivals, t_end, match):
    with pytest.raises((ValueError, TypeCheckError), match=match):
        solve(
            LIFParams(**params),
            Arrivals(*map(jnp.asarray, arrivals)),
            t_end=t_end,
            max_spikes=4,
        )


@pytest.mark.parametrize(
    ("weights", "delays", "match"),
    [
        (np.full((3, 2), np.nan), None, "`weights`"),
        (np.ones((2, 2)), None, "`weights` has 2 rows"),
        (np.ones((3, 2)), np.full(3, np.nan), "`delays`"),
    ],
)
def test_layers_refuse_what_they_know_and_flag_what_they_find(weights, delays, match):
    """Before a run in words; in a compiled one by NaN, which no loss takes for silence."""
    spikes = input_spikes(jnp.array([1.0, 2.0, 3.0]))
    rec = Recurrence(jnp.zeros((2, 2)))
    layers = {
        "feed forward": lambda s, w, d: feed_forward(
            LIFParams(), w, s, delays=d, t_end=T_END, max_spikes=3
        ),
        "first": lambda s, w, d: first_spikes(LIFParams(), w, s, delays=d, t_end=T_END),
        "recurrent": lambda s, w, d: recurrent(
            LIFParams(), w, rec, s, delays=d, t_end=T_END, max_spikes=6
        ),
    }
    args = spikes, jnp.asarray(weights), None if delays is None else jnp.asarray(delays)
    for layer in layers.values():
        with pytest.raises(ValueError, match=match):
            layer(*args)

    @jit
    def run(args):
        return [layer(*args) for layer in layers.values()]

    for out in run(args):
        assert out.overflow
        assert np.isnan(out.times).all()


def test_traced_physics_out_of_range_is_no_silence():
    spikes = input_spikes(jnp.array([1.0]))

    @jit
    @jax.vmap
    def run(threshold, reset):
        p = LIFParams(threshold=threshold, reset=reset)
        return first_spikes(p, jnp.full((1, 1), 9.0), spikes, t_end=T_END)

    out = run(jnp.array([1.0, 0.0, -0.1, 1.0]), jnp.array([0.0, -1.0, -1.0, 1.5]))
    np.testing.assert_array_equal(out.overflow, [False, True, True, True])
    np.testing.assert_array_equal(np.isnan(out.times[:, 0]), out.overflow)


def test_order_of_input_spikes_does_not_matter():
    """Sorted beforehand and not, compiled, with gradients: the same numbers, each gradient at its own spike."""
    rng = np.random.default_rng(0)
    times = jnp.asarray(rng.uniform(0, 30, 8)).at[5].set(jnp.inf)
    neuron = jnp.asarray(rng.integers(0, 3, 8), jnp.int32).at[5].set(-1)
    w = jnp.asarray(rng.uniform(2, 5, (3, 2)))
    rec, no = Recurrence(jnp.asarray(rng.normal(size=(2, 2)))), jnp.zeros((), bool)

    def loss(times, neuron):
        s = EventSpikes(times, neuron, no)
        jumps = jnp.where((neuron >= 0)[:, None], w[neuron], 0.0)
        options = dict(t_end=T_END, max_spikes=12)
        found = [
            solve(LIFParams(), Arrivals(times, jumps), **options).times,
            feed_forward(LIFParams(), w, s, **options).times,
            recurrent(LIFParams(), w, rec, s, **options).times,
            first_spikes(LIFParams(), w, s, t_end=T_END).times,
        ]
        return sum(spike_time_loss(t, 1.0) for t in found), jnp.concatenate(found)

    run = jit(jax.value_and_grad(loss, has_aux=True))
    (_, found), gradient = run(times, neuron)
    order = jnp.argsort(times)
    (_, want), sorted_gradient = run(times[order], neuron[order])
    assert np.isfinite(want).sum() > 12
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(gradient[order], sorted_gradient)
    assert (np.asarray(gradient)[np.isfinite(times)] != 0).any()
