"""Replay buffers: who is kept, against plain loops and in distribution; herding against its definition."""

import itertools

import continual_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jsnn.continual import buffer as buffers
from jsnn.continual import herding
from jsnn.continual.buffer import Batch, Replay

C = 5


def replay(numbers, labels, valid=None, task: int = 0) -> Replay:
    """Samples whose image is their number."""
    numbers = jnp.asarray(numbers, jnp.float32)[:, None]
    count = len(numbers)
    valid = jnp.ones(count, bool) if valid is None else jnp.asarray(valid)
    logits = jnp.broadcast_to(numbers, (count, C))
    batch = Batch(numbers, jnp.asarray(labels, jnp.int32), valid)
    return Replay(batch, jnp.full(count, task), logits)


def empty(num_slots: int) -> buffers.Buffer:
    return buffers.init(num_slots, jnp.zeros(1), C)


def held(buffer) -> list[int]:
    """Numbers of the samples in use, in slot order."""
    return (
        np.asarray(buffer.images[:, 0])[np.asarray(buffer.valid)].astype(int).tolist()
    )


def offer(num_slots: int, batches, policy=None):
    """`key -> buffer` after all batches."""

    def add(buffer, row):
        if policy is None:
            return buffers.add_reservoir(buffer, *row), None
        return buffers.add_by(buffer, *row, policy), None

    def run(key):
        rows = jax.random.split(key, len(batches)), stacked
        return jax.lax.scan(add, empty(num_slots), rows)[0]

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    return run


