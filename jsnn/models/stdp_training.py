"""Trains the networks of `jsnn.models.stdp` through a run folder: layer after layer, resumable at any image.

A layer's input is computed once and kept while it learns; R-STDP goes on until the validation set has not improved for a while. What happens at which image depends on the key and the position alone, and a checkpoint
holds all of the rest, so a killed run ends as one that was not. Finished layers are also written to `layers/`, with a
fingerprint of everything they depend on, and any run for which the fingerprint is the same may take them over.

Axes: N images, L layers side by side.
"""

import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jsnn import checkpoint
from jsnn.models import stdp_network, stdp_steps
from jsnn.models.stdp import Network
from jsnn.models.stdp_network import Weights
from jsnn.models.stdp_steps import Encoded, Part, Schedule, State
from jsnn.runs import Run
from jsnn.stdp import train


class Clock:
    """Seconds of the whole run, those spent on learning, and those of all cores together; all go on from the last row."""

    def __init__(self, rows: list[dict[str, Any]]):
        last = rows[-1] if rows else {}
        self._began = time.monotonic() - last.get("seconds", 0.0)
        self._cpu_before = last.get("cpu_seconds", 0.0) - time.process_time()
        self.train_seconds = last.get("train_seconds", 0.0)

    def read(self) -> dict[str, float]:
        """All three, for a row."""
        return {
            "seconds": time.monotonic() - self._began,
            "train_seconds": self.train_seconds,
            "cpu_seconds": time.process_time() + self._cpu_before,
        }


def initial_weights(key: Array, network: Network) -> tuple[Weights, ...]:
    """The weights with which `drive` begins from this key."""
    return stdp_steps.start(jax.random.split(key)[0], network).weights


class _Session:
    """One process's part of a run: what the stages share."""

    def __init__(
        self, run: Run, network: Network, key: Array, schedule: Schedule, clock: Clock
    ):
        self.run, self.network, self.schedule = run, network, schedule
        key_init, self.key = jax.random.split(key)
        self.state = run.restore(stdp_steps.start(key_init, network))
        run.rewind(int(self.state.step))
        self.clock, self.saved = clock, time.monotonic()
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    def save(self) -> None:
        checkpoint.save(self.run.checkpoints, int(self.state.step), self.state)
        self.saved = time.monotonic()

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved >= self.schedule.checkpoint_seconds:
            self.save()

    def order(self, part: int, count: int) -> np.ndarray:
        """The epoch's permutation of all images."""
        epoch = (part, int(self.state.epoch))
        if self._order is None or self._order[0] != epoch:
            shuffled = stdp_steps.order(self.key, *epoch, count)
            self._order = (epoch, np.asarray(shuffled))
        return self._order[1]

    def window(self, order: np.ndarray) -> tuple[np.ndarray, int]:
        """The next images, filled up with −1, and how many there are."""
        size = min(self.schedule.window, len(order))
        done = int(self.state.done)
        chosen = order[done : done + size].astype(np.int32)
        filled = np.full(size, -1, np.int32)
        filled[: len(chosen)] = chosen
        return filled, len(chosen)

    def moved(self, shown: int, total: int, **changes: Any) -> None:
        """The state after a window: with it the position, and the next epoch at the end of one."""
        done = int(self.state.done) + shown
        over = done >= total
        self.state = self.state._replace(
            done=jnp.int32(0 if over else done),
            epoch=self.state.epoch + jnp.int32(over),
            step=self.state.step + jnp.int32(shown),
            **changes,
        )

    def log(self, split: str, layer: str, count: int, **values: Any) -> dict[str, Any]:
        seen = int(self.state.epoch) * count + int(self.state.done)
        row = {"split": split, "layer": layer, "step": int(self.state.step)}
        row |= {"epoch": seen / count, "seen": seen, **values}
        self.run.log(row | self.clock.read())
        return row

    def finished(self) -> None:
        """Goes to the next part."""
        zero, rates = jnp.int32(0), stdp_steps.first_rates(self.network)
        part = self.state.part + 1
        self.state = self.state._replace(
            part=part, epoch=zero, done=zero, count=zero, rates=rates
        )
        if int(part) == len(stdp_steps.parts(self.network)) - 1:  # R-STDP is next
            learnt = stdp_steps.learning(self.network, self.state.weights)
            self.state = self.state._replace(best=learnt)
        self.save()


