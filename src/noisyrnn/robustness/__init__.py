"""Perturbations of the input at test time, and accuracy or error under them, for any callable inputs → outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from noisyrnn.checks import check_choice, check_range
from noisyrnn.data.scale import Scale
from noisyrnn.registry import Entry, Registry
from noisyrnn.robustness.apgd import APGD
from noisyrnn.robustness.base import Noise, Perturbation, ValueRange, check_clip, check_strengths
from noisyrnn.robustness.baselines import Baseline, baselines, has_aeon, skipped_baselines
from noisyrnn.robustness.compare_models import ModelComparison, compare_models
from noisyrnn.robustness.confusion import confusion_matrix
from noisyrnn.robustness.default_strengths import default_strengths, strong_attacks
from noisyrnn.robustness.draws import PathDraws
from noisyrnn.robustness.evaluate import MAX_DRAWS, WORST, RobustnessResult, Score, evaluate, worst_cases
from noisyrnn.robustness.examples import examples
from noisyrnn.robustness.fgsm import FGSM
from noisyrnn.robustness.logits import Model
from noisyrnn.robustness.masked_gradients import GradientCheck, gradient_checks
from noisyrnn.robustness.metrics import METRICS, Metric
from noisyrnn.robustness.missing_values import OUTAGE, MissingValues
from noisyrnn.robustness.multiplicative import MultiplicativeNoise
from noisyrnn.robustness.pgd import PGD
from noisyrnn.robustness.salt_and_pepper import SaltAndPepper
from noisyrnn.robustness.square import Square
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

Limits = tuple[float | tuple[float, ...], float | tuple[float, ...]]
"""Smallest and largest value of the data, or of each channel."""


@dataclass(frozen=True, kw_only=True)
class PerturbationEntry(Entry[Callable[[float, ValueRange | None, Scale | None, Limits], Perturbation]]):
    """One entry of `PERTURBATIONS`.

    Args:
        description: One line for lists and help.
        build: `(strength, clip, scale, limits)` to a perturbation; `clip` and `scale` are those of `Perturbation`.
        symbol: Letter of the strength.
    """

    symbol: str


def _in_units(kind: Callable[..., Perturbation], symbol: str, description: str, **options: Any) -> PerturbationEntry:
    """A perturbation whose strength is in units of the channels' scale."""
    return PerturbationEntry(
        symbol=symbol,
        description=description,
        build=lambda strength, clip, scale, limits: kind(strength, clip, scale=scale, **options),
    )


_ADAPTIVE = "100 gradient steps that adapt their size,"
_RATIO = "up the ratio of differences of logits"
_SEARCH = "random search without gradients, 1000 model calls,"


def _start(scale: Scale | None, limits: Limits) -> float | tuple[float, ...]:
    """What a channel has before its first value: its mean, or the number within the limits that is nearest to 0."""
    if scale is not None:
        return scale.mean
    low, high = limits
    assert not isinstance(low, tuple) and not isinstance(high, tuple)
    return float(min(max(low, 0.0), high))


_ENTRIES: dict[str, PerturbationEntry] = {
    "white_noise": _in_units(WhiteNoise, WhiteNoise.symbol, "adds N(0, σ²) to every value"),
    "multiplicative_noise": _in_units(
        MultiplicativeNoise, MultiplicativeNoise.symbol, "multiplies every value by N(1, σ²)"
    ),
    "salt_and_pepper": PerturbationEntry(
        symbol=SaltAndPepper.symbol,
        description="sets each value, with probability α, to the smallest or the largest value",
        build=lambda strength, clip, scale, limits: SaltAndPepper(strength, clip, low=limits[0], high=limits[1]),
    ),
    "missing_values": PerturbationEntry(
        symbol=MissingValues.symbol,
        description="removes each value with probability p; a model without a setting for it holds the last one",
        build=lambda strength, clip, scale, limits: MissingValues(strength, clip, fill=_start(scale, limits)),
    ),
    "missing_blocks": PerturbationEntry(
        symbol=MissingValues.symbol,
        description=f"removes all channels for {OUTAGE} steps at a time, each step with probability p",
        build=lambda strength, clip, scale, limits: MissingValues(
            strength, clip, block=OUTAGE, fill=_start(scale, limits)
        ),
    ),
    "fgsm": _in_units(FGSM, FGSM.symbol, "one signed gradient step of size ϵ up the loss"),
    "pgd_linf": _in_units(
        PGD, PGD.symbol, "20 projected gradient steps from each start, within ±ϵ of every value", norm="linf"
    ),
    "pgd_l2": _in_units(
        PGD,
        PGD.symbol,
        "20 projected gradient steps from each start, within Euclidean distance ϵ of the whole sequence",
        norm="l2",
    ),
    "apgd_linf": _in_units(APGD, APGD.symbol, f"{_ADAPTIVE} within ±ϵ of every value", norm="linf"),
    "apgd_l2": _in_units(APGD, APGD.symbol, f"{_ADAPTIVE} within Euclidean distance ϵ", norm="l2"),
    "apgd_ratio_linf": _in_units(APGD, APGD.symbol, f"apgd_linf {_RATIO}", norm="linf", loss="logit_ratio"),
    "apgd_ratio_l2": _in_units(APGD, APGD.symbol, f"apgd_l2 {_RATIO}", norm="l2", loss="logit_ratio"),
    "square_linf": _in_units(Square, Square.symbol, f"{_SEARCH} within ±ϵ of every value", norm="linf"),
    "square_l2": _in_units(Square, Square.symbol, f"{_SEARCH} within Euclidean distance ϵ", norm="l2"),
}

