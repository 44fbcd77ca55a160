"""Graphs of NIR as layers: against other simulators' stored outputs, and node by node against loops in NumPy."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REFERENCE, needs
from exchange_cases import cases

from jsnn import exchange

NIR = REFERENCE / "nir"
DT = 1e-4
ORACLES = pathlib.Path(__file__).with_name("oracles")
CASES = cases()


def ran(net, x):
    """Output over time of `x` `[T, B, ...]`."""
    run = jax.jit(lambda x: net(net.init_state(x.shape[1:]), x)[1])
    return np.asarray(run(jnp.asarray(x, jnp.float32)))


def column(name: str) -> np.ndarray:
    """Input, membranes and spikes of one simulator, `[3, T]`."""
    return np.loadtxt(NIR / f"lif_{name}.csv", delimiter=",").T


def lif_of(x: np.ndarray, **choices) -> tuple[np.ndarray, np.ndarray]:
    """Membranes after the reset and spikes of `lif_norse.nir`, `[T]` each."""
    net = exchange.from_nir(NIR / "lif_norse.nir", dt=DT, **choices)
    dense, layer = net.layers
    neuron, params = layer.model()

    def step(state, x_t):
        current = dense.forward(x_t)
        state, spikes = neuron.step(params, state, current)
        return state, (state.v, spikes)

    x = jnp.asarray(x, jnp.float32).reshape(-1, 1, 1)
    _, (v, spikes) = jax.lax.scan(step, neuron.init((1, 1)), x)
    assert np.array_equal(ran(net, x), spikes)
    return np.asarray(v).ravel(), np.asarray(spikes).ravel()


@needs(NIR)
def test_norse_gives_the_same_spikes_and_membranes():
    x, membranes, spikes = column("norse")
    v, z = lif_of(x, convention="norse")
    assert spikes.sum() == 4
    np.testing.assert_array_equal(z, spikes)
    np.testing.assert_allclose(v, membranes, atol=1e-6)  # float32 in both


@needs(NIR)
def test_snntorch_gives_the_same_in_its_own_unit():
    """It divides the threshold by the input's gain, 0.04, in place of multiplying the input."""
    x, membranes, spikes = column("snntorch")
    v, z = lif_of(x, convention="snntorch")
    np.testing.assert_array_equal(z, spikes)
    np.testing.assert_allclose(v / 0.04, membranes, rtol=1e-5, atol=1e-5)


@needs(NIR)
def test_the_continuous_solution_is_exact_until_the_first_spike():
    """After it, the stored solution goes on from the moment of the spike, within a step."""
    x, membranes, spikes = column("exact")
    v, z = lif_of(x, convention="exact")
    np.testing.assert_array_equal(z, spikes)
    first = int(np.argmax(spikes))
    np.testing.assert_allclose(v[:first], membranes[:first], atol=1e-7)
    assert np.abs(v - membranes).max() < 0.04 * 0.2  # less than one step of the input
    off, _ = lif_of(x, convention="norse")
    # Forward Euler is off by (dt / tau)² / 2 = 8e-4 after one input already.
    assert np.abs(off[:first] - membranes[:first]).max() > 5e-4


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match=r"`convention` must be one of 'norse'"):
        exchange.from_nir("x.nir", dt=1e-3, convention="lava")


@pytest.mark.parametrize("name", CASES)
def test_other_simulators_give_the_same_spikes_on_the_same_graphs(name):
    """Stored by `oracles/simulators.py`; inputs are drawn, so no membrane lies within rounding of the threshold."""
    case = CASES[name]
    net = exchange.from_nir(case.graph, **case.choices)
    y = ran(net, np.moveaxis(case.x, 2, -1))
    with np.load(ORACLES / "simulators.npz") as file:
        np.testing.assert_array_equal(y, file[name])
