"""Networks of other tools on recordings, for `predict --nir`."""

import math
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jsnn
from jsnn import activity, data, exchange, unroll
from jsnn.data import event_files, events
from jsnn.plot import spikes as spike_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Recordings at a time, and numbers of their input.
_MOST, _NUMBERS = 50, 1 << 26


class Recordings(NamedTuple):
    """What a graph is run on: events, or inputs step by step."""

    events: events.Events | None
    inputs: np.ndarray | None  # [N, T, ...]
    labels: np.ndarray | None
    num_steps: int

    @property
    def size(self) -> int:
        """N."""
        if self.events is not None:
            return len(self.events.offsets) - 1
        assert self.inputs is not None
        return len(self.inputs)


def network(cfg: Any) -> tuple[jsnn.Sequence, tuple[int, ...], exchange.Convention]:
    """The layers, the shape of a sample that they take, and how the graph's equations become steps."""
    several = None if cfg.spikes_a_step is None else cfg.spikes_a_step == "several"
    chosen = {"reset": cfg.reset, "several": several, "floor": cfg.floor}
    convention = exchange.resolve(cfg.convention, **chosen)
    net, shape = exchange.read(cfg.nir, dt=cfg.dt, convention=convention)
    net.block_size = unroll.steps_in_cache()
    return net, shape, convention


def read(path: pathlib.Path, shape: tuple[int, ...], cfg: Any) -> Recordings:
    """Recordings of a file that fit a graph: `x`, `y`, `p`, `t_us` and `offsets`, or `inputs` step by step.

    Raises:
      DataError: if it holds neither.
      ValueError: if they do not fit.
    """
    found = data.read_arrays(path)
    split = "test" if "test_x" in found or "test_inputs" in found else ""
    prefix = f"{split}_" if split else ""
    if f"{prefix}x" in found:
        if len(shape) != 3 or shape[2] != 2:
            raise ValueError(
                f"{path} holds events of two polarities, but the graph takes {list(shape)} (channels last) and not [H, W, 2]: pass `inputs` [N, T, ...] step by step."
            )
        recordings, labels = event_files.read_events(path, split=split, sensor=shape[:2])  # fmt: skip
        steps = math.floor(int(recordings.t_us.max()) / (cfg.dt * 1e6)) + 1
        return Recordings(recordings, None, labels, cfg.timesteps or steps)
    if f"{prefix}inputs" not in found:
        raise data.DataError(
            f"{path} must hold recordings (x, y, p, t_us, offsets) or `inputs` [N, T, ...]; it holds {', '.join(sorted(found)) or 'nothing'}."
        )
    x = found[f"{prefix}inputs"]
    if x.ndim != 2 + len(shape) or x.shape[2:] != shape or 0 in x.shape or x.dtype.kind not in "biuf":  # fmt: skip
        raise ValueError(
            f"The graph takes inputs [N, T, {', '.join(map(str, shape))}], one for each step, channels last; {path} holds {x.dtype} of shape {list(x.shape)}."
        )
    if not np.isfinite(x).all():
        raise ValueError(f"The inputs of {path} must be finite, without NaN.")
    if cfg.timesteps is not None and cfg.timesteps > x.shape[1]:
        raise ValueError(f"`--timesteps {cfg.timesteps}` are more than the {x.shape[1]} of {path}.")  # fmt: skip
    labels = found.get(f"{prefix}labels")
    return Recordings(None, x, labels, cfg.timesteps or x.shape[1])


class Job:
    """A graph and what it is run on: everything is checked when it is made, and nothing computed."""

    def __init__(self, cfg: Any):
        self.net, shape, convention = network(cfg)
        found = self.found = read(cfg.data, shape, cfg)
        self.dt_us = cfg.dt * 1e6
        one = jax.ShapeDtypeStruct((found.num_steps, 1, *shape), jnp.float32)
        out = jax.eval_shape(self._run, one).shape[2:]
        if len(out) != 1:
            raise ValueError(f"The graph gives maps of shape {list(out)}, where one number a class is needed.")  # fmt: skip
        self.labels = found.labels
        if self.labels is not None:
            if len(self.labels) != found.size:
                raise ValueError(f"{cfg.data} holds {found.size} recordings but {len(self.labels)} labels: give each one.")  # fmt: skip
            self.labels = data.check_labels("label", self.labels, out[0])
        self.names = [str(number) for number in range(found.size)]
        self.batch = max(1, min(_MOST, found.size, _NUMBERS // (found.num_steps * math.prod(shape))))  # fmt: skip
        self.spikes = exchange.fires(self.net)
        self.about = {
            "nir": str(cfg.nir),
            "dt": cfg.dt,
            "timesteps": found.num_steps,
            "convention": {"name": cfg.convention, **vars(convention)},
            "scores": "spikes" if self.spikes else "mean of the output over time",
        }

    def _inputs(self, index: Any) -> jax.Array:
        """Recordings `[T, B, ...]`: events counted in steps."""
        found = self.found
        if found.events is not None:
            batch = events.take(found.events, jnp.asarray(index))
            return events.frames(batch, found.num_steps, self.dt_us)
        assert found.inputs is not None
        x = found.inputs[np.asarray(index), : found.num_steps]
        return jnp.asarray(np.moveaxis(x, 1, 0), jnp.float32)

    def _run(self, x: Any) -> Any:
        return self.net(self.net.init_state(x.shape[1:]), x)[1]

    def predict(self) -> jsnn.Prediction:
        """Classes and scores; class -1 where no output spikes."""

        @jax.jit
        def scores(x: jax.Array) -> jax.Array:
            y = self._run(x)
            return y.sum(0) if self.spikes else y.mean(0)

        parts = []
        for start in range(0, self.found.size, self.batch):
            index = np.minimum(np.arange(start, start + self.batch), self.found.size - 1)  # fmt: skip
            parts.append(np.asarray(scores(self._inputs(index))))
        found = np.concatenate(parts)[: self.found.size]
        silent = self.spikes & (found == 0).all(1)
        return jsnn.Prediction(np.where(silent, -1, found.argmax(1)), found)

    def picture(self) -> "Figure":
        """Spikes of all layers on the first recording."""
        *layers, output = exchange.record(self.net, self._inputs(np.zeros(1, int)))
        layers = layers if any(seen.spikes for seen in layers) else [output._replace(name="output", spikes=True)]  # fmt: skip
        seen = [activity.Activity(s.output if s.spikes else None, s.output, None) for s in layers]  # fmt: skip
        return spike_figures.raster(seen, [s.name or "neurons" for s in layers])
