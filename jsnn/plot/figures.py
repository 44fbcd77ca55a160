"""Figures of a run and what they have in common; `jsnn.plot.spikes` draws single samples.

Each function takes plain arrays or rows of `metrics.jsonl` and returns a `matplotlib.figure.Figure`; nothing is shown, and
pyplot's global state is left alone. Colours are Okabe and Ito's, which colour-blind readers tell apart. Every line and
text has one of `COLOURS`, so that a report may exchange them on a dark page.

Axes: C classes.
"""

import functools
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from jsnn import files
from jsnn.train.runs import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#1f2933",
    "muted": "#6b7680",
    "grid": "#dfe4e8",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
}
_SPLITS = {"train": "blue", "test": "orange", "validation": "green"}
_DPI = 150
WIDTH = 8.0  # inches; text of 9 points is then readable at half the size


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for all figures, within this context only: for drawing and for saving."""
    import matplotlib

    settings: Any = {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.linewidth": 0.6,
        "grid.color": COLOURS["grid"],
        "axes.edgecolor": COLOURS["muted"],
        "xtick.color": COLOURS["muted"],
        "ytick.color": COLOURS["muted"],
        "text.color": COLOURS["ink"],
        "axes.labelcolor": COLOURS["ink"],
        "axes.titlecolor": COLOURS["ink"],
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "none",  # text stays text: small files, searchable
        "svg.hashsalt": "jsnn",  # the same figure gives the same file
    }
    with matplotlib.rc_context(settings):
        yield


def save_all(
    drawn: Mapping[str, "Figure"], folder: pathlib.Path, *, dpi: int | None = None
) -> None:
    """Writes each figure to `folder/NAME.png`, at `dpi` pixels an inch if given.

    Raises:
      RunError: if one cannot be written.
    """
    options: dict[str, Any] = {} if dpi is None else {"dpi": dpi}
    options |= {"format": "png", "facecolor": "white"}
    for name, figure in drawn.items():
        path = folder / f"{name}.png"
        try:
            with style():
                files.write(path, lambda file, f=figure: f.savefig(file, **options))
        except OSError as error:
            raise RunError(
                f"The figure {path} could not be written ({error.strerror}). What was computed before it is kept, and so is the result: free some space, and "
                f"draw it by `jsnn report {folder}`, or by the same command with --resume."
            ) from error


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """An empty figure of this size in inches, whose parts make room for each other. As the last line of a notebook's cell it is shown."""
    return _shown()(figsize=(width, height), dpi=_DPI, layout="constrained")


@functools.cache
def _shown() -> "type[Figure]":
    """Figures that a notebook shows without pyplot, which would keep every one of them in memory."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            with style():
                self.savefig(file, format="png", facecolor="white")
            return file.getvalue()

    return Shown


def curves(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss and accuracy over epochs, of the training rows and of the evaluations between them.

    Args:
      rows: rows of `metrics.jsonl`, with `split`, `epoch`, and `loss` or `accuracy` (a fraction) or both.

    Raises:
      ValueError: if there is neither a loss nor an accuracy.
    """
    from matplotlib.ticker import PercentFormatter

    names = [
        name
        for name in ("loss", "accuracy")
        if any(row.get(name) is not None for row in rows)
    ]
    if not names:
        raise ValueError(
            "`rows` hold no loss and no accuracy; draw curves after at least one step of training."
        )
    with style():
        figure = new_figure(2.9, WIDTH if len(names) == 2 else WIDTH / 2)
        axes = figure.subplots(1, len(names), squeeze=False)[0]
        for ax, name in zip(axes, names, strict=True):
            for split, colour in _SPLITS.items():
                chosen = [r for r in rows if r["split"] == split and name in r]
                if not chosen:
                    continue
                # A loss that was not finite is stored as null, and leaves a gap.
                y = [np.nan if r[name] is None else r[name] for r in chosen]
                # Single rows would be invisible as a line; a hundred markers would hide it.
                marker = "o" if len(y) <= 40 else ""
                x = [r["epoch"] for r in chosen]
                look = {"color": COLOURS[colour], "marker": marker, "ms": 3}
                ax.plot(x, y, label=split, **look)
            ax.set_xlabel("epoch")
            ax.set_ylabel(name)
            ax.set_xlim(left=0)
            if name == "accuracy":
                ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            else:
                ax.set_ylim(bottom=0)
        axes[0].legend()
    return figure


def _tint(fraction: np.ndarray, colour: str) -> np.ndarray:
    """A colour whose opacity is `fraction`, so that it fades into a light page and a dark one alike."""
    from matplotlib.colors import to_rgb

    rgb = np.broadcast_to(to_rgb(COLOURS[colour]), (*fraction.shape, 3))
    return np.concatenate([rgb, fraction[..., None]], axis=-1)


def confusion(matrix: Any, class_names: Sequence[str]) -> "Figure":
    """Confusion matrix: hits blue, mistakes orange, by their share of the true class.

    Args:
      matrix: counts `[C, C]`, true class by row, from `metrics.confusion_matrix`.
      class_names: one name a class.

    Raises:
      ValueError: if `class_names` does not fit the matrix.
    """
    counts = np.asarray(matrix)
    if counts.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"`class_names` names {len(class_names)} classes, but `matrix` has shape {counts.shape}."
        )
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Opacity grows as a square root: two mistakes in a hundred must be seen.
    opacity = np.sqrt(share)
    hit = np.eye(len(counts), dtype=bool)[..., None]
    image = np.where(hit, _tint(0.85 * opacity, "blue"), _tint(opacity, "orange"))
    with style():
        figure = new_figure(4.6, 5.0)
        ax = figure.subplots()
        ax.imshow(image, interpolation="nearest")
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set_xlabel("predicted class")
        ax.set_ylabel("true class")
        total, correct = int(counts.sum()), int(np.trace(counts))
        ax.set_title(f"{correct:,} of {total:,} right")
        if len(counts) <= 20:
            slant: Any = {}
            if max(map(len, class_names)) > 3:
                slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
            ax.set_xticks(range(len(counts)), class_names, **slant)
            ax.set_yticks(range(len(counts)), class_names)
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    colour = "white" if opacity[i, j] > 0.6 else COLOURS["ink"]
                    ax.text(
                        j,
                        i,
                        str(count),
                        color=colour,
                        ha="center",
                        va="center",
                        fontsize=8,
                    )
    return figure
