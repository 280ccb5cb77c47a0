"""Chooses the settings in `experiments/tuned/`: a small grid, scored on validation data only.

`python -m benchmarks.tune digits` trains every point of the grid with seeds that no comparison uses and prints, for
each model, the points by their score: the mean of the validation accuracies on clean inputs and under white noise. The
test set is not read.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import joblib
import torch

from noisyrnn.data import load_dataset
from noisyrnn.files import write_json
from noisyrnn.pipeline.train import build_model
from noisyrnn.robustness import WhiteNoise, evaluate
from noisyrnn.training import TrainConfig, fit

SHARED: dict[str, dict[str, Any]] = {
    "digits": {"hidden_size": 64, "batch_size": 64, "epochs": 100, "decay_epochs": (80,), "clip_norm": 1.0},
    "ecg5000": {"hidden_size": 64, "batch_size": 32, "epochs": 60, "decay_epochs": (48,), "clip_norm": 1.0},
}
WHITE_NOISE = {"digits": (0.1, 0.2, 0.3), "ecg5000": (0.5, 1.0, 1.5)}
# Each model has one or more grids; if the best point was on an edge, another grid extends beyond it.
Grid = dict[str, tuple[Any, ...]]
GRIDS: dict[str, dict[str, tuple[Grid, ...]]] = {
    "digits": {
        "noisy": (
            {
                "step_size": (0.1, 0.3),
                "learning_rate": (0.003, 0.01),
                "additive": (0.05, 0.2),
                "multiplicative": (0.02,),
            },
            {
                "step_size": (0.3, 1.0),
                "learning_rate": (0.01,),
                "additive": (0.05, 0.1, 0.2, 0.4),
                "multiplicative": (0.02,),
            },
            {"step_size": (2.0,), "learning_rate": (0.01,), "additive": (0.1,), "multiplicative": (0.02,)},
        ),
        "lipschitz": (
            {"step_size": (0.03, 0.1, 0.3), "learning_rate": (0.003, 0.01)},
            {"step_size": (0.3, 1.0), "learning_rate": (0.01, 0.02)},
        ),
        "antisymmetric": (
            {"step_size": (0.03, 0.1, 0.3), "learning_rate": (0.003, 0.01)},
            {"step_size": (1.0,), "learning_rate": (0.003, 0.01)},
        ),
        "rate": (
            {"alpha": (0.2, 0.5, 1.0), "learning_rate": (0.003, 0.01), "additive": (0.05, 0.2)},
            {"alpha": (0.5,), "learning_rate": (0.01, 0.02), "additive": (0.02, 0.05, 0.1)},
        ),
        "cornn": (
            {"step_size": (0.042, 0.1, 0.2), "learning_rate": (0.003, 0.01)},
            {"step_size": (0.2, 0.4, 0.8), "learning_rate": (0.01, 0.02)},
            {"step_size": (0.2, 0.3), "learning_rate": (0.03,)},
        ),
        "exprnn": ({"learning_rate": (0.001, 0.003, 0.01, 0.02)},),
        "lstm": ({"learning_rate": (0.003, 0.01, 0.02)},),
    },
    "ecg5000": {
        "noisy": (
            {
                "step_size": (0.1, 0.3, 1.0),
                "learning_rate": (0.003, 0.01),
                "additive": (0.1,),
                "multiplicative": (0.02, 0.1),
            },
        ),
        "lipschitz": ({"step_size": (0.03, 0.1, 0.3), "learning_rate": (0.003, 0.01)},),
        "antisymmetric": ({"step_size": (0.03, 0.1, 0.3), "learning_rate": (0.003, 0.01)},),
        "cornn": (
            {"step_size": (0.042, 0.1, 0.2), "learning_rate": (0.003, 0.01)},
            {"step_size": (0.1, 0.2), "learning_rate": (0.001,)},
        ),
        "exprnn": ({"learning_rate": (0.0003, 0.001, 0.003, 0.01)},),
        "lstm": ({"learning_rate": (0.003, 0.01, 0.02)},),
    },
}
SEEDS = (101, 102)


def score(config: TrainConfig, strengths: tuple[float, ...], output: Path) -> dict[str, Any]:
    """Return the validation accuracies of a point of the grid, from the run's folder if already computed."""
    point = {"model": config.model, **config.identity()}
    file = output / (joblib.hash(point) + ".json")
    if file.is_file():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    dataset = load_dataset(config.dataset, values_per_step=config.values_per_step)
    model = build_model(config, dataset)
    try:
        result = fit(model, dataset, config)
        accuracies = [evaluate(model, dataset.validation).accuracy]
        accuracies += [evaluate(model, dataset.validation, WhiteNoise(s), seed=1).accuracy for s in strengths]
        record = {"point": point, "best_epoch": result.best_epoch, "seconds": result.seconds, "accuracies": accuracies}
    except RuntimeError as error:
        record = {"point": point, "error": str(error), "accuracies": [0.0] * (1 + len(strengths))}
    write_json(file, record)
    return record


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(GRIDS), help="Data set whose grid is searched.")
    parser.add_argument("--models", help="Models to tune, separated by commas (default: all).")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/tune"), help="Folder of the scores (default: %(default)s)."
    )
    parser.add_argument("--workers", type=int, default=2, help="Processes at the same time (default: %(default)s).")
    words = parser.parse_args()
    words.output.mkdir(parents=True, exist_ok=True)
    points = [
        (model, dict(zip(grid, values, strict=True)))
        for model, grids in GRIDS[words.dataset].items()
        if words.models is None or model in words.models.split(",")
        for grid in grids
        for values in itertools.product(*grid.values())
    ]
    points = [point for place, point in enumerate(points) if point not in points[:place]]
    shared = {"dataset": words.dataset, **SHARED[words.dataset]}
    configs = [TrainConfig.from_dict({**shared, "model": m, **point, "seed": s}) for m, point in points for s in SEEDS]
    strengths = WHITE_NOISE[words.dataset]
    results = joblib.Parallel(n_jobs=words.workers, verbose=1)(
        joblib.delayed(score)(config, strengths, words.output) for config in configs
    )
    rows: dict[str, list[list[float]]] = {}
    names = [f"{model:<14} {point}" for model, point in points for _ in SEEDS]
    for name, result in zip(names, results, strict=True):
        rows.setdefault(name, []).append(result["accuracies"])
    table = []
    for name, accuracies in rows.items():
        columns = [sum(column) / len(column) for column in zip(*accuracies, strict=True)]
        table.append((name.split()[0], sum(columns) / len(columns), columns, name))
    for _, mean, columns, name in sorted(table, key=lambda row: (row[0], -row[1])):
        print(f"{mean:.4f}  " + "  ".join(f"{value:.3f}" for value in columns) + f"  {name}")


if __name__ == "__main__":
    main()
