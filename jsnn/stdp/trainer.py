"""Networks that learn by STDP, and by reward at the end, as trainers: a phase a layer, and one for the decision.

A step is a window of images: the rates of R-STDP adapt after each. `state.step` counts images. What the layers above learn from is computed once a
layer is finished.

Axes: N images, B of a prediction, S windows of an epoch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jsnn.models import stdp_network, stdp_steps
from jsnn.models.stdp import Network
from jsnn.models.stdp_network import Weights
from jsnn.models.stdp_steps import Encoded, Part, Schedule
from jsnn.stdp import train as layer_training
from jsnn.stdp.plasticity import Rates
from jsnn.train.trainer import Phase, Place, Prediction, Trainer, TrainState


class Data(NamedTuple):
    """Training images and those held out, as the first block's input; later, as that of the layer at hand."""

    train: Encoded
    held: Encoded


class Own(NamedTuple):
    """What training changes."""

    weights: tuple[Weights, ...]
    rates: Rates  # of the layer that learns without labels
    # Images since they last doubled; named as in `train.STDPState`.
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    rewards: tuple[tuple[Rates, Rates], ...]  # of the layers in R-STDP


class Found(NamedTuple):
    """Decisions on held-out images."""

    label: Int[Array, "N"]  # -1: silent
    scores: Float[Array, "N C"]
    hit: Bool[Array, "N"]


