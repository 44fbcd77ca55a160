"""Numbers out of range are refused in every form that they come in, and in range they are taken in every form."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from flax import nnx

from jsnn import (
    augment,
    check,
    encode,
    head,
    layers,
    losses,
    metrics,
    neurons,
    sound,
    surrogate,
)
from jsnn.continual import methods, settings, stream
from jsnn.data.dataset import Split, hold_out
from jsnn.data.yinyang import yin_yang
from jsnn.eventprop import events, flow, latency, network, spikes, synapse
from jsnn.eventprop import losses as event_losses
from jsnn.eventprop.spikes import TimedSpikes
from jsnn.stdp import filters, inhibition, plasticity, traces, waves
from jsnn.stdp.encode import Frontend
from jsnn.stdp.layer import Conv
from jsnn.stdp.plasticity import Rates
from jsnn.stdp.traces import TraceParams
from jsnn.train import loop, search, supervised
from jsnn.train import task as tasks
from jsnn.unroll import Constant

KINDS = {
    "float": float,
    "np.float32": np.float32,
    "np.float64": np.float64,
    "0-d array": np.asarray,
    "float16": np.float16,
    "bfloat16": lambda v: jnp.asarray(v, jnp.bfloat16),
    "jax": jnp.float32,
    "per neuron": lambda v: np.array([0.5, v], np.float32),
    "jax per neuron": lambda v: jnp.array([v, 0.5]),
    "flax": lambda v: nnx.Param(jnp.float32(v)),
}
SPIKES = jnp.ones((3, 2, 4))
LABELS = jnp.zeros(2, jnp.int32)
IMAGES = jnp.full((2, 3), 0.5)
MAPS = jnp.ones((2, 4, 4, 1))
KEY = jax.random.key(0)
TASK = tasks.Task(*[lambda *_: None] * 5)  # pyright: ignore[reportArgumentType]
SPLIT = Split(np.zeros((9, 2, 2, 1), np.uint8), np.zeros(9, np.int32))
RANGES = {
    "lif beta": (lambda v: neurons.lif(beta=v), (1.5, -0.1)),
    "lif threshold": (lambda v: neurons.lif(threshold=v), (-1.0, 0.0)),
    "current_lif alpha": (lambda v: neurons.current_lif(alpha=v), (1.5,)),
    "adaptive_lif rho": (lambda v: neurons.adaptive_lif(rho=v), (2.0,)),
    "adaptive_lif strength": (lambda v: neurons.adaptive_lif(strength=v), ()),
    "leaky_integrator": (lambda v: neurons.leaky_integrator(beta=v), (1.5,)),
    "decay tau": (lambda v: neurons.decay(1e-3, v), (-1.0, 0.0)),
    "decay dt": (lambda v: neurons.decay(v, jnp.float32(1)), (-1.0, 0.0)),
    "tau_mem": (lambda v: flow.check_params(flow.LIFParams(tau_mem=v)), (-20.0, 0.0)),
    "tau_syn": (lambda v: flow.check_params(flow.LIParams(tau_syn=v)), (-20.0, 0.0)),
    "threshold at reset": (
        lambda v: flow.check_params(flow.LIFParams(threshold=v)),
        (-1.0, 0.0),
    ),
    "target": (lambda v: losses.tet(SPIKES, LABELS, target=v), ()),
    "weight": (lambda v: losses.tet(SPIKES, LABELS, weight=v), (1.5,)),
}
RANGES |= {
    f"surrogate {name}": (make, (-25.0, 0.0))
    for name, make in surrogate.FACTORIES.items()
}
WRONG = [
    (what, kind, value)
    for what, (_, values) in RANGES.items()
    for kind in KINDS
    for value in (*values, math.nan, math.inf, -math.inf)
]


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch):
    """What a user sees, who runs without the shape checks of the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_numbers_out_of_range_are_refused_in_every_form():
    accepted = []
    for what, kind, value in WRONG:
        try:
            RANGES[what][0](KINDS[kind](value))
        except ValueError:
            continue
        accepted.append(f"{what} = {value} as {kind}")
    assert len(WRONG) > 500
    assert not accepted


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_in_range_are_taken_in_every_form(kind):
    for what, (call, _) in RANGES.items():
        if kind in ("per neuron", "jax per neuron") and what in ("target", "weight"):
            continue
        call(KINDS[kind](0.75))