_unsupervised = jax.jit(stdp_steps.unsupervised, static_argnames=("spec", "num_steps"))
_rewarded = jax.jit(stdp_steps.rewarded, static_argnames="network")


def _train_layer(session: _Session, part: Part, inputs: Array, bar: Any) -> None:
    """One layer's epochs without labels, from wherever the state stands."""
    network, count = session.network, len(inputs)
    spec = network.blocks[part.block].branches[part.branch]
    run = functools.partial(
        _unsupervised, spec=spec, num_steps=network.frontend().num_steps
    )
    doubling = stdp_steps.doubling(network, session.schedule)
    number = int(session.state.part)
    while int(session.state.epoch) < session.schedule.epochs[part.block]:
        state = session.state
        order, shown = session.window(session.order(number, count))
        before = train.STDPState(
            state.weights[part.block][part.branch], state.rates, state.count
        )
        began = time.monotonic()
        after, index = run(before, inputs, order, shown, doubling)
        index = float(index)  # waits for the device
        session.clock.train_seconds += time.monotonic() - began
        weights = stdp_steps.exchange(state.weights, part, after.weights)
        session.moved(
            shown, count, weights=weights, rates=after.rates, count=after.count
        )
        session.log(
            "train", part.name, count, convergence=index, ltp=float(after.rates.ltp)
        )
        if not np.isfinite(index):
            raise FloatingPointError(
                f"Weights of {part.name} are NaN or infinite at step {int(session.state.step)}."
            )
        bar.update(shown)
        bar.set_postfix_str(f"{part.name} w(1-w) {index:.4f}", refresh=False)
        session.save_if_due()


def _train_decision(
    session: _Session, held: tuple[Encoded, Encoded | None], bar: Any
) -> None:
    """R-STDP epochs from wherever the state stands, to the last or until validation has not improved for long enough."""
    network, schedule = session.network, session.schedule
    (inputs, labels), validation = held
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    count, number = len(labels), int(session.state.part)
    while int(session.state.epoch) < schedule.epochs[-1] and not _stale(
        session.state, schedule, validation
    ):
        state = session.state
        order, shown = session.window(session.order(number, count))
        began = time.monotonic()
        found = _rewarded(
            stdp_steps.reward_states(network, state.weights, state.rewards),
            inputs,
            labels,
            order,
            stdp_steps.learns(network.modulated, state, schedule),
            network=network,
        )
        states, decisions, indices = jax.block_until_ready(found)
        session.clock.train_seconds += time.monotonic() - began
        session.moved(
            shown,
            count,
            weights=stdp_steps.with_learnt(
                network, state.weights, stdp_steps.by_block(network, states)
            ),
            rewards=tuple((s.reward, s.punish) for s in states),
        )
        quality = stdp_steps.quality(decisions[:shown], labels[order[:shown]])
        index = float(indices[-1])
        session.log("train", "decision", count, **quality, convergence=index)
        bar.update(shown)
        bar.set_postfix_str(f"R-STDP {100 * quality['accuracy']:.1f} %", refresh=False)
        if int(session.state.done) == 0:
            _end_epoch(session, validation, count, bar)
        session.save_if_due()
    session.save()


def _end_epoch(
    session: _Session, validation: Encoded | None, count: int, bar: Any
) -> None:
    """Evaluates an epoch and keeps its weights if they are the best; without a validation set every epoch's."""
    state, network = session.state, session.network
    learnt = stdp_steps.learning(network, state.weights)
    if validation is None:
        session.state = state._replace(best=learnt, best_epoch=state.epoch)
        return
    decided = stdp_steps.evaluate(network, state.weights, validation.times)
    quality = stdp_steps.quality(decided.prediction, validation.labels)
    row = session.log("validation", "decision", count, **quality)
    bar.write(
        f"R-STDP epoch {row['epoch']:3.0f}  validation accuracy {100 * row['accuracy']:6.2f} %  silent {100 * row['silent']:.2f} %"
    )
    accuracy = jnp.float32(quality["accuracy"])
    if accuracy >= state.best_accuracy:
        session.state = state._replace(
            best=learnt, best_accuracy=accuracy, best_epoch=state.epoch
        )


def _stale(state: State, schedule: Schedule, validation: Encoded | None) -> bool:
    waited = int(state.epoch) - int(state.best_epoch)
    return validation is not None and waited > schedule.patience


def _path(folder: pathlib.Path, part: Part) -> pathlib.Path:
    return folder / "layers" / f"{part.name.replace(' ', '_')}.npz"


