"""The class-incremental reference's training step in PyTorch, as the original writes it; run by the Python that has PyTorch.

PEER_PYTHON benchmarks/peers/torch_cil.py '{"timesteps": 10, "mode": "train", ...}' ARRAYS.npz
"""

import json
import sys
import time
from collections.abc import Sequence

import numpy as np
from serve import serve


def network(channels: Sequence[int], classes: int):
    """The original's network, whose convolutions have 64, 128 and 256 channels; a function, for only its callers have PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return (u >= 0).float()

        @staticmethod
        def backward(ctx, grad):
            (u,) = ctx.saved_tensors
            return grad / (torch.pi * (1 + (torch.pi * 2.0 * u) ** 2))

    class LIF(nn.Module):
        def forward(self, x):
            self.mem = 0.9 * self.mem + x if self.mem is not None else x
            spike = Spike.apply(self.mem - 1.0)
            self.mem = self.mem - spike * 1.0
            return spike

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            first, second, third = channels
            self.conv1 = nn.Conv2d(3, first, 3, padding=1)
            self.conv2 = nn.Conv2d(first, second, 3, padding=1)
            self.conv3 = nn.Conv2d(second, third, 3, padding=1)
            self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(k) for k in channels)
            self.pool = nn.AvgPool2d(2, 2)
            self.lif = nn.ModuleList(LIF() for _ in range(4))
            self.fc = nn.Linear(64 * third, classes)

        def forward(self, x, steps):
            for lif in self.lif:
                lif.mem = None
            total = 0
            for _ in range(steps):
                s = self.lif[0](self.bn1(self.conv1(x)))
                s = self.lif[1](self.pool(self.bn2(self.conv2(s))))
                s = self.pool(self.lif[2](self.bn3(self.conv3(s))))
                total = total + self.lif[3](self.fc(s.flatten(1)))
            return total / steps

    return Network()


def load(net, arrays) -> None:
    """Copies weights in: channels come first in PyTorch, last in the file."""
    import torch  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3", "fc"):
            weight, layer = arrays[f"{name}.weight"], getattr(net, name)
            if name == "fc":
                weight = weight.reshape(8, 8, -1, weight.shape[1])
                weight = weight.transpose(3, 2, 0, 1).reshape(weight.shape[3], -1)
            else:
                weight = weight.transpose(3, 2, 0, 1)
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
            layer.bias.copy_(torch.from_numpy(arrays[f"{name}.bias"]))


def build():
    """Imports PyTorch only here, where `serve` can answer that it is missing."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    start = time.perf_counter()
    work, arrays = json.loads(sys.argv[1]), np.load(sys.argv[2])
    channels = [k * work["width"] for k in (1, 2, 4)]
    net = network(channels, arrays["fc.bias"].size)
    net.train(work["mode"] == "train")
    load(net, arrays)
    images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images, work["timesteps"]), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, {
        "compile_seconds": time.perf_counter() - start,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__},
    }


if __name__ == "__main__":
    serve(build)
