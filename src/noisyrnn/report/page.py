"""Writes the page, the table and the values of a comparison into a folder."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from noisyrnn.files import to_json, write_atomically
from noisyrnn.report import accuracy, theory
from noisyrnn.report.classes import confusion_views, recall_table
from noisyrnn.report.columns import CLEAN, Column, perturbation_title
from noisyrnn.report.comparison import Comparison, compare
from noisyrnn.report.downloads import table_files
from noisyrnn.report.examples import gallery
from noisyrnn.report.figures import colour, score_curves, training_curves
from noisyrnn.report.headline import headline_rows
from noisyrnn.report.results import Group, SeedResult, read_run
from noisyrnn.report.table import PERCENT, Row, Table
from noisyrnn.robustness import METRICS

LARGEST_PAGE = 3_000_000
# Numbers of examples to try until the page is small enough: only examples grow with the data.
EXAMPLES = (3, 2, 1, 0)
PER_RUN = ("label", "seed")
NO_COLOUR = "transparent"
"""Of baselines, which no figure shows."""


def write_report(
    runs: Sequence[Path],
    output: Path,
    *,
    title: str,
    command: str | None = None,
    failures: Mapping[Path, str] | None = None,
) -> Path:
    """Compare `runs` in `output/report.html`, with the table in `table.md` and all values in `comparison.json`.

    Everything is computed before anything is written, and each file is replaced atomically, so an interrupted report
    leaves complete files. The same runs give the same table and values; the page also has a date. If runs have an
    `analysis.json`, page and values include its quantities, and `analysis.md` has their table.

    Args:
        runs: Run folders; runs with the same `label` differ in their seed, and the first label is the base of the
            paired tests.
        output: Folder for the files; created if missing.
        title: Heading of the page.
        command: Command line of the comparison, shown on the page.
        failures: Reasons of failed runs, shown on the page. Runs that are not among `runs`, because their files cannot
            be read, are listed too.

    Returns:
        Path of the page, which needs no other file.

    Raises:
        TypeError: If `runs` is a single path.
        ValueError: If there are no runs, one cannot be read, two cannot be compared, or `output` cannot be created.
        WriteError: If a file cannot be written, for example because the disk is full.
    """
    if isinstance(runs, str | Path):
        raise TypeError(f"runs must be a list of run folders, got {str(runs)!r}. Write [{str(runs)!r}].")
    comparison = compare([read_run(path) for path in runs])
    failures = failures or {}
    lost = [f"{path.name} is left out: {why}" for path, why in failures.items() if path not in runs]
    if lost:
        comparison = replace(comparison, notes=(*comparison.notes, *lost))
    contents = {
        "table.md": accuracy.markdown(comparison.tables, comparison.groups, comparison.notes),
        "report.html": build_page(comparison, title=title, command=command, failures=failures),
        "comparison.json": to_json(comparison.to_dict()),
    }
    if comparison.theory.rows:
        contents["analysis.md"] = theory.markdown(comparison.theory, comparison.groups)
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output must be a folder that can be written, got {str(output)!r} ({error.strerror}). Choose another one."
        ) from error
    for name, text in contents.items():
        write_atomically(output / name, text.encode())
    if not comparison.theory.rows:  # one of an earlier report would be mistaken for this one's
        (output / "analysis.md").unlink(missing_ok=True)
    return output / "report.html"


def template_of(name: str) -> Template:
    """Return the template of a page; all pages share one frame, and know the `date`."""
    environment = Environment(
        loader=PackageLoader("noisyrnn", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["first_upper"] = lambda text: text[:1].upper() + text[1:]
    script = (files("noisyrnn") / "report" / "page.js").read_text(encoding="utf-8")
    shared = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "script": Markup(script),  # our own file, which holds no text of a run
        "script_digest": f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}",
    }
    return environment.get_template(name, globals=shared)


def build_page(
    comparison: Comparison, *, title: str, command: str | None, failures: Mapping[Path, str] | None = None
) -> str:
    """Return the page as HTML, below `LARGEST_PAGE` bytes unless the tables are larger than that."""
    template = template_of("page.html.j2")
    view = _view(comparison, failures or {}) | {"title": title, "command": command}
    page, columns = "", accuracy.columns_of(comparison.main)
    for count in EXAMPLES:
        page = template.render(view | {"gallery": gallery(comparison.groups, columns, count=count)})
        if len(page.encode()) < LARGEST_PAGE:
            break
    return page


def _view(comparison: Comparison, failures: Mapping[Path, str]) -> dict[str, Any]:
    """Return the texts and figures that the template lays out."""
    groups = comparison.groups
    results = [result for group in groups for result in group.results]
    dataset = next((result.dataset for result in results if result.dataset), {})
    chance = 1 / int(dataset["classes"]) if dataset.get("classes") else None
    settings = _settings(groups)
    return {
        **_headline(comparison, chance),
        "facts": _facts(results, dataset),
        "failed": [_trouble(result, failures) for result in results if result.status == "failed"],
        "not_evaluated": [
            _trouble(result, failures) for result in results if result.status != "failed" and not result.evaluated
        ],
        "notes": comparison.notes,
        "metrics": [_metric(comparison, metric, chance) for metric in comparison.tables],
        "base": comparison.labels[0],
        "theory": theory.theory_section(comparison.theory, groups),
        "theory_files": table_files(comparison.theory, comparison.labels),
        "recall": _simple_table(recall_table(groups), comparison.labels),
        "confusions": confusion_views(groups),
        "training": training_curves(groups),
        "costs": [_cost(group, i) for i, group in enumerate(groups)],
        **_best_validation(bool(dataset.get("classes", 1))),
        "labels": [{"text": label, "colour": colour(i)} for i, label in enumerate(comparison.labels)],
        "differing": [row for row in settings if row["differs"]],
        "common": [row for row in settings if not row["differs"]],
        "perturbations": [*_perturbations(comparison), *_evaluation(groups)],
    }


def _headline(comparison: Comparison, chance: float | None) -> dict[str, Any]:
    """Return the first screen: the verdict, a table of few columns and a figure of their perturbations."""
    table, metric = comparison.main, next(iter(comparison.tables))
    rows = headline_rows(table)
    names = _drawn_first(table)
    chance = chance if metric in ("accuracy", "step_accuracy") else None
    return {
        "verdict": comparison.verdict,
        "headline": _simple_table(replace(table, rows=tuple(rows)), comparison.labels),
        "headline_curves": score_curves(table, comparison.labels, metric=metric, chance=chance, only=names),
    }


def _drawn_first(table: Table) -> set[str]:
    """Return the perturbations of the first figure."""
    return {row.quantity.name for row in headline_rows(table)} - {CLEAN}


def _simple_table(table: Table, labels: Sequence[str]) -> dict[str, Any] | None:
    """Return a table with a row for each label, and files to download; `None` without rows."""
    if not table.rows:
        return None
    colours = {label: colour(position) for position, label in enumerate(labels)}
    rows = [
        {
            "label": label,
            "colour": colours.get(label, NO_COLOUR),
            "cells": [
                row.cell_texts(label, absent="not measured") | {"number": _mean(row, label)} for row in table.rows
            ],
        }
        for label in (*labels, *table.baselines)
    ]
    titles = [row.quantity.title for row in table.rows]
    return {"titles": titles, "rows": rows, "files": table_files(table, labels)}


def _mean(row: Row, label: str) -> str:
    """Return the number by which a cell sorts."""
    cell = row.cell(label)
    return "" if cell is None else f"{cell.mean:.8g}"


def _metric(comparison: Comparison, metric: str, chance: float | None) -> dict[str, Any]:
    """Return the texts and figures of one metric: its table, curves and paired comparisons."""
    groups, table, shown = comparison.groups, comparison.tables[metric], METRICS[metric]
    main = metric == next(iter(comparison.tables))
    chance = chance if metric in ("accuracy", "step_accuracy") else None
    return {
        "title": shown.title,
        "files": table_files(table, comparison.labels),
        "areas": _simple_table(accuracy.area_table(groups, table), comparison.labels),
        "suffix": "" if main else f"-{metric}",
        "caption": accuracy.caption(table, metric),
        "best": accuracy.best_mean(metric),
        "better": ("higher", "lower") if shown.better == "higher" else ("lower", "higher"),
        "in_points": " in percentage points" if shown.unit == PERCENT else "",
        "close": accuracy.marks_caption(table),
        "untested": accuracy.untested(table, groups),
        "panels": [
            {"title": perturbation_title(name), "strengths": [_strength(row) for row in rows]}
            for name, rows in accuracy.panels(table).items()
        ],
        "rows": [
            {
                "label": group.label,
                "colour": colour(i),
                "seeds": group.seeds_title,
                "cells": [
                    row.cell_texts(group.label, absent="not evaluated") | {"number": _mean(row, group.label)}
                    for row in table.rows
                ],
            }
            for i, group in enumerate(groups)
        ]
        + [
            {
                "label": name,
                "colour": NO_COLOUR,
                "seeds": "–",
                "cells": [
                    row.cell_texts(name, absent="not attacked: no gradients") | {"number": _mean(row, name)}
                    for row in table.rows
                ],
            }
            for name in table.baselines
        ],
        "baselines": accuracy.baselines_caption(groups),
        "curves": (
            None  # the first figure has them all
            if main and _drawn_first(table) == set(accuracy.panels(table)) - {CLEAN}
            else score_curves(table, comparison.labels, metric=metric, chance=chance)
        ),
        "chance": None if chance is None else f"{100 * chance:.3g}\N{NO-BREAK SPACE}%",
        "tests": _tests(table, comparison.labels),
        "tested": table.tested,
    }


def _facts(results: Sequence[SeedResult], dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of each line of the overview."""
    names = list(dict.fromkeys(result.label for result in results))
    seeds = sorted({result.seed for result in results})
    finished = sum(result.status == "finished" for result in results)
    tested = {len(entry.by_sequence) for result in results if result.evaluated for entry in result.scores.values()}
    parts = (("train", "for training"), ("validation", "for validation"))
    sizes = [f"{dataset[part]} {purpose}" for part, purpose in parts if part in dataset]
    facts = [
        ("Data set", f"{dataset.get('name', results[0].config.get('dataset', 'not read'))}"),
        ("Source", str(dataset.get("source", ""))),
        ("Sequences", ", ".join([*sizes, *(f"{count} for testing" for count in sorted(tested))])),
        ("Shape", _shape(dataset)),
        ("Models", ", ".join(names)),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Runs", f"{len(results)}, of which {finished} finished"),
        ("Epochs", _range(result.summary.get("epochs") for result in results)),
        (
            "Draws",
            f"{_range(result.evaluation.get('draws') for result in results)} of each random perturbation, "
            f"{_range(result.evaluation.get('attack_draws') for result in results)} random starts of each attack, "
            "the same for all models",
        ),
    ]
    for name in ("noisyrnn", "torch", "python", "platform"):
        values = sorted({str(result.environment[name]) for result in results if name in result.environment})
        facts.append((name if name == "noisyrnn" else name.capitalize(), ", ".join(values)))
    return [(name, value) for name, value in facts if value]


