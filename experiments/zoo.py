"""Lists the networks that come with jsnn, tests one on its data, or makes an entry of a finished run.

    python -m experiments.zoo
    python -m experiments.zoo --name yinyang --check
    python -m experiments.zoo --name spoken_digits --check --data spoken.npz
    python -m experiments.zoo --name csnn_mnist --run runs/fast --into jsnn/zoo --about "Convolutional network, 4 steps."

Without flags: a table. With a name: its card. `--check` predicts the whole test set. `--run` writes weights and card into the folder
`--into`, after it has predicted the test set with what it wrote. `--others` names runs that differ in the seed or the fold: the card then
has their accuracies as well.
"""

import contextlib
import dataclasses
import pathlib
from typing import Any, ClassVar, Literal

import numpy as np

from jsnn import data, zoo
from jsnn.data import loading
from jsnn.plot.report import Table
from jsnn.train import folders, rebuild, saved
from jsnn.train.fitted import Fitted
from jsnn.train.runs import RunError
from jsnn.zoo import entries

from . import cli, common, flags, operations, zoo_words

FIRST, COUNTED = 250, 64


@dataclasses.dataclass(frozen=True)
class Config(cli.Data, cli.Checked):
    """Lists the networks that come with jsnn, tests one on its data, or makes an entry of a finished run."""

    of: ClassVar = flags.Rules(
        "zoo",
        (
            flags.Needs("check", lambda c: c.name is not None, "--name"),
            flags.Needs("data data_dir", lambda c: c.check or c.run is not None, "--check or --run"),
            flags.Needs("into about others measured storage", lambda c: c.run is not None, "--run"),
        ),
    )  # fmt: skip

    name: str | None = None
    """Entry to show, to test or to make."""
    check: bool = False
    """Predict the whole test set and compare with the card."""
    data: pathlib.Path | None = None
    """File with the data, where the network was trained on one; a data set by name is found as usual."""
    run: pathlib.Path | None = None
    """Folder of a finished run of which an entry is made."""
    into: pathlib.Path | None = None
    """Folder for the entry; in a clone jsnn/zoo."""
    about: str = ""
    """What the network is, in a sentence for the card."""
    others: tuple[pathlib.Path, ...] = ()
    """Folders of finished runs that differ in the seed or the fold alone."""
    measured: str = ""
    """What is known of more seeds, measured earlier, in words for the card, with the commit."""
    storage: Literal["float32", "float16"] = "float32"
    """Type of the numbers in the file. float16 halves it, and is refused where it changes how many test samples are right by more than 5 in 10,000."""

    def __post_init__(self):
        super().__post_init__()
        if self.run is not None and (self.name is None or self.into is None):
            raise ValueError("`--run` needs `--name` and `--into`: what the entry is called, and where it goes.")  # fmt: skip


def test_set(
    made: rebuild.Made, file: pathlib.Path | None, folder: pathlib.Path | None
) -> data.Split:
    """The samples that a model was tested on.

    Args:
      made: how it was trained.
      file: the data, where the model was trained on a file.
      folder: of TFDS data sets.

    Raises:
      DataError: if the data cannot be found.
      ValueError: if a file is needed and none was named.
    """
    cfg = made.config
    if made.name == "eventprop_yinyang":
        return made.script.points_of("test")
    if cfg.data in data.NAMES and cfg.data != "digits":
        found, _ = loading.read_splits(cfg.data, splits=("test",), data_dir=folder)
        return found["test"]
    if cfg.data not in cfg.sets:
        if file is None:
            raise ValueError(f"The network was trained on {cfg.data}: name that file with `--data`.")  # fmt: skip
        cfg = dataclasses.replace(cfg, data=str(file))
    found = made.script.load(cfg) if hasattr(made.script, "load") else common.load(cfg, 0)  # fmt: skip
    return (found[0] if isinstance(found, tuple) else found).test


def command(made: rebuild.Made) -> str:
    """What is typed to train it again: flags that differ from the defaults."""
    kind, values = type(made.config), cli.decisive(made.config)
    recipe = {"recipe": values["recipe"]} if "recipe" in values else {}
    default = dataclasses.asdict(kind(out=pathlib.Path("."), **recipe))
    plain = type(made.config)(out=pathlib.Path("."))
    kept = {k: v for k, v in values.items() if default[k] != v}
    if recipe and values["recipe"] != plain.recipe:
        kept = recipe | kept
    for name in [*kept]:  # some follow from others
        fewer = {k: v for k, v in kept.items() if k != name}
        with contextlib.suppress(ValueError):
            if cli.decisive(kind(out=pathlib.Path("."), **fewer)) == values:
                kept = fewer
    parts = [flags.shown(k, v) for k, v in kept.items()]
    return " ".join(["jsnn", made.name, *parts, "--out DIR"])


def _accuracies(runs: list[folders.Folder]) -> dict[str, Any]:
    """Of the run that is kept, which comes first, and of the others."""
    differ = folders.differing(runs) if len(runs) > 1 else ["seed"]
    wrong = set(differ) - {"seed", "fold", "data"}
    if wrong or len({run.experiment for run in runs}) > 1:
        raise ValueError(f"`--others` must differ from `--run` in the seed or the fold alone, not in {', '.join(sorted(wrong)) or 'the script'}.")  # fmt: skip
    varied = [n for n in differ if n != "data"]
    each = {
        ", ".join(f"{n} {run.config[n]}" for n in varied): float(run.summary["test_accuracy"])
        for run in runs
    }  # fmt: skip
    found = {"seed": runs[0].config["seed"], "accuracies": each}
    if len(each) > 1:
        values = np.array([*each.values()])
        found |= {"mean": float(values.mean()), "deviation": float(values.std(ddof=1))}
    return found


