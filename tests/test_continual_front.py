"""The front door of continual learning: one's own arrays of any shape, one's own network, and inputs that vary in time."""

import jax
import numpy as np
import optax
import pytest

import jsnn
from jsnn.continual import front, incremental, methods, metrics, report

KEY = jax.random.key(0)


def arrays(shape, *, num_steps=None, seed=0, **options):
    """Four classes that differ in what is bright; in time nothing changes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(80) % 4
    means = rng.uniform(0, 1.5, (4, *shape))
    x = (means[labels] + 0.1 * rng.normal(size=(80, *shape))).astype(np.float32)
    if num_steps is not None:
        x = np.repeat(x[:, None], num_steps, axis=1)
    return jsnn.data.arrays(x, labels, **{"num_test": 20} | options)


def dense(rngs):
    return [jsnn.Dense(12, 24, init="kaiming", rngs=rngs), jsnn.LIF(beta=0.8)]


def conv(rngs):
    return [jsnn.Conv(1, 6, 3, init="kaiming", rngs=rngs), jsnn.LIF(beta=0.8)]


def train(data, network, **options):
    common = {"tasks": "2x2", "batch_size": 16, "epochs_per_task": 6, "buffer": 20}
    trainer = incremental(data, network, optimizer=optax.adam(1e-2), **common | options)
    return jsnn.fit(trainer, data, KEY, progress=False)


@pytest.mark.parametrize(
    ("shape", "network"), [((12,), dense), ((3, 4, 1), conv), ((2, 3, 2), "mlp")]
)
def test_frames_of_a_still_image_are_the_image(shape, network):
    """Shown as a constant current, and written out as frames `[N, T, ...]`: the same draws, the same steps, the same network."""
    still = train(arrays(shape), network, encode=jsnn.constant(3))
    data = arrays(shape, num_steps=3)
    moving = train(data, network, encode=jsnn.frames())
    for a, b in zip(still.rows, moving.rows, strict=True):
        assert a["split"] == b["split"]
        assert a["accuracy"] == pytest.approx(b["accuracy"])
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-3)
    found = moving.predict(data.test.images)
    last = [r["accuracy"] for r in moving.rows if r["split"] == "test"][-1]
    assert (found.label == data.test.labels).mean() == pytest.approx(last)
    assert last > 0.7  # of four classes; without a memory at most a half
    # What comes first matters.
    ramp = np.linspace(0, 2, 3).reshape(1, 3, *[1] * len(shape)).astype(np.float32)
    rising, falling = (
        moving.predict(data.test.images * r).scores for r in (ramp, ramp[:, ::-1])
    )
    assert np.abs(rising - falling).max() > 1e-3


def test_classes_in_an_order_of_their_own():
    data = arrays((12,))
    fitted = train(data, dense, tasks=[[3, 1], [0]], evaluate_unseen=True)
    found = fitted.predict(data.test.images)
    known = data.test.labels != 2  # a class that never comes
    assert (found.label == data.test.labels)[known].mean() > 0.5  # chance: a third
    assert np.isneginf(found.scores[:, 2]).all()
    np.testing.assert_array_equal(found.scores.argmax(1), found.label)
    matrices = report.matrices(fitted.rows, 2)
    assert not np.isnan(matrices["task_il_accuracy"]).any()  # tasks to come too


def test_many_seeds_are_one_after_another_in_rows_and_figures():
    data = arrays((12,), seed=3)
    tasks = jsnn.continual.make_stream(
        data.train.labels, data.test.labels, [[3, 1], [2, 0]], num_classes=4
    )
    common = {"optimizer": optax.adam(1e-2), "batch_size": 16, "tasks": tasks}
    trainer = incremental(data, dense, **common)

    def run(trainer, key):
        return jsnn.fit(trainer, data, key, progress=False)

    many = run(jsnn.over_seeds(trainer, at_once=1), jsnn.seed_keys(4, 2))
    alone = [run(trainer, jax.random.key(4 + k)) for k in range(2)]
    results = [report.result(tasks, f.rows, f.found) for f in alone]
    assert not np.array_equal(results[0].predictions, results[1].predictions)
    for k, wanted in enumerate(results):
        found = report.result(tasks, many.rows, many.found, k)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    figures = [metrics.figures(r.class_il, r.task_il, r.counts) for r in results]
    found = report.summary(tasks, many.rows, many.found, 2)
    for name in figures[0]:
        pair = [f[name] for f in figures]
        assert found[name] == pytest.approx(np.mean(pair))
        spread = abs(pair[0] - pair[1]) / 2**0.5  # of two, with n - 1
        assert found[f"{name}_std"] == pytest.approx(spread)


@pytest.mark.parametrize(
    ("optimizer", "adam"),
    [
        (optax.adam(1e-3), True),
        (optax.chain(optax.clip(1.0), optax.adamw(1e-3)), True),
        (optax.sgd(1e-3, momentum=0.9), False),
        (optax.rmsprop(1e-3), False),
    ],
)
def test_late_columns_are_corrected_for_adam_alone(optimizer, adam):
    assert front._is_adam(optimizer) is adam


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "large"}, "`network` must be one of 'mlp', 'small', 'cnn'"),
        ({"method": "err"}, "`name` must be one of naive"),
        ({"tasks": "3x2"}, "3 tasks of 2 classes"),
        ({"settings": {"replay": {"gamma": 1.0}}}, "this method has none"),
        ({"encode": jsnn.frames()}, r"must be \[B, T, ...\]"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"epochs_per_task": 0}, "`epochs_per_task` must be at least 1"),
    ],
)
def test_mistakes_are_named(options, words):
    options = {"network": dense, "optimizer": optax.adam(1e-3), "tasks": "2x2"} | options  # fmt: skip
    with pytest.raises(ValueError, match=words):
        incremental(arrays((12,)), **options)


def test_validation_samples_are_held_out_here():
    data = arrays((12,), num_validation=8)
    with pytest.raises(ValueError, match="`data` holds validation samples already"):
        train(data, dense)
    fitted = train(arrays((12,)), dense, num_validation=8, epochs_per_task=1)
    assert [r["task"] for r in fitted.rows if r["split"] == "validation"] == [0, 1]


def test_a_method_of_ones_own():
    method = methods.get("der++")._replace(passes="together")
    fitted = train(arrays((12,)), dense, method=method, settings={"match": {"alpha": 0.5}})  # fmt: skip
    assert fitted.state.own.memory.buffer.valid.all()
