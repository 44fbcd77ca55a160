"""From layers to a NIR graph."""

import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import check
from jsnn import files as whole_files
from jsnn import layers as own
from jsnn.exchange import files, neurons_out, nodes
from jsnn.exchange.conventions import Convention, GraphError, resolve
from jsnn.exchange.graph import INPUT, OUTPUT, Graph
from jsnn.exchange.reading import NODE
from jsnn.exchange.shapes import Shape


def to_nir(
    net: own.Layer,
    shape: tuple[int, ...],
    *,
    dt: float,
    convention: Convention | str = "norse",
    **choices: Any,
) -> Any:
    """A NIR graph that `from_nir` with the same `dt` and convention makes the same network of.

    Batch normalisation becomes part of the weights before it, by its running statistics; dropout is left out. So the graph computes what the
    network computes in evaluation.

    >>> net = jsnn.Sequence(jsnn.Dense(4, 3, rngs=nnx.Rngs(0)), jsnn.LIF(reset="zero"))
    >>> sorted(to_nir(net, (4,), dt=1e-3).nodes)
    ['0', '1', 'input', 'output']

    Args:
      net: layers; of a `jsnn.network`, `jsnn.layers.merge(net.graphdef, model)`.
      shape: of one sample, channels last.
      dt: the length of a step in seconds. It decides what the time constants are.
      convention: as for `from_nir`. What layers do and NIR leaves open, such as the reset, must be what it says.
      **choices: fields of `Convention` that differ from it.

    Returns:
      A graph of the package `nir`. Its metadata say `dt` and the convention.

    Raises:
      GraphError: if NIR has no words for a layer, or the convention says otherwise.
    """
    return written(net, shape, dt, resolve(convention, **choices)).graph


def written(net: own.Layer, shape: tuple[int, ...], dt: float, convention: Convention) -> Any:  # fmt: skip
    """A `_Writer` that has done its work: `graph`, and in `named` the layers of neurons by the names of their nodes."""
    check.number("dt", dt, "(0, inf)", remedy="It is a time in seconds.")
    check.kind("net", net, own.Layer, "a layer", "write `jsnn.layers.merge(net.graphdef, model)` for a `jsnn.network`")  # fmt: skip
    writer = _Writer(files.package(), dt, convention)
    shape = tuple(check.whole("shape", n, 1) for n in shape)
    last, end = writer.emit(net, "input", shape)
    if last == "input":
        raise GraphError("There is no layer to write.")
    writer.nodes["output"] = writer.nir.Output(np.array(first(end)))
    writer.edges.append((last, "output"))
    writer.nodes["input"] = writer.nir.Input(np.array(first(shape)))
    writer.graph = writer.nir.NIRGraph(
        writer.nodes, writer.edges, metadata(dt, convention), type_check=False
    )
    return writer


def metadata(dt: float, convention: Convention) -> dict[str, Any]:
    """What a file of ours says beside the graph."""
    return {"written_by": "jsnn", "dt": dt, **{k: v for k, v in vars(convention).items()}}  # fmt: skip


def first(shape: Shape) -> Shape:
    """With channels first."""
    return (*shape[-1:], *shape[:-1])


def save(path: str | os.PathLike[str], graph: Any) -> pathlib.Path:
    """Writes a graph to a file, whole or not at all.

    Raises:
      GraphError: if it cannot be written.
    """
    path = check.path("path", path)
    data = io.BytesIO()
    files.package().write(data, graph)
    try:
        return whole_files.write(path, data.getvalue())
    except OSError as error:
        raise GraphError(f"{path} could not be written ({error}).") from error