def _take_over(
    session: _Session, part: Part, mark: str, folders: list[pathlib.Path], count: int
) -> bool:
    """Takes a finished layer from another run's folder if it is the very one that this run would train."""
    for folder in folders:
        path = _path(folder, part)
        if not path.exists():
            continue
        with np.load(path) as stored:
            if str(stored["fingerprint"]) != mark:
                continue
            weights = jnp.asarray(stored["weights"])
        epochs = jnp.int32(session.schedule.epochs[part.block])
        state = session.state
        session.state = state._replace(
            weights=stdp_steps.exchange(state.weights, part, weights),
            epoch=epochs,
            done=jnp.int32(0),
            step=state.step + epochs * count,
        )
        index = float(train.convergence(weights))
        session.log("train", part.name, count, convergence=index)
        return True
    return False


def _write_layer(session: _Session, part: Part, mark: str) -> None:
    path = _path(session.run.out, part)
    path.parent.mkdir(exist_ok=True)
    weights = np.asarray(session.state.weights[part.block][part.branch])
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez(file, weights=weights, fingerprint=mark)
    unfinished.replace(path)


def drive(
    run: Run,
    network: Network,
    key: Array,
    held: tuple[Encoded, Encoded | None],
    schedule: Schedule,
    *,
    data: Any = None,
    reuse: list[pathlib.Path] | None = None,
    clock: Clock | None = None,
    progress: bool = True,
) -> State:
    """Trains from `key`, or from the newest checkpoint, to the end.

    Args:
      run: where rows, checkpoints and layers go.
      network: from `jsnn.models.stdp`.
      key: decides initial weights and the order of images.
      held: training and validation set, from `stdp_network.spike_times`; without the latter R-STDP goes on to its last epoch.
      schedule: epochs and intervals.
      data: whatever decides `held` and `key`, for the fingerprints of finished layers; it must survive JSON.
      reuse: folders of other runs, whose finished layers are taken over where they are those that this run would train.
      clock: one that already runs, to count what came before.
      progress: show a progress bar.

    Returns:
      The state, with the weights of the best epoch on the validation set, or of the last epoch without one.

    Raises:
      FloatingPointError: if weights become NaN or infinite.
    """
    from tqdm import tqdm

    session = _Session(run, network, key, schedule, clock or Clock(run.rows()))
    todo = stdp_steps.parts(network)
    marks = stdp_steps.fingerprints(network, schedule, data)
    count = len(held[0].labels)
    epochs = [schedule.epochs[p.block] for p in todo]
    with tqdm(
        total=count * sum(epochs),
        initial=int(session.state.step),
        unit="image",
        disable=not progress,
    ) as bar:
        block, fed = 0, [None if x is None else x.times for x in held]
        for number, part in enumerate(todo):
            if number < int(session.state.part):
                continue
            target = stdp_steps.input_block(network, part)
            block, fed = _advance(network, session.state, block, target, fed)
            if part.name == "decision":
                # Never finished for good: resumed with more epochs to go, it goes on where it stopped.
                _train_decision(session, _labelled(fed, held), bar)
                break
            fresh = int(session.state.epoch) == int(session.state.done) == 0
            if not (
                fresh and _take_over(session, part, marks[number], reuse or [], count)
            ):
                seen = _seen(network, part.block, fed[0])
                _train_layer(session, part, seen, bar)
            _write_layer(session, part, marks[number])
            session.finished()
    state = session.state
    return state._replace(
        weights=stdp_steps.with_learnt(network, state.weights, state.best)
    )


def _seen(network: Network, block: int, inputs: Any) -> Array:
    num_steps = network.frontend().num_steps
    return jnp.asarray(stdp_network.inhibited(network.blocks[block], inputs, num_steps))


def _labelled(
    fed: list[Any], held: tuple[Encoded, Encoded | None]
) -> tuple[Encoded, Encoded | None]:
    train_set, validation = (
        None if x is None else Encoded(times, x.labels)
        for times, x in zip(fed, held, strict=True)
    )
    assert train_set is not None
    return train_set, validation


def _advance(
    network: Network, state: State, block: int, target: int, fed: list[Any]
) -> tuple[int, list[Any]]:
    """Computes what block `target` sees from what block `block` saw, for every set; each is computed once and kept."""
    while block < target:
        fed = [
            None
            if x is None
            else stdp_network.respond(network, block, state.weights[block], x)
            for x in fed
        ]
        block += 1
    return block, fed
