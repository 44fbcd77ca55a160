"""Continual learning: classes come in tasks, one after another, and old ones must not be forgotten.

    data = jsnn.data.load("digits")
    trainer = jsnn.continual.incremental(data, "small", method="der++", optimizer=optax.adam(2e-3), tasks="5x2", buffer=200)
    fitted = jsnn.fit(trainer, data, jax.random.key(0))
    fitted.predict(images).label

`incremental` joins what can be had one by one: `make_stream` cuts a data set into tasks, `learner` joins network, method and optimiser, and
`trainer` leads a learner through a stream. A `Method` is a declaration of terms over one memory: `METHODS` has those known by name.
`result` gives the matrices of accuracies that `metrics` are made of.
"""

from jsnn.continual.course import trainer, untrained
from jsnn.continual.front import incremental
from jsnn.continual.method import Method, default_settings
from jsnn.continual.methods import METHODS
from jsnn.continual.report import Evaluations, Found, Result, result
from jsnn.continual.stream import Stream, Task, make_stream, parse_tasks
from jsnn.continual.training import Learner, learner

__all__ = [
    "METHODS",
    "Evaluations",
    "Found",
    "Learner",
    "Method",
    "Result",
    "Stream",
    "Task",
    "default_settings",
    "incremental",
    "learner",
    "make_stream",
    "parse_tasks",
    "result",
    "trainer",
    "untrained",
]
