"""Many runs of an experiment in one compiled program: grids or random samples of its flags, over seeds.

    python -m experiments.sweep --out runs/sweep --experiment csnn_mnist --set data digits --set epochs 5 --log-range learning-rate 1e-4 1e-1 8 --seeds 4
    python -m experiments.sweep --out runs/random --experiment csnn_mnist --set data digits --log-range learning-rate 1e-4 1e-1 --linear-range beta 0.3 0.95 --samples 20
    python -m experiments.sweep --out runs/stdp --experiment stdp_mnist --set data digits --set epochs 2 4 4 --vary ltp 0.002 0.004 --seeds 3
    python -m experiments.sweep --out runs/der --experiment cil_cifar10 --set data digits --set method der --vary match.alpha 0.1 0.3 --seeds 2

`--set FLAG VALUE` is the same in all runs, `--vary FLAG VALUE VALUE ...` one run each; ranges name a flag, the lowest and the highest value
and how many. Flags and values are those of the experiment, and it checks them; what it switches on and off takes True or False. All four may be repeated.

Flags that are numbers within a program (see each experiment's SWEPT) share one compilation; others, such as `timesteps`, get one
each. A name with a dot is a weight among the `--settings` of a class-incremental method. table.csv and table.jsonl hold one row per run, summary.csv the mean over seeds with its 95 % interval, and a PNG draws it.
"""

import csv
import dataclasses
import importlib
import io
import json
import pathlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, ClassVar, Literal

import jax
import numpy as np
import tyro

from jsnn.plot import figures
from jsnn.plot import sweep as sweep_figures
from jsnn.train import search, sweep
from jsnn.train.runs import Run

from . import cli, flags, rules

Experiment = Literal[
    "csnn_mnist",
    "eventprop_mnist",
    "eventprop_yinyang",
    "stdp_mnist",
    "cil_cifar10",
    "events",
    "sound",
]
_SMALL_IS_GOOD = ("loss", "forgetting", "silent")
# What a sweep sets itself, or what has no effect in one.
_OWN = {"seed", "seeds", "seeds_at_once", "log_every", "eval_every", *cli.FREE}
_OWN |= {"patience", "reuse"}
Texts = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
Ranges = tyro.conf.UseAppendAction[
    tuple[tuple[str, float, float, int] | tuple[str, float, float], ...]
]


@dataclasses.dataclass(frozen=True)
class Config(cli.Checked):
    """Sweeps flags of an experiment."""

    of: ClassVar = rules.SWEEP

    out: pathlib.Path
    """Folder for tables, figure and finished chunks."""
    experiment: Experiment
    """Whose flags are varied."""
    set: Texts = ()
    """A flag that is the same in all runs, and its value or values: --set data digits --set epochs 2 4 20."""
    vary: Texts = ()
    """A flag and the values it takes: --vary surrogate arctan sigmoid."""
    log_range: Ranges = ()
    """A flag, the lowest and the highest value, and how many, evenly spaced in the logarithm: --log-range learning-rate 1e-4 1e-1 8."""
    linear_range: Ranges = ()
    """A flag, the lowest and the highest value, and how many, evenly spaced: --linear-range beta 0.5 0.9 5."""
    seeds: flags.Count = 1
    """Runs of each setting, with seeds 0, 1, ..."""
    samples: flags.Natural = 0
    """Random settings instead of the whole grid; ranges then need no number of values."""
    metric: str | None = None
    """What the figure shows and the best setting is chosen by; if omitted, the accuracy on images held out (--set num-validation N), or else on
    the test set, which the summary then says: best_by_test_learning_rate."""
    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""
    chunk: flags.Count | None = None
    """Runs at a time; as many as fit memory if omitted."""
    at_once: flags.Count | None = None
    """Of the runs on one device, how many are vmapped while the others wait; all on an accelerator, 1 on a CPU if omitted."""
    resume: bool = False
    """Go on with the sweep in --out; finished chunks are not run again."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self):
        super().__post_init__()
        self.check_needs()


Values = dict[str, tuple[Any, ...]]  # of flags, by their full names


def known(module: ModuleType) -> dict[str, str]:
    """What a sweep may set, by full and old names: not where a run writes and how it is shown, and seeds are the sweep's own."""
    fields = {f.name for f in dataclasses.fields(module.Config)} - _OWN
    names = {name: name for name in sorted(fields | {*module.SWEPT})}
    old = {"lr": "learning_rate"} | dict(module.Config.of.renamed)
    return {k: v for k, v in old.items() if v in names} | names


def named(module: ModuleType, given: Iterable[tuple[Any, ...]], option: str) -> Values:
    """Flags and their values, in which each flag is named once.

    Raises:
      ValueError: if one is unknown, has no value, or is named twice.
    """
    names, found = known(module), {}
    for text, *values in given:
        name = names.get(text.replace("-", "_"))
        if name is None:
            raise ValueError(
                f"`{option}` names {text!r}, which is no flag of this experiment that a sweep may set. Its flags are {', '.join(dict.fromkeys(names.values()))}."
            )
        if name in found:
            raise ValueError(
                f"`{option}` names {name!r} twice, once as {text!r}: keep one."
            )
        if not values:
            raise ValueError(f"`{option} {text}` names no value.")
        found[name] = tuple(values)
    return found


