"""Checks whether a gradient-free attack succeeds where gradient attacks fail: a sign of masked gradients.

A model can be hard to attack with gradients without being robust: if they vanish, are wrong or point away from every
wrong answer. A random search does not use them, so it then succeeds on sequences on which they fail.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from noisyrnn.robustness.evaluate import WORST, RobustnessResult, worst_cases
from noisyrnn.robustness.metrics import METRICS
from noisyrnn.robustness.statistics import accuracy_interval

MASKED_SHARE = 0.01
"""Share of the sequences that only the gradient-free attack changes for the worse, above which there is a note."""

LARGER_ERROR = 1.05
"""Factor by which an error must be larger to count: two searches of one maximum never end at the same point."""

_CHANGES = {
    "accuracy": "misclassifies {count} of {sequences} sequences that {against} do not",
    "step_accuracy": "misclassifies more steps than {against} in {count} of {sequences} sequences",
    "mean_squared_error": "makes the error of {count} of {sequences} sequences larger than {against}, by over 5 %",
}


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """A gradient-free attack compared with all gradient attacks on the same sequences in the same ball.

    Args:
        attack: Name of the gradient-free attack.
        norm: Norm of the radius, `"linf"` or `"l2"`.
        strength: Radius of the gradient-free attack.
        unit: Unit of the radius; empty: that of the data.
        against: Names of the gradient attacks.
        against_strength: Largest of their radii, not smaller than `strength`.
        metric: Metric of a sequence: `accuracy`, `step_accuracy` or `mean_squared_error`.
        sequences: Number of sequences that all these attacks were run on.
        only_gradient_free: Number of them whose metric is worst under the gradient-free attack; of an error, by 5 %.
        only_gradient: Number of them whose metric is worst under a gradient attack, likewise.
    """

    attack: str
    norm: str
    strength: float
    unit: str
    against: tuple[str, ...]
    against_strength: float
    metric: str
    sequences: int
    only_gradient_free: int
    only_gradient: int

    @property
    def share_interval(self) -> tuple[float, float]:
        """95 % interval of the share of sequences that only the gradient-free attack changes for the worse."""
        others = self.sequences - self.only_gradient_free
        found = accuracy_interval([1] * self.only_gradient_free + [0] * others, draws=1)
        return found.low, found.high

    @property
    def masked(self) -> bool:
        """Whether gradients may be masked: the interval lies above `MASKED_SHARE`."""
        return self.share_interval[0] > MASKED_SHARE

    @property
    def note(self) -> str:
        """The finding in one sentence; empty if gradients do not look masked."""
        if not self.masked:
            return ""
        radius = f"ϵ {self.strength:g} {self.unit}".strip()
        against = " and ".join(filter(None, [", ".join(self.against[:-1]), self.against[-1]]))
        if self.against_strength > self.strength:
            against += f" up to ϵ {self.against_strength:g} {self.unit}".rstrip()
        change = _CHANGES[self.metric].format(count=self.only_gradient_free, sequences=self.sequences, against=against)
        return (
            f"Gradients may be masked, or the gradient attacks are too weak: {self.attack} at {radius} {change} (the "
            f"reverse holds for {self.only_gradient}). The model may be less robust than its results under them show."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        derived = {"share_interval": list(self.share_interval), "masked": self.masked, "note": self.note}
        return asdict(self) | {"against": list(self.against)} | derived


def gradient_checks(results: Sequence[RobustnessResult]) -> list[GradientCheck]:
    """Compare each gradient-free attack with the gradient attacks of its norm.

    These are all whose radius is at most the smallest one that is not below that of the gradient-free attack: its own
    radius, if a gradient attack has it. Without such a radius, or without a gradient attack, there is no comparison.

    Args:
        results: Results of one model, as for `worst_cases`.
    """
    attacks = [r for r in results if r.norm is not None and not r.perturbation.startswith(WORST)]
    checks = []
    for free in attacks:
        others = [r for r in attacks if (r.norm, r.unit, r.gradient_free) == (free.norm, free.unit, False)]
        radii = [r.strength for r in others if r.strength is not None]
        radius = min((each for each in radii if free.strength is not None and each >= free.strength), default=None)
        if not free.gradient_free or free.strength is None or radius is None or free.norm is None:
            continue
        against = [r for r in others if r.strength is not None and r.strength <= radius]
        metric = "mean_squared_error" if "mean_squared_error" in free.scores else free.metric
        ours, theirs = (_values(r, metric) for r in (free, worst_cases(against)[-1]))
        count = min(len(ours), len(theirs), *(r.sequences for r in against))
        ours, theirs = ours[:count], theirs[:count]
        checks.append(
            GradientCheck(
                attack=free.perturbation,
                norm=free.norm,
                strength=free.strength,
                unit=free.unit,
                against=tuple(dict.fromkeys(r.perturbation for r in against)),
                against_strength=radius,
                metric=metric,
                sequences=count,
                only_gradient_free=int(_worse(metric, ours, theirs).sum()),
                only_gradient=int(_worse(metric, theirs, ours).sum()),
            )
        )
    return checks


def _values(result: RobustnessResult, metric: str) -> Tensor:
    return torch.tensor(result.scores[metric].sequences, dtype=torch.float64, device="cpu")


def _worse(metric: str, one: Tensor, other: Tensor) -> Tensor:
    """Return which values of the first are worse than those of the second."""
    if METRICS[metric].better == "higher":
        return one < other - 1e-9  # shares of steps, up to rounding
    return one > LARGER_ERROR * other
