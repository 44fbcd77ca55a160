"""Tiny runs of every script and every way to learn, and whether two of them ended the same to the bit."""

import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from soak import warm

# What differs between two runs of the same: times, and where they are.
VARIES = ("seconds", "train_seconds", "cpu_seconds", "wall_seconds", "samples_per_second", "run_seconds", "commit", "best_run_seconds")  # fmt: skip
_OFTEN = "--checkpoint-seconds 0 --no-progress"
_POINTS = (
    "--hidden 8 --num-train 128 --epochs 2 --batch-size 32 --log-every 3 --eval-every 2"
)
_IMAGES = "--data digits --batch-size 256 --epochs 2 --log-every 2 --eval-every 4"
_TASKS = "--data digits --network mlp --hidden 12 --timesteps 2 --epochs-per-task 1 --log-every 5"
COMMANDS = {
    "csnn": f"csnn_mnist {_IMAGES} --network mlp --hidden 12 --timesteps 2 {_OFTEN}",
    "csnn, one epoch": "csnn_mnist --data digits --batch-size 512 --epochs 1 --network mlp --hidden 12 --timesteps 2 --checkpoint-seconds 3600 --no-progress",
    "csnn, two seeds": f"csnn_mnist {_IMAGES} --network mlp --hidden 12 --timesteps 2 --seeds 2 {_OFTEN}",
    "csnn, held out": f"csnn_mnist {_IMAGES} --network mlp --hidden 12 --timesteps 2 --num-validation 200 --tensorboard {_OFTEN}",
    "eventprop, grid": f"eventprop_yinyang --solver grid --duration 40 {_POINTS} {_OFTEN}",
    "eventprop, events": f"eventprop_yinyang --solver events {_POINTS} {_OFTEN}",
    "eventprop, delays": f"eventprop_yinyang --solver events --delays {_POINTS} {_OFTEN}",
    "eventprop, digits": f"eventprop_mnist --recipe deep --hidden 12 --duration 12 --t-max 8 {_IMAGES} {_OFTEN}",
    "stdp, a layer and a decision": f"stdp_mnist --data digits --recipe tiny_chain --epochs 1 2 --ratio 0.2 --doubling 20 {_OFTEN}",
    "stdp, side by side": f"stdp_mnist --data digits --recipe tiny_wide --epochs 1 1 2 --ratio 0.1 --doubling 20 {_OFTEN}",
    "stdp, a linear read-out": f"stdp_mnist --data digits --recipe tiny_read --ratio 0.2 --doubling 20 {_OFTEN}",
    "tasks, naive": f"cil_cifar10 --method naive {_TASKS} {_OFTEN}",
    "tasks, a head that grows": f"cil_cifar10 --method er --buffer 20 --capacity 2 {_TASKS} {_OFTEN}",
    "tasks, der++": f"cil_cifar10 --method der++ --buffer 20 {_TASKS} {_OFTEN}",
    "tasks, icarl": f"cil_cifar10 --method icarl --buffer 20 {_TASKS} {_OFTEN}",
    "tasks, ewc": f"cil_cifar10 --method ewc {_TASKS} {_OFTEN}",
    "tasks, slda": f"cil_cifar10 --method slda {_TASKS} {_OFTEN}",
    "sweep": "sweep --experiment eventprop_yinyang --set hidden 8 --set num-train 128 --set epochs 1 --set duration 40 --vary learning-rate 0.01 0.001 --vary batch-size 32 64 "
    "--seeds 2 --chunk 2 --no-progress",
}  # fmt: skip


def command(name: str, out: pathlib.Path, *more: str) -> Callable[[], None]:
    """A run as a function; `streamed` has no script."""
    if name == "streamed":
        return lambda: streamed(out, resume="--resume" in more)
    args = COMMANDS[name].split()
    return warm.script([args[0], "--out", str(out), *args[1:], *more])


NAMES = (*COMMANDS, "streamed")


