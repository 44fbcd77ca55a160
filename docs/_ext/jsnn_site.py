"""What the site needs beside Sphinx and MyST-NB: the reference, mathematics without scripts, and checks of every page."""

import pathlib
import re

import latex2mathml.converter
import reference
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

log = logging.getLogger(__name__)


def write_reference(app: Sphinx) -> None:
    """Before any page is read."""
    reference.write(pathlib.Path(app.srcdir) / "reference")


def rewrite(app: Sphinx, *where_and_text) -> None:
    """Pages link to files of the repository that have a page of their own here."""
    source = where_and_text[-1]
    for old, new in (
        ("README.md#data", "/howto/data.md"),
        ("README.md", "/index.md"),
        ("benchmarks/README.md", "/benchmarks.md"),
        ("CONTRIBUTING.md", "/contributing.md"),
    ):
        for before in ("](", "](../"):
            source[0] = source[0].replace(before + old, "](" + new)


class Names(SphinxPostTransform):
    """Code that is the full name of something in the reference links to it."""

    default_priority = 5

    def run(self, **_) -> None:
        """Wraps each such literal in a link."""
        known = self.env.domains["py"].objects
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, nodes.reference):
                continue
            name = re.sub(r"\(.*", "", literal.astext())
            if not re.fullmatch(r"jsnn(\.\w+)*", name) or name not in known:
                continue
            place = known[name]
            uri = self.app.builder.get_relative_uri(self.env.docname, place.docname)
            link = nodes.reference(
                "", "", internal=True, refuri=f"{uri}#{place.node_id}"
            )
            literal.replace_self(link)
            link += literal


def check_page(app: Sphinx, doctree: nodes.document) -> None:
    """Pictures have alternative texts, and code of Python has been run."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            log.warning(
                "a picture without alternative text: %s",
                image.get("uri"),
                location=image,
            )
    if app.env.docname.startswith("reference/"):
        return  # the tests run its examples
    for block in doctree.findall(nodes.literal_block):
        cell = block.parent is not None and "cell_input" in block.parent.get(
            "classes", []
        )
        python = (
            block.get("language") in ("python", "ipython3")
            or "import jsnn" in block.astext()
        )
        if python and not cell:
            log.warning("Python that is not run: make it a {code-cell}", location=block)


def _math(self, node, display: str) -> None:
    self.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    """Registers all of it."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", rewrite)
    app.connect("include-read", rewrite)
    app.connect("doctree-read", check_page)
    app.add_post_transform(Names)
    app.add_html_math_renderer(
        "mathml",
        (lambda self, node: _math(self, node, "inline"), None),
        (lambda self, node: _math(self, node, "block"), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
