"""Trains the networks of `jsnn.models.stdp` through a run folder: layer after layer, resumable at any image.

Layers without labels come first, each for its epochs on inputs that are computed once and kept; then the decision by R-STDP, until the
validation set has not improved for a while. What happens at which image depends on the key and the position alone, and a checkpoint
holds all of the rest, so a killed run ends as one that was not. Finished layers are also written to `layers/`, with a
fingerprint of everything they depend on, and any run for which the fingerprint is the same may take them over.

Axes: N images, L layers side by side.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jsnn import checkpoint
from jsnn.models import stdp_network
from jsnn.models.stdp import Modulated, Network, stages
from jsnn.models.stdp_network import Weights
from jsnn.runs import Run
from jsnn.stdp import joint, reward, train
from jsnn.stdp.plasticity import Doubling, Rates


class Encoded(NamedTuple):
    """Images as the first block's input, and their classes."""

    times: Any  # uint8 [N, C, H, W]
    labels: Any  # int32 [N]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long, and when what is saved.

    Attributes:
      epochs: one number a block and, last, at most so many of the decision.
      window: images between two rows of metrics, and between two adaptations of the rates of R-STDP.
      doubling: images after which the rates of STDP double, up to 0.15 for synapses that are strengthened.
      patience: R-STDP ends when the validation set has not improved for more epochs than this.
      checkpoint_seconds: between checkpoints, at the end of a window.
    """

    epochs: tuple[int, ...]
    window: int = 1000
    doubling: int = 500
    patience: int = 5
    checkpoint_seconds: float = 60.0

    def __post_init__(self):
        if min(self.window, self.doubling, *self.epochs) < 1:
            raise ValueError(
                f"`epochs`, `window` and `doubling` must be at least 1, got {self.epochs}, {self.window} and {self.doubling}."
            )
        if self.patience < 0 or not self.checkpoint_seconds >= 0:
            raise ValueError(
                f"`patience` and `checkpoint_seconds` must not be negative, got {self.patience} and {self.checkpoint_seconds}."
            )


class State(NamedTuple):
    """Everything that a run needs in order to go on: saved and restored as a whole."""

    weights: tuple[Weights, ...]
    rates: Rates  # of the layer that learns without labels
    count: Int[Array, ""]  # images since they last doubled
    rewards: tuple[tuple[Rates, Rates], ...]  # of the layers in R-STDP
    best: tuple[Weights, ...]  # weights of the best epoch of R-STDP
    best_accuracy: Float[Array, ""]
    best_epoch: Int[Array, ""]
    part: Int[Array, ""]  # layers finished
    epoch: Int[Array, ""]  # of the layer in training
    done: Int[Array, ""]  # images of the epoch
    step: Int[Array, ""]  # images in all


@dataclasses.dataclass(frozen=True)
class Part:
    """One layer that learns by itself, or, last, the decision."""

    name: str
    block: int
    branch: int


def names(network: Network) -> list[list[str]]:
    """Names of all layers, listed as `stages`: `layer 1`, and of layers side by side `layer 3a`, `layer 3b`."""
    return [
        [f"layer {n}" + ("abcdefgh"[i] if len(s) > 1 else "") for i in range(len(s))]
        for n, s in enumerate(stages(network), 1)
    ]


def parts(network: Network) -> list[Part]:
    """What is trained one after another."""
    found = [
        Part(name, block, branch)
        for block, of_block in enumerate(names(network)[: len(network.blocks)])
        for branch, name in enumerate(of_block)
    ]
    if network.decision:
        found.append(Part("decision", len(network.blocks), 0))
    return found


def _reward_params(network: Network) -> list[reward.RewardParams]:
    """Of the modulated layer, if there is one, and the decision layers: every layer that R-STDP trains."""
    found = [reward.RewardParams() for _ in network.decision]
    if network.modulated:
        rates = map(Rates._make, (network.modulated.reward, network.modulated.punish))
        bounds = train.STDPParams(0.0).bounds
        found.insert(0, reward.RewardParams(*rates, bounds=bounds))
    return found


def start(key: Array, network: Network) -> State:
    """The state before the first image."""

    def arrays(tree):
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)

    weights = stdp_network.init(key, network)
    zero = jnp.zeros((), jnp.int32)
    return State(
        weights,
        arrays(Rates(0.004, -0.003)),
        zero,
        tuple(arrays((p.reward, p.punish)) for p in _reward_params(network)),
        _learning(network, weights),
        jnp.float32(-1),
        zero,
        zero,
        zero,
        zero,
        zero,
    )


def _learning(network: Network, weights: tuple[Weights, ...]) -> tuple[Weights, ...]:
    """Those weights that R-STDP changes."""
    return weights[len(network.blocks) - bool(network.modulated) :]


def _with(network: Network, weights, learnt) -> tuple[Weights, ...]:
    """All weights, with those that R-STDP changes exchanged for others."""
    return (*weights[: len(weights) - len(learnt)], *learnt)


@functools.partial(jax.jit, static_argnames=("spec", "num_steps"))
def _unsupervised(state, inputs, order, length, every, *, spec, num_steps):
    """Shows the first `length` images of `order` to one layer."""
    params = train.params(spec)._replace(doubling=Doubling(every))

    def body(i, state):
        return train.step(spec, state, inputs[order[i]], params, num_steps)[0]

    state = jax.lax.fori_loop(0, length, body, state)
    return state, train.convergence(state.weights)


@functools.partial(jax.jit, static_argnames=("network",))
def _rewarded(states, inputs, labels, order, learns, *, network):
    """Shows one window, filled up with −1, to all layers that R-STDP trains; returns decisions too."""
    params, size = _reward_params(network), len(order)
    if network.modulated:
        hidden, decision = network.blocks[-1].branches[0], network.decision[0]
        state, verdicts = joint.run(
            (hidden, decision),
            joint.JointState(*states),
            inputs,
            labels,
            order,
            joint.JointParams(hidden.threshold, *params),
            network.frontend().num_steps,
            learns=learns[None],
            window=size,
        )
        states, decisions = tuple(state), verdicts.decision
    else:
        same = (inputs,) * len(network.decision)
        states, verdicts = reward.run_committee(
            network.decision,
            states,
            same,
            labels,
            order,
            params[-1],
            vote=stdp_network.majority,
            window=size,
        )
        decisions = stdp_network.majority(jnp.stack([v.decision for v in verdicts]))
    return states, decisions, [train.convergence(s.weights) for s in states]


def evaluate(network: Network, weights: tuple[Weights, ...], inputs: Any):
    """Decisions on what stands in front of R-STDP: the last block's input if that is modulated, else the decision's."""
    if network.modulated:
        number = len(network.blocks) - 1
        inputs = stdp_network.respond(network, number, weights[number], inputs)
    return stdp_network.decide(network.decision, weights[-1], inputs)


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


class _Session:
    """One process's part of a run: what the stages share."""

    def __init__(self, run: Run, network: Network, key: Array, schedule: Schedule):
        self.run, self.network, self.schedule = run, network, schedule
        key_init, self.key = jax.random.split(key)
        self.state = run.restore(start(key_init, network))
        run.rewind(int(self.state.step))
        self.clock, self.saved = Clock(run.rows()), time.monotonic()

    def save(self) -> None:
        checkpoint.save(self.run.checkpoints, int(self.state.step), self.state)
        self.saved = time.monotonic()

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved >= self.schedule.checkpoint_seconds:
            self.save()

    def order(self, part: int, count: int) -> np.ndarray:
        """The epoch's permutation of all images."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, part), self.state.epoch)
        return np.asarray(jax.random.permutation(key, count))

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
        epoch = int(self.state.epoch) + int(self.state.done) / count
        row = {"split": split, "layer": layer, "step": int(self.state.step)}
        row |= {"epoch": epoch, "seen": round(epoch * count), **values}
        self.run.log(row | self.clock.read())
        return row

    def finished(self) -> None:
        """Goes to the next part."""
        zero = jnp.int32(0)
        rates = jax.tree.map(jnp.float32, Rates(0.004, -0.003))
        part = self.state.part + 1
        self.state = self.state._replace(
            part=part, epoch=zero, done=zero, count=zero, rates=rates
        )
        if int(part) == len(parts(self.network)) - bool(self.network.decision):
            learnt = _learning(self.network, self.state.weights)
            self.state = self.state._replace(best=learnt)
        self.save()


def _exchange(weights: tuple[Weights, ...], part: Part, new: Array):
    """All weights, with those of one layer replaced."""
    block = list(weights[part.block])
    block[part.branch] = new
    return (*weights[: part.block], tuple(block), *weights[part.block + 1 :])


def _train_layer(session: _Session, part: Part, inputs: Array, bar: Any) -> None:
    """One layer's epochs without labels, from wherever the state stands."""
    network, count = session.network, len(inputs)
    spec = network.blocks[part.block].branches[part.branch]
    run = functools.partial(
        _unsupervised, spec=spec, num_steps=network.frontend().num_steps
    )
    number = int(session.state.part)
    while int(session.state.epoch) < session.schedule.epochs[part.block]:
        state = session.state
        order, shown = session.window(session.order(number, count))
        before = train.STDPState(
            state.weights[part.block][part.branch], state.rates, state.count
        )
        began = time.monotonic()
        after, index = run(before, inputs, order, shown, session.schedule.doubling)
        index = float(index)  # waits for the device
        session.clock.train_seconds += time.monotonic() - began
        weights = _exchange(state.weights, part, after.weights)
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
            _reward_states(network, state),
            inputs,
            labels,
            order,
            _learns(network.modulated, state, schedule),
            network=network,
        )
        states, decisions, indices = jax.block_until_ready(found)
        session.clock.train_seconds += time.monotonic() - began
        session.moved(
            shown,
            count,
            weights=_with(network, state.weights, _by_block(network, states)),
            rewards=tuple((s.reward, s.punish) for s in states),
        )
        quality = _quality(decisions[:shown], labels[order[:shown]])
        index = float(indices[-1])
        session.log("train", "decision", count, **quality, convergence=index)
        bar.update(shown)
        bar.set_postfix_str(f"R-STDP {100 * quality['accuracy']:.1f} %", refresh=False)
        if int(session.state.done) == 0:
            _end_epoch(session, validation, count, bar)
        session.save_if_due()
    session.state = session.state._replace(
        weights=_with(network, session.state.weights, session.state.best)
    )


