"""What a run leaves when it is killed, interrupted, or the disk is full; and that it goes on to the same bits."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.cli.commands import noisyrnn
from tests.forked import Forked, command, wait_for


def train_words(data: Path, output: Path) -> list[str]:
    words = ["train", "--dataset", str(data), "--hidden-size", "8", "--epochs", "16", "--batch-size", "16"]
    return [*words, "--output", str(output), "--checkpoint-seconds", "0", "--accelerator", "cpu"]


def start_and_wait_for_checkpoint(data: Path, output: Path) -> tuple[Forked, Path]:
    """A training run in a process of its own, some steps past its first checkpoint."""
    process = Forked(output.parent, command, train_words(data, output))
    wait_for(lambda: process.poll() is not None or epochs(output) >= 2)
    checkpoint = next(output.glob("*/checkpoint.pt"))
    stamp, changes = checkpoint.stat().st_mtime_ns, 0
    while changes < 2 and process.poll() is None:  # an epoch has just ended: go a few steps into the next one
        now = checkpoint.stat().st_mtime_ns
        changes, stamp = changes + (now != stamp), now
        time.sleep(0.001)  # the other core may be at work on another test
    assert process.poll() is None, process.read()
    return process, checkpoint.parent


def epochs(output: Path) -> int:
    """Epochs that a run has finished, once there is a checkpoint."""
    metrics = [path for path in output.glob("*/metrics.csv") if (path.parent / "checkpoint.pt").exists()]
    return len(metrics[0].read_text().splitlines()) - 1 if metrics else 0


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
    process, run = start_and_wait_for_checkpoint(data, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with the same command with --resume" in words
    assert "Traceback" not in words
    assert (run / "checkpoint.pt").is_file()
    assert noisyrnn(*train_words(data, tmp_path / "out"), "--resume").returncode == 0


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_room_for_any_file_is_a_message(data: Path, tmp_path: Path) -> None:
    """Libraries look for a temporary folder when they are imported, and find none that they can write to."""
    resource = pytest.importorskip("resource", reason="file size limits need a Unix")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    words = [sys.executable, "-m", "noisyrnn", *train_words(data, tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        words, capture_output=True, text=True, preexec_fn=limit, timeout=60, check=False, env=environment
    )
    assert done.returncode in (1, 2)
    assert "No usable temporary directory" in done.stderr or "File too large" in done.stderr
    assert "Traceback" not in done.stderr
