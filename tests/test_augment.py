"""Random affine changes against scipy's, and where they must do nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jsnn import augment


def test_no_range_is_no_change(key):
    images = jax.random.uniform(key, (3, 9, 12, 2))
    np.testing.assert_allclose(augment.random_affine(key, images), images, atol=1e-6)


def test_shifts_move_the_image_by_their_draw(key):
    """A smooth bump stays a bump: its centre of mass moves by at most the range, differently for each image."""
    y, x = np.mgrid[:28, :28]
    bump = np.exp(-((y - 13.5) ** 2 + (x - 13.5) ** 2) / 8)[None, :, :, None]
    images = jnp.asarray(np.repeat(bump, 50, 0), jnp.float32)
    moved = np.asarray(augment.random_affine(key, images, shift=3.0))[..., 0]
    centres = np.array([scipy.ndimage.center_of_mass(m) for m in moved]) - 13.5
    assert np.abs(centres).max() < 3.01
    assert np.abs(centres).max(0).min() > 2.0  # both axes use their range
    assert len(np.unique(centres.round(4), axis=0)) == 50


def test_whole_shifts_move_every_pixel_alike(key):
    """All 25 displacements of up to two pixels occur, each image is a cut of its frame of zeros, and bytes stay bytes."""
    image = np.random.default_rng(0).integers(1, 256, (7, 8, 2), np.uint8)
    framed = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    moved = augment.shift(key, jnp.asarray(np.repeat(image[None], 500, 0)), 2)
    assert moved.dtype == jnp.uint8
    cuts = np.stack([framed[y : y + 7, x : x + 8] for y in range(5) for x in range(5)])
    equal = (np.asarray(moved)[:, None] == cuts).all((2, 3, 4))
    assert (equal.sum(1) == 1).all()
    assert equal.any(0).all()
    with pytest.raises(ValueError, match="`pixels` must not be negative, got -1"):
        augment.shift(key, jnp.zeros((1, 3, 3, 1)), -1)


def test_a_turn_equals_scipys(key):
    """One image, rotation alone: the angle is recovered by trying all of them with scipy's own bilinear rotation."""
    y, x = np.mgrid[:28, :28]
    image = np.exp(-(((y - 13.5) / 9) ** 2 + ((x - 13.5) / 2) ** 2)).astype(np.float32)
    turned = augment.random_affine(
        key, jnp.asarray(image)[None, :, :, None], degrees=20.0
    )
    angles = np.linspace(-20, 20, 401)
    inside = slice(
        3, -3
    )  # the two treat a border pixel's missing neighbours differently
    errors = [
        np.abs(
            scipy.ndimage.rotate(image, a, reshape=False, order=1) - turned[0, ..., 0]
        )[inside, inside].max()
        for a in angles
    ]
    assert min(errors) < 0.01  # 0.05 degrees off at most, on slopes of 0.4 a pixel
    assert abs(angles[int(np.argmin(errors))]) > 0.5


def test_each_seed_its_own_draw_under_vmap(key):
    images = jax.random.uniform(key, (2, 8, 8, 1))
    keys = jax.random.split(key, 3)

    def change(k):
        return augment.random_affine(
            k, images, degrees=10.0, shift=1.0, scale=0.1, shear=0.1
        )

    together = jax.jit(jax.vmap(change))(keys)
    for one, k in zip(together, keys, strict=True):
        np.testing.assert_allclose(one, change(k), atol=1e-5)
    assert not np.allclose(together[0], together[1])


def test_a_share_is_changed_and_the_rest_left_alone(key):
    images = jax.random.bits(key, (2000, 3, 2, 1), jnp.uint8)
    mixed = np.asarray(augment.some(key, 0.3, images + 1, images))
    assert mixed.dtype == np.uint8
    step = (mixed - np.asarray(images)).reshape(2000, -1)
    assert (step == step[:, :1]).all()  # whole images, either way
    assert set(np.unique(step)) == {0, 1}
    assert abs(step[:, 0].mean() - 0.3) < 0.041  # four standard errors
    every = augment.some(key, 1.0, images + 1, images)
    np.testing.assert_array_equal(every, images + 1)
