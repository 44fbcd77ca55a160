"""EventProp on images end to end, on the bundled digits: what a run leaves behind, resuming, and every mistake a user can make."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from predicted import predicted

from experiments import eventprop_mnist, eventprop_networks
from experiments.eventprop_mnist import Config
from jsnn import augment
from jsnn import data as datasets
from jsnn.eventprop import counts, network
from jsnn.model import Model
from jsnn.train import checkpoint
from jsnn.train.rebuild import Shapes
from jsnn.train.supervised import Data, Samples
from jsnn.train.trainer import start
from jsnn.train.transform import over_seeds, seed_keys

TINY = {"data": "digits", "batch_size": 128, "progress": False}


def test_deep_recipe_learns_digits_and_leaves_everything_behind(tmp_path):
    # a digits epoch is 11 steps, so the step size must not have decayed by then
    cfg = Config(
        out=tmp_path, recipe="deep", epochs=10, hidden=64, learning_rate=2e-2, **TINY
    )
    summary = eventprop_mnist.main(cfg)
    assert summary["test_accuracy"] > 0.7  # a tenth by chance
    wanted = {"test_accuracy", "wall_seconds", "samples_per_second", "device", "commit"}
    assert wanted | {"version", "recipe"} <= summary.keys()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    for name in ("curves", "confusion", "spike_times", "adjoints"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert (config["t_max"], config["dt"], config["dropout"]) == (20.0, 1.0, 0.2)


def test_a_run_stopped_and_resumed_is_the_same_bit_for_bit(tmp_path, monkeypatch):
    flags = TINY | {"recipe": "reference", "epochs": 3, "checkpoint_seconds": 0.0}
    monkeypatch.setattr(eventprop_mnist, "save_figures", lambda *_: None)

    def state(folder):
        shapes = Shapes((8, 8, 1), 10, 1437)
        trainer = eventprop_mnist.trainer_for(Config(out=folder, **flags), shapes)
        like = jax.jit(lambda key: start(trainer, key))(jax.random.key(0))
        return checkpoint.restore(folder / "checkpoints", like)

    eventprop_mnist.main(Config(out=tmp_path / "whole", **flags))
    seen = []

    class Stopped(Exception):
        pass

    def save(folder, step, found, original=checkpoint.save, **kwargs):
        original(folder, step, found, **kwargs)
        seen.append(step)
        if len(seen) == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(Stopped):
            eventprop_mnist.main(Config(out=tmp_path / "cut", **flags))
    assert seen[-1] < 36  # 3 epochs of 12 steps
    eventprop_mnist.main(Config(out=tmp_path / "cut", resume=True, **flags))
    whole, cut = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert int(whole.step) == 36
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_reference_recipe_is_the_reference():
    cfg = Config(out=None, recipe="reference")  # pyright: ignore
    assert (cfg.duration, cfg.dt, cfg.tau_m, cfg.tau_s) == (20, 1, 20, 5)
    assert (cfg.t_min, cfg.t_max, cfg.xi, cfg.alpha, cfg.beta) == (2, 12, 0.4, 0.01, 2)
    assert (cfg.learning_rate, cfg.batch_size, cfg.epochs, cfg.kick) == (
        1.0,
        128,
        40,
        0.1,
    )
    trainer = eventprop_mnist.trainer_for(cfg, Shapes((28, 28, 1), 10, 60_000))
    images = np.zeros(60_000)
    assert trainer.steps_per_epoch(Samples(images, images)) == 469  # the last of 96
    weight = jax.jit(trainer.init)(jax.random.key(0)).model.params[0]
    assert weight.shape == (784, 10)
    # Five standard errors of the mean and of the standard deviation of 7,840 draws from N(0.1, 0.1).
    assert abs(float(weight.mean()) - 0.1) < 6e-3
    assert abs(float(weight.std()) - 0.1) < 4e-3
    optimizer = eventprop_mnist.make_optimizer(cfg, 2)  # two steps an epoch
    state, rates = optimizer.init(jnp.ones(())), []
    for _ in range(61):
        update, state = optimizer.update(jnp.ones(()), state)
        rates.append(-float(update))
    # Plain SGD whose step size falls to a tenth every ten epochs.
    np.testing.assert_allclose(
        [rates[k] for k in (0, 19, 20, 40, 60)], [1, 1, 0.1, 0.01, 0.001], rtol=1e-6
    )


@functools.cache
def _kicked():
    """One step of the reference on a batch that leaves neurons silent, weights at zero."""
    cfg = Config(out=None, recipe="reference", batch_size=4)  # pyright: ignore
    design = eventprop_networks.reference(cfg, Shapes((4, 4, 1), 3, 4), {})
    task = eventprop_networks.make_task(cfg, design)
    model = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    images = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1))
    labels = jnp.array([0, 1, 2, 0])
    (_, (lift, _)), grads = jax.jit(
        lambda p: jax.value_and_grad(
            lambda p: task.loss(model._replace(params=p), None, images, labels),  # pyright: ignore
            has_aux=True,
        )(p)
    )(model.params)
    return design, model, images, lift, grads


def test_kick_wakes_all_outputs_and_the_gradient_is_that_of_the_kicked_weights():
    design, model, images, lift, grads = _kicked()
    assert lift.shape == (1, 3)
    rounds = np.asarray(lift) / 0.1
    np.testing.assert_allclose(rounds, rounds.round(), atol=1e-5)  # whole kicks
    assert (rounds > 0.5).all()
    net = network.chain(*design.layers)
    physics = [layer.physics for layer in design.layers]
    x = design.encode(images, None)

    def spikes(lift):
        weights = [model.params[0] + lift, ()]
        return counts(net.apply(Model(weights, physics), x).value)

    assert (spikes(lift) > 0).all()
    assert (spikes(lift - 0.1) == 0).any()  # not more kicks than it takes
    assert (np.asarray(grads[0]) != 0).any()
    assert np.isfinite(grads[0]).all()


@pytest.mark.parametrize("recipe", ["conv", "recurrent"])
def test_other_recipes_fire_and_learn_a_batch(recipe):
    cfg = Config(out=None, recipe=recipe, hidden=8, batch_size=16, learning_rate=1e-2)  # pyright: ignore
    shapes = Shapes((12, 12, 1), 4, 16)
    trainer = eventprop_mnist.trainer_for(cfg, shapes)
    design = eventprop_mnist.make_design(cfg, shapes)
    images = jax.random.uniform(jax.random.key(0), (16, 12, 12, 1))
    samples = Samples(images, jnp.arange(16) % 4)
    state = jax.jit(lambda key: start(trainer, key))(jax.random.key(1))
    net = network.chain(*design.layers)
    x = design.encode(images, None)
    model = Model(state.own.model.params, [layer.physics for layer in design.layers])
    out = jax.jit(net.apply)(model, x)
    assert all((counts(s) > 0).any() for s in out.spikes)
    run, losses = jax.jit(trainer.run, static_argnums=3), []
    for _ in range(15):
        state, metrics = run(state, samples, 1, None)
        losses.append(float(metrics["loss"][0]))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_shifts_move_images_in_training_and_nowhere_else(key):
    cfg = Config(out=None, recipe="deep", hidden=8, dropout=0.0, shift=2)  # pyright: ignore
    design = eventprop_networks.deep(cfg, Shapes((9, 9, 1), 3, 6), {})
    task = eventprop_networks.make_task(cfg, design)
    still = eventprop_networks.make_task(dataclasses.replace(cfg, shift=0), design)
    model = task.init(key)
    images, labels = jax.random.uniform(key, (6, 9, 9, 1)), jnp.arange(6) % 3
    moved = augment.shift(jax.random.fold_in(key, 1), images, 2)
    loss = task.loss(model, key, images, labels)[0]
    assert loss == still.loss(model, key, moved, labels)[0]
    assert loss != still.loss(model, key, images, labels)[0]
    same = task.outputs(model, images), still.outputs(model, images)
    jax.tree.map(np.testing.assert_array_equal, *same)


@pytest.mark.parametrize(
    ("read_out", "expected"),
    [
        ("max", [[3.0, 3.0]]),
        # By the trapezium rule: half of the first reading, and the last one held for a step.
        ("mean", [[0.5, 1.0]]),
        ("weighted", None),
        (None, [[0.5, 1.0]]),  # the recipe's own
    ],
)
def test_read_out_of_the_membranes(read_out, expected):
    cfg = Config(out=None, recipe="conv", read_out=read_out)  # pyright: ignore
    design = eventprop_networks.DESIGNS["conv"](cfg, Shapes((28, 28, 1), 2, 1), {})
    v = np.array([[[3.0, -3.0]], [[0.0, 0.0]], [[0.0, 3.0]]])
    if expected is None:
        early, late = np.asarray(design.read(jnp.eye(6)[:, None, 1:5:3]))[0]
        assert early > late > 0
    else:
        np.testing.assert_allclose(design.read(jnp.asarray(v)), expected)


def test_seeds_in_one_program_are_those_of_single_runs():
    cfg = Config(out=None, recipe="reference", batch_size=8)  # pyright: ignore
    single = eventprop_mnist.trainer_for(cfg, Shapes((4, 4, 1), 3, 16))
    images = jax.random.uniform(jax.random.key(0), (16, 4, 4, 1))
    data = Data(
        Samples(images, jnp.arange(16) % 3), Samples(images, jnp.arange(16) % 3)
    )

    @functools.partial(jax.jit, static_argnums=0)
    def two_steps(trainer, key):
        state = start(trainer, key)
        pool = trainer.pool(state, data, None)
        state, metrics = trainer.run(state, pool, 2, None)
        return state, metrics, trainer.evaluate(state, data, None)[1]

    want = [two_steps(single, jax.random.key(s)) for s in (3, 4)]
    for at_once in (1, None):
        both = over_seeds(single, at_once=at_once)
        state, metrics, found = two_steps(both, seed_keys(3, 2))
        assert state.step.shape == ()
        for k, (one, _, _) in enumerate(want):
            # Batched products may sum in another order.
            np.testing.assert_allclose(
                state.own.model.params[0][k],
                one.own.model.params[0],
                rtol=1e-5,
                atol=1e-6,
            )
        mean = np.mean([m["loss"] for _, m, _ in want], axis=0)
        np.testing.assert_allclose(metrics["loss"], mean, rtol=1e-5)
        assert found.label.shape == (2, 16)


def test_a_run_of_two_seeds_is_loaded_and_predicts(tmp_path):
    """By its first seed, as its evaluation of the test set found."""
    flags = TINY | {"recipe": "reference", "epochs": 1, "seeds": 2}
    summary = eventprop_mnist.main(Config(out=tmp_path, **flags))
    test = datasets.load("digits").test
    label, _ = predicted(tmp_path, tmp_path / "test", *test)
    assert (label == test.labels).mean() == pytest.approx(
        summary["test_accuracy_seed_0"]
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"epochs": 0}, ["--epochs", "at least 1", "0"]),
        ({"dt": 0.0}, ["--dt", "positive", "0.0"]),
        ({"learning_rate": float("nan")}, ["--learning-rate", "positive", "nan"]),
        ({"tau_m": -1.0}, ["--tau-m", "positive", "-1.0"]),
        ({"shift": -1}, ["--shift", "not be negative", "-1"]),
        ({"dropout": 1.0}, ["--dropout", "[0, 1)", "1.0"]),
        ({"kick": 0.1}, ["--kick 0.1", "would do nothing", "reference"]),
        ({"recipe": "reference", "hidden": 10}, ["--hidden", "reference"]),
        ({"recipe": "reference", "read_out": "mean"}, ["--read-out", "reference"]),
    ],
)
def test_flags_out_of_range_fail_before_anything_else(tmp_path, flags, words):
    with pytest.raises(ValueError, match=r"--") as error:
        eventprop_mnist.main(Config(out=tmp_path / "run", **flags))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"t_max": 30.0}, ["--t-max", "30.0", "24.0"]),
        ({"duration": 1.0}, ["--duration", "2 steps", "1.0"]),
        ({"recipe": "conv"}, ["--recipe conv", "9 by 9", "8 by 8"]),
        ({"batch_size": 5000}, ["--batch-size", "1437", "5000"]),
        ({"shift": 8}, ["--shift", "8 pixels", "got 8"]),
    ],
)
def test_impossible_settings_fail_before_a_run_is_made(tmp_path, flags, words):
    with pytest.raises(ValueError, match=r"`") as error:
        eventprop_mnist.main(Config(out=tmp_path / "run", **(TINY | flags)))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    cfg = Config(out=tmp_path, recipe="deep", epochs=1, learning_rate=1e38, **TINY)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        eventprop_mnist.main(cfg)
