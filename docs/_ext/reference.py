"""Pages of the reference, written from the docstrings of every public name.

Docstrings are Markdown with `$...$` and the sections `Args`, `Returns`, `Raises`, `Attributes`, `Example`. Each name stands on one page: the front
door's, its room's, or its module's, whichever comes first. The others link there.
"""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
import re
import textwrap
from types import ModuleType
from typing import Any

import jsnn

FENCE = "`" * 8
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples")
# What the library's own parts need; a reader's programs do not call them.
INTERNAL = ("__main__", "advice", "check", "commands", "files", "kernels", "precision", "receptive_fields")  # fmt: skip


def split(text: str) -> list[tuple[str, str]]:
    """A docstring as pairs of a section's name, empty for plain text, and its text."""
    found, name, lines = [], "", []
    for line in [*text.splitlines(), None]:
        heading = line is not None and line.rstrip(":") in SECTIONS and line.endswith(":")  # fmt: skip
        out = line is None or heading or (name and line and not line.startswith(" "))
        if out:
            found.append((name, textwrap.dedent("\n".join(lines)).strip("\n")))
            name, lines = "", []
        if heading:
            name = line.rstrip(":")
        elif line is not None:
            lines.append(line)
    return [(n, t) for n, t in found if t.strip()]


def entries(text: str) -> list[tuple[str, str]]:
    """Of a section such as `Args`: names and what is said of each."""
    found: list[list[str]] = []
    for line in text.splitlines():
        match = re.match(r"([*\w][\w., *|`]*?): (.*)", line)
        if match and not line.startswith(" "):
            found.append([match[1], match[2]])
        elif found:
            found[-1][1] += "\n" + line.strip()
        else:
            found.append(["", line.strip()])
    return [(name, text.strip()) for name, text in found]


def markdown(text: str) -> str:
    """Plain text of a docstring: examples in fences, addresses as links."""
    text = re.sub(
        r"(?<![<\[`])(?<!\]\()(https?://[^\s)>,`]+[^\s)>,`.;:])", r"<\1>", text
    )
    lines, fenced = [], False
    for line in text.splitlines():
        if not fenced and line.lstrip().startswith(">>> "):
            lines += ["", "```pycon"]
            fenced = True
        elif fenced and not line.strip():
            lines.append("```")
            fenced = False
        lines.append(line.strip() if fenced and not line.startswith(" ") else line)
    return "\n".join([*lines, "```"] if fenced else lines)


def _annotations(source: str) -> dict[str, dict[str, str]]:
    """By qualified name of a function, or of a class with fields: the types of its arguments, as they are written."""
    found: dict[str, dict[str, str]] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
                found[prefix + node.name] = {
                    ast.unparse(n.target): ast.unparse(n.annotation) for n in fields
                }
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                a = node.args
                every = [*a.posonlyargs, *a.args, *a.kwonlyargs]
                types = {x.arg: ast.unparse(x.annotation) for x in every if x.annotation}  # fmt: skip
                if node.returns is not None:
                    types["return"] = ast.unparse(node.returns)
                found[prefix + node.name] = types

    visit(ast.parse(source).body, "")
    return found


def types_of(value: Any, cache: dict[str, Any] = {}) -> dict[str, str]:  # noqa: B006
    """Types of the arguments of a function, or of what makes an instance of a class."""
    value = inspect.unwrap(value)
    name = value.__module__
    if not name.startswith("jsnn"):
        return {}
    if name not in cache:
        cache[name] = _annotations(inspect.getsource(importlib.import_module(name)))
    known = cache[name]
    if inspect.isclass(value):
        own = known.get(f"{value.__qualname__}.__init__", {})
        return own or known.get(value.__qualname__, {})
    return known.get(value.__qualname__, {})


def _default(value: Any) -> str:
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    text = repr(value)
    return text if len(text) < 40 and "<" not in text else "..."


def signature(value: Any) -> str:
    """Names and defaults, without types."""
    try:
        found = inspect.signature(value)
        if inspect.isclass(value) and [*found.parameters] == ["args", "kwargs"]:
            found = inspect.signature(
                value.__init__
            )  # a layer's, which its metaclass hides
    except (ValueError, TypeError):
        return "()"
    parts = []
    for p in found.parameters.values():
        if p.name == "self":
            continue
        p = p.replace(annotation=p.empty)
        if p.default is not p.empty:
            shown = _default(p.default)
            p = p.replace(default=type("D", (), {"__repr__": lambda self, s=shown: s})())  # fmt: skip
        parts.append(p)
    return str(inspect.Signature(parts))


