"""Table of quantity × label × seed: means over seeds, intervals, paired tests and marks, and their texts.

Test results and theory diagnostics are both such tables; a quantity is a perturbation at one strength in the first
(`accuracy.py`), a diagnostic's value in the second (`theory.py`).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from statistics import fmean
from typing import Any

from noisyrnn.display import escape
from noisyrnn.report.columns import Column
from noisyrnn.robustness.statistics import (
    PairedTest,
    adjust,
    mean_interval,
    p_text,
    paired_test,
    seeds_interval,
    seeds_test,
)

OVER_SEEDS = "seeds"
OVER_DRAWS = "draws or sequences"
PERCENT = "%"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Quantity of a row. Values of another kind, confidence or unit are another quantity.

    Args:
        name: Name, the same in every run.
        group: Group of the quantity, such as the diagnostic `curvature`.
        kind: `exact`, `estimate` or `certificate`.
        confidence: Confidence of a certificate that holds with a probability; `None` if it always holds.
        unit: Unit of the values, such as `per step`; empty if they have none, `%` for shares shown in per cent.
        column: Column of the table, for a test result.
        title: Name on the page.
        better: `lower` or `higher`, whichever is more robust; `None` if neither is.
        bounds: Smallest and largest value, of a test sequence for a metric of test sequences.
    """

    name: str
    group: str
    kind: str
    confidence: float | None = None
    unit: str = ""
    column: Column | None = None
    title: str = field(compare=False)
    better: str | None = field(default=None, compare=False)
    bounds: tuple[float, float] = field(default=(0.0, 1.0), compare=False)

    @property
    def kind_title(self) -> str:
        """`exact`, `estimate`, `certificate`, or `certificate, confidence 99.9 %`."""
        return kind_title(self.kind, self.confidence)


