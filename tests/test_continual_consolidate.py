"""EWC and SI against float64 NumPy, and against naive training where their weight is nothing."""

import continual_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.continual import consolidate
from jsnn.continual import method as methods
from jsnn.continual.buffer import Batch
from jsnn.continual.method import Border
from jsnn.continual.methods import get

NUM_OPEN = 4


def gradients_of_samples(params, images, labels) -> dict[str, np.ndarray]:
    """d log p(y | x) / d theta of the toy network, sample by sample, by the chain rule."""
    p = {name: np.asarray(x, np.float64) for name, x in params.items()}
    found = {name: [] for name in p}
    for x, y in zip(np.asarray(images, np.float64), labels, strict=True):
        a = x @ p["w"] + p["b"]
        h = np.maximum(a, 0.0)
        z = (h @ p["v"] + p["c"])[:NUM_OPEN]
        e = np.zeros(p["c"].shape)
        e[:NUM_OPEN] = -np.exp(z) / np.exp(z).sum()
        e[y] += 1.0
        back = (p["v"] @ e) * (a > 0)
        for name, g in (
            ("v", np.outer(h, e)),
            ("c", e),
            ("w", np.outer(x, back)),
            ("b", back),
        ):
            found[name].append(g)
    return {name: np.stack(g) for name, g in found.items()}


@pytest.fixture
def padded():
    """Eleven samples and three rows of padding, whose label is of a closed column."""
    data = toy.task(0, 2, 3, per_class=4)
    rest = Batch(jnp.full((3, 2), 50.0), jnp.full(3, 6, jnp.int32), jnp.zeros(3, bool))
    whole = toy.together(jax.tree.map(lambda x: x[:11], data), rest)
    order = np.random.default_rng(0).permutation(14)
    return jax.tree.map(lambda x: x[order], whole)


def test_fisher(key, padded):
    model = toy.model(key)
    rows = np.asarray(padded.valid)
    each = gradients_of_samples(
        model.params, padded.images[rows], np.asarray(padded.labels)[rows]
    )
    for chunk_size in (4, 100):  # 14 is no multiple of 4
        found = toy.jit(
            consolidate.fisher, static_argnums=0, static_argnames="chunk_size"
        )(toy.NETWORK, model, padded, jnp.int32(NUM_OPEN), chunk_size=chunk_size)
        for name, g in each.items():
            # float32 products, squared; relative to the largest entry.
            wanted = (g**2).mean(0)
            np.testing.assert_allclose(
                found[name], wanted, rtol=1e-4, atol=1e-5 * wanted.max()
            )
            assert wanted.max() > 1e-3
            # The square of the mean gradient, a common mistake, is something else.
            assert not np.allclose(found[name], g.mean(0) ** 2, rtol=0.1)
    assert (found["v"][:, NUM_OPEN:] == 0).all()


def test_fisher_of_nothing(key, padded):
    empty = padded._replace(valid=jnp.zeros(14, bool))
    found = consolidate.fisher(toy.NETWORK, toy.model(key), empty, jnp.int32(NUM_OPEN))
    assert all((x == 0).all() for x in jax.tree.leaves(found))


def test_choice_of_samples(key, padded):
    chosen = consolidate.choose(padded, key, 5)
    assert chosen.valid.all()
    assert len(chosen.labels) == 5
    assert consolidate.choose(padded, key, None) is padded
    most = consolidate.choose(padded, key, 13)
    assert int(most.valid.sum()) == 11


def test_online_ewc(key, padded):
    part = consolidate.ewc(strength=3.0, decay=0.5)
    a, b, c = (toy.model(jax.random.fold_in(key, i)) for i in range(3))
    slot = part.init(toy.NETWORK, a, None, None)
    assert float(part.penalty(b.params, slot, part.settings)) == 0.0
    total = jax.tree.map(lambda x: np.zeros(x.shape), a.params)
    rows = np.asarray(padded.valid)
    for number, model in enumerate((a, b)):
        border = Border(key, model, toy.scope(number, 0, NUM_OPEN), padded, None)
        model_after, slot = part.end_task(toy.NETWORK, border, slot, part.settings)
        assert model_after is model
        each = gradients_of_samples(
            model.params, padded.images[rows], np.asarray(padded.labels)[rows]
        )
        total = {name: 0.5 * total[name] + (g**2).mean(0) for name, g in each.items()}
    gap = {n: np.asarray(c.params[n] - b.params[n], np.float64) for n in total}
    wanted = 1.5 * sum((total[n] * gap[n] ** 2).sum() for n in total)
    # float32 squares of gradients
    np.testing.assert_allclose(
        part.penalty(c.params, slot, part.settings), wanted, rtol=1e-4
    )
    assert wanted > 0.1


