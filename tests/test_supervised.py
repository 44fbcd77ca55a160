"""Supervised training as pure functions, on a softmax regression small enough to check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.model import Model
from jsnn.train import supervised
from jsnn.train import task as tasks
from jsnn.train import trainer as trainers
from jsnn.train.trainer import Trainer, TrainState

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

    return tasks.Task(
        init,
        loss,
        lambda model, images: logits(model.params, images),
        optax.softmax_cross_entropy_with_integer_labels,
        tasks.by_score,
    )


def make(batch_size: int = 5, optimizer=None, *, options=None, **kwargs) -> Trainer:
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    return supervised.supervised(
        task(**kwargs), optimizer, batch_size=batch_size, epochs=3, **(options or {})
    )


def samples(num: int = N) -> supervised.Samples:
    return supervised.Samples(*data(num))


def start(trainer: Trainer, key) -> TrainState:
    return trainers.start(trainer, key)


def runner(trainer: Trainer):
    """`(state, samples, num_steps) -> (state, metrics)`, compiled."""
    return jax.jit(lambda state, x, n: trainer.run(state, x, n, None))


def bits(tree) -> list[bytes]:
    def leaf(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

    return list(map(leaf, jax.tree.leaves(tree)))


def assert_close(a: TrainState, b: TrainState) -> None:
    """The same samples and draws, and parameters to rounding."""
    for name in ("seen", "draws"):
        np.testing.assert_array_equal(rest(a)[name], rest(b)[name])
    assert bits((a.key, a.step)) == bits((b.key, b.step))
    for x, y in zip(*map(jax.tree.leaves, (params(a), params(b))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def rest(state: TrainState):
    return state.own.model.rest


def params(state: TrainState):
    return state.own.model.params


TRAINER, PER_EPOCH = make(noise=0.3, capacity=12), 4
RUN = runner(TRAINER)


def run_epochs(key, epochs: int):
    """States after each epoch of `TRAINER`, and all metrics `[epochs, steps]`."""
    state, metrics = start(TRAINER, key), []
    for _ in range(epochs):
        state, new = RUN(state, samples(), jnp.int32(PER_EPOCH))
        metrics.append(new)
    return state, jax.tree.map(lambda *a: jnp.stack(a), *metrics)


def test_an_epoch_visits_each_sample_at_most_once_in_an_order_of_its_own(key):
    per_epoch = TRAINER.steps_per_epoch(samples())
    assert per_epoch == PER_EPOCH == 4  # of 5 samples; 3 of 23 are left out
    seen = np.asarray(rest(run_epochs(key, 3)[0])["seen"])
    assert np.all(seen[:, 5:] == -1)
    epochs = seen[:, :5].reshape(3, 20)
    for order in epochs:
        assert len(set(order)) == 20
        assert set(order) <= set(range(N))
    left_out = [set(range(N)) - set(order) for order in epochs]
    assert len(set(map(tuple, epochs))) == 3
    assert left_out[0] != left_out[1] or left_out[1] != left_out[2]
    other = rest(run_epochs(jax.random.key(1), 3)[0])["seen"]
    assert not np.array_equal(seen, other)


def test_a_kept_remainder_makes_a_smaller_last_batch(key):
    """23 samples in batches of 5: five steps, the last of 3 samples, with the mean over these 3."""
    trainer = make(5, optax.sgd(0.0), capacity=10, options={"remainder": "keep"})
    assert trainer.steps_per_epoch(samples()) == 5
    run, state, losses = runner(trainer), start(trainer, key), []
    for _ in range(2):
        state, metrics = run(state, samples(), 5)
        losses.append(metrics["loss"])
    seen = np.asarray(rest(state)["seen"])
    for epoch in (seen[:5], seen[5:]):
        assert sorted(epoch[epoch >= 0]) == list(range(N))
        assert [int((batch >= 0).sum()) for batch in epoch] == [5, 5, 5, 5, 3]
    assert not np.array_equal(seen[:5], seen[5:])
    last, (x, labels), of = seen[4][:3], data(), task()
    value = of.losses(of.outputs(state.own.model, x[last]), labels[last])
    np.testing.assert_allclose(losses[0][4], value.mean(), rtol=1e-6)


def test_every_step_draws_from_a_key_of_its_own(key):
    draws = rest(run_epochs(key, 3)[0])["draws"]
    assert len(set(np.asarray(draws).tolist())) == 12


STRETCHES = [[10], [1] * 10, [1, 3, 2, 4], [9, 1]]


def test_stretches_of_any_lengths_are_one_long_one(key):
    """Bit for bit, for it is one and the same program. It is traced once."""
    traces = []
    trainer = make(4, noise=0.3, capacity=20, traces=traces)
    run, results, losses = runner(trainer), [], []
    assert trainer.steps_per_epoch(samples(40)) == 10
    for lengths in STRETCHES:
        state, losses, accuracies = start(trainer, key), [], []
        for length in [10, *lengths]:  # an epoch, and one in stretches
            state, metrics = run(state, samples(40), jnp.int32(length))
            assert not np.any(metrics["loss"][length:])
            losses.append(metrics["loss"][:length])
            accuracies.append(metrics["accuracy"][:length])
        assert state.step == 20
        results.append(bits((state, jnp.concat(losses), jnp.concat(accuracies))))
    assert np.unique(jnp.concat(losses)).size == 20
    assert all(result == results[0] for result in results)
    assert len(traces) == 1


def test_initial_values_are_strongly_typed(key):
    weak = jax.tree.map(lambda x: x.weak_type, task().init(key))
    assert weak.params["bias"]
    assert weak.rest["weak"]
    state = start(make(), key)
    assert not any(x.weak_type for x in jax.tree.leaves(state._replace(key=())))


def test_a_step_is_gradient_descent_written_by_hand(key):
    """One batch of all samples, three epochs. float32 against float64: sums of 23 terms, so some 1e-6 relative."""
    trainer = make(N, optax.sgd(0.5), capacity=3)
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
    run, state, metrics = runner(trainer), start(trainer, key), []
    for _ in range(3):
        state, new = run(state, samples(), 1)
        metrics.append((new["loss"][0], new["accuracy"][0]))
    found = params(state)
    np.testing.assert_allclose(found["weight"], weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["bias"], bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics, np.stack([losses, accuracies], 1), rtol=1e-5)
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_evaluation_covers_every_sample_in_order(key, batch):
    """Products of another batch size may sum in another order: 1e-6 is a few units in the last place."""
    trainer = make(capacity=12, options={"eval_batch_size": batch})
    state = run_epochs(key, 1)[0]
    held = supervised.Data(samples(), samples())
    found = jax.jit(lambda s: trainer.evaluate(s, held, None)[1])(state)
    assert [a.shape for a in found] == [(N,), (N,), (N, C), (N,)]
    assert len(set(np.asarray(found.loss).tolist())) == N
    of, (images, labels) = task(), data()
    for i in range(N):
        value = of.outputs(state.own.model, images[i : i + 1])
        loss = of.losses(value, labels[i : i + 1])
        np.testing.assert_allclose(found.loss[i], loss[0], rtol=1e-6)
        np.testing.assert_allclose(found.scores[i], value[0], rtol=1e-6, atol=1e-6)
        assert found.label[i] == value[0].argmax()
        assert found.hit[i] == (value[0].argmax() == labels[i])


def test_seeds_under_vmap_are_single_runs(key):
    """The batched matrix products of `vmap` sum in another order than single ones: equal to a few units in the last place
    (1e-7 relative each step, 1e-5 after 12), the samples drawn exactly.
    """
    keys = jax.random.split(key, 3)
    run = jax.jit(jax.vmap(lambda s, n: TRAINER.run(s, samples(), n, None), (0, None)))
    states = jax.vmap(lambda key: start(TRAINER, key))(keys)
    for length in (3, 1, 4, 2, 2):
        states, _ = run(states, jnp.int32(length))
    weights = params(states)["weight"]
    assert np.abs(weights[0] - weights[1]).max() > 0.01
    for i in range(3):
        state, _ = run_epochs(keys[i], 3)
        assert_close(jax.tree.map(lambda a, i=i: a[i], states), state)


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_must_be_positive(size):
    with pytest.raises(ValueError, match=rf"`batch_size`.*got {size}"):
        make(size)


def test_batch_size_must_fit(key):
    trainer = make(N + 1)
    held = supervised.Data(samples(), samples())
    with pytest.raises(ValueError, match=rf"`batch_size`.*1.*{N}.*got {N + 1}"):
        trainer.pool(start(trainer, key), held, None)


def test_eval_batch_size_must_be_positive():
    with pytest.raises(ValueError, match=r"`eval_batch_size`.*got 0"):
        make(options={"eval_batch_size": 0})
