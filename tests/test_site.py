"""The site's pages, without building them: `make docs` does that, and runs their code."""

import importlib.util
import pathlib
import re

import pytest

import jsnn
from jsnn import commands

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if not {"_build", "reference"} & {*path.relative_to(DOCS).parts}
}


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "_ext/reference.py")  # fmt: skip
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_its_place_in_the_reference(reference, tmp_path):
    reference.write(tmp_path)
    pages = {path.stem: path.read_text() for path in tmp_path.glob("*.md")}
    front = pages["jsnn"]
    for name in jsnn._HOME:
        assert re.search(rf"{{py:\w+}} {name}\b", front), name
    for room in jsnn._ROOMS:
        assert f"jsnn.{room}" in pages
    every = "".join(pages.values())
    for room in ("neurons", "eventprop", "stdp", "continual", "layers"):
        for name in getattr(jsnn, room).__all__:
            described = re.search(rf"{{py:\w+}} {name}\b", every)
            assert described, f"jsnn.{room}.{name}"


def test_docstrings_become_markdown(reference):
    """Of `lif`: shapes, the equation, an example in a fence, and each argument with its type."""
    lines = "\n".join(reference.describe("lif", jsnn.neurons.lif, "jsnn.neurons"))
    assert ":canonical: jsnn.neurons.lif.lif" in lines
    assert r"$v_t = \beta v_{t-1} + x_t$" in lines
    assert ":param beta: *`ArrayLike`*: fraction of the membrane kept per step" in lines
    assert "```pycon\n>>> neuron = lif(beta=0.5)" in lines
    assert ":raises ValueError:" in lines


def test_every_page_is_in_a_list_of_pages():
    listed = {"index.md"}
    for page, text in PAGES.items():
        for block in re.findall(r"```\{toctree\}(.*?)```", text, re.DOTALL):
            names = [x for x in block.split("\n") if x and not x.startswith(":")]
            listed |= {str(pathlib.Path(page).parent / f"{n}.md") for n in names}
    assert set(PAGES) <= listed


@pytest.mark.parametrize("page", PAGES)
def test_pictures_have_words_and_python_is_run(page):
    text = PAGES[page]
    for picture in re.findall(r"!\[([^\]]*)\]", text):
        assert picture
    figures = re.findall(r"```\{figure\}(.*?)```", text, re.DOTALL)
    assert all(":alt:" in figure for figure in figures)
    assert "```python\n" not in text, "make it a {code-cell}"
    if "{code-cell}" in text:
        assert "jupytext:" in text.split("---")[1]
    if page.startswith("learn/") and page != "learn/index.md":
        assert "alt:" in text


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_a_page_are_there(page):
    found = re.findall(r"^\$ (?:srun [^j]*)?jsnn ([a-z]\w*)", PAGES[page], re.MULTILINE)
    assert set(found) <= set(commands.names())
