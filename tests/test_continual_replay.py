"""Terms of the loss that look at replayed samples, against sums written out in NumPy."""

import functools

import continual_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.continual import method as methods
from jsnn.continual import replay
from jsnn.continual.buffer import Batch, Replay
from jsnn.continual.method import Border, Method, Part, Step
from jsnn.continual.methods import get
from jsnn.continual.network import Output

C, B = 5, 6
INF = np.inf


def step(*, task: int = 1, num_old: int = 2, num_open: int = 4, seed: int = 0) -> Step:
    """A batch of classes 2 and 3, and a draw of which two rows are empty and logits are from a time when two columns were open."""
    rng = np.random.default_rng(seed)

    def output(count):
        logits = rng.normal(size=(count, C)).astype(np.float32)
        logits[:, num_open:] = -INF
        return Output(jnp.zeros((count, 2)), jnp.asarray(logits), {})

    images = jnp.zeros((B, 2))
    fresh = Batch(images, jnp.asarray([2, 3, 2, 2, 3, 0]), jnp.arange(B) < 5)
    stored = np.full((B, C), -INF, np.float32)
    stored[:, :2] = rng.normal(size=(B, 2))
    old = Batch(images, jnp.asarray([0, 1, 1, 0, 4, 4]), jnp.arange(B) < 4)
    drawn = Replay(old, jnp.zeros(B, jnp.int32), jnp.asarray(stored))
    where = toy.scope(task, num_old, num_open)
    return Step(
        jax.random.key(0), toy.model(jax.random.key(1)), where, fresh, images,
        output(B), (drawn,), (images,), (output(B),),
    )  # fmt: skip


def ce(logits, labels) -> np.ndarray:
    z = np.asarray(logits, np.float64)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(labels)), labels]


def value(part: Part, view: Step):
    """Loss, and its gradients with respect to the batch's and the draw's logits."""

    def loss(now, old):
        changed = view._replace(
            output=view.output._replace(logits=now),
            replay_outputs=(view.replay_outputs[0]._replace(logits=old),),
        )
        return part.loss(toy.NETWORK, changed, None, part.settings)

    args = view.output.logits, view.replay_outputs[0].logits
    found, grads = toy.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*args)
    assert all(np.isfinite(g).all() for g in grads)
    return float(found), *map(np.asarray, grads)


# float32 sums of a dozen terms of order 1.
CLOSE = {"rtol": 2e-6, "atol": 2e-6}


def test_experience_replay_is_one_mean():
    view = step()
    now, old = view.output.logits, view.replay_outputs[0].logits
    new = ce(now, view.batch.labels)[:5]
    drawn = ce(old[:4], view.replays[0].batch.labels[:4])
    found, _, pull = value(replay.joint_cross_entropy(), view)
    np.testing.assert_allclose(found, np.concatenate([new, drawn]).mean(), **CLOSE)
    assert (pull[4:] == 0).all()  # rows that the buffer could not fill
    found, _, _ = value(replay.replayed_cross_entropy(beta=0.7), view)
    np.testing.assert_allclose(found, 0.7 * drawn.mean(), **CLOSE)


def test_asymmetric_cross_entropy():
    view = step()
    now, old = np.asarray(view.output.logits), np.asarray(view.replay_outputs[0].logits)
    labels = np.asarray(view.batch.labels)
    masked = now.copy()
    masked[:, [0, 1, 4]] = -INF  # the padded row's class 0 is not present
    drawn = ce(old[:4], view.replays[0].batch.labels[:4]).mean()
    wanted = ce(masked[:5], labels[:5]).mean() + drawn
    found, push, pull = value(replay.asymmetric_cross_entropy(), view)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    assert (push[:, :2] == 0).all()  # old classes' columns are not pushed down ...
    assert (pull[:4, 2:4] > 0).all()  # ... but new ones are by old samples
    first = step(task=0, num_old=0)
    found, push, pull = value(replay.asymmetric_cross_entropy(), first)
    np.testing.assert_allclose(found, ce(now[:5], labels[:5]).mean(), **CLOSE)
    assert (push[:5, :2] > 0).all()
    assert (pull == 0).all()


