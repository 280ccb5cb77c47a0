"""The check of a machine with a GPU, tried on the CPU: its parts, an interruption, and what it writes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.speed import agreement
from benchmarks.speed.contestants import NotAvailable
from benchmarks.speed.rounds import ROOT, WorkerError

from benchmarks import gpu_check

TINY = ["--device", "cpu", "--steps", "3", "--batch", "2", "--hidden", "4", "--rounds", "1", "--products", "fp32"]
TINY += ["--replicas", "1", "2", "--models", "noisy", "gru", "--count", "2", "--epochs", "1", "--dataset", "digits"]
TINY += ["--tests", "tests/test_layout.py"]


class Pretender:
    """A worker that answers at once, and notes what it was asked; `stops_at` is the number of a request."""

    asked: list[str]
    stops_at: int | None

    def __init__(self, name: str, threads: int, device: str) -> None:
        self.process = None

    def ask(self, do: str, *, limit: float, **arguments: Any) -> dict[str, Any]:
        assert limit > 0
        if len(self.asked) == self.stops_at:
            raise KeyboardInterrupt
        self.asked.append(arguments.get("model", do))
        if do == "agreement":
            return {"difference": 1e-6, "loss": 2.0, "cpu_loss": 2.0}
        if do == "row":
            raise WorkerError("smnist is not in the data folders: x.gz; set NOISYRNN_DATA")
        return {"seconds": [0.002, 0.001, 0.003]} if do == "turn" else {}

    def stop(self) -> None:
        pass


@pytest.fixture
def pretender(monkeypatch: pytest.MonkeyPatch) -> type[Pretender]:
    monkeypatch.setattr(gpu_check, "Worker", Pretender)
    Pretender.asked, Pretender.stops_at = [], None
    return Pretender


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "gpu_check.json").read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_stops_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--output", str(tmp_path / "new")]) == 2
    sentence = (
        f"gpu_check needs an NVIDIA GPU, and torch {torch.__version__} sees none. Run it on a machine with one.\n"
    )
    assert capsys.readouterr().err == sentence
    assert not (tmp_path / "new").exists()


def test_the_tests_marked_gpu_are_found() -> None:
    files = gpu_check.gpu_tests()
    assert "tests/kernels/triton/test_recurrences.py" in files and "tests/test_layout.py" not in files


def test_the_limits_keep_it_under_eight_minutes() -> None:
    assert sum(gpu_check.LIMITS.values()) + len(gpu_check.LIMITS) < 480


def test_an_interruption_keeps_what_is_measured_and_the_next_run_continues(
    tmp_path: Path, pretender: type[Pretender], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, "--output", str(tmp_path), "--parts", "steps", "training"]
    pretender.stops_at = 1
    assert gpu_check.main(command) == 130
    stopped = results(tmp_path)
    assert stopped["parts"]["steps"]["status"] == "interrupted" and not stopped["complete"]
    assert list(stopped["parts"]["steps"]["results"]) == ["noisy"]
    assert stopped["parts"]["training"]["status"] == "not run"
    pretender.stops_at = None
    assert gpu_check.main(command) == 0
    assert pretender.asked == ["noisy", "gru", "row"]
    parts = results(tmp_path)["parts"]
    assert [parts[name]["status"] for name in ("steps", "training")] == ["done", "skipped"]
    page = (tmp_path / "gpu_check.md").read_text()
    assert "| GRU with noise | 1.0e-06 | 2.00000 | 2.00000 |" in page
    assert "| training | skipped: smnist is not in the data folders: x.gz; set NOISYRNN_DATA |" in page
    assert gpu_check.main(command) == 0  # what is done is not done again
    assert pretender.asked == ["noisy", "gru", "row", "row"]
    capsys.readouterr()
    assert gpu_check.main([*command, "--count", "3"]) == 2
    assert "gpu_check.json has another settings." in capsys.readouterr().err


def test_the_table_has_a_column_for_each_case_and_a_case_is_measured_once(
    tmp_path: Path, pretender: type[Pretender], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*TINY, "--output", str(tmp_path), "--parts", "speed", "--replicas", "1", "16"]
    brief = gpu_check._in_brief

    def stop(result: dict[str, Any]) -> str:
        if result["replicas"] == 16:
            return brief(result)
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_check, "_in_brief", stop)
    assert gpu_check.main(command) == 130
    before = len(pretender.asked)
    assert gpu_check.main(command) == 0
    assert len(pretender.asked) < 2 * before  # of the models, without those that have no replicas
    speed = results(tmp_path)["parts"]["speed"]
    assert [(case["product"], case["replicas"]) for case in speed["cases"]] == [("fp32", 1), ("fp32", 16)]
    page = (tmp_path / "gpu_check.md").read_text()
    assert "| | fp32, 1 replica | fp32, 16 replicas |" in page
    assert "| noisy RNN (drift) | 2.00 | 2.00 |" in page
    assert "| nn.GRU | 2.00 | – |" in page


def test_a_part_that_takes_too_long_or_fails_leaves_the_others_alone(
    tmp_path: Path, pretender: type[Pretender], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("see /some/where/failures")

    monkeypatch.setattr(gpu_check, "LIMITS", {"speed": 0.01, "tests": 1.0, "steps": 50.0})
    monkeypatch.setattr(gpu_check, "run_speed", lambda *_: time.sleep(30))
    monkeypatch.setattr(gpu_check, "run_tests", fail)
    assert gpu_check.main([*TINY, "--output", str(tmp_path), "--parts", "speed", "tests", "steps"]) == 1
    parts = results(tmp_path)["parts"]
    assert [parts[name]["status"] for name in parts] == ["timed out", "failed", "done"]
    assert parts["tests"]["reason"] == "see failures"
    assert parts["speed"]["seconds"] < 5


def test_results_of_pytest_are_counted_with_and_without_xdist() -> None:
    text = """tests/a.py::test_one[wide diffusion] PASSED                    [ 50%]
