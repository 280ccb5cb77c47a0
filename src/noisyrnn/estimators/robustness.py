"""Robustness of a fitted estimator: a table of scores on perturbed sequences, with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

from noisyrnn.checks import check_choice
from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.display import html_table
from noisyrnn.models import SequenceModel
from noisyrnn.robustness import (
    METRICS,
    PERTURBATIONS,
    UNITS,
    Perturbation,
    RobustnessResult,
    build_perturbation,
    check_strengths,
    evaluate,
    gradient_checks,
    worst_cases,
)
from noisyrnn.robustness.default_strengths import ESTIMATOR_ATTACKS, ESTIMATOR_NOISE


@dataclass(frozen=True, kw_only=True)
class RobustnessRow:
    """One line of a report.

    Args:
        perturbation: Key of `PERTURBATIONS`, or "clean".
        strength: Strength; 0 for clean.
        unit: Unit of the strength, as `noisyrnn.robustness.UNITS` describes it; empty for a probability.
        score: Mean over sequences and, for a noise, over draws; for an attack the worst case over its starts.
        low: Lower end of its 95 % interval over sequences and draws, for this one trained model; NaN for the error of a
            single sequence.
        high: Upper end of the interval.
        note: Limitation of the score: that no input was changed, or that it is not better than guessing.
    """

    perturbation: str
    strength: float
    unit: str
    score: float
    low: float
    high: float
    note: str = ""


_HEAD = ("perturbation", "strength", "score", "interval", "")


@dataclass(frozen=True, kw_only=True, repr=False)
class RobustnessReport:
    """Scores of one fitted estimator under perturbations; `str` of it, and its form in a notebook, are a table.

    Args:
        measure: Type of the scores: "accuracy", the higher the better, or "mean squared error", the lower the better.
        sequences: Number of sequences.
        draws: Number of draws of each random noise, and of random starts of each attack.
        rows: Scores, those of the unperturbed sequences first.
        notes: A sentence for each gradient-free attack that indicates masked gradients.
    """

    measure: str
    sequences: int
    draws: int
    rows: tuple[RobustnessRow, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}

    def __repr__(self) -> str:
        """Say in two lines what was measured, with the first score."""
        clean = self.rows[0]
        return (
            f"RobustnessReport({self.measure} of {self.sequences} sequences, {len(self.rows)} rows;\n"
            f"  {clean.perturbation} {clean.score:.4g} [{clean.low:.4g}, {clean.high:.4g}]; print it for the table)"
        )

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        return html_table(self._title, self._cells(), head=_HEAD, notes=self._notes())

    def __str__(self) -> str:
        lines = [self._title]
        for perturbation, strength, score, interval, note in (_HEAD, *self._cells()):
            lines.append(f"{perturbation:<22}{strength:>16}{score:>10}   {interval}   {note}".rstrip())
        return "\n".join([*lines, *self._notes()])

    @property
    def _title(self) -> str:
        return f"{self.measure} on {self.sequences} sequences, 95 % intervals, {self.draws} draws or starts"

    def _cells(self) -> list[tuple[str, str, str, str, str]]:
        return [
            (
                row.perturbation,
                "" if row.perturbation == "clean" else f"{row.strength:g} {row.unit}".strip(),
                f"{row.score:.4g}",
                "" if math.isnan(row.low) else f"[{row.low:.4g}, {row.high:.4g}]",
                row.note,
            )
            for row in self.rows
        ]

    def _notes(self) -> list[str]:
        return [UNITS, *(f"Note: {note}" for note in self.notes)]


class ReportOptions(TypedDict):
    """Arguments of a report; `SequenceEstimator.robustness_report` describes them.

    Args:
        scale: Scale of the channels, in whose units strengths are.
        perturbations: Strengths by name.
        draws: Draws of a perturbation.
        seed: Of the draws.
    """

    scale: Scale
    perturbations: Mapping[str, Sequence[float]] | None
    draws: int
    seed: int


_STILL = "changed no value"
_GUESS = "not better than guessing"


def robustness_report(model: SequenceModel, split: Split, **options: Unpack[ReportOptions]) -> RobustnessReport:
    """Measure accuracies, or mean squared errors of a regression, for `SequenceEstimator.robustness_report`."""
    perturbations, scale, draws, seed = options["perturbations"], options["scale"], options["draws"], options["seed"]
    chosen = _chosen({**ESTIMATOR_NOISE, **ESTIMATOR_ATTACKS} if perturbations is None else perturbations, scale)
    results = [
        evaluate(model, split, perturbation, draws=draws, seed=seed, show_progress=False)
        for perturbation in (None, *chosen)
    ]
    measure = results[0].metric if split.classes else "mean_squared_error"
    rows = tuple(_row(result, measure) for result in (*results, *worst_cases(results)))
    notes = tuple(check.note for check in gradient_checks(results) if check.masked)
    return RobustnessReport(measure=METRICS[measure].title, sequences=len(split), draws=draws, rows=rows, notes=notes)


def _row(result: RobustnessResult, measure: str) -> RobustnessRow:
    score = result.scores[measure]
    low, high = score.interval
    guessing = low <= score.guess if METRICS[measure].better == "higher" else high >= score.guess
    notes = [note for note, true in ((_STILL, not result.moved), (_GUESS, guessing)) if true]
    return RobustnessRow(
        perturbation=result.perturbation,
        strength=result.strength or 0.0,
        unit=result.unit,
        score=score.mean,
        low=low,
        high=high,
        note=", ".join(notes),
    )


def _chosen(strengths: Mapping[str, Sequence[float]], scale: Scale) -> list[Perturbation]:
    """Build the perturbations of every strength."""
    built = []
    for name, values in strengths.items():
        check_choice("perturbation", name, PERTURBATIONS)
        check_strengths(f"perturbations[{name!r}]", values)
        built += [build_perturbation(name, float(value), scale=scale) for value in values]
    return built
