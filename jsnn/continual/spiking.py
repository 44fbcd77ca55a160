"""A spiking network with a growing head as the pure functions that continual methods work on.

Axes: T time, B batch, H height, W width, C colour channels.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

from jsnn import check, head, layers
from jsnn.continual.network import Head, Network, Output
from jsnn.encoders import unit_interval
from jsnn.unroll import Constant, Signal

BatchNormMode = Literal["train", "eval", "frozen"]
BatchNormPolicy = Literal["train", "reference", "freeze"]
# Mode in the first task, and from the second on.
POLICIES: dict[BatchNormPolicy, tuple[BatchNormMode, BatchNormMode]] = {
    "train": ("train", "train"),
    "reference": ("train", "eval"),
    "freeze": ("train", "frozen"),
}
_ENCODE = 1 << 20  # beyond the number of any layer


def shown(
    num_steps: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Callable[..., Constant]:
    """An encoder: each image, normalised, as the same current for `num_steps` steps."""
    num_steps = check.whole("num_steps", num_steps, 1)
    return lambda images, key=None: Constant(
        normalise(images, mean, std, dtype), num_steps
    )


def normalise(
    images: Shaped[Array, "B H W C"],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "B H W C"]:
    """Pixels in [0, 1], and then with mean and deviation of each channel taken out, if given; in the precision that the network is to run in."""
    x = unit_interval(images)
    if mean is not None and std is not None:
        shape = (1, 1, 1, -1)
        x = (x - jnp.array(mean).reshape(shape)) / jnp.array(std).reshape(shape)
    return x.astype(dtype)


def make_network(
    graphdef: Any,
    is_column: Any,
    batch_norm: BatchNormMode = "train",
    *,
    encode: Callable[..., Signal],
    read_out: head.ReadOut,
    augment: Callable[[Array, Array], Array] | None = None,
    latent_layer: int | None = None,
) -> Network:
    """The functions of a `Sequence` of features, growing head and read-out neurons, as in `jsnn.models.cil_cnn`.

    Args:
      graphdef: its static part, from `layers.split`.
      is_column: its class columns, from `head.column_tree`.
      encode: `(inputs [B, ...], key) -> signal`, time first: see `jsnn.encoders`, or `shown`. In evaluation `key` is None.
      read_out: how the head's output becomes logits; it must be what the network was built with.
      augment: random changes of training images as they are stored.
      batch_norm: in training, normalise by the batch and follow it (`"train"`), by what was learnt so far (`"eval"`), or that with scale and
        offset held too (`"frozen"`).
      latent_layer: how many of the feature layers lie below the point at which latent replay enters, the last of them neurons
        that spike (`latent_places`); None: no latent replay.

    The halves raise a ValueError if `latent_layer` is not such a place.
    """

    def load(
        model: layers.Model, train: bool, *, halves: bool = False
    ) -> tuple[Any, Any, bool]:
        """The network, its features, and whether batch norm trains."""
        module = layers.merge(graphdef, model)
        features = module.layers[0]
        if halves:
            _check_place(latent_layer, latent_places(features))
        if train and batch_norm == "frozen":
            _hold_batch_norm(features)
        return module, features, train and batch_norm == "train"

    def signal(images, key, train: bool) -> Signal:
        return encode(images, jax.random.fold_in(key, _ENCODE) if train else None)

    def apply(model, key, images, num_open, train) -> Output:
        x = signal(images, key, train)
        module, features, train = load(model, train)
        x = _run(features, x, key, train)
        return _finish(module, read_out, _every_step(x), key, num_open, train)

    def lower(model, key, images, train):
        x = signal(images, key, train)
        module, features, train = load(model, train, halves=True)
        x = _run(_part(features, slice(latent_layer)), x, key, train)
        return _every_step(x), layers.split(module)[1].rest

    def upper(model, key, spikes, num_open, train) -> Output:
        module, features, train = load(model, train, halves=True)
        x = _run(_part(features, slice(latent_layer, None)), spikes, key, train)
        return _finish(module, read_out, _every_step(x), key, num_open, train)

    more: dict[str, Any] = {}
    if latent_layer is not None:
        is_lower = jax.tree_util.tree_map_with_path(
            lambda path, _: _is_below(path, latent_layer), is_column
        )
        more |= {"lower": lower, "upper": upper, "is_lower": is_lower}
    if augment is not None:
        more["augment"] = augment
    return Network(
        apply,
        functools.partial(_get_head, is_column),
        functools.partial(_with_head, is_column),
        **more,
    )


def _finish(
    module: Any,
    read_out: head.ReadOut,
    x: Array,
    key: Array,
    num_open: ArrayLike,
    train: bool,
) -> Output:
    """From the features of all steps to an `Output`, in float32: classes differ by little."""
    x = x.astype(jnp.float32)
    features = x.mean(0).reshape(x.shape[1], -1)
    # The mean over time commutes with a linear head, which then runs once instead of T times.
    y: Signal = features[None] if read_out == "current" else x
    for number, layer in enumerate(list(module.layers)[1:]):
        y = _run(layer, y, jax.random.fold_in(key, number), train)
    assert not isinstance(y, Constant)
    logits = head.mask_closed(head.read_out(y, read_out), num_open)
    return Output(features, logits, layers.split(module)[1].rest)


def _get_head(is_column: Any, params: Any) -> Head:
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(is_column), strict=True)
    bias, weight = sorted((p for p, c in leaves if c), key=lambda p: p.ndim)
    return Head(weight, bias)


def _with_head(is_column: Any, params: Any, new: Head) -> Any:
    def one(column, p):
        return p if not column else (new.bias if p.ndim == 1 else new.weight)

    return jax.tree.map(one, is_column, params)


def _run(layer: layers.Layer, x: Signal, key: Array, train: bool) -> Signal:
    """A layer from rest; what must outlive the batch stays in it."""
    shape = x.value.shape if isinstance(x, Constant) else x.shape[1:]
    state, y = layer(layer.init_state(shape, key=key, train=train), x, train=train)
    if train:
        layer.remember(state)
    return y


def _every_step(x: Signal) -> Array:
    """A signal written out: a network without neurons would leave it constant."""
    if isinstance(x, Constant):
        return jnp.broadcast_to(x.value, (x.num_steps, *x.value.shape))
    return x


def latent_places(features: layers.Sequence) -> tuple[int, ...]:
    """Where latent replay may enter: how many layers lie below, the last of them neurons that spike."""

    def spikes(layer: layers.Layer) -> bool:
        if isinstance(layer, layers.Sequence):
            layer = list(layer.flat())[-1]
        return isinstance(layer, layers.Neurons) and "threshold" in layer.params

    return tuple(n for n, layer in enumerate(features.layers, 1) if spikes(layer))


def _check_place(latent_layer: int | None, places: tuple[int, ...]) -> None:
    if latent_layer not in places:
        known = ", ".join(map(str, places)) or "none"
        raise ValueError(
            f"`latent_layer` must have neurons that spike right below it, since spikes are kept as bits: this network has such places at {known}, got {latent_layer}."
        )


def _is_below(path: tuple[Any, ...], latent_layer: int) -> bool:
    """Whether a parameter, `layers/0/layers/N/...` for feature layer N, lies below the place."""
    return path[1].key == 0 and path[3].key < latent_layer


def _part(features: layers.Sequence, which: slice) -> layers.Sequence:
    chosen = list(features.layers)[which]
    return layers.Sequence(
        *chosen, block_size=features.block_size, remat=features.remat
    )


def _hold_batch_norm(features: layers.Sequence) -> None:
    for layer in features.flat():
        if isinstance(layer, layers.BatchNorm):
            layer.scale[...] = jax.lax.stop_gradient(layer.scale[...])
            layer.offset[...] = jax.lax.stop_gradient(layer.offset[...])
