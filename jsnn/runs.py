"""A run and its folder: config, rows of metrics, checkpoints, summary; and the loop that drives a `Trainer` through it.

    out/config.json      what was asked for, with versions, device and commit
    out/metrics.jsonl    one JSON object a row
    out/summary.json     the result, flat
    out/checkpoints/     see `jsnn.checkpoint`
    out/tensorboard/     event files, on request

Everything that decides a result is saved with the state, so a run killed at any moment and resumed ends with the same
parameters and the same rows; only the rows' `seconds` differ.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import checkpoint
from jsnn.training import Evaluation, Trainer, TrainState

PACKAGES = ("jsnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# A stretch this long keeps the progress bar alive and costs nothing in dispatch.
_STRETCH_SECONDS = 2.0


class RunError(RuntimeError):
    """A run folder cannot be used as asked."""


def commit() -> str:
    """The commit this code is at, with `+` if files differ from it; `unknown` outside a repository."""
    here = pathlib.Path(__file__).parent

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """The device in words: kind, and for a CPU its model and the cores this process may use."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{len(jax.devices())} x {first.device_kind}"
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = (x for x in info.read_text().splitlines() if x.startswith("model name"))
        model = next(lines, f"x: {model}").partition(":")[2].strip()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"CPU {model}, {cores} cores"


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source"
    return found


def _plain(value: Any) -> Any:
    """JSON for whatever a config or a row holds; non-finite numbers become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class Run:
    """A run folder. Opening it checks everything that could fail later: that it can be written, and that nothing is overwritten.

    Args:
      out: the folder; made if it is missing.
      experiment: name of the script.
      config: dataclass or dictionary of everything that decides the result.
      resume: go on from the newest checkpoint, if there is one; the configuration must be the same.
      tensorboard: also write event files (needs the package tensorboardX).

    Raises:
      RunError: if the folder cannot be written, already holds a run and `resume` is off, or holds a run of another
        configuration.
    """

    def __init__(
        self,
        out: pathlib.Path,
        *,
        experiment: str,
        config: Any,
        resume: bool = False,
        tensorboard: bool = False,
    ):
        self.out, self.experiment, self.config = out, experiment, _plain(config)
        self.checkpoints = out / "checkpoints"
        self._metrics = out / "metrics.jsonl"
        self._writer = None
        try:
            out.mkdir(parents=True, exist_ok=True)
            probe = out / ".probe"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"`--out {out}` cannot be written ({error.strerror}). Choose a folder you may write to."
            ) from error
        self._check_previous(resume)
        self.resume = resume
        record = {
            "experiment": experiment,
            "config": self.config,
            "versions": versions(),
            "device": device(),
            "commit": commit(),
        }
        if not (resume and (out / "config.json").exists()):
            self._write("config.json", record)
        if tensorboard:
            self._open_tensorboard()

    def _check_previous(self, resume: bool) -> None:
        path = self.out / "config.json"
        if not path.exists():
            return
        if not resume:
            raise RunError(
                f"`--out {self.out}` already holds a run. Pass --resume to go on with it, or choose another folder."
            )
        try:
            previous = json.loads(path.read_text())["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} is damaged ({error}); start in a new folder."
            ) from error
        keys = previous.keys() | self.config.keys()
        changed = [k for k in sorted(keys) if previous.get(k) != self.config.get(k)]
        if changed:
            parts = ", ".join(
                f"{k} was {previous.get(k)!r}, now {self.config.get(k)!r}"
                for k in changed
            )
            raise RunError(
                f"`--resume`: the run in {self.out} has another configuration ({parts}). Repeat its flags or choose another folder."
            )

    def _open_tensorboard(self) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise RunError(
                "`--tensorboard` needs the package tensorboardX: pip install tensorboardX."
            ) from error
        self._writer = SummaryWriter(str(self.out / "tensorboard"))

    def _write(self, name: str, content: Any) -> None:
        """Writes JSON under another name first, so that a full disk never leaves half a file."""
        part = self.out / f".{name}.part"
        try:
            part.write_text(json.dumps(_plain(content), indent=2) + "\n")
            part.replace(self.out / name)
        except OSError as error:
            raise RunError(
                f"{self.out / name} could not be written ({error.strerror}). Free some space and run again with --resume."
            ) from error

    def log(self, row: dict[str, Any]) -> None:
        """Appends one row to metrics.jsonl, and its numbers to TensorBoard under the row's `step`."""
        try:
            with self._metrics.open("a") as file:
                file.write(json.dumps(_plain(row)) + "\n")
        except OSError as error:
            raise RunError(
                f"{self._metrics} could not be written ({error.strerror}). Free some space and run again with --resume."
            ) from error
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, float) and name != "seconds":
                    self._writer.add_scalar(
                        f"{row.get('split', 'run')}/{name}", value, row.get("step", 0)
                    )

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows of metrics.jsonl; a row cut short by a kill is left out."""
        if not self._metrics.exists():
            return []
        found = []
        for line in self._metrics.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def rewind(self, step: int) -> None:
        """Drops rows written after `step`: a resumed run writes them again."""
        kept = [row for row in self.rows() if row.get("step", 0) <= step]
        part = self._metrics.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        part.replace(self._metrics)

    def restore(self, state: Any) -> Any:
        """The state to go on from: the newest checkpoint when resuming, else `state` as it came."""
        if not self.resume:
            return state
        found = checkpoint.restore(self.checkpoints, state)
        return state if found is None else found

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Writes summary.json: the result with experiment, device, versions and commit. Returns it."""
        whole = {
            "experiment": self.experiment,
            **summary,
            "device": device(),
            "version": versions()["jsnn"],
            "jax_version": jax.__version__,
            "commit": commit(),
        }
        self._write("summary.json", whole)
        if self._writer is not None:
            self._writer.close()
        return _plain(whole)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a run does what, in optimiser steps. `None` means once an epoch."""

    num_epochs: int
    log_every: int | None = None
    """Steps averaged into one row of training metrics."""
    eval_every: int | None = None
    """The test set is evaluated after steps 1, 1 + n, 1 + 2n, ... and at the end of each epoch; None: there only; 0: at the very end only."""
    checkpoint_seconds: float = 60.0
    """A checkpoint is written at the next row once this many seconds have passed, and at the end."""

    def stops(self, done: int, steps_per_epoch: int) -> int:
        """The next step at which something is due, after `done` steps."""
        total = self.num_epochs * steps_per_epoch
        due = [total, (done // steps_per_epoch + 1) * steps_per_epoch]
        if self.log_every:
            due.append((done // self.log_every + 1) * self.log_every)
        if self.eval_every:
            due.append(1 + -(-done // self.eval_every) * self.eval_every)
        return min(d for d in due if d > done) if done < total else total

    def evaluates(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the test set is due after `step` steps."""
        if step == self.num_epochs * steps_per_epoch:
            return True
        if self.eval_every == 0:
            return False
        at_interval = self.eval_every and (step - 1) % self.eval_every == 0
        return bool(step % steps_per_epoch == 0 or at_interval)


