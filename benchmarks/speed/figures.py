"""Plots of a measurement: everyone at the main size, and growth with each axis."""

import io
import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.speed.cases import GROWTH
from benchmarks.speed.tables import Document, main_case, seconds_of, title_of
from noisyrnn.report.figures import COLOURS, DASHES, INK, MARKERS, RULE, STYLE

TITLES = {"steps": "steps T", "hidden": "hidden units d", "batch": "batch B"}
MODES = ("training", "inference")


def ranking(document: Document, threads: int) -> str | None:
    """Median times at the main size, a point for each contestant with its range, and a line at the floor."""
    panels = [(mode, entry) for mode in MODES if (entry := main_case(document, threads, mode)) and entry["results"]]
    names = [name for name in document["contestants"] if any(seconds_of(e, name) for _, e in panels)]
    if not names:
        return None
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "ranking"}):
        figure = Figure(figsize=(8.6, 0.9 + 0.27 * len(names)), layout="constrained")
        for axis, (mode, entry) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for place, name in enumerate(reversed(names)):
                result = entry["results"].get(name, {})
                if "median" in result:
                    low, middle, high = (1e3 * result[key] for key in ("min", "median", "max"))
                    colour = COLOURS[0] if name.split("-")[0] in document["ours"] else COLOURS[7]
                    axis.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt", alpha=0.5)
                    axis.plot(middle, place, color=colour, marker="o")
                    axis.annotate(
                        f"{middle:.3g}", (high, place), (4, 0), textcoords="offset points", va="center", size=7
                    )
            if "floor" in entry:
                axis.axvline(1e3 * entry["floor"]["median"], color=COLOURS[1], linewidth=1, linestyle="--")
            axis.set(xscale="log", title=f"{mode}, ms (dashed: the floor)")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_yticks(range(len(names)), [title_of(document, name) for name in reversed(names)])
            axis.margins(x=0.15)
            if axis is not figure.axes[0]:
                axis.set_yticklabels([])
        return _svg(figure, f"Times of all contestants at the main size, {threads} threads")


def growth(document: Document, threads: int) -> str | None:
    """Median times against each axis, the others as in the main size: a row for each mode, a column for each axis."""
    lines = {(mode, axis): _lines(document, threads, mode, axis) for mode in MODES for axis in GROWTH}
    modes = [mode for mode in MODES if any(len(v) > 1 for a in GROWTH for v in lines[mode, a].values())]
    if not modes:
        return None
    names = [name for name in document["contestants"] if not name.endswith("-quiet")]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "growth"}):
        figure = Figure(figsize=(8.6, 0.7 + 2.5 * len(modes)), layout="constrained")
        panels = figure.subplots(len(modes), len(GROWTH), squeeze=False)
        for mode, row in zip(modes, panels, strict=True):
            for axis_name, panel in zip(GROWTH, row, strict=True):
                _draw(panel, document, names, lines[mode, axis_name])
                panel.set(xlabel=TITLES[axis_name], title=mode if panel is row[0] else "")
            row[0].set_ylabel("ms")
        handles = {label: h for p in figure.axes for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4, fontsize=8)
        return _svg(figure, f"Growth of the times with each axis, {threads} threads")


def _lines(document: Document, threads: int, mode: str, axis: str) -> dict[str, list[tuple[int, float]]]:
    """Points of each contestant, and of the floor, where all other axes are as in the main size."""
    others = {key: value for key, value in document["main"].items() if key != axis}
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in document["cases"]:
        if (entry["threads"], entry["mode"]) != (threads, mode) or any(entry[k] != v for k, v in others.items()):
            continue
        for name in entry["results"]:
            median = seconds_of(entry, name)
            if median is not None:
                found.setdefault(name, []).append((entry[axis], 1e3 * median))
        if "floor" in entry:
            found.setdefault("floor", []).append((entry[axis], 1e3 * entry["floor"]["median"]))
    return {name: sorted(points) for name, points in found.items()}


def _draw(panel: Axes, document: Document, names: list[str], lines: dict[str, list[tuple[int, float]]]) -> None:
    ticks = {x for points in lines.values() for x, _ in points}
    for place, name in enumerate(names):
        if len(lines.get(name, [])) > 1:
            panel.plot(
                *zip(*lines[name], strict=True),
                label=title_of(document, name),
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place % len(MARKERS)],
                linestyle=DASHES[place // len(COLOURS) % len(DASHES)],
            )
    if len(lines.get("floor", [])) > 1:
        panel.plot(*zip(*lines["floor"], strict=True), label="floor", color=INK, linewidth=1, linestyle=":")
    panel.set(xscale="log", yscale="log")
    panel.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([str(tick) for tick in sorted(ticks)])


def _svg(figure: Figure, description: str) -> str:
    """The figure as a part of a page, in its colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{description}"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")
