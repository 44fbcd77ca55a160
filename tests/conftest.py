"""What every test runs under: CPU, no rank or dtype promotion inside the library, Flax as it will be."""

import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Decoded data and compiled programs go to a folder of this session, shared by all its processes, and never to the user's cache.
os.environ["JSNN_CACHE"] = (
    os.environ["JSNN_CACHE"]
    if "PYTEST_XDIST_WORKER" in os.environ
    else tempfile.mkdtemp(prefix="jsnn-tests-")
)

import jax
import numpy as np
import pytest
from flax import nnx

nnx.set_graph_mode(False)  # what Flax announces as its default (FLIP 5310)
nnx.set_graph_updates(False)
jax.config.update("jax_numpy_rank_promotion", "raise")

REFERENCE = pathlib.Path(__file__).parents[2] / "shared/reference"
TFDS = pathlib.Path(__file__).parents[2] / "shared/data/tfds"


def needs(path: pathlib.Path):
    """Skips a test, visibly, where the folder of reference outputs or data is absent."""
    return pytest.mark.skipif(not path.exists(), reason=f"needs {path}")


def pytest_unconfigure():
    """The first process is the last to end."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JSNN_CACHE"], ignore_errors=True)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True)
def same_draws(request):
    """Starts a module's `RNG` anew for each test, which then draws the same whatever ran before it."""
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)
