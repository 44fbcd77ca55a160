"""Writes tests/oracles/coming_from.npz: what rows of docs/howto/coming_from.md give in the library that they are of.

    pip install torch snntorch==1.0.0 spikingjelly==2.0.0 norse==1.1.0    # in an environment of its own
    python tests/oracles/coming_from.py torch
    pip install jax flax spyx==1.0.0                                      # in another
    python tests/oracles/coming_from.py spyx
    pip install avalanche-lib==0.6.0 torch                                # in another
    python tests/oracles/coming_from.py avalanche

Each call adds its arrays, LIBRARY/NAME, to the file. All inputs are drawn here, by NumPy.
"""

import pathlib
import sys
from typing import Any

import numpy as np

PATH = pathlib.Path(__file__).with_name("coming_from.npz")
STEPS, BATCH, SIZE = 40, 3, 4
CURVE = np.linspace(-2, 2, 41).astype(np.float32)


def inputs() -> dict[str, np.ndarray]:
    """Currents `[T, B, N]`, weights of a loss, spikes of ten classes, images, a matrix of accuracies."""
    rng = np.random.default_rng(7)
    shape = (STEPS, BATCH, SIZE)
    return {
        "x": (0.5 * rng.normal(size=shape) + 0.4).astype(np.float32),
        "weight": rng.normal(size=shape).astype(np.float32),
        "recurrent": (0.5 * rng.normal(size=(SIZE, SIZE))).astype(np.float32),
        "spikes": (rng.random((8, BATCH, 10)) < 0.3).astype(np.float32),
        "labels": rng.integers(0, 10, BATCH),
        "images": rng.random((BATCH, 6)).astype(np.float32),
        "signal": np.cumsum(0.2 * rng.normal(size=(STEPS, SIZE)), 0).astype(np.float32),
        "accuracies": np.round(rng.random((5, 5)), 3).astype(np.float32),
    }


