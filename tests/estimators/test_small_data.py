"""What the number of sequences changes in the training of an estimator."""

import numpy as np
import pytest
from sklearn.base import clone

from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor
from noisyrnn.training.budget import FEWEST_VALIDATION

TINY = {"hidden_size": 2, "batch_size": 16, "random_state": 0}


def series(count):
    rng = np.random.default_rng(count)
    return rng.normal(3.0, 2.0, (count, 3)), np.arange(count) % 2


@pytest.mark.parametrize(("count", "held_out"), [(290, 0), (300, 30)])
def test_too_few_validation_sequences_are_trained_on(count, held_out):
    X, y = series(count)
    for estimator in (NoisyRNNClassifier(epochs=2, **TINY), NoisyRNNRegressor(epochs=2, **TINY)):
        fitted = estimator.fit(X, y)
        assert fitted.validation_size_ == held_out
        assert ("validation_loss" in fitted.history_[0]) == (held_out > 0)
        whole = np.allclose(fitted.model_.mean, X.mean(), atol=1e-6) and np.allclose(fitted.model_.std, X.std())
        assert whole == (held_out == 0)
        assert whole == np.allclose(fitted.scale_["std"], X.std())
        if not held_out:
            assert fitted.best_epoch_ == fitted.n_iter_ == 2
    assert FEWEST_VALIDATION == 30


def test_no_validation_keeps_the_last_epoch_however_many_there_are():
    X, y = series(64)
    fitted = NoisyRNNClassifier(epochs=3, validation_fraction=0.0, **TINY).fit(X, y)
    assert fitted.validation_size_ == 0 and fitted.best_epoch_ == 3
    assert "validation_loss" not in fitted.history_[0]


def test_a_choice_of_the_user_holds():
    X, y = series(40)
    for choice in ({"select": "clean"}, {"patience": 2}):
        fitted = NoisyRNNClassifier(epochs=3, validation_fraction=0.2, **TINY, **choice).fit(X, y)
        assert fitted.validation_size_ == 8 and "validation_accuracy" in fitted.history_[0]


def test_without_epochs_few_sequences_have_a_thousand_steps():
    X, y = series(20)  # two batches an epoch
    fitted = NoisyRNNClassifier(**TINY).fit(X, y)
    assert fitted.n_iter_ == 500 and fitted.get_params()["epochs"] is None
    rates = [row["learning_rate"] for row in fitted.history_]
    assert rates[374] == pytest.approx(0.005) and rates[375] == pytest.approx(0.0005)
    assert clone(fitted).set_params(epochs=1).fit(X, y).n_iter_ == 1


def test_the_number_is_saved(tmp_path):
    X, y = series(40)
    settings = {"epochs": 1, "validation_fraction": 0.2, "select": "clean"}
    NoisyRNNClassifier(**TINY, **settings).fit(X, y).save(tmp_path / "c.safetensors")
    assert NoisyRNNClassifier.load(tmp_path / "c.safetensors").validation_size_ == 8
