"""Writes the page of a sweep: its best trial, Optuna's plots, and a table of all trials."""

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter

from noisyrnn.files import write_atomically
from noisyrnn.report.columns import Column
from noisyrnn.report.figures import Figure, render
from noisyrnn.report.page import template_of
from noisyrnn.report.table import PERCENT
from noisyrnn.robustness import METRICS, UNITS, Metric


def write_sweep_page(sweep: Mapping[str, Any], study: Any, path: Path, *, command: str | None) -> None:
    """Write a self-contained HTML page about a sweep.

    Args:
        sweep: The content of `sweep.json`.
        study: The Optuna study of the sweep.
        path: Path of the page.
        command: Command line of the sweep, shown on the page.
    """
    best = next((trial for trial in sweep["trials"] if trial["number"] == sweep["best"]), None)
    cells = [] if best is None else best["columns"][0]
    titles = [Column(cell["perturbation"], cell["strength"], cell["unit"]).title for cell in cells]
    metric = metric_of(cells)
    view = {
        "title": f"Sweep of {sweep['model']} on {Path(sweep['dataset']).stem}",
        "command": command,
        "sweep": sweep,
        "titles": titles,
        "measure": metric.title,
        "percent": metric.unit == PERCENT,
        "result": partial(result, metric),
        "units": UNITS if any(cell["unit"] for cell in cells) else None,
        "best": best,
        "best_columns": list(zip(titles, zip(*best["columns"], strict=True), strict=True)) if best else [],
        "figures": [] if best is None else plots(study),
        "rows": sorted(
            sweep["trials"], key=lambda row: -math.inf if row["score"] is None else row["score"], reverse=True
        ),
        "short": short,
    }
    write_atomically(path, template_of("sweep.html.j2").render(view).encode())


def _score(trial: Mapping[str, Any]) -> float:
    """Return the score of a trial; one without a score comes last."""
    return -math.inf if trial["score"] is None else trial["score"]


def metric_of(columns: Sequence[Mapping[str, Any]]) -> Metric:
    """Return the metric of a trial's columns: the accuracy, if they name none."""
    return METRICS[columns[0].get("metric", "accuracy") if columns else "accuracy"]


def result(metric: Metric, value: float, digits: int = 1) -> str:
    """Format a value of a metric: in per cent with these digits after the point, or with four digits."""
    return f"{100 * value:.{digits}f}" if metric.unit == PERCENT else f"{value:.4g}"


def short(value: Any) -> str:
    """Format the value or the search range of a setting, with four digits."""
    if isinstance(value, dict):
        return f"{short(value['low'])} to {short(value['high'])}" + (", log scale" if value["log"] else "")
    if isinstance(value, list):
        return ", ".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plots(study: Any) -> list[tuple[str, Figure]]:
    """Draw Optuna's plots of a study, without importances if it has too few trials for them."""
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as optuna_plots

    figures, others = [], pyplot.get_fignums()
    for title, plot in (
        ("Trials in order", optuna_plots.plot_optimization_history),
        ("Score against each setting", optuna_plots.plot_slice),
        ("Importance of each setting", optuna_plots.plot_param_importances),
    ):
        name = plot.__name__.removeprefix("plot_")
        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", UserWarning)
            with suppress(RuntimeError, ValueError, UserWarning):
                plot(study, target_name="score")  # in a style of Optuna's own
                figures.append((title, render(partial(_fitted, pyplot.gcf()), name, title)))
        for number in set(pyplot.get_fignums()) - set(others):
            pyplot.close(number)
    return figures


def _fitted(figure: Canvas, _: int = 1) -> Canvas:
    """Make room for the labels of a figure's panels: long names, and one number for each power of ten."""
    panels = len(figure.axes[1:])  # beside a colour bar; a single one and its bar have a grid with rows of no height
    figure.set(size_inches=(max(7.0, 2.2 * panels), 3.6), layout_engine="tight" if panels == 1 else "constrained")
    figure.suptitle("")
    for panel in figure.axes:
        for place in ("left", "center"):
            panel.set_title("", loc=place)  # the page has one
        panel.xaxis.set_minor_formatter(NullFormatter())
    return figure