def test_si(key):
    rng = np.random.default_rng(0)
    part = consolidate.si(strength=0.7, damping=0.2)
    start = toy.model(key)
    slot = part.init(toy.NETWORK, start, None, None)
    theta = {n: np.asarray(x, np.float64) for n, x in start.params.items()}
    anchor, importance = dict(theta), {n: np.zeros(x.shape) for n, x in theta.items()}
    for number in range(2):
        omega = {n: np.zeros(x.shape) for n, x in theta.items()}
        for _ in range(3):
            g = {n: rng.normal(size=x.shape) for n, x in theta.items()}
            move = {n: -0.1 * g[n] + 0.3 * rng.normal(size=g[n].shape) for n in g}
            after = {n: theta[n] + move[n] for n in theta}
            slot = part.after_step(
                slot,
                *(
                    {n: jnp.asarray(x[n], jnp.float32) for n in x}
                    for x in (theta, after, g)
                ),
            )
            omega = {n: omega[n] - g[n] * move[n] for n in omega}
            theta = after
        assert min((w < 0).sum() for w in omega.values()) > 0  # cut off at 0
        for n in theta:
            importance[n] += np.maximum(omega[n], 0) / (
                (theta[n] - anchor[n]) ** 2 + 0.2
            )
        anchor = dict(theta)
        model = start._replace(
            params={n: jnp.asarray(x, jnp.float32) for n, x in theta.items()}
        )
        border = Border(key, model, toy.scope(number, 0, NUM_OPEN), None, None)
        _, slot = part.end_task(toy.NETWORK, border, slot, part.settings)
    moved = {n: jnp.asarray(x + 0.1, jnp.float32) for n, x in theta.items()}
    wanted = 0.7 * sum((importance[n] * 0.1**2).sum() for n in importance)
    # Differences of float32 numbers of order 1.
    np.testing.assert_allclose(
        part.penalty(moved, slot, part.settings), wanted, rtol=1e-4
    )
    assert all((x == 0).all() for x in jax.tree.leaves(slot.path))


@pytest.mark.parametrize(("name", "strength"), [("ewc", 30.0), ("si", 2.0)])
def test_no_weight_is_naive_to_the_bit(name, strength, key):
    method = get(name)
    settings = methods.default_settings(method)
    none = {**settings, "consolidate": {**settings["consolidate"], "strength": 0.0}}
    _, plain = toy.run(get("naive"), key, num_steps=20)[-1]
    memory, model = toy.run(method, key, settings=none, num_steps=20)[-1]
    toy.assert_same(model.params, plain.params)
    assert (
        max(x.max() for x in jax.tree.leaves(memory.slots["consolidate"].importance))
        > 0
    )
    # And with much weight what mattered stays where it was, in the measure of the first task's importance.
    much = {
        **settings,
        "consolidate": {**settings["consolidate"], "strength": strength},
    }
    (early, _), *_, (_, kept) = toy.run(method, key, settings=much, num_steps=20)
    slot = consolidate.Anchored(*early.slots["consolidate"][:2])
    moved = consolidate.distance(plain.params, slot)
    assert 0 < consolidate.distance(kept.params, slot) < 0.5 * moved


def test_options_are_refused():
    with pytest.raises(
        ValueError, match=r"`num_samples` must be at least 1, got 0.*None takes all"
    ):
        consolidate.ewc(num_samples=0)
    with pytest.raises(ValueError, match=r"`chunk_size` must be at least 1, got 0"):
        consolidate.ewc(chunk_size=0)
