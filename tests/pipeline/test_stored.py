"""From a folder of shards to predictions; results are used again only if no file has changed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from noisyrnn.analysis.diagnostics.context import AnalysisSettings
from noisyrnn.data import load_dataset
from noisyrnn.models.prediction import predict
from noisyrnn.pipeline import EvaluateConfig, analyze_run, evaluate_run, predict_file, train_run
from noisyrnn.pipeline.analyze import AnalyzeConfig
from noisyrnn.pipeline.context import RunContext
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig
from noisyrnn.training.saving import load


def write(folder: Path, part: str, seed: int, *, count: int = 30) -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for k in range(2):
        X = generator.normal(size=(count, 6, 2)).astype(np.float32)
        y = np.where(X.sum((1, 2)) > 0, "up", "down")
        save = np.savez if k else np.savez_compressed
        save(folder / part / f"{k}.npz", X=X, y=y)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    for seed, part in enumerate(("train", "validation", "test")):
        write(tmp_path / "own", part, seed)
    config = TrainConfig(model="gru", dataset=str(tmp_path / "own"), hidden_size=4, epochs=2, batch_size=8)
    return train_run(config, RunContext(output=tmp_path / "runs"))


SETTINGS = EvaluateConfig(strengths={"white_noise": [0.1], "fgsm": [0.1]}, draws=2, attack_sequences=20)


def test_evaluations_and_analyses_of_a_folder(run: RunFolder, tmp_path: Path) -> None:
    evaluate_run(run, SETTINGS)
    columns = json.loads(run.robustness.read_text())["columns"]
    assert [column["sequences"] for column in columns] == [60, 60, 20, 20]
    before = run.robustness.stat().st_mtime_ns
    evaluate_run(run, SETTINGS)
    assert run.robustness.stat().st_mtime_ns == before
    write(tmp_path / "own", "test", 7)
    with pytest.warns(UserWarning, match="computed again"):
        evaluate_run(run, SETTINGS)
    assert run.robustness.stat().st_mtime_ns != before
    analyze_run(run, AnalyzeConfig(diagnostics=("margins",), settings=AnalysisSettings(test_sequences=4)))
    assert json.loads(run.analysis.read_text())["diagnostics"]["margins"]["status"] == "done"
    write(tmp_path / "own", "train", 8)
    with pytest.raises(ValueError, match="changed since"):
        evaluate_run(run, SETTINGS)


def test_predictions_are_those_of_the_model(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisyrnn.pipeline.predict._BLOCK", 7)
    data = load_dataset(str(tmp_path / "own"))
    lines = predict_file(run.path, str(tmp_path / "own" / "test")).splitlines()
    expected = predict(load(run.model), data.test.inputs[:])
    assert lines[0] == "sequence,prediction,probability_down,probability_up" and len(lines) == 61
    found = torch.tensor([[float(cell) for cell in line.split(",")[2:]] for line in lines[1:]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert [line.split(",")[1] for line in lines[1:]] == [("down", "up")[k] for k in expected.argmax(1).tolist()]


def test_a_value_that_is_not_finite_is_named_in_predictions(run: RunFolder, tmp_path: Path) -> None:
    X = np.zeros((4, 6, 2), dtype=np.float32)
    X[2, 1, 0] = np.nan
    (tmp_path / "new").mkdir()
    np.save(tmp_path / "new" / "X.npy", X)
    with pytest.raises(ValueError, match=r"finite.* row 2 of .*X\.npy"):
        predict_file(run.path, str(tmp_path / "new"))
