"""The strengths at which perturbations are evaluated where the user gives none."""

from collections.abc import Mapping, Sequence

from noisyrnn.robustness.base import ValueRange

DEFAULT_STRENGTHS: dict[str, tuple[float, ...]] = {
    "white_noise": (0.1, 0.2, 0.3),
    "multiplicative_noise": (0.2, 0.4, 0.6),
    "salt_and_pepper": (0.03, 0.05, 0.1),
    "fgsm": (0.02, 0.05),
    "pgd_linf": (0.02, 0.05),
    "pgd_l2": (0.2, 0.5),
    "square_linf": (0.05,),
    "square_l2": (0.5,),
}
"""For data that state their range of values, in units of its width, which is 1 for images in [0, 1]."""

SCALED_STRENGTHS: dict[str, tuple[float, ...]] = {
    **DEFAULT_STRENGTHS,
    "pgd_l2": (0.02, 0.05),
    "square_l2": (0.05,),
}
"""For all other data, in units of each channel's scale (`UNITS`); an ℓ2 radius is ϵ s√n there."""

FOR_MISSING: dict[str, tuple[float, ...]] = {"missing_values": (0.1, 0.3)}
"""More perturbations for models that can meet missing values; they depend on no unit."""

WITHOUT_UNIT = ("multiplicative_noise", "salt_and_pepper")
"""Perturbations whose strength is a ratio or a probability: the range of the data does not change it."""

ESTIMATOR_NOISE: dict[str, tuple[float, ...]] = {"white_noise": (0.1, 0.3), "salt_and_pepper": (0.03, 0.1)}
ESTIMATOR_ATTACKS: dict[str, tuple[float, ...]] = {"fgsm": (0.03,), "pgd_linf": (0.03,)}
"""For `robustness_report` of the estimators, in units of each channel's scale."""


def default_strengths(value_range: ValueRange | None) -> dict[str, tuple[float, ...]]:
    """Return the default strengths of each perturbation for data with this range of values.

    Args:
        value_range: Smallest and largest value that the data can take; `None` where they state none.

    Example:
        >>> default_strengths((0.0, 255.0))["white_noise"]
        (25.5, 51.0, 76.5)
    """
    if value_range is None:
        return SCALED_STRENGTHS
    low, high = value_range
    return {
        name: strengths if name in WITHOUT_UNIT else tuple((high - low) * strength for strength in strengths)
        for name, strengths in DEFAULT_STRENGTHS.items()
    }


def strong_attacks(
    strengths: Mapping[str, Sequence[float]], *, classification: bool = True
) -> dict[str, Sequence[float]]:
    """Replace the attacks by the strong ones: PGD, APGD with two losses and Square, at all radii of their norm.

    Args:
        strengths: Strengths of perturbations by name; those that are not attacks remain.
        classification: Whether the labels are classes: a regression has no ratio of differences of logits.

    Example:
        >>> strong_attacks({"white_noise": (0.1,), "fgsm": (0.02,), "pgd_linf": (0.02, 0.05)}, classification=False)
        {'white_noise': (0.1,), 'pgd_linf': (0.02, 0.05), 'apgd_linf': (0.02, 0.05), 'square_linf': (0.02, 0.05)}
    """
    norms = {name: "linf" if name == "fgsm" else name.rpartition("_")[2] for name in strengths}
    strong = {name: values for name, values in strengths.items() if norms[name] not in ("linf", "l2")}
    for norm in ("linf", "l2"):
        radii = {radius for name, values in strengths.items() if norms[name] == norm for radius in values}
        names = ("pgd", "apgd", "apgd_ratio", "square") if classification else ("pgd", "apgd", "square")
        strong |= {f"{name}_{norm}": tuple(sorted(radii)) for name in names if radii}
    return strong
