"""A folder has one user at a time, and is free once that user has ended in any way."""

import errno
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.files import WriteError, remove_leftovers, write_atomically
from noisyrnn.locks import InUseError, locked


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a folder until it is killed."""
    program = f"""
import time
from pathlib import Path
from noisyrnn.locks import locked
with locked(Path({str(folder)!r})):
    print("held", flush=True)
    time.sleep(100)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_is_refused_and_free_when_its_user_is_killed(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        user = f"got process {process.pid} on {socket.gethostname()}, which works in it"
        with pytest.raises(InUseError, match=rf"^{tmp_path} must not be in use, {user}\."), locked(tmp_path):
            pass
        remove_leftovers(tmp_path)
        assert (tmp_path / ".lock").exists(), "a living process keeps its lock"
    finally:
        process.kill()
        process.communicate()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path), locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_folder(tmp_path: Path) -> None:
    process = hold(tmp_path)
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    with locked(tmp_path, wait=60):
        assert process.wait() == -signal.SIGKILL


def test_a_lock_is_not_shared_between_threads(tmp_path: Path) -> None:
    def work(_: int) -> bool:
        try:
            with locked(tmp_path, wait=0):
                time.sleep(0.5)
                return True
        except InUseError:
            return False

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))).count(True) == 1
    assert work(0)


def test_no_two_are_inside_at_once(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(_: int) -> None:
        for _ in range(20):
            with locked(tmp_path, wait=60):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()
            remove_leftovers(tmp_path)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert list(tmp_path.iterdir()) == []


def test_a_planted_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(WriteError, match=r"\.lock could not be written"), locked(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_file_system_without_locks_keeps_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path):
        write_atomically(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
