"""From a NIR graph to layers."""

import os
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsnn import check
from jsnn.exchange import files, neurons_in, nodes, shapes
from jsnn.exchange.conventions import Convention, GraphError, resolve
from jsnn.exchange.graph import INPUT, OUTPUT, Edge, Graph, components
from jsnn.layers import AvgPool, Conv, Dense, Layer, Sequence

# Of a layer: the name of the node that it was read from.
NODE = "node"
# Steps of a delay, all of which are kept.
_LONGEST = 100_000


def from_nir(
    graph: Any,
    *,
    dt: float,
    convention: Convention | str = "norse",
    spike_fn: Any = None,
    round_delays: bool = False,
    **choices: Any,
) -> Sequence:
    """Layers that compute a NIR graph in steps of `dt`.

        net = jsnn.network(lambda rngs: jsnn.exchange.from_nir("cnn.nir", dt=1e-3, convention="sinabs"))
        spikes = net.apply(net.init(jax.random.key(0)), x).value  # x [T, B, H, W, C]

    Axes: channels come last, so a graph that takes `[C, H, W]` makes layers that take `[T, B, H, W, C]`.

    Several edges into one node are summed. A loop of edges is closed by a `Delay` of at least one step; in a loop without one, what
    neurons hand on within the loop arrives one step later.

    Args:
      graph: a file, or a graph of the package `nir`.
      dt: the length of a step in seconds.
      convention: how the equations become steps: `"norse"`, `"snntorch"`, `"sinabs"`, `"exact"`, or a `Convention`.
      spike_fn: the surrogate for training; see `jsnn.neurons.lif`.
      round_delays: take delays that are no whole number of steps as the nearest one.
      **choices: fields of `Convention` that differ from it, such as `reset="subtract"`.

    Returns:
      A `Sequence`, whose layers carry the names of the nodes. A part of the graph that is no chain is one layer in it.

    Raises:
      GraphError: if the file is no graph, or a node cannot be computed as the graph says it, or the package `nir` is missing.
    """
    convention = resolve(convention, **choices)
    return read(graph, dt=dt, convention=convention, spike_fn=spike_fn, round_delays=round_delays)[0]  # fmt: skip


def read(
    graph: Any,
    *,
    dt: float,
    convention: Convention,
    spike_fn: Any = None,
    round_delays: bool = False,
) -> tuple[Sequence, shapes.Shape]:
    """What `from_nir` gives, and the shape of one sample of its input, channels last."""
    check.number("dt", dt, "(0, inf)", remedy="It is a time in seconds.")
    if isinstance(graph, str | os.PathLike):
        graph = files.read(graph)
    _compare(getattr(graph, "metadata", None), dt, convention)
    found, edges, start, end = flat(graph)
    if not edges:
        raise GraphError("The graph has no edges.")
    before = _shape(start, found.pop(start))
    wanted = _shape(end, found.pop(end))
    known = shapes.infer({**found, end: shapes.Nothing()}, edges, start, before)
    if end not in known:
        raise GraphError(f"No way leads from {start!r} to {end!r}.")
    if wanted is not None and known[end][0] != wanted:
        raise GraphError(
            f"The graph says that its output is {list(wanted)}, but {list(known[end][0])} reaches it."
        )
    if lost := sorted(found.keys() - known.keys()):
        raise GraphError(f"The input does not reach {', '.join(map(repr, lost))}.")
    layers = {
        name: _layer(name, node, known[name][0], dt, convention, spike_fn, round_delays)
        for name, node in found.items()
    }
    names = {start: INPUT, end: OUTPUT}
    edges = [(names.get(a, a), names.get(b, b)) for a, b in edges]
    sizes = {name: tuple(map(_last, known[name])) for name in layers}
    return assembled(layers, edges, sizes), _last(before)


def _compare(metadata: Any, dt: float, convention: Convention) -> None:
    """Warns if a file of ours was written for something else than it is read as."""
    if not isinstance(metadata, dict) or metadata.get("written_by") != "jsnn":
        return
    asked = {"dt": dt, **vars(convention)}
    other = [
        f"{name}={metadata[name]} (read with {value})"
        for name, value in asked.items()
        if name in metadata and metadata[name] != value
    ]
    if other:
        warnings.warn(
            f"This graph was written for {', '.join(other)}: its spikes will differ.",
            UserWarning,
            stacklevel=4,
        )


def _last(shape: shapes.Shape) -> shapes.Shape:
    """With channels last."""
    return (*shape[1:], shape[0])


