"""The page, the table and the numbers of a comparison, written into a folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from noisyrnn.report.analysis_section import theory_section
from noisyrnn.report.analysis_table import markdown as analysis_markdown
from noisyrnn.report.analysis_table import quantity_rows
from noisyrnn.report.examples import gallery
from noisyrnn.report.figures import accuracy_curves, colour, training_curves
from noisyrnn.report.runs import Column, RunRecord, read_run
from noisyrnn.report.table import (
    CLEAN,
    Cell,
    Comparison,
    Group,
    caption,
    compare,
    markdown,
    marks_caption,
    percent,
    perturbation_title,
    seeds_title,
    strength_title,
    untested,
)
from noisyrnn.robustness.statistics import PairedTest, p_text
from noisyrnn.run_folder import to_json, write_atomically

LARGEST_PAGE = 3_000_000
# Examples are the one part that grows with the data; fewer are shown until the page is small enough.
EXAMPLES = (3, 2, 1, 0)
PER_RUN = ("label", "seed")


def write_report(
    runs: Sequence[Path],
    output: Path,
    *,
    title: str,
    command: str | None = None,
    failures: Mapping[Path, str] | None = None,
) -> Path:
    """Compare `runs` in `output/report.html`, with the table in `table.md` and the numbers in `comparison.json`.

    Everything is computed before anything is written, and each file replaces its predecessor in one step, so that an
    interrupted report leaves whole files. The same runs give the same table and numbers; the page also carries a date.
    Where a run holds an `analysis.json`, page and numbers hold its quantities, and `analysis.md` their table.

    Args:
        runs: Run folders; those of one `label` differ in their seed, the first label is the base of the paired tests.
        output: Folder to write into; made where it does not exist.
        title: Heading of the page.
        command: Command line that made the runs, shown to repeat it.
        failures: Why runs failed, shown on the page; those that are not among `runs`, since their files cannot be read,
            are named there too.

    Returns:
        Path of the page, which needs no other file.

    Raises:
        TypeError: If `runs` is a single path.
        ValueError: If there are no runs, one cannot be read, two do not go together, or `output` cannot be made.
        WriteError: If a file cannot be written, for example because the disk is full.
    """
    if isinstance(runs, str | Path):
        raise TypeError(f"runs must be a list of run folders, got {str(runs)!r}. Write [{str(runs)!r}].")
    comparison = compare([read_run(path) for path in runs])
    failures = failures or {}
    lost = [f"{path.name} is left out: {why}" for path, why in failures.items() if path not in runs]
    if lost:
        comparison = replace(comparison, notes=(*comparison.notes, *lost))
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    numbers, rows = comparison.to_dict(), quantity_rows(comparison)
    files = {
        "table.md": markdown(comparison),
        "report.html": build_page(comparison, title=title, command=command, date=date, failures=failures),
    }
    if rows:
        numbers["analysis"] = [row.to_dict() for row in rows]
        files["analysis.md"] = analysis_markdown(rows, comparison)
    files["comparison.json"] = to_json(numbers)
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output must be a folder that can be written, got {str(output)!r} ({error.strerror}). Choose another one."
        ) from error
    for name, text in files.items():
        write_atomically(output / name, text.encode())
    if not rows:  # that of an earlier report would be taken for this one's
        (output / "analysis.md").unlink(missing_ok=True)
    return output / "report.html"


def template_of(name: str) -> Template:
    """The template of a page; every page has one frame."""
    environment = Environment(
        loader=PackageLoader("noisyrnn", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def build_page(
    comparison: Comparison, *, title: str, command: str | None, date: str, failures: Mapping[Path, str] | None = None
) -> str:
    """The whole page as HTML, below `LARGEST_PAGE` bytes unless the tables alone are larger."""
    template = template_of("page.html.j2")
    view = _view(comparison, failures or {}) | {"title": title, "command": command, "date": date}
    page = ""
    for count in EXAMPLES:
        page = template.render(view | {"gallery": gallery(comparison, count=count)})
        if len(page.encode()) < LARGEST_PAGE:
            break
    return page


def _view(comparison: Comparison, failures: Mapping[Path, str]) -> dict[str, Any]:
    """What the template shows, in words: it only lays out."""
    groups = comparison.groups
    runs = [run for group in groups for run in group.runs]
    dataset = next((run.dataset for run in runs if run.dataset), {})
    chance = 1 / int(dataset["classes"]) if dataset.get("classes") else None
    settings = _settings(groups)
    return {
        "facts": _facts(runs, dataset),
        "failed": [_trouble(run, failures) for run in runs if run.status == "failed"],
        "not_evaluated": [_trouble(run, failures) for run in runs if run.status != "failed" and not run.evaluated],
        "notes": comparison.notes,
        "caption": caption(comparison),
        "close": marks_caption(comparison),
        "untested": untested(comparison),
        "panels": [
            {"title": perturbation_title(name), "strengths": [_strength(column) for column in columns]}
            for name, columns in comparison.panels().items()
        ],
        "rows": [_row(comparison, i) for i in range(len(groups))],
        "accuracy": accuracy_curves(comparison, chance=chance),
        "chance": None if chance is None else f"{100 * chance:.3g}\N{NO-BREAK SPACE}%",
        "base": comparison.base,
        "tests": _tests(comparison),
        "tested": sum(not test.reason for test in comparison.tests.values()),
        "theory": theory_section(comparison),
        "training": training_curves(comparison),
        "costs": [_cost(group, i) for i, group in enumerate(groups)],
        "labels": [{"text": group.label, "colour": colour(i)} for i, group in enumerate(groups)],
        "differing": [row for row in settings if row["differs"]],
        "common": [row for row in settings if not row["differs"]],
        "perturbations": [*_perturbations(comparison), *_evaluation(comparison)],
    }


def _facts(runs: Sequence[RunRecord], dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each line on what was run."""
    names = list(dict.fromkeys(run.label for run in runs))
    seeds = sorted({run.seed for run in runs})
    finished = sum(run.status == "finished" for run in runs)
    tested = {len(accuracy.rates) for run in runs if run.evaluated for accuracy in run.accuracies.values()}
    parts = (("train", "to train"), ("validation", "to validate"))
    sizes = [f"{dataset[part]} {purpose}" for part, purpose in parts if part in dataset]
    facts = [
        ("Data set", f"{dataset.get('name', runs[0].config.get('dataset', 'not read'))}"),
        ("Source", str(dataset.get("source", ""))),
        ("Sequences", ", ".join([*sizes, *(f"{count} to test" for count in sorted(tested))])),
        ("Shape", _shape(dataset)),
        ("Models", ", ".join(names)),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Runs", f"{len(runs)}, of which {finished} finished"),
        ("Epochs", _range(run.summary.get("epochs") for run in runs)),
        (
            "Draws",
            f"{_range(run.evaluation.get('draws') for run in runs)} of each random noise, "
            f"{_range(run.evaluation.get('attack_draws') for run in runs)} random starts of each attack, "
            "the same for all models",
        ),
    ]
    for name in ("noisyrnn", "torch", "python", "platform"):
        found = sorted({str(run.environment[name]) for run in runs if name in run.environment})
        facts.append((name if name == "noisyrnn" else name.capitalize(), ", ".join(found)))
    return [(name, value) for name, value in facts if value]


