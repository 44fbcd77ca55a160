"""Figures of networks trained with EventProp: when neurons spike first, membranes with the adjoint beside them, decision maps.

Made as in `jsnn.plot.figures`. Axes: T time, B batch, C classes, N neurons, P points along a side of a map.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jsnn.eventprop.traces import LayerTrace
from jsnn.plot.figures import COLOURS, WIDTH, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASS_COLOURS = ("blue", "orange", "green")


def first_spikes(
    times: Mapping[str, Any], labels: Any, *, t_end: float, unit: str = "ms"
) -> "Figure":
    """How often neurons of each layer spike first at which time; in a layer with one neuron a class the label's own stands out.

    Args:
      times: first spike times `[B, N]` by layer, infinite where silent; the layer called "output" has one neuron a class.
      labels: class of each sample `[B]`.
      t_end: end of the trial.
      unit: of the times.
    """
    labels = np.asarray(labels)
    with style():
        figure = new_figure(2.6, max(WIDTH / 2, WIDTH * len(times) / 2))
        axes = figure.subplots(1, len(times), squeeze=False)[0]
        for ax, (name, found) in zip(axes, times.items(), strict=True):
            found = np.asarray(found).reshape(len(labels), -1)
            groups = [("", np.ones(found.shape, bool), "blue")]
            if name == "output":
                own = np.arange(found.shape[1])[None] == labels[:, None]
                groups = [("other", ~own, "blue"), ("label's own", own, "orange")]
            for label, chosen, colour in groups:
                values = found[chosen]
                ax.hist(
                    values[np.isfinite(values)],
                    bins=40,
                    range=(0.0, t_end),
                    weights=np.full(np.isfinite(values).sum(), 1 / max(values.size, 1)),
                    color=COLOURS[colour],
                    alpha=0.7,
                    label=label,
                )
            silent = 100 * np.mean(~np.isfinite(found))
            ax.set_title(f"{name}  ·  {silent:.0f} % silent")
            ax.set_xlabel(f"first spike ({unit})")
            ax.set_ylabel("share of neurons")
            if len(groups) > 1:
                ax.legend()
    return figure


def _choose(trace: LayerTrace, count: int) -> np.ndarray:
    """The neurons with the largest adjoint, those that spike first."""
    size = np.nanmax(
        np.abs(np.asarray(trace.adjoint.v)[:, 0].reshape(trace.steps, -1)), 0
    )
    if trace.spikes is not None:
        spikes = np.asarray(trace.spikes)[:, 0].reshape(trace.steps, -1)
        size = size + 1e6 * spikes.any(0)
    return np.argsort(-size, kind="stable")[:count]


def adjoints(
    traces: Mapping[str, LayerTrace],
    *,
    dt: float,
    num_neurons: int = 2,
    threshold: float = 1.0,
    unit: str = "ms",
) -> "Figure":
    r"""Membranes with their spikes, and $\lambda_V$, $\lambda_I$ of the same neurons beside them, for the first sample of a batch.

    Time runs to the right in both columns; the adjoint was computed from right to left, and jumps where its neuron spiked.

    Args:
      traces: of layers by name.
      dt: time step.
      num_neurons: rows for each layer.
      threshold: of the spiking layers.
      unit: of `dt`.
    """
    rows = [
        (name, trace, int(n))
        for name, trace in traces.items()
        for n in _choose(trace, num_neurons)
    ]
    with style():
        figure = new_figure(0.6 + 1.15 * len(rows))
        axes = figure.subplots(len(rows), 2, sharex=True, squeeze=False)
        for (left, right), (name, trace, n) in zip(axes, rows, strict=True):
            _membrane(left, trace, n, dt, threshold)
            left.set_ylabel(f"{name} {n}")
            _adjoint(right, trace, n, dt)
        axes[0, 0].set_title("membrane, spikes as strokes")
        axes[0, 1].set_title("adjoint, computed backwards")
        axes[0, 1].legend(loc="upper right", ncols=2)
        for ax in axes[-1]:
            ax.set_xlabel(f"time ({unit})")
    return figure


def _column(values: Any, n: int) -> np.ndarray:
    """Neuron `n` of the first sample of `[T, B, *N]`."""
    values = np.asarray(values)[:, 0]
    return values.reshape(values.shape[0], -1)[:, n]


def _membrane(
    ax: "Axes", trace: LayerTrace, n: int, dt: float, threshold: float
) -> None:
    v = _column(trace.membrane, n)
    time = dt * np.arange(len(v))
    ax.plot(time, v, color=COLOURS["blue"], lw=1.2)
    if trace.spikes is not None:
        ax.axhline(threshold, color=COLOURS["muted"], lw=0.8, ls=":")
        at = time[_column(trace.spikes, n) > 0]
        top = max(threshold, float(v.max()))
        ax.vlines(at, top, 1.35 * top, color=COLOURS["orange"], lw=1.6)


def _adjoint(ax: "Axes", trace: LayerTrace, n: int, dt: float) -> None:
    for values, colour, label in (
        (trace.adjoint.v, "green", r"$\lambda_V$"),
        (trace.adjoint.i, "orange", r"$\lambda_I$"),
    ):
        y = _column(values, n)
        ax.step(
            dt * np.arange(len(y)),
            y,
            where="post",
            color=COLOURS[colour],
            label=label,
            lw=1.2,
        )
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def decision_map(
    scores: Any, points: Any, labels: Any, predictions: Any, class_names: Sequence[str]
) -> "Figure":
    """Which class a network of three gives to every point of the unit square, and test points on it; mistakes are ringed.

    Args:
      scores: class probabilities `[P, P, 3]`, first axis y, or one class index for each point `[P, P]`.
      points: test points `[M, 2]`.
      labels: their classes `[M]`.
      predictions: classes given to them `[M]`.
      class_names: three names.
    """
    from matplotlib.colors import to_rgb

    grid, points = np.asarray(scores), np.asarray(points)
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    colours = np.array([to_rgb(COLOURS[c]) for c in CLASS_COLOURS])
    if grid.ndim == 2:
        grid = np.eye(3)[grid]
    image = np.concatenate([grid @ colours, np.full((*grid.shape[:2], 1), 0.3)], -1)
    y, x = np.indices(grid.shape[:2]) / (len(grid) - 1)
    image[(x - 0.5) ** 2 + (y - 0.5) ** 2 > 0.25] = 0.0
    wrong = labels != predictions
    with style():
        figure = new_figure(4.6, 5.2)
        ax = figure.subplots()
        ax.imshow(image, origin="lower", extent=(0, 1, 0, 1), interpolation="nearest")
        for k, name in enumerate(class_names):
            chosen = labels == k
            colour = COLOURS[CLASS_COLOURS[k]]
            ax.scatter(*points[chosen].T, s=5, color=colour, label=name, lw=0)
        if wrong.any():
            ax.scatter(
                *points[wrong].T,
                s=36,
                facecolors="none",
                edgecolors=COLOURS["ink"],
                lw=0.9,
                label="mistaken",
            )
        ax.set_aspect("equal")
        ax.grid(visible=False)
        ax.set_xlabel("x")
        ax.set_ylabel("y")
        right = len(labels) - int(wrong.sum())
        ax.set_title(f"{right:,} of {len(labels):,} test points right")
        figure.legend(loc="outside lower center", ncols=4, markerscale=1.6)
    return figure
