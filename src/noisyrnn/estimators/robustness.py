"""How well a fitted estimator answers on perturbed sequences: a table with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_integer, check_number
from noisyrnn.data.base import Split
from noisyrnn.data.split import value_range
from noisyrnn.robustness import MAX_DRAWS, PERTURBATIONS, Perturbation, build_perturbation, check_strengths
from noisyrnn.robustness.evaluate import evaluate
from noisyrnn.robustness.statistics import mean_interval
from noisyrnn.training.objective import Trained, loss_of

_NOISE = {"white_noise": (0.1, 0.3), "salt_and_pepper": (0.03, 0.1)}
_ATTACKS = {"fgsm": (0.03,), "pgd_linf": (0.03,)}


@dataclass(frozen=True, kw_only=True)
class RobustnessRow:
    """One line of a report.

    Args:
        perturbation: Key of `PERTURBATIONS`, or "clean".
        strength: Its strength; 0 for clean.
        score: Mean over sequences and draws.
        low: Lower end of its 95 % interval over sequences and draws, for this one trained model.
        high: Upper end.
    """

    perturbation: str
    strength: float
    score: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RobustnessReport:
    """Scores of one fitted estimator under perturbations; `str` of it is a table.

    Args:
        measure: What a score is: "accuracy", the higher the better, or "mean squared error", the lower the better.
        sequences: How many sequences it rests on.
        draws: Draws of each random perturbation.
        rows: The unperturbed sequences first.
    """

    measure: str
    sequences: int
    draws: int
    rows: tuple[RobustnessRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        lines = [f"{self.measure} on {self.sequences} sequences, 95 % intervals, {self.draws} draws of random noise"]
        lines.append(f"{'perturbation':<22}{'strength':>9}{'score':>10}   interval")
        for row in self.rows:
            strength = "" if row.perturbation == "clean" else f"{row.strength:g}"
            lines.append(f"{row.perturbation:<22}{strength:>9}{row.score:>10.4g}   [{row.low:.4g}, {row.high:.4g}]")
        return "\n".join(lines)


def classification_report(
    model: Trained, split: Split, perturbations: Mapping[str, Sequence[float]] | None, *, draws: int, seed: int
) -> RobustnessReport:
    """Accuracies; see `NoisyRNNClassifier.robustness_report`."""
    scaled = _standardised(model, split)
    chosen = _chosen({**_NOISE, **_ATTACKS} if perturbations is None else perturbations, scaled)

    def answer(inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return model(inputs * model.std + model.mean, lengths=lengths)

    rows = []
    for perturbation in (None, *chosen):
        result = evaluate(answer, scaled, perturbation, draws=draws, seed=seed)
        low, high = result.interval
        rows.append(
            RobustnessRow(
                perturbation=result.perturbation,
                strength=result.strength or 0.0,
                score=result.accuracy,
                low=low,
                high=high,
            )
        )
    return RobustnessReport(measure="accuracy", sequences=len(split), draws=draws, rows=tuple(rows))


def regression_report(
    model: Trained, split: Split, perturbations: Mapping[str, Sequence[float]] | None, *, draws: int, seed: int
) -> RobustnessReport:
    """Mean squared errors; see `NoisyRNNRegressor.robustness_report`."""
    check_integer("draws", draws, minimum=1)
    check_number("draws", draws, maximum=MAX_DRAWS)
    check_integer("seed", seed, minimum=0)
    scaled = _standardised(model, split)
    chosen = _chosen(_NOISE if perturbations is None else perturbations, scaled)
    attacks = [perturbation.name for perturbation in chosen if perturbation.needs_gradient]
    if attacks:
        raise ValueError(f"perturbations must be without attacks for a regression, got {attacks[0]!r}.")
    rows = []
    todo: list[Perturbation | None] = [None, *chosen]
    for perturbation in todo:
        errors = torch.zeros(len(split), dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        times = 1 if perturbation is None else draws
        for _ in range(times):
            changed = scaled.inputs
            if perturbation is not None:
                changed = perturbation(model, changed, split.labels, generator=generator, lengths=split.lengths)
            with torch.no_grad():
                outputs = model(changed * model.std + model.mean, lengths=split.lengths)
            errors += loss_of(outputs, split.labels) / times
        interval = mean_interval(errors.tolist())
        rows.append(
            RobustnessRow(
                perturbation="clean" if perturbation is None else perturbation.name,
                strength=0.0 if perturbation is None else perturbation.strength,
                score=interval.mean,
                low=interval.low,
                high=interval.high,
            )
        )
    return RobustnessReport(measure="mean squared error", sequences=len(split), draws=draws, rows=tuple(rows))


def _standardised(model: Trained, split: Split) -> Split:
    """The sequences in the units in which strengths are given."""
    inputs = torch.where(split.valid()[..., None], (split.inputs - model.mean) / model.std, 0.0)
    return Split(inputs=inputs, labels=split.labels, lengths=split.lengths, classes=split.classes)


def _chosen(strengths: Mapping[str, Sequence[float]], scaled: Split) -> list[Perturbation]:
    """The perturbations of every strength."""
    found = []
    for name, values in strengths.items():
        check_choice("perturbation", name, PERTURBATIONS)
        check_strengths(f"perturbations[{name!r}]", values)
        found += [build_perturbation(name, float(value), value_range=value_range(scaled)) for value in values]
    return found
