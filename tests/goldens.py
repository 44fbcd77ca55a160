"""Tiny runs of every rule, kept as they were, so that a change of the code's structure can be held to them bit for bit.

    python tests/goldens.py make FOLDER             # at the commit before
    python tests/goldens.py compare FOLDER          # at the commit after, on the same machine
    python tests/goldens.py compare FOLDER --only csnn

Of each run it keeps the rows of metrics.jsonl, summary.json and a digest of every trained array. Times, versions and the commit are
left out. Digests hold for one kind of processor and one number of cores: compilers order sums differently on others.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import traceback
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

DIGITS = ["--data", "digits"]
STDP = [*DIGITS, "--ratio", "0.05", "--num-validation", "30", "--window", "20", "--doubling", "15"]  # fmt: skip
CIL = [*DIGITS, "--width", "4", "--timesteps", "2", "--epochs-per-task", "1", "--capacity", "2", "--tasks", "3x2", "--log-every", "3"]  # fmt: skip
POINTS = ["--num-train", "128", "--epochs", "2", "--hidden", "16", "--seeds", "2"]
RUNS: dict[str, tuple[str, list[str]]] = {
    "csnn_fast": ("csnn_mnist", [*DIGITS, "--timesteps", "2", "--epochs", "2", "--eval-every", "7"]),
    "csnn_reference": ("csnn_mnist", [*DIGITS, "--recipe", "reference", "--timesteps", "3", "--num-validation", "100"]),
    "csnn_blocks": ("csnn_mnist", [*DIGITS, "--timesteps", "4", "--block-size", "2", "--remat", "--augment", "True"]),
    "eventprop_reference": ("eventprop_mnist", [*DIGITS, "--recipe", "reference", "--epochs", "2"]),
    "eventprop_deep": ("eventprop_mnist", [*DIGITS, "--hidden", "20", "--epochs", "1", "--seeds", "2"]),
    "eventprop_recurrent": ("eventprop_mnist", [*DIGITS, "--recipe", "recurrent", "--hidden", "16", "--epochs", "1"]),
    "yinyang_grid": ("eventprop_yinyang", [*POINTS, "--num-validation", "1000"]),
    "yinyang_events": ("eventprop_yinyang", [*POINTS, "--solver", "events", "--max-spikes", "6"]),
    "yinyang_delays": ("eventprop_yinyang", [*POINTS, "--solver", "events", "--max-spikes", "6", "--delays", "--duration", "60", "--lift", "1e-3"]),
    "yinyang_grid_delays": ("eventprop_yinyang", [*POINTS, "--delays"]),
    "stdp_mozafari2018": ("stdp_mnist", [*STDP, "--epochs", "2", "1", "3"]),
    "stdp_deepr2024": ("stdp_mnist", [*STDP, "--recipe", "deepr2024", "--epochs", "1", "1", "1", "2"]),
    "stdp_deepr2024_greedy": ("stdp_mnist", [*STDP, "--recipe", "deepr2024_greedy", "--epochs", "1", "1", "1", "2"]),
    "stdp_inception2024": ("stdp_mnist", [*STDP, "--recipe", "inception2024"]),
    "stdp_majority2024": ("stdp_mnist", [*STDP, "--recipe", "majority2024", "--epochs", "1", "1", "2"]),
    "stdp_kheradpisheh2018": ("stdp_mnist", [*STDP, "--recipe", "kheradpisheh2018", "--epochs", "1", "1"]),
    "stdp_resnet2024": ("stdp_mnist", [*STDP, "--recipe", "resnet2024"]),
    "cil_naive_reference": ("cil_cifar10", ["--recipe", "reference", *CIL, "--network", "cnn", "--method", "naive", "--capacity", "6"]),
    "cil_er": ("cil_cifar10", [*CIL, "--method", "er", "--buffer", "20", "--augment", "--schedule", "cosine"]),
    "cil_derpp": ("cil_cifar10", [*CIL, "--method", "der++", "--buffer", "20"]),
    "cil_icarl": ("cil_cifar10", [*CIL, "--method", "icarl", "--buffer", "20"]),
    "cil_bic": ("cil_cifar10", [*CIL, "--method", "bic", "--buffer", "20"]),
    "cil_ewc": ("cil_cifar10", [*CIL, "--method", "ewc", "--evaluate-unseen"]),
    "cil_slda": ("cil_cifar10", [*CIL, "--method", "slda"]),
    "cil_joint": ("cil_cifar10", [*CIL, "--method", "joint"]),
    "sweep_csnn": ("sweep", ["--experiment", "csnn_mnist", "--set", "data", "digits", "--set", "timesteps", "1", "--set", "batch-size", "512", "--vary", "learning-rate", "0.001", "0.01", "--seeds", "2"]),
    "sweep_cil": ("sweep", ["--experiment", "cil_cifar10", "--set", "data", "digits", "--set", "method", "der++", "--set", "width", "4", "--set", "timesteps", "1", "--set", "tasks", "2x2", "--set", "epochs-per-task", "1", "--vary", "replay.beta", "0.5", "1", "--seeds", "1"]),
    "sweep_stdp": ("sweep", ["--experiment", "stdp_mnist", "--set", "data", "digits", "--set", "epochs", "1", "1", "1", "--set", "ratio", "0.03", "--vary", "ltp", "0.004", "0.008", "--seeds", "1"]),
}  # fmt: skip
CHANGING = {"seconds", "train_seconds", "cpu_seconds", "wall_seconds", "samples_per_second", "run_seconds", "device", "version", "jax_version", "commit"}  # fmt: skip


def _steady(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in CHANGING}


def _digests(folder: pathlib.Path) -> list[str]:
    """Shape and SHA-256 of every trained array of the newest checkpoint, without their names, sorted."""
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    newest = sorted((folder / "checkpoints").glob("step_*"))
    if not newest:
        return []
    found = []
    for name, x in ocp.load(str(newest[-1].absolute())).items():
        parts = name.split(".")
        if "weights" in parts or ("model" in parts and "params" in parts):
            array = np.asarray(x)
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            found.append(f"{array.dtype}{list(array.shape)} {digest}")
    assert found, f"no trained arrays in {newest[-1]}"
    return sorted(found)


def record(name: str) -> dict[str, Any]:
    """One run and what is kept of it."""
    import importlib

    from experiments import cli

    script, flags = RUNS[name]
    module = importlib.import_module(f"experiments.{script}")
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "run"
        flags = [*flags, "--out", str(out), "--no-progress"]
        module.main(cli.parse(module.Config, flags))
        rows = (out / "metrics.jsonl").read_text().splitlines()
        return {
            "cores": len(os.sched_getaffinity(0)),
            "rows": [_steady(json.loads(row)) for row in rows],
            "summary": _steady(json.loads((out / "summary.json").read_text())),
            "arrays": _digests(out),
        }


def _difference(old: Any, new: Any, where: str) -> list[str]:
    """Where two records differ; a name that only the new one has is no difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for k in old for d in _difference(old[k], new.get(k), f"{where}.{k}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, p in pairs for d in _difference(*p, f"{where}[{i}]")]
    return [] if old == new else [f"{where}: was {old!r:.80}, is {new!r:.80}"]


def main() -> None:
    """Makes or compares all runs, or those whose name begins as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("make", "compare"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name in RUNS:
        path = args.folder / f"{name}.json"
        if not name.startswith(tuple(args.only)):
            continue
        if args.action == "make" and path.exists():
            continue
        try:
            found = record(name)
        except BaseException as error:
            traceback.print_exc()
            print(f"{name:24} FAILED {error!r:.200}", flush=True)
            bad += 1
            continue
        if args.action == "make":
            path.write_text(json.dumps(found, indent=1))
            print(f"{name:24} kept", flush=True)
            continue
        kept = json.loads(path.read_text())
        if kept.get("cores", found["cores"]) != found["cores"]:
            sys.exit(
                f"{path} was made on {kept['cores']} cores, this process has {found['cores']}: sums are cut up differently. Use as many."
            )
        wrong = _difference(kept, found, "")
        bad += bool(wrong)
        print(f"{name:24} {'DIFFERS' if wrong else 'equal to the bit'}", flush=True)
        for line in wrong[:6]:
            print("   ", line, flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
