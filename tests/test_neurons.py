"""Neurons: one contract for all, float64 loops written from the equations, stored snnTorch runs, closed forms."""

import functools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from conftest import REFERENCE, needs
from dual_loops import NEURONS, B, N, cotangents, currents, dual_gradients

from jsnn import neurons, surrogate

contract = pytest.mark.parametrize("name", NEURONS)


@contract
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_step_is_a_scan_body(name, dtype):
    """Shapes and dtypes of the state survive a step, whatever the parameters' dtype, and nothing is promoted implicitly."""
    neuron, _ = NEURONS[name]
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        state = jax.eval_shape(lambda: neuron.init((B, N), jnp.dtype(dtype)))
        x = jax.ShapeDtypeStruct((B, N), jnp.dtype(dtype))
        out, y = jax.eval_shape(functools.partial(neuron.step, neuron.params), state, x)
    assert out == state
    assert (y.shape, y.dtype) == ((B, N), jnp.dtype(dtype))


def swept(params):
    """Three values of every parameter, stacked."""
    scale = np.array([0.8, 0.9, 1.0], np.float32)
    return jax.tree.map(
        lambda p: np.multiply.outer(scale, np.asarray(p, np.float32)), params
    )


def lane(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


@contract
def test_step_traces_once(name):
    neuron, _ = NEURONS[name]
    traces = 0

    @jax.jit
    def step(params, state, x):
        nonlocal traces
        traces += 1
        return neuron.step(params, state, x)

    params, x = swept(neuron.params), currents()[0]
    state = jax.tree.map(np.asarray, neuron.init((B, N)))
    for i in range(3):
        step(lane(params, i), state, x)
    assert traces == 1


@contract
def test_sweep_equals_float64_loops(name):
    """`vmap` over parameters of a scan, in float64, against a loop over parameters and time: spikes, membranes, gradients."""
    neuron, loop = NEURONS[name]
    params, x = swept(neuron.params), currents(np.float64)
    g, g_v = cotangents()

    def objective(params, x):
        state = neuron.init((B, N), x.dtype)
        step = functools.partial(neuron.step, params)
        state, y = jax.lax.scan(lambda s, x: step(s, x), state, x)
        v = getattr(state, "neuron", state).v
        return (g * y).sum() + (g_v * v).sum(), (y, v)

    run = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, params)
        (_, outputs), gradients = jax.jit(jax.vmap(run, (0, None)))(params, x)
    # Float64 throughout, sums of some hundred terms.
    tight = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    for i in range(3):
        y, v, *want = dual_gradients(loop, lane(params, i), x)
        if "leaky" in name:
            tight(outputs[0][i], y)
        else:
            np.testing.assert_array_equal(outputs[0][i], y)
            assert 0.1 < y.mean() < 0.9
            # Spikes in a row, for the delayed resets.
            assert np.any(y[1:] * y[:-1]) == (not neuron.refractory)
        tight(outputs[1][i], v)
        jax.tree.map(tight, lane(gradients, i), tuple(want))
        assert all(np.any(d != 0) for d in jax.tree.leaves(want[0]))
        assert np.all(want[1][-1] != 0) or neuron.refractory
    assert not np.array_equal(outputs[0][0], outputs[0][2])


@pytest.mark.parametrize("spike_at", [">", ">="])
@pytest.mark.parametrize(
    "make", [neurons.lif, neurons.current_lif, neurons.adaptive_lif]
)
def test_spike_at_threshold(make, spike_at):
    """Half and half again of 1 make exactly the threshold."""
    neuron = make(beta=0.5, threshold=1.0, spike_at=spike_at)
    _, spikes = neuron.step(neuron.params, neuron.init((1, 1)), jnp.ones((1, 1)))
    assert float(spikes[0, 0]) == (spike_at == ">=")


def trace(neuron, x):
    """Spikes and membranes of all steps."""

    def step(state, x):
        state, y = neuron.step(neuron.params, state, x)
        return state, (y, state.v)

    return jax.lax.scan(step, neuron.init(x.shape[1:]), x)[1]


def test_golden_sequence_of_the_class_incremental_reference():
    """seed-systems §1.1: immediate soft reset, spike at equality."""
    x = jnp.array([0.4, 0.4, 0.4, 0.4, 1.5, 0, 0])
    spikes, v = trace(neurons.lif(beta=0.9, spike_at=">="), x)
    np.testing.assert_array_equal(spikes, [0, 0, 1, 0, 1, 0, 0])
    want = [0.4, 0.76, 0.084, 0.4756, 0.92804, 0.83524, 0.75171]
    np.testing.assert_allclose(v, want, atol=5e-6)  # as printed


