"""The convolutional spiking network of the snnTorch reference: two convolutions, two dense layers, LIF after each."""

from flax import nnx

from jsnn import layers, neurons


def csnn(
    image_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    neuron: neurons.Neuron,
    block_size: int | None = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> layers.Sequence:
    """Conv 32, pool, LIF, conv 64, pool, LIF, dense 512, LIF, dense classes, LIF; 1,630,090 parameters on MNIST.

    Pooling comes before the neuron. The convolutional part runs step by step, so that what it needs stays in the cache;
    the dense part layer by layer, which gathers its products over all time steps. `block_size` and `remat` trade memory for time over both.
    """
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
            block_size=1,
        ),
        layers.Dense((height // 4) * (width // 4) * 64, 512, rngs=rngs),
        spiking(),
        layers.Dense(512, num_classes, rngs=rngs),
        spiking(),
        block_size=block_size,
        remat=remat,
    )
