"""Files are written whole or not at all, never through a planted link, and read only as they were written."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.files import (
    FORMAT,
    WriteError,
    check_writable,
    read_json,
    remove_leftovers,
    write_atomically,
    write_json,
)

CONTENT = {"config": {"label": "a", "seed": 1, "rate": 0.002, "none": None}, "rows": [1, 2.5, "τ"], "dataset": {}}


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"another"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links under names that could be foreseen, and one under the very name that will be drawn."""
    victim, folder = tmp_path / "victim", tmp_path / "out"
    folder.mkdir()
    victim.write_text("mine")
    names = iter(["0" * 16, "1" * 16])
    monkeypatch.setattr("secrets.token_hex", lambda count: next(names))
    for link in (".file.part", f".file.{os.getpid()}.part", f".file.{16 * '0'}.part"):
        (folder / link).symlink_to(victim)
    with pytest.raises(WriteError, match=r"file could not be written \(File exists\)"):
        write_atomically(folder / "file", b"content")
    write_atomically(folder / "file", b"content")
    assert victim.read_text() == "mine" and not (folder / "file").is_symlink()
    (folder / "file").unlink()
    (folder / "file").symlink_to(victim)
    monkeypatch.undo()
    write_atomically(folder / "file", b"content")
    assert victim.read_text() == "mine" and not (folder / "file").is_symlink()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_write_that_fails_names_file_and_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"before")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WriteError) as failed:
        write_atomically(path, b"after")
    cause = os.strerror(code)
    assert str(failed.value) == f"{path} could not be written ({cause}). Files that were saved before are unchanged."
    assert failed.value.errno == code
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from noisyrnn import files
def wait(*_):
    print("writing", flush=True)
    time.sleep(60)
os.replace = wait
files.write_atomically(Path({str(tmp_path / "file")!r}), b"content")
"""
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(".file.*.part"))) == 1
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert len(list(tmp_path.glob(".file.*.part"))) == 1
    own = tmp_path / ".notes.1.part"
    own.write_text("the user's own")
    write_atomically(tmp_path / "other", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.1.part", "other"]


def test_a_part_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def lock(descriptor: int, wait: bool = False) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # another process took the new file for a leftover
            next(tmp_path.glob(".*.part")).unlink()

    monkeypatch.setattr("noisyrnn.files.lock_file", lock)
    write_atomically(tmp_path / "file", b"content")
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", CONTENT)
    assert read_json(tmp_path / "a.json") == {"format": FORMAT, **CONTENT}
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == [1, 2.5, "τ"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"value": float("nan")})


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    whole, expected = path.read_bytes(), read_json(path)
    unnoticed = 0
    bits = range(0, 8 * len(whole), 3)
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert read_json(path) == expected
            unnoticed += 1
        except ValueError:
            continue
    assert unnoticed < 0.1 * len(bits)  # blanks that stay blanks


def test_lost_and_added_bytes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(50):
        start = draw.randrange(len(whole) - 10)
        for damaged in (whole[:start], whole[:start] + whole[start + 9 :], whole[:start] + b"\0\0" + whole[start:]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=str(path)):
                read_json(path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "3", "{", '{"format": NaN}', '{"format": 3}', '{"format": 1}', '{"format": 3, "a": 1e999}'),
        *('{"format": 3, "a": ' + 100_000 * "[" + 100_000 * "]" + "}", '{"a": ' + 10_000 * "9" + "}", "\ufeff{}", "\0"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_file_of_ours_gets_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^{path} must be "):
        read_json(path)


def test_what_is_no_regular_file_gets_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    write_json(tmp_path / "huge", CONTENT)
    monkeypatch.setattr("noisyrnn.files.LARGEST_JSON", 10)
    for name in ("folder", "pipe", "loop", "binary", "huge", "absent"):
        with pytest.raises(ValueError, match=rf"^{tmp_path / name} must be "):
            read_json(tmp_path / name)
    monkeypatch.undo()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ValueError, match=r"must be a file that can be read, got an error \(Permission denied\)"):
        read_json(tmp_path / "huge")


def test_a_folder_is_left_as_it_was_by_the_check(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
