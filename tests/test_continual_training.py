"""Training on a stream: compilations, borders of tasks, growth, resumption."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jsnn import runs
from jsnn.continual import driver, methods, replay, spiking
from jsnn.continual.method import Method
from jsnn.continual.samples import of_task, put, seen
from jsnn.continual.stream import make_stream
from jsnn.continual.training import learner
from jsnn.data import Split
from jsnn.models.cil_cnn import cil_mlp

CLASSES, SIDE, T = 5, 4, 2
SCHEDULE = driver.Schedule(3, log_every=2, checkpoint_seconds=1e9)


def samples(seed, per_class):
    """Classes are bright rows and columns; one differs from the next by noise only at the edge of being told apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), per_class).astype(np.int32)
    images = rng.integers(0, 60, (len(labels), SIDE, SIDE, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        if label < 3:
            image[label] += 180
        else:
            image[:, label - 3] += 180
    return Split(images, labels)


TRAIN, TEST = samples(0, 12), samples(1, 4)


def make(method, optimizer=None, **options):
    def build(key, capacity):
        return cil_mlp((SIDE, SIDE, 1), capacity, hidden=(16,), rngs=nnx.Rngs(key))

    def network(graphdef, is_column, mode):
        return spiking.make_network(
            graphdef,
            is_column,
            encode=encoders.constant(T),
            read_out="current",
            batch_norm=mode,
            latent_layer=2 if method.latent else None,
        )

    return learner(
        build,
        network,
        method,
        optimizer or optax.adam(1e-2),
        image=TRAIN.images[0],
        **{"batch_size": 8, "eval_batch_size": 3, "buffer_size": 7} | options,
    )


@pytest.fixture(scope="module")
def er():
    """Its compiled functions are shared by the tests."""
    return make(methods.get("er"))


def stream(tasks, **options):
    return make_stream(TRAIN.labels, TEST.labels, tasks, num_classes=CLASSES, **options)


def drive(out, chosen, tasks, *, resume=False, schedule=SCHEDULE, **options):
    run = runs.Run(out, experiment="test", config={}, resume=resume)
    key = jax.random.key(0)
    return driver.drive_stream(
        run, chosen, key, tasks, TRAIN, TEST, schedule, progress=False, **options
    ), run


HARD = [[0, 1, 2], [3], [], [0, 4]]  # one class, none, one seen again


def test_one_compilation_serves_all_tasks_within_capacity(tmp_path, er):
    traces = {name: 0 for name in ("begin", "pool", "run", "end", "predict")}

    def counted(name):
        def call(*args):
            traces[name] += 1  # runs when traced, not when compiled code is called
            return getattr(er, name)(*args)

        return call

    counting = er._replace(**{name: counted(name) for name in traces})
    result, run = drive(tmp_path, counting, stream(HARD, repeated="again"))
    assert traces == dict.fromkeys(traces, 1)
    assert int(result.state.task) == 4
    assert int(result.state.num_open) == 5
    # Batches of 8: 36 samples make 5, 12 make 2, 0 make none, 24 make 3; three epochs each, and four ends.
    assert int(result.state.step) == 3 * (5 + 2 + 0 + 3) + 4
    assert (
        result.state.memory.buffer.valid.all()
    )  # full, and overflowing since the first step
    # Each sample counts once, though all come in three epochs and class 0 in two tasks.
    num_seen = np.asarray(result.state.memory.buffer.num_seen)
    np.testing.assert_array_equal(num_seen, [12] * 5)
    seen = ~np.isnan(result.class_il)
    np.testing.assert_array_equal(
        seen[:, [0, 1, 3]], np.tri(4, dtype=bool)[:, [0, 1, 3]]
    )
    assert not seen[:, 2].any()  # nothing to test
    assert (result.task_il >= result.class_il)[seen].all()
    assert (result.domain_il >= result.class_il)[seen].all()
    assert result.class_il[0, 0] > 0.9  # chance: a third
    assert result.task_il[1, 1] == 1  # one class is not hard to tell
    np.testing.assert_array_equal(result.counts, [12, 4, 0, 8])
    right = (result.predictions == result.labels).mean()
    rows = [r for r in run.rows() if r["split"] == "test"]
    assert right == pytest.approx(rows[-1]["accuracy"])


def test_a_run_killed_in_mid_task_and_resumed_ends_bit_for_bit(
    tmp_path, er, monkeypatch
):
    """With a head that grows from three columns to six, and a checkpoint after every row."""
    tasks = stream(HARD, repeated="again")
    schedule = driver.Schedule(3, log_every=2, checkpoint_seconds=0.0)
    options = {"schedule": schedule, "capacity": 3}
    whole, whole_run = drive(tmp_path / "whole", er, tasks, **options)
    assert whole.state.memory.buffer.num_seen.size == 6
    saved, save = [], driver.checkpoint.save

    def dying(folder, step, state):
        save(folder, step, state)
        saved.append((int(state.task), int(state.task_step)))
        if len(saved) in (3, 9, 12, 13):
            raise KeyboardInterrupt

    monkeypatch.setattr(driver.checkpoint, "save", dying)
    killed = tmp_path / "killed"
    for attempt in range(5):
        try:
            parts, run = drive(killed, er, tasks, resume=attempt > 0, **options)
        except KeyboardInterrupt:
            assert attempt < 4
    assert saved[2][1] > 0, "killed in mid-task"
    assert {saved[i - 1][0] for i in (3, 9, 12, 13)} > {0}, "and in a later one"
    for a, b in zip(
        jax.tree.leaves(whole.state), jax.tree.leaves(parts.state), strict=True
    ):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)

    def timeless(run):
        times = ("seconds", "train_seconds")
        return [{k: v for k, v in r.items() if k not in times} for r in run.rows()]

    assert timeless(run) == timeless(whole_run)
    np.testing.assert_array_equal(whole.class_il, parts.class_il)
    again, _ = drive(killed, er, tasks, resume=True, **options)  # a finished run
    np.testing.assert_array_equal(again.predictions, whole.predictions)


def test_tasks_of_a_domain_stream_share_columns(tmp_path, er):
    tasks = stream([[0, 1, 2], [3, 4]], scenario="domain")
    result, _ = drive(tmp_path, er, tasks, capacity=CLASSES)
    assert int(result.state.num_open) == 3
    assert np.asarray(result.state.memory.buffer.num_seen)[3:].sum() == 0
    np.testing.assert_array_equal(result.class_il[0], result.domain_il[0])


@pytest.mark.parametrize(("name", "seen"), [("joint", [1]), ("gdumb", [0, 1])])
def test_methods_that_train_on_other_samples(tmp_path, name, seen):
    chosen = make(methods.get(name))
    schedule = driver.Schedule(8, log_every=100, checkpoint_seconds=1e9)
    result, run = drive(
        tmp_path, chosen, stream([[0, 1], [2, 3, 4]]), schedule=schedule
    )
    trained = [r["task"] for r in run.rows() if r["split"] == "test"]
    assert trained == seen
    assert (
        result.class_il[1].mean() > 0.5
    )  # chance: a fifth; naive: at most three fifths, all of them in task 1
    assert result.class_il[1, 0] > 0.4


def test_a_method_cannot_train_on_a_buffer_that_moves():
    method = Method(
        (replay.batch_cross_entropy(),), storage=replay.reservoir(), data="buffer"
    )
    with pytest.raises(ValueError, match="`method` trains on data='buffer'"):
        make(method)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs_per_task": 0}, "epochs_per_task"),
        ({"epochs_per_task": 1, "log_every": 0}, "log_every"),
        ({"epochs_per_task": 1, "checkpoint_seconds": -1.0}, "checkpoint_seconds"),
    ],
)
def test_impossible_schedules(options, words):
    with pytest.raises(ValueError, match=words):
        driver.Schedule(**options)


