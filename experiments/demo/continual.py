"""Class-incremental learning in the demo: ten digits in five tasks, with and without a memory of 200 of them.

45 seconds of CPU time, much of it compilation. 18.1 % of the 360 test images right without a memory, 87.2 % with one (seed 0);
settings are the first that were tried.
"""

import pathlib
from typing import Any

import optax
from flax import nnx

import jsnn
from jsnn import continual, data
from jsnn.continual import methods
from jsnn.continual.report import Result, summary
from jsnn.models.cil_cnn import reference_neuron
from jsnn.plot import continual as continual_figures
from jsnn.plot import report

from .settings import Config, learn

NUM_EPOCHS = 5  # of each task
TIMESTEPS = 4
BUFFER = 200
METHODS = {"naive": "no memory", "der++": f"memory of {BUFFER} digits (DER++)"}

TEXT = """The digits come in five tasks: 0 and 1 first, 8 and 9 last. Each task shows its own two digits only, and the network gets an output for each new
digit. In the end it has to tell all ten apart, and nobody says of which task a digit is.

Trained so, a network forgets. Old digits are never shown again, so to answer them never pays. The second network keeps 200 digits of all that it
has seen. It goes on seeing them, and is held to what it answered when they were stored."""


def features(rngs: nnx.Rngs) -> list[Any]:
    """Two spiking convolutions; a head that grows is put on top."""
    return [
        jsnn.Conv(1, 16, 5, init="kaiming", rngs=rngs),
        jsnn.Neurons(reference_neuron()),
        jsnn.Conv(16, 32, 3, stride=2, init="kaiming", rngs=rngs),
        jsnn.Neurons(reference_neuron()),
    ]


def result_table(found: dict[str, dict[str, Any]]) -> report.Table:
    """What each method reached."""
    rows = []
    for method, figures in found.items():
        cells = (
            METHODS[method],
            f"{100 * figures['final_accuracy']:.1f} %",
            f"{100 * figures['average_incremental_accuracy']:.1f} %",
            f"{100 * figures['forgetting']:.1f}",
            f"{100 * figures['task_il_accuracy']:.1f} %",
            f"{figures['wall_seconds']:.1f} s",
        )
        rows.append(cells)
    return report.Table(
        (
            "trained with",
            "all ten digits",
            "mean over tasks",
            "points forgotten",
            "task told",
            "time",
        ),
        rows,
        "Accuracy on the 360 test digits after the last task; its mean over the five tasks, on the digits seen by then; points that a "
        "task has lost since it was known best, on average; accuracy if the network is told which two digits it may be.",
    )


def pictures(
    results: dict[str, Result], class_names: tuple[str, ...]
) -> list[report.Picture]:
    """Accuracy over tasks, the matrix with a memory, and what is answered without one."""
    names = {"naive": "no memory", "der++": "with memory"}
    matrices = {names[m]: result.class_il for m, result in results.items()}
    naive, replay = results["naive"], results["der++"]
    return [
        report.Picture(
            continual_figures.curves(matrices, naive.counts),
            "Share of right answers over all digits seen so far, after each task. Without a memory the network forgets: of ten digits it knows two in the end.",
        ),
        report.Picture(
            continual_figures.heat_map(replay.class_il, "with memory"),
            "With a memory: share of right answers on each task (column), after each task (row). Read a column downwards: where it fades, the task is being forgotten.",
        ),
        report.Picture(
            continual_figures.prediction_histogram(
                naive.predictions, naive.labels, class_names
            ),
            "Without a memory: how often each digit is answered in the end. It says 8 or 9, the digits of the last task, whatever it sees. Strokes: how often it should be answered.",
        ),
    ]


def train(cfg: Config, folder: pathlib.Path) -> report.Section:
    """One stream, learnt without and with a memory."""
    dataset = data.load("digits")
    labels = dataset.train.labels, dataset.test.labels
    tasks = continual.parse_tasks("5x2", 10)
    stream = continual.make_stream(*labels, tasks, num_classes=10)
    config: dict[str, Any] = {
        "seed": cfg.seed,
        "epochs_per_task": cfg.epochs(NUM_EPOCHS),
        "timesteps": TIMESTEPS,
        "buffer": BUFFER,
    }
    results, found = {}, {}
    for method in METHODS:
        trainer = continual.incremental(
            dataset,
            features,
            optimizer=optax.adam(2e-3),
            method=methods.get(method),
            tasks=stream,
            batch_size=32,
            epochs_per_task=config["epochs_per_task"],
            buffer=BUFFER,
            encode=jsnn.constant(TIMESTEPS),
        )
        own = folder / method.replace("+", "p")
        run, fitted = learn(
            cfg, own, trainer, dataset, config | {"method": method}, jsnn.Schedule(50)
        )
        results[method] = continual.result(stream, fitted.rows, fitted.found)
        figures = summary(stream, fitted.rows, fitted.found)
        found[method] = run.finish(figures | {"wall_seconds": fitted.seconds})
    return report.Section(
        "Class-incremental learning",
        TEXT,
        [result_table(found)],
        pictures(results, dataset.class_names),
        config,
    )
