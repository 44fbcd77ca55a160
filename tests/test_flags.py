"""Flags of every script: numbers in range, whole where whole is meant, none that does nothing, none forgotten for runs that are older."""

import dataclasses
import itertools
import json
import pathlib
import typing
from typing import Any

import jax
import numpy as np
import pytest

from experiments import (
    cil_cifar10,
    cli,
    common,
    csnn_mnist,
    eventprop_mnist,
    eventprop_yinyang,
    events,
    events_stdp,
    flags,
    rules,
    sound,
    stdp_mnist,
)
from experiments.demo.settings import Config as Demo
from experiments.sweep import Config as Sweep
from jsnn.train import rebuild, transform

OUT = pathlib.Path("unused")
SCRIPTS = {
    module.Config.of.script: module
    for module in (
        csnn_mnist,
        eventprop_mnist,
        eventprop_yinyang,
        cil_cifar10,
        stdp_mnist,
        events,
        events_stdp,
        sound,
    )
}
# Flags that decide a result in the first version of each script that could be resumed. Runs older than any other know nothing of it.
FIRST = {
    "csnn_mnist": "recipe data seed epochs timesteps batch_size learning_rate beta surrogate augment eval_every log_every num_validation remat "
    "block_size",
    "eventprop_mnist": "recipe data seed seeds epochs batch_size learning_rate lr_decay lr_decay_epochs duration dt tau_m tau_s t_min t_max xi alpha beta kick "
    "hidden dropout num_validation",
    "eventprop_yinyang": "solver hidden delays max_delay seed seeds seeds_at_once epochs batch_size learning_rate lr_decay duration dt tau_m tau_s t_max "
    "tau_softmax alpha tau_early max_spikes max_events num_validation num_train",
    "cil_cifar10": "recipe method data tasks class_order scenario repeated buffer exemplars latent_layer settings network width hidden timesteps "
    "read_out batch_norm statistics epochs_per_task batch_size learning_rate keep_optimizer augment capacity evaluate_unseen seed log_every",
    "stdp_mnist": "recipe epochs data seed ratio augment flips window num_validation",
    "events": "recipe data sensor fold folds seed seeds seeds_at_once epochs batch_size learning_rate weight_decay timesteps duration by_count most downsample "
    "hidden beta threshold tau_m tau_s min_slope read_out dropout turn resize shift drop log_every eval_every num_validation",
    "events_stdp": "data sensor fold folds seed num_validation timesteps step downsample features thresholds epochs doubling pool",
    "sound": "recipe data speaker fold folds seconds seed seeds seeds_at_once epochs batch_size learning_rate weight_decay timesteps bank bands floor gain hidden "
    "beta max_delay tau_m tau_s min_slope dropout warp trim log_every eval_every num_validation",
}


def everyone():
    yield from ((module.Config, {"out": OUT}) for module in SCRIPTS.values())
    yield Demo, {}
    yield Sweep, {"out": OUT, "experiment": "csnn_mnist", "vary": (("lr", "1"),)}


NUMBERS = [
    pytest.param(config, own, field, kind, id=f"{config.__module__}-{field}")
    for config, own in everyone()
    for field, (kind, _) in flags.numbers(config).items()
]


@pytest.mark.parametrize(("config", "own", "field", "kind"), NUMBERS)
def test_every_number_must_be_one_and_finite(config, own, field, kind):
    wrong = [float("nan"), float("inf"), -float("inf"), np.float32("nan")]
    if kind is int:
        wrong += [1.5, -3] + [2**32] * ("seed" in field and "seeds" not in field)
    several = tuple in [typing.get_origin(k) for k in flags.kinds(hint(config, field))]
    for value in wrong:
        with pytest.raises(ValueError, match=f"`{flags.name(field)}`"):
            config(**own, **{field: (value,) if several else value})


def hint(config, field):
    return typing.get_type_hints(config)[field]


def test_every_number_names_its_range():
    """But for those that stand beside a name, as the sweep's ranges do."""
    for config, _ in everyone():
        fields = {f.name for f in dataclasses.fields(config)}
        found = {n for n in fields if {int, float} & {*flags.kinds(hint(config, n))}}
        assert found - {"log_range", "linear_range"} == flags.numbers(config).keys()


