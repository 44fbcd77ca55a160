"""Modules of PyTorch, snnTorch and SpikingJelly by their own names and arguments, for `from_state_dict`.

Each says which arrays it takes from a `state_dict`, and makes a layer of them. Arguments that a `state_dict` does not hold have the
library's defaults. docs/exchange.md lists what each becomes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jsnn import check, neurons
from jsnn.exchange import nodes, snn, spiking
from jsnn.exchange.conventions import Convention, GraphError
from jsnn.exchange.graph import INPUT, OUTPUT, Graph
from jsnn.exchange.reading import conv, dense
from jsnn.layers import AvgPool, BatchNorm, Dropout, Layer, MaxPool, Neurons

Arrays = Mapping[str, np.ndarray]
_SNN = ("threshold", "graded_spikes_factor", "reset_mechanism_val", "beta")
_RESETS = ("subtract", "zero", "none")


class Module(NamedTuple):
    """A module: `takes` and may take (`may`) arrays of these names, of which `build` makes a layer."""

    kind: str
    build: Callable[[Arrays], Layer]
    takes: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


# --- PyTorch ---


def Linear() -> Module:
    """`torch.nn.Linear`: weights `[O, I]`."""
    return Module("Linear", lambda a: dense(a["weight"].T, a.get("bias")), ("weight",), ("bias",))  # fmt: skip


def Conv2d(
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Module:
    """`torch.nn.Conv2d`: weights `[O, I, KH, KW]`."""

    def build(a: Arrays) -> Layer:
        pads = tuple((p, p) for p in _pair(padding))
        return conv(a["weight"], a.get("bias"), _pair(stride), pads, _pair(dilation), groups)  # fmt: skip

    return Module("Conv2d", build, ("weight",), ("bias",))


def BatchNorm2d(eps: float = 1e-5) -> Module:
    """`torch.nn.BatchNorm1d` and `BatchNorm2d`, and SpikingJelly's `ThresholdDependentBatchNorm`, whose factor is in its weights."""

    def build(a: Arrays) -> Layer:
        layer = BatchNorm(len(a["running_mean"]), epsilon=eps)
        pairs = {"weight": layer.scale, "bias": layer.offset, "running_mean": layer.mean, "running_var": layer.var}  # fmt: skip
        for name, variable in pairs.items():
            if name in a:
                variable[...] = jnp.asarray(a[name], jnp.float32)
        return layer

    return Module("BatchNorm2d", build, ("running_mean", "running_var"), ("weight", "bias", "num_batches_tracked"))  # fmt: skip


BatchNorm1d = BatchNorm2d


def AvgPool2d(kernel_size: int) -> Module:
    """`torch.nn.AvgPool2d` whose windows do not overlap."""
    return Module("AvgPool2d", lambda a: AvgPool(kernel_size))


def MaxPool2d(kernel_size: int) -> Module:
    """`torch.nn.MaxPool2d` whose windows do not overlap."""
    return Module("MaxPool2d", lambda a: MaxPool(kernel_size))


def Flatten() -> Module:
    """`torch.nn.Flatten`, in PyTorch's order: channels, rows, columns."""
    return Module("Flatten", lambda a: nodes.Flatten(0, -1))


def dropout(p: float = 0.5) -> Module:
    """`torch.nn.Dropout`; one mask for all steps, as SpikingJelly's."""
    return Module("Dropout", lambda a: Dropout(p))


# --- snnTorch ---


def Leaky(reset_delay: bool = True, spike_fn: Any = None) -> Module:
    """`snntorch.Leaky`. Decay, threshold and reset come from the `state_dict`."""
    return Module("Leaky", lambda a: _snn("Leaky", a, reset_delay, spike_fn), _SNN)


def Synaptic(reset_delay: bool = True, spike_fn: Any = None) -> Module:
    """`snntorch.Synaptic`, as `Leaky`."""
    return Module("Synaptic", lambda a: _snn("Synaptic", a, reset_delay, spike_fn), (*_SNN, "alpha"))  # fmt: skip


def RLeaky(reset_delay: bool = True, spike_fn: Any = None) -> Module:
    """`snntorch.RLeaky`, with linear recurrent weights or one weight `V` a neuron."""
    return _recurrent("RLeaky", _SNN, reset_delay, spike_fn)


def RSynaptic(spike_fn: Any = None) -> Module:
    """`snntorch.RSynaptic`, as `RLeaky`. It resets with a delay: without one, snnTorch 1.0.0 itself fails."""
    return _recurrent("RSynaptic", (*_SNN, "alpha"), True, spike_fn)


