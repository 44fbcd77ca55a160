"""Flags: every one of every script gets values that are none, and each is refused in one line, before there is a folder."""

import dataclasses
import json
import os
import pathlib
import typing
from collections.abc import Iterator
from typing import Any

from experiments import flags
from soak import warm
from soak.outcome import Case, changed, chosen, snapshot

ACCEPTED = 77
SECONDS = 5.0
# Without these the case would be refused for another reason; the data set needs no download.
BASE = {
    "csnn_mnist": "--data digits",
    "eventprop_mnist": "--data digits",
    "eventprop_yinyang": "",
    "stdp_mnist": "--data digits --recipe tiny_chain",
    "cil_cifar10": "--data digits",
    "sweep": "--experiment eventprop_yinyang --vary hidden 8 16",
    "predict": "--run {there} --data {file}",
    "events": "--recipe dense",
    "events_stdp": "",
    "sound": "--data {sound}",
    "runs": "{runs}",
    "compare": "{runs}",
    "report": "{runs}/a",
    "demo": "",
}
# Arguments that are no flags.
PLACES = {"runs": ("folder",), "compare": ("runs",), "report": ("run",)}
# What a flag needs in order to matter.
WITH = {
    "max_delay": "--delays",
    "max_spikes": "--solver events",
    "max_events": "--solver events",
    "seeds_at_once": "--seeds 2",
    "hidden": "--network mlp",
    "buffer": "--method er",
    "exemplars": "--method er",
    "latent_layer": "--method latent-er",
    "augment_share": "--augment",
    "repeated": "--tasks 0,1|1,2",
    "process_id": "--coordinator localhost:1",
    "num_processes": "--coordinator localhost:1",
    "block_size": "--remat",
    "reward_ltp": "",
    "samples": "--linear-range learning-rate 0.001 0.1",
}
# Counts of what happens seldom or never if they are large, and numbers of something that is cut to what there is.
MAY_BE_LARGE = {
    "log_every", "eval_every", "patience", "doubling", "window", "seeds_at_once", "checkpoint_seconds", "chunk", "at_once", "seed", "class_order", "lr_decay_epochs",
    "process_id", "num_processes", "max_events",
}  # fmt: skip


def fields(name: str) -> Iterator[tuple[str, Any]]:
    """Flags of a script, and their types."""
    config = warm.module(name).Config
    hints = typing.get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        if field.name not in PLACES.get(name, ()):
            yield field.name, hints[field.name]


def values(name: str, field: str, hint: Any) -> Iterator[tuple[str, str, bool]]:
    """Wrong values of a flag, what is wrong with them, and whether they must be refused."""
    config = warm.module(name).Config
    kinds = flags.kinds(hint)
    if field in flags.numbers(config):
        kind, interval = flags.numbers(config)[field]
        for text in ("nan", "inf", "-inf", "", "abc", "0x10"):
            yield text, "no number", True
        if kind is int:
            for text in ("1.5", "1e3", "true", "-1", "-1000000000000"):
                yield text, "no whole number, or negative", True
            large = field not in MAY_BE_LARGE
            yield "1000000000000", "10^12", large or field in ("seed", "class_order")
            yield "2000000000", "2·10^9", large
        low, high = interval[1:-1].split(",")
        for edge, closed in ((low, interval[0] == "["), (high, interval[-1] == "]")):
            if "inf" not in edge:
                step = -1 if edge is low else 1
                beyond = float(edge) + step if closed else float(edge)
                yield f"{beyond:.0f}", "beyond its range", True
    elif any(typing.get_origin(k) is typing.Literal for k in kinds):
        for text in ("", "nonsense", "none", "*"):
            yield text, "unknown name", True
    elif pathlib.Path in kinds:
        yield "", "empty", True
    elif str in kinds and field not in ("settings", "set", "vary"):
        for text in ("", "nonsense", "../../etc/passwd", "\x00"):
            yield text, "unknown name", True


