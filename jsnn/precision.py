"""Types of numbers: what a computation takes, what it is done in, and what it returns.

Whole numbers and truth values, such as event frames kept as bytes, count as the float32 of the same value. Outputs have the
precision of the input, states keep their own, and a step between the two is computed in the wider.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

Step = Callable[[Any, Any, Array], tuple[Any, Array]]


def _is_floating(x: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def floating(x: Any) -> Any:
    """The arrays of `x`, whole numbers and truth values among them as float32."""

    def one(a: ArrayLike) -> Array:
        return jnp.asarray(a) if _is_floating(a) else jnp.asarray(a, jnp.float32)

    return jax.tree.map(one, x)


def like(x: ArrayLike, y: ArrayLike) -> Array:
    """`y` in the floating-point type of `x`; as it is if `x` has none."""
    return jnp.asarray(y, jnp.result_type(x)) if _is_floating(x) else jnp.asarray(y)


def wide_type(x: ArrayLike) -> Any:
    """The type of `x`, and float32 at least."""
    return jnp.promote_types(jnp.result_type(x), jnp.float32)


def wide(x: ArrayLike) -> Array:
    """`x` in float32 at least: sums over many terms need more digits than 16 bits hold."""
    return jnp.asarray(x, wide_type(x))


def keeping(step: Step) -> Step:
    """`step` of `(params, state, current)`, computed in the wider of the types of state and current: the new state has the old one's type, the output that of the current."""

    @functools.wraps(step)
    def run(params: Any, state: Any, current: Array) -> tuple[Any, Array]:
        current = floating(current)
        floats = [a for a in jax.tree.leaves(state) if _is_floating(a)]
        kind = jnp.result_type(current, *floats)
        widened = jax.tree.map(
            lambda a: jnp.asarray(a, kind) if _is_floating(a) else a, state
        )
        new, y = step(params, widened, jnp.asarray(current, kind))
        return jax.tree.map(like, state, new), like(current, y)

    return run
