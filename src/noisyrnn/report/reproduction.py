"""Compares runs with a published table, cell by cell: Markdown, one HTML page and all values as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noisyrnn.display import escape, markdown_table
from noisyrnn.files import to_json, write_atomically
from noisyrnn.published_table import Reproduction, ReproductionRow
from noisyrnn.report import accuracy
from noisyrnn.report.accuracy import score_tables
from noisyrnn.report.columns import CLEAN, Column
from noisyrnn.report.figures import Figure, colour, score_curves
from noisyrnn.report.page import template_of
from noisyrnn.report.results import Group, SeedResult, group_by_label, read_run
from noisyrnn.report.table import Cell, Table, finite
from noisyrnn.report.theory_figures import FigureBlock, landscape_blocks
from noisyrnn.robustness.crossed_sample import FEWEST_SEEDS
from noisyrnn.robustness.statistics import TRAININGS

WIDEST = 1.5
"""Largest half-width, in percentage points, of an interval that counts as a reproduction."""
ROUNDING = 0.05
"""Half a unit of the last published digit, in percentage points."""
WEIGHTS = {"kept": "ours, best epoch", "last": "ours, last epoch"}
VERDICTS = {
    "reproduced": "the published mean, up to its rounding, lies in our interval, whose half-width is at most "
    f"{WIDEST:g} points",
    "higher": "our whole interval lies above it",
    "lower": "our whole interval lies below it",
    "undecided": f"neither, or fewer than {FEWEST_SEEDS} seeds, whose interval leaves out the variation of trainings",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A measured accuracy next to a published one, in per cent.

    Args:
        published: Published mean.
        mean: Ours.
        low: Lower end of our 95 % interval.
        high: Upper end.
        verdict: Key of `VERDICTS`.
    """

    published: float
    mean: float
    low: float
    high: float
    verdict: str

    @classmethod
    def of(cls, cell: Cell, published: float) -> "Comparison":
        """Compare a cell of accuracies in [0, 1] with a published accuracy in per cent."""
        mean, low, high = (100 * value for value in (cell.mean, cell.low, cell.high))
        return cls(published=published, mean=mean, low=low, high=high, verdict=verdict_of(cell, published))

    @property
    def difference(self) -> tuple[float, float, float]:
        """Ours minus the published mean, and the ends of its interval, in percentage points."""
        return self.mean - self.published, self.low - self.published, self.high - self.published

    @property
    def text(self) -> str:
        """`+0.1 [-0.1, +0.3] reproduced`."""
        mean, low, high = (f"{value:+.1f}" for value in self.difference)
        return f"{mean} [{low}, {high}] {self.verdict}"


def verdict_of(cell: Cell, published: float) -> str:
    """Return the verdict on a cell of accuracies in [0, 1] against a published accuracy in per cent."""
    low, high = 100 * cell.low, 100 * cell.high
    if cell.covers != TRAININGS or not (math.isfinite(low) and math.isfinite(high)):
        return "undecided"
    if low > published + ROUNDING:
        return "higher"
    if high < published - ROUNDING:
        return "lower"
    return "reproduced" if (high - low) / 2 <= WIDEST else "undecided"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of ours with one set of weights, or read at other strengths.

    Args:
        title: Which weights, and which strengths.
        seeds: Number of seeds.
        values: Accuracy and interval as text, by published column.
        compared: Comparisons by published column.
    """

    title: str
    seeds: str
    values: Mapping[str, str]
    compared: Mapping[str, Comparison]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A row of the published table with all lines of ours."""

    label: str
    published: Mapping[str, float]
    lines: Sequence[Line]


@dataclass(frozen=True, kw_only=True)
class Section:
    """All rows of one data set.

    Args:
        dataset: Its name.
        columns: Titles of the published columns, by their keys such as "white_noise 0.1"; "clean" if none is.
        blocks: One for each row with a result.
        groups: The runs, with the results of the kept epoch.
        table: All accuracies of the kept epoch.
        curves: Accuracy against strength, ours and published.
        landscapes: Loss landscapes on one scale.
        notes: Notes on results that are not comparable, or not informative.
    """

    dataset: str
    columns: Mapping[str, str]
    blocks: Sequence[Block]
    groups: Sequence[Group]
    table: Table
    curves: Figure | None
    landscapes: Sequence[FigureBlock]
    notes: Sequence[str]


