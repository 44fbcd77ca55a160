"""Metrics against hand-made cases, loops over single synapses, and scikit-learn."""

import json

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import sklearn.metrics

from jsnn import metrics
from jsnn.kernels import conv

C = 4


def counted(counts, num_steps=10):
    """`[T, B, C]` spikes with the given counts `[B, C]`, all at the start."""
    steps = np.arange(num_steps)[:, None, None]
    return jnp.asarray(steps < np.array(counts), jnp.float32)


@pytest.fixture
def answers():
    """Labels and predictions of 60 examples; class 2 is never predicted, class 5 does not occur, 3 times silence."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 60)
    guesses = np.where(rng.uniform(size=60) < 0.6, labels, rng.integers(0, 5, 60))
    guesses[guesses == 2] = 0
    guesses[:3] = -1
    return guesses, labels


def test_prediction_by_count_and_its_ties():
    spikes = counted([[1, 5, 2, 0], [3, 0, 3, 3], [0, 0, 0, 0], [0, 4, 4, 1]])
    np.testing.assert_array_equal(metrics.predict_by_count(spikes), [1, 0, 0, 1])
    level = [[9, 0, 9, 9], [1, 9, 2, 3], [-3, -2, -1, -2], [9, 1, 1, 9]]
    membrane = jnp.broadcast_to(jnp.array(level, jnp.float32), spikes.shape)
    # Clear win, whatever the potentials; a tie of three; silence; a tie in both, so the lowest index.
    got = metrics.predict_by_count(spikes, membrane)
    np.testing.assert_array_equal(got, [1, 3, 2, 1])


def test_membrane_breaks_ties_by_its_sum_and_not_its_last_value():
    spikes = counted([[2, 2]], num_steps=3)
    membrane = jnp.array([[[5.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    assert metrics.predict_by_count(spikes, membrane) == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.uint8, jnp.bool_])
def test_counts_are_exact_in_narrow_types(dtype):
    """301 against 300 spikes: equal in bfloat16, wrapped in uint8."""
    spikes = counted([[300, 301]], num_steps=400).astype(dtype)
    assert metrics.predict_by_count(spikes) == 1
    np.testing.assert_allclose(metrics.firing_rates(spikes), [[0.75, 0.7525]])
    np.testing.assert_array_equal(metrics.synaptic_operations(spikes, 2), [1202])


def test_prediction_by_membrane(key):
    membrane = jnp.array([[[0.0, 3.0, 2.0]], [[0.0, -4.0, 2.0]]])
    assert metrics.predict_by_membrane(membrane) == 2
    assert metrics.predict_by_membrane(membrane, "max") == 1
    closed = membrane.at[:, :, 2].set(-jnp.inf)
    assert metrics.predict_by_membrane(closed) == 0


def test_accuracy_weighted_and_plain():
    guesses, labels = jnp.array([0, 1, 2, -1, 3]), jnp.array([0, 1, 1, 3, 3])
    np.testing.assert_allclose(metrics.accuracy(guesses, labels), 0.6)
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(metrics.accuracy(guesses, labels, weights), 0.5)
    np.testing.assert_allclose(
        metrics.accuracy(guesses, labels.astype(jnp.uint8), weights > 0), 0.5
    )
    assert jnp.isnan(metrics.accuracy(guesses, labels, jnp.zeros(5)))


def test_firing_rates_by_hand():
    spikes = counted([[1, 5], [10, 0]])
    np.testing.assert_allclose(metrics.firing_rates(spikes), [[0.1, 0.5], [1.0, 0.0]])
    as_image = metrics.firing_rates(spikes.reshape(10, 2, 1, 1, 2))
    assert as_image.shape == (2, 1, 1, 2)


GEOMETRIES = [
    ((5, 6), (3, 3), 1, "same"),
    ((5, 6), (3, 3), 1, "valid"),
    ((7, 8), (3, 2), 2, "same"),
    ((7, 8), (2, 3), 2, "valid"),
    ((6, 5), (3, 3), 3, 1),
    ((4, 4), (1, 1), 2, 0),
    ((5, 5), (5, 5), 1, 2),
]


def loop_reach(size, kernel, stride, padding):
    """How many outputs each position reaches, one synapse at a time."""
    outputs, low = [], []
    for n, k in zip(size, kernel, strict=True):
        if padding == "same":
            out = -(-n // stride)
            low.append(max((out - 1) * stride + k - n, 0) // 2)
        else:
            pad = 0 if padding == "valid" else padding
            out = (n + 2 * pad - k) // stride + 1
            low.append(pad)
        outputs.append(out)
    reach = np.zeros(size)
    for oy, ox in np.ndindex(*outputs):
        for ky, kx in np.ndindex(*kernel):
            y, x = oy * stride + ky - low[0], ox * stride + kx - low[1]
            if 0 <= y < size[0] and 0 <= x < size[1]:
                reach[y, x] += 1
    return reach


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), GEOMETRIES)
def test_convolution_fan_out_by_counting_synapses(size, kernel, stride, padding):
    got = metrics.conv_fan_out(size, kernel, 3, stride=stride, padding=padding)
    want = 3 * loop_reach(size, kernel, stride, padding)
    np.testing.assert_array_equal(got[:, :, 0], want)
    assert got.shape == (*size, 1)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), GEOMETRIES[2:5:2])
def test_operations_of_a_convolution_are_the_sum_of_its_outputs(
    size, kernel, stride, padding, key
):
    """Unit weights and 0/1 inputs: an output's value is the number of spikes added to it."""
    spikes = jax.random.bernoulli(key, 0.3, (6, 2, *size, 2)).astype(jnp.float32)
    ones = jnp.ones((*kernel, 2, 3))
    out = conv.conv2d(
        spikes.reshape(12, *size, 2), ones, stride=stride, padding=padding
    )
    want = out.reshape(6, 2, -1).sum((0, 2))
    fan_out = metrics.conv_fan_out(size, kernel, 3, stride=stride, padding=padding)
    got = metrics.synaptic_operations(spikes, fan_out)
    assert got.min() > 0
    np.testing.assert_array_equal(got, want)


