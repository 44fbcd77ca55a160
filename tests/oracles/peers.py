"""Writes tests/oracles/peers.npz: small networks of snnTorch 1.0.0 and SpikingJelly 2.0.0, their weights, inputs and outputs.

    pip install torch snntorch==1.0.0 spikingjelly==2.0.0   # in an environment of its own
    python tests/oracles/peers.py

Of each network NAME: `NAME/state/KEY`, its state_dict; `NAME/y`, output for the input `x` [T, B, N], or `NAME/x` [T, B, C, H, W].
"""

import pathlib
from typing import Any

import numpy as np
import snntorch as snn
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

STEPS, BATCH = 20, 2


def run_snn(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    return [net(x_t) for x_t in x]


def shaken(net: nn.Module) -> nn.Module:
    """Batch norm as after training."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value in (module.running_mean, module.weight.data, module.bias.data):
                value += 0.3 * torch.randn_like(value)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def snn_networks() -> dict[str, Any]:
    """Each neuron with each reset, and one network of many modules."""
    found: dict[str, Any] = {}
    for reset in ("subtract", "zero", "none"):
        for delay in (True, False):
            how = {"init_hidden": True, "reset_mechanism": reset, "reset_delay": delay}
            name = f"{reset}_{'delay' if delay else 'now'}"
            found[f"leaky_{name}"] = snn.Leaky(beta=torch.tensor([0.5, 0.8, 0.9, 1.0]), threshold=0.8, **how)  # fmt: skip
            found[f"synaptic_{name}"] = snn.Synaptic(alpha=0.6, beta=0.8, **how)
            if reset != "none":
                found[f"rleaky_{name}"] = snn.RLeaky(beta=0.9, linear_features=4, **how)
            if reset != "none" and delay:
                found[f"rsynaptic_{name}"] = snn.RSynaptic(alpha=0.6, beta=0.8, linear_features=4, **how)  # fmt: skip
    found["rleaky_one_to_one"] = snn.RLeaky(beta=0.9, all_to_all=False, V=torch.randn(4), init_hidden=True)  # fmt: skip
    found = {name: nn.Sequential(module) for name, module in found.items()}
    found["snn_network"] = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        snn.Leaky(beta=0.8, threshold=0.5, init_hidden=True),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 6, bias=False),
        snn.Leaky(
            beta=0.9,
            threshold=0.2,
            init_hidden=True,
            reset_mechanism="zero",
            reset_delay=False,
        ),
        nn.Linear(6, 4),
        snn.Synaptic(alpha=0.7, beta=0.9, threshold=0.3, init_hidden=True),
    )
    return found


def jelly_networks() -> dict[str, nn.Module]:
    """Each neuron with each reset, and one network of many modules."""
    found: dict[str, Any] = {}
    for name, reset in (("hard", 0.0), ("soft", None), ("low", -0.25)):
        found[f"if_{name}"] = neuron.IFNode(v_reset=reset)
        for decay in (True, False):
            how = {"v_reset": reset, "decay_input": decay, "v_threshold": 0.75}
            which = f"{name}_{'decayed' if decay else 'whole'}"
            found[f"lif_{which}"] = neuron.LIFNode(tau=3.0, **how)
            found[f"plif_{which}"] = neuron.ParametricLIFNode(init_tau=1.7, **how)
    found = {name: nn.Sequential(module) for name, module in found.items()}
    found["jelly_network"] = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.LIFNode(tau=2.0, v_threshold=0.5),
        layer.MaxPool2d(2, 2),
        layer.Flatten(),
        layer.Linear(64, 6),
        neuron.ParametricLIFNode(init_tau=1.5, v_reset=None, v_threshold=0.3),
        layer.Linear(6, 4),
        neuron.IFNode(),
    )
    return found


def main() -> None:
    torch.manual_seed(0)
    alone = torch.randn(STEPS, BATCH, 4) * 1.5
    stored: dict[str, np.ndarray] = {"x": alone.numpy()}
    for name, net in (snn_networks() | jelly_networks()).items():
        deep = name.endswith("network")
        x = (torch.rand(STEPS, BATCH, 2, 8, 8) < 0.3).float() if deep else alone
        with torch.no_grad():
            y = torch.stack(run_snn(shaken(net), x))
        assert 0.02 < y.mean() < 0.98, (name, y.mean())
        stored |= {f"{name}/state/{k}": v.numpy() for k, v in net.state_dict().items()}
        if deep:
            stored[f"{name}/x"] = x.numpy().astype(np.uint8)
        stored[f"{name}/y"] = y.numpy().astype(np.uint8)
    path = pathlib.Path(__file__).with_name("peers.npz")
    np.savez_compressed(path, **stored)
    print(f"{len(stored)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
