"""Theory diagnostics as a table of quantity × label × seed, and their section of the page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from noisyrnn.display import escape, markdown_table
from noisyrnn.report.analysis import Analysis
from noisyrnn.report.figures import colour
from noisyrnn.report.results import Group
from noisyrnn.report.table import (
    OVER_DRAWS,
    OVER_SEEDS,
    Quantity,
    Row,
    Table,
    Value,
    build_table,
    group_title,
)
from noisyrnn.report.theory_figures import curve_blocks, landscape_blocks
from noisyrnn.robustness.crossed_sample import FEWEST_SEEDS

Analyzed = tuple[str, int, Analysis]
"""Label and seed of a run, and its analysis."""


def theory_table(groups: Sequence[Group]) -> Table:
    """Return all quantities of the analyses, grouped by diagnostic and by name."""
    values: dict[Quantity, dict[str, dict[int, Value]]] = {}
    for group in groups:
        for seed, analysis in group.analyses.items():
            for quantity, value in analysis.quantities.items():
                values.setdefault(quantity, {}).setdefault(group.label, {})[seed] = value
    diagnostics = list(dict.fromkeys(quantity.group for quantity in values))
    names = list(dict.fromkeys(quantity.name for quantity in values))
    order = sorted(values, key=lambda quantity: (diagnostics.index(quantity.group), names.index(quantity.name)))
    labels = [group.label for group in groups]
    return build_table({quantity: values[quantity] for quantity in order}, labels, ranked=False)


def rows_by_diagnostic(table: Table) -> dict[str, list[Row]]:
    """Return the rows of each diagnostic, by its title."""
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        rows.setdefault(group_title(row.quantity.group), []).append(row)
    return rows


def theory_section(table: Table, groups: Sequence[Group]) -> dict[str, Any] | None:
    """Return the data of the section for the template; `None` if no finished run has an analysis."""
    runs = [(group.label, seed, analysis) for group in groups for seed, analysis in group.analyses.items()]
    if not runs:
        return None
    labels = [group.label for group in groups]
    return {
        "caption": caption(table, base=labels[0]),
        "tested": table.tested > 0,
        "groups": [
            {"title": title, "rows": [_row(row, labels) for row in rows]}
            for title, rows in rows_by_diagnostic(table).items()
        ],
        "notes": _notes(groups, runs),
        "curves": curve_blocks(groups),
        "landscapes": landscape_blocks(groups),
        "verdicts": [
            {"label": label, "colour": colour(labels.index(label)), "seed": seed, "text": analysis.verdict}
            for label, seed, analysis in runs
            if analysis.verdict
        ],
        "missing": _missing(runs),
        "data": _data(runs),
        "settings": _settings(runs),
    }


def caption(table: Table, *, base: str) -> str:
    """Explain the values of the table and their intervals."""
    sentences = [
        "Each row has values of one kind: exact (up to rounding), an estimate, or a certificate (a bound that always "
        "holds, or holds with the stated confidence)."
    ]
    if OVER_SEEDS in table.covers:
        sentences.append(
            "Values are means over seeds, [low, high] is the 95 % Student t interval over seeds, which covers the "
            f"variation between trainings; there is none for fewer than {FEWEST_SEEDS} seeds or equal values. Seeds "
            "without a finite value are left out; the count shows how many seeds are used."
        )
    if OVER_DRAWS in table.covers:
        sentences.append(
            "If only one seed has a value, [low, high] is the 95 % interval over the draws or sequences of this "
            "training, if there is one."
        )
    if table.tested:
        sentences.append(
            f"p is that of a paired t test of the difference from {base} over shared seeds, corrected for the "
            f"{table.tested} comparisons of the table by Holm's method."
        )
    return " ".join(sentences)


def markdown(table: Table, groups: Sequence[Group]) -> str:
    """Return GitHub's Markdown: a table per diagnostic, the verdict on each run, and the caption."""
    labels = [group.label for group in groups]
    head = ["quantity", "kind", *map(escape, labels)]
    parts = []
    for title, rows in rows_by_diagnostic(table).items():
        lines = [
            [
                escape(f"{row.quantity.title} ({row.quantity.unit})" if row.quantity.unit else row.quantity.title),
                row.quantity.kind_title,
                *(row.markdown_cell(label, remarks=True) for label in labels),
            ]
            for row in rows
        ]
        parts.append(f"## {escape(title)}\n\n{markdown_table(head, lines, left=2)}")
    verdicts = [
        f"- {escape(group.label)}, seed {seed}: {escape(analysis.verdict)}"
        for group in groups
        for seed, analysis in group.analyses.items()
        if analysis.verdict
    ]
    if verdicts:
        parts.append("## Verdicts\n\n" + "\n".join(verdicts))
    return "\n\n".join([*parts, escape(caption(table, base=labels[0]))]) + "\n"


