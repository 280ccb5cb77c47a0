"""Attacks that end for a sequence once it is misclassified, as `evaluate` asks for."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from noisyrnn.data import Split
from noisyrnn.data.scale import Scale
from noisyrnn.models import NoisyRNN, SequenceClassifier
from noisyrnn.robustness import APGD, PGD, evaluate
from noisyrnn.targets import mean_over_steps

SCALE = Scale(mean=(0.4, 0.6), std=(0.2, 0.5), low=(0.0, 0.0), high=(1.0, 1.0))
ATTACKS = {
    "pgd": lambda norm, scale: PGD(0.06, norm=norm, steps=7, scale=scale),
    "pgd-two-starts": lambda norm, scale: PGD(0.06, norm=norm, steps=4, restarts=2, scale=scale),
    "apgd": lambda norm, scale: APGD(0.06, norm=norm, steps=12, restarts=2, scale=scale),
    "apgd-ratio": lambda norm, scale: APGD(0.06, norm=norm, steps=12, loss="logit_ratio", scale=scale),
}


class Counted(nn.Module):
    """A model that counts the sequences of its calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.sequences = model, 0

    def forward(self, inputs, lengths=None):
        assert len(inputs) > 0, "a call for no sequence"
        self.sequences += len(inputs)
        return self.model(inputs, lengths)


def generator():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def batch(make_inputs, recurrent):
    """Inputs, labels that half of the answers agree with, and lengths."""
    inputs = make_inputs(batch=40)
    lengths = torch.arange(40) % 4 + 2
    answers = recurrent(inputs, lengths).argmax(dim=1)
    return inputs, torch.where(torch.arange(40) % 5 > 0, answers, (answers + 1) % 3), lengths


@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_wrong_answers_are_those_of_the_whole_search_in_fewer_calls(batch, recurrent, name, norm, scale):
    inputs, labels, lengths = batch
    attack, models, wrong = ATTACKS[name](norm, scale), [], []
    for variant in (attack, replace(attack, until_wrong=True)):
        models.append(Counted(recurrent).eval())
        found = variant(models[-1], inputs, labels, generator=generator(), lengths=lengths)
        wrong.append(recurrent(found, lengths).argmax(dim=1) != labels)
    assert torch.equal(*wrong)
    clean = recurrent(inputs, lengths).argmax(dim=1) != labels
    assert clean.sum() < wrong[0].sum() < len(labels)  # some are broken, and some are not
    assert models[1].sequences < 0.9 * models[0].sequences


@pytest.mark.parametrize("name", ATTACKS)
def test_sequences_that_stay_correct_end_at_the_same_point(batch, recurrent, name):
    inputs, labels, lengths = batch
    attack = ATTACKS[name]("linf", None)
    whole, short = (
        each(recurrent, inputs, labels, generator=generator(), lengths=lengths)
        for each in (attack, replace(attack, until_wrong=True))
    )
    correct = recurrent(whole, lengths).argmax(dim=1) == labels
    assert torch.equal(whole[correct], short[correct])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_misclassified_input_stays(batch, recurrent, name):
    inputs, labels, lengths = batch
    found = replace(ATTACKS[name]("linf", None), until_wrong=True)(
        recurrent, inputs, labels, generator=generator(), lengths=lengths
    )
    wrong = recurrent(inputs, lengths).argmax(dim=1) != labels
    assert torch.equal(found[wrong], inputs[wrong])
    assert not torch.equal(found[~wrong], inputs[~wrong])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_batch_that_is_all_wrong_costs_no_gradient(make_inputs, recurrent, name):
    inputs = make_inputs()
    labels = (recurrent(inputs).argmax(dim=1) + 1) % 3
    model = Counted(recurrent).eval()
    found = replace(ATTACKS[name]("linf", None), until_wrong=True)(model, inputs, labels, generator=generator())
    assert torch.equal(found, inputs)
    assert model.sequences == 3 * len(inputs)  # two calls that must agree, and the answers


