"""Archives of measured runs: what comes back is read, shown and measured as before."""

import json
import subprocess
from pathlib import Path

import pytest
from benchmarks.kept_runs import ARCHIVES, main, pack, unpack

from noisyrnn.analysis import AnalysisSettings
from noisyrnn.files import file_digest
from noisyrnn.pipeline import AnalyzeConfig, RunContext, analyze_run, train_run
from noisyrnn.pipeline.reproduce import ReproduceConfig, reproduce
from noisyrnn.run_folder import RunFolder

TABLE = """
title = "Digits"
source = "none"
strengths.digits = { white_noise = [0.1], fgsm = [0.05] }
evaluation = { draws = 1, attack_sequences = 20 }

[[rows]]
train = { dataset = "digits", model = "noisy", hidden_size = 3, epochs = 1, batch_size = 256, min_steps = 1 }
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReproduceConfig, Path, Path]:
    """A reproduction with two measured runs, its folder, and its archives."""
    output = tmp_path_factory.mktemp("runs")
    table = output / "digits.toml"
    table.write_text(TABLE, encoding="utf-8")
    config = ReproduceConfig(table=str(table), seeds=2, finished_only=True)
    context = RunContext(output=output, accelerator="cpu")
    for seed in (1, 2, 3):
        train_run(config.run_config(config.chosen_rows[0], seed), context)
    reproduce(config, context)  # the third run is not measured
    first = RunFolder(next(output.glob("*-seed1-*")))
    analyze_run(first, AnalyzeConfig(diagnostics=["margins"], settings=AnalysisSettings(test_sequences=4)), context)
    archives = tmp_path_factory.mktemp("archives")
    pack(output, archives)
    return config, output, archives


def written(runs: Path) -> dict[Path, int]:
    """When each result was written."""
    return {file: file.stat().st_mtime_ns for file in runs.rglob("robustness*.json")}


def test_only_measured_runs_are_kept_and_the_same_files_give_the_same_bytes(measured):
    _, output, archives = measured
    names = sorted(file.name for file in archives.iterdir())
    assert [name.split("-")[2] for name in names] == ["seed1", "seed2"]
    assert pack(output, archives) == []


def test_the_table_of_unpacked_runs_is_that_of_the_originals(measured, tmp_path):
    config, output, archives = measured
    assert len(unpack(tmp_path, archives)) == 2
    before = written(tmp_path)
    page, failures = reproduce(config, RunContext(output=tmp_path, accelerator="cpu"))
    assert failures == {}
    assert (tmp_path / "table.md").read_text() == (output / "table.md").read_text()
    assert written(tmp_path) == before  # nothing is measured again
    assert page.is_file()


def test_an_archive_has_the_weights_and_says_nothing_about_the_machine(measured, tmp_path):
    _, output, archives = measured
    for folder in unpack(tmp_path, archives):
        run, original = RunFolder.open(folder), RunFolder.open(output / folder.name)
        assert run.finished
        assert file_digest(run.model) == file_digest(original.model)
        assert file_digest(run.last_model) == file_digest(original.last_model)
        assert not run.checkpoint.exists()
        assert run.config_digest() == original.config_digest()
        assert "environment" not in json.loads(run.config.read_text())
        analyzed = "-seed1-" in folder.name
        assert (run.analysis.is_file(), original.analysis.is_file()) == (analyzed, analyzed)
        if analyzed:
            assert run.analysis.read_bytes() == original.analysis.read_bytes()
            assert not run.read_result(run.analysis).stale


def test_a_folder_that_is_there_is_left_as_it_is(measured, tmp_path):
    _, _, archives = measured
    name = min(file.name for file in archives.iterdir()).removesuffix(".tar.xz")
    (tmp_path / name).mkdir()
    assert [folder.name for folder in unpack(tmp_path, archives)] != []
    assert list((tmp_path / name).iterdir()) == []


def test_a_result_of_other_weights_is_refused(measured, tmp_path, capsys):
    _, _, archives = measured
    first, second = unpack(tmp_path, archives)
    RunFolder(first).model.write_bytes(RunFolder(second).model.read_bytes())
    assert main(["pack", str(tmp_path), "--archives", str(tmp_path / "new")]) == 2
    assert "must belong to its run, but model.safetensors changed since" in capsys.readouterr().err


def test_the_archives_are_part_of_the_repository():
    repository = ARCHIVES.parents[2]
    if not (repository / ".git").exists():
        pytest.skip("this is no git repository")
    ignored = subprocess.run(["git", "check-ignore", "-q", str(ARCHIVES / "one.tar.xz")], cwd=repository, check=False)
    assert ignored.returncode == 1
