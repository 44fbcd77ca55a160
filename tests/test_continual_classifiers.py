"""Classifiers and corrections against scikit-learn, SciPy and plain loops."""

import continual_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from jsnn.continual import buffer as buffers
from jsnn.continual import classifiers, correction
from jsnn.continual import method as methods
from jsnn.continual.buffer import Batch
from jsnn.continual.classifiers import Gaussians, Means
from jsnn.continual.method import Border
from jsnn.continual.methods import get
from jsnn.continual.network import Head

F, C = 4, 5


def samples(per_class: int = 12, classes=(0, 1, 3), seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.asarray(classes, np.int32), per_class)
    mixing = rng.normal(size=(F, F))
    x = rng.normal(size=(len(labels), F)) @ mixing + 2 * rng.normal(size=(C, F))[labels]
    order = rng.permutation(len(labels))
    return x[order].astype(np.float32), labels[order]


def nothing() -> Gaussians:
    means = Means(jnp.zeros((C, F)), jnp.zeros(C))
    return Gaussians(means, jnp.zeros((F, F)), jnp.zeros((F, C)), jnp.zeros(C))


def taken_in(x, labels, cuts, valid=None) -> Gaussians:
    slot, valid = nothing(), np.ones(len(x), bool) if valid is None else valid
    for rows in np.split(np.arange(len(x)), cuts):
        slot = classifiers.add_samples(
            slot,
            jnp.asarray(x[rows]),
            jnp.asarray(labels[rows]),
            jnp.asarray(valid[rows]),
        )
    return slot


@pytest.mark.parametrize("cuts", [[], [7, 20], [12, 24]])
def test_slda_is_batch_lda(cuts):
    x, labels = samples()
    if cuts == [12, 24]:  # class by class, as a stream has it
        order = np.argsort(labels, kind="stable")
        x, labels = x[order], labels[order]
    slot = classifiers.solve(taken_in(x, labels, cuts), shrinkage=0.0)
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(3, 1 / 3))
    lda.fit(x.astype(np.float64), labels)
    new = np.random.default_rng(9).normal(size=(50, F)).astype(np.float32) * 3
    found = new @ np.asarray(slot.weight) + np.asarray(slot.bias)
    # Scores are known up to what all classes share; scikit-learn adds log priors, here equal. float32 products and inverse.
    found, wanted = found[:, [0, 1, 3]], lda.decision_function(new)
    np.testing.assert_allclose(
        found - found[:, :1], wanted - wanted[:, :1], rtol=1e-3, atol=2e-3
    )
    assert len(set(lda.predict(new))) == 3


