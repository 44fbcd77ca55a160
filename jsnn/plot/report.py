"""What a run leaves for people to look at: PNG figures in its folder, and a report that is one HTML file.

The report holds its figures as inline SVG and its style as inline CSS: it loads nothing and runs no script, so it can be mailed,
archived, or opened from a disk. It follows the reader's choice of a light or dark page.
"""

import base64
import dataclasses
import html
import io
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jsnn import activity, files, layers, metrics
from jsnn.plot import figures
from jsnn.plot import spikes as spike_figures
from jsnn.train import provenance, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as they are to be read; all columns but the first are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"`rows` must have {len(self.columns)} cells each, one a column, got {row!r}."
                )

    def text(self) -> str:
        """The table for a terminal."""
        cells = [list(self.columns), *map(list, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for row in cells:
            first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:], strict=True)
            lines.append("  ".join([first, *(cell.rjust(w) for cell, w in rest)]))
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join(line.rstrip() for line in lines)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure, or a PNG file's content, and what it shows."""

    figure: "Figure | bytes"
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of a report: a learning rule, say.

    Attributes:
      title: heading.
      text: paragraphs, with an empty line between two.
      tables: shown first.
      pictures: shown below them.
      config: what decided the result, shown folded.
      more: tables for those who want to know more, shown folded.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    more: Sequence[Table] = ()


_DARK = {
    "ink": "#e4e8eb",
    "muted": "#98a4ae",
    "grid": "#323a42",
    "blue": "#56b4e9",
    "orange": "#f08c3c",
    "green": "#35c79b",
}
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; %(light)s }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; %(dark)s } }
body { background: var(--paper); color: var(--ink); margin: 0 auto; max-width: 52rem; padding: 2rem 1.25rem 4rem;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; border-top: 1px solid var(--grid); margin: 2.5rem 0 .75rem; padding-top: 1.5rem; }
p { max-width: 42rem; }
a { color: var(--blue); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; margin: 1rem 0 .35rem; }
th, td { padding: .32rem 1rem .32rem 0; text-align: right; border-bottom: 1px solid var(--grid); }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.75rem 0; }
figure img { background: #fff; border-radius: .35rem; }
figure svg, figure img { display: block; width: 100%%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption, .caption, footer, details { color: var(--muted); font-size: .88rem; }
figcaption, .caption { margin-top: .35rem; max-width: 42rem; }
summary { cursor: pointer; }
footer { border-top: 1px solid var(--grid); margin-top: 3rem; padding-top: 1rem; }
"""


def _style() -> str:
    def variables(colours: Mapping[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in colours.items())

    return _STYLE % {
        "light": variables(figures.COLOURS),
        "dark": variables(_DARK),
    }


def _svg(figure: "Figure", label: str, number: int) -> str:
    """A figure as an SVG element without prologue, links and style of its own, in the page's colours."""
    file = io.StringIO()
    with figures.style():
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    opening, _, body = text[text.index("<svg") :].partition(">")
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None, "matplotlib gives every SVG a view box"
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>\s*", "", body, flags=re.DOTALL)
    # Every figure has an `axes_1`: names that nothing refers to go, the others get the figure's number.
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(
        r' id="([^"]*)"',
        lambda m: f' id="f{number}-{m[1]}"' if m[1] in used else "",
        body,
    )
    body = re.sub(r'(href="|url\()#', rf"\1#f{number}-", body)
    for name, colour in figures.COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    width = figure.get_figwidth() * 96  # CSS pixels
    return (
        f'<svg {box[0]} role="img" aria-label="{html.escape(label)}" style="max-width: {width:.0f}px">'
        + body
    )


def _image(picture: Picture, number: int) -> str:
    """A picture as an element of the page."""
    if not isinstance(picture.figure, bytes):
        return _svg(picture.figure, picture.caption, number)
    data = base64.b64encode(picture.figure).decode()
    # As large as a figure of the scripts is meant to be; the header says how many pixels wide it is.
    width = 0.64 * int.from_bytes(picture.figure[16:20], "big")
    return (
        f'<img alt="{html.escape(picture.caption)}" style="max-width: {width:.0f}px" '
        f'src="data:image/png;base64,{data}">'
    )


def _table(table: Table) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        inner = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
        return f"<tr>{inner}</tr>"

    lines = [f'<div class="scroll"><table><thead>{row("th", table.columns)}</thead>']
    lines.append("<tbody>" + "".join(row("td", r) for r in table.rows) + "</tbody>")
    lines.append("</table></div>")
    if table.caption:
        lines.append(f'<p class="caption">{html.escape(table.caption)}</p>')
    return "\n".join(lines)


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    table = Table(("name", "value"), [(k, str(v)) for k, v in facts.items()])
    return f"<details><summary>{html.escape(title)}</summary>{_table(table)}</details>"


def _section(section: Section, number: int) -> str:
    paragraphs = [p for p in section.text.split("\n\n") if p.strip()]
    parts = [f'<section id="section-{number}"><h2>{html.escape(section.title)}</h2>']
    parts += [f"<p>{html.escape(p)}</p>" for p in paragraphs]
    parts += [_table(table) for table in section.tables]
    for i, picture in enumerate(section.pictures):
        # One number for each figure of the whole page.
        svg = _image(picture, 1000 * number + i)
        caption = f"<figcaption>{html.escape(picture.caption)}</figcaption>"
        parts.append(f"<figure>{svg}{caption}</figure>")
    if section.more:
        tables = "".join(map(_table, section.more))
        parts.append(f"<details><summary>More numbers</summary>{tables}</details>")
    if section.config:
        parts.append(_facts("Configuration", section.config))
    return "\n".join([*parts, "</section>"])


def write_report(
    path: pathlib.Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    made: Mapping[str, Any] | None = None,
) -> None:
    """Writes a report of these sections to one HTML file, replacing the one there.

    Args:
      path: the file.
      title: heading of the page.
      sections: in order; with several, links to them stand on top.
      lead: a sentence or two under the title.
      made: commit, device and versions; those of this process if None.

    Raises:
      RunError: if the file cannot be written.
    """
    links = [
        f'<a href="#section-{i}">{html.escape(section.title)}</a>'
        for i, section in enumerate(sections)
    ]
    facts = made or {
        "commit": provenance.commit(),
        "device": provenance.device(),
        **provenance.versions(),
    }
    page = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(lead)}</p>" if lead else "",
        f"<nav>{' · '.join(links)}</nav>" if len(links) > 1 else "",
        *(_section(section, i) for i, section in enumerate(sections)),
        f"<footer>{_facts('Versions and device', facts)}</footer>\n</body>\n</html>\n",
    ]
    try:
        files.write(path, "\n".join(line for line in page if line))
    except OSError as error:
        raise runs.RunError(
            f"{path} could not be written ({error.strerror}). Free some space or choose another folder."
        ) from error


