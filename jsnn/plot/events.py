"""Pictures of event recordings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jsnn.plot.figures import COLOURS, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 8


def strip(frames: Any, labels: Sequence[Any], *, step_ms: float | None = None) -> "Figure":  # fmt: skip
    """Recordings as strips of frames, one below the other: brighter is blue, darker is orange; the more events, the stronger.

    >>> strip(np.ones((3, 2, 5, 5, 2)), ["zero", "one"], step_ms=10.0).get_axes()[0].get_title(loc="left")
    '0 ms'

    Args:
      frames: events of each step, cell and polarity, `[T, B, H, W, 2]`, as `jsnn.data.events.frames` gives. Of more than eight steps neighbours are put
        together.
      labels: what stands beside each recording, `[B]`.
      step_ms: length of a step; None: steps are of equally many events.

    Raises:
      ValueError: if the shapes do not fit.
    """
    frames = np.asarray(frames, float)
    if frames.ndim != 5 or frames.shape[4] != 2 or frames.shape[1] != len(labels):
        raise ValueError(
            f"`frames` must be [T, B, H, W, 2] with B = {len(labels)} `labels`, got shape {frames.shape}."
        )
    total, count = len(frames), min(_COLUMNS, len(frames))
    starts = np.arange(count) * total // count
    joined = np.add.reduceat(frames, starts, axis=0)
    with style():
        figure = new_figure(1.05 * len(labels) + 0.35)
        axes = figure.subplots(len(labels), count, squeeze=False)
        for b, label in enumerate(labels):
            most = max(np.quantile(joined[:, b], 0.995), 1.0)
            for k in range(count):
                ax = axes[b, k]
                ax.imshow(_coloured(joined[k, b] / most), interpolation="nearest")
                ax.grid(visible=False)
                ax.set_xticks([])
                ax.set_yticks([])
                for spine in ax.spines.values():
                    spine.set(visible=True, color=COLOURS["grid"])
                if b == 0 and step_ms is not None:
                    ax.set_title(f"{starts[k] * step_ms:.0f} ms")
                if k == 0:
                    ax.set_ylabel(str(label))
    return figure


def _coloured(shares: np.ndarray) -> np.ndarray:
    """Colours `[H, W, 4]` of the shares of darker and brighter events `[H, W, 2]`: clear where there is none."""
    from matplotlib.colors import to_rgb

    shares = np.clip(shares, 0, 1)
    colours = np.array([to_rgb(COLOURS["orange"]), to_rgb(COLOURS["blue"])])
    total = shares.sum(-1, keepdims=True)
    mixed = shares @ colours / np.maximum(total, 1e-9)
    return np.concatenate([mixed, np.clip(total, 0, 1)], -1)
