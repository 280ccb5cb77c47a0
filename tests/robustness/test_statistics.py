import math

import numpy as np
import pytest
from benchmarks.intervals import Draws, coverage, hard, latent, nested, pairs, populations, positives, power
from scipy import stats

from noisyrnn.robustness import (
    PairedTest,
    accuracy_interval,
    adjust,
    mean_interval,
    paired_test,
    seeds_interval,
    seeds_test,
)


def test_mean_interval_is_students():
    values = [0.91, 0.88, 0.95, 0.9]
    interval = mean_interval(values, confidence=0.9)
    low, high = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((np.mean(values), low, high), rel=1e-12)
    assert (interval.count, interval.covers) == (4, "90 % Student t interval over 4 values")


@pytest.mark.parametrize(
    ("values", "covers"),
    [
        ([0.5], "no interval: fewer than 3 values"),
        ([0.5, 0.25], "no interval: fewer than 3 values"),
        ([0.1 + 0.2, 0.3, 0.3], "no interval: the values have no spread"),
        ([0.0, 0.0, 0.0], "no interval: the values have no spread"),
    ],
)
def test_mean_interval_without_spread_has_no_ends(values, covers):
    interval = mean_interval(values)
    assert interval.mean == pytest.approx(np.mean(values)) and math.isnan(interval.low) and math.isnan(interval.high)
    assert (interval.count, interval.covers) == (len(values), covers)


def test_mean_interval_covers_as_often_as_it_says():
    rng, trials = np.random.default_rng(1), 2000
    hits = 0
    for _ in range(trials):
        interval = mean_interval(rng.normal(0.3, 2.0, size=3).tolist())
        hits += interval.low <= 0.3 <= interval.high
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def binomial(right: float, sequences: float, confidence: float = 0.95) -> tuple[float, float]:
    """Agresti and Coull's interval with three quarters of the answers they add."""
    z = stats.norm.ppf(0.5 + confidence / 2)
    size = sequences + 0.75 * z**2
    centre = (right + 0.375 * z**2) / size
    half = z * math.sqrt(centre * (1 - centre) / size)
    return max(0.0, centre - half), min(1.0, centre + half)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("right", [0, 37, 50])
def test_accuracy_interval_of_one_draw_is_that_of_binomial_answers(right, confidence):
    interval = accuracy_interval([1] * right + [0] * (50 - right), draws=1, confidence=confidence)
    expected = (right / 50, *binomial(right, 50, confidence))
    assert (interval.mean, interval.low, interval.high) == pytest.approx(expected, abs=1e-8)
    assert (
        interval.covers == f"{100 * confidence:g} % interval over 50 test sequences and 1 draws, for one trained model"
    )


@pytest.mark.parametrize("sequences", [15, 50, 200, 1000])
def test_accuracy_interval_covers_at_every_accuracy(sequences):
    # Exact, from the binomial probabilities; Wilson's interval covers 91 % at an accuracy of 0.99 on 50 sequences.
    counts = np.arange(sequences + 1)
    ends = [accuracy_interval([1] * k + [0] * (sequences - k), draws=1) for k in counts]
    low, high = np.array([(one.low, one.high) for one in ends]).T
    for accuracy in (*np.linspace(0.5, 0.98, 49), 0.985, 0.99, 0.995, 0.999, 1.0):
        held = (low <= accuracy) & (accuracy <= high)
        assert stats.binom.pmf(counts, sequences, accuracy)[held].sum() > 0.93, accuracy


def test_accuracy_interval_of_draws_that_agree_is_that_of_one_draw():
    same = accuracy_interval([5] * 30 + [0] * 20, draws=5)
    assert (same.low, same.high) == pytest.approx(binomial(30, 50), abs=1e-8)
    spread = accuracy_interval([3] * 50, draws=5)  # the sequences are alike: only those added vary
    assert 0 < spread.high - spread.low < (same.high - same.low) / 2


