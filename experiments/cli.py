"""The command line every script shares: flags from the config's fields, those of several scripts, mistakes as one line instead of a traceback."""

import argparse
import contextlib
import dataclasses
import errno
import functools
import inspect
import io
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, cast

import jax
import tyro
from jax.sharding import Mesh

from jsnn import check, compilation
from jsnn import mesh as meshes
from jsnn.data import DataError
from jsnn.train import stop
from jsnn.train.checkpoint import CheckpointError
from jsnn.train.runs import RunError
from jsnn.train.saved import ModelError

from . import flags

Config = TypeVar("Config")
Precision = Literal["float32", "bfloat16"]
# Flags with old names, which stay for a release.
LearningRate = Annotated[flags.Positive, tyro.conf.arg(aliases=("--lr",))]
Duration = Annotated[flags.Positive, tyro.conf.arg(aliases=("--T",))]
# What a user can put right. Anything else is a defect of ours and keeps its traceback.
MISTAKES = (
    ValueError,
    FloatingPointError,
    CheckpointError,
    DataError,
    ModelError,
    RunError,
)


# What a disk, its permissions, or a limit of the system refuses.
_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in [
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EACCES",
        "EPERM",
        "EROFS",
        "EIO",
        "ENOENT",
        "ENOTDIR",
        "EISDIR",
        "EEXIST",
        "ELOOP",
        "ENAMETOOLONG",
        "EMFILE",
        "ENFILE",
        "ESTALE",
        "ENOMEM",
    ]
}
_SMALLER = "Make the batch, the network or the number of steps smaller."
# A flag whose default is the recipe's: see `Checked.recipes`.
OF_RECIPE: Any = None


class Checked:
    """A config that checks itself; `of` says what its script asks of it."""

    of: ClassVar[flags.Rules]
    # By the values of `recipe`, if there is such a flag: the defaults of other flags.
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Data sets that the script knows by name; any other `data` is a file.
    sets: ClassVar[Sequence[str]] = ()

    def defaults(self) -> Mapping[str, Any]:
        """Of flags that are left out: the recipe's, and what follows from other flags."""
        return self.recipes[cast(Any, self).recipe] if self.recipes else {}

    def __post_init__(self):
        if self.recipes:
            check.choice("--recipe", getattr(self, "recipe", ""), (*self.recipes,))
        for name, value in self.defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        data = str(getattr(self, "data", ""))
        if self.sets and data not in self.sets and not data.endswith(".npz"):
            raise ValueError(
                f"`--data` must be one of {', '.join(self.sets)}, or an .npz file, got {data!r}."
            )
        flags.check_ranges(self)
        seed, seeds = getattr(self, "seed", 0), getattr(self, "seeds", 1)
        if seed + seeds > 2**32:
            raise ValueError(
                f"`--seed {seed}` and `--seeds {seeds}` go beyond the largest seed, {2**32 - 1}. Lower either."
            )

    def check_needs(self) -> None:
        """Refuses flags that would do nothing."""
        flags.check_needs(self, self.of.needs, self.defaults())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Checked):
    """Flags of every script."""

    out: pathlib.Path = dataclasses.field(kw_only=False)
    """Folder for config, metrics, figures, model and checkpoints."""
    seed: flags.Seed = 0
    """First seed: it decides initial weights, the order of samples and every other draw."""
    checkpoint_seconds: flags.NotNegative = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Go on with the run in --out, whose other flags must be the same."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    progress: bool = True
    """Show a progress bar."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, for later runs to start faster; the result is the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Flags of scripts that read data sets."""

    data_dir: pathlib.Path | None = None
    """TFDS folder; TFDS_DATA_DIR or ~/tensorflow_datasets if omitted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames(Data):
    """Flags of scripts whose inputs may vary in time."""

    frames: bool = False
    """The second axis of the file's inputs is time, [N, T, ...], as of frames or spikes: T is then the file's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """Flags of scripts that train on several devices."""

    mesh: str | None = None
    """data=N: cut each batch over N devices; the result is that of one."""
    distributed: bool = False
    """This process is one of several, each started with the same flags; TPU pods, SLURM and Open MPI need no more than this."""
    coordinator: str | None = None
    """Of several processes elsewhere: host:port of process 0."""
    num_processes: flags.Count | None = None
    """Of several processes elsewhere: their number."""
    process_id: flags.Natural | None = None
    """Of several processes elsewhere: number of this one, from 0."""

    def devices(self, batch_size: int) -> Mesh | None:
        """Joins the other processes, if there are any, and makes the mesh. Before anything is computed."""
        num_devices = None if self.mesh is None else meshes.parse(self.mesh)
        if self.distributed or self.coordinator is not None:
            meshes.join(self.coordinator, self.num_processes, self.process_id)
            num_devices = num_devices or jax.device_count()
            # JAX aborts the rest with a message of its own, to which nothing can be added then.
            print(
                f"Process {jax.process_index()} of {jax.process_count()}. If one ends, the others stop within a minute, saying that another "
                "task died; start all again with --resume to go on from the last checkpoint.",
                file=sys.stderr,
            )
        if num_devices is None:
            return None
        return meshes.make(num_devices, batch_size=batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeds:
    """Flags of scripts that train several seeds in one program."""

    seeds: flags.Count = 1
    """Number of seeds, from --seed on, trained in one program; pictures and the model kept are of the first."""
    seeds_at_once: flags.Count = 1
    """How many of the --seeds are trained side by side (`vmap`), while the others wait in a loop. On a GPU take all; on a CPU 1 is fastest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Devices, Seeds, Run):
    """Flags of scripts that learn from batches of labelled samples, epoch by epoch."""

    log_every: flags.Count | None = None
    """Optimiser steps averaged into one row of metrics.jsonl; an epoch's if omitted."""
    eval_every: flags.Natural | None = None
    """Optimiser steps between evaluations, 0 for the end only; an epoch's if omitted."""
    num_validation: flags.Natural = 0
    """Training samples held out; if any, evaluations during training use them and the test set is left for the end."""


# What may change between a run and its resumption: where it reads, writes and computes, and how it shows itself.
FREE = ("out", "data_dir", "checkpoint_seconds", "resume", "tensorboard", "progress", "compilation_cache")  # fmt: skip
FREE += tuple(field.name for field in dataclasses.fields(Devices))


def decisive(config: Any) -> dict[str, Any]:
    """The flags that decide a run's result: all but `FREE` and the script's own free ones."""
    left_out = {*FREE, *config.of.free}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in left_out}


