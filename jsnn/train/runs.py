"""A run and its folder: config, rows of metrics, checkpoints, summary. `jsnn.fit` trains through it.

out/config.json      what was asked for, with versions, device and commit
out/metrics.jsonl    one JSON object a row
out/summary.json     the result, flat
out/checkpoints/     see `jsnn.train.checkpoint`
out/tensorboard/     event files, on request
out/.lock            says which process writes here: see `jsnn.train.lock`
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jsnn import check, mesh
from jsnn.train import checkpoint, lock

PACKAGES = ("jsnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunError(RuntimeError):
    """A run folder cannot be used as asked."""


def commit() -> str:
    """The commit this code is at, with `+` if files differ from it; `unknown` if it is not in a repository."""
    here = pathlib.Path(__file__).parent

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # the repository is not another's
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """The device in words: kind, and for a CPU its model and the cores this process may use."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{len(jax.devices())} x {first.device_kind}"
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = (x for x in info.read_text().splitlines() if x.startswith("model name"))
        model = next(lines, f"x: {model}").partition(":")[2].strip()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"CPU {model}, {cores} cores"


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source"
    return found


def plain(value: Any) -> Any:
    """JSON for whatever a config or a row holds; non-finite numbers become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class Run:
    """A run folder. Opening it checks everything that could fail later: that it can be written, that nothing is overwritten, and that no other process uses it.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> run = jsnn.Run(f"{folder}/first", experiment="mine", config={"epochs": 5})  # fit(..., run=run) writes to it
    >>> run.log({"split": "test", "step": 1, "accuracy": 0.5})
    >>> run.rows()
    [{'split': 'test', 'step': 1, 'accuracy': 0.5}]

    Several processes of one run all open it; process 0 alone writes, and holds the folder's lock until `finish`, or to its own end.

    Args:
      out: the folder; made if it is missing.
      experiment: name of the script.
      config: dataclass or dictionary of everything that decides the result.
      resume: go on from the newest checkpoint, if there is one; the configuration must be the same.
      tensorboard: also write event files (needs the package tensorboardX).
      before: of flags that came later than the first version: what a run did that was older than the flag. A config.json
        without the flag is read so.
      upgrade: the flags of an older run as they are called now.

    Raises:
      RunError: if the folder cannot be written, is in use by another process, already holds a run and `resume` is off, or
        holds a run of another configuration or a damaged one.
    """

    def __init__(
        self,
        out: check.Path,
        *,
        experiment: str,
        config: Any,
        resume: bool = False,
        tensorboard: bool = False,
        before: Mapping[str, Any] | None = None,
        upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ):
        out = check.path("out", out)
        self._before, self._lock = plain(dict(before or {})), None
        self._upgrade = upgrade
        self.out, self.experiment, self.config = out, experiment, plain(config)
        self.resume, self.checkpoints = resume, out / "checkpoints"
        self._metrics, self._config = out / "metrics.jsonl", out / "config.json"
        self._tensorboard: Any = None
        self._writer: Any = None
        error = self._open(tensorboard) if mesh.is_primary() else None
        if mesh.agree(error is not None):
            raise error or RunError(
                f"`--out {out}`: process 0 cannot use this folder; see what it says."
            )

    def _open(self, tensorboard: bool) -> RunError | None:
        """Checks the folder and writes its config.json; returns the mistake, so that all processes can be told."""
        try:
            self._tensorboard = _tensorboard_writer() if tensorboard else None
            self._check_previous()  # before anything is made
            self._lock = self._take()
            self._check_previous()  # another process may have been here meanwhile
            if not self._config.exists():
                record = {
                    "experiment": self.experiment,
                    "config": self.config,
                    "versions": versions(),
                    "device": device(),
                    "commit": commit(),
                }
                self._write(self._config, json.dumps(record, indent=2) + "\n")
            self._open_tensorboard()
        except RunError as error:
            return error
        return None

    def _take(self) -> lock.Lock:
        """Makes the folder, sees that it can be written, and locks it."""
        if re.match(r"[A-Za-z][\w+.-]+:/", str(self.out)):
            raise RunError(
                f"`--out {self.out}` is an address and no folder. Choose a folder; to write to storage elsewhere, mount it."
            )
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            held = lock.hold(self.out)
            _replace(self.out / f".{uuid.uuid4().hex}", "").unlink()
            for part in self.out.glob(f".*.{'?' * 32}.part"):  # left by a kill
                part.unlink()
        except lock.LockedError as error:
            raise RunError(
                f"`--out {self.out}` is in use {error}. Wait until that ends, stop it, or choose another folder."
            ) from error
        except OSError as error:
            raise RunError(
                f"`--out {self.out}` cannot be written ({error.strerror}). Choose a folder you may write to."
            ) from error
        return held

    def _check_previous(self) -> None:
        """Refuses what lies in the folder unless it is this very run, to be resumed."""
        if not self._config.exists():
            if self._metrics.exists() or self.checkpoints.exists():
                raise RunError(
                    f"`--out {self.out}` holds a run without its config.json. Choose another folder."
                )
            return
        if not self.resume:
            raise RunError(
                f"`--out {self.out}` already holds a run. Pass --resume to go on with it, or choose another folder."
            )
        try:
            record = json.loads(self._config.read_text())
            then = {"experiment": record["experiment"]}
            then |= self._upgrade(record["config"])
            then = {k: v for k, v in self._before.items() if k in self.config} | then
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self._config} is damaged ({error}); start in a new folder."
            ) from error
        now = {"experiment": self.experiment, **self.config}
        changed = ", ".join(
            f"{k} was {then.get(k)!r}, now {now.get(k)!r}"
            for k in sorted(then.keys() | now.keys())
            if then.get(k) != now.get(k)
        )
        if changed:
            raise RunError(
                f"`--resume`: the run in {self.out} has another configuration ({changed}). Repeat its flags or choose another folder."
            )

    def _open_tensorboard(self) -> None:
        """Starts the event files afresh from the rows: they cannot be cut where a resumed run goes on."""
        if self._tensorboard is None:
            return
        if self._writer is not None:
            self._writer.close()
        folder = self.out / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = self._tensorboard(str(folder))
        for row in self.rows():
            self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, float) and name not in ("seconds", "epoch"):
                tag = f"{row.get('split', 'run')}/{name}"
                self._writer.add_scalar(tag, value, row.get("step", 0))

    def write(self, name: str, content: str) -> None:
        """Writes a file of the run folder, whole or not at all."""
        if mesh.is_primary():
            self._write(self.out / name, content)

    def _write(self, path: pathlib.Path, content: str) -> None:
        try:
            _replace(path, content)
        except OSError as error:
            raise self._full(path, error) from error

    def _full(self, path: pathlib.Path, error: OSError) -> RunError:
        return RunError(
            f"{path} could not be written ({error.strerror}). Free some space and run again with --resume."
        )

    def log(self, row: dict[str, Any]) -> None:
        """Appends one row to metrics.jsonl, and its numbers to TensorBoard under the row's `step`."""
        if not mesh.is_primary():
            return
        try:
            with self._metrics.open("a") as file:
                file.write(json.dumps(plain(row)) + "\n")
        except OSError as error:
            raise self._full(self._metrics, error) from error
        if self._writer is not None:
            self._show(row)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl; a last one that a kill or a full disk cut short is left out.

        Raises:
          RunError: if another line is damaged.
        """
        if not self._metrics.exists():
            return []
        lines, found = self._metrics.read_bytes().splitlines(), []
        for number, line in enumerate(lines, 1):
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                if number == len(lines):
                    break
                raise RunError(
                    f"Line {number} of {self._metrics} is damaged ({error}). Delete that line and run again."
                ) from error
        return found

    def rewind(self, step: int) -> None:
        """Drops rows written after `step`: a resumed run writes them again."""
        if not mesh.is_primary():
            return
        kept = [row for row in self.rows() if row.get("step", 0) <= step]
        self._write(self._metrics, "".join(json.dumps(row) + "\n" for row in kept))
        self._open_tensorboard()

    @property
    def place(self) -> str:
        """Where rows and checkpoints are, in words."""
        return f"rows and checkpoints up to here are in {self.out}"

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint: see `checkpoint.save`."""
        checkpoint.save(self.checkpoints, step, state)

    def restore(self, *templates: Any) -> Any:
        """The state to go on from: the newest checkpoint when resuming, else the first of `templates` as it came.

        Args:
          templates: states as the checkpoint may hold them, which differ in the shapes of their arrays: a head may have grown.
        """
        if not (self.resume and self.checkpoints.is_dir()):
            return templates[0]
        for template in reversed(templates):
            try:
                found = checkpoint.restore(self.checkpoints, template)
            except checkpoint.CheckpointError:
                if template is templates[0]:
                    raise
                continue
            return templates[0] if found is None else found
        return templates[0]

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Writes summary.json: the result with experiment, device, versions and commit. Returns it."""
        whole = plain(
            {
                "experiment": self.experiment,
                **summary,
                "device": device(),
                "version": versions()["jsnn"],
                "jax_version": jax.__version__,
                "commit": commit(),
            }
        )
        if mesh.is_primary():
            self._write(self.out / "summary.json", json.dumps(whole, indent=2) + "\n")
        if self._writer is not None:
            self._writer.close()
        self._lock = None
        return whole


def _replace(path: pathlib.Path, content: str) -> pathlib.Path:
    """Writes under a new name first, so that a kill or a full disk never leaves half a file, and nothing is written through a link."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("x") as file:
            file.write(content)
        return part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _tensorboard_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise RunError(
            "`--tensorboard` needs the package tensorboardX: pip install tensorboardX."
        ) from error
    return SummaryWriter
