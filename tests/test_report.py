"""Figures are read back number by number; the report is parsed and must stand alone."""

import html.parser
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from jsnn import activity, encoders, layers, neurons
from jsnn.plot import figures, report
from jsnn.plot import spikes as spike_figures
from jsnn.train import provenance, runs
from jsnn.unroll import Constant

T, B, SHAPE = 6, 2, (3, 3, 2)
CLASSES = ("zero", "one", "two")
NAMES = ["conv 1", "dense 1", "dense 2"]


@pytest.fixture
def activities():
    """A convolutional layer with a threshold per channel, an output of three neurons, and an integrator behind it."""
    rng = np.random.default_rng(0)

    def layer(shape, threshold):
        spikes = (rng.random((T, B, *shape)) < 0.2).astype(np.float32)
        membrane = rng.normal(size=(T, B, *shape)).astype(np.float32)
        return activity.Activity(
            jnp.asarray(spikes), jnp.asarray(membrane), jnp.asarray(threshold)
        )

    integrator = layer((3,), 1.0)._replace(spikes=None, threshold=None)
    return [layer(SHAPE, [0.5, 2.0]), layer((3,), 2.0), integrator]


ROWS = [
    {"split": "train", "epoch": 0.5, "loss": 2.0, "accuracy": 0.3},
    {"split": "train", "epoch": 1.0, "loss": None, "accuracy": 0.6},
    {"split": "test", "epoch": 1.0, "loss": 0.9, "accuracy": 0.7},
]


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def strokes(ax):
    """Time and row of each spike drawn."""
    found = []
    for collection in ax.collections:
        assert isinstance(collection, LineCollection)
        for segment in collection.get_segments():
            found.append((segment[0, 0], segment[:, 1].mean()))
    return sorted((round(t), round(row)) for t, row in found)


