"""The first screen of a report: a few columns that the settings fix, and a verdict in two sentences."""

from collections.abc import Sequence

from noisyrnn.report.columns import CLEAN, perturbation_title
from noisyrnn.report.table import PERCENT, Row, Table, number
from noisyrnn.robustness import METRICS, WORST
from noisyrnn.robustness.crossed_sample import FEWEST_SEEDS
from noisyrnn.robustness.statistics import TRAININGS
from noisyrnn.run_folder import listed

SHOWN = ("white_noise", "multiplicative_noise", "salt_and_pepper", f"{WORST}linf")
"""Perturbations of the first screen, each at one strength."""


def headline_rows(table: Table) -> list[Row]:
    """Return the rows of the first screen: clean inputs, and each of `SHOWN` at one strength.

    The strength is the middle of those that were measured, the upper one of two in the middle, so that no result has a
    part in the choice. Without any of `SHOWN`, other perturbations take their place.
    """
    by_name: dict[str, list[Row]] = {}
    for row in table.rows:
        by_name.setdefault(row.quantity.name, []).append(row)
    others = [name for name in by_name if name != CLEAN]
    names = [name for name in SHOWN if name in by_name] or others[: len(SHOWN)]
    chosen = [rows[len(rows) // 2] for name in names for rows in [by_name[name]]]
    return [*by_name.get(CLEAN, []), *chosen]


def verdict(table: Table, metric: str, seeds: int) -> str:
    """Return two sentences: which label is best on which inputs and by how much, and which of this may be chance.

    Args:
        table: All test results of a metric.
        metric: Key of `METRICS`.
        seeds: Number of seeds of each label; the smallest, where they differ.
    """
    rows = [row for row in headline_rows(table) if row.alike and row.ordered()]
    if not rows:
        return ""
    labels = list(dict.fromkeys(label for row in rows for label in row.cells))
    if len(labels) == 1:
        return _alone(labels[0], rows, metric, seeds)
    best = f"the {'highest' if METRICS[metric].better == 'higher' else 'lowest'} mean {METRICS[metric].title}"
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.ordered()[0], []).append(row)
    places = {label: listed([_lead(row) for row in led]) for label, led in by_label.items()}
    (winner, first), *others = places.items()
    parts = [f"{winner} has {best} {first}", *(f"{label} {text}" for label, text in others)]
    return f"Of {len(labels)} models, {'; '.join(parts)}. {_certainty(rows, table, seeds)}"


def _where(row: Row) -> str:
    """Return `on clean inputs`, `under white noise σ 0.2`."""
    column = row.quantity.column
    if column is None or column.perturbation == CLEAN:
        return "on clean inputs"
    title = perturbation_title(column.perturbation)
    title = title if title[:2].isupper() else title[0].lower() + title[1:]
    preposition = "in the" if column.perturbation.startswith(WORST) else "under"
    return f"{preposition} {title} {column.strength_title}"


def _lead(row: Row) -> str:
    """Return `under white noise σ 0.2 (93.7 %, 7.9 points before lstm)`, or `(…, as lstm has)` for equal values."""
    best, *others = row.ordered()
    text = f"{_where(row)} ({_value(row, best)}"
    if not others:
        return f"{text})"
    gap = abs(row.cells[best].mean - row.cells[others[0]].mean)
    shown = f"{100 * gap:.1f} points" if row.quantity.unit == PERCENT else number(gap)
    if _value(row, best) == _value(row, others[0]):
        return f"{text}, as {others[0]} has)"
    return f"{text}, {shown} before {others[0]})"


def _value(row: Row, label: str) -> str:
    mean = row.cells[label].mean
    return f"{100 * mean:.1f} %" if row.quantity.unit == PERCENT else number(mean)


def _certainty(rows: Sequence[Row], table: Table, seeds: int) -> str:
    """Return the sentence about chance."""
    if not any(cell.covers == TRAININGS for row in rows for cell in row.cells.values()):
        return (
            f"With {seeds} seed{'s' if seeds > 1 else ''} of each, none of this can be said of other trainings: "
            f"that needs at least {FEWEST_SEEDS}."
        )
    over = f"over {seeds} seeds, corrected for {table.comparisons} comparisons"
    sure = [f"of {row.ordered()[0]} {_where(row)}" for row in rows if row.leads]
    if not sure:
        return f"None of these leads over all other models is significant ({over}), so each may be chance."
    rest = "" if len(sure) == len(rows) else "; every other lead may be chance"
    return f"Significant ({over}) {'is the lead' if len(sure) == 1 else 'are the leads'} {listed(sure)}{rest}."


def _alone(label: str, rows: Sequence[Row], metric: str, seeds: int) -> str:
    """Return the verdict on a single model."""
    name = METRICS[metric].title
    perturbed = [row for row in rows if row.quantity.name != CLEAN]
    clean = [f"{_value(row, label)} {_where(row)}" for row in rows if row.quantity.name == CLEAN]
    higher = METRICS[metric].better == "higher"
    worst = sorted(perturbed, key=lambda row: row.cells[label].mean, reverse=not higher)[:1]
    found = [*clean, *(f"{_value(row, label)} {_where(row)}, the worst of those shown" for row in worst)]
    first = f"{label} has a mean {name} of {listed(found)}."
    return f"{first} {seeds} seed{'s' if seeds > 1 else ''}; there is no other model to compare it with."
