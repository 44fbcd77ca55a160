"""Networks of other tools: NIR graphs in and out.

    net = jsnn.network(lambda rngs: jsnn.exchange.from_nir("cnn.nir", dt=1e-3, convention="sinabs"))

NIR (https://neuroir.org) states networks as graphs of equations in continuous time. How these become steps differs between
simulators. `Convention` names the choices, `CONVENTIONS` those of others. What a graph says and layers cannot compute is refused by
the name of the node. It needs `pip install 'jsnn[nir]'`.
"""

from jsnn.exchange.conventions import CONVENTIONS, Convention, GraphError, resolve
from jsnn.exchange.drift import Drift, NodeDrift, Seen, fires, record, write_nir
from jsnn.exchange.graph import Graph
from jsnn.exchange.reading import from_nir, read
from jsnn.exchange.weights import from_state_dict
from jsnn.exchange.writing import to_nir

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Drift",
    "Graph",
    "GraphError",
    "NodeDrift",
    "Seen",
    "fires",
    "from_nir",
    "from_state_dict",
    "read",
    "record",
    "resolve",
    "to_nir",
    "write_nir",
]
