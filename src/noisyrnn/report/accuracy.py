"""Test results on clean and perturbed inputs, for each metric a table of column × label × seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.integrate import trapezoid

from noisyrnn.display import escape, markdown_table
from noisyrnn.report.columns import CLEAN, Column, perturbation_title, symbol
from noisyrnn.report.results import Group, SeedResult, TestScore
from noisyrnn.report.table import PERCENT, Quantity, Row, Table, Value, build_table, pool, value_texts
from noisyrnn.robustness import METRICS, UNITS, WORST
from noisyrnn.robustness.crossed_sample import FEWEST_SEEDS
from noisyrnn.robustness.statistics import SEQUENCES, TRAININGS
from noisyrnn.run_folder import listed


def score_tables(groups: Sequence[Group]) -> dict[str, Table]:
    """Return a table for each metric of the evaluated runs, at least one: the accuracy, or those of a regression.

    Rows are clean, then each perturbation by strength; the best are marked.
    """
    evaluated = {group.label: group.evaluated for group in groups}
    baselines = baselines_of(groups)
    columns = {column for results in evaluated.values() for result in results for column in result.scores}
    metrics = [name for name in METRICS if any(column.metric == name for column in columns)] or ["accuracy"]
    tables = {name: _table(name, groups, [column for column in columns if column.metric == name]) for name in metrics}
    return {name: _with_baselines(table, baselines) for name, table in tables.items()}


def baselines_of(groups: Sequence[Group]) -> dict[str, Mapping[Column, TestScore]]:
    """Return the test results of the baselines by their names in tables; they are the same for all runs."""
    evaluated = (result for group in groups for result in group.evaluated if result.baselines)
    first = next(evaluated, None)
    return {} if first is None else {f"{name} (baseline)": scores for name, scores in first.baselines.items()}


def _with_baselines(table: Table, baselines: Mapping[str, Mapping[Column, TestScore]]) -> Table:
    """Return a table with the cells of the baselines, each measured once on the same test sequences."""
    rows = []
    for row in table.rows:
        column, bounds = row.quantity.column, row.quantity.bounds
        scores = {name: scores[column] for name, scores in baselines.items() if column is not None and column in scores}
        cells = {
            name: pool({0: Value(value=score.value, by_sequence=score.by_sequence)}, bounds)
            for name, score in scores.items()
        }
        rows.append(replace(row, baselines=cells))
    return replace(table, rows=tuple(rows))


def quantity_of(column: Column) -> Quantity:
    """Return the row of a table that shows a column of test results."""
    metric = METRICS[column.metric]
    return Quantity(
        name=column.perturbation,
        group=column.metric,
        kind="estimate",
        unit=metric.unit,
        column=column,
        title=column.title,
        better=metric.better,
        bounds=metric.bounds,
    )


def _table(name: str, groups: Sequence[Group], columns: Sequence[Column]) -> Table:
    """Return the table of one metric."""
    values: dict[Quantity, dict[str, dict[int, Value]]] = {}
    for column in sorted(columns, key=lambda column: column.place):
        quantity = quantity_of(column)
        by_label = {
            group.label: {
                result.seed: Value(value=found.value, by_sequence=found.by_sequence)
                for result in group.evaluated
                if (found := result.scores.get(column)) is not None
            }
            for group in groups
        }
        values[quantity] = {label: seeds for label, seeds in by_label.items() if seeds}
    return build_table(values, [group.label for group in groups], ranked=True)


def area_table(groups: Sequence[Group], table: Table) -> Table:
    """Return the areas under the curves of a table of test results: one row for each perturbation.

    An area is the mean of the metric over all strengths from 0, clean inputs, to the largest that was measured, with
    straight lines between those that were. Each sequence has one, so that intervals and tests are those of the table.
    """
    rows = panels(table)
    clean = rows.pop(CLEAN, [])
    values: dict[Quantity, dict[str, dict[int, Value]]] = {}
    for name, strengths in rows.items() if clean else ():
        columns = [row.quantity.column for row in (*clean, *strengths) if row.quantity.column is not None]
        first, last = columns[0], columns[-1]
        if len({column.unit for column in columns[1:]}) > 1 or last.strength == 0:
            continue
        quantity = Quantity(
            name=name,
            group=f"area_{first.metric}",
            kind="estimate",
            unit=clean[0].quantity.unit,
            title=f"{perturbation_title(name)}, {symbol(name)} from 0 to {last.strength:g} {last.unit}".strip(),
            better=clean[0].quantity.better,
            bounds=clean[0].quantity.bounds,
        )
        values[quantity] = {
            group.label: {
                result.seed: _area(result, columns)
                for result in group.evaluated
                if set(columns) <= result.scores.keys()
            }
            for group in groups
        }
        values[quantity] = {label: seeds for label, seeds in values[quantity].items() if seeds}
    return build_table(values, [group.label for group in groups], ranked=True)


def _area(result: SeedResult, columns: Sequence[Column]) -> Value:
    """Return the area of one run, by sequence: of those that an attack was tried on, where it was not on all."""
    measured = [result.scores[column].by_sequence for column in columns]
    count = min(map(len, measured))
    by_sequence = np.array([values[:count] for values in measured])
    strengths = np.array([column.strength for column in columns])
    areas = trapezoid(by_sequence, strengths, axis=0) / strengths[-1]
    return Value(value=float(areas.mean()), by_sequence=tuple(areas.tolist()))


def columns_of(table: Table) -> list[Column]:
    """Return the columns of a table of test results, in order."""
    return [row.quantity.column for row in table.rows if row.quantity.column is not None]


def panels(table: Table) -> dict[str, list[Row]]:
    """Return the rows of each perturbation, including clean, in order."""
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        rows.setdefault(row.quantity.name, []).append(row)
    return rows


def caption(table: Table, metric: str = "accuracy") -> str:
    """Explain the values of the table, their intervals and, if needed, the units of strengths."""
    sentences = [f"{METRICS[metric].caption}, mean over seeds.", *filter(None, [METRICS[metric].detail])]
    if TRAININGS in table.covers:
        sentences.append("[low, high] is the 95 % interval of the mean over other trainings and other test sequences.")
    if SEQUENCES in table.covers:
        few = "With fewer than three seeds, [low, high]" if TRAININGS in table.covers else "[low, high]"
        sentences.append(
            f"{few} is the 95 % interval over other test sequences, for these trained models only: "
            f"variation between trainings needs at least {FEWEST_SEEDS} seeds."
        )
    columns = columns_of(table)
    if any(column.unit for column in columns):
        sentences.append(UNITS)
    if any(column.perturbation.startswith(WORST) for column in columns):
        sentences.append(
            "Under an attack, a sequence counts as correct only if it is classified correctly without a perturbation "
            "and after every start of the attack; in the worst case over attacks, only if this holds for every attack "
            "of that norm with this or a smaller radius that was run on the sequence."
            if metric == "accuracy"
            else "Under an attack, a sequence counts with its worst value without a perturbation and after every start "
            "of the attack; in the worst case over attacks, with that of every attack of that norm with this or a "
            "smaller radius that was run on the sequence."
        )
    return " ".join(sentences)


def baselines_caption(groups: Sequence[Group]) -> str:
    """Explain the baselines of a table, and which are left out; empty without baselines."""
    if not baselines_of(groups):
        return ""
    skipped = next(result.skipped_baselines for group in groups for result in group.evaluated if result.baselines)
    sentences = [
        "Baselines are fitted to the training and validation sequences and measured once, on the same test sequences; "
        "their intervals are over these. They are neither marked nor tested; without gradients they are "
        "not attacked (–)."
    ]
    if any(name.startswith("ROCKET") for name in baselines_of(groups)):
        sentences.append("ROCKET has one draw of each noise.")
    return " ".join([*sentences, *(f"{name} is left out: {why}." for name, why in skipped.items())])


def marks_caption(table: Table) -> str:
    """Explain cells marked `close`; empty if nothing was tested."""
    if not table.comparisons:
        return ""
    return (
        "not significantly different from it (paired test over seeds, p ≥ 0.05, corrected for the "
        f"{table.comparisons} comparisons of all pairs and columns by Holm's method)"
    )


def untested(table: Table, groups: Sequence[Group]) -> str:
    """Explain which tests need more seeds; empty if none does."""
    if SEQUENCES not in table.covers or len(groups) < 2:
        return ""
    return f"Fewer than {FEWEST_SEEDS} shared seeds are too few for a test, so such differences are not marked."


def markdown(tables: Mapping[str, Table], groups: Sequence[Group], notes: Sequence[str]) -> str:
    """Return the tables in GitHub's Markdown, one row per label, with captions and notes; several have headings."""
    parts = []
    for metric, table in tables.items():
        head = ["model", "seeds", *(escape(row.quantity.title) for row in table.rows)]
        lines = [
            [
                escape(group.label),
                group.seeds_title,
                *(row.markdown_cell(group.label, remarks=False) for row in table.rows),
            ]
            for group in groups
        ]
        lines += [
            [escape(name), "–", *(row.markdown_cell(name, remarks=False) for row in table.rows)]
            for name in table.baselines
        ]
        close = marks_caption(table)
        marks = f"**Bold**: {best_mean(metric)} of the column." + (f" *Italics*: {close}." if close else "")
        sentences = [caption(table, metric), marks, untested(table, groups), baselines_caption(groups)]
        title = [f"## {METRICS[metric].heading}"] if len(tables) > 1 else []
        parts += [*title, markdown_table(head, lines, left=1), " ".join(filter(None, sentences))]
    return "\n\n".join([*parts, *(f"Note: {escape(note)}" for note in notes)]) + "\n"


