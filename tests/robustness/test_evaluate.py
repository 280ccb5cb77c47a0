import json
import sys
from dataclasses import dataclass, field, replace

import pytest
import torch

from noisyrnn.data.split import Split
from noisyrnn.robustness import (
    FGSM,
    PGD,
    Perturbation,
    RobustnessResult,
    SaltAndPepper,
    WhiteNoise,
    accuracy_interval,
    evaluate,
    worst_cases,
)
from noisyrnn.robustness.evaluate import BLOCK, Score, draw_generator


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
    interval = accuracy_interval(right.int().tolist(), draws=1)
    assert result.interval == (interval.low, interval.high)
    assert (result.perturbation, result.strength, result.settings, result.sequences) == ("clean", None, "clean", 530)


@pytest.mark.parametrize("perturbation", [None, WhiteNoise(0.5), FGSM(0.2)])
def test_the_weights_of_a_split_have_no_effect(split, perturbation):
    weighted = replace(split, weights=torch.arange(len(split.labels)) / 100.0)
    one, other = (evaluate(lambda x: x[:, 0], each, perturbation, draws=2) for each in (split, weighted))
    assert one == other and 0 < one.accuracy < 1


def test_starts_of_an_attack_depend_on_what_the_model_has_wrong_and_noise_does_not():
    inputs = torch.zeros(4, 5, 2)

    def last_sequence_shown(perturbation, first_label):
        def model(values):
            seen.append(values[-1].detach().clone())
            return values.mean(dim=1) * 0.01 + torch.tensor([1.0, 0.0])  # class 0, whatever the inputs

        seen = []
        evaluate(
            model, Split(inputs=inputs, labels=torch.tensor([first_label, 0, 0, 0]), classes=2), perturbation, draws=1
        )
        return next(values for values in seen if bool(values.any()))  # the first one that is perturbed

    for perturbation, same in ((WhiteNoise(0.5), True), (PGD(0.5, steps=1), False)):
        assert torch.equal(*(last_sequence_shown(perturbation, label) for label in (0, 1))) == same


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
    assert result.settings == "WhiteNoise(strength=1.0, clip=None, scale=None)"


@pytest.mark.parametrize("perturbation", [WhiteNoise(0.3), SaltAndPepper(0.2)])
def test_models_share_their_draws(split, perturbation):
    models = Recorder(1.0), Recorder(-2.0)
    for model in models:
        torch.rand(7)  # the global state must not matter
        evaluate(model, split, perturbation, draws=2, seed=9)
    one, two = (model.seen for model in models)
    assert len(one) == 2 + 6 and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(one[0], one[1]) and len(one[0]) == 2  # whether the model answers alike
    assert not torch.equal(one[2], one[3])  # two draws of the first block


