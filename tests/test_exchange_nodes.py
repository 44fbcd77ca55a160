"""Each kind of NIR's nodes as a layer, against a loop in NumPy written from NIR's equations."""

import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest
from scipy.linalg import expm

from jsnn import exchange

RNG = np.random.default_rng(0)
DT, STEPS, BATCH = 1e-3, 12, 2


def compute(graph, x, tmp_path, **choices):
    """Output `[T, B, ...]` in NIR's order of what is read from the graph's file."""
    nir.write(tmp_path / "graph.nir", graph)
    net = exchange.from_nir(tmp_path / "graph.nir", dt=DT, **choices)
    x = jnp.asarray(np.moveaxis(x, 2, -1), jnp.float32)
    y = jax.jit(lambda x: net(net.init_state(x.shape[1:]), x)[1])(x)
    return np.moveaxis(np.asarray(y), -1, 2)


def agree(nodes, x, wanted, tmp_path, **choices):
    names = [str(k) for k in range(len(nodes))]
    ends = {"in": nir.Input(np.array(x.shape[2:])), "out": nir.Output(np.array(wanted.shape[2:]))}  # fmt: skip
    edges = list(zip(["in", *names], [*names, "out"], strict=True))
    # NIR's own check refuses groups, and kernels that are not square.
    graph = nir.NIRGraph(ends | dict(zip(names, nodes, strict=True)), edges, type_check=False)  # fmt: skip
    y = compute(graph, x, tmp_path, **choices)
    # Sums of some dozens of products of order one in float32.
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def noise(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def some(*shape):
    return RNG.uniform(0.5, 1.5, shape)


# --- without state ---


def convolved(x, w, b, stride, pads, dilation, groups):
    """`x [N, I, H, W]`, `w [O, I/G, KH, KW]`: one output after another."""
    x = np.pad(x.astype(float), ((0, 0), (0, 0), *pads))
    out, _, kh, kw = w.shape
    span = [d * (k - 1) + 1 for d, k in zip(dilation, (kh, kw), strict=True)]
    size = [(n - s) // t + 1 for n, s, t in zip(x.shape[2:], span, stride, strict=True)]
    y = np.zeros((len(x), out, *size))
    for o in range(out):
        group = o // (out // groups)
        part = x[:, group * w.shape[1] : (group + 1) * w.shape[1]]
        for i in range(size[0]):
            for j in range(size[1]):
                rows = slice(i * stride[0], i * stride[0] + span[0], dilation[0])
                cols = slice(j * stride[1], j * stride[1] + span[1], dilation[1])
                y[:, o, i, j] = (part[:, :, rows, cols] * w[o]).sum((1, 2, 3)) + b[o]
    return y


@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation", "groups"),
    [
        ((3, 3), (2, 2), (1, 1), (1, 1), 1),
        ((2, 3), (2, 1), (1, 2), (1, 2), 2),
        ((2, 3), (1, 1), "same", (1, 2), 4),
        ((3, 3), (1, 1), "valid", (1, 1), 1),
    ],
)
def test_conv2d(size, stride, padding, dilation, groups, tmp_path):
    x = noise(3, BATCH, 4, 6, 7)
    w, b = noise(8, 4 // groups, *size), noise(8)
    node = nir.Conv2d((6, 7), w, stride, padding, dilation, groups, b)
    pads = {"valid": ((0, 0), (0, 0)), "same": ((0, 1), (2, 2))}.get(padding)
    pads = pads or tuple((p, p) for p in padding)
    wanted = convolved(x.reshape(-1, 4, 6, 7), w, b, stride, pads, dilation, groups)
    agree([node], x, wanted.reshape(3, BATCH, *wanted.shape[1:]), tmp_path)


def test_conv1d(tmp_path):
    x, w, b = noise(3, BATCH, 4, 9), noise(6, 2, 3), noise(6)
    node = nir.Conv1d(9, w, 2, 1, 2, 2, b)
    flat = x.reshape(-1, 4, 1, 9)
    wanted = convolved(flat, w[:, :, None], b, (1, 2), ((0, 0), (1, 1)), (1, 2), 2)
    wanted = wanted.reshape(3, BATCH, 6, -1)
    agree([node], x, wanted, tmp_path)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [((2, 3), (1, 2), (1, 0)), ((2, 2), (2, 2), (0, 0))],
)
def test_pools(size, stride, padding, mean, tmp_path):
    """Cells of the padding count as zeros, also in a mean, as PyTorch has it."""
    x = noise(3, BATCH, 2, 5, 7)
    kind = nir.AvgPool2d if mean else nir.SumPool2d
    node = kind(*map(np.array, (size, stride, padding)))
    one = np.full((2, 1, *size), 1 / np.prod(size) if mean else 1.0)
    pads = tuple((p, p) for p in padding)
    wanted = convolved(x.reshape(-1, 2, 5, 7), one, np.zeros(2), stride, pads, (1, 1), 2)  # fmt: skip
    agree([node], x, wanted.reshape(3, BATCH, *wanted.shape[1:]), tmp_path)


def test_linear_affine_and_scale(tmp_path):
    x, w, b = noise(STEPS, BATCH, 3), noise(4, 3), noise(4)
    agree([nir.Linear(w)], x, x @ w.T, tmp_path)
    agree([nir.Affine(w, b), nir.Scale(b)], x, (x @ w.T + b) * b, tmp_path)


@pytest.mark.parametrize(("start", "end"), [(0, -1), (1, 2), (0, 1)])
def test_flatten_keeps_the_order_of_nir(start, end, tmp_path):
    x = noise(3, BATCH, 2, 3, 4)
    node = nir.Flatten(np.array([2, 3, 4]), start, end)
    shapes = {(0, -1): (24,), (1, 2): (2, 12), (0, 1): (6, 4)}
    wanted = x.reshape(3, BATCH, *shapes[start, end])
    agree([node], x, wanted, tmp_path)
    if (start, end) == (0, -1):
        w = noise(5, 24)
        agree([node, nir.Linear(w)], x, wanted @ w.T, tmp_path)


# --- with state ---


def membranes(x, beta, gain, leak, threshold=None, reset=None, *, soft=False, inclusive=False, several=False, floor=None):  # fmt: skip
    """One step after another; spikes, or the membrane where there is no threshold."""
    v = np.zeros(x.shape[1:]) + leak
    out = []
    for x_t in x.astype(float):
        v = leak + beta * (v - leak) + gain * x_t
        if threshold is None:
            out.append(v)
            continue
        s = ((v >= threshold) if inclusive else (v > threshold)).astype(float)
        if several:
            s = np.maximum(np.floor(v / threshold), 0)
        v = v - s * threshold if soft else np.where(s > 0, reset, v)
        v = v if floor is None else np.maximum(v, floor)
        out.append(s)
    return np.stack(out)


def currents(x, alpha, gain):
    i = np.zeros(x.shape[1:])
    return np.stack([i := alpha * i + gain * x_t for x_t in x.astype(float)])


LIF_CHOICES = {
    "norse": ({}, lambda tau: 1 - DT / tau, True),
    "exact": ({"convention": "exact"}, lambda tau: np.exp(-DT / tau), True),
    "unscaled": (
        {"scale_leaky": False, "method": "exact"},
        lambda tau: np.exp(-DT / tau),
        False,
    ),
}


@pytest.mark.parametrize("name", LIF_CHOICES)
def test_lif_and_li_with_all_parameters(name, tmp_path):
    """With leak voltages, gains, and resets to other values than zero, one a neuron, of maps `[C, H, W]`."""
    choices, decay, scaled = LIF_CHOICES[name]
    shape = (2, 3, 1)
    x = 2 * noise(STEPS, BATCH, *shape)
    tau, r, leak = 4e-3 * some(*shape), some(*shape), noise(*shape) / 4
    level, reset = leak + some(*shape) / 2, leak - some(*shape) / 4
    beta = decay(tau)
    gain = r * (1 - beta) if scaled else r
    spikes = membranes(x, beta, gain, leak, level, reset)
    assert 0.02 < spikes.mean() < 0.9
    agree([nir.LIF(tau, r, leak, level, reset)], x, spikes, tmp_path, **choices)
    agree([nir.LI(tau, r, leak)], x, membranes(x, beta, gain, leak), tmp_path, **choices)  # fmt: skip


@pytest.mark.parametrize("scale", [False, True])
def test_if_and_integrator(scale, tmp_path):
    x = noise(STEPS, BATCH, 3)
    if scale:
        x = x / np.float32(DT)
    r, level, reset = some(3), some(3), -some(3) / 3
    gain = r * DT if scale else r
    spikes = membranes(x, 1.0, gain, 0.0, level, reset)
    assert spikes.any()
    agree([nir.IF(r, level, reset)], x, spikes, tmp_path, scale_if=scale)
    agree([nir.I(r)], x, membranes(x, 1.0, gain, 0.0), tmp_path, scale_if=scale)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("floor", ["none", "threshold"])
def test_several_spikes_and_a_floor(several, floor, tmp_path):
    """Whole numbers meet the threshold exactly, so `>=` matters."""
    x = RNG.integers(-3, 6, (STEPS, BATCH, 4)).astype(np.float32)
    r, level = np.ones(4), np.array([1.0, 2.0, 3.0, 4.0])
    wanted = membranes(x, 1.0, r, 0.0, level, soft=True, inclusive=True, several=several, floor=-level if floor == "threshold" else None)  # fmt: skip
    assert wanted.max() > 1 if several else wanted.max() == 1
    agree([nir.IF(r, level)], x, wanted, tmp_path, convention="sinabs", several=several, floor=floor)  # fmt: skip


@pytest.mark.parametrize("inclusive", [False, True])
def test_several_spikes_are_counted_without_rounding(inclusive, tmp_path):
    """At, just below and just above multiples of a threshold that is no binary fraction."""
    level = np.float32(0.1)
    multiples = (np.arange(1, 60, dtype=np.float32) * level).astype(np.float32)
    x = np.concatenate([multiples, *(np.nextafter(multiples, np.float32(e)) for e in (0, 99))])  # fmt: skip
    counts = np.arange(62, dtype=np.float32)
    below = counts * level  # as float32 rounds them
    wanted = np.array([(below[1:] <= v if inclusive else below[1:] < v).sum() for v in x])  # fmt: skip
    x = np.tile(x, (1, 1, 1))
    graph = [nir.IF(np.ones(x.shape[-1]), np.full(x.shape[-1], level))]
    at = ">=" if inclusive else ">"
    agree(graph, x, wanted[None, None], tmp_path, reset="subtract", several=True, spike_at=at)  # fmt: skip


@pytest.mark.parametrize("current", ["new", "old"])
def test_cuba(current, tmp_path):
    x = 3 * noise(STEPS, BATCH, 3)
    syn, mem = 3e-3 * some(3), 5e-3 * some(3)
    r, leak, w_in = some(3), noise(3) / 4, some(3)
    level, reset = leak + some(3) / 3, leak - 0.1
    alpha, beta = 1 - DT / syn, 1 - DT / mem
    i = currents(x, alpha, w_in * DT / syn)
    i = i if current == "new" else np.concatenate([0 * i[:1], i[:-1]])
    spikes = membranes(i, beta, r * DT / mem, leak, level, reset)
    assert spikes.any()
    cuba = nir.CubaLIF(syn, mem, r, leak, level, reset, w_in)
    agree([cuba], x, spikes, tmp_path, current=current)
    wanted = membranes(i, beta, r * DT / mem, leak)
    agree([nir.CubaLI(syn, mem, r, leak, w_in)], x, wanted, tmp_path, current=current)


def test_cuba_exact_solves_both_equations(tmp_path):
    """The matrix exponential of the whole system; the last neuron has equal time constants."""
    x = 3 * noise(STEPS, 1, 3)
    syn, mem = np.array([2e-3, 7e-3, 4e-3]), np.array([5e-3, 3e-3, 4e-3])
    r, leak, w_in = some(3), noise(3), some(3)
    wanted = np.zeros((STEPS, 1, 3))
    for n in range(3):
        # d/dt of (i, v, x, 1)
        m = np.zeros((4, 4))
        m[0, [0, 2]] = -1 / syn[n], w_in[n] / syn[n]
        m[1] = r[n] / mem[n], -1 / mem[n], 0, leak[n] / mem[n]
        step, state = expm(m * DT), np.array([0, leak[n], 0, 1])
        for t in range(STEPS):
            state[2] = x[t, 0, n]
            state = step @ state
            wanted[t, 0, n] = state[1]
    agree([nir.CubaLI(syn, mem, r, leak, w_in)], x, wanted, tmp_path, convention="exact")  # fmt: skip


@pytest.mark.parametrize("at", [">", ">="])
def test_threshold(at, tmp_path):
    x = RNG.integers(-1, 3, (STEPS, BATCH, 3)).astype(np.float32)
    level = np.array([0.0, 1.0, 2.0])
    wanted = x > level if at == ">" else x >= level
    agree([nir.Threshold(level)], x, wanted, tmp_path, spike_at=at)


def test_delay(tmp_path):
    x = noise(STEPS, BATCH, 3)
    delay = np.array([0.0, 1e-3, 4e-3])
    wanted = np.zeros_like(x)
    for n, d in enumerate((0, 1, 4)):
        wanted[d:, :, n] = x[: STEPS - d, :, n]
    agree([nir.Delay(delay)], x, wanted, tmp_path)
    with pytest.raises(exchange.GraphError, match="no whole number of steps"):
        agree([nir.Delay(delay * 1.3)], x, wanted, tmp_path)
    wanted[:, :, 2] = 0
    wanted[5:, :, 2] = x[:-5, :, 2]
    agree([nir.Delay(delay * 1.3)], x, wanted, tmp_path, round_delays=True)


# --- graphs that are no chains ---


def test_a_skip_is_summed(tmp_path):
    x, w = noise(STEPS, BATCH, 3), noise(3, 3)
    nodes = {"in": nir.Input([3]), "w": nir.Linear(w), "s": nir.Scale(np.full(3, 2.0)), "out": nir.Output([3])}  # fmt: skip
    edges = [("in", "w"), ("w", "s"), ("in", "s"), ("s", "out"), ("w", "out")]
    y = compute(nir.NIRGraph(nodes, edges), x, tmp_path)
    wanted = 2 * (x @ w.T + x) + x @ w.T
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def loop(tmp_path, x, extra, edges):
    w = RNG.normal(size=(3, 3))
    nodes = {
        "in": nir.Input([3]),
        "if": nir.IF(np.ones(3), np.ones(3)),
        "w": nir.Affine(w, np.full(3, 0.1)),
        "out": nir.Output([3]),
        **extra,
    }
    return w, compute(nir.NIRGraph(nodes, edges, type_check=False), x, tmp_path)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_loops(delay, tmp_path):
    """Spikes come back one step later, or as late as a Delay in the loop says."""
    x = noise(STEPS, BATCH, 3)
    edges = [("in", "if"), ("if", "out"), ("w", "if")]
    extra = {"d": nir.Delay(np.full(3, delay * DT))} if delay else {}
    edges += [("if", "d"), ("d", "w")] if delay else [("if", "w")]
    w, y = loop(tmp_path, x, extra, edges)
    v, spikes = np.zeros((BATCH, 3)), np.zeros((STEPS, BATCH, 3))
    for t in range(STEPS):
        late = t - max(delay, 1)
        back = spikes[late] if late >= 0 else np.zeros((BATCH, 3))
        v = v + x[t] + back @ w.T + 0.1
        spikes[t] = v > 1
        v = np.where(v > 1, 0, v)
    assert spikes.any()
    np.testing.assert_array_equal(y, spikes)


def test_a_graph_within_the_graph_is_opened(tmp_path):
    x, w = noise(STEPS, BATCH, 3), noise(3, 3)
    inner = nir.NIRGraph(
        {"input": nir.Input([3]), "w": nir.Linear(w), "output": nir.Output([3])},
        [("input", "w"), ("w", "output")],
    )
    nodes = {"in": nir.Input([3]), "sub": inner, "out": nir.Output([3])}
    y = compute(nir.NIRGraph(nodes, [("in", "sub"), ("sub", "out")]), x, tmp_path)
    np.testing.assert_allclose(y, x @ w.T, rtol=1e-5, atol=1e-6)