def test_golden_sequence_of_the_csnn_reference():
    """seed-systems §2.1: soft reset one step later."""
    x = jnp.array([0.6, 0.6, 0.6, 0.6, 2.5, 0, 0])
    spikes, v = trace(neurons.lif(beta=0.5, delayed_reset=True), x)
    np.testing.assert_array_equal(spikes, [0, 0, 1, 0, 1, 0, 0])
    want = [0.6, 0.9, 1.05, 0.125, 2.5625, 0.28125, 0.14062]
    np.testing.assert_allclose(v, want, atol=6e-6)  # as printed


def check_against(stored, neuron, prefix=""):
    x, g = jnp.asarray(stored["currents"]), jnp.asarray(stored["cotangent"])

    @jax.jit
    def run(x):
        (spikes, v), vjp = jax.vjp(functools.partial(trace, neuron), x)
        return spikes, v, vjp((g, jnp.zeros_like(v)))[0]

    spikes, v, gradient = run(x)
    want = stored[f"{prefix}grad"]
    assert 0.05 < stored[f"{prefix}spikes"].mean() < 0.8
    np.testing.assert_array_equal(spikes, stored[f"{prefix}spikes"])
    np.testing.assert_allclose(v, stored[f"{prefix}membrane"], rtol=0, atol=1e-5)
    # The stored gradients are float32 sums themselves; entries far below the largest carry its rounding.
    np.testing.assert_allclose(
        gradient, want, rtol=1e-4, atol=1e-6 * np.abs(want).max()
    )


@needs(REFERENCE / "lif_snntorch.npz")
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize(
    ("suffix", "spike_fn"),
    [
        ("fast_sigmoid25", surrogate.fast_sigmoid(25.0)),
        ("atan2", surrogate.arctan(2.0)),
        ("sigmoid5", surrogate.sigmoid(5.0)),
    ],
)
def test_equals_stored_snntorch(reset, suffix, spike_fn):
    neuron = neurons.lif(beta=0.9, reset=reset, delayed_reset=True, spike_fn=spike_fn)
    with np.load(REFERENCE / "lif_snntorch.npz") as stored:
        check_against(stored, neuron, f"{reset}.{suffix}.")


@needs(REFERENCE / "lif_cil_seed.npz")
def test_equals_stored_class_incremental_reference():
    with np.load(REFERENCE / "lif_cil_seed.npz") as stored:
        neuron = neurons.lif(
            beta=float(stored["beta"]),
            threshold=float(stored["threshold"]),
            detach_reset=False,
            spike_at=">=",
            spike_fn=surrogate.arctan_fixed_peak(float(stored["alpha"])),
        )
        check_against(stored, neuron)


def test_default_surrogate_is_the_documented_one():
    lif = neurons.lif()
    gradient = jax.grad(
        lambda x: lif.step(lif.params, neurons.LIFState(x), x)[1].sum()
    )(jnp.full(1, 0.5))
    u = 0.9 * 0.5 + 0.5 - 1
    np.testing.assert_allclose(gradient, 1.9 / (1 + 25 * abs(u)) ** 2, rtol=1e-5)


@pytest.mark.parametrize("drive", [0.13, 0.3, 0.7])
def test_rate_follows_from_the_drive(drive):
    """From rest v_n = x (1 - beta^n) / (1 - beta), so a hard reset makes the period the first n with v_n > 1."""
    beta, steps = 0.9, 60
    period = math.ceil(math.log(1 - (1 - beta) / drive) / math.log(beta))
    spikes, _ = trace(neurons.lif(beta=beta, reset="zero"), jnp.full(steps, drive))
    assert steps // period >= 3
    np.testing.assert_array_equal(
        np.flatnonzero(spikes), np.arange(period - 1, steps, period)
    )


def test_soft_reset_without_leak_conserves_charge():
    """What came in is in the membrane or was spiked away; in multiples of 1/8 without rounding."""
    x = jnp.asarray(np.random.default_rng(2).integers(0, 12, (50, 4)) / 8, jnp.float32)
    spikes, v = trace(neurons.integrate_and_fire(), x)
    assert spikes.sum() > 50
    np.testing.assert_array_equal(x.sum(0), spikes.sum(0) + v[-1])


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_refractory_period_by_hand(reset):
    """R = 2: a spike at t, silence at t + 1 and t + 2 whatever comes in, and from t + 3 on as before. Norse's and Lava's counting."""
    x = jnp.array([1.5, 9, 9, 0.25, 1.5, 9, 9, 9])
    neuron = neurons.lif(beta=0.5, reset=reset, refractory=2)
    spikes, v = trace(neuron, x)
    np.testing.assert_array_equal(spikes, [1, 0, 0, 0, 1, 0, 0, 1])
    if reset == "zero":
        np.testing.assert_array_equal(v, [0, 0, 0, 0.25, 0, 0, 0, 0])
    else:
        want = [0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 8.375]
        np.testing.assert_array_equal(v, want)