def of_torch(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """SnnTorch, SpikingJelly and Norse."""
    import norse.torch as norse
    import snntorch as snn
    import torch
    from norse.torch.functional import threshold as norse_threshold
    from snntorch import functional, spikegen
    from spikingjelly.activation_based import functional as jelly
    from spikingjelly.activation_based import neuron, surrogate

    found: dict[str, Any] = {}
    t = {k: torch.from_numpy(v) for k, v in given.items()}

    def looped(step: Any, x: Any) -> Any:
        return torch.stack([step(part) for part in x])

    leaky = snn.Leaky(beta=0.9, learn_beta=True, init_hidden=True)
    spikes = looped(leaky, t["x"])
    (spikes * t["weight"]).sum().backward()
    found |= {"snntorch/learn_beta/y": spikes, "snntorch/learn_beta/gradient": leaky.beta.grad}  # fmt: skip
    back = snn.RLeaky(beta=0.9, linear_features=SIZE, init_hidden=True)
    back.recurrent.weight.data = t["recurrent"].T.contiguous()
    back.recurrent.bias.data.zero_()
    found["snntorch/rleaky/y"] = looped(back, t["x"])
    count = functional.mse_count_loss(correct_rate=0.75, incorrect_rate=0.25)
    found["snntorch/mse_count"] = count(t["spikes"], t["labels"])
    found["snntorch/latency"] = spikegen.latency_code(t["images"], num_steps=8, tau=20, threshold=0.01)[0]  # fmt: skip
    found["snntorch/delta"] = spikegen.delta(t["signal"], threshold=0.1, padding=True, off_spike=True)  # fmt: skip
    torch.manual_seed(0)
    found["snntorch/rate_mean"] = spikegen.rate(t["images"], num_steps=4000).mean(0)

    plif = neuron.ParametricLIFNode()
    spikes = looped(plif, 2 * t["x"])
    (spikes * t["weight"]).sum().backward()
    found |= {"spikingjelly/plif/y": spikes, "spikingjelly/plif/gradient": plif.w.grad}
    multi = neuron.LIFNode(tau=2.0)
    jelly.set_step_mode(multi, "m")
    found["spikingjelly/multi/y"] = multi(2 * t["x"])
    for name, curve in (("sigmoid", surrogate.Sigmoid(alpha=4.0)), ("arctan", surrogate.ATan(alpha=2.0))):  # fmt: skip
        z = torch.from_numpy(CURVE).requires_grad_()
        curve(z).sum().backward()
        found[f"spikingjelly/{name}"] = z.grad

    cell, state, out = norse.LIFCell(), None, []
    for part in 4 * t["x"]:
        y, state = cell(part, state)
        out.append(y)
    found["norse/lif/y"] = torch.stack(out)
    cell, state, out = norse.LICell(), None, []
    for part in t["x"]:
        y, state = cell(part, state)
        out.append(y)
    found["norse/li/y"] = torch.stack(out)
    z = torch.from_numpy(CURVE).requires_grad_()
    norse_threshold.superspike_fn(z, torch.tensor(100.0)).sum().backward()
    found["norse/superspike"] = z.grad
    torch.manual_seed(0)
    found["norse/poisson_mean"] = norse.PoissonEncoder(4000, f_max=1000, dt=0.001)(t["images"]).mean(0)  # fmt: skip
    return {k: v.detach().numpy() for k, v in found.items()}


def of_spyx(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Spyx."""
    import jax
    import jax.numpy as jnp
    import spyx
    import spyx.nn as nn

    x = jnp.asarray(given["x"])

    def run(cell: Any) -> Any:
        state, out = cell.initial_state(BATCH), []
        for part in x:
            y, state = cell(part, state)
            out.append(y)
        return jnp.stack(out)

    from flax import nnx

    found = {
        "spyx/lif/y": run(nn.LIF((SIZE,), beta=0.9, rngs=nnx.Rngs(0))),
        "spyx/li/y": run(nn.LI((SIZE,), beta=0.9, rngs=nnx.Rngs(0))),
        "spyx/cuba/y": run(nn.CuBaLIF((SIZE,), alpha=0.8, beta=0.9, rngs=nnx.Rngs(0))),
    }
    for name in ("arctan", "superspike"):
        curve = getattr(spyx.axn, name)()
        found[f"spyx/{name}"] = jax.vmap(jax.grad(curve))(jnp.asarray(CURVE))
    loss = spyx.fn.integral_crossentropy(smoothing=0.0)
    traces = jnp.moveaxis(jnp.asarray(given["spikes"]), 0, 1)
    found["spyx/integral_crossentropy"] = loss(traces, jnp.asarray(given["labels"]))
    return found


def of_avalanche(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Avalanche's forgetting and backward transfer of a matrix: accuracy on experience k after experience t."""
    import types

    sys.modules["wandb"] = types.ModuleType(
        "wandb"
    )  # imported there, and not used here
    from avalanche.evaluation.metrics import BWT, Forgetting

    accuracies, found = given["accuracies"], {}
    for name, metric in (("forgetting", Forgetting()), ("backward_transfer", BWT())):
        for k in range(5):
            metric.update(k, float(accuracies[k, k]), initial=True)
            metric.update(k, float(accuracies[4, k]))
        found[f"avalanche/{name}"] = np.array([metric.result()[k] for k in range(4)])
    return found


def main() -> None:
    """Adds the arrays of the libraries that the command line names."""
    stored = inputs() | {"curve": CURVE}
    if PATH.exists():
        with np.load(PATH) as file:
            stored |= {k: file[k] for k in file.files}
    for name in sys.argv[1:]:
        made = {"torch": of_torch, "spyx": of_spyx, "avalanche": of_avalanche}[name]
        stored |= {k: np.asarray(v) for k, v in made(inputs()).items()}
    np.savez_compressed(PATH, **stored)
    print(f"{len(stored)} arrays, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
