"""Perturbations of the input at test time, and a model's accuracy under them; any callable inputs -> logits will do."""

from noisyrnn.checks import check_choice
from noisyrnn.robustness.base import Kind, Model, Perturbation, Range, check_range, check_strengths
from noisyrnn.robustness.evaluate import MAX_DRAWS, RobustnessResult, evaluate
from noisyrnn.robustness.examples import examples
from noisyrnn.robustness.fgsm import FGSM
from noisyrnn.robustness.multiplicative import MultiplicativeNoise
from noisyrnn.robustness.pgd import PGD
from noisyrnn.robustness.salt_and_pepper import SaltAndPepper
from noisyrnn.robustness.statistics import (
    Interval,
    PairedTest,
    accuracy_interval,
    adjust,
    mean_interval,
    paired_test,
    seeds_interval,
    seeds_test,
)
from noisyrnn.robustness.white_noise import WhiteNoise

PERTURBATIONS: dict[str, Kind] = {
    "white_noise": Kind(
        symbol=WhiteNoise.symbol,
        description="adds N(0, σ²) to every entry",
        build=lambda strength, values, clip: WhiteNoise(strength, clip),
    ),
    "multiplicative_noise": Kind(
        symbol=MultiplicativeNoise.symbol,
        description="multiplies every entry by N(1, σ²)",
        build=lambda strength, values, clip: MultiplicativeNoise(strength, clip),
    ),
    "salt_and_pepper": Kind(
        symbol=SaltAndPepper.symbol,
        description="sets each entry, with probability α, to the smallest or the largest value",
        build=lambda strength, values, clip: SaltAndPepper(strength, clip, low=values[0], high=values[1]),
    ),
    "fgsm": Kind(
        symbol=FGSM.symbol,
        description="one signed gradient step of size ϵ up the loss",
        build=lambda strength, values, clip: FGSM(strength, clip),
    ),
    "pgd_linf": Kind(
        symbol=PGD.symbol,
        description="20 projected gradient steps within ±ϵ of every entry",
        build=lambda strength, values, clip: PGD(strength, clip, norm="linf"),
    ),
    "pgd_l2": Kind(
        symbol=PGD.symbol,
        description="20 projected gradient steps within Euclidean distance ϵ of the whole sequence",
        build=lambda strength, values, clip: PGD(strength, clip, norm="l2"),
    ),
}


def build_perturbation(name: str, strength: float, *, value_range: Range, clip: bool = False) -> Perturbation:
    """The perturbation called `name` in `PERTURBATIONS`, with its other settings at their defaults.

    Args:
        name: Key of `PERTURBATIONS`.
        strength: `>= 0`; for salt and pepper a probability.
        value_range: Smallest and largest value of the data.
        clip: Whether perturbed values are cut to `value_range`.

    Raises:
        ValueError: If the name is unknown, the strength negative or the range empty.

    Example:
        >>> build_perturbation("white_noise", 0.1, value_range=(0.0, 1.0))
        WhiteNoise(strength=0.1, clip=None)
    """
    check_choice("perturbation", name, PERTURBATIONS)
    check_range("value_range", value_range)
    return PERTURBATIONS[name].build(strength, value_range, value_range if clip else None)


__all__ = [
    "FGSM",
    "MAX_DRAWS",
    "PERTURBATIONS",
    "PGD",
    "Interval",
    "Kind",
    "Model",
    "MultiplicativeNoise",
    "PairedTest",
    "Perturbation",
    "RobustnessResult",
    "SaltAndPepper",
    "WhiteNoise",
    "accuracy_interval",
    "adjust",
    "build_perturbation",
    "check_strengths",
    "evaluate",
    "examples",
    "mean_interval",
    "paired_test",
    "seeds_interval",
    "seeds_test",
]