def _refuse_empty(args: Sequence[str]) -> None:
    """An empty text names no folder; to a path it would be the current one."""
    flag = ""
    for arg in args:
        if arg.startswith("--"):
            flag = arg.removesuffix("=")
        if arg == "" or (arg.startswith("--") and arg.endswith("=")):
            raise ValueError(f"`{flag}` is empty: name something, or leave it out.")


def _parsed(kind: Any, args: Sequence[str], **options: Any) -> Any:
    """What tyro makes of the flags; its box around what it refuses becomes one line.

    Raises:
      ValueError: if it refuses them.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=args, **options)
    except SystemExit as error:
        if error.code in (None, 0):  # --help
            raise
        # A title, then parts between rules; the box is drawn, or there is none.
        lines = [line.strip(" │╭╮╰╯") for line in said.getvalue().splitlines()]
        text = "\n".join("" if {*line} <= {*"─-"} else line for line in lines[1:])
        first, *more = (part.split() for part in re.split(r"\n\n+", text.strip()))
        meant = [p for p in more if p[:3] == ["Perhaps", "you", "meant:"]]
        similar = dict.fromkeys(w for p in meant for w in p if w.startswith("--"))
        text = " ".join(first).removeprefix(f"Error parsing {kind.__name__}: ")
        text = text.rstrip(".")
        text += f" (similar: {', '.join(similar)})" if similar else ""
        raise ValueError(f"{text}. `--help` lists all flags.") from None


def parse(
    config: type[Config], args: Sequence[str], *, markers: Sequence[Any] = ()
) -> Config:
    """The config that these flags describe, in any order; the defaults of the others are the recipe's, and `--help` shows them."""
    _refuse_empty(args)
    recipes, old = cast(Any, config).recipes, cast(Any, config).of.retired
    args = [new for arg in args for new in old.get(arg, (arg,))]
    if not recipes:
        return _parsed(config, args, config=markers)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--recipe", nargs="?")
    recipe = finder.parse_known_args(args)[0].recipe
    if recipe not in recipes:  # for tyro to refuse, if it is not left out
        recipe = cast(Any, config).recipe
    default: Any = cast(Any, config)(out=tyro.MISSING, recipe=recipe)
    for field in dataclasses.fields(default):
        if field.default is None and field.name not in recipes[recipe]:
            # Follows from other flags, which are not known yet.
            object.__setattr__(default, field.name, None)
    text = [inspect.getdoc(config), "Defaults by recipe:"]
    for name, values in recipes.items():
        shown = " ".join(flags.shown(k, v) for k, v in values.items() if v is not None)
        text.append(f"{name}: {shown}")
    description = "\n\n".join(map(str, text))
    return _parsed(
        config, args, default=default, description=description, config=markers
    )


