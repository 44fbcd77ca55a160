"""Training of the three layers of Mozafari et al.'s network for digits, one image after the other: seconds an image.

    python -m benchmarks.stdp [--images 300] [--save]

Images are the bundled digits, enlarged to 28 x 28 pixels. Each layer sees what the layers below it have made of them,
computed once and kept, and has learnt from all images before its time is taken. `blocks` is the number of images whose decisions the
last layer computes at once.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.typing import ArrayLike

from benchmarks import rows, timing
from jsnn.data.digits import digits
from jsnn.stdp import encode, layer, reward, train, waves
from jsnn.stdp.layer import Conv, Decision
from jsnn.stdp.plasticity import Rates

NETWORK = (
    Conv(30, 5, threshold=15.0, num_winners=5, radius=3, pad=2),
    Conv(250, 3, threshold=10.0, num_winners=8, radius=1, pool=2, pad=1),
    Decision(200, 5, pool=3, pad=2),
)
STEPS = 15
COLUMNS = (
    "layer",
    "block",
    "images",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_min",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Seconds an image of each layer's training."""

    images: int = 300
    """Images a pass."""
    blocks: tuple[int, ...] = (8, 16, 32)
    """Images whose decisions the last layer computes at once; one row each."""
    rounds: int = 5
    """Measured samples of each layer."""
    min_seconds: float = 0.3
    """Length of a sample: a pass is repeated until it lasts so long."""
    save: bool = False
    """Append the rows to benchmarks/results/stdp.jsonl."""


def enlarged(images: ArrayLike, side: int = 28) -> np.ndarray:
    """Images in [0, 1] as bytes, `side` pixels wide, between which it interpolates linearly."""
    images = jnp.asarray(images, jnp.float32)
    shape = (images.shape[0], side, side)
    return np.asarray(jax.image.resize(images, shape, "linear") * 255).astype(np.uint8)


def workload(count: int) -> dict[str, Any]:
    """For each layer the function of its pass and the arguments, weights trained by one fast pass."""
    data = digits()[0]
    chosen = np.resize(np.arange(len(data.labels)), count)
    images = data.images[chosen, :, :, 0] / 255
    times = encode.spike_times(enlarged(images), encode.mnist_frontend())
    labels = jnp.asarray(data.labels[chosen])
    order, keys = jnp.arange(count), jax.random.split(jax.random.key(0), 3)
    first, second, top = NETWORK
    passes = {}
    for name, spec, above, key in zip(
        ("1", "2"), (first, second), (second, top), keys[:2], strict=True
    ):
        run = functools.partial(train.run, spec, num_steps=STEPS)
        weights = layer.init_weights(key, spec, times.shape[1])
        fast = train.init(weights, Rates(0.1, -0.075))
        args = (times, order, train.params(spec))
        state = jax.jit(run)(fast, *args)[0]
        passes[name] = run, (state, *args)
        respond = functools.partial(layer.respond, spec, above=above, num_steps=STEPS)
        times = jax.jit(respond)(state.weights, times)
    active = waves.fired(times, STEPS)
    state = reward.init(layer.init_weights(keys[2], top, active.shape[1]))
    passes["3"] = (
        functools.partial(reward.run, top),
        (state, active, labels, order, reward.RewardParams()),
    )
    return passes


def main(cfg: Config) -> list[dict[str, Any]]:
    """Measures every layer, prints the table and returns the rows."""
    context, passes = rows.context("stdp"), workload(cfg.images)
    calls, facts = {}, {}
    for name, (run, args) in passes.items():
        for block in cfg.blocks if name == "3" else (None,):
            fn = run if block is None else functools.partial(run, block=block)
            compiled, _ = timing.compile_step(fn, *args)
            case = (name, block)
            calls[case] = timing.timed(
                functools.partial(compiled, *args), cfg.min_seconds
            )
            facts[case] = {"layer": name, "block": block}
    samples = timing.interleave(calls, cfg.rounds)
    found = []
    for case, taken in samples.items():
        each = [timing.Sample(s.wall / cfg.images, s.cpu / cfg.images) for s in taken]
        found.append(
            context | facts[case] | {"images": cfg.images} | timing.summary(each)
        )
    rows.report(found, COLUMNS, benchmark="stdp", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
