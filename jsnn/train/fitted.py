"""What a training leaves behind: a model that predicts, and what is known about it."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from jsnn import check
from jsnn import mesh as meshes
from jsnn.train import inputs as fits
from jsnn.train import saved
from jsnn.train.trainer import Prediction, Trainer, TrainState

_BATCH = 250


class Fitted:
    """A trained model, as `fit` and `load` return it.

    >>> inputs, labels = np.eye(4, dtype=np.float32).repeat(8, axis=0), np.arange(32) // 8
    >>> data = jsnn.data.arrays(inputs, labels, num_test=8)
    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 4, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(0.1), batch_size=8, epochs=9)
    >>> fitted = jsnn.fit(trainer, data, jax.random.key(0), progress=False)
    >>> fitted.predict(inputs[::8]).scores.shape, len(fitted.rows)  # a row of training and one of testing for each epoch
    ((4, 4), 18)

    Attributes:
      trainer: what it was trained by.
      state: at the end; `jsnn.train.Run` holds the same.
      model: what predictions need.
      found: the last evaluation of the held-out samples.
      rows: rows of metrics, as in metrics.jsonl.
      seconds, cpu_seconds: of the whole run, with compilation, evaluations and checkpoints.
      samples_per_second: of training alone, without these.
    """

    def __init__(
        self,
        trainer: Trainer,
        state: TrainState | None,
        found: Any,
        rows: list[dict[str, Any]],
        times: dict[str, float],
        samples: int,
        model: Any = None,
    ):
        self.trainer, self.state, self.found, self.rows = trainer, state, found, rows
        self.model = trainer.model(state) if model is None and state else model
        self.seconds, self.cpu_seconds = times["seconds"], times["cpu_seconds"]
        spent = times["train_seconds"]
        self.samples_per_second = samples / spent if spent else 0.0
        self.about: dict[str, Any] = {}
        self._predict = jax.jit(trainer.predict)

    def predict(self, inputs: Any, *, batch_size: int = _BATCH) -> Prediction:
        """Classes and scores of inputs `[N, ...]` as the training set holds them: label `[N]`, scores `[N, C]`; no labels needed.

        Of several seeds both have a leading axis of seeds.

        Raises:
          ValueError: if there is no input, or inputs have another shape than those that the model was trained on.
        """
        inputs = np.asarray(inputs)
        batch_size = check.whole("batch_size", batch_size, 1)
        if not inputs.ndim:
            raise ValueError(f"`inputs` must be an array [N, ...], got {inputs!r}.")
        if not len(inputs):
            raise ValueError("`inputs` is empty: pass at least one sample.")
        inputs = fits.fitting(inputs, self.about)
        size, parts = min(batch_size, len(inputs)), []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            fill = np.repeat(batch[-1:], size - len(batch), axis=0)
            found = self._predict(self.model, np.concatenate([batch, fill]))
            parts.append(jax.tree.map(np.asarray, found))
        axis = parts[0].label.ndim - 1  # after that of the seeds, if there are several
        whole = jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)
        return jax.tree.map(lambda x: x.take(range(len(inputs)), axis), whole)

    def evaluate(self, data: Any) -> Any:
        """What `trainer.evaluate` finds of other held-out samples, such as the test set after a training that looked at validation samples.

        Args:
          data: as the trainer's functions take it; of supervised training `Data`, whose `train` may be empty.

        Raises:
          ValueError: if the model was loaded: it has no training state. Use `predict`.
        """
        if self.state is None:
            raise ValueError(
                "This model was loaded and cannot `evaluate`: use `predict`."
            )
        mesh, program = self.trainer.mesh, self.trainer.phases[-1].program
        fn = jax.jit(
            self.trainer.evaluate,
            static_argnums=2,
            out_shardings=meshes.replicated(mesh),
        )
        state, data = meshes.replicate((self.state, data), mesh)
        return meshes.gather(fn(state, data, program)[1], mesh)

    def save(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the model to a safetensors file, from which `jsnn.load` makes one that predicts the same.

        Raises:
          ModelError: if the file cannot be written.
        """
        return saved.write(path, self.model, self.about)


def load(path: str | os.PathLike[str], trainer: Trainer | None = None) -> Fitted:
    """A trained model that predicts: from a file of `Fitted.save`, or from the folder of a run.

    >>> import tempfile
    >>> inputs, labels = np.eye(4, dtype=np.float32).repeat(8, axis=0), np.arange(32) // 8
    >>> data = jsnn.data.arrays(inputs, labels, num_test=8)
    >>> net = jsnn.network(lambda rngs: [jsnn.Dense(4, 4, rngs=rngs), jsnn.LI()])
    >>> trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(0.1), batch_size=8, epochs=2)
    >>> path = jsnn.fit(trainer, data, jax.random.key(0), progress=False).save(f"{tempfile.mkdtemp()}/model")
    >>> jsnn.load(path, trainer).predict(inputs).label.shape
    (32,)

    Args:
      path: the file or the folder.
      trainer: what the model was trained by, built as it was then. None: for a run of one of the experiments, or a model saved from one,
        which say themselves how they were built.

    Returns:
      A `Fitted` that predicts the same as the one saved.

    Raises:
      ModelError: if the model is missing, damaged, or does not fit `trainer`.
    """
    from jsnn.train import rebuild

    path = check.path("path", path)
    if path.is_dir():
        return rebuild.from_run(path, trainer)
    arrays, about = saved.read(path)
    trainer = trainer or rebuild.trainer_of(path, about)
    model = saved.fill(path, arrays, saved.templates(trainer))
    return restored(trainer, model, about)


def restored(trainer: Trainer, model: Any, about: dict[str, Any]) -> Fitted:
    """A model that was trained before."""
    times = {"seconds": 0.0, "cpu_seconds": 0.0, "train_seconds": 0.0}
    fitted = Fitted(trainer, None, None, [], times, 0, model)
    fitted.about = about
    return fitted