def _snn(kind: str, a: Arrays, delay: bool, spike_fn: Any) -> Neurons:
    """A neuron of `jsnn.neurons` where one is equal, otherwise one of `exchange.snn`."""
    if np.any(a["graded_spikes_factor"] != 1):
        raise GraphError(f"{kind} has a `graded_spikes_factor` of {np.ravel(a['graded_spikes_factor'])[0]:g}: spikes here are 0 or 1.")  # fmt: skip
    reset = _RESETS[check.whole("reset_mechanism_val", a["reset_mechanism_val"].reshape(()), 0, 2)]  # fmt: skip
    beta, level = np.clip(a["beta"], 0, 1), a["threshold"]
    alpha = np.clip(a["alpha"], 0, 1) if "alpha" in a else None
    usual = kind == "Leaky" or reset != "zero" if delay else reset != "subtract"
    if not usual:
        return Neurons(snn.neuron(alpha=alpha, beta=beta, threshold=level, reset=reset, reset_delay=delay, spike_fn=spike_fn))  # fmt: skip
    options: dict[str, Any] = {"beta": beta, "threshold": level, "reset": reset, "delayed_reset": delay, "spike_fn": spike_fn}  # fmt: skip
    if alpha is None:
        return Neurons(neurons.lif(**options))
    return Neurons(neurons.current_lif(alpha=alpha, **options))


def _recurrent(kind: str, takes: tuple[str, ...], delay: bool, spike_fn: Any) -> Module:
    def build(a: Arrays) -> Layer:
        if "recurrent.weight" in a:
            weight = a["recurrent.weight"]
            if weight.ndim != 2:
                raise GraphError(f"{kind} has recurrent weights {list(weight.shape)}, a convolution: only linear ones are read.")  # fmt: skip
            back: Layer = dense(weight.T, a.get("recurrent.bias"))
            size = weight.shape[0]
        elif "recurrent.V" in a and a["recurrent.V"].ndim == 1:
            back, size = nodes.Scale(a["recurrent.V"]), a["recurrent.V"].shape[0]
        else:
            raise GraphError(f"{kind} lacks recurrent.weight, or recurrent.V with one number a neuron.")  # fmt: skip
        cell = _snn(kind, a, delay, spike_fn)
        edges = [(INPUT, "neuron"), ("neuron", "back"), ("back", "neuron"), ("neuron", OUTPUT)]  # fmt: skip
        return Graph({"neuron": cell, "back": back}, edges, {"neuron": ((size,), (size,)), "back": ((size,), (size,))})  # fmt: skip

    return Module(kind, build, takes, ("recurrent.weight", "recurrent.bias", "recurrent.V", "V"))  # fmt: skip


# --- SpikingJelly ---


def IFNode(
    v_threshold: float = 1.0, v_reset: float | None = 0.0, spike_fn: Any = None
) -> Module:
    """SpikingJelly's `IFNode`; `v_reset=None` subtracts the threshold."""
    return Module("IFNode", lambda a: _jelly(1.0, 1.0, v_threshold, v_reset, spike_fn))


def LIFNode(
    tau: float = 2.0,
    decay_input: bool = True,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    spike_fn: Any = None,
) -> Module:
    """SpikingJelly's `LIFNode`: decay 1 - 1/`tau`, `tau` in steps; with `decay_input` the input is divided by `tau`."""
    check.number("tau", tau, "[1, inf)", remedy="It is a number of steps.")
    gain = 1 / tau if decay_input else 1.0
    return Module("LIFNode", lambda a: _jelly(1 - 1 / tau, gain, v_threshold, v_reset, spike_fn))  # fmt: skip


def ParametricLIFNode(
    decay_input: bool = True,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    spike_fn: Any = None,
) -> Module:
    r"""SpikingJelly's `ParametricLIFNode`: `LIFNode` with $1/\tau = \sigma(w)$, w from the `state_dict`."""

    def build(a: Arrays) -> Layer:
        share = 1 / (1 + np.exp(-np.asarray(a["w"], np.float64)))
        return _jelly(1 - share, share if decay_input else 1.0, v_threshold, v_reset, spike_fn)  # fmt: skip

    return Module("ParametricLIFNode", build, ("w",))


def _jelly(beta: Any, gain: Any, level: float, v_reset: float | None, spike_fn: Any) -> Neurons:  # fmt: skip
    """The membrane rests at `v_reset`, from which it also starts."""
    rest = 0.0 if v_reset is None else v_reset
    check.ordered("v_reset", rest, "v_threshold", level)
    params = spiking.SpikingParams(beta, gain, rest, level, rest)
    how = Convention(reset="subtract" if v_reset is None else "v_reset", spike_at=">=")
    return Neurons(spiking.neuron(params, how, spike_fn=spike_fn))
