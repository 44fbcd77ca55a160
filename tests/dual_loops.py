"""Every neuron once more, as a float64 loop over time written from its equations.

The loops run on dual numbers, so a surrogate gradient comes out of the same few lines as the spikes: forwards in time,
one direction for every input and parameter, and nothing shared with JAX's reverse pass.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import neurons, surrogate

T, B, N = 9, 2, 3


class Dual:
    """A float64 value `[B, N]` and its derivatives `[D, B, N]`."""

    __array_ufunc__ = None  # NumPy arrays leave the arithmetic to this class

    def __init__(self, value, tangent=0.0):
        self.value, self.tangent = value, tangent

    @staticmethod
    def of(x):
        return x if isinstance(x, Dual) else Dual(x)

    def __add__(self, other):
        other = Dual.of(other)
        return Dual(self.value + other.value, self.tangent + other.tangent)

    def __neg__(self):
        return Dual(-self.value, -self.tangent)

    def __sub__(self, other):
        return self + -Dual.of(other)

    def __rsub__(self, other):
        return -self + other

    def __mul__(self, other):
        other = Dual.of(other)
        tangent = self.value * other.tangent + self.tangent * other.value
        return Dual(self.value * other.value, tangent)

    def __matmul__(self, other):
        tangent = self.value @ other.tangent
        if np.ndim(self.tangent):
            tangent = tangent + self.tangent @ other.value
        return Dual(self.value @ other.value, tangent)

    __radd__, __rmul__ = __add__, __mul__

    def detached(self):
        return Dual(self.value)


def spike(u, at=">"):
    """H(u), with the derivative of arctan(pi u) / pi."""
    fired = u.value >= 0 if at == ">=" else u.value > 0
    return Dual(fired * 1.0, u.tangent / (1 + (np.pi * u.value) ** 2))


def chosen(mask, a, b):
    """`a` where the mask is true, `b` elsewhere."""
    a, b = Dual.of(a), Dual.of(b)
    return Dual(np.where(mask, a.value, b.value), np.where(mask, a.tangent, b.tangent))


def lif_loop(
    p,
    xs,
    *,
    reset="subtract",
    delayed_reset=False,
    detach_reset=True,
    spike_at=">",
    scale_input=False,
    refractory=0,
):
    v, out = Dual(np.zeros((B, N))), []
    last = np.full((B, N), -np.inf)  # when each spiked last
    for t, x in enumerate(xs):
        rests, before = t - last <= refractory, v
        x = (1 - p.beta) * x if scale_input else x
        r = spike(v - p.threshold, spike_at) if delayed_reset else Dual(0.0)
        r = r.detached() if detach_reset else r
        if reset == "subtract":
            v = p.beta * v + x - p.threshold * r
        elif reset == "zero":
            v = p.beta * (1 - r) * v + x
        else:
            v = p.beta * v + x
        s = spike(v - p.threshold, spike_at)
        s = chosen(rests, 0.0, s)
        last[s.value > 0] = t
        out.append(s)
        if not delayed_reset:
            v = at_once(reset, v, s.detached() if detach_reset else s, p.threshold)
        v = chosen(rests, before, v)
    return out, v


def at_once(reset, v, s, threshold):
    if reset == "none":
        return v
    return v - threshold * s if reset == "subtract" else v * (1 - s)


def current_lif_loop(p, xs, **choices):
    i, currents = Dual(np.zeros((B, N))), []
    for x in xs:
        i = p.alpha * i + x
        currents.append(i)
    return lif_loop(p, currents, **choices)


def adaptive_lif_loop(
    p,
    xs,
    *,
    reset="subtract",
    detach_reset=True,
    spike_at=">",
    scale_input=False,
    scale_adaptation=False,
    refractory=0,
):
    v = a = s = Dual(np.zeros((B, N)))
    out, last = [], np.full((B, N), -np.inf)
    for t, x in enumerate(xs):
        rests, before = t - last <= refractory, v
        a = p.rho * a + ((1 - p.rho) * s if scale_adaptation else s)
        theta = p.threshold + p.strength * a
        v = p.beta * v + ((1 - p.beta) * x if scale_input else x)
        s = chosen(rests, 0.0, spike(v - theta, spike_at))
        last[s.value > 0] = t
        out.append(s)
        v = at_once(reset, v, s.detached() if detach_reset else s, theta)
        v = chosen(rests, before, v)
    return out, v


def leaky_integrator_loop(p, xs, *, scale_input=False):
    v, out = Dual(np.zeros((B, N))), []
    for x in xs:
        v = p.beta * v + ((1 - p.beta) * x if scale_input else x)
        out.append(v)
    return out, v


def recurrent_lif_loop(p, xs):
    v = s = Dual(np.zeros((B, N)))
    out = []
    for x in xs:
        v = p.neuron.beta * v + x + s @ p.weight
        s = spike(v - p.neuron.threshold)
        v = v - p.neuron.threshold * s.detached()
        out.append(s)
    return out, v


def case(make, loop, *, values, **choices):
    """A neuron with parameters `values` and the loop that makes the same choices."""
    return make(**values, **choices), functools.partial(loop, **choices)


lif = functools.partial(neurons.lif, spike_fn=surrogate.arctan(2.0))
lif_case = functools.partial(case, lif, lif_loop, values={})
integrate = functools.partial(
    neurons.integrate_and_fire, spike_fn=surrogate.arctan(2.0)
)
current = functools.partial(neurons.current_lif, spike_fn=surrogate.arctan(2.0))
adaptive = functools.partial(neurons.adaptive_lif, spike_fn=surrogate.arctan(2.0))
HALF = {"beta": 0.5, "threshold": 0.4}
EACH = jnp.array([0.5, 0.8, 0.95])  # one value per neuron
WEIGHT = jnp.array([[0.3, -0.8, 0.1], [0.4, 0.2, -0.3], [-0.6, 0.5, 0.2]])
THROUGH = {"detach_reset": False}
EVERYTHING = {"reset": "zero", "detach_reset": False, "spike_at": ">="}

NEURONS = {
    "lif": lif_case(),
    "lif_zero": lif_case(reset="zero"),
    "lif_none": lif_case(reset="none"),
    "lif_delayed": lif_case(delayed_reset=True),
    "lif_delayed_zero": lif_case(delayed_reset=True, reset="zero"),
    "lif_through": lif_case(**THROUGH),
    "lif_through_zero": lif_case(**THROUGH, reset="zero"),
    "lif_through_delayed": lif_case(**THROUGH, delayed_reset=True),
    "lif_at_threshold": lif_case(spike_at=">="),
    "lif_scaled": lif_case(values=HALF, scale_input=True),
    "lif_per_neuron": lif_case(values={"beta": EACH, "threshold": EACH + 0.2}),
    "integrate_and_fire": case(integrate, lif_loop, values={}, **EVERYTHING),
    "current_lif": case(current, current_lif_loop, values={"threshold": 2.0}),
    "current_lif_options": case(
        current,
        current_lif_loop,
        values={"alpha": EACH, "beta": 0.6},
        delayed_reset=True,
        scale_input=True,
        **EVERYTHING,
    ),
    "adaptive_lif": case(adaptive, adaptive_lif_loop, values={"strength": 0.3}),
    "adaptive_lif_options": case(
        adaptive,
        adaptive_lif_loop,
        values={**HALF, "rho": EACH},
        scale_input=True,
        **EVERYTHING,
    ),
    "adaptive_lif_2018": case(
        adaptive,
        adaptive_lif_loop,
        values={"rho": EACH, "strength": 1.8},
        scale_adaptation=True,
    ),
    "lif_refractory": lif_case(refractory=1),
    "lif_refractory_options": lif_case(refractory=2, **EVERYTHING),
    "current_lif_refractory": case(
        current, current_lif_loop, values={"threshold": 2.0}, refractory=2
    ),
    "adaptive_lif_refractory": case(
        adaptive, adaptive_lif_loop, values={"strength": 0.3}, refractory=1
    ),
    "leaky_integrator": case(
        neurons.leaky_integrator, leaky_integrator_loop, values={}
    ),
    "leaky_integrator_scaled": case(
        neurons.leaky_integrator,
        leaky_integrator_loop,
        values={"beta": 0.7},
        scale_input=True,
    ),
    "recurrent": (neurons.recurrent(lif(), WEIGHT), recurrent_lif_loop),
}


def currents(dtype=np.float32):
    """`[T, B, N]`, with which every neuron above sometimes spikes and sometimes does not."""
    return np.random.default_rng(0).uniform(-0.8, 2.0, (T, B, N)).astype(dtype)


def cotangents():
    """Weights of the outputs and of the last membrane in the objective."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(T, B, N)), rng.normal(size=(B, N))


def dual_gradients(loop, params, x):
    """Outputs, last membrane, and the objective's derivatives by every parameter and input."""
    leaves, tree = jax.tree.flatten((params, list(x)))
    sizes = [np.size(leaf) for leaf in leaves]
    basis = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    duals = []
    for leaf, directions in zip(leaves, basis, strict=True):
        value = np.asarray(leaf, np.float64)
        value = value.reshape((1,) * (2 - value.ndim) + value.shape)
        duals.append(Dual(value, directions.reshape(-1, *value.shape)))
    out, v = loop(*jax.tree.unflatten(tree, duals))
    g, g_v = cotangents()
    total = sum((Dual(g_t) * y for g_t, y in zip(g, out, strict=True)), g_v * v)
    gradient = np.split(total.tangent.sum((1, 2)), np.cumsum(sizes)[:-1])
    shaped = [d.reshape(np.shape(p)) for d, p in zip(gradient, leaves, strict=True)]
    by_params, by_x = jax.tree.unflatten(tree, shaped)
    return np.stack([y.value for y in out]), v.value, by_params, np.stack(by_x)
