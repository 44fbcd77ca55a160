"""Losses against the published equations as float64 loops over samples, steps and classes, and against hand values."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jsnn import losses

T, B, C = 7, 5, 4
RTOL = 2e-6  # float32 sums of tens of terms, each rounded to 6e-8 relative


@pytest.fixture
def labels():
    return jnp.array([0, 3, 1, 1, 2])


@pytest.fixture
def spikes(key):
    s = jax.random.bernoulli(key, 0.4, (T, B, C)).astype(jnp.float32)
    return s.at[:, 0].set(0.0)  # one silent sample


@pytest.fixture
def membrane(key):
    return 3 * jax.random.normal(key, (T, B, C))


def cross_entropy(logits, label):
    logits = np.asarray(logits, np.float64)
    return np.log(sum(np.exp(z) for z in logits)) - logits[label]


def loop_ce_rate(x, y):
    return sum(cross_entropy(step, y) for step in x) / len(x)


def loop_mse_count(x, y, correct=0.8, incorrect=0.2):
    """snnTorch: MSELoss (mean over classes) of count and target, over num_steps."""
    error = 0.0
    for c in range(x.shape[1]):
        target = len(x) * (correct if c == y else incorrect)
        error += (sum(x[:, c]) - target) ** 2
    return error / x.shape[1] / len(x)


def loop_tet(x, y, weight, target):
    square = sum((value - target) ** 2 for step in x for value in step) / x.size
    return (1 - weight) * loop_ce_rate(x, y) + weight * square


# Name: the loss, and the same for one sample [T, C] in float64.
LOSSES = {
    "ce_rate": (losses.ce_rate, loop_ce_rate),
    "ce_count": (losses.ce_count, lambda x, y: cross_entropy(sum(x), y)),
    "ce_mean_membrane": (
        losses.ce_mean_membrane,
        lambda x, y: cross_entropy(sum(x) / len(x), y),
    ),
    "ce_max_membrane": (
        losses.ce_max_membrane,
        lambda x, y: cross_entropy([max(column) for column in x.T], y),
    ),
    "mse_count": (losses.mse_count, loop_mse_count),
    "mse_rate": (losses.mse_rate, lambda x, y: loop_mse_count(x, y) / len(x)),
    "tet": (
        lambda o, y: losses.tet(o, y, weight=0.3, target=0.5),
        lambda x, y: loop_tet(x, y, 0.3, 0.5),
    ),
}


@pytest.fixture(params=LOSSES.values(), ids=list(LOSSES))
def loss_and_loop(request):
    return request.param


@pytest.mark.parametrize("kind", ["spikes", "membrane"])
def test_matches_a_loop_in_float64(loss_and_loop, kind, labels, request):
    loss, loop = loss_and_loop
    x = request.getfixturevalue(kind)
    want = [loop(np.asarray(x, np.float64)[:, b], int(labels[b])) for b in range(B)]
    assert np.ptp(want) > 0.01
    got = loss(x, labels)
    assert got.shape == (B,)
    np.testing.assert_allclose(got, want, rtol=RTOL)


def test_gradient_matches_finite_differences(loss_and_loop, membrane, labels):
    """Central differences of the float64 loop: error of order h² = 1e-10, far below float32."""
    loss, loop = loss_and_loop
    got = jax.grad(lambda x: loss(x, labels).sum())(membrane)
    x, h = np.asarray(membrane, np.float64), 1e-5
    want = np.zeros(x.shape)
    for t, b, c in np.ndindex(*x.shape):
        up, down = x[:, b].copy(), x[:, b].copy()
        up[t, c] += h
        down[t, c] -= h
        y = int(labels[b])
        want[t, b, c] = (loop(up, y) - loop(down, y)) / (2 * h)
    assert np.abs(want).max() > 1e-2
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)  # float32 softmax


def test_jit_and_vmap_equal_a_loop(loss_and_loop, membrane, labels):
    loss, _ = loss_and_loop
    seeds = jnp.stack([membrane, -membrane, 0.5 * membrane])
    with jax.numpy_dtype_promotion("strict"):
        got = jax.jit(jax.vmap(loss, in_axes=(0, None)))(seeds, labels)
    want = jnp.stack([loss(x, labels) for x in seeds])
    np.testing.assert_allclose(got, want, rtol=RTOL)  # compiled sums may be reordered


@pytest.mark.parametrize("label_dtype", [jnp.uint8, jnp.int32])
def test_low_precision_outputs_are_summed_in_float32(loss_and_loop, label_dtype):
    """600 steps: bfloat16 has no odd count above 256."""
    loss, loop = loss_and_loop
    x = np.zeros((601, 1, 3))
    x[:, 0, 1], x[:1, 0, 2] = 1, 1
    got = loss(jnp.asarray(x, jnp.bfloat16), jnp.array([2], label_dtype))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [loop(x[:, 0], 2)], rtol=1e-5)


def test_ce_rate_golden():
    """The value snnTorch's `ce_rate_loss` gave."""
    spikes = jnp.zeros((4, 2, 10)).at[:, 0, 3].set(1.0)
    loss = losses.ce_rate(spikes, jnp.array([3, 5])).mean()
    np.testing.assert_allclose(loss, 1.8818676, rtol=1e-7)


