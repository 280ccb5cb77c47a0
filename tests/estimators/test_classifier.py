import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from noisyrnn.estimators import NoisyRNNClassifier
from noisyrnn.models import MODELS

STILL = {"additive": 0.0, "multiplicative": 0.0, "batch_size": 100, "validation_fraction": 0.0}


def test_learns_names_in_every_form_of_input(classifier, waves):
    X, y = waves
    assert classifier.fit(X, y).score(X, y) > 0.9
    assert classifier.classes_.tolist() == ["fast", "slow"] and classifier.channels_ == 2
    assert not hasattr(classifier, "n_features_in_")
    turned = clone(classifier).set_params(layout="channels_last").fit(X.transpose(0, 2, 1), y)
    assert np.array_equal(turned.predict_proba(X.transpose(0, 2, 1)), classifier.predict_proba(X))
    unequal = [x[:, : 8 + k % 5] for k, x in enumerate(X)]
    assert clone(classifier).fit(unequal, y).score(unequal, y) > 0.8
    assert classifier.set_params(epochs=1).fit(X[:, 0], y).n_features_in_ == 12


def test_probabilities_are_the_models_and_prefer_the_predicted_class(classifier, waves):
    X, y = waves
    found = classifier.fit(X, y).predict_proba(X)
    logits = classifier.model_(torch.tensor(X.transpose(0, 2, 1)))
    expected = np.exp(logits.detach().numpy())
    assert np.allclose(found, expected / expected.sum(1, keepdims=True), rtol=1e-12)
    assert np.array_equal(classifier.classes_[found.argmax(1)], classifier.predict(X))


def test_the_answer_for_a_sequence_does_not_depend_on_the_others(classifier, waves):
    X, y = waves
    unequal = [x[:, : 8 + k % 5] for k, x in enumerate(X)]
    together = classifier.fit(unequal, y).predict_proba(unequal)
    alone = np.concatenate([classifier.predict_proba([x]) for x in unequal])
    assert np.allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model(model, waves):
    classifier = NoisyRNNClassifier(model, hidden_size=6, epochs=2, random_state=0).fit(*waves)
    assert type(classifier.model_.layer) is MODELS[model].build and classifier.n_iter_ == 2


def test_options_reach_the_model(waves):
    classifier = NoisyRNNClassifier(
        hidden_size=6, epochs=1, num_layers=2, bidirectional=True, step_size=0.2, options={"skew_symmetry": 1.0}
    ).fit(*waves)
    layer = classifier.model_.layer
    assert (layer.num_layers, layer.bidirectional, layer.skew_symmetry, layer.step_size) == (2, True, 1.0, 0.2)
    assert NoisyRNNClassifier(hidden_size=6, epochs=1).fit(*waves).model_.layer.step_size == 0.3  # the general setting


def test_weights_are_repetitions(classifier, waves):
    X, y = waves
    weights = np.arange(len(y)) % 3
    repeated = clone(classifier).set_params(**STILL).fit(X.repeat(weights, axis=0), y.repeat(weights))
    weighted = clone(classifier).set_params(**STILL).fit(X, y, sample_weight=weights)
    unweighted = clone(classifier).set_params(**STILL).fit(X, y)
    assert np.allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-4)  # 20 steps in float32
    assert not np.allclose(weighted.predict_proba(X), unweighted.predict_proba(X), atol=1e-3)


def test_a_sequence_of_next_to_no_weight_does_not_scale_the_others(classifier, waves):
    X, y = waves
    outlier = X.copy()
    outlier[0] = 1e4
    weights = np.r_[1e-12, np.ones(39)]
    model = clone(classifier).set_params(validation_fraction=0.0).fit(outlier, y, sample_weight=weights)
    rows = X[1:].transpose(1, 0, 2).reshape(2, -1)
    assert np.allclose(model.model_.mean, rows.mean(axis=1), atol=1e-5)
    assert np.allclose(model.model_.std, rows.std(axis=1), rtol=1e-4)
    assert model.score(X[1:], y[1:]) > 0.9


