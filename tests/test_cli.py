"""The command line, as a user meets it: a subprocess, its exit code, its words and its files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from noisyrnn.cli import COMMANDS, main
from noisyrnn.kernels.cpu.compiler import cache_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    X = np.sin((1 + labels[:, None]) * np.linspace(0, 6.28, 10)) + 0.1 * generator.standard_normal((120, 10))
    path = tmp_path / "waves.npz"
    np.savez(path, X=X[..., None], y=labels)
    return path


def noisyrnn(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "noisyrnn", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


SMALL = ("--hidden-size", 4, "--epochs", 2, "--batch-size", 16)


def test_train_evaluate_report(data: Path, tmp_path: Path) -> None:
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--seed", 3, "--output", tmp_path / "runs")
    assert trained.returncode == 0, trained.stderr
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
    analyzed = noisyrnn("analyze", run, "--parts", "margins, jacobians", "--budget", 5, *SIZES)
    assert analyzed.returncode == 0, analyzed.stderr
    assert analyzed.stdout == f"Analyzed: {run / 'analysis.json'}\n"
    found = json.loads((run / "analysis.json").read_text())
    assert {name: part["status"] for name, part in found["parts"].items()} == {"margins": "done", "jacobians": "done"}
    assert found["settings"]["test_sequences"] == 8
    late = noisyrnn("analyze", run, "--parts", "smoothing", "--budget", 1e-9, *SIZES)
    assert late.returncode == 0
    assert "Not computed: smoothing: The budget of 1e-09 minutes was used up. Analyze again" in late.stderr
    reported = noisyrnn("report", run, "--output", tmp_path / "page")
    assert reported.returncode == 0, reported.stderr
    assert "Output margin" in (tmp_path / "page" / "analysis.md").read_text()


def test_train_export(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--output", tmp_path / "runs")
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    exported = noisyrnn("export", run, "--streaming", "--output", tmp_path / "device")
    assert exported.returncode == 0, exported.stderr
    files = [Path(line.removeprefix("Exported: ")) for line in exported.stdout.splitlines()]
    assert [file.name for file in files] == ["model.onnx", "model-step.onnx"]
    assert all(file.parent == tmp_path / "device" and file.stat().st_size > 0 for file in files)
    wrong = noisyrnn("export", run, "--format", "onxx")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "format must be one of onnx, torch, got 'onxx'. Did you mean 'onnx'?\n",
    )


@pytest.mark.parametrize("together", [[], ["--together"]])
def test_train_several_seeds(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    together: list[str],
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    words = ["train", "--dataset", str(data), *map(str, SMALL), "--seed", "3", "--output", str(tmp_path)]
    assert main([*words, "--seeds", "2", *together]) == 0
    runs = [Path(line.removeprefix("Trained: ")) for line in capsys.readouterr().out.splitlines()]
    assert [json.loads((run / "config.json").read_text())["config"]["seed"] for run in runs] == [3, 4]
    stamps = [path.stat().st_mtime_ns for run in runs for path in sorted(run.iterdir())]
    for seed, run in zip(("3", "4"), runs, strict=True):  # a single call finds the same run
        assert main([*words[:-4], "--seed", seed, "--output", str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"Trained: {run}\n"
    assert [path.stat().st_mtime_ns for run in runs for path in sorted(run.iterdir())] == stamps


@pytest.mark.parametrize("together", [[], ["--together"]])
def test_seeds_that_fail_are_named(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    together: list[str],
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    wild = ["--step-size", "1e30", "--learn-step", "false", "--damping", "1", "--seeds", "2", *together]
    assert main(["train", "--dataset", str(data), *map(str, SMALL), *wild, "--output", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Failed: ")]
    assert [line.split("-")[2] for line in lines] == ["seed1", "seed2"]
    assert all("hidden state became non-finite" in line for line in lines)


def test_compare_together(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    words = ["compare", "--models", "noisy", "--dataset", str(data), "--seeds", "2", "--strengths", "{fgsm: [0.1]}"]
    assert main([*words, *map(str, SMALL), "--together", "--output", str(tmp_path)]) == 0
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


def test_config_file_and_flags(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"dataset: {data}\nhidden_size: 4\nepochs: 1\nbatch_size: 16\nadditive: 0.3\noutput: {tmp_path}\n")
    assert main(["train", "--config", str(file), "--additive", "0.4", "--model", "gru"]) == 0
    run = Path(capsys.readouterr().out.strip().removeprefix("Trained: "))
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["hidden_size"], config["additive"], config["model"]) == (4, 0.4, "gru")


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


def test_a_pipe_without_greek_letters_is_no_error() -> None:
    command = [sys.executable, "-m", "noisyrnn", "list"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"white_noise" in done.stdout


def test_every_command_takes_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(f"data_dir: {tmp_path}\n")
    assert main(["doctor", "--config", str(tmp_path / "c.yaml")]) == 0
    assert f"Data folders: {tmp_path}" in capsys.readouterr().out
    (tmp_path / "r.yaml").write_text("title: From a file\nruns: [nowhere]\n")
    assert main(["report", "--config", str(tmp_path / "r.yaml")]) == 2
    assert "run must be a folder that holds a config.json, got nowhere." in capsys.readouterr().err


def test_flags_may_have_underscores(data: Path, tmp_path: Path) -> None:
    words = ["train", "--dataset", str(data), "--hidden_size=4", "--epochs=1", "--batch_size", "16"]
    assert main([*words, "--output", str(tmp_path)]) == 0


def test_an_experiment_gives_the_published_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from noisyrnn import cli
    from noisyrnn.training import RunFolder, TrainConfig

    seen: list[TrainConfig] = []

    def record(config: TrainConfig, **rest: object) -> RunFolder:
        seen.append(config)
        return RunFolder(tmp_path)

    monkeypatch.setattr(cli, "train_run", record)
    assert main(["train", "--experiment", "smnist-noisy-high", "--seed", "5"]) == 0
    config = seen[0]
    assert (config.dataset, config.hidden_size, config.epochs, config.decay_epochs) == ("smnist", 128, 100, (90,))
    assert (config.additive, config.multiplicative, config.step_size, config.learning_rate) == (0.05, 0.02, 0.01, 0.001)
    assert config.seed == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--model", "lipshitz"], "model must be one of antisymmetric, cornn, exprnn, gru, lipschitz"),
        (["train", "--model", "lipshitz"], "got 'lipshitz'. Did you mean 'lipschitz'?"),
        (["train", "--epoch", "3"], "Did you mean --epochs?"),
        (["train", "--epochs", "many"], "epochs"),
        (["train", "--seeds", "0"], "seeds must be at least 1, got 0."),
        (["train", "--additive", "-1"], "additive must be at least 0, got -1."),
        (["train", "--dataset", "digitz"], "Did you mean 'digits'?"),
        (["train", "--experiment", "smnist-noisy"], "experiment must be one of"),
        (["analyze", "nowhere"], "run must be a folder that holds a config.json, got nowhere."),
        (["analyze", "nowhere", "--parts", "curvatur"], "run must be a folder"),
        (["evaluate", "nowhere"], "run must be a folder that holds a config.json, got nowhere."),
        (["compare", "--models", "noisy", "--strengths", "{white_noise: 0.1}"], "strengths must be a list of numbers"),
        (["compare", "--models", "noisy", "--strengths", "{white_noise: [-1]}"], "must be at least 0, got -1"),
        (
            ["compare", "--models", "noisy", "--data-dir", "nowhere"],
            "data_dir must be an existing folder, got ",
        ),
        (
            ["trian"],
            "command must be one of analyze, compare, doctor, evaluate, export, list, report, train, got 'trian'. "
            "Did you mean 'train'?",
        ),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_no_traceback_reaches_the_user() -> None:
    done = noisyrnn("train", "--damping", "-2")
    assert done.returncode == 2
    assert done.stderr == "damping must be at least 0, got -2.\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NOISYRNN_DEBUG", "1")
    assert main(["train", "--damping", "-2"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_gives_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: noisyrnn {command}" in shown
    assert f"Example: noisyrnn {command}" in shown


def test_usage_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        f"\n  {name} " in shown
        for name in ("train", "evaluate", "analyze", "compare", "report", "export", "list", "doctor")
    )
    assert main([]) == 2
    assert main(["--version"]) == 0


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("noisy", "exprnn", "digits", "ecg5000", "white_noise", "pgd_l2", "smnist-noisy-high"):
        assert f"\n  {name} " in shown


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


def train_words(data: Path, output: Path) -> list[str]:
    words = ["train", "--dataset", str(data), "--hidden-size", "8", "--epochs", "16", "--batch-size", "16"]
    return [*words, "--output", str(output), "--checkpoint-seconds", "0", "--accelerator", "cpu"]


def start_and_wait_for_checkpoint(data: Path, output: Path) -> tuple[subprocess.Popen[str], Path]:
    """A training run in a process of its own, some steps past its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "noisyrnn", *train_words(data, output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        checkpoints = list(output.glob("*/checkpoint.pt"))
        metrics = list(output.glob("*/metrics.csv"))
        if checkpoints and metrics and len(metrics[0].read_text().splitlines()) >= 3:
            stamp = checkpoints[0].stat().st_mtime_ns
            changes = 0
            while changes < 2 and process.poll() is None:  # an epoch has just ended: go a few steps into the next one
                now = checkpoints[0].stat().st_mtime_ns
                changes, stamp = changes + (now != stamp), now
            return process, checkpoints[0].parent
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError("no checkpoint after a minute")


def assert_same_end(one: Path, other: Path) -> None:
    """The best weights, and the last ones, are the same to the bit."""
    best, other_best = (next(folder.glob("*/model.safetensors")).read_bytes() for folder in (one, other))
    assert best == other_best
    checkpoints = [next(folder.glob("*/checkpoint.pt")) for folder in (one, other)]
    last, other_last = (torch.load(path, weights_only=True)["model"] for path in checkpoints)
    assert last.keys() == other_last.keys()
    assert all(torch.equal(last[name], other_last[name]) for name in last)


def test_kill_minus_9_in_mid_epoch_then_resume_gives_the_same_bits(data: Path, tmp_path: Path) -> None:
    whole = noisyrnn(*train_words(data, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    for _ in range(8):  # until it happens to be hit between two batches of an epoch, of which there are five
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        process, run = start_and_wait_for_checkpoint(data, tmp_path / "killed")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (run / "summary.json").exists()
        progress = torch.load(run / "checkpoint.pt", weights_only=True)["progress"]
        if 0 < progress["batch"] < 5:
            break
    assert 0 < progress["batch"] < 5
    assert progress["epoch"] < 16
    refused = noisyrnn(*train_words(data, tmp_path / "killed"))
    assert refused.returncode == 2
    assert "Add --resume." in refused.stderr
    resumed = noisyrnn(*train_words(data, tmp_path / "killed"), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    histories = [next(folder.glob("*/metrics.csv")).read_text() for folder in (tmp_path / "whole", tmp_path / "killed")]
    without_seconds = [[line.rsplit(",", 1)[0] for line in text.splitlines()] for text in histories]
    assert without_seconds[0] == without_seconds[1]


def test_ctrl_c_saves_and_exits_with_130(data: Path, tmp_path: Path) -> None:
    process, run = start_and_wait_for_checkpoint(data, tmp_path)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with the same command with --resume" in words
    assert "Traceback" not in words
    assert (run / "checkpoint.pt").is_file()
    assert noisyrnn(*train_words(data, tmp_path), "--resume").returncode == 0


def test_a_full_disk_leaves_the_last_checkpoint_whole(data: Path, tmp_path: Path) -> None:
    """No file may grow past a few kilobytes, which is what a full disk looks like; then there is room again."""
    resource = pytest.importorskip("resource", reason="file size limits need a Unix")
    process, run = start_and_wait_for_checkpoint(data, tmp_path / "full")
    process.kill()
    process.communicate()
    before = (run / "checkpoint.pt").read_bytes()
    assert len(before) > 4096

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    words = [sys.executable, "-m", "noisyrnn", *train_words(data, tmp_path / "full"), "--resume"]
    # A coverage measurement would want to write its own file in there.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    full = subprocess.run(
        words, capture_output=True, text=True, preexec_fn=limit, timeout=60, check=False, env=environment
    )
    assert full.returncode == 1
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    assert (run / "checkpoint.pt").read_bytes() == before
    assert not list(run.glob(".*.part"))
    assert noisyrnn(*train_words(data, tmp_path / "full"), "--resume").returncode == 0
    assert noisyrnn(*train_words(data, tmp_path / "whole")).returncode == 0
    assert_same_end(tmp_path / "whole", tmp_path / "full")
