"""Figures and tables of `experiments.stdp_mnist`: features, spikes of every layer, confusion, the history of R-STDP."""

import csv
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn import figures, metrics, runs, stdp_figures
from jsnn.models import stdp, stdp_network, stdp_steps, stdp_training
from jsnn.stdp import layer

if TYPE_CHECKING:
    from experiments.stdp_mnist import Config, Prepared


def spikes_of(
    network: stdp.Network, weights: tuple[stdp_network.Weights, ...], times: np.ndarray
) -> dict[str, np.ndarray]:
    """First-spike maps of every layer with a threshold for one image, before pooling; `times` is the first block's input."""
    num_steps = network.frontend().num_steps
    found = {"filters": times}
    inputs = jnp.asarray(times)
    blocks = zip(network.blocks, weights, stdp_steps.names(network), strict=False)
    for number, (block, of_block, names) in enumerate(blocks):
        for spec, w, name in zip(block.branches, of_block, names, strict=True):
            found[name] = np.asarray(layer.fire(spec, w, inputs, num_steps))
        if number + 1 < len(network.blocks):
            above = network.blocks[number + 1].branches[0]
            fired = stdp_network.fire(block, of_block, inputs, num_steps)
            inputs = layer.pooled(above, fired, num_steps)
    return found


def draw(
    cfg: "Config",
    run: runs.Run,
    state: stdp_steps.State,
    prepared: "Prepared",
    decided: stdp_network.Decided,
) -> dict[str, Any]:
    """All figures by the name of their file."""
    network = cfg.network()
    matrix = metrics.confusion_matrix(
        decided.prediction, prepared.test.labels, len(prepared.class_names)
    )
    sample = int(np.argmax(decided.prediction == prepared.test.labels))
    image, times = prepared.images[sample], prepared.test.times[sample]
    maps = spikes_of(network, state.weights, times)
    rows = run.rows()
    found = {
        "convergence": stdp_figures.convergence(rows),
        "confusion": figures.confusion(matrix, prepared.class_names),
        "activation_maps": stdp_figures.activation_maps(
            maps, network.frontend().num_steps, image=image.mean(-1)
        ),
    }
    if network.decision:
        found["history"] = figures.curves(rows)
    initial = stdp_training.initial_weights(jax.random.key(cfg.seed), network)
    fields = stdp_network.fields(network, state.weights, initial)
    won = stdp_network.have_won(initial, state.weights)
    blocks = zip(
        stdp_steps.names(network), fields, won, stdp.stages(network), strict=True
    )
    for of_block in blocks:
        for name, images, has_won, spec in zip(*of_block, strict=True):
            options: dict[str, Any] = {"title": f"{name}: what its features look for"}
            options["won"] = has_won
            if isinstance(spec, layer.Decision):
                options |= {
                    "columns": spec.features // spec.classes,
                    "row_names": prepared.class_names,
                    "scale": "common",
                }
            found[f"features_{name.replace(' ', '_')}"] = stdp_figures.features(
                images, **options
            )
    return found


def write_history(run: runs.Run) -> None:
    """R-STDP's history, one line an epoch, in the original's columns and validation in place of test."""
    rows = [r for r in run.rows() if r["layer"] == "decision"]
    epochs: dict[int, dict[str, Any]] = {}
    for row in rows:
        number = int(np.ceil(row["epoch"]))
        epoch = epochs.setdefault(number, {"train": []})
        if row["split"] == "train":
            epoch["train"].append((row["accuracy"], row["loss"]))
        else:
            epoch["validation"] = (row["accuracy"], row["loss"])
    with (run.out / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["epoch", "train_acc", "train_loss", "validation_acc", "validation_loss"]
        )
        for number, epoch in epochs.items():
            means = np.mean(epoch["train"], axis=0).tolist()
            writer.writerow([number, *means, *epoch.get("validation", ("", ""))])


def write_figures(cfg: "Config", run: runs.Run, drawn: dict[str, Any]) -> None:
    """As PNG, and in TensorBoard on request."""
    figures.save_all(drawn, run.out, dpi=100)
    if cfg.tensorboard:
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(run.out / "tensorboard" / "figures")) as writer:
            for name, figure in drawn.items():
                writer.add_figure(name, figure, close=False)
