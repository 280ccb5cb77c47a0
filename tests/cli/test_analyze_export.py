"""What the flags of `analyze` and `export` become, in one process, with stand-ins for the calls."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.analysis.diagnostics import AnalysisSettings
from noisyrnn.cli import main
from noisyrnn.files import write_json
from noisyrnn.pipeline import RunContext
from noisyrnn.run_folder import RunFolder

analyze = importlib.import_module("noisyrnn.cli.analyze")
export = importlib.import_module("noisyrnn.cli.export")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three folders of runs."""
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.mkdir()
        write_json(path / "config.json", {"config": {"label": "a", "seed": 1}})
    return paths


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunFolder, Any, RunContext, float]]:
    """Calls of `analyze_run`, of which each takes 5 seconds more than the one before."""
    now, calls = [0.0], []
    monkeypatch.setattr(analyze.time, "monotonic", lambda: now[0])

    def stand_in(folder: RunFolder, config: Any, context: RunContext, seconds: float) -> RunFolder:
        calls.append((folder, config, context, seconds))
        now[0] += 5 * len(calls)
        parts = {"margins": {"status": "done"}, "attack": {"status": "impossible", "reason": "no attack"}}
        write_json(folder.analysis, {"diagnostics": parts})
        return folder

    monkeypatch.setattr(analyze, "analyze_run", stand_in)
    return calls


def test_the_budget_is_shared_by_the_runs_that_are_left(runs: list[Path], calls: Any) -> None:
    assert main(["analyze", *map(str, runs), "--budget", "1"]) == 0
    assert [folder.path for folder, *_ in calls] == runs
    assert [seconds for *_, seconds in calls] == pytest.approx([60 / 3, 55 / 2, 45])


def test_every_flag_of_analyze_arrives(runs: list[Path], calls: Any, tmp_path: Path) -> None:
    flags = ["--diagnostics", "attack, margins", "--budget", "2", "--max-attack-radius", "3", "--confidence", "0.9"]
    places = ["--data-dir", str(tmp_path), "--accelerator", "auto"]
    assert main(["analyze", str(runs[0]), *flags, "--analysis_seed", "4", *places]) == 0
    assert main(["analyze", str(runs[0])]) == 0
    (_, config, context, seconds), (_, plain, defaults, plain_seconds) = calls
    assert config.diagnostics == ("attack", "margins") and config.budget == 2.0
    assert config.settings == AnalysisSettings(max_attack_radius=3.0, confidence=0.9, analysis_seed=4)
    assert seconds == 120.0 and plain_seconds == 60 * plain.budget == 1800.0
    assert context == RunContext(data_dir=tmp_path, accelerator="auto", show_progress=True)
    assert defaults == RunContext(accelerator="cpu", show_progress=True)
    assert plain.settings == AnalysisSettings()


def test_what_was_not_computed_is_named(runs: list[Path], calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(runs[0])]) == 0
    out, err = capsys.readouterr()
    assert out == f"Analyzed: {runs[0] / 'analysis.json'}\n" and err == "Not computed: attack: no attack\n"


def test_a_part_that_failed_is_a_failed_computation(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"margins": {"status": "failed", "reason": "it did"}, "attack": {"status": "done"}}

    def stand_in(folder: RunFolder, *_: Any, **__: Any) -> None:
        found = parts if folder.path == runs[0] else {"margins": {"status": "skipped", "reason": "no time"}}
        write_json(folder.analysis, {"diagnostics": found})

    monkeypatch.setattr(analyze, "analyze_run", stand_in)
    assert main(["analyze", *map(str, runs)]) == 1
    assert main(["analyze", *map(str, runs[1:])]) == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"output": None}),
        (["--streaming", "--format", "torch"], {"output": None, "streaming": True, "format": "torch"}),
    ],
)
def test_every_flag_of_export_arrives(
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    expected: dict[str, Any],
) -> None:
    calls = []

    def stand_in(folder: RunFolder, **options: Any) -> list[Path]:
        calls.append((folder.path, options))
        return [tmp_path / "one", tmp_path / "two"]

    monkeypatch.setattr(export, "export_run", stand_in)
    assert main(["export", str(runs[1]), *flags]) == 0
    assert main(["export", str(runs[1]), *flags, "--output", str(tmp_path / "out")]) == 0
    assert calls == [(runs[1], expected), (runs[1], {**expected, "output": tmp_path / "out"})]
    assert capsys.readouterr().out == f"Exported: {tmp_path / 'one'}\nExported: {tmp_path / 'two'}\n" * 2