@pytest.mark.parametrize("draws", [1, 5])
def test_accuracy_interval_covers_as_often_as_it_says(draws):
    # Each sequence has its own chance of a right answer, Beta(2, 0.5): mean 0.8.
    rng, trials, n = np.random.default_rng(2), 2000, 200
    chance = rng.beta(2.0, 0.5, size=(trials, n))
    correct = rng.binomial(draws, chance)
    hits = sum(i.low <= 0.8 <= i.high for i in (accuracy_interval(row.tolist(), draws=draws) for row in correct))
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("seeds", [3, 20])
@pytest.mark.parametrize("right", [0, 50, 40])
def test_seeds_that_agree_have_the_interval_of_their_test_set(seeds, right):
    interval = seeds_interval([[1] * right + [0] * (50 - right)] * seeds)
    expected = (right / 50, *binomial(right, 50))
    assert (interval.mean, interval.low, interval.high) == pytest.approx(expected, abs=1e-8)
    assert (interval.count, interval.covers) == (seeds, "trainings and test sequences")


def test_seeds_that_differ_much_have_students_interval():
    # On 10 000 sequences the spread between seeds, 0.1, is all that matters.
    accuracies = [0.4, 0.5, 0.6, 0.5]
    rng = np.random.default_rng(0)
    interval = seeds_interval(
        [rng.permutation(np.repeat([1, 0], [int(1e4 * a), int(1e4 - 1e4 * a)])) for a in accuracies]
    )
    low, high = stats.t.interval(0.95, 3, loc=0.5, scale=stats.sem(accuracies))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.001)


def test_an_interval_stays_within_zero_and_one():
    # 38.0 ± 152.5 % of two seeds; two seeds hold for these models only, and say so.
    two = seeds_interval([[1] * 13 + [0] * 37, [1] * 25 + [0] * 25])
    assert 0 < two.low < 0.38 < two.high < 0.6
    assert two.covers == "test sequences, for these trained models"
    three = seeds_interval([[1] * 50, [0] * 50, [1] * 49 + [0]])
    assert (three.low, three.high) == (0.0, 1.0)


def test_an_interval_needs_the_variance_between_seeds_and_of_the_test_set():
    rng = np.random.default_rng(5)
    sequences = rng.random((1, 200)) < 0.9
    agree = np.repeat(sequences, 5, axis=0)
    differ = agree & (rng.random((5, 200)) < np.linspace(0.8, 1.0, 5)[:, None])
    widths = [one.high - one.low for one in (seeds_interval(agree), seeds_interval(differ))]
    accuracies = differ.mean(axis=1)
    students = 2 * stats.t.ppf(0.975, 4) * stats.sem(accuracies)
    assert widths[0] > 0.07 and widths[1] > students


def test_no_width_is_zero_where_seeds_and_sequences_vary_less_than_chance():
    # Each of three seeds is wrong on another sequence: no spread between seeds, little between sequences.
    rates = np.ones((3, 50))
    rates[range(3), range(3)] = 0
    interval = seeds_interval(rates.tolist())
    assert interval.low < 0.95 and interval.high > 0.98


def test_hard_sequences_that_a_small_test_set_lacks_are_allowed_for():
    # One sequence in thirty is wrong for every training, but none of these fifty: not known from twenty seeds either.
    rng = np.random.default_rng(3)
    interval = seeds_interval((rng.random((20, 50)) < 0.97).tolist())
    assert interval.low < 0.97 * 29 / 30 < interval.mean


CASES = [
    latent(0.5, 0.0, 0.0),
    latent(0.8, 0.2 / 3, 0.3),
    latent(0.95, 0.005, 0.8),
    hard(0.01, 1.0, 0.0),
    hard(0.025, 1 - 0.05 / 1.95, 0.0),  # half of the errors are on sequences that no training gets right
    hard(0.0, 1.0, 0.0),
]