def test_class_weights_are_weights(classifier, waves):
    X, y = waves
    X, y = X[:30], np.array(["slow"] * 10 + ["fast"] * 20)
    rows = np.where(y == "slow", 30 / (2 * 10), 30 / (2 * 20))
    classifier.set_params(epochs=4)
    by_rows = clone(classifier).fit(X, y, sample_weight=rows)
    for class_weight in ("balanced", {"slow": 1.5, "fast": 0.75}):
        by_class = clone(classifier).set_params(class_weight=class_weight).fit(X, y)
        assert np.array_equal(by_class.predict_proba(X), by_rows.predict_proba(X))
    both = clone(classifier).set_params(class_weight={"slow": 2.0}).fit(X, y, sample_weight=rows / 2)
    assert np.array_equal(
        both.predict_proba(X),
        clone(classifier).fit(X, y, sample_weight=rows * np.where(y == "slow", 2, 1)).predict_proba(X),
    )


def test_a_validation_part_is_set_aside_and_patience_stops(classifier, waves):
    X, y = waves
    split = classifier.fit(X, y)._split(X, y, None, first=False, learn=False)
    train, validation = classifier._parts(split, 0.2, seed=3)
    assert (len(train), len(validation)) == (32, 8) and validation.labels.bincount().tolist() == [4, 4]
    rows = {tuple(row.flatten().tolist()) for row in train.inputs}
    assert not rows & {tuple(row.flatten().tolist()) for row in validation.inputs}
    assert all(part is split for fraction in (0.0, 0.01) for part in classifier._parts(split, fraction, seed=3))
    stopped = clone(classifier).set_params(learning_rate=1e-9, patience=3, epochs=50, validation_fraction=0.5).fit(X, y)
    assert stopped.n_iter_ < 50 and stopped.n_iter_ == stopped.best_epoch_ + 3


def test_the_learning_rate_decays_after_its_share(classifier, waves):
    classifier.set_params(decay_after=0.75, epochs=4).fit(*waves)
    assert [row["learning_rate"] for row in classifier.history_] == [0.05, 0.05, 0.05, pytest.approx(0.005)]
    classifier.set_params(decay_after=1.0).fit(*waves)
    assert classifier.history_[-1]["learning_rate"] == 0.05


def test_a_warm_start_goes_on(classifier, waves):
    X, y = waves
    classifier.set_params(warm_start=True, epochs=4).fit(X, y)
    before, mean = classifier.model_, classifier.model_.mean
    classifier.set_params(learning_rate=1e-12).fit(X + 1, y)
    assert torch.equal(classifier.model_.mean, mean) and classifier.model_ is not before
    assert np.allclose(classifier.model_.readout.weight.detach(), before.readout.weight.detach(), atol=1e-6)
    assert not np.allclose(classifier.set_params(warm_start=False).fit(X + 1, y).model_.mean, mean)


def test_partial_fits_learn(classifier, waves):
    X, y = waves
    classifier.set_params(learning_rate=0.02)  # with more, a step may undo what many have learned
    for _ in range(25):
        classifier.partial_fit(X, y, classes=["slow", "fast"])
    assert classifier.score(X, y) > 0.9 and classifier.partial_fits_ == 25 and classifier.n_iter_ == 1
    classifier.partial_fit(X[:1], y[:1])  # one class of the two
    assert classifier.classes_.tolist() == ["fast", "slow"]


def test_saved_and_loaded(tmp_path, classifier, waves):
    X, y = waves
    labels = [y, np.arange(40) % 2 + 5, (np.arange(40) % 2).astype(bool), y.astype(object)]
    for form in labels:
        classifier.set_params(epochs=1, class_weight={form[0]: 2.0}).fit(X, form).save(tmp_path / "c.safetensors")
        again = NoisyRNNClassifier.load(tmp_path / "c.safetensors")
        assert again.classes_.dtype == classifier.classes_.dtype
        assert np.array_equal(again.predict(X), classifier.predict(X))
        assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
        assert again.get_params() == classifier.get_params() and again.history_ == classifier.history_


def test_the_file_is_a_model(tmp_path, classifier, waves):
    from noisyrnn.training import load

    X, y = waves
    classifier.fit(X, y).save(tmp_path / "c.safetensors")
    logits = load(tmp_path / "c.safetensors")(torch.tensor(X.transpose(0, 2, 1)))
    assert np.allclose(logits.softmax(1).detach(), classifier.predict_proba(X), rtol=1e-12)


