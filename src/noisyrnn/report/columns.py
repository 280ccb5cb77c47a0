"""Columns of a table of test results: a perturbation at one strength, its title and its position."""

from dataclasses import asdict, dataclass
from typing import Any

from noisyrnn.robustness import FGSM, PERTURBATIONS, WORST

CLEAN = "clean"
# Titles that cannot be derived from the key.
TITLES = {
    "fgsm": "FGSM",
    "pgd_linf": "PGD ℓ∞",
    "pgd_l2": "PGD ℓ2",
    "apgd_linf": "APGD ℓ∞",
    "apgd_l2": "APGD ℓ2",
    "apgd_ratio_linf": "APGD on ratios ℓ∞",
    "apgd_ratio_l2": "APGD on ratios ℓ2",
    "square_linf": "Square ℓ∞",
    "square_l2": "Square ℓ2",
    f"{WORST}linf": "Worst case over attacks ℓ∞",
    f"{WORST}l2": "Worst case over attacks ℓ2",
}


@dataclass(frozen=True, order=True)
class Column:
    """A perturbation, its strength and the unit of the strength, and the metric that was measured.

    `strength` is 0 for clean inputs, and `unit` is empty if strengths are in the units of the data. `metric` is a key
    of `METRICS`.
    """

    perturbation: str
    strength: float
    unit: str = ""
    metric: str = "accuracy"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-ready; without the metric if it is the accuracy."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("metric", "accuracy")}

    @property
    def title(self) -> str:
        """`White noise σ 0.1`, or `Clean`."""
        return f"{perturbation_title(self.perturbation)} {self.strength_title}".strip()

    @property
    def strength_title(self) -> str:
        """`σ 0.1`, followed by the unit unless it is that of the data; empty for clean inputs."""
        if self.perturbation == CLEAN:
            return ""
        return f"{symbol(self.perturbation)} {self.strength:g} {self.unit}".strip()

    @property
    def place(self) -> tuple[int, str, float, str]:
        """Sort key: clean first, then the perturbations as in `PERTURBATIONS`, each by rising strength."""
        names = [CLEAN, *PERTURBATIONS, *(name for name in TITLES if name.startswith(WORST))]
        position = names.index(self.perturbation) if self.perturbation in names else len(names)
        return position, self.perturbation, self.strength, self.unit


def perturbation_title(perturbation: str) -> str:
    """Returns `White noise` for `white_noise`."""
    return TITLES.get(perturbation, perturbation.replace("_", " ").capitalize())


def symbol(perturbation: str) -> str:
    """Returns the letter of a perturbation's strength; empty for an unknown perturbation."""
    if perturbation.startswith(WORST):
        return FGSM.symbol
    return PERTURBATIONS[perturbation].symbol if perturbation in PERTURBATIONS else ""
