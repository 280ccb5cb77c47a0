"""Intervals and paired tests, each stating what it covers, and the correction for many comparisons.

Three kinds of values are compared: accuracies of several trainings on one test set (`seeds_interval`, `seeds_test`),
the accuracy of one trained model (`accuracy_interval`), and other quantities with one value per seed (`mean_interval`,
`paired_test`). The rule for accuracies is in `crossed_sample.py`.
"""

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from scipy import special

from noisyrnn.checks import check_integer, check_number
from noisyrnn.robustness.crossed_sample import FEWEST_SEEDS, CrossedSample

SIGNIFICANCE = 0.05
"""Significance level: a larger p, corrected for the number of comparisons, counts as a tie."""

TRAININGS = "trainings and test sequences"
SEQUENCES = "test sequences, for these trained models"
VALUES = "trainings"
TOO_FEW = "too few seeds"
NO_SPREAD = "no spread"

Key = TypeVar("Key")


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Args:
        mean: The estimate.
        low: Lower end; `nan` if it cannot be estimated.
        high: Upper end, likewise.
        count: Number of independent values.
        covers: Variability that the interval covers, such as "trainings and test sequences".
    """

    mean: float
    low: float
    high: float
    count: int
    covers: str


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison, first minus second.

    Args:
        difference: Mean difference.
        low: Lower end of its 95 % interval; `nan` if there is none.
        high: Upper end, likewise.
        p_value: Two-sided p of no difference; `nan` if `reason` states why there is none.
        pairs: Number of pairs.
        unit: What a pair is: `"seed"`, `"sequence"`.
        covers: Variability that interval and p cover.
        reason: Why there is no p, such as "too few seeds"; else empty.
        adjusted: The p corrected for the comparisons of its table (`adjust`); `nan` before that.
    """

    difference: float
    low: float
    high: float
    p_value: float
    pairs: int
    unit: str
    covers: str = VALUES
    reason: str = ""
    adjusted: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below `SIGNIFICANCE`."""
        return self.adjusted < SIGNIFICANCE


def seeds_interval(
    correct: Sequence[Sequence[float]], *, confidence: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Compute the mean accuracy over trainings on one test set, with an interval over trainings and test sequences.

    Any metric with a value for each sequence has such a mean; `bounds` are then those of its values.

    Student's interval at the variance of two-way crossed samples, after 0.375 z² sequences (1.44 at 95 %) that all
    trainings get right and as many that all get wrong are added. It stays in [0, 1] and has a width even if all seeds
    agree. With fewer than three seeds it covers test sequences only, for these trained models, as `covers` states.

    Args:
        correct: For each seed, and in it for each test sequence, the share of draws classified correctly, in [0, 1].
            All seeds have the same sequences in the same order. With other `bounds`, each sequence's value of a
            metric, such as its squared error. Student's interval of a single sequence has `nan` for ends.
        confidence: In (0, 1).
        bounds: Smallest and largest value of a sequence. Where one is infinite no sequences are added, and Student's
            interval covers the sequences.

    Raises:
        ValueError: If the seeds do not have equally many sequences, or a share is out of range.

    Example:
        >>> interval = seeds_interval([[1.0] * 50] * 3)
        >>> interval.mean, round(interval.low, 3), interval.high, interval.covers
        (1.0, 0.929, 1.0, 'trainings and test sequences')
    """
    rates = _as_rates("correct", correct, bounds)
    exponent = _exponent(rates, bounds)
    sample = CrossedSample.of(np.ldexp(rates, -exponent), bounds=_scaled(bounds, -exponent))
    low, high = _scaled(sample.interval(_quantile(confidence)), exponent)
    covers = SEQUENCES if len(rates) < FEWEST_SEEDS else TRAININGS
    return Interval(float(np.ldexp(sample.mean, exponent)), low, high, len(rates), covers)


