"""Reports of robustness, against every perturbation applied by hand to sequences of unequal lengths."""

import numpy as np
import pytest
import torch

from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.robustness import build_perturbation, worst_cases
from noisyrnn.robustness.evaluate import draw_generator, evaluate
from noisyrnn.robustness.statistics import mean_interval

CHOSEN = {"white_noise": [0.5, 1.5], "salt_and_pepper": [0.3], "fgsm": [0.1]}


@pytest.fixture
def unequal(waves):
    """Sequences of 8 to 12 steps around 5 and 50, their names, and a number for each."""
    X, y = waves
    X = X * np.array([1.0, 10.0])[:, None] + np.array([5.0, 50.0])[:, None]
    return [x[:, : 8 + k % 5] for k, x in enumerate(X)], y, X[:, 0, :4].mean(1)


def padded(X):
    """Padded `(n, 12, channels)` and their lengths."""
    rows = [torch.tensor(x.T) for x in X]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def scale_by_hand(estimator, X):
    """Statistics of the sequences that trained: all, with `validation_fraction` 0."""
    assert estimator.validation_fraction == 0
    values = np.concatenate([x.T for x in X])
    low, high = np.quantile(values, [0.001, 0.999], axis=0)
    found = {"mean": values.mean(0), "std": values.std(0), "low": low, "high": high}
    for name, numbers in found.items():
        assert estimator.scale_[name] == pytest.approx(tuple(numbers), rel=1e-9)
    return Scale.from_dict(estimator.scale_)


def test_a_report_is_short_as_a_value_and_a_table_in_print_and_in_a_notebook(classifier, waves):
    X, y = waves
    report = classifier.fit(X, y).robustness_report(X, y, perturbations={"white_noise": [0.5]}, draws=2)
    lines = repr(report).splitlines()
    assert len(lines) <= 3 and lines[0].startswith("RobustnessReport(accuracy of 40 sequences, 2 rows")
    clean, noisy = report.rows
    assert f"clean {clean.score:.4g} [{clean.low:.4g}, {clean.high:.4g}]" in lines[1]
    cells = ("white_noise", "0.5 s", f"{noisy.score:.4g}", f"[{noisy.low:.4g}, {noisy.high:.4g}]")
    assert all(cell in str(report).splitlines()[3] for cell in cells)
    html = report._repr_html_()
    assert html.startswith("<table>") and all(f"<td>{cell}</td>" in html for cell in cells[1:])


@pytest.mark.parametrize("standardize", [True, False])
def test_accuracies_are_those_of_strengths_in_training_deviations(classifier, unequal, standardize):
    X, y, _ = unequal
    chosen = {"validation_fraction": 0.0, "select": "clean", "standardize": standardize}
    model = classifier.set_params(**chosen).fit(X, y).model_
    scale, (inputs, lengths) = scale_by_hand(classifier, X), padded(X)
    labels = torch.tensor([classifier.classes_.tolist().index(name) for name in y])
    split = Split(inputs=inputs, labels=labels, lengths=lengths, classes=2)
    found = classifier.robustness_report(X, y, perturbations=CHOSEN, draws=3, seed=4)
    assert (found.draws, found.sequences, found.measure) == (3, 40, "accuracy")
    perturbations = [None, *(build_perturbation(n, s, scale=scale) for n, v in CHOSEN.items() for s in v)]
    expected = [evaluate(model, split, perturbation, draws=3, seed=4) for perturbation in perturbations]
    expected += worst_cases(expected)
    assert [row.perturbation for row in found.rows] == [result.perturbation for result in expected]
    for row, result in zip(found.rows, expected, strict=True):
        assert (row.strength, row.unit) == (result.strength or 0.0, result.unit)
        assert (row.score, row.low, row.high) == (result.accuracy, *result.interval)
    assert found.rows[0].score == classifier.score(X, y) > found.rows[2].score
    assert [row.unit for row in found.rows] == ["", "s", "s", "", "s", "s"]


