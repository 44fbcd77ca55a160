r"""The Euler scheme of the one-layer EventProp reference, to the letter, so that its numbers can be matched.

    V[n+1] = (1 - dt/tau_m) V[n] + dt/tau_m I[n];  I[n+1] = (1 - dt/tau_s) I[n] + u[n];  spike where V[n+1] > theta, then V[n+1] = V_r

    backward, n = N-2 ... 0, with g = I[n] - theta + 1e-10 where step n+1 spiked:
    lV[n] = (1 - dt/tau_m) lV[n+1] + [(theta - V_r) lV[n+1] + dL/dt[n+1]] / g
    lI[n] = lI[n+1] + dt/tau_s (lV[n+1] - lI[n+1])

It differs from `grid.lif`: decays are of first order in dt; an arrival is heard one step later; the threshold itself does not spike; a
jump of lV is neither decayed nor seen by lI within its step; the slope is not bounded; and the gradient of the weights lacks the factor
tau_s, which the reference leaves to its learning rate.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsnn import check
from jsnn.eventprop.flow import LIFParams, aligned, check_params
from jsnn.eventprop.grid import dense_cotangents
from jsnn.eventprop.spikes import Drive, TimedSpikes, require_drive


class _Static(NamedTuple):
    """Static choices."""

    dt: float
    omit_tau_syn: bool


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
    check_params(params)
    dt = check.static("dt", dt, "(0, inf)")
    require_drive(drive)
    params = jax.tree.map(lambda p: jnp.asarray(p, drive.mass.dtype), params)
    return TimedSpikes(_euler(_Static(dt, omit_tau_syn), params, drive))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _euler(static, params, drive):
    return _run(static, params, drive.mass)[0]


def _run(static: _Static, params: LIFParams, mass: Array) -> tuple[Array, Array, Array]:
    p = aligned(params, mass.shape[1:], mass.dtype)

    def step(carry, u):
        v, i = carry
        new = v + static.dt / p.tau_mem * (i - v)
        spiked = new > p.threshold
        inverse = jnp.where(spiked, 1.0 / (i - p.threshold + 1e-10), 0.0)
        v = jnp.where(spiked, p.reset, new)
        i = i - static.dt / p.tau_syn * i + u
        return (v, i), (spiked.astype(mass.dtype), inverse, new)

    rest = jnp.zeros_like(mass[0])
    _, (spikes, inverse, v) = jax.lax.scan(step, (rest, rest), mass[:-1])
    # Whoever does not read the membranes does not pay for them: the compiler drops them.
    return jnp.concatenate([rest[None], spikes]), inverse, v


def membranes(params: LIFParams, drive: Drive, *, dt: float) -> Float[Array, "T B *N"]:
    """Membrane that every step compares with the threshold, before any reset, `[T, B, *N]`, for plots. No gradient."""
    require_drive(drive)
    mass = jax.lax.stop_gradient(drive.mass)
    _, _, v = _run(_Static(dt, True), params, mass)
    return jnp.concatenate([jnp.zeros_like(mass[:1]), v])


def adjoints(gradient: Drive) -> tuple[Array, Array]:
    r"""$\lambda_V, \lambda_I$ at every step from a gradient with respect to the drive, without the factor tau_syn; $\lambda_V$ of step 0 is NaN, since it is not used."""
    lambda_i = -gradient.mass
    lambda_v = gradient.time[:-1] + lambda_i[1:]
    return jnp.concatenate([jnp.full_like(lambda_i[:1], jnp.nan), lambda_v]), lambda_i


def _forward(static, params, drive):
    if any(x.perturbed for x in params):
        raise ValueError(
            "`params` of the reference's Euler scheme cannot be differentiated; `grid.lif` can."
        )
    params = jax.tree.map(lambda x: x.value, params)
    spikes, inverse, _ = _run(static, params, drive.mass.value)
    return spikes, (params, inverse)


def _backward(static, residuals, spikes_bar):
    params, inverse = residuals
    spikes_bar = dense_cotangents(spikes_bar)
    p = aligned(params, inverse.shape[1:], inverse.dtype)

    def step(carry, x):
        lv, li = carry
        inverse, time_gradient = x
        jump = inverse * ((p.threshold - p.reset) * lv + time_gradient)
        new_v = lv - static.dt / p.tau_mem * lv + jump
        new_i = li + static.dt / p.tau_syn * (lv - li)
        return (new_v, new_i), (-new_i, lv - li)

    rest = jnp.zeros_like(spikes_bar[0])
    _, (mass, time) = jax.lax.scan(
        step, (rest, rest), (inverse, spikes_bar[1:]), reverse=True
    )
    if not static.omit_tau_syn:
        mass = p.tau_syn * mass
    last = rest[None]
    return None, Drive(jnp.concatenate([mass, last]), jnp.concatenate([time, last]))


_euler.defvjp(_forward, _backward, symbolic_zeros=True)
