"""Coverage of the 95 % intervals of accuracies, and false positives of the paired test, by simulation.

    python -m benchmarks.intervals [--trials 2000] [--quick]

Populations of trainings and test sequences, at mean accuracies 0.5, 0.8, 0.95, 0.99 and 1:

- latent: an answer is correct if the sum of three normal effects (training, sequence, answer) exceeds a threshold;
- clipped: a training's accuracy is normal, clipped to [0, 1], and its answers are independent;
- hard: all trainings misclassify a share of the sequences: all errors, or half of them with the rest as in clipped;
- beta: each sequence has an error rate with a beta distribution, multiplied by a factor of each training;
- failing (the rule is not meant for it): one training in ten loses a part of its accuracy.

All populations of a row, and all numbers of seeds, are computed from the same random numbers.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special, stats

from noisyrnn.robustness.crossed_sample import CrossedSample

SEEDS = (3, 4, 5, 10, 20)


@dataclass
class Draws:
    """Random numbers for `trials` test sets, drawn at first use: by answer, by training or by sequence."""

    rng: np.random.Generator
    trials: int
    trainings: int
    sequences: int
    _kept: dict[object, np.ndarray] = field(default_factory=dict)

    def _keep(self, key: object, make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _normal(self, name: str, *shape: int) -> np.ndarray:
        return self._keep(name, lambda: self.rng.standard_normal((self.trials, *shape), dtype=np.float32))

    @property
    def training(self) -> np.ndarray:
        """Standard normal for each training."""
        return self._normal("training", self.trainings, 1)

    def latent(self, shared: float) -> np.ndarray:
        """Standard normal for each answer; the sequence contributes the share `shared` of its variance."""
        own = self._normal("own", self.trainings, self.sequences)
        sequence = self._normal("sequence", 1, self.sequences)
        mixed = lambda: own * np.float32(math.sqrt(1 - shared)) + sequence * np.float32(math.sqrt(shared))  # noqa: E731
        return own if shared == 0 else self._keep(shared, mixed)

    @property
    def answer(self) -> np.ndarray:
        """Uniform for each answer."""
        shape = (self.trials, self.trainings, self.sequences)
        return self._keep("answer", lambda: self.rng.random(shape, dtype=np.float32))

    @property
    def sequence(self) -> np.ndarray:
        """Uniform for each sequence."""
        shape = (self.trials, 1, self.sequences)
        return self._keep("hard", lambda: self.rng.random(shape, dtype=np.float32))

    def beta(self, mean: float, concentration: float) -> np.ndarray:
        """Beta distributed for each sequence."""
        shape, one = (self.trials, 1, self.sequences), concentration * mean
        make = lambda: self.rng.beta(one, concentration - one, shape).astype(np.float32)  # noqa: E731
        return self._keep((mean, concentration), make)


@dataclass(frozen=True)
class Population:
    """Trainings and test sequences.

    Args:
        name: Kind and parameters.
        truth: Mean accuracy over trainings and sequences.
        spread: Whether trainings differ.
        answers: Whether each answer is correct, `(trials, trainings, sequences)`.
    """

    name: str
    truth: float
    spread: bool
    answers: Callable[[Draws], np.ndarray]


def latent(accuracy: float, spread: float, shared: float) -> Population:
    """Build the latent population; `spread` is about the standard deviation of accuracy between trainings."""
    slope = float(stats.norm.pdf(special.ndtri(accuracy)))
    training = spread / slope / math.sqrt(1 - min(0.9, (spread / slope) ** 2))
    centre = float(special.ndtri(accuracy)) * math.sqrt(1 + training**2)
    return Population(
        f"latent {accuracy:g}, spread {spread:.2g}, shared {shared:g}",
        accuracy,
        spread > 0,
        lambda draws: draws.latent(shared) > -np.float32(training) * draws.training - np.float32(centre),
    )


def _cut(mean: float, spread: float) -> float:
    """Return the mean of a normal variable clipped to [0, 1]."""
    return float(np.clip(special.ndtri((np.arange(200_000) + 0.5) / 200_000) * spread + mean, 0, 1).mean())


def hard(share: float, accuracy: float, spread: float) -> Population:
    """A share of sequences is wrong for all trainings; on the others a training's accuracy is normal, cut to [0, 1]."""

    def answers(draws: Draws) -> np.ndarray:
        fitted = np.clip(np.float32(spread) * draws.training + np.float32(accuracy), 0, 1)
        return (draws.answer < fitted) & (draws.sequence >= share)

    name = f"hard {share:.3g}, else {accuracy:.3g}, spread {spread:.2g}"
    return Population(name, (1 - share) * _cut(accuracy, spread), spread > 0, answers)


