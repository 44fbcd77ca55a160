"""What scripts do alike: a run folder, training over seeds, the test set, the model kept, sweeps."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jsnn import check, data, encoders, memory, metrics
from jsnn import mesh as meshes
from jsnn.data import Dataset
from jsnn.plot import figures
from jsnn.train import rebuild, runs, saved, size, supervised
from jsnn.train.fitted import Fitted
from jsnn.train.loop import Schedule, fit
from jsnn.train.program import Program
from jsnn.train.trainer import Trainer
from jsnn.train.transform import over_seeds, seed_keys

from . import cli, flags


def numbers(cfg: Any, values: Mapping[str, Any], *names: str) -> list[Any]:
    """These flags of the config, or what a member of a sweep has in their place, which may be traced."""
    return [values.get(name, getattr(cfg, name)) for name in names]


def load(cfg: Any, num_validation: int | None = None) -> Dataset:
    """The data set, by name or from a file, with the samples held out that the seed chooses; `num_validation` in place of the flag."""
    held: Any = {"num_validation": num_validation, "seed": cfg.seed}
    if num_validation is None:
        held["num_validation"] = cfg.num_validation
    if cfg.data in cfg.sets:
        return data.load(cfg.data, data_dir=cfg.data_dir, **held)
    return data.from_file(cfg.data, frames=getattr(cfg, "frames", False), **held)


def one_step(cfg: Any, shapes: rebuild.Shapes) -> tuple[int, ...]:
    """Shape of a sample at one time step."""
    return shapes.inputs[cfg.frames :]


def num_steps(cfg: Any, shapes: rebuild.Shapes) -> int:
    """T: the file's, or the flag."""
    return shapes.inputs[0] if cfg.frames else cfg.timesteps


def framed(precision: str) -> Callable[..., Array]:
    """An encoder that takes inputs of T steps as they are."""
    encode = encoders.frames()
    return lambda x, key=None: encode(x, key).astype(precision)


def check_shape(
    cfg: Any, shapes: rebuild.Shapes, convolutional: str | None, remedy: str
) -> None:
    """Refuses a convolutional network for inputs that are no images, and random changes of what are no still images.

    Args:
      cfg: of the script.
      shapes: of its data.
      convolutional: the flag that asks for such a network, with its value; None: another one is asked for.
      remedy: the flag that takes inputs of any shape, with its value.

    Raises:
      ValueError: if so.
    """
    shape = one_step(cfg, shapes)
    if convolutional and len(shape) != 3:
        raise ValueError(
            f"`{convolutional}` needs images [H, W, C], got inputs of shape {shape}: pass `{remedy}`."
        )
    changes = [f for f in ("augment", "shift") if getattr(cfg, f, None)]
    if changes and (cfg.frames or len(shape) != 3):
        raise ValueError(
            f"`{flags.name(changes[0])}` changes still images [H, W, C], got inputs of shape {shapes.inputs}: switch it off."
        )


def check_batch(batch_size: int, num_train: int) -> None:
    """Refuses a batch larger than the training set, before a run is made.

    Raises:
      ValueError: if so.
    """
    remedy = "It is at most the number of training samples."
    check.whole("batch_size", batch_size, 1, num_train, remedy=remedy)


# Flags of which the memory of a training depends.
_SIZES = ("timesteps", "duration", "batch_size", "hidden", "width", "buffer", "capacity", "seeds", "seeds_at_once", "max_spikes", "max_events", "num_train")  # fmt: skip


