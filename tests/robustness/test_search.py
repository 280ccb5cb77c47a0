"""Attacks that end for a sequence once it is misclassified, as `evaluate` asks for."""

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
    for variant in (attack, attack.for_errors()):
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
        for each in (attack, attack.for_errors())
    )
    correct = recurrent(whole, lengths).argmax(dim=1) == labels
    assert torch.equal(whole[correct], short[correct])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_misclassified_input_stays(batch, recurrent, name):
    inputs, labels, lengths = batch
    found = ATTACKS[name]("linf", None).for_errors()(recurrent, inputs, labels, generator=generator(), lengths=lengths)
    wrong = recurrent(inputs, lengths).argmax(dim=1) != labels
    assert torch.equal(found[wrong], inputs[wrong])
    assert not torch.equal(found[~wrong], inputs[~wrong])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_batch_that_is_all_wrong_costs_no_gradient(make_inputs, recurrent, name):
    inputs = make_inputs()
    labels = (recurrent(inputs).argmax(dim=1) + 1) % 3
    model = Counted(recurrent).eval()
    found = ATTACKS[name]("linf", None).for_errors()(model, inputs, labels, generator=generator())
    assert torch.equal(found, inputs)
    assert model.sequences == 3 * len(inputs)  # two calls that must agree, and the answers


@pytest.mark.parametrize("name", ATTACKS)
def test_with_labels_at_every_step_only_a_sequence_that_is_all_wrong_is_left(make_inputs, name):
    weight = torch.randn(2, 3, generator=generator(), dtype=torch.float64)

    def steps(inputs, lengths=None):
        return (inputs - 0.5).cumsum(dim=1) @ weight

    inputs = make_inputs(batch=30)
    labels = steps(inputs).argmax(dim=2)
    attack = ATTACKS[name]("linf", None)
    whole, short = (
        mean_over_steps(steps(each(steps, inputs, labels, generator=generator())).argmax(dim=2) != labels, labels)
        for each in (attack, attack.for_errors())
    )
    assert torch.equal(whole, short)
    assert 0 < whole.mean() < 1


def test_evaluate_measures_the_same_in_fewer_calls(batch, recurrent, monkeypatch):
    inputs, labels, lengths = batch
    split, attack = Split(inputs=inputs, labels=labels, classes=3, lengths=lengths), PGD(0.15, steps=7)
    short = Counted(recurrent).eval()
    result = evaluate(short, split, attack, draws=3)
    monkeypatch.setattr(PGD, "for_errors", lambda self: self)
    whole = Counted(recurrent).eval()
    assert evaluate(whole, split, attack, draws=3) == result
    assert short.sequences < 0.9 * whole.sequences
    assert result.settings == repr(attack)


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
    monkeypatch.setattr(PGD, "for_errors", lambda self: self)
    assert evaluate(model, split, attack, draws=2) == result