_CHANNELS = 10
"""How many names of channels the page shows."""


def _shape(dataset: Mapping[str, Any]) -> str:
    if "steps" not in dataset or "input_size" not in dataset:
        return ""
    low, high = dataset.get("value_range") or (None, None)
    values = "" if low is None else f", values in [{low:g}, {high:g}]"
    answers = f", {dataset['classes']} classes" if dataset.get("classes") else ""
    if "targets" in dataset:
        answers = f", {dataset['targets']} target{'s' if dataset['targets'] > 1 else ''}"
    answers += " at every step" if dataset.get("every_step") else ""
    missing = f", missing values {dataset['missing']}" if "missing" in dataset else ""
    known = dataset.get("channel_names", [])
    names = f" ({', '.join([*known[:_CHANNELS], *['…'] * (len(known) > _CHANNELS)])})" if known else ""
    return f"{dataset['steps']} steps × {dataset['input_size']}{names}{answers}{values}{missing}"


def _range(values: Iterable[Any]) -> str:
    """Return `5`, or `3 to 5`; a dash if there are no values."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{min(known)}" if min(known) == max(known) else f"{min(known)} to {max(known)}"


def _trouble(result: SeedResult, failures: Mapping[Path, str]) -> dict[str, Any]:
    error = result.summary.get("error")
    if result.path in failures:
        error = failures[result.path]
    elif result.status == "finished":
        error = result.evaluation_error or "Trained, but not evaluated: it has no robustness.json."
    elif result.status == "unfinished":
        error = "Training has not finished: it has no summary.json."
    return {
        "label": result.label,
        "seed": result.seed,
        "folder": str(result.path),
        "error": error or "No message was recorded.",
    }


def _strength(row: Row) -> str:
    return "" if row.quantity.column is None else row.quantity.column.strength_title


def _tests(table: Table, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per column of a table, with a cell for each label except the base."""
    if not any(row.tests for row in table.rows):
        return []
    return [
        {
            "perturbation": perturbation_title(row.quantity.name),
            "strength": _strength(row),
            "cells": [row.test_texts(label) for label in labels[1:]],
        }
        for row in table.rows
    ]


