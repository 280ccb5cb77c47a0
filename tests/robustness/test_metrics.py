"""Metrics of answers at every step and of values, against scikit-learn and sums written out."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error, r2_score
from torch import Tensor

from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.robustness import (
    FGSM,
    PGD,
    Perturbation,
    Square,
    WhiteNoise,
    evaluate,
    seeds_interval,
    seeds_test,
    worst_cases,
)
from noisyrnn.robustness.metrics import METRICS, Scorer

COUNT, STEPS = 40, 6
GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(COUNT, STEPS, 2, generator=GENERATOR, dtype=torch.float64)
LENGTHS = torch.randint(3, STEPS + 1, (COUNT,), generator=GENERATOR)
MASK = torch.rand(COUNT, STEPS, generator=GENERATOR) < 0.7
MASK[:, 0] = True
COUNTED = MASK & (torch.arange(STEPS) < LENGTHS[:, None])
SHARE = (1 / COUNTED.sum(1).double())[:, None].expand_as(COUNTED)[COUNTED].numpy()  # of a step in its sequence
VALUES = 3 + 2 * torch.randn(COUNT, STEPS, 2, generator=GENERATOR, dtype=torch.float64)
CLASSES = torch.randint(0, 3, (COUNT, STEPS), generator=GENERATOR)


def of_steps(labels: Tensor, classes: int) -> Split:
    return Split(inputs=INPUTS, labels=labels, lengths=LENGTHS, mask=MASK, classes=classes)


def answer(outputs: Tensor) -> Any:
    """A model with fixed answers for the sequences above, which it finds by their first value."""
    first = INPUTS[:, 0, 0]

    def model(inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        rows = (inputs[:, 0, 0, None] == first).int().argmax(1)
        return outputs[rows]

    return model


def test_values_at_every_step_are_scored_as_in_scikit_learn() -> None:
    outputs = VALUES + torch.randn(VALUES.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    garbage = VALUES.masked_fill(~COUNTED[..., None], 1e9)
    result = evaluate(answer(outputs), of_steps(garbage, 0))
    true, found = VALUES[COUNTED].numpy(), outputs[COUNTED].numpy()
    expected = {
        "r2": r2_score(true, found, sample_weight=SHARE),
        "mean_squared_error": mean_squared_error(true, found, sample_weight=SHARE),
        "mean_absolute_error": mean_absolute_error(true, found, sample_weight=SHARE),
    }
    assert {name: score.mean for name, score in result.scores.items()} == pytest.approx(expected, rel=1e-12)
    assert list(result.scores) == list(expected) and result.metric == "r2"
    mean = np.broadcast_to(np.average(true, axis=0, weights=SHARE), true.shape)
    assert {name: score.guess for name, score in result.scores.items()} == pytest.approx(
        {
            "r2": 0.0,
            "mean_squared_error": mean_squared_error(true, mean, sample_weight=SHARE),
            "mean_absolute_error": mean_absolute_error(true, mean, sample_weight=SHARE),
        },
        abs=1e-12,
    )


def test_values_of_sequences_are_scored_as_in_scikit_learn() -> None:
    labels = VALUES[:, 0]
    outputs = labels + 0.5 * VALUES[:, 1] - 1
    result = evaluate(answer(outputs), Split(inputs=INPUTS, labels=labels, classes=0))
    true, found = labels.numpy(), outputs.numpy()
    assert result.scores["r2"].mean == pytest.approx(r2_score(true, found), rel=1e-12)
    assert result.scores["mean_squared_error"].mean == pytest.approx(mean_squared_error(true, found), rel=1e-12)
    assert result.scores["mean_absolute_error"].mean == pytest.approx(mean_absolute_error(true, found), rel=1e-12)
    errors = ((true - found) ** 2).mean(1)
    assert result.scores["mean_squared_error"].sequences == pytest.approx(errors.tolist(), rel=1e-12)
    low, high = stats.t.interval(0.95, COUNT - 1, loc=errors.mean(), scale=stats.sem(errors))
    assert result.scores["mean_squared_error"].interval == pytest.approx((low, high), rel=1e-9)


def test_classes_at_every_step_have_the_accuracy_of_their_counted_steps() -> None:
    outputs = torch.nn.functional.one_hot((CLASSES + (INPUTS[..., 0] > 0.3)) % 3, 3).double()
    result = evaluate(answer(outputs), of_steps(CLASSES.masked_fill(~COUNTED, 77), 3))
    found, true = outputs.argmax(2)[COUNTED].numpy(), CLASSES[COUNTED].numpy()
    assert result.accuracy == pytest.approx(accuracy_score(true, found, sample_weight=SHARE), rel=1e-12)
    guesses = [accuracy_score(true, np.full_like(true, c), sample_weight=SHARE) for c in range(3)]
    assert result.guess == pytest.approx(max(guesses), rel=1e-12) and result.metric == "step_accuracy"
    rows = [((outputs.argmax(2) == CLASSES)[i][COUNTED[i]]).double().mean().item() for i in range(COUNT)]
    assert result.main.sequences == pytest.approx(rows, rel=1e-12)
    interval = seeds_interval([rows])
    assert result.interval == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_targets_of_one_and_minus_one_have_a_sign_accuracy() -> None:
    labels = torch.where(VALUES > 3, 1.0, -1.0).double()
    outputs = labels * torch.rand(VALUES.shape, generator=torch.Generator().manual_seed(2)).add(0.1)
    outputs[:, :, 1] = torch.where(INPUTS[..., 1] > 1, -outputs[:, :, 1], outputs[:, :, 1])
    scores = evaluate(answer(outputs), of_steps(labels, 0)).scores
    right = (INPUTS[..., 1] <= 1)[COUNTED].double().numpy()
    assert scores["sign_accuracy"].mean == pytest.approx(np.average(right, weights=SHARE), rel=1e-12)
    assert "sign_accuracy" not in evaluate(answer(outputs), of_steps(2 * labels, 0)).scores


def test_targets_that_never_vary_have_no_r2() -> None:
    labels = VALUES[:, 0].clone()
    labels[:, 1] = 5.0
    outputs = labels + 0.1 * VALUES[:, 1]
    scores = evaluate(answer(outputs), Split(inputs=INPUTS, labels=labels, classes=0)).scores
    assert scores["r2"].mean == pytest.approx(r2_score(labels[:, 0].numpy(), outputs[:, 0].numpy()), rel=1e-12)
    labels[:, 0] = 2.0
    scores = evaluate(answer(outputs), Split(inputs=INPUTS, labels=labels, classes=0)).scores
    assert list(scores) == ["mean_squared_error", "mean_absolute_error"]


WEIGHT = torch.tensor([0.5, -2.0]).double()


def total(inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """A linear model of a sequence."""
    return (inputs @ WEIGHT).sum(1, keepdim=True)


def each(inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """A linear model of every step."""
    return (inputs @ WEIGHT)[..., None]


@pytest.mark.parametrize("attack", [FGSM(0.1), PGD(0.1, steps=5, random_start=False), PGD(0.1, steps=20)])
def test_attacks_on_a_linear_regression_reach_the_known_worst_case(attack: Any) -> None:
    split = Split(inputs=INPUTS, labels=VALUES[:, 0, :1], classes=0)
    worst = ((total(INPUTS) - split.labels).abs() + 0.1 * STEPS * WEIGHT.abs().sum()).squeeze(1)
    scores = evaluate(total, split, attack, draws=2).scores
    assert scores["mean_absolute_error"].sequences == pytest.approx(worst.tolist(), rel=1e-6)
    assert scores["mean_squared_error"].sequences == pytest.approx((worst**2).tolist(), rel=1e-6)
    variance = float(split.labels.var(correction=0))
    assert scores["r2"].sequences == pytest.approx((1 - worst**2 / variance).tolist(), rel=1e-6)


def test_an_l2_attack_on_a_linear_regression_reaches_the_known_worst_case() -> None:
    split = Split(inputs=INPUTS, labels=VALUES[:, 0, :1], classes=0)
    worst = (total(INPUTS) - split.labels).abs() + 0.3 * STEPS**0.5 * WEIGHT.norm()
    found = evaluate(total, split, PGD(0.3, norm="l2"), draws=1).scores["mean_absolute_error"]
    assert found.sequences == pytest.approx(worst.squeeze(1).tolist(), rel=1e-4)


def test_an_attack_on_every_step_changes_only_counted_ones() -> None:
    shown: list[Tensor] = []

    def watched(model: Any) -> Any:
        def call(inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
            shown.append(inputs.detach())
            return model(inputs)

        return call

    worst = (each(INPUTS) - VALUES[..., :1]).abs().squeeze(2) + 0.1 * WEIGHT.abs().sum()
    scores = evaluate(watched(each), of_steps(VALUES[..., :1], 0), FGSM(0.1)).scores
    rows = [float(worst[i][COUNTED[i]].mean()) for i in range(COUNT)]
    assert scores["mean_absolute_error"].sequences == pytest.approx(rows, rel=1e-9)
    assert torch.equal((shown[-1] != INPUTS).any(2), COUNTED)
    away = 1 - (INPUTS @ WEIGHT > 0).long()
    away[:, 0] = 1 - away[:, 0]  # a step that is right, so that the sequence is attacked
    evaluate(watched(classify), of_steps(away, 2), FGSM(0.1))
    assert torch.equal((shown[-1] != INPUTS).any(2), COUNTED)


@dataclass(frozen=True)
class Helpful(Perturbation):
    """An attack that helps every other sequence of `total`, and harms the others."""

    name, norm = "helpful", "linf"

    def perturb(self, inputs: Tensor, *, labels: Tensor, **unused: Any) -> Tensor:
        step = (labels - total(inputs)) / WEIGHT.square().sum() / inputs.shape[1]
        step = torch.where(torch.arange(len(inputs))[:, None] % 2 == 0, step, -step)
        return inputs + step[..., None] * WEIGHT


def test_an_attack_never_lowers_an_error() -> None:
    split = Split(inputs=INPUTS, labels=VALUES[:, 0, :1], classes=0)
    clean, attacked = (
        np.array(evaluate(total, split, attack).scores["mean_absolute_error"].sequences)
        for attack in (None, Helpful(0.1))
    )
    assert attacked == pytest.approx(np.where(np.arange(COUNT) % 2 == 0, clean, 2 * clean), rel=1e-9)


def classify(inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Logits of every step: class 1 where the weighted sum is above 0."""
    value = inputs @ WEIGHT
    return torch.stack([-value, value], dim=2)


