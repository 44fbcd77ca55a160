"""The sheet of features: what has never won is pale, however strong its random weights make it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn import stdp
from jsnn.plot import stdp as stdp_figures
from jsnn.stdp import forward, layer, reward, unsupervised
from jsnn.stdp.layer import Conv, Decision

STEPS = 6


def test_features_that_never_won_are_known_from_their_weights():
    """Winners are counted by the passes themselves, of a layer with bounds 0 and 1 and of one with 0.2 and 0.8."""
    rng = np.random.default_rng(0)
    times = jnp.asarray(rng.integers(0, STEPS + 1, (5, 2, 7, 7)), jnp.uint8)
    spec = Conv(12, 3, threshold=4.0, num_winners=2, radius=1, pad=1)
    top = Decision(20, 3, classes=10, pad=1)
    first = jnp.asarray(rng.normal(0.8, 0.1, (12, 2, 3, 3)), jnp.float32)
    second = jnp.asarray(rng.normal(0.8, 0.1, (20, 2, 3, 3)), jnp.float32)
    order = jnp.arange(5)
    state, winners = unsupervised.init(first), set()
    for image in times:
        index = layer.compete(spec, state.weights, image, STEPS).index
        winners |= set(np.asarray(index)[:, 0].tolist()) - {-1}
        params = unsupervised.params(spec)
        state, _ = unsupervised.step(spec, state, image, params, STEPS)
    learnt, verdict = reward.run_window(
        top, reward.init(second), times < STEPS, order, order, reward.RewardParams()
    )
    chosen = set(np.asarray(verdict.index)[:, 0].tolist()) - {-1}
    won = forward.have_won([(first,), (second,)], [(state.weights,), (learnt.weights,)])
    for (got,), expected in zip(won, (winners, chosen), strict=True):
        assert set(np.flatnonzero(got).tolist()) == expected
        assert 0 < got.sum() < len(got)
    assert float(first.max()) > 1  # clipped, and yet known as its first weights
    assert float(second.max()) > 0.8


def test_a_decision_feature_that_never_won_is_blank():
    """Drawn from initial weights alone it would stand out; one that has gained at one input shows that input's field alone."""
    network = stdp.NETWORKS["mozafari2018"]
    initial = list(forward.init(jax.random.key(0), network))
    before = np.asarray(initial[-1][0]).clip(0.2, 0.8)
    after = before.copy()
    place = (7, 31, 2, 2)  # feature, input, row, column
    after[7] -= 0.05  # all the same: no shape
    after[place] = before[place]
    weights = [*initial[:-1], (jnp.asarray(after),)]
    drawn = np.asarray(forward.fields(network, weights, initial)[-1][0])
    others = np.arange(200) != 7
    assert (drawn[others] == 0).all()
    assert drawn[7].max() > 0
    noise = np.asarray(forward.fields(network, weights)[-1][0])
    assert (noise[others].max((1, 2)) > drawn[7].max()).any()


@pytest.mark.parametrize("scale", ["own", "common"])
def test_features_that_never_won_are_pale(scale):
    rng = np.random.default_rng(1)
    images = rng.random((6, 4, 4)) + 1e-3
    won = np.array([True, False, True, True, False, True])
    images[~won] *= 20
    figure = stdp_figures.features(images, won=won, scale=scale, columns=3, title="all")
    (ax,) = figure.axes
    opacity = np.asarray(ax.images[0].get_array())[..., 3]
    tiles = [
        opacity[5 * (n // 3) + 1 : 5 * (n // 3) + 5, 5 * (n % 3) + 1 : 5 * (n % 3) + 5]
        for n in range(6)
    ]
    shown = np.array([tile.max() for tile in tiles])
    assert shown[won].max() == pytest.approx(1)
    assert shown[~won].max() < 0.2 * shown[won].max()
    expected = images[0] / images[won].max()
    if scale == "own":
        expected = (images[0] - images[0].min()) / np.ptp(images[0])
    np.testing.assert_allclose(tiles[0], expected, atol=1e-6)
    assert ax.get_title(loc="left") == "all  ·  pale: 2 that never won"
    with pytest.raises(ValueError, match="`won` must say of each of 6"):
        stdp_figures.features(images, won=won[:5])


def test_a_sheet_on_which_nothing_has_won_is_pale():
    images = np.random.default_rng(2).random((3, 4, 4))
    for scale in ("own", "common"):
        figure = stdp_figures.features(images, won=np.zeros(3, bool), scale=scale)
        opacity = np.asarray(figure.axes[0].images[0].get_array())[..., 3]
        assert opacity[1:5, 1:5].max() < 0.2