def axes(cfg: Config, module: ModuleType) -> list[search.Axis]:
    """What is varied."""
    ranges: list[tuple[Any, Any]]
    ranges = [(search.logarithmic, r) for r in cfg.log_range]
    ranges += [(search.linear, r) for r in cfg.linear_range]
    varied = [*cfg.vary, *(r for _, r in ranges)]
    names = [*named(module, varied, "--vary")]
    found = [search.Axis(n, x[1:]) for n, x in zip(names, cfg.vary, strict=False)]
    for name, (make, ends) in zip(names[len(found) :], ranges, strict=True):
        found.append(make(name, *ends[1:]))
    return found


def _text(value: Any) -> str:
    """A value as it is typed: a whole one of a range without its point."""
    whole = isinstance(value, float) and value == int(value)
    return str(int(value) if whole else value)


def parse(module: ModuleType, values: Values) -> Any:
    """The experiment's config with these flags, parsed and checked as its own command line is.

    Raises:
      ValueError: with the one line in which it refuses them.
    """
    weights = [f"{name}={x[0]}" for name, x in values.items() if "." in name]
    plain = {name: x for name, x in values.items() if "." not in name}
    if weights:
        plain["settings"] = (*plain.get("settings", ()), *weights)
    settings = [text.partition("=")[0] for text in plain.get("settings", ())]
    if twice := {name for name in settings if settings.count(name) > 1}:
        raise ValueError(f"{min(twice)!r} is named twice: keep one.")
    args = ["--out", "unused"]
    for name, x in plain.items():
        args += [flags.name(name), *map(_text, x)]
    found = cli.parse(module.Config, args, markers=(tyro.conf.FlagConversionOff,))
    found.check_needs()
    return found


def _typed(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A member's values as the config has them, and weights of its method."""
    return {n: float(x) if "." in n else getattr(config, n) for n, x in values.items()}


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of all rows: which metrics a run has may depend on its flags."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


Group = tuple[dict[str, Any], Any, list[search.Member]]


def groups(cfg: Config, module: ModuleType) -> list[Group]:
    """All runs, by the program that they share: what it has fixed, its config, and its members."""
    fixed = named(module, cfg.set, "--set")
    varied, seeds = axes(cfg, module), range(cfg.seeds)
    if both := fixed.keys() & {axis.name for axis in varied}:
        raise ValueError(f"{min(both)!r} is both in `--vary` and in `--set`.")
    if cfg.data_dir is not None:
        if "data_dir" not in {f.name for f in dataclasses.fields(module.Config)}:
            raise ValueError(
                f"`--data-dir {cfg.data_dir}` would do nothing: this experiment draws its data. Leave it out."
            )
        fixed["data_dir"] = (str(cfg.data_dir),)
    if cfg.samples:
        runs = search.sample(varied, seeds, cfg.samples)
    else:
        runs = search.grid(varied, seeds)
    found: dict[str, Group] = {}
    config: Any = None
    last = None
    for member in runs:
        if member.values != last:  # seeds vary fastest
            last = member.values
            config = parse(module, fixed | {n: (x,) for n, x in last.items()})
        own, numbers = sweep.split(
            member._replace(values=_typed(config, member.values)), module.SWEPT
        )
        found.setdefault(repr(own), (own, config, []))[2].append(numbers)
    return list(found.values())


def main(cfg: Config) -> dict[str, Any]:
    """Runs the sweep and writes its tables and figure to `cfg.out`."""
    module = importlib.import_module(f".{cfg.experiment}", __package__)
    found, lone = groups(cfg, module), None
    for _, config, members in found:
        program = module.program(config)
        _check(cfg, program, members[0])
        # The only program keeps its data; those of several might not fit memory together.
        lone = program if len(found) == 1 else None
    run = Run(cfg.out, experiment="sweep", config=cli.decisive(cfg), resume=cfg.resume)
    work = [
        (own, lambda config=config: lone or module.program(config), members)
        for own, config, members in found
    ]
    rows = sweep.drive(
        run, work, chunk=cfg.chunk, at_once=cfg.at_once, progress=cfg.progress
    )
    return finish(cfg, run, rows, [axis.name for axis in axes(cfg, module)])


def _check(cfg: Config, program: sweep.Program, member: search.Member) -> None:
    """Refuses a chunk or a metric that cannot be, before the folder is made and anything is compiled."""
    each = -(-(cfg.chunk or 1) // jax.local_device_count())
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
    sign = -1 if any(word in metric for word in _SMALL_IS_GOOD) else 1
    best = max(table, key=lambda row: np.nan_to_num(sign * row[metric], nan=-np.inf))
    failed = sum(row["failed"] for row in rows)
    result = run.finish(
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
    figures.save_all({"sweep": figure}, cfg.out)
    return result


if __name__ == "__main__":
    cli.run(Config, main)
