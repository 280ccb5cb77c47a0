"""Baselines of a user's own data: measured once, and shown in every report."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.data import load_dataset
from noisyrnn.pipeline import CompareConfig, EvaluateConfig, RunContext, compare, evaluate_run, train_run
from noisyrnn.report import read_run, split_readable, write_report
from noisyrnn.robustness import WhiteNoise, baselines, evaluate
from noisyrnn.training import RunFolder, TrainConfig

QUICK = EvaluateConfig(strengths={"white_noise": [0.5], "fgsm": [0.1]}, draws=2)
SMALL: dict[str, Any] = {"hidden_size": 4, "epochs": 1, "batch_size": 64}


@pytest.fixture
def run(waves_file: Path, tmp_path: Path) -> RunFolder:
    return train_run(TrainConfig(dataset=str(waves_file), **SMALL), RunContext(output=tmp_path / "runs"))


def refuse(*arguments: object) -> Any:
    raise AssertionError("the baselines were measured again")


def test_the_file_holds_the_results_of_the_library(run: RunFolder, waves_file: Path) -> None:
    evaluate_run(run, QUICK)
    content = json.loads(run.baselines.read_text())
    dataset = load_dataset(str(waves_file))
    fitted = baselines(dataset, rocket=False)
    noise = WhiteNoise(0.5, scale=dataset.scale)
    for entry in content["baselines"]:
        model = fitted[entry["name"]]
        expected = [evaluate(model, dataset.test), evaluate(model, dataset.test, noise, draws=2)]
        assert entry["columns"] == [json.loads(json.dumps(result.to_dict())) for result in expected]
    assert [entry["name"] for entry in content["baselines"]] == ["majority class", "1-NN"]
    assert content["skipped"] == {"ROCKET": "aeon is not installed"}


def test_they_are_measured_once(run: RunFolder, waves_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_run(run, QUICK)
    second = train_run(TrainConfig(dataset=str(waves_file), seed=2, **SMALL), RunContext(output=run.path.parent))
    module = sys.modules["noisyrnn.pipeline.baselines"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_measure", refuse)
        evaluate_run(run, QUICK)
        evaluate_run(second, QUICK)
        assert second.baselines.read_bytes() == run.baselines.read_bytes()
        with pytest.raises(AssertionError, match="measured again"):
            evaluate_run(second, EvaluateConfig(strengths=QUICK.strengths, draws=3))
    second.baselines.write_text("{")
    run.baselines.write_text("{")
    evaluate_run(second, QUICK)
    assert json.loads(second.baselines.read_text())["baselines"]


def test_a_bundled_data_set_has_none(tmp_path: Path) -> None:
    context = RunContext(output=tmp_path)
    run = train_run(TrainConfig(dataset="digits", hidden_size=2, epochs=1), context)
    evaluate_run(run, EvaluateConfig(strengths={"white_noise": [0.1]}, draws=1, test_limit=4), context)
    assert run.robustness.is_file() and not run.baselines.exists()


def test_a_comparison_shows_them(waves_file: Path, tmp_path: Path) -> None:
    train = {"dataset": str(waves_file), **SMALL}
    config = CompareConfig(models=["noisy", "gru"], seeds=2, train=train, evaluation=QUICK)
    page, failures = compare(config, RunContext(output=tmp_path / "out"))
    assert not failures
    dataset = load_dataset(str(waves_file))
    score = evaluate(baselines(dataset, rocket=False)["1-NN"], dataset.test).main
    shown = f"{100 * score.mean:.1f} [{100 * score.interval[0]:.1f}, {100 * score.interval[1]:.1f}]"
    lines = (page.parent / "table.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("| 1-NN (baseline) |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "–" and cells[2] == shown and cells[4:] == ["–", "–"] and cells[3] != "–"
    html = page.read_text()
    assert html.count("1-NN (baseline)</th>") == 2 and "ROCKET is left out: aeon is not installed." in html
    content = json.loads((page.parent / "comparison.json").read_text())
    assert content["baselines"]["1-NN (baseline)"]["columns"][0]["mean"] == pytest.approx(score.mean)
    assert list(content["labels"]) == ["noisy", "gru"]


def test_a_report_shows_only_those_of_the_same_evaluation(run: RunFolder, tmp_path: Path) -> None:
    evaluate_run(run, QUICK)
    before = json.loads(run.baselines.read_text())
    assert set(read_run(run.path).baselines) == {"majority class", "1-NN"}
    kept = run.baselines.read_bytes()
    evaluate_run(run, EvaluateConfig(strengths=QUICK.strengths, draws=3))
    assert json.loads(run.baselines.read_text())["settings"] != before["settings"]
    run.baselines.write_bytes(kept)  # of two draws
    assert read_run(run.path).baselines == {}
    page = write_report([run.path], tmp_path / "report", title="own")
    assert "(baseline)" not in page.read_text()


def test_a_damaged_file_is_named(run: RunFolder) -> None:
    from noisyrnn.files import write_json

    evaluate_run(run, QUICK)
    content = json.loads(run.baselines.read_text())
    content.pop("sha256")
    write_json(run.baselines, {**content, "baselines": [{"name": "1-NN"}]})
    readable, others = split_readable([run.path])
    assert readable == [] and "baselines.json must hold the results of baselines" in others[run.path]


def test_a_failure_of_aeon_costs_no_results(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset: object, *, rocket: bool | None = None) -> Any:
        if rocket is None:
            raise RuntimeError("no threading layer")
        return baselines(dataset, rocket=rocket)  # type: ignore[arg-type]

    monkeypatch.setattr("noisyrnn.pipeline.baselines.baselines", fail)
    evaluate_run(run, QUICK)
    content = json.loads(run.baselines.read_text())
    assert content["skipped"] == {"ROCKET": "aeon failed (RuntimeError: no threading layer)"}
    assert [entry["name"] for entry in content["baselines"]] == ["majority class", "1-NN"]


def test_a_moved_run_keeps_its_baselines(run: RunFolder, tmp_path: Path) -> None:
    evaluate_run(run, QUICK)
    moved = tmp_path / "elsewhere"
    shutil.copytree(run.path, moved)
    assert read_run(moved).baselines == read_run(run.path).baselines != {}
