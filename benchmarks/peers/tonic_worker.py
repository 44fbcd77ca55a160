"""Frames of recordings by Tonic's `ToFrame`: PEER_PYTHON benchmarks/peers/tonic_worker.py EVENTS.npz TIMESTEPS."""

import sys

from serve import serve


def build():
    """Imports Tonic only here, where `serve` can answer that it is missing."""
    import numpy as np
    import tonic  # pyright: ignore[reportMissingImports]
    from tonic import transforms  # pyright: ignore[reportMissingImports]

    columns, num_steps = dict(np.load(sys.argv[1])), int(sys.argv[2])
    kinds = np.dtype([("x", np.int16), ("y", np.int16), ("p", bool), ("t", np.int64)])
    recordings = np.empty(columns["t"].shape, kinds)
    for name, column in columns.items():
        recordings[name] = column
    to_frame = transforms.ToFrame((34, 34, 2), n_time_bins=num_steps)

    def step():
        return float(sum(int(to_frame(r).sum()) for r in recordings))

    return step, {"versions": {"tonic": tonic.__version__}}


if __name__ == "__main__":
    serve(build)
