"""Tables and pictures of `docs/results/ordered-mnist.md`: `python docs/ordered_mnist.py [runs/ordered-mnist]`.

Takes the tables and the loss landscapes from the folder that `noisyrnn reproduce` wrote, if one is named. Writes the
summary of the page's tables into the page and the README, and draws the tables.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from noisyrnn.report.figures import COLOURS, MARKERS, STYLE

FOLDER = Path(__file__).parent
OURS, PUBLISHED = "ours, best epoch", "published"
ROWS = {
    "noisy-inputs": "noise on the images and on the hidden state",
    "noisy-high": "noise on the hidden state",
    "noise-free": "the same without noise",
    "noisy-0.1": "more noise on the hidden state, averaged weights",
    "noisy-low": "less noise on the hidden state",
    "lipschitz": "no noise, Lipschitz RNN",
    "antisymmetric": "no noise, antisymmetric RNN",
}
"""Rows of the summary, where the page has them, and what they are trained with."""

COLUMNS = {
    "Clean": "clean",
    "White noise σ 0.1": "white noise σ 0.1",
    "White noise σ 0.3": "white noise σ 0.3",
    "Salt and pepper α 0.1": "salt and pepper α 0.1",
    "Worst case over attacks ℓ∞ ϵ 0.05": "attacks ℓ∞ ϵ 0.05",
}
"""Columns of the tables that the summary has, and their titles in it."""

PANELS = {"White noise σ": "white noise σ on the test images", "Salt and pepper α": "share α of pixels set to 0 or 1"}
"""Columns of the table, by the beginning of their titles, and the label of the horizontal axis of their panel."""

Values = tuple[float, ...]
"""Accuracy in %, and the ends of its interval where there is one."""


def table(page: str, corner: str) -> list[list[str]]:
    """Return the cells of the table of `page` whose first cell is `corner`, its header first."""
    header, _, *lines = page[page.index(f"| {corner} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in (header, *lines)]


def accuracies(page: str) -> dict[str, dict[str, dict[str, Values]]]:
    """Return the accuracies by row, kind (`OURS`, `PUBLISHED`) and column, those without a published value too."""
    (_, _, _, *columns), *lines = table(page, "row")
    found: dict[str, dict[str, dict[str, Values]]] = {}
    label = ""
    for name, kind, _, *cells in lines:
        label = name or label
        if kind in (OURS, PUBLISHED):
            values = {column: numbers(cell) for column, cell in zip(columns, cells, strict=True)}
            found.setdefault(label, {})[kind] = {column: value for column, value in values.items() if value}
    (_, *labels), *lines = table(page, "test inputs")
    for column, *cells in lines:
        for label, cell in zip(labels, cells, strict=True):
            if numbers(cell):
                found[label][OURS].setdefault(column, numbers(cell))
    return found


def trainings(page: str) -> dict[tuple[str, str], int]:
    """Return the number of trainings by row and kind."""
    found: dict[tuple[str, str], int] = {}
    label = ""
    for name, kind, count, *_ in table(page, "row")[1:]:
        label = name or label
        if count:
            found[label, kind] = int(count)
    return found


def summary(page: str) -> str:
    """Return the summary in Markdown: each row of ours, and the published one below it.

    Intervals are left out where there are fewer than three trainings, since they are those of one model then.
    """
    found, counts = accuracies(page), trainings(page)
    lines = [["trained with", "trainings", *COLUMNS.values()]]
    for label, text in ROWS.items():
        for kind, title in ((OURS, f"{label}: {text}"), (PUBLISHED, "— published")):
            values, count = found.get(label, {}).get(kind), counts.get((label, kind), 0)
            if values:
                lines.append([title, str(count), *(cell(values.get(column, ()), count) for column in COLUMNS)])
    rule = "|---|" + "---:|" * (len(lines[0]) - 1)
    first, *others = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([first, rule, *others])


def cell(values: Values, count: int) -> str:
    """Return the text of a value, with its interval where there is one over trainings."""
    if len(values) == 3 and count >= 3:
        return f"{values[0]:.1f} [{values[1]:.1f}, {values[2]:.1f}]"
    return f"{values[0]:.1f}" if values else "–"


def with_summary(text: str, summary: str) -> str:
    """Return a page with another summary."""
    before, after = text.split("| trained with |", 1)
    return before + summary + "\n\n" + after.split("\n\n", 1)[1]


def with_tables(page: str, tables: str) -> str:
    """Return the page with the tables of another `table.md`, which begin with the source of the published values."""
    start = "\nPublished: "
    return page[: page.index(start)] + tables[tables.index(start) :]


def numbers(cell: str) -> Values:
    """Return the numbers of a cell such as `99.1 [98.9, 99.3]`."""
    return tuple(float(value) for value in re.findall(r"\d[\d.]*", cell))


def draw(rows: Mapping[str, Mapping[str, Mapping[str, Values]]], file: Path) -> None:
    """Write an SVG file with one panel per noise: accuracy against strength, ours with intervals, and published."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "noisyrnn"}):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (beginning, title) in zip(panels, PANELS.items(), strict=True):
            for position, (label, kinds) in enumerate(rows.items()):
                for kind, columns in kinds.items():
                    points = {float(name.split()[-1]): v for name, v in columns.items() if name.startswith(beginning)}
                    points = dict(sorted({0.0: columns["Clean"], **points}.items()))
                    means, style = [values[0] for values in points.values()], {"color": COLOURS[position]}
                    if kind == PUBLISHED:
                        axes.plot(list(points), means, linestyle=":", linewidth=1.0, marker=".", markersize=3, **style)
                        continue
                    below, above = zip(*((mean - low, high - mean) for mean, low, high in points.values()), strict=True)
                    axes.errorbar(
                        list(points), means, (below, above), label=label, marker=MARKERS[position], markersize=4,
                        linewidth=1.6, elinewidth=0.8, **style,
                    )  # fmt: skip
            axes.set(xlabel=title, ylim=(0, 103))
        panels[0].set_ylabel("test accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        handles.append(Line2D([], [], color="black", linestyle=":", marker=".", linewidth=1.0))
        figure.legend(handles, [*labels, "published"], loc="outside upper left", ncols=4, columnspacing=1.2)
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, metadata={"Date": None})


def landscapes(page: str) -> str:
    """Return the contours of the loss landscapes as an SVG file of their own."""
    (drawing,) = re.findall(
        r'<svg[^>]*aria-label="Loss landscape[^"]*contours[^>]*viewBox="0 0 5.*?</svg>', page, re.DOTALL
    )
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return drawing.replace("<svg", f"<svg {spaces}", 1) + "\n"


if __name__ == "__main__":
    path = FOLDER / "results" / "ordered-mnist.md"
    page = path.read_text(encoding="utf-8")
    for runs in map(Path, sys.argv[1:]):
        page = with_tables(page, (runs / "table.md").read_text(encoding="utf-8"))
        path.write_text(page, encoding="utf-8")
        drawing = landscapes((runs / "reproduction.html").read_text(encoding="utf-8"))
        (FOLDER / "images" / "ordered-mnist-landscapes.svg").write_text(drawing, encoding="utf-8")
    for file in (path, FOLDER.parent / "README.md"):
        file.write_text(with_summary(file.read_text(encoding="utf-8"), summary(page)), encoding="utf-8")
    draw(accuracies(page), FOLDER / "images" / "ordered-mnist.svg")
