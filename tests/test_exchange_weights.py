"""Weights of snnTorch and SpikingJelly: the same spikes as these libraries, stored, and computed anew where they are installed."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REFERENCE, needs
from safetensors.numpy import save_file

import jsnn
from jsnn import exchange
from jsnn.data import DataError
from jsnn.exchange import modules as m

PEERS = pathlib.Path(__file__).with_name("oracles") / "peers.npz"
STORED = REFERENCE / "lif_snntorch.npz"
NETWORKS = {
    "snn_network": {
        "0": m.Conv2d(stride=2, padding=1),
        "1": m.BatchNorm2d(),
        "2": m.Leaky(),
        "pool": m.AvgPool2d(2),
        "flat": m.Flatten(),
        "5": m.Linear(),
        "6": m.Leaky(reset_delay=False),
        "7": m.Linear(),
        "8": m.Synaptic(),
    },
    "jelly_network": {
        "0": m.Conv2d(padding=1),
        "1": m.BatchNorm2d(),
        "2": m.LIFNode(tau=2.0, v_threshold=0.5),
        "pool": m.MaxPool2d(2),
        "flat": m.Flatten(),
        "5": m.Linear(),
        "6": m.ParametricLIFNode(v_reset=None, v_threshold=0.3),
        "drop": m.dropout(),
        "7": m.Linear(),
        "8": m.IFNode(),
    },
}


@pytest.fixture(scope="module")
def peers():
    with np.load(PEERS) as file:
        return dict(file)


def of(peers, name):
    """Weights, input `[T, B, ...]` with channels last, and output of one network."""
    start = f"{name}/state/"
    state = {k.removeprefix(start): v for k, v in peers.items() if k.startswith(start)}
    x = peers.get(f"{name}/x", peers["x"])
    x = jnp.asarray(np.moveaxis(x, 2, -1), jnp.float32)
    return state, x, peers[f"{name}/y"]


def module_for(name: str) -> m.Module:
    """By the names that `oracles/peers.py` gives."""
    kind, first, *rest = name.split("_")
    resets: dict[str, float | None] = {"hard": 0.0, "soft": None, "low": -0.25}
    if first in resets:
        if kind == "if":
            return m.IFNode(v_reset=resets[first])
        how = {"v_reset": resets[first], "decay_input": rest == ["decayed"], "v_threshold": 0.75}  # fmt: skip
        return m.LIFNode(tau=3.0, **how) if kind == "lif" else m.ParametricLIFNode(**how)  # fmt: skip
    if kind == "rsynaptic":
        return m.RSynaptic()
    factory = {"leaky": m.Leaky, "synaptic": m.Synaptic, "rleaky": m.RLeaky}[kind]
    return factory(reset_delay=rest != ["now"])


def ran(net, x):
    return np.asarray(jax.jit(lambda x: net(net.init_state(x.shape[1:]), x)[1])(x))


def names() -> list[str]:
    with np.load(PEERS) as file:
        return sorted({key.partition("/")[0] for key in file} - {"x"} - NETWORKS.keys())


@pytest.mark.parametrize("name", names())
def test_a_neuron_spikes_as_in_its_library(peers, name):
    """At every step: inputs are drawn, so no membrane lies within rounding of the threshold."""
    state, x, y = of(peers, name)
    net = exchange.from_state_dict(state, {"0": module_for(name)})
    np.testing.assert_array_equal(ran(net, x), y)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", [".safetensors", ".npz"])
def test_a_whole_network_spikes_as_in_its_library(peers, name, kind, tmp_path):
    state, x, y = of(peers, name)
    path = tmp_path / f"net{kind}"
    if kind == ".npz":
        np.savez(path, **state)
    else:
        save_file(state, path)
    net = exchange.from_state_dict(path, NETWORKS[name])
    if kind == ".npz":
        np.testing.assert_array_equal(ran(net, x), y)
    else:
        other = exchange.from_state_dict(state, NETWORKS[name])
        arrays = [jax.tree.leaves(jsnn.layers.split(n)[1]) for n in (net, other)]
        assert all(map(np.array_equal, *arrays))


@needs(STORED)
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_stored_spikes_and_membranes_of_snntorch(reset):
    with np.load(STORED) as file:
        x = jnp.asarray(file["currents"])
        spikes, membranes = (file[f"{reset}.fast_sigmoid25.{k}"] for k in ("spikes", "membrane"))  # fmt: skip
    number = np.array(["subtract", "zero", "none"].index(reset))
    state = {"threshold": np.ones(()), "graded_spikes_factor": np.ones(()), "reset_mechanism_val": number, "beta": np.full((), 0.9, np.float32)}  # fmt: skip
    net = exchange.from_state_dict({f"lif.{k}": v for k, v in state.items()}, {"lif": m.Leaky()})  # fmt: skip
    neuron, params = net.layers[0].model()

    def step(state, x_t):
        state, s = neuron.step(params, state, x_t)
        return state, (s, state.v)

    _, (s, v) = jax.lax.scan(step, neuron.init(x.shape[1:]), x)
    np.testing.assert_array_equal(s, spikes)
    np.testing.assert_allclose(v, membranes, rtol=1e-5, atol=1e-5)


def test_what_jsnn_has_already_is_used(peers):
    kinds = {"leaky_zero_delay": "lif", "synaptic_subtract_delay": "current_lif", "leaky_zero_now": "lif"}  # fmt: skip
    for name, model in kinds.items():
        state, _, _ = of(peers, name)
        (layer,) = exchange.from_state_dict(state, {"0": module_for(name)}).layers
        assert layer.neuron.choices.model == model


def test_an_imported_network_goes_on_to_nir(peers, tmp_path):
    """Weights of SpikingJelly, written as a graph: batch norm is folded, and the spikes stay."""
    state, x, _ = of(peers, "jelly_network")
    kinds = {k: v for k, v in NETWORKS["jelly_network"].items() if k in "012"}
    kept = {k: v for k, v in state.items() if k[0] in "01"}
    net = exchange.from_state_dict(kept, kinds)
    report = exchange.write_nir(tmp_path / "net.nir", net, x, dt=1e-3, spike_at=">=")
    assert report.same
    assert report.nodes[0].before > 50


BAD = {
    "needs fc.weight, but the weights hold fc.bias": (
        {"fc.bias": np.ones(2)},
        {"fc": m.Linear()},
    ),
    r"No module takes out.bias, out.weight": (
        {"out.weight": np.ones((1, 1)), "out.bias": np.ones(1)},
        {"f": m.Flatten()},
    ),
    r"`fc` \(Linear\): A bias has shape \[3\]": (
        {"fc.weight": np.ones((2, 4)), "fc.bias": np.ones(3)},
        {"fc": m.Linear()},
    ),
    "`graded_spikes_factor` of 2": (
        {
            f"l.{k}": np.full((), 2)
            for k in (
                "threshold",
                "graded_spikes_factor",
                "reset_mechanism_val",
                "beta",
            )
        },
        {"l": m.Leaky()},
    ),
    "must lie between 0 and 2": (
        {
            f"l.{k}": np.full((), v)
            for k, v in (
                ("threshold", 1),
                ("graded_spikes_factor", 1),
                ("reset_mechanism_val", 3),
                ("beta", 1),
            )
        },
        {"l": m.Leaky()},
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_weights_that_do_not_fit_are_refused_by_name(words):
    state, kinds = BAD[words]
    with pytest.raises(exchange.GraphError, match=words) as error:
        exchange.from_state_dict(state, kinds)
    assert "\n" not in str(error.value)


def test_files_that_may_run_code_or_are_damaged_are_refused(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"\xff" * 64)
    np.savez(tmp_path / "object.npz", w=np.array([{}], object))
    for name, kind, words in (
        ("net.pt", exchange.GraphError, "pickles, which may run code"),
        ("net.safetensors", exchange.GraphError, "damaged or no safetensors"),
        ("none.safetensors", exchange.GraphError, "There is no file"),
        ("none.npz", DataError, "There is no file"),
        ("object.npz", DataError, "object.npz"),
    ):
        with pytest.raises(kind, match=words):
            exchange.from_state_dict(tmp_path / name, {"fc": m.Linear()})
    with pytest.raises(ValueError, match="`v_threshold` must lie above `v_reset`"):
        exchange.from_state_dict({}, {"n": m.LIFNode(v_threshold=-1.0)})


def test_the_libraries_themselves_where_they_are_installed(peers):
    """`oracles/peers.py` gives the same again; the versions stand in it."""
    pytest.importorskip("snntorch")
    pytest.importorskip("spikingjelly")
    torch = pytest.importorskip("torch")
    from oracles import peers as theirs

    torch.manual_seed(1)
    for name, net in (theirs.snn_networks() | theirs.jelly_networks()).items():
        theirs.shaken(net)
        deep = name in NETWORKS
        x = (torch.rand(20, 2, 2, 8, 8) < 0.3).float() if deep else torch.randn(20, 2, 4)  # fmt: skip
        with torch.no_grad():
            y = torch.stack(theirs.run_snn(net, x)).numpy()
        state = {k: v.numpy() for k, v in net.state_dict().items()}
        kinds = NETWORKS[name] if deep else {"0": module_for(name)}
        ours = exchange.from_state_dict(state, kinds)
        np.testing.assert_array_equal(ran(ours, np.moveaxis(x.numpy(), 2, -1)), y)
