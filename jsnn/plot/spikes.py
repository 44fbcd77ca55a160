"""Figures of single samples: what spiked when, how membranes moved, what the output said. Made as in `jsnn.plot.figures`.

Axes: T time, B batch, C classes, N neurons (any number of axes), S samples.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer

from jsnn.activity import Activity
from jsnn.plot.figures import COLOURS, WIDTH, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _time_axis(ax: "Axes", num_steps: int, label: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(-0.5, num_steps - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if label:
        ax.set_xlabel("time step")


def _flat(x: Any) -> np.ndarray:
    """`[T, N...]` of one sample as `[T, N]`."""
    x = np.asarray(x)
    return x.reshape(x.shape[0], -1)


def _choose(order: np.ndarray, spikes: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` neurons, at even distances in `order` among those that spike; among all if too few do."""
    active = order[spikes[:, order].any(0)]
    if len(active) < count:
        return order[:count]
    return active[np.linspace(0, len(active) - 1, count).round().astype(int)]


def _ticks(
    ax: "Axes", spikes: np.ndarray, colours: Sequence[str], width: float
) -> None:
    """A stroke at each spike of `[T, rows]`, the first row at the top; `width` of the axes in inches."""
    stroke = float(np.clip(0.5 * 72 * width / len(spikes), 0.8, 5.0))
    for row, colour in enumerate(colours):
        times = np.flatnonzero(spikes[:, row])
        ax.vlines(times, row - 0.38, row + 0.38, color=colour, lw=stroke)
    ax.set_ylim(len(colours) - 0.4, -0.6)


def raster(
    activities: Sequence[Activity],
    names: Sequence[str],
    *,
    sample: int = 0,
    num_neurons: int = 30,
    class_names: Sequence[str] | None = None,
) -> "Figure":
    """Spikes of one sample, layer below layer in the order of computation.

    Of a large layer it shows `num_neurons` at even distances among those that spike, so that sparse layers are not blank;
    the label says of how many.

    Args:
      activities: from `activity.record`; layers that do not spike are left out.
      names: from `activity.neuron_names`.
      sample: index into the batch.
      num_neurons: neurons shown of each layer.
      class_names: names of the last layer's neurons, used if there are as many: if it is a spiking output.

    Raises:
      ValueError: if no layer spikes by construction.
    """
    pairs = zip(names, activities, strict=True)
    spiking = [
        (n, _flat(a.spikes[:, sample])) for n, a in pairs if a.spikes is not None
    ]
    if not spiking:
        raise ValueError("`activities` hold no layer of neurons that spike.")
    sizes = [min(spikes.shape[1], num_neurons) for _, spikes in spiking]
    heights = [0.35 + 0.04 * max(size, 10) for size in sizes]
    labels = None
    if class_names is not None and spiking[-1][1].shape[1] == len(class_names):
        labels = class_names
        sizes[-1] = len(labels)
        heights[-1] = 0.35 + 0.11 * len(labels)
    with style():
        figure = new_figure(0.5 + sum(heights))
        axes = figure.subplots(
            len(sizes), 1, sharex=True, squeeze=False, height_ratios=heights
        )[:, 0]
        for ax, (name, spikes), size in zip(axes, spiking, sizes, strict=True):
            last = ax is axes[-1]
            _layer(ax, name, spikes, size, labels if last else None)
            _time_axis(ax, len(spikes), label=last)
    return figure


