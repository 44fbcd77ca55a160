"""The tables for users of other libraries: every name is there, and neurons spike as in the library, by its stored outputs."""

import pathlib
import re

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn

HERE = pathlib.Path(__file__).parent
PAGE = (HERE.parent / "docs/howto/coming_from.md").read_text()
HEADS = tuple(f"| {name} |" for name in ("snnTorch", "SpikingJelly", "Norse", "SpykeTorch", "Spyx", "Avalanche"))  # fmt: skip
LINES = [x for x in PAGE.splitlines() if x.startswith("| ") and not x.startswith(HEADS)]
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in LINES]
# Rows of neurons, by what stands in the library's column, and the stored output to which each is held.
STORED = {
    "`snn.Leaky(beta, threshold)`": "leaky_subtract_delay",
    '`snn.Leaky(beta, threshold, reset_mechanism="zero")`': "leaky_zero_delay",
    '`snn.Leaky(beta, threshold, reset_mechanism="zero", reset_delay=False)`': "leaky_zero_now",
    "`snn.Synaptic(alpha, beta)`": "synaptic_subtract_delay",
    "`neuron.LIFNode(tau, v_threshold=threshold)`": "lif_hard_decayed",
    "`neuron.LIFNode(tau, v_threshold=threshold, decay_input=False)`": "lif_hard_whole",
    "`neuron.LIFNode(tau, v_threshold=threshold, v_reset=None)`": "lif_soft_decayed",
    "`neuron.IFNode()`": "if_hard",
    "`neuron.IFNode(v_reset=None)`": "if_soft",
}
CODE = sorted({code for row in ROWS for code in re.findall(r"`([^`]*)`", row[1])})


def test_the_tables_are_read():
    assert len(ROWS) > 45
    assert set(STORED) <= {row[0] for row in ROWS}


@pytest.mark.parametrize("code", [c for c in CODE if "jsnn" in c and "..." not in c])
def test_names_are_there(code):
    known = {"jsnn": jsnn, "rngs": nnx.Rngs(0), "beta": 0.9, "alpha": 0.6, "threshold": 1.0, "tau": 2.0}  # fmt: skip
    assert eval(code, known) is not None


def test_methods_of_continual_learning_are_there():
    rows = [row for row in ROWS if row[0].startswith(("`Naive`", "`Replay", "`DER`", "`ICaRL`"))]  # fmt: skip
    names = [n for row in rows for n in re.findall(r'`"([\w+]+)"`', row[1])]
    assert len(names) == 13
    assert set(names) <= set(jsnn.continual.METHODS)


@pytest.mark.parametrize(("row", "stored"), STORED.items())
def test_a_neuron_spikes_as_in_its_library(row, stored):
    (code,) = [re.findall(r"`([^`]*)`", r[1])[0] for r in ROWS if r[0] == row]
    with np.load(HERE / "oracles" / "peers.npz") as file:
        x, y = jnp.asarray(file["x"], jnp.float32), file[f"{stored}/y"]
        known = {"jsnn": jsnn, "tau": 3.0, "threshold": 0.75}
        start = f"{stored}/state/0."
        known |= {k.removeprefix(start): jnp.asarray(file[k]) for k in file.files if k.startswith(start)}  # fmt: skip
    layer = eval(code, known)
    np.testing.assert_array_equal(layer(layer.init_state(x.shape[1:]), x)[1], y)
    assert 0 < y.mean() < 1


@pytest.fixture(scope="module")
def theirs():
    """Inputs, and what other libraries made of them: see tests/oracles/coming_from.py."""
    with np.load(HERE / "oracles" / "coming_from.npz") as file:
        return {name: file[name] for name in file.files}


def of_row(start, number=0):
    """What the code in jsnn's column of a row makes."""
    (row,) = [r for r in ROWS if r[0].startswith(start)]
    known = {"jsnn": jsnn, "beta": 0.9, "alpha": 0.8, "rngs": nnx.Rngs(0)}
    return eval([c for c in re.findall(r"`([^`]*)`", row[1]) if "jsnn" in c][number], known)  # fmt: skip


def ran(layer, x):
    x = jnp.asarray(x)
    return np.asarray(layer(layer.init_state(x.shape[1:]), x)[1])


def slope_of_beta(layer, x, weight):
    """Gradient of a weighted sum of spikes with respect to the logit of beta."""
    graphdef, model = nnx.split(layer)

    def loss(model):
        layer = nnx.merge(graphdef, model)
        return (layer(layer.init_state(x.shape[1:]), jnp.asarray(x))[1] * weight).sum()

    return jax.grad(loss)(model)["params"]["beta"][...]


# Rows of layers whose output is the same number for number: the library's column, the stored output, the factor on the input, and by how many steps ours is
# earlier.
LAYERS = {
    "`snn.Leaky(beta, learn_beta=True)`": ("snntorch/learn_beta/y", 1, 0),
    "`neuron.ParametricLIFNode()`": ("spikingjelly/plif/y", 2, 0),
    "`norse.LIFCell()`": ("norse/lif/y", 4, 0),
    "`spyx.nn.LIF": ("spyx/lif/y", 1, 1),
    "`spyx.nn.CuBaLIF": ("spyx/cuba/y", 1, 1),
}
CURVES = {
    "`surrogate.Sigmoid(alpha=4.0)`": ("spikingjelly/sigmoid", 1),
    "`surrogate.ATan(alpha=2.0)`": ("spikingjelly/arctan", 1),
    '`method="super"`': ("norse/superspike", 1),
    "`spyx.axn.arctan": ("spyx/arctan", 2 * np.pi),
    "`spyx.axn.superspike": ("spyx/superspike", 1),
}