def best_mean(metric: str) -> str:
    """Return what is printed bold: `highest mean` or `lowest mean`."""
    return "highest mean" if METRICS[metric].better == "higher" else "lowest mean"


def accuracy_notes(groups: Sequence[Group], tables: Mapping[str, Table]) -> tuple[str, ...]:
    """Return notes on results that are not comparable, or not informative about robustness."""
    metric, table = next(iter(tables.items()))  # the others were measured on the same inputs
    return (
        *_unlike(groups, metric),
        *notes_on_sizes(groups, metric),
        *_masked_gradients(groups),
        *_without_effect(groups, metric),
        *_guessing(groups, table, metric),
        *_below_baselines(groups, table),
        *_adapted(groups),
    )


_DRAWS = ("draws", "attack_draws", "evaluation_seed")


def _unlike(groups: Sequence[Group], metric: str) -> tuple[str, ...]:
    notes = []
    evaluated = [result for group in groups for result in group.evaluated]
    seeds = {group.label: tuple(result.seed for result in group.evaluated) for group in groups if group.evaluated}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{label}: {', '.join(map(str, values))}" for label, values in seeds.items())
        notes.append(f"The models were not evaluated with the same seeds ({listed}); tests use the shared seeds only.")
    results = [result for group in groups for result in group.results]
    notes += [f"{result.label}, seed {result.seed}: {why}" for result in results for why in result.stale]
    for result in results:
        if origin := result.summary.get("continued_from"):
            notes.append(
                f"{result.label}, seed {result.seed}, continues {origin['run']} after its {origin['epochs']} epochs."
            )
        if result.summary.get("not_fitted"):
            notes.append(f"{result.label}, seed {result.seed}: {result.summary['not_fitted']}")
    settings: dict[Column, set[str]] = {}
    for result in evaluated:
        for column, score in result.scores.items():
            if column.metric == metric:
                settings.setdefault(column, set()).add(score.settings)
    for column in sorted(settings, key=lambda column: column.place):
        if len(settings[column]) > 1:
            listed = " and ".join(sorted(settings[column]))
            notes.append(f"{column.title} was not the same perturbation in all runs: {listed}.")
    if len({tuple(result.evaluation.get(name) for name in _DRAWS) for result in evaluated}) > 1:
        notes.append("The runs were evaluated with different numbers of draws or different seeds of the draws.")
    return tuple(notes)