def check_size(cfg: Any, trainer: Trainer, dataset: Dataset, steps: float = 1) -> None:
    """Refuses a training that cannot fit memory, or has more steps than can be counted, before a run is made.

    Args:
      cfg: of the script.
      trainer: of one seed.
      dataset: its data.
      steps: T.

    Raises:
      ValueError: if so; it names the largest of the script's sizes.
    """
    given = {n: x for n in _SIZES if (x := getattr(cfg, n, None)) is not None}
    number = {n: max(x, default=0) if isinstance(x, tuple) else x for n, x in given.items()}  # fmt: skip
    largest = max(number, key=lambda n: number[n], default=None)
    blamed = f" The largest of its sizes is `{flags.shown(largest, given[largest])}`." if largest else ""  # fmt: skip
    samples, batch = len(dataset.train.labels), getattr(cfg, "batch_size", 1)
    epochs = getattr(cfg, "epochs_per_task", None) or cfg.epochs or 1
    epochs = max(epochs) if isinstance(epochs, tuple) else epochs
    if epochs * max(1, samples // batch) >= 2**31:
        raise ValueError(
            f"`--epochs{'-per-task' * hasattr(cfg, 'epochs_per_task')} {epochs}` make more steps than can be counted in 32 bits. Choose fewer."
        )
    try:
        outputs = int(4 * steps * min(batch, samples))
        if outputs > memory.free_bytes():
            raise ValueError(
                f"This training does not fit memory: one number a step for each sample of a batch would take {memory.gigabytes(outputs)}. Make the number "
                "of steps or the batch smaller."
            )
        key: Any = jax.eval_shape(lambda: jax.random.key(0))
        if (seeds := getattr(cfg, "seeds", 1)) > 1:
            trainer = over_seeds(trainer, at_once=cfg.seeds_at_once)
            key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), seeds))
        seen = None
        if trainer.order is not None:
            seen = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                supervised.prepare(dataset),
            )
        size.check_memory(trainer, seen, key)
    except ValueError as error:
        raise ValueError(f"{error}{blamed}") from error


def check_points(name: str, count: int) -> None:
    """Refuses more points than memory holds while they are drawn.

    Raises:
      ValueError: if so.
    """
    if (needed := 64 * count) > memory.host_bytes():
        raise ValueError(
            f"`{name} {count}` points take {memory.gigabytes(needed)}, where {memory.gigabytes(memory.host_bytes())} of memory are free. Choose fewer."
        )


