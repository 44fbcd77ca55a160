"""`--data FILE.npz` of every script: images, feature vectors, frames and spikes; what a rule cannot take is refused in a line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from predicted import predicted

import jsnn
from experiments import cil_cifar10, csnn_mnist, eventprop_mnist, stdp_mnist, sweep
from jsnn import data
from jsnn.train import rebuild

T, CLASSES = 4, 4


def made(
    shape: tuple[int, ...],
    count: int = 48,
    kind=np.float32,
    steps: int = 0,
    share: float = 1.0,
):
    """Inputs whose class is the quarter of them that is bright, or spikes often; and labels."""
    draws = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    flat = np.kron(np.eye(CLASSES), np.ones(-(-np.prod(shape) // CLASSES)))
    x = flat[labels][:, : np.prod(shape)].reshape(count, *shape)
    x = 0.1 + 0.8 * x
    if steps:
        x = (draws.random((count, steps, *shape)) < share * x[:, None]).astype(kind)
    return (x.astype(kind) if kind != np.uint8 or steps else (255 * x).astype(kind)), labels  # fmt: skip


def write(path, inputs, labels, num_test: int = 12):
    np.savez(
        path,
        inputs=inputs[num_test:],
        labels=labels[num_test:],
        test_inputs=inputs[:num_test],
        test_labels=labels[:num_test],
    )
    return str(path)


@pytest.fixture(autouse=True)
def quick():
    """Compiling is most of the work here; without optimisation it takes half as long."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


FLAGS = {"frames": True, "batch_size": 12, "progress": False}
SCRIPTS = {
    "csnn": (csnn_mnist, {"network": "mlp", "hidden": (16,), "epochs": 4, "learning_rate": 0.02, "threshold": 0.5}, 1.0),
    "cil": (cil_cifar10, {"network": "mlp", "hidden": (16,), "tasks": "2x2", "method": "er", "epochs_per_task": 4, "learning_rate": 0.02, "read_out": "current"}, 1.0),
    "eventprop": (eventprop_mnist, {"recipe": "deep", "hidden": 16, "epochs": 10, "learning_rate": 0.05}, 0.15),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_spikes_of_a_file_are_learnt_and_predicted(tmp_path, name):
    """A network whose classes differ in which of 12 channels spike: a quarter would be right by chance."""
    module, flags, share = SCRIPTS[name]
    x, labels = made((12,), 120, np.uint8, steps=4 * T, share=share)
    path = write(tmp_path / "own.npz", x, labels)
    out = tmp_path / "run"
    summary = module.main(module.Config(out, data=path, **FLAGS, **flags))
    assert summary["timesteps"] == 4 * T
    assert summary["test_accuracy"] > 0.5
    assert json.loads((out / "config.json").read_text())["config"]["frames"] is True
    label, _ = predicted(out, tmp_path / "said", x[:12], labels[:12])
    assert np.mean(label == labels[:12]) == pytest.approx(summary["test_accuracy"])


def scores(module, cfg, x, labels) -> np.ndarray:
    """Of a network as it starts, for one key."""
    dataset = data.arrays(x, labels, num_test=12)
    trainer = module.trainer_for(cfg, rebuild.shapes_of(dataset))

    def look(key):
        state = jsnn.train.trainer.start(trainer, key)
        return trainer.predict(trainer.model(state), jnp.asarray(x[:5])).scores

    return np.asarray(jax.jit(look)(jax.random.key(1)))


@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_frames_of_a_still_image_are_the_image(tmp_path, network):
    """Written out step by step: to a few units in the last place, for convolutions then run once a step."""
    x, labels = made((8, 8, 1))
    flags = {"network": network, "batch_size": 12, "threshold": 0.1}
    still = csnn_mnist.Config(tmp_path, timesteps=T, **flags)
    moving = csnn_mnist.Config(tmp_path, data="own.npz", frames=True, **flags)
    frames = np.repeat(x[:, None], T, 1)
    one, two = (scores(csnn_mnist, *a, labels) for a in ((still, x), (moving, frames)))
    assert np.std(one) > 0.01
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 4, 1), (12,)])
def test_frames_in_memory_and_in_a_mapped_file_give_the_same(tmp_path, shape):
    x, labels = made(shape, steps=T)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")

    def layers(rngs):
        first = jsnn.Conv(1, 2, rngs=rngs) if len(shape) == 3 else jax.nn.relu
        size = 2 * 16 if len(shape) == 3 else 12
        return [first, jsnn.LIF(threshold=0.1), jsnn.Dense(size, CLASSES, rngs=rngs), jsnn.LI()]  # fmt: skip

    task = jsnn.classifier(layers, encode=jsnn.frames())
    trainer = jsnn.supervised(task, optax.adam(0.01), batch_size=12, epochs=2)
    ends = []
    for inputs, stream in ((x, None), (mapped, True)):
        own = data.arrays(inputs, labels, test=(x[:12], labels[:12]))
        fitted = jsnn.fit(trainer, own, jax.random.key(0), progress=False, stream=stream)  # fmt: skip
        ends.append(fitted.model)
    jax.tree.map(np.testing.assert_array_equal, *ends)
    start = trainer.init(jax.random.key(0)).model.params
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, ends[0].params)
    assert max(jax.tree.leaves(moved)) > 0


