"""Whether hidden noise is best switched off at test time, by where it enters: the flip-flop task with a rate network.

    python -m benchmarks.noise_at_test_time --output runs/flip-flop --workers 2

Writes the 3-bit flip-flop (`benchmarks.flip_flop`), trains rate networks of 64 units on it with noise outside and
inside the activation at four levels, ten seeds each, and measures each with its own noise at 0 to 2 times that level.
Prints the mean squared error at each multiple of the training level, and the change from no noise to that of training,
as means over trainings with 95 % intervals over them. Runs and measurements are kept in the output folder, so that the
same command continues after an interruption. It takes some 15 minutes on two cores for each activation.

Reference:
    Eckstein, Srinivasan, arXiv:2601.04539.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from benchmarks.flip_flop import flip_flop
from noisyrnn.analysis import scores_with_noise
from noisyrnn.data import load_dataset
from noisyrnn.files import file_digest, read_json, write_json
from noisyrnn.models import SequenceToSequence
from noisyrnn.pipeline import RunContext
from noisyrnn.pipeline.train import train_run
from noisyrnn.robustness.statistics import Interval, mean_interval
from noisyrnn.training import TrainConfig, load

TASK = {"sequences": 1500, "steps": 60, "probability": 0.05, "seed": 0}
PLACES = ("outside", "inside")
LEVELS = (0.1, 0.2, 0.3, 1.0)
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
DRAWS = 5
METRICS = ("mean_squared_error", "sign_accuracy")


@dataclass(frozen=True)
class Training:
    """One network.

    Args:
        activation: Name of the activation.
        place: "outside" or "inside".
        level: σ of the noise in training, in stationary units.
        seed: Of the training.
    """

    activation: str
    place: str
    level: float
    seed: int

    def config(self, file: Path) -> TrainConfig:
        """Return its settings."""
        options = {"alpha": 0.5, "additive": self.level, "noise_place": self.place, "activation": self.activation}
        rate = {"learning_rate": 0.01 if self.activation == "tanh" else 0.003, "decay_epochs": (24,)}
        return TrainConfig(
            model="rate",
            dataset=str(file),
            seed=self.seed,
            hidden_size=64,
            epochs=30,
            batch_size=64,
            clip_norm=1.0,
            options=options,
            **rate,
        )


def measured(training: Training, file: Path, output: Path) -> dict[str, list[float]]:
    """Train and measure a network: the test value of each metric at each factor of the noise; kept in its folder."""
    torch.set_num_threads(1)
    folder = train_run(training.config(file), RunContext(output=output, resume=True))
    kept, depends_on = folder.path / "noise.json", {"model": file_digest(folder.model), "factors": list(FACTORS)}
    if kept.is_file():
        record = read_json(kept)
        if record["depends_on"] == depends_on:
            return record["scores"]
    test = load_dataset(str(file)).test
    found = scores_with_noise(load(folder.model, SequenceToSequence).eval(), test, levels=FACTORS, draws=DRAWS, seed=0)
    scores = {name: [one[name].mean for one in found] for name in METRICS}
    write_json(kept, {"depends_on": depends_on, "scores": scores})
    return scores


def table(results: dict[Training, dict[str, list[float]]], activation: str) -> list[str]:
    """Return Markdown: one row for each place and level, means over seeds."""
    head = ["noise", "σ", *(f"{factor:g}×" for factor in FACTORS), "training − none", "best at", "steps right, none"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * 2 + "---:|" * (len(head) - 2)]
    for place, level in itertools.product(PLACES, LEVELS):
        rows = [r for t, r in results.items() if (t.activation, t.place, t.level) == (activation, place, level)]
        errors = np.array([row["mean_squared_error"] for row in rows])
        right = 100 * np.array([row["sign_accuracy"][0] for row in rows])
        change = mean_interval((errors[:, FACTORS.index(1.0)] - errors[:, 0]).tolist())
        best = [f"{FACTORS[column]:g}×" for column in errors.argmin(axis=1)]
        counts = ", ".join(f"{name} ({best.count(name)})" for name in sorted(set(best)))
        cells = [place, f"{level:g}", *(f"{mean:.4f}" for mean in errors.mean(axis=0)), shown(change), counts]
        lines.append(f"| {' | '.join([*cells, f'{right.mean():.1f} %'])} |")
    return lines


def shown(interval: Interval) -> str:
    """Return a mean with its interval."""
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_at_test_time", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="Folder of runs and measurements.")
    parser.add_argument("--activations", nargs="+", default=["tanh"], help="Activations (default: tanh).")
    parser.add_argument("--seeds", type=int, default=10, help="Trainings of each kind (default: %(default)s).")
    parser.add_argument("--workers", type=int, default=1, help="Processes (default: %(default)s).")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output.resolve() / "flipflop.npz"
    if not file.is_file():
        np.savez(file, **flip_flop(**TASK, targets="values"))
    seeds = range(1, arguments.seeds + 1)
    trainings = list(itertools.starmap(Training, itertools.product(arguments.activations, PLACES, LEVELS, seeds)))
    jobs = (joblib.delayed(measured)(training, file, arguments.output) for training in trainings)
    found: list[Any] = joblib.Parallel(n_jobs=arguments.workers, verbose=5)(jobs)
    results = dict(zip(trainings, found, strict=True))
    for activation in arguments.activations:
        print(f"\n## {activation}: mean squared error of the test targets, {arguments.seeds} trainings\n")
        print("\n".join(table(results, activation)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