def test_traced_numbers_pass():
    def call(value):
        for what, (call, _) in RANGES.items():
            if what not in ("target", "weight"):
                call(value)
        return value

    jax.jit(lambda n: check.whole("n", n, 5))(3)
    jax.jit(call)(-1.0)
    jax.vmap(call)(jnp.array([-1.0, 2.0]))
    jax.grad(call)(-1.0)
    assert check.known(jax.ShapeDtypeStruct((), jnp.float32)) is None


def test_interval_ends_belong_to_closed_ones_only():
    for interval, inside in (
        ("[0, 1]", (0, 1)),
        ("[0, 1)", (0,)),
        ("(0, 1]", (1,)),
        ("(0, 1)", ()),
    ):
        for end in (0, 1, np.float32(0), np.float32(1)):
            if end in inside:
                check.number("x", end, interval)
            else:
                with pytest.raises(ValueError, match=r"`x` must lie .*, got [01]"):
                    check.number("x", end, interval)
    check.number("x", math.inf, "(0, inf]")
    check.number("x", np.float32(np.nextafter(np.float32(1), np.float32(0))), "[0, 1)")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.9", "`x` must be a number, got '0.9'"),
        (None, "`x` must be a number, got None"),
        (True, "`x` must be a number, got True"),
        ([0.5, 0.9], r"write `jnp.array\(\[0.5, 0.9\]\)`"),
        (1j, "`x` must be a number"),
    ],
)
def test_what_is_no_number_is_said_to_be_none(value, message):
    with pytest.raises(TypeError, match=message):
        check.number("x", value)


@pytest.mark.parametrize("value", [5, np.int32(5), np.int64(5), np.asarray(5), 5 + 0])
def test_whole_numbers_of_every_form_become_int(value):
    for form in (value, jnp.asarray(value)):
        found = check.whole("x", form, 1, 5)
        assert found == 5
        assert type(found) is int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "`x` must lie between 1 and 9, got 0"),
        (np.int64(10), "`x` must lie between 1 and 9, got 10"),
        (jnp.asarray(-1), "`x` must lie between 1 and 9, got -1"),
        (5.0, "whole number, got 5.0"),
        (np.float32(5), "whole number, got"),
        (True, "whole number, got True"),
        ("5", "whole number, got '5'"),
        (None, "whole number, got None"),
        (np.array([5, 5]), r"whole number, got an array of shape \(2,\)"),
        (math.nan, "whole number, got nan"),
    ],
)
def test_whole_numbers_are_refused_out_of_range_and_in_part(value, message):
    with pytest.raises(ValueError, match=message):
        check.whole("x", value, 1, 9)


def test_a_learnt_parameter_keeps_its_range_whatever_the_steps():
    """Far in both directions, and exactly at its start before the first step."""
    neuron = neurons.lif(beta=0.9, threshold=0.3)
    layer = layers.Neurons(neuron, learn=("beta", "threshold"))
    params = layer.model()[1]
    np.testing.assert_allclose(params.beta, 0.9, rtol=1e-6)
    np.testing.assert_allclose(params.threshold, 0.3, rtol=1e-6)
    for far in (-1e4, -200.0, -20.0, 20.0, 200.0, 1e4):
        for variable in layer.params.values():
            variable[...] = jnp.float32(far)
        params = layer.model()[1]
        assert 0 < params.beta < 1
        assert 0 < params.threshold < math.inf
    wide = layers.Neurons(neurons.lif(threshold=200.0), learn=("threshold",))
    np.testing.assert_allclose(wide.model()[1].threshold, 200.0, rtol=1e-6)


def test_the_gradient_of_a_learnt_threshold_is_that_of_its_softplus():
    """Chain rule by hand: d theta / d free = 1 - exp(-theta)."""
    layer = layers.Neurons(neurons.lif(threshold=0.3), learn=("threshold",))
    free = layer.params["threshold"][...]
    slope = jax.grad(lambda f: layers.spiking._from_free("threshold", f))(free)
    np.testing.assert_allclose(slope, 1 - math.exp(-0.3), rtol=1e-5)


