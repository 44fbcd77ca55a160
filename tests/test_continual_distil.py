"""Distillation against SciPy and sums written out."""

import continual_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jsnn.continual import distil
from jsnn.continual import method as methods
from jsnn.continual.distil import Teacher
from jsnn.continual.methods import get
from jsnn.continual.network import cross_entropy

C, B = 6, 5
# float32 softmax of logits of order 1.
CLOSE = {"rtol": 5e-6, "atol": 1e-6}


def logits(seed: int, num_open: int = 4) -> np.ndarray:
    z = 2 * np.random.default_rng(seed).normal(size=(B, C)).astype(np.float32)
    z[:, num_open:] = -np.inf
    return z


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence(temperature):
    new, old = logits(0), logits(1, 3)
    p = special.softmax(old[:, :3].astype(np.float64) / temperature, axis=1)
    q = special.softmax(new[:, :3].astype(np.float64) / temperature, axis=1)
    wanted = special.rel_entr(p, q).sum(1)
    found = toy.jit(distil.divergence)(
        new, old, jnp.int32(3), temperature=jnp.float32(temperature)
    )
    np.testing.assert_allclose(found, wanted, **CLOSE)
    assert wanted.min() > 0.01
    # d KL / dz = (q - p) / T on old columns, and exactly nothing on the others.
    pull = jax.grad(
        lambda z: distil.divergence(
            z, jnp.asarray(old), jnp.int32(3), temperature=temperature
        ).sum()
    )(jnp.asarray(new))
    np.testing.assert_allclose(pull[:, :3], (q - p) / temperature, **CLOSE)
    assert (pull[:, 3:] == 0).all()


def test_divergence_without_old_classes_or_difference():
    new = jnp.asarray(logits(0))
    for num_old, teacher in ((0, logits(1)), (3, logits(0))):
        value, pull = jax.value_and_grad(
            lambda z, t=teacher, n=num_old: distil.divergence(
                z, jnp.asarray(t), jnp.int32(n), temperature=2.0
            ).sum()
        )(new)
        assert abs(float(value)) < 1e-6
        np.testing.assert_allclose(pull, 0.0, atol=1e-6)


def test_balanced_loss():
    new, old = logits(0), logits(1, 3)
    labels = np.asarray([0, 3, 2, 3, 1])
    valid = np.asarray([True, True, True, True, False])
    wide = new[:, :4].astype(np.float64)
    ce = (special.logsumexp(wide, axis=1) - wide[np.arange(B), labels])[:4].mean()
    p = special.softmax(old[:, :3].astype(np.float64) / 2, axis=1)
    q = special.softmax(wide[:, :3] / 2, axis=1)
    kd = special.rel_entr(p, q).sum(1)[:4].mean()

    def loss(num_old, num_own):
        return distil.balanced_loss(
            jnp.asarray(new), jnp.asarray(old), jnp.asarray(labels), jnp.asarray(valid),
            toy.scope(1, num_old, 4), num_own=jnp.int32(num_own), temperature=2.0,
        )  # fmt: skip

    np.testing.assert_allclose(loss(3, 1), 0.25 * ce + 0.75 * kd, **CLOSE)
    np.testing.assert_allclose(loss(0, 4), ce, **CLOSE)
    # No new column, two old classes that come again: these still count.
    assert 0 < float(loss(3, 2)) < float(ce)


def test_sigmoid_loss():
    new, old = logits(0), logits(1, 2)
    labels = np.asarray([0, 3, 2, 3, 1])
    own = jnp.asarray([False, False, True, True, False, False])
    sigmoids = distil.sigmoid_targets(
        jnp.asarray(old), jnp.asarray(labels), own, toy.scope(1, 2, 4)
    )
    targets = np.zeros((B, 4))
    targets[:, :2] = special.expit(old[:, :2].astype(np.float64))
    targets[:, 2:] = labels[:, None] == np.asarray([[2, 3]])
    np.testing.assert_allclose(sigmoids.targets[:, :4], targets, **CLOSE)
    q = special.expit(new[:, :4].astype(np.float64))
    wanted = -(targets * np.log(q) + (1 - targets) * np.log(1 - q)).mean(1)
    found, pull = jax.value_and_grad(lambda z: distil.sigmoid_loss(z, sigmoids).sum())(
        jnp.asarray(new)
    )
    np.testing.assert_allclose(found, wanted.sum(), **CLOSE)
    np.testing.assert_allclose(pull[:, :4], (q - targets) / 4, **CLOSE)
    assert (pull[:, 4:] == 0).all()
    # A class of the task that was open before has one-hot targets too.
    again = own.at[0].set(True)
    sigmoids = distil.sigmoid_targets(
        jnp.asarray(old), jnp.asarray(labels), again, toy.scope(1, 2, 4)
    )
    assert sigmoids.targets[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["lwf", "icarl", "wa"])
def test_the_teacher_is_the_model_before_the_task(name, key):
    method, before, after = get(name), toy.model(key), toy.model(jax.random.key(7))
    settings = methods.default_settings(method)
    memory = methods.init_memory(
        toy.NETWORK, method, after, jnp.zeros(2), buffer_size=4
    )
    data = toy.task(2, 3, per_class=5)
    where = toy.scope(1, 2, 4)
    memory, valid = methods.begin_task(
        toy.NETWORK, method, memory, before, settings, key, where, data
    )
    assert valid.all()
    teacher = memory.slots["distil"]
    assert isinstance(teacher, Teacher)
    jax.tree.map(np.testing.assert_array_equal, teacher.model, before)
    assert teacher.own.tolist() == [False, False, True, True, False, False, False]
    old = toy.NETWORK.apply(before, key, data.images, jnp.int32(4), False).logits
    new = toy.NETWORK.apply(after, key, data.images, jnp.int32(4), False).logits
    found = distil.ask(toy.NETWORK, teacher, where, data.images, new)
    np.testing.assert_allclose(found, old, rtol=1e-6)
    first = distil.ask(toy.NETWORK, teacher, toy.scope(0, 0, 2), data.images, new)
    assert (first == 0).all()
    update = methods.gradients(
        toy.NETWORK, method, memory, after, settings, key, where, data
    )
    assert np.isfinite(update.loss)
    if name == "lwf":
        ce = cross_entropy(new, data.labels, data.valid)
        kd = distil.divergence(new, old, jnp.int32(2), temperature=2.0).mean()
        np.testing.assert_allclose(update.loss, ce + 3.0 * kd, rtol=1e-5)