def _layer(
    ax: "Axes",
    name: str,
    spikes: np.ndarray,
    count: int,
    labels: Sequence[str] | None,
) -> None:
    """One panel of the raster: `count` neurons of `[T, N]`; the output's are labelled and orange."""
    active, total = int(spikes.any(0).sum()), spikes.shape[1]
    order = np.arange(total)
    chosen = order if count == total else _choose(order, spikes, count)
    colour = COLOURS["orange" if labels else "blue"]
    _ticks(ax, spikes[:, chosen], [colour] * len(chosen), WIDTH - 1)
    ax.set_yticks(range(count) if labels else [], labels or [], fontsize=6.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    title = f"{name}  ·  {active:,} of {total:,} neurons spike"
    ax.set_title(title if count == total else f"{title}, {count} shown")
    ax.set_ylabel("class" if labels else "neuron")


def membranes(
    activities: Sequence[Activity],
    names: Sequence[str],
    *,
    sample: int = 0,
    num_neurons: int = 3,
) -> "Figure":
    """Membranes of a few neurons of each layer on one sample, over their threshold, with spikes as strokes above.

    The membrane is what each step compares with the threshold, before any reset: the neuron spikes where the line is above. Both are
    in units of the threshold at rest; one that adapts rises and falls. From left to right neurons are chosen from the one that
    spikes most to the one that spikes least, silent ones left out where there are enough others.

    Args:
      activities: from `activity.record`.
      names: from `activity.neuron_names`.
      sample: index into the batch.
      num_neurons: neurons shown of each layer.

    Raises:
      ValueError: if there are no layers of neurons.
    """
    if not activities:
        raise ValueError("`activities` is empty: the model has no layers of neurons.")
    with style():
        figure = new_figure(0.7 + 1.15 * len(activities))
        grid = figure.subplots(len(activities), num_neurons, sharex=True, squeeze=False)
        for row, name, one in zip(grid, names, activities, strict=True):
            v = _flat(one.membrane[:, sample])
            spikes, theta = np.zeros_like(v), np.ones_like(v)
            if one.spikes is not None:
                spikes = _flat(one.spikes[:, sample])
                theta = np.broadcast_to(np.asarray(one.threshold), one.membrane.shape)
                theta = _flat(theta[:, sample])
            order = np.lexsort((-v.max(0), -spikes.sum(0)))
            chosen = _choose(order, spikes, num_neurons)
            for ax in row[len(chosen) :]:
                ax.set_axis_off()
            for ax, n in zip(row, chosen, strict=False):
                unit = theta[0, n]  # every trial begins at rest
                fired = None if one.spikes is None else spikes[:, n]
                _trace(ax, v[:, n] / unit, theta[:, n] / unit, fired)
                index = np.unravel_index(n, one.membrane.shape[2:])
                where = ", ".join(str(int(i)) for i in index)
                where = f"({where})" if len(index) > 1 else where
                ax.set_title(f"{name}  ·  neuron {where}", fontsize=8)
                _time_axis(ax, len(v), label=one is activities[-1])
        figure.supylabel("membrane / threshold", fontsize=9)
        _legend(figure)
    return figure


def _trace(
    ax: "Axes", v: np.ndarray, theta: np.ndarray, spikes: np.ndarray | None
) -> None:
    time = np.arange(len(v))
    ax.plot(time, v, color=COLOURS["blue"], lw=1.4)
    if spikes is None:
        return
    top, bottom = max(v.max(), theta.max()), min(v.min(), 0.0)
    height = top - bottom
    dashed = {"color": COLOURS["muted"], "lw": 0.9, "ls": (0, (4, 3))}
    if (theta == 1).all():
        ax.axhline(1.0, **dashed)  # across the whole panel
    else:
        ax.plot(time, theta, **dashed)
    low, high = top + 0.12 * height, top + 0.34 * height
    when = np.flatnonzero(spikes)
    width = float(np.clip(60 / len(v), 0.6, 1.8))
    ax.vlines(when, low, high, color=COLOURS["orange"], lw=width)
    # A line down to where the spike left the membrane, behind the trace.
    ax.vlines(when, v[when], low, color=COLOURS["orange"], lw=0.6, alpha=0.4, zorder=1)
    ax.set_ylim(bottom - 0.08 * height, top + 0.42 * height)


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS["blue"], lw=1.4, label="membrane"),
        Line2D([], [], color=COLOURS["muted"], lw=0.9, ls="--", label="threshold"),
        Line2D([], [], color=COLOURS["orange"], ls="", marker="|", ms=9, mew=1.8),
    ]
    handles[-1].set_label("spike")
    figure.legend(handles=handles, loc="outside upper right", ncols=3)


def samples(
    images: Any,
    labels: Any,
    predictions: Any,
    spikes: Any,
    class_names: Sequence[str],
    *,
    columns: int = 6,
) -> "Figure":
    """Images, each with its prediction, the output neurons' spikes over time, and their counts.

    Args:
      images: `[S, H, W, 1]` or `[S, H, W, 3]`, bytes or floats in [0, 1].
      labels: true classes `[S]`.
      predictions: predicted classes `[S]`.
      spikes: `[T, S, C]` of the output layer.
      class_names: one name a class.
      columns: samples in a row of the figure.
    """
    images, spikes = np.asarray(images), np.asarray(spikes)
    cases = list(zip(images, np.asarray(labels), np.asarray(predictions), strict=True))
    rows = -(-len(cases) // columns)
    with style():
        figure = new_figure(0.3 + 2.6 * rows)
        grid = figure.add_gridspec(rows, columns)
        for s, (image, label, guess) in enumerate(cases):
            cell = grid[divmod(s, columns)].subgridspec(2, 1, height_ratios=[1, 1.6])
            colour = COLOURS["blue" if label == guess else "orange"]
            title = str(class_names[guess])
            if label != guess:
                title += f", is {class_names[label]}"
            top = figure.add_subplot(cell[0])
            white = 255 if images.dtype == np.uint8 else 1.0
            top.imshow(image.squeeze(), cmap="gray_r", vmin=0, vmax=white)
            top.set_axis_off()
            top.set_title(title, color=colour, loc="center", fontweight="bold")
            colours = [COLOURS["muted"]] * len(class_names)
            colours[guess] = colour
            bottom = figure.add_subplot(cell[1])
            width = 0.7 * WIDTH / columns
            _output(bottom, spikes[:, s], colours, class_names, width)
        figure.supxlabel("time step", fontsize=9)
        figure.supylabel("output neuron, and its number of spikes", fontsize=9)
    return figure


def _output(
    ax: "Axes",
    spikes: np.ndarray,
    colours: Sequence[str],
    class_names: Sequence[str],
    width: float,
) -> None:
    """Spikes `[T, C]` of the output, with the classes on the left and the counts on the right."""
    _ticks(ax, spikes, colours, width)
    ax.set_yticks(range(len(class_names)), class_names, fontsize=6)
    for row, count in enumerate(spikes.sum(0).astype(int)):
        if count:
            ax.annotate(
                str(count),
                (1.03, row),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=6,
                color=colours[row],
            )
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=6)
    _time_axis(ax, len(spikes), label=False)


def choose_samples(
    labels: Integer[np.ndarray, "S"],
    predictions: Integer[np.ndarray, "S"],
    count: int = 12,
) -> Integer[np.ndarray, "K"]:
    """Which to show with `samples`: the first of each class that is classified right, then mistakes, then others.

    Args:
      labels: true classes.
      predictions: predicted classes.
      count: how many at most.
    """
    right = labels == predictions
    firsts = [np.flatnonzero(right & (labels == c))[:1] for c in np.unique(labels)]
    order = np.concatenate([*firsts, np.flatnonzero(~right), np.flatnonzero(right)])
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)][:count]
