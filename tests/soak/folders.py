"""Folders that are not a run's: none is used, nothing in them or behind their links changes, and one line says so."""

import os
import pathlib
from collections.abc import Callable, Iterator

from soak import warm
from soak.flag_cases import ACCEPTED, BASE, sound
from soak.outcome import changed, chosen, snapshot

SCRIPTS = tuple(name for name in warm.SCRIPTS if name not in ("predict", "runs", "compare", "report", "demo"))  # fmt: skip
NAMES = ("metrics.jsonl", "summary.json", "model.safetensors", "curves.png", "table.csv", "checkpoints", "tensorboard", "report.html")  # fmt: skip


def _file(place: pathlib.Path) -> None:
    place.write_text("mine")


def _folder(place: pathlib.Path) -> None:
    place.mkdir()
    (place / "mine").write_text("mine")


def _link(place: pathlib.Path) -> None:
    place.symlink_to("../mine")


def _nowhere(place: pathlib.Path) -> None:
    place.symlink_to("../nowhere")


KINDS = {"file": _file, "folder": _folder, "link": _link, "loose link": _nowhere}


def _in_out(
    name: str, make: Callable[[pathlib.Path], None]
) -> Callable[[pathlib.Path], str]:
    def arrange(folder: pathlib.Path) -> str:
        (folder / "out").mkdir()
        make(folder / "out" / name)
        return str(folder / "out")

    return arrange


def _blocked(below: str, make: Callable[[pathlib.Path], None]):
    def arrange(folder: pathlib.Path) -> str:
        make(folder / "out")
        return str(folder / "out" / below) if below else str(folder / "out")

    return arrange


def _config(text: str) -> Callable[[pathlib.Path], str]:
    def arrange(folder: pathlib.Path) -> str:
        (folder / "out").mkdir()
        (folder / "out/config.json").write_text(text)
        (folder / "out/metrics.jsonl").write_text('{"step": 1}\n')
        return str(folder / "out")

    return arrange


ARRANGED: dict[str, Callable[[pathlib.Path], str]] = {
    **{f"{name} is a {k}": _in_out(name, make) for name in NAMES for k, make in KINDS.items()},
    **{f".lock is a {k}": _in_out(".lock", KINDS[k]) for k in ("link", "folder")},
    "a file in the way": _blocked("", _file),
    "below a file": _blocked("below", _file),
    "a link to a file": _blocked("", _link),
    "a link to nowhere": _blocked("", _nowhere),
    "an address": lambda folder: "gs://bucket/run",
    "empty": lambda folder: "",
    "a name too long": lambda folder: str(folder / ("n" * 300)),
    "a config of nothing": _config(""),
    "a config that is a list": _config("[]"),
    "another's config": _config('{"name": "theirs", "version": 3}'),
    "a config of another run": _config('{"experiment": "csnn_mnist", "config": {"seed": 7}}'),
    "a config too deep": _config("[" * 5000),
}  # fmt: skip


def accept() -> None:
    """Ends the child where a training would begin: its folder was taken."""
    from jsnn.train import loop, sweep

    def begun(*args, **options):
        os._exit(ACCEPTED)

    loop._Session.train = begun  # type: ignore[method-assign]
    sweep.drive = begun  # type: ignore[assignment]


def check(script: str, arranged: str, resume: bool, folder: pathlib.Path) -> str | None:
    """What did not hold, in words."""
    folder.mkdir()
    (folder / "mine").write_text("mine")
    out = ARRANGED[arranged](folder)
    before = snapshot(folder)
    base = BASE[script].format(sound=folder.parent / "sound.npz")
    args = ["--out", out, *base.split(), *["--resume"] * resume]

    def inside() -> None:
        os.chdir(folder)
        accept()

    ended = warm.start(warm.script([script, *args]), inside=inside).wait(100)
    after = snapshot(folder)
    # A lock that another process may have taken meanwhile cannot be removed again.
    after = {k: v for k, v in after.items() if k in before or not k.endswith("/.lock")}
    if difference := changed(before, after):
        return f"changed {difference}"
    if ended.code in (0, ACCEPTED):
        return "was accepted"
    if not ended.one_line:
        return f"said {len(ended.lines)} lines: {' / '.join(ended.lines[-3:])[:300]}"
    return None


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    sound(folder / "sound.npz")
    cases = [(s, a, r) for s in SCRIPTS for a in ARRANGED for r in (False, True)]
    for number, (script, arranged, resume) in enumerate(chosen(cases, seed, share)):
        name = f"{script}{' --resume' * resume}, {arranged}"
        yield name, check(script, arranged, resume, folder / str(number))
