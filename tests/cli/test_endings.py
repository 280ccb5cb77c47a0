"""How a command ends: signals, closed streams, faults that nobody foresaw, and what it shows of passwords."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.cli.commands import SMALL, noisyrnn
from tests.forked import Forked, command, wait_for

from noisyrnn.cli import main
from noisyrnn.redact import hide_passwords, without_passwords


def workers_of(process: int) -> list[int]:
    """Worker processes of a command, by the parent that Linux names."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's list of processes")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_workers_end_with_their_command(data: Path, tmp_path: Path, number: int, status: int) -> None:
    words = ["compare", "--models", "noisy,lstm", "--dataset", data, "--hidden-size", 8, "--epochs", 100000]
    process = Forked(tmp_path, command, [*words, "--workers", 2, "--output", tmp_path / "out"])
    wait_for(lambda: len(list(tmp_path.glob("out/*/metrics.csv"))) == 2 or process.poll() is not None, seconds=240)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == status
    wait_for(lambda: not any(map(running, workers)), seconds=10)
    assert len(list(tmp_path.glob("out/*/checkpoint.pt"))) == 2
    assert not list(tmp_path.glob("out/*/summary.json"))  # an interruption is no failure
    if number != signal.SIGKILL:
        assert (
            "Everything up to the last checkpoint is saved; continue with the same command." in shown.splitlines()[-1]
        )
        assert shown.count("checkpoint") == 1
        assert "Traceback" not in shown


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    program = (
        "import os, signal\n"
        "from noisyrnn.interruption import graceful_interrupt, interruptible\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with interruptible(), graceful_interrupt() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "print(stop.made)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def train_without_standard_streams(words: list[object]) -> int:
    """Run a command as Python starts it without standard streams, whose numbers must go to no other file."""
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
    for number in range(3):
        os.close(number)
    status = command(words)
    nothing = os.stat(os.devnull).st_rdev
    return status if all(os.fstat(number).st_rdev == nothing for number in range(3)) else 99


def test_training_needs_no_standard_streams(data: Path, tmp_path: Path) -> None:
    words = ["train", "--dataset", data, *SMALL, "--output", tmp_path / "out"]
    process = Forked(tmp_path, train_without_standard_streams, words)
    process.communicate()
    assert process.returncode == 0
    assert len(list(tmp_path.glob("out/*/model.safetensors"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "0<&- >&- 2>&-"])
def test_training_from_a_shell_needs_no_standard_streams(data: Path, tmp_path: Path, closed: str) -> None:
    words = f"train --dataset {data} --hidden-size 4 --epochs 2 --output {tmp_path / 'out'}"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m noisyrnn {words} {closed}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Trained" not in done.stderr  # what belongs on a closed stream goes nowhere else
    assert len(list(tmp_path.glob("out/*/model.safetensors"))) == 1


def leave_no_reader() -> None:
    """Make the output a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    sys.stdout = os.fdopen(writer, "w")


def test_a_broken_pipe_is_quiet(tmp_path: Path) -> None:
    process = Forked(tmp_path, command, ["list"], leave_no_reader)
    assert process.communicate() == ("", "")
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "Memory ran out. Use smaller sizes, fewer workers or a larger machine."),
        (MemoryError("of the kernel"), "Memory ran out (of the kernel). Use smaller sizes"),
        (AssertionError(), "Unexpected AssertionError. Set NOISYRNN_DEBUG=1 to see the traceback"),
        (KeyError("status"), "Unexpected KeyError: 'status'. Set NOISYRNN_DEBUG=1"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_whatever_happens_there_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    def fail(words: object) -> int:
        raise error

    monkeypatch.setattr("noisyrnn.cli.info.list_command", fail)
    monkeypatch.delenv("NOISYRNN_DEBUG", raising=False)
    assert main(["list"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert len(shown.splitlines()) == 1
    monkeypatch.setenv("NOISYRNN_DEBUG", "1")
    assert main(["list"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("at postgresql+psycopg://me:se@cr/et@host:5432/db, there", "at postgresql+psycopg://***@host:5432/db, there"),
        ("mysql://host/db?user=me&password=secret&charset=x", "mysql://host/db?user=me&password=***&charset=x"),
        ("https://example.org/a", "https://example.org/a"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_passwords_with_blanks_and_quotes_are_not_shown_either() -> None:
    words = ["--storage", "mysql://me:se cr'et@host/db", "--storage=mysql://me:x y@host/db"]
    assert hide_passwords(words) == ["--storage", "mysql://***@host/db", "--storage=mysql://***@host/db"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "url",
    ["nothing://me:hunter2@host/db", "sqlite://me:hunter2@/x", "me:hunter2@host", "mysql://me:hunter2"],
)
def test_the_password_of_a_database_is_in_no_message(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
    debug: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISYRNN_DEBUG", "1" if debug else "")
    words = ["sweep", "--dataset", str(data), "--trials", "1", "--output", str(tmp_path), "--storage", url]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "storage must be" in shown.err
    assert "hunter2" not in shown.err + shown.out


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--model", "lstm", "--epochs", "3"],
        ["train", "--experiment", "smnist-noisy-low"],
        ["compare", "--models", "noisy,lstm", "--epochs", "3"],
        ["sweep", "--model", "noisy", "--trials", "3"],
    ],
)
def test_print_config_prints_what_would_be_used(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    text = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main([words[0], "--config", str(tmp_path / "config.yaml"), "--print-config"])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(text)
    content = yaml.safe_load(text)
    assert content["dataset"] if words[1] != "--models" else content["seeds"] == 3
    assert "epochs" not in words or content["epochs"] == 3


def test_the_printed_configuration_trains_the_same_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--dataset", str(data), *map(str, SMALL), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert main(words) == 0
    before = capsys.readouterr().out
    assert main(["train", "--config", str(tmp_path / "config.yaml")]) == 0
    assert capsys.readouterr().out == before


@pytest.mark.slow
def test_paths_with_marks_of_addresses_keep_their_databases(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("mlflow")
    output = tmp_path / "a?b %41 #c"
    words = ["sweep", "--dataset", data, *SMALL, "--trials", 1, "--output", output]
    done = noisyrnn(*words)
    assert done.returncode == 0, done.stderr
    assert noisyrnn("train", "--dataset", data, *SMALL, "--logger", "mlflow", "--output", output).returncode == 0
    assert all((output / name).stat().st_size > 0 for name in ("sweeps.db", "mlflow.db"))
    folder = next(output.glob("sweep-*"))
    assert len(json.loads((folder / "sweep.json").read_text())["trials"]) == 1
