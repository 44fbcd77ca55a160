"""Layers of neurons as nodes of a graph: decays of one step become time constants in seconds."""

from typing import Any

import numpy as np

from jsnn.exchange.conventions import Convention, GraphError
from jsnn.exchange.shapes import Shape
from jsnn.exchange.spiking import NodeChoices
from jsnn.layers import Neurons
from jsnn.neurons.base import Choices


def node(nir: Any, name: str, layer: Neurons, shape: Shape, dt: float, convention: Convention) -> Any:  # fmt: skip
    """The node of a layer of neurons on samples of `shape`, channels last; recurrent weights are left to the caller.

    Raises:
      GraphError: if NIR has no words for the neuron, or the convention would read another one from it.
    """
    params: Any = layer.model()[1]
    params = getattr(params, "neuron", params)
    choices = layer.neuron.choices

    def values(value: Any) -> np.ndarray:
        """In float64, one number a neuron, channels first."""
        array = np.asarray(value, np.float64)
        whole = np.broadcast_to(array, shape)
        return np.ascontiguousarray(np.moveaxis(whole, -1, 0))

    found = {key: values(v) for key, v in params._asdict().items()}
    if isinstance(choices, NodeChoices):
        _agree(name, choices, found, convention)
    elif isinstance(choices, Choices):
        _known(name, layer, choices, convention)
        gain = 1 - found["beta"] if choices.scale_input else np.ones_like(found["beta"])
        found = {"gain": gain, "w_in": np.ones_like(gain)} | found
        found |= {"v_leak": np.zeros_like(gain), "v_reset": np.zeros_like(gain)}
    else:
        raise GraphError(f"Layer {name!r}: NIR has no node for its neuron.")
    return _written(nir, name, found, dt, convention)


def _known(name: str, layer: Neurons, choices: Choices, convention: Convention) -> None:
    """Refuses a neuron of `jsnn.neurons` that a reader with this convention would not get back."""
    if choices.model == "adaptive_lif":
        raise GraphError(f"Layer {name!r}: NIR has no neuron with a threshold that adapts.")  # fmt: skip
    if layer.neuron.refractory:
        raise GraphError(f"Layer {name!r}: NIR has no refractory period, and this one is {layer.neuron.refractory} steps.")  # fmt: skip
    if choices.model == "current_lif":
        _same(name, "current", "new", convention)
    if choices.model == "leaky_integrator":
        return
    if choices.reset == "none":
        raise GraphError(f"Layer {name!r}: NIR has no neuron that spikes without a reset.")  # fmt: skip
    if choices.delayed_reset:
        raise GraphError(
            f"Layer {name!r}: NIR resets with the spike, and this neuron a step later (`delayed_reset=True`)."
        )
    _same(name, "reset", "subtract" if choices.reset == "subtract" else "v_reset", convention)  # fmt: skip
    _same(name, "spike_at", choices.spike_at, convention)
    _same(name, "several", False, convention)


def _agree(name: str, choices: NodeChoices, found: Any, convention: Convention) -> None:
    """Refuses a neuron that was read by another convention, where that matters."""
    fields = ["current"] if "alpha" in found else []
    if "threshold" in found:
        fields += ["reset", "spike_at", "several"]
        if (found["beta"] == 1).all():
            _same(name, "floor", "threshold" if choices.floor else "none", convention)
    for field in fields:
        _same(name, field, getattr(choices.convention, field), convention)


def _same(name: str, field: str, value: Any, convention: Convention) -> None:
    if getattr(convention, field) != value:
        raise GraphError(
            f"Layer {name!r} has `{field}={value!r}`, about which NIR says nothing, and the convention says {getattr(convention, field)!r}: pass `{field}={value!r}`, and again when the graph is read."
        )


def _written(nir: Any, name: str, found: dict[str, np.ndarray], dt: float, convention: Convention) -> Any:  # fmt: skip
    """The node, of decays and gains."""
    beta, spiking, cuba = found["beta"], "threshold" in found, "alpha" in found
    fire = {"v_threshold": found["threshold"], "v_reset": found["v_reset"]} if spiking else {}  # fmt: skip
    if (beta == 1).all() and not cuba:
        r = found["gain"] / (dt if convention.scale_if else 1.0)
        _positive(name, r)
        return nir.IF(r=r, **fire) if spiking else nir.I(r=r)
    r = _unscaled(name, found["gain"], beta, convention)
    taus = {"tau_mem" if cuba else "tau": _tau(name, beta, dt, convention)}
    if not cuba:
        return (nir.LIF if spiking else nir.LI)(**taus, r=r, v_leak=found["v_leak"], **fire)  # fmt: skip
    taus["tau_syn"] = _tau(name, found["alpha"], dt, convention)
    w_in = _unscaled(name, found["w_in"], found["alpha"], convention)
    kind = nir.CubaLIF if spiking else nir.CubaLI
    return kind(**taus, r=r, v_leak=found["v_leak"], w_in=w_in, **fire)


def _positive(name: str, r: np.ndarray) -> None:
    if not (np.isfinite(r).all() and (r != 0).all()):
        raise GraphError(f"Layer {name!r}: its input has no effect (a gain of 0), which NIR cannot say.")  # fmt: skip


def _unscaled(name: str, gain: np.ndarray, decay: np.ndarray, convention: Convention) -> np.ndarray:  # fmt: skip
    """What NIR calls r or w_in."""
    with np.errstate(divide="ignore", invalid="ignore"):
        r = gain / (1 - decay) if convention.scale_leaky else gain
    if (decay < 1).all():
        _positive(name, r)
    return r


def _tau(name: str, decay: np.ndarray, dt: float, convention: Convention) -> np.ndarray:
    """The time constant in seconds of a decay."""
    if (decay >= 1).any():
        raise GraphError(
            f"Layer {name!r}: some of its neurons keep all of their membrane or current (a decay of 1), which NIR can say only of all of a layer without current."
        )
    if convention.method == "euler":
        return dt / (1 - decay)
    if (decay <= 0).any():
        raise GraphError(f"Layer {name!r} has a decay of 0, which is no exponential: pass `method='euler'`.")  # fmt: skip
    return -dt / np.log(decay)