def options(config, field) -> list:
    found = hint(config, field)
    return [
        choice
        for kind in flags.kinds(found)
        if typing.get_origin(kind) is typing.Literal
        for choice in typing.get_args(kind)
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_never_offend(script):
    """Nor do a recipe's, once filled in and repeated."""
    module = SCRIPTS[script]
    axes = [
        (name, options(module.Config, name))
        for name in ("recipe", "method", "network", "solver")
        if name in module.Config.__dataclass_fields__ and options(module.Config, name)
    ]
    if module.Config.sets:
        axes.append(("data", module.Config.sets))
    if script == "stdp_mnist":
        axes.append(("recipe", list(stdp_mnist.stdp.NETWORKS)))
    names = [name for name, _ in axes]
    for values in itertools.product(*(values for _, values in axes)):
        cfg = module.Config(OUT, **dict(zip(names, values, strict=True)))
        cfg.check_needs()
        dataclasses.replace(cfg, resume=True).check_needs()


USELESS = {
    "csnn_mnist": [
        ({"block_size": 5, "timesteps": 4}, "--block-size 5", "--timesteps"),
        ({"num_processes": 2}, "--num-processes 2", "--coordinator"),
        ({"data": "digits", "data_dir": OUT}, "--data-dir unused", "--data"),
        ({"data": "my.npz", "data_dir": OUT}, "--data-dir unused", "--data"),
        ({"frames": True}, "--frames", "--data FILE.npz"),
        ({"frames": True, "data": "my.npz", "timesteps": 9}, "--timesteps 9", "T is"),
        ({"hidden": (9,)}, "--hidden 9", "--network mlp"),
    ],
    "eventprop_mnist": [
        (
            {"frames": True, "data": "a.npz", "duration": 9.0, "t_max": 5.0},
            "--duration 9.0",
            "T is the file's",
        ),
        ({"xi": 0.1}, "--xi 0.1", "--recipe reference"),
        ({"alpha": 0.5, "recipe": "conv"}, "--alpha 0.5", "--recipe reference"),
        ({"beta": 1.0, "recipe": "recurrent"}, "--beta 1.0", "--recipe reference"),
        ({"kick": 0.2}, "--kick 0.2", "--recipe reference"),
        ({"recipe": "reference", "dropout": 0.1}, "--dropout 0.1", "another --recipe"),
        ({"recipe": "reference", "min_slope": 0.1}, "--min-slope 0.1", "another --rec"),
        (
            {"recipe": "reference", "alpha": 0.0, "beta": 1.0},
            "--beta 1.0",
            "--alpha above 0",
        ),
        ({"seeds_at_once": 4}, "--seeds-at-once 4", "--seeds above 1"),
        ({"lr_decay": 1.0, "lr_decay_epochs": 3}, "--lr-decay-epochs 3", "--lr-decay"),
    ],
    "eventprop_yinyang": [
        ({"max_delay": 20.0}, "--max-delay 20.0", "--delays"),
        ({"max_spikes": 2}, "--max-spikes 2", "--solver events"),
        ({"max_events": 9, "delays": True}, "--max-events 9", "--solver events"),
        ({"solver": "events", "dt": 0.5}, "--dt 0.5", "--solver grid"),
        ({"alpha": 0.0, "tau_early": 2.0}, "--tau-early 2.0", "--alpha above 0"),
        ({"seeds_at_once": 4}, "--seeds-at-once 4", "--seeds above 1"),
    ],
    "cil_cifar10": [
        ({"buffer": 77}, "--buffer 77", "memory"),
        ({"method": "ewc", "buffer": 77}, "--buffer 77", "memory"),
        ({"method": "icarl", "exemplars": "balanced"}, "--exemplars balanced", "er"),
        ({"method": "er", "latent_layer": 2}, "--latent-layer 2", "latent-er"),
        ({"hidden": (9, 5)}, "--hidden 9 5", "--network mlp"),
        ({"network": "mlp", "width": 6, "hidden": (9,)}, "--width 6", "cnn or small"),
        ({"network": "small", "statistics": "step"}, "--statistics step", "batch norm"),
        ({"data": "mnist", "batch_norm": "freeze"}, "--batch-norm freeze", "batch nor"),
        ({"augment_share": 0.5}, "--augment-share 0.5", "--augment"),
        ({"repeated": "split"}, "--repeated split", "0,1|1,2"),
        ({"seeds_at_once": 4}, "--seeds-at-once 4", "--seeds above 1"),
    ],
    "stdp_mnist": [
        ({"flips": True}, "--flips", "--augment"),
        ({"seeds": 3}, "--seeds 3", "jsnn sweep --seeds"),
        ({"mesh": "data=2"}, "--mesh data=2", "one after another"),
        ({"num_validation": 0, "patience": 3}, "--patience 3", "--num-validation"),
        ({"recipe": "kheradpisheh2018", "patience": 3}, "--patience 3", "reward"),
    ],
    "events": [
        ({"sensor": (9, 9)}, "--sensor 9 9", "--data FILE.npz"),
        ({"folds": 3}, "--folds 3", "--fold"),
        ({"by_count": True, "duration": 9.0}, "--duration 9.0", "--by-count"),
        ({"recipe": "eventprop_conv", "beta": 0.1}, "--beta 0.1", "surrogate"),
        ({"recipe": "eventprop_conv", "by_count": True}, "--by-count", "surrogate"),
        ({"tau_m": 9.0}, "--tau-m 9.0", "EventProp"),
    ],
    "events_stdp": [
        ({"sensor": (9, 9)}, "--sensor 9 9", "--data FILE.npz"),
        ({"folds": 3}, "--folds 3", "--fold"),
    ],
    "sound": [
        ({"folds": 3}, "--folds 3", "--fold"),
        ({"max_delay": 3}, "--max-delay 3", "--recipe delays"),
        ({"recipe": "eventprop", "beta": 0.1}, "--beta 0.1", "surrogate"),
        ({"tau_s": 9.0}, "--tau-s 9.0", "eventprop"),
    ],
}


@pytest.mark.parametrize(
    ("script", "given", "flag", "remedy"),
    [(script, *case) for script, cases in USELESS.items() for case in cases],
)
def test_flags_that_would_do_nothing_are_refused(script, given, flag, remedy, tmp_path):
    module, out = SCRIPTS[script], tmp_path / "run"
    with pytest.raises(ValueError, match=f"`{flag}` would do nothing") as error:
        module.main(module.Config(out, **given))
    assert remedy in str(error.value).partition("it needs")[2]
    assert not out.exists()


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("csnn_mnist", {"block_size": 4, "timesteps": 4, "remat": True}),
        ("eventprop_mnist", {"recipe": "reference", "kick": 0.2, "xi": 0.1}),
        ("eventprop_mnist", {"seeds": 2, "seeds_at_once": 2}),
        ("eventprop_yinyang", {"delays": True, "max_delay": 20.0}),
        ("eventprop_yinyang", {"solver": "events", "max_spikes": 2, "hidden": 8}),
        ("cil_cifar10", {"method": "der++", "buffer": 77, "exemplars": "balanced"}),
        ("cil_cifar10", {"network": "mlp", "hidden": (9,)}),
        ("cil_cifar10", {"tasks": "0,1|1,2", "repeated": "split"}),
        ("cil_cifar10", {"batch_norm": "freeze", "augment": True}),
        ("stdp_mnist", {"augment": True, "flips": True, "patience": 0}),
    ],
)
def test_flags_that_matter_pass(script, given):
    cfg = SCRIPTS[script].Config(OUT, **given)
    cfg.check_needs()
    assert {k: getattr(cfg, k) for k in given} == given


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_flag_is_forgotten_for_runs_that_are_older(script):
    """Every flag that decides is of the first version or says what a run did before it came, and that value suits the script."""
    cfg = SCRIPTS[script].Config(OUT)
    decides = set(cli.decisive(cfg))
    first, before = set(FIRST[script].split()), cfg.of.before(cfg)
    assert first <= decides
    assert not first & before.keys()
    assert decides - first <= before.keys(), "say in experiments/rules.py"


