"""What scikit-learn asks of an estimator."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor

REASON = (
    "batches and the validation part are random draws of rows, and each row has noise of its own: two copies of a "
    "sequence are not one sequence of weight two. Without these three they are, see test_weights_are_repetitions"
)
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": REASON}
QUICK = {"hidden_size": 16, "epochs": 3, "learning_rate": 0.1, "step_size": 1.0, "batch_size": 16}
LEARNING = {"hidden_size": 32, "epochs": 20, "learning_rate": 0.03, "batch_size": 64}  # for an R² above 0.5


@parametrize_with_checks(
    [NoisyRNNClassifier(**QUICK), NoisyRNNRegressor(**QUICK)], expected_failed_checks=lambda estimator: EXPECTED
)
def test_every_check_passes(estimator, check):
    if check.func.__name__ == "check_regressors_train":
        estimator.set_params(**LEARNING)
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([NoisyRNNClassifier(), NoisyRNNRegressor()], expected_failed_checks=lambda estimator: EXPECTED)
def test_every_check_passes_with_the_defaults(estimator, check):
    check(estimator)


def test_the_same_seed_gives_the_same_bits_and_a_pickle_too(classifier, waves):
    X, y = waves
    first = classifier.fit(X, y).predict_proba(X)
    assert np.array_equal(clone(classifier).fit(X, y).predict_proba(X), first)
    assert np.array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(X), first)
    again = clone(classifier).set_params(random_state=classifier.seed_).fit(X, y)
    assert np.array_equal(again.predict_proba(X), first)


def test_no_seed_is_new_entropy_and_can_be_repeated(classifier, waves):
    X, y = waves
    np.random.seed(0)  # noqa: NPY002 (must not matter)
    first = classifier.set_params(random_state=None, epochs=1).fit(X, y)
    np.random.seed(0)  # noqa: NPY002
    second = clone(first).fit(X, y)
    assert first.seed_ != second.seed_
    third = clone(first).set_params(random_state=first.seed_).fit(X, y)
    assert np.array_equal(first.predict_proba(X), third.predict_proba(X))


def test_generators_are_drawn_from(classifier, waves):
    X, y = waves
    classifier.set_params(epochs=1)
    for make in (np.random.RandomState, np.random.default_rng):
        seeds = {classifier.set_params(random_state=make(s)).fit(X, y).seed_ for s in (1, 1, 2)}
        assert len(seeds) == 2


def test_the_global_random_state_is_left_alone(classifier, waves):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    classifier.set_params(epochs=1, random_state=None).fit(*waves)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.slow
def test_in_a_pipeline_a_grid_and_folds_over_processes(classifier, waves):
    X, y = waves
    pipeline = make_pipeline(StandardScaler(), classifier)
    assert pipeline.fit(X[:, 0], y).score(X[:, 0], y) > 0.8
    scores = [cross_val_score(classifier, X, y, cv=2, n_jobs=jobs) for jobs in (None, 2)]
    assert np.array_equal(*scores) and scores[0].mean() > 0.8
    unequal = [sequence[:, : 8 + k % 5] for k, sequence in enumerate(X)]
    grid = GridSearchCV(classifier, {"hidden_size": np.array([4, 8]), "model": ["noisy", "gru"]}, cv=2).fit(unequal, y)
    assert len(grid.cv_results_["params"]) == 4 and grid.best_score_ > 0.6


def test_nothing_warns(classifier, waves):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.set_params(epochs=1).fit(*waves).predict(waves[0])
