"""Which reading of "white noise σ" and "salt and pepper α" fits the published table of ordered MNIST best.

    python -m benchmarks.published_noise RUNS

measures the finished runs that `noisyrnn reproduce ordered-mnist --output RUNS` has trained, with the kept weights and
with those of the last epoch, on all test images with one draw. It prints for each reading the accuracies at the
published strengths, means over the trainings of a row, and the root mean square of their differences from the published
values over all rows whose clean accuracy is found again. Measurements are kept in RUNS, so that the same command
continues after an interruption; a run takes about seven minutes on one core.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from noisyrnn.data import Split
from noisyrnn.files import file_digest, read_json, write_json
from noisyrnn.pipeline import RunContext
from noisyrnn.pipeline.dependencies import run_config
from noisyrnn.pipeline.evaluate import Weights, load_noise_free
from noisyrnn.pipeline.published_tables import read_reproduction
from noisyrnn.progress import ProgressBar
from noisyrnn.robustness import Perturbation, SaltAndPepper, WhiteNoise, evaluate
from noisyrnn.robustness.base import Noise
from noisyrnn.robustness.draws import Draws, draw_uniform
from noisyrnn.run_folder import RunFolder

CLOSE = 1.0
"""A row counts in the root mean square if its clean accuracy is this close to the published one, in points."""


@dataclass(frozen=True)
class Salt(Noise):
    """Each value becomes 1 with probability `strength`."""

    name = "salt"
    symbol = "α"

    def change(self, inputs: Tensor, strength: float | Tensor, generator: Draws) -> Tensor:
        """Set some values to 1."""
        return torch.where(draw_uniform(inputs, generator) < strength, 1.0, inputs)


@dataclass(frozen=True)
class SaltThenPepper(Noise):
    """Each value becomes 1 with probability `strength`, then 0 with the same probability."""

    name = "salt_then_pepper"
    symbol = "α"

    def change(self, inputs: Tensor, strength: float | Tensor, generator: Draws) -> Tensor:
        """Set some values to 1, then some to 0."""
        salted = torch.where(draw_uniform(inputs, generator) < strength, 1.0, inputs)
        return torch.where(draw_uniform(inputs, generator) < strength, 0.0, salted)


READINGS: Mapping[str, Mapping[str, Callable[[float], Perturbation]]] = {
    "white_noise": {
        "x + N(0, σ²), as stated": WhiteNoise,
        "applied twice": lambda sigma: WhiteNoise(math.sqrt(2) * sigma),
        "cut to [0, 1]": lambda sigma: WhiteNoise(sigma, (0.0, 1.0)),
    },
    "salt_and_pepper": {
        "salt or pepper with probability α, as stated": SaltAndPepper,
        "applied twice": lambda alpha: SaltAndPepper(2 * alpha - alpha**2),
        "salt with probability α, then pepper with α": SaltThenPepper,
        "salt with probability α, no pepper": Salt,
    },
}
"""What a published strength may mean, by perturbation."""


def columns(perturbation: str, published: Mapping[str, float]) -> list[float]:
    """Return the published strengths of a perturbation."""
    return [float(name.split()[1]) for name in published if name.split()[0] == perturbation]


def measured(
    folder: RunFolder, weights: Weights, test: Split, strengths: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Return the accuracy of a run in %, "clean" and by "perturbation strength reading"; kept in its folder."""
    kept = folder.path / f"readings-{weights}.json"
    depends_on = {"model": file_digest(folder.weights_file(weights)), "test": test.fingerprint()}
    found: dict[str, float] = {}
    if kept.is_file() and (record := read_json(kept))["depends_on"] == depends_on:
        found = record["accuracies"]
    cells: dict[str, Perturbation | None] = {"clean": None}
    cells |= {
        f"{name} {strength:g} {reading}": build(strength)
        for name, values in strengths.items()
        for strength in values
        for reading, build in READINGS[name].items()
    }
    missing = {cell: perturbation for cell, perturbation in cells.items() if cell not in found}
    bar = ProgressBar(f"{folder.path.name}, {weights}", len(cells), done=len(cells) - len(missing), delay=1.0)
    model = load_noise_free(folder, "cpu", weights)
    for cell, perturbation in missing.items():
        found[cell] = 100 * evaluate(model, test, perturbation, draws=1, show_progress=False).accuracy
        write_json(kept, {"depends_on": depends_on, "accuracies": found})
        bar.advance()
    bar.close()
    return found


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def table(
    name: str,
    published: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, Sequence[dict[str, float]]]],
) -> list[str]:
    """Return Markdown for one perturbation: a line for each reading and kind of weights.

    Args:
        name: The perturbation.
        published: By row, published accuracies by column.
        found: By row and weights, what `measured` returned for each training.
    """
    labels = list(found)
    strengths = columns(name, published[labels[0]])
    head = ["weights", "reading", *labels, "root mean square"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---|" * len(labels) + "---:|"]
    cells = [" / ".join(f"{published[label][f'{name} {s:g}']:.1f}" for s in strengths) for label in labels]
    lines.append(f"| | published | {' | '.join(cells)} | |")
    for weights in get_args(Weights):
        for reading in READINGS[name]:
            cells, squares = [], []
            for label in labels:
                values = [mean([one[f"{name} {s:g} {reading}"] for one in found[label][weights]]) for s in strengths]
                cells.append(" / ".join(f"{value:.1f}" for value in values))
                clean = mean([one["clean"] for one in found[label][weights]])
                if abs(clean - published[label]["clean"]) <= CLOSE:
                    squares += [
                        (value - published[label][f"{name} {s:g}"]) ** 2
                        for value, s in zip(values, strengths, strict=True)
                    ]
            lines.append(f"| {weights} | {reading} | {' | '.join(cells)} | {math.sqrt(mean(squares)):.1f} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the runs and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_noise", description=__doc__)
    parser.add_argument("runs", type=Path, help="Folder of the runs.")
    parser.add_argument("--data-dir", type=Path, help="Folder of MNIST.")
    arguments = parser.parse_args(argv)
    rows = {row.label: row for row in read_reproduction("ordered-mnist").rows if row.published}
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    test: Split | None = None
    for path in sorted(arguments.runs.glob("smnist-*-seed*/config.json")):
        folder = RunFolder.open(path.parent)
        config = run_config(folder)
        row = rows.get(str(config.shown_label))
        if row is None or not folder.finished:
            continue
        if test is None:
            test = RunContext(data_dir=arguments.data_dir).read_data(config).test
        strengths = {name: columns(name, row.published) for name in READINGS}
        for weights in get_args(Weights):
            accuracies = measured(folder, weights, test, strengths)
            found.setdefault(row.label, {}).setdefault(weights, []).append(accuracies)
    if not found:
        sys.exit(f"No finished run of the table in {arguments.runs}.")
    published = {label: row.published for label, row in rows.items()}
    for name in READINGS:
        print(f"\n{name} {' / '.join(f'{s:g}' for s in columns(name, published[next(iter(found))]))}\n")
        print("\n".join(table(name, published, found)))
    print("\nTrainings: " + ", ".join(f"{label} {len(of_row['kept'])}" for label, of_row in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
