"""NeuroBench's measures of a network of layers, counted by its definitions: see `jsnn.metrics.neurobench`.

Read in the code of NeuroBench 2.3.0 (https://github.com/NeuroBench/neurobench), which itself takes modules of PyTorch only; the paper is
Yik et al., 2025, https://doi.org/10.1038/s41467-025-56739-4.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jsnn import activity, layers, metrics
from jsnn.unroll import Constant, Signal


def _reach(layer: Any, kernel: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """How many outputs each input of one sample reaches through a kernel of zeros and ones."""
    if isinstance(layer, layers.DelayedDense):
        return kernel.sum(1).reshape(shape)
    copy = nnx.merge(*nnx.split(layer))
    copy.weight[...] = kernel
    # All outputs are sums of inputs, so the gradient counts those that an input enters.
    return jax.grad(lambda x: copy.forward(x[None]).sum())(jnp.zeros(shape))


class _Synapses:
    """Sums over the layers' synapses, all samples together."""

    def __init__(self):
        self.macs = self.acs = self.dense = jnp.zeros(())

    def add(self, x: Signal, weight: Array, reach: Callable[[Array], Array]) -> None:
        """One layer's: `x` `[T, B, *I]`, and `reach` from a kernel of zeros and ones to outputs for each input, `[*I]`."""
        times = 1
        if isinstance(x, Constant):
            x, times = x.value[None], x.num_steps
        steps, batch = x.shape[:2]
        kernel = (weight != 0).astype(jnp.float32)
        # Sums over axis 0, which is the batch here: one number a step.
        count = metrics.synaptic_operations((x != 0).swapaxes(0, 1), reach(kernel))
        spikes = ((x == 0) | (x == 1) | (x == -1)).reshape(steps, -1).all(1)
        self.acs += times * jnp.where(spikes, count, 0).sum()
        self.macs += times * jnp.where(spikes, 0, count).sum()
        self.dense += times * steps * batch * reach(jnp.ones_like(kernel)).sum()


def measure(graphdef: Any, model: layers.Model, x: Signal) -> dict[str, Any]:
    """See `jsnn.metrics.neurobench`."""
    synapses, batch = (
        _Synapses(),
        (x.value.shape[0] if isinstance(x, Constant) else x.shape[1]),
    )
    zeros = weights = silent = entries = updates = 0.0
    for layer, inputs, found in activity.visit(graphdef, model, x, changes=True):
        weight = getattr(layer, "weight", None)
        if isinstance(layer, activity.WEIGHTED) and weight is not None:
            shape = inputs.value if isinstance(inputs, Constant) else inputs[0]
            shape = shape.shape[1:]
            kernel = weight[...]
            synapses.add(
                inputs, kernel, lambda k, a=layer, shape=shape: _reach(a, k, shape)
            )
            zeros, weights = zeros + (kernel == 0).sum(), weights + kernel.size
        if found is None:
            continue
        if (recurrent := getattr(layer, "recurrent", None)) is not None:
            kernel, sent = recurrent[...], jnp.roll(found.output, 1, 0).at[0].set(0)
            synapses.add(sent, kernel, lambda k: k.sum(1))
            zeros, weights = zeros + (kernel == 0).sum(), weights + kernel.size
        assert found.changed is not None
        updates += found.changed.at[0].set(1).sum(dtype=jnp.float32)
        if found.spikes is not None:
            silent += (found.spikes == 0).sum(dtype=jnp.float32)
            entries += found.spikes.size
    arrays = jax.tree.leaves((model.params, model.rest))
    return {
        "Footprint": sum(a.size * a.dtype.itemsize for a in arrays),
        "ParameterCount": sum(a.size for a in jax.tree.leaves(model.params)),
        "ConnectionSparsity": zeros / max(weights, 1),
        "ActivationSparsity": silent / max(entries, 1),
        "SynapticOperations": {
            "Effective_MACs": synapses.macs / batch,
            "Effective_ACs": synapses.acs / batch,
            "Dense": synapses.dense / batch,
        },
        "MembraneUpdates": updates / batch,
    }
