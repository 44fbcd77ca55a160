"""What each script asks of its flags: ranges, which flags need which, and what runs did that are older than a flag.

A new flag of a script joins three tables: the range of its number, what it needs in order to matter, and, in `before`, the value that means
what runs did without it. Tests hold that none is forgotten.
"""

from typing import Any

from experiments.flags import Needs, Rules

_COUNT, _COUNT_OR_NONE = "[1, inf)", "[0, inf)"
_POSITIVE, _NOT_NEGATIVE = "(0, inf)", "[0, inf)"
_SEED = "[0, 4294967295]"

RANGES = {
    **dict.fromkeys(
        [
            "epochs",
            "epochs_per_task",
            "timesteps",
            "batch_size",
            "log_every",
            "block_size",
            "seeds",
            "seeds_at_once",
            "lr_decay_epochs",
            "buffer",
            "width",
            "hidden",
            "capacity",
            "max_spikes",
            "max_events",
            "num_train",
            "window",
            "doubling",
            "latent_layer",
            "num_processes",
        ],
        _COUNT,
    ),
    **dict.fromkeys(
        ("eval_every", "num_validation", "patience", "shift", "process_id"),
        _COUNT_OR_NONE,
    ),
    **dict.fromkeys(("seed", "class_order"), _SEED),
    **dict.fromkeys(
        [
            "learning_rate",
            "lr",
            "lr_decay",
            "threshold",
            "init_scale",
            "slope",
            "T",
            "dt",
            "tau_m",
            "tau_s",
            "tau_softmax",
            "tau_early",
            "t_max",
            "max_delay",
            "output_scale",
            "min_slope",
            "xi",
            "beta",
            "threshold_1",
            "threshold_2",
            "threshold_3",
            "threshold_4",
        ],
        _POSITIVE,
    ),
    **dict.fromkeys(
        ("alpha", "lift", "kick", "t_min", "checkpoint_seconds"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("augment_share", "ratio", "effort"), "(0, 1]"),
    "dropout": "[0, 1)",
    "ltp": "(0, 0.15]",
    **dict.fromkeys(("ltd", "reward_ltd", "punish_ltp"), "(-inf, 0]"),
    **dict.fromkeys(("reward_ltp", "punish_ltd"), _NOT_NEGATIVE),
}
_DEVICES = Needs(
    "num_processes process_id", lambda c: c.coordinator is not None, "--coordinator"
)
_DATA = Needs(
    "data_dir", lambda c: c.data != "digits", "another --data: digits lie in no folder"
)
_SEEDS = Needs("seeds_at_once", lambda c: c.seeds > 1, "--seeds above 1")

CSNN = Rules(
    RANGES | {"beta": "[0, 1]"},
    (
        _DEVICES,
        _DATA,
        _SEEDS,
        Needs(
            "block_size",
            lambda c: c.timesteps is None or c.block_size <= c.timesteps,
            "as many --timesteps",
        ),
    ),
    before=lambda c: {
        "threshold": 1.0,
        "init_scale": 1.0,
        "slope": None,
        "precision": "float32",
        "seeds": 1,
        "seeds_at_once": 1,
    },
)

EVENTPROP_MNIST = Rules(
    RANGES | {"hidden": _COUNT_OR_NONE},
    (
        _DEVICES,
        _DATA,
        _SEEDS,
        Needs(
            "xi alpha beta kick",
            lambda c: c.recipe == "reference",
            "--recipe reference, whose output neurons answer by their first spikes",
        ),
        Needs(
            "hidden dropout read_out min_slope",
            lambda c: c.recipe != "reference",
            "another --recipe: the reference has one layer, all inputs and spikes for output",
        ),
        Needs("beta", lambda c: c.alpha > 0, "--alpha above 0"),
        Needs("lr_decay_epochs", lambda c: c.lr_decay != 1, "--lr-decay below 1"),
    ),
    before=lambda c: {
        "seeds_at_once": c.seeds,
        "shift": 0,
        "read_out": None if c.recipe == "reference" else "max",
        "min_slope": None if c.recipe == "reference" else 1e-2,
    },
)

EVENTPROP_YINYANG = Rules(
    RANGES,
    (
        _DEVICES,
        _SEEDS,
        Needs("max_delay", lambda c: c.delays, "--delays"),
        Needs("dt", lambda c: c.solver == "grid", "--solver grid"),
        Needs(
            "max_spikes max_events", lambda c: c.solver == "events", "--solver events"
        ),
        Needs("tau_early", lambda c: c.alpha > 0, "--alpha above 0"),
    ),
    before=lambda c: {
        "lift": 0.0,
        "output_scale": 1.0,
        "min_slope": 1e-2 if c.solver == "grid" else 1e-6,
    },
)


def _remembers(cfg: Any) -> bool:
    from jsnn.continual import methods  # other scripts need not load it

    return methods.get(cfg.method).storage is not None


def _normalised(cfg: Any) -> bool:
    """Whether the network has batch norm."""
    return (cfg.network or ("cnn" if "cifar" in cfg.data else "small")) == "cnn"


def _twice(cfg: Any) -> bool:
    """Whether a class stands in several of the tasks listed."""
    names = [name for task in cfg.tasks.split("|") for name in task.split(",")]
    return len(set(names)) < len(names)


CIL = Rules(
    RANGES,
    (
        _DEVICES,
        _DATA,
        _SEEDS,
        Needs("buffer", _remembers, "a --method with a memory, such as er"),
        Needs(
            "exemplars",
            lambda c: c.method in ("er", "er-ace", "der", "der++", "latent-er"),
            "--method er, er-ace, der, der++ or latent-er",
        ),
        Needs("latent_layer", lambda c: c.method == "latent-er", "--method latent-er"),
        Needs("hidden", lambda c: c.network == "mlp", "--network mlp"),
        Needs(
            "width",
            lambda c: (
                c.network != "mlp" or c.hidden in (type(c).hidden, (c.width,) * 2)
            ),
            "--network cnn or small, or an mlp whose --hidden is left out",
        ),
        Needs(
            "batch_norm statistics", _normalised, "--network cnn, which has batch norm"
        ),
        Needs("augment_share", lambda c: c.augment, "--augment"),
        Needs("repeated", _twice, "--tasks that name a class twice, as in 0,1|1,2"),
    ),
    before=lambda c: {
        "precision": "float32",
        "schedule": "constant",
        "augment_share": 1.0,
        "num_validation": 0,
        "seeds": 1,
        "seeds_at_once": 1,
    },
)


def _rewarded(cfg: Any) -> bool:
    return bool(cfg.network().decision)


STDP = Rules(
    RANGES,
    (
        _DATA,
        Needs("flips", lambda c: c.augment, "--augment"),
        Needs(
            "seeds",
            lambda c: c.seeds == 1,
            "a rule whose seeds share their data, where each of these would keep outputs of every layer: use `experiments.sweep --seeds`",
        ),
        Needs(
            "mesh",
            lambda c: False,
            "batches to cut over devices, where images are learnt from one after another",
        ),
        Needs("patience", _rewarded, "a --model that learns by reward"),
        Needs(
            "patience",
            lambda c: c.num_validation != 0,
            "images held out to wait for: leave --num-validation out or raise it",
        ),
    ),
    before=lambda c: {
        "seeds": 1,
        "doubling": 500,
        **dict.fromkeys(f"threshold_{n}" for n in range(1, 5)),
        **dict.fromkeys(("ltp", "ltd")),
        **dict.fromkeys(
            f"{r}_{x}" for r in ("reward", "punish") for x in ("ltp", "ltd")
        ),
    },
)

DEMO = Rules(RANGES)
SWEEP = Rules(
    RANGES | {"samples": _COUNT_OR_NONE, "chunk": _COUNT, "at_once": _COUNT},
    (Needs("samples", lambda c: bool(c.vary), "--vary"),),
)
