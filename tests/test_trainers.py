"""The contract of every trainer: one tiny one a rule, and what must hold for all of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_continual_training as toy
from stdp_tiny import CHAIN, JOINT, READ, WIDE

import jsnn
from jsnn import continual, eventprop
from jsnn.continual import methods, report, samples
from jsnn.eventprop import latency, losses
from jsnn.stdp import training as stdp_training
from jsnn.train import feed, loop, runs, saved, supervised, transform
from jsnn.train import trainer as trainers

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


# Columns are not classes, and one task has none.
STREAM = toy.stream([[3, 1], [], [0, 4], [2]])


class Case(NamedTuple):
    """A trainer, its data, inputs to predict, and the schedule of its rows."""

    trainer: trainers.Trainer
    data: Any
    inputs: np.ndarray
    schedule: loop.Schedule


def of_layers(**options: Any) -> Case:
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    net = jsnn.network(
        lambda rngs: [
            jsnn.Dense(6, 8, rngs=rngs),
            jsnn.BatchNorm(8),
            jsnn.LIF(beta=0.8),
            jsnn.Dropout(0.2),
            jsnn.Dense(8, 2, rngs=rngs),
            jsnn.LI(),
        ]
    )
    task = jsnn.classifier(net, encode=jsnn.constant(4))
    trainer = jsnn.supervised(task, optax.adam(1e-2), batch_size=8, epochs=3, **options)
    samples = supervised.Samples(jnp.asarray(x), jnp.asarray(y))
    held = jax.tree.map(lambda a: a[:20], samples)
    return Case(trainer, supervised.Data(samples, held), x[:20], loop.Schedule(4, 5))


def of_stdp(network: Any) -> Case:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (50, 28, 28, 1)).astype(np.uint8)
    images[:, ::2] = 0
    labels = jnp.asarray(rng.integers(0, 10, 50), jnp.int32)
    known = stdp_training.encoded(network, images, labels)
    return Case(
        jsnn.stdp.trainer(network, window=20, doubling=15, validate=True),
        stdp_training.Data(known, known),
        images,
        loop.Schedule(1),
    )


def best_epoch() -> Case:
    """Ends early: patience is less than the first layer's epochs, for which it does not count, and than the decision's."""
    case = of_stdp(dataclasses.replace(CHAIN, epochs=(3, 6)))
    return case._replace(trainer=jsnn.keep_best(case.trainer, patience=0))


def of_eventprop() -> Case:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(40, 6)).astype(np.float32)
    y = (x[:, 0] > 0.5).astype(np.int32)
    chain = eventprop.chain(
        eventprop.network.dense(6, 8),
        eventprop.network.lif(dt=1.0),
        eventprop.network.dense(8, 2),
        eventprop.network.leaky(dt=1.0),
    )
    task = jsnn.classifier(
        jsnn.network(chain),
        encode=latency.encoder(),
        loss=losses.ce_max_voltage,
        read_out=losses.max_voltage,
    )
    trainer = jsnn.supervised(task, optax.adam(1e-2), batch_size=8, epochs=2)
    samples = supervised.Samples(jnp.asarray(x), jnp.asarray(y))
    return Case(trainer, supervised.Data(samples, samples), x, loop.Schedule(3))


def of_stream(method: str, **options: Any) -> Case:
    learner = toy.make(methods.get(method))
    tasks = STREAM
    trainer = continual.trainer(learner, tasks, epochs_per_task=2, **options)
    data = samples.put(tasks, toy.TRAIN, toy.TEST)
    return Case(trainer, data, toy.TEST.images, loop.Schedule(3))


CASES: dict[str, Callable[[], Case]] = {
    "layers": of_layers,
    "layers, last batch smaller": lambda: of_layers(remainder="keep"),
    "eventprop": of_eventprop,
    "stream, replay": lambda: of_stream("er"),
    "stream, exemplars": lambda: of_stream("icarl"),
    "stream, all at once": lambda: of_stream("joint"),
    "stream, a head that grows": lambda: of_stream("der++", capacity=2),
    "stdp": lambda: of_stdp(CHAIN),
    "stdp, layers side by side": lambda: of_stdp(WIDE),
    "stdp, two layers by reward": lambda: of_stdp(JOINT),
    "stdp, no decision": lambda: of_stdp(READ),
    "stdp, best epoch kept": best_epoch,
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]()


@pytest.fixture(scope="module")
def fitted(case):
    return fit(case, jax.random.key(3))


def fit(case: Case, key: Any, **options: Any) -> jsnn.Fitted:
    options = {"schedule": case.schedule, "progress": False} | options
    return jsnn.fit(case.trainer, case.data, key, **options)


def assert_equal(a: Any, b: Any) -> None:
    """To the bit."""
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731  # fmt: skip
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(data(x), data(y)), a, b)


def steady(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clocks = ("seconds", "train_seconds", "cpu_seconds")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def grows(case: Case) -> bool:
    """Whether arrays grow on the way."""
    trainer = case.trainer
    if trainer.resize is None:
        return False
    start = trainers.start(trainer, jax.random.key(0))
    return trainer.resize(start, len(trainer.phases) - 1) is not start


def test_one_pure_function_trains_as_the_host_loop_does(case, fitted):
    train = jax.jit(trainers.train_fn(case.trainer))
    if grows(case):
        with pytest.raises(ValueError, match="room for all classes"):
            train(jax.random.key(3), case.data)
        return
    whole = train(jax.random.key(3), case.data)
    assert_equal(whole.state.own, fitted.state.own)


class Killed(Exception):
    pass


class DyingRun(runs.Run):
    """Dies when it is to write its n-th row or checkpoint, and forgets to close anything."""

    left = 0

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise Killed

    def log(self, row):
        self._count()
        super().log(row)

    def save(self, step, state, unlogged=None):
        self._count()
        super().save(step, state)


def test_killed_anywhere_and_resumed_ends_as_if_nothing_had_happened(
    case, fitted, tmp_path
):
    schedule = dataclasses.replace(case.schedule, checkpoint_seconds=0.0)
    events = 2 * len(fitted.rows) + len(case.trainer.phases)
    out, died = tmp_path / "run", 0
    for left in (*np.random.default_rng(1).integers(1, events // 2, 3), 10**6):
        run = DyingRun(out, experiment="e", config={}, resume=True)
        run.left = left
        try:
            found = fit(case, jax.random.key(3), run=run, schedule=schedule)
        except Killed:
            died += 1
            run._lock = None  # as the end of its process would
            continue
        assert_equal(found.state.own, fitted.state.own)
        assert steady(found.rows) == steady(fitted.rows)
        break
    assert died


def test_one_compilation_a_program(case):
    traced = []

    def run(state, pool, num_steps, program):
        traced.append(program)
        return case.trainer.run(state, pool, num_steps, program)

    fit(case._replace(trainer=case.trainer._replace(run=run)), jax.random.key(0))
    if grows(case):  # once a size of the head
        sizes = len(trainers.grown(case.trainer, trainers.start(case.trainer, KEY)))
        assert len(traced) == sizes
        return
    assert sorted(traced) == sorted({p.program for p in case.trainer.phases})


def test_prediction_is_evaluation(case, fitted):
    if fitted.found is None:
        pytest.skip("this trainer has no evaluation")
    if case.trainer.keeps_best:
        pytest.skip("the last evaluation is not that of the best epoch")
    found = fitted.predict(case.inputs, batch_size=7)
    if isinstance(fitted.found, report.Evaluations):
        order = np.concatenate([task.test for task in STREAM.tasks])
        decided = report.decided(STREAM, fitted.found.test)
        np.testing.assert_array_equal(found.label[order], decided[1])
        np.testing.assert_array_equal(found.scores.argmax(1), found.label)
        assert found.scores.shape[1] == toy.CLASSES
        assert len(set(decided[1])) > 1
        return
    np.testing.assert_array_equal(found.label, fitted.found.label)
    np.testing.assert_allclose(found.scores, fitted.found.scores, rtol=1e-5, atol=1e-6)


def test_saved_and_loaded_predicts_the_same(case, fitted, tmp_path):
    if fitted.found is None:
        pytest.skip("this trainer does not predict")
    path = fitted.save(tmp_path / "model")
    again = jsnn.load(path, case.trainer)
    assert_equal(again.predict(case.inputs), fitted.predict(case.inputs))


def test_a_model_of_another_shape_is_refused_by_name(case, fitted, tmp_path):
    path = fitted.save(tmp_path / "model")
    other = case.trainer._replace(model=lambda state: {"w": jnp.zeros(3)})
    with pytest.raises(saved.ModelError, match="does not fit: it has no `w`"):
        jsnn.load(path, other)


def test_many_seeds_are_one_after_another(case, fitted):
    if case.trainer.advance is not None:
        with pytest.raises(ValueError, match="layer by layer"):
            jsnn.over_seeds(case.trainer)
        return
    many = case._replace(trainer=jsnn.over_seeds(case.trainer, at_once=1))
    if grows(case):
        with pytest.raises(ValueError, match="room for all classes"):
            fit(many, transform.seed_keys(2, 2))
        return
    found = fit(many, transform.seed_keys(2, 2))
    assert_equal(jax.tree.map(lambda x: x[1], found.state.own), fitted.state.own)


def test_seeds_side_by_side_take_the_same_first_step(case):
    """One step only: later ones differ, for products of several seeds are rounded otherwise and spikes are all or nothing."""
    if case.trainer.advance is not None:
        pytest.skip("refused, see above")
    program = case.trainer.phases[0].program

    def one_step(trainer, key):
        state = trainers.start(trainer, key)
        state = trainer.begin(state, case.data, program)
        pool = trainer.pool(state, case.data, program)
        return trainer.model(trainer.run(state, pool, jnp.int32(1), program)[0])

    many = jsnn.over_seeds(case.trainer)
    found = jax.jit(lambda k: one_step(many, k))(transform.seed_keys(2, 2))
    single = jax.jit(lambda k: one_step(case.trainer, k))(jax.random.key(3))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-4, atol=1e-5),
        found,
        single,
    )


def test_streamed_from_the_host_it_is_the_same(tmp_path, monkeypatch):
    """Windows of three steps, killed within an epoch and within a window, from a file that is never read whole."""
    case = of_layers()
    want = fit(case, KEY)
    windows = []
    make = feed.Streamed.__init__
    monkeypatch.setattr(
        feed.Streamed, "__init__", lambda self, *a: make(self, *a, window=3)
    )
    read = feed.Streamed._read
    monkeypatch.setattr(
        feed.Streamed,
        "_read",
        lambda self, rows, start: (windows.append(start), read(self, rows, start))[1],
    )
    np.save(tmp_path / "x.npy", np.asarray(case.data.train.inputs))
    inputs = np.load(tmp_path / "x.npy", mmap_mode="r")
    host = case.data._replace(train=supervised.Samples(inputs, np.asarray(case.data.train.labels)))  # fmt: skip
    schedule = dataclasses.replace(case.schedule, checkpoint_seconds=0.0)
    for left in (7, 8, 9, 10**6):
        run = DyingRun(tmp_path / "run", experiment="e", config={}, resume=True)
        run.left = left
        options = {"run": run, "schedule": schedule, "stream": True}
        try:
            got = fit(case._replace(data=host), KEY, **options)
        except Killed:
            run._lock = None
    assert_equal(got.state.own, want.state.own)
    assert steady(got.rows) == steady(want.rows)
    assert any(windows)  # resumed in the middle of an epoch


def test_what_cannot_stream_is_refused(case):
    if case.trainer.order is not None:
        pytest.skip("this one can")
    with pytest.raises(ValueError, match="cannot stream from the host"):
        fit(case, KEY, stream=True)
