from pathlib import Path

import pytest

from noisyrnn.cli.flags import absolute_dataset


def test_only_the_path_of_own_data_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "rec"):
        (tmp_path / name).mkdir()
    (tmp_path / "own.csv").write_text("")
    for name in ("rec", "own.csv"):
        assert absolute_dataset({"dataset": name}) == {"dataset": str(tmp_path / name)}
    for name in ("digits", "JapaneseVowels", "absent.csv"):
        assert absolute_dataset({"dataset": name}) == {"dataset": name}
