"""What a network does while it computes: spikes and membranes, silent and saturated layers, operations and energy.

A model is run one layer after another over all T steps, and every spike and membrane is kept: meant for the few samples of a
figure or a batch of statistics, not for a whole test set of a large network. All but the warnings is pure, for `jit` and `vmap`.

Axes: T time, B batch, N neurons (any number of axes).
"""

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jsnn import layers, mesh, metrics, neurons
from jsnn.model import Network
from jsnn.precision import wide_type
from jsnn.unroll import Constant, Signal, neuron_block


class Activity(NamedTuple):
    """What one layer of neurons did.

    A layer that does not spike, a leaky integrator, has neither spikes nor a threshold.
    """

    spikes: Float[Array, "T B *N"] | None
    membrane: Float[Array, "T B *N"]  # compared with the threshold, before any reset
    threshold: Float[Array, "..."] | None  # broadcasts against N; [T B *N] if it moves
    # 1 where the membrane after a step is another than before it; where it was asked for.
    changed: Float[Array, "T B *N"] | None = None

    @property
    def output(self) -> Float[Array, "T B *N"]:
        """What the next layer sees."""
        return self.membrane if self.spikes is None else self.spikes


class Firing(NamedTuple):
    """How much one layer fires, over all samples and steps."""

    rate: Float[Array, ""]  # spikes a neuron and step
    active: Float[Array, ""]  # fraction of neurons that spike at least once


class Operations(NamedTuple):
    """What the synapses of one layer do for one sample in all T steps."""

    accumulates: Float[Array, "B"]  # caused by spikes
    macs: Float[Array, "B"]  # multiply-accumulates, caused by analogue inputs
    conventional: Float[Array, ""]  # MACs of the same layer in a conventional network


class Energy(NamedTuple):
    """Estimated energy of the arithmetic for one sample, in joules: see `metrics.energy`."""

    spiking: Float[Array, "B"]
    conventional: Float[Array, ""]


WEIGHTED = (layers.Conv, layers.Dense, layers.DelayedDense)


def _flat(module: layers.Layer) -> list[layers.Layer]:
    return list(module.flat()) if isinstance(module, layers.Sequence) else [module]


def _names(graphdef: Any, model: layers.Model, kinds: Any) -> list[str]:
    """Names of the layers of these kinds, numbered by type; neurons are called as the weights that feed them."""
    counts: dict[str, int] = {}
    names, source = [], None

    def numbered(layer: layers.Layer) -> str:
        kind = type(layer).__name__.lower()
        counts[kind] = counts.get(kind, 0) + 1
        return f"{kind} {counts[kind]}"

    for layer in _flat(layers.merge(graphdef, model)):
        if isinstance(layer, WEIGHTED):
            name = source = numbered(layer)
        elif isinstance(layer, layers.Neurons):
            name, source = source or numbered(layer), None
        else:
            continue
        if isinstance(layer, kinds):
            names.append(name)
        elif isinstance(layer, layers.Neurons) and layer.recurrent is not None:
            names.append(f"{name} recurrent")
    return names


def neuron_names(graphdef: Any, model: layers.Model) -> list[str]:
    """A name for each `Neurons` layer, in the order of `record`: `conv 1`, `dense 2` after what feeds it, else `neurons 1`."""
    return _names(graphdef, model, layers.Neurons)


def weight_names(graphdef: Any, model: layers.Model) -> list[str]:
    """A name for each layer with weights, in the order of `synaptic_operations`: `conv 1`, `dense 2`, `dense 2 recurrent`."""
    return _names(graphdef, model, WEIGHTED)


def _inner(pair: Any) -> Any:
    """Parameters or state of the neuron itself, where the layer is recurrent or rests after spikes."""
    while isinstance(
        pair,
        neurons.RecurrentParams | neurons.RecurrentState | neurons.RefractoryState,
    ):
        pair = pair.neuron
    return pair


def _observe(layer: layers.Neurons, state: Any, x: Signal, changes: bool) -> Activity:
    """Runs a layer of neurons from `state` over all steps; the layer's own scan carries membrane and threshold out beside the output."""
    neuron, params = layer.model()

    def step(params, state, current):
        new, output = neuron.step(params, state, current)
        charged = neuron.charge and neuron.charge(params, state, current)
        seen = [output, _inner(new).v if charged is None else charged]
        if neuron.threshold is not None:
            seen.append(neuron.threshold(params, state))
        if changes:
            moved = _inner(new).v != _inner(state).v
            seen.append(moved.astype(output.dtype))
        return new, jnp.stack(seen)

    _, seen = neuron_block(neuron._replace(step=step), params)(state, x)
    threshold = getattr(_inner(params), "threshold", None)
    spikes = None if threshold is None else seen[:, 0]
    return Activity(
        spikes,
        seen[:, 1],
        threshold if neuron.threshold is None else seen[:, 2],
        seen[:, -1] if changes else None,
    )


