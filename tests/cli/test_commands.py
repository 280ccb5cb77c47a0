"""Each command as a user meets it: its exit code, its words and its files."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.cli.commands import SMALL, noisyrnn

from noisyrnn import load, pretrained_models
from noisyrnn.cli import main
from noisyrnn.native.compiler import cache_folder
from noisyrnn.run_folder import RunFolder


def test_train_evaluate_report(data: Path, tmp_path: Path) -> None:
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--seed", 3, "--output", tmp_path / "runs")
    assert trained.returncode == 0, trained.stderr
    assert f"{data.name}: 120 sequences (72 / 24 / 24), 10 steps × 1 channel, " in trained.stderr
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    assert run.parent == tmp_path / "runs"
    assert json.loads((run / "config.json").read_text())["config"]["seed"] == 3
    strengths = "{white_noise: [0.1, 0.2]}"
    evaluated = noisyrnn("evaluate", run, "--strengths", strengths, "--draws", 2)
    assert evaluated.returncode == 0, evaluated.stderr
    columns = json.loads((run / "robustness.json").read_text())["columns"]
    assert [(c["perturbation"], c["strength"]) for c in columns] == [
        ("clean", None),
        ("white_noise", 0.1),
        ("white_noise", 0.2),
    ]
    reported = noisyrnn("report", run, "--output", tmp_path / "page", "--title", "Waves & co")
    assert reported.returncode == 0, reported.stderr
    assert "Waves &amp; co" in (tmp_path / "page" / "report.html").read_text()


def test_a_semicolon_table_with_decimal_commas_to_a_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        [*(f"{v:.3f}".replace(".", ",") for v in rng.normal(i % 2, 1, 6)), ["gut", "alt"][i % 2]] for i in range(40)
    ]
    header = [*(f"t{k}" for k in range(6)), "Zustand"]
    (tmp_path / "own.csv").write_text("\r\n".join(";".join(row) for row in [header, *rows]), encoding="utf-8-sig")
    options = ("--label-column", -1, "--models", "noisy", "--seeds", 1, "--output", tmp_path / "runs")
    compared = noisyrnn("compare", "--dataset", tmp_path / "own.csv", *options, *SMALL)
    assert compared.returncode == 0, compared.stderr
    assert "own.csv: 40 sequences (24 / 8 / 8), 6 steps × 1 channel, 2 classes (largest 50.0 %), val" in compared.stderr
    assert (tmp_path / "runs" / "report.html").is_file()
    refused = noisyrnn("train", "--dataset", tmp_path / "own.csv", "--id", "run", "--time", "t", *SMALL)
    assert refused.returncode == 2 and "id must be the name of one column of" in refused.stderr


def test_a_regression_and_targets_at_every_step(tmp_path: Path) -> None:
    """Train, evaluate and report: numbers to predict in a `.csv` file, and a class at every step in a `.npz` file."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 5))
    np.savetxt(tmp_path / "sums.csv", np.c_[X.sum(axis=1), X], delimiter=",", fmt="%.4f")
    np.savez(tmp_path / "signs.npz", X=X[..., None], y=(X.cumsum(axis=1) > 0).astype(int))
    refused = noisyrnn("train", "--dataset", tmp_path / "sums.csv", "--task", "regresion", *SMALL)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "task must be one of classification, regression, got 'regresion'. Did you mean 'regression'?\n"
    )
    for file, words in (("sums.csv", ("--task", "regression")), ("signs.npz", ())):
        options = (*words, *SMALL, "--select", "clean", "--output", tmp_path / "runs")
        trained = noisyrnn("train", "--dataset", tmp_path / file, *options)
        assert trained.returncode == 0, trained.stderr
        run = Path(trained.stdout.strip().removeprefix("Trained: "))
        line = trained.stderr.splitlines()[-1 - ("not fitted" in trained.stderr)]
        if words:
            assert ", 1 target -" in trained.stderr
            assert re.fullmatch(r"Validation: loss [0-9.]+ over 8 sequences in epoch [12]: the mean squared.*", line)
        else:
            assert " 2 classes (largest " in trained.stderr and " at 120 of 120 steps, val" in trained.stderr
            assert re.fullmatch(r"Validation: [0-9.]+ % of the counted steps of 8 sequences in epoch [12]", line)
        evaluated = noisyrnn("evaluate", run, "--strengths", "{white_noise: [0.5]}", "--draws", 1)
        assert evaluated.returncode == 0
        shown = evaluated.stdout.splitlines()
        assert shown[0] == f"Evaluated: {run / 'robustness.json'}"
        metric = "R² of the test targets, higher is better" if words else "Test accuracy of the steps in %"
        baselines = ["mean (baseline)", "1-NN (baseline)"] if words else ["majority class (baseline)"]
        assert shown[1] == f"noisy, seed 1, on the test data: {metric}"
        assert shown[3] == f"| {' | '.join(['test inputs', 'noisy', *baselines])} |"
        assert [line.split(" |")[0] for line in shown[5:7]] == ["| Clean", "| White noise σ 0.5 s"]
        reported = noisyrnn("report", run, "--output", tmp_path / "page")
        assert reported.returncode == 0, reported.stderr
        table = (tmp_path / "page" / "table.md").read_text()
        assert ("## Mean absolute error" in table) == bool(words) and "mean over seeds." in table


