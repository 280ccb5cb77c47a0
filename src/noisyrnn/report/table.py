"""Runs gathered by label and turned into numbers: means over seeds, intervals, best marks, paired tests."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from noisyrnn.report.runs import Accuracy, Column, RunRecord
from noisyrnn.robustness import FGSM, PERTURBATIONS, UNITS, WORST
from noisyrnn.robustness.statistics import (
    FEWEST_SEEDS,
    SEQUENCES,
    TRAININGS,
    PairedTest,
    adjust,
    seeds_interval,
    seeds_test,
)
from noisyrnn.run_folder import changes, listed

CLEAN = "clean"
# Names that do not simply read off their key.
TITLES = {
    "fgsm": "FGSM",
    "pgd_linf": "PGD ℓ∞",
    "pgd_l2": "PGD ℓ2",
    f"{WORST}linf": "Worst case over attacks ℓ∞",
    f"{WORST}l2": "Worst case over attacks ℓ2",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Accuracy of one label in one column.

    Args:
        seeds: Accuracy for each seed, in `[0, 1]`.
        mean: Their mean.
        low: Lower end of the 95 % interval; `nan` where the seeds have not the same test sequences.
        high: Its upper end, likewise.
        covers: What the interval covers: trainings and test sequences, or test sequences only where there are fewer
            than three seeds; empty where there is none.
        mark: `best` of the column, `close` where it is not significantly different from the best, else empty.
    """

    seeds: Mapping[int, float]
    mean: float
    low: float
    high: float
    covers: str
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one label, by seed."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def evaluated(self) -> tuple[RunRecord, ...]:
        """Those whose accuracies are known."""
        return tuple(run for run in self.runs if run.evaluated)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every number of the report.

    Args:
        groups: One for each label, in the order given; the first is the base of the paired tests.
        columns: Clean first, then each perturbation by rising strength.
        cells: By label and column; absent where a label was not evaluated there.
        tests: Label against base, paired, by label and column, corrected for their number; absent where nothing can be
            paired.
        comparisons: Pairs of labels tested for the marks, over all columns; their p values are corrected for all. A
            column that repeats the answers of another is not counted again.
        notes: Sentences on whatever makes the runs less comparable.
    """

    groups: tuple[Group, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], Cell]
    tests: Mapping[tuple[str, Column], PairedTest]
    comparisons: int
    notes: tuple[str, ...]

    @property
    def base(self) -> str:
        """Label that the others are tested against."""
        return self.groups[0].label

    def panels(self) -> dict[str, list[Column]]:
        """Columns of each perturbation, clean included, in order."""
        panels: dict[str, list[Column]] = {}
        for column in self.columns:
            panels.setdefault(column.perturbation, []).append(column)
        return panels

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON scalars, lists and objects; a number that does not exist is `None`."""
        return {
            "format": 1,
            "base": self.base,
            "interval": caption(self),
            "comparisons": self.comparisons,
            "notes": list(self.notes),
            "labels": {group.label: self._label_dict(group) for group in self.groups},
        }

    def _label_dict(self, group: Group) -> dict[str, Any]:
        runs = [{"seed": run.seed, "status": run.status, "evaluated": run.evaluated} for run in group.runs]
        columns = []
        for column in self.columns:
            cell, test = self.cells.get((group.label, column)), self.tests.get((group.label, column))
            if cell is None:
                continue
            numbers = asdict(cell) | {"seeds": {str(seed): value for seed, value in cell.seeds.items()}}
            columns.append(asdict(column) | numbers | {"versus_base": None if test is None else asdict(test)})
        found: dict[str, Any] = finite({"runs": runs, "columns": columns})
        return found


