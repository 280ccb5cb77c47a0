"""A stored result is used again only if nothing that it depends on has changed."""

import importlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.flips import two_frequencies

from noisyrnn.analysis.diagnostics import AnalysisSettings
from noisyrnn.data import load_dataset
from noisyrnn.files import read_json, write_json
from noisyrnn.pipeline import (
    AnalyzeConfig,
    CompareConfig,
    EvaluateConfig,
    analyze_run,
    compare,
    evaluate_run,
    train_run,
)
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import EVALUATION_RESULTS
from noisyrnn.report import write_report
from noisyrnn.robustness import evaluate
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig, load, save

QUICK = EvaluateConfig(strengths={"white_noise": [0.5]}, draws=2)
BRIEF = AnalyzeConfig(
    diagnostics=["margins"], settings=AnalysisSettings(test_sequences=20, curvature_sequences=20, smoothing_draws=50)
)
SETTINGS: dict[str, Any] = {"hidden_size": 4, "epochs": 4, "batch_size": 16, "learning_rate": 0.02}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two frequencies, with a test part and lengths of its own."""
    path = tmp_path / "two.npz"
    lengths = {"lengths": np.full(60, 12), "lengths_test": np.full(40, 12)}
    np.savez(path, **two_frequencies(), **lengths)  # type: ignore[arg-type]
    return path


def change(path: Path, name: str, how: Callable[[Any], Any]) -> None:
    content = dict(np.load(path))
    content[name] = how(content[name])
    np.savez(path, **content)


def shorter(lengths: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(lengths)) == 3, 9, lengths)


def accuracy(run: Path) -> float:
    columns = read_json(run / "robustness.json")["columns"]
    return float(next(column["accuracy"] for column in columns if column["perturbation"] == "clean"))


TEST_CHANGES: list[Any] = [
    ("y_test", lambda y: 1 - y, "the labels of the test part"),
    pytest.param("X_test", lambda X: X + 0.5, "the inputs of the test part", marks=pytest.mark.slow),
    pytest.param("lengths_test", shorter, "the inputs and lengths of the test part", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "how", "words"), TEST_CHANGES)
def test_other_test_data_are_noticed_by_every_command(
    two: Path, tmp_path: Path, name: str, how: Callable[[Any], Any], words: str
) -> None:
    config = CompareConfig(models=["lstm", "gru"], seeds=1, train={"dataset": str(two), **SETTINGS}, evaluation=QUICK)
    compare(config, RunContext(output=tmp_path / "out"))
    runs = sorted(tmp_path.glob("out/*/"))
    analyze_run(RunFolder(runs[0]), BRIEF)
    weights = [(run / "model.safetensors").read_bytes() for run in runs]
    change(two, name, how)
    test = load_dataset(str(two)).test
    with pytest.warns(UserWarning, match=rf"robustness\.json is computed again: {words} changed since\."):
        evaluate_run(RunFolder(runs[0]), QUICK)
    assert accuracy(runs[0]) == evaluate(load(runs[0] / "model.safetensors"), test).accuracy
    with pytest.warns(UserWarning, match=rf"analysis\.json is computed again: {words} changed since\."):
        analyze_run(RunFolder(runs[0]), BRIEF)
    with pytest.warns(UserWarning, match=rf"gru.*robustness\.json is computed again: {words} changed|lstm.*computed"):
        _, failures = compare(config, RunContext(output=tmp_path / "out"))
    assert failures == {}
    assert [accuracy(run) for run in runs] == [evaluate(load(run / "model.safetensors"), test).accuracy for run in runs]
    assert weights == [(run / "model.safetensors").read_bytes() for run in runs], "training does not depend on it"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(config, RunContext(output=tmp_path / "out"))
        analyze_run(RunFolder(runs[0]), BRIEF)


TRAINING_CHANGES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("X", lambda X: X[::-1], "the inputs and labels of the training part"),
    ("X", lambda X: np.where(X[0, 0] == X, X + 1e-6, X), "the inputs of the (training|validation) part"),
    ("y", lambda y: np.where(np.arange(len(y)) == 4, 1 - y, y), "labels of the (training|validation) part"),
    ("y", lambda y: np.where(y == 1, 7, y), "the class names changed"),
    ("lengths", shorter, "lengths of the (training|validation) part"),
]


@pytest.mark.parametrize(("name", "how", "words"), TRAINING_CHANGES)
def test_other_training_data_are_refused_by_every_command(
    two: Path, tmp_path: Path, name: str, how: Callable[[Any], Any], words: str
) -> None:
    settings = {"dataset": str(two), **SETTINGS, "epochs": 1}
    config = CompareConfig(models=["gru"], seeds=1, train=settings, evaluation=QUICK)
    compare(config, RunContext(output=tmp_path / "out"))
    run = RunFolder(next(tmp_path.glob("out/*/")))
    analyze_run(run, BRIEF)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    if words.startswith("the inputs and labels"):
        change(two, "y", how)
    change(two, name, how)
    if words.startswith("the class"):
        change(two, "y_test", how)
    calls: list[Callable[[], Any]] = [
        lambda: compare(config, RunContext(output=tmp_path / "out")),
        lambda: evaluate_run(run, QUICK),
        lambda: analyze_run(run, BRIEF),
        lambda: train_run(config.run_configs()[0], RunContext(output=tmp_path / "out", resume=True)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"^dataset must hold the data that {run.path} .*two\.npz.*{words}"):
            call()
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_other_weights_settings_and_versions_make_a_result_stale(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_run(TrainConfig(model="gru", dataset=str(two), **SETTINGS), RunContext(output=tmp_path))
    evaluate_run(run, QUICK)
    analyze_run(run, BRIEF)
    stamps = [path.stat().st_mtime_ns for path in (run.robustness, run.analysis)]

    def check(words: str) -> None:
        nonlocal stamps
        with pytest.warns(UserWarning, match=rf"robustness\.json is computed again: {words} changed since"):
            evaluate_run(run, QUICK)
        with pytest.warns(UserWarning, match=rf"analysis\.json is computed again: {words} changed since"):
            analyze_run(run, BRIEF)
        now = [path.stat().st_mtime_ns for path in (run.robustness, run.analysis)]
        assert all(new > old for new, old in zip(now, stamps, strict=True))
        stamps = now

    model = load(run.model)
    model.readout.weight.data.neg_()
    save(model, run.model)
    check(r"model\.safetensors")
    config = run.read_config()
    write_json(run.config, {**config, "config": {**config["config"], "additive": 0.5}})
    check(r"config\.json")
    config = run.read_config()
    write_json(run.config, {**config, "environment": {**config["environment"], "threads": 99}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is not the file that the training of this run wrote")
        evaluate_run(run, QUICK)
        analyze_run(run, BRIEF)
    monkeypatch.setitem(EVALUATION_RESULTS, "classes", 10**6)
    monkeypatch.setattr("noisyrnn.pipeline.analyze.ANALYSIS_RESULTS", 10**6)
    check("the way noisyrnn computes it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is not the file that the training of this run wrote")
        evaluate_run(run, EvaluateConfig(strengths={"white_noise": [0.25]}, draws=2))  # asked for: no news
    assert [c["strength"] for c in read_json(run.robustness)["columns"]] == [None, 0.25]


def test_results_of_another_run_are_not_taken_for_its_own(two: Path, tmp_path: Path) -> None:
    runs = [
        evaluate_run(
            train_run(TrainConfig(model="gru", dataset=str(two), seed=seed, **SETTINGS), RunContext(output=tmp_path)),
            QUICK,
        )
        for seed in (1, 2)
    ]
    expected = runs[1].robustness.read_bytes()
    shutil.copy(runs[0].robustness, runs[1].robustness)
    with pytest.warns(UserWarning, match=r"computed again: model\.safetensors and config\.json changed since"):
        evaluate_run(runs[1], QUICK)
    assert runs[1].robustness.read_bytes() == expected


def test_a_model_of_another_run_is_named_by_every_command(two: Path, tmp_path: Path) -> None:
    config = CompareConfig(models=["lstm", "gru"], seeds=1, train={"dataset": str(two), **SETTINGS}, evaluation=QUICK)
    compare(config, RunContext(output=tmp_path / "out"))
    lstm, gru = (RunFolder(next(tmp_path.glob(f"out/*-{name}-*"))) for name in ("lstm", "gru"))
    shutil.copy(lstm.model, gru.model)
    gru.robustness.unlink()  # nothing is known of it before
    words = rf"^{gru.model} is not the file that the training of this run wrote.* The results are those of this file\.$"
    with pytest.warns(UserWarning, match=words):
        evaluate_run(gru, QUICK)
    with pytest.warns(UserWarning, match=words):
        analyze_run(gru, BRIEF)
    page = write_report([lstm.path, gru.path], tmp_path / "report", title="Two")
    note = "gru, seed 1: its results are not those of its training: "
    assert note in (page.parent / "table.md").read_text() and note in page.read_text()


def test_settings_of_another_run_are_noticed(two: Path, tmp_path: Path) -> None:
    config = CompareConfig(models=["gru"], seeds=2, train={"dataset": str(two), **SETTINGS}, evaluation=QUICK)
    compare(config, RunContext(output=tmp_path / "out"))
    first, second = (RunFolder(next(tmp_path.glob(f"out/*-seed{seed}-*"))) for seed in (1, 2))
    shutil.copy(second.config, first.config)
    words = (
        rf"^{first.config} must hold the settings that its folder is named after, got others: the seed changed since"
    )
    for task in config.run_configs():
        if task.seed == 1:
            with pytest.raises(ValueError, match=words):
                train_run(task, RunContext(output=tmp_path / "out", resume=True))
    page, failures = compare(config, RunContext(output=tmp_path / "out"))
    assert list(failures) == [first.path] and failures[first.path].startswith(str(first.config))
    assert "| gru | 1 |" in (page.parent / "table.md").read_text()


def test_a_run_whose_evaluation_fails_does_not_keep_old_figures_in_the_table(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"models": ["lstm", "gru"], "seeds": 1, "train": {"dataset": str(two), **SETTINGS}}
    compare(CompareConfig(**settings, evaluation=QUICK), RunContext(output=tmp_path / "out"))
    module = importlib.import_module("noisyrnn.pipeline.execution")

    def fail(folder: RunFolder, *arguments: Any, **options: Any) -> RunFolder:
        if "gru" in folder.path.name:
            raise RuntimeError("the memory is gone")
        return evaluate_run(folder, *arguments, **options)

    monkeypatch.setattr(module, "evaluate_run", fail)
    change(two, "y_test", lambda y: 1 - y)
    for draws in (2, 3):  # other test data, then other settings as well
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluation = EvaluateConfig(strengths={"white_noise": [0.5]}, draws=draws)
            page, failures = compare(
                CompareConfig(**settings, evaluation=evaluation), RunContext(output=tmp_path / "out")
            )
        ((path, why),) = failures.items()
        assert "gru" in path.name and why == "the memory is gone. Its robustness.json is that of another evaluation."
        table = (page.parent / "table.md").read_text()
        assert "| lstm | 1 |" in table and "| gru |" not in table and "is left out: the memory is gone" in table


def test_other_random_starts_of_attacks_are_noted(two: Path, tmp_path: Path) -> None:
    runs = []
    for seed, starts in ((1, 1), (2, 2)):
        run = train_run(TrainConfig(model="gru", dataset=str(two), seed=seed, **SETTINGS), RunContext(output=tmp_path))
        runs.append(evaluate_run(run, EvaluateConfig(strengths={"fgsm": [0.1]}, attack_draws=starts)).path)
    write_report(runs, tmp_path / "report", title="Two")
    assert "evaluated with different numbers of draws" in (tmp_path / "report" / "table.md").read_text()
