import numpy as np
import pytest
import torch
from sklearn.base import clone

from noisyrnn.estimators import NoisyRNNRegressor


@pytest.fixture
def slopes():
    """60 straight lines, their slopes and ends."""
    rng = np.random.default_rng(0)
    slope, start = rng.uniform(-1, 1, 60), rng.uniform(-1, 1, 60)
    return start[:, None] + slope[:, None] * np.linspace(0, 2, 10), np.stack([slope, start + 2 * slope], axis=1)


def test_learns_one_number_or_several(regressor, slopes):
    X, y = slopes
    regressor.set_params(epochs=30)
    assert regressor.fit(X, 1000 + 50 * y[:, 0]).score(X, 1000 + 50 * y[:, 0]) > 0.9
    assert regressor.predict(X).shape == (60,)
    assert regressor.fit(X, y).score(X, y) > 0.9 and regressor.predict(X).shape == (60, 2)
    assert regressor.set_params(epochs=1).fit(X, y[:, :1]).predict(X).shape == (60, 1)


def test_the_model_answers_in_the_units_of_y(regressor, slopes):
    X, y = slopes
    plain = regressor.set_params(epochs=5).fit(X, y).predict(X)
    scaled = clone(regressor).fit(X, 7.0 + 3.0 * y)
    assert np.allclose(scaled.predict(X), 7.0 + 3.0 * plain, atol=1e-5)  # targets rounded to float32
    assert np.allclose(scaled.model_(torch.tensor(X)[..., None]).detach(), scaled.predict(X), rtol=1e-12)
    assert np.allclose(scaled.y_mean_, (7 + 3 * y).mean(0)) and np.allclose(scaled.y_std_, 3 * y.std(0))


def test_the_best_epoch_is_that_of_the_smallest_validation_loss(regressor, slopes):
    X, y = slopes
    regressor.set_params(validation_fraction=0.3, learning_rate=0.1, select="clean").fit(X, y)
    losses = [row["validation_loss"] for row in regressor.history_]
    assert regressor.best_epoch_ == 1 + int(np.argmin(losses)) and "validation_accuracy" not in regressor.history_[0]


def test_the_loss_is_the_mean_squared_error_of_standardised_targets(regressor, slopes):
    X, y = slopes
    still = {"additive": 0.0, "multiplicative": 0.0, "validation_fraction": 0.0, "epochs": 3, "select": "clean"}
    regressor.set_params(**still).fit(X, y)
    expected = (((regressor.predict(X) - y) / y.std(0)) ** 2).mean()
    assert min(row["validation_loss"] for row in regressor.history_) == pytest.approx(expected, rel=1e-5)


def test_a_target_that_never_varies(regressor, slopes):
    X, _ = slopes
    assert np.allclose(regressor.fit(X, np.full(60, 4.0)).predict(X), 4.0, atol=0.5)


def test_weights_are_repetitions(regressor, slopes):
    X, y = slopes
    regressor.set_params(additive=0.0, multiplicative=0.0, batch_size=1000, validation_fraction=0.0)
    weights = np.arange(60) % 3
    repeated = clone(regressor).fit(X.repeat(weights, axis=0), y.repeat(weights, axis=0))
    weighted = clone(regressor).fit(X, y, sample_weight=weights)
    assert np.allclose(weighted.y_mean_, repeated.y_mean_) and np.allclose(weighted.y_std_, repeated.y_std_)
    assert np.allclose(weighted.predict(X), repeated.predict(X), atol=1e-4)
    assert not np.allclose(weighted.predict(X), clone(regressor).fit(X, y).predict(X), atol=1e-3)


def test_a_target_of_next_to_no_weight_does_not_scale_the_others(regressor, slopes):
    X, y = slopes
    outlier = y.copy()
    outlier[0] = 1e6
    weights = np.r_[1e-15, np.ones(59)]
    plain = clone(regressor).fit(X[1:], y[1:]).score(X[1:], y[1:])
    weighted = clone(regressor).fit(X, outlier, sample_weight=weights)
    assert np.allclose(weighted.y_mean_, y[1:].mean(axis=0), atol=1e-6)
    assert np.allclose(weighted.y_std_, y[1:].std(axis=0), rtol=1e-4)
    assert weighted.score(X[1:], y[1:]) > plain - 0.1


def test_going_on_changes_little_when_the_steps_are_small(regressor, slopes):
    X, y = slopes
    before = regressor.set_params(warm_start=True).fit(X, 5 + 2 * y).predict(X)
    regressor.set_params(learning_rate=1e-12)
    assert np.allclose(regressor.fit(X, 5 + 2 * y).predict(X), before, atol=1e-5)
    assert np.allclose(regressor.partial_fit(X, 5 + 2 * y).predict(X), before, atol=1e-5)


def test_partial_fits_learn(regressor, slopes):
    X, y = slopes
    regressor.set_params(learning_rate=0.02)
    for _ in range(25):
        regressor.partial_fit(X, y)
    assert regressor.score(X, y) > 0.8 and regressor.partial_fits_ == 25


def test_saved_and_loaded(tmp_path, regressor, slopes):
    X, y = slopes
    for target in (y, y[:, 0]):
        regressor.fit(X, target).save(tmp_path / "r.safetensors")
        again = NoisyRNNRegressor.load(tmp_path / "r.safetensors")
        assert np.array_equal(again.predict(X), regressor.predict(X)) and again.n_features_in_ == 10


def test_a_report_of_robustness(regressor, slopes):
    X, y = slopes
    report = regressor.fit(X, y).robustness_report(X, y, perturbations={"white_noise": [0.0, 0.5]})
    clean, same, noisy = report.rows
    assert report.measure == "mean squared error" and clean.perturbation == "clean"
    assert clean.score == pytest.approx(((regressor.predict(X) - y) ** 2).mean(), rel=1e-9)
    assert same.score == pytest.approx(clean.score, rel=1e-12) and noisy.score > clean.score
    assert noisy.low < noisy.score < noisy.high
    errors = ((regressor.predict(X) - y) ** 2).mean(1)
    half = 2.0010 * errors.std(ddof=1) / np.sqrt(60)  # Student's t with 59 degrees of freedom
    assert clean.high - clean.score == pytest.approx(half, rel=1e-4)
    quick = {"white_noise": [0.5], "fgsm": [0.1]}
    assert len(regressor.robustness_report(X, y, perturbations=quick).rows) == 4


def test_what_is_refused(regressor, slopes):
    X, y = slopes
    regressor.set_params(epochs=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"^draws must"):
        regressor.robustness_report(X, y, draws=36)
    with pytest.raises(ValueError, match=r"y must hold 2 targets, as before, got 1\."):
        regressor.fit(X, y[:, 0])
    message = r"^y must have shape \(n,\) or \(n, targets\), got \(60, 2, 1\)\. For targets at every step train"
    with pytest.raises(ValueError, match=message):
        regressor.fit(X, y[..., None])


@pytest.mark.parametrize("y", [["1_5", "2"] * 4, np.array([1, 2] * 4, "M8[s]")])
def test_targets_are_numbers(y):
    with pytest.raises(TypeError, match=r"^y must hold numbers"):
        NoisyRNNRegressor().fit(np.zeros((8, 3)), y)
