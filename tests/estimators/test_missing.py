"""Estimators on sequences with missing values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score

from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor

SMALL = {"hidden_size": 4, "epochs": 2, "random_state": 0}


def incomplete(channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, channels, 8)) + 5
    y = (X.mean(axis=(1, 2)) > 5).astype(int)
    X[rng.random(X.shape) < 0.2] = np.nan
    return (X[:, 0] if channels == 1 else X), y


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
@pytest.mark.parametrize("channels", [1, 2])
def test_they_are_accepted_with_the_setting(missing: str, channels: int, tmp_path: Path) -> None:
    X, y = incomplete(channels)
    with pytest.raises(ValueError, match="NaN"):
        NoisyRNNClassifier(**SMALL).fit(X, y)
    classifier = NoisyRNNClassifier(**SMALL, missing=missing).fit(X, y)
    assert classifier.model_.missing == missing and classifier.channels_ == channels
    probabilities = classifier.predict_proba(X)
    inputs = torch.from_numpy(X.reshape(30, channels, 8)).transpose(1, 2)
    expected = classifier.model_(inputs).softmax(dim=1).detach().numpy()
    assert np.allclose(probabilities, expected, atol=1e-9)
    assert np.allclose(classifier.model_.mean, np.nanmean(X.reshape(30, channels, 8), axis=(0, 2)), atol=0.3)
    classifier.save(tmp_path / "m.safetensors")
    loaded = NoisyRNNClassifier.load(tmp_path / "m.safetensors")
    assert loaded.missing == missing and np.array_equal(loaded.predict_proba(X), probabilities)
    with pytest.raises(ValueError, match=r"infinity"):
        classifier.predict(np.where(np.isnan(X), np.inf, X))


def test_lists_scores_and_reports() -> None:
    X, y = incomplete()
    ragged = [row[: 5 + k % 4] for k, row in enumerate(X)]
    classifier = NoisyRNNClassifier(**SMALL, missing="mask").fit(ragged, y)
    report = classifier.robustness_report(ragged, y, perturbations={"white_noise": [0.1], "missing_values": [0.3]})
    assert [row.perturbation for row in report.rows] == ["clean", "white_noise", "missing_values"]
    assert np.isfinite(cross_val_score(NoisyRNNClassifier(**SMALL, missing="hold"), X, y, cv=2)).all()
    values = NoisyRNNRegressor(**SMALL, missing="skip").fit(X, np.nanmean(X, axis=1)).predict(X)
    assert values.shape == (30,) and np.isfinite(values).all()


def test_the_setting_must_stay_and_fit_the_model() -> None:
    X, y = incomplete()
    classifier = NoisyRNNClassifier(**SMALL, missing="hold", warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"^missing must stay 'hold', that of the fitted model, got 'skip'\."):
        classifier.set_params(missing="skip").fit(X, y)
    with pytest.raises(ValueError, match=r"^missing must be 'mask' or 'hold' for model 'gru'"):
        NoisyRNNClassifier("gru", **SMALL, missing="skip").fit(X, y)
    assert NoisyRNNClassifier(missing="mask").__sklearn_tags__().input_tags.allow_nan
    assert not NoisyRNNClassifier().__sklearn_tags__().input_tags.allow_nan


@pytest.mark.parametrize("shape", [(30, 8), (30, 1, 8)])
def test_the_message_names_the_setting(shape: tuple[int, ...]) -> None:
    X, y = incomplete()
    with pytest.raises(ValueError, match=r"^Input X contains NaN\. Set missing='hold', 'mask' or 'skip' to accept"):
        NoisyRNNClassifier(**SMALL).fit(X.reshape(shape), y)
