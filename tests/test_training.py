"""Training as pure functions, on a softmax regression small enough to check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn import training
from jsnn.layers import Model

N, D, C = 23, 3, 4  # samples, features, classes


def data(num: int = N) -> tuple[jax.Array, jax.Array]:
    """Features, of which the first is the sample's number, and labels."""
    x = jax.random.normal(jax.random.key(5), (num, D))
    x = x.at[:, 0].set(jnp.arange(num))
    return x, jax.random.randint(jax.random.key(6), (num,), 0, C)


def task(*, noise: float = 0.0, capacity: int = 1, traces: list | None = None):
    """Softmax regression. Its `rest` notes each batch's samples and a draw from its key, `capacity` batches at most."""

    def init(key):
        # Weakly typed on purpose, as Flax's ones and zeros are.
        weight = jnp.full((D, C), 0.1) + 0 * jax.random.normal(key, (D, C))
        rest = {
            "count": jnp.zeros((), jnp.int32),
            "seen": jnp.full((capacity, N), -1, jnp.int32),
            "draws": jnp.zeros(capacity),
            "weak": jnp.full(2, 1.0),
        }
        return Model({"weight": weight, "bias": jnp.full(C, 0.0)}, rest)

    def logits(params, x):
        scale = jnp.asarray([[1 / N, 1.0, 1.0]])
        return (x * scale) @ params["weight"] + params["bias"].reshape(1, -1)

    def loss(model, key, images, labels):
        if traces is not None:
            traces.append("loss")
        x = images + noise * jax.random.normal(key, images.shape)
        scores = logits(model.params, x)
        value = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
        at, size = model.rest["count"], len(labels)
        numbers = images[:, 0].astype(jnp.int32)
        rest = {
            "count": at + 1,
            "seen": model.rest["seen"].at[at, :size].set(numbers),
            "draws": model.rest["draws"].at[at].set(jax.random.uniform(key)),
            "weak": model.rest["weak"],
        }
        return value, (rest, (scores.argmax(1) == labels).mean())

    def predict(model, images, labels):
        scores = logits(model.params, images)
        value = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return value, scores.argmax(1), scores

    return training.Task(init, loss, predict)


def make(num_train: int = N, batch_size: int = 5, optimizer=None, **kwargs):
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    return training.trainer(
        task(**kwargs), optimizer, num_train=num_train, batch_size=batch_size
    )


