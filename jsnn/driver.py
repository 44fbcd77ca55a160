"""Drives a `Trainer` through a run folder: progress, rows of metrics, evaluations, checkpoints, and going on after a kill.

Everything that decides a result is saved with the state, and what is done at which step depends on the step alone. So a run
killed at any moment and resumed ends with the same parameters and the same rows; only the rows' times differ.
"""

import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jsnn import check, checkpoint
from jsnn import mesh as meshes
from jsnn.runs import Run
from jsnn.training import Evaluation, Trainer, TrainState

# A stretch this long keeps the progress bar alive and costs nothing in dispatch.
_STRETCH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a run does what, in optimiser steps. `None` means once an epoch.

    Raises:
      ValueError: if an interval is not positive.
    """

    num_epochs: int
    log_every: int | None = None
    """Steps averaged into one row of training metrics."""
    eval_every: int | None = None
    """The test set is evaluated after steps 1, 1 + n, 1 + 2n, ... and at the end of each epoch; None: there only; 0: at the very end only."""
    checkpoint_seconds: float = 60.0
    """A checkpoint is written at the next row once this many seconds have passed, and at the end."""

    def __post_init__(self):
        for name, least in (("num_epochs", 1), ("log_every", 1), ("eval_every", 0)):
            value = getattr(self, name)
            if name == "num_epochs" or value is not None:
                object.__setattr__(self, name, check.whole(name, value, least))
        check.number("checkpoint_seconds", self.checkpoint_seconds, "[0, inf]")

    def stops(self, done: int, steps_per_epoch: int) -> int:
        """The next step at which something is due, after `done` steps."""
        total = self.num_epochs * steps_per_epoch
        due = [total, (done // steps_per_epoch + 1) * steps_per_epoch]
        if self.log_every:
            due.append((done // self.log_every + 1) * self.log_every)
        if self.eval_every:
            due.append(1 + -(-done // self.eval_every) * self.eval_every)
        return min(due)

    def evaluates(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the test set is due after `step` steps."""
        if step == self.num_epochs * steps_per_epoch:
            return True
        if self.eval_every == 0:
            return False
        at_interval = self.eval_every and (step - 1) % self.eval_every == 0
        return bool(step % steps_per_epoch == 0 or at_interval)


@dataclasses.dataclass(frozen=True)
class Result:
    """What `drive` returns: the final state, the last evaluation, and how long it took."""

    state: TrainState
    evaluation: Evaluation
    seconds: float
    """Wall time of the run with compilation, evaluations and checkpoints. Of a part that was killed, up to its last checkpoint."""
    samples_per_second: float
    """Training alone: without compilation, evaluations and checkpoints."""


class Clock:
    """Time spent on a run. It goes on from the last row, so the parts of a resumed run add up."""

    def __init__(self, rows: list[dict[str, Any]]):
        last = rows[-1] if rows else {}
        self._began = time.monotonic() - last.get("seconds", 0.0)
        self._train_seconds = last.get("train_seconds", 0.0)
        self._pace: float | None = None

    def stretch(self) -> int:
        """Steps to take at a time: one at first, which tells the pace."""
        return 1 if self._pace is None else max(1, int(_STRETCH_SECONDS / self._pace))

    def trained(self, num_steps: int, seconds: float) -> None:
        """Counts a stretch."""
        self._pace = seconds / num_steps
        self._train_seconds += seconds

    def read(self) -> dict[str, float]:
        """Seconds of the whole run, and those of its training steps alone."""
        return {
            "seconds": time.monotonic() - self._began,
            "train_seconds": self._train_seconds,
        }