def _finished(path: pathlib.Path) -> folders.Folder:
    run = folders.read(path)
    if "test_accuracy" not in run.summary:
        raise RunError(f"{path} has not finished: it has no test accuracy.")
    return run


def _stored(run: pathlib.Path, path: pathlib.Path, storage: str) -> int:
    """Writes the run's model under a name that says nothing of its folders; the number of its parameters."""
    arrays, about = saved.read(run / rebuild.MODEL)
    about.pop("format")
    config = about["config"]
    if "data" in config:
        about = about | {"config": config | {"data": pathlib.Path(config["data"]).name}}
    if storage == "float16":
        arrays = {k: x.astype(np.float16) if x.dtype == np.float32 else x for k, x in arrays.items()}  # fmt: skip
    saved.write_arrays(path, arrays, about)
    return sum(x.size for x in arrays.values())


def _right(fitted: Fitted, test: data.Split) -> np.ndarray:
    return np.asarray(fitted.predict(test.images).label) == test.labels


def make(cfg: Config) -> zoo.Card:
    """Writes weights and card, and returns the card.

    Raises:
      ValueError: if float16 costs accuracy, or the other runs are of other networks.
    """
    assert cfg.run is not None, "checked"
    assert cfg.into is not None, "checked"
    assert cfg.name is not None, "checked"
    runs = [_finished(path) for path in (cfg.run, *cfg.others)]
    seeds = _accuracies(runs)
    cfg.into.mkdir(parents=True, exist_ok=True)
    path = cfg.into / f"{cfg.name}.safetensors"
    original = rebuild.from_run(cfg.run, None)
    made = rebuild.made_by(cfg.run, original.about)
    test = test_set(made, cfg.data, cfg.data_dir)
    part = path.with_name(f".{path.name}")  # an entry of this name stays until then
    parameters = _stored(cfg.run, part, cfg.storage)
    fitted = entries.read(part)
    right = _right(fitted, test)
    if cfg.storage == "float16":
        lost = abs(float(_right(original, test).mean() - right.mean()))
        if lost > 5e-4:
            part.unlink()
            raise ValueError(f"`--storage float16` changes the test accuracy by {100 * lost:.2f} points: leave it out.")  # fmt: skip
    part.replace(path)
    about, words = fitted.about, zoo_words.of(rebuild.made_by(path, fitted.about))
    card = zoo.Card(
        name=cfg.name,
        about=cfg.about,
        inputs={"shape": list(made.shapes.inputs), "dtype": str(test.images.dtype), "meaning": words.inputs},
        classes=[*words.classes],
        test_accuracy=float(right.mean()),
        test_samples=len(right),
        first={"samples": min(FIRST, len(right)), "right": int(right[:FIRST].sum())},
        run_accuracy=float(runs[0].summary["test_accuracy"]),
        protocol=words.protocol,
        seeds=seeds | ({"measured": cfg.measured} if cfg.measured else {}),
        command=command(rebuild.made_by(path, about)),
        experiment=made.name,
        commit=runs[0].about["commit"],
        versions=runs[0].about["versions"],
        device=runs[0].about["device"],
        data=words.data._asdict(),
        licence=words.licence,
        operations=operations.count(made, fitted.model, test.images[:COUNTED]) | {"samples": min(COUNTED, len(right))},
        parameters=parameters,
        storage=cfg.storage,
        bytes=path.stat().st_size,
    )  # fmt: skip
    entries.write_card(cfg.into / f"{cfg.name}.json", card)
    return card


@cli.in_flags
def main(cfg: Config) -> dict[str, Any]:
    """Prints what was asked for."""
    if cfg.run is not None:
        print(card := make(cfg))
        return {"test_accuracy": card.test_accuracy, "bytes": card.bytes}
    if cfg.name is None:
        cards = zoo.cards()
        rows = [[c.name, f"{100 * c.test_accuracy:.2f} %", f"{c.bytes / 1e6:.2f} MB", c.data["name"]] for c in cards]  # fmt: skip
        print(Table(("name", "test accuracy", "size", "trained on"), rows).text(), end="\n\n")  # fmt: skip
        for c in cards:
            print(f"{c.name}: {c.about}")
        print()
        return {"networks": len(cards), "megabytes": round(sum(c.bytes for c in cards) / 1e6, 2)}  # fmt: skip
    print(card := zoo.card(cfg.name), end="\n\n")
    if not cfg.check:
        return {"name": card.name}
    fitted = zoo.load(cfg.name)
    made = rebuild.made_by(pathlib.Path(cfg.name), fitted.about)
    right = _right(fitted, test_set(made, cfg.data, cfg.data_dir))
    return {"test_accuracy": float(right.mean()), "test_accuracy_of_the_card": card.test_accuracy}  # fmt: skip


if __name__ == "__main__":
    cli.run(Config, main)
