"""Predicts with a trained model: classes and scores of images or of an .npz file, and a picture of the spikes.

    python -m experiments.predict --run runs/fast --out predicted --images a.png b.png
    python -m experiments.predict --run runs/fast --out predicted --data mine.npz
    python -m experiments.predict --nir cnn.nir --dt 0.001 --out predicted --data recordings.npz

It takes the run folder of any training script, or a model that `Fitted.save` made of one. The file holds `inputs`, and `labels` if the
accuracy is wanted; of a file with `test_inputs` these are predicted, with `test_labels`. `--out` then holds predictions.csv, raster.png
and, with labels, summary.json. Of a run of several seeds it is the model of the first. With `--nir` it is a network of another tool, see
docs/exchange.md; the file holds recordings.
"""

import csv
import dataclasses
import io
import pathlib
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

import jsnn
from jsnn import data
from jsnn.data import event_files, events
from jsnn.plot import figures
from jsnn.train import inputs, rebuild, runs

from . import cli, flags, nir_networks, predict_pictures, rules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PRINTED, _BEST = 20, 3
_PIXELS = {1: "L", 3: "RGB"}  # PIL's modes by number of channels


@dataclasses.dataclass(frozen=True)
class Config(cli.Checked):
    """Predictions of a trained model."""

    of: ClassVar = rules.PREDICT

    out: pathlib.Path
    """Folder for predictions.csv, raster.png and summary.json."""
    run: pathlib.Path | None = None
    """Folder of a finished run, or a .safetensors file that was saved from one."""
    images: tuple[pathlib.Path, ...] = ()
    """Image files, for a model of images; they are brought to its channels (grey or colour)."""
    data: pathlib.Path | None = None
    """In place of --images: an .npz file with `inputs` of the shape that the model was trained on, and `labels` if there are any; or of recordings."""
    resize: bool = False
    """Bring image files of another size to that of the model, bilinearly."""
    nir: pathlib.Path | None = None
    """In place of --run: a NIR graph, which is run on the recordings of --data. It needs --dt."""
    dt: flags.Positive | None = None
    """NIR: length of a step, in seconds."""
    convention: Literal["norse", "snntorch", "sinabs", "exact"] = "norse"
    """NIR: how its equations become steps, as in that simulator; exact solves them for an input that is held over a step."""
    reset: Literal["v_reset", "subtract"] | None = None
    """NIR: a spike sets the membrane to v_reset, or lowers it by the threshold; as in --convention if omitted."""
    spikes_a_step: Literal["one", "several"] | None = None
    """NIR: spikes that a neuron may give in a step; several need a reset that subtracts; as in --convention if omitted."""
    floor: Literal["none", "threshold"] | None = None
    """NIR: whether membranes without leak stay above minus the threshold; as in --convention if omitted."""
    timesteps: flags.Count | None = None
    """NIR: steps that are run; as many as the longest recording has if omitted."""

    def __post_init__(self):
        super().__post_init__()
        if (self.run is None) == (self.nir is None):
            raise ValueError("Pass either `--run` or `--nir`.")
        if self.nir is not None and (self.dt is None or self.data is None):
            raise ValueError(
                "`--nir` needs `--dt`, a time in seconds, and `--data`, an .npz file of recordings."
            )
        if bool(self.images) == (self.data is not None):
            raise ValueError("Pass either `--images` or `--data`.")


class Inputs(NamedTuple):
    """What is predicted."""

    values: np.ndarray
    labels: np.ndarray | None
    names: list[str]
    done: list[str]  # what was done to bring them to the model's shape and type


