"""Test accuracy on clean and perturbed inputs, as a table of column × label × seed."""

import math
from collections.abc import Sequence

from noisyrnn.report.columns import CLEAN, Column
from noisyrnn.report.results import Group
from noisyrnn.report.table import PERCENT, Quantity, Row, Table, Value, build_table, escape, markdown_table
from noisyrnn.robustness import UNITS, WORST
from noisyrnn.robustness.crossed_sample import FEWEST_SEEDS
from noisyrnn.robustness.statistics import SEQUENCES, TRAININGS


def accuracy_table(groups: Sequence[Group]) -> Table:
    """Return the accuracies of the evaluated runs: clean, then each perturbation by strength; the best are marked."""
    evaluated = {group.label: group.evaluated for group in groups}
    columns = {column for results in evaluated.values() for result in results for column in result.accuracies}
    values: dict[Quantity, dict[str, dict[int, Value]]] = {}
    for column in sorted(columns, key=lambda column: column.place):
        quantity = Quantity(
            name=column.perturbation,
            group="accuracy",
            kind="estimate",
            unit=PERCENT,
            column=column,
            title=column.title,
            better="higher",
        )
        by_label = {
            label: {
                result.seed: Value(value=found.accuracy, by_sequence=found.rates)
                for result in results
                if (found := result.accuracies.get(column)) is not None
            }
            for label, results in evaluated.items()
        }
        values[quantity] = {label: seeds for label, seeds in by_label.items() if seeds}
    return build_table(values, [group.label for group in groups], ranked=True)


def columns_of(table: Table) -> list[Column]:
    """Return the columns of an accuracy table, in order."""
    return [row.quantity.column for row in table.rows if row.quantity.column is not None]


def panels(table: Table) -> dict[str, list[Row]]:
    """Return the rows of each perturbation, including clean, in order."""
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        rows.setdefault(row.quantity.name, []).append(row)
    return rows


def caption(table: Table) -> str:
    """Explain the values of the table, their intervals and, if needed, the units of strengths."""
    sentences = ["Test accuracy in %, mean over seeds."]
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
            "of that norm with this or a smaller radius."
        )
    return " ".join(sentences)


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


def markdown(table: Table, groups: Sequence[Group], notes: Sequence[str]) -> str:
    """Return the table in GitHub's Markdown, one row per label, with caption and notes."""
    head = ["model", "seeds", *(escape(row.quantity.title) for row in table.rows)]
    lines = [
        [
            escape(group.label),
            group.seeds_title,
            *(row.markdown_cell(group.label, remarks=False) for row in table.rows),
        ]
        for group in groups
    ]
    close = marks_caption(table)
    marks = "**Bold**: highest mean of the column." + (f" *Italics*: {close}." if close else "")
    sentences = [caption(table), marks, untested(table, groups)]
    parts = [markdown_table(head, lines, left=1), " ".join(filter(None, sentences))]
    return "\n\n".join([*parts, *(f"Note: {escape(note)}" for note in notes)]) + "\n"


def accuracy_notes(groups: Sequence[Group], table: Table) -> tuple[str, ...]:
    """Return notes on accuracies that are not comparable, or not informative about robustness."""
    return (*_unlike(groups), *_without_effect(groups), *_guessing(groups, table))


_DRAWS = ("draws", "attack_draws", "evaluation_seed")


def _unlike(groups: Sequence[Group]) -> tuple[str, ...]:
    notes = []
    evaluated = [result for group in groups for result in group.evaluated]
    seeds = {group.label: tuple(result.seed for result in group.evaluated) for group in groups if group.evaluated}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{label}: {', '.join(map(str, values))}" for label, values in seeds.items())
        notes.append(f"The models were not evaluated with the same seeds ({listed}); tests use the shared seeds only.")
    results = [result for group in groups for result in group.results]
    notes += [f"{result.label}, seed {result.seed}: {why}" for result in results for why in result.stale]
    for result in results:
        if result.summary.get("not_fitted"):
            notes.append(f"{result.label}, seed {result.seed}: {result.summary['not_fitted']}")
    settings: dict[Column, set[str]] = {}
    for result in evaluated:
        for column, accuracy in result.accuracies.items():
            settings.setdefault(column, set()).add(accuracy.settings)
    for column in sorted(settings, key=lambda column: column.place):
        if len(settings[column]) > 1:
            listed = " and ".join(sorted(settings[column]))
            notes.append(f"{column.title} was not the same perturbation in all runs: {listed}.")
    if len({tuple(result.evaluation.get(name) for name in _DRAWS) for result in evaluated}) > 1:
        notes.append("The runs were evaluated with different numbers of draws or different seeds of the draws.")
    if len({len(accuracy.rates) for result in evaluated for accuracy in result.accuracies.values()}) > 1:
        notes.append("Not all accuracies were measured on the same number of test sequences.")
    return tuple(notes)


def _without_effect(groups: Sequence[Group]) -> list[str]:
    """Return a note for each perturbation that changed no input, with the models concerned."""
    still: dict[Column, list[str]] = {}
    for group in groups:
        accuracies = [item for result in group.evaluated for item in result.accuracies.items()]
        for column in {column for column, accuracy in accuracies if not accuracy.moved}:
            still.setdefault(column, []).append(group.label)
    return [
        f"{column.title} changed no input ({', '.join(still[column])}): its accuracy is no measure of robustness."
        for column in sorted(still, key=lambda column: column.place)
    ]


def _guessing(groups: Sequence[Group], table: Table) -> list[str]:
    """Return a note for each label whose interval contains the accuracy of always predicting the largest class."""
    notes = []
    for group in groups:
        guesses = {c: accuracy.guess for result in group.evaluated for c, accuracy in result.accuracies.items()}
        columns = []
        for row in table.rows:
            column, cell = row.quantity.column, row.cells.get(group.label)
            if column is not None and cell is not None:
                low = cell.low if math.isfinite(cell.low) else cell.mean
                columns += [column] if 0 < guesses[column] >= low else []  # 0: not recorded
        if columns:
            clean = columns[0].perturbation == CLEAN
            where = "even on clean sequences" if clean else f"under {', '.join(column.title for column in columns)}"
            share = f"{100 * guesses[columns[0]]:.1f} %"
            notes.append(
                f"{group.label} is not significantly better than always predicting the largest class ({share}) {where}."
            )
    return notes