def bits(tree) -> list[bytes]:
    def leaf(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

    return list(map(leaf, jax.tree.leaves(tree)))


def assert_close(a: training.TrainState, b: training.TrainState) -> None:
    """The same samples and draws, and parameters to rounding."""
    for name in ("seen", "draws"):
        np.testing.assert_array_equal(a.model.rest[name], b.model.rest[name])
    assert bits((a.key, a.step)) == bits((b.key, b.step))
    for x, y in zip(
        *map(jax.tree.leaves, (a.model.params, b.model.params)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


TRAINER = make(noise=0.3, capacity=12)
INIT, RUN = jax.jit(TRAINER.init), jax.jit(TRAINER.run)


def run_epochs(key, epochs: int):
    """States after each epoch of `TRAINER`, and all metrics `[epochs, steps]`."""
    state, metrics = INIT(key), []
    for _ in range(epochs):
        state, new = RUN(state, *data(), jnp.int32(TRAINER.steps_per_epoch))
        metrics.append(new)
    return state, jax.tree.map(lambda *a: jnp.stack(a), *metrics)


def test_an_epoch_visits_each_sample_at_most_once_in_an_order_of_its_own(key):
    assert TRAINER.steps_per_epoch == 4  # of 5 samples; 3 of 23 are left out
    seen = np.asarray(run_epochs(key, 3)[0].model.rest["seen"])
    assert np.all(seen[:, 5:] == -1)
    epochs = seen[:, :5].reshape(3, 20)
    for order in epochs:
        assert len(set(order)) == 20
        assert set(order) <= set(range(N))
    left_out = [set(range(N)) - set(order) for order in epochs]
    assert len(set(map(tuple, epochs))) == 3
    assert left_out[0] != left_out[1] or left_out[1] != left_out[2]
    other = run_epochs(jax.random.key(1), 3)[0].model.rest["seen"]
    assert not np.array_equal(seen, other)


def test_a_kept_remainder_makes_a_smaller_last_batch(key):
    """23 samples in batches of 5: five steps, the last of 3 samples, with the mean over these 3."""
    trainer = training.trainer(
        task(capacity=10),
        optax.sgd(0.0),
        num_train=N,
        batch_size=5,
        remainder="keep",
    )
    assert trainer.steps_per_epoch == 5
    x, labels = data()
    state, metrics = jax.jit(trainer.train, static_argnums=3)(key, x, labels, 2)
    seen = np.asarray(state.model.rest["seen"])
    for epoch in (seen[:5], seen[5:]):
        assert sorted(epoch[epoch >= 0]) == list(range(N))
        assert [int((batch >= 0).sum()) for batch in epoch] == [5, 5, 5, 5, 3]
    assert not np.array_equal(seen[:5], seen[5:])
    assert metrics.loss.shape == (2, 5)
    last = seen[4][:3]
    value, *_ = task().predict(state.model, x[last], labels[last])
    np.testing.assert_allclose(metrics.loss[0, 4], value.mean(), rtol=1e-6)


def test_every_step_draws_from_a_key_of_its_own(key):
    draws = run_epochs(key, 3)[0].model.rest["draws"]
    assert len(set(np.asarray(draws).tolist())) == 12


STRETCHES = [[10], [1] * 10, [1, 3, 2, 4], [9, 1]]


def test_stretches_of_any_lengths_are_one_long_one(key):
    """Bit for bit, for it is one and the same program. It is traced once."""
    traces = []
    trainer = make(40, 4, noise=0.3, capacity=20, traces=traces)
    images, labels = data(40)
    run, results, losses = jax.jit(trainer.run), [], []
    assert trainer.steps_per_epoch == 10
    for lengths in STRETCHES:
        state, losses, accuracies = trainer.init(key), [], []
        for length in [10, *lengths]:  # an epoch, and one in stretches
            state, metrics = run(state, images, labels, jnp.int32(length))
            assert not np.any(metrics.loss[length:])
            losses.append(metrics.loss[:length])
            accuracies.append(metrics.accuracy[:length])
        assert state.step == 20
        results.append(bits((state, jnp.concat(losses), jnp.concat(accuracies))))
    assert np.unique(jnp.concat(losses)).size == 20
    assert all(result == results[0] for result in results)
    assert len(traces) == 1


def test_initial_values_are_strongly_typed(key):
    weak = jax.tree.map(lambda x: x.weak_type, task().init(key))
    assert weak.params["bias"]
    assert weak.rest["weak"]
    state = make().init(key)
    assert not any(x.weak_type for x in jax.tree.leaves(state._replace(key=())))


def test_train_is_run_over_all_epochs(key):
    """The same steps in another program, a scan of scans, which XLA may fuse otherwise: a few units in the last place."""
    state, metrics = jax.jit(TRAINER.train, static_argnums=3)(key, *data(), 3)
    expected, expected_metrics = run_epochs(key, 3)
    assert metrics.loss.shape == metrics.accuracy.shape == (3, 4)
    assert_close(state, expected)
    np.testing.assert_allclose(metrics.loss, expected_metrics.loss, rtol=1e-5)


def test_a_step_is_gradient_descent_written_by_hand(key):
    """One batch of all samples, three epochs. float32 against float64: sums of 23 terms, so some 1e-6 relative."""
    trainer = make(N, N, optax.sgd(0.5), capacity=3)
    x, labels = (np.asarray(a, np.float64) for a in data())
    x = x * [1 / N, 1, 1]
    target = np.eye(C)[labels.astype(int)]
    weight, bias, losses, accuracies = np.full((D, C), 0.1), np.zeros(C), [], []
    for _ in range(3):
        p = np.exp(x @ weight + bias)
        p /= p.sum(1, keepdims=True)
        losses.append(-np.mean(np.sum(target * np.log(p), 1)))
        accuracies.append(np.mean(p.argmax(1) == labels))
        error = (p - target) / N
        weight, bias = weight - 0.5 * x.T @ error, bias - 0.5 * error.sum(0)
    run, state, metrics = jax.jit(trainer.run), trainer.init(key), []
    for _ in range(3):
        state, new = run(state, *data(), 1)
        metrics.append((new.loss[0], new.accuracy[0]))
    params = state.model.params
    np.testing.assert_allclose(params["weight"], weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics, np.stack([losses, accuracies], 1), rtol=1e-5)
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_evaluation_covers_every_sample_in_order(key, batch):
    """Products of another batch size may sum in another order: 1e-6 is a few units in the last place."""
    one_task = task()
    trainer = training.trainer(
        one_task, optax.sgd(0.1), num_train=N, batch_size=5, eval_batch_size=batch
    )
    model = run_epochs(key, 1)[0].model
    images, labels = data()
    found = jax.jit(trainer.evaluate)(model, images, labels)
    assert [a.shape for a in found] == [(N,), (N,), (N, C)]
    assert len(set(np.asarray(found.loss).tolist())) == N
    predict = jax.jit(one_task.predict)
    for i in range(N):
        loss, prediction, scores = predict(model, images[i : i + 1], labels[i : i + 1])
        np.testing.assert_allclose(found.loss[i], loss[0], rtol=1e-6)
        np.testing.assert_allclose(found.scores[i], scores[0], rtol=1e-6, atol=1e-6)
        assert found.prediction[i] == prediction[0]


def test_seeds_under_vmap_are_single_runs(key):
    """The batched matrix products of `vmap` sum in another order than single ones: equal to a few units in the last place
    (1e-7 relative each step, 1e-5 after 12), the samples drawn exactly.
    """
    keys = jax.random.split(key, 3)
    run = jax.jit(jax.vmap(TRAINER.run, in_axes=(0, None, None, None)))
    states = jax.jit(jax.vmap(TRAINER.init))(keys)
    for length in (3, 1, 4, 2, 2):
        states, _ = run(states, *data(), jnp.int32(length))
    weights = states.model.params["weight"]
    assert np.abs(weights[0] - weights[1]).max() > 0.01
    for i in range(3):
        state, _ = run_epochs(keys[i], 3)
        assert_close(jax.tree.map(lambda a, i=i: a[i], states), state)


@pytest.mark.parametrize("size", [0, -1, N + 1])
def test_batch_size_must_fit(size):
    with pytest.raises(ValueError, match=rf"`batch_size`.*1.*{N}.*got {size}"):
        make(N, size)


def test_eval_batch_size_must_be_positive():
    with pytest.raises(ValueError, match=r"`eval_batch_size`.*got 0"):
        training.trainer(
            task(), optax.sgd(0.1), num_train=N, batch_size=5, eval_batch_size=0
        )


def test_unit_interval():
    pixels = jnp.asarray([0, 51, 255], jnp.uint8)
    np.testing.assert_allclose(training.unit_interval(pixels), [0, 0.2, 1], rtol=1e-7)
    floats = jnp.asarray([-1.5, 0.25, 3.0], jnp.float16)
    assert training.unit_interval(floats).dtype == jnp.float32
    np.testing.assert_array_equal(training.unit_interval(floats), floats)
