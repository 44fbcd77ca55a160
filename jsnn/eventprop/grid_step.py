r"""One step of a LIF neuron on a time grid, and its adjoint.

Forward, step n (free flow, spike test, arrivals; see `flow`). Where `Vm >= theta` the neuron spikes. The straight line from V to Vm meets
theta at a time `lead` before the grid point; there the membrane falls by theta - V_r, of which the rest of the step leaves a part:

    Vm = a V + kappa I;  Im = b I
    V = Vm - (theta - V_r) exp(-lead / tau_m) where it spiked, else Vm;  I = Im + u[n]

Backward, from the last step to the first. In the letters of the paper $\lambda_V, \lambda_I$; here the code carries
$p_V = \partial L/\partial V = -\tau_m\lambda_V$ and $p_I = \partial L/\partial I = -\tau_s\lambda_I$, which makes the cotangent of a layer's
state an ordinary gradient, and blocks of time chain by plain autodiff:

    emit mass cotangent p_I and time cotangent p_I/tau_s - p_V/tau_m                  (= -tau_s lI and lV - lI)
    flow back to the crossing; p_V += [(theta - V_r) p_V - tau_m dL/dt] / g           (g = tau_m dV/dt just before the spike)
    flow back to the step before                                                      (p_V, p_I = a p_V, b p_I + kappa p_V)

This is the adjoint of the continuous system, with the spike at its crossing. It approaches the exact gradient (`events`) with the second
power of dt, as spikes and membranes do. It is not the derivative of the grid's own rounding: moving a spike across a grid point
changes nothing. It is blind to spikes that appear or vanish: a silent neuron gets none.

Kept for it: 1/g where there was a spike, with the place of the crossing in its last digits (`pack`), 4 bytes a neuron a step. If a time
constant is differentiated (and only then) V and I are kept as well.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn import check
from jsnn.eventprop.flow import Flow, LIFParams, LIParams, flow

Slope = Literal["substep", "membrane", "threshold"]
Reset = Literal["hard", "subtract"]


class GridState(NamedTuple):
    """State of a layer after a step: `v` membrane, `i` synaptic current, `[B, *N]`.

    `pending[k]`, of a recurrent layer, are the spikes under way, or their parts, that arrive with step k of the next block, `[K, B, *N]`.
    """

    v: Float[Array, "B *N"]
    i: Float[Array, "B *N"]
    pending: Float[Array, "K B *N"] | None = None


class Fired(NamedTuple):
    """What a step reports: `spikes`, and the time from the crossing to the grid point `lead`, both 0 where no spike."""

    spikes: Array
    lead: Array


class Crossing(NamedTuple):
    """What the adjoint needs of a spike, both 0 where no spike: `inverse` slope, and the part of the step that was `left`."""

    inverse: Array
    left: Array


# Of the 23 binary digits of a float32.
_LEFT_DIGITS = 10


def pack(crossing: Any) -> Any:
    """In float32 one word for both: 13 binary digits of 1/g and 10 of the place in the step, far more than the grid has right.

    What is no `Crossing` of float32 stays as it is.
    """
    if not isinstance(crossing, Crossing) or crossing.inverse.dtype != jnp.float32:
        return crossing
    inverse, left = crossing
    room = 1 << _LEFT_DIGITS
    word = jax.lax.bitcast_convert_type(inverse, jnp.int32) + room // 2
    return (word & -room) + (left * (room - 1) + 0.5).astype(jnp.int32)


def unpack(kept: Any) -> Any:
    """What was given to `pack`."""
    if not isinstance(kept, Array) or kept.dtype != jnp.int32:
        return kept
    room = 1 << _LEFT_DIGITS
    inverse = jax.lax.bitcast_convert_type(kept & -room, jnp.float32)
    return Crossing(inverse, (kept & (room - 1)).astype(jnp.float32) * (1 / (room - 1)))


def part_of_step(p: LIFParams, dt: float, step: Flow, x: Array) -> Flow:
    """The free flow over a part x of a step, by the parabola with its value and slope at the start and its value at the end.

    Off by a third power of dt, and much cheaper than `flow`.
    """
    a, b, kappa = step
    mem, syn, rest = dt / p.tau_mem, dt / p.tau_syn, 1.0 - x
    return Flow(
        a=1.0 + x * (a - 1.0 + rest * (1.0 - a - mem)),
        b=1.0 + x * (b - 1.0 + rest * (1.0 - b - syn)),
        kappa=x * (kappa + rest * (mem - kappa)),
    )


def time_cotangent(p: Any, adjoint: GridState) -> Array:
    r"""$\lambda_V - \lambda_I$: what a unit mass that arrives now would gain by coming later."""
    return adjoint.i * (1.0 / p.tau_syn) - adjoint.v * (1.0 / p.tau_mem)


def flow_gradient(
    p: Any, time: Array | float, before: GridState, adjoint: GridState
) -> tuple[Array, Array]:
    """Gradient of one free flow over `time` with respect to both time constants, `[B, *N]` each."""
    v, i, *_ = before

    def coefficients(tau_mem, tau_syn):
        return flow(jnp.broadcast_to(time, v.shape), tau_mem, tau_syn)

    full = [jnp.broadcast_to(t, v.shape) for t in (p.tau_mem, p.tau_syn)]
    _, pull = jax.vjp(coefficients, *full)
    return pull(Flow(adjoint.v * v, adjoint.i * i, adjoint.v * i))


@dataclasses.dataclass(frozen=True)
class LIFStep:
    """The rule of a layer of LIF neurons: what `grid.run` scans over time, forward and backward.

    Attributes:
      dt: time step.
      slope: see `grid.lif`.
      reset: see `grid.lif`.
      min_slope: see `grid.lif`.
    """

    dt: float
    slope: Slope = "substep"
    reset: Reset = "subtract"
    min_slope: float = 1e-2

    def __post_init__(self):
        check.choice("slope", self.slope, get_args(Slope))
        check.choice("reset", self.reset, get_args(Reset))
        remedy = "A grazing spike must not divide by zero."
        least = check.static("min_slope", self.min_slope, "(0, inf)", remedy=remedy)
        object.__setattr__(self, "min_slope", least)

    def forward(
        self, p: LIFParams, coefficients: Flow, state: GridState, u: Array
    ) -> tuple[GridState, Fired, Crossing]:
        """The state after a step, what it reports, and what its adjoint needs."""
        a, b, kappa = coefficients
        v, i, _ = state
        vm, im = a * v + kappa * i, b * i
        spiked = vm >= p.threshold
        # Where the straight line from V to Vm meets threshold, as a fraction of the step; the current there, on a straight line as well.
        # A membrane that the last reset left above threshold crosses at once.
        rises = spiked & (v < p.threshold)
        fraction = jnp.where(rises, p.threshold - v, 0.0) / jnp.where(
            rises, vm - v, 1.0
        )
        left = jnp.where(spiked, 1.0 - fraction, 0.0)
        lead = left * self.dt
        if self.slope == "substep":
            g = i + fraction * (im - i) - p.threshold
        else:
            g = im - (vm if self.slope == "membrane" else p.threshold)
        # The true slope is positive. On a coarse grid the estimate may not be, and would flip the sign of the gradient.
        inverse = jnp.where(spiked, 1.0 / jnp.maximum(g, self.min_slope), 0.0)
        if self.reset == "hard":
            after, left = p.reset, jnp.zeros_like(left)
        else:
            after = vm - (p.threshold - p.reset) * jnp.exp(
                left * (-self.dt / p.tau_mem)
            )
        new = GridState(jnp.where(spiked, after, vm), im + u)
        return new, Fired(spiked.astype(v.dtype), lead), Crossing(inverse, left)

    def emit(self, p: LIFParams, adjoint: GridState, bar: Any) -> tuple[Array, Array]:
        """Cotangents of the mass that arrives with a step, and of the time at which it does."""
        return adjoint.i, time_cotangent(p, adjoint)

    def backward(
        self,
        p: LIFParams,
        coefficients: Flow,
        adjoint: GridState,
        crossing: Crossing,
        bar: Array,
        push: Array | None,
        before: GridState | None,
        wanted: bool,
    ) -> tuple[GridState, LIFParams | None]:
        r"""The adjoint just after the step before, and what the step adds to the gradient of the physics.

        Args:
          p: physics.
          coefficients: of the free flow.
          adjoint: $(p_V, p_I)$ just after the step.
          crossing: of the spikes of this step.
          bar: dL/dt of the spikes of this step, direct and through what they cause.
          push: taken from $\lambda_V$ at a spike, a heuristic (`RatePenalty`).
          before: V and I before the step; None if no time constant is differentiated.
          wanted: whether the physics are differentiated; their gradient is None otherwise.
        """
        a, b, kappa = coefficients
        pv, pi, _ = adjoint
        inverse, left = crossing
        after = pv * part_of_step(p, self.dt, coefficients, left).a
        jump = inverse * ((p.threshold - p.reset) * after - p.tau_mem * bar)
        if push is not None:
            jump = jump + p.tau_mem * push * (inverse != 0)
        rest = part_of_step(p, self.dt, coefficients, 1.0 - left)
        new = GridState(a * pv + rest.a * jump, b * pi + kappa * pv + rest.kappa * jump)
        if not wanted:
            return new, None
        return new, self._gradient(p, coefficients, adjoint, crossing, jump, before)

    def _gradient(self, p, coefficients, adjoint, crossing, jump, before) -> LIFParams:
        """Of the physics, `[B, *N]` each, from the jump of $p_V$ at the crossing."""
        inverse, left = crossing
        spiked = inverse != 0
        late = part_of_step(p, self.dt, coefficients, left)
        pv, pi = late.a * adjoint.v, late.b * adjoint.i + late.kappa * adjoint.v
        zeros = jnp.zeros_like(pv)
        taus = (zeros, zeros)
        if before is not None:
            # One flow to the crossing, one from there to the grid point.
            early = part_of_step(p, self.dt, coefficients, 1.0 - left)
            v, i = early.a * before.v + early.kappa * before.i, early.b * before.i
            v = v - jnp.where(spiked, p.threshold - p.reset, 0.0)
            at_crossing = GridState(pv + jump, pi)
            first = flow_gradient(p, (1.0 - left) * self.dt, before, at_crossing)
            second = flow_gradient(p, left * self.dt, GridState(v, i), adjoint)
            taus = jax.tree.map(jnp.add, first, second)
        return LIFParams(
            *taus,
            threshold=jnp.where(spiked, -pv - jump, 0.0),
            reset=jnp.where(spiked, pv, 0.0),
        )


@dataclasses.dataclass(frozen=True)
class IntegratorStep:
    """The rule of leaky integrators. It is linear, so its adjoint is plain autodiff, but for the time cotangent of what drives it."""

    dt: float

    def forward(
        self, p: LIParams, coefficients: Flow, state: GridState, u: Array
    ) -> tuple[GridState, Array, None]:
        """The state after a step, the membrane, and nothing to keep."""
        a, b, kappa = coefficients
        v = a * state.v + kappa * state.i
        return GridState(v, b * state.i + u), v, None

    def emit(self, p: LIParams, adjoint: GridState, bar: Array) -> tuple[Array, Array]:
        """As `LIFStep.emit`. Just after the reading an arrival is not seen by it, just before it is: on average it is by half."""
        half = GridState(adjoint.v + 0.5 * bar, adjoint.i)
        return adjoint.i, time_cotangent(p, half)

    def backward(
        self, p, coefficients, adjoint, crossing, bar, push, before, wanted
    ) -> tuple[GridState, LIParams | None]:
        """As `LIFStep.backward`; `bar` is the cotangent of the membrane."""
        a, b, kappa = coefficients
        at_read = GridState(adjoint.v + bar, adjoint.i)
        new = GridState(a * at_read.v, b * at_read.i + kappa * at_read.v)
        if not wanted:
            return new, None
        return new, LIParams(*flow_gradient(p, self.dt, before, at_read))
