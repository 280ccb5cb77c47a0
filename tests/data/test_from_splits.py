"""Data sets made of splits in memory."""

from typing import Any

import pytest
import torch

import noisyrnn
from noisyrnn.data import Split, dataset_from_splits


def split(count: int = 20, channels: int = 1, *, seed: int = 0) -> Split:
    inputs = torch.randn(count, 5, channels, generator=torch.Generator().manual_seed(seed))
    return Split(inputs=inputs, labels=torch.arange(count) % 2, classes=2)


def rows(part: Split) -> set[tuple[float, ...]]:
    return {tuple(row.flatten().tolist()) for row in part.inputs}


def test_a_fifth_is_held_out_stratified_and_the_same_every_time() -> None:
    whole = split()
    one, two = dataset_from_splits(whole), dataset_from_splits(whole)
    assert (len(one.train), len(one.validation)) == (16, 4)
    assert one.validation.labels.bincount().tolist() == [2, 2]
    assert rows(one.train) | rows(one.validation) == rows(whole) and not rows(one.train) & rows(one.validation)
    assert torch.equal(one.train.inputs, two.train.inputs)
    assert one.class_names == ("0", "1") and one.standardize and one.value_range is None
    with pytest.raises(ValueError, match=r"^test must be given to dataset_from_splits"):
        _ = one.test


def test_parts_are_those_given_and_fit_takes_them() -> None:
    train, validation, test = split(), split(6, seed=1), split(8, seed=2)
    data = dataset_from_splits(train, validation, test, class_names=("a", "b"), standardize=False, value_range=(0, 1))
    assert data.train is train and data.validation is validation and data.test is test and data.test_size == 8
    assert (data.class_names, data.standardize, data.value_range) == (("a", "b"), False, (0, 1))
    model = noisyrnn.SequenceClassifier(noisyrnn.GRU(1, 4), classes=2)
    result = noisyrnn.fit(model, data, noisyrnn.TrainConfig(epochs=1))
    assert len(result.history) == 1


def test_values_to_predict() -> None:
    targets = torch.arange(20.0)[:, None]
    data = dataset_from_splits(Split(inputs=split().inputs, labels=targets, classes=0))
    assert (data.classes, len(data.validation), data.class_names) == (0, 4, ())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((split(), split(4, 2)), {}, r"^validation must have 1 channels, 2 classes and missing=None .*, got 2, 2"),
        (
            (split(), None, Split(inputs=split().inputs, labels=torch.arange(20) % 3, classes=3)),
            {},
            r"^test must have 1 channels, 2 classes .*, got 1, 3 and None",
        ),
        ((split(),), {"class_names": ("a",)}, r"^class_names must hold 2 names, one for each class, got 1"),
        (
            (split(),),
            {"value_range": (1.0, 0.0)},
            r"^value_range must have its low end below its high end, got \(1, 0\)",
        ),
        ((split(1),), {}, r"^train must hold 2 sequences of some class, .*, got 1"),
    ],
)
def test_parts_that_do_not_fit(arguments: tuple[Split], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset_from_splits(*arguments, **options)


def test_another_type_is_named() -> None:
    with pytest.raises(TypeError, match=r"^train must be a Split, got list"):
        dataset_from_splits([1, 2])  # type: ignore[arg-type]
    for options, message in (
        ({"standardize": "no"}, r"^standardize must be True or False, got 'no'\."),
        ({"class_names": "ab"}, r"^class_names must be a list of texts, got 'ab'\."),
        ({"value_range": 1.0}, r"^value_range must be a pair \(low, high\), got 1\.0\."),
    ):
        with pytest.raises(TypeError, match=message):
            dataset_from_splits(split(), **options)