def test_operations_of_a_dense_layer(key):
    spikes = jax.random.bernoulli(key, 0.3, (6, 2, 5)).astype(jnp.float32)
    want = [128 * int(np.sum(spikes[:, b])) for b in range(2)]
    np.testing.assert_array_equal(metrics.synaptic_operations(spikes, 128), want)


def test_multiply_accumulates_of_known_layers():
    """A convolution without padding has exactly outputs × kernel products; a dense layer inputs × outputs."""
    assert metrics.multiply_accumulates((784,), 128) == 784 * 128
    fan_out = metrics.conv_fan_out((28, 28), (5, 5), 12, padding="valid")
    assert metrics.multiply_accumulates((28, 28, 3), fan_out) == 24 * 24 * 12 * 25 * 3


def test_energy_by_hand():
    """One million accumulates at 0.9 pJ and a thousand products at 4.6 pJ."""
    joules = metrics.energy(jnp.array([1e6, 0.0]), 1e3)
    np.testing.assert_allclose(joules, [0.9046e-6, 4.6e-9], rtol=1e-6)
    assert metrics.energy(2, 3, ac_joules=10.0, mac_joules=100.0) == 320


def test_confusion_matrix_is_sklearns_without_the_undecided(answers):
    guesses, labels = answers
    decided = guesses >= 0
    want = sklearn.metrics.confusion_matrix(
        labels[decided], guesses[decided], labels=range(6)
    )
    np.testing.assert_array_equal(metrics.confusion_matrix(guesses, labels, 6), want)
    assert want.sum() == 57


def test_report_by_loop(answers):
    guesses, labels = answers
    report = metrics.classification_report(guesses, labels, 6)
    for c in range(6):
        hits = sum((guesses == c) & (labels == c))
        guessed, seen = sum(guesses == c), sum(labels == c)
        precision = hits / guessed if guessed else 0.0
        recall = hits / seen if seen else 0.0
        f1 = 2 * hits / (guessed + seen) if guessed + seen else 0.0
        want = {"precision": precision, "recall": recall, "f1": f1, "support": seen}
        got = {name: report["per_class"][name][c] for name in want}
        assert got == pytest.approx(want)
    assert report["per_class"]["precision"][2] == 0  # never predicted
    assert report["per_class"]["support"][5] == 0  # never seen
    assert report["accuracy"] == pytest.approx(sum(guesses == labels) / 60)
    for name in ("precision", "recall", "f1"):  # class 5 occurs nowhere
        want = np.mean(report["per_class"][name][:5])
        assert report[f"macro_{name}"] == pytest.approx(want)
    json.dumps(report)


def test_report_macro_f1_is_sklearns(answers):
    guesses, labels = (a[3:] for a in answers)
    report = metrics.classification_report(jnp.asarray(guesses), labels, 10)
    want = sklearn.metrics.f1_score(labels, guesses, average="macro")
    assert report["macro_f1"] == pytest.approx(want)


def loop_auc(score, positive):
    """Probability that a positive scores above a negative, equality counting half."""
    pairs = [
        (p > n) + 0.5 * (p == n) for p in score[positive] for n in score[~positive]
    ]
    return np.mean(pairs)


