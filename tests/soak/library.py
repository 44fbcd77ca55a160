"""Library calls with an argument that the documentation calls wrong: none is taken in silence, and one line names it."""

import inspect
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from soak import warm
from soak.outcome import chosen


class Call(NamedTuple):
    """A call that works, and what its arguments may be.

    Attributes:
      name: of the function.
      run: takes arguments by name, those that stand in `may`.
      may: by argument, its valid value, and an interval, choices, a kind of array, or a list of what is wrong, in words and as a value.
    """

    name: str
    run: Callable[..., Any]
    may: dict[str, tuple[Any, Any]]


def wrong(interval_or: Any) -> list[tuple[str, Any]]:
    """Values that are not allowed, and their names."""
    import jax.numpy as jnp
    import numpy as np

    if isinstance(interval_or, list):
        return interval_or
    if isinstance(interval_or, tuple):  # choices
        return [("an unknown name", "nonsense"), ("a number for a name", 3), ("an empty name", ""), ("a list", [])]  # fmt: skip
    if interval_or == "labels":
        return [
            ("labels of -1", jnp.array([0, -1])),
            ("labels of C", jnp.array([0, 3])),
            ("one-hot labels", jnp.eye(3)[:2]),
            ("labels as floats", jnp.zeros(2)),
            ("too many labels", jnp.zeros(3, jnp.int32)),
            ("labels of -1 in NumPy", np.array([0, -1])),
            ("labels as text", np.array(["a", "b"])),
            ("labels of truth values", jnp.array([True, False])),
        ]
    if interval_or == "key":
        return [("a seed", 0), ("an array", jnp.zeros(3)), ("nothing", None)]
    optional = interval_or.endswith(" or None")
    interval_or = interval_or.removesuffix(" or None")
    whole = interval_or.startswith("whole ")
    low, high = interval_or.removeprefix("whole ")[1:-1].split(",")
    closed = interval_or[-1] == "]"
    values: list[float] = [math.nan, -math.inf]
    if not (closed and "inf" in high):
        values.append(math.inf)
    if "inf" not in low:
        open_low = interval_or.removeprefix("whole ")[0] == "("
        values += [float(low) - 1, *[float(low)] * open_low]
    if "inf" not in high:
        values += [float(high) + 1, *[float(high)] * (not closed)]
    found: list[tuple[str, Any]] = [
        ("text", "3"),
        ("a list", [1.0, 2.0]),
        ("a truth value", True),
        ("a complex number", 1j),
        ("an object", object()),
        ("bytes", b"3"),
    ]
    for value in values:
        if whole and math.isfinite(value):
            found += [
                (f"{value:.0f}", int(value)),
                (f"np {value:.0f}", np.int64(value)),
            ]
            if abs(value) < 2**31:
                found.append((f"jnp {value:.0f}", jnp.int32(value)))
            continue
        found += [(f"{value}", value), (f"np {value}", np.float32(value)), (f"jnp {value}", jnp.float32(value))]  # fmt: skip
        if not whole:
            found.append((f"an array with {value}", jnp.array([0.5, value])))
    if whole:
        found += [("1.5", 1.5), ("np 2.0", np.float64(2.0)), ("jnp [2]", jnp.array([2]))]  # fmt: skip
    if not optional:
        found.append(("nothing", None))
    return found


