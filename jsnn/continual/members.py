"""A stream for `jsnn.train.sweep`: members differ in numbers, step sizes and weights of the method's terms, and in seeds.

Axes: S tasks; P phases of the training.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.continual import methods, metrics, report
from jsnn.continual.method import Settings, default_settings
from jsnn.continual.samples import Samples
from jsnn.continual.stream import Stream
from jsnn.train import trainer as trainers
from jsnn.train.program import Program, all_finite
from jsnn.train.trainer import Trainer

# Every weight that a method has, as TERM.WEIGHT.
WEIGHTS = tuple(
    dict.fromkeys(
        f"{term}.{weight}"
        for make in methods.METHODS.values()
        for term, weights in default_settings(make()).items()
        for weight in weights
    )
)


def split(values: dict[str, Any]) -> tuple[dict[str, Any], Settings]:
    """A member's values apart: those of flags, and weights of the method, TERM.WEIGHT."""
    weights: Settings = {}
    for name, value in values.items():
        term, dot, weight = name.partition(".")
        if dot:
            weights.setdefault(term, {})[weight] = value
    return {name: x for name, x in values.items() if "." not in name}, weights


def program(
    make: Callable[[dict[str, Any]], Trainer], stream: Stream, data: Samples
) -> Program:
    """The program of a trainer, with the figures of a run's summary but for the matrices.

    Args:
      make: the trainer for a member's values, which may be traced. Its head has room for all classes.
      stream: the tasks.
      data: their samples.
    """
    counts = np.array([len(task.test) for task in stream.tasks])
    held = sum(len(task.validation) for task in stream.tasks)

    def train(key, values, data):
        trained = trainers.train_fn(make(values))(key, data)
        finite = all_finite(trained.state.own.model.params)
        test, validation = trained.found
        class_il, task_il = jax.vmap(lambda found: report.hits(stream, found))(test)
        found = {"class_il": class_il, "task_il": task_il, "finite": finite}
        if validation is not None:
            last = jax.tree.map(lambda x: x[-1], validation)
            right = report.hits(stream, last, "validation")[0]
            found["validation"] = jnp.maximum(right, 0).sum()
        return found

    def summary(found):
        figures = metrics.figures(
            _accuracies(found["class_il"], counts),
            _accuracies(found["task_il"], counts),
            counts,
        )
        if held:
            figures["validation_accuracy"] = float(found["validation"]) / held
        # What one task, or all in one run, leaves undefined is no failure.
        return {name: x for name, x in figures.items() if not np.isnan(x)}

    def init(key, values):
        return trainers.start(make(values), key)

    return Program(train, data, init, summary)


def _accuracies(hits: np.ndarray, counts: np.ndarray) -> metrics.Matrix:
    """The matrix of accuracies from hits `[P, S]`, NaN where none were tested; all classes at once have the last row alone."""
    found = np.full((len(counts), len(counts)), np.nan)
    known = (hits >= 0) & (counts > 0)
    found[len(counts) - len(hits) :] = np.where(
        known, hits / np.maximum(counts, 1), np.nan
    )
    return found
