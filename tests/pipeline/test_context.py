"""A context refuses values of another form before any work."""

from pathlib import Path
from typing import Any

import pytest

from noisyrnn.pipeline import RunContext


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "tpu"}, r"accelerator must be one of auto, cpu, cuda, got 'tpu'"),
        ({"checkpoint_seconds": -1.0}, r"checkpoint_seconds must be at least 0, got -1"),
        ({"resume": 1}, r"resume must be"),
        ({"show_progress": "no"}, r"show_progress must be"),
        ({"logger": "wandb"}, r"logger must be one of csv, mlflow, tensorboard, got 'wandb'\."),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        RunContext(**options)


def test_text_is_a_path() -> None:
    options: dict[str, Any] = {"output": "a", "data_dir": "b"}
    assert RunContext(**options) == RunContext(output=Path("a"), data_dir=Path("b"))


def test_the_data_folder_is_absolute_for_workers_in_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert RunContext(data_dir=Path("data")).data_dir == tmp_path / "data"
    assert RunContext(data_dir=Path("~/data")).data_dir == tmp_path / "home" / "data"
