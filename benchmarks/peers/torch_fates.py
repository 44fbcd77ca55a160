"""The start or the first steps of the class-incremental reference's first task, in PyTorch; run by the Python that has PyTorch.

PEER_PYTHON benchmarks/peers/torch_fates.py '{"seed": 0, "channels": [64, 128, 256], "samples": 10000}' OUT.npz
    writes the weights and the order of samples that this seed begins with.
PEER_PYTHON benchmarks/peers/torch_fates.py '{"channels": [64, 128, 256], ...}' IN.npz train
    trains on the batches of IN.npz and prints a line of JSON for each step.
"""

import json
import sys
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch_cil import load, network


def save_start(work, path) -> None:
    """In the original's order: the network first, then the loader's shuffle."""
    torch.manual_seed(work["seed"])
    net = network(work["channels"], 2)
    order = torch.utils.data.RandomSampler(range(work["samples"]))
    arrays: Any = {"order": np.array(list(order))}
    for name in ("conv1", "conv2", "conv3", "fc"):
        layer = getattr(net, name)
        weight = layer.weight.detach().numpy()
        if name == "fc":  # channels come first in PyTorch, last in the file
            weight = weight.reshape(2, -1, 8, 8).transpose(2, 3, 1, 0).reshape(-1, 2)
        else:
            weight = weight.transpose(2, 3, 1, 0)
        arrays |= {
            f"{name}.weight": weight,
            f"{name}.bias": layer.bias.detach().numpy(),
        }
    np.savez(path, **arrays)


def train(work, arrays) -> None:
    """One pass over the images, a batch a step."""
    images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    net = network(work["channels"], 2).train()
    load(net, arrays)
    if work["channels_last"]:
        net = net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=work["learning_rate"])
    size = work["batch_size"]
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        optimizer.zero_grad()
        rates = net(x, work["timesteps"])
        loss = torch.nn.functional.cross_entropy(rates, y)
        loss.backward()
        optimizer.step()
        print(json.dumps([loss.item(), rates.tolist()]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[3:] == ["train"]:
        train(json.loads(sys.argv[1]), np.load(sys.argv[2]))
    else:
        save_start(json.loads(sys.argv[1]), sys.argv[2])