NOT_FINITE = (math.nan, math.inf)
MORE = {
    "lateral factors": (lambda v: inhibition.lateral(IMAGES, [v]), NOT_FINITE),
    "frontend threshold": (lambda v: Frontend(np.ones((1, 3, 3)), threshold=v), (-1,)),
    "conv threshold": (
        lambda v: Conv(2, 3, threshold=v, num_winners=1, radius=0),
        (-1, math.nan, math.inf),
    ),
    "trace tau": (lambda v: traces.pair_window(IMAGES, TraceParams(tau_pre=v)), (0,)),
    "trace bounds": (
        lambda v: traces.pair_window(IMAGES, TraceParams(low=v, high=0.0)),
        (0.5, math.nan),
    ),
    "rates": (lambda v: plasticity.as_arrays(Rates(v, 0.1)), NOT_FINITE),
    "difference of Gaussians": (
        lambda v: filters.difference_of_gaussians(7, v, 2.0),
        (0, -1, *NOT_FINITE),
    ),
    "energy price": (lambda v: metrics.energy(1, 1, ac_joules=v), (-1, math.nan)),
    "dropout": (lambda v: layers.Dropout(v), (1.0, -0.1, math.nan)),
    "momentum": (lambda v: layers.BatchNorm(2, momentum=v), (1.5, math.nan)),
    "degrees": (lambda v: augment.random_affine(KEY, MAPS, degrees=v), (-1,)),
    "scale": (lambda v: augment.random_affine(KEY, MAPS, scale=v), (1.0, math.nan)),
    "share": (lambda v: augment.some(KEY, v, MAPS, MAPS), (1.5, -1)),
    "tau_softmax": (
        lambda v: event_losses.first_spike_cross_entropy(IMAGES, LABELS, tau_softmax=v),
        (0, -1, *NOT_FINITE),
    ),
    "dt": (lambda v: spikes.from_times(IMAGES, num_steps=3, dt=v), (0, -1, math.nan)),
    "t_max": (lambda v: latency.latency_times(IMAGES, t_max=v), (0, -1, math.inf)),
    "max_rate": (lambda v: encode.poisson(KEY, IMAGES, 3, dt=1e-3, max_rate=v), (-1,)),
    "tau_steps": (lambda v: encode.latency_times(IMAGES, 3, tau_steps=v), NOT_FINITE),
    "delta": (lambda v: encode.delta(SPIKES, threshold=v), (-1, math.nan)),
    "checkpoint_seconds": (lambda v: loop.Schedule(checkpoint_seconds=v), (-1,)),
    "changed share": (lambda v: augment.by_colour(v), (1.5, -1, math.nan)),
    "neurons' dt": (lambda v: network.lif(dt=v), (0, *NOT_FINITE)),
    "integrator's dt": (lambda v: network.leaky(dt=v), (0, *NOT_FINITE)),
    "encoder's dt": (lambda v: latency.encoder(dt=v), (0, 26, *NOT_FINITE)),
    "t_end": (lambda v: events.check_solvable(flow.LIFParams(), v), (0, math.nan)),
    "warp": (lambda v: sound.mel_bank(2, 9, 99, 64, 999, v), (0, *NOT_FINITE)),
    "total": (lambda v: traces.normalise(IMAGES, v), (0, -1, *NOT_FINITE)),
    "range": (lambda v: search.linear("x", v, 3.0), (3.0, *NOT_FINITE)),
}
WHOLE = {
    "Constant": (lambda n: Constant(IMAGES, n), 0),
    "encode": (lambda n: encode.direct(IMAGES, n), 0),
    "Dense": (lambda n: layers.Dense(n, 2, rngs=nnx.Rngs(0)), 0),
    "Conv stride": (lambda n: layers.Conv(1, 1, stride=n, rngs=nnx.Rngs(0)), 0),
    "Conv padding": (lambda n: layers.Conv(1, 1, padding=n, rngs=nnx.Rngs(0)), -1),
    "MaxPool": (lambda n: layers.MaxPool(n), 0),
    "BatchNorm": (lambda n: layers.BatchNorm(n), 0),
    "recurrent": (
        lambda n: layers.Neurons(neurons.lif(), recurrent=n, rngs=nnx.Rngs(0)),
        0,
    ),
    "head": (lambda n: head.GrowingHead(2, n, rngs=nnx.Rngs(0)), 0),
    "room": (lambda n: head.room_for(n, 2), -1),
    "shift": (lambda n: augment.shift(KEY, MAPS, n), -1),
    "epochs": (
        lambda n: supervised.supervised(TASK, optax.sgd(1), batch_size=3, epochs=n),
        0,
    ),
    "batch_size": (
        lambda n: supervised.supervised(TASK, optax.sgd(1), batch_size=n, epochs=1),
        0,
    ),
    "hold out": (lambda n: hold_out(SPLIT, n, seed=0), -1),
    "pool of waves": (
        lambda n: waves.pool(jnp.zeros((1, 4, 4), jnp.uint8), n, num_steps=3),
        0,
    ),
    "kernel": (lambda n: Conv(2, n, threshold=1.0, num_winners=1, radius=0), 0),
    "num_winners": (lambda n: Conv(2, 3, threshold=1.0, num_winners=n, radius=0), 0),
    "from_times": (lambda n: spikes.from_times(IMAGES, num_steps=n, dt=1.0), 0),
    "delay": (
        lambda n: synapse.axonal_delay(
            TimedSpikes(SPIKES), jnp.ones(4), dt=1, max_steps=n
        ),
        -1,
    ),
    "points": (lambda n: yin_yang(n, seed=0), 0),
    "seed of points": (lambda n: yin_yang(1, seed=n), -1),
    "average": (lambda n: network.avg_pool(n), 0),
    "stride": (lambda n: network.conv(1, 1, 3, stride=n), 0),
    "padding": (lambda n: network.conv(1, 1, 3, padding=n), -1),
    "recurrent delay": (lambda n: network.recurrent(2, dt=1.0, delay_steps=n), 0),
    "unroll": (lambda n: network.leaky(dt=1.0, unroll=n), 0),
    "bands": (lambda n: sound.mel_bank(n, 9, 99, 64, 999), 0),
    "silent border": (lambda n: waves.pad(jnp.zeros((1, 2, 2), jnp.uint8), n, 3), -1),
    "silence": (lambda n: waves.pad(jnp.zeros((1, 2, 2), jnp.uint8), 1, n), 256),
    "classes": (lambda n: metrics.confusion_matrix(LABELS, LABELS, n), 0),
    "fan-out": (lambda n: metrics.conv_fan_out((3, 3), (3, 3), n), 0),
    "classes of tasks": (lambda n: stream.parse_tasks("1x1", n), 0),
    "buffer": (lambda n: methods.der_plus_plus(buffer_size=n), 0),
}


