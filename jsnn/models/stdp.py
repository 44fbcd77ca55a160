"""Deep convolutional networks that learn by STDP and reward-modulated STDP, as declarations: what they are, not how they run.

A network is filters and an encoding, blocks that learn without labels, and a read-out. A newcomer joins `NETWORKS` and needs
nothing else: `jsnn.models.stdp_layers` computes and `jsnn.models.stdp_schedule` trains whatever is declared here. Figures
quoted below are for grey images of 28 x 28.

References: mozafari2018, https://doi.org/10.1016/j.patcog.2019.05.015 (learning rule, three layers) ; kheradpisheh2018,
https://doi.org/10.1016/j.neunet.2017.12.005; the others come from a program that varied the first.
"""

import dataclasses
from typing import Literal

Rates = tuple[float, float]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Difference-of-Gaussian filters, local normalisation, and rank order: the strongest responses spike first.

    Attributes:
      filters: (side, sigma of the centre, sigma of the surround) of each; the surround's smaller one makes an OFF filter.
      padding: zeros around the image, in pixels.
      threshold: weaker responses count as none, in grey levels of 255.
      num_steps: T, bins of equally many spikes.
      norm_radius: of the window over whose mean a response is divided.
    """

    filters: tuple[tuple[int, float, float], ...]
    padding: int
    threshold: float = 50.0
    num_steps: int = 15
    norm_radius: int = 8

    @property
    def window(self) -> int:
        """Side of the largest filter; the smaller ones are centred in it."""
        return max(side for side, _, _ in self.filters)


def _on_and_off(*filters: tuple[int, float, float]) -> tuple:
    """Each filter and the one with its two Gaussians exchanged."""
    return tuple(x for side, a, b in filters for x in ((side, a, b), (side, b, a)))


SIX_FILTERS = Encoding(
    _on_and_off((3, 3 / 9, 6 / 9), (7, 7 / 9, 14 / 9), (13, 13 / 9, 26 / 9)), padding=6
)
TWO_FILTERS = Encoding(_on_and_off((7, 1.0, 2.0)), padding=3)
# Of the original's 18 filters for colour images each occurs three times over, summed over red, green and blue every time.
CIFAR_FILTERS = Encoding(
    tuple(
        copy
        for one in _on_and_off(
            (5, 3 / 9, 6 / 9), (9, 7 / 9, 14 / 9), (15, 13 / 9, 26 / 9)
        )
        for copy in (one, one, one)
    ),
    padding=8,
    threshold=40.0,
    num_steps=20,
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of integrate-and-fire neurons that learns from the neurons which win.

    Attributes:
      features: F.
      kernel: side of the window.
      threshold: potential above which a neuron spikes; None if it never does and only its last potential counts.
      winners: neurons that learn from one image, one a feature at most.
      radius: no two of them come closer than this.
      stabiliser: whether the step is multiplied by (w - lower)(upper - w), so that weights settle at the bounds.
      bounds: of the weights.
    """

    features: int
    kernel: int
    threshold: float | None
    winners: int = 1
    radius: int = 0
    stabiliser: bool = True
    bounds: Rates = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers side by side on one input; their spikes, padded to one size, are the input of the next block.

    Attributes:
      layers: one, or several branches that learn one after another.
      pool: side and stride of the max-pooling in front, 1 for none.
      pool_padding: rows and columns of silence that pooling itself adds on each side.
      pad: rows and columns of silence on each side, after pooling.
      inhibited: of the input's spikes at one position only the first counts in training.
      skip: whether the pooled input goes around the layers as well: map f of the output is merged by `or` with map f modulo C of the
        input, so that the earlier of two spikes counts.
    """

    layers: tuple[Layer, ...]
    pool: int = 1
    pool_padding: int = 0
    pad: int = 0
    inhibited: bool = False
    skip: bool = False


@dataclasses.dataclass(frozen=True)
class Modulated:
    """A last unsupervised block that goes on learning, rewarded and punished by the network's decisions.

    Attributes:
      how: `"joint"`: every image trains it and the decision layer; `"alternate"`: windows of images train one and the other in turn.
      reward: rates of synapses whose input came in time, and of the others, if the decision was right.
      punish: the same if it was wrong.
    """

    how: Literal["joint", "alternate"]
    reward: Rates = (0.001, -0.00075)
    punish: Rates = (-0.001, 0.000125)


@dataclasses.dataclass(frozen=True)
class Network:
    """A whole network.

    Attributes:
      blocks: learn by STDP, from the input on.
      decision: layers without threshold that learn by R-STDP, each with as many features for every class. One decides; of several the
        majority, and without one the middle layer. None: a linear support vector machine reads what the blocks leave.
      readout: pooling in front of that machine: side and padding.
      epochs: passes over the training set, one number a block and, last, at most so many of the decision.
      encoding: of grey images.
      modulated: whether the last block joins in R-STDP.
    """

    blocks: tuple[Block, ...]
    decision: Block | None
    epochs: tuple[int, ...]
    encoding: Encoding = SIX_FILTERS
    readout: tuple[int, int] | None = None
    modulated: Modulated | None = None

    def __post_init__(self):
        stages = len(self.blocks) + (self.decision is not None)
        if len(self.epochs) != stages:
            raise ValueError(
                f"`epochs` {self.epochs} must be {stages} numbers, one a block and one for the decision."
            )


def decision(*kernels: int, features: int = 200, pool: int = 3, pad: int = 2) -> Block:
    """Decision layers with these kernels: potentials without threshold, bounds 0.2 and 0.8, one winner, no stabiliser."""
    layers = tuple(
        Layer(features, k, None, stabiliser=False, bounds=(0.2, 0.8)) for k in kernels
    )
    return Block(layers, pool=pool, pad=pad)


_FIRST = Block((Layer(30, 5, 15.0, winners=5, radius=3),), pad=2)


def _second(features: int) -> Block:
    layer = Layer(features, 3, 10.0, winners=8, radius=1)
    return Block((layer,), pool=2, pad=1)


def _third(*kernels: int, features: int = 250, **options) -> Block:
    options = {"winners": 15, "radius": 1} | options
    layers = tuple(Layer(features, k, 50.0, **options) for k in kernels)
    return Block(layers, pool=2, pad=1)


mozafari2018 = Network((_FIRST, _second(250)), decision(5), epochs=(2, 4, 100))
"""The network of the paper: 97.2 % on MNIST with 680 epochs of R-STDP. 1,322,000 weights."""

deep2024 = Network(
    (_FIRST, _second(150), _third(3)), decision(5), epochs=(2, 4, 4, 100)
)
"""One more layer. 1,632,500 weights."""

_REWARDED = _third(3, radius=0, stabiliser=False)

deepr2024 = dataclasses.replace(
    deep2024, blocks=(_FIRST, _second(150), _REWARDED), modulated=Modulated("joint")
)
"""`deep2024` whose third layer is rewarded and punished as well, together with the decision layer."""

deepr2024_greedy = dataclasses.replace(deepr2024, modulated=Modulated("alternate"))
"""The same with the two layers in turn, window by window: what its authors meant.

