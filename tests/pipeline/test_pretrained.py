"""Run folders of pretrained models, and the command that measures one by its name."""

from pathlib import Path

import pytest

import noisyrnn
from noisyrnn.cli import main
from noisyrnn.files import file_digest
from noisyrnn.pipeline import EvaluateConfig, evaluate_run, open_run_or_pretrained, unpack_pretrained
from noisyrnn.run_folder import RunFolder

QUICK = EvaluateConfig(strengths={"white_noise": [0.2]}, test_limit=40, draws=1)


def test_a_folder_is_a_finished_run_with_the_weights_of_the_package(tmp_path: Path) -> None:
    model = noisyrnn.pretrained_models()["digits-noisy"][1]
    folder = unpack_pretrained(model, tmp_path)
    assert folder.path == tmp_path / "pretrained-digits-noisy-seed1" and folder.finished
    with model.file() as path:
        assert file_digest(path) == file_digest(folder.model)
    assert RunFolder.open(folder.path).read_config()["config"] == model.config["config"]
    assert folder.read_summary()["model_sha256"] == file_digest(folder.model)
    assert folder.read_summary()["best_epoch"] == model.summary["best_epoch"] and folder.foreign_model() == ""
    assert folder.read_metrics()["epoch"] == ()


def test_results_stay_while_the_weights_do(tmp_path: Path) -> None:
    model = noisyrnn.pretrained_models()["digits-noisy"][1]
    folder = evaluate_run(unpack_pretrained(model, tmp_path), QUICK)
    first = folder.robustness.stat().st_mtime_ns
    evaluate_run(unpack_pretrained(model, tmp_path), QUICK)
    assert folder.robustness.stat().st_mtime_ns == first
    assert not folder.read_result(folder.robustness).stale


def test_a_name_is_one_where_there_is_no_such_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits-noisy", "digits-noisy-seed1"):
        assert open_run_or_pretrained(name, tmp_path / "a").path == tmp_path / "a" / "pretrained-digits-noisy-seed1"
    with pytest.raises(ValueError, match=r"^seed must be one of 1 for 'digits-noisy', got 12\."):
        open_run_or_pretrained("digits-noisy-seed12", tmp_path)
    for name in ("digits-noisy-seedx", "digits-lstm-seed1", "xdigits-noisy"):
        with pytest.raises(ValueError, match=f"^run must be a folder that holds a config.json, got {name}"):
            open_run_or_pretrained(name, tmp_path)
    made = unpack_pretrained(noisyrnn.pretrained_models()["digits-noisy"][1], tmp_path).path.rename("digits-noisy")
    assert open_run_or_pretrained("digits-noisy", tmp_path / "b").path == made and not (tmp_path / "b").exists()


def test_a_result_is_printed_next_to_that_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--strengths", "{white_noise: [0.2, 0.7]}", "--draws", "1"]
    assert main(["evaluate", "digits-noisy", *flags]) == 0
    clean, noisy, stronger = (line for line in capsys.readouterr().out.splitlines() if "model card" in line)
    figures = noisyrnn.pretrained_models()["digits-noisy"][1].figures
    value = {f["settings"]: f"{100 * f['value']:.2f} %" for f in figures}
    assert clean.startswith("Clean: ") and clean.endswith(f" (model card: {value['clean']})")
    assert noisy.startswith("White noise σ 0.2: ") and noisy.endswith(
        f" (model card: {next(v for k, v in value.items() if k.startswith('WhiteNoise') and '0.2' in k)})"
    )
    assert stronger.endswith(" (model card: none)")
    assert float(clean.split()[1]) == pytest.approx(100 * figures[0]["value"], abs=0.5)
    folder = Path("runs/pretrained-digits-noisy-seed1")
    assert main(["evaluate", str(folder), *flags]) == 0
    again = capsys.readouterr().out
    assert again.startswith(f"Evaluated: {folder / 'robustness.json'}\n") and "model card" not in again