def layer_table(
    activities: Mapping[str, activity.Activity],
    operations: Mapping[str, activity.Operations],
) -> Table:
    """One row a layer: how much it fires, and what it computes for one sample beside a conventional network.

    Args:
      activities: from `activity.record`, by name: `dict(zip(neuron_names(...), record(...), strict=True))`.
      operations: from `activity.synaptic_operations`, by name.
    """
    rows, total = [], np.zeros(3)
    for name in dict.fromkeys([*operations, *activities]):
        cells = [name, "", "", ""]
        if one := activities.get(name):
            cells[1] = f"{int(np.prod(one.membrane.shape[2:])):,}"
            if one.spikes is not None:
                rate, active = map(float, activity.firing(one))
                cells[2:] = [f"{rate:.3f}", f"{100 * active:.0f} %"]
        costs = np.full(3, np.nan)
        if found := operations.get(name):
            costs = np.array([float(np.mean(value)) for value in found])
            total += costs
        rows.append(cells + ["" if np.isnan(c) else f"{c:,.0f}" for c in costs])
    rows.append(["all", "", "", "", *(f"{c:,.0f}" for c in total)])
    return Table(
        ("layer", "neurons", "rate", "ever spike", "additions", "MACs", "MACs as ANN"),
        rows,
        "Rate: spikes of a neuron per step. Ever spike: neurons that spike on any sample. Additions and multiply-accumulates (MACs): for one "
        "sample, all steps together. A spike costs an addition at each synapse it reaches; an analogue input a MAC. A conventional network "
        "(ANN) of the same shape multiplies at every synapse, once.",
    )


def neurobench_table(found: Mapping[str, Any]) -> Table:
    """NeuroBench's measures by its own names.

    Args:
      found: from `metrics.neurobench`.
    """
    rows = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            parts = [(f"{name}: {part}", v) for part, v in value.items()]
        else:
            parts = [(name, value)]
        for part, v in parts:
            share = name.endswith("Sparsity")
            rows.append([part, f"{float(v):.4f}" if share else f"{float(v):,.0f}"])
    return Table(
        ("NeuroBench", "value"),
        rows,
        "By NeuroBench's definitions. Footprint: bytes. Sparsity: share of zeros among weights, and among the outputs of spiking neurons. Synaptic operations "
        "and membrane updates: for one sample, all steps together. Effective: neither input nor weight is 0; ACs where inputs are spikes, MACs elsewhere. Dense: "
        "all products. A constant image counts at each step.",
    )


def _rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def save_figures(
    folder: pathlib.Path,
    graphdef: Any,
    model: layers.Model,
    *,
    images: Any,
    labels: Any,
    prediction: Any,
    encode: Callable[..., Any],
    class_names: Sequence[str],
) -> None:
    """Writes curves.png, raster.png, membranes.png and confusion.png to a finished run's folder.

    Raster and membranes are those of the first image that is classified right, or of the first.

    Args:
      folder: the run's, with its metrics.jsonl.
      graphdef: static part of the model, from `layers.split`.
      model: its arrays.
      images: inputs of the test set, `[S, ...]`.
      labels: true classes `[S]`.
      prediction: predicted classes `[S]`.
      encode: `(images, None) -> signal`, as the network was trained.
      class_names: one name a class.
    """
    prediction, labels = np.asarray(prediction), np.asarray(labels)
    sample = int(np.argmax(prediction == labels))
    signal = encode(jnp.asarray(images[sample : sample + 1]), None)
    activities = activity.record(graphdef, model, signal)
    names = activity.neuron_names(graphdef, model)
    matrix = metrics.confusion_matrix(prediction, labels, len(class_names))
    drawn = {
        "curves": figures.curves(_rows(folder)),
        "raster": spike_figures.raster(activities, names, class_names=class_names),
        "membranes": spike_figures.membranes(activities, names),
        "confusion": figures.confusion(matrix, class_names),
    }
    figures.save_all(drawn, folder)
