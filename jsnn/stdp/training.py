"""Networks that learn by STDP, and by reward at the end, as trainers: a phase a layer, and one for the decision.

A step is a window of images: the rates of R-STDP adapt after each. `state.step` counts images. What the layers above learn from is computed once a
layer is finished.

Axes: N images, B of a prediction, S windows of an epoch, L layers side by side.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jsnn import check
from jsnn.stdp import forward, joint, plasticity, reward, unsupervised
from jsnn.stdp.forward import Weights
from jsnn.stdp.networks import Network, Part, input_block, parts, shapes
from jsnn.stdp.plasticity import Doubling, Rates
from jsnn.train.trainer import Phase, Place, Prediction, Trainer, TrainState


class Encoded(NamedTuple):
    """Images as the first block's input, and their classes."""

    times: Any  # uint8 [N, C, H, W]
    labels: Any  # int32 [N]


class Data(NamedTuple):
    """Training images and those held out, as the first block's input; later, as that of the layer at hand."""

    train: Encoded
    held: Encoded


class Own(NamedTuple):
    """What training changes."""

    weights: tuple[Weights, ...]
    rates: Rates  # of the layer that learns without labels
    # Images since they last doubled; named as in `unsupervised.STDPState`.
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    rewards: tuple[tuple[Rates, Rates], ...]  # of the layers in R-STDP


