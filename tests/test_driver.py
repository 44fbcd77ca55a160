"""Driving a trainer through a run folder: what happens at which step, and going on after a kill."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn import checkpoint, driver, runs, training
from jsnn.layers import Model

N, BATCH = 10, 2  # five steps an epoch


def open_run(out: pathlib.Path, **kwargs) -> runs.Run:
    return runs.Run(out, experiment="test", config={"seed": 0}, **kwargs)


def plan(schedule: driver.Schedule, per_epoch: int) -> tuple[list[int], list[int]]:
    """All stops, and those with an evaluation."""
    done, stops = 0, []
    while done < schedule.num_epochs * per_epoch:
        done = schedule.stops(done, per_epoch)
        stops.append(done)
    return stops, [s for s in stops if schedule.evaluates(s, per_epoch)]


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
    schedule = driver.Schedule(2, log_every, eval_every)
    assert plan(schedule, 7) == (stops, evaluations)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_epochs": 0},
        {"log_every": 0},
        {"eval_every": -1},
        {"checkpoint_seconds": -1.0},
        {"checkpoint_seconds": math.nan},
    ],
)
def test_schedule_refuses(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}`"):
        driver.Schedule(**{"num_epochs": 1, **wrong})


class Killed(BaseException):
    """Stands for SIGKILL; `test_resume.py` sends real ones."""


def trainer(*, optimizer=None, poison: int | None = None) -> training.Trainer:
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

    def predict(model, images, labels):
        scores = images @ model.params["w"]
        return jnp.square(scores - labels), jnp.round(scores).astype(int), scores

    task = training.Task(init, loss, predict)
    optimizer = optimizer or optax.sgd(0.01)
    return training.trainer(task, optimizer, num_train=N, batch_size=BATCH)


PLAIN = trainer()


SETS = (
    (np.linspace(-1, 1, 3 * N, dtype=np.float32).reshape(N, 3), np.arange(N) % 3),
    (np.eye(3, dtype=np.float32), np.arange(3)),
)


def drive(run: runs.Run, schedule=None, it=PLAIN) -> driver.Result:
    if schedule is None:
        schedule = driver.Schedule(3, 2, 4, checkpoint_seconds=0.0)
    return driver.drive(
        run,
        it,
        jax.random.key(0),
        *SETS,
        schedule,
        batch_size=BATCH,
        progress=False,
    )


def timeless(run: runs.Run) -> list[dict]:
    times = ("seconds", "train_seconds")
    return [{k: v for k, v in row.items() if k not in times} for row in run.rows()]


def test_rows_are_means_of_the_steps_since_the_last(tmp_path):
    run = open_run(tmp_path)
    result = drive(run)
    it = PLAIN
    state, losses, accuracies = it.init(jax.random.key(0)), [], []
    step_fn, evaluate = jax.jit(it.run), jax.jit(it.evaluate)
    for _ in range(15):
        state, metrics = step_fn(state, *jax.device_put(SETS[0]), 1)
        losses.append(metrics.loss[0])
        accuracies.append(metrics.accuracy[0])
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
    final = evaluate(state.model, *jax.device_put(SETS[1]))
    assert tests[-1]["loss"] == pytest.approx(float(np.mean(final.loss)), rel=1e-6)
    np.testing.assert_allclose(result.evaluation.scores, final.scores, rtol=1e-6)
    assert result.state.step == 15
    assert result.samples_per_second > 0
    assert checkpoint.steps(run.checkpoints) == [14, 15]


def test_seconds_between_checkpoints(tmp_path):
    run = open_run(tmp_path)
    drive(run, driver.Schedule(3, 1, checkpoint_seconds=1e6))
    assert checkpoint.steps(run.checkpoints) == [15]


def drive_until(run, monkeypatch, step: int, schedule=None, *, saves: bool = False):
    """Ends as a kill would when the checkpoint of `step` is due, or once it is saved."""
    save = checkpoint.save

    def save_or_die(folder, at, state):
        if at != step or saves:
            save(folder, at, state)
        if at == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_or_die)
        with pytest.raises(Killed):
            drive(run, schedule)


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
    np.testing.assert_array_equal(again.evaluation.loss, first.evaluation.loss)
    assert again.samples_per_second == first.samples_per_second
    assert again.seconds >= before[-1]["seconds"]


class Hours:
    """A clock that every reading puts on by a second."""

    def __init__(self, now: float):
        self.now = now

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_time_adds_up_over_the_parts(tmp_path, monkeypatch):
    """The clock of another process starts anywhere; the time between the parts does not count."""
    schedule = driver.Schedule(2, 1, 0, checkpoint_seconds=0.0)
    monkeypatch.setattr(driver, "time", Hours(0.0))
    expected = drive(whole := open_run(tmp_path / "whole"), schedule)
    run = open_run(tmp_path / "parts")
    for began, step in ((1e3, 3), (1e6, 7)):
        monkeypatch.setattr(driver, "time", Hours(began))
        drive_until(run, monkeypatch, step, schedule, saves=True)
        run = open_run(tmp_path / "parts", resume=True)
    monkeypatch.setattr(driver, "time", Hours(-50.0))
    result = drive(run, schedule)
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
    schedule = driver.Schedule(1, 1, 0, checkpoint_seconds=0.0)
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
    assert jnp.all(result.state.model.params["w"] == expected.state.model.params["w"])


def test_progress_is_shown_on_request(tmp_path, capfd):
    driver.drive(
        open_run(tmp_path),
        PLAIN,
        jax.random.key(0),
        *SETS,
        driver.Schedule(1),
        batch_size=BATCH,
    )
    captured = capfd.readouterr()
    assert "5/5" in captured.err
    assert "loss=" in captured.err
    assert "test accuracy" in captured.out
