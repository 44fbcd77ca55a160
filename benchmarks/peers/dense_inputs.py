"""Weights and inputs of `benchmarks.dense`, the same for all libraries. NumPy only: JAX's Python and PyTorch's both run it."""

import numpy as np

BETA = 0.9
INPUTS, OUTPUTS = 700, 20  # of the recurrent network


def weights(network: str, neurons: int) -> dict[str, np.ndarray]:
    """Uniform within 1 / sqrt(inputs), as `[inputs, outputs]`."""
    rng = np.random.default_rng(0)

    def draw(num_inputs: int, num_outputs: int) -> np.ndarray:
        bound = num_inputs**-0.5
        shape = (num_inputs, num_outputs)
        return (bound * (2 * rng.random(shape, np.float32) - 1)).astype(np.float32)

    if network == "lif":
        return {}
    if network == "linear_lif":
        return {"in": draw(neurons, neurons)}
    return {
        "in": draw(INPUTS, neurons),
        "recurrent": 0.5 * draw(neurons, neurons),
        "out": draw(neurons, OUTPUTS),
    }


def inputs(network: str, neurons: int, timesteps: int, batch_size: int) -> np.ndarray:
    """Random numbers in [0, 1) `[T, B, ...]`; spikes of density 0.05 for the recurrent network."""
    rng = np.random.default_rng(1)
    width = INPUTS if network == "recurrent" else neurons
    x = rng.random((timesteps, batch_size, width), np.float32)
    return (x < 0.05).astype(np.float32) if network == "recurrent" else x
