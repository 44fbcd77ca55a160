r"""A head that opens classes while it learns, and grows where it has no room left.

Columns of the head's weight are classes, allocated ahead of need. The first `num_open` of them are open; the others are closed: their
logits are $-\infty$ (`mask_closed`), so a softmax gives them nothing and their gradient is exactly zero. `num_open` is an argument
and may be traced, so opening a class changes no shape and compiles nothing anew. Past its capacity a head grows to twice the size (`grow`), together with
whatever else has class columns: moments of the optimiser, teachers, stored logits.

A column's initial weights depend on the head's key and on the column's number alone. So a head that grew holds the same numbers as one
that had the room from the start, and old columns keep theirs to the bit.

Axes: T time, B batch, I inputs of the head, C columns (capacity).
"""

from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jsnn import check, layers, neurons

ReadOut = Literal["rate", "membrane", "integrator", "current"]
Tree = TypeVar("Tree")


class Column(nnx.Param):
    """A parameter whose last axis runs over classes."""


class GrowingHead(layers.Dense):
    r"""$y = xW + b$ with a column a class, open or closed; `[N, ...] -> [N, C]`, all columns, to be masked by `mask_closed`.

    A column starts as PyTorch's `Linear` does: weights and bias uniform in $\pm 1/\sqrt{I}$.

    Args:
      num_inputs: I; further axes of the input are flattened.
      capacity: C, columns allocated.
      rngs: its key decides all columns, those of a later growth too.

    Raises:
      ValueError: if `capacity` is less than 1.
    """

    def __init__(self, num_inputs: int, capacity: int, *, rngs: nnx.Rngs):
        num_inputs = check.whole("num_inputs", num_inputs, 1)
        capacity = check.whole("capacity", capacity, 1)
        layers.check_rngs(rngs)
        key, limit = rngs.params(), num_inputs**-0.5

        def column(number):
            own = jax.random.fold_in(key, number)
            return jax.random.uniform(
                own, (num_inputs + 1,), jnp.float32, minval=-limit, maxval=limit
            )

        drawn = jax.vmap(column)(jnp.arange(capacity))
        self.weight, self.bias = Column(drawn[:, 1:].T), Column(drawn[:, 0])


def mask_closed(
    logits: Float[Array, "... C"], num_open: ArrayLike
) -> Float[Array, "... C"]:
    r"""Logits with $-\infty$ for closed columns, whose gradient is then exactly zero."""
    check.whole("num_open", num_open, 0, logits.shape[-1])
    column = jnp.arange(logits.shape[-1])
    is_open = (column < num_open).reshape((1,) * (logits.ndim - 1) + (-1,))
    return jnp.where(is_open, logits, -jnp.inf)


def column_tree(graphdef: Any, model: layers.Model) -> Any:
    """A tree of truth values like `model.params`: whether a parameter has class columns."""
    params = nnx.split(layers.merge(graphdef, model), nnx.Param, ...)[1]
    marks = jax.tree.map(
        lambda p: isinstance(p, Column),
        params,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )
    return nnx.as_pure(marks)


def room_for(num_classes: int, capacity: int) -> int:
    """The capacity to have for `num_classes`: `capacity`, doubled as often as it takes."""
    capacity = check.whole("capacity", capacity, 1)
    num_classes = check.whole("num_classes", num_classes, 0)
    while capacity < num_classes:
        capacity *= 2
    return capacity


def grow(state: Tree, fresh: Tree) -> Tree:
    """Carries `state` over into the larger arrays of `fresh`: the same tree, made anew with room for more classes.

    Whatever has grown (columns, their moments in the optimiser, teachers, stored logits) keeps its old part to the bit and
    takes the rest from `fresh`; everything else stays as it is. Because all of it grows at once, no old moment can meet a new
    column: Optax would raise, but for a head of one column, where it would broadcast silently.

    Raises:
      ValueError: if an array of `fresh` is smaller than its counterpart, or of another rank or type.
    """

    def one(path, old, new):
        if old.shape == new.shape:
            return old
        fits = old.ndim == new.ndim and all(
            o <= n for o, n in zip(old.shape, new.shape, strict=True)
        )
        if not fits or old.dtype != new.dtype:
            raise ValueError(
                f"`fresh` has {new.dtype}{list(new.shape)} at {jax.tree_util.keystr(path)}, which cannot hold the "
                f"{old.dtype}{list(old.shape)} of `state`: make it with a larger capacity, and otherwise alike."
            )
        return new.at[tuple(slice(size) for size in old.shape)].set(old)

    return jax.tree.map_with_path(one, state, fresh)


