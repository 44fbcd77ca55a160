"""The tables for users of other libraries: every name is there, and neurons spike as in the library, by its stored outputs."""

import pathlib
import re

import flax.nnx as nnx
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


def test_what_is_said_to_be_tested_is():
    """A row of a neuron with ✓ has a stored output here; those of functions are in the tests of their rooms."""
    neurons = ("`snn.Leaky", "`snn.Synaptic", "`neuron.")
    marked = {row[0] for row in ROWS if row[-1].endswith("✓") or "✓" in row}
    assert {r for r in marked if r.startswith(neurons)} == set(STORED)