def test_a_report_of_robustness(classifier, waves):
    X, y = waves
    report = classifier.fit(X, y).robustness_report(X, y)
    assert report.measure == "accuracy" and report.rows[0].score == classifier.score(X, y)
    names = [row.perturbation for row in report.rows]
    assert names == ["clean", *["white_noise"] * 2, *["salt_and_pepper"] * 2, "fgsm", "pgd_linf", "worst_linf"]
    assert all(row.low <= row.score <= row.high for row in report.rows)
    assert len(str(report).splitlines()) == 11 and report.to_dict()["rows"][1]["strength"] == 0.1
    assert report == classifier.robustness_report(X, y)
    noise = {"white_noise": [2.0]}
    assert report.rows[0] == classifier.robustness_report(X, y, perturbations=noise, seed=1).rows[0]
    assert len({str(classifier.robustness_report(X, y, perturbations=noise, seed=seed)) for seed in range(3)}) > 1


def test_strengths_are_in_standard_deviations(classifier, waves):
    X, y = waves
    scales = np.array([1.0, 100.0])[:, None]
    chosen = {"white_noise": [0.5, 2.0]}
    small = classifier.fit(X, y).robustness_report(X, y, perturbations=chosen)
    large = clone(classifier).fit(scales * X, y).robustness_report(scales * X, y, perturbations=chosen)
    assert [r.score for r in small.rows] == pytest.approx([r.score for r in large.rows], abs=0.02)
    assert small.rows[2].score < small.rows[0].score


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"model": "lipshitz"}, ValueError, "model must be one of .* Did you mean 'lipschitz'"),
        (
            {"options": {"skew_symetry": 1.0}},
            ValueError,
            "option of model 'noisy' must be one of .* Did you mean 'skew_symmetry'",
        ),
        ({"options": {"num_layers": 2}}, ValueError, "option of model 'noisy' must be one of .*, got 'num_layers'"),
        ({"model": "gru", "step_size": 0.1}, ValueError, "option of model 'gru' must be one of .* got 'step_size'"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction must be less than 1, got 1\."),
        ({"validation_fraction": -0.1}, ValueError, r"validation_fraction must be at least 0, got -0.1\."),
        ({"decay_after": 0.0}, ValueError, r"decay_after must be greater than 0, got 0\."),
        ({"decay_after": 1.5}, ValueError, r"decay_after must be at most 1, got 1.5\."),
        ({"epochs": 0}, ValueError, r"epochs must be at least 1, got 0\."),
        ({"random_state": -1}, ValueError, r"random_state must be at least 0, got -1\."),
        ({"random_state": "a"}, TypeError, r"random_state must be an integer, got 'a'\."),
        ({"layout": "nct"}, ValueError, "layout must be one of channels_first, channels_last, got 'nct'"),
        ({"device": "tpu"}, ValueError, "device must be one of auto, cpu, cuda, got 'tpu'"),
    ],
)
def test_wrong_settings_fail_in_fit(params, error, text, classifier, waves):
    with pytest.raises(error, match=text):
        classifier.set_params(**params).fit(*waves)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (np.ones(3), r"sample_weight must have shape \(40,\), one for each sequence, got \(3,\)\."),
        (np.full(40, np.nan), r"sample_weight must be finite, got 40 NaN or infinite values\."),
        (-np.ones(40), r"sample_weight must be at least 0, got -1\."),
        (np.zeros(40), r"sample_weight must not be all zero, got 40 zeros\."),
    ],
)
def test_wrong_weights(weights, text, classifier, waves):
    with pytest.raises(ValueError, match=text):
        classifier.fit(*waves, sample_weight=weights)


def test_class_weights_of_zero(classifier, waves):
    X, y = waves
    first, second = np.unique(y)
    with pytest.raises(ValueError, match=r"class_weight must be above 0 for a class of y, got \{.*: 0"):
        clone(classifier).set_params(class_weight={first: 0.0, second: 0.0}).fit(X, y)
    X, y = np.concatenate([X, -X[:10]]), np.concatenate([y, np.full(10, "third")])
    left_out = clone(classifier).set_params(class_weight={y[-1]: 0.0}).fit(X, y)
    assert list(left_out.classes_) == list(np.unique(y))
    assert left_out.score(X[:40], y[:40]) > 0.9