def notes_on_sizes(groups: Sequence[Group], metric: str) -> list[str]:
    """Return a note on columns that were measured on fewer test sequences than others."""
    sizes: dict[Column, set[int]] = {}
    for result in (result for group in groups for result in group.evaluated):
        for column, score in result.scores.items():
            if column.metric == metric:
                sizes.setdefault(column, set()).add(len(score.by_sequence))
    if any(len(counts) > 1 for counts in sizes.values()):
        return [f"Not all {_plural(metric)} were measured on the same number of test sequences."]
    titles: dict[int, list[str]] = {}
    for column in sorted(sizes, key=lambda column: column.place):
        titles.setdefault(min(sizes[column]), []).append(perturbation_title(column.perturbation))
    most = max(titles, default=0)
    few = [
        f"{', '.join(dict.fromkeys(titles[count]))} on the first {count}"
        for count in sorted(titles, reverse=True)
        if count < most
    ]
    return [f"Of the {most} test sequences, some columns have only the first: {'; '.join(few)}."] if few else []


def _masked_gradients(groups: Sequence[Group]) -> list[str]:
    """Return a note for each run and attack that indicates masked gradients."""
    return [
        f"{result.label}, seed {result.seed}: {note}"
        for group in groups
        for result in group.evaluated
        for note in result.gradient_notes
    ]


