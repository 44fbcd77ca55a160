"""The examples in the library's docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import jax.numpy as jnp
import numpy as np
import pytest

import jsnn

MODULES = sorted(m.name for m in pkgutil.walk_packages(jsnn.__path__, "jsnn."))


def examples(name: str) -> list[doctest.DocTest]:
    # What a user's program has at hand, beside the module's own names.
    module, extra = importlib.import_module(name), {"jsnn": jsnn, "jnp": jnp, "np": np}
    found = doctest.DocTestFinder().find(module, extraglobs=extra)
    return [test for test in found if test.examples]


def test_there_are_examples():
    assert sum(len(examples(name)) for name in MODULES) >= 14


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_right(name):
    runner = doctest.DocTestRunner()
    for test in examples(name):
        runner.run(test)
    assert runner.failures == 0
