"""A run and its folder: config, rows of metrics, checkpoints, summary. `jsnn.fit` trains through it.

out/config.json      what was asked for, with versions, device and commit
out/metrics.jsonl    one JSON object a row
out/summary.json     the result, flat
out/checkpoints/     see `jsnn.train.checkpoint`
out/tensorboard/     event files, on request
out/.lock            says which process writes here: see `jsnn.train.lock`
"""

import dataclasses
import json
import math
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jsnn import check, files, mesh
from jsnn.train import checkpoint, lock
from jsnn.train.board import Board
from jsnn.train.provenance import commit, device, versions

# What a run may write.
_WRITTEN = re.compile(
    r".+\.(json|jsonl|csv|png|html|npz|safetensors)|checkpoints|layers|tensorboard"
)


class RunError(RuntimeError):
    """A run folder cannot be used as asked."""


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
        self._tensorboard, self._board = tensorboard, None
        error = self._open() if mesh.is_primary() else None
        if mesh.agree(error is not None):
            raise error or RunError(
                f"`--out {out}`: process 0 cannot use this folder; see what it says."
            )

    def _open(self) -> RunError | None:
        """Checks the folder and writes its config.json; returns the mistake, so that all processes can be told."""
        try:
            if self._tensorboard:
                _check_tensorboard()
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
            files.probe(self.out)
            files.sweep(self.out)
            files.mend(self._metrics)
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
        """Refuses what lies in the folder unless it is this very run, to be resumed; a folder may hold other files beside it."""
        try:
            there = {
                p.name: p for p in self.out.iterdir() if _WRITTEN.fullmatch(p.name)
            }
            record = _record(self._config) if self._config.name in there else None
        except (FileNotFoundError, NotADirectoryError):
            return  # to be made, or refused by `_take`
        except OSError as error:
            raise RunError(
                f"`--out {self.out}` cannot be read ({error.strerror}). Nothing was changed; make it readable, or choose another folder."
            ) from error
        if record is None:
            if there:
                raise RunError(
                    f"`--out {self.out}` holds {min(there)}, but not the config.json of a run: a run might overwrite it. Choose another folder."
                )
            return
        if links := [name for name, path in there.items() if path.is_symlink()]:
            raise RunError(
                f"`--out {self.out}` holds a link, {min(links)}, which a run does not follow. Put the file itself there, or choose another folder."
            )
        if not self.resume:
            raise RunError(
                f"`--out {self.out}` already holds a run. Pass --resume to go on with it, or choose another folder."
            )
        self._check_same(record)

    def _check_same(self, record: dict[str, Any]) -> None:
        """Refuses the run of another experiment or configuration."""
        try:
            then = {"experiment": record["experiment"]}
            then |= self._upgrade(record["config"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(
                f"{self._config} is damaged ({error!r}): no run can go on from it. Choose another folder."
            ) from error
        then = {k: v for k, v in self._before.items() if k in self.config} | then
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
        began, here = record.get("commit"), commit()
        if began != here:
            print(
                f"The run in {self.out} began at commit {began}; the code is now at {here}, and may compute otherwise.",
                file=sys.stderr,
            )

    def _open_tensorboard(self) -> None:
        """Starts the event files afresh from the rows: they cannot be cut where a resumed run goes on."""
        if not self._tensorboard:
            return
        folder = self.out / "tensorboard"
        try:
            self._board = Board(folder)
        except OSError as error:
            raise self._full(folder, error) from error
        for row in self.rows():
            self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        if self._board is None:
            return
        try:
            self._board.show(row)
        except OSError as error:
            raise self._full(self.out / "tensorboard", error) from error

    def write(self, name: str, content: files.Content) -> None:
        """Writes a file of the run folder, whole or not at all."""
        if mesh.is_primary():
            self._write(self.out / name, content)

    def _write(self, path: pathlib.Path, content: files.Content) -> None:
        try:
            files.write(path, content)
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
            files.append(self._metrics, json.dumps(plain(row)))
        except OSError as error:
            raise self._full(self._metrics, error) from error
        self._show(row)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl; a last one that a kill cut short is left out.

        Raises:
          RunError: if another line is damaged, or the file cannot be read.
        """
        try:
            lines, found = self._metrics.read_bytes().splitlines(), []
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(
                f"{self._metrics} cannot be read ({error.strerror}). Nothing was changed; make it readable and run again with --resume."
            ) from error
        for number, line in enumerate(lines, 1):
            try:
                found.append(dict(files.parsed(line)))
            except (ValueError, TypeError) as error:
                if number == len(lines):
                    break
                raise RunError(
                    f"Line {number} of {self._metrics} is damaged ({error}). Nothing was changed; mend that line and run again with --resume."
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

    def save(
        self, step: int, state: Any, unlogged: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Writes a checkpoint, after the rows that come before it: see `checkpoint.save`."""
        if mesh.is_primary():
            try:
                files.sync(self._metrics)
            except OSError as error:
                raise self._full(self._metrics, error) from error
        checkpoint.save(self.checkpoints, step, state, unlogged=unlogged)

    def unlogged(self, step: int) -> dict[str, np.ndarray]:
        """Of the checkpoint of `step`, the metrics of steps whose row is still to be written."""
        return checkpoint.unlogged(self.checkpoints, step) if self.resume else {}

    def restore(self, *templates: Any) -> Any:
        """The state to go on from: the newest checkpoint when resuming, else the first of `templates` as it came.

        Args:
          templates: states as the checkpoint may hold them, which differ in the shapes of their arrays: a head may have grown.
        """
        if not self.resume:
            return templates[0]
        if not checkpoint.steps(self.checkpoints):
            if (self.out / "summary.json").exists():
                raise RunError(
                    f"`--resume`: the run in {self.out} is finished, but its checkpoints are gone, so there is nothing to go on from. "
                    "Nothing was changed; to train again, choose another folder."
                )
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
        self._lock = None
        return whole


def _record(path: pathlib.Path) -> dict[str, Any]:
    """A run's config.json.

    Raises:
      RunError: if it is damaged.
      OSError: if it cannot be read.
    """
    try:
        return dict(files.parsed(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path} is damaged or no run's ({error}): no run can go on from it. Choose another folder."
        ) from error


def _check_tensorboard() -> None:
    try:
        import tensorboardX  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise RunError(
            "`--tensorboard` needs the package tensorboardX: pip install tensorboardX."
        ) from error
