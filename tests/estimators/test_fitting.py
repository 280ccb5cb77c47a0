"""What a fit takes into account: parts, weights, seeds, and what an estimator keeps of it."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.base import clone

from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor, base
from noisyrnn.training import fit as train
from noisyrnn.training.saving import read_header


@pytest.fixture
def trainings(monkeypatch):
    """Data set and settings of every training that an estimator starts."""
    seen = []

    def watched(model, dataset, config, **options):
        seen.append((dataset, config))
        return train(model, dataset, config, **options)

    monkeypatch.setattr(base, "fit", watched)
    return seen


def metrics(estimator):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in estimator.history_]


def same_fit(one, other, X):
    return np.array_equal(one._outputs(X), other._outputs(X)) and metrics(one) == metrics(other)


@pytest.mark.parametrize("make", [np.array, list])
def test_a_weight_of_zero_leaves_a_sequence_out(classifier, waves, make):
    X, y = waves
    X = make([x if make is np.array else x[:, : 8 + k % 5] for k, x in enumerate(X)])
    weights, kept = np.ones(40), np.arange(40) % 3 > 0
    weights[~kept] = 0.0
    chosen = X[kept] if make is np.array else [x for x, keep in zip(X, kept, strict=True) if keep]
    weighted = clone(classifier).fit(X, y, sample_weight=weights)
    assert same_fit(weighted, clone(classifier).fit(chosen, y[kept]), chosen)


def test_weights_in_any_unit_reach_the_training_and_the_validation_part(classifier, regressor, waves, trainings):
    X, y = waves
    weights = 1.0 + np.arange(40)
    scaled = weights / weights.mean()
    for estimator, answers in ((classifier, y), (regressor, X[:, 0, 0])):
        trainings.clear()
        estimator.set_params(epochs=1, validation_fraction=0.25, select="clean").fit(X, answers, sample_weight=weights)
        dataset, _ = trainings[0]
        of_row = {tuple(x.T.flatten().tolist()): w for x, w in zip(X, scaled, strict=True)}
        for part, count in ((dataset.train, 30), (dataset.validation, 10)):
            expected = [of_row[tuple(row.flatten().tolist())] for row in part.inputs]
            assert part.weights.tolist() == pytest.approx(expected) and len(part) == count
        trainings.clear()
        again = clone(estimator).set_params(validation_fraction=0.0)
        again = again.partial_fit(X, answers, **({"classes": ["slow", "fast"]} if answers is y else {}))
        assert trainings[0][0].train.weights is None
        again.partial_fit(X, answers, sample_weight=weights)
        assert trainings[1][0].train.weights.tolist() == pytest.approx(scaled)


def test_the_parts_follow_the_seed_and_the_fraction(classifier, regressor, waves):
    X, y = waves
    for estimator, answers in ((classifier, y), (regressor, X[:, 0, 0])):
        split = estimator.set_params(epochs=1).fit(X, answers)._split(X, answers, None, first=False, learn=False)
        train_part, validation = estimator._parts(split, 0.12, seed=1)
        assert (len(train_part), len(validation)) == (35, 5)  # 4.8 are about 5
        again, other = (estimator._parts(split, 0.12, seed=seed)[1].inputs for seed in (1, 2))
        assert torch.equal(again, validation.inputs) and not torch.equal(other, validation.inputs)
        rows = sorted(row.flatten().tolist() for part in (train_part, validation) for row in part.inputs)
        assert rows == sorted(row.flatten().tolist() for row in split.inputs)
        assert not torch.equal(validation.inputs, split.inputs[:5])


def test_the_classes_keep_their_shares_in_the_validation_part(classifier, waves):
    X, y = waves[0], np.repeat(["slow", "fast"], [30, 10])
    split = classifier.set_params(epochs=1).fit(X, y)._split(X, y, None, first=False, learn=False)
    for seed in range(5):
        parts = classifier._parts(split, 0.2, seed=seed)
        assert [part.labels.bincount().tolist() for part in parts] == [[8, 24], [2, 6]]


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_too_few_sequences_train_and_validate_alike(classifier, regressor, waves, trainings, fraction):
    X, y = waves
    for estimator, answers in ((classifier, y[:2]), (regressor, X[:2, 0, 0])):
        estimator.set_params(epochs=1, validation_fraction=fraction).fit(X[:2], answers)
    for dataset, _ in trainings:
        assert dataset.train is dataset.validation and len(dataset.train) == 2


def test_a_data_set_knows_its_values_and_whether_they_are_standardised(classifier, waves, trainings):
    X, y = waves
    X = [10 + x[:, : 8 + k % 5] for k, x in enumerate(X)]
    for standardize in (True, False):
        classifier.set_params(epochs=1, standardize=standardize).fit(X, y)
        dataset, _ = trainings[-1]
        assert dataset.value_range is None and dataset.class_names == ("fast", "slow")
        assert dataset.standardize is standardize


def test_numbers_of_numpy_are_numbers(waves):
    X, y = waves
    plain = {"hidden_size": 4, "epochs": 2, "batch_size": 8, "learning_rate": 0.5, "step_size": 0.25, "patience": 2}
    typed = {name: np.array([value])[0] for name, value in plain.items()}
    one = NoisyRNNClassifier(**plain, random_state=7).fit(X, y)
    other = NoisyRNNClassifier(**typed, random_state=np.int64(7)).fit(X, y)
    assert same_fit(one, other, X) and type(other.seed_) is int


def test_the_decay_is_rounded_to_an_epoch(classifier, waves):
    history = classifier.set_params(decay_after=0.75, epochs=5).fit(*waves).history_  # after 3.75, so after 4
    assert [row["learning_rate"] for row in history] == pytest.approx([0.05] * 4 + [0.005])
    first, second = classifier.set_params(decay_after=0.1, epochs=2).fit(*waves).history_  # not before the first
    assert (first["learning_rate"], second["learning_rate"]) == pytest.approx((0.05, 0.005))


def test_columns_are_forgotten_by_a_fit_on_sequences(classifier, waves):
    X, y = waves
    unequal = [x[:, : 8 + k % 5] for k, x in enumerate(X)]
    classifier.set_params(epochs=1)
    for form in (X, unequal):
        assert classifier.fit(X[:, 0], y).n_features_in_ == 12
        assert not hasattr(classifier.fit(form, y), "n_features_in_")
        assert len(classifier.predict(form)) == 40


def test_many_sequences_are_answered_in_blocks(classifier, waves, monkeypatch):
    X, y = waves
    unequal = [x[:, : 8 + k % 5] for k, x in enumerate(X)]
    classifier.set_params(epochs=1)
    for form in (X, unequal):
        together = classifier.fit(form, y).predict_proba(form)
        with monkeypatch.context() as patch:
            patch.setattr(base, "_BLOCK", 7)
            assert np.allclose(classifier.predict_proba(form), together, rtol=1e-12)


def test_all_that_was_fitted_is_loaded_and_goes_on(tmp_path, classifier, regressor, waves):
    X, y = waves
    for estimator, answers in ((classifier, y), (regressor, X[:, 0, 0])):
        if estimator is classifier:
            estimator.partial_fit(X, y, classes=["slow", "fast"])
        else:
            estimator.fit(X, answers)
        estimator.partial_fit(X, answers).save(tmp_path / "e.safetensors")
        again = type(estimator).load(tmp_path / "e.safetensors")
        names = {name for name in vars(estimator) if name.endswith("_")}
        assert names == {name for name in vars(again) if name.endswith("_")}
        for name in names - {"model_"}:
            assert np.array_equal(getattr(again, name), getattr(estimator, name)), name
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(again.predict(X), estimator.predict(X))
        assert again.model_.layer.kernel == estimator.model_.layer.kernel == "reference"
        assert same_fit(again.partial_fit(X, answers), estimator.partial_fit(X, answers), X)
    assert read_header(tmp_path / "e.safetensors").class_names is None


def test_the_file_names_the_classes(tmp_path, classifier, waves):
    classifier.set_params(epochs=1).fit(*waves).save(tmp_path / "c.safetensors")
    assert list(read_header(tmp_path / "c.safetensors").class_names) == ["fast", "slow"]


@pytest.mark.parametrize("random_state", [None, np.random.default_rng(0), np.random.RandomState(0), 5])
def test_partial_fits_have_one_seed_and_noise_of_their_own(classifier, waves, trainings, random_state):
    X, y = waves
    classifier.set_params(random_state=random_state).partial_fit(X, y, classes=["slow", "fast"])
    seed = classifier.seed_
    classifier.partial_fit(X, y).partial_fit(X, y)
    assert classifier.seed_ == seed and classifier.partial_fits_ == 3
    seeds = [config.seed for _, config in trainings]
    assert len(set(seeds)) == 3 and all(config.epochs == 1 for _, config in trainings)
    again = clone(classifier).set_params(random_state=seed).partial_fit(X, y, classes=["slow", "fast"])
    again.partial_fit(X, y).partial_fit(X, y)
    assert same_fit(again, classifier, X) and [config.seed for _, config in trainings[3:]] == seeds
    for dataset, _ in trainings:
        assert dataset.train is dataset.validation and len(dataset.train) == 40


def test_the_seed_decides_weights_order_and_noise(classifier, waves):
    X, y = waves
    one, other = (clone(classifier).set_params(epochs=1, random_state=seed).fit(X, y) for seed in (0, 1))
    still = {"learning_rate": 1e-30, "epochs": 1}
    first, second = (clone(classifier).set_params(random_state=seed, **still).fit(X, y) for seed in (0, 1))
    assert not np.allclose(one.predict_proba(X), other.predict_proba(X))
    assert not torch.allclose(first.model_.readout.weight, second.model_.readout.weight)


def test_classes_that_come_later_have_their_place(classifier, waves):
    X, y = waves
    classifier.partial_fit(X, y, classes=["slow", "fast", "idle"])
    assert classifier.classes_.tolist() == ["fast", "idle", "slow"] and classifier.predict_proba(X).shape == (40, 3)
    classifier.partial_fit(X, np.array(["idle", "slow"] * 20), classes=["idle", "slow", "fast"])
    with pytest.raises(ValueError, match=r"classes must be \['fast', 'idle', 'slow'\], as before, got \['fast', 'idle"):
        classifier.partial_fit(X, y, classes=["idle", "fast"])


def test_a_target_that_never_varies_is_learnt(regressor, waves):
    X, _ = waves
    y = np.stack([np.full(40, 7.0), X[:, 0, 0]], axis=1)
    regressor.fit(X, y)
    assert regressor.y_std_[0] == 1.0 and regressor.y_std_[1] == pytest.approx(y[:, 1].std())
    assert np.abs(regressor.predict(X)[:, 0] - 7).max() < 0.5


def test_standardisation_of_targets_stays_that_of_the_first_call(regressor, waves):
    X, _ = waves
    y = X[:, 0, 0]
    first = deepcopy(regressor.partial_fit(X, y))
    regressor.partial_fit(X, 100 + 3 * y)
    assert (regressor.y_mean_, regressor.y_std_) == (first.y_mean_, first.y_std_)
    warm = NoisyRNNRegressor(hidden_size=4, epochs=1, warm_start=True, random_state=0).fit(X, y)
    assert warm.fit(X, 100 + 3 * y).y_mean_ == y.mean()


def test_a_refit_that_fails_leaves_what_was_fitted(waves):
    X, y = waves
    classifier = NoisyRNNClassifier(hidden_size=4, epochs=1, random_state=1).fit(X, y)
    before, answers = dict(vars(classifier)), classifier.predict_proba(X)
    wild = {"step_size": 1e30, "options": {"learn_step": False, "damping": 1.0}}
    with pytest.raises(RuntimeError, match="non-finite"):
        classifier.set_params(**wild).fit(X[:, :, :5], np.where(y == y[0], "x", "z"))
    classifier.set_params(step_size=None, options=None)
    assert vars(classifier) == before
    np.testing.assert_array_equal(classifier.predict_proba(X), answers)
