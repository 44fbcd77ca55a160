"""EventProp: exact gradients of spiking networks, on a time grid and event by event.

The adjoint method differentiates spike *times*, with no surrogate. Two solvers share equations, losses and units (milliseconds by default):

- a time grid: `dense_network`, or a `network.chain` of layers of one's own, or the layers themselves (`grid.lif`, `grid.leaky_integrator`)
  behind any linear `synapse`. Fast, batched; approaches the exact gradient as dt falls.
- events: `event_layers` (and `events.solve` below them). Exact to rounding, also in input times, delays, thresholds and time constants.

Spikes travel as `TimedSpikes`, whose cotangent means dL/dt; layers that expect dL/dz refuse them.
"""

from jsnn.eventprop.event_layers import (
    FirstSpikes,
    feed_forward,
    first_spikes,
    input_spikes,
)
from jsnn.eventprop.events import Arrivals, EventSpikes, Recurrence, solve
from jsnn.eventprop.flow import LIFParams, LIParams
from jsnn.eventprop.network import Physics, chain, dense_network
from jsnn.eventprop.regularise import RatePenalty, kick_silent, lift_silent
from jsnn.eventprop.spikes import Drive, OccupiedSpikes, TimedSpikes, counts

__all__ = [
    "Arrivals",
    "Drive",
    "EventSpikes",
    "FirstSpikes",
    "LIFParams",
    "LIParams",
    "OccupiedSpikes",
    "Physics",
    "RatePenalty",
    "Recurrence",
    "TimedSpikes",
    "chain",
    "counts",
    "dense_network",
    "feed_forward",
    "first_spikes",
    "input_spikes",
    "kick_silent",
    "lift_silent",
    "solve",
]
