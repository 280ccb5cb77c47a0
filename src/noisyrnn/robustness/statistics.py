"""Intervals and paired tests, each stating what it covers, and the correction for many comparisons.

Accuracies of several trainings on one test set vary for two reasons: another training would give other weights, and
another test set other sequences. All trainings share the test sequences, so the variance of their mean is

    V = (variance of a sequence's mean over seeds) / sequences + max(0, variance between seeds - explained) / seeds

where `explained` is what the noise of the single answers gives. Its quantile is Student's with `(seeds - 1) / w`
degrees of freedom; `w` is the share of V that is known from the seeds only. So the rule is the plain t interval where
trainings differ much, and the interval over test sequences where they hardly differ. `docs/statistics.md` has its
coverage and the rate of false positives, by simulation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import special

from noisyrnn.checks import check_integer, check_number

FEWEST_SEEDS = 3
"""Trainings from which the variation between trainings is estimated; fewer give no p value."""

SIGNIFICANCE = 0.05
"""A larger p, corrected for the number of comparisons, counts as a tie."""

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
        low: Lower end; `nan` where there is nothing to estimate it from.
        high: Upper end, likewise.
        count: Independent values it rests on.
        covers: Which variability the interval is about, such as "trainings and test sequences".
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
        low: Lower end of its 95 % interval; `nan` where there is none.
        high: Upper end, likewise.
        p_value: Two-sided, of no difference; `nan` where `reason` states why there is none.
        pairs: Number of pairs.
        unit: What a pair is: `"seed"`, `"sequence"`.
        covers: Which variability interval and p are about.
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


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    r"""Mean of independent values with Student's t interval, :math:`\bar v \pm t_{n-1} s / \sqrt n`.

    It covers what differs between the values (between seeds: initialisation and order of training), not what they
    share (the same test sequences). Fewer than three values, and values without spread, give no interval: its ends are
    `nan`.

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
    if n < FEWEST_SEEDS:
        return Interval(mean, math.nan, math.nan, n, f"no interval: fewer than {FEWEST_SEEDS} values")
    if _no_spread(array, np.abs(array).max()):
        return Interval(mean, math.nan, math.nan, n, "no interval: the values have no spread")
    half = _student(quantile, n - 1) * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, f"{100 * confidence:g} % Student t interval over {n} values")


def paired_test(first: Sequence[float], second: Sequence[float], *, unit: str = "seed") -> PairedTest:
    """Paired t test of `first` against `second`, with the 95 % interval of their mean difference.

    It assumes independent pairs whose differences are about normal, and covers what differs between the pairs only:
    accuracies on shared test sequences belong in `seeds_test`. Fewer than three pairs give neither interval nor p;
    differences that are all the same have no spread to test by, and give p = 1 where they are zero, else none.

    Args:
        first: One value for each unit.
        second: The other model's value for the same units, in the same order.
        unit: What a pair is.

    Raises:
        ValueError: If the lengths differ, there are no pairs, or a value is not finite.
    """
    one, two = _numbers("first", first), _numbers("second", second)
    if len(one) != len(two):
        raise ValueError(f"first and second must hold one value for each {unit}, got {len(one)} and {len(two)}.")
    differences = one - two
    mean, n = float(differences.mean()), len(differences)
    if n < FEWEST_SEEDS:
        reason = TOO_FEW if unit == "seed" else f"too few {unit}s"
        return PairedTest(mean, math.nan, math.nan, math.nan, n, unit, reason=reason)
    if _no_spread(differences, max(np.abs(one).max(), np.abs(two).max())):
        if not differences.any():
            return PairedTest(mean, math.nan, math.nan, 1.0, n, unit)
        return PairedTest(mean, math.nan, math.nan, math.nan, n, unit, reason=NO_SPREAD)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    half = _student(0.975, n - 1) * error
    return PairedTest(mean, mean - half, mean + half, _two_sided(abs(mean) / error, n - 1), n, unit)


