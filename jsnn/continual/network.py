"""What methods ask of a network, and how a batch and its replayed samples go through it.

Axes: B batch, R rows of a draw, N samples, C columns of the head, F features, T time.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from jsnn.continual import buffer as buffers
from jsnn.layers import Model


class Output(NamedTuple):
    """What a network says about a batch."""

    features: Float[Array, "B F"]  # what the head sees, averaged over time
    logits: Float[Array, "B C"]  # closed columns are -inf
    rest: Any  # what the batch leaves behind in the model


class Head(NamedTuple):
    """The linear layer that ends in the logits."""

    weight: Float[Array, "F C"]
    bias: Float[Array, "C"]


def _unchanged(key: Array, images: Array) -> Array:
    return images


class Network(NamedTuple):
    """Pure functions of a network with a growing head.

    Attributes:
      apply: `(model, key, images, num_open, train) -> Output`; `images` as stored (bytes) or as `augment` leaves them; `train` is static.
      head: `params -> Head`, for methods that work on its columns (WA).
      with_head: `(params, Head) -> params`.
      augment: `(key, images) -> images`, drawn anew for each sample at each use, replayed ones too; training only.
      lower: `(model, key, images, train) -> (spikes [T, B, ...], rest)`, the part below the layer at which latent replay enters.
      upper: `(model, key, spikes, num_open, train) -> Output`, the part above it; `upper(lower(x))` is `apply(x)`.
      is_lower: a tree of truth values like `model.params`: which of them `lower` has.
    """

    apply: Callable[..., Output]
    head: Callable[[Any], Head] | None = None
    with_head: Callable[[Any, Head], Any] | None = None
    augment: Callable[[Array, Array], Array] = _unchanged
    lower: Callable[..., tuple[Array, Any]] | None = None
    upper: Callable[..., Output] | None = None
    is_lower: Any = None


def cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, "B"], valid: Bool[Array, "B"]
) -> Float[Array, ""]:
    """Mean cross entropy of valid rows; 0 if there are none. Infinite if a valid label's column is closed."""
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.where(valid, labels, 0)
    )
    return buffers.mean_of(losses, valid)


def evaluate(
    network: Network, model: Model, images: Array, num_open: Int[Array, ""]
) -> Output:
    """A batch without training. Evaluation draws nothing, so any key will do."""
    return network.apply(model, jax.random.key(0), images, num_open, False)


def map_samples(
    function: Callable[[Any], Any], samples: Any, *, chunk_size: int = 256
) -> Any:
    """`function` of a batch, applied to N samples in chunks, one result a sample.

    Args:
      function: `tree of [B, ...] -> tree of [B, ...]`.
      samples: tree of `[N, ...]`; the last chunk is filled up with copies of the last sample, whose results are cut off.
      chunk_size: B.
    """
    count = len(jax.tree.leaves(samples)[0])
    if count == 0:
        return function(samples)
    size = min(chunk_size, count)
    index = jnp.minimum(jnp.arange(-(-count // size) * size), count - 1)

    def chunk(rows: Array) -> Any:
        return function(jax.tree.map(lambda x: x[rows], samples))

    results = jax.lax.map(chunk, index.reshape(-1, size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], results)


def features_of(
    network: Network, model: Model, images: Shaped[Array, "N ..."], num_open: Array
) -> Float[Array, "N F"]:
    """Features of any number of images."""
    return map_samples(lambda x: evaluate(network, model, x, num_open).features, images)


def instead_of(
    own: Shaped[Array, "..."],
    drawn: Shaped[Array, "..."],
    valid: Bool[Array, "R"],
    *,
    axis: int = 0,
) -> Shaped[Array, "..."]:
    """Replayed samples, R along `axis`; rows that the buffer could not fill show the batch's `own`, so that batch norm sees real ones. No loss counts them."""
    rows = own.take(jnp.arange(len(valid)) % own.shape[axis], axis)
    mask = valid.reshape(-1, *[1] * (own.ndim - 1 - axis))
    return jnp.where(mask, drawn.astype(own.dtype), rows)


def forward(
    network: Network,
    model: Model,
    key: Array,
    num_open: Int[Array, ""],
    inputs: Sequence[Array],
    passes: Literal["together", "apart"],
) -> tuple[list[Output], Any]:
    """Batches through the network in one pass, or one after the other with `rest` handed on."""
    outputs, rest = [], model.rest
    if passes == "apart":
        for i, x in enumerate(inputs):
            here, k = Model(model.params, rest), jax.random.fold_in(key, i)
            outputs.append(network.apply(here, k, x, num_open, True))
            rest = outputs[-1].rest
        return outputs, rest
    whole, start = network.apply(model, key, jnp.concatenate(inputs), num_open, True), 0
    for x in inputs:
        rows = slice(start, start + len(x))
        outputs.append(Output(whole.features[rows], whole.logits[rows], whole.rest))
        start += len(x)
    return outputs, whole.rest


def _halves(network: Network) -> tuple[Callable[..., Any], Callable[..., Output]]:
    if network.lower is None or network.upper is None:
        raise ValueError(
            "`network` must define `lower` and `upper` for latent replay, got None."
        )
    return network.lower, network.upper


def latent_struct(network: Network, model: Model, images: Array) -> Any:
    """Shape and type of one image's spikes at the layer of latent replay, `[T, ...]`."""
    lower, _ = _halves(network)
    spikes, _ = jax.eval_shape(
        lambda m, x: lower(m, jax.random.key(0), x, False), model, images[:1]
    )
    return jax.ShapeDtypeStruct((spikes.shape[0], *spikes.shape[2:]), spikes.dtype)


def latent(network: Network, model: Model, images: Array) -> Array:
    """Bit-packed spikes of a batch, as a buffer keeps them: `lower` must give 0 and 1."""
    lower, _ = _halves(network)
    return buffers.pack(lower(model, jax.random.key(0), images, False)[0])


def forward_latent(
    network: Network,
    model: Model,
    key: Array,
    num_open: Int[Array, ""],
    inputs: Array,
    replays: Sequence[buffers.Replay],
    *,
    frozen: Bool[Array, ""],
) -> tuple[list[Output], Any]:
    """Images through both halves and replayed spikes through the upper one.

    Once `frozen`, the lower half is evaluated as it was when the spikes were stored and gets exactly zero gradient.
    """
    lower, upper = _halves(network)
    struct = latent_struct(network, model, inputs)
    key_lower, key_upper = jax.random.split(key)
    moving, rest = lower(model, key_lower, inputs, True)
    still, _ = lower(model, key_lower, inputs, False)
    spikes = jnp.where(frozen, jax.lax.stop_gradient(still), moving)
    rest = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), model.rest, rest)
    inputs_above = [spikes]
    for drawn in (replay.batch for replay in replays):
        seen = buffers.unpack(drawn.images, struct.shape, struct.dtype)
        inputs_above.append(instead_of(spikes, seen, drawn.valid, axis=1))
    outputs = []
    for i, z in enumerate(inputs_above):
        here, k = Model(model.params, rest), jax.random.fold_in(key_upper, i)
        outputs.append(upper(here, k, z, num_open, True))
        rest = outputs[-1].rest
    return outputs, rest


def hold_lower(network: Network, change: Any, frozen: Bool[Array, ""]) -> Any:
    """A change of parameters without that of the lower half once it is `frozen`: an optimiser's moments and decays move it without a gradient."""

    def one(is_lower: bool, update: Array) -> Array:
        return jnp.where(frozen, 0, update) if is_lower else update

    return jax.tree.map(one, network.is_lower, change)