@dataclass(frozen=True, kw_only=True)
class Value:
    """A quantity measured on one run.

    Args:
        value: Value; `nan` if it is not finite.
        by_sequence: Values of the test sequences, with mean `value`; empty if there are none.
        interval: 95 % interval for this run, if there is one; an end that is not finite is `nan`.
        note: Data from which the value was computed.
    """

    value: float
    by_sequence: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A quantity of one label, over its seeds.

    Args:
        seeds: Value of each seed; `nan` if it is not finite.
        mean: Mean over the seeds with a finite value; `nan` if there are none.
        low: Lower end of the 95 % interval; `nan` if there is none.
        high: Upper end of the 95 % interval; `nan` if there is none.
        covers: Variation that the interval covers; may be empty.
    """

    seeds: Mapping[int, float]
    mean: float
    low: float
    high: float
    covers: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity of all labels.

    Args:
        quantity: Quantity of the row.
        notes: Data from which the values were computed, each note once.
        cells: Cells by label; absent if no run of the label has the quantity.
        tests: Tests of each label against the base, paired over seeds; absent if no seeds can be paired. Their p values
            are corrected for the tests of all rows.
        marks: Marks by label, in a ranked table: `best`, `close` if the label is not significantly different from the
            best, else empty.
        leads: Whether the best label is significantly better than every other one.
        alike: Whether all labels were measured on as many test sequences: only then are they ranked.
        baselines: Cells of baselines by name, which are neither tested nor marked.
    """

    quantity: Quantity
    notes: tuple[str, ...]
    cells: Mapping[str, Cell]
    tests: Mapping[str, PairedTest]
    marks: Mapping[str, str] = field(default_factory=dict)
    leads: bool = False
    alike: bool = True
    baselines: Mapping[str, Cell] = field(default_factory=dict)

    def cell(self, label: str) -> Cell | None:
        """Return the cell of a label or a baseline; `None` without one."""
        return self.cells.get(label, self.baselines.get(label))

    def ordered(self) -> list[str]:
        """Return the labels with a finite mean, the best first; in table order where neither end is better."""
        known = [label for label, cell in self.cells.items() if math.isfinite(cell.mean)]
        sign = {"higher": -1.0, "lower": 1.0}.get(self.quantity.better or "", 0.0)
        return sorted(known, key=lambda label: sign * self.cells[label].mean)

    def cell_dict(self, label: str) -> dict[str, Any]:
        """Return the cell of a label with its mark and test, ready for JSON except for values that are not finite."""
        cell, test = self.cells.get(label) or self.baselines[label], self.tests.get(label)
        content = asdict(cell) | {"seeds": {str(seed): value for seed, value in cell.seeds.items()}}
        if label in self.marks:
            content["mark"] = self.marks[label]
        return content | {"versus_base": None if test is None else asdict(test)}

    def cell_texts(self, label: str, *, absent: str) -> dict[str, str]:
        """Return the texts of a label's cell for the page; `absent` explains a cell without a value."""
        cell = self.cell(label)
        if cell is None:
            return {"value": "–", "interval": "", "count": "", "seeds": absent, "mark": ""}
        value, interval = value_texts(cell, self.quantity)
        return {
            "value": value,
            "interval": interval,
            "count": count_text(cell),
            "seeds": seeds_text(cell, self.quantity),
            "mark": self.marks.get(label, ""),
        }

    def test_texts(self, label: str) -> dict[str, str]:
        """Return the texts of a label's test against the base; `sign` is `above` if the label is more robust."""
        test = self.tests.get(label)
        if test is None:
            return {"difference": "–", "interval": "", "p": "", "pairs": "no shared seeds", "sign": ""}
        low, difference, high = (
            _signed(value, (test.high - test.low) / 2, self.quantity)
            for value in (test.low, test.difference, test.high)
        )
        sign = ""
        if test.significant and self.quantity.better is not None:
            sign = "above" if (test.difference > 0) == (self.quantity.better == "higher") else "below"
        return {
            "difference": difference,
            "interval": f"[{low}, {high}]",
            "p": p_text(test),
            "pairs": f"{test.pairs} seed{'s' if test.pairs > 1 else ''}; interval over {test.covers}",
            "sign": sign,
        }

    def markdown_cell(self, label: str, *, remarks: bool) -> str:
        """Return a label's cell in Markdown: best in bold, ties in italics; `remarks` adds count and p."""
        cell = self.cell(label)
        if cell is None:
            return "–"
        value, interval = value_texts(cell, self.quantity)
        around = {"best": "**", "close": "*"}.get(self.marks.get(label, ""), "")
        listed = [count_text(cell), p_text(self.tests[label]) if label in self.tests else ""] if remarks else []
        remark = ", ".join(filter(None, listed))
        texts = (f"{around}{value}{around}", interval, f"({escape(remark)})" if remark else "")
        return " ".join(filter(None, texts))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a table, and the number of tests.

    Args:
        rows: Rows in display order.
        comparisons: Number of pairs of labels tested for the marks, over all rows; 0 in a table without marks.
    """

    rows: tuple[Row, ...]
    comparisons: int = 0

    @property
    def covers(self) -> set[str]:
        """The kinds of variation that the intervals cover."""
        return {cell.covers for row in self.rows for cell in row.cells.values()}

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines in the table."""
        return list(dict.fromkeys(name for row in self.rows for name in row.baselines))

    @property
    def tested(self) -> int:
        """Number of tests against the base that have a p value."""
        return sum(not test.reason for row in self.rows for test in row.tests.values())


Values = Mapping[Quantity, Mapping[str, Mapping[int, Value]]]
"""Values by quantity, label and seed."""


