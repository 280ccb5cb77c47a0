"""The picture of the README: `python docs/readme_picture.py` draws the first table of `docs/results/digits.md`."""

import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from noisyrnn.report.figures import COLOURS, MARKERS, STYLE

FOLDER = Path(__file__).parent
PANELS = {
    "white noise, σ": "white noise σ on the test inputs",
    "worst case over attacks ℓ∞, ϵ": "radius ϵ of the attacks (ℓ∞)",
}
"""Rows of the table, by the beginning of their names, and the label of the horizontal axis of their panel."""


def accuracies(page: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Mean and interval of each cell of the first table of `page`: row, then model, in %."""
    lines = page[page.index("| test inputs |") :].split("\n\n")[0].splitlines()
    header, rows = lines[0], lines[2:]
    models = [cell.strip() for cell in header.strip("|").split("|")[1:]]
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        table[name] = {}
        for model, cell in zip(models, cells, strict=True):
            mean, low, high = (float(value) for value in re.findall(r"[\d.]+", cell))
            table[name][model] = mean, low, high
    return table


def draw(table: dict[str, dict[str, tuple[float, float, float]]], file: Path) -> None:
    """Write an SVG file with one panel per perturbation: mean accuracy against strength, with 95 % intervals."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "noisyrnn"}):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (beginning, label) in zip(panels, PANELS.items(), strict=True):
            rows = {0.0: table["clean"]}
            rows |= {float(name.split()[-1]): row for name, row in table.items() if name.startswith(beginning)}
            for position, model in enumerate(table["clean"]):
                width = 2.4 if model == "noisy" else 1.2
                shift = (position - 2.5) * max(rows) / 80  # neighbouring intervals do not cover each other
                means, lows, highs = zip(*(row[model] for row in rows.values()), strict=True)
                below = [mean - low for mean, low in zip(means, lows, strict=True)]
                above = [high - mean for mean, high in zip(means, highs, strict=True)]
                axes.errorbar(
                    [strength + shift for strength in rows], means, (below, above), label=model,
                    color=COLOURS[position], marker=MARKERS[position], linewidth=width, elinewidth=0.8,
                )  # fmt: skip
            axes.set(xlabel=label, xticks=list(rows), ylim=(0, 103))
        panels[0].set_ylabel("test accuracy (%)")
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside upper left",
            ncols=len(table["clean"]),
            columnspacing=1.2,
        )
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    page = (FOLDER / "results" / "digits.md").read_text(encoding="utf-8")
    draw(accuracies(page), FOLDER / "images" / "accuracy.svg")