class _Writer:
    """Nodes and edges so far."""

    def __init__(self, nir: Any, dt: float, convention: Convention):
        self.nir, self.dt, self.convention = nir, dt, convention
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.named: list[tuple[str, own.Neurons]] = []  # nodes of neurons
        self.graph: Any = None

    def name(self, layer: Any) -> str:
        """That of the node it was read from, or its number."""
        wanted = getattr(layer, NODE, None) or str(len(self.nodes))
        name, k = wanted, 1
        while name in self.nodes or name in ("input", "output"):
            name, k = f"{wanted}_{k}", k + 1
        return name

    def emit(self, layer: Any, source: str, shape: Shape) -> tuple[str, Shape]:
        """Adds a layer behind `source`; returns the last node, and the shape that leaves it."""
        if isinstance(layer, own.Sequence):
            for inner in layer.layers:
                source, shape = self.emit(inner, source, shape)
            return source, shape
        if isinstance(layer, Graph):
            return self._graph(layer, source, shape)
        if isinstance(layer, own.Dropout):
            return source, shape
        if isinstance(layer, own.BatchNorm):
            self._fold(layer, source)
            return source, shape
        head, tail = self.add(layer, shape)
        self.edges.append((source, head))
        return tail, _after(layer, shape)

    def add(self, layer: Any, shape: Shape) -> tuple[str, str]:
        """Adds a layer without what enters it; returns its first and last node."""
        name = self.name(layer)
        if isinstance(layer, own.Neurons):
            return self._neurons(name, layer, shape)
        if isinstance(layer, own.Dense) and len(shape) > 1:
            self.nodes[name + "_flatten"] = self.nir.Flatten(np.array(first(shape)), 0, -1)  # fmt: skip
            weight = np.asarray(layer.weight[...]).reshape(*shape, -1)
            weight = np.moveaxis(weight, -2, 0).reshape(-1, weight.shape[-1])
            self.nodes[name] = self._dense(weight, layer.bias)
            self.edges.append((name + "_flatten", name))
            return name + "_flatten", name
        self.nodes[name] = self._node(name, layer, shape)
        return name, name

    def _neurons(self, name: str, layer: own.Neurons, shape: Shape) -> tuple[str, str]:
        self.nodes[name] = neurons_out.node(self.nir, name, layer, shape, self.dt, self.convention)  # fmt: skip
        self.named.append((name, layer))
        if layer.recurrent is not None:
            if len(shape) != 1:
                raise GraphError(f"Layer {name!r}: NIR has no recurrent weights over the last axis of maps {list(shape)}.")  # fmt: skip
            weight = np.asarray(layer.recurrent[...], np.float32)
            self.nodes[name + ".w_rec"] = self.nir.Linear(weight.T)
            self.edges += [(name, name + ".w_rec"), (name + ".w_rec", name)]
        return name, name

    def _dense(self, weight: Any, bias: Any) -> Any:
        weight = np.ascontiguousarray(np.asarray(weight, np.float32).T)
        if bias is None:
            return self.nir.Linear(weight)
        return self.nir.Affine(weight, np.asarray(bias[...], np.float32))

    def _node(self, name: str, layer: Any, shape: Shape) -> Any:
        """A layer without neurons as one node."""
        nir = self.nir
        if isinstance(layer, own.Dense):
            return self._dense(layer.weight[...], layer.bias)
        if isinstance(layer, own.Conv | nodes.Convolution):
            return _conv(nir, name, layer, shape)
        if isinstance(layer, own.AvgPool):
            size = np.array([layer.size, layer.size])
            return nir.AvgPool2d(size, size, np.array([0, 0]))
        if isinstance(layer, nodes.Pool):
            numbers = map(np.array, (layer.size, layer.stride, layer.padding))
            return (nir.AvgPool2d if layer.mean else nir.SumPool2d)(*numbers)
        if isinstance(layer, nodes.Flatten):
            return nir.Flatten(np.array(first(shape)), layer.start, layer.end)
        if isinstance(layer, nodes.Scale):
            return nir.Scale(_each(layer.scale[...], shape))
        if isinstance(layer, nodes.Threshold):
            at = ">=" if layer.inclusive else ">"
            neurons_out._same(name, "spike_at", at, self.convention)
            return nir.Threshold(_each(layer.threshold[...], shape))
        if isinstance(layer, nodes.Delay):
            return nir.Delay(_each(layer.steps[...], shape) * self.dt)
        if isinstance(layer, own.Delay):
            steps = np.round(np.asarray(layer.delays(), np.float64) / layer.dt)
            return nir.Delay(_each(steps, shape) * self.dt)
        function = getattr(layer, "function", None)
        what = f" of `{getattr(function, '__name__', type(function).__name__)}`" if function else ""  # fmt: skip
        raise GraphError(f"Layer {name!r} ({type(layer).__name__}{what}): NIR has no such node.")  # fmt: skip

    def _graph(self, layer: Graph, source: str, shape: Shape) -> tuple[str, Shape]:
        heads, tails = {}, {OUTPUT: OUTPUT}
        sizes = {name: (before, after) for name, before, after in layer.shapes}
        for name, inner in layer.named().items():
            heads[name], tails[name] = self.add(inner, sizes[name][0])
        self.edges += [(source if a == INPUT else tails[a], heads[b]) for a, b in layer.edges if b != OUTPUT]  # fmt: skip
        leaving = [a for a, b in layer.edges if b == OUTPUT]
        if len(leaving) > 1 or leaving[0] == INPUT:
            # One node that sums what leaves the graph.
            after = sizes[next(a for a in leaving if a != INPUT)][1]
            name = self.name(None)
            self.nodes[name] = self.nir.Scale(np.ones(first(after)))
            self.edges += [(source if a == INPUT else tails[a], name) for a in leaving]
            return name, after
        return tails[leaving[0]], sizes[leaving[0]][1]

    def _fold(self, norm: own.BatchNorm, source: str) -> None:
        """Batch normalisation as part of the weights before it."""
        node: Any = self.nodes.get(source)
        nir = self.nir
        alone = [a for a, _ in self.edges].count(source) == 0
        if not isinstance(node, nir.Linear | nir.Affine | nir.Conv1d | nir.Conv2d) or not alone:  # fmt: skip
            raise GraphError(
                "A BatchNorm can be written only where a Dense or Conv stands right before it: NIR has no such node."
            )
        gain = np.asarray(norm.scale[...], np.float64) / np.sqrt(np.asarray(norm.var[...], np.float64) + norm.epsilon)  # fmt: skip
        bias = np.asarray(getattr(node, "bias", 0.0), np.float64)
        bias = (bias - np.asarray(norm.mean[...], np.float64)) * gain + np.asarray(norm.offset[...], np.float64)  # fmt: skip
        weight = node.weight * gain.reshape(-1, *(1,) * (node.weight.ndim - 1))
        weight, bias = weight.astype(np.float32), bias.astype(np.float32)
        if isinstance(node, nir.Linear):
            self.nodes[source] = nir.Affine(weight, bias)
        else:
            node.weight, node.bias = weight, bias


