"""Networks of other tools: NIR graphs in and out.

    net = jsnn.network(lambda rngs: jsnn.exchange.from_nir("cnn.nir", dt=1e-3, convention="sinabs"))

NIR (https://neuroir.org) states networks as graphs of equations in continuous time. How these become steps differs between
simulators. `Convention` names the choices, `CONVENTIONS` those of others. What a graph says and layers cannot compute is refused by
the name of the node. It needs `pip install 'jsnn[nir]'`.
"""

from jsnn.exchange.conventions import CONVENTIONS, Convention, GraphError
from jsnn.exchange.graph import Graph
from jsnn.exchange.reading import from_nir

__all__ = ["CONVENTIONS", "Convention", "Graph", "GraphError", "from_nir"]