@pytest.mark.parametrize("attack", [FGSM(0.2), PGD(0.2, steps=10)])
def test_attacks_on_classes_at_every_step_turn_every_step_they_can(attack: Any) -> None:
    labels = torch.randint(0, 2, (COUNT, STEPS), generator=torch.Generator().manual_seed(4))
    margin = (INPUTS @ WEIGHT) * (2 * labels - 1)
    holds = margin > 0.2 * WEIGHT.abs().sum()
    result = evaluate(classify, of_steps(labels, 2), attack, draws=2)
    rows = [float(holds[i][COUNTED[i]].double().mean()) for i in range(COUNT)]
    assert result.main.sequences == pytest.approx(rows, rel=1e-12)


def test_noise_is_a_mean_over_draws_and_worst_cases_are_by_metric() -> None:
    split = Split(inputs=INPUTS, labels=VALUES[:, 0, :1], classes=0)
    clean, noisy = evaluate(total, split), evaluate(total, split, WhiteNoise(0.5), draws=3, seed=4)
    score = noisy.scores["mean_squared_error"]
    assert len(score.draws) == 3 and score.mean == pytest.approx(np.mean(score.draws), rel=1e-12)
    assert score.mean > clean.scores["mean_squared_error"].mean
    results = [clean, noisy, evaluate(total, split, FGSM(0.1)), evaluate(total, split, PGD(0.2, steps=2))]
    first, second = worst_cases(results)
    assert first.scores["r2"].sequences == results[2].scores["r2"].sequences
    two = [np.array(result.scores["mean_absolute_error"].sequences) for result in results[2:]]
    assert second.scores["mean_absolute_error"].sequences == tuple(np.maximum(*two).tolist())
    assert (second.perturbation, second.strength, second.norm) == ("worst_linf", 0.2, "linf")


