"""Robustness of a fitted estimator: a table of scores on perturbed sequences, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

import torch

from noisyrnn.checks import check_choice, check_integer, check_number
from noisyrnn.data.base import Split
from noisyrnn.data.scale import Scale
from noisyrnn.models import SequenceModel
from noisyrnn.robustness import (
    MAX_DRAWS,
    PERTURBATIONS,
    UNITS,
    Perturbation,
    RobustnessResult,
    build_perturbation,
    check_strengths,
    evaluate,
    worst_cases,
)
from noisyrnn.robustness.default_strengths import ESTIMATOR_ATTACKS, ESTIMATOR_NOISE
from noisyrnn.robustness.statistics import mean_interval


@dataclass(frozen=True, kw_only=True)
class RobustnessRow:
    """One line of a report.

    Args:
        perturbation: Key of `PERTURBATIONS`, or "clean".
        strength: Strength; 0 for clean.
        unit: Unit of the strength, as `noisyrnn.robustness.UNITS` describes it; empty for a probability.
        score: Mean over sequences and, for a noise, over draws; for an attack the worst case over its starts.
        low: Lower end of its 95 % interval over sequences and draws, for this one trained model.
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


@dataclass(frozen=True, kw_only=True)
class RobustnessReport:
    """Scores of one fitted estimator under perturbations; `str` of it is a table.

    Args:
        measure: Type of the scores: "accuracy", the higher the better, or "mean squared error", the lower the better.
        sequences: Number of sequences.
        draws: Number of draws of each random noise, and of random starts of each attack.
        rows: Scores, those of the unperturbed sequences first.
    """

    measure: str
    sequences: int
    draws: int
    rows: tuple[RobustnessRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        lines = [f"{self.measure} on {self.sequences} sequences, 95 % intervals, {self.draws} draws or starts"]
        lines.append(f"{'perturbation':<22}{'strength':>16}{'score':>10}   interval")
        for row in self.rows:
            strength = "" if row.perturbation == "clean" else f"{row.strength:g} {row.unit}".strip()
            line = f"{row.perturbation:<22}{strength:>16}{row.score:>10.4g}   [{row.low:.4g}, {row.high:.4g}]"
            lines.append(f"{line}   {row.note}".rstrip())
        return "\n".join([*lines, UNITS])


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
_GUESS = "not above guessing"


def classification_report(model: SequenceModel, split: Split, **options: Unpack[ReportOptions]) -> RobustnessReport:
    """Measure accuracies for `SequenceEstimator.robustness_report`."""
    perturbations, scale, draws, seed = options["perturbations"], options["scale"], options["draws"], options["seed"]
    chosen = _chosen({**ESTIMATOR_NOISE, **ESTIMATOR_ATTACKS} if perturbations is None else perturbations, scale)
    results = [evaluate(model, split, perturbation, draws=draws, seed=seed) for perturbation in (None, *chosen)]
    rows = tuple(_row(result) for result in (*results, *worst_cases(results)))
    return RobustnessReport(measure="accuracy", sequences=len(split), draws=draws, rows=rows)


def _row(result: RobustnessResult) -> RobustnessRow:
    low, high = result.interval
    notes = [note for note, true in ((_STILL, not result.moved), (_GUESS, low <= result.guess)) if true]
    return RobustnessRow(
        perturbation=result.perturbation,
        strength=result.strength or 0.0,
        unit=result.unit,
        score=result.accuracy,
        low=low,
        high=high,
        note=", ".join(notes),
    )


def regression_report(model: SequenceModel, split: Split, **options: Unpack[ReportOptions]) -> RobustnessReport:
    """Measure mean squared errors for `SequenceEstimator.robustness_report`."""
    perturbations, scale, draws, seed = options["perturbations"], options["scale"], options["draws"], options["seed"]
    check_integer("draws", draws, minimum=1)
    check_number("draws", draws, maximum=MAX_DRAWS)
    check_integer("seed", seed, minimum=0)
    chosen = _chosen(ESTIMATOR_NOISE if perturbations is None else perturbations, scale)
    attacks = [perturbation.name for perturbation in chosen if perturbation.is_attack]
    if attacks:
        raise ValueError(f"perturbations must be without attacks for a regression, got {attacks[0]!r}.")
    guess = float(split.labels.double().var(dim=0, correction=0).mean())  # of always predicting the mean
    rows = []
    todo: list[Perturbation | None] = [None, *chosen]
    for perturbation in todo:
        errors = torch.zeros(len(split), dtype=torch.float64, device="cpu")
        generator = torch.Generator().manual_seed(seed)
        times = 1 if perturbation is None else draws
        moved = perturbation is None or perturbation.strength == 0
        for _ in range(times):
            changed = split.inputs
            if perturbation is not None:
                changed = perturbation(model, changed, split.labels, generator=generator, lengths=split.lengths)
                moved = moved or not torch.equal(changed, split.inputs)
            with torch.no_grad():
                outputs = model(changed, lengths=split.lengths)
            errors += model.losses(outputs, split.labels) / times
        interval = mean_interval(errors.tolist())
        notes = [note for note, true in ((_STILL, not moved), (_GUESS, interval.high >= guess)) if true]
        rows.append(
            RobustnessRow(
                perturbation="clean" if perturbation is None else perturbation.name,
                strength=0.0 if perturbation is None else perturbation.strength,
                unit="" if perturbation is None else perturbation.unit,
                score=interval.mean,
                low=interval.low,
                high=interval.high,
                note=", ".join(notes),
            )
        )
    return RobustnessReport(measure="mean squared error", sequences=len(split), draws=draws, rows=tuple(rows))


def _chosen(strengths: Mapping[str, Sequence[float]], scale: Scale) -> list[Perturbation]:
    """Build the perturbations of every strength."""
    built = []
    for name, values in strengths.items():
        check_choice("perturbation", name, PERTURBATIONS)
        check_strengths(f"perturbations[{name!r}]", values)
        built += [build_perturbation(name, float(value), scale=scale) for value in values]
    return built