def read_images(
    paths: tuple[pathlib.Path, ...], shape: tuple[int, ...], resize: bool
) -> Inputs:
    """Image files as bytes `[N, H, W, C]`.

    Raises:
      ValueError: if the model takes no images, a file is none, or its size differs and `resize` is off.
    """
    if len(shape) != 3 or shape[2] not in _PIXELS:
        raise ValueError(
            f"`--images` needs a model of grey or colour images, but this one was trained on inputs of shape {shape}: pass `--data` instead."
        )
    height, width, channels = shape
    found, done = [], []
    for path in paths:
        image, changes = _opened(path), []
        if image.size != (width, height):
            if not resize:
                raise ValueError(
                    f"{path} has {image.height} x {image.width} pixels, but the model takes {height} x {width}: pass `--resize`, or cut it to that size."
                )
            changes.append(f"{image.height} x {image.width} pixels resized")
        if image.mode != _PIXELS[channels]:
            kind = "grey" if channels == 1 else "colour"
            changes.append(f"{image.mode} made {kind}")
        image = image.convert(_PIXELS[channels]).resize((width, height), 2)
        found.append(np.asarray(image).reshape(shape))
        if changes:
            done.append(f"{path}: {', '.join(changes)}")
    return Inputs(np.stack(found), None, [str(path) for path in paths], done)


def _opened(path: pathlib.Path) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path}.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}).") from error
    if image.mode[0] in "IF":
        raise ValueError(
            f"{path} has pixels of more than 8 bits (mode {image.mode}): save it with 8."
        )
    return image


def read_file(path: pathlib.Path, num_classes: int) -> Inputs:
    """Inputs of an .npz file, with their labels if it has any.

    Raises:
      DataError: if it is none, or holds no inputs.
      ValueError: if labels do not fit.
    """
    stored = data.read_arrays(path)
    kind = "test_" if "test_inputs" in stored else ""
    if f"{kind}inputs" not in stored:
        raise data.DataError(
            f"{path} must hold `inputs`; it holds {', '.join(sorted(stored)) or 'nothing'}."
        )
    values, labels = stored[f"{kind}inputs"], stored.get(f"{kind}labels")
    if not values.ndim or not len(values):
        raise ValueError(
            f"The inputs of {path} must be [N, ...] with at least one sample, got shape {values.shape}."
        )
    if labels is not None:
        labels = data.check_labels(f"{kind}labels", labels, num_classes)
        if len(labels) != len(values):
            raise ValueError(
                f"{path} holds {len(values)} inputs but {len(labels)} labels: give each input one."
            )
    names = [str(number) for number in range(len(values))]
    done = [f"{path}: its `test_inputs` are predicted"] if kind else []
    return Inputs(values, labels, names, done)


def read_recordings(path: pathlib.Path, model: rebuild.Made) -> Inputs:
    """Recordings of an .npz file, for a model of recordings: `inputs` packed as rows, or `x`, `y`, `p`, `t_us` and `offsets`.

    Raises:
      DataError: if it holds neither.
      ValueError: if they do not fit the model's sensor.
    """
    sensor, keys = model.shapes.sensor, data.read_arrays(path)
    assert sensor is not None, "recordings have a sensor"
    if "x" not in keys and "test_x" not in keys:
        found = read_file(path, model.shapes.num_classes)
        if found.values.ndim != 3 or found.values.shape[2] != 2 or found.values.dtype.kind != "i":  # fmt: skip
            raise ValueError(
                f"The model takes recordings [N, L, 2], whole numbers as `jsnn.data.events.pack` makes them, got {found.values.dtype} of shape {found.values.shape}."
            )
        return found._replace(values=found.values.astype(np.int32))
    split = "test" if "test_x" in keys else ""
    recordings, labels = event_files.read_events(path, split=split, sensor=sensor)
    rows = events.pack(recordings)
    if labels is not None:
        labels = data.check_labels("label", labels, model.shapes.num_classes)
    return Inputs(rows, labels, [str(number) for number in range(len(rows))], [])


def fitting(found: Inputs, model: rebuild.Made) -> Inputs:
    """The same in the shape and type that the model was trained on.

    Raises:
      ValueError: if they cannot be brought to it.
    """
    done, frames = list(found.done), model.frames
    x = inputs.shaped(found.values, model.shapes.inputs, any_length=frames)
    trained, bad = np.dtype(model.shapes.dtype), x.dtype.kind not in "biuf"
    if bad or not np.isfinite(x).all():
        raise ValueError("The inputs must be finite numbers, without NaN.")
    if frames:  # taken as they are
        return found._replace(values=x)
    low, high = x.min(), x.max()
    if trained == np.uint8 and x.dtype.kind == "f" and 0 <= low <= high <= 1:
        x, high = np.round(255 * x), 255
        done.append("values in [0, 1] scaled to 0..255")
    elif (trained.kind == "f") != (x.dtype.kind == "f") or (trained == np.uint8 and (low < 0 or high > 255)):  # fmt: skip
        raise ValueError(
            f"The model was trained on {trained} inputs, got {x.dtype} from {low:g} to {high:g}: convert them to the same type and scale."
        )
    return found._replace(values=x.astype(trained), done=done)