def test_scales_and_lengths_reach_attacks_on_every_step() -> None:
    split = of_steps(VALUES[..., :1], 0)
    plain = evaluate(each, split, FGSM(0.1))
    scaled = replace(split, inputs=5 + 10 * INPUTS)
    scale = Scale(mean=(5.0, 5.0), std=(10.0, 10.0), low=(0.0, 0.0), high=(9.0, 9.0))
    found = evaluate(lambda x, lengths: each((x - 5) / 10), scaled, FGSM(0.1, scale=scale))
    assert found.scores["r2"].mean == pytest.approx(plain.scores["r2"].mean, rel=1e-9)


def test_a_result_of_values_in_json() -> None:
    split = Split(inputs=INPUTS, labels=VALUES[:, 0, :1], classes=0)
    result = evaluate(total, split, WhiteNoise(0.5), draws=2)
    content = json.loads(json.dumps(result.to_dict()))
    assert list(content) == ["perturbation", "strength", "settings", "scores", "sequences", "unit", "norm", "moved"]
    score = result.scores["r2"]
    assert content["scores"]["r2"] == {
        "mean": score.mean,
        "interval": list(score.interval),
        "draws": list(score.draws),
        "sequences": [float(f"{value:.6g}") for value in score.sequences],
        "guess": score.guess,
    }


