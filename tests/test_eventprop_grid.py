"""Grid EventProp against a NumPy loop in the letters of the paper, autodiff, and its own equivalents."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jsnn.eventprop import (
    Drive,
    LIFParams,
    LIParams,
    OccupiedSpikes,
    RatePenalty,
    TimedSpikes,
    counts,
    synapse,
)
from jsnn.eventprop.flow import flow
from jsnn.eventprop.grid import leaky_integrator, lif
from jsnn.eventprop.grid_step import Crossing, GridState, pack, unpack
from jsnn.eventprop.spikes import from_times

# Compiling is what these tests cost, so it goes without optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

T, B, NUM_IN, N = 120, 3, 6, 5
TAUS = {"4": (20.0, 5.0), "equal": (8.0, 8.0), "below 1": (4.0, 16.0)}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def vjp(run, *args):
    """`(bar) -> (value, gradients)`, compiled as a whole."""

    def both(args, bar):
        value, pull = jax.vjp(run, *args)
        return value, pull(bar)

    return lambda bar: jit(both)(jax.tree.map(jnp.asarray, args), bar)


def coefficients(tau_m, tau_s, dt):
    a, b = np.exp(-dt / tau_m), np.exp(-dt / tau_s)
    if tau_m == tau_s:
        return a, b, dt / tau_m * a, dt / tau_m * a
    share = (a - b) / (tau_m - tau_s)
    return a, b, tau_s * share, tau_m * share


def parabola(end, slope, x):
    """Through 0 with `slope`, and through `end` at 1: how the adjoint flows over a part x of a step."""
    return slope * x + (end - slope) * x**2


def numpy_layer(
    w, w_rec, z_in, z_bar, taus, dt, *, delay, slope, reset, theta=1.0, v_r=0.1
):
    """Forward and adjoint of a recurrent layer, step by step, with lambda_V and lambda_I."""
    tau_m, tau_s = taus
    a, b, kap, gam = coefficients(tau_m, tau_s, dt)
    v = i = np.zeros((B, N))
    z, g, left = np.zeros((T, B, N)), np.ones((T, B, N)), np.zeros((T, B, N))
    heard = np.zeros((T + delay, B, N))
    for n in range(T):
        vm, im = a * v + kap * i, b * i
        z[n] = vm >= theta
        # A membrane that a subtraction left above threshold crosses at once.
        fraction = np.maximum(theta - v, 0.0) / np.where(z[n] > 0, vm - v, 1.0)
        g[n] = {
            "substep": i + fraction * (im - i) - theta,
            "membrane": im - vm,
            "threshold": im - theta,
        }[slope]
        if reset == "hard":
            after = v_r
        else:
            left[n] = z[n] * (1.0 - fraction)
            after = vm - (theta - v_r) * np.exp(-left[n] * dt / tau_m)
        v = np.where(z[n] > 0, after, vm)
        # A spike in the middle of a step arrives in halves, a delay later.
        heard[n + delay - 1] += z[n] * left[n]
        heard[n + delay] += z[n] * (1.0 - left[n])
        i = im + z_in[n] @ w + heard[n] @ w_rec
    g = np.maximum(g, 1e-2)
    lv = li = np.zeros((B, N))
    dw, dw_rec, dz = np.zeros_like(w), np.zeros_like(w_rec), np.zeros_like(z_in)
    dtheta = dv_r = 0.0
    ct = np.zeros((T + delay, B, N))
    for n in reversed(range(T)):
        ct[n] = lv - li
        dw += z_in[n].T @ (-tau_s * li)
        dz[n] = ct[n] @ w.T
        dw_rec += heard[n].T @ (-tau_s * li)
        soon, later = (ct[n + delay - k] @ w_rec.T for k in (1, 0))
        after = lv * (1.0 + parabola(a - 1.0, -dt / tau_m, left[n]))
        jump = (
            z[n]
            * ((theta - v_r) * after + z_bar[n] + later + left[n] * (soon - later))
            / g[n]
        )
        here = z[n] > 0
        dv_r -= tau_m * after[here].sum()
        dtheta += tau_m * (after + jump)[here].sum()
        rest = 1.0 - left[n]
        li = b * li + gam * lv + parabola(gam, dt / tau_s, rest) * jump
        lv = a * lv + (1.0 + parabola(a - 1.0, -dt / tau_m, rest)) * jump
    return z, dw, dw_rec, dz, dtheta, dv_r


def inputs(seed, density=0.08):
    rng = np.random.default_rng(seed)
    z_in = (rng.uniform(size=(T, B, NUM_IN)) < density).astype(float)
    w = rng.uniform(0.5, 3.0, (NUM_IN, N))
    w_rec = rng.normal(0.0, 0.8, (N, N))
    return z_in, w, w_rec, rng.normal(size=(T, B, N))


@pytest.mark.parametrize(
    ("taus", "dt", "delay", "slope", "reset"),
    [
        ("4", 1.0, 1, "substep", "hard"),
        ("4", 0.3, 4, "membrane", "hard"),
        ("equal", 0.5, 3, "threshold", "subtract"),
        ("below 1", 0.7, 2, "substep", "subtract"),
    ],
)
def test_recurrent_layer_equals_numpy_loop(taus, dt, delay, slope, reset):
    z_in, w, w_rec, z_bar = inputs(0)
    want = numpy_layer(
        w, w_rec, z_in, z_bar, TAUS[taus], dt, delay=delay, slope=slope, reset=reset
    )

    def run(w, w_rec, z_in, threshold, v_r):
        params = LIFParams(*TAUS[taus], threshold, v_r)
        drive = synapse.synapse(synapse.dense, w, TimedSpikes(z_in))
        _, z = lif(
            params,
            None,
            drive,
            dt=dt,
            weights=w_rec,
            delay_steps=delay,
            slope=slope,
            reset=reset,
        )
        return z.values

    z, gradients = vjp(run, w, w_rec, z_in, 1.0, 0.1)(z_bar)
    got = (z, *gradients)
    assert want[0].sum() > 40  # spikes, and recurrent ones that matter
    assert np.abs(want[2]).max() > 1e-3
    np.testing.assert_array_equal(got[0], want[0])
    for have, expected in zip(got[1:], want[1:], strict=True):
        # Same operations in float64, other order; gradients reach 1e3 in size.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(have, expected, rtol=1e-10, atol=1e-10 * scale)


def test_layer_without_recurrence_equals_one_with_zero_weights():
    z_in, w, w_rec, z_bar = inputs(1)
    params = LIFParams(tau_mem=jnp.full(N, 19.0))
    drive = synapse.synapse(
        synapse.dense, jnp.asarray(w), TimedSpikes(jnp.asarray(z_in))
    )

    def plain(params, mass, time):
        return lif(params, None, Drive(mass, time), dt=0.5)[1].values

    def recurrent(params, mass, time):
        zero = jnp.zeros_like(jnp.asarray(w_rec))
        drive = Drive(mass, time)
        return lif(params, None, drive, dt=0.5, weights=zero)[1].values

    results = []
    for run in (plain, recurrent):
        results.append(vjp(run, params, *drive)(z_bar))
    assert results[0][0].sum() > 20
    assert float(jnp.abs(results[0][1][0].tau_mem).max()) > 1e-3
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12), *results
    )


def test_gradient_of_time_constants_equals_numpy_loop():
    """Independent of the code: dL/dtau of each flow by central differences of its coefficients, weighted with the adjoint."""
    (tau_m, tau_s), dt, eps = TAUS["4"], 0.5, 1e-5
    z_in, w, _, z_bar = inputs(2)

    def adjoint_sum(index):
        taus = [tau_m, tau_s]
        change = []
        for sign in (1, -1):
            shifted = list(taus)
            shifted[index] += sign * eps
            change.append(np.array(coefficients(*shifted, dt)[:3]))
        da, db, dk = (change[0] - change[1]) / (2 * eps)
        a, b, kap, gam = coefficients(tau_m, tau_s, dt)
        v = i = np.zeros((B, N))
        past, z, g = [], [], []
        for n in range(T):
            past.append((v, i))
            vm, im = a * v + kap * i, b * i
            z.append(vm >= 1.0)
            g.append(np.maximum(im - 1.0, 1e-2))
            v, i = np.where(z[n], 0.0, vm), im + z_in[n] @ w
        lv = li = np.zeros((B, N))
        total = 0.0
        for n in reversed(range(T)):
            li, lv = b * li + gam * lv, a * lv
            lv = np.where(z[n], lv + (lv + z_bar[n]) / g[n], lv)
            v, i = past[n]
            total += np.sum(-tau_m * lv * (da * v + dk * i) - tau_s * li * db * i)
        return total

    def run(params):
        drive = synapse.synapse(
            synapse.dense, jnp.asarray(w), TimedSpikes(jnp.asarray(z_in))
        )
        options = dict(slope="threshold", reset="hard")
        return lif(params, None, drive, dt=dt, **options)[1].values

    z, (got,) = vjp(run, LIFParams(tau_m, tau_s))(z_bar)
    assert float(z.sum()) > 20
    # The reference differences coefficients: 1e-5² of truncation, 1e-16 / 1e-5 of rounding.
    np.testing.assert_allclose(got.tau_mem, adjoint_sum(0), rtol=1e-7)
    np.testing.assert_allclose(got.tau_syn, adjoint_sum(1), rtol=1e-7)


@pytest.mark.parametrize("taus", [TAUS["4"], TAUS["equal"]], ids=["4", "equal"])
def test_leaky_integrator_equals_autodiff(taus):
    """Of the plain scan: the system is linear, so the adjoint is backpropagation. Also with respect to the time constants."""
    dt = 0.7
    rng = np.random.default_rng(0)
    u, v_bar = (jnp.asarray(rng.normal(size=(T, B, N))) for _ in range(2))

    def plain(params, u):
        a, b, kappa = flow(jnp.asarray(dt), *params)

        def step(carry, x):
            v, i = a * carry[0] + kappa * carry[1], b * carry[1] + x
            return (v, i), v

        return jax.lax.scan(step, (jnp.zeros((B, N)),) * 2, u)

    def loss(run):
        def f(params, u):
            (_, i, *_), v = run(params, u)
            return jnp.sum(v * v_bar) + jnp.sum(jnp.sin(i))

        return f

    def mass_only(params, u):
        fixed = jax.lax.stop_gradient(u)
        return leaky_integrator(params, None, Drive(u, fixed), dt=dt)

    params = LIParams(*map(jnp.asarray, taus))
    np.testing.assert_allclose(
        mass_only(params, u)[1], plain(params, u)[1], rtol=1e-12, atol=1e-12
    )
    got = jit(jax.grad(loss(mass_only), argnums=(0, 1)))(params, u)
    want = jit(jax.grad(loss(plain), argnums=(0, 1)))(params, u)
    assert float(jnp.abs(want[0].tau_mem)) > 1e-3
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), got, want
    )


def test_time_cotangent_is_the_derivative_of_moving_an_arrival():
    """Of a leaky integrator, to which moving an input by one step and back is an experiment that can be done."""
    dt, at = 1e-3, 500
    u = jnp.zeros((1200, 1, 1)).at[at].set(1.5)

    def loss(u, time):
        _, v = leaky_integrator(LIParams(), None, Drive(u, time), dt=dt)
        return jnp.sum(v**2) * dt

    run = jit(loss)
    moved = run(jnp.roll(u, 1, 0), u) - run(jnp.roll(u, -1, 0), u)
    time = jit(jax.grad(loss, argnums=1))(u, u)[at, 0, 0]
    # Order dt² of the difference and order dt of the sampled loss.
    np.testing.assert_allclose(1.5 * time, moved / (2 * dt), rtol=5e-3)


def test_convolution_equals_its_dense_matrix():
    rng = np.random.default_rng(0)
    z = (rng.uniform(size=(40, 2, 5, 5, 2)) < 0.2).astype(float)
    kernel = rng.uniform(size=(3, 3, 2, 3))
    linear = synapse.conv()
    eye = jnp.eye(50).reshape(50, 5, 5, 2)

    def by_conv(kernel, z):
        drive = synapse.synapse(linear, kernel, TimedSpikes(z))
        return lif(LIFParams(), None, drive, dt=0.5)[1].values

    def by_matrix(kernel, z):
        matrix = linear(kernel, eye).reshape(50, -1)
        drive = synapse.synapse(
            synapse.dense, matrix, TimedSpikes(z.reshape(40, 2, -1))
        )
        return lif(LIFParams(), None, drive, dt=0.5)[1].values

    z_bar = rng.normal(size=(40, 2, 3, 3, 3))
    a, got = vjp(by_conv, kernel, z)(z_bar)
    b, want = vjp(by_matrix, kernel, z)(z_bar.reshape(40, 2, -1))
    assert float(a.sum()) > 50
    np.testing.assert_array_equal(a.reshape(b.shape), b)
    for x, y in zip(got, want, strict=True):
        assert float(jnp.abs(y).max()) > 1e-3
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11 * np.abs(y).max())


def test_average_pool_composes():
    """Pooling after the spikes equals pooling folded into the weights."""
    rng = np.random.default_rng(0)
    z = jnp.asarray((rng.uniform(size=(40, 2, 4, 4, 3)) < 0.2).astype(float))
    w = jnp.asarray(rng.uniform(0.5, 4.0, (12, 5)))
    pool = synapse.avg_pool(2)
    matrix = pool(jnp.eye(48).reshape(48, 4, 4, 3)).reshape(48, 12)

    def pooled(w, z):
        p = synapse.relay(lambda x: pool(x).reshape(-1, 12), TimedSpikes(z))
        drive = synapse.synapse(synapse.dense, w, p)
        return lif(LIFParams(), None, drive, dt=0.5)[1].values

    def folded(w, z):
        drive = synapse.synapse(
            synapse.dense, matrix @ w, TimedSpikes(z.reshape(40, 2, -1))
        )
        return lif(LIFParams(), None, drive, dt=0.5)[1].values

    z_bar = jnp.asarray(rng.normal(size=(40, 2, 5)))
    a, got = vjp(pooled, w, z)(z_bar)
    b, want = vjp(folded, w, z)(z_bar)
    assert float(a.sum()) > 20
    np.testing.assert_array_equal(a, b)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11)


def test_occupied_steps_equal_the_whole_grid():
    """Two spikes' worth of steps, one of them twice, against all 30."""
    rng = np.random.default_rng(0)
    z = jnp.asarray((rng.uniform(size=(3, 2, NUM_IN)) < 0.7).astype(float))
    steps = jnp.array([4, 11, 4])
    w = jnp.asarray(rng.uniform(0.5, 3.0, (NUM_IN, N)))
    full = jnp.zeros((30, 2, NUM_IN)).at[steps].add(z)

    def loss(w, values, spikes):
        spikes = dataclasses.replace(spikes, values=values)
        _, v = leaky_integrator(
            LIParams(), None, synapse.synapse(synapse.dense, w, spikes), dt=0.5
        )
        return jnp.sum(v**2)

    occupied = OccupiedSpikes(z, steps, 30)
    grad = jit(jax.value_and_grad(loss, argnums=(0, 1)))
    got = grad(w, z, occupied)
    want = grad(w, full, TimedSpikes(full))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[1][0], want[1][0], rtol=1e-5)
    np.testing.assert_allclose(got[1][1], want[1][1][steps], rtol=1e-5)