def build_table(values: Values, labels: Sequence[str], *, ranked: bool) -> Table:
    """Pool the values over seeds and test the labels against each other.

    A row with the same per-sequence values as an earlier row, in all runs, uses the tests of that row and is not
    counted again: the worst case over attacks is such a row if only one attack of its norm was run.

    Args:
        values: Values by quantity, label and seed.
        labels: Labels in display order; the first is the base of the paired tests.
        ranked: Whether to mark the best label of each row, which needs tests of all pairs of labels.
    """
    cells = {
        quantity: {label: pool(seeds, quantity.bounds) for label, seeds in values[quantity].items()}
        for quantity in values
    }
    repeats = _repeats(values)
    pairs = {
        (quantity, first, second): test
        for quantity, by_label in values.items()
        if quantity not in repeats
        for first, second in itertools.combinations(labels, 2)
        if ranked or first == labels[0]
        if (test := _paired(by_label.get(second), by_label.get(first), quantity.bounds)) is not None
    }
    against_base = adjust({(q, second): test for (q, first, second), test in pairs.items() if first == labels[0]})
    between_all = adjust(pairs) if ranked else {}
    rows = []
    for quantity, by_label in values.items():
        tested = repeats.get(quantity, quantity)
        notes = dict.fromkeys(value.note for seeds in by_label.values() for value in seeds.values() if value.note)
        tests = {label: against_base[tested, label] for label in labels if (tested, label) in against_base}
        ties = {(first, second): test for (q, first, second), test in between_all.items() if q == tested}
        counts = {len(value.by_sequence) for seeds in by_label.values() for value in seeds.values()}
        alike = len(counts) == 1
        marks = _marks(cells[quantity], ties, quantity.better) if ranked and alike else {}
        leads = ranked and _leads(marks, ties)
        rows.append(
            Row(
                quantity=quantity,
                notes=tuple(notes),
                cells=cells[quantity],
                tests=tests,
                marks=marks,
                leads=leads,
                alike=alike,
            )
        )
    return Table(rows=tuple(rows), comparisons=sum(not test.reason for test in pairs.values()) if ranked else 0)


def pool(values: Mapping[int, Value], bounds: tuple[float, float] = (0.0, 1.0)) -> Cell:
    """Return the mean over the seeds with a finite value, with its 95 % interval.

    Values by test sequence give an interval over trainings and sequences, but none if the numbers of sequences differ
    between seeds; `bounds` are then those of a sequence. Other values give Student's interval over seeds, cut to the
    bounds; a single value keeps its own interval.
    """
    seeds = {seed: value.value for seed, value in values.items()}
    finite = [value for value in values.values() if math.isfinite(value.value)]
    if not finite:
        return Cell(seeds=seeds, mean=math.nan, low=math.nan, high=math.nan, covers="")
    mean, low, high, covers = fmean(value.value for value in finite), math.nan, math.nan, ""
    if _by_sequence(finite):
        if len({len(value.by_sequence) for value in finite}) == 1:
            interval = seeds_interval([value.by_sequence for value in finite], bounds=bounds)
            low, high, covers = interval.low, interval.high, interval.covers
    elif len(finite) > 1:
        interval = mean_interval([value.value for value in finite])
        mean, covers = interval.mean, OVER_SEEDS
        if not math.isnan(interval.low):
            low, high = max(interval.low, bounds[0]), min(interval.high, bounds[1])
    else:
        low, high = finite[0].interval or (math.nan, math.nan)
        covers = OVER_DRAWS
    return Cell(seeds=seeds, mean=mean, low=low, high=high, covers=covers)


def _by_sequence(values: Iterable[Value]) -> bool:
    return all(value.by_sequence for value in values)


def _paired(
    first: Mapping[int, Value] | None, second: Mapping[int, Value] | None, bounds: tuple[float, float]
) -> PairedTest | None:
    """Test first minus second over the seeds for which both are finite; `None` without such a seed.

    It is also `None` if the test sequences differ.
    """
    if first is None or second is None:
        return None
    pairs = [(value, second[seed]) for seed, value in first.items() if seed in second]
    pairs = [(one, two) for one, two in pairs if math.isfinite(one.value) and math.isfinite(two.value)]
    if not pairs:
        return None
    one, two = zip(*pairs, strict=True)
    if not _by_sequence((*one, *two)):
        return paired_test([value.value for value in one], [value.value for value in two])
    if len({len(value.by_sequence) for value in (*one, *two)}) > 1:
        return None
    return seeds_test([value.by_sequence for value in one], [value.by_sequence for value in two], bounds=bounds)


def _repeats(values: Values) -> dict[Quantity, Quantity]:
    """Map each quantity whose per-sequence values equal those of an earlier one, in all runs, to the earlier one."""
    first: dict[object, Quantity] = {}
    repeats = {}
    for quantity, by_label in values.items():
        all_values = {(label, seed): value for label, seeds in by_label.items() for seed, value in seeds.items()}
        if _by_sequence(all_values.values()):
            answers = frozenset((key, value.by_sequence) for key, value in all_values.items())
            if answers in first:
                repeats[quantity] = first[answers]
            first.setdefault(answers, quantity)
    return repeats


