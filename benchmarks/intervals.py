"""Coverage of the 95 % interval over seeds, and false positives of the paired test, by simulation.

    python -m benchmarks.intervals [--trials 1000] [--quick]

An answer is right where `centre + a + b + e > 0`: `a` is the training's, `b` the test sequence's, `e` their own, all
normal and independent; the centre is chosen so that the mean accuracy over trainings and sequences is the stated one.
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from noisyrnn.robustness import PairedTest, accuracy_interval, adjust, paired_test, seeds_interval, seeds_test


@dataclass(frozen=True)
class Population:
    """A population of trainings and test sequences.

    Args:
        accuracy: Mean over both.
        spread: Standard deviation between trainings, about, in accuracy.
        shared: Share of the variance within a training that is the sequence's, the same for all trainings.
    """

    accuracy: float
    spread: float
    shared: float = 0.5

    def sample(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
        """Whether each answer is right, for `(models, seeds, sequences)`; all models share the sequences."""
        if self.accuracy == 1:
            return np.ones(shape)
        models, seeds, sequences = shape
        # `spread` in units of the latent scale, from its slope at the accuracy.
        slope = float(stats.norm.pdf(stats.norm.ppf(self.accuracy)))
        training = self.spread / slope / math.sqrt(1 - min(0.9, (self.spread / slope) ** 2))
        centre = float(stats.norm.ppf(self.accuracy)) * math.sqrt(1 + training**2)
        values = rng.standard_normal(shape, dtype=np.float32) * math.sqrt(1 - self.shared)
        values += rng.standard_normal((1, 1, sequences), dtype=np.float32) * math.sqrt(self.shared)
        values += rng.standard_normal((models, seeds, 1), dtype=np.float32) * training
        return (values + centre > 0).astype(np.float64)


@dataclass(frozen=True)
class Coverage:
    """Shares of trials in which an interval held the true accuracy, and mean widths."""

    ours: tuple[float, float]
    students: tuple[float, float]
    sequences: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Our width over the narrowest mean width of those rules that cover 93 % here; `nan` where none does."""
        rules = (self.ours, self.students, self.sequences)
        valid = [width for share, width in rules if share >= 0.93 and width > 0]
        return self.ours[1] / min(valid) if valid else math.nan


def coverage(population: Population, *, seeds: int, sequences: int, trials: int, seed: int) -> Coverage:
    """Coverage of `seeds_interval`, next to Student's t over seeds (cut to [0, 1]) and Wilson's over sequences."""
    rng, truth = np.random.default_rng(seed), population.accuracy
    rows = []
    for _ in range(trials):
        (correct,) = population.sample(rng, (1, seeds, sequences))
        ours = seeds_interval(correct)
        accuracies = correct.mean(axis=1)
        half = float(stats.t.ppf(0.975, seeds - 1)) * accuracies.std(ddof=1) / math.sqrt(seeds)
        wilson = accuracy_interval(correct.sum(axis=0).astype(int).tolist(), draws=seeds)
        ends = [
            (ours.low, ours.high),
            (max(0.0, ours.mean - half), min(1.0, ours.mean + half)),
            (wilson.low, wilson.high),
        ]
        rows.append([(low <= truth <= high, high - low) for low, high in ends])
    means = np.array(rows, dtype=float).mean(axis=0)
    ours, students, wilsons = ((float(share), float(width)) for share, width in means)
    return Coverage(ours, students, wilsons)


def positives(
    population: Population, *, models: int, columns: int, seeds: int, sequences: int, trials: int, seed: int
) -> tuple[float, float, float]:
    """False positives when all models are alike.

    Returns:
        Share of single tests with p < 0.05, of tables with a corrected p < 0.05, and of plain t tests with p < 0.05.
    """
    rng = np.random.default_rng(seed)
    single, tables, students = 0, 0, 0
    for _ in range(trials):
        tests: dict[tuple[int, int, int], PairedTest] = {}
        for column in range(columns):
            correct = population.sample(rng, (models, seeds, sequences))
            for one, two in itertools.combinations(range(models), 2):
                tests[column, one, two] = seeds_test(correct[one], correct[two])
        first = tests[0, 0, 1]
        single += first.p_value < 0.05
        tables += any(test.significant for test in adjust(tests).values())
        students += paired_test(correct[0].mean(axis=1).tolist(), correct[1].mean(axis=1).tolist()).p_value < 0.05
    return single / trials, tables / trials, students / trials


