"""NIR's files: HDF5, opened without following links or loading anything that the file does not hold itself."""

import dataclasses
import os
from typing import Any

import numpy as np

from jsnn import check
from jsnn.exchange.conventions import GraphError

# Arrays of a file, in bytes once unpacked: more than any network here, and less than what a forged size could ask for.
LARGEST = 4 << 30
_MAGIC = b"\x89HDF\r\n\x1a\n"


def package() -> Any:
    """The package `nir`.

    Raises:
      GraphError: if it is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise GraphError(
            "Reading and writing NIR needs the package `nir`: `pip install 'jsnn[nir]'`."
        ) from error
    return nir


def read(path: str | os.PathLike[str]) -> Any:
    """The graph of a file, as the package `nir` holds it; shapes are not checked yet.

    Raises:
      GraphError: if there is no such file, it is damaged or of another format, or a node is unknown or lacks a field.
    """
    path, nir = check.path("path", path), package()
    import h5py

    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror}.") from error
    if head != _MAGIC:
        raise GraphError(
            f"{path} is no NIR file: NIR's files are HDF5, and this one begins with {head!r}."
        )
    try:
        with h5py.File(path, "r") as file:
            tree = _tree(path, file, [0], set())
    except GraphError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        said = " ".join(str(error).split())
        raise GraphError(f"{path} is damaged or cut off ({said}): fetch it again.") from error  # fmt: skip
    node = tree.get("node")
    if not isinstance(node, dict) or not _is(node.get("type"), "NIRGraph"):
        raise GraphError(
            f"{path} is HDF5 but holds no NIR graph: at its top lie {', '.join(sorted(tree)) or 'no entries'}, where `node` of type NIRGraph is needed."
        )
    return graph(nir, node, "")


def _is(value: Any, text: str) -> bool:
    """Whether a value is this text; an array is none."""
    return isinstance(value, str) and value == text


def _tree(path: Any, group: Any, used: list[int], seen: set[int]) -> dict[str, Any]:
    """Groups as dictionaries, data sets as arrays or text; `used` counts bytes, `seen` are groups opened before."""
    import h5py

    found = {}
    library: Any = h5py
    place = library.h5o.get_info(group.id).addr
    if place in seen:
        raise GraphError(f"{path}: the group {group.name} lies in the file twice: save the graph anew.")  # fmt: skip
    seen.add(place)
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise GraphError(
                f"{path}: the entry {group.name}/{name} is a link to elsewhere, which is not followed: save the graph anew."
            )
        item = group[name]
        if isinstance(item, h5py.Group):
            found[name] = _tree(path, item, used, seen)
        elif isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise GraphError(
                    f"{path}: the values of {item.name} lie in another file, which is not opened: save the graph anew."
                )
            used[0] += item.nbytes or 0
            if used[0] > LARGEST:
                raise GraphError(
                    f"{path} asks for more than {LARGEST >> 30} GiB of arrays ({item.name})."
                )
            value = item[()]
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found


def graph(nir: Any, tree: dict[str, Any], where: str) -> Any:
    """A graph from what the file holds."""
    if missing := [key for key in ("nodes", "edges") if key not in tree]:
        raise GraphError(f"The graph{where} lacks {' and '.join(missing)}.")
    entries, pairs = tree["nodes"], np.asarray(tree["edges"])
    if not isinstance(entries, dict) or pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "OSU":  # fmt: skip
        raise GraphError(f"The graph{where} must hold its nodes by name, and its edges as pairs of names.")  # fmt: skip
    nodes = {name: node(nir, name, entry) for name, entry in sorted(entries.items())}
    edges = [(_text(a), _text(b)) for a, b in pairs]
    return nir.NIRGraph(nodes, edges, tree.get("metadata", {}), type_check=False)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def node(nir: Any, name: str, entry: Any) -> Any:
    """A node from what the file holds.

    Raises:
      GraphError: if its type is unknown, or a field is missing or wrong.
    """
    kind = entry.get("type") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind == "str2NIRNode" or not isinstance(getattr(nir.ir, kind, None), type):  # fmt: skip
        said = repr(kind) if isinstance(kind, str | None) else "no text"
        raise GraphError(f"Node {name!r} is of type {said}, which NIR does not know.")
    if kind == "NIRGraph":
        return graph(nir, entry, f" {name!r}")
    given = {key: value for key, value in entry.items() if key != "metadata"}
    if kind in ("Input", "Output"):
        if "shape" not in given:
            raise GraphError(f"Node {name!r} ({kind}) lacks its shape.")
    else:
        known = dataclasses.fields(getattr(nir, kind))
        needed = {f.name for f in known if f.init and _required(f)} - {"input_type", "input_shape"}  # fmt: skip
        if missing := sorted(needed - given.keys()):
            raise GraphError(f"Node {name!r} ({kind}) lacks {', '.join(missing)}.")
        if kind.startswith("Conv"):
            given.setdefault("input_shape", None)
    try:
        return nir.dict2NIRNode(given)
    except (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # fmt: skip
        said = " ".join(str(error).split())
        raise GraphError(f"Node {name!r} ({kind}) is wrong: {said}.") from error


def _required(field: Any) -> bool:
    nothing = dataclasses.MISSING
    return field.default is nothing and field.default_factory is nothing
