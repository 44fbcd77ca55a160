"""The training step of the reference CSNN in snnTorch and in SpikingJelly, each as its users write it.

Weights, images and labels come from a file. snnTorch's neuron is the reference's own, so its first loss must equal this
library's. SpikingJelly's resets at once and spikes at threshold too: the same amount of work, another loss.

A variant with `-hoisted` runs the first convolution and pooling once, as the image never changes; users of these libraries
can write that, few do.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

BETA, SLOPE, LEARNING_RATE = 0.5, 25.0, 1e-2


def snntorch(num_steps: int, hoisted: bool) -> tuple[Any, Callable[..., Any]]:
    """The reference script's network and its loop over time."""
    import snntorch as snn  # pyright: ignore[reportMissingImports]
    from snntorch import (  # pyright: ignore[reportMissingImports]
        functional,
        surrogate,
        utils,
    )

    def leaky(**options):
        return snn.Leaky(
            beta=BETA,
            spike_grad=surrogate.fast_sigmoid(slope=SLOPE),
            init_hidden=True,
            **options,
        )

    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.MaxPool2d(2),
        leaky(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),
        leaky(),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 512),
        leaky(),
        nn.Linear(512, 10),
        leaky(output=True),
    )
    first, rest = (net[:2], net[2:]) if hoisted else (nn.Identity(), net)
    loss_fn = functional.ce_rate_loss()

    def loss(images, labels):
        utils.reset(net)
        x, spikes = first(images), []
        for _ in range(num_steps):
            out, _membrane = rest(x)
            spikes.append(out)
        return loss_fn(torch.stack(spikes), labels)

    return net, loss


def spikingjelly(
    num_steps: int, mode: str, hoisted: bool
) -> tuple[Any, Callable[..., Any]]:
    """Step mode `s` loops over time outside the network, `m` hands all steps to each layer, as its example CSNN does."""
    from spikingjelly.activation_based import (  # pyright: ignore[reportMissingImports]
        functional,
        layer,
        neuron,
        surrogate,
    )

    def lif():
        # beta = 1 - 1 / tau; no v_reset means a soft reset.
        return neuron.LIFNode(
            tau=1 / (1 - BETA),
            decay_input=False,
            v_reset=None,
            surrogate_function=surrogate.SoftSign(alpha=SLOPE),
            detach_reset=True,
        )

    net = nn.Sequential(
        layer.Conv2d(1, 32, 3, padding=1),
        layer.MaxPool2d(2),
        lif(),
        layer.Conv2d(32, 64, 3, padding=1),
        layer.MaxPool2d(2),
        lif(),
        layer.Flatten(),
        layer.Linear(64 * 7 * 7, 512),
        lif(),
        layer.Linear(512, 10),
        lif(),
    )
    first, rest = (net[:2], net[2:]) if hoisted else (nn.Identity(), net)
    functional.set_step_mode(rest, mode)

    def spikes(images):
        x = first(images)
        if mode == "m":
            return rest(x.unsqueeze(0).expand(num_steps, *x.shape))
        return torch.stack([rest(x) for _ in range(num_steps)])

    def loss(images, labels):
        functional.reset_net(net)
        out = spikes(images)
        return F.cross_entropy(out.flatten(0, 1), labels.repeat(num_steps))

    return net, loss


def load(net: Any, arrays: Any) -> None:
    """Copies weights into the network: channels come first in PyTorch, last in the file."""
    layers = [x for x in net if hasattr(x, "weight")]
    for name, module in zip(
        ("conv1", "conv2", "dense1", "dense2"), layers, strict=True
    ):
        weight = arrays[f"{name}.weight"]
        if name == "dense1":
            weight = weight.reshape(7, 7, 64, -1).transpose(2, 0, 1, 3)
            weight = weight.reshape(7 * 7 * 64, -1)
        weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
            module.bias.copy_(torch.from_numpy(arrays[f"{name}.bias"]))


def build(
    variant: str, num_steps: int, path: str, device: str
) -> tuple[Callable[[], float], dict[str, Any]]:
    """The training step of a variant, and facts about it."""
    start = time.perf_counter()
    hoisted = variant.endswith("-hoisted")
    if variant.startswith("snntorch"):
        net, loss_fn = snntorch(num_steps, hoisted)
    else:
        net, loss_fn = spikingjelly(
            num_steps, "m" if "multi" in variant else "s", hoisted
        )
    arrays = np.load(path)
    load(net, arrays)
    device = "cuda" if device == "gpu" else device
    net.to(device)
    images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy()).to(device)
    labels = torch.from_numpy(arrays["labels"].astype(np.int64)).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)

    def step() -> float:
        loss = loss_fn(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU, too

    facts = {
        "compile_seconds": time.perf_counter() - start,
        "threads": torch.get_num_threads(),
        "versions": _versions(),
    }
    return step, facts


def _versions() -> dict[str, str]:
    import importlib.metadata

    found = {}
    for name in ("torch", "snntorch", "spikingjelly"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
