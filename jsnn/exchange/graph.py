"""Layers joined by edges: several sources of one layer are summed, and layers may form loops through time."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsnn.exchange.conventions import GraphError
from jsnn.exchange.nodes import Delay
from jsnn.layers import Layer, Neurons
from jsnn.unroll import Constant, Signal, num_steps, unroll

Edge = tuple[str, str]
INPUT, OUTPUT = "", " "  # no name of a node


def components(names: Iterable[str], edges: Iterable[Edge]) -> list[list[str]]:
    """Nodes that reach one another, together; sources before their targets, in the order of `names` otherwise.

    >>> components("abc", [("a", "b"), ("b", "c"), ("c", "b")])
    [['a'], ['b', 'c']]
    """
    from scipy.sparse import coo_matrix, csgraph

    names = list(names)
    place = {name: k for k, name in enumerate(names)}
    pairs = [(place[a], place[b]) for a, b in edges if a in place and b in place]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    matrix = coo_matrix((np.ones(len(pairs)), (rows, columns)), (len(names),) * 2)
    count, label = csgraph.connected_components(matrix, connection="strong")
    groups: list[list[str]] = [[] for _ in range(count)]
    for name, group in zip(names, label, strict=True):
        groups[group].append(name)
    before = [set() for _ in range(count)]
    for a, b in pairs:
        if label[a] != label[b]:
            before[label[b]].add(label[a])
    order, done = [], set()
    todo = sorted(range(count), key=lambda g: place[groups[g][0]])
    while todo:
        group = next(g for g in todo if before[g] <= done)
        todo.remove(group)
        done.add(group)
        order.append(groups[group])
    return order


def loops(names: Iterable[str], edges: Iterable[Edge]) -> list[list[str]]:
    """The components in which a signal comes back."""
    own = {a for a, b in edges if a == b}
    return [c for c in components(names, edges) if len(c) > 1 or c[0] in own]


def late_edges(layers: Mapping[str, Layer], edges: list[Edge]) -> set[Edge]:
    """Edges that hand over what their source gave one step ago, so that every loop can be computed.

    A `Delay` of one step or more closes a loop by itself. In a loop without one, what neurons hand on within the loop is one step late.

    Raises:
      GraphError: if a loop has neither.
    """
    open_ = [e for e in edges if not _ahead(layers.get(e[0]))]
    late: set[Edge] = set()
    for loop in loops(layers, open_):
        inside = [e for e in open_ if e[0] in loop and e[1] in loop]
        late |= {e for e in inside if isinstance(layers[e[0]], Neurons)}
    for loop in loops(layers, [e for e in open_ if e not in late]):
        raise GraphError(
            f"The nodes {', '.join(map(repr, loop))} form a loop without delay: put a neuron or a Delay of at least one step into it."
        )
    return late


def _ahead(layer: Any) -> bool:
    """Whether what comes out does not depend on this step's input."""
    return isinstance(layer, Delay) and layer.least > 0


