"""`fit`: the one loop on the host. It leads any trainer through its phases, with progress, rows, evaluations and checkpoints.

Everything that decides a result is in the state, and what is done at which step depends on the step alone. So a run killed at any
moment and resumed ends with the same parameters and the same rows; only the rows' times differ.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import check, compilation
from jsnn import mesh as meshes
from jsnn.data import Dataset
from jsnn.train import bar as bars
from jsnn.train import feed, rows, runs, size, stop
from jsnn.train import trainer as trainers
from jsnn.train.clock import Clock
from jsnn.train.fitted import Fitted
from jsnn.train.log import Log
from jsnn.train.program import all_finite
from jsnn.train.schedule import Schedule
from jsnn.train.trainer import Phase, Place, Trainer, TrainState


def fit(
    trainer: Trainer,
    data: Any,
    key: jax.Array,
    *,
    run: Any = None,
    schedule: Schedule | None = None,
    split: str | None = None,
    reuse: Callable[[int, TrainState, Any], tuple[TrainState, rows.Row] | None]
    | None = None,
    finished: Callable[[int, TrainState], None] | None = None,
    stream: bool | None = None,
    progress: bool = True,
) -> Fitted:
    """Trains from `key`, or goes on from the newest checkpoint of `run`, to the end of the last phase.

    >>> inputs, labels = np.eye(4, dtype=np.float32).repeat(8, axis=0), np.arange(32) // 8
    >>> data = jsnn.data.arrays(inputs, labels, num_test=8)
    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 4, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(0.1), batch_size=8, epochs=9)
    >>> fitted = jsnn.fit(trainer, data, jax.random.key(0), progress=False)
    >>> fitted.predict(inputs[::8]).label.tolist()
    [0, 1, 2, 3]

    Args:
      trainer: what to learn and how: `supervised`, `stdp.trainer`, `continual.trainer`, or one made from them.
      data: a `jsnn.data.Dataset`, or what `trainer.prepare` made of one.
      key: decides initial weights, the order of samples and every other draw.
      run: a `jsnn.Run`: a folder for rows and checkpoints. None: nothing is written.
      schedule: when to write rows, evaluate and save.
      split: what the held-out samples are called in rows: `validation` or `test`. None: validation if the data set has one.
      reuse: `(phase, state, data) -> (state, values) or None`: the state after a phase that need not be trained again, and the values of
        its only row.
      finished: `(phase, state)`: called after each phase.
      stream: leave training samples on the host and send them to the device window by window; the result is the same to the bit. None: only if they do
        not fit the device's memory, which is said. They may then be memory-mapped (`np.load(path, mmap_mode="r")`).
      progress: show a progress bar.

    Returns:
      The trained model: `fitted.predict(inputs)`, `fitted.save(path)`, `fitted.rows`.

    Raises:
      TypeError, ValueError: if an argument is not what it must be; the message says what to write instead.
      FloatingPointError: if the loss or a parameter becomes NaN or infinite. Rows up to there and the last checkpoint stay.
      KeyboardInterrupt: on Ctrl-C or SIGTERM, after the steps under way and a checkpoint. A second Ctrl-C ends the process at once.
    """
    compilation.keep()
    trainers.check_trainer(trainer)
    _check_data(data)
    _check_run(run, schedule)
    check.choice("split", split, ("validation", "test", None))
    check.choice("stream", stream, (True, False, None))
    if split is None:
        held = isinstance(data, Dataset) and data.validation is not None
        split = "validation" if held else "test"
    if isinstance(data, Dataset) and trainer.prepare is None:
        raise ValueError(
            "`data` is a Dataset, but this trainer does not say what to make of one: pass what its functions take."
        )
    session = _Session(
        trainer, run or Log(), schedule or Schedule(), split, reuse, finished, progress
    )
    with stop.listening() as session.asked:
        return session.train(data, key, stream)


def _check_data(data: Any) -> None:
    """Refuses bare arrays, which do not say what is held out."""
    if (
        data is None
        or type(data) in (tuple, list, dict, str)
        or isinstance(data, np.ndarray | jax.Array)
    ):
        raise TypeError(
            f"`data` must be a data set, got {type(data).__name__}: write `jsnn.data.arrays(inputs, labels, num_test=...)`."
        )


def _check_run(run: Any, schedule: Any) -> None:
    """Refuses what `fit` cannot write to, or be timed by."""
    remedy = "write `jsnn.Run(folder, experiment='mine', config={})`"
    if run is not None:
        check.kind("run", run, runs.Run | Log, "a `jsnn.Run`", remedy)
    if schedule is not None:
        remedy = "write `jsnn.Schedule(log_every=...)`"
        check.kind("schedule", schedule, Schedule, "a `jsnn.Schedule`", remedy)


_all_finite = jax.jit(all_finite)


class _Session:
    """One process's part of a run."""

    def __init__(self, trainer, run, schedule, split, reuse, finished, progress):
        self.trainer, self.run, self.schedule = trainer, run, schedule
        self.split, self.reuse, self.finished = split, reuse, finished
        self.hidden = not (progress and meshes.is_primary())
        self.parameters = trainer.parameters or trainer.model
        self.found: Any = None
        self.streams = False
        self.asked = stop.Listener()
        options: Any = {"out_shardings": meshes.replicated(trainer.mesh)}
        jit = functools.partial(jax.jit, **options)
        self.fns = {
            name: jit(getattr(trainer, name), static_argnums=2)
            for name in ("begin", "pool", "end", "evaluate")
            if getattr(trainer, name) is not None
        }
        self.fns["run"] = jit(trainer.run, static_argnums=3, donate_argnums=0)
        if trainer.advance is not None:
            self.fns["advance"] = jit(trainer.advance, static_argnums=2)

    def train(self, data: Any, key: jax.Array, stream: bool | None) -> Fitted:
        """All phases, or those that are left."""
        trainer = self.trainer
        size.check_memory(trainer, None, key)
        state = self.run.restore(*self._templates(key))
        self.run.rewind(int(state.step))
        self.unlogged = self.run.unlogged(int(state.step))
        self.clock, self.saved = Clock(self.run.rows()), time.monotonic()
        if isinstance(data, Dataset):
            data = trainer.prepare(data)
        data = self._placed(data, stream)
        state = meshes.replicate(state, trainer.mesh)
        last = len(trainer.phases) - 1
        for number, phase in enumerate(trainer.phases):
            if number >= int(state.phase):
                state = self._phase(state, data, number, phase)
                self._stop_if_asked(state, [])
            if trainer.advance is not None and number < last:
                data = self.fns["advance"](state, data, phase.program)
        if (
            self.found is None and trainer.evaluate is not None
        ):  # no phase asks for it, or a finished run is resumed
            here = state._replace(phase=jnp.minimum(state.phase, last))
            program = trainer.phases[last].program
            _, self.found = self.fns["evaluate"](here, data, program)
        state, found = meshes.gather((state, self.found), trainer.mesh)
        samples = trainer.samples(state) if trainer.samples else int(state.step)
        return Fitted(
            trainer, state, found, self.run.rows(), self.clock.read(), samples
        )

    def _placed(self, data: Any, stream: bool | None) -> Any:
        """The data on the device, but for training samples that stream from the host."""
        train = getattr(data, "train", None)
        if self.trainer.order is None and not stream:
            return meshes.replicate(data, self.trainer.mesh)
        self.streams, why = feed.decide(self.trainer, train, stream)
        if not self.hidden and (self.streams or stream is not None):
            print(why, flush=True)
        if not self.streams:
            return meshes.replicate(data, self.trainer.mesh)
        held = meshes.replicate(data._replace(train=()), self.trainer.mesh)
        return held._replace(train=jax.tree.map(np.asarray, train))

    def _feed(self, state: TrainState, data: Any, phase: Phase) -> tuple[Any, int]:
        """What `run` learns from in this phase, and the steps of an epoch."""
        if self.streams:
            pool = self.trainer.pool(state, data, phase.program)
            per_epoch = int(self.trainer.steps_per_epoch(pool))
            return feed.Streamed(self.trainer, pool, per_epoch), per_epoch
        pool = self.fns["pool"](state, data, phase.program)
        return feed.Resident(pool), int(self.trainer.steps_per_epoch(pool))

    def _templates(self, key: jax.Array) -> tuple[TrainState, ...]:
        """The state to start from, and what a checkpoint of it may have grown to."""
        start = jax.jit(lambda key: trainers.start(self.trainer, key))(key)
        if self.trainer.resize is None or not self.run.resume:
            return (start,)
        return tuple(trainers.grown(self.trainer, start))

    def _phase(
        self, state: TrainState, data: Any, number: int, phase: Phase
    ) -> TrainState:
        """One phase, or what is left of it."""
        if self.trainer.resize is not None:  # on the host: this process alone
            here = meshes.gather(state, self.trainer.mesh)
            larger = self.trainer.resize(here, number)
            if larger is not here:
                state = meshes.replicate(larger, self.trainer.mesh)
        taken = None
        if int(state.phase_step) == 0:
            state = self.fns["begin"](state, data, phase.program)
            taken = self.reuse(number, state, data) if self.reuse else None
        if taken is None:
            state = self._train(state, data, phase)
        else:
            state = self._take(taken[0], taken[1], data, phase)
        return self._close(state, data, number, phase)

    def _take(self, state, values: rows.Row, data: Any, phase: Phase) -> TrainState:
        """A phase that was trained elsewhere, as if its last step had just been taken."""
        pool = self.fns["pool"](state, data, phase.program)
        per_epoch = int(self.trainer.steps_per_epoch(pool))
        state = state._replace(phase_step=jnp.int32(phase.epochs * per_epoch))
        self._log("train", rows.place(state), pool, per_epoch, values)
        return meshes.replicate(state, self.trainer.mesh)

    def _close(self, state, data, number: int, phase: Phase) -> TrainState:
        """Ends a phase. A last one that has nothing to end stays open, so that a resumed run may be given more epochs."""
        trainer, last = self.trainer, number == len(self.trainer.phases) - 1
        if trainer.end is not Trainer._field_defaults["end"] or not last:
            state = self.fns["end"](state, data, phase.program)
            if phase.evaluate == "end":
                state = self._evaluate(state, data, None, 0, phase, None)
            zero = jnp.zeros((), jnp.int32)
            state = state._replace(phase=state.phase + 1, phase_step=zero)
            state = meshes.replicate(state, trainer.mesh)
        if self.finished is not None and meshes.is_primary():
            self.finished(number, state)
        self._save(state)
        return state

    def _train(self, state: TrainState, data: Any, phase: Phase) -> TrainState:
        """All epochs of a phase, or what is left of them."""
        source, per_epoch = self._feed(state, data, phase)
        pool = source.pool
        done, total = int(state.phase_step), phase.epochs * per_epoch
        if done >= total:
            return state
        # Compiles, and takes no step.
        window = source.at(state, done)
        state, metrics = self.fns["run"](state, window, jnp.int32(0), phase.program)
        self.most = jax.tree.leaves(metrics)[0].shape[0]
        options = {"unit": "step", "desc": phase.name, "hidden": self.hidden}
        with bars.bar(total=total, initial=done, **options) as bar:
            while done < total and not self.trainer.done(state, jnp.int32(per_epoch)):
                look = self.schedule.look(done, per_epoch, phase)
                while done < look:
                    begun = rows.before(rows.place(state), self.unlogged).phase_step
                    stops = self.schedule.rows(begun, look)
                    state = self._advance(state, source, per_epoch, phase, stops, bar)
                    done = int(state.phase_step)
                    if done < look:
                        self._pause(state)
                if self.schedule.evaluates(done, per_epoch, phase):
                    state = self._evaluate(state, data, pool, per_epoch, phase, bar)
                if done < total:
                    self._pause(state)
        return state

    def _advance(
        self,
        state: TrainState,
        source: Any,
        per_epoch: int,
        phase: Phase,
        stops: list[int],
        bar: Any,
    ) -> TrainState:
        """Takes the steps to the first of `stops`, or to a later one if it is close, and writes a row for each one passed."""
        done = int(state.phase_step)
        parts = [self.unlogged] if self.unlogged else []
        start, self.unlogged = rows.before(rows.place(state), self.unlogged), {}
        reach = done + min(meshes.agree(self.clock.stretch()), self.most)
        passed = [s for s in stops if s <= reach] or stops[:1]
        while done < passed[-1]:
            length = passed[-1] - done
            length = min(length, meshes.agree(self.clock.stretch()), self.most)
            length = min(length, source.reach(done))
            window, began = source.at(state, done), time.monotonic()
            state, metrics = self.fns["run"](
                state, window, jnp.int32(length), phase.program
            )
            # Waits for the device.
            parts.append({k: np.asarray(v)[:length] for k, v in metrics.items()})
            self.clock.trained(length, time.monotonic() - began)
            done += length
            bar.update(length)
            if done < passed[-1]:
                self._stop_if_asked(state, parts)
        # Means over a row's steps, whatever stretches they came in: a resumed run writes the same rows.
        whole = rows.joined(parts)
        grown = whole.get("advance", np.ones(done - start.phase_step, np.int32))
        row, first = {}, start.phase_step
        summary = self.trainer.row or rows.means
        for end in passed:
            part = slice(first - start.phase_step, end - start.phase_step)
            step = start.step + int(grown[: part.stop].sum())
            place, first = Place(start.phase, end, step), end
            values = summary({k: v[part] for k, v in whole.items()})
            row = self._log("train", place, source.pool, per_epoch, values)
            self._check_finite(row)
        self._check_finite(row, state)
        shown = next((k for k in ("loss", "accuracy") if k in row), None)
        if shown:
            bar.set_postfix({shown: f"{row[shown]:.3f}"}, refresh=False)
        return state

    def _log(
        self, split: str, place: Place, pool: Any, per_epoch: int, values: rows.Row
    ) -> rows.Row:
        """Writes a row: what, when, the values, and the clock."""
        row: rows.Row = {"split": split, "step": place.step}
        if self.trainer.where is not None:
            row |= self.trainer.where(place, pool, per_epoch)
        elif per_epoch:
            row["epoch"] = place.phase_step / per_epoch
        row |= values
        self.run.log(row | self.clock.read())
        return row

    def _evaluate(self, state, data, pool, per_epoch: int, phase, bar) -> TrainState:
        """Looks at the held-out samples, writes rows, and says what was found."""
        if self.found is None and self.trainer.inspect is not None:
            self.trainer.inspect(self.trainer.model(state), data)
        state, self.found = self.fns["evaluate"](state, data, phase.program)
        found, report = jax.tree.map(np.asarray, self.found), self.trainer.report
        place = rows.place(state)
        written = [
            self._log(row.get("split", self.split), place, pool, per_epoch, row)
            for row in (report(found) if report else [])
        ]
        if written and not self.hidden:
            text = rows.sentence(phase, written)
            bar.write(text) if bar is not None else print(text, flush=True)
        return state

    def _stop_if_asked(self, state: TrainState, parts: list[Any]) -> None:
        """Saves and ends the run, if a signal has come; `parts` are the metrics of steps without a row."""
        if number := self.asked.together():
            step = int(state.step)
            self.run.save(step, state, rows.joined(parts) if parts else None)
            raise stop.Stopped(f"Stopped at step {step}; {self.run.place}.", number)

    def _pause(self, state: TrainState) -> None:
        """Saves if it is time to."""
        self._stop_if_asked(state, [])
        late = time.monotonic() - self.saved >= self.schedule.checkpoint_seconds
        if meshes.agree(late):
            self._save(state)

    def _save(self, state: TrainState) -> None:
        self.run.save(int(state.step), state)
        self.saved = time.monotonic()

    def _check_finite(self, row: rows.Row, state: TrainState | None = None) -> None:
        """A neuron whose potential is NaN is silent, and the loss of a silent network is finite: so look at the parameters too."""
        what = next(
            (
                f"training {name}"
                for name, value in row.items()
                if isinstance(value, float) and not math.isfinite(value)
            ),
            None,
        )
        if what is None and state is not None:
            fine = _all_finite(self.parameters(state))
            what = None if fine else "parameters' value"
        if what is not None:
            raise FloatingPointError(
                f"The {what} is NaN or infinite at step {row['step']}. Lower the step size (`--learning-rate`); {self.run.place}."
            )
