"""What is reported about a network: its decisions, how good they are, its activity and what that costs.

Axes: T time, B batch, C classes, S examples of a whole test set. Predictions, rates, operations and the confusion matrix
are JAX functions for use under `jit` and `vmap`; `classification_report` and `roc_auc` are scikit-learn's, on NumPy values.
Spikes may have any type; everything is summed in float32, so counts are exact up to 2^24 and to 6e-8 relative above.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Integer, Shaped

from jsnn import check
from jsnn.kernels import conv

Labels = Integer[Array | np.ndarray, "S"]


def predict_by_count(
    spikes: Shaped[Array, "T B C"], membrane: Float[Array, "T B C"] | None = None
) -> Int[Array, "B"]:
    """The class with the most spikes.

    Equal counts are common, silence among them, and are settled by a stated rule: with `membrane`, by the largest potential
    summed over time among the classes that tie; without it, or where that ties too, by the lowest index. The lowest index
    favours low classes, which in class-incremental learning are the oldest; silence then counts as class 0.

    Raises:
      ValueError: if there is no time step, or `membrane` has another shape than `spikes`.
    """
    check.time_axis("spikes", spikes)
    counts = jnp.sum(spikes, axis=0, dtype=jnp.float32)
    if membrane is None:
        return jnp.argmax(counts, axis=-1)
    if membrane.shape != spikes.shape:
        raise ValueError(
            f"`membrane` must have the shape of `spikes`, {spikes.shape}, got {membrane.shape}."
        )
    potential = jnp.sum(membrane, axis=0, dtype=jnp.float32)
    leads = counts == jnp.max(counts, axis=-1, keepdims=True)
    return jnp.argmax(jnp.where(leads, potential, -jnp.inf), axis=-1)


def predict_by_membrane(
    membrane: Float[Array, "T B C"], how: Literal["mean", "max"] = "mean"
) -> Int[Array, "B"]:
    """The class with the largest potential, averaged over time or at its peak; ties go to the lowest index.

    Raises:
      ValueError: if there is no time step, or `how` is neither `"mean"` nor `"max"`.
    """
    check.time_axis("membrane", membrane)
    check.choice("how", how, ("mean", "max"))
    reduce: Callable[..., Array] = jnp.mean if how == "mean" else jnp.max
    return jnp.argmax(reduce(membrane.astype(jnp.float32), axis=0), axis=-1)


def accuracy(
    predictions: Integer[Array, "B"],
    labels: Integer[Array, "B"],
    weights: Shaped[Array, "B"] | None = None,
) -> Float[Array, ""]:
    r"""Fraction of predictions that are right, $\sum_b w_b [\hat y_b = y_b] / \sum_b w_b$.

    Args:
      predictions: class indices; a silent network's −1 is never right.
      labels: class indices.
      weights: 0 for the padding of a last batch, 1 elsewhere; all 1 if omitted. NaN results if all are 0.

    Raises:
      ValueError: if shapes differ, or a weight is negative.
    """
    if predictions.shape != labels.shape:
        raise ValueError(
            f"`predictions` {predictions.shape} and `labels` {labels.shape} must have the same shape."
        )
    hits = (predictions.astype(jnp.int32) == labels.astype(jnp.int32)).astype(
        jnp.float32
    )
    if weights is None:
        return jnp.mean(hits)
    if weights.shape != labels.shape:
        raise ValueError(
            f"`weights` {weights.shape} and `labels` {labels.shape} must have the same shape."
        )
    w = weights.astype(jnp.float32)
    check.number("weights", w, "[0, inf)")
    return jnp.sum(w * hits) / jnp.sum(w)


def firing_rates(
    spikes: Shaped[Array, "T B *neurons"],
) -> Float[Array, "B *neurons"]:
    """Spikes a step of each neuron on each sample: the mean over time. Divide by dt for Hz.

    Raises:
      ValueError: if there is no time step.
    """
    check.time_axis("spikes", spikes)
    return jnp.mean(spikes, axis=0, dtype=jnp.float32)


def conv_fan_out(
    size: tuple[int, int],
    kernel: tuple[int, int],
    features: int,
    *,
    stride: int = 1,
    padding: conv.Padding = "same",
) -> Float[Array, "H W 1"]:
    """How many outputs of a convolution each input position reaches, borders and stride counted exactly.

    Args:
      size: height and width of the input.
      kernel: height and width of the kernel.
      features: output channels, all of which see every input channel.
      stride: as `conv.conv2d`.
      padding: as `conv.conv2d`.

    >>> conv_fan_out((3, 3), (3, 3), 1)[:, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]

    Raises:
      ValueError: as `conv.conv2d`.
    """
    features = check.whole("features", features, 1)
    ones = jnp.ones((*kernel, 1, 1))

    def total(image: Array) -> Array:
        return jnp.sum(conv.conv2d(image, ones, stride=stride, padding=padding))

    # With a kernel of ones each output is a plain sum, so the gradient counts the outputs a position enters.
    return features * jax.grad(total)(jnp.zeros((1, *size, 1)))[0]


def synaptic_operations(
    spikes: Shaped[Array, "T B *neurons"], fan_out: ArrayLike
) -> Float[Array, "B"]:
    """Accumulate operations a sample that a layer's input spikes cause: every spike is added to `fan_out` potentials.

    Holds for spikes of 0 and 1. After average pooling inputs are graded and each non-zero one costs a
    multiply-accumulate: count `inputs != 0` here and enter the result as `macs` in `energy`.

    Args:
      spikes: what arrives at the layer, `[T, B, I]` or `[T, B, H, W, C]`.
      fan_out: the number of outputs for a dense layer, `conv_fan_out(...)` for a convolution.

    Raises:
      ValueError: if there is no time step, or `fan_out` does not fit the neurons' axes.
    """
    check.time_axis("spikes", spikes)
    counts = jnp.sum(spikes, axis=0, dtype=jnp.float32)
    reach = jnp.broadcast_to(jnp.asarray(fan_out, jnp.float32), counts.shape[1:])
    return jnp.sum(counts * reach[None], axis=tuple(range(1, counts.ndim)))


def multiply_accumulates(shape: tuple[int, ...], fan_out: ArrayLike) -> float:
    """Multiply-accumulates of one pass of an analogue input, without its batch axis, through a layer.

    For the first layer under direct coding (once a sample if a static image is computed once, else T times), and for
    every layer of the same network as a conventional one. Products with padding are not counted; biases neither.

    Args:
      shape: `(I,)` or `(H, W, C)`.
      fan_out: as `synaptic_operations`.
    """
    return float(np.broadcast_to(np.asarray(fan_out, np.float64), shape).sum())


def energy(
    synaptic_operations: ArrayLike,
    macs: ArrayLike,
    *,
    ac_joules: float = 0.9e-12,
    mac_joules: float = 4.6e-12,
) -> Any:
    """Energy of the arithmetic, in joules: accumulates and multiply-accumulates at a price each.

    The prices are those of 32-bit floating point in 45 nm CMOS (Horowitz, ISSCC 2014): addition 0.9 pJ, multiplication
    3.7 pJ. An estimate for comparing networks, not hardware: reading weights, updating membranes and idling are left out, and on
    real chips they dominate. The same network as a conventional one costs `energy(0, ann_macs)`, with the
    `multiply_accumulates` of all its layers.

    Args:
      synaptic_operations: accumulates, of any shape, such as one value a sample, summed over layers.
      macs: multiply-accumulates, of the analogue layers.
      ac_joules: price of an accumulate.
      mac_joules: price of a multiply-accumulate.

    >>> snn, ann = energy(2e6, 1e5), energy(0, 1e7)
    >>> print(f"{snn * 1e6:.2f} µJ against {ann * 1e6:.2f} µJ")
    2.26 µJ against 46.00 µJ
    """
    for name, value in (
        ("synaptic_operations", synaptic_operations),
        ("macs", macs),
        ("ac_joules", ac_joules),
        ("mac_joules", mac_joules),
    ):
        check.number(name, value, "[0, inf)")
    return ac_joules * synaptic_operations + mac_joules * macs


def neurobench(graphdef: Any, model: Any, x: Any) -> dict[str, Any]:
    """NeuroBench's measures of a network of layers, by its names and definitions.

    - `Footprint`: bytes of parameters and of what else the model holds.
    - `ParameterCount`: numbers that are trained.
    - `ConnectionSparsity`: share of weights that are 0, biases left out.
    - `ActivationSparsity`: share of zeros among the outputs of all spiking neurons, over steps and samples.
    - `SynapticOperations`, for one sample: `Effective_ACs` and `Effective_MACs`, products of an input that is not 0 with a weight that is not 0. They
      are accumulates at a step where all inputs of a layer are 0, 1 or -1, and multiply-accumulates at any other. `Dense`: all products, zeros
      included. Biases are left out. A constant image counts at each step, though it is computed once here.
    - `MembraneUpdates`, for one sample: how often a membrane differs after a step from what it was after the step before. The first step counts for all.

    Leaky integrators have membranes that are updated, and no activations. Recurrent weights see the spikes of the step before.

    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 8, rngs=rngs), jsnn.LIF()])
    >>> found = neurobench(net.graphdef, net.init(jax.random.key(0)), jnp.ones((5, 2, 4)))
    >>> found["ParameterCount"], found["SynapticOperations"]["Effective_ACs"].item()  # 4 x 8 + 8; 5 steps of 4 spikes to 8 neurons
    (40, 160.0)

    Args:
      graphdef: static part of the model: `network.graphdef`, or from `layers.split`.
      model: its arrays.
      x: `[T, B, ...]` or a `Constant`. All spikes and membranes are kept: a batch, not a whole test set.

    Returns:
      Numbers by name, `SynapticOperations` being three; means over the samples of `x`.
    """
    from jsnn import neurobench

    return neurobench.measure(graphdef, model, x)


def _check_same(predictions: Any, labels: Any) -> None:
    """Refuses predictions that are no class indices, one for each label; one outside the classes is no decision."""
    if predictions.shape != labels.shape:
        raise ValueError(
            f"`predictions` {predictions.shape} and `labels` {labels.shape} must have the same shape."
        )
    if not jnp.issubdtype(predictions.dtype, jnp.integer):
        raise ValueError(
            f"`predictions` must be class indices, got {predictions.dtype}: write `scores.argmax(-1)`."
        )


def confusion_matrix(
    predictions: Labels, labels: Labels, num_classes: int
) -> Int[Array, "C C"]:
    """Counts of examples, true class by row, predicted class by column.

    A prediction outside 0 … C − 1, such as a silent network's −1, is no decision and stands in no column, so the matrix
    sums to the number of decisions.

    Raises:
      ValueError: if shapes differ, or a label lies outside 0 … C − 1 (where labels are known; under `jit` such examples are left out).
    """
    num_classes = check.whole("num_classes", num_classes, 1)
    _check_same(predictions, labels)
    check.labels("labels", labels, num_classes, labels.shape)
    rows = jax.nn.one_hot(labels, num_classes, dtype=jnp.int32)
    columns = jax.nn.one_hot(predictions, num_classes, dtype=jnp.int32)
    return rows.T @ columns


def classification_report(
    predictions: Labels, labels: Labels, num_classes: int
) -> dict[str, Any]:
    """Accuracy, precision, recall and F1 of a whole test set, as plain numbers and lists ready for JSON.

    Keys: `accuracy`, `macro_precision`, `macro_recall`, `macro_f1`, and under `per_class` the lists `precision`, `recall`,
    `f1` and `support` (examples of each class). A ratio with nothing in it is 0: the precision of a class never predicted,
    the recall of one never seen. Macro averages run over classes that occur among labels or predictions.

    Raises:
      ValueError: if there are no examples, shapes differ, or a label lies outside 0 … C − 1.
    """
    from sklearn.metrics import precision_recall_fscore_support

    y, guess = np.asarray(labels), np.asarray(predictions)
    num_classes = check.whole("num_classes", num_classes, 1)
    _check_same(guess, y)
    if y.size == 0:
        raise ValueError("`predictions` and `labels` are empty: pass an example.")
    check.labels("labels", y, num_classes, y.shape)
    classes = np.arange(num_classes)
    scores = precision_recall_fscore_support(
        y,
        guess,
        labels=classes,
        zero_division=0.0,  # pyright: ignore[reportArgumentType] (guessed from the default, "warn")
    )
    names = ("precision", "recall", "f1", "support")
    per_class = dict(zip(names, map(np.asarray, scores), strict=True))
    occurs = np.isin(classes, y) | np.isin(classes, guess)
    macro = {f"macro_{n}": float(per_class[n][occurs].mean()) for n in names[:3]}
    return {
        "accuracy": float(np.mean(y == guess)),
        **macro,
        "per_class": {n: values.tolist() for n, values in per_class.items()},
    }


def roc_auc(
    scores: Float[Array | np.ndarray, "S C"],
    labels: Labels,
    *,
    absent: Literal["raise", "skip"] = "raise",
) -> float:
    """Area under the ROC curve, each class against the rest, averaged over classes with equal weight.

    Only the order of a class's scores counts, so spike counts do as well as probabilities; equal scores count half. The
    area of a class is undefined without both examples of it and examples of others.

    Args:
      scores: one score a class, larger for more likely.
      labels: class indices.
      absent: what to do about undefined classes: `"raise"`, or `"skip"` and average over the others.

    Raises:
      ValueError: if shapes differ, a label lies outside 0 … C − 1, or the area is undefined for a class that is not to be
        skipped, or for all.
    """
    from sklearn.metrics import roc_auc_score

    check.choice("absent", absent, ("raise", "skip"))
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"`scores` must be [S, C] and `labels` [S], got {scores.shape} and {labels.shape}."
        )
    x, y = np.asarray(scores), np.asarray(labels)
    check.number("scores", x)
    check.labels("labels", y, x.shape[1], y.shape)
    support = np.bincount(y, minlength=x.shape[1])
    defined = np.flatnonzero((support > 0) & (support < y.size))
    undefined = np.setdiff1d(np.arange(x.shape[1]), defined)
    if undefined.size and (absent == "raise" or not defined.size):
        raise ValueError(
            f"`labels` lack examples of, or beside, the classes {undefined.tolist()}: their areas are undefined. "
            "Score a set that holds every class, or pass absent='skip'."
        )
    return float(np.mean([roc_auc_score(y == c, x[:, c]) for c in defined]))