def visit(
    graphdef: Any, model: layers.Model, x: Signal, *, changes: bool = False
) -> Iterator[tuple[layers.Layer, Signal, Activity | None]]:
    """Every layer in order, with its input over all steps and, for neurons, what they did; with `changes` also where membranes change."""
    for layer in _flat(layers.merge(graphdef, model)):
        shape = x.value.shape if isinstance(x, Constant) else x.shape[1:]
        dtype = wide_type(*jax.tree.leaves(x))
        state, activity = layer.init_state(shape, dtype=dtype), None
        if isinstance(layer, layers.Neurons):
            activity = _observe(layer, state, x, changes)
            y = activity.output
        else:
            _, y = layer(state, x)
        yield layer, x, activity
        x = y


def record(graphdef: Any, model: layers.Model, x: Signal) -> list[Activity]:
    """Runs a model in evaluation mode and returns what each of its `Neurons` layers did.

    The last activity holds the network's output if it ends in neurons. Memory: two float32 values a neuron, sample and step; three where
    thresholds move.

    Args:
      graphdef: static part of the model, from `layers.split`.
      model: its arrays.
      x: `[T, B, ...]` or a `Constant`.
    """
    found = (activity for _, _, activity in visit(graphdef, model, x))
    return [activity for activity in found if activity is not None]


def firing(activity: Activity) -> Firing:
    """Mean rate, and the fraction of neurons that spike at all, of one spiking layer.

    Raises:
      ValueError: if the layer does not spike.
    """
    if activity.spikes is None:
        raise ValueError(
            "`activity` is of a layer without spikes; leave such layers out: `[a for a in activities if a.spikes is not None]`."
        )
    rates = metrics.firing_rates(activity.spikes)
    active = (rates > 0).any(0)
    return Firing(rates.mean(), active.mean(dtype=jnp.float32))


def check(
    activities: Sequence[Activity],
    names: Sequence[str],
    *,
    silent_below: float = 0.01,
    saturated_above: float = 0.95,
) -> None:
    """Warns, once for the whole network, of layers that pass nothing on: silent ones and saturated ones.

    Such a layer tells inputs apart no better than a constant would, and a surrogate's gradient far from threshold is small, so
    training may not bring it back. Call it outside `jit`, on a batch of some dozens of samples: in a smaller one a healthy,
    selective neuron may have nothing to answer.

    Args:
      activities: from `record`; layers that do not spike are passed over.
      names: from `neuron_names`.
      silent_below: fraction of neurons that spike at least once under which a layer counts as silent.
      saturated_above: spikes a neuron and step over which it counts as saturated.
    """
    silent, saturated = [], []
    for name, activity in zip(names, activities, strict=True):
        if activity.spikes is None:
            continue
        rate, active = map(float, firing(activity))
        if active < silent_below:
            silent.append(f"`{name}` ({100 * active:.2g} % of its neurons ever spike)")
        elif rate > saturated_above:
            saturated.append(
                f"`{name}` (its neurons spike in {100 * rate:.3g} % of steps)"
            )
    parts = []
    if silent:
        parts.append(
            f"Silent: {', '.join(silent)}. Put a BatchNorm before the neurons, start with larger weights "
            "(init='kaiming'), lower `threshold`, raise `beta`, or show more time steps."
        )
    if saturated:
        parts.append(
            f"Saturated: {', '.join(saturated)}. Put a BatchNorm before the neurons, start with smaller weights, "
            "raise `threshold`, lower `beta`, or scale the input down."
        )
    if parts:
        warnings.warn(" ".join(parts), UserWarning, stacklevel=2)


def awake(network: Network, model: layers.Model, x: Any) -> dict[str, Bool[Array, ""]]:
    """Whether any neuron of a spiking layer spikes, for each such layer by name; of surrogate and EventProp networks alike.

    Args:
      network: of layers, or a chain of `jsnn.eventprop`.
      model: of the network.
      x: what its encoder gives.
    """
    if network.graphdef is None:
        found = [s.values for s in network.apply(model, x).spikes]
        names = [f"spiking layer {k + 1}" for k in range(len(found))]
    else:
        found = [a.spikes for a in record(network.graphdef, model, x)]
        names = neuron_names(network.graphdef, model)
    pairs = zip(names, found, strict=True)
    return {name: (s > 0).any() for name, s in pairs if s is not None}


# Of samples looked at, and of those at a time.
_MOST, _AT_ONCE = 64, 16


