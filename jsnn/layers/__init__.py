r"""Flax NNX layers over the pure functions: the only room that knows Flax.

A layer holds parameters; what changes during a run (membranes, dropout masks, batch-norm statistics) is an explicit state
that enters and leaves every call, so it can be a scan carry:

    state, y = layer(state, x, train=...)

`x` and `y` are blocks `[K, B, ...]` of K time steps or a `Constant`. `Sequence` strings layers together and is one itself;
`split` and `apply` turn a model into a pure function of plain pytrees.

A layer computes in the precision of its input and hands that on; bytes and truth values count as float32. Parameters and batch
statistics stay in float32, membranes in the type that `init_state` is given, float32 by default. So a network fed with bfloat16 runs in
bfloat16 where it matters for speed, and nothing else need be said.

Weights and biases start as in PyTorch unless stated: uniform in $\pm 1/\sqrt{\text{fan-in}}$ (LeCun-uniform with a third of
the variance). `init="kaiming"` draws weights from a normal with variance $2/\text{fan-in}$ and sets biases to zero.
"""

from jsnn.layers.base import Fixed, Init, Layer, check_rngs
from jsnn.layers.delay import Delay, DelayedDense, DelayState
from jsnn.layers.network import Sequence, apply, merge, network, split
from jsnn.layers.norm import BatchNorm, BatchNormState, Dropout
from jsnn.layers.spiking import IF, LI, LIF, AdaptiveLIF, CurrentLIF, Neurons
from jsnn.layers.stateless import AvgPool, Conv, Dense, MaxPool, Stateless
from jsnn.model import Model
from jsnn.unroll import Constant

__all__ = [
    "IF",
    "LI",
    "LIF",
    "AdaptiveLIF",
    "AvgPool",
    "BatchNorm",
    "BatchNormState",
    "Constant",
    "Conv",
    "CurrentLIF",
    "Delay",
    "DelayState",
    "DelayedDense",
    "Dense",
    "Dropout",
    "Fixed",
    "Init",
    "Layer",
    "MaxPool",
    "Model",
    "Neurons",
    "Sequence",
    "Stateless",
    "apply",
    "check_rngs",
    "merge",
    "network",
    "split",
]