def refused(call, value):
    try:
        call(value)
    except (ValueError, TypeError) as error:
        return str(error).startswith("`")  # a sentence of ours names the argument
    return False


@pytest.mark.parametrize("what", MORE)
def test_documented_ranges_hold_for_numbers_of_every_kind(what):
    call, values = MORE[what]
    for value in values:
        for kind in (float, np.float32, np.asarray, jnp.float32):
            assert refused(call, kind(value)), (kind, value)
    for kind in (float, np.float32, jnp.float32):
        if what not in ("trace bounds",):
            call(kind(0.5))


@pytest.mark.parametrize("what", WHOLE)
def test_whole_numbers_are_taken_and_refused_in_every_form(what):
    call, wrong = WHOLE[what]
    for kind in (int, np.int64, np.asarray, jnp.asarray):
        assert refused(call, kind(wrong)), kind
        call(kind(3))
    absent = () if what == "recurrent" else (None,)
    for value in (3.0, np.float32(3), True, "3", [3], *absent):
        assert refused(call, value), value


WORD: Any = "some"
NOTHING: Any = [None] * 5


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("predictions", lambda: metrics.confusion_matrix(jnp.zeros(3, int), LABELS, 2)),
        ("predictions", lambda: metrics.confusion_matrix(jnp.zeros(2), LABELS, 2)),
        ("weights", lambda: traces.run(jnp.ones((3, 3)), jnp.ones((4, 2)), IMAGES[:1])),
        ("weights", lambda: traces.run(jnp.ones((2, 3)), jnp.ones((4, 2)), IMAGES)),
        ("scores", lambda: metrics.roc_auc(np.full((2, 2), np.nan), np.arange(2))),
        ("clip", lambda: plasticity.learn(*NOTHING, stabilise=True, clip=WORD)),
        ("exemplars", lambda: methods.er(WORD)),
        ("name", lambda: methods.get(NOTHING)),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(name, call):
    with pytest.raises(ValueError, match=f"`{name}`"):
        call()


def test_settings_of_continual_methods_are_checked_by_name():
    for kind in (float, np.float32, jnp.float32):
        for name, value in (
            ("alpha", -1.0),
            ("beta", math.nan),
            ("temperature", 0.0),
            ("decay", 1.5),
        ):
            with pytest.raises(ValueError, match=f"`replay.{name}` must"):
                settings.check_settings({"replay": {name: kind(value)}})
        settings.check_settings({"replay": {"alpha": kind(0), "decay": kind(1)}})
