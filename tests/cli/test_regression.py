"""Every command on numbers to predict: of each sequence, and at every step."""

import json
from pathlib import Path

import numpy as np
import pytest

from .commands import SMALL, noisyrnn


@pytest.mark.parametrize("every_step", [False, True], ids=["sequences", "steps"])
def test_all_commands_after_a_training(every_step: bool, tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 5, 2))
    data = tmp_path / "sums.npz"
    np.savez(data, X=X, y=np.cumsum(X, axis=1) if every_step else X.sum(axis=1))
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--select", "clean", "--output", tmp_path / "runs")
    assert "Validation: loss " in trained.stderr
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    longer = noisyrnn("train", "--resume", run, "--epochs", 3)
    assert longer.returncode == 0, longer.stderr
    strengths = ("--strengths", "{white_noise: [0.1], fgsm: [0.1]}", "--draws", 1, "--attack-draws", 1)
    evaluated = noisyrnn("evaluate", run, *strengths)
    assert evaluated.stdout.count("| test inputs | noisy | mean (baseline) |") == 3  # a table for each metric
    analyzed = noisyrnn("analyze", run, "--diagnostics", "jacobians,margins", "--budget", 0.2)
    assert analyzed.returncode == 0, analyzed.stderr  # a diagnostic that has no meaning is no failure
    assert "Not computed: margins: data must have one class for each sequence" in analyzed.stderr
    reported = noisyrnn("report", run, "--output", tmp_path / "page")
    assert reported.returncode == 0, reported.stderr
    content = json.loads((tmp_path / "page" / "comparison.json").read_text())
    assert content["verdict"].startswith("noisy has a mean R² of ")
    predicted = noisyrnn("predict", run, "--data", data).stdout.splitlines()
    assert predicted[0] == f"sequence,{'step,' if every_step else ''}prediction_1,prediction_2"
    assert len(predicted) == 1 + 40 * (5 if every_step else 1)
    exported = noisyrnn("export", run, "--format", "pretrained")
    assert exported.returncode == 0, exported.stderr
    card = next(run.glob("*.md")).read_text()
    assert "accuracy" not in card.lower()
