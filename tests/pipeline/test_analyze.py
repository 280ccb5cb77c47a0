"""From a trained run to analysis.json."""

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.analysis.diagnostic_results import Curve, DiagnosticResults, Quantity
from noisyrnn.analysis.diagnostics import DIAGNOSTICS, AnalysisSettings, DiagnosticContext
from noisyrnn.analysis.margins.attack_radius import attack_radius
from noisyrnn.analysis.margins.margin import output_margins
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.data import load_dataset
from noisyrnn.data.split import Split
from noisyrnn.files import write_json
from noisyrnn.pipeline import AnalyzeConfig, RunContext, analyze_run, dependencies, train_run
from noisyrnn.pipeline import analyze as module
from noisyrnn.pipeline.dependencies import run_config
from noisyrnn.training import RunFolder, TrainConfig, load

SMALL = AnalysisSettings(
    test_sequences=12,
    curvature_sequences=16,
    smoothing_noise=0.1,
    smoothing_draws=50,
    probes=6,
    density_probes=2,
    landscape_points=3,
    max_attack_radius=3.0,
    confidence=0.9,
)


@pytest.fixture(autouse=True)
def _short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks of two rounds: how small a radius they find is tested where they are made."""
    margins = sys.modules["noisyrnn.analysis.diagnostics.margins"]  # a function of that name hides the module
    monkeypatch.setattr(margins, "attack_radius", partial(attack_radius, rounds=2))


def trained(waves_file: Path, output: Path, **options: Any) -> RunFolder:
    settings = {"hidden_size": 5, "epochs": 8, "batch_size": 8, "learning_rate": 0.02, **options}
    return train_run(TrainConfig.from_dict({"dataset": str(waves_file), **settings}), RunContext(output=output))


@pytest.fixture
def run(waves_file: Path, tmp_path: Path) -> RunFolder:
    return trained(waves_file, tmp_path / "runs", step_size=0.3)


@pytest.fixture
def quick(waves_file: Path, tmp_path: Path) -> RunFolder:
    return trained(waves_file, tmp_path / "quick", epochs=1)


def read(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.analysis.read_text())


def test_every_diagnostic_is_done_and_the_same_seed_gives_the_same_figures(run: RunFolder) -> None:
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL)))
    assert {name: part["status"] for name, part in found["diagnostics"].items()} == dict.fromkeys(DIAGNOSTICS, "done")
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
    run.analysis.unlink()
    torch.manual_seed(5)
    again = read(analyze_run(run, AnalyzeConfig(settings=SMALL)))
    for one in (found, again):
        del one["diagnostics"], one["sha256"]  # they hold times
    assert again == found


def test_bounds_of_the_margin_lie_where_they_must(run: RunFolder) -> None:
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["margins", "attack"])))
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
    found = read(analyze_run(run, AnalyzeConfig(settings=everything, diagnostics=["margins"])))
    test = load_dataset(json.loads(run.config.read_text())["config"]["dataset"]).test
    expected = output_margins(load(run.model), test).value.mean()
    value = next(q["value"] for q in found["quantities"] if q["name"] == "output_margin")
    assert value == pytest.approx(float(expected))


def test_all_models_see_the_same_sequences(waves_file: Path, tmp_path: Path, run: RunFolder) -> None:
    other = trained(waves_file, tmp_path / "runs", model="gru")
    for folder in (run, other):
        analyze_run(folder, AnalyzeConfig(settings=SMALL, diagnostics=["margins"]))
    assert read(run)["data"] == read(other)["data"]


def test_a_model_without_cell_structure_of_a_theorem_still_gets_the_rest(waves_file: Path, tmp_path: Path) -> None:
    folder = trained(waves_file, tmp_path / "runs", model="lstm")
    names = sorted(set(DIAGNOSTICS) - {"attack", "curvature"})  # these know nothing of cells
    found = read(analyze_run(folder, AnalyzeConfig(settings=SMALL, diagnostics=names)))
    statuses = {name: part["status"] for name, part in found["diagnostics"].items()}
    assert statuses == dict.fromkeys(names, "done") | {"test-noise": "impossible"}  # it has no noise
    names = {quantity["name"] for quantity in found["quantities"]}
    assert not names & {"margin_certificate", "lyapunov_upper_bound"}
    kinds = {quantity["name"]: quantity["kind"] for quantity in found["quantities"]}
    assert kinds["regularizer"] == "estimate"


def test_what_is_done_is_kept_and_the_rest_is_added(run: RunFolder) -> None:
    analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["margins"]))
    first = read(run)
    analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["margins", "jacobians"]))
    second = read(run)
    assert second["diagnostics"]["margins"] == first["diagnostics"]["margins"]
    count = len(first["quantities"])
    assert second["quantities"][:count] == first["quantities"]
    assert len(second["quantities"]) > count
    stamp = run.analysis.stat().st_mtime_ns
    analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["jacobians"]))
    assert run.analysis.stat().st_mtime_ns == stamp


def test_other_settings_start_anew(run: RunFolder) -> None:
    analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["margins"]))
    analyze_run(run, AnalyzeConfig(settings=replace(SMALL, analysis_seed=1), diagnostics=["jacobians"]))
    assert set(read(run)["diagnostics"]) == {"jacobians"}


def test_the_budget_is_kept_and_says_what_it_left_out(run: RunFolder) -> None:
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, budget=7.0), seconds=-1.0))
    assert found["quantities"] == []
    assert found["diagnostics"]["curvature"] == {
        "status": "skipped",
        "reason": "The budget of 7 minutes was used up. Analyze again to continue.",
    }
    again = read(analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["margins"])))
    assert again["diagnostics"]["margins"]["status"] == "done"


def test_a_part_stops_in_its_middle_when_time_is_up(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.0, 0.0] + [1e9] * 1000)
    monkeypatch.setattr(module, "monotonic", lambda: next(ticks))
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["curvature"])))
    assert found["diagnostics"]["curvature"]["status"] == "skipped"


def test_a_failing_part_is_noted_and_stops_no_other(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(subject: Any) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setitem(DIAGNOSTICS, "jacobians", replace(DIAGNOSTICS["jacobians"], build=fail))
    found = read(analyze_run(run, AnalyzeConfig(settings=SMALL, diagnostics=["jacobians", "margins"])))
    assert found["diagnostics"]["jacobians"] == {"status": "failed", "reason": "it broke"}
    assert found["diagnostics"]["margins"]["status"] == "done"


def test_wrong_settings_are_refused_before_any_work(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(
        ValueError, match=r"diagnostic must be one of attack, .*, got 'curvatur'\. Did you mean 'curvature'"
    ):
        AnalyzeConfig(diagnostics=["curvatur"])
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


def spied(
    monkeypatch: pytest.MonkeyPatch, name: str, found: DiagnosticResults | BaseException | None = None
) -> list[DiagnosticContext]:
    """Put in place of a diagnostic one that finds `found`, or fails with it; the list holds what it looked at."""
    subjects: list[DiagnosticContext] = []

    def look(subject: DiagnosticContext) -> DiagnosticResults:
        subjects.append(subject)
        if isinstance(found, BaseException):
            raise found
        return found or DiagnosticResults()

    monkeypatch.setitem(DIAGNOSTICS, name, replace(DIAGNOSTICS[name], build=look))
    return subjects


def rows(split: Split) -> list[list[float]]:
    return [row.flatten().tolist() for row in split.inputs]


def test_a_diagnostic_sees_the_trained_model_and_its_own_data(
    quick: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = spied(monkeypatch, "margins")
    everything = replace(SMALL, test_sequences=10_000, curvature_sequences=10_000)
    for settings in (everything, SMALL):
        analyze_run(quick, AnalyzeConfig(settings=settings, diagnostics=["margins"]))
    whole, some = subjects
    dataset = load_dataset(run_config(quick).dataset)
    assert sorted(rows(whole.train)) == sorted(rows(dataset.train)) and rows(whole.train) != rows(dataset.train)
    assert sorted(rows(whole.test)) == sorted(rows(dataset.test)) and rows(whole.test) != rows(dataset.test)
    assert (len(some.train), len(some.test)) == (16, 12) and some.settings == SMALL
    labels = {tuple(row): int(label) for row, label in zip(rows(dataset.test), dataset.test.labels, strict=True)}
    assert [labels[tuple(row)] for row in rows(some.test)] == some.test.labels.tolist()
    assert some.train.classes == some.test.classes == 2 and not some.model.training
    saved = load(quick.model).state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in some.model.state_dict().items())


def test_the_sequences_depend_on_the_seed_of_the_analysis_alone(
    waves_file: Path, tmp_path: Path, quick: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trained(waves_file, tmp_path / "runs", epochs=1, seed=2)
    subjects = spied(monkeypatch, "margins")
    for folder, seed in ((quick, 0), (other, 0), (quick, 1)):
        analyze_run(folder, AnalyzeConfig(settings=replace(SMALL, analysis_seed=seed), diagnostics=["margins"]))
    first, same, new = ((rows(subject.train), rows(subject.test)) for subject in subjects)
    assert first == same
    assert first[0] != new[0] and first[1] != new[1]


def test_unequal_lengths_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    lines = ["@problemName lines", "@univariate true", "@classLabel true a b", "@data"]
    for k in range(60):
        values = generator.standard_normal(5 + k % 4) + k % 2
        lines.append(",".join(f"{value:.3f}" for value in values) + ":" + "ab"[k % 2])
    path = tmp_path / "lines.ts"
    path.write_text("\n".join(lines))
    folder = trained(path, tmp_path / "runs", epochs=1)
    subjects = spied(monkeypatch, "margins")
    analyze_run(folder, AnalyzeConfig(settings=SMALL, diagnostics=["margins"]))
    for split in (subjects[0].train, subjects[0].test):
        assert split.lengths is not None and set(split.lengths.tolist()) <= {5, 6, 7, 8}
        for row, length in zip(split.inputs, split.lengths, strict=True):
            assert bool((row[:length] != 0).all()) and not row[length:].any()


def test_the_scale_of_the_data_changes_no_default(waves_file: Path, tmp_path: Path) -> None:
    content, found = dict(np.load(waves_file)), []
    for name, factor in (("volts", 1.0), ("microvolts", 1e6)):
        np.savez(tmp_path / f"{name}.npz", X=content["X"] * factor, y=content["y"])
        folder = trained(tmp_path / f"{name}.npz", tmp_path / "runs")
        settings = replace(SMALL, max_attack_radius=None, smoothing_noise=None)
        written = read(
            analyze_run(folder, AnalyzeConfig(settings=settings, diagnostics=["margins", "attack", "smoothing"]))
        )
        assert (written["settings"]["max_attack_radius"], written["settings"]["smoothing_noise"]) == (0.5, 0.1)
        assert written["depends_on"]["results"] == dependencies.ANALYSIS_RESULTS
        found.append({quantity["name"]: quantity["value"] for quantity in written["quantities"]})
        units = {quantity["name"]: quantity["unit"] for quantity in written["quantities"]}
        assert units["attack_radius"] == units["certified_radius"] == units["linearised_margin"] == "s√n"
    assert 0 < found[0]["attack_radius"] < 0.5
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_where_the_data_come_from(quick: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = quick.read_config()
    written["config"]["values_per_step"] = 7
    write_json(quick.config, written)
    asked: dict[str, Any] = {}

    def find(name: str, **options: Any) -> Any:
        asked.update(options, name=name)
        return load_dataset(name)

    monkeypatch.setattr("noisyrnn.pipeline.context.load_dataset", find)
    spied(monkeypatch, "margins")
    analyze_run(quick, AnalyzeConfig(settings=SMALL, diagnostics=["margins"]), RunContext(data_dir=tmp_path))
    options = {"values_per_step": 7}
    assert asked == {"name": written["config"]["dataset"], "data_dir": tmp_path, **options}


def test_other_data_are_refused(quick: RunFolder, waves_file: Path) -> None:
    content = dict(np.load(waves_file))
    np.savez(waves_file, X=content["X"] * 2, y=content["y"])
    with pytest.raises(ValueError, match=r"dataset must hold the data that .* was trained on, got .* the inputs"):
        analyze_run(quick, AnalyzeConfig(settings=SMALL, diagnostics=["margins"]))
    assert not quick.analysis.exists()


@pytest.mark.parametrize(("budget", "seconds", "limit"), [(0.125, None, 7.5), (30.0, 12.0, 12.0)])
def test_the_time_is_the_budget_or_what_is_given(
    quick: RunFolder, monkeypatch: pytest.MonkeyPatch, budget: float, seconds: float | None, limit: float
) -> None:
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def work(subject: DiagnosticContext) -> DiagnosticResults:
        now[0] = 100 + limit - 0.01
        subject.check_time()
        return DiagnosticResults()

    def overdo(subject: DiagnosticContext) -> DiagnosticResults:
        now[0] = 100 + limit + 0.01
        subject.check_time()
        return DiagnosticResults()

    monkeypatch.setitem(DIAGNOSTICS, "margins", replace(DIAGNOSTICS["margins"], build=work))
    monkeypatch.setitem(DIAGNOSTICS, "jacobians", replace(DIAGNOSTICS["jacobians"], build=overdo))
    config = AnalyzeConfig(settings=SMALL, budget=budget, diagnostics=["margins", "jacobians", "stability"])
    parts = read(analyze_run(quick, config, seconds=seconds))["diagnostics"]
    assert parts["margins"] == {"status": "done", "seconds": round(limit - 0.01, 2)}
    late = {"status": "skipped", "reason": f"The budget of {budget:g} minutes was used up. Analyze again to continue."}
    assert parts["jacobians"] == parts["stability"] == late


def test_the_time_left_takes_the_long_diagnostics_into_account(
    quick: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("noisyrnn.progress.time.monotonic", lambda: now[0])

    def build(name: str, seconds: float) -> None:
        def work(_: DiagnosticContext) -> DiagnosticResults:
            now[0] += seconds
            return DiagnosticResults()

        monkeypatch.setitem(DIAGNOSTICS, name, replace(DIAGNOSTICS[name], build=work))

    build("attack", 40.0)
    build("curvature", 400.0)
    config = AnalyzeConfig(settings=SMALL, diagnostics=["attack", "curvature"])
    analyze_run(quick, config, RunContext(show_progress=True))
    first, *_ = [line for line in capsys.readouterr().err.splitlines() if "ETA" in line]
    assert first == f"analyze {quick.path.name}: 20/170, ETA 300 s"


@pytest.mark.parametrize(
    ("error", "status", "times"),
    [(ValueError("no"), "impossible", 1), (TypeError("no"), "impossible", 1), (RuntimeError("no"), "failed", 2)],
)
def test_what_cannot_be_is_not_tried_again_and_what_failed_is(
    quick: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, times: int
) -> None:
    subjects = spied(monkeypatch, "jacobians", error)
    config = AnalyzeConfig(settings=SMALL, diagnostics=["jacobians"])
    for _ in range(2):
        assert read(analyze_run(quick, config))["diagnostics"] == {"jacobians": {"status": status, "reason": "no"}}
    assert len(subjects) == times


def test_another_kind_of_error_is_not_hidden(quick: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    spied(monkeypatch, "jacobians", KeyError("a mistake of ours"))
    with pytest.raises(KeyError, match="a mistake of ours"):
        analyze_run(quick, AnalyzeConfig(settings=SMALL, diagnostics=["jacobians"]))


def test_all_that_was_found_is_kept_together(quick: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, verdict: str | None) -> DiagnosticResults:
        one = Measurement(value=torch.tensor(1.0), kind="exact")
        ends = torch.zeros(1)
        return DiagnosticResults(
            quantities=[Quantity(name=name, title=name, measurement=one)],
            curves={name: Curve(x=ends, y=ends, xlabel="x", ylabel="y", kind="exact")},
            landscapes={name: {"note": name}},
            verdict=verdict,
            data=f"data of {name}",
        )

    config = AnalyzeConfig(settings=SMALL, diagnostics=["stability", "margins"])
    spied(monkeypatch, "stability", made("a", "stable: yes"))
    spied(monkeypatch, "margins", made("b", None))
    found = read(analyze_run(quick, config))
    assert [(one["name"], one["group"]) for one in found["quantities"]] == [("a", "stability"), ("b", "margins")]
    assert list(found["curves"]) == list(found["landscapes"]) == ["a", "b"]
    assert found["verdict"] == "stable: yes"
    assert found["data"] == {"stability": "data of a", "margins": "data of b"}
    assert found["settings"] == asdict(SMALL)


def test_the_file_is_whole_after_each_part(quick: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stops in the second part, or while it writes, leaves the first one as it was."""
    config = AnalyzeConfig(settings=SMALL, diagnostics=["margins", "jacobians"])
    spied(monkeypatch, "margins")
    stopped = spied(monkeypatch, "jacobians", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        analyze_run(quick, config)
    before = quick.analysis.read_bytes()
    assert list(json.loads(before)["diagnostics"]) == ["margins"] and len(stopped) == 1

    def refuse(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    spied(monkeypatch, "jacobians")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        analyze_run(quick, config)
    assert quick.analysis.read_bytes() == before and not list(quick.path.glob(".*.part"))


def test_an_accelerator_that_is_not_there(quick: RunFolder) -> None:
    with pytest.raises(ValueError, match="accelerator must be one of auto, cpu, cuda, got 'tpu'"):
        analyze_run(quick, AnalyzeConfig(settings=SMALL, diagnostics=["margins"]), RunContext(accelerator="tpu"))


def test_a_part_named_twice_is_computed_once(quick: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    quantity = Quantity(name="q", title="q", measurement=Measurement(value=torch.tensor(1.0), kind="exact"))
    subjects = spied(monkeypatch, "margins", DiagnosticResults(quantities=[quantity]))
    found = read(analyze_run(quick, AnalyzeConfig(settings=SMALL, diagnostics=["margins", "margins"])))
    assert len(found["quantities"]) == 1
    assert len(subjects) == 1