def test_input_times_get_their_gradient():
    """The spike's entry hands dL/dt to its time; infinite times get none."""
    times = jnp.array([[3.0, jnp.inf, 7.2]])
    t_bar = jnp.arange(36.0).reshape(12, 1, 3)
    z, (gradient,) = vjp(lambda t: from_times(t, num_steps=12, dt=1.0).values, times)(
        t_bar
    )
    np.testing.assert_array_equal(np.argwhere(z), [[3, 0, 0], [7, 0, 2]])
    np.testing.assert_array_equal(gradient, [[9.0, 0.0, 23.0]])


@pytest.mark.parametrize("block", [1, 8])
def test_blocks_equal_the_whole(block):
    """State and gradient pass from block to block; the recurrent delay of 3 is longer than one block and no divisor of others."""
    z_in, w, w_rec, z_bar = inputs(3)
    w, w_rec, z_bar = map(jnp.asarray, (w, w_rec, z_bar))

    def layer(w, w_rec, state, z):
        drive = synapse.synapse(synapse.dense, w, TimedSpikes(z))
        recurrence = {"weights": w_rec, "delay_steps": 3}
        return lif(LIFParams(), state, drive, dt=0.5, **recurrence)

    def whole(w, w_rec, z):
        return jnp.sum(layer(w, w_rec, None, z)[1].values * z_bar)

    def blocks(w, w_rec, z):
        def cut(x):
            return x.reshape(-1, block, *x.shape[1:])

        zeros = jnp.zeros((B, N))
        rest = GridState(zeros, zeros, pending=jnp.zeros((3, B, N)))

        def body(state, x):
            state, s = layer(w, w_rec, state, x[0])
            return state, jnp.sum(s.values * x[1])

        return jax.lax.scan(body, rest, (cut(z), cut(z_bar)))[1].sum()

    args = (w, w_rec, jnp.asarray(z_in))
    got = jit(jax.value_and_grad(blocks, argnums=(0, 1, 2)))(*args)
    want = jit(jax.value_and_grad(whole, argnums=(0, 1, 2)))(*args)
    assert float(jnp.abs(want[1][1]).max()) > 1e-3
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            x, y, rtol=1e-11, atol=1e-11 * np.abs(y).max()
        ),
        got,
        want,
    )


