"""Run by a peer's own Python, apart from the rest: standard library, NumPy, PyTorch and the peer."""
