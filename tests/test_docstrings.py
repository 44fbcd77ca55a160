"""The examples in the library's docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsnn

MODULES = sorted(m.name for m in pkgutil.walk_packages(jsnn.__path__, "jsnn."))


def examples(name: str) -> list[doctest.DocTest]:
    # What a user's program has at hand, beside the module's own names.
    at_hand = {
        "jsnn": jsnn,
        "jax": jax,
        "jnp": jnp,
        "nnx": nnx,
        "np": np,
        "optax": optax,
    }
    module = importlib.import_module(name)
    found = doctest.DocTestFinder().find(module, extraglobs=at_hand)
    return [test for test in found if test.examples]


def test_there_are_examples():
    assert sum(len(examples(name)) for name in MODULES) >= 41


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_right(name):
    runner = doctest.DocTestRunner()
    for test in examples(name):
        runner.run(test)
    assert runner.failures == 0