def beta(accuracy: float, concentration: float, spread: float) -> Population:
    """A sequence's rate of errors is beta distributed; a training's is 0.75 ± `spread` times that, or just that."""
    factor = 0.75 if spread else 1.0
    rate = (1 - accuracy) / factor

    def answers(draws: Draws) -> np.ndarray:
        wrong = draws.beta(rate, concentration)
        if spread:
            wrong = wrong * np.clip(np.float32(spread) * draws.training + np.float32(factor), 0, 1)
        return draws.answer >= wrong

    return Population(f"beta {accuracy:g}, {concentration:g}, spread {spread:g}", accuracy, spread > 0, answers)


def failing(accuracy: float, loss: float) -> Population:
    """Independent answers; one training in ten has `loss` less accuracy."""

    def answers(draws: Draws) -> np.ndarray:
        failed = draws.training < special.ndtri(0.1)
        return draws.answer < np.where(failed, np.float32(accuracy - loss), np.float32(accuracy))

    return Population(f"failing {accuracy:g}, {loss:g}", accuracy - loss / 10, True, answers)


def populations() -> Iterator[Population]:
    """Return the populations by which every interval and test is judged."""
    for accuracy in (0.5, 0.8, 0.95, 0.99):
        room = 1 - accuracy
        for spread in (0.0, room / 10, room / 3):
            for shared in (0.0, 0.3, 0.8):
                yield latent(accuracy, spread, shared)
        yield hard(0.0, accuracy, room / 10)
        yield hard(0.0, accuracy, room / 3)
        yield hard(room, 1.0, 0.0)
        for spread in (0.0, room / 6):
            yield hard(room / 2, 1 - room / (2 - room), spread)
        for concentration in (1.0, 10.0):
            for spread in (0.0, 0.1):
                yield beta(accuracy, concentration, spread)
    yield hard(0.0, 1.0, 0.0)


def nested(answers: np.ndarray, seeds: Sequence[int]) -> Iterator[CrossedSample]:
    """Variances of the first trainings in `answers`, `(trials, trainings, sequences)`, for each number of `seeds`."""
    sequences = answers.shape[-1]
    accuracies = answers.mean(axis=-1)
    right = np.zeros((len(answers), sequences), np.uint8)
    for first, count in zip((0, *seeds), seeds, strict=False):
        right += answers[:, first:count].view(np.uint8).sum(axis=1, dtype=np.uint8)
        mean, between = accuracies[:, :count].mean(axis=1), accuracies[:, :count].var(axis=1, ddof=1)
        squares = np.einsum("tn,tn->t", right, right, dtype=np.float64) / (sequences * count**2)
        yield _crossed(count, sequences, mean, between, squares, mean, bounds=(0.0, 1.0))


def _crossed(
    seeds: int,
    sequences: int,
    mean: np.ndarray,
    between: np.ndarray,
    by_sequence: np.ndarray,
    squares: np.ndarray,
    *,
    bounds: tuple[float, float],
) -> CrossedSample:
    """From mean squares: `by_sequence` of the sequences' means, `squares` of all values."""
    across = np.maximum(0, by_sequence - mean**2)
    residual = (squares - mean**2 - across - between * (seeds - 1) / seeds) * seeds * sequences
    residual = np.maximum(0, residual) / ((seeds - 1) * max(1, sequences - 1))
    return CrossedSample(seeds, sequences, mean, between, across, residual, bounds)


