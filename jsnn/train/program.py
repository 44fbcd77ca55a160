"""What a sweep carries out: a training as a pure function of a member's values and key."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """NumPy's scalars as Python's own."""
    return {name: value.item() for name, value in found.items()}


def all_finite(tree: Any) -> jax.Array:
    """Whether no number of the tree is NaN or infinite."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))


class Program(NamedTuple):
    """One experiment with everything fixed but `values` and a key.

    Attributes:
      train: `(key, values, data) -> metrics`: a pure function; `values` and `metrics` are dictionaries of scalars. A metric
        `finite` says whether the training stayed so; a metric that is NaN or infinite says that it did not. With a `report`,
        metrics may be arrays.
      data: arrays that all members read.
      init: `(key, values) -> state`: what a member keeps in memory at least, for an estimate before compiling.
      report: makes a member's row of what `train` returned, without `finite`, on the host; it must do so with zeros too.
    """

    train: Callable[[jax.Array, dict[str, jax.Array], Any], dict[str, jax.Array]]
    data: Any
    init: Callable[[jax.Array, dict[str, jax.Array]], Any]
    report: Callable[[dict[str, Any]], dict[str, Any]] = numbers