def test_no_refractory_period_is_the_neuron_as_it_was():
    """The same state, and the same program."""
    for make in (neurons.lif, neurons.current_lif, neurons.adaptive_lif):
        plain, zero = make(), make(refractory=0)
        state = plain.init((B, N))
        assert jax.tree.structure(state) == jax.tree.structure(zero.init((B, N)))
        programs = [
            str(jax.make_jaxpr(n.step)(n.params, state, state.v)) for n in (plain, zero)
        ]
        assert programs[0] == programs[1]
        assert zero.refractory == 0


def test_a_recurrent_layer_may_rest():
    x = jnp.full((4, 1, 1), 2.0)
    neuron = neurons.recurrent(neurons.lif(refractory=1), jnp.ones((1, 1)))
    state, found = neuron.init((1, 1)), []
    for x_t in x:
        state, s = neuron.step(neuron.params, state, x_t)
        found.append(s.item())
    assert found == [1, 0, 1, 0]


def test_decay_makes_time_constants():
    assert neurons.decay(1e-3, 20e-3) == pytest.approx(math.exp(-0.05))
    tau = jnp.array([5e-3, 20e-3])
    want = np.exp([-0.2, -0.05])
    np.testing.assert_allclose(neurons.decay(1e-3, tau), want, rtol=1e-6)
    neuron = neurons.leaky_integrator(beta=neurons.decay(1e-3, 10e-3))
    _, v = trace(neuron, jnp.zeros(20).at[0].set(1.0))
    np.testing.assert_allclose(v, np.exp(-np.arange(20) / 10), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neurons.lif(reset="soft"), "`reset`.*'subtract'.*'soft'"),
        (lambda: neurons.lif(spike_at="=="), "`spike_at`.*'>='.*'=='"),
        (lambda: neurons.lif(beta=-0.1), r"`beta`.*\[0, 1\].*-0.1.*decay"),
        (lambda: neurons.lif(beta=1.5), r"`beta`.*\[0, 1\].*1.5"),
        (lambda: neurons.lif(beta=math.nan), r"`beta`.*\[0, 1\].*nan"),
        (lambda: neurons.lif(threshold=0), "`threshold` must be positive.*0"),
        (lambda: neurons.lif(threshold=math.inf), "`threshold`.*finite.*inf"),
        (lambda: neurons.integrate_and_fire(threshold=-1), "`threshold`.*-1"),
        (lambda: neurons.current_lif(alpha=2.0), "`alpha`.*2.0"),
        (lambda: neurons.current_lif(beta=-1.0), "`beta`.*-1.0"),
        (lambda: neurons.adaptive_lif(rho=-1.0), "`rho`.*-1.0"),
        (lambda: neurons.adaptive_lif(beta=2.0), "`beta`.*2.0"),
        (lambda: neurons.adaptive_lif(threshold=0.0), "`threshold`.*0.0"),
        (lambda: neurons.adaptive_lif(reset="soft"), "`reset`.*'soft'"),
        (lambda: neurons.adaptive_lif(spike_at="<"), "`spike_at`.*'<'"),
        (lambda: neurons.leaky_integrator(beta=-0.5), "`beta`.*-0.5"),
        (lambda: neurons.lif(refractory=-1), "`refractory` must not be negative.*-1"),
        (lambda: neurons.lif(refractory=1.5), "`refractory` must be a whole number"),
        (lambda: neurons.adaptive_lif(refractory=-1), "`refractory`.*-1"),
        (
            lambda: neurons.current_lif(refractory=2, delayed_reset=True),
            "`refractory` is 2, which needs delayed_reset=False",
        ),
        (lambda: neurons.decay(0.0, 1.0), "`dt`.*0.0"),
        (lambda: neurons.decay(1.0, -2.0), "`tau`.*-2.0"),
    ],
)
def test_errors_name_argument_and_value(call, message, monkeypatch):
    # What a user sees, who runs without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call()
