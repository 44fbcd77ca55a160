"""What a round trip through a file changes: spikes before and after."""

import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import check
from jsnn import layers as own
from jsnn.exchange.conventions import Convention, resolve
from jsnn.exchange.graph import OUTPUT, Graph
from jsnn.exchange.nodes import Threshold
from jsnn.exchange.reading import from_nir
from jsnn.exchange.writing import save, written
from jsnn.precision import wide_type


class NodeDrift(NamedTuple):
    """Of one layer of neurons.

    Attributes:
      name: of its node.
      before, after: spikes in all; of neurons that do not spike, the mean of the membrane.
      changed: in how many places (step, sample, neuron) the outputs differ by more than 1e-4 of the largest.
      first: the first step in which they do; None if none.
      largest: difference.
    """

    name: str
    before: float
    after: float
    changed: int
    first: int | None
    largest: float


class Drift(NamedTuple):
    """Of a network: layer by layer, in order; the last is the output."""

    nodes: tuple[NodeDrift, ...]

    @property
    def same(self) -> bool:
        """Whether nothing changed."""
        return not any(node.changed for node in self.nodes)

    def __str__(self) -> str:
        """One line a layer."""
        lines = []
        for n in self.nodes:
            what = f"{n.changed} places differ, the first in step {n.first}" if n.changed else "the same"  # fmt: skip
            lines.append(f"{n.name}: {n.before:g} before, {n.after:g} after, {what} (largest difference {n.largest:.2g})")  # fmt: skip
        return "\n".join(lines)


def write_nir(
    path: str | os.PathLike[str],
    net: own.Layer,
    x: Any,
    *,
    dt: float,
    convention: Convention | str = "norse",
    **choices: Any,
) -> Drift:
    """Writes layers to a NIR file, reads it again, and says whether spikes on `x` are the same.

    >>> import tempfile
    >>> net = jsnn.Sequence(jsnn.Dense(4, 3, rngs=nnx.Rngs(0)), jsnn.LIF(reset="zero"))
    >>> print(write_nir(tempfile.mkdtemp() + "/net.nir", net, jnp.ones((20, 2, 4)), dt=1e-3))
    1: 20 before, 20 after, the same (largest difference 0)
    output: 20 before, 20 after, the same (largest difference 0)

    Args:
      path: of the file.
      net: layers; of a `jsnn.network`, `jsnn.layers.merge(net.graphdef, model)`.
      x: input `[T, B, ...]` on which both are run, channels last.
      dt, convention, **choices: as for `to_nir`.

    Returns:
      A report, layer by layer.

    Raises:
      GraphError: if the network cannot be written as a graph, or the file cannot be written.
    """
    check.time_axis("x", x)
    convention = resolve(convention, **choices)
    writer = written(net, tuple(x.shape[2:]), dt, convention)
    with tempfile.TemporaryDirectory() as folder:
        trial = save(pathlib.Path(folder) / "trial.nir", writer.graph)
        again = from_nir(trial, dt=dt, convention=convention)
    report = drift(net, again, x, [name for name, _ in writer.named])
    save(path, writer.graph)
    return report


def drift(net: own.Layer, again: own.Layer, x: Any, names: list[str]) -> Drift:
    """What differs between a network and the one that was read from its graph.

    Args:
      net: the network.
      again: what was read.
      x: input `[T, B, ...]`.
      names: of the layers of neurons of `net`, in order.
    """
    after = {seen.name: seen.output for seen in record(again, x)}
    pairs = zip([*names, OUTPUT], record(net, x), strict=True)
    return Drift(tuple(_compare(name, seen, after[name]) for name, seen in pairs))


class Seen(NamedTuple):
    """What one layer of neurons gave.

    Attributes:
      name: of the node it was read from, or "".
      output: over all steps, `[T, B, ...]`.
      spikes: whether these are spikes.
    """

    name: str
    output: Any
    spikes: bool


def record(net: own.Layer, x: Any) -> list[Seen]:
    """What every layer of neurons gives over all steps, in order, and last the network's output.

    >>> net = jsnn.Sequence(jsnn.Dense(4, 3, rngs=nnx.Rngs(0)), jsnn.LIF())
    >>> [(seen.output.shape, seen.spikes) for seen in record(net, jnp.ones((5, 2, 4)))]
    [((5, 2, 3), True), ((5, 2, 3), True)]
    """
    found: list[Seen] = []

    def run(x: Any) -> list[Any]:
        found.clear()
        y = _visit(net, x, found)
        found.append(Seen(OUTPUT, y, fires(net)))
        return [seen.output for seen in found]

    values = jax.jit(run)(jnp.asarray(x))
    pairs = zip(found, values, strict=True)
    return [seen._replace(output=np.asarray(value)) for seen, value in pairs]


def _visit(layer: own.Layer, x: Any, found: list[Seen]) -> Any:
    if isinstance(layer, own.Sequence):
        for inner in layer.layers:
            x = _visit(inner, x, found)
        return x
    state = layer.init_state(x.shape[1:], dtype=wide_type(x))
    if isinstance(layer, Graph):
        _, values = layer.run(state, x)
        named = layer.named().items()
        found += [Seen(n, values[n], fires(inner)) for n, inner in named if isinstance(inner, own.Neurons)]  # fmt: skip
        return values[OUTPUT]
    _, y = layer(state, x)
    if isinstance(layer, own.Neurons):
        found.append(Seen(getattr(layer, "node", ""), y, fires(layer)))
    return y


def fires(layer: own.Layer) -> bool:
    """Whether what comes out of a layer are spikes."""
    if isinstance(layer, own.Sequence):
        return bool(layer.layers) and fires(layer.layers[-1])
    if isinstance(layer, Graph):
        named = layer.named()
        return all(s in named and fires(named[s]) for s in layer.sources(OUTPUT))
    return isinstance(layer, Threshold) or "threshold" in getattr(layer, "params", {})


def _compare(name: str, seen: Seen, after: np.ndarray) -> NodeDrift:
    before = seen.output
    off = np.abs(before - after)
    apart = off > 1e-4 * max(np.abs(before).max(), 1e-30)
    size = np.sum if seen.spikes else np.mean
    steps = np.flatnonzero(apart.reshape(len(apart), -1).any(1))
    return NodeDrift(
        "output" if name == OUTPUT else name,
        float(size(before)),
        float(size(after)),
        int(apart.sum()),
        int(steps[0]) if steps.size else None,
        float(off.max()),
    )