def test_vmap_over_physics_equals_a_loop():
    z_in, w, _, z_bar = inputs(4)
    w, z_in, z_bar = (jnp.asarray(x, jnp.float32) for x in (w, z_in, z_bar))

    def gradient(tau_mem, w):
        def loss(w):
            drive = synapse.synapse(synapse.dense, w, TimedSpikes(z_in))
            z = lif(LIFParams(tau_mem=tau_mem), None, drive, dt=0.5)[1]
            return jnp.sum(z.values * z_bar)

        return jax.grad(loss)(w)

    taus = jnp.array([10.0, 20.0, 40.0])
    got = jit(jax.vmap(gradient, in_axes=(0, None)))(taus, w)
    one = jit(gradient)
    want = np.stack([one(t, w) for t in taus])
    assert len({float(jnp.abs(x).sum()) for x in want}) == 3
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, -3.0])
def test_silent_neurons_have_zero_gradient_and_no_nan(weight):
    z_in, *_ = inputs(5)

    def loss(w):
        drive = synapse.synapse(synapse.dense, w, TimedSpikes(jnp.asarray(z_in)))
        state, z = lif(LIFParams(), None, drive, dt=1.0)
        return jnp.sum(z.values) + 0.0 * jnp.sum(state.v), counts(z)

    g, n = jit(jax.grad(loss, has_aux=True))(jnp.full((NUM_IN, N), weight))
    assert float(n.sum()) == 0
    np.testing.assert_array_equal(g, 0.0)


