"""Graphs of other tools read and written, own layers written, and files that are refused."""

import h5py
import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest
from conftest import REFERENCE, needs
from flax import nnx

import jsnn
from jsnn import exchange
from jsnn.data import event_files, events

NIR = REFERENCE / "nir"
NMNIST = REFERENCE.parent / "data/events/nmnist_small.npz"
RNG = np.random.default_rng(0)


# --- networks of other tools ---


@pytest.mark.skipif(not (NIR.exists() and NMNIST.exists()), reason=f"needs {NMNIST}")
@pytest.mark.parametrize(("several", "right"), [(False, 99), (True, 100)])
def test_the_convolutional_network_of_sinabs_knows_the_test_recordings(several, right):
    """350 steps of 1 ms: the longest recording has 337, and surplus of the membranes leaves them one spike a step."""
    recordings, labels = event_files.read_events(NMNIST, split="test", sensor=(34, 34))
    net = exchange.from_nir(NIR / "cnn_sinabs.nir", dt=1e-3, convention="sinabs", several=several, floor="none")  # fmt: skip

    @jax.jit
    def counts(index):
        x = events.frames(events.take(recordings, index), 350, 1000.0)
        return net(net.init_state(x.shape[1:]), x)[1].sum(0)

    index = jnp.arange(100).reshape(2, 50)
    found = np.concatenate([np.argmax(counts(i), 1) for i in index])
    assert (found == labels).sum() == right


def braille(path, x, *, soft):
    """Spikes `[T, B, 7]` of the recurrent networks, in float64, one step after another, from the file's own numbers."""
    with h5py.File(path) as file:
        node = {k: {f: v[()] for f, v in n.items()} for k, n in file["node/nodes"].items()}  # fmt: skip
    dt = 1e-4

    class Cuba:
        def __init__(self, name):
            n = node[name]
            self.alpha, self.beta = 1 - dt / n["tau_syn"], 1 - dt / n["tau_mem"]
            self.w = n["w_in"] * dt / n["tau_syn"]
            self.r = n["r"] * dt / n["tau_mem"]
            self.i = self.v = np.zeros((x.shape[1], len(n["r"])))

        def step(self, x_t):
            self.i = self.alpha * self.i + self.w * x_t
            self.v = self.beta * self.v + self.r * self.i
            s = self.v > 1
            self.v = self.v - s if soft else np.where(s, 0, self.v)
            return s.astype(float)

    def linear(name, x_t):
        return x_t @ node[name]["weight"].T + node[name].get("bias", 0.0)

    first, second, out = Cuba("lif1.lif"), Cuba("lif2"), []
    back = np.zeros_like(first.v)
    for x_t in x:
        back = first.step(linear("fc1", x_t) + linear("lif1.w_rec", back))
        out.append(second.step(linear("fc2", back)))
    return np.stack(out)


@needs(NIR)
@pytest.mark.parametrize(("name", "reset"), [("bias_zero", "v_reset"), ("noBias_subtract", "subtract")])  # fmt: skip
def test_recurrent_networks_come_back_the_same(name, reset, tmp_path):
    """On 100 random inputs: as a loop in NumPy computes them, and after a round trip through a file of ours."""
    path = NIR / f"braille_noDelay_{name}.nir"
    x = (RNG.random((40, 100, 12)) < 0.3).astype(np.float32)
    net = exchange.from_nir(path, dt=1e-4, convention="snntorch", reset=reset)
    report = exchange.write_nir(tmp_path / "again.nir", net, x, dt=1e-4, reset=reset)
    assert [n.name for n in report.nodes] == ["lif1.lif", "lif2", "output"]
    assert report.same
    spikes = jax.jit(lambda x: net(net.init_state(x.shape[1:]), x)[1])(x)
    wanted = braille(path, x, soft=reset == "subtract")
    assert report.nodes[-1].before == wanted.sum() > 100
    np.testing.assert_array_equal(spikes, wanted)
    graph = nir.read(tmp_path / "again.nir")
    assert set(graph.nodes) == set(nir.read(path, type_check=False).nodes)
    with pytest.warns(UserWarning, match=r"written for dt=0\.0001 \(read with 5e-05"):
        exchange.from_nir(graph, dt=5e-5, reset=reset)


