"""What training the networks of `jsnn.models.stdp` does to their state: pure functions, which `jsnn.models.stdp_training` drives.

Layers without labels learn one after another, each for its epochs; then the decision layers learn by R-STDP, and with them the last block
if it is `modulated`. `jsnn.models.stdp_whole` puts them together to one function, for sweeps.

Axes: N images, L layers side by side.
"""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jsnn import check
from jsnn.models import stdp_network
from jsnn.models.stdp import RATES, Modulated, Network, stages
from jsnn.models.stdp_network import Weights
from jsnn.stdp import joint, plasticity, reward, train
from jsnn.stdp.plasticity import Doubling, Rates


class Encoded(NamedTuple):
    """Images as the first block's input, and their classes."""

    times: Any  # uint8 [N, C, H, W]
    labels: Any  # int32 [N]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long, and when what is saved.

    Attributes:
      epochs: one number a block and, last, at most so many of the decision.
      window: images between two rows of metrics, and between two adaptations of the rates of R-STDP.
      doubling: images after which the rates of STDP double, up to 0.15 for synapses that are strengthened.
      patience: R-STDP ends when the validation set has not improved for more epochs than this.
      checkpoint_seconds: between checkpoints, at the end of a window.
    """

    epochs: tuple[int, ...]
    window: int = 1000
    doubling: int = 500
    patience: int = 5
    checkpoint_seconds: float = 60.0

    def __post_init__(self):
        epochs = tuple(check.whole("epochs", n, 1) for n in self.epochs)
        object.__setattr__(self, "epochs", epochs)
        for name, least in (("window", 1), ("doubling", 1), ("patience", 0)):
            value = check.whole(name, getattr(self, name), least)
            object.__setattr__(self, name, value)
        check.number("checkpoint_seconds", self.checkpoint_seconds, "[0, inf]")


class State(NamedTuple):
    """Everything that a run needs in order to go on: saved and restored as a whole."""

    weights: tuple[Weights, ...]
    rates: Rates  # of the layer that learns without labels
    # Images since they last doubled; named as in `train.STDPState`.
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    rewards: tuple[tuple[Rates, Rates], ...]  # of the layers in R-STDP
    best: tuple[Weights, ...]  # weights of the best epoch of R-STDP
    best_accuracy: Float[Array, ""]
    best_epoch: Int[Array, ""]
    part: Int[Array, ""]  # layers finished
    epoch: Int[Array, ""]  # of the layer in training
    done: Int[Array, ""]  # images of the epoch
    step: Int[Array, ""]  # images in all


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


def reward_params(network: Network) -> list[reward.RewardParams]:
    """Of the modulated layer, if there is one, and the decision layers: every layer that R-STDP trains."""
    own = reward.RewardParams(Rates(*network.reward), Rates(*network.punish))
    found = [own] * len(network.decision)
    if network.modulated:
        rates = map(Rates._make, (network.modulated.reward, network.modulated.punish))
        bounds = train.STDPParams(0.0).bounds
        found.insert(0, reward.RewardParams(*rates, bounds=bounds))
    return found


def first_rates(network: Network) -> Rates:
    """Those of STDP, before they double."""
    return plasticity.as_arrays(Rates(*network.rates))


def doubling(network: Network, schedule: Schedule) -> Doubling:
    """How they double: `ltd` keeps its ratio to `ltp`."""
    rates = first_rates(network)
    return Doubling(schedule.doubling, ltd_ratio=jnp.divide(rates.ltd, rates.ltp))


def start(key: Array, network: Network) -> State:
    """The state before the first image."""
    weights = stdp_network.init(key, network)
    zero = jnp.zeros((), jnp.int32)
    return State(
        weights,
        first_rates(network),
        zero,
        tuple(
            (plasticity.as_arrays(p.reward), plasticity.as_arrays(p.punish))
            for p in reward_params(network)
        ),
        learning(network, weights),
        jnp.float32(-1),
        zero,
        zero,
        zero,
        zero,
        zero,
    )


def learning(network: Network, weights: tuple[Weights, ...]) -> tuple[Weights, ...]:
    """Those weights that R-STDP changes."""
    return weights[len(network.blocks) - bool(network.modulated) :]


def with_learnt(network: Network, weights, learnt) -> tuple[Weights, ...]:
    """All weights, with those that R-STDP changes exchanged for others."""
    return (*weights[: len(weights) - len(learnt)], *learnt)


def order(key: Array, part: ArrayLike, epoch: ArrayLike, count: int) -> Int[Array, "N"]:
    """The permutation of all images in which a part is shown them in one epoch."""
    key = jax.random.fold_in(jax.random.fold_in(key, part), epoch)
    return jax.random.permutation(key, count)


def input_block(network: Network, part: Part) -> int:
    """The block whose input a part learns from; in front of R-STDP that changes the last block too, it is that block's."""
    return part.block - (part.block == len(network.blocks) and bool(network.modulated))


