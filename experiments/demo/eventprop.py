"""EventProp in the demo: points of the Yin-Yang set, classified by whichever output neuron spikes first.

Half a minute of CPU time or less. 97.6 % of the 1,000 test points are right after the last epoch (seed 0).
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.data import yinyang
from jsnn.plot import eventprop as eventprop_figures
from jsnn.plot import figures, report
from jsnn.train import rebuild

from .. import eventprop_points as points
from .. import eventprop_yinyang as yinyang_script
from .settings import Config, finish, learn

NUM_EPOCHS = 12

TEXT = """A spike is there or not. But when a weight changes a little, the spike comes a little earlier or later, and that does have a slope. EventProp
computes it exactly, with no curve in the spike's place.

The network sees points of a plane. Each point becomes four spikes, whose times are x, y, 1 - x and 1 - y, and a fifth that always comes at the same time.
200 hidden neurons follow, and three output neurons, one for each class: yin, yang and dot. The one that spikes first is the answer. A network
without hidden neurons gets 64 % right."""


def train(cfg: Config, folder: pathlib.Path) -> report.Section:
    """Trains on the published points and shows the decision map."""
    settings = yinyang_script.Config(
        out=folder, seed=cfg.seed, epochs=cfg.epochs(NUM_EPOCHS), lr_decay=0.8
    )
    dataset = yinyang_script.load(settings)
    shown = [
        "hidden",
        "epochs",
        "batch_size",
        "learning_rate",
        "lr_decay",
        "duration",
        "dt",
        "t_max",
    ]
    config = {"seed": cfg.seed} | {name: getattr(settings, name) for name in shown}
    trainer = yinyang_script.trainer_for(settings, rebuild.shapes_of(dataset))
    run, fitted = learn(cfg, folder, trainer, dataset, config)
    coordinates, labels = dataset.test
    prediction = np.asarray(fitted.found.label)
    first = finish(run, fitted, prediction, labels)
    params = fitted.model.params
    found = points.first_spikes(settings, params, jnp.asarray(coordinates[:200]))
    rows = run.rows()
    return report.Section(
        "EventProp",
        TEXT,
        [_table(first, params, found, rows[-1]["train_seconds"])],
        _pictures(settings, params, dataset.test, prediction, found, rows),
        config,
    )


def _table(
    first: tuple[str, str], params: Any, found: dict[str, np.ndarray], seconds: float
) -> report.Table:
    hidden = np.isfinite(found["hidden"]).sum(1).mean()
    decided = np.median(found["output"].min(1))
    return report.Table(
        ("result", "value"),
        [
            first,
            ("parameters", f"{sum(p.size for p in jax.tree.leaves(params)):,}"),
            ("hidden neurons that spike, of 200", f"{hidden:.0f}"),
            ("decision after (median)", f"{decided:.1f} ms"),
            ("training time", f"{seconds:.1f} s"),
        ],
        "Inputs arrive within 30 ms; the decision is the output's first spike.",
    )


def _pictures(
    settings: Any,
    params: Any,
    test: tuple[np.ndarray, np.ndarray],
    prediction: np.ndarray,
    found: dict[str, np.ndarray],
    rows: list[dict[str, Any]],
) -> list[report.Picture]:
    coordinates, labels = test
    looked = points.look(settings, params, coordinates[:1], labels[:1])
    return [
        report.Picture(
            figures.curves(rows),
            "Left the error (loss), right the share of right answers, after each pass over the training points. Orange: the 1,000 test points, which the network never learns from.",
        ),
        report.Picture(
            eventprop_figures.decision_map(
                points.decision_map(settings, params, 81),
                coordinates[:, :2],
                labels,
                prediction,
                yinyang.CLASSES,
            ),
            "The plane that the points come from. The background is the network's answer there, a dot is a test point in the colour of its class, and mistakes are ringed. They lie at the borders.",
        ),
        report.Picture(
            eventprop_figures.first_spikes(
                found, labels[: len(found["output"])], t_end=settings.duration
            ),
            "When neurons spike first, of many points together. Left the hidden neurons; most are silent for a given point. Right the output neurons: that of the true "
            "class (orange) should be the earliest, and training has made it so.",
        ),
        report.Picture(
            eventprop_figures.adjoints(looked, dt=settings.dt),
            "Four neurons, one in each row, for one point. Left the membrane, with a stroke where the neuron spikes. Right what EventProp computes, from right to left: it jumps "
            "where the neuron spiked, and says how the error would change if the membrane (λ_V) or its input current (λ_I) were a little larger at that time.",
        ),
    ]