@pytest.mark.parametrize(("row", "how"), LAYERS.items())
def test_a_layer_spikes_as_in_its_library(row, how, theirs):
    stored, factor, earlier = how
    y, want = ran(of_row(row), factor * theirs["x"]), theirs[stored]
    np.testing.assert_array_equal(y[: len(y) - earlier], want[earlier:])
    assert 0.1 < want.mean() < 0.95


@pytest.mark.parametrize(("row", "how"), CURVES.items())
def test_a_surrogate_has_the_slope_of_its_library(row, how, theirs):
    """To the rounding of float32."""
    stored, factor = how
    got = jax.vmap(jax.grad(of_row(row)))(jnp.asarray(theirs["curve"]))
    np.testing.assert_allclose(got, factor * theirs[stored], rtol=1e-4)


def test_a_decay_that_is_learnt_has_their_gradient(theirs):
    """Theirs is beta itself, or the logit of 1 - beta; ours is the logit of beta. A sum of 480 terms in float32."""
    x, weight = theirs["x"], theirs["weight"]
    got = slope_of_beta(of_row("`snn.Leaky(beta, learn_beta=True)`"), x, weight)
    want = 0.9 * 0.1 * theirs["snntorch/learn_beta/gradient"]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    got = slope_of_beta(of_row("`neuron.ParametricLIFNode()`"), 2 * x, weight)
    np.testing.assert_allclose(-got, theirs["spikingjelly/plif/gradient"], rtol=1e-4)


def test_a_recurrent_layer_spikes_as_in_snntorch(theirs):
    layer = of_row("`snn.RLeaky")
    layer.recurrent[...] = jnp.asarray(theirs["recurrent"])
    np.testing.assert_array_equal(ran(layer, theirs["x"]), theirs["snntorch/rleaky/y"])


def test_read_outs_integrate_as_in_their_libraries(theirs):
    """Sums of 40 steps in float32."""
    x = theirs["x"]
    np.testing.assert_allclose(ran(of_row("`spyx.nn.LI("), x), theirs["spyx/li/y"], atol=1e-5)  # fmt: skip
    current = ran(of_row("`norse.LICell()`"), x)
    got = ran(of_row("`norse.LICell()`", 1), current)
    np.testing.assert_allclose(got, theirs["norse/li/y"], atol=1e-5)


def test_several_steps_at_once_are_as_in_spikingjelly(theirs):
    layer = jsnn.LIF(beta=0.5, scale_input=True, reset="zero", spike_at=">=")
    got = ran(layer, 2 * theirs["x"])
    np.testing.assert_array_equal(got, theirs["spikingjelly/multi/y"])


def test_losses_are_theirs(theirs):
    spikes, labels = map(jnp.asarray, (theirs["spikes"], theirs["labels"]))
    rates = {"correct_rate": 0.75, "incorrect_rate": 0.25}
    got = jsnn.losses.mse_count(spikes, labels, **rates).mean()
    np.testing.assert_allclose(got, theirs["snntorch/mse_count"], rtol=1e-6)
    got = of_row("`spyx.fn.integral_crossentropy")(spikes, labels).mean()
    np.testing.assert_allclose(got, theirs["spyx/integral_crossentropy"], rtol=1e-6)


def test_codes_are_theirs(theirs):
    """Of random ones the rates over 4,000 steps: each with a standard error of at most 0.008, and so their difference of 0.011."""
    images, steps = theirs["images"], 4000
    times = jsnn.encode.latency_times(images, 8, tau_steps=20.0)
    np.testing.assert_allclose(times, theirs["snntorch/latency"], atol=1e-5)
    got = jsnn.encode.delta(theirs["signal"], threshold=0.1)
    np.testing.assert_array_equal(got, theirs["snntorch/delta"])
    rate = jsnn.rate(steps)(jnp.asarray(images), jax.random.key(0)).mean(0)
    for name in ("snntorch/rate_mean", "norse/poisson_mean"):
        assert abs(rate - theirs[name]).max() < 4 * 0.0112


def test_forgetting_is_that_of_avalanche(theirs):
    accuracies = theirs["accuracies"].astype(float)
    known = np.where(np.tril(np.ones((5, 5))) > 0, accuracies, np.nan)
    got = jsnn.continual.metrics.backward_transfer(known)
    np.testing.assert_allclose(theirs["avalanche/backward_transfer"].mean(), got)
    np.testing.assert_allclose(theirs["avalanche/forgetting"].mean(), -got)


def test_what_is_said_to_be_tested_is():
    """A row of a neuron or a surrogate with ✓ has a stored output here, or in the tests of exchange, surrogates, losses and STDP."""
    marked = {row[0] for row in ROWS if row[-1].endswith("✓") or "✓" in row}
    held = {*STORED, *(r for r in marked if r.startswith((*LAYERS, *CURVES)))}
    elsewhere = {'the same with `"subtract"`', "`surrogate.atan(alpha=2)`", "`surrogate.fast_sigmoid(slope=25)`", "`surrogate.sigmoid(slope=5)`"}  # fmt: skip
    neurons = ("`snn.Leaky", "`snn.Synaptic", "`neuron.", "`surrogate.", "`spyx.axn", "the same with")  # fmt: skip
    assert {r for r in marked if r.startswith(neurons)} == held - {r for r in held if not r.startswith(neurons)} | elsewhere  # fmt: skip
