"""Targets in `.npz` files: classes or values, of sequences or of every step, and the mask."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisyrnn.data import Dataset, load_dataset

COUNT, STEPS = 20, 5
RNG = np.random.default_rng(4)
X = RNG.normal(size=(COUNT, STEPS, 2))
LENGTHS = RNG.integers(2, STEPS + 1, COUNT)
MASK = RNG.random((COUNT, STEPS)) < 0.6
MASK[:, 1] = True
COUNTED = MASK & (np.arange(STEPS) < LENGTHS[:, None])
CLASSES = RNG.integers(3, 6, (COUNT, STEPS))
VALUES = RNG.normal(size=(COUNT, STEPS, 2))


def save(path: Path, **arrays: Any) -> str:
    np.savez(path / "own.npz", **arrays)
    return str(path / "own.npz")


def rows_of(dataset: Dataset) -> list[tuple[int, Any, Any]]:
    """Number in the file, labels and mask of each sequence."""
    found = []
    for part in (dataset.train, dataset.validation, dataset.test):
        masks = [None] * len(part) if part.mask is None else part.mask
        for inputs, label, mask in zip(part.inputs, part.labels, masks, strict=True):
            number = int(np.abs(X[:, 0, 0] - inputs[0, 0].item()).argmin())
            found.append((number, label.numpy(), None if mask is None else mask.numpy()))
    assert sorted(number for number, _, _ in found) == list(range(COUNT))
    return found


@pytest.mark.parametrize("kind", ["int", "float", "text"])
def test_classes_at_every_step(tmp_path: Path, kind: str) -> None:
    garbage = np.where(COUNTED, CLASSES, 99)
    y = {"int": garbage, "float": np.where(COUNTED, CLASSES, np.nan), "text": garbage.astype(str)}[kind]
    dataset = load_dataset(save(tmp_path, X=X, y=y, lengths=LENGTHS, mask=MASK.astype(int)))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [12, 4, 4]
    assert [float(name) for name in dataset.class_names] == [3, 4, 5] and dataset.every_step
    for number, labels, mask in rows_of(dataset):
        assert (mask == COUNTED[number]).all()
        assert (labels[mask] == CLASSES[number][mask] - 3).all()


def test_values_at_every_step(tmp_path: Path) -> None:
    y = np.where(COUNTED[..., None], VALUES, np.inf)
    dataset = load_dataset(save(tmp_path, X=X, y=y, lengths=LENGTHS, mask=MASK))
    assert dataset.classes == 0 and dataset.outputs == 2 and dataset.every_step and dataset.class_names == ()
    for number, labels, mask in rows_of(dataset):
        assert (mask == COUNTED[number]).all() and (labels[mask] == VALUES[number][mask]).all()
    one = load_dataset(save(tmp_path, X=X, y=VALUES[..., 0]))
    assert one.outputs == 1 and one.train.mask is not None and one.train.mask.all()
    signs = load_dataset(save(tmp_path, X=X, y=np.sign(VALUES).astype(np.int8)))
    assert signs.classes == 0 and signs.outputs == 2


def test_values_of_sequences(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path, X=X, y=VALUES[:, 0, 0]))
    assert dataset.outputs == 1 and not dataset.every_step and dataset.train.mask is None
    assert all(labels == VALUES[number, 0, :1] for number, labels, _ in rows_of(dataset))
    assert load_dataset(save(tmp_path, X=X, y=VALUES[:, 0])).outputs == 2
    whole = np.arange(COUNT)
    with pytest.raises(ValueError, match=r"If y holds values to predict, give task='regression' \(--task "):
        load_dataset(save(tmp_path, X=X, y=whole))
    dataset = load_dataset(save(tmp_path, X=X, y=whole), task="regression")
    assert dataset.classes == 0 and all(labels == number for number, labels, _ in rows_of(dataset))


def test_the_test_part_is_read_as_the_training_part_is(tmp_path: Path) -> None:
    test = {"X_test": X[:3], "y_test": np.array([1.0, 2.0, 3.0])}
    dataset = load_dataset(save(tmp_path, X=X, y=VALUES[:, 0, 0], **test))
    assert dataset.test.labels.tolist() == [[1.0], [2.0], [3.0]]
    steps = {"X_test": X[:3], "y_test": CLASSES[:3], "mask_test": MASK[:3], "lengths_test": LENGTHS[:3]}
    dataset = load_dataset(save(tmp_path, X=X, y=CLASSES, mask=MASK, lengths=LENGTHS, **steps))
    assert dataset.test.mask is not None and (dataset.test.mask.numpy() == COUNTED[:3]).all()
    other = load_dataset(save(tmp_path, X=X, y=CLASSES, X_test=X[:3], y_test=CLASSES[:3, 0]))
    with pytest.raises(ValueError, match=r"^y_test must hold a class for each sequence at every step, as y does, "):
        _ = other.test
    with pytest.warns(UserWarning, match=r"^own\.npz holds mask and no mask_test: all steps of X_test count\."):
        load_dataset(save(tmp_path, X=X, y=CLASSES, mask=MASK, X_test=X[:3], y_test=CLASSES[:3]))
    with pytest.raises(ValueError, match=r"got no X_test\. Add it, or leave mask_test out\.$"):
        load_dataset(save(tmp_path, X=X, y=CLASSES, mask_test=MASK[:3]))


@pytest.mark.parametrize(
    ("arrays", "task", "error", "message"),
    [
        ({"y": VALUES[:, 0, 0]}, "classification", TypeError, r"^y must hold class labels, integers or strings, got"),
        (
            {"y": VALUES},
            "classification",
            ValueError,
            r"^y must have shape \(20,\) for classes, or \(20, 5\) .* got \(20",
        ),
        ({"y": CLASSES.astype(str)}, "regression", TypeError, r"^y must hold numbers for a regression, got <U"),
        (
            {"y": VALUES[:, :3]},
            "regression",
            ValueError,
            r"^y must have shape \(n,\), \(n, targets\) or, for value",
        ),
        (
            {"y": CLASSES[:, :4]},
            None,
            ValueError,
            r"^y must have shape \(20,\) for classes, or \(20, 5\) .* got ",
        ),
        ({"y": np.full(COUNT, 0.5)}, None, ValueError, r"^y must hold at least two different values, got only 0\.5\.$"),
        (
            {"y": np.where(VALUES[:, 0, 0] > 0, VALUES[:, 0, 0], np.nan)},
            None,
            ValueError,
            r"^y must be finite, got ",
        ),
        (
            {"y": CLASSES, "mask": 0.5 * MASK},
            None,
            TypeError,
            r"^mask must hold true or false for each step, got f",
        ),
        (
            {"y": CLASSES, "mask": MASK[:, :3]},
            None,
            ValueError,
            r"^mask must have shape \(20, 5\), one for each ",
        ),
        ({"y": CLASSES[:, 0], "mask": MASK}, None, ValueError, r"^mask must be left out where y has no entry for each"),
        (
            {"y": CLASSES, "mask": MASK & False},
            None,
            ValueError,
            r"^mask must be true at one valid step of each sequence or more, got none for 20 of 20",
        ),
        (
            {"X": X[:2], "y": VALUES[:2]},
            None,
            ValueError,
            r"^y must hold at least 3 sequences to be split 60/20/20, ",
        ),
        ({"y": CLASSES}, "guess", ValueError, r"^task must be one of classification, regression, got 'guess'\.$"),
    ],
)
def test_wrong_targets_are_refused(
    tmp_path: Path, arrays: dict[str, Any], task: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_dataset(save(tmp_path, **{"X": X, **arrays}), task=task)


def test_task_is_for_files_that_do_not_state_it() -> None:
    with pytest.raises(ValueError, match=r"^task must be None for 'digits', got 'regression'\. It is for "):
        load_dataset("digits", task="regression")


def test_a_sequence_without_a_counted_step_is_refused(tmp_path: Path) -> None:
    mask = MASK.copy()
    mask[:19] = False
    with pytest.raises(ValueError, match=r"^mask must be true at one valid step of each sequence or more, got "):
        load_dataset(save(tmp_path, X=X, y=CLASSES, mask=mask))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"y": np.zeros((7, 5, 2))}, r"^y must have 8 rows, one for each sequence of X, got \(7, 5, 2\)\.$"),
        (
            {"y": np.zeros((8, 4, 2)), "mask": np.ones((8, 5), bool)},
            r"^y must have shape \(8, 5\) or ",
        ),
        ({"y": np.zeros((8, 3), int)}, r"^y must have shape \(8,\) for classes, or \(8, 5\) .* give task='regression'"),
        (
            {"y": np.zeros((8, 5)), "mask": np.zeros((8, 5), bool)},
            r"^mask must be true at one valid step .* got none for 8 of",
        ),
        (
            {"y": np.zeros((8, 5, 2)), "mask": np.arange(8)[:, None] != np.full((8, 5), 6)},
            r"got none for 1 of 8 sequences, the first at index 6\. Leave these sequences out\.$",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(arrays: dict[str, np.ndarray], sentence: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.random.default_rng(0).random((8, 5, 1)), **arrays)
    with pytest.raises(ValueError, match=sentence):
        load_dataset(str(tmp_path / "a.npz"))