class GrowingState(NamedTuple):
    """`inner`: state of the wrapped optimiser; `age`: updates each column has had since it opened, `[C]`."""

    inner: Any
    age: Int[Array, "C"]


def growing(
    optimizer: optax.GradientTransformation,
    is_column: Any,
    *,
    adam_decays: tuple[float, float] | None = (0.9, 0.999),
) -> optax.GradientTransformationExtraArgs:
    r"""Fits an optimiser to a head whose columns open one after another; `update` needs `num_open`.

    Closed columns are never changed, not by weight decay either. And a column that opens after n steps starts Adam's clock
    anew: Adam corrects its moments by the number of all steps, $\hat m = m/(1 - \beta_1^n)$, $\hat v = v/(1 - \beta_2^n)$, which
    would make the first step of a late column up to $(1 - \beta_1)/\sqrt{1 - \beta_2} = 3.2$ times the step size. Here it
    is corrected by the steps since it opened, as if Adam had begun with it (up to Adam's epsilon).

    Args:
      optimizer: any Optax transformation.
      is_column: which parameters have class columns, from `column_tree`.
      adam_decays: $\beta_1, \beta_2$ of the Adam inside; None if there is no Adam inside.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params):
        sizes = {
            p.shape[-1]
            for p, c in zip(
                jax.tree.leaves(params), jax.tree.leaves(is_column), strict=True
            )
            if c
        }
        if len(sizes) != 1:
            raise ValueError(
                f"`is_column` must mark the parameters of one head, but those it marks have {sorted(sizes)} columns."
            )
        return GrowingState(inner.init(params), jnp.zeros(sizes.pop(), jnp.int32))

    def update(updates, state, params=None, **extra):
        if "num_open" not in extra:
            raise ValueError(
                "`num_open` must be given to `update`: how many columns are open."
            )
        num_open = extra.pop("num_open")
        updates, new = inner.update(updates, state.inner, params, **extra)
        is_open = jnp.arange(state.age.size) < num_open
        age = jnp.where(is_open, state.age + 1, 0)
        factor = jnp.ones(age.shape, jnp.float32)
        if adam_decays is not None:
            factor = _late_start(age, *adam_decays)
        scale = jnp.where(is_open, factor, 0.0)

        def one(column, update):
            if not column:
                return update
            shaped = scale.reshape((1,) * (update.ndim - 1) + (-1,))
            # A closed column's update may be anything, so it is replaced rather than multiplied.
            return jnp.where(shaped == 0, 0, update * shaped.astype(update.dtype))

        return jax.tree.map(one, is_column, updates), GrowingState(new, age)

    return optax.GradientTransformationExtraArgs(init, update)


def _late_start(age: Int[Array, "C"], beta1: float, beta2: float) -> Float[Array, "C"]:
    """What Adam's step of a column must be multiplied by for its bias correction to count from the column's opening."""
    steps = jnp.maximum(age, 1).astype(jnp.float32)
    total = jnp.maximum(age.max(), 1).astype(jnp.float32)
    first = (1 - beta1**total) / (1 - beta1**steps)
    second = (1 - beta2**steps) / (1 - beta2**total)
    # Exactly one for columns as old as the optimiser.
    return jnp.where(age == age.max(), 1.0, first * jnp.sqrt(second))


def read_out_neuron(
    kind: ReadOut, neuron: neurons.Neuron, *, beta: ArrayLike = 0.9
) -> neurons.Neuron | None:
    """The neurons that follow the head, if any: `neuron` for `"rate"`, leaky integrators of decay `beta` for `"membrane"` and `"integrator"`."""
    _check_read_out(kind)
    if kind == "current":
        return None
    return neuron if kind == "rate" else neurons.leaky_integrator(beta=beta)


def read_out(outputs: Float[Array, "T B C"], kind: ReadOut) -> Float[Array, "B C"]:
    r"""Logits from what the head and its neurons give over time.

    | `kind` | what follows the head | logits |
    |---|---|---|
    | `"rate"` | spiking neurons | spikes a step, in [0, 1]: cross entropy cannot fall below $\ln(1 + (C - 1)/e)$ |
    | `"membrane"` | leaky integrators | their potential, averaged over time |
    | `"integrator"` | leaky integrators | their potential after the last step |
    | `"current"` | nothing | the head's own output, averaged over time: linear in the firing rates of the features |
    """
    _check_read_out(kind)
    return outputs[-1] if kind == "integrator" else outputs.mean(0)


def _check_read_out(kind: str) -> None:
    check.choice("kind", kind, get_args(ReadOut))
