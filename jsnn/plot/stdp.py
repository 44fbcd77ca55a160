"""Figures of networks that learn by STDP: what each layer's features look like, where they fire, and when they have settled.

Made as in `jsnn.plot.figures`. Pictures of many features are one mosaic, in blue that fades into a light page and a dark one alike.

Axes: F features, H, W pixels or neurons.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jsnn.plot.figures import COLOURS, WIDTH, new_figure, style
from jsnn.stdp import forward
from jsnn.stdp.layer import Decision
from jsnn.stdp.networks import Network, names, stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles `[F, H, W]` in rows of `columns`, one pixel apart; NaN around them, 0 where there is no tile."""
    count, height, width = tiles.shape
    rows = -(-count // columns)
    whole = np.zeros((rows * (height + 1) + 1, columns * (width + 1) + 1))
    for n in range(count):
        y, x = n // columns * (height + 1), n % columns * (width + 1)
        whole[y : y + height + 2, x : x + width + 2] = np.nan
    for n, tile in enumerate(tiles):
        y, x = n // columns * (height + 1) + 1, n % columns * (width + 1) + 1
        whole[y : y + height, x : x + width] = tile
    return whole


def _show(ax: "Axes", mosaic: np.ndarray, low: float, high: float) -> None:
    """Values from `low` (clear) to `high` (solid blue); a grey thread between tiles."""
    from matplotlib.colors import to_rgb

    share = np.clip((mosaic - low) / max(high - low, 1e-12), 0, 1)
    image = np.empty((*mosaic.shape, 4))
    image[..., :3], image[..., 3] = to_rgb(COLOURS["blue"]), share
    gap = np.isnan(mosaic)
    image[gap] = (*to_rgb(COLOURS["muted"]), 0.35)
    ax.imshow(image, interpolation="nearest")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])


_PALE = 0.15  # opacity of features that have never won


def _unit(tiles: np.ndarray) -> np.ndarray:
    """Each tile scaled to [0, 1] by itself; a constant one becomes 0."""
    low = tiles.min((1, 2), keepdims=True)
    span = tiles.max((1, 2), keepdims=True) - low
    return (tiles - low) / np.where(span > 0, span, 1)


def features(
    images: Any,
    *,
    title: str = "",
    columns: int = 20,
    limit: int = 200,
    row_names: Sequence[str] | None = None,
    scale: Literal["own", "common"] = "own",
    won: Any | None = None,
) -> "Figure":
    """A mosaic of features, such as the fields of `jsnn.receptive_fields`.

    Args:
      images: `[F, H, W]`, NaN nowhere.
      scale: each feature from its smallest to its largest value, or all from 0 to the largest of all.
      won: which features have ever won, `[F]`, from `stdp.forward.have_won`. The others hold their random initial weights: they are
        pale, do not count for the common scale, and the title says how many there are. None: all.
      title: stands above it.
      columns: features in a row.
      limit: of more features than this, so many at even distances are shown, and the title says so.
      row_names: one name a row, such as the classes if each has a row of features.

    Raises:
      ValueError: if there are no features, or `row_names` or `won` do not fit them.
    """
    tiles = np.asarray(images, np.float64)
    if tiles.ndim != 3 or not len(tiles):
        raise ValueError(f"`images` must be [F, H, W], F >= 1, got {tiles.shape}.")
    total = len(tiles)
    strong = np.ones(total, bool) if won is None else np.asarray(won, bool)
    if strong.shape != (total,):
        raise ValueError(
            f"`won` must say of each of {total} features whether it has won, got shape {strong.shape}."
        )
    if total > limit:
        shown = np.linspace(0, total - 1, limit).round().astype(int)
        tiles, strong = tiles[shown], strong[shown]
        title = f"{title}  ·  {limit} of {total} features".lstrip(" ·")
    if not strong.all():
        title += f"  ·  pale: {(~strong).sum()} that never won"
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    if row_names is not None and len(row_names) != rows:
        raise ValueError(
            f"`row_names` must name {rows} rows of {columns} features, got {len(row_names)} names."
        )
    if scale == "own":
        tiles = _unit(tiles)
    else:
        tiles = tiles / max(tiles[strong].max(initial=0.0), 1e-12)
    mosaic = _mosaic(
        tiles.clip(0, 1) * np.where(strong, 1, _PALE)[:, None, None], columns
    )
    with style():
        tall = (WIDTH - 0.4) * mosaic.shape[0] / mosaic.shape[1] + 0.35
        figure = new_figure(min(tall, 12.0))
        ax = figure.subplots()
        _show(ax, mosaic, 0.0, 1.0)
        ax.set_title(title)
        if row_names is not None:
            pitch = tiles.shape[1] + 1
            centres = np.arange(rows) * pitch + pitch / 2
            ax.set_yticks(centres, row_names)
            ax.tick_params(length=0)
    return figure