def test_floors_of_cross_entropy():
    """Perfect spikes cannot do better than ln(1 + (C − 1)/e); silence gives ln C."""
    perfect = jnp.zeros((6, 1, 10)).at[:, :, 2].set(1.0)
    for loss in (losses.ce_rate, losses.ce_mean_membrane):
        np.testing.assert_allclose(loss(perfect, jnp.array([2])), 1.4612, atol=5e-5)
        silent = loss(jnp.zeros_like(perfect), jnp.array([2]))
        np.testing.assert_allclose(silent, np.log(10), rtol=1e-6)


def test_mse_count_by_hand():
    """T = 10: counts 8, 2, 5 against targets 8, 2, 2 leave (0 + 0 + 9) / 3 / 10."""
    counts = np.array([8, 2, 5])
    spikes = jnp.asarray(np.arange(10)[:, None] < counts, jnp.float32)[:, None]
    np.testing.assert_allclose(losses.mse_count(spikes, jnp.array([0])), 0.3, rtol=1e-6)
    other = losses.mse_count(
        spikes, jnp.array([0]), correct_rate=1.0, incorrect_rate=0.0
    )
    np.testing.assert_allclose(other, (4 + 4 + 25) / 30, rtol=1e-6)


def test_tet_ends_of_the_weight(membrane, labels):
    only_ce = losses.tet(membrane, labels, weight=0.0)
    np.testing.assert_allclose(only_ce, losses.ce_rate(membrane, labels), rtol=1e-6)
    only_square = losses.tet(jnp.full((T, B, C), 3.0), labels, weight=1.0, target=1.0)
    np.testing.assert_allclose(only_square, 4.0, rtol=1e-6)


def test_closed_classes_get_no_cross_entropy_gradient(membrane, labels):
    """A growing head masks closed columns to −inf; here the fifth."""
    closed = jnp.full((T, B, 1), -jnp.inf)
    for loss in (losses.ce_rate, losses.ce_mean_membrane, losses.ce_max_membrane):

        def total(x, loss=loss):
            return loss(jnp.concatenate([x, closed], axis=-1), labels).sum()

        value, grad = jax.value_and_grad(total)(membrane)
        np.testing.assert_allclose(value, loss(membrane, labels).sum(), rtol=1e-6)
        assert jnp.isfinite(grad).all()


