"""A page about one run: what it reached, its pictures, and how to read each."""

import pathlib
import re
from typing import Any

from jsnn import check
from jsnn.plot.report import Picture, Section, Table, write_report
from jsnn.train import folders, runs

# Pictures that the scripts draw, in the order of the page: what each shows, and how to read it. Numbers in names count layers.
CAPTIONS = {
    "curves": "Loss and accuracy over epochs. Orange or green: samples that were held out. Where blue goes on and they do not, the network learns its training samples by heart. Blue may be worse than the others: training samples are changed at random, and neurons are left out.",
    "history": "Wrong and right decisions over epochs of learning by reward.",
    "sweep": "The metric over what was varied, as a mean over seeds.",
    "class_il": "Accuracy on each task (column) after each task (row). A column that fades downwards is a task that is forgotten.",
    "matrix": "Accuracy on each task (column) after each task (row). A column that fades downwards is a task that is forgotten.",
    "accuracy": "Accuracy over all classes seen so far, after each task.",
    "predictions": "How often each class is answered, right and wrong. A network that forgets answers the last classes.",
    "confusion": "True class by row, answer by column. Blue: right. Orange: mistakes. A dark orange field is a pair of classes that the network mixes up.",
    "recordings": "Recordings as the network sees them, cut into steps: time goes to the right. Blue cells became brighter, orange ones darker.",
    "sound": "Recordings as the network hears them, time to the right. Above the wave. Below how strong each band of pitches is: the bluer, the stronger.",
    "raster": "Spikes of one sample. A row is a neuron, a stroke a spike, time goes to the right. Blank rows are neurons with nothing to say to this sample.",
    "membranes": "Membrane potentials of a few neurons. Dashed: the threshold. Above it the neuron spikes, a stroke on top.",
    "spike_times": "When neurons spike first. The earlier, the more certain.",
    "adjoints": "Membranes run forward in time; their adjoints, which carry the gradient, run backward and jump at spikes.",
    "decision_map": "What the network makes of each point of the plane. Pale: it is not sure.",
    "convergence": "Mean of w (1 - w) of each layer. It falls to 0 as weights settle at 0 or 1: then a layer has learnt.",
    "activation_maps": "When neurons first fire for one image: the bluer, the earlier.",
    "features": "What each neuron looks for, drawn in pixels of the image: the bluer, the more its weights exceed the others.",
}
# Results in words: a fraction as percent, a number, or seconds.
_WORDS = {
    "test_accuracy": ("accuracy on the test set", "%"),
    "validation_accuracy": ("accuracy on validation samples", "%"),
    "test_loss": ("loss on the test set", ""),
    "macro_f1": ("F1, mean over classes", "%"),
    "roc_auc": ("area under the ROC curve", ""),
    "firing_rate": ("spikes of a neuron and step", ""),
    "synaptic_operations": ("synaptic operations a sample", ""),
    "forgetting": ("points of accuracy forgotten, mean over tasks", "%"),
    "average_incremental_accuracy": ("accuracy, mean over tasks", "%"),
    "samples_per_second": ("training samples a second", ""),
    "wall_seconds": ("time, with compilation", "s"),
}


def _words(name: str, value: Any) -> tuple[str, str]:
    words, unit = _WORDS.get(name, (name.replace("_", " "), ""))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return words, folders.shown(value)
    if unit == "%":
        return words, f"{100 * value:.2f} %"
    text = f"{value:,.0f}" if value >= 1000 else folders.shown(value)
    return words, f"{text} {unit}".rstrip()


def _pictures(folder: pathlib.Path) -> list[Picture]:
    """The PNG files of the folder, those that are known first."""
    order = {name: number for number, name in enumerate(CAPTIONS)}

    def known(path: pathlib.Path) -> str:
        stem = path.stem
        while stem not in order and (shorter := re.sub(r"_[^_]*$", "", stem)) != stem:
            stem = shorter
        return stem

    paths = sorted(folder.glob("*.png"), key=lambda p: (order.get(known(p), 99), p.stem))  # fmt: skip
    return [Picture(path.read_bytes(), CAPTIONS.get(known(path), path.stem.replace("_", " "))) for path in paths]  # fmt: skip


def write(folder: check.Path) -> pathlib.Path:
    """Writes `report.html` into the folder of a finished run, one file that needs no other.

    Args:
      folder: the run's.

    Returns:
      The file.

    Raises:
      RunError: if there is no finished run in the folder, or the file cannot be written.
    """
    run = folders.read(folder)
    if not run.summary:
        raise runs.RunError(
            f"{run.path} has not finished: there is no summary.json in it. Run its command again with --resume."
        )
    results = {k: v for k, v in run.summary.items() if k not in folders.PLACE and v is not None and not isinstance(v, list | dict)}  # fmt: skip
    first = [(k, results.pop(k)) for k in _WORDS if k in results]
    asked = {k: results.pop(k) for k in [*results] if k in run.config or k == "dataset"}
    tables = [Table(("result", "value"), [_words(*pair) for pair in first])]
    if results:
        rows = [_words(*pair) for pair in results.items()]
        tables.append(Table(("more", "value"), rows))
    section = Section(
        "Results",
        "Accuracy is that of the last epoch on the whole test set, unless a line says otherwise.",
        tables,
        _pictures(run.path),
        asked | run.config,
    )
    path = run.path / "report.html"
    write_report(path, f"{run.experiment}: {run.path.resolve().name}", [section], made={k: run.summary.get(k, "") for k in folders.PLACE[1:]})  # fmt: skip
    return path
