"""Intervals and paired tests, each stating what it covers, and the correction for many comparisons.

Accuracies of several trainings on one test set vary for two reasons: another training would give other weights, and
another test set other sequences. All trainings share the test sequences. One rule serves every accuracy and every
difference of accuracies (`Crossed`): a few sequences that all trainings get right and as many that all get wrong are
added to the N of the test set, which leaves M; then

    V = variance of a sequence's mean over seeds / M + (variance between seeds - explained) / seeds

where `explained` is what the noise of single answers gives, and V is not below half of its first part. The quantile is
Student's with `(seeds - 1) / w` degrees of freedom; `w` is the share of V that is known from the seeds only. So the
rule is the plain t interval where trainings or single answers decide, and a binomial interval over test sequences where
those decide; the sequences added stand for the hard ones that a small test set may lack. `docs/statistics.md` has its
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

ADDED = 0.75
"""Sequences added to the test set, half of them right and half wrong, in units of z²; Agresti and Coull add 1."""

ADDED_DIFFERENCES = 0.25
"""The same for differences, half in favour of each model."""

SIGNIFICANCE = 0.05
"""A larger p, corrected for the number of comparisons, counts as a tie."""

TRAININGS = "trainings and test sequences"
SEQUENCES = "test sequences, for these trained models"
VALUES = "trainings"
TOO_FEW = "too few seeds"
NO_SPREAD = "no spread"

_NORMAL = 1e9
"""Degrees of freedom from which Student's distribution is computed as the normal one."""

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


