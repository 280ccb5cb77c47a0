from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisyrnn.data import DATASETS, load_dataset

FOLDERS = {"smnist": "mnist", "psmnist": "mnist", "psmnist255": "mnist", "ecg5000": "ecg5000"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "psmnist255" else name for name in sorted(DATASETS)]
)
def test_every_data_set_keeps_the_contract(name: str, require_data: Callable[[str], Path]):
    if name in FOLDERS:
        require_data(FOLDERS[name])
    values_per_step = 49 if DATASETS[name].supports_values_per_step else 1
    first = load_dataset(name, values_per_step=values_per_step)
    # The three of MNIST are parted by the same lines.
    second = first if name in ("smnist", "psmnist255") else load_dataset(name, values_per_step=values_per_step)
    parts = (first.train, first.validation, first.test)
    assert (first.name, first.input_size) == (name, values_per_step)
    assert first.source.endswith(".") and "\n" not in DATASETS[name].description
    for part in parts:
        assert part.inputs.dtype == torch.float32 and part.labels.dtype == torch.int64
        assert part.labels.unique().tolist() == list(range(first.classes)) and part.classes == first.classes
    if first.image_shape or values_per_step > 1:
        low, high = first.value_range
        assert low <= float(first.train.inputs.min()) < float(first.train.inputs.max()) <= high
    else:
        assert first.value_range is None and first.scale.low < first.scale.mean < first.scale.high
    for one, other in zip(parts[:2], (second.train, second.validation), strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)


def test_digits_are_pixels_of_the_bundled_images():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits")
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [tuple(part.inputs.shape) for part in parts] == [(1077, 64, 1), (270, 64, 1), (450, 64, 1)]
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images / 16).float().numpy()
    known = {row.tobytes(): int(label) for row, label in zip(pixels, labels, strict=True)}
    rows = [row for part in parts for row in part.inputs]
    assert len({row.numpy().tobytes() for row in rows}) == len(known) == 1797
    assert [known[row.numpy().tobytes()] for row in rows] == torch.cat([part.labels for part in parts]).tolist()
    counts = [part.labels.bincount() / len(part) for part in parts]
    assert all(float((count - counts[0]).abs().max()) < 0.005 for count in counts)  # a member or two
    assert dataset.image_shape == (8, 8) and dataset.value_range == (0.0, 1.0) and not dataset.standardize


def test_only_mnist_has_several_values_per_step():
    with pytest.raises(
        ValueError,
        match=r"^values_per_step must be 1 for 'digits', got 8\. Only smnist, psmnist, psmnist255 can have more",
    ):
        load_dataset("digits", values_per_step=8)
    with pytest.raises(ValueError, match="values_per_step"):
        load_dataset("smnist", values_per_step=0)


def test_the_name_must_be_a_string():
    with pytest.raises(TypeError, match="dataset"):
        load_dataset(3)  # type: ignore[arg-type]
