"""Sweeps: many runs of one pure training function in one program.

Members that differ in numbers (step sizes, decays, thresholds, seeds) share a compiled program: `vmap` inside a device, cut
over devices with `shard_map`, in chunks that fit memory. A chunk that is finished is never run again. A member whose
training fails (NaN) does not touch the others and is reported.

Axes: M members.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jsnn.memory import free_bytes, gigabytes
from jsnn.train import bar as bars
from jsnn.train.program import Program
from jsnn.train.runs import Run, RunError
from jsnn.train.search import Member


class Chunk(NamedTuple):
    """Members `first`, `first + 1`, ... of a group and what became of each."""

    first: int
    size: int
    metrics: list[dict[str, Any]]


def split(member: Member, traced: Sequence[str]) -> tuple[dict[str, Any], Member]:
    """What needs a program of its own, and what `vmap` can vary."""
    fixed = {k: v for k, v in member.values.items() if k not in traced}
    varied = {k: float(v) for k, v in member.values.items() if k in traced}
    return fixed, Member(varied, member.seed)


def check_memory(program: Program, member: Member, chunk: int, available: int) -> None:
    """Refuses a chunk whose parameters and optimiser state alone exceed memory, before anything is compiled.

    Raises:
      ValueError: if so.
    """
    state = jax.eval_shape(program.init, jax.random.key(0), _arrays([member], 1)[1])
    each = sum(x.size * _width(x) for x in jax.tree.leaves(state))
    if each * chunk > available:
        raise ValueError(
            f"`--chunk {chunk}` does not fit: the members' parameters and optimiser states alone take {chunk} x {gigabytes(each)} of the "
            f"{gigabytes(available)} of memory. Choose --chunk {max(1, int(available / (2 * each)))} or less, or leave it out."
        )


def check_metric(program: Program, member: Member, metric: str) -> None:
    """Refuses a metric that the program does not return, before anything is compiled.

    Raises:
      ValueError: if so.
    """
    values = _arrays([member], 1)[1]
    found = jax.eval_shape(program.train, jax.random.key(0), values, program.data)
    zeros = {k: np.zeros(x.shape, x.dtype) for k, x in found.items() if k != "finite"}
    if metric not in (known := sorted(program.report(zeros))):
        raise ValueError(
            f"`--metric` must be one of {', '.join(known)}, got {metric!r}."
        )


def _width(x: Any) -> int:
    return 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize


def _arrays(members: Sequence[Member], size: int) -> tuple[Any, dict[str, jax.Array]]:
    """Keys and values as arrays `[size]`, filled up with copies of the last member; of one member, as scalars."""
    members = [*members, *[members[-1]] * (size - len(members))]
    names = members[0].values
    seeds = jnp.array([m.seed for m in members], jnp.uint32)
    values = {
        name: jnp.array([m.values[name] for m in members], jnp.float32)
        for name in names
    }
    keys = jax.vmap(jax.random.key)(seeds)
    if size == 1:
        return keys[0], {name: x[0] for name, x in values.items()}
    return keys, values


def _compile(
    program: Program, members: Sequence[Member], size: int, mesh: Mesh, at_once: int
) -> Any:
    """The program of a chunk of `size` members over all devices of the mesh."""
    here = size // mesh.size  # on each device

    def local(keys, values, data):
        if here == 1:
            one = program.train(
                keys[0], {name: x[0] for name, x in values.items()}, data
            )
            return jax.tree.map(lambda x: x[None], one)
        return jax.lax.map(
            lambda member: program.train(member[0], member[1], data),
            (keys, values),
            batch_size=min(at_once, here),
        )

    each, whole = PartitionSpec("member"), PartitionSpec()
    fn = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(each, each, whole),
        out_specs=each,
        check_vma=False,
    )
    keys, values = _batched(members[:size], size)
    return jax.jit(fn).lower(keys, values, program.data).compile()


def _batched(members: Sequence[Member], size: int) -> tuple[Any, Any]:
    keys, values = _arrays(members, size)
    if size == 1:
        return keys[None], {name: x[None] for name, x in values.items()}
    return keys, values


def _needs(compiled: Any) -> int:
    """Bytes a device needs to run it; 0 if the backend does not say."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _fit(
    program: Program,
    members: Sequence[Member],
    chunk: int | None,
    mesh: Mesh,
    available: int,
    at_once: int,
) -> tuple[Any, int]:
    """Compiles the largest chunk that fits, or the one asked for."""
    devices = mesh.size
    size = -(-min(chunk or len(members), len(members)) // devices) * devices
    while True:
        compiled = _compile(program, members, size, mesh, at_once)
        needed = _needs(compiled)
        if needed <= available:
            return compiled, size
        fitting = int(0.9 * size * available / needed) // devices * devices
        if chunk is not None or size == devices:
            raise ValueError(
                f"`--chunk {size}` does not fit: it needs {gigabytes(needed)} a device and there are {gigabytes(available)}. "
                + (
                    f"Choose --chunk {fitting} or less, or leave it out."
                    if fitting
                    else "One member alone is too large: reduce its batch size."
                )
            )
        size = min(max(devices, fitting), size - devices)


def run(
    program: Program,
    members: Sequence[Member],
    *,
    chunk: int | None = None,
    at_once: int | None = None,
    done: Sequence[Chunk] = (),
    devices: Sequence[Any] | None = None,
) -> Iterator[tuple[Chunk, float]]:
    """Runs members that share a program; yields each chunk as it finishes, with the seconds it took.

    Args:
      program: the experiment.
      members: numbers only, the same names in all.
      chunk: members at a time; as many as fit if None.
      at_once: of those on one device, how many are `vmap`ped; the others wait in a loop within the program. If None, all on an
        accelerator, and 1 on a CPU, whose caches one member fills already.
      done: chunks of this very list that are finished already: they are not run, and their size is kept.
      devices: JAX devices; those of this process if None.

    Raises:
      ValueError: if a chunk does not fit memory.
    """
    mesh = Mesh(np.array(devices or jax.local_devices()), ("member",))
    finished = {c.first for c in done}
    if done:
        chunk = done[0].size
    if done and all(
        first in finished for first in range(0, len(members), done[0].size)
    ):
        return
    available = free_bytes()
    if chunk is not None:
        check_memory(program, members[0], -(-chunk // mesh.size), available)
    else:
        check_memory(program, members[0], 1, available)
    if at_once is None:
        at_once = 1 if mesh.devices.flat[0].platform == "cpu" else len(members)
    began = time.monotonic()  # the first chunk's time holds the compilation
    compiled, size = _fit(program, members, chunk, mesh, available, at_once)
    for first in range(0, len(members), size):
        if first in finished:
            continue
        part = members[first : first + size]
        keys, values = _batched(part, size)
        metrics = jax.tree.map(np.asarray, compiled(keys, values, program.data))
        each = [{k: v[i] for k, v in metrics.items()} for i in range(len(part))]
        now = time.monotonic()
        yield Chunk(first, size, [_judge(program, x) for x in each]), now - began
        began = now


def _judge(program: Program, found: dict[str, Any]) -> dict[str, Any]:
    """A member's row with `failed`: the training or a metric is not finite. Such metrics are left out of means."""
    finite = bool(found.pop("finite", True))
    row = program.report(found)
    return row | {"failed": not (finite and all(np.isfinite(list(row.values()))))}


def drive(
    run_folder: Run,
    groups: Sequence[tuple[dict[str, Any], Callable[[], Program], Sequence[Member]]],
    *,
    chunk: int | None = None,
    at_once: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Runs all groups through a run folder: progress, a line in metrics.jsonl per finished chunk, and going on after a kill.

    Args:
      run_folder: where lines go; with `resume`, chunks in it are not run again.
      groups: what the group's program has fixed, a function that makes the program, and its members.
      chunk: members at a time; as many as fit if None.
      at_once: as for `run`.
      progress: show a progress bar.

    Returns:
      One row per member: its values, its seed, its metrics, and whether it failed.

    Raises:
      RunError: if a chunk in the folder is of another sweep.
    """
    total = sum(len(members) for _, _, members in groups)
    rows: list[dict[str, Any]] = []
    stored = run_folder.rows()
    with bars.bar(total=total, unit="run", hidden=not progress) as bar:
        for number, (fixed, make, members) in enumerate(groups):
            done = [
                Chunk(r["first"], r["size"], r["metrics"])
                for r in stored
                if r["group"] == number
            ]
            if any(c.first + len(c.metrics) > len(members) for c in done):
                raise RunError(
                    f"{run_folder.out} holds chunks of another sweep. Choose another folder."
                )
            chunks = {c.first: c for c in done}
            bar.update(sum(len(c.metrics) for c in done))
            size = done[0].size if done else None
            if not size or len(chunks) < -(-len(members) // size):
                for new, seconds in run(
                    make(), members, chunk=chunk, at_once=at_once, done=done
                ):
                    run_folder.log(
                        {"group": number, **new._asdict(), "run_seconds": seconds}
                    )
                    chunks[new.first] = new
                    bar.update(len(new.metrics))
            metrics = [m for first in sorted(chunks) for m in chunks[first].metrics]
            rows += [
                {**fixed, **member.values, "seed": member.seed, **m}
                for member, m in zip(members, metrics, strict=True)
            ]
    return rows


def summarise(
    rows: Sequence[dict[str, Any]], names: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Mean and 95 % confidence interval over seeds, for each setting of `names`; failed members are counted and left out.

    A metric that no member of a setting has is left out of its line. The interval is `mean ± t s / sqrt(n)` with Student's t for n - 1 degrees of freedom; NaN for fewer than two seeds.
    """
    from scipy import stats

    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault(tuple(row[name] for name in names), []).append(row)
    table = []
    for values, group in settings.items():
        good = [row for row in group if not row["failed"]]
        line = dict(zip(names, values, strict=True))
        line |= {"runs": len(group), "failed": len(group) - len(good)}
        for metric in metrics:
            if not any(metric in row for row in group):
                continue
            x = np.array([row[metric] for row in good if metric in row], float)
            n = len(x)
            line[metric] = float(x.mean()) if n else float("nan")
            spread = float("nan")
            if n > 1:
                spread = float(stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / n**0.5)
            line[f"{metric}_ci95"] = spread
        table.append(line)
    return table
