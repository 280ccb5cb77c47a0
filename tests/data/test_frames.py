import importlib.util
from pathlib import Path

import pytest

from noisyrnn.data import load_dataset
from noisyrnn.data.frames import check_packages


@pytest.mark.parametrize(("suffix", "package"), [(".parquet", "pyarrow"), (".xlsx", "openpyxl")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / f"own{suffix}").write_bytes(b"")
    message = rf"^Reading {suffix} files needs pandas and {package}: pip install 'noisyrnn\[data\]'$"
    with pytest.raises(ValueError, match=message):
        load_dataset(str(tmp_path / f"own{suffix}"))
    monkeypatch.undo()
    check_packages(suffix, "numpy", "torch")


@pytest.mark.parametrize("suffix", [".parquet", ".xlsx"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow" if suffix == ".parquet" else "openpyxl")
    (tmp_path / f"own{suffix}").write_bytes(b"not one")
    with pytest.raises(ValueError, match=rf"own{suffix} must be .*, got one that does not open \("):
        load_dataset(str(tmp_path / f"own{suffix}"))


def test_cells_keep_their_numbers_and_what_is_missing_is_refused(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"t0": [0.1, 2.5, 1e-9] * 3, "t1": [2**53, 1, 2] * 3, "class": ["a", "b", "c"] * 3})
    path = str(tmp_path / "own.parquet")
    frame.to_parquet(path)
    data = load_dataset(path)
    assert sorted(data.train.inputs.flatten().tolist()) == sorted([0.1, 2.5, 1e-9, 2.0**53, 1.0, 2.0])
    frame.loc[4, "t0"] = None
    frame.to_parquet(path)
    with pytest.raises(
        ValueError,
        match=r"^Row 6 of .* must hold finite numbers, got '' in column 1\. .*missing='hold' .* fill the value in",
    ):
        load_dataset(path)
    pandas.DataFrame({"class": ["a", "b"], "t0": [[1.0, 2.0], [3.0, 4.0]]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"one value per cell, got a list"):
        load_dataset(path)