def feature_sheets(
    network: Network,
    weights: Sequence[Any],
    initial: Sequence[Any],
    class_names: Sequence[str],
) -> dict[str, "Figure"]:
    """A mosaic of every layer's features, as `features_layer_1`: of a decision layer a row a class.

    Args:
      network: from `jsnn.stdp`.
      weights: after training.
      initial: before it, from `stdp.initial_weights`.
      class_names: one a class.
    """
    found = {}
    blocks = zip(
        names(network),
        forward.fields(network, weights, initial),
        forward.have_won(initial, weights),
        stages(network),
        strict=True,
    )
    for of_block in blocks:
        for name, images, won, spec in zip(*of_block, strict=True):
            options: dict[str, Any] = {}
            if isinstance(spec, Decision):
                options = {
                    "columns": spec.features // spec.classes,
                    "row_names": class_names,
                    "scale": "common",
                }
            found[f"features_{name.replace(' ', '_')}"] = features(
                images,
                title=f"{name}: what its features look for",
                won=won,
                **options,
            )
    return found


def activation_maps(
    layers: Mapping[str, Any],
    num_steps: Mapping[str, int] | int,
    *,
    image: Any | None = None,
    columns: int = 14,
    limit: int = 28,
) -> "Figure":
    """When the neurons of each layer first spike for one image: the earlier the bluer, blank for those that never do.

    Of a large layer the features with most spikes are shown, in their order; the title says of how many.

    Args:
      layers: first-spike maps by name, `[F, H, W]`: the step of the first spike, at or above T for never.
      num_steps: T, of all layers or by name.
      image: the image itself, `[H, W]`, shown on top.
      columns: features in a row.
      limit: features shown of a layer.

    Raises:
      ValueError: if there are no layers.
    """
    if not layers:
        raise ValueError("`layers` is empty: give the maps of at least one layer.")
    panels = []
    if image is not None:
        grey = np.asarray(image, np.float64)
        panels.append(("image", _mosaic(grey[None], columns), float(grey.max())))
    for name, times in layers.items():
        steps = num_steps if isinstance(num_steps, int) else num_steps[name]
        panels.append(_earliness(name, np.asarray(times), steps, columns, limit))
    heights = [
        (WIDTH - 0.2) * mosaic.shape[0] / mosaic.shape[1] for _, mosaic, _ in panels
    ]
    with style():
        figure = new_figure(sum(heights) + 0.32 * len(panels))
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
        for ax, (title, mosaic, high) in zip(axes[:, 0], panels, strict=True):
            _show(ax, mosaic, 0.0, high)
            ax.set_title(title)
    return figure


def _earliness(
    name: str, times: np.ndarray, num_steps: int, columns: int, limit: int
) -> tuple[str, np.ndarray, float]:
    """Title, mosaic and largest value of one layer: T for a spike at the first step, 0 for none."""
    value = np.maximum(num_steps - times.astype(np.int64), 0)
    count, total = int((value > 0).sum()), value.size
    title = f"{name}  ·  {count:,} of {total:,} neurons spike"
    if len(value) > limit:
        title += f", {limit} of {len(value)} features shown"
        most = np.argsort(-(value > 0).sum((1, 2)), kind="stable")[:limit]
        value = value[np.sort(most)]
    return title, _mosaic(value.astype(np.float64), columns), float(num_steps)


def convergence(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Weight-convergence index, the mean of w (1 - w), of each layer against the images it has seen.

    Args:
      rows: rows of `metrics.jsonl`; those with `layer`, `seen` and `convergence` count.

    Raises:
      ValueError: if no row has them.
    """
    chosen = [row for row in rows if {"layer", "seen", "convergence"} <= row.keys()]
    if not chosen:
        raise ValueError("`rows` hold no convergence index of any layer.")
    names = list(dict.fromkeys(row["layer"] for row in chosen))
    looks = [
        {"color": COLOURS[colour], "ls": line}
        for line in ("-", (0, (4, 2)), ":")
        for colour in ("blue", "orange", "green")
    ]
    with style():
        figure = new_figure(2.9, WIDTH / 1.6)
        ax = figure.subplots()
        for number, name in enumerate(names):
            of_layer = [row for row in chosen if row["layer"] == name]
            x = [row["seen"] for row in of_layer]
            y = [row["convergence"] for row in of_layer]
            ax.plot(x, y, label=name, **looks[number % len(looks)])
        ax.set_xlabel("training images")
        ax.set_ylabel("mean of w (1 - w)")
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.legend()
    return figure


def history(rows: list[dict[str, Any]]) -> str:
    """R-STDP's history as CSV, one line an epoch, in the original's columns and validation in place of test."""
    epochs: dict[int, dict[str, Any]] = {}
    for row in rows:
        epoch = epochs.setdefault(int(np.ceil(row["epoch"])), {"train": []})
        if row["split"] == "train":
            epoch["train"].append((row["accuracy"], row["loss"]))
        else:
            epoch["validation"] = (row["accuracy"], row["loss"])
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(
        ["epoch", "train_acc", "train_loss", "validation_acc", "validation_loss"]
    )
    for number, epoch in epochs.items():
        means = np.mean(epoch["train"], axis=0).tolist()
        writer.writerow([number, *means, *epoch.get("validation", ("", ""))])
    return text.getvalue()
