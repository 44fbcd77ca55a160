"""Pictures of sound: the wave, how strong each band is, and the spikes made of it. Made as in `jsnn.plot.figures`.

Axes: T time, B batch, L samples, S recordings shown.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jsnn.plot.figures import COLOURS, WIDTH, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS = {"wave": 0.6, "bands": 1.5, "spikes": 1.5}  # heights


def spectrograms(
    features: Any,
    titles: Sequence[str],
    *,
    spikes: Any = None,
    samples: Any = None,
) -> "Figure":
    """Recordings side by side: above the wave, then each band over time, then the spikes.

    Low frequencies are at the bottom. In the raster, bands that rise are blue and bands that fall orange; a stroke is the longer the more spikes
    the step has.

    Args:
      features: `[T, B, bands]` from `jsnn.sound.features`. The first recordings are shown, one a title.
      titles: of the recordings `[S]`.
      spikes: `[T, B, bands]` or `[T, B, bands, 2]` from `jsnn.sound.spikes`; left out if None.
      samples: `[B, L]`, for the wave; left out if None.

    Raises:
      ValueError: there are fewer recordings than titles, or no title.
    """
    features = np.asarray(features)
    if not 0 < len(titles) <= features.shape[1]:
        raise ValueError(
            f"`titles` names {len(titles)} recordings, but `features` has {features.shape[1]}: give at least one, and no more than there are."
        )
    shown = [name for name, x in (("wave", samples), ("bands", features), ("spikes", spikes)) if x is not None]  # fmt: skip
    heights = [_ROWS[name] for name in shown]
    top = float(features[:, : len(titles)].max()) or 1.0
    with style():
        figure = new_figure(0.6 + sum(heights), max(WIDTH / 2, WIDTH / 4 * len(titles)))
        grid = figure.subplots(len(shown), len(titles), sharex=False, squeeze=False, height_ratios=heights)  # fmt: skip
        for column, title in enumerate(titles):
            for row, name in enumerate(shown):
                ax = grid[row, column]
                if name == "wave":
                    _wave(ax, np.asarray(samples)[column])
                elif name == "bands":
                    _bands(ax, features[:, column] / top)
                else:
                    _raster(ax, np.asarray(spikes)[:, column])
                if row == 0:
                    ax.set_title(title)
                if column == 0:
                    ax.set_ylabel({"wave": "", "bands": "band", "spikes": "band"}[name])
            grid[-1, column].set_xlabel("time step")
    return figure


def _wave(ax: "Axes", samples: np.ndarray) -> None:
    last = np.flatnonzero(samples)
    ax.plot(samples[: last[-1] + 1 if len(last) else 1], color=COLOURS["blue"], lw=0.4)
    ax.set_axis_off()


def _bands(ax: "Axes", strength: np.ndarray) -> None:
    """Of `[T, bands]` in 0..1: opacity, so that it fades into any page."""
    from matplotlib.colors import to_rgb

    image = np.zeros((*strength.T.shape, 4))
    image[..., :3] = to_rgb(COLOURS["blue"])
    image[..., 3] = strength.T
    ax.imshow(image, interpolation="nearest", aspect="auto", origin="lower")
    ax.grid(visible=False)
    _plain(ax, len(strength))


def _raster(ax: "Axes", spikes: np.ndarray) -> None:
    """Of `[T, bands]`, or `[T, bands, 2]` with falling and rising."""
    pairs = spikes if spikes.ndim == 3 else spikes[..., None]
    colours = ["orange", "blue"] if pairs.shape[-1] == 2 else ["blue"]
    half = 0.45 * np.sqrt(pairs / max(float(pairs.max()), 1.0))
    for channel, colour in enumerate(colours):
        t, band = np.nonzero(pairs[..., channel])
        length = half[t, band, channel]
        ax.vlines(t, band - length, band + length, color=COLOURS[colour], lw=1.5)
    ax.set_ylim(-0.6, spikes.shape[1] - 0.4)
    ax.grid(axis="y", visible=False)
    _plain(ax, len(spikes))


def _plain(ax: "Axes", steps: int) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(-0.5, steps - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