def test_a_scorer_of_one_class_each_is_the_share_that_is_right() -> None:
    scorer = Scorer(Split(inputs=INPUTS, labels=CLASSES[:, 0], classes=3))
    assert scorer.metrics == ("accuracy",)
    assert scorer.guess["accuracy"] == float(CLASSES[:, 0].bincount().max()) / COUNT
    assert scorer(torch.eye(3)[CLASSES[:5, 1]], CLASSES[:5, 0]).tolist() == [
        (CLASSES[:5, 0] == CLASSES[:5, 1]).tolist()
    ]


def test_metrics_without_bounds_have_students_interval_and_test() -> None:
    rng = np.random.default_rng(1)
    bounds = METRICS["mean_squared_error"].bounds
    errors = rng.exponential(2.0, (1, 30))
    interval = seeds_interval(errors.tolist(), bounds=bounds)
    low, high = stats.t.interval(0.95, 29, loc=errors.mean(), scale=stats.sem(errors[0]))
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)
    assert seeds_interval([[0.0, 0.0, 9.0]], bounds=bounds).low == 0.0
    assert seeds_interval([[1.0, 1.0, -9.0]], bounds=METRICS["r2"].bounds).high == 1.0
    base = rng.exponential(20.0, 200)
    first = [(base * rng.normal(1.0, 0.05, 200)).tolist() for _ in range(5)]
    second = [(base * rng.normal(1.3, 0.05, 200)).tolist() for _ in range(5)]
    test = seeds_test(first, second, bounds=bounds)
    assert test.p_value < 1e-4 and test.low < test.difference < test.high < -1
    assert test.difference == pytest.approx(np.mean(first) - np.mean(second), rel=1e-12)
    same = seeds_test(first, first, bounds=bounds)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"^correct must lie in \[0, inf\], got -1\.$"):
        seeds_interval([[1.0, -1.0]], bounds=bounds)


