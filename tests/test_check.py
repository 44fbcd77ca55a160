"""Numbers out of range are refused in every form that they come in, and in range they are taken in every form."""

import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from jsnn import check, layers, losses, neurons, surrogate
from jsnn.eventprop import flow

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
    slope = jax.grad(lambda f: layers._from_free("threshold", f))(free)
    np.testing.assert_allclose(slope, 1 - math.exp(-0.3), rtol=1e-5)