def test_wrong_data(tmp_path, classifier, waves):
    X, y = waves
    for call in (classifier.predict, classifier.predict_proba):
        with pytest.raises(NotFittedError, match="NoisyRNNClassifier must be fitted first, got one that is not"):
            call(X)
    with pytest.raises(NotFittedError):
        classifier.robustness_report(X, y)
    with pytest.raises(NotFittedError):
        classifier.save(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"y must hold 40 values, one for each sequence of X, got 39\."):
        classifier.fit(X, y[:-1])
    with pytest.raises(ValueError, match=r"y must hold at least 2 classes, got 1 class: .*slow"):
        classifier.fit(X, ["slow"] * 40)
    with pytest.raises(ValueError, match=r"y must hold at least 2 classes, got 1 class: .*slow"):
        classifier.fit(X, y, sample_weight=y == "slow")
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        classifier.fit(X, None)
    with pytest.raises(ValueError, match=r"classes must be passed on the first call to partial_fit, got None\."):
        classifier.partial_fit(X, y)
    classifier.set_params(epochs=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"X must have 2 channels, as in fit, got 12\. The layout is 'channels_first'"):
        classifier.predict(X.transpose(0, 2, 1))
    with pytest.raises(ValueError, match=r"y must hold only the classes \['fast', 'slow'\], got 'other'\."):
        classifier.fit(X, ["other"] + ["slow"] * 39)
    with pytest.raises(ValueError, match=r"classes must be \['fast', 'slow'\], as before, got \['a', 'b'\]\."):
        classifier.partial_fit(X, y, classes=["a", "b"])
    with pytest.raises(TypeError, match="random_state must be numbers, strings, lists or dictionaries"):
        classifier.set_params(random_state=np.random.RandomState(0)).save(tmp_path / "c.safetensors")


def test_a_foreign_file(tmp_path, classifier, regressor, waves):
    from noisyrnn.training import save

    X, y = waves
    regressor.set_params(epochs=1).fit(X, X[:, 0, 0]).save(tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match=r"written by NoisyRNNClassifier.save, got .* with NoisyRNNRegressor\."):
        NoisyRNNClassifier.load(tmp_path / "r.safetensors")
    save(classifier.set_params(epochs=1).fit(X, y).model_, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"written by NoisyRNNClassifier.save, got .* with no estimator\."):
        NoisyRNNClassifier.load(tmp_path / "m.safetensors")


def test_progress_is_shown_when_asked_for(classifier, waves, capfd, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    classifier.set_params(epochs=1).fit(*waves)
    assert capfd.readouterr().err == ""
    classifier.set_params(verbose=1).fit(*waves)
    assert "NoisyRNNClassifier seed 0" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden_size": 5}, "hidden_size must stay 6, that of the fitted model, got 5. Fit without warm_start"),
        ({"model": "gru"}, "model must stay 'noisy', that of the fitted model, got 'gru'"),
        ({"additive": 0.5}, "additive must stay .*, that of the fitted model, got 0.5"),
    ],
)
def test_going_on_with_another_model_is_refused(change, text, waves):
    X, y = waves
    classifier = NoisyRNNClassifier(hidden_size=6, epochs=1, warm_start=True, random_state=1).fit(X, y)
    classifier.set_params(learning_rate=0.002).fit(X, y)
    with pytest.raises(ValueError, match=text):
        classifier.set_params(**change).fit(X, y)
    with pytest.raises(ValueError, match=text):
        classifier.partial_fit(X, y)
    classifier.set_params(warm_start=False).fit(X, y)


@pytest.mark.parametrize("mixed", [["1", 1], ["a", True], np.array(["a", 1], dtype=object)])
def test_numbers_and_text_in_one_list_are_refused(mixed):
    y = [*mixed] * 4 if isinstance(mixed, list) else np.tile(mixed, 4)
    with pytest.raises(TypeError, match=r"^y must hold integers only or strings only"):
        NoisyRNNClassifier().fit(np.zeros((8, 3)), y)
    with pytest.raises(TypeError, match=r"^classes must hold integers only or strings only"):
        NoisyRNNClassifier().partial_fit(np.zeros((8, 3)), ["a", "b"] * 4, classes=mixed)


def test_a_missing_label_is_no_class():
    with pytest.raises(ValueError, match=r"^y must hold a class for each sequence, got 'nan' among classes th"):
        NoisyRNNClassifier().fit(np.zeros((8, 3)), np.array([np.nan, 1.0] * 4).astype(str))


def test_targets_at_every_step_are_refused_with_the_way_to_train_them(classifier, waves):
    X, _ = waves
    with pytest.raises(ValueError, match=r"^y must have shape \(n,\), got \(40, 12\)\. .* SequenceToSequence with "):
        classifier.fit(X, np.zeros((40, 12), dtype=int))
