import hashlib
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisyrnn.data import Dataset, load_dataset, mnist

TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
Require = Callable[[str], Path]


@pytest.fixture(scope="module")
def smnist(require_data: Require) -> Dataset:
    require_data("mnist")
    return load_dataset("smnist", values_per_step=16)


@pytest.fixture(scope="module")
def psmnist(require_data: Require) -> Dataset:
    return load_dataset("psmnist", data_dir=require_data("mnist"))


def test_the_published_counts_and_statistics(smnist: Dataset):
    train, validation, test = smnist.train, smnist.validation, smnist.test
    assert [tuple(part.inputs.shape) for part in (train, validation, test)] == [
        (58000, 49, 16),
        (2000, 49, 16),
        (10000, 49, 16),
    ]
    assert (train.labels.bincount() + validation.labels.bincount()).tolist() == TRAIN
    assert test.labels.bincount().tolist() == TEST
    pixels = torch.cat([train.inputs, validation.inputs]).flatten().double()
    assert float(pixels.mean()) == pytest.approx(0.13066, abs=5e-6)  # published to five digits
    assert float(pixels.std()) == pytest.approx(0.30811, abs=5e-6)
    assert (float(pixels.min()), float(pixels.max())) == smnist.value_range == (0.0, 1.0)
    assert smnist.image_shape == (28, 28) and not smnist.standardize


def test_validation_is_stratified(smnist: Dataset):
    for got, members in zip(smnist.validation.labels.bincount().tolist(), TRAIN, strict=True):
        assert abs(got - members / 30) < 1


def test_chunks_are_consecutive_pixels(smnist: Dataset, require_data: Require):
    pixels, labels = mnist.read_part("t10k", [require_data("mnist")])
    assert torch.equal(smnist.test.inputs[3], (pixels[3].float() / 255).reshape(49, 16))
    assert smnist.test.labels[:4].tolist() == labels[:4].tolist() == [7, 2, 1, 0]


def test_the_permuted_test_part_is_the_plain_one_reordered(smnist: Dataset, psmnist: Dataset):
    assert psmnist.image_shape is None
    plain = smnist.test.inputs.flatten(1)
    assert torch.equal(psmnist.test.inputs.squeeze(-1), plain[:, mnist.permutation()])
    assert torch.equal(psmnist.validation.labels, smnist.validation.labels)


def test_bytes_as_the_published_permuted_experiments_read_them(psmnist: Dataset, require_data: Require):
    folder = require_data("mnist")
    raw, scaled = load_dataset("psmnist255", data_dir=folder), psmnist
    assert (raw.value_range, scaled.value_range) == ((0.0, 255.0), (0.0, 1.0))
    pixels, _ = mnist.read_part("t10k", [folder])
    assert torch.equal(raw.test.inputs.squeeze(-1), pixels[:, mnist.permutation()].float())
    assert torch.equal(raw.test.inputs / 255, scaled.test.inputs)


def test_the_permutation_is_torchs_and_hashed(monkeypatch: pytest.MonkeyPatch):
    order = mnist.permutation()
    assert torch.equal(order, torch.randperm(784, generator=torch.Generator().manual_seed(12008)))
    assert hashlib.sha256(order.numpy().astype("<i8").tobytes()).hexdigest() == mnist.PERMUTATION_SHA256
    monkeypatch.setattr(mnist, "PERMUTATION", mnist.PERMUTATION[8:])
    with pytest.raises(RuntimeError, match=rf"must have sha256 {mnist.PERMUTATION_SHA256}, got [0-9a-f]{{64}}\. Rein"):
        mnist.permutation()


@pytest.mark.parametrize("values_per_step", [5, 1568])
def test_a_chunk_that_does_not_divide_is_refused(values_per_step: int):
    with pytest.raises(ValueError, match=rf"^values_per_step must divide 784, got {values_per_step}\. Try 1, 7"):
        load_dataset("smnist", values_per_step=values_per_step)


def test_training_never_opens_the_test_file(require_data: Require, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = require_data("mnist")
    for name in mnist.SHA256:
        if name.startswith("train"):
            shutil.copy(folder / name, tmp_path)
    monkeypatch.delenv("NOISYRNN_DATA")
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr("noisyrnn.data.folders.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:9/",))
    dataset = load_dataset("smnist", data_dir=tmp_path, values_per_step=784)
    assert len(dataset.train) == 58000
    message = (
        r"^t10k-images-idx3-ubyte\.gz must be in a data folder or be downloaded, got no answer from 1 mirrors "
        r"\(ConnectionError\)\. Put train-images-idx3-ubyte\.gz and .* and t10k-labels-idx1-ubyte\.gz into "
        rf"{re.escape(str(tmp_path / 'mnist'))}, or set NOISYRNN_DATA to the folder that holds them\.$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        _ = dataset.test


def test_a_file_with_another_checksum_is_refused(tmp_path: Path):
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / name).write_bytes(b"cut short")
    got = hashlib.sha256(b"cut short").hexdigest()
    with pytest.raises(ValueError, match=rf"{name} must have sha256 {mnist.SHA256[name]}, got {got}\. Delete it"):
        load_dataset("smnist", data_dir=tmp_path)


def idx(magic: int, *sizes: int, values: bytes) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + values


def test_idx_is_parsed():
    images = mnist.parse_idx(idx(2051, 2, 1, 3, values=bytes(range(250, 256))), magic=2051, name="f")
    assert images.tolist() == [[[250, 251, 252]], [[253, 254, 255]]]
    assert mnist.parse_idx(idx(2049, 2, values=b"\x07\x09"), magic=2049, name="f").tolist() == [7, 9]


def test_a_malformed_idx_file_is_refused():
    whole = idx(2049, 3, values=b"\x01\x02\x03")
    with pytest.raises(ValueError, match=r"^f must hold 11 bytes, as its header says, got 10\."):
        mnist.parse_idx(whole[:-1], magic=2049, name="f")
    with pytest.raises(ValueError, match=r"^f must hold 11 bytes, as its header says, got 12\."):
        mnist.parse_idx(whole + b"\x00", magic=2049, name="f")
    with pytest.raises(ValueError, match=r"^f must begin with the magic number 2051, got 2049\."):
        mnist.parse_idx(whole + bytes(20), magic=2051, name="f")
    with pytest.raises(ValueError, match=r"^f must begin with 16 bytes of header, got 11\."):
        mnist.parse_idx(whole, magic=2051, name="f")