@dataclass(frozen=True)
class Coverage:
    """Shares of trials in which an interval held the true accuracy, and mean widths; ours, Student's, Wilson's."""

    shares: tuple[float, float, float]
    widths: tuple[float, float, float]

    @property
    def ratio(self) -> float:
        """Our width over the narrowest of those rules that cover 93 % in this population; `nan` where none does."""
        valid = [width for share, width in zip(self.shares, self.widths, strict=True) if share >= 0.93 and width > 0]
        return self.widths[0] / min(valid) if valid else math.nan


def coverage(
    cases: Sequence[Population], *, sequences: int, trials: int, seed: int, seeds: Sequence[int] = SEEDS
) -> dict[int, list[Coverage]]:
    """For each number of seeds, the coverage in each population.

    Student's interval over seeds is cut to [0, 1]. Wilson's is over sequences only, at their effective number.
    """
    rng = np.random.default_rng(seed)
    coverages = {count: np.zeros((len(cases), 3, 2)) for count in seeds}
    for size in _chunks(trials, seeds[-1] * sequences):
        draws = Draws(rng, size, seeds[-1], sequences)
        for i, case in enumerate(cases):
            for crossed in nested(case.answers(draws), seeds):
                for j, (low, high) in enumerate(_rules(crossed)):
                    hit = (low <= case.truth + 1e-9) & (case.truth - 1e-9 <= high)
                    coverages[crossed.seeds][i, j] += hit.sum(), (high - low).sum()
    return {
        count: [Coverage(tuple(one[:, 0] / trials), tuple(one[:, 1] / trials)) for one in sums]
        for count, sums in coverages.items()
    }


def _rules(crossed: CrossedSample) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield crossed.interval(0.975)
    half = stats.t.ppf(0.975, crossed.seeds - 1) * np.sqrt(crossed.between / crossed.seeds)
    yield np.maximum(0, crossed.mean - half), np.minimum(1, crossed.mean + half)
    p, z = crossed.mean, float(special.ndtri(0.975))
    with np.errstate(divide="ignore", invalid="ignore"):
        size = crossed.sequences * np.clip(np.nan_to_num(p * (1 - p) / crossed.across, nan=1.0), 1, crossed.seeds)
    shrink = 1 + z**2 / size
    centre, half = (p + z**2 / (2 * size)) / shrink, z * np.sqrt(p * (1 - p) / size + z**2 / (4 * size**2)) / shrink
    yield np.minimum(p, centre - half), np.maximum(p, centre + half)