# Together they are wrong, or alone in a way that types do not say.
MORE = {
    "csnn_mnist": [
        ("--num-processes 2", "num_processes"),
        ("--process-id 0", "process_id"),
        ("--block-size 5 --timesteps 4", "block_size"),
        ("--block-size 0", "block_size"),
        ("--seed 4294967295 --seeds 2", "seed"),
        ("--mesh data=1000", "mesh"),
        ("--mesh rows=2", "mesh"),
        ("--mesh data=0", "mesh"),
        ("--mesh data=nan", "mesh"),
        ("--surrogate none", "surrogate"),
        ("--batch-size 1438", "batch_size"),
        ("--num-validation 1437", "num_validation"),
        ("--data {missing}.npz", "missing"),
        ("--data {there}", "data"),
        ("--data {file}.txt", "data"),
        ("--network mlp --augment", "augment"),
        ("--frames", "frames"),
        ("--data-dir {missing}", "data_dir"),
        ("--nonsense 3", "nonsense"),
        ("--epochs", "epochs"),
        ("more", "more"),
        ("--epochs 2 3", "3"),
    ],
    "eventprop_mnist": [
        ("--dropout 1", "dropout"),
        ("--duration 1 --dt 2", "dt"),
        ("--t-min 30 --t-max 20", "t_m"),
        ("--shift 28", "shift"),
    ],
    "eventprop_yinyang": [
        ("--hidden 1000000000", "hidden"),
        ("--num-train 1000000000", "num_train"),
        ("--duration 1e9", "duration"),
        ("--dt 1e-9", "dt"),
        ("--data-dir x", "data-dir"),
        ("--solver events --max-spikes 1000000000", "max_spikes"),
    ],
    "stdp_mnist": [
        ("--reuse {missing}", "reuse"),
        ("--reuse {file}", "reuse"),
        ("--epochs 1", "epochs"),
        ("--epochs 1 1 1 1", "epochs"),
        ("--ltp 0.2", "ltp"),
        ("--threshold-4 3", "threshold_4"),
        ("--ratio 0", "ratio"),
        ("--ratio 1.5", "ratio"),
        ("--flips", "flips"),
    ],
    "cil_cifar10": [
        ("--tasks 5x3", "tasks"),
        ("--tasks 1000000000000x2", "tasks"),
        ("--tasks 0,1|1,2", "repeated"),
        ("--tasks 0,99", "tasks"),
        ("--tasks x", "tasks"),
        ("--tasks |", "tasks"),
        ("--settings nonsense=3", "settings"),
        ("--settings replay.beta", "settings"),
        ("--method er --settings replay.beta=inf", "settings"),
        ("--method er --buffer 0", "buffer"),
        ("--network mlp --augment --data {missing}.npz", "missing"),
        ("--method latent-er --latent-layer 99", "latent_layer"),
    ],
    "sweep": [
        ("--vary nonsense 3", "nonsense"),
        ("--vary lr", "vary"),
        ("--set hidden 8", "hidden"),
        ("--set epochs 1.5", "epochs"),
        ("--set epochs -1", "epochs"),
        ("--set epochs 1 2", "2"),
        ("--set out x", "out"),
        ("--log-range learning-rate 0 1 3", "log"),
        ("--log-range learning-rate 1e-3 nan 3", "log"),
        ("--log-range learning-rate 1e-3 1 1000000000000", "log"),
        ("--linear-range learning-rate 1 1e-3 3", "linear"),
        ("--linear-range learning-rate 1e-3 inf 3", "linear"),
        ("--metric nonsense", "metric"),
        ("--samples 3", "samples"),
        ("--seeds 4294967297", "seeds"),
    ],
    "predict": [
        ("--images {file}", "images"),
        ("--resize", "resize"),
    ],
    "events": [
        ("--recipe conv --hidden 3", "hidden"),
        ("--fold 5", "fold"),
        ("--recipe conv --downsample 30", "downsample"),
        ("--sensor 2", "sensor"),
        ("--data {missing}.npz", "missing"),
        ("--data {file}.npz", "file"),
        ("--tau-m 3", "tau"),
        ("--batch-size 1438", "batch_size"),
        ("--num-validation 100000", "num_validation"),
    ],
    "events_stdp": [
        ("--features 3 4", "features"),
        ("--fold 5", "fold"),
        ("--timesteps 256", "timesteps"),
        ("--data shd", "data"),
        ("--data {missing}.npz", "missing"),
    ],
    "sound": [
        ("--data {sound} --fold 5", "fold"),
        ("--data {sound} --fold 0 --speaker anna", "speaker"),
        ("--data {missing}.npz", "missing"),
        ("--data {file}.npz", "file"),
        ("--data spoken_digits --data-dir {missing}", "missing"),
        ("--data {sound} --batch-size 1000", "batch_size"),
        ("--data {sound} --max-delay 3", "max_delay"),
    ],
    "runs": [
        ("{missing}", "missing"),
        ("{there}", "there"),
        ("{file}", "file"),
        ("{runs} --csv {missing}/x.csv", "missing"),
        ("{runs} --csv {there}", "there"),
    ],
    "compare": [
        ("{runs}/a", "runs"),
        ("{missing} {runs}", "missing"),
        ("{runs} --out {file}", "out"),
        ("{runs} --out {file}/x", "out"),
    ],
    "report": [
        ("{missing}", "missing"),
        ("{there}", "there"),
        ("{runs}/a", "runs"),
    ],
    "demo": [("--rules", "rules"), ("--out {file}", "out"), ("more", "more")],
}  # fmt: skip


