"""Baselines: their answers from loops written out, and what they are fitted to."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn import compare_models
from noisyrnn.data import Dataset, Split
from noisyrnn.robustness import METRICS, baselines, evaluate, skipped_baselines
from noisyrnn.robustness.compare_models import NOT_ATTACKED


def part(count: int, seed: int, *, steps: int = 5, classes: int = 3, unequal: bool = False) -> Split:
    """Sequences of two channels of very different units."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, steps, 2, generator=generator) * torch.tensor([1.0, 1000.0]) + 50
    lengths = torch.randint(1, steps + 1, (count,), generator=generator) if unequal else None
    if lengths is not None:
        inputs = inputs * (torch.arange(steps) < lengths[:, None])[..., None]
    labels: Any = torch.arange(count) ** 2 % 7 % classes if classes else torch.rand(count, 2, generator=generator)
    return Split(inputs=inputs, labels=labels, lengths=lengths, classes=classes)


def dataset(train: Split, validation: Split, test: Split, *, standardize: bool = True) -> Dataset:
    names = tuple(map(str, range(train.classes)))
    options: dict[str, Any] = {"class_names": names, "value_range": None, "standardize": standardize}
    return Dataset(name="own", train=train, validation=validation, read_test=lambda: test, **options)


def unequal_data(classes: int = 3, *, standardize: bool = True) -> Dataset:
    """Parts of 5, 4 and 6 steps, in which sequences have unequal lengths."""
    train, validation, test = (
        part(count, seed, steps=steps, classes=classes, unequal=True)
        for count, seed, steps in ((12, 1, 5), (5, 2, 4), (9, 3, 6))
    )
    return dataset(train, validation, test, standardize=standardize)


def nearest(data: Dataset) -> list[int]:
    """The nearest training or validation sequence of each test sequence, in that order, with loops."""
    valid = data.train.inputs[data.train.valid()].double().numpy()
    mean, std = (valid.mean(axis=0), valid.std(axis=0)) if data.standardize else (np.zeros(2), np.ones(2))

    def values(split: Split, k: int, step: int) -> np.ndarray:
        length = split.inputs.shape[1] if split.lengths is None else int(split.lengths[k])
        return (split.inputs[k, min(step, length - 1)].double().numpy() - mean) / std

    known = [(split, k) for split in (data.train, data.validation) for k in range(len(split))]
    found = []
    for i in range(len(data.test)):
        distances = [
            sum(float(((values(data.test, i, t) - values(split, k, t)) ** 2).sum()) for t in range(6))
            for split, k in known
        ]
        found.append(int(np.argmin(distances)))
    return found


@pytest.mark.parametrize("standardize", [True, False])
def test_the_nearest_neighbour_is_that_of_loops(standardize: bool) -> None:
    data = unequal_data(standardize=standardize)
    labels = torch.cat([data.train.labels, data.validation.labels])
    logits = baselines(data, rocket=False)["1-NN"](data.test.inputs, lengths=data.test.lengths)
    assert torch.isfinite(logits).all()
    assert logits.argmax(dim=1).tolist() == labels[nearest(data)].tolist()
    assert nearest(unequal_data()) != nearest(unequal_data(standardize=False))


def test_the_nearest_neighbour_far_from_zero() -> None:
    inputs = 1e8 + torch.randn(200, 10, 1, generator=torch.Generator().manual_seed(0)).double()
    split = Split(inputs=inputs, labels=torch.arange(200) % 4, classes=4)
    logits = baselines(dataset(split, split, split, standardize=False), rocket=False)["1-NN"](inputs)
    assert logits.argmax(dim=1).equal(split.labels)


def test_values_of_the_nearest_neighbour_and_the_mean() -> None:
    data = unequal_data(classes=0)
    labels = torch.cat([data.train.labels, data.validation.labels])
    fitted = baselines(data, rocket=False)
    assert list(fitted) == ["mean", "1-NN"]
    answers = fitted["1-NN"](data.test.inputs, lengths=data.test.lengths)
    assert torch.allclose(answers, labels[nearest(data)].double())
    mean = fitted["mean"](data.test.inputs, lengths=data.test.lengths)
    assert torch.allclose(mean, labels.double().mean(dim=0).expand(len(data.test), 2))


def test_the_majority_is_that_of_training_and_validation() -> None:
    train, validation = part(4, 1, classes=2), part(5, 2, classes=2)
    train = Split(inputs=train.inputs, labels=torch.tensor([0, 0, 1, 0]), classes=2)
    validation = Split(inputs=validation.inputs, labels=torch.tensor([1, 1, 1, 1, 0]), classes=2)
    test = part(40, 3, classes=2)
    model = baselines(dataset(train, validation, test), rocket=False)["majority class"]
    share = float((test.labels == 1).double().mean())
    assert 0 < share < 1 and evaluate(model, test).accuracy == pytest.approx(share)