def compare(runs: Sequence[RunRecord]) -> Comparison:
    """Group `runs` by label and compute every number shown.

    Raises:
        ValueError: If there are none, they are of several data sets, or one label has two runs of one seed.
    """
    groups = _group(runs)
    measured = {column for group in groups for run in group.evaluated for column in run.accuracies}
    columns = tuple(sorted(measured, key=_order))
    known = {
        (group.label, column): accuracies
        for column in columns
        for group in groups
        if (accuracies := _by_seed(group, column))
    }
    labels = [group.label for group in groups]
    cells = {key: _cell(accuracies) for key, accuracies in known.items()}
    repeats = _repeats(columns, known)
    pairs = {
        (one, two, column): test
        for column in columns
        if column not in repeats
        for one, two in itertools.combinations(labels, 2)
        if (test := _paired(known.get((two, column)), known.get((one, column)))) is not None
    }
    adjusted = adjust(pairs)
    tests = adjust({(two, column): test for (one, two, column), test in pairs.items() if one == labels[0]})
    for column, first in repeats.items():
        adjusted |= {(one, two, column): test for (one, two, c), test in adjusted.items() if c == first}
        tests |= {(two, column): test for (two, c), test in tests.items() if c == first}
    for column in columns:
        means = {label: cells[label, column].mean for label in labels if (label, column) in cells}
        best = [label for label in means if means[label] == max(means.values())]
        for label in means if len(means) > 1 else ():
            test = adjusted.get((label, best[0], column)) or adjusted.get((best[0], label, column))
            tied = test is not None and not test.reason and not test.significant
            mark = "best" if label in best else "close" if tied else ""
            cells[label, column] = replace(cells[label, column], mark=mark)
    comparisons = sum(not test.reason for test in pairs.values())
    notes = (*_notes(groups), *_without_effect(groups), *_guessing(groups, cells))
    return Comparison(groups=groups, columns=columns, cells=cells, tests=tests, comparisons=comparisons, notes=notes)


def title(column: Column) -> str:
    """`White noise σ 0.1`, or `Clean`."""
    name = perturbation_title(column.perturbation)
    return name if column.perturbation == CLEAN else f"{name} {strength_title(column)}"


def perturbation_title(perturbation: str) -> str:
    """`White noise` for `white_noise`."""
    return TITLES.get(perturbation, perturbation.replace("_", " ").capitalize())


def symbol(perturbation: str) -> str:
    """Letter of the perturbation's strength, or nothing where none is known."""
    if perturbation.startswith(WORST):
        return FGSM.symbol
    return PERTURBATIONS[perturbation].symbol if perturbation in PERTURBATIONS else ""


def strength_title(column: Column) -> str:
    """`σ 0.1`, with the unit behind it where it is not that of the data, and no letter where none is known."""
    return f"{symbol(column.perturbation)} {column.strength:g} {column.unit}".strip()


def percent(cell: Cell) -> tuple[str, str]:
    """Mean in per cent, and the ends of its interval, where there is one."""
    mean = f"{100 * cell.mean:.1f}"
    if not (math.isfinite(cell.low) and math.isfinite(cell.high)):
        return mean, ""
    return mean, f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]"


def about_perturbations(comparison: Comparison) -> list[str]:
    """Sentences on the units of strengths and on what counts under an attack, where the table needs them."""
    sentences = []
    if any(column.unit for column in comparison.columns):
        sentences.append(UNITS)
    if any(column.perturbation.startswith(WORST) for column in comparison.columns):
        sentences.append(
            "Under an attack a sequence counts as right if it is right itself and after every start of the attack; in "
            "the worst case over attacks, if it is so under every attack of that norm with this or a smaller radius."
        )
    return sentences


def caption(comparison: Comparison) -> str:
    """What the figures of the table are, and what their intervals cover."""
    covers = {cell.covers for cell in comparison.cells.values()}
    sentences = ["Test accuracy in %, mean over seeds."]
    if TRAININGS in covers:
        sentences.append("[low, high] is the 95 % interval of the mean over other trainings and other test sequences.")
    if SEQUENCES in covers:
        few = "With fewer than three seeds, [low, high]" if TRAININGS in covers else "[low, high]"
        sentences.append(
            f"{few} is the 95 % interval over other test sequences, for these trained models only: "
            f"variation between trainings needs at least {FEWEST_SEEDS} seeds."
        )
    return " ".join([*sentences, *about_perturbations(comparison)])


def marks_caption(comparison: Comparison) -> str:
    """What a cell marked `close` means; empty where nothing was tested."""
    if not comparison.comparisons:
        return ""
    return (
        "not significantly different from it (paired test over seeds, p ≥ 0.05, corrected for the "
        f"{comparison.comparisons} comparisons of all pairs and columns by Holm's method)"
    )


