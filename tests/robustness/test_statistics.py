import math

import numpy as np
import pytest
from scipy import stats

from noisyrnn.robustness import accuracy_interval, mean_interval, paired_test


def test_mean_interval_is_students():
    values = [0.91, 0.88, 0.95, 0.9]
    interval = mean_interval(values, confidence=0.9)
    low, high = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((np.mean(values), low, high), rel=1e-12)
    assert (interval.count, interval.covers) == (4, "90 % Student t interval over 4 values")


def test_mean_interval_of_one_value_has_no_ends():
    interval = mean_interval([0.5])
    assert interval.mean == 0.5 and math.isnan(interval.low) and math.isnan(interval.high)
    assert (interval.count, interval.covers) == (1, "one value, so no interval")


def test_mean_interval_covers_as_often_as_it_says():
    rng, trials = np.random.default_rng(1), 2000
    hits = 0
    for _ in range(trials):
        interval = mean_interval(rng.normal(0.3, 2.0, size=3).tolist())
        hits += interval.low <= 0.3 <= interval.high
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_accuracy_interval_of_one_draw_is_wilsons():
    correct = [1] * 37 + [0] * 13
    interval = accuracy_interval(correct, draws=1)
    low, high = stats.binomtest(37, 50).proportion_ci(0.95, method="wilson")
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.74, low, high), rel=1e-12)
    assert interval.covers == "95 % interval over 50 test sequences and 1 draws, for one trained model"


@pytest.mark.parametrize("p", [0, 1])
def test_accuracy_interval_at_the_ends_is_wilsons_whatever_the_draws(p):
    interval = accuracy_interval([5 * p] * 50, draws=5)
    low, high = stats.binomtest(50 * p, 50).proportion_ci(0.95, method="wilson")
    assert (interval.mean, interval.low, interval.high) == pytest.approx((p, low, high), abs=1e-12)


def test_accuracy_interval_is_no_wider_than_one_draw_and_no_narrower_than_independent_ones():
    same = accuracy_interval([5] * 30 + [0] * 20, draws=5)  # the draws agree: 50 answers
    spread = accuracy_interval([3] * 50, draws=5)  # no spread: at best 250 answers
    exact = accuracy_interval([1] * 50, draws=2)  # here the variance is zero to the last bit
    one = stats.binomtest(30, 50).proportion_ci(0.95, method="wilson")
    many = stats.binomtest(150, 250).proportion_ci(0.95, method="wilson")
    assert (same.low, same.high) == pytest.approx(tuple(one), rel=1e-12)
    assert (spread.low, spread.high) == pytest.approx(tuple(many), rel=1e-12)
    hundred = stats.binomtest(50, 100).proportion_ci(0.95, method="wilson")
    assert (exact.low, exact.high) == pytest.approx(tuple(hundred), rel=1e-12)


@pytest.mark.parametrize("draws", [1, 5])
def test_accuracy_interval_covers_as_often_as_it_says(draws):
    # Each sequence has its own chance of a right answer, Beta(2, 0.5): mean 0.8.
    rng, trials, n = np.random.default_rng(2), 2000, 200
    chance = rng.beta(2.0, 0.5, size=(trials, n))
    correct = rng.binomial(draws, chance)
    hits = sum(i.low <= 0.8 <= i.high for i in (accuracy_interval(row.tolist(), draws=draws) for row in correct))
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_paired_test_is_scipys():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.9, 0.1, 7), rng.normal(0.8, 0.1, 7)
    ours, theirs = (
        paired_test(first.tolist(), second.tolist(), confidence=0.9, unit="seed"),
        stats.ttest_rel(first, second),
    )
    low, high = theirs.confidence_interval(0.9)
    assert (ours.low, ours.high, ours.p_value) == pytest.approx((low, high, theirs.pvalue), rel=1e-10)
    assert ours.difference == pytest.approx(first.mean() - second.mean(), rel=1e-12)
    assert (ours.pairs, ours.unit) == (7, "seed")


def test_paired_test_without_spread():
    equal, apart = paired_test([0.5, 0.25], [0.5, 0.25]), paired_test([0.75, 0.5], [0.5, 0.25], unit="sequence")
    assert (equal.difference, equal.low, equal.high, equal.p_value) == (0, 0, 0, 1)
    assert (apart.difference, apart.low, apart.high, apart.p_value, apart.unit) == (0.25, 0.25, 0.25, 0, "sequence")


def test_paired_test_of_one_pair_says_nothing():
    test = paired_test([0.75], [0.5])
    assert (test.difference, test.pairs) == (0.25, 1)
    assert all(math.isnan(value) for value in (test.low, test.high, test.p_value))


def test_messages():
    with pytest.raises(ValueError, match=r"^first and second must hold one value for each seed, got 3 and 2\.$"):
        paired_test([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"^values must be a list of at least one number, got shape \(0,\)\.$"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"^second must be finite, got 1 NaN or infinite values of 2\.$"):
        paired_test([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match=r"^confidence must lie in \(0, 1\), got 95\.$"):
        mean_interval([1, 2], confidence=95)
    with pytest.raises(ValueError, match=r"^correct must lie in \[0, 5\], the number of draws, got 6\.$"):
        accuracy_interval([1, 6], draws=5)
    with pytest.raises(ValueError, match=r"^correct must lie in \[0, 5\], the number of draws, got -1\.$"):
        accuracy_interval([-1, 6], draws=5)
