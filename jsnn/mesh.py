"""Devices: data parallel training over a mesh of them, in one process or in several on as many hosts.

A mesh has one axis, `data`. Parameters and data sets are replicated, each batch is cut along its first axis, and XLA adds up
gradients and batch-norm statistics over the devices. So the result is that of one device up to the order of float sums.

Several processes run the same program; they agree on what depends on a clock (`agree`), and process 0 alone writes files.

Reference: https://docs.jax.dev/en/latest/sharded-computation.html and .../multi_process.html
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jsnn import check

AXIS = "data"


def parse(text: str) -> int:
    """Number of devices in `data=N`.

    Raises:
      ValueError: if the text has another form.
    """
    found = re.fullmatch(rf"{AXIS}=([1-9][0-9]*)", text)
    if found is None:
        raise ValueError(
            f"`--mesh` must have the form {AXIS}=N with N devices, got {text!r}."
        )
    return int(found[1])


def make(num_devices: int, *, batch_size: int) -> Mesh:
    """A mesh of the first `num_devices` devices of all processes.

    Args:
      num_devices: length of the axis `data`.
      batch_size: samples a step, to be cut into as many equal parts.

    Raises:
      ValueError: if there are fewer devices, the batch cannot be divided, or a process would be left without a device.
    """
    num_devices = check.whole("num_devices", num_devices, 1)
    batch_size = check.whole("batch_size", batch_size, 1)
    if batch_size % num_devices:
        raise ValueError(
            f"`--mesh {AXIS}={num_devices}` does not divide `--batch-size {batch_size}`: choose a multiple of {num_devices}."
        )
    devices = jax.devices()
    if num_devices > len(devices):
        raise ValueError(
            f"`--mesh {AXIS}={num_devices}` asks for more devices than the {len(devices)} there are ({devices[0].platform}). On a CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={num_devices} makes as many."
        )
    processes = jax.process_count()
    if processes > 1 and num_devices != len(devices):
        raise ValueError(
            f"`--mesh {AXIS}={num_devices}` must use all {len(devices)} devices of the {processes} processes."
        )
    return Mesh(np.array(devices[:num_devices]), (AXIS,))


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """A whole copy on every device; None, JAX's own choice, without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def shard_batch(tree: Any, mesh: Mesh | None) -> Any:
    """Inside `jit`: cuts arrays `[B, ...]` along B over the mesh. A remainder, as evaluation may have, is replicated instead."""
    if mesh is None:
        return tree

    def cut(x):
        spec = PartitionSpec(AXIS) if x.shape[0] % mesh.size == 0 else PartitionSpec()
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(cut, tree)


def scope(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """While a step is traced: tells `by_device`, deep inside the layers, that batches are cut over `mesh`."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def by_device(
    fn: Callable[[jax.Array], jax.Array], x: jax.Array, *, axis: int = 0
) -> jax.Array:
    """`fn(x)`, each device taking its own part of the batch: for what treats samples one by one, but merges or cuts the batch's axis on the way.

    XLA follows a cut along B through most operations, but not through a reshape to [T B] or to blocks of images: there it
    would gather the batch, and every device would compute all of it.

    Args:
      fn: a pure function that keeps the axis of the batch where it is; whatever it closes over (weights) is whole on every device.
      x: whole, or cut along B.
      axis: that of the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    ours = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if ours.get(AXIS) != AxisType.Auto or x.shape[axis] % mesh.shape[AXIS]:
        return fn(x)
    spec = PartitionSpec(*[None] * axis, AXIS)
    return jax.shard_map(fn, in_specs=spec, out_specs=spec, check_vma=False)(x)


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Copies arrays, which every process holds alike, to all devices of the mesh."""
    if mesh is None:
        return jax.device_put(tree)
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(x):
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return _map_data(put, tree)


def _map_data(fn: Callable[[Any], jax.Array], tree: Any) -> Any:
    """`fn` of every array; of a typed PRNG key, of the integers behind it."""

    def one(x):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return fn(x)
        data = fn(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))

    return jax.tree.map(one, tree)


def gather(tree: Any, mesh: Mesh | None) -> Any:
    """The inverse of `replicate`: arrays on this process's first device, free of the mesh."""
    if mesh is None:
        return tree
    return _map_data(lambda x: jnp.asarray(np.asarray(x)), tree)


def is_primary() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """Process 0's `value`, in all processes: for decisions that depend on a clock."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait(name: str) -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the processes of a run, before anything is computed. On TPU pods, SLURM and Open MPI all arguments may be None.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: how many there are.
      process_id: number of this one, from 0.

    Raises:
      ValueError: if some but not all are given, or the others do not come within five minutes.
    """
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError(
            "`--coordinator`, `--num-processes` and `--process-id` go together: give all three, or none on a cluster that JAX knows."
        )
    try:
        # A process that ends is noticed within this time even between collective operations.
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=30
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"`--distributed` could not join the other processes ({error}). Check that process 0 runs at `--coordinator {coordinator}` and that all have started."
        ) from error
