"""Deep convolutional networks that learn by STDP and reward-modulated STDP, as declarations: what they are, not how they run.

A network is filters and an encoding, blocks of layers that learn without labels, and a read-out. A newcomer joins `NETWORKS` and needs
nothing else: `jsnn.stdp.forward` runs and `jsnn.stdp.trainer` trains whatever is declared here. Figures quoted below are for
grey images of 28 x 28.

References: mozafari2018, https://doi.org/10.1016/j.patcog.2019.05.015 (learning rule, three layers); kheradpisheh2018,
https://doi.org/10.1016/j.neunet.2017.12.005; the others come from a program that varied the first.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from jax.typing import ArrayLike

from jsnn.stdp import layer
from jsnn.stdp.encode import Frontend, kheradpisheh_frontend, mnist_frontend
from jsnn.stdp.layer import Conv, Decision

Shape = tuple[int, int, int]  # features, rows, columns
Pair = tuple[
    ArrayLike, ArrayLike
]  # rates of synapses whose input came in time, and of others
RATES: Pair = (0.004, -0.003)


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers side by side on one input; their spikes, padded to one size, are the input of the next block.

    Attributes:
      branches: one layer, or several that learn one after another and pool and pad alike.
      inhibited: of the input's spikes at one position only the first counts in training.
      skip: whether the pooled input goes around the layers as well: map f of the output is merged by `or` with map f modulo C of the
        input, so that the earlier of two spikes counts.

    Raises:
      ValueError: if branches pool or pad differently, or maps that are to be merged differ in size.
    """

    branches: tuple[Conv, ...]
    inhibited: bool = False
    skip: bool = False

    def __post_init__(self):
        edges = {(spec.pool, spec.pool_padding, spec.pad) for spec in self.branches}
        if len(edges) != 1:
            raise ValueError(
                f"`branches` must have one `pool`, `pool_padding` and `pad` in common, got {sorted(edges)}."
            )
        kernel, pad = min(s.kernel for s in self.branches), self.branches[0].pad
        if self.skip and kernel != 2 * pad + 1:
            raise ValueError(
                f"`skip` needs a smallest `kernel` of 2 * pad + 1 = {2 * pad + 1}, so that the map keeps its size, got {kernel}."
            )


@dataclasses.dataclass(frozen=True)
class Modulated:
    """The last block goes on learning, rewarded and punished by the network's decisions.

    Attributes:
      how: `"joint"`: every image trains it and the decision layer; `"alternate"`: windows of images train one and the other in turn.
      reward: rates of synapses whose input came in time, and of the others, after a right decision.
      punish: the same after a wrong one.
    """

    how: Literal["joint", "alternate"]
    reward: Pair = (0.001, -0.00075)
    punish: Pair = (-0.001, 0.000125)


@dataclasses.dataclass(frozen=True)
class Network:
    """A whole network. Its thresholds and rates may be traced where it is not the static argument of a jitted function.

    Attributes:
      blocks: learn by STDP, from the input on.
      decision: layers that learn by R-STDP. One decides; of several the majority, and without one the middle layer. Empty: a linear
        support vector machine reads what the blocks leave.
      epochs: passes over the training set, one number a block and, last, at most so many of the decision.
      frontend: makes the filters and settings that turn images into spike times.
      modulated: whether the last block joins in R-STDP.
      readout: pooling in front of the support vector machine, its side and padding.
      rates: of STDP at the start, before they double.
      reward: of the decision layers after a right decision, before they adapt.
      punish: the same after a wrong one.
    """

    blocks: tuple[Block, ...]
    decision: tuple[Decision, ...]
    epochs: tuple[int, ...]
    frontend: Callable[[], Frontend] = mnist_frontend
    modulated: Modulated | None = None
    readout: tuple[int, int] = (1, 0)
    rates: Pair = RATES
    reward: Pair = (0.004, -0.003)
    punish: Pair = (-0.004, 0.0005)

    def __post_init__(self):
        count = len(self.blocks) + bool(self.decision)
        if len(self.epochs) != count or min(self.epochs, default=0) < 1:
            raise ValueError(
                f"`epochs` must be {count} numbers of at least 1, one a block"
                f"{' and one for the decision' * bool(self.decision)}, got {self.epochs}."
            )


_FIRST = Block((Conv(30, 5, threshold=15.0, num_winners=5, radius=3, pad=2),))


def _second(features: int) -> Block:
    return Block(
        (Conv(features, 3, threshold=10.0, num_winners=8, radius=1, pool=2, pad=1),)
    )


def _third(*kernels: int, features: int, radius: int = 1, **options) -> Block:
    shared = {"threshold": 50.0, "num_winners": 15, "pool": 2, "pad": 1} | options
    return Block(tuple(Conv(features, k, radius=radius, **shared) for k in kernels))


