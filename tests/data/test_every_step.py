"""Splits with a label at every step, and the steps that count."""

from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split

INPUTS = torch.arange(18.0).reshape(3, 6, 1)
LENGTHS = torch.tensor([6, 4, 5])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1]]).bool()
COUNTED = MASK & (torch.arange(6) < LENGTHS[:, None])
CLASSES = torch.tensor([[5, -9, 0, 1, 2, 1], [0, 1, 1, 0, 77, -3], [9, 2, 1, 9, 1, 9]])
VALUES = torch.arange(36.0).reshape(3, 6, 2)


def classes_split(labels: Tensor = CLASSES, **changes: Any) -> Split:
    return Split(**{"inputs": INPUTS, "labels": labels, "lengths": LENGTHS, "mask": MASK, "classes": 3, **changes})


def values_split(labels: Tensor = VALUES, **changes: Any) -> Split:
    return Split(**{"inputs": INPUTS, "labels": labels, "lengths": LENGTHS, "mask": MASK, "classes": 0, **changes})


def test_labels_that_do_not_count_are_marked() -> None:
    split = classes_split()
    assert split.every_step and len(split) == 3
    assert split.labels.tolist() == [[-1, -1, 0, 1, 2, 1], [0, 1, 1, 0, -1, -1], [-1, 2, 1, -1, 1, -1]]
    assert split.mask is not None and torch.equal(split.mask, COUNTED)
    garbage = VALUES.masked_fill(~COUNTED[..., None], torch.inf)
    values = values_split(garbage)
    assert values.mask is not None and torch.equal(values.mask, COUNTED)
    assert torch.equal(values.labels.isnan().any(2), ~COUNTED) and torch.equal(values.labels[COUNTED], VALUES[COUNTED])


def test_without_a_mask_every_valid_step_counts() -> None:
    valid = torch.arange(6) < LENGTHS[:, None]
    split = classes_split(CLASSES.clamp(0, 2), mask=None)
    assert split.mask is not None and torch.equal(split.mask, valid)
    full = classes_split(CLASSES.clamp(0, 2), mask=None, lengths=None)
    assert full.mask is not None and full.mask.all()
    assert Split(inputs=INPUTS, labels=torch.tensor([0, 1, 2]), classes=3).mask is None


def test_a_fingerprint_is_that_of_what_counts() -> None:
    base = classes_split().fingerprint()
    assert set(base) == {"inputs", "labels", "lengths", "weights"}
    assert classes_split(torch.where(COUNTED, CLASSES, 123)).fingerprint() == base
    other = MASK.clone()
    other[1, 0] = False
    changed = classes_split(mask=other).fingerprint()
    assert {name for name in base if base[name] != changed[name]} == {"labels"}


@pytest.mark.parametrize("make", [classes_split, values_split])
def test_a_subset_keeps_mask_and_labels(make: Any) -> None:
    split, rows = make(), torch.tensor([2, 0])
    part = split.subset(rows)
    assert torch.equal(part.mask, split.mask[rows]) and part.classes == split.classes
    assert torch.equal(part.labels.nan_to_num(-7), split.labels[rows].nan_to_num(-7))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"mask": MASK.long()}, TypeError, r"^mask must be bool, got torch\.int64\. Convert: mask\.bool\(\)\.$"),
        ({"mask": MASK[:, :5]}, ValueError, r"^mask must have shape \(3, 6\), one for each step, got \(3, 5\)\.$"),
        ({"mask": [[True]]}, TypeError, r"^mask must be a tensor"),
        (
            {"mask": torch.arange(6).expand(3, 6) == 5},
            ValueError,
            r"^mask must be true at one valid step of each sequence or more, got none for 2 of 3 sequences, the first "
            r"at index 1\. Leave these sequences out\.$",
        ),
        ({"labels": CLASSES[:, 0].clamp(0, 2)}, ValueError, r"^mask must be None for one label for each sequence, got"),
        ({"labels": CLASSES[:, :4]}, ValueError, r"^labels must have shape \(3,\)"),
        ({"labels": CLASSES + COUNTED}, ValueError, r"^labels must lie in \[0, 2\], got 3\.$"),
        ({"labels": torch.where(COUNTED, -1, 0)}, ValueError, r"^labels must lie in \[0, 2\], got -1\.$"),
        ({"labels": VALUES, "classes": 0, "mask": None, "inputs": INPUTS[:2], "lengths": None}, ValueError, "^labels"),
        ({"labels": VALUES.masked_fill(VALUES == 4, torch.nan), "classes": 0}, ValueError, "^labels must be finite"),
    ],
)
def test_wrong_masks_and_labels(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        classes_split(**changes)


def make_dataset(train: Split, names: tuple[str, ...] = ()) -> Dataset:
    return Dataset(
        name="flips",
        train=train,
        validation=train,
        read_test=lambda: train,
        class_names=names,
        value_range=None,
        standardize=True,
    )


def test_a_data_set_describes_targets_at_every_step() -> None:
    data = make_dataset(classes_split(), ("a", "b", "c"))
    assert data.every_step and data.outputs == 3
    assert "3 classes (largest 54.5 %) at 11 of 15 steps, values" in data.summary()
    data = make_dataset(values_split())
    assert data.every_step and data.outputs == 2 and not data.classes
    assert "2 targets 4…33 at 11 of 15 steps, values" in data.summary()
    data = make_dataset(Split(inputs=INPUTS, labels=torch.tensor([[1.0], [2.0], [4.5]]), classes=0))
    assert not data.every_step and "1 target 1…4.5, values" in data.summary()


def test_target_statistics_are_those_of_equal_sequences() -> None:
    data = make_dataset(values_split(weights=torch.tensor([1.0, 0.0, 3.0])))
    first, third = VALUES[0][COUNTED[0]].double(), VALUES[2][COUNTED[2]].double()
    mean = (first.mean(0) + 3 * third.mean(0)) / 4
    square = (((first - mean) ** 2).mean(0) + 3 * ((third - mean) ** 2).mean(0)) / 4
    found = data.target_statistics()
    torch.testing.assert_close(found, (mean, square.sqrt()), rtol=1e-13, atol=0)
    labels = torch.tensor([[1e9, 3.0], [1e9 + 1, 3.0], [1e9 + 5, 3.0]], dtype=torch.float64)
    mean, std = make_dataset(Split(inputs=INPUTS, labels=labels, classes=0)).target_statistics()
    torch.testing.assert_close(mean, torch.tensor([1e9 + 2, 3.0], dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(std, torch.tensor([(14 / 3) ** 0.5, 1.0], dtype=torch.float64), rtol=1e-12, atol=0)