def test_forward_transfer_has_something_to_compare_with(er):
    at_random = driver.untrained(er, jax.random.key(0), stream([[0, 1], [], [2]]), TEST)
    assert 0 <= at_random[0] <= 1
    assert np.isnan(at_random[1])
    assert at_random[2] == 1


def test_the_step_size_falls_along_half_a_cosine_and_begins_anew_with_each_task(
    tmp_path,
):
    """With an optimiser whose own steps are all ones, a parameter moves by the sum of what is left of them."""
    ones = optax.stateless(lambda updates, _: jax.tree.map(jnp.ones_like, updates))
    moved = []
    for name, tasks in (("one", [[0, 1, 2]]), ("two", [[0, 1, 2], [3, 4]])):
        chosen = make(methods.get("naive"), ones, adam_decays=None, cosine_epochs=3)
        start = chosen.init(jax.random.key(0), CLASSES, len(TRAIN.labels))
        options = {"capacity": CLASSES}
        result, _ = drive(tmp_path / name, chosen, stream(tasks), **options)
        first = [jax.tree.leaves(s.model.params)[0] for s in (result.state, start)]
        moved.append(np.asarray(first[0] - first[1]))
    # 36 samples make 5 batches of 8 an epoch, 24 make 3.
    left = [
        sum((1 + np.cos(np.pi * k / n)) / 2 for k in range(n)) for n in (3 * 5, 3 * 3)
    ]
    np.testing.assert_allclose(moved[0], left[0], rtol=1e-5)
    np.testing.assert_allclose(moved[1], sum(left), rtol=1e-5)


