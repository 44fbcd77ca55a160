"""Reconstructed features against loops in float64, linear networks against their own gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn import receptive_fields


def by_loops(images, weights, spacing):
    """One pixel at a time, from the equation."""
    num_features, num_inputs, kh, kw = weights.shape
    _, height, width = images.shape
    shape = (num_features, height + (kh - 1) * spacing, width + (kw - 1) * spacing)
    found = np.zeros(shape)
    for f in range(num_features):
        for y, x, i, j in np.ndindex(*shape[1:], kh, kw):
            v, u = y - i * spacing, x - j * spacing
            if 0 <= v < height and 0 <= u < width:
                parts = [
                    weights[f, c, i, j] * images[c, v, u] for c in range(num_inputs)
                ]
                found[f, y, x] += max(parts)
    return np.maximum(found, 0)


def test_two_layers_with_pooling_between_equal_loops():
    rng = np.random.default_rng(0)
    filters = rng.normal(size=(2, 1, 3, 3))
    first, second = rng.uniform(size=(4, 2, 2, 2)), rng.uniform(size=(3, 4, 3, 3))
    fields = receptive_fields.of_pixels()
    for weights in (filters, first):
        weights = jnp.asarray(weights, jnp.float32)
        fields = receptive_fields.through_convolution(fields, weights)
    fields = receptive_fields.through_pooling(fields, 3, 2)
    found = receptive_fields.through_convolution(
        fields, jnp.asarray(second, jnp.float32)
    )

    expected = by_loops(by_loops(np.ones((1, 1, 1)), filters, 1), first, 1)
    expected = np.pad(expected, ((0, 0), (1, 1), (1, 1)))
    expected = by_loops(expected, second, 2)
    assert expected.shape == found.images.shape == (3, 10, 10)
    assert (expected > 0).any()
    assert (expected == 0).any()  # something was cut off
    # float32 sums of a hundred terms of order one
    np.testing.assert_allclose(found.images, expected, rtol=1e-5, atol=1e-5)
    assert int(found.spacing) == 2


def test_sum_is_the_gradient_of_a_linear_network():
    rng = np.random.default_rng(1)
    weights = [
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in ((2, 1, 3, 3), (4, 2, 3, 3))
    ]

    def potential(image, feature):
        x = image[None, None]
        for w in weights:
            x = jax.lax.conv_general_dilated(
                x, w, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")
            )
        return x[0, feature, 0, 0]

    fields = receptive_fields.of_pixels()
    for w in weights:
        fields = receptive_fields.through_convolution(fields, w, combine="sum")
    for feature in range(4):
        expected = jax.grad(potential)(jnp.zeros((5, 5)), feature)
        # float32 sums of 18 terms of order one
        np.testing.assert_allclose(fields.images[feature], expected, atol=2e-5)
    assert (fields.images < 0).any()


def test_branches_are_centred():
    one = receptive_fields.through_pooling(receptive_fields.of_pixels(), 1)
    pixels = receptive_fields.of_pixels()
    three = receptive_fields.through_convolution(pixels, jnp.ones((2, 1, 3, 3)))
    both = receptive_fields.concatenate([one, three])
    assert both.images.shape == (3, 3, 3)
    np.testing.assert_array_equal(both.images[0], [[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(both.images[1:], 1)


def test_what_cannot_be_drawn_is_refused():
    pixels = receptive_fields.of_pixels()
    with pytest.raises(ValueError, match=r"`weights` \(4, 2, 3, 3\).* C = 1"):
        receptive_fields.through_convolution(pixels, jnp.ones((4, 2, 3, 3)))
    with pytest.raises(ValueError, match="`size` must be at least 1, got 0"):
        receptive_fields.through_pooling(pixels, 0)
    apart = receptive_fields.through_pooling(pixels, 2)
    with pytest.raises(ValueError, match=r"distances \[1, 2\]"):
        receptive_fields.concatenate([pixels, apart])
