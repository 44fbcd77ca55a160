"""What each script asks of its flags: which flags need which, and what runs did that are older than a flag.

A new flag of a script says here what it needs in order to matter and, in `before`, the value that means what runs did without it. Tests hold
that none is forgotten. The range of a number stands in its type: see `experiments.flags`.
"""

from typing import Any

from .flags import Needs, Rules

_DEVICES = Needs("num_processes process_id", lambda c: c.coordinator is not None, "--coordinator")  # fmt: skip
_DATA = Needs("data_dir", lambda c: c.data in {*c.sets} - {"digits"}, "another --data: digits and files lie in no TFDS folder")  # fmt: skip
_FRAMES = Needs("frames", lambda c: c.data not in c.sets, "--data FILE.npz: data sets by name hold still images")  # fmt: skip
_STEPS = Needs("timesteps duration t_min t_max", lambda c: not c.frames, "inputs that do not vary in time: with --frames T is the file's")  # fmt: skip
_SEEDS = Needs("seeds_at_once", lambda c: c.seeds > 1, "--seeds above 1")
_EARLY = Needs("tau_early beta", lambda c: c.alpha > 0, "--alpha above 0")
_ONE_SEED = {"seeds": 1, "seeds_at_once": 1}
_RENAMED = {"lr": "learning_rate", "T": "duration"}


def _remembers(cfg: Any) -> bool:
    from jsnn.continual import methods  # other scripts need not load it

    return methods.get(cfg.method).storage is not None


def _twice(cfg: Any) -> bool:
    """Whether a class stands in several of the tasks listed."""
    names = [name for task in cfg.tasks.split("|") for name in task.split(",")]
    return len(set(names)) < len(names)


# fmt: off
CSNN = Rules(
    "csnn_mnist",
    (
        _DEVICES, _DATA, _SEEDS, _FRAMES, _STEPS,
        Needs("block_size", lambda c: c.frames or c.block_size <= c.timesteps, "as many --timesteps"),
        Needs("hidden", lambda c: c.network == "mlp", "--network mlp"),
    ),
    before=lambda c: {"network": "cnn", "hidden": (256,), "frames": False, "threshold": 1.0, "init_scale": 1.0, "slope": None, "precision": "float32", **_ONE_SEED},
)

EVENTPROP_MNIST = Rules(
    "eventprop_mnist",
    (
        _DEVICES, _DATA, _SEEDS, _EARLY, _FRAMES, _STEPS,
        Needs("xi alpha beta kick", lambda c: c.recipe == "reference", "--recipe reference, whose output neurons answer by their first spikes"),
        Needs("hidden dropout read_out min_slope", lambda c: c.recipe != "reference", "another --recipe: the reference has one layer, all inputs and spikes for output"),
        Needs("lr_decay_epochs", lambda c: c.lr_decay != 1, "--lr-decay below 1"),
    ),
    before=lambda c: {
        "seeds_at_once": c.seeds, "shift": 0, "frames": False, "log_every": 50, "eval_every": None,
        **({"read_out": None, "min_slope": None} if c.recipe == "reference" else {"read_out": "max", "min_slope": 1e-2}),
    },
    renamed=_RENAMED,
)

EVENTPROP_YINYANG = Rules(
    "eventprop_yinyang",
    (
        _DEVICES, _SEEDS, _EARLY,
        Needs("max_delay", lambda c: c.delays, "--delays"),
        Needs("dt", lambda c: c.solver == "grid", "--solver grid"),
        Needs("max_spikes max_events", lambda c: c.solver == "events", "--solver events"),
    ),
    before=lambda c: {
        "lift": 0.0, "output_scale": 1.0, "log_every": None, "eval_every": None,
        "min_slope": 1e-2 if c.solver == "grid" else 1e-6,
    },
    renamed=_RENAMED,
    retired={"--validation": ("--num-validation", "1000"), "--no-validation": ()},
)

