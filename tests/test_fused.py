"""The fused kernel, its arithmetic interpreted on the CPU: what an uncut float64 loop gives, gradients of everything included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dual_loops import NEURONS, B, N, cotangents, currents, dual_gradients

from jsnn import neurons, surrogate
from jsnn.kernels import fused
from jsnn.unroll import Constant, neuron_block

ELEMENTWISE = [name for name, (neuron, _) in NEURONS.items() if neuron.elementwise]
tight = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_equals_the_float64_loop(name):
    """9 steps: eight at once and one left over; 6 neurons in a block of 32."""
    neuron, loop = NEURONS[name]
    x = currents(np.float64)
    y, v, *want = dual_gradients(loop, neuron.params, x)

    def run(params, x):
        state = neuron.init((B, N), jnp.float64)
        state, y = fused.run(neuron.step, params, state, x, interpret=True)
        return y, state.v

    with jax.enable_x64(True):
        got, vjp = jax.vjp(run, jax.tree.map(np.float64, neuron.params), x)
        gradients = vjp(cotangents())
    jax.tree.map(tight, got, (y, v))
    jax.tree.map(tight, gradients, tuple(want))
    assert np.any(want[1][0] != 0)


def both_ways(neuron, x, num_steps=None):
    """Output, last state and gradients by the kernel and by a scan, from a state that is not rest."""
    shape = x.shape if num_steps else x.shape[1:]
    state = jax.tree.map(lambda v: v + 0.3, neuron.init(shape))

    def kernel(params, state, x):
        return fused.run(
            neuron.step, params, state, x, num_steps=num_steps, interpret=True
        )

    def scan(params, state, x):
        def step(s, x_t):
            return neuron.step(params, s, x if num_steps else x_t)

        return jax.lax.scan(step, state, None if num_steps else x, length=num_steps)

    params = jax.tree.map(jnp.float32, neuron.params)
    found = []
    for run in (kernel, scan):
        out, pull = jax.vjp(run, params, state, x)
        weights = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size)), out)
        weights = jax.tree.map(lambda w, a: w.reshape(a.shape), weights, out)
        found.append((out, pull(weights)))
    return found


@pytest.mark.parametrize("steps", [1, 7, 8, 21])
def test_a_constant_current_and_a_state_that_is_not_rest(steps):
    rng = np.random.default_rng(0)
    x = rng.normal(0.4, 1, (3, 50)).astype(np.float32)
    for neuron in (neurons.adaptive_lif(), neurons.current_lif()):
        for num_steps, signal in (
            (steps, x),
            (None, np.stack([x, -x, x])[: steps % 3 + 1]),
        ):
            kernel, scan = both_ways(neuron, jnp.asarray(signal), num_steps)
            for a, b in zip(
                jax.tree.leaves(kernel), jax.tree.leaves(scan), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_under_vmap_over_parameters():
    """Each member of a sweep over beta is its single run."""
    x = jnp.asarray(np.random.default_rng(0).normal(0.4, 1, (10, 2, 40)), jnp.float32)
    neuron = neurons.lif()
    state = neuron.init((2, 40))

    def gradient(beta):
        def total(beta, x):
            params = neurons.LIFParams(beta, 1.0)
            return jnp.sin(
                fused.run(neuron.step, params, state, x, interpret=True)[1].sum()
            )

        return jax.grad(total, (0, 1))(beta, x)

    betas = jnp.array([0.3, 0.9])
    together = jax.vmap(gradient)(betas)
    for i, beta in enumerate(betas):
        for a, b in zip(together, gradient(beta), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-6)
    assert not np.allclose(together[0][0], together[0][1])


def test_what_a_kernel_cannot_hold_is_left_to_the_scan():
    x, state = jnp.ones((2, 3)), neurons.lif().init((2, 3))

    def fits(neuron, step=None):
        return fused.fits(step or neuron.step, neuron.params, state, x)

    assert all(fits(neurons.lif(spike_fn=f())) for f in surrogate.FACTORIES.values())

    traced = []

    def sweep(slope):
        traced.append(fits(neurons.lif(spike_fn=surrogate.fast_sigmoid(slope))))
        return slope

    jax.jit(sweep)(25.0)
    jax.vmap(sweep)(jnp.arange(1.0, 3.0))
    assert traced == [False, False]

    def two_outputs(params, state, x_t):
        new, y = neurons.lif().step(params, state, x_t)
        return new, jnp.stack([y, new.v])

    assert not fits(neurons.lif(), two_outputs)
    for odd in (jnp.ones((2, 3), jnp.int32), jnp.ones((2, 0))):
        neuron = neurons.lif()
        assert not fused.fits(neuron.step, neuron.params, neuron.init(odd.shape), odd)

    @jax.custom_vjp
    def within_itself(u, at_threshold=False):
        return (u > 0).astype(u.dtype)

    within_itself.defvjp(lambda u, _: (within_itself(u), None), lambda _, g: (g, None))

    def calls_itself(u, *, at_threshold=False):
        return within_itself(u)

    assert not fits(neurons.lif(spike_fn=calls_itself))
    assert not neurons.recurrent(neurons.lif(), jnp.eye(3)).elementwise


@pytest.mark.parametrize("members", [0, 3])
def test_the_kernels_compile_for_cuda(members):
    """As far as that goes without a GPU, to the code that the driver is handed; alone and `vmap`ped."""
    neuron = neurons.current_lif()

    def gradient(x):
        state = neuron.init(x.shape[1:])

        def total(x):
            return fused.run(neuron.step, neuron.params, state, x)[1].sum()

        return jax.grad(total)(x)

    x = jnp.zeros((members, 20, 2, 40) if members else (20, 2, 40))
    traced = jax.jit(jax.vmap(gradient) if members else gradient).trace(x)
    try:
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as error:
        pytest.skip(f"JAX {jax.__version__} wants a GPU for this: {error}")
    assert text.count("triton") == 2  # forward and backward
    assert "triton" not in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize("constant", [False, True])
def test_chosen_on_one_cuda_device_and_nowhere_else(monkeypatch, constant):
    neuron = neurons.lif()
    x = Constant(jnp.ones((2, 3)), 5) if constant else jnp.ones((5, 2, 3))
    calls = []

    def run(*args, **kwargs):
        calls.append(kwargs)
        return original(*args, **kwargs, interpret=True)

    original = fused.run
    monkeypatch.setattr(fused, "run", run)
    monkeypatch.setattr(fused, "pays", lambda: False)
    state, y = neuron_block(neuron, neuron.params)(neuron.init((2, 3)), x)
    assert not calls
    monkeypatch.setattr(fused, "pays", lambda: True)
    state_2, y_2 = neuron_block(neuron, neuron.params)(neuron.init((2, 3)), x)
    assert len(calls) == 1
    np.testing.assert_array_equal(y, y_2)
    np.testing.assert_array_equal(state.v, state_2.v)
    mixed = neurons.recurrent(neuron, jnp.eye(3))
    neuron_block(mixed, mixed.params)(mixed.init((2, 3)), x)
    assert len(calls) == 1
