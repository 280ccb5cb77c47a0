"""Perturbations of the input at test time, and a model's accuracy under them; any callable inputs -> logits will do."""

from noisyrnn.checks import check_choice
from noisyrnn.data.scale import Scale
from noisyrnn.robustness.base import (
    Model,
    Perturbation,
    PerturbationEntry,
    Range,
    check_clip,
    check_range,
    check_strengths,
)
from noisyrnn.robustness.evaluate import MAX_DRAWS, WORST, RobustnessResult, evaluate, worst_cases
from noisyrnn.robustness.examples import examples
from noisyrnn.robustness.fgsm import FGSM
from noisyrnn.robustness.multiplicative import MultiplicativeNoise
from noisyrnn.robustness.pgd import PGD
from noisyrnn.robustness.salt_and_pepper import SaltAndPepper
from noisyrnn.robustness.scaled import Scaled
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


def _scaled(perturbation: Perturbation, scale: Scale, unit: str) -> Scaled:
    return Scaled(perturbation, center=scale.mean, scale=scale.std, unit=unit)


PERTURBATIONS: dict[str, PerturbationEntry] = {
    "white_noise": PerturbationEntry(
        symbol=WhiteNoise.symbol,
        description="adds N(0, σ²) to every entry",
        build=lambda strength, values, clip: WhiteNoise(strength, clip),
        build_scaled=lambda strength, scale: _scaled(WhiteNoise(strength), scale, "s"),
    ),
    "multiplicative_noise": PerturbationEntry(
        symbol=MultiplicativeNoise.symbol,
        description="multiplies every entry by N(1, σ²)",
        build=lambda strength, values, clip: MultiplicativeNoise(strength, clip),
        build_scaled=lambda strength, scale: _scaled(MultiplicativeNoise(strength), scale, "of (x − m)"),
    ),
    "salt_and_pepper": PerturbationEntry(
        symbol=SaltAndPepper.symbol,
        description="sets each entry, with probability α, to the smallest or the largest value",
        build=lambda strength, values, clip: SaltAndPepper(strength, clip, low=values[0], high=values[1]),
        build_scaled=lambda strength, scale: SaltAndPepper(strength, low=scale.low, high=scale.high),
    ),
    "fgsm": PerturbationEntry(
        symbol=FGSM.symbol,
        description="one signed gradient step of size ϵ up the loss",
        build=lambda strength, values, clip: FGSM(strength, clip),
        build_scaled=lambda strength, scale: _scaled(FGSM(strength), scale, "s"),
    ),
    "pgd_linf": PerturbationEntry(
        symbol=PGD.symbol,
        description="20 projected gradient steps from each start, within ±ϵ of every entry",
        build=lambda strength, values, clip: PGD(strength, clip, norm="linf"),
        build_scaled=lambda strength, scale: _scaled(PGD(strength, norm="linf"), scale, "s"),
    ),
    "pgd_l2": PerturbationEntry(
        symbol=PGD.symbol,
        description="20 projected gradient steps from each start, within Euclidean distance ϵ of the whole sequence",
        build=lambda strength, values, clip: PGD(strength, clip, norm="l2"),
        build_scaled=lambda strength, scale: _scaled(PGD(strength, norm="l2", per_value=True), scale, "s√n"),
    ),
}

UNITS = (
    "Strengths are in units of each channel's scale in the training data: s is its standard deviation, m its mean and "
    "n the number of values of a sequence. Multiplicative noise acts on (x − m), an ℓ2 radius ϵ s√n bounds the root "
    "mean square of (x' − x)/s by ϵ, and salt and pepper sets values to the channel's 0.1 % and 99.9 % quantiles."
)
"""What the labels of strengths mean for data that state no range of values."""


def build_perturbation(
    name: str,
    strength: float,
    *,
    value_range: Range | None = None,
    scale: Scale | None = None,
    clip: bool = False,
) -> Perturbation:
    """The perturbation called `name` in `PERTURBATIONS`, with its other settings at their defaults.

    The data decide the unit of the strength. Where they state a range of values, as images do, it is that of the data.
    Where they do not, it is the scale of each channel in the training data, as `UNITS` describes.

    Args:
        name: Key of `PERTURBATIONS`.
        strength: `>= 0`; for salt and pepper a probability.
        value_range: Smallest and largest value that the data can take; `None` where they state none.
        scale: Scale of the channels, used where `value_range` is `None`.
        clip: Whether perturbed values are cut to `value_range`.

    Raises:
        ValueError: If the name is unknown, the strength negative, the range empty, or `clip` set without a range.
        TypeError: If both `value_range` and `scale` are `None`.

    Example:
        >>> build_perturbation("white_noise", 0.1, value_range=(0.0, 1.0))
        WhiteNoise(strength=0.1, clip=None)
        >>> volts = Scale(mean=(2.0,), std=(0.5,), low=(0.7,), high=(3.3,))
        >>> build_perturbation("white_noise", 0.1, scale=volts)
        Scaled(perturbation=WhiteNoise(strength=0.1, clip=None), center=(2.0,), scale=(0.5,), unit='s')
    """
    check_choice("perturbation", name, PERTURBATIONS)
    if value_range is not None:
        check_range("value_range", value_range)
        return PERTURBATIONS[name].build(strength, value_range, value_range if clip else None)
    check_clip(clip, value_range)
    if scale is None:
        raise TypeError("scale must be a Scale where value_range is None, got None. Take that of the data set.")
    return PERTURBATIONS[name].build_scaled(strength, scale)


__all__ = [
    "FGSM",
    "MAX_DRAWS",
    "PERTURBATIONS",
    "PGD",
    "UNITS",
    "WORST",
    "Interval",
    "Model",
    "MultiplicativeNoise",
    "PairedTest",
    "Perturbation",
    "PerturbationEntry",
    "RobustnessResult",
    "SaltAndPepper",
    "Scaled",
    "WhiteNoise",
    "accuracy_interval",
    "adjust",
    "build_perturbation",
    "check_clip",
    "check_strengths",
    "evaluate",
    "examples",
    "mean_interval",
    "paired_test",
    "seeds_interval",
    "seeds_test",
    "worst_cases",
]
