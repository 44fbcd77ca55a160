"""What becomes of the metrics of steps: rows, and where they stand."""

import math
from typing import Any

import numpy as np

from jsnn.train.trainer import Phase, Place, TrainState

Row = dict[str, Any]
Metrics = dict[str, np.ndarray]  # one value a step


def means(metrics: Metrics) -> dict[str, float]:
    """Of all steps of a row."""
    return {name: float(values.mean()) for name, values in metrics.items()}


def joined(parts: list[Metrics]) -> Metrics:
    """Metrics of stretches one after another."""
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def before(place: Place, metrics: Metrics) -> Place:
    """Where the run stood before the steps of these metrics."""
    if not metrics:
        return place
    count = len(next(iter(metrics.values())))
    grown = metrics.get("advance", np.ones(count, np.int32))
    return place._replace(
        phase_step=place.phase_step - count, step=place.step - int(grown.sum())
    )


def place(state: TrainState) -> Place:
    """Where a state stands."""
    return Place(int(state.phase), int(state.phase_step), int(state.step))


def sentence(phase: Phase, rows: list[Row]) -> str:
    """An evaluation in one line."""
    row = rows[-1]
    where = phase.name if phase.evaluate == "end" else f"step {row['step']:>6}"
    if phase.evaluate != "end" and "epoch" in row:
        where += f"  epoch {row['epoch']:6.2f}"
    text = (
        f"{where}  {row['split']} accuracy {100 * row.get('accuracy', math.nan):6.2f} %"
    )
    if "loss" in row:
        text += f"  loss {row['loss']:.4f}"
    if len(rows) > 1:
        shares = (f"{100 * r['accuracy']:.1f}" for r in rows[:-1] if "accuracy" in r)
        text += f"  (by task {' '.join(shares)})"
    return text
