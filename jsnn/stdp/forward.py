"""Runs the networks declared in `jsnn.stdp.networks`: from images to decisions, block by block, and features drawn in the image.

A block's input is kept for all images, pooled but not padded, the smallest form that holds everything: first-spike times as bytes, T for
never; in front of a decision or a support vector machine, where only the last step counts, whether a neuron has fired.

Axes: N images, C input features, F features, L layers side by side, G classes ("groups" of features).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from jsnn import receptive_fields
from jsnn.stdp import encode, inhibition, layer, waves
from jsnn.stdp.layer import Decision
from jsnn.stdp.networks import Block, Network, names, stages
from jsnn.train.trainer import Prediction

Weights = tuple[Float[Array, "_ _ _ _"], ...]  # of one block, each [F, C, k, k]
_BATCH = 250  # images a call: bounds memory, and what filling up the last one costs


def init(key: Array, network: Network) -> tuple[Weights, ...]:
    """Weights of all layers, listed as `stages`.

    Each layer has a key of its own, so networks that begin alike begin with the same weights.
    """
    found, channels = [], len(network.frontend().kernels)
    for number, branches in enumerate(stages(network)):
        keys = jax.random.split(jax.random.fold_in(key, number), len(branches))
        pairs = zip(keys, branches, strict=True)
        found.append(tuple(layer.init_weights(k, s, channels) for k, s in pairs))
        channels = sum(spec.features for spec in branches)
    return tuple(found)


def learnt_change(
    before: Float[Array, "F C k k"], after: Float[Array, "F C k k"]
) -> Float[np.ndarray, "F C k k"]:
    """What learning has made of a layer's initial weights, clipping to its bounds apart: exactly 0 for a feature that has never won."""
    old, new = np.asarray(before), np.asarray(after)
    return new - old.clip(new.min(), new.max())


def have_won(
    initial: Sequence[Weights], weights: Sequence[Weights]
) -> list[list[Bool[np.ndarray, "F"]]]:
    """Of every layer, which features have ever won and learnt: the others still have their initial weights, clipped to the layer's bounds."""

    def of_layer(before, after):
        return (learnt_change(before, after) != 0).any((1, 2, 3))

    return [
        [of_layer(*pair) for pair in zip(old, new, strict=True)]
        for old, new in zip(initial, weights, strict=True)
    ]


def in_batches(run: Callable[[Any], Any], images: Any) -> Any:
    """`run` on batches of images, its results put together as NumPy arrays.

    The last batch is filled up with zeros, whose results are cut off again, so that one compilation serves sets of every size.
    """
    parts, tree = [], None
    for start in range(0, len(images), _BATCH):
        batch = np.asarray(images[start : start + _BATCH])
        size = len(batch)
        fill = [(0, _BATCH - size)] + [(0, 0)] * (batch.ndim - 1)
        found = run(jnp.asarray(np.pad(batch, fill) if size < _BATCH else batch))
        leaves, tree = jax.tree.flatten(found)
        parts.append([np.asarray(x)[:size] for x in leaves])
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    assert tree is not None, "a data set holds an image"
    return jax.tree.unflatten(tree, columns)


def spike_times(network: Network, images: np.ndarray) -> UInt8[np.ndarray, "N C H W"]:
    """The first block's input from images `[N, H, W]` or `[N, H, W, channels]` on the scale of bytes: filters, encoding, pooling."""
    return in_batches(lambda x: encoded(network, x), images)


def encoded(
    network: Network, images: Shaped[Array, "N H W *K"]
) -> UInt8[Array, "N C H2 W2"]:
    """As `spike_times`, pure; or from recordings `[N, L, 2]`, if the front end is one of events."""
    frontend, first = network.frontend(), stages(network)[0][0]
    if isinstance(frontend, encode.EventFrontend):
        return layer.pooled(first, frontend.times(images), frontend.num_steps)
    if images.ndim == 4 and images.shape[-1] > 1:
        images = jnp.moveaxis(images, -1, 1)
    elif images.ndim == 4:
        images = images[..., 0]
    times = encode.spike_times(images, frontend)
    return layer.pooled(first, times, frontend.num_steps)


@functools.partial(jax.jit, static_argnums=1)
def first_spikes(
    inputs: UInt8[Array, "N C H W"], num_steps: int
) -> UInt8[Array, "N C H W"]:
    """Of each position's spikes only the first."""

    def one(times):
        ones = jnp.ones(times.shape, jnp.float32)  # of equally early, the lowest stays
        return inhibition.pointwise(times, ones, num_steps)

    return jax.lax.map(one, inputs)


