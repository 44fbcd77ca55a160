"""Neurons of a graph as layers: time constants in seconds become decays of one step."""

from typing import Any

import numpy as np

from jsnn.exchange import spiking
from jsnn.exchange.conventions import Convention, GraphError
from jsnn.exchange.shapes import Shape
from jsnn.layers import Neurons

KINDS = ("LIF", "IF", "LI", "I", "CubaLIF", "CubaLI")


def values(name: str, node: Any, field: str, shape: Shape) -> np.ndarray:
    """A parameter in float64, one number or one a neuron, channels last.

    Raises:
      GraphError: if it is neither, or not finite.
    """
    kind, array = type(node).__name__, np.asarray(getattr(node, field), np.float64)
    if not np.isfinite(array).all():
        raise GraphError(f"Node {name!r} ({kind}): `{field}` must be finite.")
    if array.size == 1:
        return array.reshape(())
    if array.shape != shape:
        raise GraphError(
            f"Node {name!r} ({kind}): `{field}` has shape {list(array.shape)}, but its input is {list(shape)}."
        )
    return np.moveaxis(array, 0, -1)


def decay(name: str, node: Any, field: str, shape: Shape, dt: float, method: str) -> np.ndarray:  # fmt: skip
    """What a quantity with this time constant keeps in one step.

    Raises:
      GraphError: if the time constant is not positive, or shorter than the step where that has no meaning.
    """
    kind, tau = type(node).__name__, values(name, node, field, shape)
    if (tau <= 0).any():
        raise GraphError(f"Node {name!r} ({kind}): `{field}` must be positive, got {tau.min():g} s.")  # fmt: skip
    if method == "exact":
        return np.asarray(np.exp(-dt / tau))
    if (tau < dt).any():
        raise GraphError(
            f"Node {name!r} ({kind}): `{field}` is {tau.min():g} s, shorter than dt = {dt:g} s, so 1 - dt/{field} is negative: take a shorter `dt`, or `method='exact'`."
        )
    return np.asarray(1 - dt / tau)


def layer(
    name: str, node: Any, shape: Shape, dt: float, convention: Convention, spike_fn: Any
) -> Neurons:
    """The layer of a node that is a neuron."""
    kind = type(node).__name__

    def get(field: str) -> np.ndarray:
        return values(name, node, field, shape)

    if kind in ("IF", "I"):
        gain = get("r") * (dt if convention.scale_if else 1.0)
        found: dict[str, Any] = {"beta": 1.0, "gain": gain, "v_leak": 0.0}
    else:
        cuba = kind.startswith("Cuba")
        beta = decay(name, node, "tau_mem" if cuba else "tau", shape, dt, convention.method)  # fmt: skip
        gain = get("r") * (1 - beta if convention.scale_leaky else 1.0)
        found = {"beta": beta, "gain": gain, "v_leak": get("v_leak")}
        if cuba:
            alpha = decay(name, node, "tau_syn", shape, dt, convention.method)
            found |= _synapse(node, get, alpha, beta, convention)
    spikes = hasattr(node, "v_threshold")
    if spikes:
        found |= {"threshold": get("v_threshold"), "v_reset": get("v_reset")}
        _refuse(name, kind, found, convention)
    types = {
        (False, False): spiking.IntegratorParams,
        (False, True): spiking.SpikingParams,
        (True, False): spiking.CubaIntegratorParams,
        (True, True): spiking.CubaSpikingParams,
    }
    params = types["alpha" in found, spikes](**found)
    floor = kind == "IF" and convention.floor == "threshold"
    return Neurons(spiking.neuron(params, convention, floor=floor, spike_fn=spike_fn))


def _synapse(node: Any, get: Any, alpha: Any, beta: Any, convention: Convention) -> dict[str, Any]:  # fmt: skip
    """Of the synaptic current. With `current="exact"` the membrane's gain holds only r, and the mix all of the rest."""
    scale = 1 - alpha if convention.scale_leaky else 1.0
    found = {"alpha": alpha, "w_in": get("w_in") * scale, "mix_i": 1.0, "mix_x": 1.0}
    if convention.current != "exact":
        return found
    # v' = (-v + i)/tau_mem over a step in which i relaxes from i_old to w x; the limit for equal time constants is a derivative.
    tau_mem, tau_syn = np.broadcast_arrays(get("tau_mem"), get("tau_syn"))
    alpha, beta = np.broadcast_arrays(alpha, beta)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = tau_syn / (tau_syn - tau_mem) * (alpha - beta)
    near = np.abs(tau_syn / tau_mem - 1) < 1e-6
    share = np.where(near, -np.log(beta) * beta, apart)
    gain = 1 - beta
    return found | {"mix_i": share / gain, "mix_x": get("w_in") * (gain - share) / gain}


def _refuse(
    name: str, kind: str, found: dict[str, Any], convention: Convention
) -> None:
    """What cannot be computed as the graph says it."""
    threshold, rest, reset = found["threshold"], found["v_leak"], found["v_reset"]
    if (threshold <= rest).any():
        raise GraphError(
            f"Node {name!r} ({kind}): `v_threshold` must lie above the membrane at rest, got {threshold.min():g}."
        )
    if convention.reset == "subtract" and (np.any(reset) or (threshold <= 0).any()):
        raise GraphError(
            f"Node {name!r} ({kind}) has `v_reset` {np.ravel(reset)[0]:g} and `v_threshold` {np.ravel(threshold)[0]:g}: a reset that subtracts the threshold needs v_reset = 0 and a positive threshold. Pass `reset='v_reset'`."
        )
    if convention.several and np.any(rest):
        raise GraphError(
            f"Node {name!r} ({kind}): several spikes a step are counted from a membrane at rest at 0, but `v_leak` is not 0."
        )