def test_grazing_spike_has_a_finite_gradient():
    """The weight at which a single input just reaches threshold, from above: the true slope tends to zero."""
    z = jnp.zeros((60, 1, 1)).at[0].set(1.0)

    def run(w):
        drive = synapse.synapse(synapse.dense, w, TimedSpikes(z))
        return lif(LIFParams(), None, drive, dt=1.0)[1].values

    @jit
    def both(w):  # one program for search and gradient, so that both round alike
        out, pull = jax.vjp(run, w)
        return out.sum(), pull(jnp.ones_like(out))[0]

    low, high = 1.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if both(jnp.full((1, 1), middle))[0] > 0:
            high = middle
        else:
            low = middle
    # Not the very last bit: spike and slope are rounded apart.
    number, g = both(jnp.full((1, 1), high * (1 + 1e-12)))
    assert number == 1
    assert np.isfinite(g).all()
    assert 0 < abs(float(g[0, 0])) < 1e4


def test_residuals_take_four_bytes_a_neuron_a_step():
    """T = 1,000. Only slope and place of the crossings; the inputs are not among them."""
    shape = (1000, 2, 8)
    u = jnp.full(shape, 0.3, jnp.float32)

    def run(u):
        return lif(LIFParams(), None, Drive(u, u), dt=1.0)[1].values

    pull = jax.eval_shape(lambda u: jax.vjp(run, u)[1], u)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull))
    assert 4 <= size / np.prod(shape) < 4.1


