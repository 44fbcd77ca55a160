"""The site: `make docs` writes it to docs/_build/html."""

import hashlib
import os
import pathlib
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "jsnn"
author = "The jsnn authors"
copyright = "2026, the jsnn authors"
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"][
    "version"
]
extensions = [
    "myst_nb",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_copybutton",
    "jsnn_site",
]
exclude_patterns = ["_build", "requirements.txt"]
nitpicky = False
highlight_language = "default"

# Markdown
myst_enable_extensions = [
    "dollarmath",
    "fieldlist",
    "deflist",
    "colon_fence",
    "attrs_inline",
]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# Every page's code runs when the site is built. Results are kept until the library, or the page, changes.
_sources = sorted((HERE.parent / "jsnn").rglob("*.py")) + sorted(
    (HERE.parent / "experiments").rglob("*.py")
)
_digest = hashlib.sha256(b"".join(p.read_bytes() for p in _sources)).hexdigest()[:16]
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "cells" / _digest)
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # what a page writes is gone afterwards
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "warn"
os.environ["PYTHONPATH"] = str(HERE.parent)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JSNN_CACHE"] = str(HERE / "_build" / "data")  # and not the user's

# The look
html_theme = "furo"
html_title = f"jsnn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # a page opened from a disk may not fetch others
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b6fa4",
        "color-brand-content": "#0b6fa4",
    },
    "dark_css_variables": {
        "color-brand-primary": "#56b4e9",
        "color-brand-content": "#56b4e9",
    },
}
