"""The page's section on theory, in words and figures: the template only lays it out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from noisyrnn.report.analysis import Analysis
from noisyrnn.report.analysis_figures import curve_plates, landscape_plates
from noisyrnn.report.analysis_table import (
    Row,
    analyses,
    caption,
    count_text,
    entry_texts,
    group_title,
    kind_title,
    number,
    quantity_rows,
    seeds_text,
)
from noisyrnn.report.figures import colour
from noisyrnn.report.table import Comparison
from noisyrnn.robustness.statistics import PairedTest, p_text

Run = tuple[str, int, Analysis]


def theory_section(comparison: Comparison) -> dict[str, Any] | None:
    """What the template shows of the analyses; `None` where no finished run has one."""
    runs = [(group.label, seed, found) for group in comparison.groups for seed, found in analyses(group).items()]
    if not runs:
        return None
    rows = quantity_rows(comparison)
    labels = [group.label for group in comparison.groups]
    return {
        "caption": caption(rows, base=comparison.base),
        "tested": any(not test.reason for row in rows for test in row.tests.values()),
        "groups": [
            {"title": group_title(group), "rows": [_row(row, labels) for row in rows if row.quantity.group == group]}
            for group in dict.fromkeys(row.quantity.group for row in rows)
        ],
        "notes": _notes(comparison, runs),
        "curves": curve_plates(comparison),
        "landscapes": landscape_plates(comparison),
        "verdicts": [
            {"label": label, "colour": colour(labels.index(label)), "seed": seed, "text": found.verdict}
            for label, seed, found in runs
            if found.verdict
        ],
        "missing": _missing(runs),
        "data": _data(runs),
        "settings": _settings(runs),
    }


def _row(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    quantity = row.quantity
    return {
        "title": quantity.title,
        "unit": quantity.unit,
        "kind": kind_title(quantity.kind, quantity.confidence),
        "better": f"{quantity.better} is more robust" if quantity.better else "",
        "notes": row.notes,
        "cells": [_cell(row, label) for label in labels],
    }


def _cell(row: Row, label: str) -> dict[str, str]:
    if label not in row.entries:
        return {"value": "–", "interval": "", "count": "", "seeds": "not analysed", "p": "", "sign": ""}
    entry = row.entries[label]
    value, interval = entry_texts(entry)
    cell = {"value": value, "interval": interval, "count": count_text(entry), "seeds": seeds_text(entry)}
    test = row.tests.get(label)
    return cell | ({"p": "", "sign": ""} if test is None else _test(test, row.quantity.better))


def _test(test: PairedTest, better: str | None) -> dict[str, str]:
    """Difference from the base and its p; `sign` is `above` where that is more robust than chance explains."""
    half = (test.high - test.low) / 2
    difference = number(test.difference, half)
    sign = ""
    if test.significant and better is not None:
        sign = "above" if (test.difference > 0) == (better == "higher") else "below"
    return {"p": f"{'+' if test.difference > 0 else ''}{difference}, {p_text(test)}", "sign": sign}


def _notes(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """Sentences on whatever makes the analyses less comparable."""
    notes = []
    found = {(label, seed) for label, seed, _ in runs}
    absent = [
        (group.label, run.seed)
        for group in comparison.groups
        for run in group.runs
        if run.status == "finished" and (group.label, run.seed) not in found
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
            kinds.setdefault(quantity.title, set()).add(kind_title(quantity.kind, quantity.confidence))
    for title, names in kinds.items():
        if len(names) > 1:
            notes.append(f"{title} is not of one kind in all runs ({'; '.join(sorted(names))}): each has its own row.")
    return notes


def _missing(runs: Sequence[Run]) -> list[dict[str, str]]:
    """What was not done, why, and in which runs."""
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


def _data(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """For each diagnostic, which data it used, and how long it took."""
    lines = []
    for diagnostic in dict.fromkeys(
        diagnostic for _, _, analysis in runs for diagnostic in (*analysis.data, *analysis.diagnostics)
    ):
        by_text: dict[str, list[tuple[str, int]]] = {}
        for label, seed, analysis in runs:
            if analysis.data.get(diagnostic):
                by_text.setdefault(analysis.data[diagnostic], []).append((label, seed))
        texts = [text if len(by_text) == 1 else f"{text} ({_listed(where)})" for text, where in by_text.items()]
        ended = [analysis.diagnostics[diagnostic] for _, _, analysis in runs if diagnostic in analysis.diagnostics]
        seconds = [
            diagnostic.seconds for diagnostic in ended if diagnostic.status == "done" and diagnostic.seconds is not None
        ]
        texts += [f"{fmean(seconds):.3g} s a run"] if seconds else []
        if texts:
            lines.append((group_title(diagnostic), "; ".join(texts)))
    return lines


def _settings(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Every setting of the analyses; all values where they differ."""
    settings: Iterable[Mapping[str, Any]] = [analysis.settings for _, _, analysis in runs]
    names = dict.fromkeys(name for found in settings for name in found)
    return [(name, " | ".join(dict.fromkeys(_value(found.get(name)) for found in settings))) for name in names]


def _listed(runs: Sequence[tuple[str, int]]) -> str:
    """`noisy seeds 1, 2; lstm seed 1`."""
    seeds: dict[str, list[int]] = {}
    for label, seed in runs:
        seeds.setdefault(label, []).append(seed)
    return "; ".join(
        f"{label} seed{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}" for label, found in seeds.items()
    )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