_REPLAY = ("er", "er-ace", "der", "der++", "latent-er")
CIL = Rules(
    "cil_cifar10",
    (
        _DEVICES, _DATA, _SEEDS, _FRAMES, _STEPS,
        Needs("buffer", _remembers, "a --method with a memory, such as er"),
        Needs("exemplars", lambda c: c.method in _REPLAY, f"--method {', '.join(_REPLAY[:-1])} or {_REPLAY[-1]}"),
        Needs("latent_layer", lambda c: c.method == "latent-er", "--method latent-er"),
        Needs("hidden", lambda c: c.network == "mlp", "--network mlp"),
        Needs("width", lambda c: c.network != "mlp" or c.hidden == (c.width,) * 2, "--network cnn or small, or an mlp whose --hidden is left out"),
        Needs("batch_norm statistics", lambda c: c.network == "cnn", "--network cnn, which has batch norm"),
        Needs("augment_share", lambda c: c.augment, "--augment"),
        Needs("repeated", _twice, "--tasks that name a class twice, as in 0,1|1,2"),
    ),
    before=lambda c: {"frames": False, "precision": "float32", "schedule": "constant", "augment_share": 1.0, "num_validation": 0, **_ONE_SEED},
)

STDP = Rules(
    "stdp_mnist",
    (
        _DATA,
        Needs("flips", lambda c: c.augment, "--augment"),
        Needs("seeds", lambda c: c.seeds == 1, "a rule whose seeds share their data, where each of these would keep outputs of every layer: use `jsnn sweep --seeds`"),
        Needs("mesh", lambda c: False, "batches to cut over devices, where images are learnt from one after another"),
        Needs("patience", lambda c: bool(c.network().decision), "a --recipe that learns by reward"),
        Needs("patience", lambda c: c.num_validation != 0, "images held out to wait for: leave --num-validation out or raise it"),
    ),
    before=lambda c: {
        "seeds": 1, "doubling": 500,
        **dict.fromkeys(["ltp", "ltd", "reward_ltp", "reward_ltd", "punish_ltp", "punish_ltd", *(f"threshold_{n}" for n in range(1, 5))]),
    },
    renamed={"model": "recipe"},
    free=("patience", "reuse"),  # neither they nor the epochs of R-STDP change what comes before its end
)

EVENTS = Rules(
    "events",
    (
        _DEVICES, _SEEDS,
        Needs("data_dir", lambda c: c.data in {*c.sets} - {"digits_events"}, "a data set by name: digits_events and files lie in no folder of sets"),
        Needs("sensor", lambda c: c.data not in c.sets, "--data FILE.npz: of data sets by name it is known"),
        Needs("folds", lambda c: c.fold is not None, "--fold"),
        Needs("duration", lambda c: not c.by_count, "steps of equal length: leave --by-count out"),
        Needs("beta threshold", lambda c: not c.exact, "a --recipe of surrogate gradients"),
        Needs("tau_m tau_s min_slope read_out", lambda c: c.exact, "a --recipe of EventProp"),
        Needs("by_count", lambda c: not c.exact, "a --recipe of surrogate gradients: EventProp asks when an event comes"),
    ),
)

EVENTS_STDP = Rules(
    "events_stdp",
    (
        Needs("data_dir", lambda c: c.data in {*c.sets} - {"digits_events"}, "a data set by name: digits_events and files lie in no folder of sets"),
        Needs("sensor", lambda c: c.data not in c.sets, "--data FILE.npz: of data sets by name it is known"),
        Needs("folds", lambda c: c.fold is not None, "--fold"),
    ),
)

SOUND = Rules(
    "sound",
    (
        _DEVICES, _SEEDS,
        Needs("data_dir", lambda c: c.data in c.sets, "a data set by name: files lie in no folder of sets"),
        Needs("folds", lambda c: c.fold is not None, "--fold"),
        Needs("beta", lambda c: not c.exact, "a --recipe of surrogate gradients"),
        Needs("max_delay", lambda c: c.recipe == "delays", "--recipe delays"),
        Needs("tau_m tau_s min_slope", lambda c: c.exact, "--recipe eventprop"),
    ),
    before=lambda c: {"centre": 0.0},
)

SWEEP = Rules(
    "sweep",
    (Needs("samples", lambda c: bool(c.vary or c.log_range or c.linear_range), "--vary, --log-range or --linear-range"),),
    free=("chunk", "at_once"),
)

PREDICT = Rules(
    "predict",
    (
        Needs("resize", lambda c: bool(c.images), "--images"),
        Needs("dt convention reset spikes_a_step floor timesteps", lambda c: c.nir is not None, "--nir"),
        Needs("images", lambda c: c.nir is None, "--run: a graph takes recordings, by --data"),
    ),
)
# fmt: on