def _decision(*kernels: int, features: int = 200) -> tuple[Decision, ...]:
    return tuple(Decision(features, k, pool=3, pad=2) for k in kernels)


mozafari2018 = Network((_FIRST, _second(250)), _decision(5), epochs=(2, 4, 100))
"""The network of the paper: 97.2 % on MNIST with 680 epochs of R-STDP. 1,322,000 weights."""

deep2024 = Network(
    (_FIRST, _second(150), _third(3, features=250)),
    _decision(5),
    epochs=(2, 4, 4, 100),
)
"""One more layer. 1,632,500 weights."""

deepr2024 = Network(
    (
        _FIRST,
        _second(150),
        _third(3, features=250, radius=0, stabilise=False),
    ),
    _decision(5),
    epochs=(2, 4, 4, 100),
    modulated=Modulated("joint"),
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
    _decision(5),
    epochs=(2, 4, 4, 100),
)
"""A third block of three branches with windows of 3, 5 and 7. 2,147,250 weights."""

majority2024 = Network((_FIRST, _second(250)), _decision(3, 5, 7), epochs=(2, 4, 100))
"""`mozafari2018` with three decision layers that vote. 4,222,000 weights."""

resnet2024 = Network(
    (
        _FIRST,
        _second(150),
        dataclasses.replace(_third(3, features=250), skip=True),
    ),
    _decision(4),
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
        Block((Conv(30, 3, threshold=15.0, num_winners=5, radius=3, pad=2),)),
        _second(150),
        _third(3, features=250),
        Block((Conv(200, 3, threshold=1.0, num_winners=20, radius=1, pool=3, pad=2),)),
    ),
    _decision(3, features=100),
    epochs=(2, 4, 4, 4, 100),
)
"""Five layers. The fourth's threshold is the 1 that the original uses, not the 128 it declares. 1,009,620 weights."""

kheradpisheh2018 = Network(
    (
        Block((Conv(32, 5, threshold=10.0, num_winners=5, radius=2, pad=2),)),
        Block(
            (
                Conv(
                    150,
                    2,
                    threshold=1.0,
                    num_winners=8,
                    radius=1,
                    pool=2,
                    pool_padding=1,
                    pad=1,
                ),
            ),
            inhibited=True,
        ),
    ),
    (),
    epochs=(2, 20),
    frontend=kheradpisheh_frontend,
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


def stages(network: Network) -> tuple[tuple[Conv, ...] | tuple[Decision, ...], ...]:
    """Layers side by side, block after block, and last the decision's if there are any."""
    found = tuple(block.branches for block in network.blocks)
    return (*found, network.decision) if network.decision else found


def shapes(network: Network, image: tuple[int, int]) -> tuple[Shape, list[list[Shape]]]:
    """Shape of the encoded image, and of every layer's output, listed as `stages`.

    Raises:
      ValueError: if the image is too small for a layer, or for the read-out.
    """
    frontend = network.frontend()
    encoded: Shape = (len(frontend.kernels), *frontend.size(image))
    below, found = encoded, []
    for branches in stages(network):
        outputs = [layer.output_shape(spec, below) for spec in branches]
        found.append(outputs)
        features, rows, columns = zip(*outputs, strict=True)
        below = (sum(features), max(rows), max(columns))
    size, padding = network.readout
    if not network.decision and min(below[1:]) + 2 * padding < size:
        raise ValueError(
            f"`pool` {size} of the read-out exceeds the last layer's map of {below[1]} x {below[2]} neurons: pool less."
        )
    return encoded, found


def num_weights(network: Network) -> int:
    """Weights of all layers."""
    total, inputs = 0, len(network.frontend().kernels)
    for branches in stages(network):
        total += sum(inputs * spec.features * spec.kernel**2 for spec in branches)
        inputs = sum(spec.features for spec in branches)
    return total


@dataclasses.dataclass(frozen=True)
class Part:
    """One layer that learns by itself, or, last, the decision."""

    name: str
    block: int
    branch: int


def names(network: Network) -> list[list[str]]:
    """Names of all layers, listed as `stages`: `layer 1`, and of layers side by side `layer 3a`, `layer 3b`."""
    return [
        [f"layer {n}" + ("abcdefgh"[i] if len(s) > 1 else "") for i in range(len(s))]
        for n, s in enumerate(stages(network), 1)
    ]


def parts(network: Network) -> list[Part]:
    """What is trained one after another."""
    found = [
        Part(name, block, branch)
        for block, of_block in enumerate(names(network)[: len(network.blocks)])
        for branch, name in enumerate(of_block)
    ]
    if network.decision:
        found.append(Part("decision", len(network.blocks), 0))
    return found


def input_block(network: Network, part: Part) -> int:
    """The block whose input a part learns from; in front of R-STDP that changes the last block too, it is that block's."""
    return part.block - (part.block == len(network.blocks) and bool(network.modulated))
