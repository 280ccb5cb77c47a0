import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisyrnn.data import Dataset, load_dataset
from noisyrnn.data.ecg5000 import read_beats

Require = Callable[[str], Path]


@pytest.fixture(scope="module")
def dataset(require_data: Require) -> Dataset:
    require_data("ecg5000")
    return load_dataset("ecg5000")


def beats(labels: list[int]) -> str:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(140, generator=generator).tolist() for _ in labels]
    return "\n".join(" ".join(map(str, [label, *row])) for label, row in zip(labels, rows, strict=True)) + "\n"


def test_the_published_counts(dataset: Dataset):
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [tuple(part.inputs.shape) for part in parts] == [(500, 140, 1), (500, 140, 1), (4000, 140, 1)]
    counts = [part.labels.bincount() for part in parts]
    assert counts[0].tolist() == [292, 208]
    assert (counts[1] + counts[2]).tolist() == [2627, 1873]
    assert counts[1].tolist() == [292, 208]  # 291.9 and 208.1 in proportion
    assert dataset.class_names == ("normal", "abnormal")
    assert dataset.value_range is None
    assert dataset.scale.std == pytest.approx((0.996,), abs=0.001)  # rows of mean 0 and sample variance 1: √(139/140)
    assert not dataset.standardize
    assert "500 of the official test part" in dataset.source


def test_rows_are_normalised_disjoint_and_keep_their_labels(dataset: Dataset, require_data: Require):
    parts = (dataset.train, dataset.validation, dataset.test)
    rows = torch.cat([part.inputs.squeeze(-1) for part in parts])
    assert float(rows.mean(1).abs().max()) < 1e-6  # float32 of rows normalised to 1e-8
    assert len({row.numpy().tobytes() for row in rows}) == 5000
    inputs, labels = read_beats(require_data("ecg5000") / "ECG5000_TEST.txt.gz")
    assert labels.tolist() == [0] * 2627 + [1] * 1873
    known = {row.numpy().tobytes(): label for row, label in zip(inputs, labels.tolist(), strict=True)}
    assert [known[row.numpy().tobytes()] for row in dataset.test.inputs] == dataset.test.labels.tolist()


def test_class_1_is_normal_and_any_other_abnormal(tmp_path: Path):
    path = tmp_path / "ECG5000_TRAIN.txt"
    path.write_text(beats([1, 2, 0, 5, 1]))
    inputs, labels = read_beats(path)
    assert labels.tolist() == [0, 1, 1, 1, 0]
    assert inputs.shape == (5, 140, 1) and inputs.dtype == torch.float32


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOISYRNN_DATA")
    monkeypatch.setattr("noisyrnn.data.folders.cache_folder", lambda: tmp_path / "cache")
    message = (
        r"^ECG5000_TRAIN\.txt\.gz must be in a data folder, got .* without it\. "
        r"Put ECG5000_TRAIN\.txt\.gz and ECG5000_TEST\.txt\.gz into .*ecg5000, or set NOISYRNN_DATA"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("ecg5000", data_dir=tmp_path)


def test_a_malformed_line_is_refused(tmp_path: Path):
    path = tmp_path / "ECG5000_TRAIN.txt.gz"
    path.write_bytes(gzip.compress(beats([1, 2]).encode()[:-20]))
    with pytest.raises(
        ValueError, match=r"^Line 2 of .*TRAIN\.txt\.gz must hold a label and 140 values, got 140 numbers"
    ):
        read_beats(path)
    path.write_bytes(gzip.compress(b"1 " + b"x " * 140))
    with pytest.raises(ValueError, match=r"^Line 1 of .* must hold numbers only, got 'x'\.$"):
        read_beats(path)
    path.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(ValueError, match=r"must hold at least one heartbeat, got an empty file"):
        read_beats(path)
