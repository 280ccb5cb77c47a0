"""Files with missing values and time stamps, from the command line to predictions."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import noisyrnn as library
from noisyrnn.data import load_dataset
from noisyrnn.models import SequenceModel
from noisyrnn.models.prediction import predict

from .commands import SMALL, noisyrnn


def incomplete(folder: Path) -> tuple[Path, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 6)).round(3)
    labels = np.where(X.sum(axis=1) > 0, "up", "down")
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 5] = 0.5  # trailing cells would be the end of the sequence
    cells = [[label, *("" if np.isnan(v) else str(v) for v in row)] for label, row in zip(labels, X, strict=True)]
    file = folder / "own.csv"
    file.write_text("".join(",".join(row) + "\n" for row in cells))
    return file, X


def probabilities(text: str) -> list[list[float]]:
    _, *rows = csv.reader(io.StringIO(text))
    return [[float(cell) for cell in row[2:]] for row in rows]


@pytest.mark.parametrize("missing", ["mask", "skip"])
def test_one_setting_from_training_to_predictions(missing: str, tmp_path: Path) -> None:
    """The summary counts them; evaluation and predictions meet them as the model does, which its file records."""
    file, X = incomplete(tmp_path)
    refused = noisyrnn("train", "--dataset", file, *SMALL, "--output", tmp_path / "runs")
    assert refused.returncode == 2 and "missing='hold' (--missing hold)" in refused.stderr
    result = noisyrnn("train", "--dataset", file, "--missing", missing, *SMALL, "--output", tmp_path / "runs")
    assert result.returncode == 0, result.stderr
    count = int(load_dataset(str(file), missing=missing).train.inputs.isnan().sum())
    assert f"missing {count} of 144 (" in result.stderr
    run = Path(result.stdout.splitlines()[0].removeprefix("Trained: "))
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["missing"] == missing and config["dataset"]["missing"].startswith(f"{count} of 144")
    model = library.load(run / "model.safetensors", SequenceModel)
    assert model.missing == missing
    expected = predict(model, torch.from_numpy(X)[..., None])
    for place in (run, run / "model.safetensors"):
        found = noisyrnn("predict", place, "--data", file, "--labelled", "true")
        assert found.returncode == 0, found.stderr
        assert np.allclose(probabilities(found.stdout), expected, atol=1e-5)
    evaluated = noisyrnn("evaluate", run, "--draws", 2, "--attack-draws", 1, "--gradient-free-sequences", 1)
    assert evaluated.returncode == 0, evaluated.stderr
    columns = json.loads((run / "robustness.json").read_text())["columns"]
    test = load_dataset(str(file), missing=missing).test
    right = predict(model, test.inputs).argmax(dim=1) == test.labels
    assert columns[0]["correct"] == "".join(str(int(each)) for each in right)
    names = [column["perturbation"] for column in columns]
    assert names.count("missing_values") == 2 and "pgd_l2" in names, "the default of data with missing values"
    analyzed = noisyrnn("analyze", run)
    assert analyzed.returncode == 2
    assert analyzed.stderr.startswith(f"dataset must have missing None for the theory diagnostics, got '{missing}'.")
    reported = noisyrnn("report", run, "--output", tmp_path / "page")
    assert reported.returncode == 0, reported.stderr
    assert f"missing values {count} of 144" in (tmp_path / "page" / "report.html").read_text()


def stamped(folder: Path) -> Path:
    """Two classes that differ in the integral over time, at unequal times."""
    rng = np.random.default_rng(1)
    lines = ["run,t,x,class"]
    for k in range(40):
        times = rng.exponential(2.0, size=8).cumsum().round(3)
        x = rng.normal(size=8).round(3)
        label = "ab"[int((x[:-1] * np.diff(times)).sum() > 0)]
        lines += [f"{k},{t},{v},{label}" for t, v in zip(times, x, strict=True)]
    (folder / "own.csv").write_text("\n".join(lines) + "\n")
    return folder / "own.csv"


def test_times_reach_training_evaluation_and_predictions(tmp_path: Path) -> None:
    file = stamped(tmp_path)
    words = ["--dataset", file, "--id", "run", "--time", "t"]
    models = ["--models", "noisy,gru", "--strengths", "{white_noise: [0.1]}", "--draws", 1, "--seeds", 1]
    result = noisyrnn("compare", *words, *models, *SMALL, "--output", tmp_path / "runs")
    assert result.returncode == 0, result.stderr
    assert "GRU takes all steps as equally long" in result.stderr
    dataset = load_dataset(str(file), id="run", time="t")
    assert dataset.train.dt is not None and dataset.nominal_step is not None
    lines = file.read_text().splitlines()
    new = tmp_path / "new.csv"  # without labels, and half of the sequences: another typical distance
    new.write_text("\n".join([lines[0].removesuffix(",class"), *(row[:-2] for row in lines[1:161])]) + "\n")
    for kind in ("noisy", "gru"):
        (run,) = (tmp_path / "runs").glob(f"own-{kind}-*")
        model = library.load(run / "model.safetensors", SequenceModel)
        test = dataset.test
        assert test.dt is not None
        dt = test.dt if kind == "noisy" else None
        right = predict(model, test.inputs, lengths=test.lengths, dt=dt).argmax(dim=1) == test.labels
        columns = json.loads((run / "robustness.json").read_text())["columns"]
        assert columns[0]["correct"] == "".join(str(int(each)) for each in right)
        config = json.loads((run / "config.json").read_text())
        assert config["dataset"]["nominal_step"] == dataset.nominal_step
        found = noisyrnn("predict", run, "--data", new)
        assert found.returncode == 0, found.stderr
        values = np.array([row.split(",")[2] for row in lines[1:161]], dtype=np.float64).reshape(20, 8, 1)
        times = np.array([row.split(",")[1] for row in lines[1:161]], dtype=np.float64).reshape(20, 8)
        gaps = np.diff(times, axis=1) / dataset.nominal_step
        sizes = torch.from_numpy(np.concatenate([gaps, np.ones((20, 1))], axis=1))
        expected = predict(model, torch.from_numpy(values), dt=sizes if kind == "noisy" else None)
        assert np.allclose(probabilities(found.stdout), expected, atol=1e-5)
    analyzed = noisyrnn("analyze", next((tmp_path / "runs").glob("own-noisy-*")))
    assert analyzed.returncode == 2
    assert analyzed.stderr.startswith("dataset must have steps of equal length for the theory diagnostics")


def test_skipping_is_refused_before_training_for_a_model_without_lengths_of_steps(tmp_path: Path) -> None:
    file, _ = incomplete(tmp_path)
    words = ("--dataset", file, "--missing", "skip", *SMALL, "--output", tmp_path / "runs")
    for result in (noisyrnn("train", "--model", "gru", *words), noisyrnn("compare", "--models", "noisy,gru", *words)):
        assert result.returncode == 2
        assert "missing must be 'mask' or 'hold' for model 'gru', whose steps have no length" in result.stderr
        assert not (tmp_path / "runs").exists()


def test_the_list_shows_the_perturbations() -> None:
    shown = noisyrnn("list").stdout
    assert "missing_values" in shown and "missing_blocks" in shown