# --- own networks written ---


def check_round_trip(tmp_path, layers, shape, **choices):
    """Written, opened by NIR's own reader, read again: the same spikes."""
    net = jsnn.Sequence(*layers)
    x = RNG.normal(size=(20, 2, *shape)).astype(np.float32)
    report = exchange.write_nir(tmp_path / "own.nir", net, x, dt=1e-3, **choices)
    nir.read(tmp_path / "own.nir")
    assert report.same, str(report)
    assert report.nodes[0].before > 0
    return report


def test_own_dense_network(tmp_path):
    rngs = nnx.Rngs(0)
    layers = [
        jsnn.Dense(6, 12, init="kaiming", rngs=rngs),
        jsnn.LIF(beta=jnp.linspace(0.5, 0.95, 12), learn="beta", threshold=0.7),
        jsnn.Dropout(0.5),
        jsnn.Dense(12, 8, bias=False, init="kaiming", rngs=rngs),
        jsnn.CurrentLIF(alpha=0.7, beta=0.8, recurrent=8, rngs=rngs, scale_input=True),
        jsnn.Delay(8, max_steps=4, delay=jnp.arange(8) % 5, learn=False),
        jsnn.Dense(8, 5, rngs=rngs),
        jsnn.IF(),
        jsnn.Dense(5, 3, rngs=rngs),
        jsnn.LI(beta=0.9),
    ]
    report = check_round_trip(tmp_path, layers, (6,), reset="subtract")
    assert [n.name for n in report.nodes] == ["1", "3", "7", "9", "output"]
    # By another convention the same decays come back, to the bit.
    choices = {"convention": "exact", "reset": "subtract", "current": "new"}
    graph = exchange.to_nir(jsnn.Sequence(*layers), (6,), dt=1e-3, **choices)
    again = exchange.from_nir(graph, dt=1e-3, **choices)
    for layer, other in ((1, 1), (7, 6), (9, 8)):
        beta = [n.model()[1].beta for n in (layers[layer], again.layers[other])]
        np.testing.assert_array_equal(np.broadcast_to(beta[0], beta[1].shape), beta[1])


def test_own_convolutional_network(tmp_path):
    """Batch norm goes into the weights before it, and the order of a flattened map is NIR's."""
    rngs = nnx.Rngs(0)
    norm = jsnn.BatchNorm(4)
    norm.mean[...], norm.var[...] = jnp.arange(4.0) / 10, 1 + jnp.arange(4.0)
    norm.scale[...], norm.offset[...] = 2 + jnp.arange(4.0), jnp.arange(4.0) / 4
    layers = [
        jsnn.Conv(2, 4, 3, bias=False, rngs=rngs),
        norm,
        jsnn.LIF(reset="zero", threshold=0.5),
        jsnn.AvgPool(2),
        jsnn.Conv(4, 3, 2, stride=2, padding=1, rngs=rngs),
        jsnn.LIF(reset="zero", threshold=0.1),
        jsnn.Dense(3 * 3 * 2, 5, rngs=rngs),
        jsnn.LIF(reset="zero", threshold=0.1),
    ]
    check_round_trip(tmp_path, layers, (8, 6, 2))


