"""Checkpoints through Orbax: whole training states, written atomically, restored bit for bit.

A checkpoint is a folder `step_00000123`, written under another name and then renamed, so a killed process leaves either a
whole checkpoint or none. The newest two are kept: should the last be damaged, the one before it still serves.

On disk a state is a flat dictionary of arrays by path (`model.params.layers.0.weight`), so that Orbax, or any reader of its
format, opens it without the classes that the state is made of. `checksums.json` beside it holds the CRC-32 of every file. A run that was
stopped between two rows keeps there, in `unlogged.npz`, the metrics of the steps whose row is still to come.
"""

import contextlib
import json
import logging
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import check, mesh

_PREFIX = "step_"
_UNFINISHED = ".part"  # Orbax appends an ending of its own to it
_REPLACED = ".old"  # of the same step, until the new one stands in its place
_CHECKSUMS = "checksums.json"
_UNLOGGED = "unlogged.npz"
# What Orbax and TensorStore take for patterns or addresses, or cannot pass on (bytes that are no UTF-8).
_ODD = re.compile(r"[][\\*?:\ud800-\udfff]")

_ONE_AT_A_TIME = threading.RLock()


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none can be read."""


def _path(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder.absolute() / f"{_PREFIX}{step:08d}"


def _standing(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Where the checkpoint of a step lies: a kill may have come when it was about to be replaced."""
    path = _path(folder, step)
    old = path.with_name(path.name + _REPLACED)
    return old if old.exists() and not path.exists() else path


def steps(folder: check.Path) -> list[int]:
    """Steps of which a whole checkpoint exists, oldest first."""
    folder = check.path("folder", folder)
    found = folder.iterdir() if folder.is_dir() else ()
    pattern = re.compile(rf"{_PREFIX}([0-9]{{8,}})(\{_REPLACED})?")
    return sorted({int(m[1]) for p in found if (m := pattern.fullmatch(p.name))})


def save(
    folder: check.Path,
    step: int,
    state: Any,
    *,
    unlogged: Mapping[str, np.ndarray] | None = None,
    keep: int = 2,
) -> None:
    """Writes `state`, a pytree of JAX arrays, as the checkpoint of `step`, and keeps the newest `keep` including this one.

    What a killed `save` left behind is deleted first. Once the new checkpoint is whole, it takes the place of one of the same step, and checkpoints of later steps
    are deleted: they were passed over when the run went back to an earlier one. Of several processes all call it, with a folder that all of them see.

    Args:
      folder: of the checkpoints.
      step: how many steps the state has taken.
      state: what to keep.
      unlogged: metrics of the last steps, whose row is still to be written.
      keep: how many checkpoints stay.

    Raises:
      CheckpointError: if the disk is full or not writable; earlier checkpoints are left as they were.
    """
    from orbax.checkpoint import v1 as ocp

    folder = check.path("folder", folder)
    step, keep = check.whole("step", step, 0), check.whole("keep", keep, 1)
    path = _path(folder, step)
    part = path.with_name(path.name + _UNFINISHED)
    try:
        if mesh.is_primary():
            _recover(folder)
            _probe(part)
        mesh.wait("checkpoint begins")
        with _orbax(part) as name:
            ocp.save(name, by_path(state))  # every process writes what it holds
        if mesh.is_primary():
            if unlogged:
                np.savez(part / _UNLOGGED, **unlogged)  # pyright: ignore[reportArgumentType]
            (part / _CHECKSUMS).write_text(json.dumps(_checksums(part)))
            old = path.with_name(path.name + _REPLACED)
            if path.exists():
                path.rename(old)
            part.rename(path)
            for later in steps(folder):
                if later > step:
                    _delete(_path(folder, later))
            _delete(old)
    except (OSError, ValueError, RuntimeError) as error:
        _recover(folder)
        left = steps(folder)
        last = f"that of step {left[-1]} is whole" if left else "there is none yet"
        raise CheckpointError(
            f"The checkpoint {path} could not be written ({error}). Free some space or make the folder writable, then run "
            f"again with --resume; of earlier checkpoints, {last}."
        ) from error
    if mesh.is_primary():
        for old in steps(folder)[:-keep]:
            _delete(_path(folder, old))
    mesh.wait("checkpoint ends")


def restore(folder: check.Path, like: Any) -> Any | None:
    """The newest checkpoint that can be read, as a tree of arrays like `like`; None if the folder holds none.

    A damaged checkpoint is passed over with a warning in favour of the one before it.

    Raises:
      CheckpointError: if there is no such folder, if checkpoints exist but all are damaged, or if one belongs to another model: an array is missing, is
        there in excess, or has another shape or type.
    """
    folder = check.path("folder", folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"There is no folder {folder} with checkpoints; check its name. A run keeps them in its folder's `checkpoints`."
        )
    failures: dict[str, Exception] = {}
    for step in reversed(steps(folder)):
        path = _standing(folder, step)
        try:
            state = _load(path, like)
        except CheckpointError:
            raise
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise CheckpointError(
                    f"The checkpoint {path} cannot be read ({error}). That does not mean that it is damaged: nothing was changed. Make it readable, and run "
                    "again with --resume."
                ) from error
            failures[path.name] = error
            continue
        except Exception as error:  # Orbax raises many kinds.
            failures[path.name] = error
            continue
        if failures:
            warnings.warn(
                f"Damaged checkpoints are passed over in favour of {path}: {_describe(failures)}.",
                stacklevel=2,
            )
        return state
    if failures:
        raise CheckpointError(
            f"No checkpoint in {folder} can be read ({_describe(failures)}). Nothing was changed; to train anew, choose another folder."
        )
    return None


