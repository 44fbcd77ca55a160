"""Convolutional spiking networks for small images: the snnTorch reference, and one that learns faster."""

import itertools
import math

from flax import nnx

from jsnn import check, layers, neurons
from jsnn.unroll import steps_in_cache


def check_image_shape(image_shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless `image_shape` is that of images large enough to be pooled twice."""
    if len(image_shape) != 3 or min(image_shape[:2]) < 4 or image_shape[2] < 1:
        raise ValueError(
            f"`image_shape` must be (height, width, channels) of at least 4 x 4 pixels, channels last, got {image_shape}."
        )


def _check_shape(image_shape: tuple[int, ...], num_classes: int) -> None:
    check_image_shape(image_shape)
    check.whole("num_classes", num_classes, 2)


def csnn(
    image_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    *,
    neuron: neurons.Neuron,
    block_size: int | None = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """Conv 32, pool, LIF, conv 64, pool, LIF, dense 512, LIF, dense classes, LIF; 1,630,090 parameters on MNIST.

    Pooling comes before the neuron. On a CPU the convolutional part runs step by step, so that what it needs stays in the cache;
    the dense part layer by layer, which gathers its products over all time steps. `block_size` and `remat` trade memory for time over both.
    """
    _check_shape(image_shape, num_classes)
    height, width, channels = image_shape

    def spiking():
        return layers.Neurons(neuron)

    return layers.Sequence(
        layers.Conv(channels, 32, rngs=rngs),
        layers.MaxPool(),
        layers.Sequence(
            spiking(),
            layers.Conv(32, 64, rngs=rngs),
            layers.MaxPool(),
            spiking(),
            block_size=steps_in_cache(),
        ),
        layers.Dense((height // 4) * (width // 4) * 64, 512, rngs=rngs),
        spiking(),
        layers.Dense(512, num_classes, rngs=rngs),
        spiking(),
        block_size=block_size,
        remat=remat,
    )


def mlp(
    shape: tuple[int, ...],
    num_classes: int,
    *,
    neuron: neurons.Neuron,
    hidden: tuple[int, ...] = (256,),
    spiking_output: bool = False,
    block_size: int | None = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """Dense layers of spiking neurons for inputs of any shape; the output is the last layer's current, or its spikes."""
    sizes = (math.prod(shape), *hidden, num_classes)
    found = []
    for pair in itertools.pairwise(sizes):
        found += [layers.Dense(*pair, init="kaiming", rngs=rngs), layers.Neurons(neuron)]  # fmt: skip
    found = found if spiking_output else found[:-1]
    return layers.Sequence(*found, block_size=block_size, remat=remat)


def fast_csnn(
    image_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    *,
    neuron: neurons.Neuron,
    widths: tuple[int, int, int] = (32, 64, 64),
    block_size: int | None = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """Three convolutions with batch norm and spikes, and a dense read-out without: few steps, few operations.

    Conv 5x5 and pooling before the first neuron, run once an image because the input does not change; conv 3x3, pooling,
    LIF; conv 3x3, LIF. The first two convolutions pad nothing where the image leaves room (20 pixels or more): the border
    of a digit is empty. The output is the read-out's current at each step, to be averaged over time.
    """
    _check_shape(image_shape, num_classes)
    height, width, channels = image_shape
    first, second, third = widths
    padding = "valid" if min(height, width) >= 20 else "same"
    cut = (4, 2) if padding == "valid" else (0, 0)
    pixels = math.prod(((side - cut[0]) // 2 - cut[1]) // 2 for side in image_shape[:2])

    def conv(num_inputs, num_outputs, kernel_size, padding):
        return layers.Conv(
            num_inputs,
            num_outputs,
            kernel_size,
            padding=padding,
            bias=False,
            init="kaiming",
            rngs=rngs,
        )

    return layers.Sequence(
        conv(channels, first, 5, padding),
        layers.MaxPool(),
        layers.BatchNorm(first),
        layers.Neurons(neuron),
        conv(first, second, 3, padding),
        layers.MaxPool(),
        layers.BatchNorm(second),
        layers.Neurons(neuron),
        conv(second, third, 3, "same"),
        layers.BatchNorm(third),
        layers.Neurons(neuron),
        layers.Dense(pixels * third, num_classes, rngs=rngs),
        block_size=block_size,
        remat=remat,
    )
