"""A run's numbers do not depend on torch's default dtype and device, which another library may have set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.defaults import defaults

import noisyrnn
from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor
from noisyrnn.kernels import cpp
from noisyrnn.pipeline.analyze import AnalyzeConfig, analyze_run
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.evaluate import EvaluateConfig, evaluate_run
from noisyrnn.pipeline.train import train_run
from noisyrnn.robustness import PERTURBATIONS
from noisyrnn.training import TrainConfig

TIMES = {"seconds", "started", "ended", "finished", "training_seconds"}


def without_times(found: Any) -> Any:
    """JSON without what the clock, or a path, decides."""
    if isinstance(found, dict):
        drop = {key for key in found if key in TIMES or "digest" in key or "sha256" in key}
        return {key: without_times(value) for key, value in found.items() if key not in drop}
    return [without_times(value) for value in found] if isinstance(found, list) else found


def whole_run(output: Path, config: TrainConfig, parts: tuple[str, ...]) -> list[Any]:
    """Weights, metrics, accuracies and diagnostics of a run."""
    folder = train_run(config, RunContext(output=output, accelerator="cpu"))
    # pgd_linf differs from pgd_l2 in the norm only, and square takes long and has such a test of its own.
    strengths = {name: [0.1] for name in PERTURBATIONS if name not in ("pgd_linf", "square_linf", "square_l2")}
    evaluate_run(folder, EvaluateConfig(strengths=strengths, draws=1))
    analyze_run(folder, AnalyzeConfig(diagnostics=parts))
    with torch.device("cpu"):
        weights = noisyrnn.load(folder.model).state_dict()
    metrics = [line.rsplit(",", 1)[0] for line in folder.metrics.read_text().splitlines()]
    files = [without_times(json.loads(path.read_text())) for path in (folder.robustness, folder.analysis)]
    return [{name: (value.dtype, value.tolist()) for name, value in weights.items()}, metrics, *files]


CONFIGS = {
    "noisy": {"additive": 0.1},
    "penalty": {"penalty": "explicit"},
    "hutchinson": {"model": "gru", "additive": 0.1, "penalty": "hutchinson"},
    "exprnn": {"model": "exprnn", "num_layers": 2, "dropout": 0.2},
    "double": {"model": "cornn", "precision": "64-true"},
    "bf16": {"model": "antisymmetric", "precision": "bf16-mixed"},
}
TYPES = {"f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
CASES = [
    *((name, dtype, "meta") for name in ("noisy", "penalty", "hutchinson", "exprnn") for dtype in ("f16", "bf16")),
    *((name, "f64", "cpu") for name in ("noisy", "penalty")),
    *((name, dtype, "meta") for name in ("double", "bf16") for dtype in ("f64", "f32")),
]


@pytest.mark.parametrize(
    ("name", "dtype", "device"),
    [case if k == 0 else pytest.param(*case, marks=pytest.mark.slow) for k, case in enumerate(CASES)],
)
def test_a_run(name: str, dtype: str, device: str, waves_file: Path, tmp_path: Path) -> None:
    if name == "bf16" and cpp.no_bf16() is not None:
        pytest.skip(str(cpp.no_bf16()))
    config = TrainConfig.from_dict(
        {"dataset": str(waves_file), "hidden_size": 4, "epochs": 2, "batch_size": 50, **CONFIGS[name]}
    )
    parts = () if name == "penalty" else ("margins", "jacobians")  # all, or two
    plain = whole_run(tmp_path / "plain", config, parts)
    with defaults(TYPES[dtype], device):
        other = whole_run(tmp_path / "other", config, parts)
    assert other == plain


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "meta"), (torch.float16, "cpu")], ids=str)
@pytest.mark.parametrize("kind", [NoisyRNNClassifier, NoisyRNNRegressor])
def test_an_estimator(kind: type[Any], dtype: torch.dtype, device: str) -> None:
    X = np.random.default_rng(0).normal(size=(40, 1, 6))
    y = X[:, 0].sum(axis=1)
    y = y if kind is NoisyRNNRegressor else y > 0

    def answers() -> list[Any]:
        model = kind(hidden_size=4, epochs=2, random_state=0, validation_fraction=0.2).fit(X, y)
        return [model.predict(X).tolist(), model.partial_fit(X, y).predict(X).tolist(), model.history_]

    plain = answers()
    with defaults(dtype, device):
        other = answers()
    for found in (plain, other):
        for row in found[2]:
            row.pop("seconds", None)
    assert other == plain