def test_draws_depend_on_seed_draw_and_block():
    def first(*key):
        return torch.rand(1, generator=draw_generator(*key)).item()

    values = [first(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len(set(values)) == 4 and values[0] == first(0, 0, 0)


def test_without_chance_one_draw(split):
    fixed = PGD(0.1, random_start=False, steps=2)
    for perturbation in (FGSM(0.1), fixed, WhiteNoise(0.0)):
        assert len(evaluate(lambda x: x[:, 0], split, perturbation, draws=3).draw_accuracies) == 1


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


@dataclass(frozen=True)
class Scripted(Perturbation):
    """An attack that fools the sequences that its script names for each draw, and records which ones it is given."""

    script: tuple[set[int], ...] = ()
    seen: list[list[int]] = field(default_factory=list)

    name, norm = "scripted", "linf"

    def perturb(self, inputs, **unused):
        fooled = self.script[len(self.seen)]
        self.seen.append(inputs[:, 0, 0].int().tolist())
        hit = torch.tensor([row in fooled for row in self.seen[-1]])
        return torch.where(hit[:, None, None], -inputs - 1, inputs)


def test_an_attack_counts_its_worst_start_and_spares_who_is_fooled():
    inputs = torch.arange(5.0).reshape(5, 1, 1)
    split = Split(inputs=inputs, labels=torch.tensor([1, 1, 0, 1, 1]), classes=2)  # the third is wrong by itself
    attack = Scripted(0.1, script=({1}, {0, 1}, {4}))

    def sign(x):  # class 1 where not negative
        return torch.cat([torch.zeros_like(x[:, 0]), x[:, 0] + 0.5], dim=1)

    result = evaluate(sign, split, attack, draws=3)
    assert attack.seen == [[0, 1, 3, 4], [0, 3, 4], [3, 4]]
    assert result.correct == (0, 0, 0, 1, 0) and result.draw_accuracies == (0.2,) and result.accuracy == 0.2
    interval = accuracy_interval([0, 0, 0, 1, 0], draws=1)
    assert result.interval == (interval.low, interval.high)
    assert (result.moved, result.guess, result.norm, result.gradient_free) == (True, 0.8, "linf", False)
    stopped = Scripted(0.1, script=({0, 1}, {3, 4}, set()))
    assert evaluate(sign, split, stopped, draws=3).accuracy == 0 and len(stopped.seen) == 2


def test_an_attack_never_helps(split, linear):
    """A sequence that is wrong by itself stays wrong, though one large step would carry it across and back."""

    def wave(inputs):
        value = torch.sin(9 * inputs.sum(dim=(1, 2)))
        return torch.stack([-value, value], dim=1)

    clean, attacked = evaluate(wave, split), evaluate(wave, split, FGSM(0.03))
    alone = FGSM(0.03)(wave, split.inputs, split.labels, generator=torch.Generator())
    right = wave(alone).argmax(dim=1) == split.labels
    assert bool((right & ~torch.tensor(clean.correct).bool()).any())  # some do cross
    assert attacked.correct == tuple((right & torch.tensor(clean.correct).bool()).int().tolist())


def test_worst_cases_hold_for_all_attacks_of_a_norm_up_to_a_radius():
    def result(name, norm, strength, correct):
        score = Score.of("accuracy", torch.tensor([correct]).clamp(max=1).double(), 0.25)
        return RobustnessResult(
            perturbation=name, strength=strength, settings=f"{name} {strength}", scores={"accuracy": score}, norm=norm
        )

    found = worst_cases(
        [
            result("clean", None, None, (1, 1, 1, 1)),
            result("white_noise", None, 0.1, (5, 0, 0, 0)),
            result("fgsm", "linf", 0.1, (0, 1, 1, 1)),
            result("pgd_linf", "linf", 0.2, (1, 0, 1, 1)),
            result("fgsm", "linf", 0.2, (1, 1, 0, 1)),
            result("pgd_l2", "l2", 0.5, (1, 1, 1, 0)),
        ]
    )
    assert [(r.perturbation, r.strength, r.correct) for r in found] == [
        ("worst_linf", 0.1, (0, 1, 1, 1)),
        ("worst_linf", 0.2, (0, 0, 0, 1)),
        ("worst_l2", 0.5, (1, 1, 1, 0)),
    ]
    assert found[1].accuracy == 0.25 and found[1].guess == 0.25
    assert found[1].settings == "worst case of fgsm 0.1; pgd_linf 0.2; fgsm 0.2"
    assert worst_cases(found) == []  # they are no attacks themselves
    for order in (1, -1):  # the second attack saw the first two sequences
        both = [result("pgd_linf", "linf", 0.1, (1, 1, 0, 1)), result("square_linf", "linf", 0.1, (0, 1))][::order]
        (worst,) = worst_cases(both)
        assert worst.correct == (0, 1, 0, 1) and worst.accuracy == 0.5
        texts = ["pgd_linf 0.1", "square_linf 0.1 on the first 2 sequences"][::order]
        assert worst.settings == "worst case of " + "; ".join(texts)


def test_a_perturbation_that_moves_nothing_is_noticed(split, linear):
    assert evaluate(linear, split, WhiteNoise(0.1)).moved
    assert not evaluate(linear, split, WhiteNoise(1e-30)).moved  # lost in rounding
    inside = Split(inputs=split.inputs.sigmoid() + 5, labels=split.labels, classes=2)
    assert not evaluate(linear, Split(inputs=torch.full_like(inside.inputs, 1.0), labels=split.labels, classes=2),
                        SaltAndPepper(1.0, clip=(0.5, 1.0), low=1.0, high=2.0)).moved  # fmt: skip
    assert not evaluate(lambda x: 0 * x[:, 0] + torch.tensor([1.0, 0.0]), split, FGSM(0.3)).moved  # no gradient
    assert evaluate(linear, split, WhiteNoise(0.0)).moved and evaluate(linear, split).moved  # nothing was asked for


def test_what_a_result_is_in_json(split):
    result = evaluate(lambda x: x[:, 0], split, WhiteNoise(0.7), draws=35)
    assert max(result.correct) == 35
    values = json.loads(json.dumps(result.to_dict()))
    for name, value in values.items():
        if name != "correct":
            found = getattr(result, name)
            assert value == (list(found) if isinstance(found, tuple) else found)
    assert values["sequences"] == 530
    assert values["correct"][:5] == "".join("0123456789abcdefghijklmnopqrstuvwxyz"[c] for c in result.correct[:5])
    assert list(values) == [
        *("perturbation", "strength", "settings", "accuracy", "interval", "draw_accuracies", "correct", "sequences"),
        *("unit", "norm", "moved", "guess"),
    ]


def test_messages(split, linear):
    with pytest.raises(ValueError, match="draws"):
        evaluate(linear, split, draws=0)
    with pytest.raises(ValueError, match="draws"):
        evaluate(linear, split, draws=36)
    with pytest.raises(ValueError, match="seed"):
        evaluate(linear, split, seed=-1)
    with pytest.raises(ValueError, match="model"):
        evaluate(linear.train(), split)


def test_a_result_is_shown_in_one_line_without_its_answers(split):
    result = evaluate(lambda x: x[:, 0], split, WhiteNoise(0.5), draws=3)
    low, high = result.interval
    value = f"{100 * result.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}] %"
    assert repr(result) == f"RobustnessResult(white_noise 0.5: accuracy {value}; 530 sequences × 3 draws)"
    assert repr(evaluate(lambda x: x[:, 0], split)).startswith("RobustnessResult(clean: accuracy ")
    shown = result._repr_html_()
    assert f"<td>{value}</td><td>50.0 %</td>" in shown
    assert "530 sequences, 3 draws. WhiteNoise(strength=0.5, clip=None, scale=None)" in shown
    regression = Split(inputs=split.inputs, labels=split.inputs.sum(dim=(1, 2))[:, None], classes=0)
    text = repr(evaluate(lambda x: 0.9 * x.sum(dim=(1, 2))[:, None], regression))
    assert "R² 0.99 [" in text
    assert "; mean squared error " in text


@pytest.mark.parametrize("attack", [False, True])
def test_progress_counts_every_draw_of_every_block(split, attack, monkeypatch):
    made, counts = [], []

    class Bar:
        def __init__(self, name, total, *, shown, delay):
            made.append((name, total, shown, delay))

        def advance(self):
            counts.append(1)

        def close(self):
            counts.append("closed")

    monkeypatch.setattr(sys.modules["noisyrnn.robustness.evaluate"], "ProgressBar", Bar)
    perturbation = PGD(0.0001, steps=1) if attack else WhiteNoise(0.5)
    evaluate(lambda x: x.sum(dim=1), split, perturbation, draws=2, show_progress=True)
    assert made == [(f"evaluate {perturbation.name}", 3 * 2, True, 1.0)]
    assert counts == [*[1] * 6, "closed"]


def test_progress_is_true_false_or_none(split):
    with pytest.raises(TypeError, match=r"^show_progress must"):
        evaluate(lambda x: x[:, 0], split, show_progress=1)