class Found(NamedTuple):
    """Decisions on held-out images."""

    label: Int[Array, "N"]  # -1: silent
    scores: Float[Array, "N C"]
    hit: Bool[Array, "N"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Layers:
    """A network that learns layer by layer: a trainer's functions. Phase `number` trains `parts(network)[number]`."""

    network: Network
    window: int | None
    doubling: Doubling
    todo: tuple[Part, ...]

    def size(self, pool: Encoded) -> int:
        """Images of a window."""
        count = len(pool.labels)
        return min(self.window or min(1000, max(1, count // 12)), count)

    def steps_per_epoch(self, pool: Encoded) -> int:
        return -(-len(pool.labels) // self.size(pool))

    def init(self, key: Array) -> Own:
        pairs = tuple(
            (plasticity.as_arrays(p.reward), plasticity.as_arrays(p.punish))
            for p in _reward_params(self.network)
        )
        weights = forward.init(key, self.network)
        zero = jnp.zeros((), jnp.int32)
        return Own(weights, _first_rates(self.network), zero, pairs)

    def begin(self, state: TrainState, data: Data, number: int) -> TrainState:
        zero = jnp.zeros((), jnp.int32)
        return state._replace(
            own=state.own._replace(rates=_first_rates(self.network), count=zero)
        )

    def pool(self, state: TrainState, data: Data, number: int) -> Encoded:
        part, train = self.todo[number], data.train
        if part.name == "decision" or not self.network.blocks[part.block].inhibited:
            return train
        num_steps = self.network.frontend().num_steps
        return train._replace(times=forward.first_spikes(train.times, num_steps))

    def advance(self, state: TrainState, data: Data, number: int) -> Data:
        """Outputs of the layers that are finished, up to where the next one takes its input."""
        network, todo = self.network, self.todo
        if number + 1 == len(todo):
            return data
        first, last = (input_block(network, p) for p in todo[number : number + 2])
        for block in range(first, last):
            weights = state.own.weights[block]

            def above(held, block=block, weights=weights):
                times = forward.responses(network, block, weights, held.times)
                return held._replace(times=times)

            data = Data(*map(above, data))
        return data

    def evaluate(self, state: TrainState, data: Data, number: int):
        network, weights, times = self.network, state.own.weights, data.held.times
        if network.modulated:  # what stands in front of R-STDP
            block = len(network.blocks) - 1
            times = forward.responses(network, block, weights[block], times)
        label, scores = forward.decide(network.decision, weights[-1], times)
        return state, Found(label, scores, label == data.held.labels)

    def predict(self, weights, images) -> Prediction:
        network = self.network
        if not network.decision:
            raise ValueError(
                "This network has no decision layer: give it a read-out (`jsnn.stdp.readout.linear`)."
            )
        seen = forward.through(network, weights, forward.encoded(network, images))
        return forward.decide(network.decision, weights[-1], seen)

    def where(self, place: Place, pool: Encoded, per_epoch: int) -> dict[str, Any]:
        count = len(pool.labels)
        epoch, windows = divmod(place.phase_step, per_epoch)
        seen = epoch * count + windows * self.size(pool)
        name = self.todo[min(place.phase, len(self.todo) - 1)].name
        return {"layer": name, "epoch": seen / count, "seen": seen}

    def run(self, state: TrainState, pool: Encoded, num_steps: Any, number: int):
        """Windows of one layer, or of the decision."""
        count, size = len(pool.labels), self.size(pool)
        per_epoch, part = self.steps_per_epoch(pool), self.todo[number]
        epoch = state.phase_step // per_epoch
        images = order(state.key, number, epoch, count)
        images = jnp.pad(images, (0, -count % size), constant_values=-1)

        def measured(state):
            done = state.phase_step % per_epoch
            chosen = jax.lax.dynamic_slice_in_dim(images, done * size, size)
            shown = jnp.minimum(count - done * size, size)
            if part.name == "decision":
                turn = (epoch + done) % 2 == 0
                own, new = _rewarded(self.network, state.own, pool, chosen, turn)
            else:
                own, new = _unsupervised(self, part, state.own, pool, chosen, shown)
            state = state._replace(
                own=own, phase_step=state.phase_step + 1, step=state.step + shown
            )
            return state, new | {"advance": shown}

        def window(i, carry):
            state, new = measured(carry[0])
            return state, jax.tree.map(lambda m, x: m.at[i].set(x), carry[1], new)

        zeros = jax.tree.map(
            lambda x: jnp.zeros((per_epoch, *x.shape), x.dtype),
            jax.eval_shape(lambda state: measured(state)[1], state),
        )
        return jax.lax.fori_loop(0, num_steps, window, (state, zeros))


def trainer(
    network: Network,
    *,
    window: int | None = None,
    doubling: int = 500,
    validate: bool = False,
) -> Trainer:
    """Trains every layer of a network for its epochs, and then its decision.

    Put `keep_best` around the trainer to end with the decision's best epoch on the held-out images. A network without decision layers
    needs a read-out to predict: see `jsnn.stdp.readout`.

    Args:
      network: one of `NETWORKS`, or one's own. Its thresholds and rates may be traced, in `train_fn`.
      window: images between two rows of metrics, and between two adaptations of the rates of R-STDP. None: 1,000, or a twelfth of a
        small training set.
      doubling: images after which the rates of STDP double, up to 0.15 for synapses that are strengthened. Small training sets
        want fewer.
      validate: look at the held-out images after each epoch of the decision.

    Raises:
      ValueError: if a number is out of range.
    """
    window = None if window is None else check.whole("window", window, 1)
    first = _first_rates(network)
    # `ltd` keeps its ratio to `ltp`: a number of its own, which compiled programs do not round otherwise.
    ratio = jnp.divide(first.ltd, first.ltp)
    every = Doubling(check.whole("doubling", doubling, 1), ltd_ratio=ratio)
    layers = _Layers(network, window, every, tuple(parts(network)))

    def phase(number: int, part: Part) -> Phase:
        looks = validate and part.name == "decision"
        epochs = network.epochs[part.block]
        return Phase(part.name, number, epochs, "epochs" if looks else "never")

    return Trainer(
        phases=tuple(phase(*pair) for pair in enumerate(layers.todo)),
        init=layers.init,
        pool=layers.pool,
        steps_per_epoch=layers.steps_per_epoch,
        run=layers.run,
        evaluate=layers.evaluate if network.decision else None,
        model=lambda state: state.own.weights,
        predict=layers.predict,
        begin=layers.begin,
        advance=layers.advance,
        accuracy=lambda found: found.hit.mean(),
        prepare=lambda dataset: _prepare(network, dataset),
        row=_row,
        report=_report,
        where=layers.where,
    )


def initial_weights(key: Array, network: Network) -> tuple[Weights, ...]:
    """The weights with which `fit` begins from this key."""
    return forward.init(jax.random.split(key)[0], network)


def _prepare(network: Network, dataset: Any) -> Data:
    """A `jsnn.data.Dataset` of images, filtered and encoded.

    Raises:
      ValueError: if images are too small for the network, or there are more classes than it has.
    """
    images = dataset.train.images
    if images.ndim not in (3, 4):
        raise ValueError(
            f"STDP networks take images [N, H, W] or [N, H, W, channels], got shape {images.shape}."
        )
    shapes(network, images.shape[1:3])
    for spec in network.decision:
        if dataset.num_classes > spec.classes:
            raise ValueError(
                f"`data` has {dataset.num_classes} classes, the decision layer {spec.classes}: declare it with `classes={dataset.num_classes}`."
            )
    held = dataset.test if dataset.validation is None else dataset.validation
    return Data(*(encoded(network, *split) for split in (dataset.train, held)))


def encoded(network: Network, images: Any, labels: Any) -> Encoded:
    """Images, filtered and encoded, and their labels."""
    return Encoded(forward.spike_times(network, images), labels)


def _first_rates(network: Network) -> Rates:
    """Those of STDP, before they double."""
    return plasticity.as_arrays(Rates(*network.rates))


def _reward_params(network: Network) -> list[reward.RewardParams]:
    """Of the modulated layer, if there is one, and the decision layers: every layer that R-STDP trains."""
    own = reward.RewardParams(Rates(*network.reward), Rates(*network.punish))
    found = [own] * len(network.decision)
    if network.modulated:
        rates = map(Rates._make, (network.modulated.reward, network.modulated.punish))
        bounds = unsupervised.STDPParams(0.0).bounds
        found.insert(0, reward.RewardParams(*rates, bounds=bounds))
    return found


def order(key: Array, part: ArrayLike, epoch: ArrayLike, count: int) -> Int[Array, "N"]:
    """The permutation of all images in which a part is shown them in one epoch."""
    key = jax.random.fold_in(jax.random.fold_in(key, part), epoch)
    return jax.random.permutation(key, count)


def _unsupervised(rule: _Layers, part: Part, own: Own, pool, chosen, shown):
    """Shows a window to a layer without labels."""
    spec = rule.network.blocks[part.block].branches[part.branch]
    weights = own.weights[part.block][part.branch]
    after = unsupervised.run(
        spec,
        unsupervised.STDPState(weights, own.rates, own.count),
        pool.times,
        chosen,
        unsupervised.params(spec)._replace(doubling=rule.doubling),
        rule.network.frontend().num_steps,
        length=shown,
    )
    own = own._replace(
        weights=with_layer(own.weights, part, after.weights),
        rates=after.rates,
        count=after.count,
    )
    index = unsupervised.convergence(after.weights)
    return own, {"convergence": index, "ltp": after.rates.ltp}


def with_layer(
    weights: tuple[Weights, ...], part: Part, new: Array
) -> tuple[Weights, ...]:
    """All weights, with those of one layer replaced."""
    block = list(weights[part.block])
    block[part.branch] = new
    return (*weights[: part.block], tuple(block), *weights[part.block + 1 :])


def _rewarded(network: Network, own: Own, pool, chosen, turn):
    """Shows a window, filled up with −1, to all layers that learn by reward. `turn`: whose, if two layers take turns."""
    params = _reward_params(network)
    fixed = len(own.weights) - 1 - bool(network.modulated)
    flat = [w for block in own.weights[fixed:] for w in block]
    pairs = zip(flat, own.rewards, strict=True)
    states: Any = tuple(reward.RewardState(w, *rates) for w, rates in pairs)
    if network.modulated:
        hidden, decision = network.blocks[-1].branches[0], network.decision[0]
        alternate = network.modulated.how == "alternate"
        states, verdicts = joint.run_window(
            (hidden, decision),
            joint.JointState(*states),
            pool.times,
            pool.labels,
            chosen,
            joint.JointParams(hidden.threshold, *params),
            network.frontend().num_steps,
            learns=jnp.stack([turn, ~turn]) if alternate else None,
        )
        decisions, learnt = verdicts.decision, [(s.weights,) for s in states]
    else:
        states, _, decisions = reward.run_committee(
            network.decision,
            states,
            *(pool.times, pool.labels, chosen, params[-1]),
            vote=forward.majority,
        )
        learnt = [tuple(s.weights for s in states)]
    own = own._replace(
        weights=(*own.weights[:fixed], *learnt),
        rewards=tuple((s.reward, s.punish) for s in states),
    )
    real = chosen >= 0
    hits = (decisions == pool.labels[chosen]) & real
    return own, {
        "hits": hits.sum(dtype=jnp.int32),
        "silent": ((decisions < 0) & real).sum(dtype=jnp.int32),
        # In one order of adding, whatever order the loop keeps them in.
        "convergence": unsupervised.convergence(
            with_layout_constraint(states[-1].weights, Layout((0, 1, 2, 3)))
        ),
    }


def _row(metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Fractions right, wrong and silent; silence is neither right nor wrong."""
    found = {"convergence": float(metrics["convergence"].mean())}
    if "ltp" in metrics:
        return found | {"ltp": float(metrics["ltp"].mean())}
    count = metrics["advance"].sum()
    return found | _quality(
        metrics["hits"].sum() / count, metrics["silent"].sum() / count
    )


def _quality(hits: Any, silent: Any) -> dict[str, float]:
    hits, silent = float(hits), float(silent)
    return {"accuracy": hits, "loss": 1.0 - hits - silent, "silent": silent}


def _report(found: Found) -> list[dict[str, Any]]:
    return [_quality(np.mean(found.hit), np.mean(found.label < 0))]
