"""Event recordings as data sets: rows, folds, files, and the simulated camera."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import needs

from jsnn.data import DataError, digits_events, event_changes, events, recorded

NMNIST = pathlib.Path(__file__).parents[2] / "shared/data/events/nmnist_small.npz"


@pytest.fixture
def recordings():
    """Three of 4, 1 and 2 events on a sensor of 3 x 5."""
    x, y, p = [0, 4, 2, 1, 3, 0, 4], [0, 2, 1, 1, 2, 0, 0], [1, 0, 1, 1, 0, 0, 1]
    t = [1, 5, 5, 90, 7, 0, 3]
    return events.recordings(x, y, p, t, [0, 4, 5, 7], sensor=(3, 5))


def test_rows_hold_what_was_recorded(recordings):
    rows = events.pack(recordings)
    assert rows.shape == (3, 4, 2)
    assert rows.dtype == np.int32
    found = events.unpack(jnp.asarray(rows), (3, 5))
    expected = events.take(recordings, jnp.arange(3))
    np.testing.assert_array_equal(found.valid, expected.valid)
    for name in ("x", "y", "p", "t_us"):
        both = (np.asarray(getattr(b, name))[expected.valid] for b in (found, expected))
        np.testing.assert_array_equal(*both)


def test_rows_of_some_and_cut_short(recordings):
    whole = events.pack(recordings)
    np.testing.assert_array_equal(events.pack(recordings, [2, 0], 3), whole[[2, 0], :3])
    longer = events.pack(recordings, length=9)
    np.testing.assert_array_equal(longer[:, :4], whole)
    frames = [
        events.frames(events.unpack(jnp.asarray(rows), (3, 5)), 4, 30.0)
        for rows in (whole, longer)
    ]
    np.testing.assert_array_equal(*frames)  # padding has no effect


def test_rows_must_be_rows():
    with pytest.raises(ValueError, match=r"`rows` must be recordings \[B, L, 2\]"):
        events.unpack(jnp.zeros((2, 5), jnp.int32), (3, 5))


def test_chosen_recordings(recordings):
    for which in ([2, 0], np.array([True, False, True])):
        found = events.chosen(recordings, which)
        numbers = np.flatnonzero(which) if len(which) == 3 else which
        np.testing.assert_array_equal(
            events.pack(found), events.pack(recordings, numbers, found.longest)
        )


def test_affine_changes(recordings):
    batch = events.take(recordings, jnp.arange(3))
    key = jax.random.key(3)
    same = event_changes.affine(key, batch)
    for name in ("x", "y", "valid"):
        np.testing.assert_array_equal(getattr(same, name), getattr(batch, name))
    turned = event_changes.affine(key, batch, degrees=180.0, scale=0.3, shear=0.2)
    draw = np.asarray(jax.random.uniform(key, (4, 3, 1), minval=-1.0, maxval=1.0))
    for b in range(3):
        angle, slant = draw[0, b, 0] * np.pi, 0.2 * draw[3, b, 0]
        for e in np.flatnonzero(batch.valid[b]):
            y = (float(batch.y[b, e]) - 1) * (1 + 0.3 * draw[1, b, 0])
            x = (float(batch.x[b, e]) - 2) * (1 + 0.3 * draw[2, b, 0]) + slant * y
            new_y = round(np.cos(angle) * y + np.sin(angle) * x + 1)
            new_x = round(np.cos(angle) * x - np.sin(angle) * y + 2)
            assert turned.valid[b, e] == (0 <= new_y < 3 and 0 <= new_x < 5)
            assert (turned.y[b, e], turned.x[b, e]) == (new_y, new_x)


def one_cell_after_the_other(image, threshold, refractory, step, seed):
    """The simulated camera as a plain loop over cells and steps, in float64."""
    levels = threshold * (1 + 0.05 * np.random.RandomState(seed).standard_normal((2, 20, 20)))  # fmt: skip
    levels = np.maximum(levels.astype(np.float32), threshold / 2)
    scene = digits_events._scene(image[None])[0].astype(float)
    corners = [(0.0, 0.0), (2.0, 1.0), (0.0, 2.0), (0.0, 0.0)]

    def brightness(row, column, t):
        leg = min(int(3 * t / 150_000), 2)
        share = 3 * t / 150_000 - leg
        dy, dx = ((1 - share) * a + share * b for a, b in zip(*corners[leg : leg + 2], strict=True))  # fmt: skip
        i, j = int(dy), int(dx)
        dy, dx = dy - i, dx - j
        four = scene[row + i : row + i + 2, column + j : column + j + 2]
        return np.log(0.1 + [1 - dy, dy] @ four @ [1 - dx, dx])

    found = []
    for row in range(20):
        for column in range(20):
            reference, ready = brightness(row, column, 0), 0.0
            before = reference
            for k in range(round(150_000 / step)):
                now = brightness(row, column, (k + 1) * step)
                change = now - reference
                level = levels[int(change >= 0), row, column]
                if abs(change) >= level and ready <= (k + 1) * step:
                    reference += np.sign(change) * level
                    share = np.clip((reference - before) / (now - before), 0, 1) if now != before else 0  # fmt: skip
                    t = min(max(k * step + share * step, ready), 149_999)
                    ready = t + refractory
                    found.append((row, column, int(change > 0), t))
                before = now
    return np.array(found)


def test_the_simulated_camera_is_the_plain_loop():
    image = np.zeros((8, 8), np.float32)
    image[1:7, 3:5], image[2, 2] = 1.0, 0.5
    settings = {"threshold": 0.4, "refractory_us": 3000.0, "step_us": 3000.0}
    found = digits_events.simulate(image[None], **settings, seed=5)
    expected = one_cell_after_the_other(image, 0.4, 3000.0, 3000.0, 5)
    assert len(expected) > 100
    assert len(found.x) == len(expected)
    ours = np.stack([found.y, found.x, found.p, found.t_us], 1).astype(float)
    near = [
        (abs(ours[:, 3] - t) < 30)[(ours[:, :3] == cell).all(1)].any()
        for *cell, t in expected
    ]
    assert all(near)


def test_blank_images_and_wrong_ones():
    blank = digits_events.simulate(np.zeros((2, 8, 8)))
    assert np.diff(blank.offsets).tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"`images` must be \[N, 8, 8\]"):
        digits_events.simulate(np.zeros((2, 9, 9)))
    with pytest.raises(ValueError, match="`threshold`"):
        digits_events.simulate(np.zeros((2, 8, 8)), threshold=float("nan"))


def saved(path, recordings, labels, prefix=""):
    arrays = {k: np.asarray(getattr(recordings, k)) for k in ("x", "y", "p", "t_us", "offsets")}  # fmt: skip
    np.savez(path, **{prefix + k: v for k, v in (arrays | {"label": labels}).items()})


def test_files_of_recordings(recordings, tmp_path):
    path = tmp_path / "mine.npz"
    saved(path, recordings, np.array([0, 2, 1]))
    found = recorded.load(path)
    assert found.sensor == (3, 5)  # as many as its events need
    assert (found.name, found.num_classes) == ("mine", 3)
    assert (len(found.train.labels), len(found.test.labels)) == (2, 1)
    held = recorded.load(path, sensor=(4, 6), num_validation=1)
    assert held.sensor == (4, 6)
    assert [len(s.labels) for s in (held.train, held.validation, held.test)] == [1] * 3


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"label": None}, DataError, "lacks `label`"),
        ({"x": None}, DataError, "must hold recordings as"),
        ({"label": np.array([0, 1])}, DataError, "3 recordings"),
        ({"label": np.array([0, 1, -2])}, ValueError, "labels hold -2"),
        ({"t_us": np.array([9, 5, 5, 90, 7, 0, 3])}, ValueError, "falls at event 1"),
    ],
)
def test_files_that_are_wrong(recordings, tmp_path, change, error, words):
    path = tmp_path / "wrong.npz"
    saved(path, recordings, np.array([0, 2, 1]))
    arrays = dict(np.load(path)) | change
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(error, match=words):
        recorded.load(path)


def test_names_that_are_unknown(tmp_path):
    with pytest.raises(ValueError, match="must be one of digits_events"):
        recorded.load("nothing")
    with pytest.raises(DataError, match=r"no file|not exist|cannot be read"):
        recorded.load(tmp_path / "missing.npz")


def test_each_recording_is_tested_in_one_fold():
    from jsnn.data import arrays

    inputs = np.arange(23)[:, None]
    whole = arrays(inputs, np.arange(23) % 3, num_test=5, num_validation=4)
    parts = [recorded.fold(whole, k, 4) for k in range(4)]
    tested = np.concatenate([part.test.images[:, 0] for part in parts])
    assert sorted(tested) == list(range(23))
    for part in parts:
        both = np.concatenate([part.train.images, part.test.images])[:, 0]
        assert sorted(both) == list(range(23))
        assert part.validation is None
        labels = np.concatenate([part.train.labels, part.test.labels])
        np.testing.assert_array_equal(labels, both % 3)
    with pytest.raises(ValueError, match="`number`"):
        recorded.fold(whole, 4, 4)
    with pytest.raises(ValueError, match="`count`"):
        recorded.fold(whole, 0, 1)


@needs(NMNIST)
def test_real_recordings():
    found = recorded.load(NMNIST, sensor=(34, 34))
    assert found.train.images.shape == (1000, 7152, 2)
    assert found.test.images.shape == (100, 7152, 2)
    assert (found.train.images[:, :, 1] >= 0).sum() == 4_133_231
