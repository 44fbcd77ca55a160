"""The measured process of a peer: PEER_PYTHON benchmarks/peers/dense_worker.py LIBRARY '{"network": "linear_lif", ...}'."""

import json
import sys
from typing import Any

import dense_inputs
from serve import serve


def _cells(library: str, torch: Any) -> tuple[Any, dict[str, str]]:
    """`(current, state) -> (spikes, state)` of one step of LIF neurons with beta 0.9 and threshold 1, and versions."""
    if library == "snntorch":
        import snntorch  # pyright: ignore[reportMissingImports]

        cell = snntorch.Leaky(
            beta=dense_inputs.BETA, spike_grad=snntorch.surrogate.atan()
        )

        def step(x, state):
            return cell(x, torch.zeros_like(x) if state is None else state)

        return step, {"snntorch": snntorch.__version__}
    import norse  # pyright: ignore[reportMissingImports]
    from norse.torch import (  # pyright: ignore[reportMissingImports]
        LIFBoxCell,
        LIFBoxParameters,
    )

    # v += dt * tau_mem_inv * (-v + i): the same decay, another scale of the input.
    rate = torch.tensor(1000.0 * (1 - dense_inputs.BETA))
    cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=rate), dt=1e-3)
    scale = 1 / (1 - dense_inputs.BETA)
    return lambda x, s: cell(scale * x, s), {"norse": norse.__version__}


def _spikingjelly(torch: Any) -> tuple[Any, dict[str, str]]:
    """All steps at once."""
    from importlib.metadata import version

    from spikingjelly.activation_based import (  # pyright: ignore[reportMissingImports]
        functional,
        neuron,
        surrogate,
    )

    lif = neuron.LIFNode(
        tau=1 / (1 - dense_inputs.BETA),
        decay_input=False,
        v_reset=None,
        surrogate_function=surrogate.ATan(),
        step_mode="m",
    )

    def run(x):
        functional.reset_net(lif)
        return lif(x)

    return run, {"spikingjelly": version("spikingjelly")}


def build() -> tuple[Any, dict[str, Any]]:
    """The call, with gradients or without."""
    import torch  # pyright: ignore[reportMissingImports]

    library, work = sys.argv[1], json.loads(sys.argv[2])
    network, n = work["network"], work["neurons"]
    if library == "spikingjelly" and network == "recurrent":
        raise ImportError("its LIF layer over all steps has no recurrent weights")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backward = work["direction"] != "forward"

    def put(array):
        return torch.tensor(array, device=device, requires_grad=backward)

    w = {k: put(v) for k, v in dense_inputs.weights(network, n).items()}
    x = put(dense_inputs.inputs(network, n, work["timesteps"], work["batch_size"]))
    steps, versions = (
        _spikingjelly(torch) if library == "spikingjelly" else _cells(library, torch)
    )

    def unrolled(current):
        if library == "spikingjelly":
            return steps(current)
        state, spikes, found = None, None, []
        for x_t in current:
            if network == "recurrent" and spikes is not None:
                x_t = x_t + spikes @ w["recurrent"]
            spikes, state = steps(x_t, state)
            found.append(spikes)
        return torch.stack(found)

    def step() -> float:
        with torch.set_grad_enabled(backward):
            current = x if network == "lif" else x @ w["in"]
            y = unrolled(current)
            y = y @ w["out"] if network == "recurrent" else y
            total = y.sum()
            if backward:
                torch.autograd.grad(total, [*w.values(), x])
        if device == "cuda":
            torch.cuda.synchronize()
        return float(total)

    versions["torch"] = torch.__version__
    memory = None
    if device == "cuda":
        memory = torch.cuda.memory_allocated, torch.cuda.max_memory_allocated
    return step, {"versions": versions, "backend": device, "memory": memory}


if __name__ == "__main__":
    serve(build)