def _cost(group: Group, position: int) -> dict[str, str]:
    finished = [result.summary for result in group.results if result.status == "finished"]

    def mean(name: str, form: str) -> str:
        known = [summary[name] for summary in finished if summary.get(name) is not None]
        return format(fmean(known), form) if known else "–"

    best, loss = mean("best_validation_accuracy", ".4f"), mean("best_validation_loss", ".4g")
    sizes = [count for summary in finished if (count := summary.get("validation_sequences")) is not None]
    return {
        "label": group.label,
        "colour": colour(position),
        "parameters": mean("parameters", ",.0f"),
        "seconds": mean("seconds", ",.1f"),
        "epochs": _range(summary.get("epochs") for summary in finished),
        "best_epoch": _range(summary.get("best_epoch") for summary in finished),
        "best_validation": loss if best == "–" else f"{100 * float(best):.1f}",
        "validation_sequences": _range(sizes),
    }


def _best_validation(classes: bool) -> dict[str, str]:
    """Return the heading of the best validation result, and what to remember about it."""
    kind, extreme, test = ("accuracy", "highest", "accuracy") if classes else ("loss", "lowest", "results")
    return {
        "best_validation": f"Best validation {kind}{' (%)' if classes else ''}",
        "best_validation_note": f"Best validation {kind} is the {extreme} of all epochs, so it is optimistically "
        f"biased: compare models by their test {test}. A model without validation sequences was trained on all.",
    }


