"""SQLite files are made whole or not at all, whoever is killed and whoever comes at once."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from noisyrnn.pipeline.databases import create_whole, sqlite_path, sqlite_url
from noisyrnn.pipeline.study import open_study


def make_table(url: str) -> None:
    path = sqlite_path(url)
    assert path is not None
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (x integer)")
        connection.execute("insert into t values (7)")
    connection.close()


def content(path: Path) -> list[tuple[int]]:
    connection = sqlite3.connect(path)
    found = connection.execute("select x from t").fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("name", ["a.db", "a?b.db", "a%41b.db", "a b#c&d=e.db", "ä:@.db"])
def test_any_path_has_an_address(tmp_path: Path, name: str) -> None:
    assert sqlite_path(sqlite_url(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///file:x?mode=memory&uri=true", "postgresql://host/db"])
def test_other_addresses_have_no_path(url: str) -> None:
    assert sqlite_path(url) is None


@pytest.mark.parametrize("empty", [False, True])
def test_a_file_is_made_once(tmp_path: Path, empty: bool) -> None:
    path = tmp_path / "a.db"
    if empty:
        path.touch()
    create_whole(path, make_table)
    assert content(path) == [(7,)]
    create_whole(path, lambda url: pytest.fail("made again"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


@pytest.mark.parametrize("empty", [False, True])
def test_two_at_once_end_with_one_file(tmp_path: Path, empty: bool) -> None:
    path, both = tmp_path / "a.db", threading.Barrier(2)
    if empty:
        path.touch()

    def slowly(url: str) -> None:
        make_table(url)
        both.wait(20)

    threads = [threading.Thread(target=create_whole, args=(path, slowly)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(path) == [(7,)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


def test_a_process_killed_while_it_made_the_file_leaves_none(tmp_path: Path) -> None:
    program = f"""
import os, signal, sqlite3
from pathlib import Path
from noisyrnn.pipeline.databases import create_whole, sqlite_path
def killed(url):
    connection = sqlite3.connect(sqlite_path(url))
    connection.execute("create table t (x integer)")
    connection.execute("begin")
    connection.execute("insert into t values (8)")
    os.kill(os.getpid(), signal.SIGKILL)
create_whole(Path({str(tmp_path / "a.db")!r}), killed)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert not (tmp_path / "a.db").exists()
    assert len(list(tmp_path.iterdir())) >= 1
    create_whole(tmp_path / "a.db", make_table)
    assert content(tmp_path / "a.db") == [(7,)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


def test_a_damaged_database_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    path = tmp_path / "sweeps.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match=r"storage must be a database that can be opened, .* Move .*sweeps.db away"):
        open_study("one", sqlite_url(path), {})
