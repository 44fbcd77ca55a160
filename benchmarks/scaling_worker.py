"""The measured process of `benchmarks.scaling`: `python -m benchmarks.scaling_worker '{"devices": 2, ...}'`, driven by `processes.Worker`."""

import json
import os
import sys
from typing import Any, NamedTuple

import jax

from benchmarks import workload
from benchmarks.peers.serve import jax_memory, serve
from benchmarks.timing import compile_step
from jsnn import mesh as meshes


class Work(NamedTuple):
    """What to run; see `workload.reference`."""

    devices: int
    timesteps: int
    batch_size: int


def a_core_each(num_devices: int) -> None:
    """On a machine without accelerators, makes the first cores devices and leaves the process no other. Before JAX computes anything."""
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        return
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = (
        f"{flags} --xla_force_host_platform_device_count={num_devices}"
    )
    if hasattr(os, "sched_setaffinity"):  # Linux
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:num_devices])


def build(work: Work) -> tuple[Any, dict[str, Any]]:
    """Compiles the step over the mesh."""
    mesh = meshes.make(work.devices, batch_size=work.batch_size)
    net = workload.reference(work.timesteps, work.batch_size)

    def cut(state, images, labels):
        with meshes.scope(mesh):
            return net.step(state, *meshes.shard_batch((images, labels), mesh))

    everywhere = meshes.replicated(mesh)
    state = jax.device_put(jax.jit(net.init)(net.params), everywhere)
    images, labels = jax.device_put((net.images, net.labels), everywhere)
    compiled, seconds = compile_step(cut, state, images, labels)

    def step() -> float:
        nonlocal state
        state, loss = jax.block_until_ready(compiled(state, images, labels))
        return float(loss)

    facts = {
        "compile_seconds": seconds,
        "versions": {"jax": jax.__version__},
        "memory": jax_memory(),
    }
    return step, facts


if __name__ == "__main__":
    asked = Work(**json.loads(sys.argv[1]))
    a_core_each(asked.devices)
    serve(lambda: build(asked))