@pytest.mark.parametrize("name", ATTACKS)
def test_a_search_ends_with_its_last_sequence(make_inputs, recurrent, name):
    inputs = make_inputs()
    labels = recurrent(inputs).argmax(dim=1)
    attack = replace(ATTACKS[name]("linf", None), strength=3.0, until_wrong=True)
    model = Counted(recurrent).eval()
    found = attack(model, inputs, labels, generator=generator())
    assert (recurrent(found).argmax(dim=1) != labels).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_with_labels_at_every_step_only_a_sequence_that_is_all_wrong_is_left(make_inputs, name):
    weight = torch.randn(2, 3, generator=generator(), dtype=torch.float64)

    def steps(inputs, lengths=None):
        return (inputs - 0.5).cumsum(dim=1) @ weight

    inputs = make_inputs(batch=30)
    labels = steps(inputs).argmax(dim=2)
    labels[::3] = (labels[::3] + 1) % 3  # all answers are wrong
    labels[1::3, :2] = (labels[1::3, :2] + 1) % 3  # some are
    attack = ATTACKS[name]("linf", None)
    whole, short = (
        mean_over_steps(steps(each(steps, inputs, labels, generator=generator())).argmax(dim=2) != labels, labels)
        for each in (attack, replace(attack, until_wrong=True))
    )
    clean = mean_over_steps(steps(inputs).argmax(dim=2) != labels, labels)
    assert torch.equal(whole, short)
    assert (whole > clean)[1::3].any()
    assert (whole < 1).any()


def test_the_gradient_of_padding_does_not_shorten_a_step(linear, make_inputs):
    inputs, lengths = make_inputs(), torch.full((6,), 2)
    answers = linear(inputs).argmax(dim=1)
    labels = torch.where(torch.arange(6) < 2, 1 - answers, answers)
    attack = PGD(9.0, norm="l2", steps=1, step_size=0.1, random_start=False, until_wrong=True)
    found = attack(lambda x, lengths: linear(x), inputs, labels, generator=generator(), lengths=lengths)
    expected = torch.tensor([0.0, 0.0, 0.1, 0.1, 0.1, 0.1]).double()
    torch.testing.assert_close((found - inputs).flatten(1).norm(dim=1), expected)


def test_the_input_is_cut_to_the_range_before_it_is_classified():
    def wrong_far_from_085(x):
        score = (x - 0.85).abs().sum(dim=(1, 2)) - 0.15
        return torch.stack((-score, score), dim=1)

    inputs, labels = torch.full((1, 1, 1), 1.4), torch.tensor([0])  # wrong; right at the end of the range, 0.8
    attack = PGD(0.9, clip=(0.0, 0.8), random_start=False)
    for each in (attack, replace(attack, until_wrong=True)):
        assert wrong_far_from_085(each(wrong_far_from_085, inputs, labels, generator=generator())).argmax() == 1


def test_evaluate_measures_the_same_in_fewer_calls(batch, recurrent, monkeypatch):
    inputs, labels, lengths = batch
    split, attack = Split(inputs=inputs, labels=labels, classes=3, lengths=lengths), PGD(0.15, steps=7)
    short = Counted(recurrent).eval()
    result = evaluate(short, split, attack, draws=3)
    monkeypatch.setattr(sys.modules["noisyrnn.robustness.evaluate"], "replace", lambda attack, **changes: attack)
    whole = Counted(recurrent).eval()
    assert evaluate(whole, split, attack, draws=3) == result
    assert short.sequences < 0.9 * whole.sequences
    assert result.settings == repr(attack)


def test_the_setting_is_kept_and_is_no_part_of_the_name():
    short = PGD(0.1, until_wrong=True)
    assert short != PGD(0.1)
    assert repr(short) == repr(PGD(0.1))
    assert replace(short, strength=0.2).until_wrong
    with pytest.raises(TypeError, match=r"^until_wrong must be True or False, got 'no'"):
        PGD(0.1, until_wrong="no")


def test_lengths_of_steps_and_missing_values_follow_their_sequences(make_inputs, monkeypatch):
    torch.manual_seed(0)
    model = SequenceClassifier(NoisyRNN(2, 6, step_size=0.5, batch_first=True), 3).eval()
    inputs = make_inputs(batch=40).float()
    dt = torch.rand(40, 5, generator=generator()) * 3
    labels = model(inputs, dt=dt).argmax(dim=1)
    inputs[::7, 2] = torch.nan
    split = Split(inputs=inputs, labels=labels, classes=3, dt=dt, missing="hold")
    attack = PGD(0.3, steps=6)
    result = evaluate(model, split, attack, draws=2)
    assert 0 < result.accuracy < evaluate(model, split).accuracy
    monkeypatch.setattr(sys.modules["noisyrnn.robustness.evaluate"], "replace", lambda attack, **changes: attack)
    assert evaluate(model, split, attack, draws=2) == result