tests/a.py::test_two SKIPPED (no GPU)                    [ 60%]
tests/a.py::test_three FAILED                            [100%]
[gw3] [  7%] PASSED tests/b.py::test_four[a b] 
FAILED tests/a.py::test_three - assert 1 == 2
1 failed, 2 passed
"""  # noqa: W291, as xdist writes it
    found = [(a or d, b or c) for a, b, c, d in gpu_check.RESULT.findall(text)]
    assert found == [
        ("PASSED", "tests/a.py::test_one[wide diffusion]"),
        ("SKIPPED", "tests/a.py::test_two"),
        ("FAILED", "tests/a.py::test_three"),
        ("PASSED", "tests/b.py::test_four[a b]"),
    ]


@pytest.mark.slow
def test_the_whole_check_on_the_cpu_stopped_once(tmp_path: Path) -> None:
    command = ["sh", "scripts/gpu_check.sh", *TINY, "--output", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"})
    try:
        while not (tmp_path / "gpu_check.json").is_file() and process.poll() is None:
            time.sleep(0.2)
        time.sleep(3)  # into the next part
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    parts = results(tmp_path)["parts"]
    assert parts["tests"]["status"] == "done" and parts["speed"]["status"] == "interrupted"
    passed = parts["tests"]["passed"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tests: done before" in done.stderr
    document = results(tmp_path)
    assert document["complete"] and document["parts"]["tests"]["passed"] == passed > 5
    assert all(result["difference"] < 1e-3 for result in document["parts"]["steps"]["results"].values())
    assert len(document["parts"]["training"]["row"]["metrics"]["epoch"]) == 1


def test_a_first_step_alone_is_no_measurement() -> None:
    def case(replicas: int, **result: Any) -> dict[str, Any]:
        return {"product": "bf16", "replicas": replicas, "results": {"model-lstm": result}}

    cases = [case(1, median=0.009), case(16, median=2.0, cold=True)]
    size = {"steps": 784, "batch": 128, "hidden": 128}
    document = {"parts": {"speed": {"titles": {"model-lstm": "LSTM"}, "cases": cases}}, "settings": {"size": size}}
    text = "\n".join(gpu_check._speed_lines(document))
    assert "| LSTM | 9.00 | – |" in text
    assert "- LSTM: its turn had time for the first step only: bf16, 16 replicas" in text


def test_steps_that_diverge_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = {"model": "gru", "device": "cpu", "count": 3, "steps": 4, "batch": 2, "hidden": 4}
    assert agreement.compare_steps(**sizes)["difference"] < 1e-3
    monkeypatch.setattr(agreement, "RATE", float("inf"))
    with pytest.raises(NotAvailable, match="training diverged: the losses are "):
        agreement.compare_steps(**sizes)
