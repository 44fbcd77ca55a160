"""Spiking networks for streams of classes: features over time, and a growing head on top.

Both are a `Sequence` of two: layer 0 gives features, the rest is the head with its read-out neurons. So features can be had by
themselves, as nearest-mean classifiers want them, and `activity` sees one flat list of layers.
"""

import math
from typing import Literal

from flax import nnx

from jsnn import check, head, layers, neurons, surrogate
from jsnn.models.csnn import check_image_shape


def reference_neuron(beta: float = 0.9) -> neurons.Neuron:
    """The reference's LIF: immediate soft reset with a gradient through it, spike at threshold too, its own arctan surrogate."""
    return neurons.lif(
        beta=beta,
        detach_reset=False,
        spike_at=">=",
        spike_fn=surrogate.arctan_fixed_peak(2.0),
    )


def with_head(
    features: layers.Sequence,
    num_features: int,
    capacity: int,
    neuron: neurons.Neuron,
    read_out: head.ReadOut,
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """Features with a head of `capacity` columns, which sees all steps at once, in one product; only its neurons walk through time."""
    columns = head.GrowingHead(num_features, capacity, rngs=rngs)
    after = head.read_out_neuron(read_out, neuron)
    return layers.Sequence(
        features, columns, *(() if after is None else (layers.Neurons(after),))
    )


def cil_cnn(
    image_shape: tuple[int, int, int] = (32, 32, 3),
    capacity: int = 10,
    *,
    width: int = 64,
    neuron: neurons.Neuron | None = None,
    read_out: head.ReadOut = "rate",
    statistics: Literal["step", "block"] = "step",
    block_size: int | None = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """The class-incremental reference: three convolutions with batch norm and spikes; 535,562 parameters for ten classes.

    Conv 64, LIF; conv 128, average pool, LIF (pool before the neuron); conv 256, LIF, average pool (pool after it); dense, LIF.

    Args:
      image_shape: height, width, channels.
      capacity: columns of the head.
      width: channels of the first convolution; the others have two and four times as many. 64 in the reference.
      neuron: the reference's if None.
      read_out: see `head.read_out`; `"rate"` in the reference.
      statistics: batch statistics of each time step by itself, as in the reference, or of a block of steps together.
      block_size: time steps handed to a layer at a time. `"block"` statistics are those of such a block; None takes all steps.
      remat: recompute inside blocks in the backward pass.
      rngs: initial weights.

    Raises:
      ValueError: if the image is smaller than 4 x 4 pixels or `width` is less than 1.
    """
    check_image_shape(image_shape)
    height, breadth, channels = image_shape
    width = check.whole("width", width, 1)
    neuron = reference_neuron() if neuron is None else neuron

    def conv(num_inputs, num_outputs):
        return (
            layers.Conv(num_inputs, num_outputs, rngs=rngs),
            layers.BatchNorm(num_outputs, statistics=statistics),
        )

    features = layers.Sequence(
        *conv(channels, width),
        layers.Neurons(neuron),
        *conv(width, 2 * width),
        layers.AvgPool(),
        layers.Neurons(neuron),
        *conv(2 * width, 4 * width),
        layers.Neurons(neuron),
        layers.AvgPool(),
        block_size=block_size,
        remat=remat,
    )
    num_features = (height // 4) * (breadth // 4) * 4 * width
    return with_head(features, num_features, capacity, neuron, read_out, rngs)


def cil_small_cnn(
    image_shape: tuple[int, int, int] = (28, 28, 1),
    capacity: int = 10,
    *,
    width: int = 32,
    neuron: neurons.Neuron | None = None,
    read_out: head.ReadOut = "current",
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """Two convolutions of stride 2 with spikes for small grey images, without batch norm: few operations, and little to forget in.

    Conv 5x5, LIF; conv 3x3 with twice as many channels, LIF. On images of less than 20 pixels the first stride is 1.
    """
    check_image_shape(image_shape)
    height, breadth, channels = image_shape
    width = check.whole("width", width, 1)
    neuron = reference_neuron() if neuron is None else neuron
    stride = 2 if min(height, breadth) >= 20 else 1
    features = layers.Sequence(
        layers.Conv(channels, width, 5, stride=stride, init="kaiming", rngs=rngs),
        layers.Neurons(neuron),
        layers.Conv(width, 2 * width, 3, stride=2, init="kaiming", rngs=rngs),
        layers.Neurons(neuron),
    )
    pixels = [math.ceil(math.ceil(side / stride) / 2) for side in (height, breadth)]
    num_features = pixels[0] * pixels[1] * 2 * width
    return with_head(features, num_features, capacity, neuron, read_out, rngs)


def cil_mlp(
    image_shape: tuple[int, ...] = (28, 28, 1),
    capacity: int = 10,
    *,
    hidden: tuple[int, ...] = (400, 400),
    neuron: neurons.Neuron | None = None,
    read_out: head.ReadOut = "current",
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """Dense layers of spiking neurons for small grey images, or inputs of any shape, without batch norm; two of 400 are what Split MNIST is published with."""
    if not hidden:
        raise ValueError("`hidden` must name at least one layer of neurons, got ().")
    hidden = tuple(check.whole("hidden", n, 1) for n in hidden)
    neuron = reference_neuron() if neuron is None else neuron
    sizes = (math.prod(image_shape), *hidden)
    found = []
    for num_inputs, num_outputs in zip(sizes, hidden, strict=False):
        dense = layers.Dense(num_inputs, num_outputs, init="kaiming", rngs=rngs)
        found += [dense, layers.Neurons(neuron)]
    return with_head(
        layers.Sequence(*found), hidden[-1], capacity, neuron, read_out, rngs
    )
