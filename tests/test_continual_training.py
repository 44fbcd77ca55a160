"""Training on a stream: borders of tasks, other samples, growth, what is kept and what is held out. tests/test_trainers.py has what holds for every trainer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsnn
from jsnn import encoders
from jsnn.continual import learner, methods, replay, report, spiking, trainer, untrained
from jsnn.continual.method import Method
from jsnn.continual.samples import put
from jsnn.continual.stream import make_stream
from jsnn.data import Split
from jsnn.models.cil_cnn import cil_mlp
from jsnn.train import trainer as trainers

CLASSES, SIDE, T = 5, 4, 2
SIZES: dict[str, Any] = {"batch_size": 8, "eval_batch_size": 3, "buffer_size": 7}
KEY = jax.random.key(0)


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
            mode,
            encode=encoders.constant(T),
            read_out="current",
            latent_layer=2 if method.latent else None,
        )

    return learner(
        build,
        network,
        method,
        optimizer or optax.adam(1e-2),
        image=TRAIN.images[0],
        **SIZES | options,
    )


@pytest.fixture(scope="module")
def er():
    """Its compiled functions are shared by the tests."""
    return make(methods.get("er"))


def stream(tasks, **options):
    return make_stream(TRAIN.labels, TEST.labels, tasks, num_classes=CLASSES, **options)


def drive(chosen, tasks, *, epochs=3, test=TEST, **options):
    """A stream learnt, its end, and its samples."""
    data = put(tasks, TRAIN, test)
    made = trainer(chosen, tasks, epochs_per_task=epochs, **options)
    fitted = jsnn.fit(made, data, KEY, schedule=jsnn.Schedule(2), progress=False)
    return fitted, report.result(tasks, fitted.rows, fitted.found)


HARD = [[0, 1, 2], [3], [], [0, 4]]  # one class, none, one seen again


def test_borders_of_tasks(er):
    fitted, result = drive(er, stream(HARD, repeated="again"))
    state: Any = fitted.state
    assert int(state.phase) == 4
    assert int(state.own.num_open) == 5
    # Batches of 8: 36 samples make 5, 12 make 2, 0 make none, 24 make 3; three epochs each, and four ends.
    assert int(state.step) == 3 * (5 + 2 + 0 + 3) + 4
    buffer = state.own.memory.buffer
    assert buffer.valid.all()  # full, and overflowing since the first step
    # Each sample counts once, though all come in three epochs and class 0 in two tasks.
    np.testing.assert_array_equal(buffer.num_seen, [12] * 5)
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
    rows = [r for r in fitted.rows if r["split"] == "test"]
    assert right == pytest.approx(rows[-1]["accuracy"])
    # Of 36, 12, 0 and 24 samples, each shown three times.
    assert [r["epoch"] for r in rows] == [3, 6, 9, 12]


def test_a_head_that_grows_learns_as_one_with_room_from_the_start(er):
    """From three columns to six, where classes are five; what has room for more differs in columns that nobody opens."""
    tasks = stream(HARD, repeated="again")
    grown, roomy = (drive(er, tasks, capacity=c) for c in (3, 6))
    assert grown[0].state.own.memory.buffer.num_seen.size == 6
    for a, b in zip(grown[1], roomy[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_tasks_of_a_domain_stream_share_columns(er):
    tasks = stream([[0, 1, 2], [3, 4]], scenario="domain")
    fitted, result = drive(er, tasks, capacity=CLASSES)
    own: Any = fitted.state.own
    assert int(own.num_open) == 3
    assert np.asarray(own.memory.buffer.num_seen)[3:].sum() == 0
    np.testing.assert_array_equal(result.class_il[0], result.domain_il[0])


@pytest.mark.parametrize(("name", "seen"), [("joint", [1]), ("gdumb", [0, 1])])
def test_methods_that_train_on_other_samples(name, seen):
    tasks = stream([[0, 1], [2, 3, 4]])
    fitted, result = drive(make(methods.get(name)), tasks, epochs=8)
    trained = [r["task"] for r in fitted.rows if r["split"] == "test"]
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


@pytest.mark.parametrize("name", ["epochs_per_task", "capacity"])
def test_numbers_out_of_range(er, name):
    options: Any = {"epochs_per_task": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        trainer(er, stream([[0]]), **options)


def test_forward_transfer_has_something_to_compare_with(er):
    """A head of one column grows to what all tasks need, and is then the one that had the room."""
    tasks = stream([[0, 1], [], [2]])
    data, found = put(tasks, TRAIN, TEST), []
    for capacity in (None, 1):
        options: Any = {"evaluate_unseen": True, "capacity": capacity}
        made = trainer(er, tasks, epochs_per_task=1, **options)
        found.append(untrained(made, tasks, data, KEY))
    at_random = found[0]
    assert 0 <= at_random[0] <= 1
    assert np.isnan(at_random[1])
    assert at_random[2] == 1
    np.testing.assert_array_equal(*found)
    _, result = drive(er, tasks, evaluate_unseen=True)
    assert not np.isnan(result.task_il[:, [0, 2]]).any()


def test_the_step_size_falls_along_half_a_cosine_and_begins_anew_with_each_task():
    """With an optimiser whose own steps are all ones, a parameter moves by the sum of what is left of them."""
    ones = optax.stateless(lambda updates, _: jax.tree.map(jnp.ones_like, updates))
    moved = []
    for tasks in ([[0, 1, 2]], [[0, 1, 2], [3, 4]]):
        chosen = make(methods.get("naive"), ones, adam_decays=None, cosine_epochs=3)
        fitted, _ = drive(chosen, stream(tasks), capacity=CLASSES)
        start = trainers.start(fitted.trainer, KEY)
        first = [jax.tree.leaves(s.own.model.params)[0] for s in (fitted.state, start)]
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
    data = put(tasks, TRAIN, TEST)
    made = trainer(chosen, tasks, epochs_per_task=2, capacity=CLASSES)
    begin, pool_of, end = (
        jax.jit(fn, static_argnums=2) for fn in (made.begin, made.pool, made.end)
    )
    run = jax.jit(made.run, static_argnums=3)
    state = trainers.start(made, KEY)
    ever_trained, kept = set(), np.zeros(0, int)
    for number in range(4):
        state = begin(state._replace(phase_step=jnp.int32(0)), data, False)
        pool = pool_of(state, data, False)
        trained = np.asarray(pool.identity)[np.asarray(pool.valid)]
        assert len(set(trained)) == len(trained) > 0
        for _ in range(2):
            state, _ = run(state, pool, made.steps_per_epoch(pool), False)
        state = end(state, data, False)._replace(phase=jnp.int32(number + 1))
        buffer = state.own.memory.buffer
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
            store = state.own.memory.slots["correct"].validation
            apart = np.asarray(store.identity)[np.asarray(store.valid)]
            assert len(apart) == 4
            assert not {*apart} & {*kept, *ever_trained}
    # 48 samples of four classes, of which 8 are held out: 40 are left for 40 slots.
    total = len(kept) + (4 if name == "bic" else 0)
    assert total == 40 or name in ("gdumb", "icarl", "bic")


def test_validation_rows_are_of_samples_held_out(er):
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
    fitted, result = drive(er, tasks, test=same)
    rows = {
        s: [r for r in fitted.rows if r["split"] == s] for s in ("test", "validation")
    }
    assert len(rows["validation"]) == 3
    for test, validation in zip(*rows.values(), strict=True):
        for name in ("accuracy", "task_il_accuracy", "domain_il_accuracy", "task"):
            assert test[name] == validation[name]
    assert result.validation == rows["validation"][-1]["accuracy"]
    assert result.validation > 0
    buffer = fitted.state.own.memory.buffer
    assert not {*held} & {*np.asarray(buffer.identity)[np.asarray(buffer.valid)]}
