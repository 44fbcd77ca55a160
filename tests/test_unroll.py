"""The time loop: every way to cut it gives what an uncut float64 loop over the equations gives."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dual_loops import NEURONS, B, N, T, cotangents, currents, dual_gradients

from jsnn import neurons
from jsnn.unroll import Constant, neuron_block, num_steps, per_step, unroll

SOME = [(1, False), (4, True)]  # 4 leaves 1 over
ALL = list(itertools.product((1, 3, 4, T), (False, True)))
# One of every factory, and every shape of state and parameters; block size and remat.
KINDS = {
    "lif_through_delayed": ALL,
    "lif_per_neuron": SOME,
    "integrate_and_fire": SOME,
    "current_lif_options": SOME,
    "adaptive_lif_options": SOME,
    "leaky_integrator": SOME,
    "recurrent": SOME,
}
# Float64 on both sides, sums of some hundred terms.
tight = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


def run(neuron, params, x, **schedule):
    """Outputs and the last membrane."""
    state = neuron.init((B, N), jnp.float64)
    state, y = unroll(neuron_block(neuron, params), state, x, **schedule)
    return y, getattr(state, "neuron", state).v


@pytest.mark.parametrize("name", KINDS)
def test_every_schedule_equals_the_float64_loop(name):
    """Spikes, membranes and gradients: one kind under all schedules, the others under the two extremes (XLA takes 0.3 s for each)."""
    neuron, loop = NEURONS[name]
    x = currents(np.float64)
    y, v, *want = dual_gradients(loop, neuron.params, x)

    @jax.jit
    def all_schedules(params, x):
        results = []
        for size, remat in KINDS[name]:
            fn = functools.partial(run, neuron, block_size=size, remat=remat)
            outputs, vjp = jax.vjp(fn, params, x)
            results.append((outputs, vjp(cotangents())))
        return results

    with jax.enable_x64(True):
        results = all_schedules(jax.tree.map(np.float64, neuron.params), x)
    for outputs, gradients in results:
        jax.tree.map(tight, outputs, (y, v))
        jax.tree.map(tight, gradients, tuple(want))
    assert np.any(want[1][0] != 0)


@pytest.mark.parametrize("name", ["lif_through_delayed", "recurrent"])
def test_constant_input_equals_the_repeated_one(name):
    """Spikes, and gradients of the image, which sum those of its repetitions."""
    neuron, _ = NEURONS[name]
    image = 0.5 * np.abs(currents(np.float64)[0])

    def repeated(image):
        return jnp.broadcast_to(image, (T, B, N))

    @jax.jit
    def both(image):
        results = []
        for make, size in itertools.product(
            (lambda x: Constant(x, T), repeated), (1, 4)
        ):
            outputs, vjp = jax.vjp(
                lambda x, make=make, size=size: run(
                    neuron, neuron.params, make(x), block_size=size
                ),
                image,
            )
            results.append((outputs, vjp(cotangents())))
        return results

    with jax.enable_x64(True):
        results = both(image)
    for constant, want in zip(results[:2], results[2:], strict=True):
        jax.tree.map(tight, constant, want)
    (spikes, _), (gradient,) = results[0]
    assert 0.1 < np.mean(np.asarray(spikes)) < 0.9
    assert np.all(np.asarray(gradient) != 0)


@pytest.mark.parametrize(("size", "remat"), [(1, False), (4, True), (None, False)])
def test_truncation_cuts_the_gradient_between_blocks_only(size, remat):
    """d v_i / d x_j of a leaky integrator is beta^(i - j) from j on: within a block of its own, zero across."""
    beta = 0.7
    neuron = neurons.leaky_integrator(beta=beta)

    def membranes(x, truncate):
        block = neuron_block(neuron, neuron.params)
        schedule = {"block_size": size, "remat": remat, "truncate": truncate}
        return unroll(block, neuron.init((1,)), x[:, None], **schedule)[1][:, 0]

    @jax.jit
    def evaluate(x):
        cut = functools.partial(membranes, truncate=True)
        return membranes(x, False), cut(x), jax.jacrev(cut)(x)

    plain, cut, jacobian = evaluate(jnp.arange(1.0, T + 1))
    i, j = np.indices((T, T))
    same_block = i // (size or T) == j // (size or T)
    want = np.where((i >= j) & same_block, beta ** np.maximum(i - j, 0.0), 0)
    np.testing.assert_allclose(jacobian, want, rtol=1e-6)
    np.testing.assert_array_equal(plain, cut)


def residuals(**schedule):
    """Numbers the backward pass of 36 steps of 20 neurons keeps, given an input that is not stored per step."""
    neuron = neurons.lif()

    def backward(x):
        block = neuron_block(neuron, neuron.params)
        run = functools.partial(unroll, block, neuron.init((20,)), **schedule)
        return jax.vjp(lambda x: run(Constant(x, 36)), x)[1]

    shapes = jax.eval_shape(backward, jax.ShapeDtypeStruct((20,), jnp.float32))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 20


def test_remat_stores_only_the_states_between_blocks():
    assert residuals(block_size=6) >= 36
    assert residuals(block_size=6, remat=True) <= 6 + 3  # and the input, and a constant
    assert residuals(remat=True) <= 1 + 3


def test_a_run_continues_from_its_state():
    neuron, _ = NEURONS["adaptive_lif"]
    block, x = neuron_block(neuron, neuron.params), jnp.asarray(currents())
    start = neuron.init((B, N))
    state, y = unroll(block, start, x, block_size=3)
    half, first = unroll(block, start, x[:5])
    end, second = unroll(block, half, x[5:], block_size=2)
    np.testing.assert_array_equal(y, np.concatenate([first, second]))
    # Compiled apart, a multiplication and an addition may be fused or not.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), state, end)
    assert y.sum() > 0


def test_constant_passes_through_vmap_and_jit():
    neuron = neurons.lif()
    images = jnp.linspace(0.1, 2.0, 3 * B * N).reshape(3, B, N)

    def spikes(x):
        block = neuron_block(neuron, neuron.params)
        return unroll(block, neuron.init((B, N)), x, block_size=2)[1]

    got = jax.jit(jax.vmap(spikes))(Constant(images, 5))
    one = jax.jit(spikes)
    want = np.stack([one(Constant(image, 5)) for image in images])
    assert got.shape == (3, 5, B, N)
    assert 0 < want.mean() < 1
    np.testing.assert_array_equal(got, want)


def test_per_step_folds_time_into_the_batch_and_visits_a_constant_once():
    shapes = []

    def fn(x):
        shapes.append(x.shape)
        return x.sum(-1, keepdims=True)

    x = jnp.arange(24.0).reshape(4, 3, 2)
    np.testing.assert_array_equal(per_step(fn, x), x.sum(-1, keepdims=True))
    y = per_step(fn, Constant(x[0], 4))
    assert isinstance(y, Constant)
    assert num_steps(y) == num_steps(x) == 4
    np.testing.assert_array_equal(y.value, x[0].sum(-1, keepdims=True))
    assert shapes == [(12, 2), (3, 2)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_constant_output_of_blocks_becomes_steps(size):
    def doubled(state, x):
        return state + num_steps(x), per_step(lambda x: 2 * x, x)

    value = jnp.arange(6.0).reshape(3, 2)
    state, y = unroll(doubled, jnp.zeros(()), Constant(value, 5), block_size=size)
    y = y.value[None].repeat(5, 0) if size == 5 else y
    np.testing.assert_array_equal(y, np.broadcast_to(2 * value, (5, 3, 2)))
    assert state == 5


@pytest.mark.parametrize(
    ("x", "size", "message"),
    [
        (np.zeros((0, B, N)), None, "`x` must have at least one time step.*0"),
        (np.zeros((T, B, N)), 0, "`block_size` must lie between 1 and .*9, got 0"),
        (np.zeros((T, B, N)), -3, "`block_size`.*got -3"),
        (np.zeros((T, B, N)), T + 1, "`block_size`.*9, got 10"),
    ],
)
def test_errors_name_argument_and_value(x, size, message):
    neuron = neurons.lif()
    block = neuron_block(neuron, neuron.params)
    with pytest.raises(ValueError, match=message):
        unroll(block, neuron.init((B, N)), jnp.asarray(x, jnp.float32), block_size=size)


def test_constant_needs_a_step():
    with pytest.raises(ValueError, match=r"`num_steps`.*at least 1, got 0"):
        Constant(jnp.zeros((B, N)), 0)
