"""Small NIR graphs that other simulators read, too, each with an input; the same numbers whenever they are made."""

import itertools
from typing import Any, NamedTuple

import nir
import numpy as np


class Case(NamedTuple):
    """A graph, an input `[T, B, ...]` in NIR's order, and what `from_nir` is told."""

    graph: Any
    x: np.ndarray
    choices: dict[str, Any]


def single(*arrays: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a, np.float32) for a in arrays)


def chain(inputs: tuple[int, ...], *nodes: Any, outputs: int = 5) -> Any:
    ends = nir.Input(np.array(inputs)), nir.Output(np.array([outputs]))
    names = ["input", *map(str, range(len(nodes))), "output"]
    found = dict(zip(names, [ends[0], *nodes, ends[1]], strict=True))
    edges = list(itertools.pairwise(names))
    return nir.NIRGraph(found, edges, type_check=False)


def dense(node: Any, w: Any, b: Any) -> Any:
    return chain((4,), nir.Affine(w, b), node)


def cases() -> dict[str, Case]:
    """By the name of the simulator and what is in them."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(30, 3, 4)) * 3
    w, b, tau, level = draws.normal(size=(5, 4)), draws.normal(size=5), draws.uniform(2e-3, 6e-3, 5), draws.uniform(0.1, 0.5, 5)  # fmt: skip
    x, w, b, tau, level, one, zero = single(x, w, b, tau, level, np.ones(5), np.zeros(5))  # fmt: skip
    cuba = nir.CubaLIF(tau / 2, tau, 2 * one, zero, level / 2, zero, 3 * one)
    norse: dict[str, Any] = {"dt": 1e-3, "convention": "norse"}
    found = {
        "norse_lif": Case(dense(nir.LIF(tau, one, zero, level, zero), w, b), x, norse),
        "norse_leak": Case(
            dense(nir.LIF(tau, one, one / 20, level, zero), w, b), x, norse
        ),
        "norse_if": Case(dense(nir.IF(one, level, zero), w, b), x, norse),
        "norse_cuba": Case(dense(cuba, w, b), x, norse),
        "norse_subtract": Case(dense(cuba, w, b), x, norse | {"reset": "subtract"}),
    }
    # Sinabs counts time constants in steps.
    steps = np.float32(5)
    sinabs: dict[str, Any] = {"dt": 1.0, "convention": "sinabs"}
    k, c = single(draws.normal(size=(3, 2, 3, 3)) / 3, draws.normal(size=3) / 9)
    conv = nir.Conv2d((6, 6), k, 2, 1, 1, 1, c)
    maps, ones = (3, 3, 3), np.ones((3, 3, 3), np.float32)
    pool = nir.SumPool2d(*[np.array(n) for n in ((2, 2), (1, 1), (0, 0))])
    v, a = single(draws.normal(size=(5, 12)) / 2, draws.normal(size=5) / 4)
    deep = chain((2, 6, 6), conv, nir.IF(ones, 0.7 * ones, 0 * ones), pool, nir.Flatten(np.array([3, 2, 2]), 0, -1), nir.Affine(v, a), nir.IF(one, one, zero))  # fmt: skip
    events = draws.poisson(0.4, (30, 3, 2, 6, 6)).astype(np.float32)
    scalar = single([steps], [1.0], [0.0], [0.4], [0.0])
    found |= {
        "sinabs_lif": Case(dense(nir.LIF(*scalar), w, b), x, sinabs),
        "sinabs_deep": Case(deep, events, sinabs),
    }
    assert maps == ones.shape
    # snnTorch: one value for all neurons, and steps of 0.1 ms.
    snn: dict[str, Any] = {"dt": 1e-4, "convention": "snntorch"}
    same = [np.full(5, value) for value in (1e-3, 1.0, 0.0, 0.3, 0.0)]
    fast = [np.full(5, value) for value in (4e-4, 1e-3, 10.0, 0.0, 1.0, 0.0, 4.0)]
    found |= {
        "snntorch_lif": Case(dense(nir.LIF(*same), w, b), x, snn),
        "snntorch_cuba": Case(dense(nir.CubaLIF(*fast), w, b), x / 4, snn),
    }
    return found
