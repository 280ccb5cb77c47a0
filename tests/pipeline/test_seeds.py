"""Several seeds of one model, one run after another or side by side."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.files import read_json, write_json
from noisyrnn.pipeline import RunContext, train_run, train_seeds
from noisyrnn.pipeline.train import run_path
from noisyrnn.training import RunFolder, TrainConfig


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")


@pytest.fixture
def configs(waves_file: Path) -> list[TrainConfig]:
    config = TrainConfig(
        dataset=str(waves_file), hidden_size=4, epochs=2, batch_size=16, clip_norm=1.0, options={"step_size": 0.2}
    )
    return [dataclasses.replace(config, seed=seed) for seed in (3, 4, 5)]


def without_times(path: Path) -> dict[str, Any]:
    content = read_json(path)
    for name in ("seconds", "metrics_sha256"):  # metrics.csv holds times too
        content.pop(name, None)
    return content


@pytest.mark.parametrize("batch_seeds", [False, True])
def test_folders_are_those_of_single_runs(configs: list[TrainConfig], tmp_path: Path, batch_seeds: bool) -> None:
    ends = train_seeds(configs, RunContext(output=tmp_path / "many"), batch_seeds=batch_seeds)
    assert list(ends) == [run_path(config, tmp_path / "many") for config in configs]
    assert set(ends.values()) == {None}
    for config, path in zip(configs, ends, strict=True):
        single = train_run(config, RunContext(output=tmp_path / "single"))
        many = RunFolder(path)
        assert many.path.name == single.path.name
        assert {file.name for file in path.iterdir()} == {file.name for file in single.path.iterdir()}
        assert many.model.read_bytes() == single.model.read_bytes()
        for file in ("config.json", "summary.json"):
            assert without_times(path / file) == without_times(single.path / file)


def test_finished_runs_are_left_alone_and_unfinished_ones_go_on(configs: list[TrainConfig], tmp_path: Path) -> None:
    done = train_run(configs[0], RunContext(output=tmp_path))
    half = train_run(configs[1], RunContext(output=tmp_path))
    half.summary.unlink()
    before = {path: path.stat().st_mtime_ns for path in done.path.iterdir()}
    with pytest.raises(ValueError, match=r"resume must be given to continue the unfinished run .*waves-noisy-seed4"):
        train_seeds(configs, RunContext(output=tmp_path), batch_seeds=True)
    assert not run_path(configs[2], tmp_path).exists()
    ends = train_seeds(configs, RunContext(output=tmp_path, resume=True), batch_seeds=True)
    assert all(RunFolder(path).finished for path in ends)
    assert {path: path.stat().st_mtime_ns for path in done.path.iterdir()} == before
    assert train_seeds(configs, RunContext(output=tmp_path), batch_seeds=True) == ends


@pytest.mark.parametrize("batch_seeds", [False, True])
def test_a_run_that_diverges_is_named_and_stops_no_other(
    configs: list[TrainConfig], tmp_path: Path, batch_seeds: bool, diverging: Callable[[int], None]
) -> None:
    diverging(4)
    ends = train_seeds(configs, RunContext(output=tmp_path), batch_seeds=batch_seeds)
    failed = run_path(configs[1], tmp_path)
    assert [path for path, sentence in ends.items() if sentence is not None] == [failed]
    summary = json.loads(RunFolder(failed).summary.read_text())
    assert summary["status"] == "failed"
    assert summary["error"] == ends[failed]
    assert "at training step 1 (epoch 1)" in summary["error"]
    assert [RunFolder(path).finished for path in ends] == [True, False, True]


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_an_error_of_all_runs_is_written_to_each(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise kind("out of memory")

    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.seeds"], "fit_seeds", fail)
    with pytest.raises(kind, match="out of memory"):
        train_seeds(configs, RunContext(output=tmp_path), batch_seeds=True)
    for config in configs:
        summary = json.loads(RunFolder(run_path(config, tmp_path)).summary.read_text())
        assert summary["status"] == "failed"
        assert "out of memory" in summary["error"]


def test_bad_arguments_before_any_work(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "runs"
    mixed = [configs[0], dataclasses.replace(configs[1], values_per_step=2)]
    with pytest.raises(ValueError, match=r"configs must have one values_per_step .*, got 1 and 2\."):
        train_seeds(mixed, RunContext(output=output), batch_seeds=True)
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match=r"batch_seeds must be off where a run is spread over processes, got 2 of them\."
    ):
        train_seeds(configs, RunContext(output=output), batch_seeds=True)
    assert not output.exists()


def test_runs_on_other_data_are_refused(configs: list[TrainConfig], tmp_path: Path) -> None:
    folder = train_run(configs[1], RunContext(output=tmp_path))
    content = folder.read_config()
    content["dataset"]["fingerprint"] = {}
    write_json(folder.config, content)
    with pytest.raises(ValueError, match=r"dataset must hold the data that .*seed4.* was trained on"):
        train_seeds(configs, RunContext(output=tmp_path), batch_seeds=True)
    assert not run_path(configs[0], tmp_path).exists()