def _settings(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return a row per setting with its value for each label; all values if the seeds of a label differ.

    Models that a Python file builds have few of these settings, and so do not differ by lacking one.
    """
    configs = [[result.config for result in group.results] for group in groups]
    names = dict.fromkeys(name for by_seed in configs for config in by_seed for name in config if name not in PER_RUN)
    own = [k for k, by_seed in enumerate(configs) if not any("file" in config for config in by_seed)]
    rows = []
    for name in names:
        values = [
            " | ".join(dict.fromkeys(_value(config[name]) if name in config else "–" for config in by_seed))
            for by_seed in configs
        ]
        compared = values if name in ("file", "model") else [values[k] for k in own] or values
        differs = len(set(compared)) > 1 or " | " in compared[0]
        rows.append({"name": name, "values": values, "shared": compared[0], "differs": differs})
    return rows


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _perturbations(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the `repr` of each perturbation."""
    settings: dict[Column, list[str]] = {}
    for group in comparison.groups:
        for result in group.evaluated:
            for column, entry in result.scores.items():
                listed = settings.setdefault(column, [])
                if entry.settings not in listed:
                    listed.append(entry.settings)
    columns = accuracy.columns_of(comparison.main)
    return [(column.title, " | ".join(settings[column])) for column in columns if column.perturbation != CLEAN]


def _evaluation(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return every other setting of the evaluations; all values if they differ."""
    settings = [result.evaluation for group in groups for result in group.evaluated]
    names = dict.fromkeys(name for entry in settings for name in entry if name != "strengths")
    return [(name, " | ".join(dict.fromkeys(_value(entry.get(name)) for entry in settings))) for name in names]