def streamed(out: pathlib.Path, *, resume: bool) -> None:
    """A training whose samples stay on the host, as the library is called."""
    import jax
    import optax

    import jsnn

    digits = jsnn.data.load("digits")
    inputs = digits.train.images.reshape(len(digits.train.labels), -1) / np.float32(16)
    data = jsnn.data.arrays(inputs, digits.train.labels, num_test=200)
    network = jsnn.network(lambda rngs: [jsnn.Dense(64, 10, rngs=rngs), jsnn.LI()])
    trainer = jsnn.supervised(
        jsnn.classifier(network), optax.adam(1e-2), batch_size=128, epochs=3
    )
    from experiments import cli

    def main(cfg: Any) -> dict[str, Any]:
        run = jsnn.Run(out, experiment="soak", config={}, resume=resume)
        schedule = jsnn.Schedule(log_every=2, checkpoint_seconds=0.0)
        options: Any = {"run": run, "schedule": schedule, "progress": False}
        fitted = jsnn.fit(trainer, data, jax.random.key(0), stream=True, **options)
        fitted.save(out / "model")
        return run.finish({"accuracy": float(np.mean(fitted.found.hit))})

    parse, cli.parse = cli.parse, lambda config, args: None  # type: ignore[assignment]
    try:
        cli.run(object, main)  # type: ignore[arg-type]
    finally:
        cli.parse = parse


def difference(one: pathlib.Path, other: pathlib.Path) -> str | None:
    """What distinguishes the ends of two runs, in words; None if nothing does."""
    for found in (_names, _rows, _summary, _checkpoints, _arrays, _tables):
        a, b = found(one), found(other)
        if a != b:
            return f"{found.__name__[1:]}: {_first_difference(a, b)}"
    return None


def _first_difference(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        name = next(k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k))
        return f"{name}: {str(a.get(name))[:80]} / {str(b.get(name))[:80]}"
    if isinstance(a, list) and isinstance(b, list) and len(a) != len(b):
        return f"{len(a)} / {len(b)}"
    if isinstance(a, list) and isinstance(b, list):
        i = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        return f"number {i}: {str(a[i])[:200]} / {str(b[i])[:200]}"
    return f"{str(a)[:100]} / {str(b)[:100]}"


def _names(out: pathlib.Path) -> list[str]:
    skip = ("checkpoints", "tensorboard")
    return sorted(p.name for p in out.iterdir() if p.name not in skip)


def _without(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in VARIES}


def _rows(out: pathlib.Path) -> list[dict[str, Any]]:
    return [_without(json.loads(x)) for x in (out / "metrics.jsonl").open()]


def _summary(out: pathlib.Path) -> dict[str, Any]:
    return _without(json.loads((out / "summary.json").read_text()))


def _checkpoints(out: pathlib.Path) -> dict[str, bytes]:
    """All arrays of the last checkpoint, as bytes."""
    from orbax.checkpoint import v1 as ocp

    from jsnn.train import checkpoint

    if not checkpoint.steps(out / "checkpoints"):
        return {}
    step = checkpoint.steps(out / "checkpoints")[-1]
    path = str((out / f"checkpoints/step_{step:08d}").absolute())
    # As NumPy arrays: two processes may have written it, and one reads it.
    held = ocp.metadata(path).metadata
    found = ocp.load(path, {n: np.empty(x.shape, x.dtype) for n, x in held.items()})
    return {"step": bytes(step), **{k: np.asarray(v).tobytes() for k, v in found.items()}}  # fmt: skip


def _arrays(out: pathlib.Path) -> dict[str, bytes]:
    """Models and finished layers."""
    from safetensors.numpy import load_file

    found = {}
    for path in sorted(out.glob("*.safetensors")):
        found |= {f"{path.name}/{k}": v.tobytes() for k, v in load_file(path).items()}
    for path in sorted(out.rglob("*.npz")):
        if "checkpoints" in path.parts:
            continue
        with zipfile.ZipFile(path) as parts:
            found |= {f"{path.name}/{n}": parts.read(n) for n in parts.namelist()}
    return found


def _tables(out: pathlib.Path) -> dict[str, str]:
    skip = ("table.csv", "table.jsonl") if (out / "summary.csv").exists() else ()
    return {p.name: p.read_text() for p in sorted(out.glob("*.csv")) if p.name not in skip}  # fmt: skip


def copy(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A folder as it is, links and all."""
    return pathlib.Path(shutil.copytree(source, target, symlinks=True))
