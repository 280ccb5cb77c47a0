"""Settings of the training that the estimators share with `TrainConfig`: each reaches `fit`, and changes it."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from noisyrnn.data import Scale
from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor, base
from noisyrnn.models import SequenceClassifier, SequenceRegressor, build_layer
from noisyrnn.training import TrainConfig
from noisyrnn.training import fit as train
from noisyrnn.training.seeding import seeded
from noisyrnn.training.settings import recommended

SHARED = (
    "optimizer orthogonal_rate select ema input_noise input_noise_kind noise_schedule adversarial adversarial_radius "
    "adversarial_steps"
).split()
PGD = {"adversarial": "pgd_linf", "adversarial_radius": 0.1}
NOISE = {"input_noise": 0.5}
LEVERS = [  # settings, and those that they are compared with
    ({"optimizer": "adamw", "weight_decay": 0.5}, {"weight_decay": 0.5}),
    ({"optimizer": "rmsprop"}, {}),
    ({"model": "exprnn", "orthogonal_rate": 0.1}, {"model": "exprnn"}),
    ({"select": "clean"}, {}),
    ({"select": "last"}, {}),
    ({"select": "perturbed"}, {}),
    ({"ema": 0.9}, {}),
    (NOISE, {}),
    ({"input_noise": (0.0, 0.5)}, NOISE),
    ({**NOISE, "input_noise_kind": "multiplicative_noise"}, NOISE),
    ({**NOISE, "input_noise_kind": "salt_and_pepper"}, NOISE),
    ({**NOISE, "noise_schedule": "annealed"}, NOISE),
    ({"adversarial": "fgsm"}, {}),
    (PGD, {"adversarial": "fgsm", "adversarial_radius": 0.1}),
    ({**PGD, "adversarial": "pgd_l2"}, PGD),
    ({**PGD, "adversarial_radius": 0.3}, PGD),
    ({**PGD, "adversarial_steps": 2}, PGD),
]


@pytest.fixture
def noisy_waves(waves):
    """Waves that no epoch classifies perfectly, so that the choice of the epoch matters."""
    X, y = waves
    return X + np.random.default_rng(1).standard_normal(X.shape), y


@pytest.fixture
def trainings(monkeypatch):
    """Data set, settings and result of every training that an estimator starts."""
    seen = []

    def watched(model, dataset, config, **options):
        result = train(model, dataset, config, **options)
        seen.append((dataset, config, result))
        return result

    monkeypatch.setattr(base, "fit", watched)
    return seen


def trained(dataset, config, head):
    """A model that `fit` trains with these settings, with the weights that an estimator begins with."""
    mean, std = dataset.statistics()
    with seeded(config.seed):
        layer = build_layer(config.model, dataset.input_size, config.hidden_size, config.options)
        model = head(layer, dataset.outputs, mean=mean, std=std)
    return model, train(model, dataset, config)


def weights(model):
    return [p.detach().double() for p in model.parameters()]


def metrics(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def test_names_and_defaults_are_those_of_the_settings():
    defaults = {entry.name: entry.default for entry in dataclasses.fields(TrainConfig)}
    defaults["select"] = recommended("", "noisy")["select"]
    for estimator in (NoisyRNNClassifier, NoisyRNNRegressor):
        parameters = inspect.signature(estimator.__init__).parameters
        assert {name: parameters[name].default for name in SHARED} == {name: defaults[name] for name in SHARED}
        assert all(parameters[name].annotation == TrainConfig.__annotations__[name] for name in SHARED)
        assert estimator(ema=0.5).get_params()["ema"] == 0.5


@pytest.mark.parametrize(
    ("settings", "others"), LEVERS, ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items())
)
def test_a_lever_is_that_of_fit_and_changes_it(settings, others, classifier, noisy_waves, trainings):
    X, y = noisy_waves
    classifier.set_params(validation_fraction=0.4)
    fitted = clone(classifier).set_params(**settings).fit(X, y)
    ((dataset, config, result),) = trainings
    wanted = dataclasses.replace(config, **settings)
    assert config == wanted and {name: getattr(wanted, name) for name in settings} == settings
    model, expected = trained(dataset, wanted, SequenceClassifier)
    assert all(torch.equal(one, other) for one, other in zip(weights(fitted.model_), weights(model), strict=True))
    assert fitted.best_epoch_ == expected.best_epoch == result.best_epoch
    plain = clone(classifier).set_params(**others).fit(X, y)
    same = all(
        torch.equal(one, other) for one, other in zip(weights(fitted.model_), weights(plain.model_), strict=True)
    )
    assert not (same and metrics(fitted.history_) == metrics(plain.history_))
    assert ("perturbed_loss" in fitted.history_[0]) == (settings == {"select": "perturbed"})


def test_all_levers_of_a_regression(regressor, waves, trainings):
    X, _ = waves
    settings = {
        "select": "perturbed",
        "ema": 0.8,
        "input_noise": (0.0, 0.3),
        "noise_schedule": "annealed",
        "adversarial": "pgd_l2",
        "adversarial_steps": 2,
        "optimizer": "rmsprop",
    }
    regressor.set_params(**settings, learning_rate=0.01).fit(X, X[:, 0, 0])
    ((dataset, config, _),) = trainings
    assert {name: getattr(config, name) for name in settings} == settings
    model, expected = trained(dataset, config, SequenceRegressor)
    assert metrics(regressor.history_) == metrics(expected.history)
    assert all(torch.equal(a, b) for a, b in zip(weights(regressor.model_.layer), weights(model.layer), strict=True))


def test_strengths_are_in_standard_deviations_of_each_channel(classifier, waves, trainings):
    """Channels 1 and 100 times as large give the same training: standardized inputs, noise and attack are the same."""
    X, y = waves
    settings = {
        "input_noise": 0.3,
        "select": "perturbed",
        "adversarial": "fgsm",
        "adversarial_radius": 0.1,
        "epochs": 3,
    }
    small = clone(classifier).set_params(**settings).fit(X, y)
    large = clone(classifier).set_params(**settings).fit(X * np.array([1.0, 128.0])[:, None], y)
    for one, other in zip(small.history_, large.history_, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["perturbed_loss"] == pytest.approx(other["perturbed_loss"], rel=1e-4)


def test_later_fits_keep_the_units_of_the_first(classifier, waves, trainings):
    X, y = waves
    classifier.set_params(input_noise=0.3, warm_start=True, epochs=1).fit(X, y)
    first = trainings[0][0].scale
    classifier.fit(3 * X, y)
    classifier.partial_fit(X[:2], y[:2])
    scales = [dataset.scale for dataset, _, _ in trainings]
    assert scales == [first] * 3 and first == Scale.of(trainings[0][0].train)
    assert Scale.of(trainings[1][0].train) != first


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        {"orthogonal_rate": 0.0},
        {"orthogonal_rate": 0.5},
        {"select": "best"},
        {"select": "last", "patience": 3},
        {"ema": 1.0},
        {"input_noise": -0.1},
        {"input_noise": (0.3, 0.1)},
        {"input_noise": (0.1, 0.2, 0.3)},
        {"input_noise": 1.5, "input_noise_kind": "salt_and_pepper"},
        {"input_noise_kind": "pink"},
        {"noise_schedule": "cosine"},
        {"adversarial": "pgd"},
        {"adversarial_radius": 0.0},
        {"adversarial_steps": 0},
        {"adversarial_steps": 2.5},
        {"ema": "0.9"},
    ],
    ids=str,
)
def test_bad_values_fail_in_fit_with_the_message_of_the_settings(settings, classifier, waves):
    with pytest.raises((ValueError, TypeError)) as expected:
        TrainConfig(**settings)
    classifier.set_params(**settings)  # as scikit-learn asks, only fit checks
    with pytest.raises(type(expected.value)) as found:
        classifier.fit(*waves)
    assert str(found.value) == str(expected.value)


def test_saved_and_loaded_with_levers(classifier, waves, tmp_path):
    X, y = waves
    settings = {"input_noise": (0.0, 0.2), "ema": 0.9, "select": "perturbed", "adversarial": "fgsm"}
    classifier.set_params(**settings, epochs=2).fit(X, y).save(tmp_path / "c.safetensors")
    again = NoisyRNNClassifier.load(tmp_path / "c.safetensors")
    assert again.get_params() == classifier.get_params() and again.input_noise == (0.0, 0.2)
    assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
    refit = clone(again).fit(X, y)
    assert np.array_equal(refit.predict_proba(X), classifier.predict_proba(X))


def test_a_grid_of_levers(classifier, waves, trainings):
    grid = {"input_noise": [np.float64(0.1), (np.float32(0.0), np.float32(0.25))], "ema": np.array([0.5, 0.9])}
    search = GridSearchCV(classifier.set_params(epochs=1), grid, cv=2, error_score="raise").fit(*waves)
    assert len(search.cv_results_["params"]) == 4
    assert {config.input_noise for _, config, _ in trainings} == {0.1, (0.0, 0.25)}
    assert {config.ema for _, config, _ in trainings} == {0.5, 0.9}
    assert all(type(config.ema) is float for _, config, _ in trainings)
