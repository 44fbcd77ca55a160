"""Models on disk: a safetensors file with the arrays by name, and a line of JSON that says what they are.

Reading one runs no code from it. Names are those of checkpoints (`params.layers.0.weight`).
"""

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from jsnn import check, files
from jsnn.train import checkpoint
from jsnn.train.trainer import Trainer, TrainState, grown, start

FORMAT = "jsnn-model-1"


class ModelError(RuntimeError):
    """A saved model cannot be read, or does not fit."""


def write(
    path: str | os.PathLike[str], model: Any, about: dict[str, Any]
) -> pathlib.Path:
    """Writes a model's arrays, under another name first.

    Args:
      path: the file; `.safetensors` is added if it is missing.
      model: a tree of arrays.
      about: what to keep with it, as JSON: how it was made.
    """
    arrays = {k: np.asarray(v) for k, v in checkpoint.by_path(model).items()}
    return write_arrays(path, arrays, about)


def write_arrays(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], about: dict[str, Any]
) -> pathlib.Path:
    """As `write`, of arrays by name.

    Raises:
      ModelError: if the file cannot be written.
    """
    from safetensors.numpy import save

    path = named(path)
    text = json.dumps({"format": FORMAT, **about})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, save(arrays, metadata={"jsnn": text}))
    except OSError as error:
        raise ModelError(
            f"The model {path} could not be written ({error}). Free some space or choose another folder."
        ) from error
    return path


def named(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path with its ending."""
    path = check.path("path", path)
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")  # fmt: skip


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and what was kept with them.

    Raises:
      ModelError: if the file is missing, damaged, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    path = named(path)
    if not path.is_file():
        raise ModelError(f"There is no model {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            about = files.parsed((file.metadata() or {}).get("jsnn", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged or no safetensors file ({error})."
        ) from error
    if about.get("format") != FORMAT:
        raise ModelError(
            f"{path} was not written by `Fitted.save`: its format is {about.get('format')!r} where {FORMAT!r} is needed."
        )
    return arrays, about


def fill(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], like: list[Any]
) -> Any:
    """The first tree of `like` that fits, with the arrays of a file.

    Raises:
      ModelError: if an array is missing, there in excess, or of another shape or type.
    """
    problem = None
    for tree in like:
        found = checkpoint.difference(arrays, checkpoint.by_path(tree))
        if found is None:
            return checkpoint.from_paths(arrays, tree)
        problem = problem or found
    raise ModelError(
        f"The model {named(path)} does not fit: {problem}. Build the network it was saved from."
    )


def templates(trainer: Trainer) -> list[Any]:
    """Shapes and types of a trainer's model: at the start, and of what it may have grown to."""

    def begin(key: jax.Array) -> TrainState:
        return start(trainer, key)

    key = jax.random.key(0)
    states = [jax.eval_shape(begin, key)]
    if trainer.resize is not None:
        states = grown(trainer, jax.jit(begin)(key))
    return [jax.eval_shape(trainer.model, state) for state in states]
