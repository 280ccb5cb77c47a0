"""The benchmark of small data: its page and its kept results."""

from pathlib import Path

import pytest
import torch

from benchmarks import small_data
from noisyrnn.data import Dataset, Split


@pytest.fixture
def few() -> Dataset:
    inputs = torch.cat([torch.zeros(8, 4, 1), torch.ones(8, 4, 1)]) + 0.01 * torch.arange(16)[:, None, None]
    split = Split(inputs=inputs, labels=torch.arange(16) // 8, classes=2)
    options = {"class_names": ("a", "b"), "value_range": None, "standardize": True}
    return Dataset(
        name="few", train=split, validation=split.subset(torch.arange(0, 16, 4)), read_test=lambda: split, **options
    )


def test_tables_replace_those_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{small_data.BEGIN}\nold\n{small_data.END}\nafter\n")
    small_data.write_page("new", page)
    small_data.write_page("newer", page)
    assert page.read_text() == f"before\n{small_data.BEGIN}\n\nnewer\n\n{small_data.END}\nafter\n"


def test_results_are_kept_and_compared_with_the_baselines(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_data, "SETS", ("few",))
    monkeypatch.setattr(small_data, "load_dataset", lambda name: few)
    calls = []

    def correct(dataset: Dataset, model: str, settings: object, seed: int) -> dict[str, object]:
        calls.append((model, seed))
        right = [1.0] * 12 + [0.0] * 4
        return {"correct": right, "epochs": 7, "adapted": "", "validation": 0, "seconds": 1.0}

    monkeypatch.setattr(small_data, "correct", correct)
    text = small_data.tables(tmp_path, (1, 2, 3))
    assert len(calls) == 9 and small_data.tables(tmp_path, (1, 2, 3)) == text and len(calls) == 9
    lines = text.splitlines()
    assert lines[2].startswith("| few | 75.0 [") and "| 100.0 [" in lines[2]  # 1-NN knows the test sequences here
    assert any(line.startswith("| few | -25.0 [") for line in lines)
    assert "| few | gru | 75.0, 75.0, 75.0 | 7 | none |" in lines