@functools.partial(
    jax.jit,
    static_argnums=0,
    # Runs once: compiling is what it costs.
    compiler_options={"xla_backend_optimization_level": 0},
)
def _any_awake(awake, model, inputs):
    count = min(len(inputs), _MOST)
    rows = jnp.minimum(jnp.arange(-(-count // _AT_ONCE) * _AT_ONCE), count - 1)

    def look(rows):
        return awake(model, jax.tree.map(lambda x: x[rows], inputs))

    found = jax.lax.map(look, rows.reshape(-1, _AT_ONCE))
    return jax.tree.map(lambda x: x.any(), found)


def warn_of_silence(task: Any, model: Any, inputs: Array) -> None:
    """Warns, in one sentence, of layers none of whose neurons spike on the first samples: what a loss can tell them is little or nothing.

    `fit` does so before it looks at held-out samples for the first time.

    Args:
      task: a `Task` that says `awake`.
      model: to look at.
      inputs: samples `[N, ...]`, of which 64 are used.
    """
    found = _any_awake(task.awake, model, inputs)
    silent = [f"`{name}`" for name, spikes in found.items() if not spikes]
    if silent and mesh.is_primary():
        warnings.warn(
            f"No neuron of {', '.join(silent)} spikes on {min(len(inputs), _MOST)} held-out samples, so nothing passes through: start with larger weights "
            "(in EventProp, a larger `mean`), lower the `threshold`, or scale the inputs up.",
            UserWarning,
            stacklevel=2,
        )


def _fan_out(
    layer: layers.Conv | layers.Dense | layers.DelayedDense, shape: tuple[int, ...]
) -> Array:
    """Outputs that each input of one sample, of this shape, reaches."""
    features = layer.weight.shape[-1]
    if not isinstance(layer, layers.Conv):
        return jnp.asarray(features, jnp.float32)
    (height, width), (kernel_height, kernel_width) = shape[:2], layer.weight.shape[:2]
    return metrics.conv_fan_out(
        (height, width),
        (kernel_height, kernel_width),
        features,
        stride=layer.stride,
        padding=layer.padding,
    )


def _by_value(x: Array, fan_out: Array | int, conventional: Array) -> Operations:
    """A one costs an addition at each target, a zero nothing, any other value a multiply-accumulate."""
    return Operations(
        metrics.synaptic_operations(x == 1, fan_out),
        metrics.synaptic_operations((x != 0) & (x != 1), fan_out),
        conventional,
    )


def _operations(
    layer: layers.Conv | layers.Dense | layers.DelayedDense, x: Signal
) -> Operations:
    shape = x.value.shape if isinstance(x, Constant) else x.shape[1:]
    # Shapes alone decide the fan-out, so it is a plain number even while the rest is traced.
    with jax.ensure_compile_time_eval():
        fan_out = _fan_out(layer, shape[1:])
        macs = metrics.multiply_accumulates(shape[1:], fan_out)
    conventional = jnp.asarray(macs, jnp.float32)
    if isinstance(x, Constant):
        batch = shape[0]
        return Operations(jnp.zeros(batch), jnp.full(batch, conventional), conventional)
    return _by_value(x, fan_out, conventional)


def synaptic_operations(
    graphdef: Any, model: layers.Model, x: Signal
) -> list[Operations]:
    """Operations for each sample in each layer with weights, in the order of `weight_names`.

    A spike is added to as many potentials as it reaches; an input that is neither 0 nor 1, such as an average over a pool of
    spikes, costs as many multiply-accumulates; a constant image enters once, all its pixels counted, zeros too. The
    conventional network passes every layer once, and recurrent weights, which need time, not at all. Not counted: biases,
    batch norm (it folds into the weights) and membrane updates.

    Args:
      graphdef: static part of the model, from `layers.split`.
      model: its arrays.
      x: `[T, B, ...]` or a `Constant`.
    """
    found = []
    for layer, inputs, activity in visit(graphdef, model, x):
        if isinstance(layer, WEIGHTED):
            found.append(_operations(layer, inputs))
        weight = getattr(layer, "recurrent", None)
        if activity is not None and weight is not None:
            # What the last step emits would arrive after the end.
            sent = activity.output.at[-1].set(0)
            found.append(_by_value(sent, weight.shape[-1], jnp.zeros(())))
    return found


def energy(operations: Sequence[Operations]) -> Energy:
    """Energy of all layers together, as a spiking network and as the same network with analogue units."""
    return Energy(
        metrics.energy(
            sum(o.accumulates for o in operations), sum(o.macs for o in operations)
        ),
        metrics.energy(0.0, sum(o.conventional for o in operations)),
    )