def test_roc_auc_by_counting_pairs():
    """Spike counts, full of ties."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, C, 50)
    scores = rng.integers(0, 8, (50, C)) + 3.0 * np.eye(C)[labels]
    want = np.mean([loop_auc(scores[:, c], labels == c) for c in range(C)])
    assert 0.6 < want < 0.95
    assert metrics.roc_auc(scores, labels) == pytest.approx(want)
    assert metrics.roc_auc(jnp.asarray(scores), jnp.asarray(labels)) == pytest.approx(
        want
    )


def test_roc_auc_is_sklearns_for_probabilities():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, C, 80)
    p = rng.dirichlet(np.ones(C), 80) + 0.3 * np.eye(C)[labels]
    p /= p.sum(1, keepdims=True)
    want = sklearn.metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert metrics.roc_auc(p, labels) == pytest.approx(want)


def test_roc_auc_of_absent_classes():
    labels = np.array([0, 1, 0, 1, 3])
    scores = np.random.default_rng(4).normal(size=(5, 4))
    with pytest.raises(ValueError, match=r"classes \[2\].*absent='skip'"):
        metrics.roc_auc(scores, labels)
    want = np.mean([loop_auc(scores[:, c], labels == c) for c in (0, 1, 3)])
    assert metrics.roc_auc(scores, labels, absent="skip") == pytest.approx(want)
    with pytest.raises(ValueError, match=r"classes \[0, 1, 2, 3\]"):  # one class alone
        metrics.roc_auc(scores[:1], labels[:1], absent="skip")


def test_jit_and_vmap_equal_a_loop(key):
    """Over three networks, as a sweep over seeds reports them."""
    spikes = jax.random.bernoulli(key, 0.3, (3, 8, 5, C)).astype(jnp.float32)
    membrane = jax.random.normal(key, spikes.shape)
    labels = jnp.array([0, 1, 2, 3, 0])
    fan_out = metrics.conv_fan_out((2, 2), (2, 2), 3)

    def report(s, v):
        guess = metrics.predict_by_count(s, v)
        return (
            guess,
            metrics.predict_by_count(s),
            metrics.predict_by_membrane(v, "max"),
            metrics.accuracy(guess, labels, jnp.ones(5)),
            metrics.firing_rates(s),
            metrics.synaptic_operations(s.reshape(8, 5, 2, 2, 1), fan_out),
            metrics.energy(metrics.synaptic_operations(s, 7), 10.0),
            metrics.confusion_matrix(guess, labels, C),
        )

    with jax.numpy_dtype_promotion("strict"):
        got = jax.jit(jax.vmap(report))(spikes, membrane)
    loop = [report(s, v) for s, v in zip(spikes, membrane, strict=True)]
    want = jax.tree.map(lambda *x: jnp.stack(x), *loop)
    assert np.any(
        got[0] != got[1]
    )  # ties occur, and the membrane settles some otherwise
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6)  # compiled sums may be reordered


LABELS = jnp.array([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: metrics.predict_by_count(s[:0]), r"`spikes`.*T >= 1.*\(0, 2, 4\)"),
        (lambda s: metrics.predict_by_count(s, s[:3]), r"`membrane`.*\(3, 2, 4\)"),
        (lambda s: metrics.predict_by_membrane(s[:0]), "`membrane`.*T >= 1"),
        (lambda s: metrics.predict_by_membrane(s, "sum"), "`how`.*'sum'"),  # pyright: ignore[reportArgumentType]
        (lambda s: metrics.firing_rates(s[:0]), "`spikes`.*T >= 1"),
        (lambda s: metrics.synaptic_operations(s[:0], 3), "`spikes`.*T >= 1"),
        (
            lambda s: metrics.accuracy(LABELS[:1], LABELS),
            r"`predictions` \(1,\).*\(2,\)",
        ),
        (
            lambda s: metrics.accuracy(LABELS, LABELS, jnp.array([1.0, -2.0])),
            "`weights`.*-2",
        ),
        (lambda s: metrics.accuracy(LABELS, LABELS, jnp.ones(3)), r"`weights` \(3,\)"),
        (lambda s: metrics.confusion_matrix(LABELS, LABELS + 3, 4), "`labels`.*3 … 4"),
        (
            lambda s: metrics.classification_report(LABELS, LABELS - 1, 4),
            "`labels`.*-1 … 0",
        ),
        (
            lambda s: metrics.classification_report(LABELS[:0], LABELS[:0], 4),
            "`predictions`.*empty",
        ),
        (lambda s: metrics.roc_auc(s[0], LABELS[:1]), r"`scores`.*\(2, 4\) and \(1,\)"),
        (
            lambda s: metrics.roc_auc(s[0], LABELS, absent="drop"),  # pyright: ignore[reportArgumentType]
            "`absent`.*'drop'",
        ),
        (lambda s: metrics.roc_auc(s[0], LABELS + 3), "`labels`.*3 … 4"),
        (lambda s: metrics.conv_fan_out((2, 2), (5, 5), 1, padding="valid"), "kernel"),
    ],
)
def test_errors_name_argument_and_value(call, message, monkeypatch):
    # What a user sees, who runs without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call(counted(np.ones((2, C))))
