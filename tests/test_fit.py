"""`fit` through a run folder: what happens at which step, and going on after a kill. What holds for all trainers is in test_trainers.py."""

import json
import math
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.model import Model
from jsnn.train import checkpoint, clock, loop, runs, stop, supervised
from jsnn.train import task as tasks
from jsnn.train import trainer as trainers
from jsnn.train.fitted import Fitted
from jsnn.train.trainer import Phase, Prediction, Trainer

N, BATCH = 10, 2  # five steps an epoch


@pytest.fixture(autouse=True)
def one_step_at_a_time(monkeypatch):
    """Rows that are close to one another would come at once, and a checkpoint after them: see test_trainers.py."""
    monkeypatch.setattr(clock, "_STRETCH_SECONDS", 0.0)


def open_run(out: pathlib.Path, **kwargs) -> runs.Run:
    return runs.Run(out, experiment="test", config={"seed": 0}, **kwargs)


def plan(schedule: loop.Schedule, per_epoch: int) -> tuple[list[int], list[int]]:
    """All steps of two epochs at which rows are due, and those with an evaluation."""
    phase, done, stops = Phase("train", epochs=2), 0, []
    while done < 2 * per_epoch:
        look = schedule.look(done, per_epoch, phase)
        stops += schedule.rows(done, look)
        done = look
    return stops, [s for s in stops if schedule.evaluates(s, per_epoch, phase)]


@pytest.mark.parametrize(
    ("log_every", "eval_every", "stops", "evaluations"),
    [
        (None, None, [7, 14], [7, 14]),
        (None, 0, [7, 14], [14]),
        (3, 0, [3, 6, 7, 9, 12, 14], [14]),
        (None, 5, [1, 6, 7, 11, 14], [1, 6, 7, 11, 14]),
        (4, 5, [1, 4, 6, 7, 8, 11, 12, 14], [1, 6, 7, 11, 14]),
        (100, 1, list(range(1, 15)), list(range(1, 15))),
    ],
)
def test_schedule(log_every, eval_every, stops, evaluations):
    schedule = loop.Schedule(log_every, eval_every)
    assert plan(schedule, 7) == (stops, evaluations)