@pytest.mark.parametrize("sequences", [50, 200])
def test_coverage(sequences):
    trials = 1500
    for seeds, found in coverage(CASES, sequences=sequences, trials=trials, seed=1).items():
        for case, one in zip(CASES, found, strict=True):
            assert one.shares[0] > 0.93 - 3 * math.sqrt(0.93 * 0.07 / trials), (seeds, case.name)
            assert one.widths[0] > 0


def test_width_where_seeds_decide_is_students():
    (found,) = coverage([latent(0.8, 0.2 / 3, 0.0)], sequences=500, trials=500, seed=1, seeds=(5,))[5]
    assert 0.97 < found.widths[0] / found.widths[1] < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("sequences", [50, 200, 500, 10_000])
def test_coverage_everywhere(sequences):
    cases, trials = list(populations()), 500 if sequences == 10_000 else 4000
    for seeds, found in coverage(cases, sequences=sequences, trials=trials, seed=1).items():
        for case, one in zip(cases, found, strict=True):
            assert one.shares[0] > 0.93 - 3.5 * math.sqrt(0.93 * 0.07 / trials), (seeds, case.name)


@pytest.mark.parametrize("own", [False, True])
def test_false_positives(own):
    cases, tables, columns = [latent(0.5, 0.13, 0.0), hard(0.05, 0.95, 0.01)], 400, 10
    found = positives(cases, models=3, columns=columns, sequences=100, trials=tables, seed=1, own=own, seeds=(3, 5))
    for seeds, rows in found.items():
        for case, one in zip(cases, rows, strict=True):
            assert one.single < 0.07 + 3 * math.sqrt(0.07 * 0.93 / tables / columns), (seeds, case.name)
            assert one.table < 0.07 + 2 * math.sqrt(0.07 * 0.93 / tables), (seeds, case.name)


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("sequences", [50, 200])
def test_false_positives_everywhere(sequences, own):
    cases, trials = list(populations())[::2], 500
    found = positives(cases, models=3, columns=10, sequences=sequences, trials=trials, seed=1, own=own)
    for seeds, rows in found.items():
        for case, one in zip(cases, rows, strict=True):
            assert one.single < 0.07 + 3.5 * math.sqrt(0.07 * 0.93 / trials / 10), (seeds, case.name)
            assert one.table < 0.07 + 3.5 * math.sqrt(0.07 * 0.93 / trials), (seeds, case.name)


def test_power_is_that_of_the_plain_test_where_that_is_valid():
    ours, students = power(sequences=2000, trials=100, seed=1, seeds=(5,))[5]
    assert students > 0.5 and ours > students - 0.15


@pytest.mark.parametrize("seeds", [3, 7])
def test_the_simulation_computes_what_the_package_does(seeds):
    draws = Draws(np.random.default_rng(4), 20, 2 * seeds, 60)
    answers = latent(0.8, 0.1, 0.5).answers(draws).reshape(20, 2, seeds, 60)
    (one,) = nested(np.ascontiguousarray(answers[:, 0]), (seeds,))
    ends = [seeds_interval(rates) for rates in answers[:, 0]]
    expected = np.array([(i.low, i.high) for i in ends])
    np.testing.assert_allclose(np.stack(one.interval(0.975), axis=1), expected, rtol=0, atol=1e-10)
    ((both, differing),) = pairs(answers, (seeds,))
    tests = [seeds_test(first, second) for first, second in answers]
    assert both.p_value(differing)[:, 0] == pytest.approx(np.array([test.p_value for test in tests]), rel=1e-8)
    ends = [(test.low, test.high) for test in tests]
    np.testing.assert_allclose(np.stack(both.interval(0.975), axis=2)[:, 0], ends, rtol=0, atol=1e-10)


