"""What `run` learns from at each call: the whole pool on the device, or windows of it that stream from the host.

Streaming takes the same rows in the same order, so the parameters are the same to the bit.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import mesh as meshes
from jsnn.memory import free_bytes, gigabytes
from jsnn.train.trainer import Trainer, TrainState, Window

# Of the memory that is free, what one window may take: the next ones are being made ready meanwhile.
_WINDOW_SHARE = 1 / 16
_AHEAD = 2


def size_of(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def decide(trainer: Trainer, train: Any, stream: bool | None) -> tuple[bool, str]:
    """Whether training samples stream from the host, and why, in a sentence.

    Raises:
      ValueError: if they do not fit the device and cannot stream.
    """
    size, free = size_of(train), free_bytes()
    what = f"{gigabytes(size)} of training samples"
    if stream is None:
        stream = size > free
    if not stream:
        return False, f"{what} lie on the device ({gigabytes(free)} are free)."
    if trainer.order is None or jax.process_count() > 1:
        raise ValueError(
            f"{what} cannot stream from the host for this trainer, or in several processes; {gigabytes(free)} are free on the device: use fewer samples "
            "or a larger device."
        )
    return True, f"{what} stream from the host ({gigabytes(free)} are free on the device)."  # fmt: skip


class Resident:
    """The pool as it lies on the device."""

    def __init__(self, pool: Any):
        self.pool = pool

    def reach(self, done: int) -> int:
        """Steps until `run` needs something else."""
        return np.iinfo(np.int32).max

    def at(self, state: TrainState, done: int) -> Any:
        """What `run` takes after `done` steps of the phase."""
        return self.pool


class Streamed:
    """Windows of W steps of a pool on the host, read ahead by other threads through grain.

    Args:
      trainer: with an `order`.
      pool: NumPy arrays `[N, ...]`, which may be memory-mapped files.
      per_epoch: steps of an epoch.
      window: W; None: what a sixteenth of the free memory holds.
    """

    def __init__(
        self, trainer: Trainer, pool: Any, per_epoch: int, window: int | None = None
    ):
        assert trainer.order is not None
        self.pool, self.per_epoch, self.mesh = pool, per_epoch, trainer.mesh
        order = trainer.order
        self._order = jax.jit(lambda state: order(state, pool_shapes(pool)))
        if window is None:
            each = max(1, size_of(pool) // per_epoch)
            window = int(_WINDOW_SHARE * free_bytes()) // each
        self.window = max(1, min(window, per_epoch))
        self._epoch, self._number, self._windows = -1, -1, iter(())
        self._now: Any = None

    def reach(self, done: int) -> int:
        """Steps until the end of the window."""
        return self.window - done % self.per_epoch % self.window

    def at(self, state: TrainState, done: int) -> Any:
        """The window that holds the step after `done`."""
        epoch, number = divmod(done, self.per_epoch)
        number //= self.window
        if epoch != self._epoch or number < self._number:
            rows = np.asarray(self._order(state))
            self._epoch, self._number = epoch, number - 1
            self._windows = self._read(rows, number)
        while self._number < number:
            self._now, self._number = next(self._windows), self._number + 1
        return self._now

    def _read(self, rows: np.ndarray, start: int) -> Iterator[Window]:
        """All windows of an epoch from number `start` on."""
        import grain

        batch = len(rows) // self.per_epoch
        size = self.window * batch

        def gather(number: int) -> Any:
            chosen = rows[number * size : (number + 1) * size]
            # The last window is filled up with rows that no step takes.
            chosen = np.concatenate([chosen, np.zeros(size - len(chosen), rows.dtype)])
            return jax.tree.leaves(jax.tree.map(lambda x: x[chosen], self.pool))

        count = -(-self.per_epoch // self.window)
        source = grain.MapDataset.source(range(start, count)).map(gather)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
        tree = jax.tree.structure(self.pool)
        for number, leaves in enumerate(source.to_iter_dataset(options), start):
            samples = jax.tree.unflatten(tree, leaves)
            window = Window(
                samples,
                jnp.int32(number * self.window),
                jnp.int32(self.per_epoch),
            )
            yield meshes.replicate(window, self.mesh)


def pool_shapes(pool: Any) -> Any:
    """Shapes alone, for an order that needs to know how many there are."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pool)