@dataclass(frozen=True)
class Crossed:
    """Trainings crossed with test sequences: the mean and variances that intervals and tests are computed from.

    Args:
        seeds: Number of trainings.
        sequences: Number of test sequences, N.
        mean: Mean answer, or mean difference of two models' answers. This and what follows are arrays of one shape.
        between: Variance of the seeds' means.
        across: Variance of the sequences' means over seeds, with divisor N.
        rest: Variance of an answer that neither its training nor its sequence explains.
        least: Smallest possible answer: 0, or -1 for a difference.
    """

    seeds: int
    sequences: int
    mean: np.ndarray
    between: np.ndarray
    across: np.ndarray
    rest: np.ndarray
    least: int = 0

    @classmethod
    def of(cls, rates: np.ndarray, *, least: int = 0) -> "Crossed":
        """Computed from answers of shape `(..., seeds, sequences)`."""
        seeds, sequences = rates.shape[-2:]
        by_seed, by_sequence, mean = rates.mean(axis=-1), rates.mean(axis=-2), rates.mean(axis=(-2, -1))
        rest = rates - by_seed[..., None] - by_sequence[..., None, :] + mean[..., None, None]
        return cls(
            seeds,
            sequences,
            mean,
            by_seed.var(axis=-1, ddof=1) if seeds > 1 else np.zeros_like(mean),
            by_sequence.var(axis=-1),
            (rest**2).sum(axis=(-2, -1)) / (max(1, seeds - 1) * max(1, sequences - 1)),
            least,
        )

    def estimate(self, quantile: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre, variance of the centre, and degrees of freedom, after sequences of extreme answers were added.

        The variance is at least half of that of a mean over test sequences for these trainings, and all of it for
        differences, which are tested. Fewer than three seeds leave out the variance between trainings.
        """
        added, floor = (ADDED_DIFFERENCES, 1.0) if self.least < 0 else (ADDED, 0.5)
        added *= float(special.ndtri(quantile)) ** 2
        size = self.sequences + added
        centre = (self.sequences * self.mean + added * (self.least + 1) / 2) / size
        squares = self.sequences * (self.across + self.mean**2) + added * (self.least**2 + 1) / 2
        across = squares / size - centre**2
        if self.seeds < FEWEST_SEEDS:
            return centre, across / size, np.full_like(centre, math.inf)
        shrink = (self.sequences / size) ** 2  # The added sequences are the same for every seed.
        part = shrink * self.between / self.seeds
        noise = shrink * self.rest / (self.seeds * self.sequences)
        variance = np.maximum(floor * across / size, across / size - noise + part)
        with np.errstate(divide="ignore"):
            return centre, variance, (self.seeds - 1) * np.maximum(1.0, variance / part)

    def interval(self, quantile: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, within the range of the answers; the mean lies between them."""
        centre, variance, freedom = self.estimate(quantile)
        half = _student(quantile, freedom) * np.sqrt(variance)
        low, high = np.minimum(self.mean, centre - half), np.maximum(self.mean, centre + half)
        return np.maximum(self.least, low), np.minimum(1.0, high)

    def p_value(self, differing: np.ndarray) -> np.ndarray:
        """Two-sided p of a mean of zero, where `differing` sequences have a mean other than zero.

        It is not below that of the paired t test over seeds: few seeds are now and then alike by chance, and without
        this bound a correction for many comparisons would pick out those.
        """
        centre, variance, freedom = self.estimate(0.975)
        p = _two_sided(np.abs(centre) / np.sqrt(variance), freedom)
        error = np.sqrt(self.between / self.seeds)
        with np.errstate(divide="ignore", invalid="ignore"):
            over_seeds = _two_sided(np.abs(self.mean) / error, np.asarray(self.seeds - 1.0))
        sign = np.minimum(1.0, 2.0 ** (1 - np.minimum(differing, 1000.0)))
        return np.asarray(np.fmax(np.fmax(p, sign), over_seeds))


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
    half = float(special.stdtrit(n - 1, quantile)) * float(array.std(ddof=1)) / math.sqrt(n)
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
    half = float(special.stdtrit(n - 1, 0.975)) * error
    return PairedTest(mean, mean - half, mean + half, float(2 * special.stdtr(n - 1, -abs(mean) / error)), n, unit)


def seeds_interval(correct: Sequence[Sequence[float]], *, confidence: float = 0.95) -> Interval:
    """Mean accuracy over trainings on one test set, with an interval over trainings and test sequences.

    Student's interval at the variance of two-way crossed samples, after 0.375 z² sequences (1.44 at 95 %) that all
    trainings get right and as many that all get wrong were added. It stays in [0, 1] and has a width even where all
    seeds agree. Fewer than three seeds give the part of the test sequences only: it then holds for these trained
    models, and `covers` says so.

    Args:
        correct: For each seed, and in it for each test sequence, the share of draws classified correctly, in [0, 1].
            All seeds have the same sequences in the same order.
        confidence: In (0, 1).

    Raises:
        ValueError: If the seeds do not have equally many sequences, or a share is out of range.

    Example:
        >>> interval = seeds_interval([[1.0] * 50] * 3)
        >>> interval.mean, round(interval.low, 3), interval.high, interval.covers
        (1.0, 0.929, 1.0, 'trainings and test sequences')
    """
    rates = _rates("correct", correct)
    low, high = Crossed.of(rates).interval(_quantile(confidence))
    covers = SEQUENCES if len(rates) < FEWEST_SEEDS else TRAININGS
    return Interval(float(rates.mean()), float(low), float(high), len(rates), covers)


def seeds_test(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> PairedTest:
    """Test of two models trained with the same seeds and evaluated on the same test sequences, first minus second.

    Both the trainings and the test sequences are samples: p and the 95 % interval are about another training on another
    test set. They follow `seeds_interval`, with 0.125 z² sequences added in favour of each model, and the variance of
    the test sequences counted in full. p is never below that of the paired t test over seeds, nor below 2^(1 - k),
    where k sequences were answered differently: what a sign test of them allows. Fewer than three seeds give no p, and
    an interval over test sequences for these trained models.

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
    crossed, seeds = Crossed.of(differences, least=-1), len(differences)
    low, high = (float(end) for end in crossed.interval(0.975))
    mean = float(crossed.mean)
    if seeds < FEWEST_SEEDS:
        return PairedTest(mean, low, high, math.nan, seeds, "seed", SEQUENCES, TOO_FEW)
    p = float(crossed.p_value((differences.mean(axis=0) != 0).sum()))
    return PairedTest(mean, low, high, p, seeds, "seed", TRAININGS)


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

    The normal interval at the variance of the sequences' shares of right draws, after 0.375 z² sequences that were
    always right and as many that were always wrong were added. One draw makes it a narrower interval of Agresti and
    Coull's kind, :math:`q \pm z \sqrt{q (1 - q) / m}` with :math:`m = n + 0.75 z^2`, :math:`q = (k + 0.375 z^2) / m`.
    It covers another sample of sequences and other draws, for this model; not another training.

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
    crossed = Crossed.of(counts[None] / draws)
    low, high = (float(end) for end in crossed.interval(quantile))
    covers = f"{100 * confidence:g} % interval over {n} test sequences and {draws} draws, for one trained model"
    return Interval(float(counts.mean()) / draws, low, high, n, covers)


def _student(quantile: float, freedom: np.ndarray) -> np.ndarray:
    return np.asarray(special.stdtrit(np.minimum(freedom, _NORMAL), quantile))


def _two_sided(t: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    return np.asarray(2 * special.stdtr(np.minimum(freedom, _NORMAL), -t))


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
