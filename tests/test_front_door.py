"""The public names: each is there, says what it does, and shows it; importing them costs next to nothing."""

import doctest
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import jsnn

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = [name for name in jsnn.__all__ if inspect.ismodule(getattr(jsnn, name))]
NAMES = [name for name in jsnn.__all__ if name not in ROOMS]
HEAVY = ("flax", "tensorflow_datasets", "orbax", "matplotlib", "sklearn", "tqdm")


def test_the_list_is_short_and_names_nothing_twice():
    assert len(set(jsnn.__all__)) == len(jsnn.__all__)
    assert 30 <= len(NAMES) <= 45
    assert set(jsnn.__all__) <= set(dir(jsnn))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_it_does_and_shows_it(name):
    value = getattr(jsnn, name)
    text = inspect.getdoc(value) or ""
    assert value.__doc__, name
    first = text.splitlines()[0]
    assert first.endswith((".", "$")), first
    assert doctest.DocTestParser().get_examples(text), f"{name} has no example"
    if inspect.isfunction(value) and inspect.signature(value).parameters:
        assert "Args:" in text
    if inspect.isfunction(value):
        assert "Returns:" in text


@pytest.mark.parametrize("name", NAMES)
def test_its_example_is_run(name):
    """`test_docstrings.py` runs what a module defines itself."""
    value = getattr(jsnn, name)
    home = importlib.import_module(f"jsnn.{jsnn._HOME[name]}")
    module = importlib.import_module(value.__module__)
    assert getattr(home, name) is value
    assert module.__name__.startswith("jsnn.")
    assert any(v is value for v in vars(module).values())


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_is_in_it(name):
    assert (getattr(jsnn, name).__doc__ or "").strip()


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match=r"no attribute 'Lif'"):
        jsnn.Lif  # noqa: B018


def test_importing_loads_nothing_heavy():
    code = f"import sys, jsnn; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_paths_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    pattern = r"[`(]((?:jsnn|docs|tests|examples|experiments|benchmarks)/[\w/.]*)"
    paths = set(re.findall(pattern, text))
    assert len(paths) > 10
    missing = [path for path in sorted(paths) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("name", jsnn._MOVED)
def test_modules_that_have_moved_are_found_under_their_old_names(name):
    with pytest.warns(DeprecationWarning, match=rf"is now jsnn\.\w+\.{name}\."):
        module = getattr(jsnn, name)
    assert module.__name__ == f"jsnn.{jsnn._MOVED[name]}.{name}"