def write_reproduction(
    reproduction: Reproduction,
    rows: Sequence[tuple[ReproductionRow, Sequence[Path]]],
    output: Path,
    *,
    command: str | None = None,
    failures: Mapping[Path, str] | None = None,
) -> Path:
    """Write `reproduction.html`, `table.md` and `reproduction.json` about the runs of a published table.

    Args:
        reproduction: The published table.
        rows: Its rows, each with the folders of its runs.
        output: Folder for the files; created if missing.
        command: Command line, shown on the page.
        failures: Reasons of failed runs, shown on the page.

    Returns:
        Path of the page, which needs no other file.

    Raises:
        ValueError: If a run cannot be read, or there is none.
        WriteError: If a file cannot be written.
    """
    rows = [(row, paths) for row, paths in rows if paths]
    if not rows:
        raise ValueError("rows must hold at least one run, got none. Train a row first.")
    names = dict.fromkeys(row.dataset for row, _ in rows)
    sections = [
        section_of([(row, paths) for row, paths in rows if row.dataset == name], reproduction.readings)
        for name in names
    ]
    failed = [f"{path.name}: {reason}" for path, reason in (failures or {}).items()]
    files = {
        "table.md": markdown(reproduction, sections, failed),
        "reproduction.html": _page(reproduction, sections, command, failed),
        "reproduction.json": to_json(finite(_values(reproduction, sections))),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomically(output / name, text.encode())
    return output / "reproduction.html"


def section_of(
    rows: Sequence[tuple[ReproductionRow, Sequence[Path]]], readings: Mapping[str, Mapping[str, str]]
) -> Section:
    """Read the runs of the rows of one data set and compare them with the published values."""
    results: dict[str, list[SeedResult]] = {
        weights: [read_run(path, weights) for _, paths in rows for path in paths] for weights in WEIGHTS
    }
    groups = {weights: group_by_label(found) for weights, found in results.items()}
    tables = {weights: score_tables(found)["accuracy"] for weights, found in groups.items()}
    columns = list(dict.fromkeys(name for row, _ in rows for name in row.published)) or [CLEAN]
    blocks = []
    for row, _ in rows:
        lines = []
        for weights, title in WEIGHTS.items():
            group = next(group for group in groups[weights] if group.label == row.label)
            cells = {name: cell for name in columns if (cell := _cell(tables[weights], name, row.label)) is not None}
            lines.append(_line(title, group, cells, row.published))
            for reading, others in readings.items():
                cells = {
                    name: cell
                    for name, other in others.items()
                    if name in row.published and (cell := _cell(tables[weights], other, row.label)) is not None
                }
                lines.append(_line(f"{title}, {reading}", group, cells, row.published))
        blocks.append(Block(label=row.label, published=row.published, lines=[line for line in lines if line.values]))
    kept, labels = groups["kept"], [group.label for group in groups["kept"]]
    published = {row.label: {_column(name): value / 100 for name, value in row.published.items()} for row, _ in rows}
    return Section(
        dataset=rows[0][0].dataset,
        columns={name: _column(name).title for name in columns},
        blocks=blocks,
        groups=kept,
        table=tables["kept"],
        curves=score_curves(tables["kept"], labels, published=published),
        landscapes=landscape_blocks(kept),
        notes=accuracy.accuracy_notes(kept, {"accuracy": tables["kept"]}),
    )


def _column(name: str) -> Column:
    """Return the column of a key such as "white_noise 0.1"."""
    perturbation, _, strength = name.partition(" ")
    return Column(perturbation, float(strength or 0.0))


def _cell(table: Table, name: str, label: str) -> Cell | None:
    """Return the cell of a label under the perturbation and strength of a key, whatever the unit; `None` without."""
    wanted = _column(name)
    for row in table.rows:
        column = row.quantity.column
        if column is not None and (column.perturbation, column.strength) == (wanted.perturbation, wanted.strength):
            return row.cells.get(label)
    return None


def _line(title: str, group: Group, cells: Mapping[str, Cell], published: Mapping[str, float]) -> Line:
    return Line(
        title=title,
        seeds=group.seeds_title,
        values={
            name: f"{100 * cell.mean:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]" for name, cell in cells.items()
        },
        compared={name: Comparison.of(cell, published[name]) for name, cell in cells.items() if name in published},
    )


def summary(sections: Sequence[Section]) -> list[str]:
    """Return one sentence for each kind of line: how many of its cells are reproduced, higher, lower and undecided."""
    counts: dict[str, dict[str, int]] = {}
    for section in sections:
        for block in section.blocks:
            for line in block.lines:
                for compared in line.compared.values():
                    of_line = counts.setdefault(line.title, dict.fromkeys(VERDICTS, 0))
                    of_line[compared.verdict] += 1
    return [
        f"{title[0].upper()}{title[1:]}: of {sum(found.values())} published cells, "
        f"{', '.join(f'{count} {verdict}' for verdict, count in found.items())}."
        for title, found in counts.items()
    ]


def explanation(sections: Sequence[Section]) -> str:
    """Explain the values and the verdicts."""
    verdicts = "; ".join(f'"{verdict}": {meaning}' for verdict, meaning in VERDICTS.items())
    return " ".join(
        [
            accuracy.caption(sections[0].table),
            "Differences are ours minus the published mean, in percentage points, with our 95 % interval; the interval "
            "of the published mean is not known.",
            f"Verdicts: {verdicts}.",
        ]
    )


def markdown(reproduction: Reproduction, sections: Sequence[Section], failed: Sequence[str] = ()) -> str:
    """Return all tables in GitHub's Markdown."""
    parts = [f"# {escape(reproduction.title)}", f"Published: {escape(reproduction.source)}"]
    parts += [" ".join(map(escape, summary(sections)))]
    for section in sections:
        head = ["row", "", "seeds", *map(escape, section.columns.values())]
        parts += [f"## {escape(section.dataset)}"] if len(sections) > 1 else []
        parts.append(markdown_table(head, _markdown_rows(section, reproduction.published_seeds), left=2))
        parts += _other_columns(section)
    parts.append(escape(explanation(sections)))
    notes = [*reproduction.notes, *(note for section in sections for note in section.notes)]
    parts += [f"Note: {escape(note)}" for note in notes]
    parts += [f"Failed: {escape(reason)}" for reason in failed]
    return "\n\n".join(parts) + "\n"


def _markdown_rows(section: Section, published_seeds: str) -> list[list[str]]:
    rows = []
    for block in section.blocks:
        label = escape(block.label)
        if block.published:
            texts = [f"{block.published[name]:.1f}" if name in block.published else "–" for name in section.columns]
            rows.append([label, "published", published_seeds, *texts])
            label = ""
        for line in block.lines:
            rows.append(
                [label, escape(line.title), line.seeds, *(line.values.get(name, "–") for name in section.columns)]
            )
            label = ""
            if line.compared:
                texts = [line.compared[name].text if name in line.compared else "–" for name in section.columns]
                rows.append(["", "difference", "", *texts])
    return rows


def other_rows(section: Section) -> list[Any]:
    """Return the rows of the table of the kept epoch that have no published column."""
    published = {_column(name) for name in section.columns}
    places = {(column.perturbation, column.strength) for column in published}
    return [
        row
        for row in section.table.rows
        if (column := row.quantity.column) is not None and (column.perturbation, column.strength) not in places
    ]


def _other_columns(section: Section) -> list[str]:
    """Return the table of what was not published, as Markdown; nothing if there is none."""
    rows = other_rows(section)
    if not rows:
        return []
    head = ["test inputs", *(escape(group.label) for group in section.groups)]
    lines = [
        [escape(row.quantity.title), *(row.markdown_cell(group.label, remarks=False) for group in section.groups)]
        for row in rows
    ]
    marks = accuracy.marks_caption(section.table)
    legend = "**Bold**: highest mean of the row." + (f" *Italics*: {marks}." if marks else "")
    return ["Best epoch, test inputs without a published value:", markdown_table(head, lines, left=1), legend]


def _page(reproduction: Reproduction, sections: Sequence[Section], command: str | None, failed: Sequence[str]) -> str:
    """Return the page as HTML."""
    view = {
        "title": reproduction.title,
        "source": reproduction.source,
        "published_seeds": reproduction.published_seeds,
        "notes": reproduction.notes,
        "cautions": [note for section in sections for note in section.notes],
        "failed": failed,
        "summary": summary(sections),
        "explanation": explanation(sections),
        "command": command,
        "sections": [_section_view(section) for section in sections],
        "several": len(sections) > 1,
    }
    return template_of("reproduction.html.j2").render(view)


def _section_view(section: Section) -> dict[str, Any]:
    """Return the texts and figures of a section for the template."""
    labels = [group.label for group in section.groups]
    return {
        "dataset": section.dataset,
        "columns": section.columns,
        "blocks": [
            {
                "label": block.label,
                "colour": colour(labels.index(block.label)),
                "published": block.published,
                "lines": block.lines,
            }
            for block in section.blocks
        ],
        "labels": [{"text": label, "colour": colour(i)} for i, label in enumerate(labels)],
        "others": [
            {"title": row.quantity.title, "cells": [row.cell_texts(label, absent="not evaluated") for label in labels]}
            for row in other_rows(section)
        ],
        "marks": accuracy.marks_caption(section.table),
        "curves": section.curves,
        "landscapes": section.landscapes,
        "runs": [_run_view(result) for group in section.groups for result in group.results],
        "settings": _evaluation_of(section),
    }


def _run_view(result: SeedResult) -> dict[str, str]:
    """Return what the page states about a run."""
    hours = result.summary.get("seconds")
    return {
        "label": result.label,
        "seed": str(result.seed),
        "precision": str(result.config.get("precision", "")),
        "epochs": str(result.summary.get("epochs", "–")),
        "best": str(result.summary.get("best_epoch", "–")),
        "hours": "–" if hours is None else f"{hours / 3600:.2f}",
        "platform": ", ".join(
            f"{name} {result.environment[name]}"
            for name in ("noisyrnn", "torch", "python")
            if name in result.environment
        ),
    }


def _evaluation_of(section: Section) -> list[tuple[str, str]]:
    """Return the settings of the evaluations."""
    settings = [result.evaluation for group in section.groups for result in group.evaluated]
    names = dict.fromkeys(name for entry in settings for name in entry if name not in ("strengths", "weights"))
    return [(name, " | ".join(dict.fromkeys(str(entry.get(name)) for entry in settings))) for name in names]


def _values(reproduction: Reproduction, sections: Sequence[Section]) -> dict[str, Any]:
    """Return all values, JSON-ready except for those that are not finite."""
    return {
        "format": 1,
        "table": reproduction.name,
        "source": reproduction.source,
        "summary": summary(sections),
        "sections": [
            {
                "dataset": section.dataset,
                "rows": [
                    {
                        "label": block.label,
                        "published": dict(block.published),
                        "lines": [
                            {
                                "title": line.title,
                                "seeds": line.seeds,
                                "compared": {
                                    name: asdict(found) | {"difference": found.difference[0]}
                                    for name, found in line.compared.items()
                                },
                            }
                            for line in block.lines
                        ],
                    }
                    for block in section.blocks
                ],
                "columns": {
                    label: [
                        row.quantity.column.to_dict() | row.cell_dict(label)
                        for row in section.table.rows
                        if row.quantity.column is not None and label in row.cells
                    ]
                    for label in (group.label for group in section.groups)
                },
            }
            for section in sections
        ],
    }
