"""Damage to every file of a run: it ends the same to the bit, or one line says what is wrong, and nothing of the user's changes."""

import pathlib
import random
import signal
import time
from collections.abc import Callable, Iterator

from soak import runs, warm
from soak.kills import Reference, compare
from soak.outcome import chosen, snapshot

KINDS_OF_RUN = (
    "csnn",
    "stdp, a layer and a decision",
    "tasks, a head that grows",
    "sweep",
)


def _cut(path: pathlib.Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data)) if data else 0])


def _flip(path: pathlib.Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _empty(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _zeros(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


def _gone(path: pathlib.Path, rng: random.Random) -> None:
    path.unlink()


def _folder(path: pathlib.Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(path: pathlib.Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.parents[len(path.parts)] if False else _mine(path))


def _mine(path: pathlib.Path) -> pathlib.Path:
    return next(p / "mine" for p in path.parents if (p / "mine").exists())


DAMAGE: dict[str, Callable[[pathlib.Path, random.Random], None]] = {
    "cut": _cut,
    "flipped": _flip,
    "emptied": _empty,
    "zeroed": _zeros,
    "deleted": _gone,
    "a folder": _folder,
    "a link": _link,
}


def half(name: str, whole: Reference, out: pathlib.Path) -> None:
    """A run that was killed where it had two checkpoints, or rows if it keeps none."""
    whole.of(name)
    child = warm.start(runs.command(name, out))
    last = time.monotonic() + 100

    def due() -> bool:
        rows = out / "metrics.jsonl"
        if name == "sweep":
            return rows.exists() and rows.read_bytes().count(b"\n") >= 1
        return len([*(out / "checkpoints").glob("step_????????")]) >= 2

    while child.poll() is None and not due() and time.monotonic() < last:
        time.sleep(0.002)
    child.send(signal.SIGKILL)
    child.wait()


def check(
    name: str, file: str, kind: str, seed: int, source: pathlib.Path, whole, folder
) -> str | None:
    """What did not hold, in words."""
    folder.mkdir()
    (folder / "mine").write_text("mine")
    out = runs.copy(source, folder / "out")
    DAMAGE[kind](out / file, random.Random(f"{seed} {name} {file} {kind}"))
    before = snapshot(out)
    ended = warm.start(runs.command(name, out, "--resume")).wait()
    if (folder / "mine").read_text() != "mine":
        return "changed a file of the user's"
    if ended.code:
        if not ended.one_line:
            return (
                f"said {len(ended.lines)} lines: {' / '.join(ended.lines[-3:])[:400]}"
            )
        after = snapshot(out)
        lost = [n for n in before if n not in after and ".part" not in n]
        return f"was refused and lost {', '.join(lost)[:200]}" if lost else None
    if (found := compare(whole, out)) is None:
        return None
    # A number that has changed into another cannot be told from what it was.
    if file == "metrics.jsonl" and kind == "flipped" and found.startswith("rows: number"):  # fmt: skip
        return None
    return found


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    reference, cases = Reference(folder), []
    kinds = KINDS_OF_RUN if share > 0.2 else KINDS_OF_RUN[:1]
    for number, name in enumerate(kinds):
        out = folder / f"half-{number}"
        half(name, reference, out)
        for source in (out, reference.of(name)):
            inside = (p for p in sorted(source.rglob("*")) if p.is_file())
            files = [str(p.relative_to(source)) for p in inside]
            files = [f for f in files if not f.startswith("tensorboard")]
            cases += [(name, source, f, k) for f in files for k in DAMAGE]
    # Many files of a checkpoint are alike.
    share = min(share, 150 / len(cases)) if share >= 1 else share * 0.3
    for number, (name, source, file, kind) in enumerate(chosen(cases, seed, share)):
        whole = reference.of(name)
        why = check(name, file, kind, seed, source, whole, folder / str(number))
        stage = "killed" if source.name.startswith("half") else "finished"
        yield f"{name}, {stage}, {file} {kind}", why
