"""One spiking network, four gradients: surrogate BPTT, EventProp on a grid, exact EventProp, and finite differences; angles against dt.

    python -m benchmarks.gradient_agreement [--seeds 16] [--figure docs/pictures/gradient_agreement.png] [--save]

Six inputs of three spikes each, five LIF neurons, three leaky integrators whose exponentially weighted voltage is the loss; about 20
hidden spikes. The gradient is that with respect to the weights of the hidden layer, in float64. The truth is the central finite
difference of the exact solver's loss; each other gradient is given by its angle to it: 0 is agreement, 90 degrees is a direction that has nothing to do with
it. A grid may gain or lose a spike and then differentiates another network, so angles are medians over random networks.

Axes: S seeds, I inputs, N neurons, C classes, T time.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import rows
from jsnn import surrogate
from jsnn.eventprop import (
    EventSpikes,
    LIFParams,
    LIParams,
    TimedSpikes,
    event_layers,
    feed_forward,
    grid,
    losses,
    spikes,
    synapse,
)
from jsnn.eventprop.flow import flow
from jsnn.plot import figures

NUM_IN, NUM_HIDDEN, NUM_OUT, T_END, PER_INPUT = 6, 5, 3, 70.0, 3
COLUMNS = ("gradient", "dt", "angle_median", "angle_lower", "angle_upper", "length")
# Compiling is most of what this costs, so it goes without optimisation.
_QUICKLY: Any = {"compiler_options": {"xla_backend_optimization_level": 0}}
SURROGATES = {"arctan": surrogate.arctan(), "fast sigmoid": surrogate.fast_sigmoid()}


@dataclasses.dataclass(frozen=True)
class Config:
    """Angles between four gradients of one network."""

    seeds: int = 16
    """Random networks."""
    dts: tuple[float, ...] = (2.0, 1.0, 0.5, 0.2, 0.1)
    """Time steps in ms; whole fractions or multiples of 1."""
    figure: pathlib.Path | None = None
    """Where to write the picture."""
    save: bool = False
    """Append the rows to benchmarks/results/eventprop_agreement.jsonl."""


def networks(num_seeds: int) -> dict[str, jax.Array]:
    """Input spikes at even milliseconds, so that every dt sees the same input; weights that make 2 to 6 spikes a neuron."""
    rng = np.random.default_rng(0)
    count = PER_INPUT * NUM_IN
    times = 2.0 * np.sort(rng.choice(20, (num_seeds, count)))
    senders = np.tile(np.repeat(np.arange(NUM_IN), PER_INPUT), (num_seeds, 1))
    arrays = {
        "times": times,
        "neuron": rng.permuted(senders, axis=1).astype(np.int32),
        "w": rng.uniform(0.2, 2.4, (num_seeds, NUM_IN, NUM_HIDDEN)),
        "w_out": rng.normal(0, 1, (num_seeds, NUM_HIDDEN, NUM_OUT)),
        "c": rng.normal(size=(num_seeds, NUM_OUT)),
    }
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def exact(w: Any, x: Any) -> tuple[Any, Any]:
    """Loss and number of hidden spikes, event by event."""
    inputs = EventSpikes(x["times"], x["neuron"], jnp.zeros((), bool))
    s = feed_forward(LIFParams(), w, inputs, t_end=T_END, max_spikes=10)
    v = event_layers.weighted_voltage(LIParams(), x["w_out"], s, t_end=T_END)
    return jnp.sum(v * x["c"]), (s.neuron >= 0).sum()


def _input(x: Any, dt: float) -> TimedSpikes:
    steps = round(T_END / dt)
    at = jnp.round(x["times"] / dt).astype(int)
    return TimedSpikes(jnp.zeros((steps, 1, NUM_IN)).at[at, 0, x["neuron"]].add(1.0))


def _loss_of_hidden(hidden: TimedSpikes, x: Any, dt: float) -> Any:
    drive = synapse.synapse(synapse.dense, x["w_out"], hidden)
    _, v = grid.leaky_integrator(LIParams(), None, drive, dt=dt)
    return jnp.sum(losses.weighted_voltage(v)[0] * x["c"])


def on_grid(w: Any, x: Any, dt: float) -> tuple[Any, Any]:
    """The same on a grid, with the adjoint as its gradient."""
    drive = synapse.synapse(synapse.dense, w, _input(x, dt))
    _, hidden = grid.lif(LIFParams(), None, drive, dt=dt)
    return _loss_of_hidden(hidden, x, dt), spikes.counts(hidden).sum()


def by_surrogate(w: Any, x: Any, dt: float, spike_fn: Any) -> tuple[Any, Any]:
    """The same network with the whole reset at the grid point, by plain autodiff with a surrogate for the step; the reset is detached."""
    a, b, kappa = flow(jnp.asarray(dt), jnp.asarray(20.0), jnp.asarray(5.0))

    def step(state, u):
        v, i = state
        v = a * v + kappa * i
        s = spike_fn(v - 1.0)
        return (v - jax.lax.stop_gradient(s), b * i + u), s

    def integrate(state, u):
        v, i = state
        v = a * v + kappa * i
        return (v, b * i + u), v

    rest = jnp.zeros(NUM_HIDDEN)
    _, s = jax.lax.scan(step, (rest, rest), _input(x, dt).values[:, 0] @ w)
    rest = jnp.zeros(NUM_OUT)
    _, v = jax.lax.scan(integrate, (rest, rest), s @ x["w_out"])
    return jnp.sum(losses.weighted_voltage(v[:, None])[0] * x["c"]), s.sum()


def finite_differences(x: Any, step: float = 1e-6) -> tuple[Any, Any]:
    """Central differences of the exact loss `[I, N]`, and whether the number of spikes stayed the same throughout."""

    def one(direction):
        up, more = exact(x["w"] + step * direction, x)
        down, less = exact(x["w"] - step * direction, x)
        return (up - down) / (2 * step), more == less

    basis = jnp.eye(x["w"].size).reshape(-1, *x["w"].shape)
    gradient, same = jax.lax.map(one, basis)
    return gradient.reshape(x["w"].shape), same.all()


def angles(found: Any, truth: Any) -> np.ndarray:
    """Degrees between gradients of each seed, `[S]`; accurate for small angles, unlike the arc cosine."""
    a, b = (np.asarray(g).reshape(len(g), -1) for g in (found, truth))
    a, b = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in (a, b))
    half = np.linalg.norm(a - b, axis=1) / 2
    return np.degrees(2 * np.arcsin(np.minimum(half, 1.0)))


def measure(cfg: Config) -> list[dict[str, Any]]:
    """One row for each gradient and dt."""
    methods: dict[str, Any] = {"EventProp grid": on_grid}
    for name, spike_fn in SURROGATES.items():
        methods[f"surrogate, {name}"] = lambda w, x, dt, f=spike_fn: by_surrogate(
            w, x, dt, f
        )
    with jax.enable_x64(True):
        x = networks(cfg.seeds)
        truth, same = jax.jit(jax.vmap(finite_differences), **_QUICKLY)(x)
        if not same.all():
            raise RuntimeError("A finite difference stepped over a spike's birth.")

        def gradient(loss):
            fn = jax.value_and_grad(loss, has_aux=True)
            run = jax.jit(jax.vmap(lambda x: fn(x["w"], x)), **_QUICKLY)
            (_, count), g = run(x)
            return g, np.asarray(count)

        g, number = gradient(exact)
        found = [_row("EventProp exact", None, g, truth, 1.0)]
        for dt in cfg.dts:
            for name, method in methods.items():
                g, count = gradient(lambda w, x, m=method, dt=dt: m(w, x, dt))
                found.append(_row(name, dt, g, truth, np.mean(count == number)))
    return found


def _row(name: str, dt: float | None, g: Any, truth: Any, same: Any) -> dict[str, Any]:
    degrees = angles(g, truth)
    lower, median, upper = np.percentile(degrees, (25, 50, 75))
    norm = np.linalg.norm(np.asarray(g).reshape(len(g), -1), axis=1)
    norm = norm / np.linalg.norm(np.asarray(truth).reshape(len(g), -1), axis=1)
    return {
        "gradient": name,
        "dt": dt,
        "seeds": len(degrees),
        "angle_median": float(median),
        "angle_lower": float(lower),
        "angle_upper": float(upper),
        "length": float(np.median(norm)),
        "same_spike_count": float(same),
    }


def draw(found: list[dict[str, Any]]) -> Any:
    """Median angles with quartiles against dt."""
    exact_row, *others = found
    colours = ("blue", "orange", "muted")
    with figures.style():
        figure = figures.new_figure(3.4, 6.0)
        ax = figure.subplots()
        for name, colour in zip(
            dict.fromkeys(r["gradient"] for r in others), colours, strict=True
        ):
            line = [r for r in others if r["gradient"] == name]
            dt = [r["dt"] for r in line]
            low, high = ([r[f"angle_{k}"] for r in line] for k in ("lower", "upper"))
            c = figures.COLOURS[colour]
            ax.plot(
                dt, [r["angle_median"] for r in line], "o-", ms=3, color=c, label=name
            )
            ax.fill_between(dt, low, high, color=c, alpha=0.15, lw=0)
        ax.set_xscale("log")
        ax.set_ylim(bottom=0)
        ax.set_xlabel("dt (ms)")
        ax.set_ylabel("angle to finite differences (degrees)")
        ax.set_title(f"exact EventProp: {exact_row['angle_median']:.0e} degrees")
        ax.legend()
    return figure


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures, prints the table, draws, and returns the rows."""
    context = rows.context("eventprop_agreement")
    found = measure(cfg)
    if cfg.figure is not None:
        cfg.figure.parent.mkdir(parents=True, exist_ok=True)
        with figures.style():
            draw(found).savefig(cfg.figure, facecolor="white")
    found = [context | row for row in found]
    columns = (*COLUMNS, "same_spike_count")
    rows.report(found, columns, benchmark="eventprop_agreement", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