def _shape(dataset: Mapping[str, Any]) -> str:
    if "steps" not in dataset or "input_size" not in dataset:
        return ""
    low, high = dataset.get("value_range") or (None, None)
    values = "" if low is None else f", values in [{low:g}, {high:g}]"
    classes = f", {dataset['classes']} classes" if "classes" in dataset else ""
    return f"{dataset['steps']} steps × {dataset['input_size']}{classes}{values}"


def _range(values: Iterable[Any]) -> str:
    """`5`, or `3 to 5`; a dash where there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{min(known)}" if min(known) == max(known) else f"{min(known)} to {max(known)}"


def _trouble(run: RunRecord, failures: Mapping[Path, str]) -> dict[str, Any]:
    error = run.summary.get("error")
    if run.path in failures:
        error = failures[run.path]
    elif run.status == "finished":
        error = run.evaluation_error or "Trained, but not evaluated: it has no robustness.json."
    elif run.status == "unfinished":
        error = "Training has not finished: it has no summary.json."
    return {"label": run.label, "seed": run.seed, "folder": str(run.path), "error": error or "No message was recorded."}


def _strength(column: Column) -> str:
    return "" if column.perturbation == CLEAN else strength_title(column)


def _row(comparison: Comparison, position: int) -> dict[str, Any]:
    group = comparison.groups[position]
    cells = [_cell(comparison.cells.get((group.label, column))) for column in comparison.columns]
    return {"label": group.label, "colour": colour(position), "seeds": seeds_title(group), "cells": cells}


def _cell(cell: Cell | None) -> dict[str, str]:
    if cell is None:
        return {"mean": "–", "interval": "", "mark": "", "seeds": "not evaluated"}
    mean, interval = percent(cell)
    seeds = ", ".join(f"seed {seed}: {100 * value:.2f}" for seed, value in cell.seeds.items())
    return {"mean": mean, "interval": interval, "mark": cell.mark, "seeds": seeds}


def _tests(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each column of the main table; in it a cell for each label but the base."""
    others = [group.label for group in comparison.groups[1:]]
    if not comparison.tests:
        return []
    return [
        {
            "perturbation": perturbation_title(column.perturbation),
            "strength": _strength(column),
            "cells": [_test(comparison.tests.get((label, column))) for label in others],
        }
        for column in comparison.columns
    ]


