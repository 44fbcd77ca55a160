"""A full disk, or a limit on files, at each write of a run, one after another: it ends in one line and resumes to the same end."""

import builtins
import errno
import io
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from soak import runs, warm
from soak.kills import Reference, finish
from soak.outcome import chosen

# Every write of these; of the others some of the first and the last writes of each kind of file.
ALL_OF = ("streamed", "csnn, one epoch")
FEW = 8
TOGETHER = 12  # are resumed in one process
OTHERS = (
    "csnn, held out",
    "stdp, a layer and a decision",
    "stdp, a linear read-out",
    "tasks, a head that grows",
    "eventprop, digits",
    "sweep",
)
KINDS = ("full", "once")


def no_more() -> None:
    """From now on nothing can be written to any file, also by libraries that are not Python."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


class Disk:
    """Sees what a process writes below a folder, and refuses the n-th write: "once", or with all that follow ("full").

    Python tells an audit hook of files that are opened and renamed and of folders that are made; what is written to files goes through those
    that `open` returns. Libraries that write by themselves are not seen, but a full disk is full for them too.
    """

    def __init__(self, folder: pathlib.Path, nth: int = 0, kind: str = "full"):
        self.folder, self.nth, self.kind = str(folder), nth, kind
        self.written: list[str] = []
        self.off = False
        sys.addaudithook(self.heard)
        self.open = io.open
        io.open = builtins.open = self.opened  # type: ignore[assignment]

    def step(self, what: str, path: str) -> None:
        """One write."""
        if self.off:
            return
        self.written.append(f"{what} {path.removeprefix(self.folder)}")
        late = len(self.written) - self.nth
        if not self.nth or late < 0 or (late and self.kind == "once"):
            return
        if self.kind == "full":
            no_more()
        code = errno.ENOSPC if self.kind == "full" else errno.EFBIG
        raise OSError(code, os.strerror(code))

    def below(self, path: Any) -> str:
        """A path below the folder; empty for any other."""
        path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        path = os.path.abspath(path) if path else ""
        return path if path.startswith(self.folder) else ""

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """Of the interpreter: what is about to happen."""
        if event == "open":
            writes = (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and (path := self.below(args[0])):
                self.step("open", path)
        elif event in ("os.rename", "os.mkdir", "os.link", "os.symlink") and (
            path := self.below(args[0]) or self.below(args[1])
        ):
            self.step(event.removeprefix("os."), path)

    def opened(self, file: Any, *args: Any, **options: Any) -> Any:
        """`open` whose files tell what is written to them."""
        found = self.open(file, *args, **options)
        named = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file
        path = found.writable() and self.below(named)
        return _File(found, self, path) if path else found


class _File:
    """A file that tells what is written to it."""

    def __init__(self, file: Any, disk: Disk, path: str):
        self._file, self._disk, self._path = file, disk, path

    def write(self, data: Any) -> int:
        self._disk.step("write", self._path)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        return self._file.__exit__(*args)


def written(name: str, out: pathlib.Path) -> list[str]:
    """All writes of a run, in words."""
    told = out.with_suffix(".json")

    def inside() -> None:
        disk, end = Disk(out), os._exit

        def tell(code: int) -> None:
            disk.off = True
            told.write_text(json.dumps(disk.written))
            end(code)

        os._exit = tell  # type: ignore[assignment]

    ended = warm.start(runs.command(name, out), inside=inside).wait()
    if ended.code:
        raise RuntimeError(f"{name} does not run: {ended.said[-2000:]}")
    return json.loads(told.read_text())


def fail(name: str, inside: Callable[[], object], out: pathlib.Path) -> str | bool:
    """A run whose disk fails: what did not hold, in words, or else whether it is to be resumed."""
    ended = warm.start(runs.command(name, out), inside=inside).wait()
    if not ended.in_time:
        return "did not end"
    if ended.code and not ended.one_line:
        return f"ended with {ended.code} and {len(ended.lines)} lines: {' / '.join(ended.lines[-4:])[:600]}"
    # At 0 what it could not write was of no consequence, such as a cache.
    return ended.code != 0


Fault = tuple[str, str, int, str]  # run, kind, number of the write or size, in words


def faults(name: str, writes: list[str], whole: pathlib.Path, seed: int) -> list[Fault]:
    """All that can happen to a run; of most runs a choice."""
    kinds = itertools.cycle(KINDS)
    if name in ALL_OF:
        # A picture is written in many parts, one after another: the first and the last.
        near = zip([None, *writes], writes, [*writes[1:], None], strict=False)
        inner = [before == here == after for before, here, after in near]
        chances = [(n, next(kinds)) for n, i in enumerate(inner, 1) if not i]
    else:
        # Checkpoints of all steps are alike, and so are temporary names.
        alike = [re.sub(r"[0-9a-f]{32}|[0-9]+", "", w) for w in writes]
        ends = {alike.index(w) for w in alike} | {len(alike) - 1 - alike[::-1].index(w) for w in alike}  # fmt: skip
        chances = [(n + 1, next(kinds)) for n in sorted(ends)]
        chances = chosen(chances, seed, FEW / len(chances))
    found = [(name, kind, n, writes[n - 1]) for n, kind in chances]
    sizes = {p.stat().st_size for p in whole.rglob("*") if p.is_file()}
    limits = sorted({n for s in sizes for n in (s - 1, s // 2) if n > 0})
    few = limits[:: 2 if name in ALL_OF else max(1, len(limits) // 3)]
    return found + [(name, "size", n, f"files of at most {n} bytes") for n in few]


def fault(name: str, kind: str, n: int, out: pathlib.Path) -> str | bool:
    """`fail` by one of the kinds."""

    def inside() -> None:
        if kind == "size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))
        else:
            Disk(out, n, kind)

    return fail(name, inside, out)


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    reference = Reference(folder)
    for name in (*ALL_OF, *OTHERS) if share > 0.2 else ALL_OF[:1]:
        whole = reference.of(name)
        writes = written(name, folder / f"writes-{runs.NAMES.index(name)}")
        cases = chosen(faults(name, writes, whole, seed), seed, share)
        for start in range(0, len(cases), TOGETHER):
            batch = cases[start : start + TOGETHER]
            outs = [folder / f"{runs.NAMES.index(name)}-{start + i}" for i in range(len(batch))]  # fmt: skip
            first = [fault(*case[:3], out) for case, out in zip(batch, outs, strict=True)]  # fmt: skip
            ends = [(o, f) for o, f in zip(outs, first, strict=True) if isinstance(f, bool)]  # fmt: skip
            later = iter(finish(name, ends, whole))
            for (_, kind, n, what), found, out in zip(batch, first, outs, strict=True):
                why = next(later) if isinstance(found, bool) else found
                if why is None:
                    shutil.rmtree(out, ignore_errors=True)
                yield f"{name}, {f'{kind} at write {n}, ' * (kind != 'size')}{what}", why  # fmt: skip
