"""Shapes of samples along a graph, in NIR's order: channels first."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jsnn.exchange.conventions import GraphError

Shape = tuple[int, ...]


class Nothing:
    """The node of the output, which has no fields."""


def whole(name: str, kind: str, field: str, value: Any, count: int) -> Shape:
    """One whole number an axis; NIR may give one for all."""
    numbers = np.asarray(value).reshape(-1)
    if numbers.dtype.kind not in "iu" or len(numbers) not in (1, count):
        raise GraphError(
            f"Node {name!r} ({kind}): `{field}` must be {count} whole numbers, got {' '.join(repr(value).split())[:80]}."
        )
    return tuple(int(n) for n in np.broadcast_to(numbers, count))


def pads(name: str, node: Any, axes: int) -> tuple[tuple[int, int], ...]:
    """Cells of padding before and after, for each axis of a convolution."""
    kind, value = type(node).__name__, node.padding
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        return tuple((p, p) for p in whole(name, kind, "padding", value, axes))
    if value == "valid":
        return ((0, 0),) * axes
    if value != "same":
        raise GraphError(f"Node {name!r} ({kind}): padding {value!r} is unknown.")
    if any(s != 1 for s in whole(name, kind, "stride", node.stride, axes)):
        raise GraphError(f"Node {name!r} ({kind}): padding 'same' needs stride 1.")
    dilation = whole(name, kind, "dilation", node.dilation, axes)
    sizes = [d * (k - 1) for d, k in zip(dilation, node.weight.shape[2:], strict=True)]
    return tuple((s // 2, s - s // 2) for s in sizes)


def _windows(name: str, kind: str, sizes: Shape, kernel: Shape, stride: Shape, edges: Any) -> Shape:  # fmt: skip
    """Numbers of windows along each axis."""
    if min(stride) < 1 or min(kernel) < 1 or min(min(e) for e in edges) < 0:
        raise GraphError(f"Node {name!r} ({kind}): kernel {kernel} and stride {stride} must be positive, padding not negative.")  # fmt: skip
    zipped = zip(sizes, kernel, stride, edges, strict=True)
    found = tuple((n + sum(e) - k) // s + 1 for n, k, s, e in zipped)
    if min(found) < 1:
        raise GraphError(f"Node {name!r} ({kind}): a window of {kernel} does not fit into its input of {sizes}.")  # fmt: skip
    return found


def _conv(name: str, node: Any, before: Shape) -> Shape:
    kind, axes = type(node).__name__, node.weight.ndim - 2
    (groups,) = whole(name, kind, "groups", node.groups, 1)
    outputs, inputs, *kernel = node.weight.shape
    if len(before) != axes + 1 or before[0] != inputs * groups or outputs % groups:
        raise GraphError(
            f"Node {name!r} ({kind}) has weights {list(node.weight.shape)} in {groups} groups, but its input is {list(before)}."
        )
    dilation = whole(name, kind, "dilation", node.dilation, axes)
    if min(dilation) < 1:
        raise GraphError(f"Node {name!r} ({kind}): dilation must be positive, got {dilation}.")  # fmt: skip
    kernel = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    stride = whole(name, kind, "stride", node.stride, axes)
    return (outputs, *_windows(name, kind, before[1:], kernel, stride, pads(name, node, axes)))  # fmt: skip


def _pool(name: str, node: Any, before: Shape) -> Shape:
    kind = type(node).__name__
    if len(before) != 3:
        raise GraphError(f"Node {name!r} ({kind}) takes [C, H, W], but its input is {list(before)}.")  # fmt: skip
    kernel = whole(name, kind, "kernel_size", node.kernel_size, 2)
    stride = whole(name, kind, "stride", node.stride, 2)
    edges = tuple((p, p) for p in whole(name, kind, "padding", node.padding, 2))
    return (before[0], *_windows(name, kind, before[1:], kernel, stride, edges))


def _linear(name: str, node: Any, before: Shape) -> Shape:
    kind, shape = type(node).__name__, node.weight.shape
    if len(shape) != 2 or before != (shape[1],):
        raise GraphError(
            f"Node {name!r} ({kind}) has weights {list(shape)}, but its input is {list(before)}: it takes vectors; put a Flatten before it."
        )
    return (shape[0],)


def flattened(name: str, node: Any, before: Shape) -> tuple[int, int]:
    """First and last axis of a Flatten, counted from the start."""
    ends = "start_dim", "end_dim"
    start, end = (whole(name, "Flatten", e, getattr(node, e), 1)[0] for e in ends)
    start, end = (v + len(before) if v < 0 else v for v in (start, end))
    if not 0 <= start <= end < len(before):
        raise GraphError(
            f"Node {name!r} (Flatten) makes one axis of {node.start_dim} to {node.end_dim}, but its input is {list(before)} (NIR counts no batch axis)."
        )
    return start, end


def check_numbers(name: str, node: Any) -> None:
    """Refuses a node whose fields are no finite numbers.

    Raises:
      GraphError: with the field.
    """
    kind = type(node).__name__
    for field, value in vars(node).items():
        if field in ("input_type", "output_type", "metadata") or value is None:
            continue
        array = np.asarray(value)
        if field == "padding" and array.dtype.kind in "SU":
            continue
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all() or not array.size:  # fmt: skip
            raise GraphError(f"Node {name!r} ({kind}): `{field}` must be finite numbers.")  # fmt: skip
        if field == "weight" and array.ndim != {"Conv1d": 3, "Conv2d": 4}.get(kind, 2):
            raise GraphError(f"Node {name!r} ({kind}): weights of shape {list(array.shape)} are not read.")  # fmt: skip


def after(name: str, node: Any, before: Shape) -> Shape:
    """What a node makes of an input of this shape.

    Raises:
      GraphError: if it does not take it.
    """
    kind = type(node).__name__
    if kind in ("Affine", "Linear"):
        return _linear(name, node, before)
    if kind in ("Conv1d", "Conv2d"):
        return _conv(name, node, before)
    if kind in ("SumPool2d", "AvgPool2d"):
        return _pool(name, node, before)
    if kind == "Flatten":
        start, end = flattened(name, node, before)
        return (*before[:start], int(np.prod(before[start : end + 1])), *before[end + 1 :])  # fmt: skip
    return before


def infer(
    nodes: Mapping[str, Any], edges: Iterable[tuple[str, str]], start: str, shape: Shape
) -> dict[str, tuple[Shape, Shape]]:
    """Shapes of the input and output of every node that the input reaches.

    Raises:
      GraphError: if a node does not take what reaches it, or two inputs of one node differ.
    """
    following: dict[str, list[str]] = {}
    for a, b in edges:
        following.setdefault(a, []).append(b)
    found, todo = {start: (shape, shape)}, deque([start])
    while todo:
        source = todo.popleft()
        given = found[source][1]
        for target in following.get(source, ()):
            if target in found:
                wanted = found[target][0]
                if given != wanted:
                    raise GraphError(
                        f"Node {target!r} gets {list(wanted)} from one node and {list(given)} from {source!r}: their shapes must be equal."
                    )
                continue
            check_numbers(target, nodes[target])
            found[target] = given, after(target, nodes[target], given)
            todo.append(target)
    return found