def _plural(metric: str) -> str:
    """Return what a note calls the values."""
    return "accuracies" if metric == "accuracy" else "results"


def _without_effect(groups: Sequence[Group], metric: str) -> list[str]:
    """Return a note for each perturbation that changed no input, with the models concerned."""
    still: dict[Column, list[str]] = {}
    for group in groups:
        scores = [item for result in group.evaluated for item in result.scores.items()]
        for column in {column for column, score in scores if column.metric == metric and not score.moved}:
            still.setdefault(column, []).append(group.label)
    what = "accuracy" if metric == "accuracy" else "result"
    return [
        f"{column.title} changed no input ({', '.join(still[column])}): its {what} is no measure of robustness."
        for column in sorted(still, key=lambda column: column.place)
    ]


def _guessing(groups: Sequence[Group], table: Table, metric: str) -> list[str]:
    """Return notes on the labels whose interval contains the value of the best answer that ignores the inputs."""
    labels: dict[str, list[str]] = {}
    higher = METRICS[metric].better == "higher"
    share = METRICS[metric].unit == PERCENT
    for group in groups:
        guesses = {column: score.guess for result in group.evaluated for column, score in result.scores.items()}
        columns = []
        for row in table.rows:
            column, cell = row.quantity.column, row.cells.get(group.label)
            if column is None or cell is None or (share and guesses[column] == 0):  # 0: not recorded
                continue
            end = cell.low if higher else cell.high
            end = end if math.isfinite(end) else cell.mean
            if guesses[column] >= end if higher else guesses[column] <= end:
                columns.append(column)
        if columns:
            clean = columns[0].perturbation == CLEAN
            where = "even on clean sequences" if clean else f"under {', '.join(column.title for column in columns)}"
            guess = guesses[columns[0]]
            value = f"{100 * guess:.1f} %" if share else f"{METRICS[metric].title} {abs(guess):.3g}"
            answer = f"the {'largest class' if share else 'mean of the targets'} ({value})"
            labels.setdefault(f"not significantly better than always predicting {answer} {where}", []).append(
                group.label
            )
    return [f"{listed(named)} {'is' if len(named) == 1 else 'are'} {text}." for text, named in labels.items()]


def _below_baselines(groups: Sequence[Group], table: Table) -> list[str]:
    """Return a note for each baseline that labels are not better than on clean sequences."""
    notes = []
    for row in table.rows:
        if row.quantity.name != CLEAN:
            continue
        sign = 1 if row.quantity.better == "higher" else -1
        unit = f" {row.quantity.unit}" if row.quantity.unit == PERCENT else ""
        for name, other in row.baselines.items():
            below = [
                f"{group.label} ({value_texts(cell, row.quantity)[0]}{unit})"
                for group in groups
                if (cell := row.cells.get(group.label)) is not None
                and math.isfinite(cell.mean)
                and sign * cell.mean <= sign * other.mean
            ]
            if below:
                are, value = "is" if len(below) == 1 else "are", f"{value_texts(other, row.quantity)[0]}{unit}"
                notes.append(f"On clean sequences {listed(below)} {are} not better than {name}, {value}.")
    return notes


def _adapted(groups: Sequence[Group]) -> list[str]:
    """Return what the number of sequences changed in the settings of the runs, once for all models that share it."""
    labels: dict[str, list[str]] = {}
    for group in groups:
        for result in group.results:
            if text := result.summary.get("adapted"):
                labels.setdefault(str(text), [])
                if group.label not in labels[str(text)]:
                    labels[str(text)].append(group.label)
    return [f"{', '.join(named)}: {text}" for text, named in labels.items()]