def accuracy(made: rebuild.Made, label: np.ndarray, labels: np.ndarray) -> float:
    """As the run itself counts: where classes share outputs, the right output is enough."""
    if getattr(made.config, "scenario", "class") == "domain":
        cfg, none = dataclasses.replace(made.config, num_validation=0), label[:0]
        tasks = made.script.make_stream(cfg, none, none, made.shapes.num_classes)
        label, labels = tasks.column_of[label], tasks.column_of[labels]
    return float((label == labels).mean())


def _table(names: list[str], found: jsnn.Prediction) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    count = found.scores.shape[1]
    writer.writerow(["index", "prediction", *(f"score_{c}" for c in range(count))])
    for number, (label, scores) in enumerate(zip(*found, strict=True)):
        writer.writerow([number, int(label), *(f"{s:.7g}" for s in scores)])
    return text.getvalue()


def _show(names: list[str], found: jsnn.Prediction) -> None:
    """The class and the best scores of the first samples."""
    for name, label, scores in list(zip(names, *found, strict=True))[:_PRINTED]:
        best = np.argsort(-scores, kind="stable")[:_BEST]
        ranks = ", ".join(f"{c}: {scores[c]:.4g}" for c in best)
        said = f"class {label}" if label >= 0 else "no class, the network is silent"
        print(f"{name}  {said}  (scores {ranks})")
    if (more := len(names) - _PRINTED) > 0:
        print(f"and {more:,} more in predictions.csv")


class _OfRun:
    """The model of a run and what it predicts: everything is checked when it is made."""

    def __init__(self, cfg: Config):
        assert cfg.run is not None, "checked"
        if not cfg.run.exists():
            raise ValueError(
                f"`--run {cfg.run}` does not exist. Name the `--out` of a finished run, or a saved model."
            )
        self.fitted = jsnn.load(cfg.run)
        made = self.made = rebuild.made_by(cfg.run, self.fitted.about)
        if cfg.data is None:
            found = read_images(cfg.images, made.shapes.inputs, cfg.resize)
            if made.shapes.dtype != "uint8":
                scaled = found.values.astype(np.float32) / 255
                found = found._replace(values=scaled, done=[*found.done, "bytes scaled to [0, 1]"])  # fmt: skip
            found = fitting(found, made)
        elif made.shapes.sensor is not None:
            found = read_recordings(cfg.data, made)
        else:
            found = fitting(read_file(cfg.data, made.shapes.num_classes), made)
        self.values, self.labels, self.names, done = found
        for line in done:
            print(line)
        self.about = {"run": str(cfg.run), "run_experiment": made.name}

    def predict(self) -> jsnn.Prediction:
        return self.fitted.predict(self.values)

    def picture(self) -> "Figure":
        first = jnp.asarray(self.values[:1])
        return predict_pictures.PICTURES[self.made.name](
            self.made, self.fitted.model, first
        )


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Predicts, prints, and writes everything to `cfg.out`."""
    job = _OfRun(cfg) if cfg.nir is None else nir_networks.Job(cfg)
    run = runs.Run(cfg.out, experiment="predict", config=cli.decisive(cfg))
    said = job.predict()
    _show(job.names, said)
    run.write("predictions.csv", _table(job.names, said))
    figures.save_all({"raster": job.picture()}, cfg.out)
    summary: dict[str, Any] = job.about | {
        "dataset": None if cfg.data is None else cfg.data.stem,
        "samples": len(job.names),
        "silent": int((said.label < 0).sum()),
    }
    if job.labels is None:
        return summary
    label = np.asarray(said.label)
    right = accuracy(job.made, label, job.labels) if isinstance(job, _OfRun) else float((label == job.labels).mean())  # fmt: skip
    return run.finish(summary | {"test_accuracy": right})


if __name__ == "__main__":
    cli.run(Config, main)
