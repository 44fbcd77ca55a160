"""A full disk, or a limit on files, at each write of a run, one after another: it ends in one line and resumes to the same end."""

import builtins
import errno
import io
import os
import pathlib
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from soak import runs, warm
from soak.kills import Reference, compare, finish
from soak.outcome import chosen

ALL_OF = "streamed"  # every write of this one; of the others a share
OTHERS = (
    "csnn",
    "stdp, a layer and a decision",
    "stdp, a linear read-out",
    "tasks, a head that grows",
    "eventprop, grid",
    "sweep",
)


class Disk:
    """Counts what a process writes below a folder, and fails the n-th, or all from there on.

    Python tells an audit hook of files that are opened and renamed and of folders that are made; what is written to files goes through those
    that `open` returns. Libraries that write by themselves are not seen here: `limit` is for them.
    """

    def __init__(self, folder: pathlib.Path, nth: int, code: int, *, stays: bool):
        self.folder, self.nth, self.code, self.stays = str(folder), nth, code, stays
        self.count, self.off = 0, False
        sys.addaudithook(self.heard)
        self.open = io.open
        io.open = builtins.open = self.opened  # type: ignore[assignment]

    def step(self) -> None:
        """One write."""
        if self.off:
            return
        self.count += 1
        if self.nth and (self.count == self.nth or (self.stays and self.count > self.nth)):  # fmt: skip
            raise OSError(self.code, os.strerror(self.code))

    def inside(self, path: Any) -> bool:
        """Whether a path lies below the folder."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.folder)  # fmt: skip

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """Of the interpreter: what is about to happen."""
        if event == "open":
            path, _, flags = args
            writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and self.inside(path):
                self.step()
        elif event in ("os.rename", "os.mkdir", "os.link", "os.symlink") and any(map(self.inside, args[:2])):  # fmt: skip
            self.step()

    def opened(self, file: Any, *args: Any, **options: Any) -> Any:
        """`open` whose files count what is written to them."""
        found = self.open(file, *args, **options)
        named = file
        if isinstance(file, int):
            named = os.readlink(f"/proc/self/fd/{file}")
        if found.writable() and self.inside(named):
            return _File(found, self)
        return found


class _File:
    """A file that counts what is written to it."""

    def __init__(self, file: Any, disk: Disk):
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        self._disk.step()
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


def limited(size: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes, whoever writes it."""

    def inside() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return inside


def count(name: str, out: pathlib.Path) -> int:
    """How often a run writes."""

    def inside() -> None:
        disk = Disk(out, 0, errno.ENOSPC, stays=False)
        end = os._exit

        def told(code: int) -> None:
            disk.off = True
            out.with_suffix(".count").write_text(str(disk.count))
            end(code)

        os._exit = told  # type: ignore[assignment]

    ended = warm.start(runs.command(name, out), out.with_suffix(".log"), inside=inside)
    code = ended.wait().code
    if code:
        raise RuntimeError(f"{name} does not run: {ended.wait().said[-2000:]}")
    return int(out.with_suffix(".count").read_text())


def check(
    name: str, inside: Callable[[], object], whole: pathlib.Path, out: pathlib.Path
) -> str | None:
    """What did not hold, in words."""
    ended = warm.start(
        runs.command(name, out), out.with_suffix(".log"), inside=inside
    ).wait()
    if not ended.in_time:
        return "did not end"
    if ended.code == 0:
        # What it could not write was of no consequence, such as a cache.
        return compare(whole, out, out.with_suffix(".log"))
    if not ended.one_line:
        return f"ended with {ended.code} and {len(ended.lines)} lines: {' / '.join(ended.lines[-4:])[:600]}"
    return finish(name, out, whole)


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    reference, cases = Reference(folder), []
    for name in (ALL_OF, *OTHERS) if share > 0.2 else (ALL_OF,):
        whole = reference.of(name)
        writes = count(name, folder / f"count-{runs.NAMES.index(name)}")
        sizes = {p.stat().st_size for p in whole.rglob("*") if p.is_file()}
        found: list[Any] = [
            (name, "write", n, code, stays)
            for n in range(1, writes + 1)
            for code, stays in ((errno.ENOSPC, True), (errno.EFBIG, False))
        ]
        found += [(name, "size", n, 0, True) for s in sizes for n in {s - 1, s // 2} if n > 0]  # fmt: skip
        few = 1.0 if name == ALL_OF else 24 / len(found)
        cases += chosen(found, seed, few)
    for number, (name, kind, n, code, stays) in enumerate(chosen(cases, seed, share)):
        out = folder / str(number)

        def inside(kind=kind, out=out, n=n, code=code, stays=stays) -> None:
            if kind == "size":
                limited(n)()
            else:
                Disk(out, n, code, stays=stays)

        why = check(name, inside, reference.of(name), out)
        what = f"write {n} fails with {errno.errorcode.get(code)}{' and all after' * stays}"  # fmt: skip
        yield f"{name}, {what if kind == 'write' else f'files of at most {n} bytes'}", why  # fmt: skip