def stream(num: int, labels=None):
    """Batches of 8 with a row of padding in each third place."""
    labels = np.arange(num) % C if labels is None else labels
    rows = [(n, labels[n], True) for n in range(num)]
    for place in range(2, num + num // 2, 3):
        rows.insert(place, (999, 0, False))
    rows += [(999, 0, False)] * (-len(rows) % 8)
    return [replay(*zip(*rows[i : i + 8], strict=True)) for i in range(0, len(rows), 8)]


def test_reservoir_is_algorithm_r(key):
    batches, clashes = stream(60), 0
    draw = toy.jit(lambda k, n: jax.random.randint(k, (8,), 0, n))
    run = toy.jit(offer(16, batches))
    for number in range(4):
        here, slots, seen = jax.random.fold_in(key, number), [-1] * 16, 0
        keys = jax.random.split(here, len(batches))
        for k, batch in zip(keys, batches, strict=True):
            valid = np.asarray(batch.batch.valid)
            order = seen + np.cumsum(valid) - 1
            drawn = np.asarray(draw(k, np.maximum(order, 0) + 1))
            taken = set()
            for i in np.flatnonzero(valid):
                slot = seen if seen < 16 else int(drawn[i])
                seen += 1
                if slot < 16:
                    clashes += slot in taken
                    taken.add(slot)
                    slots[slot] = int(batch.batch.images[i, 0])
        buffer = run(here)
        assert held(buffer) == slots
        assert seen == 60 == int(buffer.num_seen.sum())
        np.testing.assert_array_equal(buffer.logits[:, 0], buffer.images[:, 0])
        np.testing.assert_array_equal(buffer.labels, np.asarray(slots) % C)
    assert clashes > 0  # two samples of a batch wanted one slot: the later one has it


def inclusion(run, num: int, repeats: int, key) -> np.ndarray:
    """How often each sample is held at the end."""
    end = toy.jit(jax.vmap(run))(jax.random.split(key, repeats))
    numbers = np.asarray(end.images[:, :, 0]).astype(int)[np.asarray(end.valid)]
    return np.bincount(numbers, minlength=num)


def check_uniform(counts: np.ndarray, repeats: int, held_each: int) -> None:
    """Chi-square of counts of draws without replacement: variance n p (1 - p), one degree of freedom less than cells."""
    cells, share = len(counts), held_each / len(counts)
    assert counts.sum() == repeats * held_each
    expected = repeats * share
    chi = ((counts - expected) ** 2).sum() / (expected * (1 - share))
    chi *= (cells - 1) / cells
    # Keys are fixed: a right sampler fails for one key in ten thousand.
    assert chi < stats.chi2.ppf(0.9999, cells - 1)
    assert chi > stats.chi2.ppf(0.0001, cells - 1)  # nor is it more even than chance


def test_reservoir_is_uniform(key):
    counts = inclusion(offer(10, stream(40)), 40, 500, key)
    check_uniform(counts, 500, 10)


def test_balanced_reservoir(key):
    labels = np.asarray([0] * 6 + [1] + [0] * 12 + [1, 2, 1] + [0] * 13 + [2])
    run = offer(8, stream(len(labels), labels), buffers.balanced)
    counts = inclusion(run, len(labels), 400, key)
    assert (counts[labels == 1] == 400).all()  # three samples and two: all of them kept
    assert (counts[labels == 2] == 400).all()
    check_uniform(counts[labels == 0], 400, 3)  # a uniform sample of the large class


def test_greedy(key):
    labels = np.repeat([3, 1, 0], [20, 20, 5])
    buffer = toy.jit(offer(9, stream(45, labels), buffers.greedy))(key)
    assert np.bincount(np.asarray(buffer.labels), minlength=C).tolist() == [
        3,
        3,
        0,
        3,
        0,
    ]
    # More classes than slots: each class that is new still enters, in place of another.
    buffer = toy.jit(offer(2, stream(40, np.repeat(np.arange(5), 8)), buffers.greedy))(
        key
    )
    assert len(set(np.asarray(buffer.labels).tolist())) == 2
    assert 4 in np.asarray(buffer.labels)
    assert buffer.valid.all()


@pytest.mark.parametrize("policy", [None, buffers.balanced])
def test_vmap_is_a_loop(policy, key):
    run = offer(5, stream(24), policy)
    keys = jax.random.split(key, 3)
    many, alone = toy.jit(jax.vmap(run))(keys), toy.jit(run)
    for i in range(3):
        one = alone(keys[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), many, one
        )
    assert (
        len({tuple(held(jax.tree.map(lambda x, i=i: x[i], many))) for i in range(3)})
        > 1
    )


def test_sample(key):
    buffer = buffers.add_reservoir(empty(6), key, replay(range(4), range(4)))
    few = buffers.sample(buffer, key, 9)
    assert few.batch.valid.tolist() == [True] * 4 + [False] * 5
    assert sorted(np.asarray(few.batch.images[:4, 0]).tolist()) == [0, 1, 2, 3]
    assert not buffers.sample(empty(6), key, 3).batch.valid.any()
    full = buffers.add_reservoir(buffer, key, replay(range(4, 20), np.arange(16) % C))
    draws = toy.jit(jax.vmap(lambda k: buffers.sample(full, k, 3).batch))(
        jax.random.split(key, 200)
    )
    assert draws.valid.all()
    assert all(len(set(row)) == 3 for row in np.asarray(draws.images[:, :, 0]).tolist())
    numbers = np.asarray(draws.images[:, :, 0]).astype(int).ravel()
    counts = np.asarray([(numbers == n).sum() for n in held(full)])
    check_uniform(counts, 200, 3)


def test_the_last_row_gets_the_slot():
    buffer = buffers.write(
        empty(3), replay(range(5), [0] * 5), jnp.asarray([2, 0, 2, 3, 0])
    )
    assert held(buffer) == [4, 2]
    assert buffer.valid.tolist() == [True, False, True]


def test_no_slots():
    with pytest.raises(ValueError, match=r"`num_slots` must not be negative, got -1"):
        empty(-1)


def test_bit_packing(key):
    spikes = jax.random.bernoulli(key, 0.3, (3, 4, 5, 2)).astype(jnp.float32)
    packed = toy.jit(buffers.pack)(spikes)
    assert packed.shape == (4, buffers.packed_size((3, 5, 2)))
    assert packed.shape[1] == 4  # 30 bits
    rows = np.moveaxis(np.asarray(spikes), 1, 0).reshape(4, -1).astype(np.uint8)
    np.testing.assert_array_equal(packed, np.packbits(rows, axis=1))
    np.testing.assert_array_equal(buffers.unpack(packed, (3, 5, 2)), spikes)
    assert 0 < spikes.sum() < spikes.size


def herd_loop(features: np.ndarray, num_picks: int) -> list[int]:
    """The definition, in float64."""
    phi = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)
    mean, picks = phi.mean(0), []
    for k in range(1, num_picks + 1):
        total = phi[picks].sum(0)
        gap = np.linalg.norm(mean - (total + phi) / k, axis=1)
        gap[picks] = np.inf
        picks.append(int(gap.argmin()))
    return picks