def test_intervals_of_errors_hold_in_simulation() -> None:
    """Three trainings on 40 sequences: the interval for other trainings and sequences covers the mean in 91 to 99 %."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        sequences, trainings = rng.gamma(4.0, 0.25, 40), rng.normal(1.0, 0.1, 3)
        errors = np.abs(sequences * trainings[:, None] * rng.normal(1.0, 0.2, (3, 40)))
        interval = seeds_interval(errors.tolist(), bounds=(0.0, np.inf))
        covered += interval.low <= 1.0 <= interval.high
    assert 0.91 * 400 <= covered <= 0.99 * 400


def test_the_guess_of_r2_is_zero() -> None:
    labels = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    split = Split(inputs=torch.zeros(30, 3, 1), labels=labels, classes=0)
    assert Scorer(split).guess["r2"] == 0  # not 4e-16


def test_r2_of_the_first_sequences_has_the_variance_of_all() -> None:
    inputs = torch.randn(200, 3, 1, generator=torch.Generator().manual_seed(0))
    inputs[:20] *= 0.05
    split = Split(inputs=inputs, labels=inputs.sum(1), classes=0)
    first = split.subset(torch.arange(20))

    def model(inputs: Tensor) -> Tensor:
        return 1.02 * inputs.sum(1)

    whole = evaluate(model, split, PGD(0.1), draws=1)
    part = evaluate(model, first, Square(0.1, queries=20), draws=1, reference=split)
    variance = float(split.labels.double().var(correction=0))
    error = part.scores["mean_squared_error"].mean
    assert part.scores["r2"].mean == pytest.approx(1 - error / variance, rel=1e-9)
    assert part.guess == pytest.approx(1 - float(first.labels.double().var(correction=0)) / variance, rel=1e-9)
    (worst,) = worst_cases([whole, part])
    assert worst.scores["r2"].mean == pytest.approx(1 - worst.scores["mean_squared_error"].mean / variance, rel=1e-9)
    same = Split(inputs=torch.zeros(20, 3, 1), labels=torch.zeros(20, 1), classes=0)  # of which R² has no variance
    assert list(evaluate(model, same, reference=split).scores) == list(whole.scores)
    mixed = worst_cases([whole, evaluate(model, same, Square(0.1, queries=20))])
    assert list(mixed[0].scores) == ["mean_squared_error", "mean_absolute_error"]


@pytest.mark.parametrize(
    ("targets", "share"),
    [([1.0, -1.0] * 4, 0.5), ([1.0, -1.0] * 4 + [1.0], 5 / 9), ([-1.0] * 6 + [1.0] * 3, 2 / 3)],
)
def test_the_guess_of_signs_is_the_commonest(targets: list[float], share: float) -> None:
    labels = torch.tensor(targets)[:, None]
    split = Split(inputs=torch.zeros(len(labels), 3, 1), labels=labels, classes=0)
    assert Scorer(split).guess["sign_accuracy"] == pytest.approx(share)
    pairs = Split(inputs=torch.zeros(len(labels), 3, 1), labels=torch.cat([labels, -labels], dim=1), classes=0)
    assert Scorer(pairs).guess["sign_accuracy"] == pytest.approx(share)  # of both signs together


def test_the_guess_of_signs_at_every_step_weights_sequences_equally() -> None:
    labels = torch.where(VALUES > 3, 1.0, -1.0).double()
    patterns = [torch.tensor(one).double() for one in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    shares = [np.average((labels == one).all(-1)[COUNTED].double().numpy(), weights=SHARE) for one in patterns]
    assert Scorer(of_steps(labels, 0)).guess["sign_accuracy"] == pytest.approx(max(shares), rel=1e-12)