PERTURBATIONS: Registry[PerturbationEntry] = Registry("noisyrnn.perturbations", _ENTRIES, kind=PerturbationEntry)

UNITS = (
    "Strengths are in units of each channel's scale in the training data: s is its standard deviation, m its mean and "
    "n the number of values of a sequence. Multiplicative noise acts on (x − m), an ℓ2 radius ϵ s√n limits the root "
    "mean square of (x' − x)/s by ϵ, and salt and pepper sets values to the channel's 0.1 % and 99.9 % quantiles."
)
"""Explains the units of strengths for data that state no range of values."""


def build_perturbation(
    name: str,
    strength: float,
    *,
    value_range: ValueRange | None = None,
    scale: Scale | None = None,
    clip: bool = False,
) -> Perturbation:
    """Build the perturbation called `name` in `PERTURBATIONS`, with its other settings at their defaults.

    The data decide the unit of the strength: the unit of the data if they state a range of values, as images do, else
    the scale of each channel in the training data, as `UNITS` describes.

    Args:
        name: Key of `PERTURBATIONS`.
        strength: `>= 0`; for salt and pepper a probability.
        value_range: Smallest and largest value that the data can take; `None` if they state none.
        scale: Scale of the channels, used if `value_range` is `None`.
        clip: Whether perturbed values are cut to `value_range`.

    Raises:
        ValueError: If the name is unknown, the strength negative, the range empty, or `clip` set without a range.
        TypeError: If both `value_range` and `scale` are `None`.

    Example:
        >>> build_perturbation("white_noise", 0.1, value_range=(0.0, 1.0))
        WhiteNoise(strength=0.1, clip=None, scale=None)
        >>> volts = Scale(mean=(2.0,), std=(0.5,), low=(0.7,), high=(3.3,))
        >>> build_perturbation("white_noise", 0.1, scale=volts).unit
        's'
    """
    check_choice("perturbation", name, PERTURBATIONS)
    if value_range is not None:
        check_range("value_range", value_range)
        return PERTURBATIONS[name].build(strength, value_range if clip else None, None, value_range)
    check_clip(clip, value_range)
    if scale is None:
        raise TypeError("scale must be a Scale where value_range is None, got None. Take that of the data set.")
    return PERTURBATIONS[name].build(strength, None, scale, (scale.low, scale.high))


__all__ = [
    "APGD",
    "FGSM",
    "MAX_DRAWS",
    "METRICS",
    "PERTURBATIONS",
    "PGD",
    "UNITS",
    "WORST",
    "Baseline",
    "GradientCheck",
    "Interval",
    "Metric",
    "MissingValues",
    "Model",
    "ModelComparison",
    "MultiplicativeNoise",
    "Noise",
    "PairedTest",
    "PathDraws",
    "Perturbation",
    "PerturbationEntry",
    "RobustnessResult",
    "SaltAndPepper",
    "Score",
    "Square",
    "ValueRange",
    "WhiteNoise",
    "accuracy_interval",
    "adjust",
    "baselines",
    "build_perturbation",
    "check_clip",
    "check_strengths",
    "compare_models",
    "confusion_matrix",
    "default_strengths",
    "evaluate",
    "examples",
    "gradient_checks",
    "has_aeon",
    "mean_interval",
    "paired_test",
    "seeds_interval",
    "seeds_test",
    "skipped_baselines",
    "strong_attacks",
    "worst_cases",
]
