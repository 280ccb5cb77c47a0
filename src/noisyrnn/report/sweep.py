"""Writes the page of a sweep: its best trial, figures, and a table of all trials."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from noisyrnn.files import write_atomically
from noisyrnn.report.columns import Column
from noisyrnn.report.page import template_of
from noisyrnn.report.sweep_figures import plots
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
        "figures": [] if best is None else plots(study, metric),
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