def test_drawing_leaves_global_state_alone():
    """The modules import no matplotlib, drawing imports no pyplot, and settings are as before."""
    code = (
        "import sys, jsnn.plot.report, jsnn.plot.spikes\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib\n"
        "before = matplotlib.rcParams.copy()\n"
        f"jsnn.plot.report.figures.curves({ROWS!r})\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_curves():
    figure = figures.curves(ROWS)
    loss, accuracy = (lines(ax) for ax in figure.axes)
    np.testing.assert_array_equal(loss["train"].get_xdata(), [0.5, 1.0])
    np.testing.assert_array_equal(loss["train"].get_ydata(), [2.0, np.nan])
    np.testing.assert_array_equal(accuracy["train"].get_ydata(), [0.3, 0.6])
    np.testing.assert_array_equal(accuracy["test"].get_xydata(), [[1.0, 0.7]])
    assert [ax.get_xlabel() for ax in figure.axes] == ["epoch", "epoch"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "accuracy"]


def test_curves_of_a_rule_without_a_loss():
    rows = [{"split": "validation", "epoch": 1, "accuracy": 0.5}]
    (ax,) = figures.curves(rows).axes
    np.testing.assert_array_equal(lines(ax)["validation"].get_xydata(), [[1, 0.5]])
    for nothing in ([], [{"split": "train", "epoch": 1}]):
        with pytest.raises(ValueError, match="`rows` hold no loss and no accuracy"):
            figures.curves(nothing)


def test_raster_shows_every_spike(activities):
    figure = spike_figures.raster(activities, NAMES, sample=1, class_names=CLASSES)
    hidden, output = figure.axes
    spikes = np.asarray(activities[0].spikes)[:, 1].reshape(T, -1)
    assert strokes(hidden) == [tuple(i) for i in np.argwhere(spikes)]
    spikes = np.asarray(activities[1].spikes)[:, 1]
    assert spikes.any()
    assert strokes(output) == [tuple(i) for i in np.argwhere(spikes)]
    assert [t.get_text() for t in output.get_yticklabels()] == list(CLASSES)
    assert output.get_xlabel() == "time step"
    low, high = output.get_ylim()
    assert low > high, "the first neuron stands at the top"


def test_raster_of_a_large_layer_shows_neurons_that_spike(activities):
    figure = spike_figures.raster(activities, NAMES, sample=1, num_neurons=4)
    spikes = np.asarray(activities[0].spikes)[:, 1].reshape(T, -1)
    active = int(spikes.any(0).sum())
    assert 4 < active < 18
    drawn = strokes(figure.axes[0])
    assert {row for _, row in drawn} == {0, 1, 2, 3}
    title = figure.axes[0].get_title(loc="left")
    assert title == f"conv 1  ·  {active} of 18 neurons spike, 4 shown"
    # Every row drawn is one neuron's whole train of spikes.
    trains = {tuple(np.flatnonzero(column)) for column in spikes.T}
    for row in range(4):
        assert tuple(t for t, r in drawn if r == row) in trains


def test_raster_needs_spikes(activities):
    with pytest.raises(ValueError, match="`activities` hold no layer"):
        spike_figures.raster(activities[2:], NAMES[2:])


def test_membranes_are_in_units_of_the_threshold(activities):
    figure = spike_figures.membranes(activities, NAMES, sample=1, num_neurons=2)
    axes = np.array(figure.axes).reshape(3, 2)
    threshold = np.broadcast_to([0.5, 2.0], SHAPE)
    counts = np.asarray(activities[0].spikes)[:, 1].sum(0)
    for ax in axes[0]:
        index = re.search(r"\((\d), (\d), (\d)\)", ax.get_title(loc="left"))
        assert index is not None
        where = tuple(map(int, index.groups()))
        want = np.asarray(activities[0].membrane)[:, 1][:, *where] / threshold[where]
        np.testing.assert_allclose(ax.lines[0].get_ydata(), want, rtol=1e-6)
        assert len(ax.collections[0].get_segments()) == counts[where] > 0
        assert list(ax.lines[1].get_ydata()) == [1, 1]
    first = axes[0, 0].collections[0].get_segments()
    assert len(first) == counts.max(), "the neuron that spikes most comes first"
    for ax in axes[2]:
        assert len(ax.lines) == 1, "an integrator has no threshold"
    assert axes[2, 0].get_xlabel() == "time step"
    assert axes[0, 0].get_xlabel() == ""


def test_membranes_of_a_layer_smaller_than_the_grid(activities):
    figure = spike_figures.membranes(activities, NAMES, num_neurons=5)
    axes = np.array(figure.axes).reshape(3, 5)
    assert [ax.axison for ax in axes[1]] == [True, True, True, False, False]
    with pytest.raises(ValueError, match="`activities` is empty"):
        spike_figures.membranes([], [])


def test_confusion():
    matrix = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
    figure = figures.confusion(jnp.asarray(matrix), CLASSES)
    (ax,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells == {(0, 0): "8", (1, 0): "2", (0, 2): "1", (2, 2): "3"}
    image = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(image[0, 1, 3], np.sqrt(0.2))
    assert (image[1, :, 3] == 0).all(), "a class without examples stays blank"
    assert to_hex(image[0, 1]) == figures.COLOURS["orange"]
    assert to_hex(image[0, 0]) == figures.COLOURS["blue"]
    assert ax.get_title(loc="left") == "11 of 14 right"
    assert ax.get_xlabel() == "predicted class"
    with pytest.raises(ValueError, match="`class_names` names 2 classes"):
        figures.confusion(matrix, ("a", "b"))


def test_samples(activities):
    spikes = np.asarray(activities[1].spikes)
    images = np.zeros((B, 4, 4, 1), np.uint8)
    figure = spike_figures.samples(images, [0, 2], [0, 1], spikes, CLASSES, columns=2)
    top, bottom = figure.axes[::2], figure.axes[1::2]
    assert [ax.get_title() for ax in top] == ["zero", "one, is two"]
    colours = [ax.title.get_color() for ax in top]
    assert colours == [figures.COLOURS["blue"], figures.COLOURS["orange"]]
    for s, ax in enumerate(bottom):
        assert strokes(ax) == [tuple(i) for i in np.argwhere(spikes[:, s])]
        want = {r: int(n) for r, n in enumerate(spikes[:, s].sum(0)) if n}
        notes = [t for t in ax.texts if isinstance(t, Annotation)]
        found = {note.xy[1]: int(note.get_text()) for note in notes}
        assert found == want
        assert want


def test_save_figures(tmp_path):
    rngs = nnx.Rngs(0)
    graphdef, model = layers.split(
        layers.Sequence(
            layers.Dense(4, 3, init="kaiming", rngs=rngs),
            layers.Neurons(neurons.lif(threshold=0.1)),
        )
    )
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in ROWS)
    )
    report.save_figures(
        tmp_path,
        graphdef,
        model,
        images=np.full((5, 2, 2, 1), 200, np.uint8),
        labels=np.array([0, 1, 2, 0, 1]),
        prediction=np.array([1, 1, 2, 0, 1]),
        encode=encoders.constant(T),
        class_names=CLASSES,
    )
    for name in ("curves", "raster", "membranes", "confusion"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5_000, "an empty page is smaller"


def test_table_for_a_terminal():
    table = report.Table(("layer", "rate"), [("conv 1", "0.25"), ("all", "10")])
    assert table.text() == "layer   rate\n------------\nconv 1  0.25\nall       10"
    with pytest.raises(ValueError, match="`rows` must have 2 cells each"):
        report.Table(("layer", "rate"), [("conv 1",)])


def test_layer_table():
    """A convolution with neurons, a pool of them into a dense read-out without: cells from counts made here."""
    rngs = nnx.Rngs(0)
    graphdef, model = layers.split(
        layers.Sequence(
            layers.Conv(1, 2, init="kaiming", rngs=rngs),
            layers.Neurons(neurons.lif(threshold=0.2)),
            layers.Dense(128, 3, rngs=rngs),
            layers.Neurons(neurons.leaky_integrator()),
            layers.Dense(3, 2, rngs=rngs),
        )
    )
    x = Constant(jax.random.uniform(jax.random.key(0), (B, 8, 8, 1)), T)
    activities, operations = jax.jit(
        lambda m: (
            activity.record(graphdef, m, x),
            activity.synaptic_operations(graphdef, m, x),
        )
    )(model)
    names = activity.neuron_names(graphdef, model)
    weights = activity.weight_names(graphdef, model)
    table = report.layer_table(
        dict(zip(names, activities, strict=True)),
        dict(zip(weights, operations, strict=True)),
    )
    spikes = np.asarray(activities[0].spikes)
    assert 0 < spikes.mean() < 1
    rate, active = spikes.mean(), 100 * spikes.any((0, 1)).mean()
    # 8x8 inputs of a 3x3 kernel: 4 corners reach 4 outputs, 24 edges 6, 36 inner ones 9; two features.
    macs = 2 * (4 * 4 + 24 * 6 + 36 * 9)
    additions = 3 * spikes.sum() / B
    conv = [
        "conv 1",
        "128",
        f"{rate:.3f}",
        f"{active:.0f} %",
        "0",
        str(macs),
        str(macs),
    ]
    dense = ["dense 1", "3", "", "", f"{additions:,.0f}", "0", "384"]
    readout = ["dense 2", "", "", "", "0", str(T * 3 * 2), "6"]
    assert table.rows[:3] == [conv, dense, readout]
    everything = [f"{additions:,.0f}", f"{macs + 36:,}", f"{macs + 390:,}"]
    assert table.rows[3] == ["all", "", "", "", *everything]


def test_samples_are_one_of_each_class_then_the_mistakes():
    labels = np.array([1, 0, 0, 1, 2, 2, 0])
    guesses = np.array([1, 2, 0, 1, 2, 0, 0])
    chosen = spike_figures.choose_samples(labels, guesses, 6)
    assert chosen.tolist() == [2, 0, 4, 1, 5, 3]
    assert sorted(spike_figures.choose_samples(labels, guesses)) == [*range(7)]


class Page(html.parser.HTMLParser):
    """Collects what a test wants to know and checks that elements close in order."""

    VOID = ("meta", "br", "hr", "img", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.targets = [], [], [], []
        self.texts = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def _attributes(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.targets.append(value)
            self.targets += [f"#{x}" for x in re.findall(r"url\(#(.*?)\)", value or "")]


@pytest.fixture
def sections(activities):
    matrix = np.array([[5, 1, 0], [0, 4, 0], [0, 0, 2]])
    images = np.linspace(0, 1, B * 16, dtype=np.float32).reshape(B, 4, 4, 1)
    pictures = [
        report.Picture(figures.curves(ROWS), "Curves of <b> & more."),
        report.Picture(spike_figures.raster(activities, NAMES), "Raster."),
        report.Picture(spike_figures.membranes(activities, NAMES), "Membranes."),
        report.Picture(figures.confusion(matrix, CLASSES), "Confusion."),
        report.Picture(
            spike_figures.samples(
                images, [0, 1], [0, 2], activities[1].spikes, CLASSES
            ),
            "Samples.",
        ),
    ]
    table = report.Table(("a", "b"), [("<script>", "1")], "Units & more.")
    return [
        report.Section("First", "One.\n\nTwo.", [table], pictures, {"seed": 0}),
        report.Section("Second", pictures=pictures[:2]),
    ]


def test_report_stands_alone(tmp_path, sections):
    path = tmp_path / "report.html"
    path.write_text("an older one")
    report.write_report(path, "A & B", sections, lead="What it is.")
    text = path.read_text()
    page = Page(text)
    assert "http" not in text
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == 7
    assert len(set(page.ids)) == len(page.ids), "names are unique in the page"
    inside = [t for t in page.targets if t.startswith("#")]
    assert {t[1:] for t in inside} <= set(page.ids)
    others = [t for t in page.targets if not t.startswith("#")]
    assert others
    assert all(t.startswith("data:image/png;base64,") for t in others)
    assert "#section-1" in inside
    everything = "".join(page.texts)
    for want in ("A & B", "<script>", "Curves of <b> & more.", "What it is.", "Two."):
        assert want in everything
    assert "matplotlib" not in text.lower(), "no metadata of the drawing tool"
    assert text.count("<style") == 1, "a figure's style would hold for the whole page"
    assert {"jax", "flax", provenance.device()} <= set(page.texts)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_report_follows_light_and_dark(tmp_path, sections):
    path = tmp_path / "report.html"
    report.write_report(path, "Title", sections)
    text = path.read_text()
    style, body = text.split("</style>")
    assert "prefers-color-scheme: dark" in style
    for name, colour in figures.COLOURS.items():
        assert f"--{name}: {colour}" in style
        assert style.count(f"--{name}:") == 2, "one for light pages, one for dark"
        assert colour not in body, f"{name} must be the page's"
    for name in ("ink", "muted", "grid", "blue", "orange"):
        assert f"var(--{name})" in body


def test_same_results_give_the_same_file(tmp_path):
    for name in ("a", "b"):
        picture = report.Picture(figures.curves(ROWS), "Curves.")
        section = report.Section("One", pictures=[picture])
        report.write_report(tmp_path / name, "Title", [section])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_report_that_cannot_be_written(tmp_path):
    path = tmp_path / "absent" / "report.html"
    with pytest.raises(runs.RunError, match=r"could not be written \(No such file"):
        report.write_report(path, "Title", [report.Section("One")])
