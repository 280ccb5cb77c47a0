"""The table of theory's quantities: one kind a row, one label a column, means over seeds, paired tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from noisyrnn.report.analysis import Analysis, Quantity
from noisyrnn.report.table import Comparison, Group, escape, finite
from noisyrnn.robustness.statistics import FEWEST_SEEDS, PairedTest, adjust, mean_interval, p_text, paired_test

OVER_SEEDS = "seeds"
OVER_DRAWS = "draws or sequences"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One quantity of one label.

    Args:
        seeds: Its value for each seed, `nan` where that is not finite.
        mean: Over the seeds with a finite value; `nan` where there is none.
        low: Lower end of the 95 % interval; `nan` where there is none.
        high: Its upper end.
        covers: What the interval is over: seeds, or the run's own draws or sequences where one seed has a value; empty
            where none has.
    """

    seeds: Mapping[int, float]
    mean: float
    low: float
    high: float
    covers: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity in all labels. Values of another kind, confidence or unit are in a row of their own.

    Args:
        quantity: The first found, for its title, group, kind, confidence, unit and direction.
        notes: What the values were computed from, each note once.
        entries: By label; absent where no run of the label has the quantity.
        tests: Label against base, paired over seeds, corrected for the tests of all rows; absent without a shared seed.
    """

    quantity: Quantity
    notes: tuple[str, ...]
    entries: Mapping[str, Entry]
    tests: Mapping[str, PairedTest]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; a number that does not exist is `None`."""
        shown = ("name", "title", "group", "kind", "confidence", "unit", "better")
        labels = {}
        for label, entry in self.entries.items():
            numbers = asdict(entry) | {"seeds": {str(seed): value for seed, value in entry.seeds.items()}}
            labels[label] = numbers | {"versus_base": asdict(self.tests[label]) if label in self.tests else None}
        found: dict[str, Any] = finite(
            {name: getattr(self.quantity, name) for name in shown} | {"notes": list(self.notes), "labels": labels}
        )
        return found


def analyses(group: Group) -> dict[int, Analysis]:
    """Analyses of the finished runs of a label, by seed."""
    return {run.seed: run.analysis for run in group.runs if run.status == "finished" and run.analysis is not None}


def quantity_rows(comparison: Comparison) -> tuple[Row, ...]:
    """Every quantity found, in the order of the analyses, those of one diagnostic next to each other."""
    found: dict[tuple[object, ...], dict[str, dict[int, Quantity]]] = {}
    for group in comparison.groups:
        for seed, analysis in analyses(group).items():
            for quantity in analysis.quantities:
                key = (quantity.group, quantity.name, quantity.kind, quantity.confidence, quantity.unit)
                found.setdefault(key, {}).setdefault(group.label, {})[seed] = quantity
    rows = [_row(by_label, comparison.base) for by_label in found.values()]
    adjusted = adjust({(i, label): test for i, row in enumerate(rows) for label, test in row.tests.items()})
    rows = [replace(row, tests={label: adjusted[i, label] for label in row.tests}) for i, row in enumerate(rows)]
    groups = list(dict.fromkeys(row.quantity.group for row in rows))
    names = list(dict.fromkeys(row.quantity.name for row in rows))
    return tuple(sorted(rows, key=lambda row: (groups.index(row.quantity.group), names.index(row.quantity.name))))


def kind_title(kind: str, confidence: float | None) -> str:
    """`exact`, `estimate`, `certificate`, or `certificate, confidence 99.9 %`."""
    return kind if confidence is None else f"{kind}, confidence {100 * confidence:.6g}\N{NO-BREAK SPACE}%"


def group_title(group: str) -> str:
    """`Curvature` for `curvature`."""
    return group.replace("_", " ").capitalize()


def entry_texts(entry: Entry) -> tuple[str, str]:
    """The figure, and the ends of its interval, where there is one."""
    if not math.isfinite(entry.mean):
        return "none finite", ""
    half = (entry.high - entry.low) / 2
    shown = number(entry.mean, half)
    if math.isnan(entry.low) and math.isnan(entry.high):
        return shown, ""
    return shown, f"[{number(entry.low, half, size=entry.mean)}, {number(entry.high, half, size=entry.mean)}]"


def seeds_text(entry: Entry) -> str:
    """`seed 1: 0.12, seed 2: not finite`."""
    return ", ".join(f"seed {seed}: {number(value)}" for seed, value in entry.seeds.items())


def count_text(entry: Entry) -> str:
    """`2 of 3 seeds` where some have no finite value, else nothing."""
    known = sum(math.isfinite(value) for value in entry.seeds.values())
    return "" if known in (0, len(entry.seeds)) else f"{known} of {len(entry.seeds)} seeds"


