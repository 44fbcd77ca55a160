"""Checkpoints: exact round trips, and what remains after damage, a full disk or a kill."""

import concurrent.futures
import logging
import os
import pathlib
import shutil
import sys
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from small_disk import fill, mounted

from jsnn.train import checkpoint


class State(NamedTuple):
    params: dict
    nested: tuple
    moments: optax.OptState
    empty: Array
    key: Array
    keys: Array
    half: Array
    step: Array
    flags: Array
    nothing: None


def state(seed: int = 0) -> State:
    """One of everything that a training state holds, or could."""
    key = jax.random.key(seed)
    params = {"layers": {0: {"weight": jax.random.normal(key, (5, 3))}, 1: {}}}
    odd = jnp.asarray([jnp.nan, -jnp.inf, -0.0, 1e-42, 1 + seed])  # 1e-42: subnormal
    return State(
        params,
        ((), odd),
        optax.adam(1e-3).init(params),
        jnp.zeros((0, 4)),
        key,
        jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        odd.astype(jnp.bfloat16),
        jnp.int32(-7 - seed),
        jnp.asarray([True, False]),
        None,
    )


def bits(tree) -> list:
    """Structure, types and bytes: equal only if everything is, NaN and the sign of zero included."""

    def leaf(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return str(jax.random.key_impl(x)), bits(jax.random.key_data(x))
        return str(x.dtype), x.shape, np.asarray(x).tobytes()

    leaves, structure = jax.tree.flatten(tree)
    return [structure, *map(leaf, leaves)]


def newest(folder: pathlib.Path) -> pathlib.Path:
    return max(folder.glob("step_*"))


def test_round_trip_is_exact(tmp_path):
    before = state()
    checkpoint.save(tmp_path, 3, before)
    after = checkpoint.restore(tmp_path, state(seed=1))
    assert after is not None
    assert bits(state(seed=1)) != bits(before)
    assert bits(after) == bits(before)
    draws = [jax.random.normal(s.keys[2]) for s in (before, after)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    "name", ["run[1]", "back\\slash", "gs:", "a*?{b}", os.fsdecode(b"\xff"), "é b"]
)
def test_folders_may_have_any_name(tmp_path, name):
    """Orbax reads brackets and backslashes as patterns, and a colon as an address."""
    folder = tmp_path / name / "checkpoints"
    for step in range(3):
        checkpoint.save(folder, step, {"w": jnp.arange(5.0) + step})
    after = checkpoint.restore(folder, {"w": jnp.zeros(5)})
    assert after is not None
    assert after["w"].tolist() == [2, 3, 4, 5, 6]
    assert checkpoint.steps(folder) == [1, 2]
    assert sorted(p.name for p in folder.iterdir()) == [
        "step_00000001",
        "step_00000002",
    ]
    with pytest.raises(checkpoint.CheckpointError, match="belongs to another model"):
        checkpoint.restore(folder, {"w": jnp.zeros(4)})


def test_threads_may_save_at_once(tmp_path):
    def trip(number):
        before = {"w": jnp.arange(50.0) + number}
        for step in range(3):
            checkpoint.save(tmp_path / str(number), step, before)
        after = checkpoint.restore(tmp_path / str(number), {"w": jnp.zeros(50)})
        return after is not None and bool((after["w"] == before["w"]).all())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(trip, range(4)))


def test_a_restored_state_differs_from_its_template_in_values_alone(tmp_path):
    """One compiled step must serve both: same types, none weak, none committed to a device."""
    checkpoint.save(tmp_path, 0, state())
    after = checkpoint.restore(tmp_path, state(seed=1))
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state())
    assert not any(x.committed for x in jax.tree.leaves(after))


def test_nothing_to_restore(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"no folder .*missing"):
        checkpoint.restore(tmp_path / "missing", state())
    (tmp_path / "step_12").mkdir()  # not a name this module gives
    (tmp_path / "notes").write_text("hello")
    assert checkpoint.steps(tmp_path) == []
    assert checkpoint.restore(tmp_path, state()) is None