def registry() -> list[Call]:
    """The calls."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx

    import jsnn
    from jsnn import augment, encode, encoders, layers, losses, metrics, neurons
    from jsnn import surrogate as curves
    from jsnn.eventprop import grid, latency
    from jsnn.eventprop import losses as timing
    from jsnn.eventprop.flow import LIFParams, LIParams
    from jsnn.eventprop.spikes import Drive
    from jsnn.stdp import encode as fronts
    from jsnn.stdp import filters, layer, waves
    from jsnn.stdp import race as races

    key, positive, share = jax.random.key(0), "(0, inf)", "[0, 1]"
    images, x = jnp.full((2, 8, 8, 1), 0.5), jnp.ones((3, 2, 3))
    labels, wave = jnp.array([0, 1]), jnp.zeros((4, 6, 6), jnp.uint8)
    weights, drive, count = jnp.ones((3, 4, 3, 3)), Drive(x, x), "whole [1, inf)"
    natural = "whole [0, inf)"
    rngs = nnx.Rngs(0)
    network = jsnn.network(lambda rngs: [jsnn.Dense(4, 2, rngs=rngs), jsnn.LI()])
    data = jsnn.data.arrays(np.zeros((8, 4), "f"), np.arange(8) % 2, num_test=2)
    task = jsnn.classifier(network)
    resets = ("subtract", "zero", "none")

    def supervised(**options):
        given = {"batch_size": 2, "epochs": 1} | options
        return jsnn.supervised(task, optax.sgd(1.0), **given)

    def lif_on_grid(**options):
        physics = {
            n: options.pop(n)
            for n in ("tau_mem", "tau_syn", "threshold")
            if n in options
        }
        given: Any = {"dt": 1.0} | options
        return grid.lif(LIFParams(**physics), None, drive, **given)

    return [
        Call("neurons.lif", neurons.lif, {
            "beta": (0.9, share), "threshold": (1.0, positive), "reset": ("zero", resets), "spike_at": (">", (">", ">=")),
        }),
        Call("neurons.integrate_and_fire", neurons.integrate_and_fire, {"threshold": (1.0, positive), "reset": ("zero", resets)}),
        Call("neurons.leaky_integrator", neurons.leaky_integrator, {"beta": (0.9, share)}),
        Call("neurons.current_lif", neurons.current_lif, {"alpha": (0.9, share), "beta": (0.9, share), "threshold": (1.0, positive)}),
        Call("neurons.adaptive_lif", neurons.adaptive_lif, {"beta": (0.9, share), "threshold": (1.0, positive)}),
        *(Call(f"surrogate.{f.__name__}", lambda f=f, **o: f(**o)(jnp.ones(2)), {p: (1.0, positive) for p in inspect.signature(f).parameters})
          for f in curves.FACTORIES.values()),
        Call("surrogate.get", lambda surrogate: curves.get(surrogate), {"surrogate": ("arctan", tuple(curves.FACTORIES))}),
        Call("encoders.constant", encoders.constant, {"num_steps": (3, count)}),
        Call("encoders.rate", encoders.rate, {"num_steps": (3, count)}),
        Call("encoders.latency", encoders.latency, {"num_steps": (3, count)}),
        Call("encode.bernoulli", lambda key=key, num_steps=3: encode.bernoulli(key, images, num_steps), {"key": (key, "key"), "num_steps": (3, count)}),
        Call("encode.poisson", lambda key=key, num_steps=3: encode.poisson(key, images, num_steps, dt=1.0, max_rate=0.1), {"key": (key, "key"), "num_steps": (3, count)}),
        Call("jsnn.Constant", lambda num_steps: jsnn.Constant(images, num_steps), {"num_steps": (3, count)}),
        Call("layers.Dense", lambda **o: layers.Dense(2, 2, rngs=rngs, **o), {
            "init": ("pytorch", ("pytorch", "kaiming")),
        }),
        Call("layers.Dropout", lambda rate: layers.Dropout(rate), {"rate": (0.5, "[0, 1)")}),
        *(Call(f"losses.{f.__name__}", lambda labels, f=f: f(x, labels), {"labels": (labels, "labels")})
          for f in (losses.ce_rate, losses.ce_count, losses.ce_mean_membrane, losses.ce_max_membrane, losses.mse_rate, losses.mse_count, losses.tet, timing.ce_max_voltage)),
        *(Call(f"losses.{f.__name__}", lambda f=f, **o: f(x, labels, **o), {"correct_rate": (0.8, share), "incorrect_rate": (0.2, share)})
          for f in (losses.mse_rate, losses.mse_count)),
        Call("losses.tet", lambda **o: losses.tet(x, labels, **o), {"weight": (0.1, share), "target": (1.0, "(-inf, inf)")}),
        Call("losses.rate_regulariser", lambda **o: losses.rate_regulariser(x, **({"lower": 0.1, "upper": 0.9} | o)), {"lower": (0.1, share), "upper": (0.9, share)}),
        Call("eventprop.losses.first_spike_cross_entropy", lambda labels=labels, **o: timing.first_spike_cross_entropy(x[0], labels, **({"tau_softmax": 1.0} | o)), {
            "labels": (labels, "labels"), "tau_softmax": (1.0, positive), "early": (0.1, "[0, inf)"), "tau_early": (1.0, positive),
        }),
        Call("eventprop.grid.lif", lif_on_grid, {
            "tau_mem": (20.0, positive), "tau_syn": (5.0, positive), "threshold": (1.0, "(0, inf)"), "delay_steps": (1, count), "unroll": (1, count),
            "slope": ("substep", ("substep", "membrane", "threshold")), "reset": ("subtract", ("hard", "subtract")),
        }),
        Call("eventprop.grid.leaky_integrator", lambda **o: grid.leaky_integrator(LIParams(**{n: o.pop(n) for n in ("tau_mem", "tau_syn") if n in o}), None, drive, dt=1.0, **o), {
            "tau_mem": (20.0, positive), "tau_syn": (5.0, positive), "unroll": (1, count),
        }),
        Call("eventprop.latency_times", lambda **o: latency.latency_times(images, **({"t_min": 0.0, "t_max": 20.0} | o)), {}),
        Call("metrics.predict_by_membrane", lambda how: metrics.predict_by_membrane(x, how), {"how": ("mean", ("mean", "max"))}),
        Call("metrics.confusion_matrix", lambda labels: metrics.confusion_matrix(jnp.array([0, 1]), labels, 3), {"labels": (labels, "labels")}),
        Call("augment.shift", lambda key: augment.shift(key, images, 1), {"key": (key, "key")}),
        Call("augment.crop_and_flip", lambda key: augment.crop_and_flip(key, images), {"key": (key, "key")}),
        Call("jsnn.supervised", supervised, {
            "batch_size": (2, count), "epochs": (1, count), "eval_batch_size": (2, count + " or None"), "remainder": ("drop", ("drop", "keep")),
        }),
        Call("jsnn.seed_keys", lambda seed=0, num_seeds=2: jsnn.seed_keys(seed, num_seeds), {"seed": (0, "whole [0, 4294967295]"), "num_seeds": (2, count)}),
        Call("jsnn.over_seeds", lambda at_once: jsnn.over_seeds(supervised(), at_once=at_once), {"at_once": (1, count + " or None")}),
        Call("jsnn.keep_best", lambda patience: jsnn.keep_best(supervised(), patience=patience), {"patience": (1, natural + " or None")}),
        Call("jsnn.Schedule", jsnn.Schedule, {"log_every": (1, count + " or None"), "eval_every": (1, natural + " or None"), "checkpoint_seconds": (1.0, "[0, inf]")}),
        Call("jsnn.fit", lambda key: jsnn.fit(supervised(), data, key, progress=False), {"key": (key, "key")}),
        Call("data.arrays", lambda num_test: jsnn.data.arrays(np.zeros((8, 4), "f"), np.arange(8) % 2, num_test=num_test), {"num_test": (2, "whole [1, 7]")}),
        Call("data.load", lambda **o: jsnn.data.load("digits", **o), {"num_validation": (2, "whole [0, 1436]"), "seed": (0, "whole [0, 4294967295]")}),
        Call("stdp.Conv", lambda **o: layer.Conv(**({"features": 3, "kernel": 3, "threshold": 1.0, "num_winners": 1, "radius": 0} | o)), {
            "features": (3, count), "kernel": (3, count), "threshold": (1.0, "[0, inf)"), "num_winners": (1, count), "radius": (0, natural), "pool": (1, count),
            "pad": (0, natural), "pool_padding": (0, natural),
        }),
        Call("stdp.race", lambda **o: races.race(weights, wave, **({"threshold": 1.0, "num_winners": 1, "radius": 0, "num_steps": 3} | o)), {
            "threshold": (1.0, "[0, inf)"), "num_winners": (1, count), "radius": (0, natural), "num_steps": (3, "whole [1, 255]"),
        }),
        Call("stdp.waves.fire", lambda threshold=1.0, num_steps=3: waves.fire(weights, wave, threshold, num_steps), {
            "threshold": (1.0, "[0, inf)"), "num_steps": (3, "whole [1, 255]"),
        }),
        Call("stdp.waves.fire_at_last", lambda threshold: waves.fire_at_last(weights, wave < 1, threshold), {"threshold": (1.0, "[0, inf)")}),
        Call("stdp.waves.pool", lambda **o: waves.pool(wave, **({"size": 2, "num_steps": 3} | o)), {"size": (2, count), "stride": (2, count + " or None"), "padding": (0, natural)}),
        Call("stdp.normalise_locally", lambda **o: fronts.normalise_locally(images[..., 0], **({"radius": 1} | o)), {"radius": (1, natural), "eps": (1.0, positive)}),
        Call("stdp.filters.difference_of_gaussians", lambda **o: filters.difference_of_gaussians(**({"size": 3, "inner": 1.0, "outer": 2.0} | o)), {
            "size": (3, count), "inner": (1.0, positive), "outer": (2.0, positive),
        }),
    ]  # fmt: skip


# Where a message names a flag, or another name of the argument that the message explains.
CALLED = {
    "text": ("`tasks`",),
    "num_classes": ("`labels`", "`tasks`"),
    "low": ("-range x",),
    "high": ("-range x",),
    "count": ("-range x",),
    "num_samples": ("--samples",),
    "out": ("`--out",),
}


# A single number is wanted where others take one a neuron; arrays of the right numbers are another mistake.
def judge(call: Call, argument: str, value: Any) -> str | None:
    """What did not hold, in words."""
    name = argument
    try:
        call.run(**{name: value})
    except (ValueError, TypeError) as error:
        text = str(error)
        if "\n" in text:
            return f"says more than a line: {text[:120]!r}"
        if not any(word in text for word in (name, *CALLED.get(name, ()))):
            return f"does not name it: {text[:160]}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return "was accepted"


def all_cases(calls: list[Call]) -> list[tuple[int, str, str, Any]]:
    """Numbers of calls, their arguments, what is wrong and the value."""
    return [
        (number, argument, words, value)
        for number, call in enumerate(calls)
        for argument, (_, kind) in call.may.items()
        for words, value in wrong(kind)
    ]


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign, in one child: it computes."""
    out = folder / "found"

    def look() -> None:
        import jaxtyping

        jaxtyping.config.update("jaxtyping_disable", True)  # as users run it
        from soak import calls as more

        calls = registry() + more.registry()
        with out.open("w") as file:
            for call in calls:  # what is valid works
                for argument, (value, _) in call.may.items():
                    try:
                        call.run(**{argument: value})
                    except Exception as error:
                        why = f"{type(error).__name__}: {str(error)[:200]}"
                        case = f"{call.name}({argument}) as it should be"
                        file.write(json.dumps([case, why]) + "\n")
            for number, argument, words, value in chosen(all_cases(calls), seed, share):
                why = judge(calls[number], argument, value)
                case = f"{calls[number].name}({argument} of {words})"
                file.write(json.dumps([case, why]) + "\n")
                file.flush()

    ended = warm.start(look).wait(1200)
    for line in out.read_text().splitlines() if out.exists() else ():
        case, why = json.loads(line)
        yield case, why
    if ended.code:
        yield "all calls", f"ended with {ended.code}: {ended.said[-1000:]}"
