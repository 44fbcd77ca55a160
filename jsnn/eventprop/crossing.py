r"""When does a freely flowing membrane reach threshold?

$V(t) = V_0 a(t) + I_0\kappa(t)$ (see `flow`) rises at most once, to a peak at $t^*$ where $V = I$, and is concave until then. So there is a
crossing exactly if $t^* > 0$ and $V(t^*) \ge \theta$, and it lies in $[0, t^*]$. With $y = \tau_s\delta(1 - V_0/I_0)$,

    t* = tau_s (1 - V0/I0) L(y),   L(y) = -log(1 - y)/y,   no peak if y >= 1,

which holds for equal time constants too ($y = 0$, $L = 1$).

Three ways to the root: two closed forms for special ratios of the time constants, and Newton's method for all, in Halley's variant (it knows
the curvature), started from the parabola at the peak, where it would be slowest otherwise, and held inside the bracket.
"""

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsnn import check
from jsnn.eventprop.flow import LIFParams, rate_difference

Method = Literal["newton", "double", "equal"]

# Machine precision in float64 at ratios from 0.25 to 20; 3 leave up to 3e-9.
_NEWTON_STEPS = 4
# Halley steps for Lambert's W: cubic convergence from a start within a few per cent.
_HALLEY_STEPS = 4


def choose_method(params: LIFParams) -> Method:
    """The closed form if the time constants are Python numbers of ratio 1 or 2, Newton otherwise: the ratio of traced ones is not known."""
    tau_mem, tau_syn = params.tau_mem, params.tau_syn
    if isinstance(tau_mem, int | float) and isinstance(tau_syn, int | float):
        if tau_mem == tau_syn:
            return "equal"
        if tau_mem == 2 * tau_syn:
            return "double"
    return "newton"


def check_method(method: Method, params: LIFParams) -> None:
    """Refuses a closed form that does not belong to the time constants, as far as these are known."""
    check.choice("crossing", method, get_args(Method))
    tau_mem, tau_syn = check.known(params.tau_mem), check.known(params.tau_syn)
    if method == "newton" or tau_mem is None or tau_syn is None:
        return
    if np.any(tau_mem != (2 * tau_syn if method == "double" else tau_syn)):
        raise ValueError(
            f"`crossing={method!r}` needs tau_mem / tau_syn = {2 if method == 'double' else 1}, "
            f"got {params.tau_mem} / {params.tau_syn}. 'newton' takes any ratio."
        )


def peak_time(
    v: Float[Array, "*N"], i: Float[Array, "*N"], tau_mem: Array, tau_syn: Array
) -> Float[Array, "*N"]:
    """Time at which the membrane is highest; infinite if it only rises towards rest. Meant for positive currents."""
    missing = 1.0 - v / jnp.where(i > 0, i, 1.0)
    y = tau_syn * rate_difference(tau_mem, tau_syn) * missing
    small = jnp.abs(y) < 1e-3
    safe = jnp.where(small | (y >= 1), 0.5, y)
    # The first term left out is y⁵/6 < 2e-16.
    series = 1.0 + y * (0.5 + y * (1 / 3 + y * (0.25 + y * 0.2)))
    factor = jnp.where(small, series, -jnp.log1p(-safe) / safe)
    return jnp.where(y >= 1, jnp.inf, tau_syn * missing * factor)


def crossing(
    params: LIFParams,
    v: Float[Array, "*N"],
    i: Float[Array, "*N"],
    *,
    method: Method = "newton",
) -> Float[Array, "*N"]:
    """Time until the free flow from `(v, i)` reaches threshold; infinite if it never does.

    A neuron that stands at threshold already, by rounding, and still rises crosses at 0.

    Args:
      params: arrays that broadcast against `v`.
      v: membrane now.
      i: synaptic current now.
      method: `"double"` for tau_mem = 2 tau_syn, `"equal"` for tau_mem = tau_syn, `"newton"` for any.
    """
    theta = params.threshold
    # At the crossing I > V = theta, and I only decays: with less there is none. Elsewhere stand-ins keep the arithmetic finite.
    able = i > theta
    i = jnp.where(able, i, 2.0 * theta + 1.0)
    v = jnp.where(able, v, 0.0)
    solve = {"newton": _newton, "double": _double, "equal": _equal}[method]
    exists, time = solve(params, v, i)
    time = jnp.where(v >= theta, 0.0, jnp.maximum(time, 0.0))
    return jnp.where(able & (exists | (v >= theta)), time, jnp.inf)


