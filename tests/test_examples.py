"""The programs in `examples/`: each runs as it stands, learns, predicts the same once loaded, and is short."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = sorted((ROOT / "examples").glob("*.py"))
# Test accuracy in percent: chance is 10, and each program is well above this.
LEAST = {"surrogate": 90, "eventprop": 90, "continual": 60, "stdp": 70}
LEAST_OF_OTHERS = 85


@pytest.fixture(params=PROGRAMS, ids=lambda p: p.stem)
def program(request) -> pathlib.Path:
    return request.param


def code_lines(text: str) -> int:
    """Lines of a program without blank ones, comments, docstrings and imports of other libraries."""
    tree = ast.parse(text)
    if ast.get_docstring(tree) is not None:
        tree.body.pop(0)
    counted = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and not of_library(node):
            continue
        counted |= set(range(node.lineno, node.end_lineno + 1))
    lines = text.splitlines()
    return sum(bool(lines[i - 1].split("#")[0].strip()) for i in counted)


def of_library(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] == "jsnn"
    return any(alias.name.partition(".")[0] == "jsnn" for alias in node.names)


def names_of_library(text: str) -> set[str]:
    """Dotted names that a program takes from the library, `jsnn` itself left out; a module counts through what is used of it."""
    tree, roots = ast.parse(text), {"jsnn"}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and of_library(node):
            roots |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Attribute | ast.Name):
            used.add(ast.unparse(node))
    used = {
        n
        for n in used
        if n.partition(".")[0] in roots and n.replace(".", "").isidentifier()
    }
    used -= {name for name in used if any(o.startswith(f"{name}.") for o in used)}
    return used - {"jsnn"}


def test_counting():
    text = '"""Doc."""\n\nimport jax\nimport jsnn\nfrom jsnn.a import b, c\n\n# no\nx = b.f(\n    jsnn.g.h\n)\nc(x.y)\n'
    assert code_lines(text) == 6
    assert names_of_library(text) == {"b.f", "jsnn.g.h", "c"}


def test_is_short(program):
    text = program.read_text()
    assert code_lines(text) <= 15
    names = names_of_library(text)
    assert len(names) <= 8, sorted(names)


def test_learns_and_predicts_the_same_once_loaded(program, tmp_path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    accuracy = re.search(r"accuracy (\d+(\.\d+)?) %", run.stdout)
    assert accuracy, run.stdout
    assert float(accuracy[1]) > LEAST.get(program.stem, LEAST_OF_OTHERS)
    assert "the same once loaded: True" in run.stdout


def test_the_readme_shows_the_first_program():
    shown = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert shown
    program = (ROOT / "examples/surrogate.py").read_text()
    assert shown[1].strip() == program.replace("  # fmt: skip", "").strip()
