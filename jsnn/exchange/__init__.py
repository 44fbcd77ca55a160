"""Networks of other tools: NIR graphs in and out.

    net = jsnn.network(lambda rngs: jsnn.exchange.from_nir("cnn.nir", dt=1e-3, convention="sinabs"))

NIR (https://neuroir.org) states networks as graphs of equations in continuous time. How these become steps differs between
simulators. `Convention` names the choices, `CONVENTIONS` those of others. What a graph says and layers cannot compute is refused by
the name of the node. It needs `pip install 'jsnn[nir]'`.
"""

from jsnn.exchange.conventions import CONVENTIONS, Convention, GraphError
from jsnn.exchange.drift import Drift, NodeDrift, write_nir
from jsnn.exchange.graph import Graph
from jsnn.exchange.reading import from_nir
from jsnn.exchange.writing import to_nir

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Drift",
    "Graph",
    "GraphError",
    "NodeDrift",
    "from_nir",
    "to_nir",
    "write_nir",
]
