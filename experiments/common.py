"""What the scripts of supervised training do alike: a run folder, the training, the test set, the model kept, several seeds."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cli, flags
from jsnn import check
from jsnn import mesh as meshes
from jsnn.data import Dataset
from jsnn.train import rebuild, runs, saved, supervised
from jsnn.train.fitted import Fitted
from jsnn.train.loop import Schedule, fit
from jsnn.train.trainer import Trainer, start
from jsnn.train.transform import over_seeds, seed_keys


def check_batch(batch_size: int, num_train: int) -> None:
    """Refuses a batch larger than the training set, before a run is made.

    Raises:
      ValueError: if so.
    """
    remedy = "It is at most the number of training samples."
    check.whole("batch_size", batch_size, 1, num_train, remedy=remedy)


class Trained(NamedTuple):
    """What `train` returns.

    Attributes:
      run: the open run folder; `run.finish` is still to come.
      fitted: the trained model.
      found: what was found of the test set, arrays with a leading axis of seeds, also of a single one.
      model: of the first seed.
    """

    run: runs.Run
    fitted: Fitted
    found: supervised.Evaluation
    model: Any


def train(
    name: str,
    cfg: Any,
    trainer: Trainer,
    dataset: Dataset,
    schedule: Schedule,
    rules: flags.Rules,
) -> Trained:
    """Trains all seeds through the run folder `cfg.out`, evaluates on the test set, and keeps the model of the first seed there.

    Args:
      name: of the script.
      cfg: its configuration, complete.
      trainer: of one seed.
      dataset: its validation samples, if any, are looked at during training instead of the test set.
      schedule: when to write rows, evaluate and save.
      rules: of the script's flags.
    """
    key = jax.random.key(cfg.seed)
    if seeds := cfg.seeds > 1:
        key = seed_keys(cfg.seed, cfg.seeds)
        trainer = over_seeds(trainer, at_once=cfg.seeds_at_once)
    jax.eval_shape(lambda key: start(trainer, key), key)  # a wrong shape fails here
    run = runs.Run(
        cfg.out,
        experiment=name,
        config=cli.decisive(cfg),
        resume=cfg.resume,
        tensorboard=cfg.tensorboard,
        before=rules.before(cfg),
    )
    fitted = fit(
        trainer, dataset, key, run=run, schedule=schedule, progress=cfg.progress
    )
    found = fitted.found
    if dataset.validation is not None:
        test = supervised.Samples(*dataset.test)
        found = fitted.evaluate(supervised.Data(supervised.Samples((), ()), test))
    found = jax.tree.map(np.asarray, found)
    model = fitted.model
    if seeds:
        model = jax.tree.map(lambda x: x[0], model)
    else:
        found = jax.tree.map(lambda x: x[None], found)
    if meshes.is_primary():
        about = rebuild.about(name, cfg, rebuild.shapes_of(dataset))
        saved.write(run.out / rebuild.MODEL, model, about)
    return Trained(run, fitted, found, model)


def accuracies(cfg: Any, trained: Trained, labels: np.ndarray) -> dict[str, float]:
    """Of the summary: the accuracy on the test set, of several seeds their mean and each one's."""
    each = (trained.found.label == labels).mean(1)
    return {
        "test_accuracy": float(each.mean()),
        **{
            f"test_accuracy_seed_{cfg.seed + k}": float(a)
            for k, a in enumerate(each)
            if cfg.seeds > 1
        },
    }
