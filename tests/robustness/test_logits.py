"""Calls of the model: what a partial holds for each sequence goes to the calls for some of them."""

from functools import partial

import pytest
import torch
from torch import nn

from noisyrnn.analysis import certify, output_margins, smoothed_predictions
from noisyrnn.data import Split
from noisyrnn.data.scale import Scale
from noisyrnn.models import LipschitzRNN, SequenceClassifier
from noisyrnn.robustness import APGD, FGSM, PGD, Square, WhiteNoise, evaluate, examples
from noisyrnn.robustness.confusion import confusion_matrix
from noisyrnn.robustness.logits import adapt, check_rows, predict, take_rows

STEPS, CHANNELS, CLASSES = 6, 2, 3
SCALE = Scale(mean=(0.1, -0.2), std=(0.8, 1.4), low=(-9.0, -9.0), high=(9.0, 9.0))
ATTACKS = {
    "fgsm": FGSM(0.2),
    "pgd": PGD(0.2, steps=3),
    "pgd-errors": PGD(0.2, steps=6, until_wrong=True),
    "pgd-scale": PGD(0.2, steps=6, scale=SCALE, until_wrong=True),
    "apgd-errors": APGD(0.2, steps=8, until_wrong=True),
    "square": Square(0.2, queries=40),
}


def model():
    torch.manual_seed(0)
    layer = LipschitzRNN(CHANNELS, 6, step_size=0.5, init_std=1.5, dtype=torch.float64)
    return SequenceClassifier(layer, CLASSES).eval()


