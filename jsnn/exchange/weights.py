"""Weights of other libraries: `state_dict`s from files that hold arrays and no code."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jsnn import check
from jsnn.data.arrays import read_arrays
from jsnn.exchange.conventions import GraphError
from jsnn.exchange.modules import Module
from jsnn.layers import Sequence


def from_state_dict(state: Any, modules: Mapping[str, Module]) -> Sequence:
    """Layers with the weights of a network of snnTorch or SpikingJelly.

        from jsnn.exchange import modules as m
        net = from_state_dict("net.safetensors", {"fc": m.Linear(), "lif": m.Leaky()})

    >>> from jsnn.exchange import modules
    >>> state = {"fc.weight": np.ones((3, 4)), "fc.bias": np.zeros(3)}
    >>> net = from_state_dict(state, {"fc": modules.Linear(), "lif": modules.LIFNode(tau=2.0)})
    >>> net(net.init_state((2, 4)), jnp.ones((5, 2, 4)))[1].shape  # [T, B, I] to [T, B, O]
    (5, 2, 3)

    Axes: time first and channels last, so the input of a convolution `[T, B, C, H, W]` there is `[T, B, H, W, C]` here.

    Args:
      state: arrays by name; or a file of them: `.safetensors` (`safetensors.torch.save_file(net.state_dict(), path)`) or `.npz`
        (`numpy.savez(path, **{k: v.numpy() for k, v in net.state_dict().items()})`). A file of `torch.save` is a pickle, which may run code,
        and is refused.
      modules: what the network computes, in order, by the names of its modules; see `jsnn.exchange.modules`. Names without arrays are free.

    Returns:
      A `Sequence`.

    Raises:
      GraphError: if the file cannot be read, an array is missing or of a wrong shape, or no module takes it.
    """
    arrays = state if isinstance(state, Mapping) else read(state)
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    layers, taken = [], set()
    for name, module in modules.items():
        check.kind("modules", module, Module, "made by `jsnn.exchange.modules`", "write `modules.Linear()`, say")  # fmt: skip
        known = {key: f"{name}.{key}" for key in (*module.takes, *module.may)}
        own = {key: arrays[whole] for key, whole in known.items() if whole in arrays}
        if missing := [known[key] for key in module.takes if key not in own]:
            raise GraphError(
                f"`{name}` ({module.kind}) needs {', '.join(missing)}, but the weights hold {', '.join(sorted(arrays)) or 'nothing'}."
            )
        try:
            layer = module.build(own)
        except (ValueError, TypeError, IndexError) as error:
            raise GraphError(f"`{name}` ({module.kind}): {error}") from error
        setattr(layer, "node", name)  # noqa: B010
        layers.append(layer)
        taken |= {known[key] for key in own}
    if left := sorted(arrays.keys() - taken):
        raise GraphError(
            f"No module takes {', '.join(left)}: add the module to `modules`, or leave the arrays out."
        )
    return Sequence(*layers)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays by name of a `.safetensors` or `.npz` file.

    Raises:
      GraphError: if it is neither.
      DataError: if an `.npz` file is missing or damaged.
    """
    path = check.path("state", path)
    if path.suffix == ".npz":
        return dict(read_arrays(path))
    if path.suffix != ".safetensors":
        raise GraphError(
            f"{path} must end in .safetensors or .npz: other files of weights are pickles, which may run code. Write one with `safetensors.torch.save_file(net.state_dict(), path)`."
        )
    return _safetensors(path)


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise GraphError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise GraphError(f"{path} is damaged or no safetensors file ({error}).") from error  # fmt: skip
