"""Passes over images through one layer of Mozafari et al.'s network in SpykeTorch, as its own example trains; imports nothing of this library.

PEER_PYTHON benchmarks/peers/spyketorch_worker.py LAYER ARRAYS.npz

SpykeTorch is not on PyPI: clone it, and put the folder that holds the package `SpykeTorch` on PYTHONPATH. As in its example, an image goes
through the layers below anew each time, and its spike wave is ready. Every step begins with the same weights.
"""

import sys

from serve import serve

STEPS, DOUBLE_EVERY, HIGHEST = 15, 500, 0.15


def build():
    """Imports PyTorch only here, where `serve` can answer that it is missing."""
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from SpykeTorch import functional as sf  # pyright: ignore[reportMissingImports]
    from SpykeTorch import snn  # pyright: ignore[reportMissingImports]

    layer, stored = int(sys.argv[1]), dict(np.load(sys.argv[2]))
    start = [torch.from_numpy(stored[f"weights_{n}"]) for n in (1, 2, 3)]
    convs = [snn.Convolution(w.shape[1], w.shape[0], w.shape[2]) for w in start]
    times, labels = torch.from_numpy(stored["times"]), stored["labels"]
    steps = torch.arange(STEPS, dtype=torch.uint8).reshape(1, -1, 1, 1, 1)
    waves = (times[:, None] <= steps).to(torch.uint8)
    ltp, ltd = (float(x) for x in stored["rates"])
    winners_of = {1: (15.0, 5, 3), 2: (10.0, 8, 1)}

    def ahead(wave):
        """Input, potentials and spikes of the layer that learns."""
        x = sf.pad(wave.float(), (2, 2, 2, 2), 0)
        potential = convs[0](x)
        spikes, above = sf.fire(potential, winners_of[1][0], True)
        if layer == 1:
            return x, above, spikes
        x = sf.pad(sf.pooling(spikes, 2, 2), (1, 1, 1, 1))
        potential = convs[1](x)
        spikes, above = sf.fire(potential, winners_of[2][0], True)
        if layer == 2:
            return x, above, spikes
        x = sf.pad(sf.pooling(spikes, 3, 3), (2, 2, 2, 2))
        potential = convs[2](x)
        return x, potential, sf.fire(potential)

    def unsupervised():
        rule = snn.STDP(convs[layer - 1], (ltp, ltd))
        _, number, radius = winners_of[layer]
        up, count = torch.tensor([ltp]), int(stored["count"])
        for wave in waves:
            count += 1
            if count >= DOUBLE_EVERY:
                count, up = 0, torch.min(2 * up, torch.tensor([HIGHEST]))
                rule.update_all_learning_rate(up.item(), -0.75 * up.item())
            x, above, _ = ahead(wave)
            above = sf.pointwise_inhibition(above)
            spikes = above.sign()
            winners = sf.get_k_winners(above, number, radius, spikes)
            rule(x, above, spikes, winners)

    def rewarded():
        options = {"use_stabilizer": False, "lower_bound": 0.2, "upper_bound": 0.8}
        reward = snn.STDP(convs[2], (0.004, -0.003), **options)
        punish = snn.STDP(convs[2], (-0.004, 0.0005), **options)
        of_class = len(start[2]) // 10
        for wave, label in zip(waves, labels, strict=True):
            x, potential, spikes = ahead(wave)
            winners = sf.get_k_winners(potential, 1, 0, spikes)
            if winners:
                right = winners[0][0] // of_class == label
                (reward if right else punish)(x, potential, spikes, winners)

    def step():
        for conv, weights in zip(convs, start, strict=True):
            conv.load_weight(weights)
        (rewarded if layer == 3 else unsupervised)()
        return float(convs[layer - 1].weight.double().mean())

    return step, {"versions": {"torch": torch.__version__}}


if __name__ == "__main__":
    serve(build)