def shown_type(text: str) -> str:
    """`Float[Array, 'T B C']` is read more easily as `Float[T, B, C]`."""
    text = re.sub(r"(\w+)\[(?:Array|jax\.Array|np\.ndarray), '([^']*)'\]", lambda m: f"{m[1]}[{', '.join(m[2].split())}]", text)  # fmt: skip
    return text.replace("'", '"')


def body(value: Any, extra: bool = True) -> list[str]:
    """The text below a signature."""
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value) and text == inspect.getdoc(value.__base__):
        text = ""
    types, lines, said = types_of(value), [], set()
    for section, content in split(text):
        if section in ("Args", "Attributes"):
            for names, what in entries(content):
                what = markdown(what).replace("\n", "\n  ")
                for name in (
                    n.strip("* `") for n in names.split(",") if n.strip("* `")
                ):
                    said.add(name)
                    about = f"*`{shown_type(types[name])}`*: " if name in types else ""
                    lines += ["", f":param {name}: {about}{what}"]
        elif section in ("Returns", "Yields"):
            lines += ["", f":returns: {markdown(content)}".replace("\n", "\n  ")]
        elif section == "Raises":
            for name, what in entries(content):
                what = markdown(what).replace("\n", "\n  ")
                lines += ["", f":raises {name}: {what}"]
        else:
            if section:
                lines += ["", f"**{section}**"]
            lines += ["", markdown(content)]
    rest = {k: v for k, v in types.items() if k not in (*said, "return", "self") and not k.startswith("_")}  # fmt: skip
    if extra and rest:
        listed = ", ".join(f"`{k}: {shown_type(v)}`" for k, v in rest.items())
        kind = "Fields" if inspect.isclass(value) else "Types"
        lines += ["", f"{kind}: {listed}."]
    if "return" in types and types["return"] != "None":
        lines += ["", f":rtype: `{shown_type(types['return'])}`"]
    return lines


def describe(name: str, value: Any, module: str) -> list[str]:
    """The directive of a function, a class with its methods, or another value."""
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, Exception) else "class"
    else:
        kind = "function" if callable(value) else "data"
    head = name + (signature(value) if kind in ("function", "class") else "")
    home = getattr(value, "__module__", None) or module
    lines = [f"{FENCE}{{py:{kind}}} {head}", f":module: {module}"]
    if kind != "data" and home.startswith("jsnn") and home != module:
        lines.append(f":canonical: {home}.{value.__qualname__}")
    lines += ["", *(body(value) if kind != "data" else [f"`{_default(value)}`"])]
    if kind == "class":
        for key, method in vars(value).items():
            function = method.__func__ if isinstance(method, classmethod | staticmethod) else method  # fmt: skip
            if key.startswith("_") or not inspect.getdoc(function):
                continue
            if isinstance(function, property):
                lines += ["", f"{FENCE[:-1]}{{py:property}} {name}.{key}", f":module: {module}", ""]  # fmt: skip
                lines += [markdown(inspect.getdoc(function) or ""), FENCE[:-1]]
            elif inspect.isfunction(function) and function.__module__ == value.__module__:  # fmt: skip
                lines += ["", f"{FENCE[:-1]}{{py:method}} {name}.{key}{signature(function)}", f":module: {module}"]  # fmt: skip
                lines += ["", *body(function), FENCE[:-1]]
    return [*lines, FENCE, ""]