def _test(test: PairedTest | None) -> dict[str, str]:
    if test is None:
        return {"difference": "–", "interval": "", "p": "", "pairs": "nothing to pair", "sign": ""}
    sign = "" if not test.significant else ("above" if test.difference > 0 else "below")
    return {
        "difference": f"{100 * test.difference:+.1f}",
        "interval": f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]",
        "p": p_text(test),
        "pairs": f"{test.pairs} seed{'s' if test.pairs > 1 else ''}; interval over {test.covers}",
        "sign": sign,
    }


def _cost(group: Group, position: int) -> dict[str, str]:
    finished = [run.summary for run in group.runs if run.status == "finished"]

    def mean(name: str, form: str) -> str:
        known = [summary[name] for summary in finished if summary.get(name) is not None]
        return format(fmean(known), form) if known else "–"

    best = mean("best_validation_accuracy", ".4f")
    sizes = [count for summary in finished if (count := summary.get("validation_sequences")) is not None]
    return {
        "label": group.label,
        "colour": colour(position),
        "parameters": mean("parameters", ",.0f"),
        "seconds": mean("seconds", ",.1f"),
        "epochs": _range(summary.get("epochs") for summary in finished),
        "best_epoch": _range(summary.get("best_epoch") for summary in finished),
        "best_validation": best if best == "–" else f"{100 * float(best):.1f}",
        "validation_sequences": _range(sizes),
    }


def _settings(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row for each setting: its value in each label, all values where the seeds of a label differ in it."""
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.config if name not in PER_RUN)
    rows = []
    for name in names:
        values = [
            " | ".join(dict.fromkeys(_value(run.config[name]) if name in run.config else "–" for run in group.runs))
            for group in groups
        ]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1 or " | " in values[0]})
    return rows


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _perturbations(comparison: Comparison) -> list[tuple[str, str]]:
    """What each perturbation was, as its `repr`."""
    settings: dict[Column, list[str]] = {}
    for group in comparison.groups:
        for run in group.evaluated:
            for column, accuracy in run.accuracies.items():
                found = settings.setdefault(column, [])
                if accuracy.settings not in found:
                    found.append(accuracy.settings)
    return [
        (f"{perturbation_title(column.perturbation)} {_strength(column)}".strip(), " | ".join(settings[column]))
        for column in comparison.columns
        if column.perturbation != CLEAN
    ]


def _evaluation(comparison: Comparison) -> list[tuple[str, str]]:
    """Every other setting of the evaluations; all values where they differ."""
    settings = [run.evaluation for group in comparison.groups for run in group.evaluated]
    names = dict.fromkeys(name for found in settings for name in found if name != "strengths")
    return [(name, " | ".join(dict.fromkeys(_value(found.get(name)) for found in settings))) for name in names]
