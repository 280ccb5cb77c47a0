"""Reports of robustness, against every perturbation applied by hand to sequences of unequal lengths."""

import numpy as np
import pytest
import torch

from noisyrnn.data.base import Split
from noisyrnn.robustness import build_perturbation
from noisyrnn.robustness.evaluate import evaluate
from noisyrnn.robustness.statistics import mean_interval

CHOSEN = {"white_noise": [0.5, 1.5], "salt_and_pepper": [0.3]}


@pytest.fixture
def unequal(waves):
    """Sequences of 8 to 12 steps around 5 and 50, their names, and a number for each."""
    X, y = waves
    X = X * np.array([1.0, 10.0])[:, None] + np.array([5.0, 50.0])[:, None]
    return [x[:, : 8 + k % 5] for k, x in enumerate(X)], y, X[:, 0, :4].mean(1)


def standardised(X, model):
    """Padded `(n, 12, channels)` in standard deviations, their lengths, and the smallest and largest value."""
    rows = [torch.tensor(x.T) for x in X]
    rows = [(row - model.mean) / model.std for row in rows]
    values = torch.cat([row.flatten() for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded, torch.tensor([len(row) for row in rows]), (float(values.min()), float(values.max()))


def test_accuracies_are_those_on_standardised_sequences(classifier, unequal):
    X, y, _ = unequal
    model = classifier.fit(X, y).model_
    inputs, lengths, limits = standardised(X, model)
    labels = torch.tensor([classifier.classes_.tolist().index(name) for name in y])
    split = Split(inputs=inputs, labels=labels, lengths=lengths, classes=2)

    def answer(inputs, lengths=None):
        return model(inputs * model.std + model.mean, lengths=lengths)

    found = classifier.robustness_report(X, y, perturbations=CHOSEN, draws=3, seed=4)
    assert (found.draws, found.sequences, found.measure) == (3, 40, "accuracy")
    perturbations = [None, *(build_perturbation(n, s, value_range=limits) for n, v in CHOSEN.items() for s in v)]
    for row, perturbation in zip(found.rows, perturbations, strict=True):
        expected = evaluate(answer, split, perturbation, draws=3, seed=4)
        assert (row.perturbation, row.strength) == (expected.perturbation, expected.strength or 0.0)
        assert (row.score, row.low, row.high) == (expected.accuracy, *expected.interval)
    assert found.rows[0].score == classifier.score(X, y) > found.rows[2].score


def test_squared_errors_are_means_over_draws(regressor, unequal):
    X, _, y = unequal
    model = regressor.fit(X, y).model_
    inputs, lengths, limits = standardised(X, model)
    found = regressor.robustness_report(X, y, perturbations=CHOSEN, draws=3, seed=4)
    assert (found.draws, found.sequences, found.measure) == (3, 40, "mean squared error")
    assert found.rows[0].score == pytest.approx(((regressor.predict(X) - y) ** 2).mean(), rel=1e-9)
    names = [(name, strength) for name, strengths in CHOSEN.items() for strength in strengths]
    assert [(row.perturbation, row.strength) for row in found.rows] == [("clean", 0.0), *names]
    for row, (name, strength) in zip(found.rows[1:], names, strict=True):
        generator, errors = torch.Generator().manual_seed(4), np.zeros(40)
        for _ in range(3):
            changed = build_perturbation(name, strength, value_range=limits)(
                model, inputs, torch.zeros(40, 1), generator=generator, lengths=lengths
            )
            for k, length in enumerate(lengths.tolist()):
                with torch.no_grad():
                    output = model(changed[k : k + 1, :length] * model.std + model.mean)
                errors[k] += (float(output) - y[k]) ** 2 / 3
        interval = mean_interval(errors.tolist())
        assert (row.score, row.low, row.high) == pytest.approx((interval.mean, interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"perturbations": {"white_nois": [0.1]}}, "perturbation must be one of .* Did you mean 'white_noise'"),
        ({"perturbations": {"white_noise": [-0.1]}}, r"perturbations\['white_noise'\]"),
        ({"draws": 0}, r"draws must be at least 1, got 0\."),
        ({"draws": 36}, r"draws must be at most 35, got 36\."),
        ({"seed": -1}, r"seed must be at least 0, got -1\."),
    ],
)
def test_what_is_refused(classifier, regressor, waves, arguments, text):
    X, y = waves
    for estimator, answers in ((classifier, y), (regressor, X[:, 0, 0])):
        with pytest.raises(ValueError, match=text):
            estimator.set_params(epochs=1).fit(X, answers).robustness_report(X, answers, **arguments)


def test_the_table_is_aligned(regressor, waves):
    X, _ = waves
    report = regressor.set_params(epochs=1).fit(X, X[:, 0, 0]).robustness_report(X, X[:, 0, 0], draws=2)
    title, heads, clean, first, *_ = str(report).splitlines()
    assert title == "mean squared error on 40 sequences, 95 % intervals, 2 draws of random noise"
    assert heads == "perturbation           strength     score   interval"
    row = report.rows[0]
    assert clean == f"clean{' ' * 26}{row.score:>10.4g}   [{row.low:.4g}, {row.high:.4g}]"
    assert first.startswith("white_noise                 0.1")
