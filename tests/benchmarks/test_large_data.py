"""The measurement of data larger than memory, at a size that is not."""

import copy
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.large_data import ROW, memory_of, page, time_steps, watch, write_data

from benchmarks import large_data

FOUND: dict[str, Any] = {
    "gib": 20.0,
    "count": 327680,
    "whole": {"RssAnon": 2**28, "RssFile": 2**34, "epoch_seconds": 100.0, "model": "a"},
    "time": {
        "load_seconds": 60.0,
        "steps": 1280,
        "seconds": {"files": 210.0, "memory": 200.0},
        "processor_seconds": {"files": 99.0, "memory": 100.0},
    },
    "resumed": {"RssAnon": 2**29, "RssFile": 2**34, "model": "a", "unfinished": True},
    "ranks": {"each_once": True, "rows": [163840, 163840]},
}


def changed(**changes: Any) -> dict[str, Any]:
    found = copy.deepcopy(FOUND)
    for name, values in changes.items():
        found[name] |= values
    return found


def test_page_states_what_was_measured() -> None:
    text = page(FOUND)
    for cell in (
        "20 GiB, 327,680 sequences",
        "| 0.50 GiB |",
        "| 210 s |",
        "| 1.050 |",
        "| 0.990 |",
        "| the same bits |",
    ):
        assert cell in text
    assert "163,840 and 163,840, each sequence once" in text
    assert "other bits" in page(changed(resumed={"model": "b"}))
    assert "other bits" in page(changed(resumed={"unfinished": False}))  # nothing was resumed
    assert "not each once" in page(changed(ranks={"each_once": False}))


def test_page_in_the_documentation_is_that_of_the_script() -> None:
    text = large_data.PAGE.read_text(encoding="utf-8")
    assert text.split("\n\n")[:2] == page(FOUND).split("\n\n")[:2]


def test_data_need_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_data, "OTHERS", 4)
    free = shutil._ntuple_diskusage(2 * ROW, ROW, ROW)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match="room on the disk"):
        write_data(tmp_path / "data", 4)
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_steps_are_timed_from_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OTHERS": 8, "STEPS": 6, "CHANNELS": 2, "ROW": 48, "TURN": 2, "IN_MEMORY": 48 * 256}.items():
        monkeypatch.setattr(large_data, name, value)
    write_data(tmp_path / "data", 700)
    assert np.load(tmp_path / "data" / "X_train.npy").shape == (700, 6, 2)
    found = time_steps(tmp_path / "data")
    assert found["steps"] == 3 and all(found["seconds"][name] > 0 for name in ("files", "memory"))
    json.dumps(found)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_a_command_is_watched_and_can_be_killed() -> None:
    held = watch([sys.executable, "-c", "import time; x = bytearray(10**8); time.sleep(0.3)"])
    assert 10**8 < held["RssAnon"] < 2 * 10**8 and held["seconds"] > 0.3
    assert watch([sys.executable, "-c", "import time; time.sleep(60)"], stop=lambda: True)["seconds"] < 30
    with pytest.raises(RuntimeError, match="no such thing"):
        watch([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert memory_of(os.getpid())["RssAnon"] > 0