def sequences(count=9, seed=1):
    """Inputs, step lengths, valid steps, and labels of which every third is wrong."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, STEPS, CHANNELS, generator=generator, dtype=torch.float64)
    dt = 0.2 + 4 * torch.rand(count, STEPS, generator=generator, dtype=torch.float64)
    lengths = torch.arange(count) % 3 + STEPS - 2
    answers = model()(inputs, lengths=lengths, dt=dt).argmax(dim=1)
    return inputs, dt, lengths, torch.where(torch.arange(count) % 3 > 0, answers, (answers + 1) % CLASSES)


def generator():
    return torch.Generator().manual_seed(2)


@pytest.mark.parametrize("holds", ["lengths", "mask", "nested"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_a_partial_is_the_attack_with_these_lengths_of_steps(name, holds):
    inputs, dt, lengths, labels = sequences()
    holding = {
        "lengths": lambda: partial(model(), dt=dt, lengths=lengths),
        "mask": lambda: partial(model(), dt=dt, mask=torch.arange(STEPS) < lengths[:, None]),
        "nested": lambda: partial(partial(model(), dt=dt), lengths=lengths),
    }[holds]()

    def one_by_one(values):
        return torch.cat([model()(values[[k]], dt=dt[[k]], lengths=lengths[[k]]) for k in range(len(values))])

    attack, rows = ATTACKS[name], torch.arange(len(inputs))
    found = attack(holding, inputs, labels, generator=generator())
    expected = attack(Numbered(one_by_one, rows), inputs, labels, generator=generator())
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, inputs)


class Numbered:
    """A model of sequences that it knows by number: it is called for all of them, whatever the rows."""

    def __init__(self, model, rows):
        self.model, self.rows = model, rows

    def __call__(self, inputs):
        full = torch.zeros(9, *inputs.shape[1:], dtype=inputs.dtype).index_copy(0, self.rows, inputs)
        return self.model(full)[self.rows]

    def take(self, rows):
        return Numbered(self.model, self.rows[rows])


@pytest.mark.parametrize("perturbation", [None, WhiteNoise(0.3), PGD(0.2, steps=4), Square(0.2, queries=30)])
def test_evaluations_of_a_partial_are_those_of_a_split_with_these_lengths_of_steps(perturbation):
    inputs, dt, lengths, labels = sequences(count=600)  # three blocks
    plain, timed = (Split(inputs=inputs, labels=labels, lengths=lengths, classes=CLASSES, dt=d) for d in (None, dt))
    found = evaluate(partial(model(), dt=dt), plain, perturbation, draws=2)
    expected = evaluate(model(), timed, perturbation, draws=2)
    assert found.correct == expected.correct and 0.1 < found.accuracy < 0.9
    assert found.accuracy != evaluate(model(), plain, perturbation, draws=2).accuracy


def test_answers_and_margins_of_a_partial_are_those_of_one_call():
    inputs, dt, _, labels = sequences(count=1100)
    split, held = Split(inputs=inputs, labels=labels, classes=CLASSES), partial(model(), dt=dt)
    logits = held(inputs)
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64).index_put_(
        (labels, logits.argmax(dim=1)), torch.tensor(1), accumulate=True
    )
    assert confusion_matrix(held, split) == counts.tolist()
    shown = examples(held, split, [FGSM(0.1)], indices=[1003, 7])
    assert [one["prediction"] for one in shown[:2]] == logits.argmax(dim=1)[[1003, 7]].tolist()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    torch.testing.assert_close(output_margins(held, split).value, (own - others).detach())


def test_smoothing_repeats_what_a_partial_holds_for_a_sequence():
    inputs, dt, lengths, _ = sequences(count=5)
    options = {"sigma": 0.3, "draws": 60, "confidence": 0.9, "batch_size": 25}
    held = partial(model(), dt=dt, lengths=lengths)
    found = certify(held, inputs, lengths=lengths, selection_draws=20, **options)
    votes = smoothed_predictions(held, inputs, lengths=lengths, **options)
    for k in range(5):  # the noise of sequence k depends on its number: the other sequences may have any step lengths
        alone = partial(model(), dt=dt[k])
        expected = certify(alone, inputs, lengths=lengths, selection_draws=20, **options)
        assert found.probability.value[k] == expected.probability.value[k]
        assert votes[k] == smoothed_predictions(alone, inputs, lengths=lengths, **options)[k]
    assert len(set(found.probability.value.tolist())) > 2


@pytest.mark.parametrize(
    ("keyword", "value"), [("dt", torch.ones(4, STEPS)), ("lengths", torch.ones(4, dtype=torch.int64))]
)
def test_rows_of_a_partial_for_another_number_of_sequences_are_refused(keyword, value):
    inputs, _, _, labels = sequences()
    held = partial(partial(model(), **{keyword: value}), path=None)
    split = Split(inputs=inputs, labels=labels, classes=CLASSES)
    calls = (
        lambda: check_rows(held, 9),
        lambda: evaluate(held, split),
        lambda: PGD(0.1)(held, inputs, labels, generator=generator()),
        lambda: certify(held, inputs, sigma=0.1),
        lambda: smoothed_predictions(held, inputs, sigma=0.1),
        lambda: output_margins(held, split),
        lambda: confusion_matrix(held, split),
        lambda: examples(held, split, [], indices=[0]),
    )
    for call in calls:
        with pytest.raises(ValueError, match=rf"{keyword} of the model must have one row for each of the 9 sequences"):
            call()
    check_rows(held, 4)
    check_rows(partial(model(), dt=torch.ones(STEPS)), 9)  # the same for every sequence


def test_a_model_that_holds_missing_values_takes_the_rows_of_its_partial():
    inputs, dt, _, _ = sequences()
    rows = torch.tensor([4, 0, 4])
    gaps = inputs.clone()
    gaps[:, 2] = torch.nan
    held = adapt(partial(lambda values, dt: values.sum(dim=(1, 2)) * dt.sum(dim=1), dt=dt), dt=None, missing=True)
    torch.testing.assert_close(take_rows(held, rows)(gaps[rows]), held(gaps)[rows])


def test_a_partial_of_a_module_is_met_as_the_module_is():
    inputs, _, _, labels = sequences()
    split = Split(inputs=inputs, labels=labels, classes=CLASSES)
    foreign = nn.Sequential(nn.Flatten(), nn.Linear(STEPS * CHANNELS, CLASSES)).eval()  # in float32, data in float64
    assert evaluate(partial(foreign), split).correct == evaluate(foreign, split).correct
    with pytest.raises(ValueError, match="model must be in eval mode"):
        evaluate(partial(foreign.train()), split)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_logit_that_is_not_finite_is_blamed_on_inputs_that_are_not(value):
    inputs, labels, lengths = torch.ones(3, 4, 1), torch.zeros(3, dtype=torch.int64), torch.tensor([4, 3, 4])

    def steep(inputs, lengths):
        return torch.cat([inputs[:, 0], inputs.sum(dim=1) * 1e30], dim=1).square()

    with pytest.raises(RuntimeError, match=r"^logits became non-finite for 3 of 3 sequences\. Lower the model's step"):
        predict(steep, inputs, labels, lengths)
    inputs[1, 3] = value  # past the end of its sequence
    with pytest.raises(RuntimeError, match=r"Lower the model's step"):
        predict(steep, inputs, labels, lengths)
    inputs[0, 3] = value
    with pytest.raises(
        RuntimeError, match=r"^logits .* Their inputs hold NaN or infinite values: remove or impute them"
    ):
        predict(steep, inputs, labels, lengths)


@pytest.mark.parametrize("wrong", [1, 3])
def test_a_confusion_matrix_needs_a_logit_for_each_class(wrong: int) -> None:
    split = Split(inputs=torch.zeros(4, 2, 1), labels=torch.tensor([0, 0, 0, 0]), classes=2)
    with pytest.raises(ValueError, match=r"^model must return (2 logits|one logit)"):
        confusion_matrix(lambda inputs: torch.zeros(len(inputs), wrong), split)