def test_paired_test_is_scipys():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.9, 0.1, 7), rng.normal(0.8, 0.1, 7)
    ours, theirs = paired_test(first.tolist(), second.tolist()), stats.ttest_rel(first, second)
    low, high = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high, ours.p_value) == pytest.approx((low, high, theirs.pvalue), rel=1e-10)
    assert ours.difference == pytest.approx(first.mean() - second.mean(), rel=1e-12)
    assert (ours.pairs, ours.unit, ours.reason, ours.covers) == (7, "seed", "", "trainings")


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ([0.75], [0.5], "too few seeds"),
        ([0.96, 0.94], [0.90, 0.88], "too few seeds"),
        ([0.96, 0.94, 0.95], [0.90, 0.88, 0.89], "no spread"),
    ],
)
def test_no_p_where_the_seeds_do_not_allow_one(first, second, reason):
    test = paired_test(first, second)
    assert test.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert (test.pairs, test.reason) == (len(first), reason)
    assert all(math.isnan(value) for value in (test.low, test.high, test.p_value))


@pytest.mark.parametrize("factor", [2.0**-1000, 2.0**-600, 2.0**600, 2.0**1000])
def test_intervals_and_p_do_not_depend_on_the_size_of_the_values(factor):
    """A certified margin may be 1e-201, whose square vanishes."""
    first, second = np.array([0.91, 0.88, 0.95]), np.array([0.5, 0.62, 0.57])
    plain, scaled = paired_test(first, second), paired_test(factor * first, factor * second)
    assert (scaled.low, scaled.high, scaled.p_value) == (factor * plain.low, factor * plain.high, plain.p_value)
    plain, scaled = mean_interval(first), mean_interval(factor * first)
    assert (scaled.low, scaled.high) == (factor * plain.low, factor * plain.high)
    assert paired_test([0.0, 0.0, 0.0], [3e-279, 2e-201, 3e-254]).p_value == pytest.approx(0.4226, abs=1e-4)


def test_no_difference_at_all_has_a_p_of_one():
    test = paired_test([0.5, 0.25, 0.75], [0.5, 0.25, 0.75])
    assert (test.difference, test.p_value, test.reason) == (0, 1, "")
    same = seeds_test([[1, 0, 1, 1]] * 3, [[1, 0, 1, 1]] * 3)
    assert (same.difference, same.p_value) == (0, 1) and same.low < 0 < same.high


def test_two_seeds_and_fifty_sequences_give_no_p():
    # A page printed "-8.0 [-8.0, -8.0] p < 0.001" for such a pair.
    first, second = [[1] * 42 + [0] * 8] * 2, [[1] * 46 + [0] * 4] * 2
    test = seeds_test(first, second)
    assert (test.difference, test.pairs, test.reason) == (pytest.approx(-0.08), 2, "too few seeds")
    assert math.isnan(test.p_value)
    assert test.covers == "test sequences, for these trained models"
    # Four of fifty sequences differ, and half a sequence is added in favour of each model.
    z = stats.norm.ppf(0.975)
    size = 50 + z**2 / 4
    centre = -4 / size
    half = z * math.sqrt(((4 + z**2 / 4) / size - centre**2) / size)
    assert (test.low, test.high) == pytest.approx((centre - half, centre + half), rel=1e-6)


def test_equal_differences_are_tested_by_the_sequences_they_rest_on():
    # One model alone is right on 30 of 200 sequences, the other on 10, with every seed.
    first, second = [[1] * 190 + [0] * 10] * 3, [[0] * 30 + [1] * 170] * 3
    test = seeds_test(first, second)
    size = 200 + stats.norm.ppf(0.975) ** 2 / 4
    error = math.sqrt(((40 + size - 200) / size - (20 / size) ** 2) / size)
    assert test.p_value == pytest.approx(2 * stats.norm.sf(20 / size / error), rel=1e-6)
    assert 0 < test.low < 0.1 < test.high


@pytest.mark.parametrize("seeds", [3, 20])
def test_no_p_is_below_that_of_a_sign_test(seeds):
    first, second = [[1] * 1000] * seeds, [[0] * 4 + [1] * 996] * seeds
    assert seeds_test(first, second).p_value >= stats.binomtest(4, 4).pvalue == 0.125