def test_a_file_says_what_it_holds(tmp_path):
    grey, labels = made((6, 6), kind=np.uint8)
    path = write(tmp_path / "grey.npz", grey.astype(np.int64), labels)
    found = data.from_file(path, num_validation=4)
    assert found.train.images.shape == (32, 6, 6, 1)
    assert found.train.images.dtype == np.uint8
    np.savez(tmp_path / "one.npz", inputs=grey, labels=labels, other=labels)
    one, two = (data.from_file(tmp_path / "one.npz", num_validation=4, seed=s) for s in (0, 1))  # fmt: skip
    assert len(one.test.labels) == 9
    np.testing.assert_array_equal(one.test.images, two.test.images)
    assert (one.validation.images != two.validation.images).any()
    assert data.from_file(path, frames=True).train.images.shape == (36, 6, 6)


CSNN = {"epochs": 2, "batch_size": 12, "progress": False}
CIL = {"tasks": "2x2", "progress": False, "batch_size": 12}


@pytest.mark.parametrize(
    ("module", "shape", "flags", "words"),
    [
        (csnn_mnist, (12,), CSNN, "`--network cnn` needs images.*`--network mlp`"),
        (csnn_mnist, (T, 12), CSNN | {"frames": True}, "`--network cnn` needs images"),
        (csnn_mnist, (12,), CSNN | {"network": "mlp", "augment": True}, "`--augment` changes still images"),
        (csnn_mnist, (12,), CSNN | {"frames": True}, r"`--frames`: .*\[N, T"),
        (csnn_mnist, (T, 8, 8, 1), CSNN, "pass `--frames` if the second axis is time"),
        (cil_cifar10, (12,), CIL, "`--network small` needs images.*`--network mlp`"),
        (cil_cifar10, (12,), CIL | {"network": "mlp", "augment": True}, "`--augment` changes still images"),
        (eventprop_mnist, (12,), {"recipe": "conv", "batch_size": 12}, "`--recipe conv` needs images.*`--recipe deep`"),
        (eventprop_mnist, (12,), {"shift": 1}, "`--shift` changes still images"),
        (stdp_mnist, (12,), {}, "take still grey images"),
        (stdp_mnist, (28, 28, 3), {}, "take still grey images"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_there_is_a_folder(
    tmp_path, module, shape, flags, words
):
    path = write(tmp_path / "own.npz", *made(shape))
    with pytest.raises(ValueError, match=words) as error:
        module.main(module.Config(tmp_path / "run", data=path, **flags))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_no_data_set_is_refused(tmp_path):
    for module in (csnn_mnist, cil_cifar10, eventprop_mnist, stdp_mnist):
        with pytest.raises(ValueError, match=r"`--data` must be one of digits, .* or an .npz file, got 'minst'"):  # fmt: skip
            module.Config(tmp_path, data="minst")


def test_stdp_takes_grey_images_of_fewer_classes_than_its_decision(tmp_path):
    x, labels = made((28, 28))
    cfg = stdp_mnist.Config(tmp_path, data=write(tmp_path / "own.npz", x, labels))
    found = stdp_mnist.load(cfg)
    assert found.class_names == tuple("0123456789")
    assert found.train.images.dtype == np.uint8
    assert {0.1, 0.9} == {round(v / 255, 1) for v in np.unique(found.test.images)}
    assert stdp_mnist.trainer_for(cfg, rebuild.shapes_of(found)).prepare(found)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_sweep_takes_a_file(tmp_path, name):
    """Its program for a member, from tracing alone."""
    module, flags, _ = SCRIPTS[name]
    path = write(tmp_path / "own.npz", *made((12,), kind=np.uint8, steps=T))
    given = {"data": (path,), "frames": ("True",), "batch_size": ("12",)}
    given |= {k: v if isinstance(v, tuple) else (str(v),) for k, v in flags.items()}
    program = module.program(sweep.parse(module, given))
    key, values = jax.random.key(0), {"learning_rate": np.float32(0.1)}
    found = jax.eval_shape(program.train, key, values, program.data)
    assert {"test_accuracy", "class_il"} & found.keys()
