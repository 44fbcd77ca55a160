"""Training of the three layers of Mozafari et al.'s network for digits, one image after the other: seconds an image.

    python -m benchmarks.stdp [--images 300] [--peer-python PATH] [--save]

Images are the bundled digits, enlarged to 28 x 28 pixels. Each layer sees what the layers below it have made of them,
computed once and kept, and has learnt from all images before its time is taken; all by what trains them,
`stdp.unsupervised.run` and `stdp.reward.run_committee`. `blocks` is the number of images whose decisions the last layer computes at once. Beside it SpykeTorch, where it is installed, in processes of its own that take turns with this one
(benchmarks/peers/spyketorch_worker.py); after the same pass from the same weights, the mean weight must be the same.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.typing import ArrayLike

from benchmarks import processes, rows, timing
from jsnn.data.digits import digits
from jsnn.stdp import forward, layer, reward, unsupervised
from jsnn.stdp.networks import NETWORKS
from jsnn.stdp.plasticity import Rates

NETWORK = NETWORKS["mozafari2018"]
STEPS = NETWORK.frontend().num_steps
_PEER = pathlib.Path(__file__).parent / "peers" / "spyketorch_worker.py"
COLUMNS = (
    "library",
    "layer",
    "block",
    "images",
    "seconds_min",
    "seconds_median",
    "cpu_seconds_min",
    "ratio_min",
    "ratio_median",
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
    peer_python: pathlib.Path = pathlib.Path(sys.executable)
    """Python interpreter in which torch is installed, and SpykeTorch found."""
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
    images = enlarged(data.images[chosen, :, :, 0] / 255)
    times = jnp.asarray(forward.spike_times(NETWORK, images))
    labels = jnp.asarray(data.labels[chosen])
    order, keys = jnp.arange(count), jax.random.split(jax.random.key(0), 3)
    passes: dict[str, Any] = {}
    for number, block in enumerate(NETWORK.blocks):
        (spec,) = block.branches
        run = functools.partial(stdp_pass, spec)
        weights = layer.init_weights(keys[number], spec, times.shape[1])
        fast = unsupervised.init(weights, Rates(0.1, -0.075))
        state = jax.jit(run)(fast, times, order)
        passes[str(number + 1)] = run, (state, times, order)
        respond = functools.partial(forward.responses, NETWORK, number)
        times = jax.jit(respond)((state.weights,), times)
    (top,) = NETWORK.decision
    start = reward.init(layer.init_weights(keys[2], top, times.shape[1]))
    passes["3"] = reward_pass, (start, times, labels, order)
    return passes


def stdp_pass(spec, state, times, order):
    """What trains a layer without labels, for one window."""
    params = unsupervised.params(spec)
    return unsupervised.run(spec, state, times, order, params, STEPS)


def reward_pass(state, active, labels, order, *, block: int = 16):
    """What trains the decision, for one window."""
    states, _, _ = reward.run_committee(
        NETWORK.decision,
        (state,),
        *(active, labels, order, reward.RewardParams()),
        vote=forward.majority,
        block=block,
    )
    return states[0]


def peer_arrays(passes: dict[str, Any]) -> dict[str, np.ndarray]:
    """What SpykeTorch needs for the same passes."""
    found = {f"weights_{n}": args[0].weights for n, (_, args) in passes.items()}
    state, times, *_ = passes["1"][1]
    found |= {"times": times, "labels": passes["3"][1][2]}
    found |= {"rates": np.array(state.rates), "count": state.count}
    return {name: np.asarray(x) for name, x in found.items()}


def peers(
    cfg: Config, passes: dict[str, Any], stack: contextlib.ExitStack
) -> dict[Any, processes.Worker]:
    """SpykeTorch's processes by layer, if it is installed; each has learnt what this library learns.

    Raises:
      ValueError: if it has not.
    """
    path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "a.npz"
    contents: Any = peer_arrays(passes)
    np.savez(path, **contents)
    commands = {
        name: [str(cfg.peer_python), str(_PEER), name, str(path)] for name in passes
    }
    workers = processes.start_peers(stack, commands)
    for name, worker in workers.items():
        run, args = passes[name]
        mean = float(jax.jit(run)(*args).weights.mean())
        if abs(mean - worker.facts["check"]) > 1e-3:
            raise ValueError(
                f"Layer {name}'s mean weight is {mean:.5f} here and {worker.facts['check']:.5f} in SpykeTorch after the same images: not the same work."
            )
    return {(name, "SpykeTorch"): worker for name, worker in workers.items()}


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
            facts[case] = {"library": "jsnn", "layer": name, "block": block}
    with contextlib.ExitStack() as stack:
        for case, worker in peers(cfg, passes, stack).items():
            calls[case] = worker
            facts[case] = {"library": case[1], "layer": case[0], **worker.facts}
        samples = timing.interleave(calls, cfg.rounds)
    found = []
    for case, taken in samples.items():
        each = [
            s._replace(wall=s.wall / cfg.images, cpu=s.cpu / cfg.images) for s in taken
        ]
        found.append(
            context | facts[case] | {"images": cfg.images} | timing.summary(each)
        )
    for row in found:
        if row["library"] != "jsnn":
            # This library's first row of the layer: rows of its own come first.
            beside = next(r for r in found if r["layer"] == row["layer"])
            for kind in ("min", "median"):
                own = beside[f"seconds_{kind}"]
                row[f"ratio_{kind}"] = row[f"seconds_{kind}"] / own
    rows.report(found, COLUMNS, benchmark="stdp", keep=cfg.save)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
