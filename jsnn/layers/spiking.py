"""Layers of neurons."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jsnn import advice, check, neurons
from jsnn.layers.base import Fixed, Layer, uniform
from jsnn.unroll import Constant, neuron_block

_DECAYS = ("alpha", "beta", "rho")


def _to_free(name: str, value: Array) -> Array:
    """What is trained in place of a neuron's parameter, so that no step can take that out of its range."""
    if name in _DECAYS:
        return jax.scipy.special.logit(value)
    # The inverse of softplus, without overflow.
    return value + jnp.log(-jnp.expm1(-value)) if name == "threshold" else value


def _from_free(name: str, free: Array) -> Array:
    """The inverse of `_to_free`; rounding never reaches the ends of the range."""
    limits = jnp.finfo(free.dtype)
    if name in _DECAYS:
        return jnp.clip(jax.nn.sigmoid(free), limits.tiny, 1 - limits.epsneg)
    if name == "threshold":
        return jnp.maximum(jax.nn.softplus(free), limits.tiny)
    return free


class Neurons(Layer):
    """A layer of neurons, one per input, `[T, B, N] -> [T, B, N]`. For the usual neurons, `LIF` and its siblings are shorter.

    >>> layer = jsnn.Neurons(jsnn.neurons.lif(beta=0.9), learn="beta")
    >>> state, spikes = layer(layer.init_state((2, 8)), jnp.ones((5, 2, 8)))
    >>> spikes.shape
    (5, 2, 8)

    Args:
      neuron: the model; its default parameters are this layer's.
      learn: names of parameters to train, or one name. Decays are trained through a sigmoid, so they stay in (0, 1), and the threshold through a
        softplus, so it stays positive.
      recurrent: number of neurons N, to give the layer recurrent weights `[N, N]` from its own spikes one step ago.
      rngs: needed for recurrent weights.

    Raises:
      ValueError: if `learn` names no parameter of the neuron, a value to learn starts at the end of its range, or `rngs` is missing.
    """

    stateless = False

    def __init__(
        self,
        neuron: neurons.Neuron,
        *,
        learn: tuple[str, ...] | str = (),
        recurrent: int | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        advice.neuron(neuron)
        if recurrent is not None:
            remedy = "Write the layer's number of neurons."
            recurrent = check.whole("recurrent", recurrent, 1, remedy=remedy)
        learn = (learn,) if isinstance(learn, str) else tuple(learn)
        fields = neuron.params._asdict()
        if unknown := set(learn) - set(fields):
            raise ValueError(
                f"`learn` names {sorted(unknown)}, but this neuron's parameters are {sorted(fields)}."
            )
        self.neuron = nnx.static(neuron._replace(params=type(neuron.params)))
        self.learn = learn
        values = {name: jnp.asarray(v, jnp.float32) for name, v in fields.items()}
        for name in learn:
            interval = "(0, inf)" if name == "threshold" else "(-inf, inf)"
            interval = "(0, 1)" if name in _DECAYS else interval
            # As float32, which may round to 1 what was less.
            remedy = (
                f"`learn` names {name!r}: training starts strictly within its range."
            )
            check.number(name, values[name], interval, remedy=remedy)
            values[name] = _to_free(name, values[name])
        self.params = nnx.data(
            {n: (nnx.Param if n in learn else Fixed)(v) for n, v in values.items()}
        )
        weight = None
        if recurrent is not None:
            if rngs is None:
                raise ValueError("`rngs` is needed to draw recurrent weights.")
            weight = nnx.Param(
                uniform(rngs.params(), (recurrent, recurrent), recurrent)
            )
        self.recurrent = weight

    def model(self) -> tuple[neurons.Neuron, Any]:
        """The pure neuron and the parameters it has now."""
        values = {
            n: _from_free(n, v[...]) if n in self.learn else v[...]
            for n, v in self.params.items()
        }
        params = self.neuron.params(**values)
        neuron = self.neuron._replace(params=params)
        if self.recurrent is not None:
            neuron = neurons.recurrent(neuron, self.recurrent[...])
            return neuron, neurons.RecurrentParams(params, self.recurrent[...])
        return neuron, params

    def init_state(self, shape, *, key=None, train=False, dtype=jnp.float32):
        """Neurons at rest."""
        return self.model()[0].init(shape, dtype)

    def __call__(self, state, x, *, train=False):
        """Scans the neuron over the block."""
        neuron, params = self.model()
        advice.signal(x)
        at_rest = functools.partial(
            neuron.init, x.shape[1:] if not isinstance(x, Constant) else x.value.shape
        )
        advice.state(self, state, jax.eval_shape(at_rest), x)
        return neuron_block(neuron, params)(state, x)


def _neurons(
    name: str, factory: Callable[..., neurons.Neuron], summary: str
) -> Callable[..., Neurons]:
    """The layer of a neuron whose parameters are named at once."""

    def layer(*, learn=(), recurrent=None, rngs=None, **parameters) -> Neurons:
        neuron = factory(**parameters)
        return Neurons(neuron, learn=learn, recurrent=recurrent, rngs=rngs)

    layer.__name__ = layer.__qualname__ = name
    layer.__doc__ = f"""{summary}

    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 8, rngs=rngs), jsnn.{name}()])
    >>> net.apply(net.init(jax.random.key(0)), jnp.ones((5, 2, 4))).value.shape  # [T, B, N]
    (5, 2, 8)

    Args:
      **parameters: of the neuron; see `jsnn.neurons.{factory.__name__}`.
      learn: names of parameters to train.
      recurrent: number of neurons N, to connect the layer with itself by weights `[N, N]`.
      rngs: `nnx.Rngs(seed)`, from which these are drawn.

    Returns:
      A layer `[T, B, N] -> [T, B, N]`; see `Neurons`.
    """
    return layer


LIF = _neurons(
    "LIF",
    neurons.lif,
    r"Leaky integrate-and-fire neurons: $v_t = \beta v_{t-1} + x_t$, a spike where $v_t > \theta$, and then a reset.",
)
IF = _neurons(
    "IF",
    neurons.integrate_and_fire,
    r"Integrate-and-fire neurons without leak: $v_t = v_{t-1} + x_t$, a spike where $v_t > \theta$, and then a reset.",
)
CurrentLIF = _neurons(
    "CurrentLIF",
    neurons.current_lif,
    r"LIF neurons behind a synaptic current $i_t = \alpha i_{t-1} + x_t$: $v_t = \beta v_{t-1} + i_t$, a spike where $v_t > \theta$.",
)
AdaptiveLIF = _neurons(
    "AdaptiveLIF",
    neurons.adaptive_lif,
    r"LIF neurons whose threshold $\theta_t = \theta + c\,a_t$ rises with their own spikes, $a_t = \rho a_{t-1} + s_{t-1}$.",
)
LI = _neurons(
    "LI",
    neurons.leaky_integrator,
    r"Leaky integrators, which do not spike: the output is the membrane, $v_t = \beta v_{t-1} + x_t$. The usual last layer.",
)
