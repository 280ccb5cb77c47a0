"""How the settings in `experiments/tuned/` were chosen: a small grid, judged on validation data alone.

`python -m benchmarks.tune digits` trains every point of the grid with seeds that no comparison uses and prints, for
each model, the points by their score: the mean of the validation accuracies on clean inputs and under white noise. The
test set is not read.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import joblib
import torch

from noisyrnn.data import load_dataset
from noisyrnn.models import MODELS
from noisyrnn.pipeline.train import build_model
from noisyrnn.robustness import WhiteNoise, evaluate
from noisyrnn.run_folder import write_json
from noisyrnn.training import TrainConfig, fit

SHARED: dict[str, dict[str, Any]] = {
    "digits": {"hidden_size": 64, "batch_size": 64, "epochs": 100, "decay_epochs": (80,), "clip_norm": 1.0},
    "ecg5000": {"hidden_size": 64, "batch_size": 32, "epochs": 60, "decay_epochs": (48,), "clip_norm": 1.0},
}
WHITE_NOISE = {"digits": (0.1, 0.2, 0.3), "ecg5000": (0.5, 1.0, 1.5)}
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "noisy": {
        "step_size": (0.1, 0.3),
        "learning_rate": (0.003, 0.01),
        "additive": (0.05, 0.2),
        "multiplicative": (0.02,),
    },
    "lipschitz": {"step_size": (0.03, 0.1, 0.3), "learning_rate": (0.003, 0.01)},
    "antisymmetric": {"step_size": (0.03, 0.1, 0.3), "learning_rate": (0.003, 0.01)},
    "cornn": {"step_size": (0.042, 0.1, 0.2), "learning_rate": (0.003, 0.01)},
    "exprnn": {"learning_rate": (0.001, 0.003, 0.01)},
    "lstm": {"learning_rate": (0.003, 0.01)},
}
SEEDS = (101, 102)


def score(config: TrainConfig, strengths: tuple[float, ...], output: Path) -> dict[str, Any]:
    """Validation accuracies of one point of the grid; read back where they were computed before."""
    point = {k: v for k, v in dataclasses.asdict(config).items() if v != getattr(TrainConfig, k)}
    file = output / (joblib.hash(point) + ".json")
    if file.is_file():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    dataset = load_dataset(config.dataset, chunk=config.chunk)
    model = build_model(config, dataset)
    try:
        result = fit(model, dataset, config)
        accuracies = [evaluate(model, dataset.validation).accuracy]
        accuracies += [evaluate(model, dataset.validation, WhiteNoise(s), seed=1).accuracy for s in strengths]
        found = {"point": point, "best_epoch": result.best_epoch, "seconds": result.seconds, "accuracies": accuracies}
    except RuntimeError as error:
        found = {"point": point, "error": str(error), "accuracies": [0.0] * (1 + len(strengths))}
    write_json(file, found)
    return found


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(SHARED))
    parser.add_argument("--models", default=",".join(GRIDS))
    parser.add_argument("--output", type=Path, default=Path("runs/tune"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", default="{}", help="JSON of settings that replace the shared ones")
    parser.add_argument("--grid", default="{}", help="JSON of grid axes that replace the models' own")
    words = parser.parse_args()
    words.output.mkdir(parents=True, exist_ok=True)
    configs = []
    for model in words.models.split(","):
        axes = {**GRIDS[model], **{k: tuple(v) for k, v in json.loads(words.grid).items() if _takes(model, k)}}
        for values in itertools.product(*axes.values()):
            point = {**SHARED[words.dataset], **json.loads(words.set), **dict(zip(axes, values, strict=True))}
            for seed in SEEDS:
                configs.append(TrainConfig.from_dict({"model": model, "dataset": words.dataset, "seed": seed, **point}))
    strengths = WHITE_NOISE[words.dataset]
    results = joblib.Parallel(n_jobs=words.workers, verbose=1)(
        joblib.delayed(score)(config, strengths, words.output) for config in configs
    )
    rows: dict[str, list[list[float]]] = {}
    for config, result in zip(configs, results, strict=True):
        axes = {k: getattr(config, k) for k in (*GRIDS[config.model], *json.loads(words.grid)) if hasattr(config, k)}
        rows.setdefault(f"{config.model:<14} {axes}", []).append(result["accuracies"])
    table = []
    for name, accuracies in rows.items():
        columns = [sum(column) / len(column) for column in zip(*accuracies, strict=True)]
        table.append((name.split()[0], sum(columns) / len(columns), columns, name))
    for _, mean, columns, name in sorted(table, key=lambda row: (row[0], -row[1])):
        print(f"{mean:.4f}  " + "  ".join(f"{value:.3f}" for value in columns) + f"  {name}")


def _takes(model: str, setting: str) -> bool:
    options = MODELS[model].options()
    return setting in options or not any(setting in entry.options() for entry in MODELS.values())


if __name__ == "__main__":
    main()