def trainer(network: Network, schedule: Schedule, *, validate: bool = False) -> Trainer:
    """Trains every layer of a network of `jsnn.models.stdp` for its epochs, and then its decision.

    Put `keep_best` around the trainer to end with the decision's best epoch on the held-out images.

    Args:
      network: its thresholds and rates may be traced, in `train_fn`.
      schedule: epochs and windows.
      validate: look at the held-out images after each epoch of the decision.
    """
    parts = stdp_steps.parts(network)
    num_steps = network.frontend().num_steps
    looks = "epochs" if validate else "never"

    def phase(number: int, part: Part) -> Phase:
        decides = part.name == "decision"
        return Phase(
            part.name,
            number,
            schedule.epochs[part.block],
            looks if decides else "never",
        )

    def init(key: Array) -> Own:
        start = stdp_steps.start(key, network)
        return Own(start.weights, start.rates, start.count, start.rewards)

    def begin(state: TrainState, data: Data, number: int) -> TrainState:
        own = state.own._replace(
            rates=stdp_steps.first_rates(network), count=jnp.zeros((), jnp.int32)
        )
        return state._replace(own=own)

    def pool(state: TrainState, data: Data, number: int) -> Encoded:
        part = parts[number]
        if part.name == "decision" or not network.blocks[part.block].inhibited:
            return data.train
        return data.train._replace(
            times=stdp_network.first_spikes(data.train.times, num_steps)
        )

    def steps_per_epoch(pool: Encoded) -> int:
        return -(-len(pool.labels) // _size(schedule, pool))

    def run(state, pool, num_steps, number):
        return _run(network, schedule, parts[number], number, state, pool, num_steps)

    def advance(state: TrainState, data: Data, number: int) -> Data:
        if number + 1 == len(parts):
            return data
        blocks = range(
            stdp_steps.input_block(network, parts[number]),
            stdp_steps.input_block(network, parts[number + 1]),
        )
        for block in blocks:
            weights = state.own.weights[block]
            data = Data(
                *(
                    held._replace(
                        times=stdp_network.responses(
                            network, block, weights, held.times
                        )
                    )
                    for held in data
                )
            )
        return data

    def decide(weights, times) -> Any:
        """From what stands in front of R-STDP."""
        if network.modulated:
            block = len(network.blocks) - 1
            times = stdp_network.responses(network, block, weights[block], times)
        return stdp_network.decisions(network.decision, weights[-1], times)

    def evaluate(state: TrainState, data: Data, number: int):
        label, scores = decide(state.own.weights, data.held.times)
        return state, Found(label, scores, label == data.held.labels)

    def predict(weights, images) -> Prediction:
        times = stdp_network.encoded(network, images)
        for block in range(len(network.blocks) - bool(network.modulated)):
            times = stdp_network.responses(network, block, weights[block], times)
        return Prediction(*decide(weights, times))

    def where(place: Place, pool: Encoded, per_epoch: int) -> dict[str, Any]:
        count = len(pool.labels)
        epoch, windows = divmod(place.phase_step, per_epoch)
        seen = epoch * count + windows * _size(schedule, pool)
        name = parts[min(place.phase, len(parts) - 1)].name
        return {"layer": name, "epoch": seen / count, "seen": seen}

    return Trainer(
        phases=tuple(phase(*pair) for pair in enumerate(parts)),
        init=init,
        pool=pool,
        steps_per_epoch=steps_per_epoch,
        run=run,
        evaluate=evaluate if network.decision else None,
        model=lambda state: state.own.weights,
        predict=predict,
        begin=begin,
        advance=advance,
        accuracy=lambda found: found.hit.mean(),
        row=_row,
        report=_report,
        where=where,
    )


def _size(schedule: Schedule, pool: Encoded) -> int:
    """Images of a window."""
    return min(schedule.window, len(pool.labels))


def _run(network, schedule, part, number, state, pool, num_steps):
    """Windows of one layer, or of the decision."""
    count, size = len(pool.labels), _size(schedule, pool)
    per_epoch = -(-count // size)
    epoch = state.phase_step // per_epoch
    order = stdp_steps.order(state.key, number, epoch, count)
    order = jnp.pad(order, (0, -count % size), constant_values=-1)

    def measured(i, state):
        del i  # where it stands is in the state
        done = state.phase_step % per_epoch * size
        chosen = jax.lax.dynamic_slice_in_dim(order, done, size)
        shown = jnp.minimum(count - done, size)
        if part.name == "decision":
            own, new = _rewarded(
                network, schedule, state.own, pool, chosen, epoch, done
            )
        else:
            own, new = _unsupervised(
                network, schedule, part, state.own, pool, chosen, shown
            )
        state = state._replace(
            own=own, phase_step=state.phase_step + 1, step=state.step + shown
        )
        return state, new | {"advance": shown}

    def window(i, carry):
        state, new = measured(i, carry[0])
        return state, jax.tree.map(lambda m, x: m.at[i].set(x), carry[1], new)

    zeros = jax.tree.map(
        lambda x: jnp.zeros((per_epoch, *x.shape), x.dtype),
        jax.eval_shape(lambda state: measured(0, state)[1], state),
    )
    return jax.lax.fori_loop(0, num_steps, window, (state, zeros))


def _unsupervised(network, schedule, part, own, pool, chosen, shown):
    """Shows a window to a layer without labels."""
    spec = network.blocks[part.block].branches[part.branch]
    before = layer_training.STDPState(
        own.weights[part.block][part.branch], own.rates, own.count
    )
    after, index = stdp_steps.unsupervised(
        before,
        pool.times,
        chosen,
        shown,
        stdp_steps.doubling(network, schedule),
        spec=spec,
        num_steps=network.frontend().num_steps,
    )
    own = own._replace(
        weights=stdp_steps.exchange(own.weights, part, after.weights),
        rates=after.rates,
        count=after.count,
    )
    return own, {"convergence": index, "ltp": after.rates.ltp}


def _rewarded(network, schedule, own, pool, chosen, epoch, done):
    """Shows a window to all layers that learn by reward."""
    modulated = network.modulated
    turn = (epoch + done // schedule.window) % 2 == 0
    alternate = modulated is not None and modulated.how == "alternate"
    learns = jnp.stack([turn, ~turn]) if alternate else jnp.ones(2, bool)
    states, decisions, indices = stdp_steps.rewarded(
        stdp_steps.reward_states(network, own.weights, own.rewards),
        pool.times,
        pool.labels,
        chosen,
        learns,
        network=network,
    )
    learnt = stdp_steps.by_block(network, states)
    own = own._replace(
        weights=stdp_steps.with_learnt(network, own.weights, learnt),
        rewards=tuple((s.reward, s.punish) for s in states),
    )
    real = chosen >= 0
    hits = (decisions == pool.labels[chosen]) & real
    silent = (decisions < 0) & real
    return own, {
        "hits": hits.sum(dtype=jnp.int32),
        "silent": silent.sum(dtype=jnp.int32),
        "convergence": indices[-1],
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