def cases() -> list[Case]:
    """All of them."""
    found = []
    for name in warm.SCRIPTS:
        own = {flags.name(field) for field, _ in fields(name)}
        for field, hint in fields(name):
            for text, what, refused in values(name, field, hint):
                more = WITH.get(field, "")
                if more.partition(" ")[0] not in own:
                    more = ""
                flag = flags.name(field)
                args = [*BASE[name].split(), *more.split(), flag, text]
                found.append(Case(name, tuple(args), field, what, refused))
        for text, word in MORE[name]:
            own_place = "--data" in text.split() or name in PLACES
            base = "" if own_place else BASE[name]
            if name == "stdp_mnist":
                base = BASE[name]
            args = (*base.split(), *text.split())
            found.append(Case(name, args, word, "wrong together", True))
    return found


def accept() -> None:
    """Ends the child where a folder would be made: its flags were taken."""
    from jsnn.train import runs

    def opened(self: Any, out: Any, *args: Any, **options: Any) -> None:
        os._exit(ACCEPTED)

    runs.Run.__init__ = opened  # type: ignore[method-assign]
    warm.module("demo").new_folder = opened


def finished(folder: pathlib.Path, script: str) -> None:
    """A run that has ended, by its folder."""
    folder.mkdir(parents=True)
    config = {"experiment": script, "config": {"seed": 0, "epochs": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    row = {"split": "test", "step": 1, "epoch": 1.0, "accuracy": 0.5, "loss": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "summary.json").write_text(json.dumps({"test_accuracy": 0.5}))


def sound(path: pathlib.Path) -> None:
    """Recordings of two speakers."""
    import numpy as np

    audio = np.random.RandomState(0).randint(-99, 99, 200000).astype(np.int16)
    label, offsets = np.arange(200) % 4, np.arange(201) * 1000
    who = np.array(["anna", "bert"])[np.arange(200) % 2]
    np.savez(path, audio=audio, offsets=offsets, label=label, rate=8000, speaker=who)


def check(case: Case, folder: pathlib.Path) -> str | None:
    """What did not hold, in words; None if all did."""
    folder.mkdir()
    (folder / "file").write_text("mine")
    (folder / "file.txt").write_text("mine")
    (folder / "there").mkdir()
    places = {n: str(folder / n) for n in ("file", "there", "missing", "runs")}
    places["sound"] = str(folder.parent / "sound.npz")
    args = [a.format(**places) if "{" in a else a for a in case.args]
    if any("{runs}" in a for a in case.args):
        finished(folder / "runs/a", "csnn_mnist")
        finished(folder / "runs/b", "csnn_mnist")
    if "--out" not in args and case.script not in ("runs", "report"):
        args = ["--out", str(folder / "out"), *args]
    before = snapshot(folder)
    child = warm.start(warm.script([case.script, *args]), inside=accept)
    ended = child.wait(20 * SECONDS)  # the machine may be busy
    if ended.code in (0, ACCEPTED):
        return "was accepted" if case.refused else None
    if difference := changed(before, snapshot(folder)):
        return f"changed {difference}"
    if not ended.in_time or ended.cpu > SECONDS:
        return f"took {ended.cpu:.1f} s"
    if not ended.one_line:
        return f"said {len(ended.lines)} lines: {' / '.join(ended.lines[-3:])[:300]}"
    words = {case.word, case.word.replace("_", "-")}
    if not any(word in ended.lines[-1] for word in words):
        return f"does not name {case.word}: {ended.lines[-1]}"
    return None


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    sound(folder / "sound.npz")
    for number, case in enumerate(chosen(cases(), seed, share)):
        yield str(case), check(case, folder / str(number))
