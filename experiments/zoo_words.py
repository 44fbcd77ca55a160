"""What the cards of the zoo say in words: of inputs, classes, data sets, and how a network was tested."""

from typing import NamedTuple

from jsnn.data import yinyang
from jsnn.train import rebuild


class Data(NamedTuple):
    """Where the data come from."""

    name: str
    source: str
    licence: str


class Words(NamedTuple):
    """Of one network."""

    inputs: str
    classes: tuple[str, ...]
    data: Data
    protocol: str
    licence: str


_SHARED_ALIKE = (
    "MIT, as the library. The data are not in it; they are under {}, whose authors want to be named, and who want the same licence for what is "
    "made of the data. Where the law takes trained weights for such a thing, these weights are under it too."
)
DATA = {
    "mnist": Data("MNIST", "Y. LeCun, C. Cortes and C. Burges, https://doi.org/10.1109/5.726791; read through TensorFlow Datasets", "CC BY-SA 3.0"),
    "nmnist": Data("N-MNIST, its first 1,000 training and 100 test recordings", "G. Orchard et al., https://doi.org/10.3389/fnins.2015.00437", "CC BY-SA 4.0"),
    "fsdd": Data("Free Spoken Digit Dataset", "Z. Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset", "CC BY-SA 4.0"),
    "yinyang": Data("Yin-Yang", "L. Kriener et al., https://arxiv.org/abs/2102.08211; drawn by jsnn.data.yinyang", "none: the points are drawn from a formula"),
    "digits": Data("digits of scikit-learn", "E. Alpaydin and C. Kaynak, https://doi.org/10.24432/C50P49", "CC BY 4.0"),
    "digits_events": Data("digits of scikit-learn as a simulated event camera sees them", "E. Alpaydin and C. Kaynak, https://doi.org/10.24432/C50P49", "CC BY 4.0"),
}  # fmt: skip
_LAST = (
    "Accuracy on the whole test set after the last epoch; no epoch was chosen by it."
)
_BEST = "A layer that learns by reward keeps the weights of its best epoch on training images held out. The whole test set was looked at once, with these."
_MACHINE = "The support vector machine is fitted to the training images after the last epoch. The whole test set was looked at once."
_STREAM = "Classes come in {}, one task after another. Accuracy over all classes after the last task; the network is not told of which task a sample is."


def _data(made: rebuild.Made) -> Data:
    name = str(getattr(made.config, "data", "yinyang")).lower()
    if made.name == "sound":
        return DATA["fsdd"]
    known = [key for key in sorted(DATA, key=len, reverse=True) if name.startswith(key)]
    unknown = Data(name, "a file of its author's own", "not known")
    return DATA[known[0]] if known else unknown


def _inputs(made: rebuild.Made) -> str:
    shapes = made.shapes
    if made.name == "eventprop_yinyang":
        return "x, y, 1 - x, 1 - y of a point, each in [0, 1]"
    if made.name == "sound":
        return f"sound, {shapes.inputs[0]:,} samples at {shapes.rate:,} Hz; zeros after its end"
    if made.name == "events":
        rows, columns = shapes.sensor or (0, 0)
        return f"recordings as jsnn.data.events.pack makes them, of a sensor with {rows} rows and {columns} columns"
    return "grey images, bytes from 0 (black) to 255 (white)"


def _protocol(made: rebuild.Made) -> str:
    cfg = made.config
    if made.name == "stdp_mnist":
        return _BEST if cfg.network().decision else _MACHINE
    if made.name == "cil_cifar10":
        many, of = (
            cfg.tasks.split("x")
            if "x" in cfg.tasks
            else (cfg.tasks.count("|") + 1, "several")
        )
        return _STREAM.format(f"{many} tasks of {of}")
    if made.name == "sound" and cfg.speaker is None and cfg.fold is None:
        return f"The authors' test set, takes 0 to 4 of each speaker and digit. {_LAST}"
    if getattr(cfg, "fold", None) is not None:
        return f"Fold {cfg.fold} of {cfg.folds} of all recordings is the test set, the others train. {_LAST}"
    return _LAST


def of(made: rebuild.Made) -> Words:
    """The words for a network."""
    data = _data(made)
    number = made.shapes.num_classes
    classes = yinyang.CLASSES if made.name == "eventprop_yinyang" else tuple(map(str, range(number)))  # fmt: skip
    licence = _SHARED_ALIKE.format(data.licence) if "SA" in data.licence else "MIT, as the library."  # fmt: skip
    return Words(_inputs(made), tuple(classes), data, _protocol(made), licence)