@pytest.mark.parametrize("classes", [2, 0])
def test_labels_at_every_step_have_one_baseline(classes: int) -> None:
    labels: Any = torch.tensor([[0, 1, 1], [1, 1, 0]]) if classes else torch.tensor([[[1.0], [2.0], [6.0]]] * 2)
    split = Split(inputs=torch.rand(2, 3, 1), labels=labels, classes=classes)
    data = dataset(split, split, split)
    fitted = baselines(data)
    assert list(fitted) == ["majority class" if classes else "mean"]
    result = evaluate(next(iter(fitted.values())), split)
    assert result.scores["mean_absolute_error" if not classes else "step_accuracy"].mean == pytest.approx(
        2 / 3 if classes else 2.0
    )
    assert set(METRICS) >= set(result.scores)
    assert skipped_baselines(data)["1-NN"] == "there is a label at every step"


def test_they_are_compared_but_not_attacked() -> None:
    data = dataset(part(20, 1), part(6, 2), part(30, 3))
    table = compare_models(baselines(data, rocket=False), data)
    assert table.results["1-NN"]["clean"] is not None and repr(table).count(NOT_ATTACKED) == 4


class _Fake:
    """Stands for aeon's classes: answers the class of the smallest value of the first channel's last step."""

    def __init__(self, random_state: int) -> None:
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self.shape, self.y = X.shape, y

    def predict(self, X: np.ndarray) -> np.ndarray:
        assert X.shape[1:] == self.shape[1:]
        return np.array([self.y[k % len(self.y)] for k in range(len(X))])


@pytest.fixture
def aeon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in aeon's place."""
    for name in ("aeon", "aeon.classification", "aeon.regression"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, kind in (("classification", "RocketClassifier"), ("regression", "RocketRegressor")):
        module: Any = SimpleNamespace(**{kind: _Fake})
        monkeypatch.setitem(sys.modules, f"aeon.{name}.convolution_based", module)


def test_rocket_is_fitted_to_training_and_validation(aeon: None) -> None:
    data = unequal_data()
    model: Any = baselines(data, rocket=True)["ROCKET"]
    labels = torch.cat([data.train.labels, data.validation.labels])
    assert model._fitted.shape == (17, 2, 5) and model._fitted.y.tolist() == labels.tolist()
    logits = model(data.test.inputs, lengths=data.test.lengths)
    assert logits.argmax(dim=1).tolist() == labels[:9].tolist()


def test_rocket_of_values(aeon: None) -> None:
    parts = []
    for count, seed in ((12, 1), (5, 2), (9, 3)):
        full = part(count, seed, classes=0)
        parts.append(Split(inputs=full.inputs, labels=full.labels[:, :1], classes=0))
    data = dataset(*parts)
    answers = baselines(data, rocket=True)["ROCKET"](data.test.inputs)
    assert torch.allclose(answers, data.train.labels[:9].double())


@pytest.mark.parametrize(("limit", "fits"), [("MOST_PRODUCTS", 17 * 9 * 6 * 2), ("MOST_VALUES", (17 + 9) * 6 * 2)])
def test_too_many_sequences_are_left_out(limit: str, fits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, name = unequal_data(), {"MOST_PRODUCTS": "1-NN", "MOST_VALUES": "ROCKET"}[limit]
    module = sys.modules["noisyrnn.robustness.baselines"]
    monkeypatch.setattr(module, limit, fits)
    assert skipped_baselines(data) == {}
    monkeypatch.setattr(module, limit, fits - 1)
    assert list(skipped_baselines(data)) == [name] and "are too many" in skipped_baselines(data)[name]
    assert name not in baselines(data)


def test_rocket_has_one_target() -> None:
    assert skipped_baselines(unequal_data(classes=0)) == {"ROCKET": "there are 2 targets"}


def test_missing_values_are_held() -> None:
    data = unequal_data()
    gaps = data.train.inputs[:].clone()
    gaps[0, 0] = torch.nan  # the mean, where there is no value yet
    gaps[1, 1:, 1] = torch.nan
    train = Split(inputs=gaps, labels=data.train.labels, lengths=data.train.lengths, missing="mask", classes=3)
    incomplete = dataset(train, replace(data.validation, missing="mask"), replace(data.test, missing="mask"))
    mean, _ = incomplete.statistics()
    held = gaps.clone()
    held[0, 0] = mean.to(held.dtype)
    held[1, 1:, 1] = held[1, 0, 1]
    model = baselines(incomplete, rocket=False)["1-NN"]
    assert model.missing == "hold"
    lengths = torch.tensor([5, 5])
    torch.testing.assert_close(model(gaps[:2], lengths=lengths), model(held[:2], lengths=lengths))
    assert evaluate(model, incomplete.test, draws=1, show_progress=False).accuracy >= 0