def test_keeps_the_newest_two(tmp_path):
    for step in (1, 5, 100_000_000):
        checkpoint.save(tmp_path, step, state(seed=step))
    assert checkpoint.steps(tmp_path) == [5, 100_000_000]
    assert bits(checkpoint.restore(tmp_path, state())) == bits(state(100_000_000))


def test_saving_an_earlier_step_drops_later_ones(tmp_path):
    """A run that went back to step 1 because 2 and 3 were damaged must not lose 1 and 2 to them."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, state(seed=step), keep=3)
    checkpoint.save(tmp_path, 2, state(seed=20))
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert bits(checkpoint.restore(tmp_path, state())) == bits(state(20))


def truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_to_any_file_is_noticed(tmp_path):
    whole = tmp_path / "whole"
    checkpoint.save(whole, 1, state(seed=1))
    checkpoint.save(whole, 2, state(seed=2))
    files = [p.relative_to(whole) for p in newest(whole).rglob("*") if p.is_file()]
    assert len(files) > 5
    for number, file in enumerate(files):
        for damage in (os.remove, truncate, flip):
            if damage is not os.remove and not (whole / file).stat().st_size:
                continue
            folder = tmp_path / f"{damage.__name__}_{number}"
            shutil.copytree(whole, folder)
            damage(folder / file)
            with pytest.warns(UserWarning, match="step_00000002") as caught:
                found = checkpoint.restore(folder, state())
            assert len(caught) == 1
            assert bits(found) == bits(state(seed=1))


@pytest.mark.parametrize("damage", ["foreign folder", "Orbax's alone", "a file"])
def test_what_this_module_did_not_write_is_passed_over(tmp_path, damage):
    checkpoint.save(tmp_path, 1, state(seed=1))
    checkpoint.save(tmp_path, 2, state(seed=2))
    path = newest(tmp_path)
    if damage == "Orbax's alone":
        (path / "checksums.json").unlink()
    else:
        shutil.rmtree(path)
    if damage == "foreign folder":
        path.mkdir()
        (path / "weights.pt").write_bytes(b"torch")
    elif damage == "a file":
        path.write_text("not a folder")
    with pytest.warns(UserWarning, match="step_00000002"):
        found = checkpoint.restore(tmp_path, state())
    assert bits(found) == bits(state(seed=1))
    checkpoint.save(tmp_path, 2, state(seed=3))  # takes the damaged one's place
    assert bits(checkpoint.restore(tmp_path, state())) == bits(state(seed=3))


def test_orbax_alone_reads_a_checkpoint(tmp_path):
    from orbax.checkpoint import v1 as ocp

    checkpoint.save(tmp_path, 1, {"a": {"b": jnp.arange(3.0)}})
    with pytest.warns(UserWarning, match="Sharding info"):
        arrays = ocp.load(str(newest(tmp_path)))
    np.testing.assert_array_equal(arrays["a.b"], np.arange(3.0))


def test_all_damaged_is_one_clear_error(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state())
        shutil.rmtree(newest(tmp_path) / "state")
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.restore(tmp_path, state())
    for word in (
        str(tmp_path),
        "step_00000001",
        "step_00000002",
        "Nothing was changed",
    ):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            lambda s: s._replace(
                params={"layers": {0: {"weight": jnp.ones((5, 4))}, 1: {}}}
            ),
            r"`params.layers.0.weight` is float32\[5, 3\] where float32\[5, 4\]",
        ),
        (
            lambda s: s._replace(half=s.half.astype(jnp.float16)),
            "`half` is bfloat16.* where float16",
        ),
        (lambda s: s._replace(nothing=jnp.ones(2)), "it has no `nothing`"),
        (lambda s: s._replace(step=None), "it also holds `step`"),
        (lambda s: s._replace(moments=()), "it also holds `moments.0.count`"),
    ],
)
def test_another_model_is_refused(tmp_path, other, words):
    checkpoint.save(tmp_path, 1, state())
    checkpoint.save(tmp_path, 2, state())
    with pytest.raises(checkpoint.CheckpointError, match=words) as caught:
        checkpoint.restore(tmp_path, other(state()))
    assert "another model" in str(caught.value)
    assert "step_00000002" in str(caught.value)


@pytest.mark.parametrize("ending", [".part", ".part.orbax-checkpoint-tmp"])
def test_what_a_killed_save_left_is_ignored_and_cleaned(tmp_path, ending):
    checkpoint.save(tmp_path, 1, state(seed=1))
    shutil.copytree(newest(tmp_path), tmp_path / f"step_00000002{ending}")
    assert checkpoint.steps(tmp_path) == [1]
    assert bits(checkpoint.restore(tmp_path, state())) == bits(state(seed=1))
    checkpoint.save(tmp_path, 2, state(seed=2))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["step_00000001", "step_00000002"]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(checkpoint.CheckpointError, match="could not be written"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, state())


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk") as folder:
        yield folder


def test_full_disk_leaves_earlier_checkpoints(small_disk, capfd):
    small = {"weight": jax.random.normal(jax.random.key(0), (1000,))}
    checkpoint.save(small_disk, 1, small)
    checkpoint.save(small_disk, 2, small)
    before = sorted(p for p in small_disk.rglob("*"))
    capfd.readouterr()
    # Random bits do not compress: 4 MB stay 4 MB.
    large = {"weight": jax.random.bits(jax.random.key(1), (1_000_000,))}
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.save(small_disk, 3, large)
    for words in ("No space left", "Free some space", "step 2 is whole"):
        assert words in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert sorted(p for p in small_disk.rglob("*")) == before
    assert bits(checkpoint.restore(small_disk, small)) == bits(small)
    checkpoint.save(small_disk, 3, small)  # and there is room again
    assert checkpoint.steps(small_disk) == [2, 3]


def test_what_threads_tell_after_a_failed_save_is_kept_from_stderr(
    tmp_path, monkeypatch, capfd
):
    from orbax.checkpoint import v1 as ocp

    def fails(*args, **options):
        raise OSError(28, "No space left on device")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    monkeypatch.setattr(logging.getLogger("absl"), "level", logging.WARNING)
    with monkeypatch.context() as patch:
        patch.setattr(ocp, "save", fails)
        with pytest.raises(checkpoint.CheckpointError, match="No space left"):
            checkpoint.save(tmp_path, 1, state())
    late: Any = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"))
    other: Any = types.SimpleNamespace(exc_value=ValueError("of the user's"))
    sys.unraisablehook(late)
    sys.unraisablehook(other)
    logging.getLogger("absl").error("late")
    assert told == [other]
    assert capfd.readouterr() == ("", "")


def test_disk_without_a_byte_left(small_disk):
    small = {"weight": jnp.ones(3)}
    checkpoint.save(small_disk, 1, small)
    fill(small_disk)
    with pytest.raises(checkpoint.CheckpointError, match="No space left"):
        checkpoint.save(small_disk, 2, small)
    assert bits(checkpoint.restore(small_disk, small)) == bits(small)


def test_one_of_the_same_step_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 3, state())
    rename = pathlib.Path.rename

    def killed(self, target):
        if (
            ".part" in self.name
        ):  # the old one is out of the way, the new one not in place
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 3, jax.tree.map(lambda x: x, state()))
    assert checkpoint.steps(tmp_path) == [3]
    assert checkpoint.restore(tmp_path, state()) is not None
    checkpoint.save(tmp_path, 4, state())
    assert checkpoint.steps(tmp_path) == [3, 4]
    assert {p.name for p in tmp_path.iterdir()} == {"step_00000003", "step_00000004"}


def test_unreadable_is_not_damaged(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state())
    read = pathlib.Path.read_bytes

    def refused(self):
        if "step_00000002" in str(self):
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(pathlib.Path, "read_bytes", refused)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"cannot be read.*nothing was"
    ):
        checkpoint.restore(tmp_path, state())
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path) == [1, 2]