def test_slope_and_place_of_a_crossing_share_a_word():
    """13 and 10 binary digits in float32, rounded; all of them in float64. No spike stays none."""
    rng = np.random.default_rng(0)
    inverse = np.exp(rng.uniform(-14, 14, 1000)) * (rng.uniform(size=1000) < 0.7)
    left = np.where(inverse > 0, rng.uniform(size=1000), 0.0)
    left[inverse > 0][:2] = 0.0, 1.0
    for dtype, size in ((jnp.float32, 4), (jnp.float64, 16)):
        given = Crossing(jnp.asarray(inverse, dtype), jnp.asarray(left, dtype))
        kept = jit(pack)(given)
        assert sum(x.itemsize for x in jax.tree.leaves(kept)) == size
        got = jit(unpack)(kept)
        np.testing.assert_array_equal(got.inverse == 0, inverse == 0)
        digits = (13, 10) if dtype == jnp.float32 else (52, 52)
        exact = dict(rtol=1.01 * 2.0 ** -(digits[0] + 1), atol=0)
        np.testing.assert_allclose(got.inverse, inverse, **exact)
        half = 1.01 * 2.0 ** -(digits[1] + 1)
        np.testing.assert_allclose(got.left, left, rtol=0, atol=half)


def test_rate_penalty_pushes_towards_its_target():
    """Against its published form, for a neuron that spikes once: lV -= strength (N - nu) / B right at the spike."""
    tau_m, tau_s, dt = 20.0, 5.0, 0.5
    z = jnp.zeros((40, 2, 1)).at[1].set(1.0)

    def grad(penalty):
        def loss(w):
            drive = synapse.synapse(synapse.dense, w, TimedSpikes(z))
            spikes = lif(LIFParams(tau_m, tau_s), None, drive, dt=dt, penalty=penalty)[
                1
            ]
            return 0.0 * spikes.values.sum(), spikes.values

        (_, spikes), g = jit(jax.value_and_grad(loss, has_aux=True))(
            jnp.full((1, 1), 9.0)
        )
        return g[0, 0], np.asarray(spikes)

    g, spikes = grad(RatePenalty(too_many=0.3, too_few=0.5, target=0.25))
    per_sample = spikes.sum(0).mean()
    assert per_sample >= 1
    lv = li = np.zeros(2)
    want = 0.0
    at = dt * 39
    for n in reversed(range(40)):
        if n == 1:
            a, b, _, gam = coefficients(tau_m, tau_s, at - dt)
            want += np.sum(-tau_s * (b * li + gam * lv))
        # The push is not divided by the slope, but what it left behind is multiplied by the exact jump.
        if spikes[n, 0, 0] > 0:
            g_n, left = slope_at(n, dt, tau_m, tau_s)
            crossing = dt * (n - left)
            a, b, _, gam = coefficients(tau_m, tau_s, at - crossing)
            li, lv, at = b * li + gam * lv, a * lv, crossing
            lv = lv + lv / g_n - 0.3 * (per_sample - 0.25) / 2
    np.testing.assert_allclose(g, want, rtol=1e-4)
    assert g > 0  # descent lowers the weight, and with it the rate
    low, _ = grad(RatePenalty(too_many=0.3, too_few=0.5, target=50.0))
    assert low < 0