def _chunks(trials: int, values: int) -> Iterator[int]:
    """Trials at a time, so that about 2 million values are held."""
    size = max(1, 2_000_000 // values)
    for first in range(0, trials, size):
        yield min(size, trials - first)


@dataclass(frozen=True)
class Positives:
    """Shares with p < 0.05: of single tests, of tables corrected by Holm's method (at least one), and of t tests.

    `missed` is the share of 95 % intervals of a difference that do not hold zero.
    """

    single: float
    table: float
    students: float
    missed: float


def positives(
    cases: Sequence[Population],
    *,
    models: int,
    columns: int,
    sequences: int,
    trials: int,
    seed: int,
    own: bool = False,
    seeds: Sequence[int] = SEEDS,
) -> dict[int, list[Positives]]:
    """False positives when all models are alike, in each population, for each number of seeds.

    All pairs of models are tested in all columns. What a sequence adds to an answer is the same for all models, or,
    with `own`, independent for each of them: models of equal accuracy that find other sequences hard. Single tests are
    those of the first two models. Holm's method finds something in a table where its smallest p, times the number of
    tests, is below 0.05.
    """
    rng, most = np.random.default_rng(seed), seeds[-1]
    sums = {count: np.zeros((len(cases), 4)) for count in seeds}
    tests = columns * models * (models - 1) // 2
    for size in _chunks(trials, models * most * sequences):
        least = np.ones((len(cases), len(seeds), size))
        for _ in range(columns):
            draws = [Draws(rng, size, most, sequences) for _ in range(models)] if own else []
            common = Draws(rng, size, models * most, sequences)
            for i, case in enumerate(cases):
                parts = [case.answers(one) for one in draws] or [case.answers(common)]
                answers = np.concatenate(parts, axis=1).reshape(size, models, most, sequences)
                for j, (crossed, differing) in enumerate(pairs(answers, seeds)):
                    p = crossed.p_value(differing)
                    least[i, j] = np.minimum(least[i, j], p.min(axis=1))
                    low, high = crossed.interval(0.975)
                    sums[crossed.seeds][i, 0] += (p[:, 0] < 0.05).sum() / columns
                    sums[crossed.seeds][i, 2] += _students(crossed).sum() / columns
                    sums[crossed.seeds][i, 3] += ((low > 0) | (high < 0))[:, 0].sum() / columns
        for j, count in enumerate(seeds):
            sums[count][:, 1] += (least[:, j] * tests < 0.05).sum(axis=1)
    return {count: [Positives(*(row / trials)) for row in rows] for count, rows in sums.items()}


def _students(crossed: CrossedSample) -> np.ndarray:
    """Whether the paired t test of the first two models has p < 0.05; differences without spread have none."""
    error = np.sqrt(crossed.between[:, 0] / crossed.seeds)
    found: np.ndarray = np.abs(crossed.mean[:, 0]) > stats.t.ppf(0.975, crossed.seeds - 1) * error
    return found & (error > 0)


def pairs(answers: np.ndarray, seeds: Sequence[int]) -> Iterator[tuple[CrossedSample, np.ndarray]]:
    """Differences of all pairs of models, and the sequences answered differently, for the first seeds of `answers`.

    Args:
        answers: `(trials, models, seeds, sequences)`.
        seeds: Numbers of seeds, rising.
    """
    models, sequences = answers.shape[1], answers.shape[3]
    one, two = np.array(list(itertools.combinations(range(models), 2))).T
    accuracies = answers.mean(axis=3)
    values = answers.astype(np.float32).swapaxes(1, 2)
    both = np.einsum("tsij->tij", values[:, :0] @ values[:, :0].swapaxes(2, 3))
    right = np.zeros((len(answers), models, sequences), np.float32)
    for first, count in zip((0, *seeds), seeds, strict=False):
        part = values[:, first:count]
        both = both + (part @ part.swapaxes(2, 3)).sum(axis=1)
        right += part.sum(axis=1)
        gaps = accuracies[:, one, :count] - accuracies[:, two, :count]
        alike = right @ right.swapaxes(1, 2)
        by_sequence = _squares(alike, one, two) / (sequences * count**2)
        squares = _squares(both, one, two) / (sequences * count)
        mean, between = gaps.mean(axis=2), gaps.var(axis=2, ddof=1)
        differing = (right[:, one] != right[:, two]).sum(axis=2)
        yield _crossed(count, sequences, mean, between, by_sequence, squares, bounds=(-1.0, 1.0)), differing


def _squares(products: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Squared distances from a matrix of inner products."""
    products = products.astype(np.float64)
    return products[:, one, one] + products[:, two, two] - 2 * products[:, one, two]


def power(*, sequences: int, trials: int, seed: int, seeds: Sequence[int] = SEEDS) -> dict[int, tuple[float, float]]:
    """Return the share with p < 0.05 of our test and of the paired t test, for accuracies of 93 and 90 %.

    Trainings differ by 1 point, and sequences contribute 30 % of the variance.
    """
    rng, most = np.random.default_rng(seed), seeds[-1]
    better, worse = latent(0.93, 0.01, 0.3), latent(0.9, 0.01, 0.3)
    sums = {count: np.zeros(2) for count in seeds}
    for size in _chunks(trials, 2 * most * sequences):
        draws = Draws(rng, size, 2 * most, sequences)
        answers = np.stack([better.answers(draws)[:, :most], worse.answers(draws)[:, most:]], axis=1)
        for crossed, differing in pairs(answers, seeds):
            sums[crossed.seeds] += (crossed.p_value(differing)[:, 0] < 0.05).sum(), _students(crossed).sum()
    return {count: (float(one[0] / trials), float(one[1] / trials)) for count, one in sums.items()}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print as Markdown."""
    print("| " + " | ".join(head) + " |\n" + "|---:" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def coverage_table(sizes: Sequence[int], trials: int) -> None:
    """Print coverage and widths: the worst of all populations in each row."""
    cases = list(populations())
    results = {sequences: coverage(cases, sequences=sequences, trials=trials, seed=sequences) for sequences in sizes}
    rows = []
    for count in SEEDS:
        for sequences, by_seeds in results.items():
            one = by_seeds[count]
            shares = 100 * np.array([case.shares for case in one])
            ratios = np.array([case.ratio for case in one])
            spread = np.array([case.spread for case in cases])
            width = 100 * np.array([case.widths[0] for case in one])
            cells = [f"{shares[:, 0].min():.1f}", f"{shares[:, 0].mean():.1f}"]
            cells += [f"{shares[:, j].min():.1f}" for j in (1, 2)]
            cells += [
                f"{np.nanmean(ratios):.2f}",
                f"{np.nanmax(ratios[~spread]):.2f}",
                f"{np.nanmax(ratios[spread]):.2f}",
            ]
            cells += [f"{width[0]:.1f}", f"{next(w for w, c in zip(width, cases, strict=True) if c.truth == 0.99):.1f}"]
            rows.append([str(count), str(sequences), *cells])
    head = ["seeds", "sequences", "least", "mean", "Student t, least", "Wilson, least", "ratio, mean"]
    table([*head, "no spread, most", "spread, most", "width at 0.5", "width at 0.99"], rows)


def failing_table(trials: int) -> None:
    """Print the coverage where one training in ten fails."""
    bad = [failing(0.99, loss) for loss in (0.1, 0.3)]
    rows = []
    for sequences in (200, 500):
        for count, one in coverage(bad, sequences=sequences, trials=trials, seed=1).items():
            cells = [f"{100 * case.shares[j]:.1f}" for case in one for j in (0, 1)]
            rows.append([str(count), str(sequences), *cells])
    table(["seeds", "sequences", "10 points lost", "Student t", "30 points lost", "Student t"], rows)


def positives_table(trials: int) -> None:
    """Print false positives, of every fifth population, and power."""
    cases = list(populations())
    rows = []
    for sequences in (50, 200):
        size = {"sequences": sequences, "trials": trials}
        runs = [positives(cases[::5], models=3, columns=10, seed=own, own=own, **size) for own in (False, True)]
        some = positives(cases[::12], models=6, columns=14, seed=2, own=True, sequences=sequences, trials=trials // 4)
        better = power(seed=4, **size)
        for count in SEEDS:
            small = [one for run in runs for one in run[count]]
            most = [max(one.single for one in small), max(one.table for one in small)]
            most += [max(one.table for one in some[count]), max(one.missed for one in small)]
            students = [max(one.students for one in run[count]) for run in runs]
            cells = [f"{100 * share:.1f}" for share in (*most, *students, *better[count])]
            rows.append([str(count), str(sequences), *cells])
    head = ["seeds", "sequences", "single test", "table of 30", "table of 210", "interval misses 0"]
    table([*head, "t test", "t test, own sequences", "power", "power, t test"], rows)


def main() -> None:
    """Print all tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="Simulated test sets for each row (default: 2000).")
    parser.add_argument("--quick", action="store_true", help="Test sets of 50 and 200 sequences only.")
    options = parser.parse_args()
    coverage_table((50, 200) if options.quick else (50, 200, 500, 10_000), options.trials)
    failing_table(options.trials)
    positives_table(options.trials // 2)


if __name__ == "__main__":
    main()
