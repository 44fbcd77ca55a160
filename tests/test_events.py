"""Event recordings: framing against a NumPy loop, padding, augmentation, files, and what is refused."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import needs
from jax.test_util import check_grads

from jsnn.data import DataError, event_files
from jsnn.data import event_changes as changes
from jsnn.data import events as ev

SHARED = pathlib.Path(__file__).parents[2] / "shared/data/events"
SENSOR = (5, 7)
COUNTS = (40, 1, 23)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def flat():
    rng = np.random.default_rng(0)
    total = sum(COUNTS)
    times = np.concatenate([np.sort(rng.integers(0, 1000, n)) for n in COUNTS])
    return {
        "x": rng.integers(0, SENSOR[1], total),
        "y": rng.integers(0, SENSOR[0], total),
        "p": rng.integers(0, 2, total),
        "t_us": times,
        "offsets": np.cumsum([0, *COUNTS]),
    }


def batch(length=None, index=(2, 0, 1)):
    events = ev.recordings(**flat(), sensor=SENSOR)
    return ev.take(events, jnp.array(index), length)


def loop(index, steps, dt=None, polarity="kept", down=1, crop=None, soft=False):
    """The definition, one event at a time, in float64."""
    data = flat()
    top, left, rows, cols = crop or (0, 0, *SENSOR)
    size = (-(-rows // down), -(-cols // down))
    channels = 2 if polarity == "kept" else 1
    out = np.zeros((steps, len(index), *size, channels))
    for b, i in enumerate(index):
        first, end = data["offsets"][i : i + 2]
        for rank, e in enumerate(range(first, end)):
            y, x = data["y"][e] - top, data["x"][e] - left
            if not (0 <= y < rows and 0 <= x < cols):
                continue
            p = data["p"][e]
            value = (-1) ** (1 - p) if polarity == "signed" else 1
            cell = (b, y // down, x // down, p if channels == 2 else 0)
            for step in range(steps):
                u = data["t_us"][e] / dt - step if dt else np.nan
                if dt is None:
                    share = rank * steps // (end - first) == step
                elif soft:
                    share = max(0, 1 - abs(u - 0.5))
                else:
                    share = 0 <= u < 1
                out[(step, *cell)] += value * share
    return out


@pytest.mark.parametrize(
    "how",
    [
        {"dt": 130.0},
        {"dt": 90.0, "polarity": "signed"},
        {"dt": 130.0, "polarity": "merged", "down": 2, "crop": (1, 2, 4, 5)},
        {"polarity": "kept", "down": 3},
        {"dt": 130.0, "soft": True},
    ],
)
@pytest.mark.parametrize("counted", [2**31, 1])
def test_frames_are_those_of_a_loop_over_events(how, counted, monkeypatch):
    """Also where places are too many to be counted along one axis."""
    monkeypatch.setattr(ev, "_COUNTED", counted)
    names = {"dt": "dt_us", "down": "downsample"}
    renamed: dict[str, Any] = {names.get(k) or k: v for k, v in how.items()}
    got = ev.frames(batch(), 6, **renamed)
    expected = loop((2, 0, 1), 6, **how)
    assert expected.any()
    np.testing.assert_allclose(got, expected, atol=1e-5)  # float32 sums of shares


def test_padding_has_no_effect_however_long():
    kept = batch()
    longer = batch(200)
    for dt in (130.0, None):
        np.testing.assert_array_equal(ev.frames(kept, 6, dt), ev.frames(longer, 6, dt))
    alone = ev.frames(batch(index=(1,)), 6, 130.0)
    np.testing.assert_array_equal(alone[:, 0], ev.frames(longer, 6, 130.0)[:, 2])


@pytest.mark.parametrize("dt", [3.0, 130.0, 1000.0, 30_000.0])
def test_an_event_on_the_edge_of_a_step_belongs_to_the_later_one(dt):
    """Also where the compiler multiplies by a rounded 1/dt in place of a division."""
    edges = int(dt) * np.arange(100)
    zero, ends = np.zeros(100, int), np.array([0, 100])
    events = ev.recordings(zero, zero, zero, edges, ends, sensor=(1, 1))
    padded = ev.take(events, jnp.array([0]))
    for how in (lambda b: ev.frames(b, 100, dt), jax.jit(lambda b: ev.frames(b, 100, dt))):  # fmt: skip
        np.testing.assert_array_equal(how(padded)[:, 0, 0, 0, 0], 1.0)


def test_a_sweep_varies_dt_in_one_program():
    steps = jnp.array([70.0, 130.0, 400.0])
    got = jax.jit(jax.vmap(lambda dt: ev.frames(batch(), 6, dt)))(steps)
    for one, dt in zip(got, steps, strict=True):
        np.testing.assert_array_equal(one, loop((2, 0, 1), 6, float(dt)))


def test_soft_frames_have_the_gradient_of_finite_differences_in_dt():
    with jax.enable_x64(True):
        padded = batch()
        weights = jax.random.normal(jax.random.key(1), (6, 3, *SENSOR, 2))

        def score(dt):
            return jnp.sum(weights * ev.frames(padded, 6, dt, soft=True))

        # Away from kinks: no event lies within 1e-4 steps of the middle of one, and a change of 1e-4 µs moves none that far.
        steps = jnp.array([93.37, 131.113])
        phase = flat()["t_us"] / np.asarray(steps)[:, None] - 0.5
        assert np.abs(phase - phase.round()).min() > 1e-4
        check_grads(jax.vmap(score), (steps,), 1, ("rev",), eps=1e-4, rtol=1e-6)


def test_first_spikes_are_the_first_frames_with_an_event():
    counts = loop((2, 0, 1), 6, 130.0)
    expected = np.where(counts.any(0), (counts > 0).argmax(0), 6)
    got = ev.first_spikes(batch(), 6, 130.0)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(ev.spikes(batch(), 6, 130.0), counts > 0)


def test_input_times_are_the_events_that_are_seen_in_order():
    times, neuron = ev.input_times(batch(), 1000.0, crop=(1, 2, 4, 4), downsample=2)
    data = flat()
    for b, i in enumerate((2, 0, 1)):
        first, end = data["offsets"][i : i + 2]
        expected = []
        for e in range(first, end):
            y, x = data["y"][e] - 1, data["x"][e] - 2
            if 0 <= y < 4 and 0 <= x < 4:
                unit = (y // 2 * 2 + x // 2) * 2 + data["p"][e]
                expected.append((data["t_us"][e] / 1000, unit))
        count = len(expected)
        got = np.stack([times[b, :count], neuron[b, :count]], 1)
        np.testing.assert_allclose(got, np.reshape(expected, (-1, 2)), rtol=1e-6)
        assert np.isinf(times[b, count:]).all()
        assert (neuron[b, count:] == -1).all()


def test_augmentation_moves_flips_and_drops_whole_recordings(key):
    before = np.asarray(ev.frames(batch(), 1, 1000.0))
    flipped = np.asarray(ev.frames(changes.flip(key, batch()), 1, 1000.0))
    for one, image in zip(flipped[0], before[0], strict=True):
        assert (one == image).all() or (one == image[:, ::-1]).all()
    moved = ev.frames(changes.shift(key, batch(), 2), 1, 1000.0)[0, 1]
    framed = np.pad(before[0, 1], ((2, 2), (2, 2), (0, 0)))
    cuts = [framed[i : i + 5, j : j + 7] for i in range(5) for j in range(5)]
    assert any((cut == moved).all() for cut in cuts)
    assert changes.drop(key, batch(), 1.0).valid.sum() == 0
    half = changes.drop(key, batch(), 0.5).valid
    assert 16 < half.sum() < 48  # 64 draws: four standard deviations
    assert not (half & ~batch().valid).any()
    late = changes.jitter(key, batch(), 50.0).t_us - batch().t_us
    assert 35 < late[1].std() < 65  # 40 draws: three standard deviations


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("t_us", (3, 500, 1), r"`t_us` falls at event 2, within recording 0"),
        ("x", (0, 7, 1), r"`x\[1\]` is 7, but must lie in 0\.\.6"),
        ("y", (-1, 0, 1), r"`y\[0\]` is -1, but must lie in 0\.\.4"),
        ("p", (0, 1, 2), r"`p\[2\]` is 2"),
        ("offsets", (0, 3, 3), r"recording 1 is empty"),
        ("offsets", (0, 2), r"`offsets` must begin with 0 and end with .* 3"),
        ("x", (0, 1), r"must be equally long"),
        ("t_us", (0.5, 1.0, 2.0), r"`t_us` must be whole numbers"),
    ],
)
def test_bad_recordings_are_refused(name, value, message):
    good: dict[str, Any] = {
        "x": (0, 1, 2),
        "y": (0, 1, 2),
        "p": (0, 1, 1),
        "t_us": (1, 2, 2),
    }
    good["offsets"] = (0, 3)
    with pytest.raises(ValueError, match=message):
        ev.recordings(**{**good, name: value}, sensor=SENSOR)


def test_bad_framing_is_refused():
    with pytest.raises(ValueError, match="`polarity` must be"):
        ev.frames(batch(), 2, 9.0, polarity="both")
    with pytest.raises(ValueError, match="must lie within the sensor, 5 x 7"):
        ev.frames(batch(), 2, 9.0, crop=(0, 3, 5, 5))
    with pytest.raises(ValueError, match="need `dt_us`"):
        ev.frames(batch(), 2, soft=True)
    with pytest.raises(ValueError, match="at most 255"):
        ev.first_spikes(batch(), 256, 9.0)


def test_own_files_are_read_or_refused(tmp_path):
    path = tmp_path / "mine.npz"
    train = {f"train_{k}": v for k, v in flat().items()}
    np.savez(path, **train, train_label=np.arange(3))
    events, labels = event_files.read_events(path, split="train", sensor=SENSOR)
    np.testing.assert_array_equal(events.t_us, flat()["t_us"])
    assert labels is not None
    assert list(labels) == [0, 1, 2]
    with pytest.raises(DataError, match="lacks x, y, p, t_us, offsets; it holds train"):
        event_files.read_events(path, sensor=SENSOR)
    np.savez(path, **flat(), label=np.arange(2))
    with pytest.raises(DataError, match=r"has shape \(2,\), but there are 3"):
        event_files.read_events(path, sensor=SENSOR)


def test_nmnist_bytes_are_read_or_refused(tmp_path):
    path = tmp_path / "1.bs2"
    # (33, 2), brighter, 2^22 + 258 µs; then (0, 1), darker, one µs later
    path.write_bytes(bytes([33, 2, 0xC0, 1, 2, 0, 1, 0x40, 1, 3]))
    read = event_files.read_nmnist(path)
    assert [list(read[k]) for k in "xyp"] == [[33, 0], [2, 1], [1, 0]]
    assert list(read["t_us"]) == [2**22 + 258, 2**22 + 259]
    for content, message in [
        (b"", "has 0 bytes"),
        (bytes(7), "has 7 bytes"),
        (b"#!AER-DAT2.0\r\nxx" + bytes(4), "no recording of N-MNIST"),
        (bytes([1, 1, 0, 1, 2, 1, 1, 0, 1, 1]), "its times fall"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            event_files.read_nmnist(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        event_files.read_nmnist(tmp_path / "none.bin")


@needs(SHARED)
@pytest.mark.parametrize(("split", "name"), [("train", "1.bs2"), ("test", "60001.bs2")])
def test_real_recordings_of_nmnist_agree_in_both_formats(split, name):
    events, labels = event_files.read_events(
        SHARED / "nmnist_small.npz", split=split, sensor=(34, 34)
    )
    assert labels is not None
    assert len(labels) == len(events.offsets) - 1
    read = event_files.read_nmnist(SHARED / "samples" / name)
    for key in ("x", "y", "p", "t_us"):
        np.testing.assert_array_equal(
            getattr(events, key)[: events.offsets[1]], read[key]
        )