Their condition, `epoch + iteration % 2 == 0`, is by the precedence of operators true for the even windows of the first epoch only, so
that the third layer learns nothing afterwards; here it is `(epoch + iteration) % 2 == 0`. The rates that adapt after a window are
those of the layer that it trained, where theirs are in the first epoch those of the other.
"""

inception2024 = Network(
    (_FIRST, _second(75), _third(3, 5, 7, features=100)),
    decision(5),
    epochs=(2, 4, 4, 100),
)
"""A third block of three branches with windows of 3, 5 and 7. 2,147,250 weights."""

majority2024 = Network((_FIRST, _second(250)), decision(3, 5, 7), epochs=(2, 4, 100))
"""`mozafari2018` with three decision layers that vote. 4,222,000 weights."""

resnet2024 = Network(
    (_FIRST, _second(150), dataclasses.replace(_third(3), skip=True)),
    decision(4),
    epochs=(2, 4, 4, 100),
)
"""`deep2024` with a way around the third layer, and a decision layer with a window of 4.

The original sends layer 2 through fixed random weights, all positive, so each of 250 maps says the same: some feature of layer 2 has
spiked in this cell of 2 x 2. It then keeps only the first of the spikes merged, whose wave is no longer cumulative; the decision
layer, which looks at the last step alone, sees nothing, and every image is silent. Here the merge is `or` on cumulative waves: the
earlier of the two spikes. So that the way around carries features and not one bit a cell, map f of the third layer is merged with map
f mod 150 of the second, pooled by its earliest spike.
"""

deeper2024 = Network(
    (
        Block((Layer(30, 3, 15.0, winners=5, radius=3),), pad=2),
        _second(150),
        _third(3),
        Block((Layer(200, 3, 1.0, winners=20, radius=1),), pool=3, pad=2),
    ),
    decision(3, features=100),
    epochs=(2, 4, 4, 4, 100),
)
"""Five layers. The fourth's threshold is the 1 that the original uses, not the 128 it declares. 1,009,620 weights."""

