"""The command line every script shares: flags from the config's fields, mistakes as one line instead of a traceback."""

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

import jax
import tyro
from jax.sharding import Mesh

from experiments import flags
from jsnn import mesh as meshes
from jsnn.data import DataError
from jsnn.train.checkpoint import CheckpointError
from jsnn.train.runs import RunError

Config = TypeVar("Config")
Precision = Literal["float32", "bfloat16"]
# What a user can put right. Anything else is a defect of ours and keeps its traceback.
MISTAKES = (ValueError, FloatingPointError, CheckpointError, DataError, RunError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """Flags of scripts that train on several devices; their configs inherit them."""

    mesh: str | None = None
    """data=N: cut each batch over N devices; the result is that of one."""
    distributed: bool = False
    """This process is one of several, each started with the same flags; TPU pods, SLURM and Open MPI need no more than this."""
    coordinator: str | None = None
    """Elsewhere: host:port of process 0."""
    num_processes: int | None = None
    """Elsewhere: number of processes."""
    process_id: int | None = None
    """Elsewhere: number of this process, from 0."""

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
    """Flags of scripts that train several seeds in one program; their configs inherit them."""

    seeds: int = 1
    """Number of seeds, from --seed on, trained in one program; figures are of the first."""
    seeds_at_once: int = 1
    """How many of the --seeds are trained side by side (`vmap`), while the others wait in a loop. On a GPU take all; on a CPU 1 is fastest."""


# What may change between a run and its resumption: where it reads, writes and computes, and how it shows itself.
FREE = ("out", "data_dir", "checkpoint_seconds", "resume", "tensorboard", "progress")
FREE += tuple(field.name for field in dataclasses.fields(Devices))


def decisive(config: Any, *, free: Sequence[str] = ()) -> dict[str, Any]:
    """The flags that decide a run's result: all but `FREE` and a script's own `free` ones."""
    left_out = {*FREE, *free}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in left_out}


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


def run(config: type[Config], main: Callable[[Config], dict[str, Any]]) -> None:
    """Parses flags into `config`, calls `main` on it, and prints the summary it returns."""
    try:
        summary = main(tyro.cli(config))
    except MISTAKES as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "\nStopped. A script with --resume goes on from its last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(130)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"error: another process of this run has ended ({str(error).splitlines()[0]}). Start all of them again with --resume; "
            "they go on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(3)  # a regular end would wait minutes for the process that is gone
    if not meshes.is_primary():
        return
    width = max(map(len, summary))
    for name, value in summary.items():
        print(f"{name:<{width}}  {value}")
