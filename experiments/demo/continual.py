"""Class-incremental learning in the demo: ten digits in five tasks, with and without a memory of 200 of them.

45 seconds of CPU time, much of it compilation. 18.1 % of the 360 test images right without a memory, 87.2 % with one (seed 0);
settings are the first that were tried.
"""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments.demo.settings import Config
from jsnn import continual_figures, data, report, runs
from jsnn.continual import driver, methods, metrics, spiking, stream, training
from jsnn.models.cil_cnn import cil_small_cnn

NUM_EPOCHS = 5  # of each task
TIMESTEPS = 4
BUFFER = 200
METHODS = {"naive": "no memory", "der++": f"memory of {BUFFER} digits (DER++)"}

TEXT = """The digits come in five tasks, 0 and 1 first, 8 and 9 last, and each task shows its own two only. The head of the network opens a
column for each new class. In the end the network has to tell all ten apart, without being told the task.

Trained task by task it remembers the last one: old classes are never shown again, so answering them never pays. With a memory of
200 digits, a fair sample of all seen so far, it goes on seeing a few old ones, and is held to what it answered when they were stored."""


def make_learner(method: str, image: np.ndarray) -> training.Learner:
    """Two spiking convolutions and a growing head, trained by this method."""

    def build(key, capacity):
        return cil_small_cnn(image.shape, capacity, width=16, rngs=nnx.Rngs(key))

    def network(graphdef, is_column, mode):
        return spiking.make_network(
            graphdef,
            is_column,
            num_steps=TIMESTEPS,
            read_out="current",
            batch_norm=mode,
        )

    return training.learner(
        build,
        network,
        methods.get(method),
        optax.adam(2e-3),
        image=image,
        batch_size=32,
        buffer_size=BUFFER,
    )


def result_table(results: dict[str, driver.Result]) -> report.Table:
    """What each method reached."""
    rows = []
    for method, result in results.items():
        found = metrics.summary(result.class_il, result.task_il, result.counts)
        cells = (
            METHODS[method],
            f"{100 * found['final_accuracy']:.1f} %",
            f"{100 * found['average_incremental_accuracy']:.1f} %",
            f"{100 * found['forgetting']:.1f}",
            f"{100 * found['task_il_accuracy']:.1f} %",
            f"{result.seconds:.1f} s",
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
    results: dict[str, driver.Result], class_names: tuple[str, ...]
) -> list[report.Picture]:
    """Accuracy over tasks, the matrix with a memory, and what is answered without one."""
    names = {"naive": "no memory", "der++": "with memory"}
    matrices = {names[m]: result.class_il for m, result in results.items()}
    naive, replay = results["naive"], results["der++"]
    return [
        report.Picture(
            continual_figures.curves(matrices, naive.counts),
            "Accuracy over all digits seen so far, after each task.",
        ),
        report.Picture(
            continual_figures.heat_map(replay.class_il, "with memory"),
            "Accuracy on each task after each task, with a memory.",
        ),
        report.Picture(
            continual_figures.prediction_histogram(
                naive.predictions, naive.labels, class_names
            ),
            "What the network without a memory answers in the end: the classes of the last task.",
        ),
    ]


def train(cfg: Config, folder: pathlib.Path) -> report.Section:
    """One stream, learnt without and with a memory."""
    dataset = data.load("digits")
    tasks = stream.make_stream(
        dataset.train.labels,
        dataset.test.labels,
        stream.parse_tasks("5x2", 10),
        num_classes=10,
    )
    config: dict[str, Any] = {
        "seed": cfg.seed,
        "epochs_per_task": cfg.epochs(NUM_EPOCHS),
        "timesteps": TIMESTEPS,
        "buffer": BUFFER,
    }
    drive = functools.partial(
        driver.drive_stream,
        key=jax.random.key(cfg.seed),
        stream=tasks,
        train=dataset.train,
        test=dataset.test,
        schedule=driver.Schedule(config["epochs_per_task"]),
        progress=cfg.progress,
    )
    results = {}
    for method in METHODS:
        learner = make_learner(method, dataset.train.images[0])
        own = folder / method.replace("+", "p")
        run = runs.Run(own, experiment="demo", config=config | {"method": method})
        results[method] = drive(run, learner)
        found = results[method]
        summary = metrics.summary(found.class_il, found.task_il, found.counts)
        summary["test_accuracy"] = summary["final_accuracy"]
        run.finish(summary | {"wall_seconds": found.seconds})
    return report.Section(
        "Class-incremental learning",
        TEXT,
        [result_table(results)],
        pictures(results, dataset.class_names),
        config,
    )
