"""Curves of several runs over each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jsnn.plot.figures import COLOURS, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = ("blue", "orange", "green", "ink", "muted")
_PLACES = {"step", "epoch", "seconds", "train_seconds", "cpu_seconds", "seen", "task", "layer", "split", "classes"}  # fmt: skip
_MOST = 4  # panels


def metrics_of(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Numbers that rows of these runs hold, those that several runs share first: loss and accuracy, then others."""
    counts: dict[str, int] = {}
    for rows in runs.values():
        for name in dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)):  # fmt: skip
            counts[name] = counts.get(name, 0) + 1
    names = [n for n in counts if n not in _PLACES]
    first = [n for n in ("loss", "accuracy") if n in names]
    rest = [n for n in names if n not in first]
    return first + sorted(rest, key=lambda n: -counts[n])


def curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Sequence[str] | None = None,
) -> "Figure":
    """Curves of several runs: a colour for each, thin lines for training, thick ones for held-out samples.

    Args:
      runs: rows of `metrics.jsonl`, by the name of the run.
      metrics: names of numbers in the rows; loss, accuracy and up to two others that all runs have if None.

    Returns:
      The figure, a panel for each metric.

    Raises:
      ValueError: if no run has a metric.
    """
    known = metrics_of(runs)
    if metrics is None:
        shared = [n for n in known if all(any(n in row for row in rows) for rows in runs.values())]  # fmt: skip
        metrics = (shared or known)[:2]
    if missing := [n for n in metrics if n not in known]:
        raise ValueError(
            f"`metrics` names {missing[0]!r}, which no run has: choose of {', '.join(known) or 'none'}."
        )
    if not metrics:
        raise ValueError("`runs` hold no metric: none has written a row yet.")
    with style():
        columns = min(len(metrics), 2)
        lines = -(-len(metrics) // columns)
        figure = new_figure(0.5 + 2.6 * lines + 0.2 * len(runs), 8.0 if columns == 2 else 5.0)  # fmt: skip
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for ax, metric in zip(axes, metrics, strict=False):
            _panel(ax, runs, metric)
        for ax in axes[len(metrics) :]:
            ax.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left")
    return figure


def _panel(ax: Any, runs: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> None:  # fmt: skip
    for number, (name, rows) in enumerate(runs.items()):
        colour = COLOURS[_LINES[number % len(_LINES)]]
        dashes = "-" if number < len(_LINES) else "--"
        label: str | None = name
        held = {row["split"] for row in rows if "split" in row} - {"train"}
        for split in [*sorted(held), "train"]:
            chosen = [r for r in rows if r.get("split", "train") == split and metric in r]  # fmt: skip
            chosen = [r for r in chosen if not isinstance(r[metric], str | bool)]
            if not chosen:
                continue
            x = [r.get("epoch", r.get("step", i)) for i, r in enumerate(chosen)]
            y = [np.nan if r[metric] is None else r[metric] for r in chosen]
            thin = split == "train"
            look: dict[str, Any] = {"lw": 0.9, "alpha": 0.7} if thin else {"lw": 2.0}
            if len(y) == 1:
                look["marker"] = "o"
            ax.plot(x, y, dashes, color=colour, label=label, **look)
            label = None
        if label is not None:  # nothing of this metric; the legend names all runs
            ax.plot([], [], dashes, color=colour, label=label)
    ax.set_xlabel("epoch")
    ax.set_title(metric.replace("_", " "))
    ax.set_xlim(left=0)