def seeds_test(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> PairedTest:
    """Compare two models trained with the same seeds and evaluated on the same test sequences, first minus second.

    Both the trainings and the test sequences are samples: p and the 95 % interval hold for another training on another
    test set. They follow `seeds_interval`, with 0.125 z² sequences added in favour of each model, and the variance of
    the test sequences counted in full. p is never below that of the paired t test over seeds, nor below 2^(1 - k),
    where k sequences were answered differently, the bound of a sign test. Fewer than three seeds give no p, and
    an interval over test sequences for these trained models.

    Args:
        first: For each seed, and in it for each test sequence, the share of draws classified correctly, in [0, 1].
        second: The same of the other model, for the same seeds and sequences in the same order.
        bounds: Smallest and largest value of a sequence, as for `seeds_interval`.

    Raises:
        ValueError: If the shapes differ, or a share is out of range.
    """
    one, two = _as_rates("first", first, bounds), _as_rates("second", second, bounds)
    if one.shape != two.shape:
        raise ValueError(f"first and second must have the same seeds and sequences, got {one.shape} and {two.shape}.")
    differences = one - two
    width, exponent = bounds[1] - bounds[0], _exponent(differences, bounds)
    sample = CrossedSample.of(np.ldexp(differences, -exponent), bounds=_scaled((-width, width), -exponent))
    low, high = _scaled(sample.interval(0.975), exponent)
    mean, seeds = float(np.ldexp(sample.mean, exponent)), len(differences)
    if seeds < FEWEST_SEEDS:
        return PairedTest(mean, low, high, math.nan, seeds, "seed", SEQUENCES, TOO_FEW)
    p = float(sample.p_value((differences.mean(axis=0) != 0).sum()))
    return PairedTest(mean, low, high, p, seeds, "seed", TRAININGS)


def accuracy_interval(correct: Sequence[int], *, draws: int, confidence: float = 0.95) -> Interval:
    r"""Compute the mean accuracy of one trained model, with an interval over test sequences and draws.

    The normal interval at the variance of the sequences' shares of right draws, after 0.375 z² sequences that are
    always right and as many that are always wrong are added. For one draw it is Agresti and Coull's interval with
    fewer added answers, :math:`q \pm z \sqrt{q (1 - q) / m}` with :math:`m = n + 0.75 z^2` and
    :math:`q = (k + 0.375 z^2) / m`. It covers another sample of sequences and other
    draws, for this model, but not another training.

    Args:
        correct: For each sequence, how many draws were classified correctly, in `[0, draws]`.
        draws: Draws of each sequence.
        confidence: In (0, 1).

    Raises:
        ValueError: If there are no sequences, or a count is out of range.
    """
    check_integer("draws", draws, minimum=1)
    counts = _as_values("correct", correct)
    parts = counts[counts != np.floor(counts)]
    if parts.size:
        raise ValueError(f"correct must hold whole numbers of draws, got {parts[0]:g}.")
    if counts.min() < 0 or counts.max() > draws:
        worst = counts.min() if counts.min() < 0 else counts.max()
        raise ValueError(f"correct must lie in [0, {draws}], the number of draws, got {worst:g}.")
    quantile = _quantile(confidence)
    n = len(counts)
    sample = CrossedSample.of(counts[None] / draws)
    low, high = (float(end) for end in sample.interval(quantile))
    covers = f"{100 * confidence:g} % interval over {n} test sequences and {draws} draws, for one trained model"
    return Interval(float(counts.mean()) / draws, low, high, n, covers)


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    r"""Compute the mean of independent values with Student's t interval, :math:`\bar v \pm t_{n-1} s / \sqrt n`.

    It covers the variation between the values (between seeds: initialisation and order of training), not that of
    what they share (the same test sequences). Fewer than three values, and values without spread, give no interval: its
    ends are `nan`.

    Args:
        values: One for each seed.
        confidence: In (0, 1).

    Raises:
        ValueError: If there are no values, one is not finite, or `confidence` is out of range.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0])
        >>> round(interval.low, 3), round(interval.high, 3), interval.covers
        (-0.484, 4.484, '95 % Student t interval over 3 values')
    """
    array = _as_values("values", values)
    quantile = _quantile(confidence)
    mean, n = float(array.mean()), len(array)
    if n < FEWEST_SEEDS:
        return Interval(mean, math.nan, math.nan, n, f"no interval: fewer than {FEWEST_SEEDS} values")
    if _has_no_spread(array, np.abs(array).max()):
        return Interval(mean, math.nan, math.nan, n, "no interval: the values have no spread")
    exponent, _, error = _scaled_mean(array)
    half = float(np.ldexp(special.stdtrit(n - 1, quantile) * error, exponent))
    return Interval(mean, mean - half, mean + half, n, f"{100 * confidence:g} % Student t interval over {n} values")


def paired_test(first: Sequence[float], second: Sequence[float], *, unit: str = "seed") -> PairedTest:
    """Run a paired t test of `first` against `second`, with the 95 % interval of their mean difference.

    It assumes independent pairs whose differences are about normal, and covers the variation between pairs only:
    accuracies on shared test sequences belong in `seeds_test`. Fewer than three pairs give neither interval nor p;
    differences that are all the same have no spread to test by, and give p = 1 where they are zero, else none.

    Args:
        first: One value for each pair.
        second: The other model's values for the same pairs, in the same order.
        unit: What a pair is.

    Raises:
        ValueError: If the lengths differ, there are no pairs, or a value is not finite.
    """
    one, two = _as_values("first", first), _as_values("second", second)
    if len(one) != len(two):
        raise ValueError(f"first and second must hold one value for each {unit}, got {len(one)} and {len(two)}.")
    differences = one - two
    mean, n = float(differences.mean()), len(differences)
    if n < FEWEST_SEEDS:
        reason = TOO_FEW if unit == "seed" else f"too few {unit}s"
        return PairedTest(mean, math.nan, math.nan, math.nan, n, unit, reason=reason)
    if _has_no_spread(differences, max(np.abs(one).max(), np.abs(two).max())):
        if not differences.any():
            return PairedTest(mean, math.nan, math.nan, 1.0, n, unit)
        return PairedTest(mean, math.nan, math.nan, math.nan, n, unit, reason=NO_SPREAD)
    exponent, scaled, error = _scaled_mean(differences)
    half = float(np.ldexp(special.stdtrit(n - 1, 0.975) * error, exponent))
    p_value = float(2 * special.stdtr(n - 1, -abs(scaled) / error))
    return PairedTest(mean, mean - half, mean + half, p_value, n, unit)


def adjust(tests: Mapping[Key, PairedTest]) -> dict[Key, PairedTest]:
    """Correct the p values of all comparisons of one table for their number, by Holm's method.

    In at most 5 % of tables any true null hypothesis has a corrected p below 0.05, however the tests depend on each
    other. Comparisons without a p are not counted.
    """
    order = sorted((key for key in tests if not math.isnan(tests[key].p_value)), key=lambda key: tests[key].p_value)
    adjusted, largest = dict(tests), 0.0
    for rank, key in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * tests[key].p_value))
        adjusted[key] = replace(tests[key], adjusted=largest)
    return adjusted