def seeds_interval(correct: Sequence[Sequence[float]], *, draws: int = 1, confidence: float = 0.95) -> Interval:
    """Mean accuracy over trainings on one test set, with an interval over trainings and test sequences.

    The part of the test sequences is Wilson's interval at their effective number, as in `accuracy_interval`; the spread
    between seeds that the sequences do not explain is added to its variance on each side. The interval stays in [0, 1]
    and has a width even where all seeds agree. Fewer than three seeds give the part of the test sequences only: it then
    holds for these trained models, and `covers` says so.

    Args:
        correct: For each seed, and in it for each test sequence, the share of draws classified correctly, in [0, 1].
            All seeds have the same sequences in the same order.
        draws: Draws that each share is a mean of.
        confidence: In (0, 1).

    Raises:
        ValueError: If the seeds do not have equally many sequences, or a share is out of range.

    Example:
        >>> interval = seeds_interval([[1.0] * 50] * 3)
        >>> interval.mean, round(interval.low, 3), interval.high, interval.covers
        (1.0, 0.929, 1.0, 'trainings and test sequences')
    """
    check_integer("draws", draws, minimum=1)
    rates = _rates("correct", correct)
    quantile = _quantile(confidence)
    seeds, sequences = rates.shape
    means, mean = rates.mean(axis=0), float(rates.mean())
    size = _effective_sequences(means, mean, largest=seeds * sequences * draws)
    z = float(special.ndtri(quantile))
    low, high = _wilson(mean, size, z)
    covers = SEQUENCES
    if seeds >= FEWEST_SEEDS:
        covers = TRAININGS
        low = mean - _half_width(rates, (mean - low) ** 2 / z**2, quantile)
        high = mean + _half_width(rates, (high - mean) ** 2 / z**2, quantile)
    return Interval(mean, max(0.0, low), min(1.0, high), seeds, covers)


def seeds_test(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> PairedTest:
    """Test of two models trained with the same seeds and evaluated on the same test sequences, first minus second.

    Both the trainings and the test sequences are samples: p and the 95 % interval are about another training on another
    test set. p is never below 2^(1 - k), where k sequences were answered differently: what a sign test of them allows.
    Fewer than three seeds give no p, and an interval over test sequences for these trained models.

    Args:
        first: For each seed, and in it for each test sequence, the share of draws classified correctly, in [0, 1].
        second: The same of the other model, for the same seeds and sequences in the same order.

    Raises:
        ValueError: If the shapes differ, or a share is out of range.
    """
    one, two = _rates("first", first), _rates("second", second)
    if one.shape != two.shape:
        raise ValueError(f"first and second must have the same seeds and sequences, got {one.shape} and {two.shape}.")
    differences = one - two
    seeds, sequences = differences.shape
    means, mean = differences.mean(axis=0), float(differences.mean())
    # At least the variance of one differing sequence: no difference in so many is no proof of none.
    sampling = max(float(means.var(ddof=1)) / sequences if sequences > 1 else 1.0, 1 / sequences**2)
    variance, freedom = _variance(differences, sampling)
    freedom = min(freedom, max(1.0, sequences - 1))
    half = _student(0.975, freedom) * math.sqrt(variance)
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    if seeds < FEWEST_SEEDS:
        return PairedTest(mean, low, high, math.nan, seeds, "seed", SEQUENCES, TOO_FEW)
    p = _two_sided(abs(mean) / math.sqrt(variance), freedom)
    least = min(1.0, 2.0 ** (1 - min(int((means != 0).sum()), 1000)))
    return PairedTest(mean, low, high, max(p, least), seeds, "seed", TRAININGS)


def adjust(tests: Mapping[Key, PairedTest]) -> dict[Key, PairedTest]:
    """`tests` with the p of each corrected for their number by Holm's method: all comparisons of one table at once.

    Among true null hypotheses, one or more have a corrected p below 0.05 in at most 5 % of tables, whatever depends on
    what. Comparisons without a p are not counted and stay without one.
    """
    order = sorted((key for key in tests if not math.isnan(tests[key].p_value)), key=lambda key: tests[key].p_value)
    adjusted, largest = dict(tests), 0.0
    for rank, key in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * tests[key].p_value))
        adjusted[key] = replace(tests[key], adjusted=largest)
    return adjusted


