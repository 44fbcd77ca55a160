"""The one-layer reference: its stored spikes and gradients, its worked example, its kick."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REFERENCE, needs

from jsnn.eventprop import LIFParams, TimedSpikes, counts, kick_silent, synapse
from jsnn.eventprop.euler import euler_lif
from jsnn.eventprop.latency import binary_spikes, spread
from jsnn.eventprop.losses import first_spike_cross_entropy, first_spike_times

# Compiling is what these tests cost, so it goes without optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

FILE = REFERENCE / "eventprop_seed.npz"


def layer(w, z, dt=1.0, **options):
    drive = synapse.synapse(synapse.dense, w, TimedSpikes(z))
    return euler_lif(LIFParams(), drive, dt=dt, **options)


@needs(FILE)
@pytest.mark.parametrize("x64", [False, True])
def test_stored_spikes_and_gradients(x64):
    """Spikes equal; gradients to 1e-5 of their size, the rounding of float32 in both programs."""
    stored = np.load(FILE)
    assert (stored["dt"], stored["tau_mem"], stored["tau_syn"]) == (1, 20, 5)
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        z = jnp.asarray(stored["spikes_in"].transpose(2, 0, 1), dtype)
        w = jnp.asarray(stored["weight"].T, dtype)
        bar = jnp.asarray(stored["cotangent"].transpose(2, 0, 1), dtype)

        def both(w, z, bar):
            out, pull = jax.vjp(lambda w, z: layer(w, z).values, w, z)
            return (out, *pull(bar))

        out, grad_weight, grad_input = map(np.asarray, jit(both)(w, z, bar))
    want = stored["spikes_out"].transpose(2, 0, 1)
    assert want.sum() > 10
    np.testing.assert_array_equal(out, want)
    for got, name in (
        (grad_weight.T, "grad_weight"),
        (grad_input.transpose(1, 2, 0), "grad_input"),
    ):
        error = np.linalg.norm(got - stored[name]) / np.linalg.norm(stored[name])
        assert error < 1e-5


def test_worked_example():
    """Two neurons, three inputs that spike at 1, 2 and 5; both outputs spike at 5 and 8."""
    w = jnp.array([[8.0, 6.0, 5.0], [9.0, 1.0, 7.0]]).T
    z = jnp.zeros((10, 1, 3)).at[1, 0, 0].set(1).at[2, 0, 1].set(1).at[5, 0, 2].set(1)

    def loss(w, z, **options):
        spikes = layer(w, z, **options)
        times = first_spike_times(spikes, dt=1.0, silent=9.0)
        value = first_spike_cross_entropy(times, jnp.array([1]), tau_softmax=0.4 * 5)
        return value.sum(), (spikes.values, times)

    grad = jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, (spikes, times)), (dw, dz) = grad(w, z)
    np.testing.assert_array_equal(
        np.argwhere(spikes[:, 0].T), [[0, 5], [0, 8], [1, 5], [1, 8]]
    )
    np.testing.assert_array_equal(times, [[5, 5]])
    # Given to six digits.
    np.testing.assert_allclose(value, 0.693147, atol=1e-6)
    np.testing.assert_allclose(
        dw.T, [[0.012906, 0.009809, 0], [-0.020706, -0.015737, 0]], atol=1e-6
    )
    np.testing.assert_allclose(
        dz[:, 0, 0],
        [0.071620, 0.099705, 0.135346, 0.180461, 0, 0, 0, 0, 0, 0],
        atol=1e-6,
    )
    full = jit(jax.grad(lambda w: loss(w, z, omit_tau_syn=False), has_aux=True))(w)
    np.testing.assert_allclose(full[0], 5.0 * dw, rtol=1e-5)


def test_half_the_step_finds_nearly_the_same_times():
    """dt is a step size here and not a unit: latencies agree to the coarser step and its Euler error."""
    w = jnp.array([[8.0, 6.0, 5.0], [9.0, 1.0, 7.0]]).T
    at = jnp.array([1.0, 2.0, 5.0])
    times = {}
    for dt in (1.0, 0.1):
        steps = jnp.round(at / dt).astype(int)
        z = jnp.zeros((round(20 / dt), 1, 3)).at[steps, 0, jnp.arange(3)].set(1)
        run = jit(lambda z, dt=dt: first_spike_times(layer(w, z, dt=dt), dt=dt))
        times[dt] = run(z)
    assert np.isfinite(times[0.1]).all()
    np.testing.assert_allclose(times[1.0], times[0.1], atol=2.5)
    assert not np.array_equal(times[1.0], times[0.1])


def test_physics_of_the_reference_cannot_be_differentiated():
    z = jnp.ones((5, 1, 3))
    drive = synapse.synapse(synapse.dense, jnp.ones((3, 2)), TimedSpikes(z))

    def loss(tau):
        return euler_lif(LIFParams(tau_mem=tau), drive, dt=1.0).values.sum()

    with pytest.raises(ValueError, match="`params`"):
        jax.grad(loss)(20.0)


def test_kick_wakes_whoever_missed_a_sample():
    """Against a NumPy loop; kicks are whole multiples of the amount and go to the silent only."""
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 30)) ** 2)
    z = spread(
        binary_spikes(images, t_min=2.0, t_max=12.0, num_steps=20, dt=1.0)
    ).values
    np.testing.assert_array_equal(np.asarray(z.sum(0)), 1.0)  # each input spikes once
    w = jnp.concatenate([jnp.full((30, 1), 0.6), jnp.full((30, 2), -0.25)], axis=1)
    got = jit(lambda w: kick_silent(w, lambda w: layer(w, z)))(w)
    number = jit(lambda w: counts(layer(w, z)))
    want = np.asarray(w)
    for _ in range(100):
        silent = (np.asarray(number(want)) == 0).any(0)
        if not silent.any():
            break
        want = want + np.float32(0.1) * silent
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert (np.asarray(number(got)) > 0).all()
    np.testing.assert_array_equal(got[:, 0], w[:, 0])
    assert (got[:, 1] > w[:, 1]).all()


def test_kick_gives_up_on_an_input_without_spikes():
    got = kick_silent(
        jnp.zeros((3, 2)), lambda w: layer(w, jnp.zeros((5, 1, 3))), max_rounds=4
    )
    np.testing.assert_allclose(got, 0.4, rtol=1e-6)