@pytest.mark.parametrize(
    "wrong",
    [
        {"log_every": 0},
        {"eval_every": -1},
        {"checkpoint_seconds": -1.0},
        {"checkpoint_seconds": math.nan},
    ],
)
def test_schedule_refuses(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}`"):
        loop.Schedule(**wrong)


class Killed(BaseException):
    """Stands for SIGKILL; `test_resume.py` sends real ones."""


def trainer(*, optimizer=None, poison: int | None = None, epochs: int = 3) -> Trainer:
    """Fits a line by noisy gradient descent; after `poison` steps the loss is NaN."""

    def init(key):
        return Model({"w": jax.random.normal(key, (3,))}, {"count": jnp.int32(0)})

    def loss(model, key, images, labels):
        error = images @ model.params["w"] - labels + jax.random.normal(key, (BATCH,))
        value = jnp.square(error).mean()
        count = model.rest["count"]
        if poison is not None:
            value = jnp.where(count >= poison, jnp.nan, value)
        return value, ({"count": count + 1}, (jnp.abs(error) < 1).mean())

    task = tasks.Task(
        init,
        loss,
        lambda model, images: images @ model.params["w"],
        lambda scores, labels: jnp.square(scores - labels),
        lambda scores: Prediction(jnp.round(scores).astype(int), scores),
    )
    optimizer = optimizer or optax.sgd(0.01)
    return supervised.supervised(task, optimizer, batch_size=BATCH, epochs=epochs)


PLAIN = trainer()


SETS = supervised.Data(
    supervised.Samples(
        np.linspace(-1, 1, 3 * N, dtype=np.float32).reshape(N, 3), np.arange(N) % 3
    ),
    supervised.Samples(np.eye(3, dtype=np.float32), np.arange(3)),
)


def drive(run: runs.Run, schedule=None, it=PLAIN) -> Fitted:
    if schedule is None:
        schedule = loop.Schedule(2, 4, checkpoint_seconds=0.0)
    key = jax.random.key(0)
    return loop.fit(it, SETS, key, run=run, schedule=schedule, progress=False)


def timeless(run: runs.Run) -> list[dict]:
    times = ("seconds", "train_seconds", "cpu_seconds")
    return [{k: v for k, v in row.items() if k not in times} for row in run.rows()]


def test_rows_are_means_of_the_steps_since_the_last(tmp_path):
    run = open_run(tmp_path)
    result = drive(run)
    it = PLAIN
    sets = jax.device_put(SETS)
    state, losses, accuracies = trainers.start(it, jax.random.key(0)), [], []
    step_fn = jax.jit(it.run, static_argnums=3)
    for _ in range(15):
        state, metrics = step_fn(state, sets.train, 1, None)
        losses.append(metrics["loss"][0])
        accuracies.append(metrics["accuracy"][0])
    rows = [row for row in run.rows() if row["split"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15]
    start = 0
    for row in rows:
        since = slice(start, row["step"])
        # float32 means in another order
        assert row["loss"] == pytest.approx(float(np.mean(losses[since])), rel=1e-6)
        assert row["accuracy"] == pytest.approx(float(np.mean(accuracies[since])))
        assert row["epoch"] == row["step"] / 5
        start = row["step"]
    tests = [row for row in run.rows() if row["split"] == "test"]
    assert [row["step"] for row in tests] == [1, 5, 9, 10, 13, 15]
    _, final = it.evaluate(state, sets, None)
    assert tests[-1]["loss"] == pytest.approx(float(np.mean(final.loss)), rel=1e-6)
    np.testing.assert_allclose(result.found.scores, final.scores, rtol=1e-6)
    assert result.state.step == 15
    assert result.samples_per_second > 0
    assert checkpoint.steps(run.checkpoints) == [14, 15]


def test_seconds_between_checkpoints(tmp_path):
    run = open_run(tmp_path)
    drive(run, loop.Schedule(1, checkpoint_seconds=1e6))
    assert checkpoint.steps(run.checkpoints) == [15]


def test_other_samples_are_evaluated_afterwards(tmp_path):
    result = drive(open_run(tmp_path))
    other = result.evaluate(supervised.Data(SETS.held, SETS.train))
    assert other.loss.shape == (N,)
    same = result.evaluate(SETS)
    np.testing.assert_allclose(same.loss, result.found.loss, rtol=1e-6)


def drive_until(
    run, monkeypatch, step: int, schedule=None, *, saves: bool = False, it=PLAIN
):
    """Ends as a kill would when the checkpoint of `step` is due, or once it is saved."""
    save = checkpoint.save

    def save_or_die(folder, at, state, **kwargs):
        if at != step or saves:
            save(folder, at, state, **kwargs)
        if at == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_or_die)
        with pytest.raises(Killed):
            drive(run, schedule, it)


@pytest.mark.parametrize("killed_at", [1, 4, 10])
def test_resuming_gives_the_same_rows_and_parameters(tmp_path, monkeypatch, killed_at):
    """Killed between a row and its checkpoint, so that rows have to be taken back."""
    whole, run = open_run(tmp_path / "whole"), open_run(tmp_path / "killed")
    expected = drive(whole)
    drive_until(run, monkeypatch, killed_at)
    assert run.rows()[-1]["step"] == killed_at
    run = open_run(tmp_path / "killed", resume=True)
    result = drive(run)
    assert timeless(run) == timeless(whole)
    for a, b in zip(*map(jax.tree.leaves, (result.state, expected.state)), strict=True):
        assert jnp.all(a == b)


def test_a_finished_run_resumed_says_the_same(tmp_path):
    run = open_run(tmp_path)
    first = drive(run)
    before = run.rows()
    run = open_run(tmp_path, resume=True)
    again = drive(run)
    assert run.rows() == before
    np.testing.assert_array_equal(again.found.loss, first.found.loss)
    assert again.samples_per_second == first.samples_per_second
    assert again.seconds >= before[-1]["seconds"]


class Hours:
    """A clock that every reading puts on by a second."""

    def __init__(self, now: float):
        self.now = now

    def monotonic(self) -> float:
        self.now += 1
        return self.now

    process_time = monotonic


def test_time_adds_up_over_the_parts(tmp_path, monkeypatch):
    """The clock of another process starts anywhere; the time between the parts does not count."""
    schedule, it = loop.Schedule(1, 0, checkpoint_seconds=0.0), trainer(epochs=2)

    def set_clock(now: float) -> None:
        hours = Hours(now)
        monkeypatch.setattr(loop, "time", hours)
        monkeypatch.setattr(clock, "time", hours)

    set_clock(0.0)
    expected = drive(whole := open_run(tmp_path / "whole"), schedule, it)
    run = open_run(tmp_path / "parts")
    for began, step in ((1e3, 3), (1e6, 7)):
        set_clock(began)
        drive_until(run, monkeypatch, step, schedule, saves=True, it=it)
        run = open_run(tmp_path / "parts", resume=True)
    set_clock(-50.0)
    result = drive(run, schedule, it)
    # What a part does after its last row, and before its first, differs by a reading or two.
    seconds = [row["seconds"] for row in run.rows()]
    assert seconds == sorted(seconds)
    assert result.seconds == pytest.approx(expected.seconds, abs=8)
    assert expected.seconds > 30
    # Each of the ten stretches lies between two readings: one second.
    assert run.rows()[-1]["train_seconds"] == whole.rows()[-1]["train_seconds"] == 10
    assert result.samples_per_second == expected.samples_per_second == 10 * BATCH / 10


def test_a_nan_loss_stops_the_run(tmp_path):
    run = open_run(tmp_path)
    with pytest.raises(FloatingPointError, match=r"loss is NaN.*step 8.*--learning"):
        drive(run, it=trainer(poison=7))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["loss"] is None for row in rows] == [False] * (len(rows) - 1) + [True]
    assert checkpoint.steps(run.checkpoints) == [5, 6]  # none of step 8


def test_nan_parameters_stop_the_run_even_if_the_loss_is_finite(tmp_path):
    """A spiking network with NaN potentials is silent, so its loss is that of guessing."""

    def update(updates, state, params=None):
        scale = jnp.where(state >= 3, jnp.nan, 1e-3)
        return jax.tree.map(lambda g: -scale * g, updates), state + 1

    optimizer = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    schedule = loop.Schedule(1, 0, checkpoint_seconds=0.0)
    run = open_run(tmp_path)
    with pytest.raises(FloatingPointError, match=r"parameters.*NaN.*step 4"):
        drive(run, schedule, trainer(optimizer=optimizer))
    assert run.rows()[-1]["loss"] is not None
    assert checkpoint.steps(run.checkpoints) == [2, 3]


def test_a_damaged_checkpoint_costs_its_steps_only(tmp_path):
    expected = drive(whole := open_run(tmp_path / "whole"))
    run = open_run(tmp_path / "damaged")
    drive(run)
    (newest,) = run.checkpoints.glob("step_00000015")
    next(p for p in newest.rglob("*") if p.is_file()).unlink()
    run = open_run(tmp_path / "damaged", resume=True)
    with pytest.warns(UserWarning, match="passed over"):
        result = drive(run)
    assert timeless(run) == timeless(whole)
    assert jnp.all(result.model.params["w"] == expected.model.params["w"])


def test_progress_is_shown_on_request(tmp_path, capfd):
    it, run = trainer(epochs=1), open_run(tmp_path)
    loop.fit(it, SETS, jax.random.key(0), run=run)
    captured = capfd.readouterr()
    assert "5/5" in captured.err
    assert "loss=" in captured.err
    assert "test accuracy" in captured.out


@pytest.mark.parametrize("sent_at", [1, 2, 5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_rows_loses_nothing(
    tmp_path, monkeypatch, number, sent_at
):
    """Rows are means over four steps; the run stops within one, and goes on as if it had not."""
    schedule = loop.Schedule(4, 0)
    whole, run = open_run(tmp_path / "whole"), open_run(tmp_path / "stopped")
    expected = drive(whole, schedule)
    trained = clock.Clock.trained

    def send(self, num_steps, seconds):
        trained(self, num_steps, seconds)
        send.count += 1
        if send.count == sent_at:
            signal.raise_signal(number)

    send.count = 0
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(clock.Clock, "trained", send)
        with pytest.raises(stop.Stopped, match=f"at step {sent_at}") as caught:
            drive(run, schedule)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert checkpoint.steps(run.checkpoints) == [sent_at]
    again = open_run(tmp_path / "stopped", resume=True)
    result = drive(again, schedule)
    assert timeless(again) == timeless(whole)
    jax.tree.map(np.testing.assert_array_equal, result.model, expected.model)
