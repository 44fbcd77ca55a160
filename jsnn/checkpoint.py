"""Checkpoints through Orbax: whole training states, written atomically, restored bit for bit.

A checkpoint is a folder `step_00000123` that Orbax writes under another name and then renames, so a killed process leaves
either a whole checkpoint or none. The newest two are kept: should the last be damaged, the one before it still serves.
"""

import pathlib
import shutil
import warnings
import zlib
from typing import Any

import jax
import numpy as np

_PREFIX = "step_"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none can be read."""


def _unwrap(tree: Any) -> Any:
    """Typed PRNG keys as the plain integers that Orbax stores."""

    def leaf(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key_data(x)
        return x

    return jax.tree.map(leaf, tree)


def _rewrap(tree: Any, like: Any) -> Any:
    def leaf(x, template):
        if jax.dtypes.issubdtype(template.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(x, impl=jax.random.key_impl(template))
        return x

    return jax.tree.map(leaf, tree, like)


def steps(folder: pathlib.Path) -> list[int]:
    """Steps of which a whole checkpoint exists, oldest first."""
    found = folder.glob(f"{_PREFIX}*") if folder.is_dir() else ()
    names = [p.name.removeprefix(_PREFIX) for p in found if p.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


def save(folder: pathlib.Path, step: int, state: Any, *, keep: int = 2) -> None:
    """Writes `state`, a pytree of arrays, as the checkpoint of `step`, then deletes all but the newest `keep`.

    Raises:
      CheckpointError: if the disk is full or not writable; earlier checkpoints are left as they were.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder.absolute() / f"{_PREFIX}{step:08d}"
    try:
        plain = _unwrap(state)
        crc = {"crc32": _checksum(plain)}
        ocp.save(path, plain, overwrite=True, custom_metadata=crc)
    except (OSError, ValueError) as error:
        last = steps(folder)
        raise CheckpointError(
            f"The checkpoint {path} could not be written ({error}). Free some space or make the folder writable, then run "
            f"again with --resume; the last whole checkpoint is that of step {last[-1] if last else 'none'}."
        ) from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"{_PREFIX}{old:08d}", ignore_errors=True)


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by path. Named tuples, dictionaries and Orbax's record of them give the same names."""

    def name(entry):
        key = getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", "")))
        return str(key)

    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {".".join(map(name, path)): leaf for path, leaf in leaves}


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What distinguishes the stored arrays from the wanted ones, in words; None if nothing."""
    for name, leaf in wanted.items():
        if name not in stored:
            return f"it has no `{name}`"
        if tuple(stored[name].shape) != tuple(leaf.shape):
            return f"`{name}` has shape {tuple(stored[name].shape)} where {tuple(leaf.shape)} is needed"
    extra = stored.keys() - wanted.keys()
    return f"it also holds `{min(extra)}`" if extra else None


def _checksum(tree: Any) -> int:
    """CRC-32 over all leaves, to notice damage that leaves the files readable."""
    crc = 0
    for leaf in jax.tree.leaves(tree):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    return crc


def restore(folder: pathlib.Path, like: Any) -> Any | None:
    """The newest checkpoint that can be read, as a tree like `like` (arrays or their shapes); None if there is none at all.

    A damaged checkpoint is passed over with a warning in favour of the one before it.

    Raises:
      CheckpointError: if checkpoints exist but all are damaged, or the newest belongs to a model of other shapes.
    """
    failures = []
    for step in reversed(steps(folder)):
        path = folder.absolute() / f"{_PREFIX}{step:08d}"
        try:
            return _load(path, like)
        except CheckpointError:
            raise
        except Exception as error:  # Orbax raises many kinds for damaged files.
            failures.append(f"{path.name}: {type(error).__name__}: {str(error)[:200]}")
            warnings.warn(
                f"The checkpoint {path} is damaged and is passed over.", stacklevel=2
            )
    if failures:
        raise CheckpointError(
            f"No checkpoint in {folder} can be read ({'; '.join(failures)}). Delete the folder to start over."
        )
    return None


def _load(path: pathlib.Path, like: Any) -> Any:
    from orbax.checkpoint import v1 as ocp

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        jax.eval_shape(_unwrap, like),
    )
    metadata = ocp.metadata(path)
    if problem := _difference(_named(metadata.metadata), _named(template)):
        raise CheckpointError(
            f"The checkpoint {path} belongs to another model: {problem}. Use the configuration it was written with, or "
            "another folder."
        )
    state = ocp.load(path, template)
    if _checksum(state) != (metadata.custom_metadata or {}).get("crc32"):
        raise ValueError("its contents do not match their checksum")
    return _rewrap(state, like)