def test_rate_regulariser_by_hand():
    """T = 10, rates 0, 0.1, 0.5, 1 against [0.1, 0.6]: (0.01 + 0 + 0 + 0.16) / 4."""
    counts = np.array([0, 1, 5, 10])
    spikes = jnp.asarray(np.arange(10)[:, None] < counts, jnp.float32)
    both = jnp.stack(
        [spikes, jnp.zeros_like(spikes)], axis=1
    )  # a second, silent sample
    got = losses.rate_regulariser(both, lower=0.1, upper=0.6)
    np.testing.assert_allclose(got, [0.0425, 0.01], rtol=1e-6)
    as_image = losses.rate_regulariser(both.reshape(10, 2, 2, 2), lower=0.1, upper=0.6)
    np.testing.assert_array_equal(got, as_image)


def test_rate_regulariser_pushes_rates_inwards():
    spikes = jnp.zeros((10, 1, 2)).at[:, 0, 1].set(1.0)
    grad = jax.grad(lambda s: losses.rate_regulariser(s, lower=0.1, upper=0.6).sum())(
        spikes
    )
    assert np.all(grad[:, 0, 0] < 0)  # silent: more spikes lower the loss
    assert np.all(grad[:, 0, 1] > 0)


def test_swept_options_may_be_traced(spikes, labels):
    sweep = jnp.array([0.0, 0.25, 0.5])
    calls = {
        "weight": lambda w: losses.tet(spikes, labels, weight=w),
        "target": lambda w: losses.tet(spikes, labels, target=w),
        "correct_rate": lambda w: losses.mse_count(spikes, labels, correct_rate=w),
        "incorrect_rate": lambda w: losses.mse_rate(spikes, labels, incorrect_rate=w),
        "lower": lambda w: losses.rate_regulariser(spikes, lower=w, upper=0.6),
        "upper": lambda w: losses.rate_regulariser(spikes, lower=0.0, upper=w),
    }
    for name, call in calls.items():
        got = jax.vmap(call)(sweep)
        want = jnp.stack([call(float(w)) for w in sweep])
        assert np.ptp(want, axis=0).max() > 1e-4, name
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, y: losses.ce_rate(s[:0], y), r"`spikes`.*T >= 1.*\(0, 5, 4\)"),
        (lambda s, y: losses.ce_max_membrane(s[:0], y), "`membrane`.*T >= 1"),
        (lambda s, y: losses.mse_count(s[:0], y), "`spikes`.*T >= 1"),
        (
            lambda s, y: losses.rate_regulariser(s[:0], lower=0.0, upper=0.5),
            "`spikes`.*T >= 1",
        ),
        (lambda s, y: losses.ce_count(s[0], y), r"`spikes`.*\[T, B, C\].*\(5, 4\)"),
        (
            lambda s, y: losses.ce_count(s, jax.nn.one_hot(y, C)),
            r"`labels`.*\(5, 4\).*argmax",
        ),
        (lambda s, y: losses.tet(s, y[:3]), r"`labels`.*\(5,\).*\(3,\)"),
        (
            lambda s, y: losses.ce_rate(s, y.astype(float)),
            "`labels`.*integers.*float32",
        ),
        (lambda s, y: losses.tet(s, y, weight=-0.1), "`weight`.*-0.1"),
        (lambda s, y: losses.tet(s, y, weight=1.5), "`weight`.*1.5"),
        (lambda s, y: losses.mse_rate(s, y, correct_rate=8), "`correct_rate`.*8"),
        (
            lambda s, y: losses.mse_count(s, y, incorrect_rate=-1),
            "`incorrect_rate`.*-1",
        ),
        (
            lambda s, y: losses.rate_regulariser(s, lower=0.5, upper=0.1),
            "`lower`.*0.5 and 0.1",
        ),
        (
            lambda s, y: losses.rate_regulariser(s, lower=-0.5, upper=0.1),
            "`lower`.*-0.5",
        ),
        (
            lambda s, y: losses.rate_regulariser(s[:, :, 0], lower=0.0, upper=0.1),
            r"`spikes`.*neurons.*\(7, 5\)",
        ),
    ],
)
def test_errors_name_argument_and_value(call, message, spikes, labels, monkeypatch):
    # What a user sees, who runs without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call(spikes, labels)