def _centred(maps: Sequence[Array], silent: Any) -> Array:
    """Maps `[F, H, W]` of branches one after another, the smaller ones with silence around them."""
    side = max(m.shape[-1] for m in maps)
    wide = [((side - m.shape[-1]) // 2, -(m.shape[-1] - side) // 2) for m in maps]
    padded = [
        jnp.pad(m, ((0, 0), w, w), constant_values=silent)
        for m, w in zip(maps, wide, strict=True)
    ]
    return jnp.concatenate(padded)


def fire(
    block: Block, weights: Weights, inputs: UInt8[Array, "C H W"], num_steps: int
) -> UInt8[Array, "F H2 W2"]:
    """A block's output for one image, from its pooled input."""
    pairs = zip(block.branches, weights, strict=True)
    maps = [layer.fire(spec, w, inputs, num_steps) for spec, w in pairs]
    out = _centred(maps, num_steps)
    if not block.skip:
        return out
    return jnp.minimum(out, inputs[np.arange(len(out)) % len(inputs)])


def fire_at_last(
    block: Block, weights: Weights, active: Bool[Array, "C H W"]
) -> Bool[Array, "F H2 W2"]:
    """Which neurons of a block have fired at all, T times cheaper than `fire`."""
    pairs = zip(block.branches, weights, strict=True)
    out = _centred([layer.fire_at_last(spec, w, active) for spec, w in pairs], False)
    if not block.skip:
        return out
    return out | active[np.arange(len(out)) % len(active)]


def responses(
    network: Network, number: int, weights: Weights, inputs: UInt8[Array, "N C H W"]
) -> Shaped[Array, "N F H2 W2"]:
    """The input of what stands above block `number`, for many images: times, or in front of a read-out whether neurons have fired."""
    block, num_steps = network.blocks[number], network.frontend().num_steps
    last = number + 1 == len(network.blocks)

    def one(times):
        if not last:
            out = fire(block, weights, times, num_steps)
            above = network.blocks[number + 1].branches[0]
            return layer.pooled(above, out, num_steps)
        out = fire_at_last(block, weights, waves.fired(times, num_steps))
        if network.decision:
            return layer.pooled_activity(network.decision[0], out)
        size, padding = network.readout
        times = jnp.where(out, 0, 1).astype(jnp.uint8)
        return waves.pool(times, size, padding=padding, num_steps=1) < 1

    return jax.lax.map(one, inputs)


def through(
    network: Network, weights: Sequence[Weights], times: UInt8[Array, "N C H W"]
) -> Bool[Array, "N F H2 W2"]:
    """What all blocks make of the first one's input: the input of the read-out."""
    for number in range(len(network.blocks)):
        times = responses(network, number, weights[number], times)
    return times


def spike_maps(
    network: Network, weights: Sequence[Weights], image: np.ndarray
) -> dict[str, UInt8[np.ndarray, "_ _ _"]]:
    """First-spike times for one image of the filters, and of every layer with a threshold before pooling, by name."""
    num_steps = network.frontend().num_steps
    times = jnp.asarray(spike_times(network, image[None])[0])
    found = {"filters": np.asarray(times)}
    blocks = zip(network.blocks, weights, names(network), strict=False)
    for number, (block, of_block, of_names) in enumerate(blocks):
        for spec, w, name in zip(block.branches, of_block, of_names, strict=True):
            found[name] = np.asarray(layer.fire(spec, w, times, num_steps))
        if number + 1 < len(network.blocks):
            above = network.blocks[number + 1].branches[0]
            fired = fire(block, of_block, times, num_steps)
            times = layer.pooled(above, fired, num_steps)
    return found


def majority(votes: Int[Array, "L *N"]) -> Int[Array, "*N"]:
    """The class with more than half of the votes, or that of the middle layer where none has them; −1 is no vote."""
    same = (votes[:, None] == votes[None]) & (votes[None] >= 0)
    counts = same.sum(1)  # votes for what each layer voted for
    best = jnp.argmax(counts, axis=0)
    leader = jnp.take_along_axis(votes, best[None], axis=0)[0]
    return jnp.where(2 * counts.max(0) > len(votes), leader, votes[len(votes) // 2])


def decide(
    specs: tuple[Decision, ...], weights: Weights, active: Bool[Array, "N C H W"]
) -> Prediction:
    """Decisions on many images: a class, or −1 if no potential is above zero.

    The score of a class is its largest potential over that of all classes, averaged over layers.
    """
    votes, scores = [], []
    for spec, w in zip(specs, weights, strict=True):
        verdict, rated = layer.rate_all(spec, w, active)
        votes.append(verdict.decision)
        scores.append(rated / jnp.maximum(rated.max(-1, keepdims=True), 1e-9))
    return Prediction(majority(jnp.stack(votes)), jnp.stack(scores).mean(0))


def _excess(
    seen: receptive_fields.Fields, weights: Float[Array, "F C k k"]
) -> Float[Array, "F H W"]:
    excess = weights - weights.mean((1, 2, 3), keepdims=True)
    drawn = receptive_fields.through_convolution(seen, excess, combine="sum")
    return jnp.maximum(drawn.images, 0.0)


def fields(
    network: Network,
    weights: Sequence[Weights],
    initial: Sequence[Weights] | None = None,
) -> list[list[Float[Array, "_ _ _"]]]:
    """Features of every layer in image space, listed as `stages`. What goes around a block is left out of the picture.

    A decision layer's inputs add up over the whole window, and its weights stay far from 0, so its features are drawn as sums, by
    what their weights exceed their own mean by. Noise of 6,000 random weights adds up as well, to more than some features have learnt: given
    the `initial` weights, only what was learnt is drawn, and a feature that has learnt nothing is blank.
    """
    kernels = jnp.asarray(network.frontend().kernels)[:, None]
    below = receptive_fields.through_convolution(receptive_fields.of_pixels(), kernels)
    found = []
    for number, specs in enumerate(stages(network)):
        of_block = weights[number]
        seen = receptive_fields.through_pooling(below, specs[0].pool)
        if isinstance(specs[0], Decision):
            if initial is not None:
                pairs = zip(initial[number], of_block, strict=True)
                of_block = [jnp.asarray(learnt_change(*pair)) for pair in pairs]
            found.append([_excess(seen, w) for w in of_block])
            break
        branches = [receptive_fields.through_convolution(seen, w) for w in of_block]
        found.append([branch.images for branch in branches])
        below = receptive_fields.concatenate(branches)
    return found