def test_a_cosine_over_no_epoch_is_refused():
    with pytest.raises(ValueError, match="`cosine_epochs` must be at least 1, got 0"):
        make(methods.get("naive"), cosine_epochs=0)


ALL = np.arange(len(TRAIN.labels))


@pytest.mark.parametrize(
    "method",
    ["er", "balanced", "latent-er", "gdumb", "icarl", "bic"],
)
def test_a_sample_is_kept_once_and_what_is_held_out_is_never_trained_on(method):
    """All classes come again with all their samples, and a part of these is held out by BiC itself and from the stream."""
    name = "er" if method == "balanced" else method
    more = {"exemplars": "balanced"} if method == "balanced" else {}
    chosen = make(methods.get(name, **more), buffer_size=40)
    tasks = stream([[0, 1], [2], [1, 0], [2, 3]], repeated="again", num_validation=8)
    outside = np.concatenate([t.validation for t in tasks.tasks])
    data, call = put(tasks, TRAIN, TEST), driver.jit(chosen)
    state = chosen.init(jax.random.key(0), CLASSES, data.train.shape[1])
    ever_trained = set()
    for number in range(4):
        own = of_task(data, number)
        args = chosen.settings, own
        state = call.begin(state, *args, data.num_open[number], False)
        pool = call.pool(state, own, seen(data, number))
        trained = np.asarray(pool.identity)[np.asarray(pool.valid)]
        assert len(set(trained)) == len(trained) > 0
        steps = jnp.int32(chosen.steps_per_epoch(len(trained)))
        for _ in range(2):
            state, _ = call.run(state, chosen.settings, pool, steps, False)
        state = call.end(state, *args, False)
        buffer = state.memory.buffer
        kept = np.asarray(buffer.identity)[np.asarray(buffer.valid)]
        assert len(set(kept)) == len(kept)
        assert not {*outside} & {*kept, *trained}
        ever_trained |= {*trained}
        assert {*kept} <= ever_trained or name == "gdumb"
        assert (np.asarray(buffer.labels)[: len(kept)] < 4).all()
        if not method.startswith("latent"):
            images = np.asarray(buffer.images)[np.asarray(buffer.valid)]
            np.testing.assert_array_equal(images, TRAIN.images[kept])
        if name == "bic":
            store = state.memory.slots["correct"].validation
            apart = np.asarray(store.identity)[np.asarray(store.valid)]
            assert len(apart) == 4
            assert not {*apart} & {*kept, *ever_trained}
    # 48 samples of four classes, of which 8 are held out: 40 are left for 40 slots.
    total = len(kept) + (4 if name == "bic" else 0)
    assert total == 40 or name in ("gdumb", "icarl", "bic")


def test_validation_rows_are_of_samples_held_out(tmp_path, er):
    """Tested on the very samples that are held out, a run has the same accuracy twice."""
    options: Any = {"num_classes": CLASSES, "num_validation": 10}
    groups = [[0, 1, 2], [3], [4]]
    held = np.concatenate(
        [
            t.validation
            for t in make_stream(TRAIN.labels, TEST.labels, groups, **options).tasks
        ]
    )
    same = Split(TRAIN.images[held], TRAIN.labels[held])
    tasks = make_stream(TRAIN.labels, same.labels, groups, **options)
    run = runs.Run(tmp_path, experiment="test", config={})
    key = jax.random.key(0)
    result = driver.drive_stream(
        run, er, key, tasks, TRAIN, same, SCHEDULE, progress=False
    )
    rows = {
        s: [r for r in run.rows() if r["split"] == s] for s in ("test", "validation")
    }
    assert len(rows["validation"]) == 3
    for test, validation in zip(*rows.values(), strict=True):
        for name in ("accuracy", "task_il_accuracy", "domain_il_accuracy", "task"):
            assert test[name] == validation[name]
    assert result.validation == rows["validation"][-1]["accuracy"]
    assert result.validation > 0
    buffer = result.state.memory.buffer
    assert not {*held} & {*np.asarray(buffer.identity)[np.asarray(buffer.valid)]}