def row_dict(row: Row) -> dict[str, Any]:
    """Return a row as in `comparison.json`, except for values that are not finite."""
    names = ("name", "title", "group", "kind", "confidence", "unit", "better")
    labels = {label: row.cell_dict(label) for label in row.cells}
    return {name: getattr(row.quantity, name) for name in names} | {"notes": list(row.notes), "labels": labels}


def _row(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    quantity = row.quantity
    return {
        "title": quantity.title,
        "unit": quantity.unit,
        "kind": quantity.kind_title,
        "better": f"{quantity.better} is more robust" if quantity.better else "",
        "notes": row.notes,
        "cells": [row.cell_texts(label, absent="not analysed") | {"test": row.test_texts(label)} for label in labels],
    }


def _notes(groups: Sequence[Group], runs: Sequence[Analyzed]) -> list[str]:
    """Return notes on analyses that are not comparable."""
    notes = []
    analyzed = {(label, seed) for label, seed, _ in runs}
    absent = [
        (group.label, result.seed)
        for group in groups
        for result in group.results
        if result.status == "finished" and (group.label, result.seed) not in analyzed
    ]
    if absent:
        notes.append(f"Not analysed: {_listed(absent)}.")
    for name in dict.fromkeys(name for _, _, analysis in runs for name in analysis.settings):
        values = list(dict.fromkeys(_value(analysis.settings.get(name)) for _, _, analysis in runs))
        if len(values) > 1:
            notes.append(f"The runs were analysed with different settings: {name} was {' and '.join(values)}.")
    for diagnostic in dict.fromkeys(diagnostic for _, _, analysis in runs for diagnostic in analysis.data):
        if len({analysis.data[diagnostic] for _, _, analysis in runs if diagnostic in analysis.data}) > 1:
            notes.append(f"{group_title(diagnostic)} was not computed from the same data in all runs; see below.")
    kinds: dict[str, set[str]] = {}
    for _, _, analysis in runs:
        for quantity in analysis.quantities:
            kinds.setdefault(quantity.title, set()).add(quantity.kind_title)
    for title, names in kinds.items():
        if len(names) > 1:
            notes.append(
                f"{title} has different kinds in different runs ({'; '.join(sorted(names))}): each has its own row."
            )
    return notes


def _missing(runs: Sequence[Analyzed]) -> list[dict[str, str]]:
    """Return the diagnostics that were not computed, with reason and runs."""
    found: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for label, seed, analysis in runs:
        for name, diagnostic in analysis.diagnostics.items():
            if diagnostic.status != "done":
                found.setdefault((name, diagnostic.status, diagnostic.reason), []).append((label, seed))
    return [
        {
            "diagnostic": group_title(name),
            "status": status,
            "reason": reason or "No reason was recorded.",
            "runs": _listed(where),
        }
        for (name, status, reason), where in found.items()
    ]


def _data(runs: Sequence[Analyzed]) -> list[tuple[str, str]]:
    """Return for each diagnostic which data it used, and how long it took."""
    lines = []
    for diagnostic in dict.fromkeys(
        diagnostic for _, _, analysis in runs for diagnostic in (*analysis.data, *analysis.diagnostics)
    ):
        by_text: dict[str, list[tuple[str, int]]] = {}
        for label, seed, analysis in runs:
            if analysis.data.get(diagnostic):
                by_text.setdefault(analysis.data[diagnostic], []).append((label, seed))
        texts = [text if len(by_text) == 1 else f"{text} ({_listed(where)})" for text, where in by_text.items()]
        statuses = [analysis.diagnostics[diagnostic] for _, _, analysis in runs if diagnostic in analysis.diagnostics]
        seconds = [
            diagnostic.seconds
            for diagnostic in statuses
            if diagnostic.status == "done" and diagnostic.seconds is not None
        ]
        texts += [f"{fmean(seconds):.3g} s per run"] if seconds else []
        if texts:
            lines.append((group_title(diagnostic), "; ".join(texts)))
    return lines


def _settings(runs: Sequence[Analyzed]) -> list[tuple[str, str]]:
    """Return every setting of the analyses; all values if they differ."""
    settings: Iterable[Mapping[str, Any]] = [analysis.settings for _, _, analysis in runs]
    names = dict.fromkeys(name for found in settings for name in found)
    return [(name, " | ".join(dict.fromkeys(_value(found.get(name)) for found in settings))) for name in names]


def _listed(runs: Sequence[tuple[str, int]]) -> str:
    """Return `noisy seeds 1, 2; lstm seed 1`."""
    seeds: dict[str, list[int]] = {}
    for label, seed in runs:
        seeds.setdefault(label, []).append(seed)
    return "; ".join(
        f"{label} seed{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}" for label, found in seeds.items()
    )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
