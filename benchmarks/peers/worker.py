"""The measured process of a peer, run by the Python that has it; it imports nothing of this library.

PEER_PYTHON benchmarks/peers/worker.py VARIANT TIMESTEPS ARRAYS.npz cpu|gpu
"""

import sys

from serve import serve


def build():
    """Imports PyTorch only here, where `serve` can answer that it is missing."""
    import torch_csnn

    return torch_csnn.build(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])


if __name__ == "__main__":
    serve(build)
