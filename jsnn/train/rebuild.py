"""Trainers of the experiments' runs, built again from what was kept with them."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args, get_type_hints

from jsnn import commands
from jsnn.data import Dataset
from jsnn.train import fitted, saved
from jsnn.train.trainer import Trainer

# Nothing else is ever imported, whatever a file says.
SCRIPTS = (
    "csnn_mnist",
    "eventprop_mnist",
    "eventprop_yinyang",
    "stdp_mnist",
    "cil_cifar10",
    "events",
    "events_stdp",
    "sound",
)
MODEL = "model.safetensors"


class Shapes(NamedTuple):
    """What a trainer must know of its data."""

    inputs: tuple[int, ...]  # of one sample
    num_classes: int
    num_train: int
    dtype: str = "uint8"
    sensor: tuple[int, int] | None = None  # of event recordings: rows and columns
    rate: int | None = None  # of sound: samples a second


def shapes_of(dataset: Dataset) -> Shapes:
    """Those of a data set."""
    inputs, labels = dataset.train
    return Shapes(
        inputs.shape[1:],
        dataset.num_classes,
        len(labels),
        str(inputs.dtype),
        dataset.sensor,
        dataset.rate,
    )


def about(experiment: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """What to keep with a model, so that `trainer_of` can build its trainer again.

    Args:
      experiment: name of the script.
      config: the flags that decide the result, and none that tells where it was trained.
      shapes: of its data.
    """
    return {
        "experiment": experiment,
        "config": {name: _plain(value) for name, value in config.items()},
        "shapes": shapes._asdict(),
    }


class Made(NamedTuple):
    """How a model was trained."""

    name: str
    script: Any  # its module
    config: Any
    shapes: Shapes

    @property
    def frames(self) -> bool:
        """Whether the first axis of a sample is time."""
        return getattr(self.config, "frames", False)


def made_by(path: pathlib.Path, known: dict[str, Any]) -> Made:
    """Script, config and shapes of a model that was saved by one of the experiments.

    Raises:
      ModelError: if the model does not say how it was trained.
    """
    name = known.get("experiment")
    if name not in SCRIPTS:
        raise saved.ModelError(
            f"{path} does not say how its model was built: pass the trainer it was made by, `jsnn.load(path, trainer)`."
        )
    script = commands.script(name)
    try:
        config = _config(script.Config, script.Config.of.upgrade(known["config"]))
        shapes: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in known["shapes"].items()
        }
        return Made(name, script, config, Shapes(**shapes))
    except (KeyError, TypeError, ValueError) as error:
        raise saved.ModelError(
            f"{path} was written by another version of `{name}`, whose flags this one does not know ({error})."
        ) from error


def trainer_of(path: pathlib.Path, known: dict[str, Any]) -> Trainer:
    """The trainer of a model that was saved by one of the experiments: its script's `trainer_for(config, shapes)`."""
    made = made_by(path, known)
    return made.script.trainer_for(made.config, made.shapes)


def from_run(folder: pathlib.Path, trainer: Trainer | None) -> fitted.Fitted:
    """The model of a finished run.

    Raises:
      ModelError: if there is none.
    """
    if not (folder / MODEL).is_file():
        what = "has not finished" if (folder / "config.json").exists() else "is no run"
        raise saved.ModelError(
            f"{folder} {what}: there is no {MODEL} in it. Run its command again with --resume, or choose another folder."
        )
    return fitted.load(folder / MODEL, trainer)


def config_of(name: str, values: Mapping[str, Any]) -> Any:
    """The config of a script with flags as a run's config.json holds them.

    Raises:
      ModelError: if this version of the script does not know them.
    """
    script = commands.script(name)
    try:
        return _config(script.Config, script.Config.of.upgrade(values))
    except (KeyError, TypeError, ValueError) as error:
        raise saved.ModelError(
            f"A run of another version of `{name}`, whose flags this one does not know ({error})."
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, pathlib.Path) else value


def _config(kind: type, values: dict[str, Any]) -> Any:
    """The config with these values, which JSON knows only as text, numbers and lists."""
    hints = get_type_hints(kind)

    def typed(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(typed(name, v) for v in value)
        wants = {hints[name], *get_args(hints[name])}
        inner = {a for w in wants for a in get_args(w)}
        path = pathlib.Path in wants | inner
        return pathlib.Path(value) if path and isinstance(value, str) else value

    values = {"out": "."} | values
    return kind(**{name: typed(name, value) for name, value in values.items()})