class Graph(Layer):
    """Layers by name, joined by edges, `[T, B, ...] -> [T, B, ...]`.

    Layers outside loops see all steps of a block at once. A loop is computed step by step.

    Args:
      layers: by name.
      edges: pairs of names; `INPUT` is the graph's input, `OUTPUT` its output.
      shapes: of each layer's input and output, one sample.

    Raises:
      GraphError: if a loop has no delay.
    """

    stateless = False

    def __init__(
        self,
        layers: Mapping[str, Layer],
        edges: Iterable[Edge],
        shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    ):
        edges = list(edges)
        late = late_edges(layers, edges)
        ahead = {e for e in edges if _ahead(layers.get(e[0]))}
        order = [n for c in components(layers, [e for e in edges if e not in late | ahead]) for n in c]  # fmt: skip
        groups = components(layers, edges)
        groups = [sorted(group, key=order.index) for group in groups]
        self.layers = nnx.List([layers[name] for name in layers])
        self.place = tuple((name, k) for k, name in enumerate(layers))
        self.groups = tuple(tuple(group) for group in groups)
        self.edges, self.late = tuple(edges), tuple(sorted(late))
        self.shapes = tuple((name, *shapes[name]) for name in layers)

    def named(self) -> dict[str, Layer]:
        """The layers by name."""
        return {name: self.layers[k] for name, k in self.place}

    def sources(self, name: str) -> list[str]:
        """What enters a layer."""
        return [a for a, b in self.edges if b == name]

    def _takes(self) -> tuple[int, ...]:
        first = next(b for a, b in self.edges if a == INPUT)
        return {name: shape for name, shape, _ in self.shapes}[first]

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """States of all layers, and what late edges hand over at the first step: zeros."""
        if tuple(shape[1:]) != self._takes():
            raise ValueError(
                f"This network takes inputs [T, B, {', '.join(map(str, self._takes()))}] with channels last, got samples of shape {list(shape[1:])}."
            )
        layers, states, given = self.named(), {}, {}
        for name, before, after in self.shapes:
            states[name] = layers[name].init_state((shape[0], *before), train=train, dtype=dtype)  # fmt: skip
            given[name] = jnp.zeros((shape[0], *after), dtype)
        return states, {a: given[a] for a in sorted({a for a, _ in self.late})}

    def __call__(self, state, x, *, train=False):
        """Runs the graph over a block."""
        state, values = self.run(state, x, train=train)
        return state, values[OUTPUT]

    def run(self, state: Any, x: Signal, *, train: bool = False) -> tuple[Any, dict[str, Signal]]:  # fmt: skip
        """The same with what every layer gives, by name; `OUTPUT` is the graph's."""
        states, given = dict(state[0]), dict(state[1])
        values: dict[str, Signal] = {INPUT: x}
        layers = self.named()
        for group in self.groups:
            if len(group) == 1 and (group[0], group[0]) not in self.edges:
                (name,) = group
                entering = total([values[s] for s in self.sources(name)])
                states[name], values[name] = layers[name](states[name], entering, train=train)  # fmt: skip
            else:
                self._loop(layers, group, states, given, values, train)
        values[OUTPUT] = total([values[s] for s in self.sources(OUTPUT)])
        return (states, given), values

    def _loop(self, layers, group, states, given, values, train) -> None:
        """Runs a loop step by step; states, late values and outputs are put into the dictionaries."""
        entering = {
            name: total([values[s] for s in self.sources(name) if s not in group])
            for name in group
            if any(s not in group for s in self.sources(name))
        }
        steps = num_steps(next(iter(entering.values()), values[INPUT]))
        flat, split = packed(entering, steps)
        handed = [a for a in given if a in group]

        def block(state: Any, x: Any) -> Any:
            (states, given), now = state, split(x)
            states, values = dict(states), {}
            for name in group:
                if _ahead(layers[name]):
                    values[name] = layers[name].ahead(states[name])
            for name in group:
                parts = [now[name]] if name in now else []
                for s in self.sources(name):
                    if s in group:
                        parts.append(given[s][None] if (s, name) in self.late else values[s])  # fmt: skip
                states[name], values[name] = layers[name](states[name], total(parts), train=train)  # fmt: skip
            new = {a: values[a][0].astype(given[a].dtype) for a in given}
            return (states, new), tuple(values[name] for name in group)

        start = {n: states[n] for n in group}, {a: given[a] for a in handed}
        (new, late), ys = unroll(block, start, flat, block_size=1)
        states.update(new)
        given.update(late)
        values.update(zip(group, ys, strict=True))


def total(signals: list[Signal]) -> Signal:
    """The sum of signals; constant only if all are."""
    first, *others = signals
    for other in others:
        if isinstance(first, Constant) and isinstance(other, Constant):
            first = Constant(first.value + other.value, first.num_steps)
        else:
            first = _steps(first) + _steps(other)
    return first


def _steps(x: Signal) -> Any:
    """All steps of a signal, or something that broadcasts against them."""
    return x.value[None] if isinstance(x, Constant) else x


def packed(signals: Mapping[str, Signal], steps: int) -> tuple[Any, Any]:
    """Signals side by side as one array `[K, B, N]`, and the function that takes one step of it apart."""
    if not signals:
        return jnp.zeros((steps, 1)), lambda x: {}
    arrays = {n: jnp.broadcast_to(_steps(s), (steps, *_steps(s).shape[1:])) for n, s in signals.items()}  # fmt: skip
    kind = jnp.result_type(*arrays.values())
    flat = [a.reshape(*a.shape[:2], -1).astype(kind) for a in arrays.values()]
    ends = np.cumsum([a.shape[2] for a in flat])[:-1].tolist()

    def split(x: Any) -> dict[str, Any]:
        parts = jnp.split(x, ends, axis=2)
        shapes = [a.shape[2:] for a in arrays.values()]
        return {n: p.reshape(*p.shape[:2], *s) for n, p, s in zip(arrays, parts, shapes, strict=True)}  # fmt: skip

    return jnp.concatenate(flat, axis=2), split