def _each(value: Any, shape: Shape) -> np.ndarray:
    """One number for each input, channels first."""
    whole = np.broadcast_to(np.asarray(value, np.float64), shape)
    return np.ascontiguousarray(np.moveaxis(whole, -1, 0))


def _after(layer: own.Layer, shape: Shape) -> Shape:
    """Shape of a sample behind a layer."""

    def run(x: Any) -> Any:
        return layer(layer.init_state(x.shape[1:]), x)[1]

    return jax.eval_shape(run, jax.ShapeDtypeStruct((1, 1, *shape), jnp.float32)).shape[2:]  # fmt: skip


def _conv(nir: Any, name: str, layer: Any, shape: Shape) -> Any:
    weight = np.asarray(layer.weight[...], np.float32)
    weight = np.ascontiguousarray(np.moveaxis(weight, (-1, -2), (0, 1)))
    axes = weight.ndim - 2
    bias = np.zeros(len(weight), np.float32) if layer.bias is None else np.asarray(layer.bias[...], np.float32)  # fmt: skip
    if isinstance(layer, own.Conv):
        from jsnn.kernels.conv import _pads

        stride, dilation, groups = (layer.stride,) * axes, (1,) * axes, 1
        sizes = zip(shape[:-1], weight.shape[2:], strict=True)
        pads = tuple(_pads(n, k, layer.stride, layer.padding) for n, k in sizes)
    else:
        stride, dilation, groups = layer.stride, layer.dilation, layer.groups
        pads = layer.padding
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if all(a == b for a, b in pads):
        padding: Any = tuple(a for a, _ in pads)
    elif set(stride) == {1} and all((a, b) == (s // 2, s - s // 2) for (a, b), s in zip(pads, spans, strict=True)):  # fmt: skip
        padding = "same"
    else:
        raise GraphError(
            f"Layer {name!r}: NIR pads both sides alike, and this convolution pads {pads}: give `padding` in pixels."
        )
    numbers: Mapping[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}  # fmt: skip
    if axes == 1:
        numbers = {k: v if isinstance(v, str) else v[0] for k, v in numbers.items()}
        return nir.Conv1d(shape[0], weight, **numbers, groups=groups, bias=bias)
    return nir.Conv2d(shape[:-1], weight, **numbers, groups=groups, bias=bias)