def _shape(name: str, node: Any) -> Any:
    kind, (value,) = type(node).__name__, node.input_type.values()
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim > 1 or (array < 1).any() or not array.size:  # fmt: skip
        raise GraphError(
            f"Node {name!r} ({kind}) must say its shape in positive whole numbers, got {value!r}."
        )
    return tuple(int(n) for n in array.reshape(-1))


def flat(graph: Any) -> tuple[dict[str, Any], list[Edge], str, str]:
    """Nodes and edges with graphs within the graph opened, and the names of its input and output."""
    found: dict[str, Any] = {}
    joints: list[str] = []
    edges = _open(graph, "", found, joints)
    for joint in joints:  # an inner input or output only hands on
        into = [a for a, b in edges if b == joint]
        out = [b for a, b in edges if a == joint]
        edges = [e for e in edges if joint not in e]
        edges += [(a, b) for a in into for b in out]
    ends = {}
    for kind in ("Input", "Output"):
        names = [n for n, node in found.items() if type(node).__name__ == kind]
        if len(names) != 1:
            got = f"{len(names)}: {', '.join(names)}" if names else "none"
            raise GraphError(f"The graph must have one node of type {kind}, got {got}.")
        ends[kind] = names[0]
    return found, edges, ends["Input"], ends["Output"]


def _open(graph: Any, prefix: str, found: dict[str, Any], joints: list[str]) -> list[Edge]:  # fmt: skip
    """Puts the nodes of a graph into `found`; its edges, by whole names."""
    inner: dict[str, dict[str, str]] = {}
    edges: list[Edge] = []
    for name, node in graph.nodes.items():
        kind, whole = type(node).__name__, prefix + name
        if kind == "NIRGraph":
            edges += _open(node, f"{whole}.", found, joints)
            inner[name] = {k: _only(whole, node, k) for k in ("Input", "Output")}
            continue
        if whole in found or whole in joints:
            raise GraphError(f"Two nodes are called {whole!r}.")
        if prefix and kind in ("Input", "Output"):
            joints.append(whole)
        else:
            found[whole] = node
    here = [tuple(edge) for edge in graph.edges]
    times = Counter(here)
    for a, b in here:
        if missing := {a, b} - graph.nodes.keys():
            raise GraphError(f"The edge {a!r} → {b!r} names a node that is not there: {', '.join(sorted(missing))}.")  # fmt: skip
        if times[a, b] > 1:
            raise GraphError(f"The edge {a!r} → {b!r} is there twice.")
        a = f"{a}.{inner[a]['Output']}" if a in inner else a
        b = f"{b}.{inner[b]['Input']}" if b in inner else b
        edges.append((prefix + a, prefix + b))
    return edges


def _only(whole: str, graph: Any, kind: str) -> str:
    names = [n for n, node in graph.nodes.items() if type(node).__name__ == kind]
    if len(names) != 1:
        raise GraphError(f"The graph {whole!r} within the graph must have one node of type {kind}, got {len(names)}.")  # fmt: skip
    return names[0]


def assembled(
    layers: Mapping[str, Layer], edges: list[Edge], sizes: Mapping[str, Any]
) -> Sequence:
    """A chain of layers, in which what is no chain is a `Graph`."""
    for name, layer in layers.items():
        setattr(layer, NODE, name)
    parts = components(layers, edges)
    whole = Graph(layers, edges, sizes)  # refuses loops without delay
    belongs = {name: k for k, part in enumerate(parts) for name in part}
    belongs |= {INPUT: -1, OUTPUT: len(parts)}
    chain, first = [], INPUT
    for k, part in enumerate(parts):
        crossing = [e for e in edges if (belongs[e[0]] < k) and (belongs[e[1]] >= k)]
        if {a for a, _ in crossing} != {first} or any(belongs[b] != k for _, b in crossing):  # fmt: skip
            return Sequence(whole)
        leaving = {a for a, b in edges if belongs[a] == k and belongs[b] != k}
        if len(leaving) != 1:
            return Sequence(whole)
        (last,) = leaving
        inner = [e for e in edges if e[0] in part and e[1] in part]
        if inner:
            inner += [(INPUT, b) for _, b in crossing] + [(last, OUTPUT)]
            own = {name: layers[name] for name in part}
            chain.append(Graph(own, inner, sizes))
        else:
            chain.append(layers[part[0]])
        first = last
    return Sequence(*chain)


