"""The command `jsnn`: `jsnn NAME ...` runs a script, as `python -m experiments.NAME ...` does in a clone of the repository.

An installed jsnn keeps the scripts in a room of its own, `jsnn._experiments`, for a package called `experiments` might be anyone's.
"""

import importlib
import importlib.metadata
import importlib.util
import pathlib
import sys
from types import ModuleType

from jsnn import memory

_HERE = pathlib.Path(__file__).resolve().parent
_MAIN = '\nif __name__ == "__main__":'


def folder() -> pathlib.Path:
    """Where the scripts are: inside the installed package, or beside it in a clone."""
    inside = _HERE / "_experiments"
    return inside if inside.is_dir() else _HERE.parent / "experiments"


def package() -> str:
    """The name under which Python finds the scripts.

    >>> jsnn.commands.package() in ("experiments", "jsnn._experiments")
    True
    """
    first = folder() / "__init__.py"
    for name in ("experiments", "jsnn._experiments"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and pathlib.Path(spec.origin).resolve() == first:
            return name
    # A clone of which Python knows `jsnn` alone.
    name, places = "jsnn._experiments", [str(folder())]
    spec = importlib.util.spec_from_file_location(
        name, first, submodule_search_locations=places
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return name


def script(name: str) -> ModuleType:
    """The module of a script, a file or a folder with a `__main__`."""
    inner = ".__main__" if (folder() / name).is_dir() else ""
    return importlib.import_module(f"{package()}.{name}{inner}")


def names() -> dict[str, str]:
    """What each command does, in a line; none of them is imported.

    >>> jsnn.commands.names()["predict"].endswith(".")
    True
    """
    found = {}
    for path in sorted(folder().glob("*.py")) + sorted(folder().glob("*/__main__.py")):
        text = path.read_text(encoding="utf-8")
        if _MAIN in text:
            name = path.parent.name if path.stem == "__main__" else path.stem
            found[name] = text.removeprefix('"""').partition("\n")[0].strip('"')
    return dict(sorted(found.items()))


def _usage() -> str:
    width = max(map(len, names()))
    lines = ["usage: jsnn NAME [flags]", "", "commands:"]
    lines += [f"  {name:<{width}}  {text}" for name, text in names().items()]
    return "\n".join([*lines, "", "`jsnn NAME --help` explains each flag."])


def main() -> None:
    """Runs the script that the command line names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print(_usage())
    elif name == "--version":
        print(importlib.metadata.version("jsnn"))
    elif name not in names():
        known = ", ".join(names())
        sys.exit(f"error: there is no command {name!r}: choose one of {known}.")
    else:
        memory.restart()
        module = script(name)
        sys.argv = [f"jsnn {name}", *sys.argv[2:]]
        module.cli.run(module.Config, module.main)
