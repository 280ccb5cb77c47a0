"""Intervals and a paired test, each saying what it covers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from noisyrnn.checks import check_integer, check_number


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Args:
        mean: The estimate.
        low: Lower end; `nan` where there is nothing to estimate it from.
        high: Upper end, likewise.
        count: Independent values it rests on.
        covers: A sentence: which variability the interval is about.
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
        low: Lower end of its confidence interval.
        high: Upper end.
        p_value: Two-sided, of no difference.
        pairs: Number of pairs.
        unit: What a pair is: `"seed"`, `"sequence"`.
    """

    difference: float
    low: float
    high: float
    p_value: float
    pairs: int
    unit: str


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    r"""Mean of independent values with Student's t interval, :math:`\bar v \pm t_{n-1} s / \sqrt n`.

    It covers what differs between the values (between seeds: initialisation and order of training), not what they
    share (the same test sequences). One value gives no interval: its ends are `nan`.

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
    array = _numbers("values", values)
    quantile = _quantile(confidence)
    mean, n = float(array.mean()), len(array)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1, "one value, so no interval")
    half = _half_width(array, quantile)
    return Interval(mean, mean - half, mean + half, n, f"{100 * confidence:g} % Student t interval over {n} values")


def paired_test(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95, unit: str = "seed"
) -> PairedTest:
    """Paired t test of `first` against `second`, with the interval of their mean difference.

    It assumes independent pairs whose differences are about normal. One pair gives `nan` for interval and p-value.
    Differences that are all the same have no spread: p is then 1 if they are zero, else 0.

    Args:
        first: One value for each unit.
        second: The other model's value for the same units, in the same order.
        confidence: Of the interval, in (0, 1).
        unit: What a pair is.

    Raises:
        ValueError: If the lengths differ, there are no pairs, or a value is not finite.
    """
    one, two = _numbers("first", first), _numbers("second", second)
    if len(one) != len(two):
        raise ValueError(f"first and second must hold one value for each {unit}, got {len(one)} and {len(two)}.")
    quantile = _quantile(confidence)
    differences = one - two
    mean, n = float(differences.mean()), len(differences)
    if n == 1:
        return PairedTest(mean, math.nan, math.nan, math.nan, 1, unit)
    if np.ptp(differences) == 0:
        same = float(differences[0])
        return PairedTest(same, same, same, 1.0 if same == 0 else 0.0, n, unit)
    half = _half_width(differences, quantile)
    t = mean / (float(differences.std(ddof=1)) / math.sqrt(n))
    return PairedTest(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(t), n - 1)), n, unit)


def accuracy_interval(correct: Sequence[int], *, draws: int, confidence: float = 0.95) -> Interval:
    r"""Mean accuracy with an interval over test sequences and draws.

    Wilson's interval at the effective number of sequences :math:`m = n \, p (1 - p) / s^2`, where `p` is the accuracy
    and `s²` the variance, between sequences, of the share of draws that were right. One draw makes it Wilson's own
    (`m = n`). Draws of one sequence are alike, so `m` lies between `n` and `n * draws`; without spread it is `n`
    at accuracy 0 or 1. It covers another sample of sequences and other draws, for this model; not another training.

    Args:
        correct: For each sequence, how many draws were classified correctly, in `[0, draws]`.
        draws: Draws of each sequence.
        confidence: In (0, 1).

    Raises:
        ValueError: If there are no sequences, or a count is out of range.
    """
    check_integer("draws", draws, minimum=1)
    counts = _numbers("correct", correct)
    if counts.min() < 0 or counts.max() > draws:
        worst = counts.min() if counts.min() < 0 else counts.max()
        raise ValueError(f"correct must lie in [0, {draws}], the number of draws, got {worst:g}.")
    quantile = _quantile(confidence)
    n = len(counts)
    p = float(counts.mean()) / draws
    spread, binomial = float((counts / draws).var()), p * (1 - p)
    m = float(n)
    if binomial > 0:
        m = n * draws if spread == 0 else min(max(n * binomial / spread, n), n * draws)
    z = float(stats.norm.ppf(quantile))
    centre = (p + z**2 / (2 * m)) / (1 + z**2 / m)
    half = z / (1 + z**2 / m) * math.sqrt(binomial / m + z**2 / (4 * m**2))
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    covers = f"{100 * confidence:g} % interval over {n} test sequences and {draws} draws, for one trained model"
    return Interval(p, low, high, n, covers)


def _half_width(array: np.ndarray, quantile: float) -> float:
    n = len(array)
    return float(stats.t.ppf(quantile, n - 1) * array.std(ddof=1) / math.sqrt(n))


def _numbers(argument: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{argument} must be a list of at least one number, got shape {array.shape}.")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(f"{argument} must be finite, got {bad} NaN or infinite values of {len(array)}.")
    return array


def _quantile(confidence: float) -> float:
    check_number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence:g}.")
    return 0.5 + confidence / 2
