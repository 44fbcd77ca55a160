"""What `experiments.sweep` does with `experiments.cil_cifar10`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import data, head, sweep
from jsnn.continual import method, methods, metrics, samples, stream, training, whole

if TYPE_CHECKING:
    from experiments.cil_cifar10 import Config

# Every weight that a method has, as TERM.WEIGHT.
WEIGHTS = tuple(
    dict.fromkeys(
        f"{term}.{weight}"
        for make in methods.METHODS.values()
        for term, weights in method.default_settings(make()).items()
        for weight in weights
    )
)


def _with_weights(
    learner: training.Learner, values: dict[str, Any]
) -> training.Learner:
    """The learner with those of `values` that are weights of its method."""
    settings = {term: dict(weights) for term, weights in learner.settings.items()}
    for name, value in values.items():
        term, dot, weight = name.partition(".")
        if dot:
            settings[term][weight] = value
    return learner._replace(settings=settings)


def program(
    cfg: "Config",
    dataset: data.Dataset,
    tasks: stream.Stream,
    make_learner: Callable[["Config"], training.Learner],
) -> sweep.Program:
    """The program of a resolved config; `make_learner` gets one whose numbers may be traced.

    Raises:
      ValueError: if tasks to come are to be tested, which a sweep does not.
    """
    if cfg.evaluate_unseen:
        raise ValueError(
            "`--evaluate-unseen` is not for sweeps: leave it out, and take forward transfer from single runs."
        )
    assert cfg.epochs_per_task is not None
    assert cfg.batch_norm is not None
    epochs, batch_norm = cfg.epochs_per_task, cfg.batch_norm
    room = head.room_for(tasks.num_columns, cfg.capacity or tasks.num_columns)
    columns = samples.columns_of(tasks, room)
    counts = np.array([len(task.test) for task in tasks.tasks])
    put = samples.put(tasks, dataset.train, dataset.test)

    def learner_for(values):
        flags = {name: value for name, value in values.items() if "." not in name}
        return _with_weights(make_learner(sweep.with_values(cfg, flags)), values)

    def train(key, values, data):
        learner = learner_for(values)
        state, hits = whole.train(
            learner,
            key,
            data,
            learner.settings,
            columns,
            epochs_per_task=epochs,
            batch_norm=batch_norm,
        )
        leaves = jax.tree.leaves(state.model.params)
        finite = jnp.all(jnp.stack([jnp.isfinite(x).all() for x in leaves]))
        found = {**hits._asdict(), "finite": finite}
        if cfg.num_validation:
            last = jnp.int32(len(columns) - 1)
            held = whole.hits_on(
                learner,
                state,
                data,
                learner.settings,
                jnp.asarray(columns),
                last,
                learner.later(len(columns) - 1, batch_norm),
                of_task=samples.validated,
            )
            found["validation"] = held.class_il.sum()
        return found

    def init(key, values):
        return learner_for(values).init(key, room, put.train.shape[1])

    def report(found):
        class_il, task_il = (
            whole.accuracies(found[name], counts) for name in whole.Hits._fields
        )
        figures = metrics.figures(class_il, task_il, counts)
        if cfg.num_validation:
            held = sum(len(task.validation) for task in tasks.tasks)
            figures["validation_accuracy"] = float(found["validation"]) / held
        # What one task, or all in one run, leaves undefined is no failure.
        return {name: x for name, x in figures.items() if not np.isnan(x)}

    return sweep.Program(train, put, init, report)