@dataclasses.dataclass
class Page:
    """A page of the reference.

    Attributes:
      name: of the module.
      title: of the page.
      names: public names that are described here.
      elsewhere: names that it hands on, and the module under which they are described.
      hidden: a function of the room has the module's name.
    """

    name: str
    title: str
    names: dict[str, Any]
    elsewhere: dict[str, str]
    hidden: bool = False

    def write(self, folder: pathlib.Path, below: list[str]) -> None:
        """Writes the page, with links to those of its modules."""
        module = importlib.import_module(self.name)
        lines = [f"# {self.title}", ""]
        option = [":no-index:"] if self.hidden else []  # a function has its name
        lines += [f"{FENCE}{{py:module}} {self.name}", *option, FENCE, ""]
        text = inspect.getdoc(module) or ""
        lines += [markdown(content) for _, content in split(text)] + [""]
        if below:
            lines += ["```{toctree}", ":maxdepth: 1", ":titlesonly:", "", *below, "```", ""]  # fmt: skip
        if self.elsewhere:
            lines += ["Described elsewhere: " + ", ".join(f"{{py:obj}}`{name} <{home}.{name}>`" for name, home in sorted(self.elsewhere.items())) + ".", ""]  # fmt: skip
        for name, value in self.names.items():
            lines += describe(name, value, self.name)
        text = "\n".join(lines) + "\n"
        path = folder / f"{self.name}.md"
        if (
            not path.exists() or path.read_text() != text
        ):  # unchanged pages are not read again
            path.write_text(text)


def public(module: ModuleType) -> dict[str, Any]:
    """What a module shows: its `__all__`, or what it defines itself."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return {n: getattr(module, n) for n in listed if not inspect.ismodule(getattr(module, n))}  # fmt: skip
    members = {n: v for n, v in vars(module).items() if not n.startswith("_")}
    if hasattr(module, "__path__"):  # handed on, `from a import b as b`
        return {n: v for n, v in members.items() if callable(v) and (getattr(v, "__module__", "") or "").startswith("jsnn.")}  # fmt: skip
    return {n: v for n, v in members.items() if ((inspect.isfunction(v) or inspect.isclass(v)) and v.__module__ == module.__name__) or (n.isupper() and not callable(v))}  # fmt: skip


def pages() -> list[Page]:
    """All pages: the front door, then rooms, then their modules."""
    names = [m.name for m in pkgutil.walk_packages(jsnn.__path__, "jsnn.")]
    names = [n for n in names if n.split(".")[1] not in (*INTERNAL, "_experiments")]
    names.sort(key=lambda n: (n.count("."), n))
    front = {n: getattr(jsnn, n) for n in jsnn._HOME}
    found = [Page("jsnn", "jsnn: the front door", front, {})]
    homes = {id(value): ("jsnn", n) for n, value in front.items()}
    for name in names:
        own, elsewhere = {}, {}
        for n, value in sorted(public(importlib.import_module(name)).items(), key=lambda x: x[0].lower()):  # fmt: skip
            if inspect.isclass(value) or inspect.isfunction(value):
                home = homes.setdefault(id(value), (name, n))
                if home != (name, n):
                    if home[1] == n:
                        elsewhere[n] = home[0]
                    continue
            own[n] = value
        room, _, last = name.rpartition(".")
        hidden = callable(getattr(importlib.import_module(room), last, None))
        found.append(Page(name, name, own, elsewhere, hidden))
    return found


INDEX = """# Reference

Every public name, from its docstring: signature, shapes, units, source. The search box finds each by name.

Axes have the same letters everywhere: T time, B batch, N neurons, C classes, and time comes first. `Float[T, B, C]` is an array of
floating-point numbers with these axes. The unit of a time is in its name or its text.

"""


def index(found: list[Page]) -> str:
    """The first page: all rooms, with what is in them."""
    top = [p for p in found if p.name.count(".") < 2]
    lines = ["```{toctree}", ":hidden:", ":titlesonly:", "", *(p.name for p in top), "```"]  # fmt: skip
    for page in top:
        text = (importlib.import_module(page.name).__doc__ or "").strip()
        first = "the names that most programs need" if page.name == "jsnn" else text.splitlines()[0].rstrip(".")  # fmt: skip
        lines.append(f"- [{page.name}]({page.name}.md): {first}.")
    return (
        INDEX
        + "\n".join(lines[: -len(top)])
        + "\n\n"
        + "\n".join(lines[-len(top) :])
        + "\n"
    )


def write(folder: pathlib.Path) -> None:
    """Writes all pages, and removes those of modules that are gone."""
    folder.mkdir(exist_ok=True)
    found = pages()
    for page in found:
        below = []
        if page.name != "jsnn":
            below = [p.name for p in found if p.name.rpartition(".")[0] == page.name]
        page.write(folder, below)
    (folder / "index.md").write_text(index(found))
    kept = {f"{page.name}.md" for page in found} | {"index.md"}
    for path in folder.glob("*.md"):
        if path.name not in kept:
            path.unlink()
