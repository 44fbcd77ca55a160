"""Figures of a sweep: a line over one parameter, a heat-map over two, parallel coordinates over more.

Each takes the table that `jsnn.train.sweep.summarise` returns and draws a metric's mean over seeds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jsnn.plot.figures import COLOURS, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Sequence[dict[str, Any]]


def draw(table: Table, names: Sequence[str], metric: str) -> "Figure":
    """The figure that suits so many parameters."""
    if not names:
        return line(table, "runs", metric)
    if len(names) == 1:
        return line(table, names[0], metric)
    shape = [len({row[name] for row in table}) for name in names]
    if len(names) == 2 and len(table) == shape[0] * shape[1]:
        return heat_map(table, names[0], names[1], metric)
    return parallel_coordinates(table, names, metric)


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _logarithmic(values: Sequence[Any]) -> bool:
    """Whether a logarithmic axis shows the values better: all positive, over more than a decade."""
    return min(values) > 0 and max(values) > 10 * min(values)


def line(table: Table, name: str, metric: str) -> "Figure":
    """Mean and 95 % interval of a metric over one parameter."""
    values = [row[name] for row in table]
    with style():
        figure = new_figure(3.2)
        axes = figure.add_subplot()
        mean = np.array([row[metric] for row in table], float)
        spread = np.nan_to_num([row[f"{metric}_ci95"] for row in table])
        x: Any = values if _numbers(values) else np.arange(len(values))
        axes.errorbar(x, mean, spread, marker="o", capsize=3, color=COLOURS["blue"])
        if not _numbers(values):
            axes.set_xticks(x, [str(v) for v in values])
        elif len(values) > 1 and _logarithmic(values):
            axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.set_ylabel(metric)
        return figure


def heat_map(table: Table, across: str, up: str, metric: str) -> "Figure":
    """Mean of a metric over a grid of two parameters; cells whose members all failed say so."""
    columns = sorted({row[across] for row in table})
    lines = sorted({row[up] for row in table})
    cells = np.full((len(lines), len(columns)), np.nan)
    for row in table:
        cells[lines.index(row[up]), columns.index(row[across])] = row[metric]
    with style():
        figure = new_figure(1.2 + 0.45 * len(lines))
        axes = figure.add_subplot()
        axes.grid(False)
        image = axes.imshow(cells, origin="lower", aspect="auto", cmap="viridis")
        middle = np.nanmean(cells) if np.isfinite(cells).any() else 0.0
        for (i, j), value in np.ndenumerate(cells):
            text = f"{value:.3g}" if np.isfinite(value) else "failed"
            colour = "white" if np.isfinite(value) and value < middle else "black"
            axes.text(j, i, text, ha="center", va="center", color=colour)
        axes.set_xticks(range(len(columns)), [_text(v) for v in columns])
        axes.set_yticks(range(len(lines)), [_text(v) for v in lines])
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        figure.colorbar(image, label=metric)
        return figure


def parallel_coordinates(table: Table, names: Sequence[str], metric: str) -> "Figure":
    """One line per setting through its parameters to its metric; the better, the darker."""
    columns = [*names, metric]
    good = [row for row in table if np.isfinite(row[metric])]
    with style():
        figure = new_figure(3.6)
        axes = figure.add_subplot()
        axes.grid(False)
        if good:
            heights = np.stack(
                [
                    _heights([row[name] for row in good], axes, i)
                    for i, name in enumerate(columns)
                ]
            )
            for setting in np.argsort(heights[-1]):
                strength = 0.1 + 0.8 * heights[-1, setting]
                axes.plot(heights[:, setting], color=COLOURS["blue"], alpha=strength)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks([])
        axes.set_xlim(-0.2, len(columns) - 0.8)
        axes.set_ylim(-0.1, 1.1)
        return figure


def _heights(values: Sequence[Any], axes: Any, position: int) -> np.ndarray:
    """Values as heights from 0 to 1, with the ends' names beside the axis."""
    if _numbers(values):
        x = np.array(values, float)
        x = np.log(x) if _logarithmic(values) else x
        ends = {0.0: min(values), 1.0: max(values)}
        span = np.ptp(x)
        heights = (x - x.min()) / span if span else np.full(len(x), 0.5)
    else:
        kinds = sorted(set(values), key=str)
        places = np.linspace(0, 1, len(kinds)) if len(kinds) > 1 else np.array([0.5])
        ends = dict(zip(places.tolist(), kinds, strict=True))
        heights = np.array([places[kinds.index(v)] for v in values])
    axes.axvline(position, color=COLOURS["muted"], linewidth=0.8)
    for height, value in ends.items():
        axes.text(position + 0.03, height, _text(value), va="center")
    return heights


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