def _marks(
    cells: Mapping[str, Cell], tests: Mapping[tuple[str, str], PairedTest], better: str | None
) -> dict[str, str]:
    """Return `best`, `close` or nothing for each label; nothing if there is only one label."""
    extreme = (min if better == "lower" else max)(cell.mean for cell in cells.values())
    best = [label for label in cells if cells[label].mean == extreme]
    marks = dict.fromkeys(cells, "")
    for label in cells if len(cells) > 1 else ():
        test = tests.get((label, best[0])) or tests.get((best[0], label))
        tied = test is not None and not test.reason and not test.significant
        marks[label] = "best" if label in best else "close" if tied else ""
    return marks


def _leads(marks: Mapping[str, str], tests: Mapping[tuple[str, str], PairedTest]) -> bool:
    """Whether one label is the best, and significantly different from every other one."""
    best = [label for label, mark in marks.items() if mark == "best"]
    if len(best) != 1 or len(marks) < 2:
        return False
    against = [tests.get((label, best[0])) or tests.get((best[0], label)) for label in marks if label != best[0]]
    return all(test is not None and not test.reason and test.significant for test in against)


def group_title(group: str) -> str:
    """Returns `Curvature` for `curvature`."""
    return group.replace("_", " ").replace("-", " ").capitalize()


def kind_title(kind: str, confidence: float | None) -> str:
    """Returns `exact`, `estimate`, `certificate`, or `certificate, confidence 99.9 %`."""
    return kind if confidence is None else f"{kind}, confidence {100 * confidence:.6g}\N{NO-BREAK SPACE}%"


def value_texts(cell: Cell, quantity: Quantity) -> tuple[str, str]:
    """Returns the mean and its interval as texts; the interval is empty if there is none."""
    if not math.isfinite(cell.mean):
        return "none finite", ""
    half = (cell.high - cell.low) / 2

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if quantity.unit == PERCENT else number(value, half, size=cell.mean)

    if math.isnan(cell.low) and math.isnan(cell.high):
        return text(cell.mean), ""
    return text(cell.mean), f"[{text(cell.low)}, {text(cell.high)}]"


def seeds_text(cell: Cell, quantity: Quantity) -> str:
    """Returns `seed 1: 0.12, seed 2: not finite`."""
    percent = quantity.unit == PERCENT
    return ", ".join(
        f"seed {seed}: {f'{100 * value:.2f}' if percent else number(value)}" for seed, value in cell.seeds.items()
    )


def count_text(cell: Cell) -> str:
    """Returns `2 of 3 seeds` if some seeds have no finite value, else nothing."""
    finite = sum(math.isfinite(value) for value in cell.seeds.values())
    return "" if finite in (0, len(cell.seeds)) else f"{finite} of {len(cell.seeds)} seeds"


def _signed(value: float, half: float, quantity: Quantity) -> str:
    if quantity.unit == PERCENT:
        return f"{100 * value:+.1f}"
    return f"{'+' if value > 0 else ''}{number(value, half)}"


def number(value: float, half: float = math.nan, *, size: float | None = None) -> str:
    """Format `value` to the second digit of `half`, the half-width of its interval, or to four digits without one.

    All values of a cell have the same format, with a power of ten if `size` (default: `value`) is very large or small.
    """
    if not math.isfinite(value):
        return "not finite"
    size = abs(value if size is None or not math.isfinite(size) else size)
    largest = max(size, half) if 0 < half < math.inf else size
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    # A half-width that is only rounding error, as for equal values, does not determine the digits.
    last = math.floor(math.log10(half)) - 1 if 1e-9 * largest < half < math.inf else power - 3
    if -4 <= power < 6:
        return f"{value:z.{max(0, -last)}f}"
    return f"{Decimal(value).scaleb(-power):z.{power - last}f}e{power:+d}"  # a float has no power below 1e-308


def finite(value: Any) -> Any:
    """Replace every number in `value` that is not finite by `None`."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
