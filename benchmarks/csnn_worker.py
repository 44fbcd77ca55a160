"""The measured process of this library: `python -m benchmarks.csnn_worker '{"timesteps": 25, ...}'`, driven by `processes.Worker`."""

import json
import sys
from typing import Any, Literal, NamedTuple

import jax

from benchmarks import workload
from benchmarks.peers.serve import serve
from benchmarks.timing import compile_step


class Work(NamedTuple):
    """What to run; see `workload.reference`."""

    timesteps: int
    batch_size: int
    mode: Literal["train", "infer"] = "train"
    block_size: int | None = None
    remat: bool = False


def build(work: Work) -> tuple[Any, dict[str, Any]]:
    """Compiles the step and says what compiling took and what memory the program plans for."""
    net = workload.reference(
        work.timesteps, work.batch_size, block_size=work.block_size, remat=work.remat
    )
    if work.mode == "train":
        state = jax.block_until_ready(jax.jit(net.init)(net.params))
        fn, args, donate = net.step, (state, net.images, net.labels), (0,)
    else:
        fn, args, donate = net.infer, (net.params, net.images), ()
    compiled, seconds = compile_step(fn, *args, donate=donate)

    def step() -> float:
        nonlocal args
        out = jax.block_until_ready(compiled(*args))
        if work.mode == "infer":
            return float(out.sum())
        args = (out[0], *args[1:])
        return float(out[1])

    analysis = compiled.memory_analysis()
    facts = {
        "compile_seconds": seconds,
        "temp_bytes": getattr(analysis, "temp_size_in_bytes", None),
        "backend": jax.default_backend(),
        "versions": {"jax": jax.__version__},
    }
    return step, facts


if __name__ == "__main__":
    serve(lambda: build(Work(**json.loads(sys.argv[1]))))
