"""Many runs of an experiment in one compiled program: grids or random samples of its flags, over seeds.

    python -m experiments.sweep --out runs/sweep --experiment csnn_mnist --set data=digits epochs=5 --vary lr=log:1e-4:1e-1:8 --seeds 4
    python -m experiments.sweep --out runs/random --experiment csnn_mnist --set data=digits --vary lr=log:1e-4:1e-1 beta=lin:0.3:0.95 --samples 20
    python -m experiments.sweep --out runs/stdp --experiment stdp_mnist --set data=digits epochs=2,4,4 --vary ltp=log:1e-3:1e-2:3 --seeds 3
    python -m experiments.sweep --out runs/der --experiment cil_cifar10 --set data=digits method=der --vary match.alpha=0.1,0.3 --seeds 2

Flags that are numbers within a program (see each experiment's SWEPT) share one compilation; others, such as `timesteps`, get one
each. A name with a dot is a weight among the `--settings` of a class-incremental method. table.csv and table.jsonl hold one row per run, summary.csv the mean over seeds with its 95 % interval, and a PNG draws it.
"""

import csv
import dataclasses
import importlib
import io
import json
import pathlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np

from experiments import cli, rules
from experiments import flags as flag_checks
from jsnn.plot import figures
from jsnn.plot import sweep as sweep_figures
from jsnn.train import search, sweep
from jsnn.train.runs import Run

Experiment = Literal[
    "csnn_mnist", "eventprop_mnist", "eventprop_yinyang", "stdp_mnist", "cil_cifar10"
]
ALIASES = {"lr": "learning_rate"}
_SMALL_IS_GOOD = ("loss", "forgetting", "silent")
# What a sweep sets itself, or what has no effect in one.
_OWN = {"seed", "seeds", "seeds_at_once", "log_every", "eval_every", *cli.FREE}
_OWN |= {"patience", "reuse"}
_TRUTH: dict[str, bool] = dict.fromkeys(("true", "yes", "on", "1"), True)
_TRUTH |= dict.fromkeys(("false", "no", "off", "0"), False)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sweeps flags of an experiment."""

    out: pathlib.Path
    """Folder for tables, figure and finished chunks."""
    experiment: Experiment
    """Whose flags are varied."""
    vary: tuple[str, ...] = ()
    """Flags and what they take: lr=log:1e-4:1e-1:8, beta=lin:0.5:0.9:5, or surrogate=arctan,sigmoid."""
    set: tuple[str, ...] = ()
    """Flags that are the same in all runs: data=digits epochs=5; of those that take several values, epochs=2,4,20."""
    seeds: int = 1
    """Runs of each setting, with seeds 0, 1, ..."""
    samples: int = 0
    """Random settings instead of the whole grid; ranges then need no count."""
    metric: str | None = None
    """What the figure shows and the best setting is chosen by; if omitted, the accuracy on images held out (--set num_validation=N), or else on
    the test set, which the summary then says: best_by_test_lr."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    chunk: int | None = None
    """Runs at a time; as many as fit memory if omitted."""
    at_once: int | None = None
    """Of the runs on one device, how many are vmapped while the others wait; all on an accelerator, 1 on a CPU if omitted."""
    resume: bool = False
    """Go on with the sweep in --out; finished chunks are not run again."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self):
        flag_checks.check_all(self, rules.SWEEP)


def _settings(texts: Sequence[str], several: set[str]) -> dict[str, Any]:
    """`--set`: one value each, and a tuple for flags that take several."""
    found = {}
    for text in texts:
        axis = search.parse(text)
        if axis.name in found:
            raise ValueError(f"`--set` names {axis.name!r} twice: name it once.")
        if axis.name in several and axis.values:
            found[axis.name] = axis.values
        elif len(axis.values) != 1:
            raise ValueError(f"`--set` takes one value each, got {text!r}.")
        else:
            found[axis.name] = axis.values[0]
    return found


def flags(module: ModuleType) -> set[str]:
    """What a sweep may set: not where a run writes and how it is shown, and seeds are the sweep's own."""
    return {f.name for f in dataclasses.fields(module.Config)} - _OWN | {*module.SWEPT}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """A flag's type, and what it is the union of."""
    return hint, *get_args(hint)


