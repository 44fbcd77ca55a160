r"""Neuron models: default parameters and a pair of pure functions each.

Axes: B batch, N neurons (any number of axes); `step` works elementwise on any leading axes. Voltages are in units of the
caller's choice, usually threshold minus rest. A decay is dimensionless and belongs to one time step; `decay(dt, tau)`
makes one from seconds.

Conventions differ between libraries, so every choice is a named argument here:

| argument | choices | who does what |
|---|---|---|
| `reset` | `"subtract"` (soft), `"zero"` (hard), `"none"` | snnTorch subtracts, SpikingJelly and Norse set to zero |
| `delayed_reset` | `True`: one step after the spike; `False`: at once | snnTorch delays, SpikingJelly and Norse do not |
| `detach_reset` | `True`: no gradient through the reset | snnTorch detaches; the class-incremental reference does not |
| `spike_at` | `">"` or `">="` threshold | snnTorch `">"`, SpikingJelly `">="` |
| `refractory` | steps of rest after a spike, 0 for none | Norse (`LIFRefracCell`) and Lava (`LIFRefractory`) hold the membrane, as here; snnTorch and SpikingJelly have none |
| `scale_input` | `True`: input enters with gain $1 - \beta$; `False`: with gain 1 | SpikingJelly scales (`decay_input`), snnTorch does not |
"""

from jsnn.neurons.base import Neuron, Reset, SpikeAt, SpikeFn, decay
from jsnn.neurons.current import (
    AdaptiveLIFParams,
    AdaptiveLIFState,
    CurrentLIFParams,
    CurrentLIFState,
    adaptive_lif,
    current_lif,
)
from jsnn.neurons.leaky import (
    LeakyIntegratorParams,
    RecurrentParams,
    RecurrentState,
    leaky_integrator,
    recurrent,
)
from jsnn.neurons.lif import LIFParams, LIFState, integrate_and_fire, lif
from jsnn.neurons.refractory import RefractoryState

__all__ = [
    "AdaptiveLIFParams",
    "AdaptiveLIFState",
    "CurrentLIFParams",
    "CurrentLIFState",
    "LIFParams",
    "LIFState",
    "LeakyIntegratorParams",
    "Neuron",
    "RecurrentParams",
    "RecurrentState",
    "RefractoryState",
    "Reset",
    "SpikeAt",
    "SpikeFn",
    "adaptive_lif",
    "current_lif",
    "decay",
    "integrate_and_fire",
    "leaky_integrator",
    "lif",
    "recurrent",
]