def slope_at(n, dt, tau_m, tau_s):
    """Of the neuron above, one arrival of weight 9 at step 1; and the part of the step left after the crossing."""
    a, b, kap, _ = coefficients(tau_m, tau_s, dt)
    v = i = 0.0
    for k in range(n + 1):
        before_v, before_i = v, i
        v, i = a * v + kap * i, b * i
        fired = v >= 1.0
        f = (1.0 - before_v) / (v - before_v) if fired else 0.0
        if k == n:
            return max(before_i + f * (i - before_i) - 1.0, 1e-2), 1 - f
        v = v - np.exp(-(1 - f) * dt / tau_m) if fired else v
        i += 9.0 if k == 1 else 0.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(dt=0.0), "dt"),
        (dict(dt=1.0, slope="steep"), "slope"),
        (dict(dt=1.0, reset="soft"), "reset"),
        (dict(dt=1.0, min_slope=0.0), "min_slope"),
        (dict(dt=1.0, params=LIFParams(tau_mem=-1.0)), "tau_mem"),
        (dict(dt=1.0, params=LIFParams(threshold=0.0)), "threshold"),
        (dict(dt=1.0, params=LIFParams(tau_mem=jnp.ones(4))), "one value a neuron"),
    ],
)
def test_errors_say_what_to_change(options, match):
    u = jnp.zeros((3, 2, 5))
    params = options.pop("params", LIFParams())
    # In a test session the runtime type checker may speak first.
    with pytest.raises((ValueError, TypeCheckError), match=match):
        lif(params, None, Drive(u, u), **options)
