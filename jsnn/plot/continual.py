"""Figures of a class-incremental run: the matrix of accuracies, accuracy over tasks, and what is predicted in the end.

Each function takes plain arrays and returns a `matplotlib.figure.Figure`. Axes: S tasks of the stream, C classes.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Integer

from jsnn.continual import metrics
from jsnn.plot import figures
from jsnn.plot.figures import COLOURS, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jsnn.continual.report import Result

_LINES = ("blue", "orange", "green", "ink", "muted")


def heat_map(
    accuracy: Float[np.ndarray, "S S"], title: str = "class-incremental"
) -> "Figure":
    """R: a row for each task trained, a column for each task tested; what was not measured stays empty."""
    from matplotlib.colors import to_rgb

    size = len(accuracy)
    image = np.zeros((size, size, 4))
    image[..., :3] = to_rgb(COLOURS["blue"])
    image[..., 3] = np.nan_to_num(accuracy)  # opacity, so that it fades into any page
    with style():
        figure = new_figure(0.45 * size + 1.3, 0.55 * size + 1.8)
        ax = figure.subplots()
        ax.imshow(image, interpolation="nearest", aspect="auto")
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        names = [str(number) for number in range(1, size + 1)]
        ax.set_xticks(range(size), names)
        ax.set_yticks(range(size), names)
        ax.set_xlabel("tested on task")
        ax.set_ylabel("after training on task")
        ax.set_title(f"accuracy, {title}, %")
        for (t, i), value in np.ndenumerate(accuracy):
            if not np.isnan(value):
                colour = "white" if value > 0.6 else COLOURS["ink"]
                text = f"{100 * value:.1f}" if size <= 10 else f"{100 * value:.0f}"
                ax.text(i, t, text, color=colour, ha="center", va="center", fontsize=8)
    return figure


def curves(
    matrices: Mapping[str, Float[np.ndarray, "S S"]],
    counts: metrics.Counts | None = None,
) -> "Figure":
    """Accuracy over all tasks seen so far, a line for each matrix: scenarios of one run, or methods.

    Args:
      matrices: R by the name of the line.
      counts: test samples of each task, to weight by; None for the mean of tasks.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with style():
        figure = new_figure(2.9, 5.0)
        ax = figure.subplots()
        for number, (name, matrix) in enumerate(matrices.items()):
            y = metrics.average_accuracy(matrix, counts)
            colour = COLOURS[_LINES[number % len(_LINES)]]
            dashes = "-" if number < len(_LINES) else "--"
            x = np.arange(1, len(y) + 1)
            ax.plot(x, y, dashes, marker="o", ms=3, color=colour, label=name)
        ax.set_xlabel("tasks learnt")
        ax.set_ylabel("accuracy over these tasks")
        ax.set_ylim(0, 1.02)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        ax.legend()
    return figure


def prediction_histogram(
    predictions: Integer[np.ndarray, "E"],
    labels: Integer[np.ndarray, "E"],
    class_names: Sequence[str],
) -> "Figure":
    """How often each class is predicted, right and wrong, beside how often it is true: a network that forgets predicts the last classes."""
    classes = np.arange(len(class_names))
    right = np.array([((predictions == c) & (labels == c)).sum() for c in classes])
    wrong = np.array([((predictions == c) & (labels != c)).sum() for c in classes])
    true = np.array([(labels == c).sum() for c in classes])
    with style():
        figure = new_figure(2.9, 6.0)
        ax = figure.subplots()
        ax.bar(classes, right, color=COLOURS["blue"], label="predicted, right")
        ax.bar(
            classes,
            wrong,
            bottom=right,
            color=COLOURS["orange"],
            label="predicted, wrong",
        )
        # A stroke at the number of true samples, as wide as the bar.
        ax.hlines(
            true, classes - 0.4, classes + 0.4, color=COLOURS["ink"], label="true"
        )
        ax.set_xlabel("class")
        ax.set_ylabel("test samples")
        ax.grid(visible=False, axis="x")
        if len(class_names) <= 20:
            slant: Any = {}
            if max(map(len, class_names)) > 3:
                slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
            ax.set_xticks(classes, class_names, **slant)
        ax.legend()
    return figure


def save(
    out: pathlib.Path,
    rows: Sequence[Mapping[str, Any]],
    result: "Result",
    class_names: Sequence[str],
) -> None:
    """Writes the PNG figures of a run to its folder."""
    scenarios = {
        "class-IL": result.class_il,
        "task-IL": result.task_il,
        "domain-IL": result.domain_il,
    }
    found = {
        "matrix": heat_map(result.class_il),
        "matrix_task_il": heat_map(result.task_il, "task-incremental"),
        "accuracy": curves(scenarios, result.counts),
        "predictions": prediction_histogram(
            result.predictions, result.labels, class_names
        ),
        "curves": figures.curves([r for r in rows if r["split"] in ("train", "test")]),
    }
    figures.save_all(found, out)
