r"""The Euler scheme of the one-layer EventProp reference, to the letter, so that its numbers can be matched.

    V[n+1] = (1 - dt/tau_m) V[n] + dt/tau_m I[n];  I[n+1] = (1 - dt/tau_s) I[n] + u[n];  spike where V[n+1] > theta, then V[n+1] = V_r

    backward, n = N-2 ... 0, with g = I[n] - theta + 1e-10 where step n+1 spiked:
    lV[n] = (1 - dt/tau_m) lV[n+1] + [(theta - V_r) lV[n+1] + dL/dt[n+1]] / g
    lI[n] = lI[n+1] + dt/tau_s (lV[n+1] - lI[n+1])

It differs from `grid.lif`: decays are of first order in dt; an arrival is heard one step later; the threshold itself does not spike; a
jump of lV is neither decayed nor seen by lI within its step; the slope is not bounded; and the gradient of the weights lacks the factor
tau_s, which the reference leaves to its learning rate.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn import check
from jsnn.eventprop.flow import LIFParams
from jsnn.eventprop.grid import over_time
from jsnn.eventprop.grid_step import Fired, GridState
from jsnn.eventprop.spikes import Drive, TimedSpikes


@dataclasses.dataclass(frozen=True)
class EulerStep:
    r"""The rule of the reference's neurons, as `grid_step.LIFStep`; its adjoint state holds $\lambda_V$ and $\lambda_I$ themselves."""

    dt: float
    omit_tau_syn: bool = True

    def forward(self, p, coefficients, state, u) -> tuple[GridState, Fired, Array]:
        """The state after a step, its spikes, and 1/g."""
        v, i, _ = state
        new = v + self.dt / p.tau_mem * (i - v)
        spiked = new > p.threshold
        inverse = jnp.where(spiked, 1.0 / (i - p.threshold + 1e-10), 0.0)
        state = GridState(
            jnp.where(spiked, p.reset, new), i - self.dt / p.tau_syn * i + u
        )
        spikes = spiked.astype(u.dtype)
        return state, Fired(spikes, jnp.zeros_like(spikes)), inverse

    def emit(self, p, adjoint, bar) -> tuple[Array, Array]:
        """An arrival is heard one step later, so the mass gets what flows back over this one."""
        lv, li, _ = adjoint
        mass = -(li + self.dt / p.tau_syn * (lv - li))
        return mass if self.omit_tau_syn else p.tau_syn * mass, lv - li

    def backward(
        self, p, coefficients, adjoint, inverse, bar, push, before, wanted
    ) -> tuple[GridState, None]:
        """The adjoint of the step before. There is no gradient of the physics."""
        if wanted:
            raise ValueError(
                "`params` of the reference's Euler scheme cannot be differentiated; `grid.lif` can."
            )
        lv, li, _ = adjoint
        jump = inverse * ((p.threshold - p.reset) * lv + bar)
        new_v = lv - self.dt / p.tau_mem * lv + jump
        return GridState(new_v, li + self.dt / p.tau_syn * (lv - li)), None


def euler_lif(
    params: LIFParams, drive: Drive, *, dt: float, omit_tau_syn: bool = True
) -> TimedSpikes:
    """A layer of the reference, over all time steps, from rest.

    Args:
      params: physics; not differentiable here.
      drive: what `synapse` returned, `[T, B, *N]`.
      dt: time step, in the unit of the time constants.
      omit_tau_syn: leave the factor tau_syn out of the gradient of the weights, as the reference does.

    Returns:
      Spikes `[T, B, *N]`; none at step 0.

    Raises:
      ValueError: if `dt` is out of range, or a gradient with respect to `params` is asked for.
    """
    rule = EulerStep(check.static("dt", dt, "(0, inf)"), omit_tau_syn)
    heard = jax.tree.map(lambda x: x[:-1], drive)
    _, fired = over_time(rule, params, None, heard)
    none = jnp.zeros_like(fired.spikes[:1])
    return TimedSpikes(jnp.concatenate([none, fired.spikes]))


def membranes(params: LIFParams, drive: Drive, *, dt: float) -> Float[Array, "T B *N"]:
    """Membrane that every step compares with the threshold, before any reset, `[T, B, *N]`, for plots. No gradient."""
    mass, rule = jax.lax.stop_gradient(drive.mass), EulerStep(dt)

    def step(state, u):
        charged = state.v + dt / params.tau_mem * (state.i - state.v)
        return rule.forward(params, None, state, u)[0], charged

    rest = jnp.zeros_like(mass[0])
    _, v = jax.lax.scan(step, GridState(rest, rest), mass[:-1])
    return jnp.concatenate([rest[None], v])


def adjoints(gradient: Drive) -> tuple[Array, Array]:
    r"""$\lambda_V, \lambda_I$ at every step from a gradient with respect to the drive, without the factor tau_syn; $\lambda_V$ of step 0 is NaN, since it is not used."""
    lambda_i = -gradient.mass
    lambda_v = gradient.time[:-1] + lambda_i[1:]
    return jnp.concatenate([jnp.full_like(lambda_i[:1], jnp.nan), lambda_v]), lambda_i