def in_flags(main: Callable[[Config], dict[str, Any]]) -> Any:
    """A script's `main` that first refuses flags that would do nothing, and whose complaints name flags, where the library's name its arguments."""

    @functools.wraps(main)
    def named(cfg: Config) -> dict[str, Any]:
        cast(Any, cfg).check_needs()
        try:
            return main(cfg)
        except ValueError as error:
            fields = {f.name for f in dataclasses.fields(cast(Any, cfg))}
            text = re.sub(
                r"`(\w+)`",
                lambda found: (
                    f"`{flags.name(found[1])}`" if found[1] in fields else found[0]
                ),
                str(error),
            )
            if type(error) is not ValueError or text == str(error):
                raise
            raise ValueError(text) from error

    return named


def _terminate(number: int, frame: object) -> None:
    """SIGTERM where no training listens: nothing is under way that a checkpoint could keep."""
    raise stop.Stopped("Stopped.", number)


def _in_words(error: OSError) -> str:
    """What the operating system refused."""
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}. Nothing was deleted. Make room, or make the file readable and writable, then run again; with --resume a run goes on "
        "from its last checkpoint."
    )


def _end(text: str, code: int) -> NoReturn:
    """One line, and the end: the threads of other libraries, which may still wait for a disk or another process, are not asked."""
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if code > 128:
        os._exit(code)
    sys.exit(code)


def _report(cfg: Any) -> None:
    """Writes report.html, if this was a run and has finished."""
    out = getattr(cfg, "out", None)
    names = ("config.json", "summary.json")
    if out and meshes.is_primary() and all((out / name).is_file() for name in names):
        from jsnn.plot import run_report

        run_report.write(out)


def _tell(summary: Mapping[str, Any]) -> None:
    """Prints what a script returns, in the process that speaks for all."""
    if meshes.is_primary():
        width = max(map(len, summary))
        lines = [f"{name:<{width}}  {value}" for name, value in summary.items()]
        print("\n".join(lines), flush=True)


def run(config: type[Config], main: Callable[[Config], dict[str, Any]]) -> None:
    """Parses flags into `config`, calls `main` on it, and prints the summary it returns."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cfg = parse(config, sys.argv[1:])
        if not getattr(cfg, "compilation_cache", True):
            jax.config.update("jax_enable_compilation_cache", False)
        compilation.keep()
        summary = main(cfg)
        _report(cfg)
        _tell(summary)
    except BrokenPipeError:  # whoever read what we print has gone, as `head` does
        os._exit(128 + signal.SIGPIPE)
    except MISTAKES as error:
        _end(f"error: {error}", 2)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        _end(f"error: {_in_words(error)}", 2)
    except MemoryError as error:
        _end(f"error: out of memory ({error}). {_SMALLER}", 2)
    except stop.Stopped as error:
        _end(f"\n{error} Run again with --resume to go on.", error.code)
    except KeyboardInterrupt:
        _end("\nStopped. A script with --resume goes on from its last checkpoint.", 130)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            _end(f"error: out of memory ({str(error).splitlines()[0]}). {_SMALLER}", 2)
        print(
            f"error: another process of this run has ended ({str(error).splitlines()[0]}). Start all of them again with --resume; "
            "they go on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(3)  # a regular end would wait minutes for the process that is gone
