"""Every program of examples/ runs, learns, and is short: a user's own arrays to a model that is saved and loaded."""

import ast
import pathlib
import re
import runpy

import pytest

EXAMPLES = sorted((pathlib.Path(__file__).parents[1] / "examples").glob("*.py"))
NAMES = {"continual": 8}  # of the library; layers of a network are more
LEAST = {"continual": 60.0}  # class by class; without a memory a fifth is right


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    found = re.search(r"accuracy ([\d.]+) %.*: True", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) > LEAST.get(path.stem, 85.0)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path):
    tree = ast.parse(path.read_text())
    lines = [node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    assert len(lines) <= 15
    assert len(path.read_text().splitlines()) <= 25
    names = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    used = {n for n in names if re.fullmatch(r"jsnn(\.\w+)+", n)}
    # `jsnn.data.arrays` is one name, of which `jsnn.data` is a part.
    used = {n for n in used if not any(m.startswith(n + ".") for m in used)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and "jsnn" in (node.module or ""):
            used |= {a.name for a in node.names}
    assert len(used) <= NAMES.get(path.stem, 12), used
