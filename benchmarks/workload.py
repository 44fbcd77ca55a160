"""The work that is measured: the reference CSNN, its training step and its inference, on invented images.

Axes: B batch, H height, W width; T time steps of a constant image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jsnn import layers, losses, metrics, neurons, surrogate
from jsnn.models.csnn import csnn
from jsnn.unroll import Constant

_IMAGE = (28, 28, 1)
_CLASSES = 10
# PyTorch's initial weights leave the deeper layers silent; scaled so, all of them fire, and two programs that disagree show it.
_GAIN = 3.0


class Workload(NamedTuple):
    """Arrays and pure functions.

    Attributes:
      params: initial parameters.
      init: `params -> state`, of the network and Adam.
      step: `(state, images, labels) -> (state, loss)`: gradient of the cross entropy of every step, and Adam at 1e-2.
      infer: `(params, images) -> class [B]`, by spike count.
      images: `[B, H, W, 1]`, a fifth of the pixels lit, as in handwritten digits.
      labels: `[B]`.
      arrays: the same weights, images and labels by name, in NumPy, for other libraries.
    """

    params: Any
    init: Callable[[Any], Any]
    step: Callable[..., Any]
    infer: Callable[..., Array]
    images: Float[Array, "B H W 1"]
    labels: Int[Array, "B"]
    arrays: dict[str, np.ndarray]


def _data(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lit = rng.random((batch_size, *_IMAGE)) < 0.2
    images = np.where(lit, rng.random(lit.shape), 0).astype(np.float32)
    return images, rng.integers(_CLASSES, size=batch_size).astype(np.int32)


def _named(model: layers.Sequence) -> dict[str, np.ndarray]:
    weighted = [x for x in model.flat() if isinstance(x, layers.Conv | layers.Dense)]
    return {
        f"{name}.{part}": np.asarray(getattr(layer, part)[...])
        for name, layer in zip(
            ("conv1", "conv2", "dense1", "dense2"), weighted, strict=True
        )
        for part in ("weight", "bias")
    }


def reference(
    timesteps: int,
    batch_size: int,
    *,
    block_size: int | None = None,
    remat: bool = False,
) -> Workload:
    """The CSNN of the snnTorch reference: beta 0.5, fast sigmoid of slope 25, delayed soft reset."""
    neuron = neurons.lif(
        beta=0.5, delayed_reset=True, spike_fn=surrogate.fast_sigmoid(25.0)
    )

    def build(key):
        rngs = nnx.Rngs(key)
        return csnn(
            _IMAGE,
            _CLASSES,
            neuron=neuron,
            block_size=block_size,
            remat=remat,
            rngs=rngs,
        )

    key = jax.random.key(0)
    graphdef, _ = layers.split(nnx.eval_shape(lambda: build(key)))
    params, rest = jax.jit(lambda key: layers.split(build(key))[1])(key)
    params = jax.tree.map(lambda p: _GAIN * p, params)
    optimizer = optax.adam(1e-2)

    def spikes(params, images, train):
        return layers.apply(
            graphdef,
            layers.Model(params, rest),
            Constant(images, timesteps),
            train=train,
        )[0]

    def loss(params, images, labels):
        return losses.ce_rate(spikes(params, images, True), labels).mean()

    def step(state, images, labels):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    images, labels = _data(batch_size)
    return Workload(
        params,
        lambda params: (params, optimizer.init(params)),
        step,
        lambda params, images: metrics.predict_by_count(spikes(params, images, False)),
        jnp.asarray(images),
        jnp.asarray(labels),
        _named(nnx.merge(graphdef, params, rest))
        | {"images": images, "labels": labels},
    )


def training_gflop(timesteps: int, batch_size: int) -> float:
    """10⁹ floating-point operations in the products of one training step: three times those of the forward pass.

    The first convolution sees a constant image: it runs once, and its input needs no gradient.
    """
    taps = 3 * 3
    first = 28 * 28 * taps * 32
    every_step = 14 * 14 * taps * 32 * 64 + 7 * 7 * 64 * 512 + 512 * _CLASSES
    return 2e-9 * batch_size * (2 * first + 3 * timesteps * every_step)
