"""Inputs of a model that says itself what it was trained on: the same shape, type and scale."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def fitting(inputs: np.ndarray, about: Mapping[str, Any]) -> np.ndarray:
    """Inputs as the training set held them; grey images may lack their axis of channels, and images of bytes may be floats in [0, 1].

    Args:
      inputs: `[N, ...]`.
      about: what is kept with a model, see `jsnn.train.rebuild.about`. Empty: nothing is known, and nothing is changed.

    Returns:
      The inputs.

    Raises:
      ValueError: if shape or scale are others.
    """
    if "shapes" not in about:
        return inputs
    shapes = about["shapes"]
    # Recordings, and frames of them, may be of another length.
    longer = shapes.get("sensor") or shapes.get("rate") or about["config"].get("frames")
    inputs = shaped(inputs, tuple(shapes["inputs"]), any_length=bool(longer))
    if shapes["dtype"] == "uint8" and inputs.dtype.kind == "f" and not longer:
        low, high = inputs.min(initial=0), inputs.max(initial=0)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"The model was trained on bytes. Pass `inputs` of bytes, or floats in [0, 1]; got {inputs.dtype} from {low:g} to {high:g}."
            )
        inputs = np.round(255 * inputs).astype(np.uint8)
    return inputs


def shaped(
    inputs: np.ndarray, wanted: tuple[int, ...], *, any_length: bool
) -> np.ndarray:
    """Inputs `[N, ...]` of samples of a shape; grey images may lack their axis of channels.

    Raises:
      ValueError: if they have another. With `any_length` the first axis of a sample may be longer or shorter.
    """
    got, free = inputs.shape[1:], int(any_length)
    if got and wanted == (*got, 1):
        return inputs[..., None]
    if len(got) != len(wanted) or got[free:] != wanted[free:]:
        axes = ("T", *wanted[1:]) if free else wanted
        raise ValueError(
            f"The model takes `inputs` of shape [N, {', '.join(map(str, axes))}], got {[*inputs.shape]}."
        )
    return inputs
