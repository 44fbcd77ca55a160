"""The one-layer EventProp original's training step in PyTorch, written from its equations; it imports nothing of this library.

PEER_PYTHON benchmarks/peers/eventprop_worker.py STEPS ARRAYS.npz

As there, time is a Python loop over preallocated `[B, N, T]` arrays, and the gradient of the weights is summed as `[B, N, I]`.
"""

import sys

from serve import serve

T, DT, TAU_M, TAU_S, T_MIN, T_MAX = 20, 1.0, 20.0, 5.0, 2, 12
XI, ALPHA, BETA, KICK, RATE = 0.4, 0.01, 2.0, 0.1, 1.0


def build():
    """Imports PyTorch only here, where `serve` can answer that it is missing."""
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn import (  # pyright: ignore[reportMissingImports]
        functional,
    )

    number = int(sys.argv[1])
    arrays = {k: torch.from_numpy(v) for k, v in np.load(sys.argv[2]).items()}
    weight = arrays["weight"].T.contiguous().requires_grad_()

    def simulate(x):
        shape = (x.shape[0], weight.shape[0], T)
        v, i, z = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
        for n in range(1, T):
            v[:, :, n] = (1 - DT / TAU_M) * v[:, :, n - 1] + DT / TAU_M * i[:, :, n - 1]
            arriving = functional.linear(x[:, :, n - 1].float(), weight)
            i[:, :, n] = (1 - DT / TAU_S) * i[:, :, n - 1] + arriving
            spiked = (v[:, :, n] > 1.0).float()
            z[:, :, n] = spiked
            v[:, :, n] = (1 - spiked) * v[:, :, n]
        return i, z

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            while True:
                i, z = simulate(x)
                silent = z.sum(2).min(0)[0] == 0
                w.data[silent] = w.data[silent] + KICK
                if silent.sum() == 0:
                    break
            ctx.save_for_backward(x, w, i, z)
            return z

        @staticmethod
        def backward(ctx, *bars):
            (bar,) = bars
            x, w, i, z = ctx.saved_tensors
            lv, li = torch.zeros_like(z), torch.zeros_like(z)
            grad_x = torch.zeros(x.shape)
            grad_w = torch.zeros(x.shape[0], *w.shape)
            for n in range(T - 2, -1, -1):
                delta = lv[:, :, n + 1] - li[:, :, n + 1]
                grad_x[:, :, n] = functional.linear(delta, w.t())
                jump = z[:, :, n + 1] * (lv[:, :, n + 1] + bar[:, :, n + 1])
                slope = i[:, :, n] - 1 + 1e-10
                lv[:, :, n] = (1 - DT / TAU_M) * lv[:, :, n + 1] + jump / slope
                li[:, :, n] = li[:, :, n + 1] + DT / TAU_S * delta
                grad_w -= x[:, :, n].float().unsqueeze(1) * li[:, :, n].unsqueeze(2)
            return grad_x, grad_w.sum(0)

    class FirstSpike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            first = (torch.arange(T, 0, -1).float()[None, None] * z).argmax(2)
            ctx.save_for_backward(first, z)
            return torch.where(first == 0, T - 1, first).float()

        @staticmethod
        def backward(ctx, *bars):
            (bar,) = bars
            first, z = ctx.saved_tensors
            one_hot = functional.one_hot(first, z.shape[2]).float()
            return one_hot * bar.unsqueeze(2)

    optimizer = torch.optim.SGD([weight], lr=RATE)
    position = 0

    def once():
        nonlocal position
        images, labels = arrays["images"][position], arrays["labels"][position].long()
        position = (position + 1) % len(arrays["images"])
        times = T_MIN + (T_MAX - T_MIN) * (images < 0.5).long()
        x = functional.one_hot(times, T)
        t = FirstSpike.apply(Layer.apply(x, weight))
        late = torch.exp(t.gather(1, labels[:, None])[:, 0] / (BETA * TAU_S)) - 1
        loss = functional.cross_entropy(-t / (XI * TAU_S), labels) + ALPHA * late.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    def step():
        for _ in range(number - 1):
            once()
        return once()

    return step, {"versions": {"torch": torch.__version__}, "steps": number}


if __name__ == "__main__":
    serve(build)
