"""Terms and default weights against the formulas of the code they are taken from (mammoth), written out in NumPy."""

import continual_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cil_cifar10 import Config, make_learner
from jsnn.continual import consolidate, methods, replay
from jsnn.continual import method as running
from jsnn.continual.consolidate import Anchored


def test_ewc_weighs_as_mammoth_does(key):
    """`e_lambda * (fish * (params - checkpoint) ** 2).sum()` with `e_lambda` 10."""
    rng = np.random.default_rng(0)
    fish, params, checkpoint = rng.normal(size=(3, 40)).astype(np.float32)
    fish = fish**2
    part = consolidate.ewc()
    slot = Anchored({"w": jnp.asarray(fish)}, {"w": jnp.asarray(checkpoint)})
    found = part.penalty({"w": jnp.asarray(params)}, slot, part.settings)
    wanted = 10 * (fish.astype(float) * (params.astype(float) - checkpoint) ** 2).sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def smooth(logits: np.ndarray) -> np.ndarray:
    """mammoth's `smooth(softmax(logits), 2, 1)`."""
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p**0.5 / (p**0.5).sum(1, keepdims=True)


def test_lwf_weighs_as_mammoth_does(key):
    """`alpha * -mean(sum(smooth(old) * log(smooth(new)), 1))` with `alpha` 3, over old classes: equal up to a constant of the teacher."""
    teacher, *students = (toy.model(jax.random.fold_in(key, i)) for i in range(3))
    data, where = toy.task(2, 3, per_class=5), toy.scope(1, 2, 4)

    def logits(model):
        found = toy.NETWORK.apply(model, key, data.images, jnp.int32(4), False).logits
        return np.asarray(found, np.float64)[:, :2]

    def term(model):
        """What LwF adds to naive training's loss."""
        losses = []
        for name in ("lwf", "naive"):
            method = methods.get(name)
            settings = running.default_settings(method)
            args = toy.NETWORK, method
            image = jnp.zeros(2)
            memory = running.init_memory(*args, teacher, image, buffer_size=1)
            more = settings, key, where, data
            memory, _ = running.begin_task(*args, memory, teacher, *more)
            losses.append(running.gradients(*args, memory, model, *more).loss)
        return float(losses[0] - losses[1])

    old = smooth(logits(teacher))
    wanted = [-3 * (old * np.log(smooth(logits(m)))).sum(1).mean() for m in students]
    found = [term(m) for m in students]
    assert abs(wanted[0] - wanted[1]) > 0.01
    np.testing.assert_allclose(found[0] - found[1], wanted[0] - wanted[1], atol=2e-5)


@pytest.mark.parametrize("num_open", [4, 10])
def test_der_is_a_mean_over_open_columns(num_open):
    """`F.mse_loss(outputs, logits)`, with all ten classes open mammoth's to the letter."""
    rng = np.random.default_rng(1)
    now, stored = rng.normal(size=(2, 6, 10)).astype(np.float32)
    mse = ((now.astype(float) - stored)[:, :num_open] ** 2).mean()
    now[:, num_open:] = stored[:, num_open:] = -np.inf
    found = replay.logit_distance(
        jnp.asarray(now), jnp.asarray(stored), closed="lowest"
    )
    np.testing.assert_allclose(found.mean(), mse, rtol=1e-5)


@pytest.mark.parametrize(
    ("buffer", "alpha", "beta"),
    [
        (200, 0.1, 0.5),
        (500, 0.2, 0.5),
        (5120, 0.1, 1.0),
        (50, 0.1, 0.5),
        (2000, 0.1, 1),
    ],
)
def test_der_plus_plus_has_weights_for_each_buffer(buffer, alpha, beta):
    cfg = Config(None, data="digits", method="der++", buffer=buffer)  # pyright: ignore
    learner = make_learner(cfg, np.zeros((8, 8, 1), np.uint8))
    assert learner.settings["match"] == {"alpha": alpha}
    assert learner.settings["replay"] == {"beta": beta}
    part = methods.get("der++", buffer_size=buffer)
    assert running.default_settings(part) == learner.settings


def test_a_buffer_without_slots_has_no_weights():
    with pytest.raises(ValueError, match="`buffer_size` must be at least 1, got 0"):
        methods.der_plus_plus(buffer_size=0)