def number(value: float, half: float = math.nan, *, size: float | None = None) -> str:
    """`value` to the second digit of `half`, the half-width of its interval; to four digits where there is none.

    Numbers of one figure are written alike, in powers of ten where `size` (by default `value`) asks for it.
    """
    if not math.isfinite(value):
        return "not finite"
    size = abs(value if size is None or not math.isfinite(size) else size)
    largest = max(size, half) if half > 0 else size
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    # A half-width of rounding errors, as that of equal values, decides no digits.
    last = math.floor(math.log10(half)) - 1 if 1e-9 * largest < half < math.inf else power - 3
    if -4 <= power < 6:
        return f"{value:z.{max(0, -last)}f}"
    return f"{value / 10.0**power:z.{power - last}f}e{power:+d}"


def caption(rows: Sequence[Row], *, base: str) -> str:
    """What the figures of the table are, and what their intervals cover."""
    covers = {entry.covers for row in rows for entry in row.entries.values()}
    sentences = [
        "A row holds values of one kind: exact (computed, up to rounding), an estimate, or a certificate (a bound that "
        "holds, with its confidence where that is not certain)."
    ]
    if OVER_SEEDS in covers:
        sentences.append(
            "A figure is the mean over seeds, [low, high] the 95 % Student t interval over them, which covers what "
            f"differs between trainings; fewer than {FEWEST_SEEDS} seeds and equal values have none. A seed without a "
            "finite value is left out, and the count shows it."
        )
    if OVER_DRAWS in covers:
        sentences.append(
            "Where one seed has a value, the figure is that value, and [low, high] its own 95 % interval, if it has "
            "one: over the draws or sequences of this one training."
        )
    tests = sum(not test.reason for row in rows for test in row.tests.values())
    if tests:
        sentences.append(
            f"p is that of a paired t test of the difference from {base} over the seeds both have, corrected for the "
            f"{tests} comparisons of the table by Holm's method."
        )
    return " ".join(sentences)


def markdown(rows: Sequence[Row], comparison: Comparison) -> str:
    """The table in GitHub's Markdown, a part for each diagnostic, with the caption and each run's verdict."""
    labels = [group.label for group in comparison.groups]
    head = ["quantity", "kind", *(escape(label) for label in labels)]
    parts = []
    for group in dict.fromkeys(row.quantity.group for row in rows):
        lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * len(labels)]
        for row in rows:
            if row.quantity.group == group:
                quantity = row.quantity
                cells = [
                    escape(f"{quantity.title} ({quantity.unit})" if quantity.unit else quantity.title),
                    kind_title(quantity.kind, quantity.confidence),
                    *(_markdown_cell(row, label) for label in labels),
                ]
                lines.append("| " + " | ".join(cells) + " |")
        parts.append(f"## {escape(group_title(group))}\n\n" + "\n".join(lines))
    verdicts = [
        f"- {escape(group.label)}, seed {seed}: {escape(analysis.verdict)}"
        for group in comparison.groups
        for seed, analysis in analyses(group).items()
        if analysis.verdict
    ]
    if verdicts:
        parts.append("## Verdicts\n\n" + "\n".join(verdicts))
    return "\n\n".join([*parts, escape(caption(rows, base=comparison.base))]) + "\n"


def _markdown_cell(row: Row, label: str) -> str:
    if label not in row.entries:
        return "–"
    entry = row.entries[label]
    remarks = [
        remark for remark in (count_text(entry), p_text(row.tests[label]) if label in row.tests else "") if remark
    ]
    shown = [*entry_texts(entry), f"({', '.join(remarks)})" if remarks else ""]
    return escape(" ".join(text for text in shown if text))


def _row(by_label: Mapping[str, Mapping[int, Quantity]], base: str) -> Row:
    quantities = [quantity for by_seed in by_label.values() for quantity in by_seed.values()]
    entries = {label: _entry(by_seed) for label, by_seed in by_label.items()}
    tests = {}
    for label, entry in entries.items():
        test = _paired(entry, entries[base]) if label != base and base in entries else None
        if test is not None:
            tests[label] = test
    notes = tuple(dict.fromkeys(quantity.note for quantity in quantities if quantity.note))
    return Row(quantity=quantities[0], notes=notes, entries=entries, tests=tests)


def _entry(by_seed: Mapping[int, Quantity]) -> Entry:
    seeds = {seed: quantity.value for seed, quantity in by_seed.items()}
    known = [quantity for quantity in by_seed.values() if math.isfinite(quantity.value)]
    if len(known) > 1:
        interval = mean_interval([quantity.value for quantity in known])
        return Entry(seeds=seeds, mean=interval.mean, low=interval.low, high=interval.high, covers=OVER_SEEDS)
    if not known:
        return Entry(seeds=seeds, mean=math.nan, low=math.nan, high=math.nan, covers="")
    low, high = known[0].interval or (math.nan, math.nan)
    return Entry(seeds=seeds, mean=known[0].value, low=low, high=high, covers=OVER_DRAWS)


def _paired(first: Entry, second: Entry) -> PairedTest | None:
    """First minus second over the seeds for which both are finite."""
    both = [
        (value, second.seeds[seed])
        for seed, value in first.seeds.items()
        if math.isfinite(value) and math.isfinite(second.seeds.get(seed, math.nan))
    ]
    return paired_test([a for a, _ in both], [b for _, b in both]) if both else None
