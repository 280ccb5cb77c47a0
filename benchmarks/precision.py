"""Whether training with bf16 products is as good as with float32: the same models, settings and seeds in both.

`python -m benchmarks.precision digits` trains each model in `32-true` and in `bf16-mixed`, measures both under
the default perturbations of the data set, and writes `table.md`: the accuracies in float32, and their difference to
bf16 with a 95 % interval over trainings and test sequences. The same command continues after an interruption.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib

from benchmarks.ablation import SHARED
from noisyrnn.files import write_atomically
from noisyrnn.pipeline import EvaluateConfig
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.execution import RunGroup, run_group
from noisyrnn.report.columns import Column
from noisyrnn.report.results import SeedResult, read_run
from noisyrnn.robustness.statistics import PairedTest, seeds_test
from noisyrnn.training import TrainConfig
from noisyrnn.training.settings import recommended

PRECISIONS = ("32-true", "bf16-mixed")
MODELS = ("noisy", "cornn", "exprnn", "gru", "lstm")
DATASETS = ("digits", "smnist")


def settings(dataset: str, model: str) -> dict[str, Any]:
    """Those that `noisyrnn train` takes for digits; for MNIST, 16 pixels a step, those of the ablation."""
    if dataset == "digits":
        return recommended(dataset, model)
    if model == "noisy":
        return {**SHARED[dataset], "additive": 0.05, "multiplicative": 0.02}
    return {name: value for name, value in SHARED[dataset].items() if name != "step_size"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One model in both precisions.

    Args:
        dataset: One of `DATASETS`.
        model: One of `MODELS`.
        seeds: Number of seeds, at least 2.
        epochs: Number of epochs; `None` for that of the settings.
    """

    dataset: str
    model: str
    seeds: int
    epochs: int | None = None

    def configs(self, precision: str) -> list[TrainConfig]:
        """One for each seed."""
        shared = settings(self.dataset, self.model)
        if self.epochs is not None:
            shared |= {"epochs": self.epochs, "decay_epochs": (max(1, round(0.8 * self.epochs)),)}
        own = {"model": self.model, "dataset": self.dataset, "precision": precision}
        own["label"] = f"{self.model}-{precision}"
        return [TrainConfig.from_dict({**shared, **own, "seed": seed + 1}) for seed in range(self.seeds)]


def train(configs: Sequence[TrainConfig], context: RunContext, *, workers: int) -> list[SeedResult]:
    """Train and measure runs, or find them finished.

    Raises:
        RuntimeError: With the reason of the first run that failed.
    """
    evaluation, threads = EvaluateConfig(), max(1, joblib.cpu_count() // workers)
    tasks = [RunGroup(configs=[one], evaluations=[evaluation], threads=threads, context=context) for one in configs]
    found = joblib.Parallel(n_jobs=workers, verbose=5)(joblib.delayed(run_group)(task) for task in tasks)
    failures = [f"{path.name}: {reason}" for group in found for path, reason in group.items() if reason is not None]
    if failures:
        raise RuntimeError(failures[0])
    return [read_run(path) for group in found for path in group]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Float32 and bf16 under one perturbation.

    Args:
        mean: Accuracy in float32, in [0, 1].
        test: Float32 minus bf16, over trainings and test sequences.
    """

    mean: float
    test: PairedTest

    def __str__(self) -> str:
        test = self.test
        return f"{100 * test.difference:+.2f} [{100 * test.low:+.2f}, {100 * test.high:+.2f}]"

    @property
    def farthest(self) -> float:
        """Largest difference in the interval, in points."""
        return 100 * max(abs(self.test.low), abs(self.test.high))


def differences(first: Sequence[SeedResult], second: Sequence[SeedResult]) -> dict[Column, Difference]:
    """Compare runs of the same seeds under each perturbation."""
    found = {}
    for column in first[0].scores:
        one, two = ([run.scores[column].by_sequence for run in runs] for runs in (first, second))
        mean = sum(run.scores[column].value for run in first) / len(first)
        found[column] = Difference(mean=mean, test=seeds_test(one, two))
    return found


def table(results: dict[str, dict[Column, Difference]]) -> str:
    """Markdown: a row for each perturbation, two columns for each model."""
    head = ["perturbation", *(f"{name}, {what}" for name in results for what in ("float32", "− bf16"))]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for column in next(iter(results.values())):
        cells = [column.title]
        for found in results.values():
            cells += [f"{100 * found[column].mean:.2f}", str(found[column])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(results: dict[str, dict[Column, Difference]]) -> str:
    """One line for each model: how far apart the two can be, clean and under perturbations."""
    lines = []
    for model, found in results.items():
        clean, *perturbed = found
        worst = max(perturbed, key=lambda column: found[column].farthest)
        far = f"±{found[clean].farthest:.2f} clean, ±{found[worst].farthest:.2f} perturbed ({worst.title})"
        lines.append(f"- {model}: the intervals lie within {far}")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("dataset", choices=DATASETS, help="Data set.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["noisy"], help="Default: noisy.")
    parser.add_argument("--seeds", type=int, default=10, help="Seeds of each (default: %(default)s).")
    parser.add_argument("--epochs", type=int, help="Epochs (default: as the settings have it).")
    parser.add_argument("--workers", type=int, default=1, help="Processes at the same time (default: %(default)s).")
    parser.add_argument("--output", type=Path, help="Folder of runs and table (default: runs/precision-DATASET).")
    words = parser.parse_args(argv)
    if words.seeds < 2:
        parser.error(f"seeds must be at least 2, got {words.seeds}.")
    output = (words.output or Path("runs") / f"precision-{words.dataset}").resolve()
    context = RunContext(output=output, accelerator="cpu", resume=True)
    results = {}
    for model in words.models:
        task = Task(dataset=words.dataset, model=model, seeds=words.seeds, epochs=words.epochs)
        runs = [train(task.configs(precision), context, workers=words.workers) for precision in PRECISIONS]
        results[model] = differences(*runs)
    text = f"{table(results)}\n{summary(results)}"
    write_atomically(output / "table.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