def untested(comparison: Comparison) -> str:
    """A sentence on what was not tested for want of seeds, or nothing."""
    if SEQUENCES not in {cell.covers for cell in comparison.cells.values()} or len(comparison.groups) < 2:
        return ""
    return f"Fewer than {FEWEST_SEEDS} shared seeds are too few for a test: such differences are not marked."


def markdown(comparison: Comparison) -> str:
    """The table of accuracies in GitHub's Markdown, with a caption; best in bold, ties with it in italics."""
    head = ["model", "seeds", *(escape(title(column)) for column in comparison.columns)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for group in comparison.groups:
        row = [escape(group.label), seeds_title(group)]
        for column in comparison.columns:
            row.append(_markdown_cell(comparison.cells.get((group.label, column))))
        lines.append("| " + " | ".join(row) + " |")
    close = marks_caption(comparison)
    marks = "**Bold**: highest mean of the column." + (f" *Italics*: {close}." if close else "")
    notes = [f"Note: {escape(note)}" for note in comparison.notes]
    sentences = [caption(comparison), marks, untested(comparison)]
    return "\n\n".join(["\n".join(lines), " ".join(filter(None, sentences)), *notes]) + "\n"


def seeds_title(group: Group) -> str:
    """Seeds evaluated: `3`, or `2 of 3` where some runs failed or were not evaluated."""
    evaluated, total = len(group.evaluated), len(group.runs)
    return str(total) if evaluated == total else f"{evaluated} of {total}"


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    mean, interval = percent(cell)
    around = {"best": "**", "close": "*"}.get(cell.mark, "")
    return f"{around}{mean}{around} {interval}".strip()


def escape(text: str) -> str:
    """`text` as it stands inside a Markdown table."""
    for character in "\\|<>*_`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _group(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    if not runs:
        raise ValueError("runs must hold at least one run folder, got none. Train a model first.")
    names = sorted({str(run.dataset["name"]) for run in runs if "name" in run.dataset})
    if len(names) > 1:
        raise ValueError(f"runs must all be of one data set, got {', '.join(names)}. Write one report for each.")
    _check_one_test_part(runs)
    by_label: dict[str, dict[int, RunRecord]] = {}
    for run in runs:
        seeds = by_label.setdefault(run.label, {})
        if run.seed in seeds:
            raise ValueError(
                f"runs must hold each label and seed once, got {run.label!r} with seed {run.seed} in "
                f"{str(seeds[run.seed].path)!r} and {str(run.path)!r}. Leave one out, or give it another label."
            )
        seeds[run.seed] = run
    return tuple(
        Group(label=label, runs=tuple(seeds[seed] for seed in sorted(seeds))) for label, seeds in by_label.items()
    )


def _check_one_test_part(runs: Sequence[RunRecord]) -> None:
    """Raise `ValueError` if two results were computed on different test data."""
    results = [(run.path / name, part) for run in runs for name, part in run.test_parts.items()]
    for file, part in results[1:]:
        changed = changes({"test": results[0][1]}, {"test": part})
        if changed:
            raise ValueError(
                f"runs must all be evaluated on the same test data, got {results[0][0]} and {file}, which differ in "
                f"{listed(changed)}. Evaluate (or analyze) the runs again on the same data."
            )


def _order(column: Column) -> tuple[int, str, float, str]:
    names = [CLEAN, *PERTURBATIONS, *(name for name in TITLES if name.startswith(WORST))]
    known = names.index(column.perturbation) if column.perturbation in names else len(names)
    return known, column.perturbation, column.strength, column.unit


def _by_seed(group: Group, column: Column) -> dict[int, Accuracy]:
    return {run.seed: run.accuracies[column] for run in group.evaluated if column in run.accuracies}


def _cell(accuracies: Mapping[int, Accuracy]) -> Cell:
    seeds = {seed: accuracy.accuracy for seed, accuracy in accuracies.items()}
    rates = [accuracy.rates for accuracy in accuracies.values()]
    if len({len(one) for one in rates}) > 1:
        return Cell(seeds=seeds, mean=fmean(seeds.values()), low=math.nan, high=math.nan, covers="")
    interval = seeds_interval(rates)
    return Cell(seeds=seeds, mean=fmean(seeds.values()), low=interval.low, high=interval.high, covers=interval.covers)


def _repeats(
    columns: Sequence[Column], known: Mapping[tuple[str, Column], Mapping[int, Accuracy]]
) -> dict[Column, Column]:
    """Columns with the same answers of all runs as an earlier one, which is named: the test of both is the same test.

    The worst case over attacks is such a column where one attack of its norm was run, or one found what all found.
    """
    first: dict[object, Column] = {}
    repeats = {}
    for column in columns:
        answers = frozenset(
            (label, seed, accuracy.rates)
            for (label, c), by_seed in known.items()
            if c == column
            for seed, accuracy in by_seed.items()
        )
        if answers in first:
            repeats[column] = first[answers]
        first.setdefault(answers, column)
    return repeats


def _paired(first: Mapping[int, Accuracy] | None, second: Mapping[int, Accuracy] | None) -> PairedTest | None:
    """First minus second over the seeds both have; `None` where their test sequences are not the same."""
    shared = [seed for seed in first or () if seed in (second or ())]
    if first is None or second is None or not shared:
        return None
    one, two = ([accuracies[seed].rates for seed in shared] for accuracies in (first, second))
    return seeds_test(one, two) if len({len(rates) for rates in (*one, *two)}) == 1 else None


_DRAWS = ("draws", "attack_draws", "evaluation_seed")


def _notes(groups: Sequence[Group]) -> tuple[str, ...]:
    notes = []
    evaluated = [run for group in groups for run in group.evaluated]
    seeds = {group.label: tuple(run.seed for run in group.evaluated) for group in groups if group.evaluated}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{label}: {', '.join(map(str, values))}" for label, values in seeds.items())
        notes.append(f"The models were not evaluated with the same seeds ({listed}); tests pair the seeds they share.")
    notes += [f"{run.label}, seed {run.seed}: {why}" for group in groups for run in group.runs for why in run.stale]
    for group in groups:
        for run in group.runs:
            if run.summary.get("not_fitted"):
                notes.append(f"{run.label}, seed {run.seed}: {run.summary['not_fitted']}")
    settings: dict[Column, set[str]] = {}
    for run in evaluated:
        for column, accuracy in run.accuracies.items():
            settings.setdefault(column, set()).add(accuracy.settings)
    for column in sorted((column for column, found in settings.items() if len(found) > 1), key=_order):
        listed = " and ".join(sorted(settings[column]))
        notes.append(f"{title(column)} was not the same perturbation in all runs: {listed}.")
    if len({tuple(run.evaluation.get(name) for name in _DRAWS) for run in evaluated}) > 1:
        notes.append("The runs were evaluated with different numbers of draws or different seeds of the draws.")
    if len({len(accuracy.rates) for run in evaluated for accuracy in run.accuracies.values()}) > 1:
        notes.append("The accuracies do not all rest on the same number of test sequences.")
    return tuple(notes)


def _without_effect(groups: Sequence[Group]) -> list[str]:
    """Perturbations that changed no value of any sequence, with the models under which they did not."""
    still: dict[Column, list[str]] = {}
    for group in groups:
        for column in {c for run in group.evaluated for c, accuracy in run.accuracies.items() if not accuracy.moved}:
            still.setdefault(column, []).append(group.label)
    return [
        f"{title(column)} changed no value ({', '.join(still[column])}): its accuracy says nothing about robustness."
        for column in sorted(still, key=_order)
    ]


def _guessing(groups: Sequence[Group], cells: Mapping[tuple[str, Column], Cell]) -> list[str]:
    """For each label, the columns in which its interval reaches down to always answering with the largest class."""
    notes = []
    for group in groups:
        guesses = {c: accuracy.guess for run in group.evaluated for c, accuracy in run.accuracies.items()}
        columns = []
        for column in sorted(guesses, key=_order):
            cell = cells[group.label, column]
            low = cell.low if math.isfinite(cell.low) else cell.mean
            columns += [column] if 0 < guesses[column] >= low else []  # 0: not recorded
        if columns:
            clean = columns[0].perturbation == CLEAN
            where = "even on clean sequences" if clean else f"under {', '.join(title(column) for column in columns)}"
            share = f"{100 * guesses[columns[0]]:.1f} %"
            notes.append(f"{group.label} is not above guessing (always the largest class: {share}) {where}.")
    return notes


def finite(value: Any) -> Any:
    """`value` with `None` for every number in it that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