def _layer(name: str, node: Any, before: Any, dt: float, convention: Convention, spike_fn: Any, round_delays: bool) -> Layer:  # fmt: skip
    """One node as a layer."""
    kind = type(node).__name__
    if kind in neurons_in.KINDS:
        return neurons_in.layer(name, node, before, dt, convention, spike_fn)
    if kind in ("Affine", "Linear"):
        return dense(node.weight.T, getattr(node, "bias", None))
    if kind in ("Conv1d", "Conv2d"):
        return _conv(name, node)
    if kind in ("SumPool2d", "AvgPool2d"):
        return _pool(name, node)
    if kind == "Flatten":
        return nodes.Flatten(*shapes.flattened(name, node, before))
    if kind == "Scale":
        return nodes.Scale(neurons_in.values(name, node, "scale", before))
    if kind == "Threshold":
        level = neurons_in.values(name, node, "threshold", before)
        return nodes.Threshold(level, inclusive=convention.spike_at == ">=", spike_fn=spike_fn)  # fmt: skip
    if kind == "Delay":
        return _delay(name, node, before, dt, round_delays)
    raise GraphError(f"Node {name!r} is of type {kind}, for which there is no layer.")


def dense(weight: Any, bias: Any) -> Dense:
    """A dense layer with weights `[I, O]` and bias `[O]` or None."""
    layer = Dense(*weight.shape, bias=bias is not None, rngs=nnx.Rngs(0))
    return filled(layer, weight, bias)


def filled(layer: Any, weight: Any, bias: Any) -> Any:
    """The layer with these weights."""
    layer.weight = nnx.Param(jnp.asarray(np.asarray(weight), jnp.float32))
    if bias is not None:
        bias = np.asarray(bias)
        if bias.shape != weight.shape[-1:]:
            raise GraphError(f"A bias has shape {list(bias.shape)}, where {list(weight.shape[-1:])} is needed.")  # fmt: skip
        layer.bias = nnx.Param(jnp.asarray(bias, jnp.float32))
    return layer


def _conv(name: str, node: Any) -> Layer:
    axes, kind = node.weight.ndim - 2, type(node).__name__
    stride = shapes.whole(name, kind, "stride", node.stride, axes)
    dilation = shapes.whole(name, kind, "dilation", node.dilation, axes)
    (groups,) = shapes.whole(name, kind, "groups", node.groups, 1)
    return conv(node.weight, node.bias, stride, shapes.pads(name, node, axes), dilation, groups)  # fmt: skip


def conv(weight: Any, bias: Any, stride: shapes.Shape, pads: nodes.Pads, dilation: shapes.Shape, groups: int) -> Layer:  # fmt: skip
    """A convolution with weights `[O, I / groups, ...]`; `jsnn.Conv`, whose gradients are fast, where that can say it."""
    weight = np.moveaxis(weight, (0, 1), (-1, -2))
    plain = len(stride) == 2 and groups == 1 and dilation == (1, 1)
    alike = [set(stride), set(weight.shape[:2]), {p for pair in pads for p in pair}]
    if plain and all(len(numbers) == 1 for numbers in alike):
        size, _, inputs, outputs = weight.shape
        layer = Conv(inputs, outputs, size, stride=stride[0], padding=pads[0][0], bias=bias is not None, rngs=nnx.Rngs(0))  # fmt: skip
        return filled(layer, weight, bias)
    return nodes.Convolution(weight, bias, stride=stride, padding=pads, dilation=dilation, groups=groups)  # fmt: skip


def _pool(name: str, node: Any) -> Layer:
    kind = type(node).__name__
    size = shapes.whole(name, kind, "kernel_size", node.kernel_size, 2)
    stride = shapes.whole(name, kind, "stride", node.stride, 2)
    padding = shapes.whole(name, kind, "padding", node.padding, 2)
    mean = kind == "AvgPool2d"
    if mean and size == stride and size[0] == size[1] and padding == (0, 0):
        return AvgPool(size[0])
    return nodes.Pool(_pair(size), _pair(stride), _pair(padding), mean=mean)


def _pair(values: shapes.Shape) -> tuple[int, int]:
    first, second = values
    return first, second


def _delay(name: str, node: Any, before: Any, dt: float, round_delays: bool) -> Layer:
    seconds = neurons_in.values(name, node, "delay", before)
    steps = np.round(seconds / dt)
    off = np.abs(seconds / dt - steps) > 1e-3
    if off.any() and not round_delays:
        raise GraphError(
            f"Node {name!r} (Delay) delays by {np.ravel(seconds[off])[0]:g} s, which is no whole number of steps of dt = {dt:g} s: take another `dt`, or pass `round_delays=True`."
        )
    if (steps > _LONGEST).any():
        raise GraphError(
            f"Node {name!r} (Delay) delays by {np.max(steps):g} steps of dt = {dt:g} s, more than {_LONGEST}: take a longer `dt`."
        )
    if (steps < 0).any():
        raise GraphError(f"Node {name!r} (Delay) has a delay below zero.")
    return nodes.Delay(steps.astype(np.int32))