kheradpisheh2018 = Network(
    (
        Block((Layer(32, 5, 10.0, winners=5, radius=2),), pad=2),
        Block(
            (Layer(150, 2, 1.0, winners=8, radius=1),),
            pool=2,
            pool_padding=1,
            pad=1,
            inhibited=True,
        ),
    ),
    None,
    epochs=(2, 20),
    encoding=TWO_FILTERS,
    readout=(2, 1),
)
"""Two layers, read by a linear support vector machine from which of 12,150 pooled neurons have spiked."""

NETWORKS: dict[str, Network] = {
    "mozafari2018": mozafari2018,
    "deep2024": deep2024,
    "deepr2024": deepr2024,
    "deepr2024_greedy": deepr2024_greedy,
    "inception2024": inception2024,
    "majority2024": majority2024,
    "resnet2024": resnet2024,
    "deeper2024": deeper2024,
    "kheradpisheh2018": kheradpisheh2018,
}


def pooled(size: int, block: Block) -> int:
    """Rows or columns that a block's layers see, of `size` that arrive: after pooling, which drops an incomplete window, and padding."""
    return (size + 2 * block.pool_padding) // block.pool + 2 * block.pad


def sizes(network: Network, image: Size) -> list[list[Size]]:
    """Rows and columns of every layer's output, a list of layers for each block and, if there is one, for the decision.

    Raises:
      ValueError: if `image` is too small for a layer.
    """
    side = tuple(
        n + 2 * network.encoding.padding - network.encoding.window + 1 for n in image
    )
    found = []
    blocks = (*network.blocks, *([network.decision] if network.decision else []))
    for number, block in enumerate(blocks, 1):
        seen = [pooled(n, block) for n in side]
        kernel = max(layer.kernel for layer in block.layers)
        if min(seen) < kernel:
            raise ValueError(
                f"`image` {image} is too small: layer {number} sees {seen[0]} x {seen[1]} neurons and its window is {kernel} x {kernel}."
            )
        found.append(
            [tuple(n - layer.kernel + 1 for n in seen) for layer in block.layers]
        )
        side = tuple(max(s[i] for s in found[-1]) for i in (0, 1))
    return found


def num_inputs(network: Network) -> list[int]:
    """Features that each block's input holds, and then those of the decision's."""
    widths = [sum(layer.features for layer in b.layers) for b in network.blocks]
    return [len(network.encoding.filters), *widths][
        : len(network.blocks) + (network.decision is not None)
    ]


def num_weights(network: Network) -> int:
    """Weights of all layers."""
    blocks = (*network.blocks, *([network.decision] if network.decision else []))
    return sum(
        inputs * layer.features * layer.kernel**2
        for inputs, block in zip(num_inputs(network), blocks, strict=True)
        for layer in block.layers
    )