def decayed(step_size: Any, factor: Any, every: int) -> Any:
    """A schedule that multiplies the step size by a factor every so many steps. Optax's own compares the factor with zero, which a traced one cannot be."""
    every = min(every, 2**31 - 1)  # steps are counted in 32 bits
    return lambda step: step_size * factor ** (step // every)


def program(trainer_for: Any, cfg: Any, dataset: Dataset) -> Program:
    """A supervised experiment for `jsnn.train.sweep`; with samples held out, its metrics are of those."""
    shapes = rebuild.shapes_of(dataset)
    return supervised.program(
        lambda values: trainer_for(cfg, shapes, values),
        supervised.prepare(dataset),
        split="test" if dataset.validation is None else "validation",
    )


def open_run(cfg: Any, **changed: Any) -> runs.Run:
    """The run folder `cfg.out`, whose config.json has `changed` in place of flags."""
    return runs.Run(
        cfg.out,
        experiment=cfg.of.script,
        config=cli.decisive(cfg) | changed,
        resume=cfg.resume,
        tensorboard=cfg.tensorboard,
        before=cfg.of.before(cfg),
        upgrade=cfg.of.upgrade,
    )


def keys(cfg: Any, trainer: Trainer) -> tuple[Trainer, Any]:
    """The trainer of all seeds, and their keys."""
    if cfg.seeds == 1:
        return trainer, jax.random.key(cfg.seed)
    trainer = over_seeds(trainer, at_once=cfg.seeds_at_once)
    return trainer, seed_keys(cfg.seed, cfg.seeds)


class Trained(NamedTuple):
    """What `train` returns.

    Attributes:
      run: the open run folder; `finish` is still to come.
      fitted: the trained model.
      found: what was found of the test set, arrays with a leading axis of seeds, also of a single one.
      model: of the first seed.
    """

    run: runs.Run
    fitted: Fitted
    found: supervised.Evaluation
    model: Any


def train(
    cfg: cli.Supervised, trainer: Trainer, dataset: Dataset, steps: float = 1
) -> Trained:
    """Trains all seeds through the run folder `cfg.out`, evaluates on the test set, and keeps the model of the first seed there.

    Args:
      cfg: of the script.
      trainer: of one seed.
      dataset: its validation samples, if any, are looked at during training instead of the test set.
      steps: T.
    """
    check_size(cfg, trainer, dataset, steps)  # a wrong shape fails here as well
    trainer, key = keys(cfg, trainer)
    run = open_run(cfg)
    schedule = Schedule(cfg.log_every, cfg.eval_every, cfg.checkpoint_seconds)
    fitted = fit(
        trainer, dataset, key, run=run, schedule=schedule, progress=cfg.progress
    )
    found = fitted.found
    if dataset.validation is not None:
        test = supervised.Samples(*dataset.test)
        found = fitted.evaluate(supervised.Data(supervised.Samples((), ()), test))
    found, model = jax.tree.map(np.asarray, found), fitted.model
    if cfg.seeds > 1:
        model = jax.tree.map(lambda x: x[0], model)
    else:
        found = jax.tree.map(lambda x: x[None], found)
    if meshes.is_primary():
        about = rebuild.about(
            cfg.of.script, cli.decisive(cfg), rebuild.shapes_of(dataset)
        )
        saved.write(run.out / rebuild.MODEL, model, about)
    return Trained(run, fitted, found, model)


def finish(cfg: Any, trained: Trained, dataset: Dataset, **more: Any) -> dict[str, Any]:
    """Writes summary.json and returns it: accuracy on the test set, of several seeds the mean and each one's, and `more`."""
    labels, found = dataset.test.labels, trained.found
    each = (found.label == labels).mean(1)
    by_seed = {f"test_accuracy_seed_{cfg.seed + k}": float(a) for k, a in enumerate(each)}  # fmt: skip
    quality = metrics.classification_report(
        np.asarray(found.label[0]), labels, dataset.num_classes
    )
    return trained.run.finish(
        {
            **asked(cfg, "data recipe seed seeds epochs"),
            "test_accuracy": float(each.mean()),
            **(by_seed if cfg.seeds > 1 else {}),
            "test_loss": float(jnp.mean(found.loss)),
            "macro_f1": quality["macro_f1"],
            **more,
            **costs(trained.fitted),
        }
    )


def save_figures(
    trained: Trained,
    dataset: Dataset,
    drawn: Mapping[str, Any],
    *,
    graphdef: Any = None,
    encode: Callable[..., Any] | None = None,
) -> None:
    """Writes the pictures `drawn`, curves.png and confusion.png; of a network of layers also raster.png and membranes.png.

    Args:
      trained: of several seeds the first is shown.
      dataset: its data.
      drawn: the script's own pictures, by name.
      graphdef: of a network of layers: its static part.
      encode: `(inputs, None) -> signal`, with `graphdef`.
    """
    inputs, labels = dataset.test
    label, out = np.asarray(trained.found.label[0]), trained.run.out
    if graphdef is None or encode is None:
        matrix = metrics.confusion_matrix(label, labels, dataset.num_classes)
        shared = {
            "curves": figures.curves(trained.run.rows()),
            "confusion": figures.confusion(matrix, dataset.class_names),
        }
        figures.save_all({**drawn, **shared}, out)
        return
    from jsnn.plot import report  # it loads Flax, which other scripts do without

    figures.save_all(drawn, out)
    report.save_figures(
        out,
        graphdef,
        trained.model,
        images=inputs,
        labels=labels,
        prediction=label,
        encode=encode,
        class_names=dataset.class_names,
    )


def asked(cfg: Any, names: str) -> dict[str, Any]:
    """Of a summary: what these flags were; the data set is called so."""
    found = {name: getattr(cfg, name) for name in names.split()}
    return {"dataset" if n == "data" else n: value for n, value in found.items()}


def neurobench(graphdef: Any, model: Any, x: Any) -> dict[str, float]:
    """Of a summary: NeuroBench's measures on a batch, by its names behind `neurobench_`; see `jsnn.metrics.neurobench`."""
    found = jax.jit(lambda m, x: metrics.neurobench(graphdef, m, x))(model, x)
    flat = {}
    for name, value in found.items():
        parts = value if isinstance(value, dict) else {"": value}
        flat |= {
            f"neurobench_{name}_{part}".rstrip("_"): float(v)
            for part, v in parts.items()
        }
    return flat


def costs(fitted: Fitted) -> dict[str, float | None]:
    """Of a summary: how long the training took."""
    return {
        "wall_seconds": fitted.seconds,
        "samples_per_second": fitted.samples_per_second,
    }
