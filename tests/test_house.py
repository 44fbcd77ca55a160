"""The floor plan: imports point one way, files and functions stay short, and `import jsnn` stays light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A file imports only from rooms to its left, or from its own.
ROOMS = ("base", "data", "science", "trainer", "families", "train", "plot")
BASE = {"check", "files", "precision", "mesh", "memory", "model"}
FAMILIES = {"eventprop", "stdp", "continual", "models", "exchange"}
# What a family's trainer is made of; the rest of `train` leads trainers.
TRAINER = {"train", "train.trainer", "train.transform", "train.fitted", "train.saved", "train.checkpoint", "train.program", "train.inputs"}  # fmt: skip
HEAVY = {"matplotlib", "tqdm", "tyro", "sklearn", "tensorflow_datasets", "PIL", "orbax", "tensorboardX", "grain", "safetensors", "nir", "h5py"}  # fmt: skip
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
# Longer for now: trainers are made of many small functions that share their arguments. No other may join them.
STILL_LONG = {"main"}


def room(module: str) -> str:
    """Of a module's name below `jsnn`."""
    first = module.partition(".")[0]
    if module in TRAINER:
        return "trainer"
    if first in ("data", "train", "plot"):
        return first
    if first == "zoo":
        return "train"
    if first in FAMILIES:
        return "families"
    return "base" if first in BASE else "science"


def at_import(path: pathlib.Path) -> list[ast.stmt]:
    """Import statements that run when the file is imported."""
    found, todo = [], list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            todo += node.body + node.orelse
        elif isinstance(node, ast.Try | ast.With):
            todo += node.body
    return found


FILES = {
    ".".join(path.relative_to(ROOT / "jsnn").with_suffix("").parts): path
    for path in sorted((ROOT / "jsnn").rglob("*.py"))
    if path.name != "__init__.py"
}


def imports(path: pathlib.Path) -> set[str]:
    """Modules below `jsnn` that a file imports."""
    found = set()
    for node in at_import(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jsnn"):
            base = node.module.removeprefix("jsnn").removeprefix(".")
            for name in node.names:
                whole = f"{base}.{name.name}".removeprefix(".")
                found.add(whole if whole in FILES else base)
    return found - {""}


def test_imports_point_one_way():
    wrong = [
        f"{module} ({room(module)}) imports {other} ({room(other)})"
        for module, path in FILES.items()
        for other in imports(path)
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle():
    graph = {module: imports(path) & FILES.keys() for module, path in FILES.items()}
    assert sum(map(len, graph.values())) > 100  # the graph is there at all
    while graph:
        free = {module for module, others in graph.items() if not others & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {m: others for m, others in graph.items() if m not in free}


def test_the_library_imports_no_tools_when_it_is_imported():
    wrong = [
        f"{module} imports {name}"
        for module, path in FILES.items()
        for node in at_import(path)
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
        if name.partition(".")[0] in HEAVY and room(module) != "plot"
    ]
    assert not wrong, "\n".join(wrong)


def test_scripts_do_not_import_one_another():
    shared = {"cli", "common", "flags", "rules", "demo"}
    scripts = {p.stem for p in (ROOT / "experiments").glob("*.py") if "def main(" in p.read_text()}  # fmt: skip
    imported = 0
    for path in (ROOT / "experiments").glob("*.py"):
        if path.stem not in scripts:
            continue
        for node in at_import(path):
            module = getattr(node, "module", None) or ""
            own = getattr(node, "level", 0) > 0
            names = {a.name for a in node.names} if own and not module else {module} if own else set()  # fmt: skip
            assert not names & (scripts - shared), f"{path.name} imports {names}"
            imported += len(names)
    assert imported > 10


@pytest.mark.parametrize("folder", ["jsnn", "experiments"])
def test_files_and_functions_are_short(folder):
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text()
        name = path.relative_to(ROOT)
        assert text.count("\n") <= LONGEST_FILE, f"{name} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                size = node.end_lineno - node.lineno + 1 - doc_lines(node)
                if node.name not in STILL_LONG:
                    assert size <= LONGEST_FUNCTION, f"{name}: {node.name}: {size}"


def doc_lines(node: ast.FunctionDef) -> int:
    """Lines of a docstring: words do not make a function long."""
    if ast.get_docstring(node) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


def test_importing_the_front_door_loads_nothing_heavy():
    code = f"import sys, jsnn; print(*sorted({HEAVY | {'flax', 'optax'}!r} & sys.modules.keys()))"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []
