"""Runs on targets at every step and on values to predict: from the file to the report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.flip_flop import flip_flop

from noisyrnn import load
from noisyrnn.analysis.diagnostics import AnalysisSettings
from noisyrnn.cli import main
from noisyrnn.data import load_dataset
from noisyrnn.models import SequenceModel, SequenceRegressor, SequenceToSequence
from noisyrnn.pipeline import (
    AnalyzeConfig,
    CompareConfig,
    EvaluateConfig,
    RunContext,
    analyze_run,
    compare,
    evaluate_run,
    train_run,
    train_seeds,
)
from noisyrnn.robustness import evaluate
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig

SMALL: dict[str, Any] = {"hidden_size": 4, "epochs": 3, "batch_size": 16, "learning_rate": 0.02}
EVALUATION = EvaluateConfig(strengths={"white_noise": [0.5], "fgsm": [0.1]}, draws=2, attack_draws=1)
TASKS = ("values", "classes", "regression")


def write(folder: Path, task: str) -> str:
    """A flip-flop of two bits, or the number of positive pulses of the first channel as a value to predict."""
    arrays = flip_flop(
        sequences=60, steps=8, bits=2, probability=0.4, targets=task if task != "regression" else "values"
    )
    if task == "regression":
        arrays = {"X": arrays["X"], "y": 100 + 0.5 * (arrays["X"][..., 0] > 0).sum(axis=1)}
    np.savez(folder / f"{task}.npz", **arrays)
    return str(folder / f"{task}.npz")


@pytest.fixture(scope="module", params=TASKS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunFolder]:
    """A trained and evaluated run of each task; only read."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig(dataset=write(folder, request.param), **SMALL)
    trained = train_run(config, RunContext(output=folder / "runs"))
    return request.param, evaluate_run(trained, EVALUATION)


def test_a_run_records_its_best_epoch_and_its_metrics(run: tuple[str, RunFolder]) -> None:
    task, folder = run
    summary, metrics, data = folder.read_summary(), folder.read_metrics(), folder.read_config()["dataset"]
    losses = metrics["validation_loss"]
    assert len(losses) == 3 and ("train_accuracy" in metrics) == (task == "classes")
    if task == "classes":
        assert summary["best_validation_accuracy"] == max(metrics["validation_accuracy"])
    else:
        assert summary["best_validation_accuracy"] is None and summary["best_epoch"] == 1 + losses.index(min(losses))
    assert summary["best_validation_loss"] == losses[summary["best_epoch"] - 1]
    expected = {"values": (0, 2, True), "classes": (4, None, True), "regression": (0, 1, None)}
    assert (data["classes"], data.get("targets"), data.get("every_step")) == expected[task]


def test_the_model_answers_in_the_units_of_the_targets(run: tuple[str, RunFolder]) -> None:
    task, folder = run
    model = load(folder.model, SequenceModel)
    assert type(model) is (SequenceRegressor if task == "regression" else SequenceToSequence)
    dataset = load_dataset(folder.read_config()["config"]["dataset"])
    if task == "classes":
        assert model.target_mean is None
        return
    mean, std = dataset.target_statistics()
    assert model.target_mean is not None and torch.equal(model.target_mean, mean)
    outputs = model(dataset.validation.inputs)
    assert (outputs - mean).abs().max() < 5 * std.max()


def test_an_evaluation_has_the_scores_of_the_model(run: tuple[str, RunFolder]) -> None:
    task, folder = run
    model = load(folder.model, SequenceModel).requires_grad_(False)  # torch rounds otherwise with gradients
    model.layer.noise_mode = "off"
    content = folder.read_result(folder.robustness).content
    columns = {column["perturbation"]: column for column in content["columns"]}
    assert list(columns) == ["clean", "white_noise", "fgsm", "worst_linf"] and content["examples"] == []
    expected = evaluate(model, load_dataset(folder.read_config()["config"]["dataset"]).test).to_dict()
    assert columns["clean"] == json.loads(json.dumps(expected))
    names = {
        "values": ["r2", "mean_squared_error", "mean_absolute_error", "sign_accuracy"],
        "classes": ["step_accuracy"],
        "regression": ["r2", "mean_squared_error", "mean_absolute_error"],
    }
    assert list(columns["worst_linf"]["scores"]) == names[task]


@pytest.mark.parametrize("run", ["regression"], indirect=True)
def test_r2_under_an_attack_on_the_first_sequences_is_that_of_the_test_part(
    run: tuple[str, RunFolder], tmp_path: Path
) -> None:
    copied = RunFolder(Path(shutil.copytree(run[1].path, tmp_path / run[1].path.name)))
    evaluate_run(copied, replace(EVALUATION, attack_sequences=3))
    columns = {column["perturbation"]: column for column in copied.read_result(copied.robustness).content["columns"]}
    test = load_dataset(copied.read_config()["config"]["dataset"]).test
    variance = float(test.labels.double().var(correction=0))
    for name, count in (("clean", len(test)), ("fgsm", 3), ("worst_linf", 3)):
        scores = columns[name]["scores"]
        assert columns[name]["sequences"] == count
        assert scores["r2"]["mean"] == pytest.approx(1 - scores["mean_squared_error"]["mean"] / variance, rel=1e-6)


def test_diagnostics_that_need_one_class_say_so_and_others_are_computed(run: tuple[str, RunFolder]) -> None:
    task, folder = run
    settings = AnalysisSettings(test_sequences=4, curvature_sequences=36, landscape_points=3)
    analyze_run(
        folder, AnalyzeConfig(diagnostics=["margins", "jacobians", "stability", "landscape"], settings=settings)
    )
    content = folder.read_result(folder.analysis).content
    labels = "values to predict" if task == "regression" else "targets at every step"
    assert content["diagnostics"]["margins"] == {
        "status": "impossible",
        "reason": f"data must have one class for each sequence for this diagnostic, got {labels}.",
    }
    done = [name for name, entry in content["diagnostics"].items() if entry["status"] == "done"]
    assert done == ["jacobians", "stability", "landscape"]
    assert {"jacobian_norm", "lyapunov_exponent"} & {quantity["name"] for quantity in content["quantities"]}
    assert "gradient_norms" not in content["curves"] and "jacobian_norms" in content["curves"]
    model, dataset = load(folder.model, SequenceModel), load_dataset(folder.read_config()["config"]["dataset"])
    losses = model.losses(model(dataset.train.inputs), dataset.train.labels)
    middle = content["landscapes"]["filter"]["loss"][1][1]
    assert len(losses) == 36 and middle == pytest.approx(float(losses.mean()), rel=1e-4)


@pytest.mark.parametrize("task", ["values", "classes"])
def test_seeds_side_by_side_are_those_of_single_runs(task: str, tmp_path: Path) -> None:
    config = TrainConfig(dataset=write(tmp_path, task), **SMALL)
    configs = [replace(config, seed=seed) for seed in (1, 2)]
    together = train_seeds(configs, RunContext(output=tmp_path / "together"), batch_seeds=True)
    assert list(together.values()) == [None, None]
    for path, one in zip(together, configs, strict=True):
        alone = train_run(one, RunContext(output=tmp_path / "alone"))
        found, expected = (load(RunFolder(p).model, SequenceModel).state_dict() for p in (path, alone.path))
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_penalty_is_refused_with_the_reason(task: str, tmp_path: Path) -> None:
    config = TrainConfig(dataset=write(tmp_path, task), penalty="explicit", **SMALL)
    labels = "values to predict" if task == "regression" else "targets at every step"
    message = rf"^penalty must be None for data with {labels}, got 'explicit'\. The regulariser is that of one class"
    with pytest.raises(ValueError, match=message):
        train_run(config, RunContext(output=tmp_path / "runs"))
    with pytest.raises(ValueError, match=message):
        train_seeds([config, replace(config, seed=2)], RunContext(output=tmp_path / "runs"), batch_seeds=True)
    assert not list((tmp_path / "runs").glob("*/config.json"))


def test_models_of_a_regression_are_compared_by_every_metric(tmp_path: Path) -> None:
    train = {"dataset": write(tmp_path, "values"), **SMALL}
    config = CompareConfig(models=["noisy", "lstm"], seeds=3, train=train, evaluation=EVALUATION)
    page, failures = compare(config, RunContext(output=tmp_path / "runs"))
    assert failures == {}
    table = (page.parent / "table.md").read_text()
    titles = ["## R²", "## Mean squared error", "## Mean absolute error", "## Sign accuracy"]
    assert [line for line in table.splitlines() if line.startswith("#")] == titles
    assert table.count("**Bold**: lowest mean of the column.") == 2 and table.count("highest mean of the column.") == 2
    content = json.loads((page.parent / "comparison.json").read_text())
    columns = content["labels"]["lstm"]["columns"]
    assert [column["metric"] for column in columns[::4]] == [
        *("r2", "mean_squared_error", "mean_absolute_error", "sign_accuracy"),
    ]
    test = columns[4]["versus_base"]
    means = {
        label: np.mean([run["mean"] for run in content["labels"][label]["columns"][4:5]]) for label in ("noisy", "lstm")
    }
    assert test["difference"] == pytest.approx(means["lstm"] - means["noisy"], abs=2e-6)
    assert columns[4]["mark"] == ("best" if means["lstm"] < means["noisy"] else columns[4]["mark"])
    html = page.read_text()
    for text in (
        'id="table"',
        'id="curves-mean_squared_error"',
        'id="paired-sign_accuracy"',
        "2 targets at every step",
    ):
        assert text in html
    assert "Best validation loss" in html and "accuracy of random guessing" not in html


def test_a_sweep_of_a_regression_is_scored_by_r2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    file, output = write(tmp_path, "regression"), str(tmp_path / "runs")
    space = ["--trials", "2", "--draws", "1", "--space", "{step_size: [0.1, 0.2]}"]
    assert main(["sweep", "--dataset", file, *words, *space, "--output", output]) == 0
    (folder,) = (tmp_path / "runs").glob("sweep-*")
    content = json.loads((folder / "sweep.json").read_text())
    for trial in content["trials"]:
        (column,) = trial["columns"][0]
        assert column["metric"] == "r2" and trial["score"] == column["value"] < 1
    best = max(trial["score"] for trial in content["trials"])
    assert content["trials"][content["best"]]["score"] == best
    assert f"Best: R² {best:.4f} on 12 perturbed validation sequences" in capsys.readouterr().out
    assert "mean R² on the validation data" in (folder / "sweep.html").read_text()
