import json

import pytest
import torch

from noisyrnn.data.split import Split
from noisyrnn.robustness import APGD, FGSM, PGD, RobustnessResult, Square, WhiteNoise, evaluate, gradient_checks
from noisyrnn.robustness.evaluate import Score
from noisyrnn.robustness.statistics import accuracy_interval


def result(name, strength, values, *, metric="accuracy", norm="linf", unit=""):
    scores = {metric: Score.of(metric, torch.tensor([values]).double(), 0.0)}
    return RobustnessResult(
        perturbation=name,
        strength=strength,
        settings=name,
        scores=scores,
        norm=norm,
        unit=unit,
        gradient_free=name.startswith("square"),
    )


def plain(inputs):
    """Two classes by a smooth function: PGD finds the worst point."""
    score = 2 * (inputs - 0.5).sum(dim=(1, 2)).tanh()
    return torch.stack((score, -score), dim=1)


def rounded(inputs):
    """The same classes, but the gradient is zero."""
    score = (8 * plain(inputs)[:, 0]).round() + 0.5
    return torch.stack((score, -score), dim=1) + 0 * inputs.sum()


def misleading(inputs):
    """The same classes, with the gradient of the opposite score."""
    score = plain(inputs)
    return -score + (2 * score).detach()


def checks(model, *attacks, count=60):
    inputs = torch.rand(count, 6, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    split = Split(inputs=inputs, labels=model(inputs).argmax(dim=1), classes=2)
    return gradient_checks([evaluate(model, split, attack, draws=1) for attack in (None, WhiteNoise(0.1), *attacks)])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("model", [rounded, misleading])
def test_masked_gradients_are_noted(model, norm):
    radius = 0.1 if norm == "linf" else 0.25
    attacks = PGD(radius, norm=norm, random_start=model is misleading), APGD(radius, norm=norm, steps=5)
    (check,) = checks(model, *attacks, Square(radius, norm=norm, queries=100))
    assert check.masked and check.only_gradient_free > 10 and check.only_gradient == 0
    assert (check.attack, check.against) == (f"square_{norm}", (f"pgd_{norm}", f"apgd_{norm}"))
    assert check.note.startswith(
        f"Gradients may be masked, or the gradient attacks are too weak: square_{norm} at ϵ {radius:g} misclassifies "
        f"{check.only_gradient_free} of 60 sequences that pgd_{norm} and apgd_{norm} do not (the reverse holds for 0)."
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_plain_gradients_are_not(norm):
    for radius in (0.05, 0.1, 0.3):
        (check,) = checks(plain, PGD(radius, norm=norm), Square(radius, norm=norm, queries=100))
        assert not check.masked and check.note == "" and check.sequences == 60


def test_counts_intervals_and_what_is_compared():
    free = result("square_linf", 0.2, [0] * 12 + [1] * 8)
    (check,) = gradient_checks(
        [
            result("fgsm", 0.1, [0] * 3 + [1] * 19),  # the first 20 of 22 sequences count
            result("pgd_linf", 0.2, [1] * 5 + [0] * 2 + [1] * 15),
            result("pgd_linf", 0.4, [0] * 22),  # a larger radius than is needed
            result("pgd_l2", 0.2, [0] * 22, norm="l2"),
            result("pgd_linf", 0.2, [0] * 22, unit="s"),
            result("worst_linf", 0.2, [0] * 22),
            free,
        ]
    )
    interval = accuracy_interval([1] * 7 + [0] * 13, draws=1)
    assert (check.sequences, check.only_gradient_free, check.only_gradient) == (20, 7, 0)
    assert check.share_interval == (interval.low, interval.high)
    assert (check.against, check.against_strength, check.strength) == (("fgsm", "pgd_linf"), 0.2, 0.2)
    written = json.loads(json.dumps(check.to_dict()))
    assert written["masked"] is True and written["note"] == check.note
    assert (written["attack"], written["only_gradient_free"]) == ("square_linf", 7)
    (check,) = gradient_checks([free, result("pgd_linf", 0.3, [1] * 16 + [0] * 4), result("fgsm", 0.1, [0] * 20)])
    assert (check.only_gradient_free, check.only_gradient, check.against_strength) == (0, 8, 0.3)
    assert check.against == ("pgd_linf", "fgsm")


def test_a_gradient_attack_of_a_larger_radius_is_named_with_it():
    attacks = [result("square_linf", 0.2, [0] * 12 + [1] * 8), result("pgd_linf", 0.3, [1] * 20)]
    (check,) = gradient_checks(attacks)
    assert "square_linf at ϵ 0.2 misclassifies 12 of 20 sequences that pgd_linf up to ϵ 0.3 do not" in check.note


def test_without_a_gradient_attack_of_this_or_a_larger_radius_nothing_is_compared():
    free = result("square_linf", 0.2, [0] * 20)
    assert gradient_checks([free]) == []
    assert gradient_checks([free, result("fgsm", 0.1, [1] * 20)]) == []
    assert gradient_checks([free, result("square_linf", 0.3, [1] * 20)]) == []
    assert gradient_checks([result("fgsm", 0.1, [1] * 20), result("pgd_linf", 0.1, [1] * 20)]) == []


@pytest.mark.parametrize(
    ("count", "sequences", "masked"),
    [(4, 100, False), (5, 100, True), (2, 20, False), (3, 20, True), (14, 1000, False)],
)
def test_a_few_sequences_are_chance(count, sequences, masked):
    free = result("square_linf", 0.2, [0] * count + [1] * (sequences - count))
    (check,) = gradient_checks([free, result("pgd_linf", 0.2, [1] * sequences)])
    assert check.masked == masked


def test_errors_count_from_five_percent_and_shares_of_steps_at_once():
    errors = [1.0] * 10
    attacks = [result("pgd_linf", 0.2, errors, metric="mean_squared_error")]
    for factor, count in ((1.04, 0), (1.06, 10)):
        free = result("square_linf", 0.2, [factor] * 10, metric="mean_squared_error")
        (check,) = gradient_checks([*attacks, free])
        assert (check.only_gradient_free, check.only_gradient, check.metric) == (count, 0, "mean_squared_error")
    assert "makes the error of 10 of 10 sequences larger than pgd_linf, by over 5 %" in check.note
    (check,) = gradient_checks(
        [
            result("pgd_linf", 0.2, [0.5] * 10, metric="step_accuracy"),
            result("square_linf", 0.2, [0.4] * 8 + [0.6] * 2, metric="step_accuracy"),
        ]
    )
    assert (check.only_gradient_free, check.only_gradient) == (8, 2)
    assert "misclassifies more steps than pgd_linf in 8 of 10 sequences (the reverse holds for 2)" in check.note


def test_a_regression_is_compared_by_its_squared_error():
    inputs = torch.rand(30, 6, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = inputs.sum(dim=(1, 2))[:, None] + 0.2  # an error of 0 has no gradient

    def smooth(x):
        return x.sum(dim=(1, 2))[:, None]

    def steps(x):
        return (8 * x).round().sum(dim=(1, 2))[:, None] / 8 + 0 * x.sum()

    attacks = None, FGSM(0.2), PGD(0.2, random_start=False), Square(0.2, queries=100)
    for model, masked in ((smooth, False), (steps, True)):
        split = Split(inputs=inputs, labels=values, classes=0)
        (check,) = gradient_checks([evaluate(model, split, attack, draws=1) for attack in attacks])
        assert check.masked == masked and check.metric == "mean_squared_error"
