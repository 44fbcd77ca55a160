"""A network of `jsnn.models.stdp` from its key to its decisions in one pure function, to `jit` and to `vmap` over keys, thresholds and rates.

Key, images and schedule decide the same as in `jsnn.models.stdp_training`, whose steps these are; what is missing is what a run folder
is for, and validation: R-STDP takes all its epochs, and the last one counts.

Axes: N images, M others to decide on.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from jsnn.models import stdp_network, stdp_steps
from jsnn.models.stdp import Network
from jsnn.models.stdp_network import Weights
from jsnn.models.stdp_steps import Encoded, Part, Schedule, State
from jsnn.stdp import train as layer_training


def train(
    key: Array, network: Network, samples: Encoded, schedule: Schedule
) -> tuple[Weights, ...]:
    """Trains every layer for its epochs.

    Args:
      key: decides initial weights and the order of images.
      network: its thresholds and rates may be traced.
      samples: training set, from `stdp_network.spike_times`.
      schedule: epochs, and images until rates change.

    Returns:
      The weights after the last epoch.
    """
    key_init, key = jax.random.split(key)
    state = stdp_steps.start(key_init, network)
    block, inputs = 0, samples.times
    for number, part in enumerate(stdp_steps.parts(network)):
        while block < stdp_steps.input_block(network, part):
            inputs = stdp_network.responses(
                network, block, state.weights[block], inputs
            )
            block += 1

        def order(epoch, number=number):
            return stdp_steps.order(key, number, epoch, len(samples.labels))

        if part.name == "decision":
            known = Encoded(inputs, samples.labels)
            state = _decision(order, network, state, known, schedule)
        else:
            state = _layer(order, network, part, state, inputs, schedule)
    return state.weights


def _layer(
    order: Callable[[Array], Array],
    network: Network,
    part: Part,
    state: State,
    inputs: UInt8[Array, "N C H W"],
    schedule: Schedule,
) -> State:
    """One layer's epochs without labels."""
    block, num_steps = network.blocks[part.block], network.frontend().num_steps
    if block.inhibited:
        inputs = stdp_network.first_spikes(inputs, num_steps)
    doubling, count = stdp_steps.doubling(network, schedule), len(inputs)

    def epoch(state, number):
        state, _ = stdp_steps.unsupervised(
            state,
            inputs,
            order(number),
            count,
            doubling,
            spec=block.branches[part.branch],
            num_steps=num_steps,
        )
        return state, None

    weights = state.weights[part.block][part.branch]
    start = layer_training.init(weights, stdp_steps.first_rates(network))
    epochs = jnp.arange(schedule.epochs[part.block])
    after, _ = jax.lax.scan(epoch, start, epochs)
    return state._replace(
        weights=stdp_steps.exchange(state.weights, part, after.weights)
    )


def _decision(
    order: Callable[[Array], Array],
    network: Network,
    state: State,
    known: Encoded,
    schedule: Schedule,
) -> State:
    """All epochs of R-STDP, window by window."""
    count = len(known.labels)
    size = min(schedule.window, count)

    def window(state, chosen):
        learns = stdp_steps.learns(network.modulated, state, schedule)
        states = stdp_steps.reward_states(network, state.weights, state.rewards)
        states, _, _ = stdp_steps.rewarded(
            states, known.times, known.labels, chosen, learns, network=network
        )
        learnt = stdp_steps.by_block(network, states)
        return state._replace(
            weights=stdp_steps.with_learnt(network, state.weights, learnt),
            rewards=tuple((s.reward, s.punish) for s in states),
            done=state.done + size,
        ), None

    def epoch(state, number):
        chosen = jnp.pad(order(number), (0, -count % size), constant_values=-1)
        state = state._replace(epoch=number, done=jnp.int32(0))
        return jax.lax.scan(window, state, chosen.reshape(-1, size))

    return jax.lax.scan(epoch, state, jnp.arange(schedule.epochs[-1]))[0]


def decide(
    network: Network, weights: tuple[Weights, ...], times: UInt8[Array, "M C H W"]
) -> Int[Array, "M"]:
    """Class of each image, or −1 for one that leaves nothing, by the decision layers."""
    for number in range(len(network.blocks)):
        times = stdp_network.responses(network, number, weights[number], times)
    return stdp_network.decisions(network.decision, weights[-1], times).prediction
