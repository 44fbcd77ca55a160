"""The command `jsnn`, and what a wheel holds."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from jsnn import commands

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of a wheel's files, made from a copy of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    names = "jsnn experiments pyproject.toml setup.py MANIFEST.in README.md LICENSE"
    subprocess.run(["cp", "-r", *[str(ROOT / n) for n in names.split()], copy], check=True)  # fmt: skip
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {n: archive.read(n).decode(errors="replace") for n in archive.namelist()}


def test_a_wheel_holds_the_library_and_the_scripts_and_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in wheel}
    assert tops == {"jsnn", f"jsnn-{PROJECT['version']}.dist-info"}
    for folder, inside in (("jsnn", "jsnn"), ("experiments", "jsnn/_experiments")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{inside}/{path.relative_to(ROOT / folder)}" in wheel
    assert "jsnn/py.typed" in wheel
    trained = [p for p in (ROOT / "jsnn/zoo").iterdir() if p.suffix in (".json", ".safetensors")]  # fmt: skip
    assert trained
    assert {f"jsnn/zoo/{path.name}" for path in trained} <= wheel.keys()
    assert not [name for name in wheel if name.endswith((".png", ".pyc"))]
    (entry,) = (text for name, text in wheel.items() if name.endswith("entry_points.txt"))  # fmt: skip
    assert "jsnn = jsnn.commands:main" in entry


def test_scripts_import_one_another_by_relative_names():
    """In the wheel their package has another name."""
    for path in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(node, "module", "") or ""] if isinstance(node, ast.ImportFrom) and not node.level else []  # fmt: skip
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            assert not [n for n in names if n.startswith("experiments")], path


def run(*args, cwd=ROOT):
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_help_names_every_script_and_imports_none_of_them():
    scripts = {p.stem for p in (ROOT / "experiments").glob("*.py") if "\ndef main(" in p.read_text()}  # fmt: skip
    code = "import sys; from jsnn import commands; sys.argv = ['jsnn']; commands.main(); print('jax' in sys.modules)"
    lines = run("-c", code).stdout.splitlines()
    assert lines.pop() == "False"
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert listed == {*commands.names()} == {*scripts, "demo"}


def test_a_command_has_the_flags_of_its_script_under_its_own_name():
    done = run("-m", "jsnn", "predict", "--help")
    assert done.stdout.startswith("usage: jsnn predict")
    assert "--images" in done.stdout


def test_an_unknown_command_is_one_line():
    done = run("-m", "jsnn", "train")
    assert done.returncode == 1
    assert re.fullmatch(r"error: there is no command 'train': choose .*\.\n", done.stderr)  # fmt: skip


def test_scripts_are_found_where_python_knows_the_library_alone(tmp_path):
    """A package `experiments` that is someone else's does not matter."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/__init__.py").write_text("")
    (tmp_path / "jsnn").symlink_to(ROOT / "jsnn")
    code = "from jsnn import commands; print(commands.script('predict').__name__)"
    done = run("-c", code, cwd=tmp_path)
    assert done.stdout == "jsnn._experiments.predict\n", done.stderr


def test_the_version_is_said_once():
    cff = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in cff