def test_few_sequences_are_all_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [[i % 2, *rng.normal(i % 2, 1, 3).round(3)] for i in range(20)]
    (tmp_path / "few.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    data = ("--dataset", tmp_path / "few.csv", "--hidden-size", 2, "--output", tmp_path / "runs")
    trained = noisyrnn("train", *data, "--min-steps", 130)
    assert trained.returncode == 0, trained.stderr
    assert (
        "Note: adapted to few sequences: no validation, since it would have 4 sequences, fewer than 30: all 16 "
        "sequences are trained on and the last epoch is kept; 130 epochs instead of 100, which are 130 optimizer steps "
        "of 16 sequences.\nValidation: none, the weights are those of epoch 130\n"
    ) in trained.stderr
    run = RunFolder(Path(trained.stdout.strip().removeprefix("Trained: ")))
    assert run.read_summary()["validation_sequences"] == 0 and len(run.read_metrics()["epoch"]) == 130
    short = noisyrnn("train", *data, "--epochs", 3)
    run = RunFolder(Path(short.stdout.strip().removeprefix("Trained: ")))
    assert len(run.read_metrics()["epoch"]) == 3 and "epochs instead of" not in short.stderr
    assert noisyrnn("evaluate", run.path, "--strengths", "{white_noise: [0.5]}", "--draws", 1).returncode == 0
    reported = noisyrnn("report", run.path, "--output", tmp_path / "page")
    assert reported.returncode == 0, reported.stderr
    page = (tmp_path / "page" / "report.html").read_text()
    assert "noisy: adapted to few sequences: no validation" in page
    card = noisyrnn("export", run.path, "--format", "pretrained", "--output", tmp_path / "model")
    assert card.returncode == 0, card.stderr
    (text,) = (path.read_text() for path in (tmp_path / "model").glob("*.md"))
    assert "of epoch 3 of 3, the best on validation data, or the last where there were too few" in text
    assert "trained on the validation sequences too, so there is no validation result" in text


SIZES = (
    "--test-sequences",
    8,
    "--curvature-sequences",
    8,
    "--probes",
    4,
    "--density-probes",
    2,
    "--smoothing-draws",
    9,
)


def test_train_analyze_report(data: Path, tmp_path: Path) -> None:
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--output", tmp_path / "runs")
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    analyzed = noisyrnn("analyze", run, "--diagnostics", "margins, jacobians", "--budget", 5, *SIZES)
    assert analyzed.returncode == 0, analyzed.stderr
    assert analyzed.stdout == f"Analyzed: {run / 'analysis.json'}\n"
    found = json.loads((run / "analysis.json").read_text())
    assert {name: part["status"] for name, part in found["diagnostics"].items()} == {
        "margins": "done",
        "jacobians": "done",
    }
    assert found["settings"]["test_sequences"] == 8
    late = noisyrnn("analyze", run, "--diagnostics", "smoothing", "--budget", 1e-9, *SIZES)
    assert late.returncode == 0
    assert "Not computed: smoothing: The budget of 1e-09 minutes was used up. Analyze again" in late.stderr
    reported = noisyrnn("report", run, "--output", tmp_path / "page")
    assert reported.returncode == 0, reported.stderr
    assert "Output margin" in (tmp_path / "page" / "analysis.md").read_text()


def test_a_rate_network_from_train_to_report(data: Path, tmp_path: Path) -> None:
    options = ["--model", "rate", "--activation", "retanh", "--form", "current", "--tau", 5, "--step-size", 1]
    trained = noisyrnn("train", "--dataset", data, *SMALL, *options, "--output", tmp_path / "runs")
    assert trained.returncode == 0, trained.stderr
    assert "which is slower" not in trained.stderr
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    analyzed = noisyrnn("analyze", run, "--diagnostics", "test-noise,regularizer,stability", *SIZES)
    assert analyzed.returncode == 0, analyzed.stderr
    assert "Not computed" not in analyzed.stderr
    report = noisyrnn("report", run, "--output", tmp_path / "report")
    assert report.returncode == 0, report.stderr
    assert "Hidden noise at test time" in (tmp_path / "report" / "report.html").read_text()


def test_a_diffusion_in_place_of_recommended_levels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # those of the digits have an additive level
    words = ["--dataset", "digits", "--hidden-size", "2", "--diffusion", "[[0.1, 0.2], [0.0, 0.3]]", "--print-config"]
    with pytest.raises(SystemExit):
        main(["train", *words, "--scheme", "milstein"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["diffusion"] == [[0.1, 0.2], [0.0, 0.3]]
    assert (config["additive"], config["multiplicative"], config["scheme"]) == (0.0, 0.0, "milstein")
    assert main(["train", *words, "--additive", "0.1"]) == 2
    assert "additive must be 0 with a diffusion" in capsys.readouterr().err


def test_an_equation_in_a_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"dataset: {data}", f"output: {tmp_path}", "model: rate", "hidden_size: 2", "epochs: 1", "form: current"]
    lines += ["diffusion: [[0.1, 0.2], [0, 0.3]]", "learn_diffusion: true", "scheme: stochastic-heun", "alpha: 0.5"]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--activation", "relu"]) == 0
    run = Path(capsys.readouterr().out.strip().removeprefix("Trained: "))
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["diffusion"] == [[0.1, 0.2], [0, 0.3]] and config["learn_diffusion"] is True
    shown = [config[name] for name in ("activation", "form", "alpha", "scheme")]
    assert shown == ["relu", "current", 0.5, "stochastic-heun"]
    layer = load(run / "model.safetensors").layer
    assert layer.scheme == "stochastic-heun" and layer.diffusion.learn
    assert layer.diffusion.matrix.tolist() != torch.tensor([[0.1, 0.2], [0.0, 0.3]]).tolist()  # it was trained


def test_train_export(data: Path, tmp_path: Path) -> None:
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--output", tmp_path / "runs")
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    exported = noisyrnn("export", run, "--format", "torch", "--streaming", "--output", tmp_path / "device")
    assert exported.returncode == 0, exported.stderr
    files = [Path(line.removeprefix("Exported: ")) for line in exported.stdout.splitlines()]
    assert [file.name for file in files] == ["model.pt2", "model-step.pt2"]
    assert all(file.parent == tmp_path / "device" and file.stat().st_size > 0 for file in files)
    wrong = noisyrnn("export", run, "--format", "onxx")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "format must be one of onnx, pretrained, torch, got 'onxx'. Did you mean 'onnx'?\n",
    )


@pytest.fixture(params=[[], ["--batch-seeds"]])
def batch_seeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that train seeds one after another or side by side, by the kernel with the same bits in both."""
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    return request.param


def test_train_several_seeds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_seeds: list[str]
) -> None:
    words = ["train", "--dataset", str(data), *map(str, SMALL), "--seed", "3", "--output", str(tmp_path)]
    assert main([*words, "--seeds", "2", *batch_seeds]) == 0
    runs = [Path(line.removeprefix("Trained: ")) for line in capsys.readouterr().out.splitlines()]
    assert [json.loads((run / "config.json").read_text())["config"]["seed"] for run in runs] == [3, 4]
    stamps = [path.stat().st_mtime_ns for run in runs for path in sorted(run.iterdir())]
    for seed, run in zip(("3", "4"), runs, strict=True):  # a single call finds the same run
        assert main([*words[:-4], "--seed", seed, "--output", str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"Trained: {run}\n"
    assert [path.stat().st_mtime_ns for run in runs for path in sorted(run.iterdir())] == stamps


def test_seeds_that_fail_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_seeds: list[str]
) -> None:
    wild = ["--step-size", "1e30", "--learn-step", "false", "--damping", "1", "--seeds", "2", *batch_seeds]
    assert main(["train", "--dataset", str(data), *map(str, SMALL), *wild, "--output", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Failed: ")]
    assert [line.split("-")[2] for line in lines] == ["seed1", "seed2"]
    assert all("hidden state became non-finite" in line for line in lines)


def test_compare_together(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    words = ["compare", "--models", "noisy", "--dataset", str(data), "--seeds", "2", "--strengths", "{fgsm: [0.1]}"]
    assert main([*words, *map(str, SMALL), "--batch-seeds", "--output", str(tmp_path)]) == 0
    assert "noisy" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*noisy-seed*/robustness.json"))) == 2


def test_compare_prints_the_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--models", "noisy,gru", "--dataset", str(data), "--seeds", "2", "--strengths", "{fgsm: [0.1]}"]
    assert main([*words, *map(str, SMALL), "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_text() in shown
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in shown


def test_compare_with_a_failed_run_says_so_and_exits_with_1(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--models", "noisy,gru", "--dataset", str(data), "--seeds", "1", "--strengths", "{fgsm: [0.1]}"]
    wild = ["--step-size", "1e30", "--learn-step", "false", "--damping", "1"]
    assert main([*words, *map(str, SMALL), *wild, "--output", str(tmp_path)]) == 1
    assert "Failed: waves-noisy-seed1" in capsys.readouterr().err


def test_strengths_of_one_perturbation_as_a_flag(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--models", "gru", "--dataset", str(data), "--seeds", "1", "--strengths.white_noise", "[0.7]"]
    assert main([*words, *map(str, SMALL), "--output", str(tmp_path)]) == 0
    assert "White noise σ 0.7" in capsys.readouterr().out


def test_a_relative_path_is_found_again_from_elsewhere(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    assert main(["train", "--dataset", data.name, *map(str, SMALL), "--output", str(tmp_path / "runs")]) == 0
    run = capsys.readouterr().out.strip().removeprefix("Trained: ")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", run, "--strengths", "{white_noise: [0.1]}"]) == 0


def test_an_experiment_gives_the_published_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from noisyrnn.cli import train as module
    from noisyrnn.training import RunFolder, TrainConfig

    seen: list[TrainConfig] = []

    def record(config: TrainConfig, context: object) -> RunFolder:
        seen.append(config)
        return RunFolder(tmp_path)

    monkeypatch.setattr(module, "train_run", record)
    assert main(["train", "--experiment", "smnist-noisy-high", "--seed", "5"]) == 0
    config = seen[0]
    assert (config.dataset, config.hidden_size, config.epochs, config.decay_epochs) == ("smnist", 128, 100, (91,))
    assert [config.options[name] for name in ("additive", "multiplicative", "step_size")] == [0.05, 0.02, 0.01]
    assert config.learning_rate == 0.001
    assert config.seed == 5


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("noisy", "exprnn", "digits", "ecg5000", "white_noise", "pgd_l2", "onnx", "smnist-noisy-high"):
        assert f"\n  {name} " in shown
    models = shown.split("\nPretrained models\n")[1]
    for name, seeds in pretrained_models().items():
        assert f"  {name} " in models and all(model.description in models for model in seeds.values())


def test_doctor_shows_versions_and_data_without_downloading(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_CACHE", str(cache_folder()))  # the kernel's, where it may have been compiled before
    monkeypatch.setenv("NOISYRNN_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    began = time.monotonic()
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torch 2." in shown
    assert "digits" in shown
    assert "smnist     not found" in shown
    assert time.monotonic() - began < 30
    assert not (tmp_path / "noisyrnn").exists()
