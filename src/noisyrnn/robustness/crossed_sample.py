"""Variance of accuracies over trainings and test sequences, from which intervals and tests are computed.

Accuracies of several trainings on one test set vary for two reasons: another training would give other weights, and
another test set other sequences. All trainings share the test sequences. One rule serves every accuracy and every
difference of accuracies (`CrossedSample`): a few sequences that all trainings get right and as many that all get wrong
are added to the N of the test set, which gives M; then

    V = variance of a sequence's mean over seeds / M + (variance between seeds - explained) / seeds

where `explained` is the part due to the residual variance of single answers, and V is not below half of its first part.
The quantile is Student's with `(seeds - 1) / w` degrees of freedom; `w` is the share of V that is known from the seeds
only. So the rule is the plain t interval if trainings or single answers dominate, and a binomial interval over test
sequences if those dominate; the added sequences stand for hard ones that a small test set may lack.
`docs/statistics.md` has its coverage and its rate of false positives, by simulation.

Errors of a regression have no largest value, so no sequences are added for them; the variance over sequences has the
divisor N - 1, and the degrees of freedom are at most N - 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

FEWEST_SEEDS = 3
"""Trainings needed to estimate the variation between trainings; fewer give no p value."""

ADDED = 0.75
"""Sequences added to the test set, half of them right and half wrong, in units of z²; Agresti and Coull add 1."""

ADDED_DIFFERENCES = 0.25
"""The same for differences, half in favour of each model."""

_NORMAL = 1e9
"""Degrees of freedom from which Student's distribution is computed as the normal one."""


@dataclass(frozen=True)
class CrossedSample:
    """Answers of trainings crossed with test sequences: mean and variances, from which intervals and tests follow.

    Args:
        seeds: Number of trainings.
        sequences: Number of test sequences, N.
        mean: Mean answer, or mean difference of two models' answers. This and the variances are arrays of one shape.
        between: Variance of the seeds' means.
        across: Variance of the sequences' means over seeds, with divisor N.
        residual: Variance of an answer that neither its training nor its sequence explains.
        bounds: Smallest and largest possible answer: 0 and 1, or -1 and 1 for a difference; infinite without a limit.
    """

    seeds: int
    sequences: int
    mean: np.ndarray
    between: np.ndarray
    across: np.ndarray
    residual: np.ndarray
    bounds: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, rates: np.ndarray, *, bounds: tuple[float, float] = (0.0, 1.0)) -> "CrossedSample":
        """Compute the sample of answers of shape `(..., seeds, sequences)`."""
        seeds, sequences = rates.shape[-2:]
        by_seed, by_sequence, mean = rates.mean(axis=-1), rates.mean(axis=-2), rates.mean(axis=(-2, -1))
        residuals = rates - by_seed[..., None] - by_sequence[..., None, :] + mean[..., None, None]
        return cls(
            seeds,
            sequences,
            mean,
            by_seed.var(axis=-1, ddof=1) if seeds > 1 else np.zeros_like(mean),
            by_sequence.var(axis=-1),
            (residuals**2).sum(axis=(-2, -1)) / (max(1, seeds - 1) * max(1, sequences - 1)),
            bounds,
        )

    def estimate(self, quantile: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return centre, variance of the centre, and degrees of freedom, with the sequences of extreme answers added.

        The variance is at least half of that of a mean over test sequences for these trainings, and all of it for
        differences, which are tested. Fewer than three seeds leave out the variance between trainings.
        """
        low, high = self.bounds
        size, centre, across, most = float(self.sequences), self.mean, self.across, math.inf
        difference = low == -high
        floor = 1.0 if difference else 0.5
        if math.isfinite(high - low):
            added = (ADDED_DIFFERENCES if difference else ADDED) * float(special.ndtri(quantile)) ** 2
            size = self.sequences + added
            centre = (self.sequences * self.mean + added * (low + high) / 2) / size
            squares = self.sequences * (self.across + self.mean**2) + added * (low**2 + high**2) / 2
            across = squares / size - centre**2
        else:
            most = max(1, self.sequences - 1)
            across = across * self.sequences / most
        if self.seeds < FEWEST_SEEDS:
            return centre, across / size, np.full_like(centre, most)
        shrink = (self.sequences / size) ** 2  # The added sequences are the same for every seed.
        between = shrink * self.between / self.seeds
        explained = shrink * self.residual / (self.seeds * self.sequences)
        variance = np.maximum(floor * across / size, across / size - explained + between)
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = (self.seeds - 1) * np.fmax(1.0, variance / between)
        return centre, variance, np.minimum(freedom, most)

    def interval(self, quantile: float) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper end, within the range of the answers; the mean lies between them.

        NaN for a single sequence of answers without a largest value, whose variation is not known.
        """
        if self.sequences == 1 and not math.isfinite(self.bounds[1] - self.bounds[0]):
            unknown = np.full_like(self.mean, np.nan)
            return unknown, unknown
        centre, variance, freedom = self.estimate(quantile)
        half = student_quantile(quantile, freedom) * np.sqrt(variance)
        low, high = np.minimum(self.mean, centre - half), np.maximum(self.mean, centre + half)
        return np.maximum(self.bounds[0], low), np.minimum(self.bounds[1], high)

    def p_value(self, differing: np.ndarray) -> np.ndarray:
        """Return the two-sided p of a mean of zero.

        It is not below that of the paired t test over seeds: few seeds agree now and then by chance, and without this
        bound a correction for many comparisons would select those.

        Args:
            differing: Number of sequences whose mean is not zero; p is not below that of their sign test.
        """
        centre, variance, freedom = self.estimate(0.975)
        with np.errstate(divide="ignore", invalid="ignore"):  # answers without a bound may all be equal
            p = two_sided_p(np.abs(centre) / np.sqrt(variance), freedom)
        error = np.sqrt(self.between / self.seeds)
        with np.errstate(divide="ignore", invalid="ignore"):
            over_seeds = two_sided_p(np.abs(self.mean) / error, np.asarray(self.seeds - 1.0))
        sign = np.minimum(1.0, 2.0 ** (1 - np.minimum(differing, 1000.0)))
        return np.asarray(np.fmax(np.fmax(p, sign), over_seeds))


def student_quantile(quantile: float, freedom: np.ndarray) -> np.ndarray:
    """Quantile of Student's distribution; the normal one for infinite degrees of freedom."""
    return np.asarray(special.stdtrit(np.minimum(freedom, _NORMAL), quantile))


def two_sided_p(t: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Two-sided p of Student's t."""
    return np.asarray(2 * special.stdtr(np.minimum(freedom, _NORMAL), -t))