def power(
    first: Population, second: Population, *, seeds: int, sequences: int, trials: int, seed: int
) -> tuple[float, float]:
    """Share of trials with p < 0.05 when `first` and `second` differ: of `seeds_test`, and of the plain t test."""
    rng, ours, students = np.random.default_rng(seed), 0, 0
    for _ in range(trials):
        state = int(rng.integers(2**32))
        # The same sequences for both: equal draws, moved by the difference of the centres only.
        one, two = (
            population.sample(np.random.default_rng(state), (2, seeds, sequences))[i]
            for i, population in enumerate((first, second))
        )
        ours += seeds_test(one, two).p_value < 0.05
        students += paired_test(one.mean(axis=1).tolist(), two.mean(axis=1).tolist()).p_value < 0.05
    return ours / trials, students / trials


def populations() -> Iterator[Population]:
    """Accuracies from 0.5 to 1; spreads that leave a seed's accuracy about normal (two of them fit below 1)."""
    for accuracy in (0.5, 0.8, 0.95, 0.99):
        room = 1 - accuracy
        for spread in (0.0, room / 10, room / 3):
            for shared in (0.3, 0.8):
                yield Population(accuracy, spread, shared)
    yield Population(1.0, 0.0)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="Simulated tables for each row (default: 1000).")
    parser.add_argument("--quick", action="store_true", help="Test sets of 50 and 500 sequences only.")
    options = parser.parse_args()
    sizes = (50, 500) if options.quick else (50, 500, 10_000)
    heads = [
        "coverage, least",
        "coverage, mean",
        "Student t, least",
        "Wilson, least",
        "width, no spread",
        "width, spread",
    ]
    print("| seeds | sequences | " + " | ".join(heads) + " |\n" + "|---:" * (len(heads) + 2) + "|")
    for seeds in (3, 5, 10, 20):
        for sequences in sizes:
            rows = [
                coverage(population, seeds=seeds, sequences=sequences, trials=options.trials, seed=i)
                for i, population in enumerate(populations())
            ]
            shares = [[100 * row.ours[0], 100 * row.students[0], 100 * row.sequences[0]] for row in rows]
            least, mean = np.min(shares, axis=0), np.mean(shares, axis=0)
            ratios = [
                max(row.ratio for row, p in zip(rows, populations(), strict=True) if pick(p) and row.ratio == row.ratio)
                for pick in (lambda p: p.spread == 0, lambda p: p.spread > (1 - p.accuracy) / 5)
            ]
            cells = [f"{least[0]:.1f}", f"{mean[0]:.1f}", f"{least[1]:.1f}", f"{least[2]:.1f}"]
            cells += [f"{ratio:.2f}" for ratio in ratios]
            print(f"| {seeds} | {sequences} | " + " | ".join(cells) + " |", flush=True)
    print("\n| seeds | sequences | single test, most | table of 30, most | power | power, Student t |")
    print("|---:|---:|---:|---:|---:|---:|")
    for seeds in (3, 5, 10, 20):
        for sequences in (50, 500):
            size = {"seeds": seeds, "sequences": sequences, "trials": options.trials}
            found = [positives(p, models=3, columns=10, seed=i, **size) for i, p in enumerate(populations())]
            better = power(Population(0.93, 0.01), Population(0.9, 0.01), seed=1, **size)
            cells = [f"{100 * max(row[i] for row in found):.1f}" for i in (0, 1)]
            cells += [f"{100 * share:.0f}" for share in better]
            print(f"| {seeds} | {sequences} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