def _end_epoch(
    session: _Session, validation: Encoded | None, count: int, bar: Any
) -> None:
    """Evaluates an epoch and keeps its weights if they are the best; without a validation set every epoch's."""
    state, network = session.state, session.network
    learnt = _learning(network, state.weights)
    if validation is None:
        session.state = state._replace(best=learnt, best_epoch=state.epoch)
        return
    decided = evaluate(network, state.weights, validation.times)
    quality = _quality(decided.prediction, validation.labels)
    row = session.log("validation", "decision", count, **quality)
    bar.write(
        f"R-STDP epoch {row['epoch']:3.0f}  validation accuracy {100 * row['accuracy']:6.2f} %  silent {100 * row['silent']:.2f} %"
    )
    if quality["accuracy"] >= float(state.best_accuracy):
        session.state = state._replace(
            best=learnt,
            best_accuracy=jnp.float32(quality["accuracy"]),
            best_epoch=state.epoch,
        )


def _stale(state: State, schedule: Schedule, validation: Encoded | None) -> bool:
    waited = int(state.epoch) - int(state.best_epoch)
    return validation is not None and waited > schedule.patience


def _learns(modulated: Modulated | None, state: State, schedule: Schedule) -> Array:
    """Whether the modulated and the decision layer learn in this window."""
    turn = (int(state.epoch) + int(state.done) // schedule.window) % 2 == 0
    alternate = modulated is not None and modulated.how == "alternate"
    return jnp.array([turn, not turn] if alternate else [True, True])


def _reward_states(network: Network, state: State) -> tuple[reward.RewardState, ...]:
    flat = [w for block in _learning(network, state.weights) for w in block]
    pairs = zip(flat, state.rewards, strict=True)
    return tuple(reward.RewardState(w, *rates) for w, rates in pairs)


def _by_block(network: Network, states) -> tuple[Weights, ...]:
    flat = [s.weights for s in states]
    if not network.modulated:
        return (tuple(flat),)
    return (flat[0],), tuple(flat[1:])


def _quality(decisions: Any, labels: Any) -> dict[str, float]:
    """Fractions right, wrong and silent; silence is neither right nor wrong."""
    found, labels = np.asarray(decisions), np.asarray(labels)
    hits, silent = float(np.mean(found == labels)), float(np.mean(found < 0))
    return {"accuracy": hits, "loss": 1.0 - hits - silent, "silent": silent}


def fingerprints(network: Network, schedule: Schedule, data: Any) -> list[str]:
    """Of every layer that learns without labels: what it depends on, `data` included, as a hash."""
    frontend = network.frontend()
    parts_so_far: list[Any] = [
        data,
        schedule.doubling,
        {k: np.asarray(v).tolist() for k, v in vars(frontend).items()},
    ]
    found = []
    for block, epochs in zip(network.blocks, schedule.epochs, strict=False):
        parts_so_far.append([dataclasses.asdict(block), epochs])
        text = json.dumps(parts_so_far, sort_keys=True, default=str)
        found += [hashlib.sha256(text.encode()).hexdigest()] * len(block.branches)
    return found


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
            weights=_exchange(state.weights, part, weights),
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
    progress: bool = True,
) -> tuple[State, Clock]:
    """Trains from `key`, or from the newest checkpoint, to the end.

    Args:
      run: where rows, checkpoints and layers go.
      network: from `jsnn.models.stdp`.
      key: decides initial weights and the order of images.
      held: training and validation set, from `stdp_network.spike_times`; without the latter R-STDP goes on to its last epoch.
      schedule: epochs and intervals.
      data: whatever decides `held` and `key`, for the fingerprints of finished layers; it must survive JSON.
      reuse: folders of other runs, whose finished layers are taken over where they are those that this run would train.
      progress: show a progress bar.

    Returns:
      The state, with the weights of the best epoch on the validation set (of the last, without one), and the clock.

    Raises:
      FloatingPointError: if weights become NaN or infinite.
    """
    from tqdm import tqdm

    session = _Session(run, network, key, schedule)
    todo, marks = parts(network), fingerprints(network, schedule, data)
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
            block, fed = _advance(network, session.state, block, part.block, fed)
            if part.name == "decision":
                _train_decision(session, _labelled(fed, held), bar)
                session.finished()
                continue
            fresh = int(session.state.epoch) == int(session.state.done) == 0
            if not (
                fresh and _take_over(session, part, marks[number], reuse or [], count)
            ):
                seen = _seen(network, part.block, fed[0])
                _train_layer(session, part, seen, bar)
            _write_layer(session, part, marks[number])
            session.finished()
    return session.state, session.clock


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
    """Computes what block `target` sees from what block `block` saw, for every set; each is computed once and kept.

    In front of R-STDP that changes the last block too, it is that block's input.
    """
    if target == len(network.blocks) and network.modulated:
        target -= 1
    while block < target:
        fed = [
            None
            if x is None
            else stdp_network.respond(network, block, state.weights[block], x)
            for x in fed
        ]
        block += 1
    return block, fed
