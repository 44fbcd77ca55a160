"""The comparison of the class-incremental reference's first steps trains as the library does, and judges ties as documented."""

import os
import pathlib

import jax
import numpy as np
import pytest

import jsnn
from benchmarks import cil_fates, cil_steps
from benchmarks.cil_steps import Step
from experiments import cil_cifar10
from jsnn import data
from jsnn.continual import samples as samples_of
from jsnn.continual import stream
from jsnn.train import rebuild

REFERENCE = cil_steps.Reference(channels=(2, 4, 8), timesteps=10, batch_size=4)


def samples(count=12):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, 32, 32, 3)).astype(np.uint8)
    return images, rng.permutation(np.arange(count) % 2).astype(np.int32)


def train(start, images, labels, **options):
    order = start["order"]
    step = cil_steps.train_pytorch if options else cil_steps.train_jsnn
    return [*step(REFERENCE, start, images[order], labels[order], **options)]


def test_steps_are_those_of_the_library():
    images, labels = samples()
    steps = train(cil_steps.start_jsnn(REFERENCE, 5, 12), images, labels)
    cfg = cil_cifar10.Config(
        pathlib.Path(), recipe="reference", width=2, batch_size=4, seed=5
    )
    none = np.zeros(0, int)
    task = stream.Task((0, 1), (0, 1), np.arange(12), none, none)
    tasks = stream.Stream((task,), np.arange(10), 0)
    shapes = rebuild.Shapes(images.shape[1:], 10, 12)
    trainer = cil_cifar10.trainer_for(cfg, shapes, tasks=tasks, capacity=10)
    split = data.Split(images, labels)
    fitted = jsnn.fit(
        trainer,
        samples_of.put(tasks, split, split),
        jax.random.key(5),
        schedule=jsnn.Schedule(1),
        progress=False,
    )
    metrics = [row["loss"] for row in fitted.rows if row["split"] == "train"]
    assert max(s.rates.max() for s in steps) > 0.1  # neurons of the head spike
    # Two programs of the same sums, which the compiler may order differently.
    np.testing.assert_allclose([s.loss for s in steps], metrics[:3], rtol=1e-5)


def test_exchanged_classes_exchange_the_neurons():
    images, labels = samples()
    start = cil_steps.start_jsnn(REFERENCE, 5, 12)
    steps = train(start, images, labels)
    start, labels = cil_fates.mirrored(start, labels)
    mirror = train(start, images, labels)
    for one, other in zip(steps, mirror, strict=True):
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
        np.testing.assert_allclose(one.rates, other.rates[:, ::-1], atol=1e-6)


def test_fate_is_told_by_the_rule_for_ties():
    labels = np.array([0, 1, 0, 1])
    silent_when_0 = Step(0.5, np.array([[0, 0], [0, 1], [0, 0], [0, 0.7]]))
    always_on = Step(0.5, np.array([[1, 0.2], [1, 1], [1, 0], [1, 1]]))
    silent = Step(0.7, np.zeros((4, 2)))
    no_ties = Step(0.3, np.array([[1, 0.2], [0, 1], [1, 0], [0.2, 1]]))
    for step, fate, accuracy, other in (
        (silent_when_0, "learns", 1.0, 0.5),
        (always_on, "chance", 0.5, 1.0),
        (silent, "stuck", 0.5, 0.5),
        (no_ties, "learns", 1.0, 1.0),
    ):
        row = cil_fates.describe([step], labels, 1)
        assert (row["fate"], row["accuracy"]) == (fate, accuracy)
        assert row["accuracy_ties_to_1"] == other
    assert cil_fates.describe([always_on], labels, 1)["rates"] == [[1, 1], [0.1, 1]]


@pytest.mark.skipif(
    "JSNN_PEER_PYTHON" not in os.environ,
    reason="set JSNN_PEER_PYTHON to a Python that has PyTorch",
)
def test_the_original_takes_the_same_steps():
    images, labels = samples()
    python = pathlib.Path(os.environ["JSNN_PEER_PYTHON"])
    start = cil_steps.start_pytorch(REFERENCE, 0, 12, python)
    own, peer = (
        train(start, images, labels),
        train(start, images, labels, python=python),
    )
    # Before the first update only the order of sums differs; later a spike may flip.
    np.testing.assert_allclose(own[0].loss, peer[0].loss, rtol=1e-5)
    np.testing.assert_allclose(own[2].loss, peer[2].loss, atol=0.02)