def _newton(p: LIFParams, v: Array, i: Array) -> tuple[Array, Array]:
    peak = peak_time(v, i, p.tau_mem, p.tau_syn)
    finite = jnp.isfinite(peak) & (peak > 0)
    peak = jnp.where(finite, peak, 1.0)
    difference = rate_difference(p.tau_mem, p.tau_syn)
    rate = jnp.abs(difference)
    equal = rate == 0
    safe_rate = jnp.where(equal, 1.0, rate)
    slowest = jnp.maximum(p.tau_mem, p.tau_syn)

    def membrane(t):
        # `flow`, which must be differentiable as well, in two exponentials instead of four.
        slow = jnp.exp(-t / slowest)
        lost = -jnp.expm1(-t * rate)
        fast = slow * (1.0 - lost)
        a, b = (
            jnp.where(difference >= 0, slow, fast),
            jnp.where(difference > 0, fast, slow),
        )
        kappa = slow / p.tau_mem * jnp.where(equal, t, lost / safe_rate)
        return v * a + i * kappa, i * b

    top, current = membrane(peak)
    exists = finite & (top >= p.threshold)
    # At the peak V = I, so there V'' = -I / (tau_m tau_s).
    width = jnp.sqrt(
        2.0 * jnp.maximum(top - p.threshold, 0.0) * p.tau_mem * p.tau_syn / current
    )
    t = jnp.clip(peak - width, 0.0, peak)
    for _ in range(_NEWTON_STEPS):
        value, current = membrane(t)
        missing = p.threshold - value
        slope = (current - value) / p.tau_mem
        bend = (current / p.tau_syn + slope) / p.tau_mem  # -V'' > 0
        rising = slope > 0  # not at the very peak, where a grazing spike sits
        # Halley's: Newton's step missing / slope, corrected for the bend of the curve.
        scale = slope * slope - 0.5 * missing * bend
        usable = rising & (scale > 0)
        step = missing * slope / jnp.where(usable, scale, 1.0)
        t = jnp.clip(t + jnp.where(usable, step, 0.0), 0.0, peak)
    return exists, t


def _double(p: LIFParams, v: Array, i: Array) -> tuple[Array, Array]:
    # With x = exp(-t/tau_m): I0 x² - (V0 + I0) x + theta = 0, of which the larger root comes first in time.
    total = v + i
    root = total * total - 4.0 * i * p.threshold
    exists = (root >= 0) & (total > 0)
    # x = (total + sqrt(root)) / (2 I0), so that no digits cancel.
    larger = jnp.where(exists, total + jnp.sqrt(jnp.maximum(root, 0.0)), 1.0)
    time = p.tau_mem * jnp.log(2.0 * i / larger)
    return exists & (time > 0), time


def _equal(p: LIFParams, v: Array, i: Array) -> tuple[Array, Array]:
    # (V0 + I0 t/tau) exp(-t/tau) = theta; with s = V0/I0 + t/tau: -s exp(-s) = -(theta/I0) exp(-V0/I0).
    start = v / i
    argument = -(p.threshold / i) * jnp.exp(-start)
    exists = argument >= -jnp.exp(-1.0)
    time = p.tau_mem * (-start - lambert_w(jnp.where(exists, argument, -0.1)))
    return exists & (time > 0), time


def lambert_w(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    r"""Principal branch of Lambert's W for $-1/e \le x \le 0$: the $w \ge -1$ with $w e^w = x$."""
    # The branch point's series starts well on this whole interval (error below 0.03), Halley's method ends it.
    q = jnp.sqrt(jnp.maximum(2.0 * (jnp.e * x + 1.0), 0.0))
    w = -1.0 + q * (1.0 - q * (1 / 3 - q * (11 / 72)))
    for _ in range(_HALLEY_STEPS):
        e = jnp.exp(w)
        f = w * e - x
        above = w + 1.0 > 1e-8  # at the branch point the series is exact
        safe = jnp.where(above, w + 1.0, 1.0)
        step = f / (e * safe - (safe + 1.0) * f / (2.0 * safe))
        w = jnp.where(above, w - step, w)
    return w
