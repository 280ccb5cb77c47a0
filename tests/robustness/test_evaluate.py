import json

import pytest
import torch
from scipy import stats

from noisyrnn.data.base import Split
from noisyrnn.robustness import FGSM, PGD, RobustnessResult, SaltAndPepper, WhiteNoise, evaluate
from noisyrnn.robustness.evaluate import BLOCK, draw_generator


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(2 * BLOCK + 30, 5, 2, generator=generator, dtype=torch.float64)
    return Split(inputs=inputs, labels=torch.arange(len(inputs)) % 2, classes=2)


class Recorder:
    """A model that keeps what it is shown."""

    def __init__(self, sign):
        self.sign, self.seen = sign, []

    def __call__(self, inputs):
        self.seen.append(inputs.clone())
        return self.sign * inputs.sum(dim=1)


def test_clean_accuracy_by_hand(split):
    result = evaluate(lambda x: x[:, 0], split, None, draws=4)
    right = split.inputs[:, 0].argmax(dim=1) == split.labels
    assert result.accuracy == pytest.approx(float(right.double().mean()), rel=1e-12)
    assert result.correct == tuple(right.int().tolist())
    assert result.draw_accuracies == (float(right.double().mean()),)
    low, high = stats.binomtest(int(right.sum()), len(split)).proportion_ci(0.95, method="wilson")
    assert result.interval == pytest.approx((low, high), rel=1e-12)
    assert (result.perturbation, result.strength, result.settings, result.sequences) == ("clean", None, "clean", 530)


def test_noisy_accuracy_is_the_mean_over_draws(split):
    result = evaluate(lambda x: x[:, 0], split, WhiteNoise(1.0), draws=3, seed=4)
    right = []
    for draw in range(3):
        noisy = split.inputs.clone()
        for block in range(3):
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            shape = split.inputs[rows].shape
            noisy[rows] += torch.randn(shape, generator=draw_generator(4, draw, block), dtype=torch.float64)
        right.append(noisy[:, 0].argmax(dim=1) == split.labels)
    right = torch.stack(right)
    assert result.correct == tuple(right.sum(dim=0).tolist())
    assert result.draw_accuracies == pytest.approx(right.double().mean(dim=1).tolist(), rel=1e-12)
    assert result.accuracy == pytest.approx(sum(result.draw_accuracies) / 3, rel=1e-12)
    assert result.interval[0] < result.accuracy < result.interval[1]
    assert (result.perturbation, result.strength) == ("white_noise", 1.0)
    assert result.settings == "WhiteNoise(strength=1.0, clip=None)"


@pytest.mark.parametrize("perturbation", [WhiteNoise(0.3), SaltAndPepper(0.2)])
def test_models_share_their_draws(split, perturbation):
    models = Recorder(1.0), Recorder(-2.0)
    for model in models:
        torch.rand(7)  # the global state must not matter
        evaluate(model, split, perturbation, draws=2, seed=9)
    one, two = (model.seen for model in models)
    assert len(one) == 6 and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])  # two draws of the first block


def test_draws_depend_on_seed_draw_and_block():
    def first(*key):
        return torch.rand(1, generator=draw_generator(*key)).item()

    values = [first(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len(set(values)) == 4 and values[0] == first(0, 0, 0)


def test_without_chance_one_draw(split):
    fixed = PGD(0.1, random_start=False, steps=2)
    for perturbation in (FGSM(0.1), fixed, WhiteNoise(0.0)):
        assert len(evaluate(lambda x: x[:, 0], split, perturbation, draws=3).draw_accuracies) == 1
    assert len(evaluate(lambda x: x[:, 0], split, PGD(0.1, steps=2), draws=3).draw_accuracies) == 3


def test_lengths_reach_the_model(split, linear):
    lengths = 1 + torch.arange(len(split)) % 5
    cut = Split(inputs=split.inputs, labels=split.labels, lengths=lengths, classes=2)
    valid = (torch.arange(5) < lengths[:, None]).unsqueeze(-1)
    right = ((split.inputs * valid * linear.weight).sum(dim=(1, 2)) > 0).long() == split.labels
    assert evaluate(linear, cut).correct == tuple(right.int().tolist())
    assert evaluate(linear, cut, FGSM(0.3)).accuracy < evaluate(linear, cut).accuracy


def test_attack_leaves_the_module_alone(split, linear):
    evaluate(linear, split, FGSM(0.1))
    assert linear.weight.grad is None and not linear.training


def test_result_survives_json(split):
    result = evaluate(lambda x: x[:, 0], split, WhiteNoise(0.7), draws=35)
    assert max(result.correct) == 35
    values = json.loads(json.dumps(result.to_dict()))
    assert RobustnessResult.from_dict(values) == result
    assert values["correct"][:5] == "".join("0123456789abcdefghijklmnopqrstuvwxyz"[c] for c in result.correct[:5])
    assert list(values) == [
        *("perturbation", "strength", "settings", "accuracy", "interval", "draw_accuracies", "correct", "sequences")
    ]


def test_messages(split, linear):
    with pytest.raises(ValueError, match=r"^draws must be at least 1, got 0\.$"):
        evaluate(linear, split, draws=0)
    with pytest.raises(ValueError, match=r"^draws must be at most 35, got 36\.$"):
        evaluate(linear, split, draws=36)
    with pytest.raises(ValueError, match=r"^seed must be at least 0, got -1\.$"):
        evaluate(linear, split, seed=-1)
    with pytest.raises(ValueError, match=r"^model must be in eval mode, got training mode"):
        evaluate(linear.train(), split)
    values = evaluate(linear.eval(), split).to_dict()
    with pytest.raises(
        ValueError, match=r"^result must have the keys perturbation, .*, got none for strength, correct\.$"
    ):
        RobustnessResult.from_dict({k: v for k, v in values.items() if k not in ("strength", "correct")})
    with pytest.raises(ValueError, match=r"^correct must hold one digit for each of 530 sequences, got 2\.$"):
        RobustnessResult.from_dict(values | {"correct": "01"})