def stop(*args, **options):
    raise KeyboardInterrupt


def test_a_run_from_before_a_flag_is_resumed(tmp_path, monkeypatch):
    """From one that the script wrote, with the flags taken out that came since, and the others under their old names."""
    tiny: dict[str, Any]
    tiny = {"hidden": 8, "num_train": 64, "epochs": 1, "num_validation": 1000}
    tiny["progress"] = False
    cfg = eventprop_yinyang.Config(tmp_path, **tiny)

    def open_run(cfg):
        return eventprop_yinyang.main(dataclasses.replace(cfg, resume=True))

    monkeypatch.setattr(common, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        open_run(cfg)
    record = json.loads((tmp_path / "config.json").read_text())
    for name in rules.EVENTPROP_YINYANG.before(cfg):
        del record["config"][name]
    old = {"lr": "learning_rate", "T": "duration", "validation": "num_validation"}
    record["config"] |= {k: record["config"].pop(v) for k, v in old.items()}
    record["config"]["validation"] = True
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(KeyboardInterrupt):
        open_run(cfg)
    with pytest.raises(RuntimeError, match=r"output_scale was 1.0, now 2.0"):
        open_run(dataclasses.replace(cfg, output_scale=2.0))
    with pytest.raises(RuntimeError, match=r"num_validation was 1000, now 0"):
        open_run(dataclasses.replace(cfg, num_validation=0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": 99_999}, "`--batch-size` must lie between 1 and 1437"),
        ({"num_validation": 5000}, "`--num-validation` must lie between 0 and 1436"),
        ({"surrogate": "none"}, "`--surrogate` must be one of"),
    ],
)
def test_mistakes_name_the_flag_and_leave_no_folder(tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        csnn_mnist.main(csnn_mnist.Config(tmp_path / "run", data="digits", **given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "method"),
    [
        ("match.alpha=-1", "der"),
        ("replay.beta=nan", "der++"),
        ("match.alpha=inf", "der"),
        ("distil.temperature=0", "lwf"),
        ("consolidate.decay=1.5", "ewc"),
        ("predict.shrinkage=2", "slda"),
    ],
)
def test_weights_of_methods_are_numbers_that_make_sense(setting, method):
    with pytest.raises(ValueError, match=f"`--settings {setting.partition('=')[0]}`"):
        cil_cifar10.Config(OUT, method=method, settings=(setting,))


def test_seeds_up_to_the_last():
    last = 2**32 - 1
    keys = jax.random.key_data(transform.seed_keys(last - 2, 3))
    expected = [jax.random.key_data(jax.random.key(last - 2 + k)) for k in range(3)]
    np.testing.assert_array_equal(keys, expected)
    eventprop_yinyang.Config(OUT, seed=last - 2, seeds=3)
    for module in (csnn_mnist, eventprop_yinyang, eventprop_mnist, cil_cifar10):
        with pytest.raises(ValueError, match=r"`--seeds 4` go beyond the largest seed"):
            module.Config(OUT, seed=last - 2, seeds=4)


@pytest.mark.parametrize(
    ("script", "given", "words"),
    [
        ("csnn_mnist", {"timesteps": 2 * 10**9}, "`--timesteps 2000000000`"),
        ("csnn_mnist", {"network": "mlp", "hidden": (2 * 10**9,)}, "`--hidden 20"),
        ("csnn_mnist", {"epochs": 2 * 10**9}, "`--epochs 2000000000` make more steps"),
        ("csnn_mnist", {"seeds": 2 * 10**9}, "`--seeds 2000000000`"),
        ("eventprop_yinyang", {"num_train": 10**9}, "`--num-train 1000000000`"),
        ("eventprop_yinyang", {"duration": 1e9}, "`--duration 1000000000.0`"),
        ("cil_cifar10", {"method": "er", "buffer": 2 * 10**9}, "`--buffer 20"),
        ("cil_cifar10", {"batch_size": 10**6}, "`--batch-size` must lie between 1 and"),
        ("cil_cifar10", {"timesteps": 2 * 10**9}, "`--timesteps 2000000000`"),
    ],
)
def test_sizes_beyond_memory_are_refused_before_anything_is_allocated(
    script, given, words, tmp_path
):
    module, out = SCRIPTS[script], tmp_path / "run"
    sets = {"data": "digits"} if "data" in module.Config.__dataclass_fields__ else {}
    with pytest.raises(ValueError, match=words) as error:
        module.main(module.Config(out, **sets, **given))
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_what_the_parser_refuses_is_one_line(capsys):
    for text, words in {
        "--epochs abc": "--epochs.*'abc'",
        "--epcohs 3": "--epcohs.*similar: --epochs",
        "--recipe nonsense": "nonsense.*--recipe",
        "--epochs": "--epochs",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            asked("csnn_mnist", text)
        assert "\n" not in str(error.value)
    for none in ([], ["--out", ""], ["--out="]):
        with pytest.raises(ValueError, match="--out"):
            cli.parse(csnn_mnist.Config, none)
    assert capsys.readouterr() == ("", "")


def test_reuse_of_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"`--reuse .*nothing` is no folder"):
        stdp_mnist.Config(OUT, reuse=(tmp_path / "nothing",))


def asked(script, text):
    return cli.parse(SCRIPTS[script].Config, ["--out", "unused", *text.split()])


@pytest.mark.parametrize(
    ("script", "old", "new"),
    [
        ("csnn_mnist", "--lr 1", "--learning-rate 1"),
        ("cil_cifar10", "--lr 1", "--learning-rate 1"),
        ("eventprop_mnist", "--lr 1 --T 30", "--learning-rate 1 --duration 30"),
        ("eventprop_yinyang", "--lr 1 --T 50", "--learning-rate 1 --duration 50"),
        ("eventprop_yinyang", "--validation", "--num-validation 1000"),
        ("eventprop_yinyang", "--no-validation", "--num-validation 0"),
        ("stdp_mnist", "--model deep2024", "--recipe deep2024"),
    ],
)
def test_old_names_of_flags_mean_the_same(script, old, new):
    found = asked(script, new)
    assert found == asked(script, old)
    assert found != asked(script, "") or new.endswith(" 0")


@pytest.mark.parametrize(
    "script", ["csnn_mnist", "eventprop_mnist", "cil_cifar10", "events", "sound"]
)
def test_a_recipe_is_complete_in_any_order(script, capsys):
    """Its values are those of the flags left out, of the config that the library makes, and of `--help`."""
    module = SCRIPTS[script]
    for recipe, values in module.RECIPES.items():
        name, value = next((k, v) for k, v in values.items() if type(v) is int)
        more = f"--recipe {recipe}", f"{flags.name(name)} {value + 1}"
        first, second = (asked(script, " ".join(x)) for x in (more, more[::-1]))
        own = module.Config(OUT, recipe=recipe)
        assert first == second == dataclasses.replace(own, **{name: value + 1})
        assert {k: getattr(own, k) for k in values} == values
        with pytest.raises(SystemExit):
            asked(script, f"--recipe {recipe} --help")
        said = " ".join(capsys.readouterr().out.split())
        assert f"{recipe}: {flags.shown(*next(iter(values.items())))}" in said
        assert f"(default: {recipe})" in said


def test_what_follows_from_other_flags_is_not_a_recipes():
    assert not asked("csnn_mnist", "").augment
    assert asked("csnn_mnist", "--epochs 2").augment
    assert not asked("csnn_mnist", "--recipe reference --epochs 2").augment
    assert asked("cil_cifar10", "--data digits").network == "small"
    assert asked("cil_cifar10", "--network mlp --width 7").hidden == (7, 7)
    assert asked("cil_cifar10", "--method latent-er").latent_layer == 3


def test_a_model_from_before_flags_were_renamed_is_built_again():
    cfg = eventprop_yinyang.Config(OUT, duration=50.0, epochs=3, num_train=64)
    about = rebuild.about(
        cfg.of.script, cli.decisive(cfg), rebuild.Shapes((4,), 3, 64, "float32")
    )
    old = {"lr": "learning_rate", "T": "duration", "validation": "num_validation"}
    about["config"] |= {k: about["config"].pop(v) for k, v in old.items()}
    trainer = rebuild.trainer_of(OUT, about)
    assert trainer.phases[0].epochs == 3
    assert cfg.of.upgrade(about["config"])["duration"] == 50.0
