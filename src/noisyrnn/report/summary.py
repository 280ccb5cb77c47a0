"""Prints test results of runs: all of them, or a summary with the worst strength of each perturbation and a verdict."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from noisyrnn.display import Estimate, print_estimates
from noisyrnn.report.accuracy import (
    baselines_caption,
    best_mean,
    columns_of,
    notes_on_sizes,
    panels,
    quantity_of,
    score_tables,
)
from noisyrnn.report.columns import Column
from noisyrnn.report.headline import verdict
from noisyrnn.report.results import Group
from noisyrnn.report.table import Cell, Row, Table, value_texts
from noisyrnn.robustness import METRICS, UNITS, WORST, accuracy_interval
from noisyrnn.run_folder import RunFolder

INTERVALS = "In brackets: the 95 % interval"
_NORMS = {"fgsm": "linf"}
_ALL_ROWS = "All strengths: noisyrnn report RUN, or this command piped into a file."
_AT_WORST = "; each perturbation at its worst strength"
_NOTES = 3
"""Notes that a summary shows; the others are on the page."""


def print_scores(groups: Sequence[Group], title: str) -> None:
    """Print the test results of `groups` on stdout: a summary on a terminal, all of them in Markdown elsewhere.

    Rows are clean inputs, then each perturbation by strength. The columns of one group are its metrics; for several
    groups, or with baselines, there is a table for each metric, with a column for each group and baseline.

    Args:
        groups: Groups of runs; runs that were not evaluated have no values.
        title: What the tables are about, such as the name of the run.
    """
    tables = score_tables(groups)
    labels = [group.label for group in groups]
    notes = _explanations(tables)
    notes += notes_on_sizes(groups, next(iter(tables)))
    baselines = next(iter(tables.values())).baselines
    if baselines:
        notes.append(baselines_caption(groups))
    only, ending = None, ""
    if len(groups) == 1 and sys.stdout.isatty():
        metric, table = next(iter(tables.items()))
        columns = (row.quantity.column for row in worst_rows(table))
        only, ending = {replace(column, metric="") for column in columns if column is not None}, _AT_WORST
        sentences = (verdict(table, metric, len(groups[0].evaluated)), *notes, *_units(table), _ALL_ROWS)
        notes = [text for text in sentences if text]
    elif any(column.unit for table in tables.values() for column in columns_of(table)):
        notes.append(UNITS)
    if len(groups) == 1 and not baselines:
        _print_metrics(tables, labels[0], f"{title}{ending}", notes, only=only)
        return
    names = [*labels, *baselines]
    for metric, table in tables.items():
        rows = [row for row in table.rows if only is None or _place(row) in only]
        lines = [(row.quantity.title, [_estimate(row, name, marks=False) for name in names]) for row in rows]
        print_estimates(f"{title}: {METRICS[metric].caption}{ending}", ["test inputs", *names], lines, notes=notes)


def print_comparison(content: Mapping[str, Any], title: str) -> None:
    """Print the summary of a comparison on stdout: clean inputs, the worst strength of each perturbation, a verdict.

    Args:
        content: Content of `comparison.json`.
        title: What was compared.
    """
    tables, labels = read_tables(content), list(content["labels"])
    metric, table = next(iter(tables.items()))
    notes = [
        content["verdict"],
        *_explanations({metric: table}),
        *_units(table),
        f"Bold: {best_mean(metric)} of the row. Italics: not significantly different from it."
        if table.comparisons
        else f"Bold: {best_mean(metric)} of the row."
        if len(labels) > 1
        else "",
        f"Other metrics are on the page: {', '.join(METRICS[name].title for name in list(tables)[1:])}."
        if len(tables) > 1
        else "",
        "Baselines are neither marked nor tested; the page explains them." if table.baselines else "",
        *(f"Note: {note}" for note in content["notes"][:_NOTES]),
        f"Further notes are on the page: {len(content['notes']) - _NOTES}." if len(content["notes"]) > _NOTES else "",
    ]
    names = [*labels, *table.baselines]
    lines = [(row.quantity.title, [_estimate(row, name) for name in names]) for row in worst_rows(table)]
    head = ["test inputs", *names]
    title = f"{title}: {METRICS[metric].caption}{_AT_WORST}"
    print_estimates(title, head, lines, notes=[note for note in notes if note])


def print_trainings(folders: Sequence[RunFolder]) -> None:
    """Print the outcome of finished trainings on stdout, one in each row: epochs, validation result, time."""
    rows, regression, validated = [], False, False
    for folder in folders:
        config, summary = folder.read_config()["config"], folder.read_summary()
        accuracy, interval = summary.get("best_validation_accuracy"), ""
        count = summary.get("validation_sequences")
        if accuracy is not None and count and not folder.read_config()["dataset"].get("every_step"):
            right = round(accuracy * count)
            limits = accuracy_interval([1] * right + [0] * (count - right), draws=1)
            interval = f"[{100 * limits.low:.1f}, {100 * limits.high:.1f}]"
        loss = summary.get("best_validation_loss")
        regression = regression or (accuracy is None and loss is not None)
        validated = validated or accuracy is not None or loss is not None
        value = f"{100 * accuracy:.1f}" if accuracy is not None else "–" if loss is None else f"{loss:.4g}"
        texts = (f"{summary['epochs']}", f"{summary['best_epoch']}")
        cells = [
            *(Estimate(value=text) for text in texts),
            Estimate(value=value, interval=interval),
            Estimate(value=f"{summary['seconds']:.1f}"),
        ]
        rows.append((f"{config['label']}, seed {config['seed']}", cells))
    result = "validation loss" if regression else "validation accuracy in %"
    notes = [f"{INTERVALS} over validation sequences. The best of all epochs is optimistically biased."]
    if regression:
        notes = ["The validation loss is the mean squared error over the variance of the training targets."]
    if not validated:
        notes = ["There are no validation sequences; the weights are those of the last epoch."]
    print_estimates("Trained", ["run", "epochs", "best epoch", result, "seconds"], rows, notes=notes)


def worst_rows(table: Table) -> list[Row]:
    """Return the rows of a summary: clean inputs, and each perturbation at the strength with the worst mean of labels.

    The worst case over the attacks of a norm stands for these attacks, if it was computed.
    """
    rows = panels(table)
    covered = {name for name in rows if f"{WORST}{_NORMS.get(name, name.rpartition('_')[2])}" in rows.keys() - {name}}
    return [_worst(strengths) for name, strengths in rows.items() if name not in covered]


def _worst(rows: Sequence[Row]) -> Row:
    """Return the row with the worst mean over the labels, the last of equal ones."""

    def mean(row: Row) -> float:
        known = [cell.mean for cell in row.cells.values() if math.isfinite(cell.mean)]
        return sum(known) / len(known) if known else math.nan

    sign = -1.0 if rows[0].quantity.better == "lower" else 1.0
    measured = [row for row in rows if not math.isnan(mean(row))]
    return min(reversed(measured), key=lambda row: sign * mean(row)) if measured else rows[-1]


def read_tables(content: Mapping[str, Any]) -> dict[str, Table]:
    """Return the tables of test results in the content of a `comparison.json`, by key of `METRICS`; without tests."""
    cells: dict[Column, dict[str, Mapping[str, Any]]] = {}
    baselines = content.get("baselines", {})
    for label, entry in (*content["labels"].items(), *baselines.items()):
        for stored in entry["columns"]:
            place = {name.name: stored[name.name] for name in fields(Column) if name.name in stored}
            cells.setdefault(Column(**place), {})[label] = stored
    rows: dict[str, list[Row]] = {}
    for column in sorted(cells, key=lambda column: column.place):
        by_label = cells[column]
        row = Row(
            quantity=quantity_of(column),
            notes=(),
            cells={label: _cell(stored) for label, stored in by_label.items() if label not in baselines},
            tests={},
            marks={label: str(entry.get("mark", "")) for label, entry in by_label.items() if label not in baselines},
            baselines={label: _cell(stored) for label, stored in by_label.items() if label in baselines},
        )
        rows.setdefault(column.metric, []).append(row)
    metrics = [name for name in METRICS if name in rows] or ["accuracy"]
    return {name: Table(rows=tuple(rows.get(name, ())), comparisons=content["comparisons"]) for name in metrics}


def _cell(stored: Mapping[str, Any]) -> Cell:
    """Return a cell that was stored as JSON, where a value that is not finite is `None`."""
    mean, low, high = (math.nan if stored[name] is None else stored[name] for name in ("mean", "low", "high"))
    seeds = {int(seed): math.nan if value is None else value for seed, value in stored["seeds"].items()}
    return Cell(seeds=seeds, mean=mean, low=low, high=high, covers=stored["covers"])


def _explanations(tables: Mapping[str, Table]) -> list[str]:
    """Return what the intervals cover."""
    covers = sorted({text for table in tables.values() for text in table.covers} - {""})
    return [f"{INTERVALS} over {' or '.join(covers)}."] if covers else []


def _units(table: Table) -> list[str]:
    """Return the unit of the strengths, in one line; `UNITS` has the details."""
    units = {column.unit for column in columns_of(table)} - {""}
    return ["s is the standard deviation of a channel in the training data."] if "s" in units else []


def _print_metrics(
    tables: Mapping[str, Table], label: str, title: str, notes: Sequence[str], *, only: set[Column] | None = None
) -> None:
    """Print the results of one label with a column for each metric; `only` are the rows, without their metric."""
    cells: dict[Column, dict[str, Estimate]] = {}
    for metric, table in tables.items():
        for row in table.rows:
            if (place := _place(row)) is not None:
                cells.setdefault(place, {})[metric] = _estimate(row, label)
    head = ["test inputs", *(_heading(metric) for metric in tables)]
    lines = [
        (column.title, [texts.get(metric, Estimate(value="–")) for metric in tables])
        for column, texts in cells.items()
        if only is None or column in only
    ]
    print_estimates(title, head, lines, notes=notes)


def _place(row: Row) -> Column | None:
    """Return the perturbation and the strength of a row, without its metric."""
    return None if row.quantity.column is None else replace(row.quantity.column, metric="")


def _heading(metric: str) -> str:
    """The title of a metric, with `%` for shares that are shown in per cent."""
    return f"{METRICS[metric].title} in %" if METRICS[metric].unit == "%" else METRICS[metric].title


def _estimate(row: Row, label: str, *, marks: bool = True) -> Estimate:
    """The mean and its interval, such as `91.2 [88.1, 93.6]`."""
    cell = row.cell(label)
    if cell is None:
        return Estimate(value="–")
    value, interval = value_texts(cell, row.quantity)
    return Estimate(value=value, interval=interval, mark=row.marks.get(label, "") if marks else "")
