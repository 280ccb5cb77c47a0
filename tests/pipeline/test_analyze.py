"""From a trained run to analysis.json."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyrnn.analysis.diagnostics import DIAGNOSTICS, AnalysisSettings
from noisyrnn.analysis.margins.margin import output_margins
from noisyrnn.data import load_dataset
from noisyrnn.pipeline import AnalyzeConfig, analyze_run, train_run
from noisyrnn.training import RunFolder, TrainConfig, load

SMALL = AnalysisSettings(
    test_sequences=12,
    curvature_sequences=16,
    smoothing_draws=50,
    probes=6,
    density_probes=2,
    landscape_points=3,
    attack_limit=3.0,
    confidence=0.9,
)


def trained(waves_file: Path, output: Path, **options: Any) -> RunFolder:
    settings = {"hidden_size": 5, "epochs": 8, "batch_size": 8, "learning_rate": 0.02, **options}
    return train_run(TrainConfig(dataset=str(waves_file), **settings), output=output)


@pytest.fixture
def run(waves_file: Path, tmp_path: Path) -> RunFolder:
    return trained(waves_file, tmp_path / "runs", step_size=0.3)


def read(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.analysis.read_text())


def test_every_diagnostic_is_done_and_says_what_it_used(run: RunFolder) -> None:
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL)))
    assert {name: part["status"] for name, part in found["parts"].items()} == dict.fromkeys(DIAGNOSTICS, "done")
    assert set(found["data"]) == set(DIAGNOSTICS)
    assert "12 test sequences" in found["data"]["margins"]
    assert "16 training sequences" in found["data"]["curvature"]
    names = [quantity["name"] for quantity in found["quantities"]]
    assert len(names) == len(set(names)) >= 20
    assert {"attack_accuracy", "certified_accuracy", "gradient_norms", "jacobian_norms", "spectral_density"} < set(
        found["curves"]
    )
    assert set(found["landscapes"]) == {"eigen", "filter"}
    assert found["verdict"].split(":")[0] in ("stable", "unstable", "undecided")


def test_bounds_of_the_margin_lie_where_they_must(run: RunFolder) -> None:
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["margins", "attack"])))
    value = {quantity["name"]: quantity["value"] for quantity in found["quantities"]}
    assert 0 < value["margin_certificate"] < value["attack_radius"]
    kinds = {quantity["name"]: quantity["kind"] for quantity in found["quantities"]}
    assert kinds == {
        "output_margin": "exact",
        "linearised_margin": "estimate",
        "input_margin_estimate": "estimate",
        "margin_certificate": "certificate",
        "attack_radius": "certificate",
    }
    low, high = next(q["interval"] for q in found["quantities"] if q["name"] == "attack_radius")
    assert low <= value["attack_radius"] <= high


def test_the_figure_is_that_of_the_library_on_the_sequences_it_names(run: RunFolder) -> None:
    everything = replace(SMALL, test_sequences=10_000)
    found = read(analyze_run(run, AnalyzeConfig(settings=everything, parts=["margins"])))
    test = load_dataset(json.loads(run.config.read_text())["config"]["dataset"]).test
    expected = output_margins(load(run.model), test).value.mean()
    value = next(q["value"] for q in found["quantities"] if q["name"] == "output_margin")
    assert value == pytest.approx(float(expected))


def test_all_models_see_the_same_sequences(waves_file: Path, tmp_path: Path, run: RunFolder) -> None:
    other = trained(waves_file, tmp_path / "runs", model="gru")
    for folder in (run, other):
        analyze_run(folder, AnalyzeConfig(settings=SMALL, parts=["margins"]))
    assert read(run)["data"] == read(other)["data"]


def test_a_model_without_cell_structure_of_a_theorem_still_gets_the_rest(waves_file: Path, tmp_path: Path) -> None:
    folder = trained(waves_file, tmp_path / "runs", model="lstm")
    found = read(analyze_run(folder, AnalyzeConfig(settings=SMALL)))
    assert {part["status"] for part in found["parts"].values()} == {"done"}
    names = {quantity["name"] for quantity in found["quantities"]}
    assert not names & {"margin_certificate", "lyapunov_upper_bound"}
    kinds = {quantity["name"]: quantity["kind"] for quantity in found["quantities"]}
    assert kinds["regularizer"] == "estimate"


def test_what_is_done_is_kept_and_the_rest_is_added(run: RunFolder) -> None:
    analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["margins"]))
    first = read(run)
    analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["margins", "jacobians"]))
    second = read(run)
    assert second["parts"]["margins"] == first["parts"]["margins"]
    count = len(first["quantities"])
    assert second["quantities"][:count] == first["quantities"]
    assert len(second["quantities"]) > count
    stamp = run.analysis.stat().st_mtime_ns
    analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["jacobians"]))
    assert run.analysis.stat().st_mtime_ns == stamp


def test_other_settings_start_anew(run: RunFolder) -> None:
    analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["margins"]))
    analyze_run(run, AnalyzeConfig(settings=replace(SMALL, analysis_seed=1), parts=["jacobians"]))
    assert set(read(run)["parts"]) == {"jacobians"}


def test_the_budget_is_kept_and_says_what_it_left_out(run: RunFolder) -> None:
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, budget=7.0), seconds=-1.0))
    assert found["quantities"] == []
    assert found["parts"]["curvature"] == {
        "status": "skipped",
        "reason": "The budget of 7 minutes was used up. Analyze again to go on.",
    }
    again = read(analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["margins"])))
    assert again["parts"]["margins"]["status"] == "done"


def test_a_part_stops_in_its_middle_when_time_is_up(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from noisyrnn.pipeline import analyze as module

    ticks = iter([0.0, 0.0, 0.0] + [1e9] * 1000)
    monkeypatch.setattr(module, "monotonic", lambda: next(ticks))
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["curvature"])))
    assert found["parts"]["curvature"]["status"] == "skipped"


def test_the_same_seed_gives_the_same_figures(run: RunFolder) -> None:
    first = read(analyze_run(run, AnalyzeConfig(settings=SMALL)))
    run.analysis.unlink()
    torch.manual_seed(5)
    second = read(analyze_run(run, AnalyzeConfig(settings=SMALL)))
    for found in (first, second):
        del found["parts"]
    assert first == second


def test_a_failing_part_is_noted_and_stops_no_other(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(subject: Any) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setitem(DIAGNOSTICS, "jacobians", replace(DIAGNOSTICS["jacobians"], run=fail))
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, parts=["jacobians", "margins"])))
    assert found["parts"]["jacobians"] == {"status": "failed", "reason": "it broke"}
    assert found["parts"]["margins"]["status"] == "done"


def test_wrong_settings_are_refused_before_any_work(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"part must be one of attack, .*, got 'curvatur'\. Did you mean 'curvature'"):
        AnalyzeConfig(parts=["curvatur"])
    with pytest.raises(ValueError, match="budget must be greater than 0, got 0"):
        AnalyzeConfig(budget=0.0)
    with pytest.raises(ValueError, match="landscape_points must be odd, got 4"):
        AnalysisSettings(landscape_points=4)
    with pytest.raises(ValueError, match="confidence must be less than 1, got 1"):
        AnalysisSettings(confidence=1.0)
    with pytest.raises(ValueError, match="additive or multiplicative must be above 0, got 0 for both"):
        AnalysisSettings(additive=0.0, multiplicative=0.0)
    with pytest.raises(ValueError, match="test_sequences must be at least 2, got 1"):
        AnalysisSettings(test_sequences=1)
    run.summary.unlink()
    with pytest.raises(ValueError, match="run must be finished"):
        analyze_run(run, AnalyzeConfig(settings=SMALL))
