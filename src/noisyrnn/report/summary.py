"""Prints test results of runs as compact tables: one run with all its metrics, or several models next to each other."""

from collections.abc import Sequence
from dataclasses import replace

from noisyrnn.display import print_table
from noisyrnn.report.accuracy import baselines_caption, columns_of, score_tables
from noisyrnn.report.columns import Column
from noisyrnn.report.results import Group
from noisyrnn.report.table import Row, value_texts
from noisyrnn.robustness import METRICS, UNITS

INTERVALS = "In brackets: the 95 % interval"


def print_scores(groups: Sequence[Group], title: str) -> None:
    """Print the test results of `groups` on stdout: aligned columns on a terminal, Markdown elsewhere.

    Rows are clean inputs, then each perturbation by strength. The columns of one group are its metrics; for several
    groups, or with baselines, there is a table for each metric, with a column for each group and baseline.

    Args:
        groups: Groups of runs; runs that were not evaluated have no values.
        title: What the tables are about, such as the name of the run.
    """
    tables = score_tables(groups)
    labels = [group.label for group in groups]
    covers = sorted({text for table in tables.values() for text in table.covers} - {""})
    notes = [f"{INTERVALS} over {' or '.join(covers)}."] if covers else []
    scores = [score for group in groups for result in group.evaluated for score in result.scores.values()]
    counts = sorted({len(score.by_sequence) for score in scores})
    if len(counts) == 2:
        notes.append(f"Attacks are on the first {counts[0]} of {counts[1]} test sequences.")
    if any(column.unit for table in tables.values() for column in columns_of(table)):
        notes.append(UNITS)
    baselines = next(iter(tables.values())).baselines
    if baselines:
        notes.append(baselines_caption(groups))
    if len(groups) > 1 or baselines:
        for metric, table in tables.items():
            names = [*labels, *baselines]
            rows = [[row.quantity.title, *(_text(row, name) for name in names)] for row in table.rows]
            print_table(f"{title}: {METRICS[metric].caption}", ["test inputs", *names], rows, notes=notes)
        return
    cells: dict[Column, dict[str, str]] = {}
    for metric, table in tables.items():
        for row in table.rows:
            if row.quantity.column is not None:
                cells.setdefault(replace(row.quantity.column, metric=""), {})[metric] = _text(row, labels[0])
    head = ["test inputs", *(_heading(metric) for metric in tables)]
    lines = [[column.title, *(texts.get(metric, "–") for metric in tables)] for column, texts in cells.items()]
    print_table(title, head, lines, notes=notes)


def _heading(metric: str) -> str:
    """The title of a metric, with `%` for shares that are shown in per cent."""
    return f"{METRICS[metric].title} in %" if METRICS[metric].unit == "%" else METRICS[metric].title


def _text(row: Row, label: str) -> str:
    """The mean and its interval, such as `91.2 [88.1, 93.6]`."""
    cell = row.cell(label)
    return "–" if cell is None else " ".join(filter(None, value_texts(cell, row.quantity)))