def test_squared_errors_are_means_over_draws(regressor, unequal):
    X, _, y = unequal
    model = regressor.set_params(validation_fraction=0.0).fit(X, y).model_
    scale, (inputs, lengths) = scale_by_hand(regressor, X), padded(X)
    noises = {name: strengths for name, strengths in CHOSEN.items() if name != "fgsm"}
    found = regressor.robustness_report(X, y, perturbations=noises, draws=3, seed=4)
    assert (found.draws, found.sequences, found.measure) == (3, 40, "mean squared error")
    assert found.rows[0].score == pytest.approx(((regressor.predict(X) - y) ** 2).mean(), rel=1e-9)
    names = [(name, strength) for name, strengths in noises.items() for strength in strengths]
    assert [(row.perturbation, row.strength) for row in found.rows] == [("clean", 0.0), *names]
    for row, (name, strength) in zip(found.rows[1:], names, strict=True):
        errors = np.zeros(40)
        for draw in range(3):
            generator = draw_generator(4, draw, 0)
            changed = build_perturbation(name, strength, scale=scale)(
                model, inputs, torch.zeros(40, 1), generator=generator, lengths=lengths
            )
            for k, length in enumerate(lengths.tolist()):
                with torch.no_grad():
                    output = model(changed[k : k + 1, :length])
                errors[k] += (float(output) - y[k]) ** 2 / 3
        interval = mean_interval(errors.tolist())
        assert (row.score, row.low, row.high) == pytest.approx((interval.mean, interval.low, interval.high), rel=1e-9)


def test_what_limits_a_score_is_noted(classifier, regressor, waves):
    X, y = waves
    rows = classifier.fit(X, y).robustness_report(X, y, perturbations={"white_noise": [1e-30, 100.0]}).rows
    assert [row.note for row in rows] == ["", "changed no value", "not better than guessing"]
    regressor.fit(X, X[:, 0, 0])
    attacked = regressor.robustness_report(X, X[:, 0, 0], perturbations={"fgsm": [0.1]}).rows
    assert attacked[-1].perturbation == "worst_linf"
    assert all(row.score > attacked[0].score for row in attacked if row.perturbation in ("fgsm", "worst_linf"))
    rows = regressor.robustness_report(X, X[:, 0, 0], perturbations={"white_noise": [1e-30, 100.0]}).rows
    assert "changed no value" in rows[1].note and rows[2].note == "not better than guessing"


def test_masked_gradients_are_noted(classifier, waves):
    X, y = waves
    classifier.fit(X, y)
    attacks = {"pgd_linf": [1.0], "square_linf": [1.0]}
    plain = classifier.robustness_report(X, y, perturbations=attacks, draws=1)
    assert plain.notes == () and "Note" not in str(plain)
    assert [row.perturbation for row in plain.rows] == ["clean", "pgd_linf", "square_linf", "worst_linf"]
    classifier.model_.register_forward_hook(lambda module, inputs, logits: logits.detach() + 0 * inputs[0].sum())
    masked = classifier.robustness_report(X, y, perturbations={"fgsm": [1.0], "square_linf": [1.0]}, draws=1)
    (note,) = masked.notes
    assert note.startswith("Gradients may be masked") and str(masked).endswith(f"Note: {note}")
    assert masked.to_dict()["notes"] == [note]


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
    report = (
        regressor.set_params(epochs=1)
        .fit(X, X[:, 0, 0])
        .robustness_report(X, X[:, 0, 0], perturbations={"white_noise": [0.1]}, draws=2)
    )
    title, heads, clean, first, *_, units = str(report).splitlines()
    assert title == "mean squared error on 40 sequences, 95 % intervals, 2 draws or starts"
    assert heads == "perturbation                  strength     score   interval"
    row = report.rows[0]
    line = f"clean{' ' * 33}{row.score:>10.4g}   [{row.low:.4g}, {row.high:.4g}]   {row.note}".rstrip()
    assert clean == line
    assert first.startswith("white_noise                      0.1 s")
    assert units.startswith("Strengths are in units of each channel's scale in the training data")
