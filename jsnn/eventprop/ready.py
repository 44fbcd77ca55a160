"""A network with all that `jsnn.classifier` asks about: inputs as spike times, the loss, and the scores."""

import itertools

from jsnn import check
from jsnn.eventprop import latency, losses
from jsnn.eventprop.network import chain, dense, leaky, lif
from jsnn.model import Network


def dense_network(*sizes: int, dt: float = 1.0, T: float = 25.0) -> Network:
    """Dense layers of LIF neurons, to be trained by EventProp: inputs as a latency code, leaky integrators as read-out, the largest voltage wins.

    >>> task = jsnn.classifier(jsnn.eventprop.dense_network(64, 100, 10))
    >>> model = task.init(jax.random.key(0))
    >>> [weights.shape for weights in jax.tree.leaves(model.params)]
    [(64, 100), (100, 10)]

    For other layers, codes and losses, write a `chain` and name `encode`, `loss` and `read_out` in `jsnn.classifier`.

    Args:
      *sizes: number of input features, of neurons in each spiking layer, and of classes.
      dt: step of the time grid, in ms.
      T: length of a trial, in ms. Inputs spike in its first four fifths.

    Returns:
      A network for `jsnn.classifier`. Its inputs are bytes, or numbers in [0, 1].

    Raises:
      ValueError: if there are fewer than two sizes, or a number is out of range.
    """
    check.static("dt", dt, "(0, inf)")
    check.static("T", T, "(0, inf)")
    if len(sizes) < 2:
        raise ValueError(
            f"`sizes` must name inputs and classes at least, got {sizes}: write `dense_network(64, 100, 10)`."
        )
    layers = []
    for num_inputs, num_outputs in itertools.pairwise(sizes):
        layers += [dense(num_inputs, num_outputs), lif(dt=dt)]
    layers[-1] = leaky(dt=dt)
    usual = {
        "encode": latency.encoder(t_max=0.8 * T, T=T, dt=dt),
        "loss": losses.ce_max_voltage,
        "read_out": losses.max_voltage,
    }
    return chain(*layers)._replace(usual=usual)
