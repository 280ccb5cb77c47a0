"""The order of the columns of an accuracy table."""

import random

from noisyrnn.report.columns import CLEAN, Column
from noisyrnn.robustness import PERTURBATIONS, WORST


def test_clean_comes_first_then_each_perturbation_by_rising_strength_then_the_worst_cases() -> None:
    names = [CLEAN, *PERTURBATIONS, f"{WORST}linf", f"{WORST}l2", "another"]
    ordered = [Column(name, strength) for name in names for strength in (0.05, 0.3, 2.0, 10.0)]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=lambda column: column.place) == ordered
