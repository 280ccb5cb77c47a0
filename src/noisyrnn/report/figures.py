"""Figures of a comparison: test results against strength, training curves, inputs."""

import base64
import io
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from noisyrnn.report.accuracy import panels
from noisyrnn.report.columns import CLEAN, Column, perturbation_title, symbol
from noisyrnn.report.results import Group, SeedResult
from noisyrnn.report.table import PERCENT, Row, Table
from noisyrnn.robustness import METRICS

# Okabe and Ito's colours, which can be distinguished with any colour vision; markers and dashes work without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#8A8A8A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
# Figures use these two colours, which the page replaces by its own for light and dark mode.
INK, RULE = "#1b1c1d", "#dcdddc"
# Maximum number of points of a curve or an input, which limits the size of the page.
POINTS = 200
CHANNELS = 4
STYLE: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.2,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure.

    Args:
        name: Name of the files.
        svg: Drawing for the page, in its colours.
        files: Files to download: a data URL by file name extension.
        narrow: Drawing for narrow screens, with one panel below the other; `None` if `svg` suits them too.
    """

    name: str
    svg: Markup
    files: dict[str, str]
    narrow: Markup | None = None


def colour(position: int) -> str:
    """Return the colour of the label at `position`, the same in every figure."""
    return COLOURS[position % len(COLOURS)]


def score_curves(
    table: Table,
    labels: Sequence[str],
    *,
    metric: str = "accuracy",
    chance: float | None = None,
    only: Collection[str] | None = None,
    published: Mapping[str, Mapping[Column, float]] | None = None,
) -> Figure | None:
    """Draw a metric against strength, one panel per perturbation, with clean inputs at 0 and intervals as bands.

    Args:
        table: Test results of the metric.
        labels: Labels to draw, one line each.
        metric: Key of `METRICS`.
        chance: Value of random guessing, drawn as a dotted line.
        only: Perturbations to draw (default: all).
        published: Published values of each label, by column, drawn as hollow marks on dotted lines.

    Returns:
        The figure, or `None` if only clean inputs were evaluated.
    """
    rows = panels(table)
    clean = rows.pop(CLEAN, [])
    rows = {name: strengths for name, strengths in rows.items() if only is None or name in only}
    if not rows:
        return None
    shown = METRICS[metric]
    factor, unit = (100, " (%)") if shown.unit == PERCENT else (1, "")

    def draw(across: int) -> Canvas:
        figure, axes = grid(len(rows), across=across)
        for axis, (perturbation, strengths) in zip(axes, rows.items(), strict=True):
            for position, label in enumerate(labels):
                _score_curve(axis, [*clean, *strengths], position, label, factor)
                _published_curve(axis, perturbation, (published or {}).get(label, {}), position, factor)
            if chance is not None:
                axis.axhline(factor * chance, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            title = axis.set_title(perturbation_title(perturbation))
            if across > 3:
                title.set_fontsize(8)  # the longest title would be cut off
            columns = [row.quantity.column for row in strengths if row.quantity.column is not None]
            in_units = f" ({columns[0].unit})" if columns[0].unit else ""
            axis.set_xlabel(f"strength {symbol(perturbation)}{in_units}".strip())
            if shown.unit == PERCENT:
                axis.set_ylim(0, 103)
            elif shown.better == "lower":
                axis.set_ylim(bottom=0)
            axis.set_xticks(_apart([0.0, *(column.strength for column in columns)]))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda strength, _: f"{strength:.4g}"))
            if axis in axes[::across]:
                axis.set_ylabel(f"test {shown.title}{unit}")
        legend(figure, axes)
        return figure

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": metric}):
        description = f"Test {shown.title} against strength of each perturbation, one line per model"
        across = min(4 if len(rows) == 4 else 3, len(rows))
        return render(draw, metric if only is None else f"{metric}-main", description, across=across)


def training_curves(groups: Sequence[Group]) -> Figure | None:
    """Draw validation accuracy and training loss by epoch: mean and range over runs that did not fail.

    Without accuracies, for a regression, the validation loss is drawn; and where nothing was validated, the training
    accuracy.
    """
    trained = [(i, group) for i, group in enumerate(groups) if any(_epochs(result) for result in group.results)]
    if not trained:
        return None
    known = {name for _, group in trained for result in group.results for name in result.history}
    classes = "train_accuracy" in known
    error = "cross-entropy" if classes else "squared error / variance of the training targets"
    kinds = ("validation_accuracy", "validation_loss", "train_accuracy")
    first = [name for name in kinds if name in known and name.endswith("_accuracy") == classes][:1]

    def draw(across: int) -> Canvas:
        names = [*first, "train_loss"]
        figure, axes = grid(len(names), across=min(across, len(names)))
        for axis, name in zip(axes, names, strict=True):
            part, kind = name.split("_")
            share = kind == "accuracy"
            ranges = [
                _training_curve(axis, group, position, name, scale=100 if share else 1) for position, group in trained
            ]
            title = f"{'Validation' if part == 'validation' else 'Training'} {kind}"
            axis.set(title=title, xlabel="epoch", ylabel="accuracy (%)" if share else error)
            lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
            if not share and lowest > 0 and highest > 10 * lowest:
                axis.set_yscale("log")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        legend(figure, [axes[0]])
        return figure

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "training"}):
        return render(draw, "training", "Validation results and training loss by epoch, one line per model", across=2)


def heatmap(image: np.ndarray, *, value_range: tuple[float, float]) -> str:
    """Return `image`, `(rows, columns)`, as a PNG in a data URL; values outside the range are clipped."""
    low, high = value_range
    buffer = io.BytesIO()
    imsave(buffer, image, cmap="gray", vmin=low, vmax=high, format="png", metadata={"Software": ""})
    return data_address("image/png", buffer.getvalue())


def trace(inputs: np.ndarray, *, value_range: tuple[float, float]) -> list[str]:
    """Return the points of an SVG line, 100 × 60, for each of the first channels of `inputs`, `(steps, channels)`."""
    low, high = min(value_range[0], float(inputs.min())), max(value_range[1], float(inputs.max()))
    kept = inputs[thinned(len(inputs)), :CHANNELS]
    across = np.linspace(1, 99, len(kept))
    heights = 57 - 54 * (kept - low) / ((high - low) or 1.0)
    return [" ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, line, strict=True)) for line in heights.T]


def _score_curve(axis: Axes, rows: Sequence[Row], position: int, label: str, factor: float) -> None:
    rows = [row for row in rows if label in row.cells]
    if not rows:
        return
    strengths = [column.strength for row in rows if (column := row.quantity.column) is not None]
    low_end, high_end = rows[0].quantity.bounds
    cells = [row.cells[label] for row in rows]
    low = [factor * max(cell.low, low_end) for cell in cells]
    high = [factor * min(cell.high, high_end) for cell in cells]
    axis.fill_between(strengths, low, high, color=colour(position), alpha=0.16, linewidth=0)
    means = [factor * cell.mean for cell in cells]
    axis.plot(strengths, means, label=literal(label), **line_style(position, markers=True))


def _published_curve(
    axis: Axes, perturbation: str, values: Mapping[Column, float], position: int, factor: float
) -> None:
    """Draw the published values of a label under a perturbation, with that of clean inputs."""
    points = {column.strength: value for column, value in values.items() if column.perturbation == perturbation}
    if not points:
        return
    if Column(CLEAN, 0.0) in values:
        points[0.0] = values[Column(CLEAN, 0.0)]
    strengths = sorted(points)
    look = line_style(position, markers=True) | {"linestyle": (0, (1, 2)), "markerfacecolor": "none", "linewidth": 1.0}
    axis.plot(strengths, [factor * points[strength] for strength in strengths], **look)


def _training_curve(axis: Axes, group: Group, position: int, name: str, *, scale: float) -> tuple[float, float]:
    """Draw one label and return its lowest and highest finite value."""
    by_epoch: dict[int, list[float]] = {}
    for result in group.results:
        for epoch, value in zip(_epochs(result), result.history.get(name, ()), strict=False):
            if math.isfinite(value):
                by_epoch.setdefault(int(epoch), []).append(scale * value)
    if not by_epoch:
        return math.inf, 0.0
    epochs = sorted(by_epoch)
    epochs = [epochs[i] for i in thinned(len(epochs))]
    low, high = [min(by_epoch[epoch]) for epoch in epochs], [max(by_epoch[epoch]) for epoch in epochs]
    mean = [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in epochs]
    axis.fill_between(epochs, low, high, color=colour(position), alpha=0.16, linewidth=0)
    axis.plot(epochs, mean, label=literal(group.label), **line_style(position, markers=len(epochs) == 1))
    return min(low), max(high)


def _epochs(result: SeedResult) -> tuple[float, ...]:
    """Return the epochs to draw: none for a failed run, which the page lists separately."""
    return () if result.status == "failed" else result.history["epoch"]


def line_style(position: int, *, markers: bool) -> dict[str, Any]:
    """Return colour and marker, or colour and dashes, of the label at `position`."""
    return {
        "color": colour(position),
        "linestyle": DASHES[position // len(COLOURS) % len(DASHES)] if markers else DASHES[position % len(DASHES)],
        "marker": MARKERS[position % len(MARKERS)] if markers else "",
    }


def grid(count: int, *, across: int, projection: str | None = None) -> tuple[Canvas, list[Axes]]:
    """Return a figure of `count` equal panels, 7.2 inches wide (two columns of a paper), or 3.8 for one panel."""
    columns = min(count, across)
    rows = math.ceil(count / columns)
    width = 3.8 if columns == 1 else 7.2 if columns < 4 else 9.2
    figure = Canvas(figsize=(width, 0.55 + (2.6 if across < 3 else 2.15) * rows), layout="constrained")
    cells = figure.add_gridspec(rows, columns)
    axes = [figure.add_subplot(cells[i // columns, i % columns], projection=projection) for i in range(count)]
    return figure, axes


def legend(figure: Canvas, axes: Sequence[Axes]) -> None:
    """Draw one legend above all panels, with each label once."""
    entries: dict[Any, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    # Estimated width of an entry: its line, and a fourteenth of an inch per letter.
    room = int(figure.get_figwidth() / (0.5 + max(map(len, entries), default=0) / 14))
    across = max(1, min(len(entries), 6, room))
    figure.set_figheight(figure.get_figheight() + 0.19 * (math.ceil(len(entries) / across) - 1))  # panels keep theirs
    figure.legend(list(entries.values()), list(entries), loc="outside upper left", ncols=across, fontsize=8.5)


def render(draw: Callable[[int], Canvas], name: str, description: str, *, across: int = 1) -> Figure:
    """Render a figure for the page and as SVG, PDF and PNG under `name`.

    Args:
        draw: Draws the figure with that many panels side by side.
        name: Name of the files.
        description: For screen readers.
        across: Panels side by side; with more than one, narrow screens get a drawing with one panel below the other.
    """
    figure = draw(across)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is computed once, not again for each file
    files = {ending: data_address(kind, written(figure, ending)) for ending, kind in _KINDS.items()}
    wide = _inline(written(figure, "svg").decode("utf-8"), description)
    narrow = None
    if across > 1:
        with matplotlib.rc_context({"svg.hashsalt": f"{name}-narrow"}):  # other names for what the drawing refers to
            narrow = _inline(written(draw(1), "svg").decode("utf-8"), description)
    return Figure(name=name, svg=wide, files=files, narrow=narrow)


_KINDS = {"svg": "image/svg+xml", "pdf": "application/pdf", "png": "image/png"}
# No date and no creator: the same values give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}


def written(figure: Canvas, ending: str) -> bytes:
    """Return a figure in a file format; a PNG has the white ground that a document expects, and a palette."""
    buffer = io.BytesIO()
    form: dict[str, Any] = {"dpi": 150} if ending == "png" else {"transparent": True}
    figure.savefig(buffer, format=ending, metadata=_METADATA[ending], **form)
    if ending != "png":
        return buffer.getvalue()
    palette = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(128).save(palette, format="png", optimize=True)
    return palette.getvalue()


def _apart(values: Sequence[float]) -> list[float]:
    """Return the values from small to large, without those whose labels would overlap the one before."""
    kept: list[float] = []
    room = (max(values) - min(values)) / 6
    for value in sorted(set(values), reverse=True):
        if not kept or kept[-1] - value >= room:
            kept.append(value)
    return kept[::-1]


def _inline(svg: str, description: str) -> Markup:
    """Adapt `svg` to an HTML page: its width, its colours, and `description` for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    spoken = f' role="img" aria-label="{escape(description)}"'
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', lambda found: found[1] + spoken, svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # Safe as Markup: matplotlib has escaped the labels.
    return Markup(svg.replace(INK, "currentColor").replace(RULE, "var(--rule)"))


def literal(label: str) -> str:
    """Escape `label` so that matplotlib draws it literally: no formulas, not hidden by a leading underscore."""
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def thinned(count: int) -> np.ndarray:
    """Return at most `POINTS` indices spread over `range(count)`, including both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def data_address(kind: str, content: bytes) -> str:
    """Return content as a data URL of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
