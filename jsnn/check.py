"""One check for every number, choice and axis that a user hands in.

Numbers may be Python's, NumPy's or JAX's, single or one a neuron. What `jit`, `vmap` or `grad` traces has no value yet and passes, so a check
costs nothing in compiled code. Ranges are written as in mathematics: `"[0, 1)"` holds 0 and not 1; infinity is refused unless
the range is closed there, and NaN lies in none.

Errors say what was given and what to write instead: `ValueError` for a wrong value, `TypeError` for a wrong kind of thing.
"""

import functools
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Path = str | os.PathLike[str]

_WORDS = {
    "(0, inf)": "be positive and finite",
    "[0, inf)": "be finite and not negative",
    "(-inf, inf)": "be finite",
    "(0, 1)": "lie strictly between 0 and 1",
}


def known(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or `None` while it is traced or lies in part on other hosts."""
    if not isinstance(value, jax.Array) and hasattr(value, "__jax_array__"):  # Flax
        value = value.__jax_array__()
    if isinstance(value, Tracer | jax.ShapeDtypeStruct):
        return None
    return np.asarray(value) if getattr(value, "is_fully_addressable", True) else None


@functools.cache
def _ends(interval: str) -> tuple[float, float]:
    """The smallest and the largest number of an interval."""
    low, high = map(float, interval[1:-1].split(","))
    return (
        low if interval[0] == "[" else math.nextafter(low, math.inf),
        high if interval[-1] == "]" else math.nextafter(high, -math.inf),
    )


def number(
    name: str, value: Any, interval: str = "(-inf, inf)", *, remedy: str = ""
) -> None:
    """Refuses a number, or an array with any number, outside `interval`.

    Args:
      name: of the argument.
      value: a number or an array.
      interval: such as `"(0, inf)"` or `"[0, 1]"`.
      remedy: a sentence that says what to write instead.

    Raises:
      ValueError: if a number lies outside, or is NaN.
      TypeError: if it is no number: text, a list, a truth value.
    """
    if isinstance(value, list | tuple):
        raise TypeError(
            f"`{name}` must be a number or an array, got {value!r}: write `jnp.array({value!r})`."
        )
    v = known(value)
    if v is None:
        return
    if not (
        jnp.issubdtype(v.dtype, jnp.integer) or jnp.issubdtype(v.dtype, jnp.floating)
    ):
        raise TypeError(f"`{name}` must be a number, got {value!r}. {remedy}".rstrip())
    if not v.size:
        return
    low, high = v.min(), v.max()  # NaN if there is any
    least, most = _ends(interval)
    if least <= float(low) and float(high) <= most:
        return
    got = f"{low}" if v.ndim == 0 else f"values from {low} to {high}"
    wanted = _WORDS.get(interval, f"lie in {interval}")
    raise ValueError(f"`{name}` must {wanted}, got {got}. {remedy}".rstrip())


def static(name: str, value: Any, interval: str, *, remedy: str = "") -> float:
    """A number within `interval` as Python's `float`, for what is compiled into a program: a traced one has no value to compile.

    Raises:
      ValueError: if it lies outside, or is traced.
      TypeError: if it is no single number.
    """
    v = known(value)
    if v is None:
        raise ValueError(
            f"`{name}` must be known when the program is compiled, got a traced value: leave it out of what `jit`, `vmap` and `grad` trace."
        )
    number(name, value, interval, remedy=remedy)
    if v.ndim:
        raise TypeError(f"`{name}` must be one number, got shape {v.shape}.")
    return float(v)


def ordered(
    low_name: str,
    low: Any,
    high_name: str,
    high: Any,
    remedy: str = "",
    *,
    equal: bool = False,
) -> None:
    """Refuses `low` at or above `high` (above, if they may be `equal`), one by one where they are arrays.

    Raises:
      ValueError: if any pair is out of order.
    """
    a, b = known(low), known(high)
    if a is None or b is None or np.all(a <= b if equal else a < b):
        return
    words = (
        f"`{low_name}` must not exceed `{high_name}`, got {low} and {high}."
        if equal
        else f"`{high_name}` must lie above `{low_name}`, got {high} and {low}."
    )
    raise ValueError(f"{words} {remedy}".rstrip())


def whole(
    name: str,
    value: Any,
    least: int | None = None,
    most: int | None = None,
    *,
    remedy: str = "",
) -> Any:
    """A whole number from `least` to `most` as Python's `int`; a traced one passes as it is.

    Raises:
      ValueError: if it is none or lies outside.
    """
    v = known(value)
    if v is None:
        return value
    if v.ndim or not jnp.issubdtype(v.dtype, jnp.integer):
        got = repr(value) if v.size == 1 else f"an array of shape {v.shape}"
        raise ValueError(
            f"`{name}` must be a whole number, got {got}. {remedy}".rstrip()
        )
    n = int(v)
    if (least is None or n >= least) and (most is None or n <= most):
        return n
    if most is None:
        wanted = "not be negative" if least == 0 else f"be at least {least}"
    else:
        wanted = f"lie between {least} and {most}"
    raise ValueError(f"`{name}` must {wanted}, got {n}. {remedy}".rstrip())


def labels(name: str, values: Any, num_classes: int, shape: tuple[int, ...]) -> None:
    """Refuses labels that are no class indices of `shape` from 0 to `num_classes - 1`; values of traced ones are not looked at.

    Raises:
      ValueError: if shape, type or a value is wrong.
    """
    if values.shape != shape:
        raise ValueError(
            f"`{name}` must be class indices of shape [B] = {shape}, got shape {values.shape}; "
            "undo a one-hot code by argmax."
        )
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(
            f"`{name}` must be integers, got {values.dtype}: write `{name}.astype(jnp.int32)`."
        )
    y = known(values)
    if y is not None and y.size and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(
            f"`{name}` must lie in 0 … {num_classes - 1}, got {y.min()} … {y.max()}."
        )


def kind(name: str, value: Any, wanted: Any, words: str, remedy: str) -> None:
    """Refuses what is not of the kind `wanted`: a type, or `callable`.

    Args:
      name: of the argument.
      value: what was given.
      wanted: a type, several, or `callable`.
      words: what it must be.
      remedy: what to write instead.

    Raises:
      TypeError: if it is not.
    """
    if callable(value) if wanted is callable else isinstance(value, wanted):
        return
    got = " ".join(repr(value).split())
    got = got if len(got) <= 60 else f"an object of type {type(value).__name__}"
    raise TypeError(f"`{name}` must be {words}, got {got}: {remedy}.")


def key(value: Any) -> None:
    """Refuses what is no key of `jax.random`, of the new kind or the old.

    Raises:
      TypeError: if it is none.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is not None and (
        jnp.issubdtype(dtype, jax.dtypes.prng_key)
        or (dtype == jnp.uint32 and value.shape[-1:] == (2,))
    ):
        return
    got = " ".join(repr(value).split())
    raise TypeError(f"`key` must be a key such as `jax.random.key(0)`, got {got}.")


def path(name: str, value: Any) -> pathlib.Path:
    """A path, given as one or as text.

    Raises:
      ValueError: if the text is empty.
      TypeError: if it is neither.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path, got {value!r}.")
    if not os.fspath(value):
        raise ValueError(f"`{name}` must be a path, got an empty text.")
    return pathlib.Path(value)


def time_axis(name: str, values: Any) -> None:
    """Refuses what is not `[T, B, ...]` with at least one time step.

    Raises:
      ValueError: if it has fewer axes, or no step.
    """
    if values.ndim < 2 or values.shape[0] == 0:
        raise ValueError(
            f"`{name}` must be time-major [T, B, ...] with T >= 1, got shape {values.shape}."
        )


def choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuses what is not among `choices`.

    Raises:
      ValueError: if it is none of them.
    """
    choices = tuple(choices)
    # By type too: an array is equal to no word.
    if not any(isinstance(value, type(c)) and value == c for c in choices):
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}."
        )