def test_slda_takes_samples_one_by_one():
    """The recursion, with unequal classes, a class of one sample, and shrinkage."""
    x, labels = samples(classes=(0, 1, 3, 0))
    x, labels = np.concatenate([x, x[:1] + 1]), np.append(labels, 2).astype(np.int32)
    mean, count, scatter = np.zeros((C, F)), np.zeros(C), np.zeros((F, F))
    for row, y in zip(x.astype(np.float64), labels, strict=True):
        delta = row - mean[y]
        scatter += count[y] / (count[y] + 1) * np.outer(delta, delta)
        mean[y] += delta / (count[y] + 1)
        count[y] += 1
    padded = np.concatenate([x, np.full((3, F), 1e3, np.float32)])
    marks = np.append(labels, [0, 1, 4]).astype(np.int32)
    slot = taken_in(padded, marks, [11, 30], np.arange(len(padded)) < len(x))
    np.testing.assert_allclose(slot.scatter, scatter, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(slot.means.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(slot.means.num_samples, count)
    solved = classifiers.solve(slot, shrinkage=0.3)
    inverse = np.linalg.inv(0.7 * scatter / count.sum() + 0.3 * np.eye(F))
    np.testing.assert_allclose(solved.weight, inverse @ mean.T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        solved.bias,
        -0.5 * np.einsum("cf,fg,cg->c", mean, inverse, mean),
        rtol=1e-3,
        atol=1e-3,
    )


def features(model, images) -> np.ndarray:
    p = {n: np.asarray(x, np.float64) for n, x in model.params.items()}
    return np.maximum(np.asarray(images, np.float64) @ p["w"] + p["b"], 0.0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def stored(data: Batch) -> buffers.Buffer:
    """A buffer that holds `data`."""
    count = len(data.labels)
    buffer = buffers.init(count + 3, jnp.zeros(2), toy.CAPACITY)
    replay = buffers.Replay(
        data, jnp.zeros(count, jnp.int32), jnp.zeros((count, toy.CAPACITY))
    )
    return buffers.write(buffer, replay, jnp.arange(count))


def predicted(part, key, data: Batch, *later: Batch, buffer=None):
    """Scores after tasks with these samples, and the model."""
    model, test = toy.model(key), toy.task(0, 1, 2, 3, seed=50, per_class=6)
    output = jax.eval_shape(
        lambda m: toy.NETWORK.apply(m, key, test.images, 1, False), model
    )
    slot = part.init(toy.NETWORK, model, output, None)
    for number, batch in enumerate((data, *later)):
        border = Border(key, model, toy.scope(number, 0, 4), batch, buffer)
        _, slot = part.end_task(toy.NETWORK, border, slot, part.settings)
    where = toy.scope(0, 0, 4)
    found = part.scores(toy.NETWORK, model, slot, part.settings, where, test.images)
    return np.asarray(found), model, np.asarray(test.images)


@pytest.mark.parametrize("flip", [False, True])
def test_nearest_mean_of_exemplars(flip, key):
    data = toy.task(0, 1, 3, per_class=5)
    part = classifiers.nearest_exemplar_mean(flip=flip)
    if flip:
        # A point in the plane has no mirror image: its two numbers are made an image of width 2.
        narrow = toy.NETWORK._replace(
            apply=lambda m, k, x, n, t: toy.NETWORK.apply(m, k, x[:, 0, :, 0], n, t)
        )
        model = toy.model(key)
        wide = data._replace(images=data.images[:, None, :, None])
        buffer = buffers.init(15, jnp.zeros((1, 2, 1)), toy.CAPACITY)
        replay = buffers.Replay(
            wide, jnp.zeros(15, jnp.int32), jnp.zeros((15, toy.CAPACITY))
        )
        buffer = buffers.write(buffer, replay, jnp.arange(15))
        border = Border(key, model, toy.scope(0, 0, 4), wide, buffer)
        _, slot = part.end_task(narrow, border, None, {})
        found = part.scores(narrow, model, slot, {}, toy.scope(0, 0, 4), wide.images)
        found, test = np.asarray(found), np.asarray(data.images)
    else:
        found, model, test = predicted(part, key, data, buffer=stored(data))

    def look(x):
        phi = unit(features(model, x))
        return unit((phi + unit(features(model, x[:, ::-1]))) / 2) if flip else phi

    labels = np.asarray(data.labels)
    for c in (0, 1, 3):
        mean = unit(look(np.asarray(data.images))[labels == c].mean(0))
        wanted = -(np.linalg.norm(look(test) - mean, axis=1) ** 2)
        np.testing.assert_allclose(
            found[:, c], wanted, atol=1e-5
        )  # float32, of order 1
    assert np.isneginf(found[:, [2, 4, 5, 6]]).all()


def test_nearest_class_mean(key):
    """Two tasks that share class 1: its mean runs over both."""
    first, second = toy.task(0, 1, per_class=5), toy.task(1, 3, seed=1, per_class=7)
    found, model, test = predicted(classifiers.nearest_class_mean(), key, first, second)
    both = toy.together(first, second)
    phi, labels = features(model, both.images), np.asarray(both.labels)
    for c in (0, 1, 3):
        mean = phi[labels == c].mean(0)
        wanted = unit(features(model, test)) @ unit(mean)
        np.testing.assert_allclose(found[:, c], wanted, atol=1e-5)
    assert np.isneginf(found[:, [2, 4, 5, 6]]).all()


def test_slda_part(key):
    data = toy.task(0, 1, 2, 3, per_class=10)
    found, model, test = predicted(classifiers.slda(shrinkage=0.01), key, data)
    phi, labels = features(model, data.images), np.asarray(data.labels)
    mean = np.stack([phi[labels == c].mean(0) for c in range(4)])
    inner = phi - mean[labels]
    inverse = np.linalg.inv(0.99 * inner.T @ inner / 40 + 0.01 * np.eye(toy.FEATURES))
    wanted = features(model, test) @ inverse @ mean.T
    wanted -= 0.5 * np.einsum("cf,fg,cg->c", mean, inverse, mean)
    # float32, condition number of a hundred or two.
    np.testing.assert_allclose(found[:, :4], wanted, rtol=1e-3, atol=1e-2)
    assert np.isneginf(found[:, 4:]).all()


def test_weight_alignment(key):
    head = Head(
        jax.random.normal(key, (F, C)) * jnp.asarray([[1.0, 1.0, 4.0, 5.0, 1.0]]),
        jnp.ones(C),
    )
    found = correction.align(head, toy.scope(1, 2, 4))
    norms = np.linalg.norm(np.asarray(found.weight), axis=0)
    np.testing.assert_allclose(norms[2:4].mean(), norms[:2].mean(), rtol=1e-5)
    ratio = np.asarray(found.weight / head.weight)
    np.testing.assert_allclose(ratio[:, 2:4], ratio[0, 2], rtol=1e-5)
    assert ratio[0, 2] < 0.9
    for column in (0, 1, 4):
        np.testing.assert_array_equal(found.weight[:, column], head.weight[:, column])
    np.testing.assert_array_equal(found.bias, head.bias)
    for where in (toy.scope(0, 0, 2), toy.scope(2, 4, 4)):  # nothing old, nothing new
        np.testing.assert_array_equal(correction.align(head, where).weight, head.weight)
    with pytest.raises(
        ValueError, match=r"`network` must define `head` and `with_head`"
    ):
        methods.init_memory(
            toy.NETWORK._replace(head=None),
            get("wa"),
            toy.model(key),
            jnp.zeros(2),
            buffer_size=4,
        )


def test_bias_layer_is_the_best_one():
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(4), 10)
    z = rng.normal(size=(40, 4)) + 1.5 * np.eye(4)[labels]
    z[:, 2:] = 2.0 * z[:, 2:] + 3.0  # a head that favours new classes
    logits = np.full((44, C), -np.inf, np.float32)
    logits[:40, :4], logits[40:, :4] = z, 7.0
    new = np.asarray([False, False, True, True, False])

    def objective(point):
        y = z.copy()
        y[:, 2:] = point[0] * y[:, 2:] + point[1]
        ce = special.logsumexp(y, axis=1) - y[np.arange(40), labels]
        return ce.mean() + 5e-4 * ((point[0] - 1) ** 2 + point[1] ** 2)

    wanted = optimize.minimize(objective, [1.0, 0.0], tol=1e-10).x
    marks, valid = np.append(labels, [0] * 4), np.arange(44) < 40
    fit = toy.jit(lambda valid: correction.fit_bias(
        jnp.asarray(logits), jnp.asarray(marks), valid, jnp.asarray(new), ridge=1e-3
    ))  # fmt: skip
    # The objective is flat to float32 within this of its minimum.
    np.testing.assert_allclose(fit(jnp.asarray(valid)), wanted, atol=2e-3)
    assert wanted[0] < 0.8
    assert wanted[1] < -0.5
    np.testing.assert_allclose(fit(jnp.zeros(44, bool)), [1.0, 0.0], atol=1e-6)


def test_corrected_logits_stay_closed():
    logits = jnp.asarray([[1.0, 2.0, -jnp.inf]])
    found = correction.corrected(
        logits, jnp.asarray([1.0, -2.0, -1.0]), jnp.asarray([0.0, 1.0, 5.0])
    )
    assert found.tolist() == [[1.0, -3.0, -np.inf]]


def test_bias_correction_holds_samples_out(key):
    method, model = get("bic"), toy.model(key)
    settings = methods.default_settings(method)
    memory = methods.init_memory(
        toy.NETWORK, method, model, jnp.zeros(2), buffer_size=40
    )
    assert len(memory.buffer.labels) == 36
    assert len(memory.slots["correct"].validation.labels) == 4
    for number, classes in enumerate(((0, 1), (2, 3))):
        data, where = (
            toy.task(*classes, seed=number),
            toy.scope(number, 2 * number, 2 * number + 2),
        )
        memory, valid = methods.begin_task(
            toy.NETWORK, method, memory, model, settings, key, where, data
        )
        store = memory.slots["correct"].validation
        kept = np.asarray(store.images)[np.asarray(store.labels) >= 2 * number]
        withheld = np.asarray(data.images)[~np.asarray(valid)]
        assert {tuple(x) for x in kept.tolist()} == {
            tuple(x) for x in withheld.tolist()
        }
        assert len(withheld) == 4 - 2 * number
        memory, _ = methods.end_task(
            toy.NETWORK, method, memory, model, settings, key, where, data
        )
    assert sorted(np.asarray(store.labels).tolist()) == [0, 1, 2, 3]
    slot = memory.slots["correct"]
    assert (slot.scale[:2] == 1).all()
    assert (slot.shift[:2] == 0).all()
    assert slot.shift[2] == slot.shift[3] != 0
    assert (slot.shift[4:] == 0).all()
    plain = toy.NETWORK.apply(model, key, data.images, jnp.int32(4), False).logits
    found = methods.scores(
        toy.NETWORK, method, memory.slots, model, settings, where, data.images
    )
    np.testing.assert_allclose(
        found, plain * slot.scale[None] + slot.shift[None], rtol=1e-5
    )


def test_options_are_refused():
    with pytest.raises(
        ValueError, match=r"`share` must lie strictly between 0 and 1, got 1"
    ):
        correction.bias_correction(share=1.0)