def unlogged(folder: check.Path, step: int) -> dict[str, np.ndarray]:
    """Metrics of the last steps before the checkpoint of `step`, whose row is still to be written; empty if there is none to write."""
    path = _standing(check.path("folder", folder), step) / _UNLOGGED
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def _load(path: pathlib.Path, like: Any) -> Any:
    from orbax.checkpoint import v1 as ocp

    if json.loads((path / _CHECKSUMS).read_text()) != _checksums(path):
        raise ValueError("its files do not match their checksums")
    wanted = by_path(like)
    with _orbax(path) as name:
        if problem := difference(ocp.metadata(name).metadata, wanted):
            raise CheckpointError(
                f"The checkpoint {path} belongs to another model: {problem}. Use the configuration it was written with, or "
                "another folder."
            )
        # As NumPy arrays, which `from_paths` puts on the default device: arrays that Orbax puts on a device are committed to it,
        # and the step would be compiled for them once more.
        template = {name: np.empty(x.shape, x.dtype) for name, x in wanted.items()}
        return from_paths(ocp.load(name, template), like)


def _name(path: tuple[Any, ...]) -> str:
    """`model.params.0.weight`: the same for the fields of a named tuple and the keys of a dictionary."""

    def entry(key):
        return getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))

    return ".".join(str(entry(key)) for key in path)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def by_path(tree: Any) -> dict[str, Any]:
    """Leaves by path. Typed PRNG keys become the integers behind them; empty arrays, which Orbax refuses, are left out."""
    return {
        _name(path): jax.random.key_data(x) if _is_key(x) else x
        for path, x in jax.tree.leaves_with_path(tree)
        if x.size
    }


def from_paths(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The inverse of `by_path`."""

    def leaf(path, template):
        if not template.size:
            return template
        x = jnp.array(arrays[_name(path)])
        if _is_key(template):
            return jax.random.wrap_key_data(x, impl=jax.random.key_impl(template))
        return x

    return jax.tree.map_with_path(leaf, like)


def difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What distinguishes the stored arrays from the wanted ones, in words; None if nothing."""
    for name, leaf in wanted.items():
        if name not in stored:
            return f"it has no `{name}`"
        there = f"{stored[name].dtype}{list(stored[name].shape)}"
        here = f"{leaf.dtype}{list(leaf.shape)}"
        if there != here:
            return f"`{name}` is {there} where {here} is needed"
    extra = stored.keys() - wanted.keys()
    return f"it also holds `{min(extra)}`" if extra else None


def _checksums(folder: pathlib.Path) -> dict[str, int]:
    """CRC-32 of every file. Orbax has none of its own over the arrays, and takes long and loud to fail on a damaged file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _CHECKSUMS)
    return {str(p.relative_to(folder)): zlib.crc32(p.read_bytes()) for p in files}


def _describe(failures: dict[str, Exception]) -> str:
    return "; ".join(
        f"{name}: {type(error).__name__}: {str(error)[:200]}"
        for name, error in failures.items()
    )


def _probe(path: pathlib.Path) -> None:
    """Fails where no folder or file can be made: Orbax would then hold up the end of the process for five minutes."""
    path.mkdir(parents=True)
    (path / "probe").write_bytes(bytes(8192))
    shutil.rmtree(path)


def _delete(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _recover(folder: pathlib.Path) -> None:
    """Clears up what a killed `save` left: a checkpoint that was to be replaced takes its place again, if no new one does."""
    for path in folder.glob(f"{_PREFIX}*{_UNFINISHED}*"):
        _delete(path)
    for old in folder.glob(f"{_PREFIX}*{_REPLACED}"):
        path = old.with_suffix("")
        with contextlib.suppress(OSError):
            _delete(old) if path.exists() else old.rename(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from stderr what Orbax's threads tell of a failure: a traceback each, where the exception that arrives says it once.

    After a failure it stays so, because threads that were under way fail later.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def heard(told: Any) -> None:
        if str(told.exc_value) != "Event loop is closed":
            hook(told)

    logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = heard
    yield
    logger.setLevel(level)
    sys.unraisablehook = hook


@contextlib.contextmanager
def _orbax(path: pathlib.Path) -> Iterator[str]:
    """The path as Orbax can take it, one thread at a time (two that save at once disturb each other).

    A path that is odd gets a plain name by a link.
    """
    with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        if not _ODD.search(str(path)):
            yield str(path)
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jsnn-"))
        link = pathlib.Path(folder) / "checkpoints"
        link.symlink_to(path.parent, target_is_directory=True)
        yield str(link / path.name)