def test_a_test_over_seeds_is_students_where_the_seeds_decide():
    rng = np.random.default_rng(2)
    accuracies = np.array([[0.5, 0.6, 0.72], [0.3, 0.42, 0.5]])
    correct = rng.random((2, 3, 20_000)) < accuracies[..., None]
    test, plain = seeds_test(correct[0], correct[1]), stats.ttest_rel(*correct.mean(axis=2))
    assert test.p_value == pytest.approx(plain.pvalue, rel=0.15)


def test_holm_is_the_textbooks():
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": math.nan}
    tests = {key: PairedTest(0.1, 0.0, 0.2, p, 3, "seed") for key, p in p_values.items()}
    adjusted = {key: test.adjusted for key, test in adjust(tests).items()}
    assert [adjusted[key] for key in "abcd"] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(adjusted["e"])
    assert [key for key, test in adjust(tests).items() if test.significant] == ["a", "d"]
    assert list(adjust(tests)) == list("abcde") and adjust({}) == {}


@pytest.mark.parametrize("exponent", [-1000, -300, 0, 300, 1000])
@pytest.mark.parametrize("seeds", [1, 4])
def test_values_without_bounds_scale(seeds, exponent):
    rng = np.random.default_rng(3)
    first, second = rng.exponential(size=(2, seeds, 30))
    plain, test = seeds_interval(first, bounds=(0.0, math.inf)), seeds_test(first, second, bounds=(0.0, math.inf))
    one, other = np.ldexp(first, exponent), np.ldexp(second, exponent)
    found, tested = seeds_interval(one, bounds=(0.0, math.inf)), seeds_test(one, other, bounds=(0.0, math.inf))
    ends = np.ldexp([plain.mean, plain.low, plain.high], exponent)
    assert [found.mean, found.low, found.high] == ends.tolist()
    ends = np.ldexp([test.difference, test.low, test.high], exponent)
    assert [tested.difference, tested.low, tested.high] == ends.tolist()
    assert tested.p_value == test.p_value or (math.isnan(test.p_value) and math.isnan(tested.p_value))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_error_of_a_single_sequence_has_no_interval(seeds):
    for bounds in ((0.0, math.inf), (-math.inf, 1.0)):
        found = seeds_interval([[0.5]] * seeds, bounds=bounds)
        assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.high)
        tested = seeds_test([[0.5]] * seeds, [[0.25]] * seeds, bounds=bounds)
        assert tested.difference == 0.25 and math.isnan(tested.low) and math.isnan(tested.high)
    assert not math.isnan(seeds_interval([[0.5]] * seeds).low)  # a share has bounds


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
    with pytest.raises(ValueError, match=r"^correct must lie in \[0, 1\], got 5\. Divide by the number of draws\.$"):
        seeds_interval([[1, 5], [0, 0]])
    with pytest.raises(ValueError, match=r"^correct must"):
        seeds_interval([[1, math.nan], [0, 0]])
    with pytest.raises(ValueError, match=r"^correct must hold the same sequences for each seed, got 1, 2\.$"):
        seeds_interval([[1, 0], [1]])
    with pytest.raises(ValueError, match=r"^correct must be a list of sequences for each seed, got shape \(2,\)\.$"):
        seeds_interval([1, 0])
    with pytest.raises(ValueError, match=r"^correct must hold real numbers only, got \[\['a'\]\]\.$"):
        seeds_interval([["a"]])
    with pytest.raises(ValueError, match=r"^values must hold real numbers only, got \[\[1\], \[1, 2\]\]\.$"):
        mean_interval([[1], [1, 2]])
    with pytest.raises(ValueError, match=r"^correct must hold whole numbers of draws, got 1\.5\.$"):
        accuracy_interval([2, 1.5], draws=2)
    with pytest.raises(ValueError, match=r"^first and second must have the same seeds and sequences, got \(2, 2\)"):
        seeds_test([[1, 0], [1, 1]], [[1, 0]])