def p_text(test: PairedTest) -> str:
    """`p = 0.012`, `p < 0.001`, or why there is no p; corrected for the comparisons of the table."""
    if test.reason:
        return test.reason
    return "p < 0.001" if test.adjusted < 0.001 else f"p = {test.adjusted:.3f}"


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
    size = _effective_sequences(counts / draws, p, largest=n * draws)
    low, high = _wilson(p, size, float(special.ndtri(quantile)))
    covers = f"{100 * confidence:g} % interval over {n} test sequences and {draws} draws, for one trained model"
    return Interval(p, low, high, n, covers)


def _effective_sequences(rates: np.ndarray, mean: float, *, largest: int) -> float:
    """Number of independent answers with as certain a mean as `rates`, one for each sequence, have."""
    binomial, spread = mean * (1 - mean), float(rates.var())
    if binomial <= 0:
        return float(len(rates))
    return float(largest) if spread == 0 else min(max(len(rates) * binomial / spread, len(rates)), largest)


def _wilson(p: float, size: float, z: float) -> tuple[float, float]:
    centre = (p + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(max(0.0, p * (1 - p)) / size + z**2 / (4 * size**2))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def _half_width(rates: np.ndarray, sampling: float, quantile: float) -> float:
    variance, freedom = _variance(rates, sampling)
    return _student(quantile, freedom) * math.sqrt(variance)


def _variance(rates: np.ndarray, sampling: float) -> tuple[float, float]:
    """Variance of the mean of `rates`, `(seeds, sequences)`, and its degrees of freedom.

    Args:
        rates: Answers, or differences of answers.
        sampling: Variance of the mean over other test sequences, for these seeds.
    """
    seeds, sequences = rates.shape
    if seeds < FEWEST_SEEDS:
        return sampling, math.inf
    by_seed, by_sequence, mean = rates.mean(axis=1), rates.mean(axis=0), rates.mean()
    between = float(by_seed.var(ddof=1))
    # What remains after seed and sequence gives the spread between seeds that their answers' own noise explains.
    rest = rates - by_seed[:, None] - by_sequence[None] + mean
    explained = float((rest**2).sum()) / ((seeds - 1) * max(1, sequences - 1) * sequences)
    variance = sampling + max(0.0, between - explained) / seeds
    share = min(1.0, between / seeds / variance) if variance > 0 else 0.0
    return variance, (seeds - 1) / share if share > 0 else math.inf


def _student(quantile: float, freedom: float) -> float:
    return float(special.ndtri(quantile) if math.isinf(freedom) else special.stdtrit(freedom, quantile))


def _two_sided(t: float, freedom: float) -> float:
    return float(2 * (special.ndtr(-t) if math.isinf(freedom) else special.stdtr(freedom, -t)))


def _no_spread(values: np.ndarray, size: float) -> bool:
    """Whether `values`, computed from numbers up to `size`, differ by no more than rounding."""
    return bool(np.ptp(values) <= 1e-12 * size)


def _rates(argument: str, values: Sequence[Sequence[float]]) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except ValueError:
        counts = ", ".join(map(str, sorted({len(row) for row in values})))
        raise ValueError(f"{argument} must hold the same sequences for each seed, got {counts}.") from None
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{argument} must be a list of sequences for each seed, got shape {array.shape}.")
    wrong = array[~((array >= 0) & (array <= 1))]
    if wrong.size:
        raise ValueError(f"{argument} must lie in [0, 1], got {wrong[0]:g}. Divide by the number of draws.")
    return array


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