def unsupervised(state, inputs, order, length, doubling, *, spec, num_steps):
    """Shows the first `length` images of `order` to one layer."""
    params = train.params(spec)._replace(doubling=doubling)

    def one(i, carry):
        state = carry[0]
        image = inputs[order[i]]
        return train.step(spec, state, image, params, num_steps, clip="winners")[0], ()

    state, _ = train.over_images(one, (state, ()), length, params.bounds)
    return state, train.convergence(state.weights)


def rewarded(states, inputs, labels, order, learns, *, network):
    """Shows one window, filled up with −1, to all layers that R-STDP trains; returns decisions too."""
    params, size = reward_params(network), len(order)
    if network.modulated:
        hidden, decision = network.blocks[-1].branches[0], network.decision[0]
        state, verdicts = joint.run(
            (hidden, decision),
            joint.JointState(*states),
            inputs,
            labels,
            order,
            joint.JointParams(hidden.threshold, *params),
            network.frontend().num_steps,
            learns=learns[None],
            window=size,
        )
        states, decisions = tuple(state), verdicts.decision
    else:
        same = (inputs,) * len(network.decision)
        states, verdicts = reward.run_committee(
            network.decision,
            states,
            same,
            labels,
            order,
            params[-1],
            vote=stdp_network.majority,
            window=size,
        )
        decisions = stdp_network.majority(jnp.stack([v.decision for v in verdicts]))
    return states, decisions, [train.convergence(s.weights) for s in states]


def evaluate(network: Network, weights: tuple[Weights, ...], inputs: Any):
    """Decisions on what stands in front of R-STDP: the last block's input if that is modulated, else the decision's."""
    if network.modulated:
        number = len(network.blocks) - 1
        inputs = stdp_network.respond(network, number, weights[number], inputs)
    return stdp_network.decide(network.decision, weights[-1], inputs)


def exchange(weights: tuple[Weights, ...], part: Part, new: Array):
    """All weights, with those of one layer replaced."""
    block = list(weights[part.block])
    block[part.branch] = new
    return (*weights[: part.block], tuple(block), *weights[part.block + 1 :])


def learns(modulated: Modulated | None, state: State, schedule: Schedule) -> Array:
    """Whether the modulated and the decision layer learn in this window."""
    turn = (state.epoch + state.done // schedule.window) % 2 == 0
    alternate = modulated is not None and modulated.how == "alternate"
    return jnp.stack([turn, ~turn]) if alternate else jnp.ones(2, bool)


def reward_states(
    network: Network,
    weights: tuple[Weights, ...],
    rewards: tuple[tuple[Rates, Rates], ...],
) -> tuple[reward.RewardState, ...]:
    """Weights and rates of every layer that R-STDP trains."""
    flat = [w for block in learning(network, weights) for w in block]
    pairs = zip(flat, rewards, strict=True)
    return tuple(reward.RewardState(w, *rates) for w, rates in pairs)


def by_block(network: Network, states) -> tuple[Weights, ...]:
    """The weights of those states, listed as `learning` does."""
    flat = [s.weights for s in states]
    if not network.modulated:
        return (tuple(flat),)
    return (flat[0],), tuple(flat[1:])


def quality(decisions: Any, labels: Any) -> dict[str, float]:
    """Fractions right, wrong and silent; silence is neither right nor wrong."""
    found, labels = np.asarray(decisions), np.asarray(labels)
    hits, silent = float(np.mean(found == labels)), float(np.mean(found < 0))
    return {"accuracy": hits, "loss": 1.0 - hits - silent, "silent": silent}


def fingerprints(network: Network, schedule: Schedule, data: Any) -> list[str]:
    """Of every layer that learns without labels: what it depends on, `data` included, as a hash."""
    frontend = network.frontend()
    parts_so_far: list[Any] = [
        data,
        schedule.doubling,
        {k: np.asarray(v).tolist() for k, v in vars(frontend).items()},
    ]
    if network.rates != RATES:  # layers learnt with these have marks without them
        parts_so_far.append(network.rates)
    found = []
    for block, epochs in zip(network.blocks, schedule.epochs, strict=False):
        parts_so_far.append([dataclasses.asdict(block), epochs])
        text = json.dumps(parts_so_far, sort_keys=True, default=str)
        found += [hashlib.sha256(text.encode()).hexdigest()] * len(block.branches)
    return found
