"""Finished layers in files of their own, which another run takes over where it would train the very same.

`out/layers/layer_1.npz` holds a layer's weights and the fingerprint of everything that they depend on.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jsnn import files
from jsnn.stdp import unsupervised
from jsnn.stdp.networks import RATES, Network, parts
from jsnn.stdp.training import Data, Own, with_layer
from jsnn.train import checkpoint, saved
from jsnn.train.trainer import TrainState
from jsnn.train.transform import Best


def fingerprints(network: Network, doubling: int, data: Any) -> list[str]:
    """Of every layer that learns without labels: what it depends on, `data` included, as a hash."""
    frontend = network.frontend()
    so_far: list[Any] = [
        data,
        doubling,
        {k: np.asarray(v).tolist() for k, v in vars(frontend).items()},
    ]
    if network.rates != RATES:  # layers learnt with these have marks without them
        so_far.append(network.rates)
    found = []
    for block, epochs in zip(network.blocks, network.epochs, strict=False):
        so_far.append([dataclasses.asdict(block), epochs])
        text = json.dumps(so_far, sort_keys=True, default=str)
        found += [hashlib.sha256(text.encode()).hexdigest()] * len(block.branches)
    return found


@dataclasses.dataclass(frozen=True)
class Layers:
    """Finished layers of a run; `reuse` and `keep` are what `fit` calls `reuse` and `finished`.

    Attributes:
      out: the run's folder.
      network: what is trained.
      doubling: as given to the trainer.
      data: whatever decides the data and the key; it must survive JSON.
      others: folders of other runs.
    """

    out: pathlib.Path
    network: Network
    doubling: int
    data: Any
    others: Sequence[pathlib.Path] = ()

    def _known(self) -> list[tuple[str, str]]:
        """Of each layer that learns without labels, the name of its file and its fingerprint."""
        marks = fingerprints(self.network, self.doubling, self.data)
        layers = zip(parts(self.network), marks, strict=False)
        return [(f"{p.name.replace(' ', '_')}.npz", mark) for p, mark in layers]

    def _files(self, name: str) -> list[pathlib.Path]:
        """A layer as the other runs have it."""
        paths = [folder / "layers" / name for folder in self.others]
        return [path for path in paths if path.exists()]

    def check(self) -> None:
        """Reads what the other runs have, before anything is trained.

        Raises:
          ModelError: if a file of theirs is damaged or cannot be read.
        """
        for name, _ in self._known():
            for path in self._files(name):
                _read(path)

    def reuse(
        self, number: int, state: TrainState, data: Data
    ) -> tuple[TrainState, dict[str, float]] | None:
        """The state after a phase whose layer another run has trained, with its row's values; None if none has."""
        known = self._known()
        if number >= len(known):
            return None
        name, mark = known[number]
        part = parts(self.network)[number]
        for path in self._files(name):
            found, there = _read(path)
            if there != mark:
                continue
            old = _own(state).weights[part.block][part.branch]
            if found.shape != old.shape or found.dtype != old.dtype:
                raise saved.ModelError(
                    f"`--reuse`: the weights in {path} are {found.dtype}{list(found.shape)} where {old.dtype}{list(old.shape)} is needed; another hand has "
                    "changed the file. Leave that folder out."
                )
            weights = jnp.asarray(found)
            epochs, count = self.network.epochs[part.block], len(data.train.labels)
            own = _own(state)
            own = own._replace(weights=with_layer(own.weights, part, weights))
            state = _with_own(state, own)._replace(
                step=state.step + jnp.int32(epochs * count)
            )
            return state, {"convergence": float(unsupervised.convergence(weights))}
        return None

    def keep(self, number: int, state: TrainState) -> None:
        """Writes the layer of a finished phase."""
        known = self._known()
        if number >= len(known):
            return
        part, (name, mark) = parts(self.network)[number], known[number]
        path = self.out / "layers" / name
        weights = np.asarray(_own(state).weights[part.block][part.branch])
        try:
            path.parent.mkdir(exist_ok=True)
            files.write(
                path, lambda file: np.savez(file, weights=weights, fingerprint=mark)
            )
        except OSError as error:
            raise checkpoint.CheckpointError(
                f"The layer {path} could not be written ({error.strerror}). Free some space or make the folder writable, then run again with --resume."
            ) from error


def _read(path: pathlib.Path) -> tuple[np.ndarray, str]:
    """A layer's weights and its fingerprint.

    Raises:
      ModelError: if the file is damaged or cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            weights, mark = stored["weights"], str(stored["fingerprint"])
    except Exception as error:  # a damaged archive raises many kinds
        raise saved.ModelError(
            f"`--reuse`: the layer {path} is damaged or cannot be read ({error}). Leave that folder out, or name another run."
        ) from error
    if not np.isfinite(weights).all():
        raise saved.ModelError(
            f"`--reuse`: the layer {path} holds weights that are NaN or infinite. Leave that folder out."
        )
    return weights, mark


def _own(state: TrainState) -> Own:
    """What STDP has learnt, with `keep_best` around it or not."""
    return state.own.own if isinstance(state.own, Best) else state.own


def _with_own(state: TrainState, own: Own) -> TrainState:
    kept = state.own._replace(own=own) if isinstance(state.own, Best) else own
    return state._replace(own=kept)