@pytest.mark.parametrize("closed", ["leave", "lowest"])
def test_logit_distance(closed):
    view = step()
    z, h = np.asarray(view.replays[0].logits), np.asarray(view.replay_outputs[0].logits)
    wanted = []
    for i in range(4):
        target = z[i].astype(np.float64)
        target[2:4] = z[i, :2].min()
        columns = 2 if closed == "leave" else 4
        wanted.append(((h[i, :columns] - target[:columns]) ** 2).mean())
    found, push, pull = value(replay.match_logits(alpha=0.3, closed=closed), view)
    np.testing.assert_allclose(found, 0.3 * np.mean(wanted), **CLOSE)
    assert (push == 0).all()
    assert (pull[4:] == 0).all()
    assert (pull[:4, 2:4] != 0).any() == (closed == "lowest")
    # One column open when stored: nothing says where the others belong.
    single = jnp.full((1, C), -INF).at[0, 1].set(2.0)
    now = jnp.asarray([[0.0, 5.0, 1.0, -INF, -INF]])
    assert float(replay.logit_distance(now, single, closed=closed)[0]) == 9.0
    never = jnp.full((1, C), -INF)
    assert float(replay.logit_distance(now, never, closed=closed)[0]) == 0.0


def one_step(method: Method, key, num_offered: int = 40):
    """A step in the second task with a buffer that has been offered so many samples of the first."""
    model = toy.model(key)
    memory = methods.init_memory(
        toy.NETWORK, method, model, jnp.zeros(2), buffer_size=30
    )
    batch = toy.task(2, 3, per_class=5)
    if num_offered:
        old = toy.task(0, 1, per_class=num_offered // 2)
        if method.latent:
            border = Border(key, model, toy.scope(0, 0, 2), old, memory.buffer)
            buffer = toy.jit(lambda b: method.storage.end(toy.NETWORK, b))(border)
        else:
            logits = jnp.full((num_offered, toy.CAPACITY), -INF).at[:, :2].set(0.0)
            offered = Replay(old, jnp.zeros_like(old.labels), logits)
            buffer = toy.jit(lambda b: method.storage.step(b, key, None, offered))(
                memory.buffer
            )
        memory = memory._replace(buffer=buffer)
    settings = methods.default_settings(method)
    where = toy.scope(1, 2, 4)
    update = toy.jit(functools.partial(methods.gradients, toy.NETWORK, method))(
        memory, model, settings, key, where, batch
    )
    return update, (memory, model, where, batch)


def test_draws_are_independent(key):
    shapes = []

    def part(name: str, sign: float) -> Part:
        def loss(network, view, slot, settings):
            images = view.replays[0].batch.images
            shapes.append(images.shape)
            weights = jnp.arange(1.0, 1.0 + len(images))[:, None]
            return sign * (weights * images).sum() + 0.0 * view.output.logits[0, 0]

        return Part(name, num_draws=1, loss=loss)

    parts = (part("a", 1.0), part("b", -1.0))
    update, _ = one_step(Method(parts, replay.reservoir(), draw_size=23), key)
    assert shapes == [(23, 2)] * 2
    assert abs(update.loss) > 1.0  # the same draw twice would give 0


def test_draws_larger_than_the_batch(key):
    """One pass of batches of unequal size, with rows that a small buffer cannot fill."""
    method = get("er")._replace(draw_size=24)
    assert method.passes == "together"
    few, _ = one_step(method, key, 20)
    same, _ = one_step(method._replace(draw_size=20), key, 20)
    # 20 samples are stored: the other rows count for nothing.
    np.testing.assert_allclose(few.loss, same.loss, rtol=1e-5)


def test_an_empty_buffer_changes_nothing(key):
    plain, _ = one_step(get("naive")._replace(storage=replay.reservoir()), key, 0)
    for name in ("er", "der++"):
        found, _ = one_step(get(name), key, 0)
        # The same sums in another order.
        for leaf, value in found.gradient.items():
            np.testing.assert_allclose(
                value, plain.gradient[leaf], rtol=1e-5, atol=1e-7
            )


def test_no_weight_is_naive_to_the_bit(key):
    _, plain = toy.run(get("naive"), key, num_steps=20)[-1]
    method = get("der++")
    none = {"classify": {}, "match": {"alpha": 0.0}, "replay": {"beta": 0.0}}
    _, model = toy.run(method, key, settings=none, num_steps=20)[-1]
    toy.assert_same(model.params, plain.params)
    _, other = toy.run(method, key, num_steps=20)[-1]
    assert not np.array_equal(other.params["v"], plain.params["v"])


def test_what_the_buffer_is_offered(key):
    update, (_, model, where, batch) = one_step(get("der"), key)
    logits = toy.NETWORK.apply(model, key, batch.images, where.num_open, False).logits
    np.testing.assert_array_equal(update.replay.logits, logits)
    np.testing.assert_array_equal(update.replay.batch.images, batch.images)
    assert update.replay.tasks.tolist() == [1] * 10


def test_latent_replay(key):
    update, (memory, model, where, batch) = one_step(get("latent-er"), key)
    assert memory.buffer.images.dtype == jnp.uint8
    assert memory.buffer.images.shape == (30, 2 * toy.FEATURES // 8)
    # Below the replay layer nothing moves any more; above it learning goes on.
    assert (update.gradient["w"] == 0).all()
    assert (update.gradient["v"] != 0).any()
    # What is kept are the spikes of the first task's images, as many of them as there are slots.
    buffer, first = memory.buffer, toy.task(0, 1, per_class=20)
    spikes, _ = toy.NETWORK.lower(model, key, first.images, False)
    rows = np.moveaxis(np.asarray(spikes), 1, 0).reshape(40, -1)
    known = {r.tobytes() for r in np.packbits(rows.astype(np.uint8), axis=1)}
    assert {r.tobytes() for r in np.asarray(buffer.images)} <= known
    assert buffer.valid.all()
    # A replayed row gives the logits that its image would.
    packed = methods.networks.latent(toy.NETWORK, model, batch.images)
    spikes, _ = toy.NETWORK.lower(model, key, batch.images, False)
    stored = methods.buffers.unpack(packed, (2, toy.FEATURES))
    np.testing.assert_array_equal(stored, spikes)
    wanted = toy.NETWORK.upper(model, key, spikes, where.num_open, False).logits
    found = toy.NETWORK.upper(model, key, stored, where.num_open, False).logits
    np.testing.assert_array_equal(found, wanted)
    early = methods.gradients(
        toy.NETWORK, get("latent-er"), memory, model, {"replay": {}}, key,
        toy.scope(0, 0, 4), batch,
    )  # fmt: skip
    assert (early.gradient["w"] != 0).any()


def test_passes(key):
    """One pass shows batch norm the mixture, passes apart hand `rest` on: seen by a network that notes what it is shown."""

    def apply(model, key, images, num_open, train):
        out = toy.NETWORK.apply(model, key, images, num_open, train)
        shown = model.rest["steps"] + images.shape[0] * train
        return out._replace(rest={"steps": shown + (100.0 if train else 0.0)})

    network = toy.NETWORK._replace(apply=apply)
    batch, where, model = (
        toy.task(2, 3, per_class=5),
        toy.scope(1, 2, 4),
        toy.model(key),
    )
    for passes, wanted in (("together", 120.0), ("apart", 220.0)):
        method = get("er")._replace(passes=passes)
        memory = methods.init_memory(
            network, method, model, jnp.zeros(2), buffer_size=5
        )
        update = methods.gradients(
            network, method, memory, model, {"replay": {}}, key, where, batch
        )
        assert float(update.rest["steps"]) == wanted


def test_latent_replay_needs_two_halves(key):
    whole = toy.NETWORK._replace(lower=None)
    with pytest.raises(ValueError, match=r"`network` must define `lower` and `upper`"):
        methods.init_memory(
            whole, get("latent-er"), toy.model(key), jnp.zeros(2), buffer_size=5
        )
    early = get("er")._replace(latent=True)  # spikes that would still change
    with pytest.raises(
        ValueError, match=r"`storage` of latent replay .* end of a task"
    ):
        methods.init_memory(
            toy.NETWORK, early, toy.model(key), jnp.zeros(2), buffer_size=5
        )