REFUSED = {
    "a threshold that adapts": (lambda rngs: jsnn.AdaptiveLIF(), {}),
    "`delayed_reset=True`": (lambda rngs: jsnn.LIF(delayed_reset=True), {}),
    "without a reset": (lambda rngs: jsnn.LIF(reset="none"), {}),
    "refractory period": (lambda rngs: jsnn.LIF(reset="zero", refractory=2), {}),
    "pass `reset='subtract'`": (lambda rngs: jsnn.LIF(), {}),
    "pass `spike_at='>='`": (lambda rngs: jsnn.LIF(reset="zero", spike_at=">="), {}),
    "pass `current='new'`": (
        lambda rngs: jsnn.CurrentLIF(reset="zero"),
        {"convention": "exact"},
    ),
    "pass `several=False`": (
        lambda rngs: jsnn.LIF(),
        {"reset": "subtract", "several": True},
    ),
    "a gain of 0": (lambda rngs: jsnn.LI(beta=1.0, scale_input=True), {}),
    "a decay of 0": (lambda rngs: jsnn.LI(beta=0.0), {"convention": "exact"}),
    "a decay of 1": (lambda rngs: jsnn.LI(beta=jnp.array([1.0, 0.5, 0.5, 0.5])), {}),
    "right before it": (lambda rngs: jsnn.BatchNorm(4), {}),
    r"\(Stateless of `tanh`\)": (lambda rngs: jnp.tanh, {}),
    "no such node": (lambda rngs: jsnn.DelayedDense(4, 2, max_steps=2, rngs=rngs), {}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_nir_cannot_say_is_refused_by_name(words):
    make, choices = REFUSED[words]
    net = jsnn.Sequence(make(nnx.Rngs(0)))
    with pytest.raises(exchange.GraphError, match=words):
        exchange.to_nir(net, (4,), dt=1e-3, **choices)


def test_unequal_padding_is_refused():
    net = jsnn.Sequence(jsnn.Conv(1, 1, 3, stride=2, rngs=nnx.Rngs(0)))
    with pytest.raises(exchange.GraphError, match="pads both sides alike"):
        exchange.to_nir(net, (4, 4, 1), dt=1e-3)


# --- bad files ---


def graph_of(extra=(), edges=(("in", "w"), ("w", "out")), without=()):
    nodes = {"in": nir.Input([3]), "w": nir.Linear(np.eye(3)), "out": nir.Output([3])}
    nodes |= dict(extra)
    nodes = {name: node for name, node in nodes.items() if name not in without}
    return nir.NIRGraph(nodes, list(edges), type_check=False)


def linear(*shape):
    return nir.Linear(np.ones(shape))


CONV = nir.Conv2d(None, np.ones((1, 2, 3, 3)), 1, 0, 1, 1, np.zeros(1))
CUBA = [np.ones(3)] * 5
CHAIN = [("in", "w"), ("w", "x"), ("x", "out")]
BAD = {
    "the nodes? '.*' form a loop without delay|form a loop": (
        {"x": linear(3, 3)},
        [*CHAIN, ("x", "w")],
        {},
    ),
    "must have one node of type Input, got none": (
        {},
        [("w", "out")],
        {"without": ["in"]},
    ),
    "one node of type Output, got 2": ({"x": nir.Output([3])}, CHAIN, {}),
    "names a node that is not there: y": ({}, [("in", "y")], {}),
    "is there twice": ({}, [("in", "w")] * 2, {}),
    "does not reach 'x'": ({"x": linear(3, 3)}, [("in", "w"), ("w", "out")], {}),
    "No way leads": ({}, [("in", "w")], {}),
    r"its output is \[3\], but \[2\]": ({"x": linear(2, 3)}, CHAIN, {}),
    "put a Flatten before it": ({"x": linear(3, 2)}, CHAIN, {}),
    r"'x' \(Conv2d\) has weights": ({"x": CONV}, CHAIN, {}),
    r"`tau_syn` is 0.001 s, shorter than dt": (
        {"x": nir.CubaLI(np.ones(3) / 1e3, *CUBA[:4])},
        CHAIN,
        {"dt": 2e-3},
    ),
    "`tau` must be positive": ({"x": nir.LI(-np.ones(3), *CUBA[:2])}, CHAIN, {}),
    r"`r` has shape \[2\]": ({"x": nir.I(np.ones(2))}, CHAIN, {}),
    "must be finite": ({"x": nir.I(np.full(3, np.nan))}, CHAIN, {}),
    "must lie above the membrane at rest": ({"x": nir.LIF(*CUBA[:4])}, CHAIN, {}),
    "needs v_reset = 0": ({"x": nir.IF(*CUBA[:3])}, CHAIN, {"reset": "subtract"}),
    "more than 100000": ({"x": nir.Delay(np.full(3, 1e6))}, CHAIN, {}),
    "has a delay below zero": ({"x": nir.Delay(-np.ones(3))}, CHAIN, {}),
    r"makes one axis of 1 to -1": ({"x": nir.Flatten([3], 1, -1)}, CHAIN, {}),
    r"takes \[C, H, W\]": ({"x": nir.SumPool2d(*[np.array([1, 1])] * 3)}, CHAIN, {}),
}


@pytest.mark.parametrize("words", BAD)
def test_a_graph_that_cannot_be_computed_is_refused_by_node(words):
    extra, edges, options = BAD[words]
    graph = graph_of(extra, edges, options.pop("without", ()))
    with pytest.raises(exchange.GraphError, match=words):
        exchange.from_nir(graph, **{"dt": 1e-3, **options})


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "graph.nir"
    nir.write(path, graph_of({"x": nir.IF(np.ones(3), np.ones(3))}, CHAIN))
    return path


def refused(path, words):
    with pytest.raises(exchange.GraphError, match=words) as error:
        exchange.from_nir(path, dt=1e-3)
    assert "\n" not in str(error.value)


def test_files_that_are_damaged_or_something_else(stored):
    assert len(exchange.from_nir(stored, dt=1e-3).layers) == 2
    whole = stored.read_bytes()
    refused(stored.with_name("absent.nir"), "No such file")
    for size in (0, 4, 700, len(whole) // 2):
        stored.write_bytes(whole[:size])
        refused(stored, "is no NIR file" if size < 8 else "damaged or cut off")
    stored.write_bytes(b"\x80\x04" + bytes(99))  # a pickle, for one
    refused(stored, "is no NIR file: NIR's files are HDF5")
    with h5py.File(stored, "w") as file:
        file["x"] = 1
    refused(stored, "holds no NIR graph: at its top lie x")


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file["node/nodes"])


def test_nodes_that_are_unknown_or_incomplete(stored):
    whole = stored.read_bytes()

    def lif(nodes):
        del nodes["x/type"]
        nodes["x/type"] = "Izhikevich"

    cases = {
        "'x' is of type 'Izhikevich', which NIR does not know": lif,
        r"'x' \(IF\) lacks v_threshold": lambda n: n.pop("x/v_threshold"),
        r"'in' \(Input\) lacks its shape": lambda n: n.pop("in/shape"),
        r"'x' \(IF\) is wrong: .*color": lambda n: n.create_dataset("x/color", data=1),
        "is a link to elsewhere": lambda n: n.__setitem__(
            "y", h5py.ExternalLink("/etc/passwd", "/")
        ),
        "lies in the file twice": lambda n: n.__setitem__("x/again", n["x"]),
        "`r` must be finite numbers": lambda n: (
            n.pop("x/r"),
            n.__setitem__("x/r", np.full(3, np.nan)),
        ),
        "'x' is of type no text": lambda n: (
            n.pop("x/type"),
            n.__setitem__("x/type", np.ones(3)),
        ),
        "edges as pairs of names": lambda n: (
            n.parent.pop("edges"),
            n.parent.__setitem__("edges", 5),
        ),
        "lie in another file": lambda n: n.create_dataset(
            "x/y", (3,), "f4", external=[("/etc/passwd", 0, 12)]
        ),
        "more than 4 GiB": lambda n: n.create_dataset(
            "x/y", (1 << 31,), "f4", chunks=(1024,)
        ),
    }
    for words, change in cases.items():
        stored.write_bytes(whole)
        changed(stored, change)
        refused(stored, words)


def test_shapes_that_are_missing_are_inferred_or_refused(tmp_path):
    nodes = {"in": nir.Input([2, 5, 5]), "c": CONV, "out": nir.Output([1, 3, 3])}
    net = exchange.from_nir(nir.NIRGraph(nodes, [("in", "c"), ("c", "out")], type_check=False), dt=1e-3)  # fmt: skip
    assert isinstance(net.layers[0], jsnn.Conv)
    nodes["in"] = nir.Input(None)
    with pytest.raises(exchange.GraphError, match=r"'in' \(Input\) must say its shape"):
        exchange.from_nir(nir.NIRGraph(nodes, [("in", "c"), ("c", "out")], type_check=False), dt=1e-3)  # fmt: skip


def test_an_input_of_another_shape_is_refused():
    edges = [("in", "x"), ("x", "x"), ("x", "out")]
    looped = exchange.from_nir(graph_of({"x": nir.IF(np.ones(3), np.ones(3))}, edges, ["w"]), dt=1e-3)  # fmt: skip
    with pytest.raises(ValueError, match=r"takes inputs \[T, B, 3\]"):
        looped.init_state((2, 4))
