"""Estimators next to other models in `compare_models`: measured as the networks that they are."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from noisyrnn import compare_models
from noisyrnn.data import Split
from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor
from noisyrnn.robustness import FGSM, WhiteNoise

SMALL = {"hidden_size": 8, "epochs": 10, "learning_rate": 0.05, "random_state": 0}
PERTURBATIONS = [WhiteNoise(0.3), FGSM(0.1)]


def square(count=60, channels=6):
    """Sines of two frequencies, as many steps as channels, `(n, steps, channels)`, and their classes."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    phases = np.linspace(0, 1, channels)
    X = np.sin((1 + labels[:, None, None]) * (np.linspace(0, 6, 6)[None, :, None] + phases))
    return X + 0.3 * rng.standard_normal(X.shape), labels


def correct(comparison, name, key):
    return comparison.results[name][key].correct


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("channels", [6, 2, 1])
def test_a_classifier_is_measured_as_its_model_in_every_layout(layout, channels):
    X, y = square(channels=channels)
    fitted = NoisyRNNClassifier(layout=layout, **SMALL)
    given = X if layout == "channels_last" else X.swapaxes(1, 2)
    fitted.fit(given, y)
    split = Split(inputs=torch.from_numpy(X), labels=torch.from_numpy(y), classes=2)
    found = compare_models({"estimator": fitted, "model": fitted.sequence_model}, split, PERTURBATIONS)
    for key in found.results["model"]:
        assert correct(found, "estimator", key) == correct(found, "model", key)
    assert found.results["estimator"]["clean"].accuracy == fitted.score(given, y) > 0.7


def test_a_table_of_one_channel():
    X, y = square(channels=1)
    fitted = NoisyRNNClassifier(**SMALL).fit(X[..., 0], y)
    split = Split(inputs=torch.from_numpy(X), labels=torch.from_numpy(y), classes=2)
    found = compare_models({"estimator": fitted}, split, PERTURBATIONS)
    assert found.results["estimator"]["clean"].accuracy == fitted.score(X[..., 0], y)
    assert found.results["estimator"]["fgsm 0.1"] is not None


@pytest.mark.parametrize("channels", [6, 1])
def test_inside_a_search_the_layout_is_kept(channels):
    X, y = square(channels=channels)
    search = GridSearchCV(NoisyRNNClassifier(**SMALL), {"epochs": [10]}, cv=2).fit(X.swapaxes(1, 2), y)
    split = Split(inputs=torch.from_numpy(X), labels=torch.from_numpy(y), classes=2)
    found = compare_models({"search": search, "model": search.best_estimator_}, split, [WhiteNoise(0.3)])
    for key in found.results["model"]:
        assert correct(found, "search", key) == correct(found, "model", key)


def test_classes_in_another_order_and_one_that_the_data_do_not_have():
    X, y = square()
    fitted = NoisyRNNClassifier(**SMALL).fit(X.swapaxes(1, 2), np.array(["1", "2"])[y])  # class 0 is unknown to it
    labels = torch.from_numpy(y + 1)
    split = Split(inputs=torch.from_numpy(X), labels=labels, classes=3)
    found = compare_models({"estimator": fitted}, split, PERTURBATIONS)
    assert found.results["estimator"]["clean"].accuracy == fitted.score(X.swapaxes(1, 2), np.array(["1", "2"])[y])
    inner = Split(inputs=split.inputs, labels=torch.from_numpy(y), classes=2)
    alone = compare_models({"model": fitted.sequence_model}, inner, PERTURBATIONS)
    for key in alone.results["model"]:
        assert correct(found, "estimator", key) == correct(alone, "model", key)
    reordered = NoisyRNNClassifier(**SMALL).fit(X.swapaxes(1, 2), np.array(["10", "9"])[y])
    names = torch.tensor([10, 9])[y]  # as text "10" stands before "9"
    split = Split(inputs=torch.from_numpy(X), labels=names, classes=11)
    found = compare_models({"estimator": reordered}, split, PERTURBATIONS)
    assert found.results["estimator"]["clean"].accuracy > 0.8


def test_unequal_lengths():
    X, y = square(channels=2)
    lengths = torch.arange(len(X)) % 3 + 4
    rows = [x[: int(n)].T for x, n in zip(X, lengths, strict=True)]
    fitted = NoisyRNNClassifier(**SMALL).fit(rows, y)
    split = Split(inputs=torch.from_numpy(X), labels=torch.from_numpy(y), classes=2, lengths=lengths)
    found = compare_models({"estimator": fitted}, split, PERTURBATIONS)
    assert found.results["estimator"]["clean"].accuracy == fitted.score(rows, y)


def test_a_regressor_is_attacked():
    X, _ = square()
    fitted = NoisyRNNRegressor(**SMALL).fit(X.swapaxes(1, 2), X[:, 0, 0])
    split = Split(inputs=torch.from_numpy(X), labels=torch.from_numpy(X[:, :1, 0]), classes=0)
    found = compare_models({"estimator": fitted}, split, PERTURBATIONS).results["estimator"]
    assert found["clean"].main.mean == pytest.approx(fitted.score(X.swapaxes(1, 2), X[:, 0, 0]), abs=1e-6)
    assert found["fgsm 0.1"].main.mean < found["clean"].main.mean


@pytest.mark.parametrize("kind", [NoisyRNNClassifier, NoisyRNNRegressor])
def test_one_that_is_not_fitted(kind):
    with pytest.raises(NotFittedError, match="must be fitted first"):
        _ = kind(**SMALL).sequence_model