class Result:
    """What `drive` returns: the final state, the last evaluation, and how fast training went."""

    def __init__(
        self, state: TrainState, evaluation: Evaluation, seconds: float, samples: int
    ):
        self.state, self.evaluation, self.seconds = state, evaluation, seconds
        self.samples_per_second = samples / seconds if seconds > 0 else math.nan


def drive(
    run: Run,
    trainer: Trainer,
    key: jax.Array,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    schedule: Schedule,
    *,
    batch_size: int,
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
      progress: show a progress bar.

    Raises:
      FloatingPointError: if the loss becomes NaN or infinite. Rows up to there and the last checkpoint stay.
    """
    from tqdm import tqdm

    state = run.restore(jax.jit(trainer.init)(key))
    run.rewind(int(state.step))
    step_fn = jax.jit(trainer.run, donate_argnums=0)
    eval_fn = jax.jit(trainer.evaluate)
    train, test = jax.device_put(train), jax.device_put(test)
    per_epoch, done = trainer.steps_per_epoch, int(state.step)
    total = schedule.num_epochs * per_epoch
    began = saved = time.monotonic()
    training_seconds, trained, pace, evaluation = 0.0, 0, None, None

    bar = tqdm(total=total, initial=done, unit="step", disable=not progress)
    while done < total:
        stop, losses, accuracies = schedule.stops(done, per_epoch), [], []
        while done < stop:
            # The first stretch is one step: it takes the compilation, and the second tells the pace.
            length = 1 if pace is None else max(1, int(_STRETCH_SECONDS / pace))
            length = min(length, stop - done)
            start = time.monotonic()
            state, metrics = step_fn(state, *train, jnp.int32(length))
            losses.append(np.asarray(metrics.loss)[:length])
            accuracies.append(np.asarray(metrics.accuracy)[:length])
            elapsed = time.monotonic() - start
            if trained:
                pace = elapsed / length
                training_seconds += elapsed
            trained, done = trained + length, done + length
            bar.update(length)
            bar.set_postfix(loss=f"{losses[-1][-1]:.3f}", refresh=False)
        row = {
            "split": "train",
            "step": done,
            "epoch": done / per_epoch,
            "loss": float(np.concatenate(losses).mean()),
            "accuracy": float(np.concatenate(accuracies).mean()),
            "seconds": time.monotonic() - began,
        }
        run.log(row)
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(
                f"The training loss is {row['loss']} at step {done}. Lower `--learning-rate`; rows and checkpoints up to here are in {run.out}."
            )
        if schedule.evaluates(done, per_epoch):
            evaluation = eval_fn(state.model, *test)
            _log_evaluation(
                run, evaluation, test[1], done, done / per_epoch, began, bar
            )
        if done == total or time.monotonic() - saved >= schedule.checkpoint_seconds:
            checkpoint.save(run.checkpoints, done, state)
            saved = time.monotonic()
    bar.close()
    if evaluation is None:  # a finished run, resumed
        evaluation = eval_fn(state.model, *test)
    return Result(state, evaluation, training_seconds, (trained - 1) * batch_size)


def _log_evaluation(run, evaluation, labels, step, epoch, began, bar) -> None:
    correct = np.asarray(evaluation.prediction) == np.asarray(labels)
    row = {
        "split": "test",
        "step": step,
        "epoch": epoch,
        "loss": float(np.mean(evaluation.loss)),
        "accuracy": float(correct.mean()),
        "seconds": time.monotonic() - began,
    }
    run.log(row)
    bar.write(
        f"step {step:>6}  epoch {epoch:6.2f}  test accuracy {100 * row['accuracy']:6.2f} %  loss {row['loss']:.4f}"
    )