def test_herding_is_its_definition(key):
    features = np.asarray(jax.random.normal(key, (30, 4))) + 1.0
    features[5] = 0.0  # a silent sample
    member = np.arange(30) % 3 != 1
    rows = np.flatnonzero(member)
    wanted = rows[herd_loop(features[rows].astype(np.float64), 12)]
    herd = toy.jit(herding.herd, static_argnums=3)
    args = jnp.asarray(features), jnp.asarray(member)
    found = np.asarray(herd(*args, jnp.int32(12), 25))
    assert found[:12].tolist() == wanted.tolist()
    assert (found[12:] == 30).all()
    shorter = np.asarray(herd(*args, jnp.int32(5), 25))  # a prefix
    assert shorter[:5].tolist() == found[:5].tolist()
    every = np.asarray(herd(*args, jnp.int32(25), 25))  # fewer members than picks
    assert sorted(every[:20].tolist()) == rows.tolist()
    assert (every[20:] == 30).all()
    rest = np.setdiff1d(rows, found[:12])
    assert np.linalg.norm(
        features[found[:12]].mean(0) - features[rows].mean(0)
    ) < np.linalg.norm(features[rest].mean(0) - features[rows].mean(0))


@toy.jit
def renew(buffer, data, num_open, task):
    """Features are a fixed function of the image."""

    def look(x):
        return jnp.concatenate([jnp.cos(x), jnp.sin(1.3 * x), jnp.ones_like(x)], axis=1)

    return herding.renew(
        buffer,
        data,
        (look(buffer.images), look(data.images)),
        num_open=num_open,
        task=task,
    )


def by_class(buffer) -> dict[int, list[int]]:
    found = {}
    for number, label in zip(
        held(buffer), np.asarray(buffer.labels)[np.asarray(buffer.valid)], strict=True
    ):
        found.setdefault(int(label), []).append(number)
    return found


def test_exemplars_keep_a_prefix():
    first = replay(range(20), np.arange(20) % 2).batch
    second = replay(range(20, 40), 2 + np.arange(20) % 2).batch
    a = renew(empty(10), first, jnp.int32(2), jnp.int32(0))
    b = renew(a, second, jnp.int32(4), jnp.int32(1))
    assert [len(by_class(a)[c]) for c in range(2)] == [5, 5]
    assert [len(by_class(b)[c]) for c in range(4)] == [3, 3, 2, 2]  # 10 = 2 * 4 + 2
    for label in range(2):
        assert by_class(b)[label] == by_class(a)[label][:3]
    assert np.asarray(b.tasks).tolist() == [0] * 6 + [1] * 4
    # A class that comes again is chosen anew, from its exemplars and its new samples.
    again = replay(range(40, 60), [0] * 20).batch
    c = renew(b, again, jnp.int32(4), jnp.int32(2))
    assert by_class(c)[1] == by_class(b)[1]
    assert set(by_class(c)[0]) <= set(by_class(b)[0]) | set(range(40, 60))
    assert max(by_class(c)[0]) >= 40


def test_fewer_slots_than_classes_or_samples():
    data = replay(range(20), np.arange(20) % 5).batch
    a = renew(empty(3), data, jnp.int32(5), jnp.int32(0))
    assert {k: len(v) for k, v in by_class(a).items()} == {0: 1, 1: 1, 2: 1}
    few = replay(range(20), [0, 1] + [0] * 18, [True] * 2 + [False] * 18).batch
    b = renew(empty(10), few, jnp.int32(2), jnp.int32(0))
    assert by_class(b) == {0: [0], 1: [1]}
    assert int(b.valid.sum()) == 2
    nothing = replay(range(20), [0] * 20, [False] * 20).batch
    c = renew(b, nothing, jnp.int32(2), jnp.int32(1))  # an empty task
    assert by_class(c) == by_class(b)