def _several(config: type) -> set[str]:
    """Flags that take several values."""
    hints = get_type_hints(config).items()
    return {n for n, hint in hints if any(get_origin(k) is tuple for k in _kinds(hint))}


def _named(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The same under the flags' full names."""
    found = {}
    for short, value in values.items():
        name = short if short in known else ALIASES.get(short, short)
        if name in found:
            raise ValueError(f"{name!r} is named twice, once as {short!r}: keep one.")
        found[name] = value
    return found


def _typed(config: type, values: dict[str, Any]) -> dict[str, Any]:
    """The same as the flags' types have them: a sweep's text does not say whether 1 is a number, a truth value or a word."""
    hints = get_type_hints(config)
    return {
        name: _as(name, value, flag_checks.kinds(hints[name]))
        if name in hints
        else value
        for name, value in values.items()
    }


def _as(name: str, value: Any, kinds: Sequence[Any]) -> Any:
    """One value as one of these types."""
    if isinstance(value, tuple):
        return tuple(_as(name, x, kinds) for x in value)
    word = str(value).lower()
    if word == "none" and type(None) in kinds:
        return None
    if bool in kinds:
        if word not in _TRUTH:
            raise ValueError(f"`{name}` must be true or false, got {value!r}.")
        return _TRUTH[word]
    if str in kinds:
        return str(value)
    if int in kinds or float in kinds:
        if isinstance(value, str | bool):
            raise ValueError(f"`{name}` must be a number, got {value!r}.")
        if float not in kinds and value != int(value):
            raise ValueError(f"`{name}` must be a whole number, got {value!r}.")
        return value if float in kinds else int(value)
    return value


def _checked(module: ModuleType, values: dict[str, Any], out: pathlib.Path) -> Any:
    """The experiment's config with these values, checked by its own rules."""
    config, fields = module.Config, flags(module)
    values = _typed(config, values)
    if unknown := values.keys() - fields:
        raise ValueError(
            f"`--vary` or `--set` names {min(unknown)!r}, which is no flag of this experiment that a sweep may set. Its flags are {', '.join(sorted(fields))}."
        )
    for name, hint in get_type_hints(config).items():
        literals = (k for k in _kinds(hint) if get_origin(k) is Literal)
        choices = [choice for literal in literals for choice in get_args(literal)]
        if choices and values.get(name, choices[0]) not in choices:
            raise ValueError(
                f"`{name}` must be one of {', '.join(choices)}, got {values[name]!r}."
            )
    for name in values.keys() & _several(config):
        if not isinstance(values[name], tuple):
            raise ValueError(
                f"`{name}` takes several values, so it is the same in all runs: --set {name}=1,2 and not --vary."
            )
    for name in values.keys() & {*module.SWEPT}:
        if isinstance(values[name], str | bool):
            raise ValueError(f"`{name}` must be a number, got {values[name]!r}.")
    weights = tuple(f"{name}={value}" for name, value in values.items() if "." in name)
    names = [w.partition("=")[0] for w in (*values.get("settings", ()), *weights)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{min(twice)!r} is named twice: keep one.")
    values = {name: value for name, value in values.items() if "." not in name}
    if weights:
        values["settings"] = (*values.get("settings", ()), *weights)
    made = config(out=out, **values)
    made.check_needs()
    return made


def _placed(config: Any, data_dir: pathlib.Path | None) -> Any:
    """The config with the sweep's data folder."""
    if data_dir is None:
        return config
    if not hasattr(config, "data_dir"):
        raise ValueError(
            f"`--data-dir {data_dir}` would do nothing: this experiment draws its data. Leave it out."
        )
    placed = dataclasses.replace(config, data_dir=data_dir)
    placed.check_needs()
    return placed


def members(cfg: Config) -> list[search.Member]:
    """All runs."""
    axes = [search.parse(text) for text in cfg.vary]
    seeds = range(cfg.seeds)
    if cfg.samples:
        return search.sample(axes, seeds, cfg.samples)
    return search.grid(axes, seeds)


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of all rows: which metrics a run has may depend on its flags."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main(cfg: Config) -> dict[str, Any]:
    """Runs the sweep and writes its tables and figure to `cfg.out`."""
    module = importlib.import_module(f"experiments.{cfg.experiment}")
    known = flags(module)
    config = module.Config
    fixed = _typed(config, _named(_settings(cfg.set, _several(config)), known))
    runs = [
        m._replace(values=_typed(config, _named(m.values, known))) for m in members(cfg)
    ]
    if both := fixed.keys() & runs[0].values.keys():
        raise ValueError(f"{min(both)!r} is both in `--vary` and in `--set`.")
    groups: dict[str, tuple[dict[str, Any], Any, list[search.Member]]] = {}
    for member in runs:
        _checked(module, fixed | member.values, cfg.out)
        own, numbers = sweep.split(member, module.SWEPT)
        config = _placed(_checked(module, fixed | own, cfg.out), cfg.data_dir)
        groups.setdefault(repr(sorted(own.items())), (own, config, []))[2].append(
            numbers
        )
    lone = None  # the only program keeps its data; those of several might not fit memory together
    for _, config, numbers in groups.values():
        program = module.program(config)
        _check(cfg, program, numbers[0])
        lone = program if len(groups) == 1 else None
    record = cli.decisive(cfg, free=("chunk", "at_once"))
    run = Run(cfg.out, experiment="sweep", config=record, resume=cfg.resume)
    work = [
        (own, lambda config=config: lone or module.program(config), numbers)
        for own, config, numbers in groups.values()
    ]
    rows = sweep.drive(
        run, work, chunk=cfg.chunk, at_once=cfg.at_once, progress=cfg.progress
    )
    return finish(cfg, run, rows, list(runs[0].values))


def _check(cfg: Config, program: sweep.Program, member: search.Member) -> None:
    """Refuses a chunk or a metric that cannot be, before the folder is made and anything is compiled."""
    if cfg.chunk is not None:
        each = -(-cfg.chunk // jax.local_device_count())
        sweep.check_memory(program, member, each, sweep.free_bytes())
    if cfg.metric is not None:
        sweep.check_metric(program, member, cfg.metric)


def finish(
    cfg: Config,
    run: Run,
    rows: list[dict[str, Any]],
    names: list[str],
) -> dict[str, Any]:
    """Writes tables, figure and summary."""
    metrics = [k for k in _columns(rows) if k not in (*names, "seed", "failed")]
    accuracies = [m for m in metrics if m.endswith("accuracy")]
    held = [m for m in accuracies if m.startswith("validation")]
    metric = cfg.metric or [*held, *accuracies][0]
    # Chosen by test images, the best is the luckiest too, and its name says so.
    best_by = "best" if metric.startswith(("validation", "train")) else "best_by_test"
    table = sweep.summarise(rows, names, metrics)
    run.write("table.csv", _csv(rows))
    run.write("table.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    run.write("summary.csv", _csv(table))
    none = {metric: float("nan"), f"{metric}_ci95": float("nan")}
    table = [none | row for row in table]
    figure = sweep_figures.draw(table, names, metric)
    figures.save_all({"sweep": figure}, cfg.out)
    sign = -1 if any(word in metric for word in _SMALL_IS_GOOD) else 1
    best = max(table, key=lambda row: np.nan_to_num(sign * row[metric], nan=-np.inf))
    failed = sum(row["failed"] for row in rows)
    return run.finish(
        {
            "swept_experiment": cfg.experiment,
            "runs": len(rows),
            "failed": failed,
            **{f"{best_by}_{name}": best[name] for name in names},
            f"{best_by}_{metric}": best[metric],
            f"{best_by}_{metric}_ci95": best[f"{metric}_ci95"],
            "wall_seconds": sum(row["run_seconds"] for row in run.rows()),
        }
    )


if __name__ == "__main__":
    cli.run(Config, main)