def p_text(test: PairedTest) -> str:
    """Format the corrected p as `p = 0.012` or `p < 0.001`, or return why there is none."""
    if test.reason:
        return test.reason
    return "p < 0.001" if test.adjusted < 0.001 else f"p = {test.adjusted:.3f}"


def _exponent(values: np.ndarray, bounds: tuple[float, float]) -> int:
    """The exponent of two for values without bounds, as that of `_scaled_mean`; 0 for values with bounds."""
    return 0 if math.isfinite(bounds[1] - bounds[0]) else math.frexp(float(np.abs(values).max()))[1]


def _scaled(ends: tuple[Any, Any], exponent: int) -> tuple[float, float]:
    """Multiply both ends of an interval by a power of two."""
    low, high = (float(np.ldexp(end, exponent)) for end in ends)
    return low, high


def _scaled_mean(values: np.ndarray) -> tuple[int, float, float]:
    """An exponent of two, and the mean over that power with its standard error.

    The squares of very small or large values themselves would vanish or overflow.
    """
    exponent = math.frexp(float(np.abs(values).max()))[1]
    scaled = np.ldexp(values, -exponent)
    return exponent, float(scaled.mean()), float(scaled.std(ddof=1)) / math.sqrt(len(values))


def _has_no_spread(values: np.ndarray, size: float) -> bool:
    """Whether `values`, computed from numbers up to `size`, differ by no more than rounding."""
    return bool(np.ptp(values) <= 1e-12 * size)


def _as_rates(argument: str, values: Sequence[Sequence[float]], bounds: tuple[float, float]) -> np.ndarray:
    counts = sorted({len(row) for row in values if isinstance(row, Sized)}) if isinstance(values, Sized) else []
    if len(counts) > 1:
        several = ", ".join(map(str, counts))
        raise ValueError(f"{argument} must hold the same sequences for each seed, got {several}.")
    array = _as_numbers(argument, values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{argument} must be a list of sequences for each seed, got shape {array.shape}.")
    low, high = bounds
    wrong = array[~((array >= low) & (array <= high) & np.isfinite(array))]
    if wrong.size:
        advice = " Divide by the number of draws." if bounds == (0, 1) else ""
        raise ValueError(f"{argument} must lie in [{low:g}, {high:g}], got {wrong[0]:g}.{advice}")
    return array


def _as_values(argument: str, values: Sequence[float]) -> np.ndarray:
    array = _as_numbers(argument, values)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{argument} must be a list of at least one number, got shape {array.shape}.")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(f"{argument} must be finite, got {bad} NaN or infinite values of {len(array)}.")
    return array


def _as_numbers(argument: str, values: object) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{argument} must hold real numbers only, got {values!r:.60}.") from None


def _quantile(confidence: float) -> float:
    check_number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence:g}.")
    return 0.5 + confidence / 2