def drive(
    run: Run,
    trainer: Trainer,
    key: jax.Array,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    schedule: Schedule,
    *,
    batch_size: int,
    split: str = "test",
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Result:
    """Trains from `key`, or from the newest checkpoint, to the end of the schedule.

    Args:
      run: where rows and checkpoints go.
      trainer: the pure functions.
      key: decides initial weights, order of samples, and every other draw.
      train: images `[N, ...]` and labels `[N]`; they are put on the device once.
      test: likewise; all of it is evaluated.
      schedule: when to write rows, evaluate and save.
      batch_size: samples a step, for the speed.
      split: what `test` is called in rows and in the progress: "validation" if that is what it holds.
      mesh: the devices that `trainer` was made for.
      progress: show a progress bar.

    Raises:
      FloatingPointError: if the loss or a parameter becomes NaN or infinite. Rows up to there and the last checkpoint stay.
    """
    from tqdm import tqdm

    state = run.restore(jax.jit(trainer.init)(key))
    done, per_epoch = int(state.step), trainer.steps_per_epoch
    total = schedule.num_epochs * per_epoch
    run.rewind(done)
    clock, saved = Clock(run.rows()), time.monotonic()
    labels = np.asarray(test[1])
    state, train, test = meshes.replicate((state, train, test), mesh)
    copied = meshes.replicated(mesh)
    eval_fn, evaluation = jax.jit(trainer.evaluate, out_shardings=copied), None
    train_fn = jax.jit(trainer.run, donate_argnums=0, out_shardings=copied)
    if done < total:  # compiled ahead, so that no step's time holds the compilation
        train_fn = train_fn.lower(state, *train, jnp.int32(1)).compile()

    def log(split: str, loss: Any, accuracy: Any) -> dict[str, Any]:
        row = {"split": split, "step": done, "epoch": done / per_epoch}
        row |= {"loss": float(np.mean(loss)), "accuracy": float(np.mean(accuracy))}
        run.log(row | clock.read())
        return row

    hidden = not (progress and meshes.is_primary())
    with tqdm(total=total, initial=done, unit="step", disable=hidden) as bar:
        while done < total:
            stop = schedule.stops(done, per_epoch)
            state, metrics = _advance(train_fn, state, train, stop - done, clock, bar)
            done = stop
            row = log("train", *metrics)
            check_finite(row, state, run)
            if schedule.evaluates(done, per_epoch):
                evaluation = eval_fn(state.model, *test)
                hits = np.asarray(evaluation.prediction) == labels
                row = log(split, evaluation.loss, hits)
                bar.write(
                    f"step {done:>6}  epoch {row['epoch']:6.2f}  {split} accuracy {100 * row['accuracy']:6.2f} %  loss {row['loss']:.4f}"
                )
            due = time.monotonic() - saved >= schedule.checkpoint_seconds
            if meshes.agree(due) or done == total:
                checkpoint.save(run.checkpoints, done, state)
                saved = time.monotonic()
    if evaluation is None:  # a finished run, resumed
        evaluation = eval_fn(state.model, *test)
    state, evaluation = meshes.gather((state, evaluation), mesh)
    seconds, train_seconds = clock.read().values()
    speed = done * batch_size / train_seconds if train_seconds else math.nan
    return Result(state, evaluation, seconds, speed)


def evaluate(
    trainer: Trainer, model: Any, samples: tuple[Any, Any], *, mesh: Mesh | None = None
) -> Evaluation:
    """Evaluates a model on samples that `drive` has not seen."""
    fn = jax.jit(trainer.evaluate, out_shardings=meshes.replicated(mesh))
    model, samples = meshes.replicate((model, samples), mesh)
    return meshes.gather(fn(model, *samples), mesh)


def _advance(train_fn, state, train, num_steps, clock, bar) -> tuple[TrainState, Any]:
    """Takes `num_steps` steps in stretches that keep the bar moving; returns losses and accuracies, one a step."""
    losses, accuracies, left = [], [], num_steps
    while left:
        length = min(left, meshes.agree(clock.stretch()))
        start = time.monotonic()
        state, metrics = train_fn(state, *train, jnp.int32(length))
        losses.append(np.asarray(metrics.loss)[:length])  # waits for the device
        accuracies.append(np.asarray(metrics.accuracy)[:length])
        clock.trained(length, time.monotonic() - start)
        left -= length
        bar.update(length)
        bar.set_postfix(loss=f"{losses[-1][-1]:.3f}", refresh=False)
    return state, (np.concatenate(losses), np.concatenate(accuracies))


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def check_finite(row: dict[str, Any], state: TrainState, run: Run) -> None:
    """A neuron whose potential is NaN is silent, and the loss of a silent network is finite: so look at the parameters too."""
    what = "training loss"
    if math.isfinite(row["loss"]):
        if _all_finite(state.model.params):
            return
        what = "parameters' value"
    raise FloatingPointError(
        f"The {what} is NaN or infinite at step {row['step']}. Lower `--learning-rate`; rows and checkpoints up to here are in {run.out}."
    )