def test_quotas_never_grow():
    shares = [np.asarray(herding.quotas(11, jnp.int32(k), C)) for k in range(1, C + 1)]
    for k, share in enumerate(shares, 1):
        assert share.sum() == 11
        assert (share[k:] == 0).all()
    assert all(
        (a[:k] >= b[:k]).all() for k, (a, b) in enumerate(itertools.pairwise(shares), 1)
    )


def again(num: int, size: int = 8):
    """Three epochs of `num` samples, and then a task with the first half of them once more: `is_first` only in the first epoch."""
    rng = np.random.default_rng(num)
    passes = [(e, rng.permutation(num)) for e in range(3)] + [(3, np.arange(num // 2))]
    batches = []
    for epoch, order in passes:
        order = np.append(order, [0] * (-len(order) % size))
        for i in range(0, len(order), size):
            rows = order[i : i + size]
            valid = np.arange(i, i + size) < (num if epoch < 3 else num // 2)
            found = replay(rows, rows % C, valid, task=epoch)
            batch = found.batch._replace(
                identity=jnp.asarray(rows, jnp.int32),
                is_first=jnp.full(size, epoch == 0),
            )
            logits = jnp.full((size, C), float(epoch))
            batches.append(found._replace(batch=batch, logits=logits))
    return batches


@pytest.mark.parametrize("policy", [None, buffers.balanced, buffers.greedy])
def test_a_sample_that_comes_again_takes_no_second_slot(policy, key):
    buffer = toy.jit(offer(12, again(30), policy))(key)
    assert len(set(held(buffer))) == 12
    assert held(buffer) == np.asarray(buffer.identity).tolist()
    assert int(buffer.num_seen.sum()) == 30
    # The network's answer is that of the last time the sample came.
    wanted = [3.0 if number < 15 else 2.0 for number in held(buffer)]
    assert buffer.logits[:, 0].tolist() == wanted
    room = toy.jit(offer(40, again(30), policy))(key)
    assert sorted(held(room)) == list(range(30))


def test_a_reservoir_of_what_comes_again_is_uniform(key):
    """Half of the samples come more often, and are not kept more often."""
    counts = inclusion(offer(10, again(40)), 40, 500, key)
    check_uniform(counts, 500, 10)
    counts = inclusion(offer(10, again(40), buffers.balanced), 40, 400, key)
    check_uniform(counts, 400, 10)


def test_herding_takes_a_sample_that_comes_again_once():
    """A class in two tasks with all its samples is herded as it would be in one."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)
    buffer = empty(6)
    for number in range(2):
        data = replay(range(9), [0] * 9).batch
        first = jnp.full(9, number == 0)
        data = data._replace(identity=jnp.arange(9), is_first=first)
        kept = features[jnp.maximum(buffer.identity, 0)]
        buffer = herding.renew(
            buffer,
            data,
            (kept, features),
            num_open=jnp.int32(1),
            task=jnp.int32(number),
        )
        order = herding.herd(features, jnp.ones(9, bool), jnp.int32(6), 6)
        assert held(buffer) == np.asarray(order).tolist()
        assert buffer.num_seen.tolist() == [9, 0, 0, 0, 0]


def test_a_union_has_each_sample_once():
    a, b = replay(range(4), [0] * 4).batch, replay(range(4), [1] * 4).batch
    a = a._replace(identity=jnp.asarray([5, 6, 7, 8]), valid=jnp.arange(4) < 3)
    b = b._replace(identity=jnp.asarray([6, 8, 9, -1]))
    both = buffers.union(a, b)
    assert both.valid.tolist() == [True] * 3 + [False, False, True, True, True]


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, np.nan])
def test_packing_refuses_what_is_no_spike(value):
    spikes = jnp.zeros((2, 3, 4)).at[1, 2, 3].set(value)
    with pytest.raises(ValueError, match="`spikes` must be 0 or 1"):
        buffers.pack(spikes)
