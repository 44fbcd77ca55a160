"""Writes tests/oracles/simulators.npz: spikes of Norse 1.1.0, Sinabs 2.0.3 and snnTorch 1.0.0 on the graphs of `exchange_cases`.

pip install torch nirtorch norse==1.1.0 sinabs==2.0.3 snntorch==1.0.0 nir==1.0.8   # in an environment of its own
PYTHONPATH=tests python tests/oracles/simulators.py
"""

import pathlib

import norse.torch
import numpy as np
import sinabs.layers
import sinabs.nir
import torch
from exchange_cases import Case, cases
from norse.torch.functional import reset
from snntorch.import_nir import import_from_nir


def of_norse(case: Case) -> np.ndarray:
    soft = case.choices.get("reset") == "subtract"
    how = reset.reset_subtract if soft else reset.reset_value
    net = norse.torch.from_nir(case.graph, dt=case.choices["dt"], ignore_warnings=True, reset_method=how)  # fmt: skip
    state, out = None, []
    for x in torch.from_numpy(case.x):
        y, state = net(x, state)
        out.append(y)
    return torch.stack(out).numpy()


def of_sinabs(case: Case) -> np.ndarray:
    """It takes batches of recordings, all their steps on one axis."""
    steps, batch = case.x.shape[:2]
    net = sinabs.nir.from_nir(case.graph, batch_size=batch)
    x = torch.from_numpy(case.x).swapaxes(0, 1).flatten(0, 1)
    y = net(x)
    y = y[0] if isinstance(y, tuple) else y
    return y.unflatten(0, (batch, steps)).swapaxes(0, 1).numpy()


def of_snntorch(case: Case) -> np.ndarray:
    net = import_from_nir(case.graph)
    state, out = {}, []
    for x in torch.from_numpy(case.x):
        y, state = net(x, state)
        out.append(y)
    return torch.stack(out).numpy()


def main() -> None:
    run = {"norse": of_norse, "sinabs": of_sinabs, "snntorch": of_snntorch}
    stored = {}
    with torch.no_grad():
        for name, case in cases().items():
            y = run[name.partition("_")[0]](case)
            print(name, y.shape, y.mean(), y.max())
            assert 0.02 < y.mean() < 3, name
            stored[name] = y.astype(np.uint8)
            np.testing.assert_array_equal(stored[name], y)
    path = pathlib.Path(__file__).with_name("simulators.npz")
    np.savez_compressed(path, **stored)


if __name__ == "__main__":
    main()
