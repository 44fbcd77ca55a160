"""What a training needs at least, before anything is allocated: absurd sizes are refused by name and not by the operating system."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from jsnn import memory
from jsnn.train.trainer import Trainer, start

_MOST_STEPS = 2**31 - 1  # they are counted in 32 bits
# Of memory: what stands in a program may be merged away by the compiler, where it is not absurdly large.
_MERGED = 4
_REMEDY = "Make the network, the batch, or the number of steps or of seeds smaller."


def check_memory(trainer: Trainer, data: Any, key: Any) -> None:
    """Refuses a training whose state exceeds memory, or whose largest array within a step far exceeds it. Nothing is computed: these are bounds, no estimates.

    Args:
      trainer: what to learn and how.
      data: what its functions take, as arrays or shapes; None: the steps are not looked at.
      key: as for `fit`, or its shape.

    Raises:
      ValueError: if so, or if the steps of a phase cannot be counted.
    """
    devices = 1 if trainer.mesh is None else trainer.mesh.size
    free = memory.free_bytes()
    try:
        state = jax.eval_shape(lambda key: start(trainer, key), key)
        _refuse("parameters and optimiser states", _bytes(state), free)
        if data is None:
            return
        for phase in trainer.phases:
            pool = jax.eval_shape(
                lambda s, d, p=phase: trainer.pool(s, d, p.program), state, data
            )
            per_epoch = trainer.steps_per_epoch(pool)
            if isinstance(per_epoch, int) and phase.epochs * per_epoch > _MOST_STEPS:
                raise ValueError(
                    f"`epochs` make {phase.epochs * per_epoch} steps; at most {_MOST_STEPS} can be counted. Choose fewer."
                )
            run = jax.make_jaxpr(trainer.run, static_argnums=3)
            jaxpr = run(state, pool, jnp.int32(0), phase.program)
            largest = max(_arrays(jaxpr.jaxpr), key=_bytes_of, default=None)
            if largest is not None:
                words = f"{largest.dtype}{list(largest.shape)}, one of the arrays of a step,"
                _refuse(words, _bytes_of(largest), free * devices, _MERGED)
    except (OverflowError, MemoryError) as error:
        raise ValueError(
            f"The sizes of this training are beyond what can be counted ({error}). {_REMEDY}"
        ) from error


def _refuse(what: str, needed: int, free: int, times: int = 1) -> None:
    if needed > times * free:
        raise ValueError(
            f"This training does not fit memory: {what} would take {memory.gigabytes(needed)} of the {memory.gigabytes(free)} that are free. {_REMEDY}"
        )


def _bytes_of(x: Any) -> int:
    width = 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
    return math.prod(x.shape) * width


def _bytes(tree: Any) -> int:
    return sum(_bytes_of(x) for x in jax.tree.leaves(tree))


def _arrays(jaxpr: Jaxpr) -> Iterator[Any]:
    """What the equations of a program make, within its loops and functions too."""
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            if hasattr(value.aval, "shape"):
                yield value.aval
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr),
        ):
            if isinstance(inner, ClosedJaxpr):
                yield from _arrays(inner.jaxpr)
            elif isinstance(inner, Jaxpr):
                yield from _arrays(inner)
