"""The adaptive attack: known optima, the published schedule, and another implementation."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisyrnn.robustness import APGD, PGD
from noisyrnn.robustness.apgd import checkpoints
from noisyrnn.robustness.gradient import logit_ratios, sequence_losses

LABELS = torch.tensor([0, 1, 1, 0, 1, 0])
BOTH = pytest.mark.parametrize("norm", ["linf", "l2"])


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def curved(inputs, lengths=None):
    """Two classes, many local maxima."""
    wave = (torch.sin(7 * inputs) + 0.3 * inputs).sum(dim=(1, 2))
    return torch.stack((wave, -wave), dim=1)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", ["cross_entropy", "logit_ratio"])
def test_linear_optimum_is_radius_times_dual_norm(linear, make_inputs, norm, dual, loss):
    inputs = make_inputs()
    result = APGD(0.2, norm=norm, loss=loss)(linear, inputs, LABELS, generator=generator())

    def margin(x):
        logits = linear(x).detach()
        return logits[:, 1] - logits[:, 0]

    expected = (1 - 2 * LABELS).double() * 0.2 * torch.linalg.vector_norm(linear.weight.detach(), dual)
    torch.testing.assert_close(margin(result) - margin(inputs), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50, 100, 1000])
def test_checkpoints_are_the_published_ones(steps):
    shares = [Fraction(0), Fraction("0.22")]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - Fraction("0.03"), Fraction("0.06")))
    assert checkpoints(steps) == sorted({math.ceil(p * steps) for p in shares[1:]} & set(range(1, steps)))


def test_the_named_loss_is_the_one_that_is_climbed():
    """A larger smallest logit raises the log-odds against the label, and lowers the ratio."""
    visited = []

    def model(x):
        visited.append(x.detach())
        return torch.cat((torch.ones_like(x), torch.zeros_like(x), x - 2), dim=2)[:, 0]

    for loss, end in (("cross_entropy", 0.1), ("logit_ratio", -0.1)):
        attack = APGD(0.1, loss=loss, steps=20)
        attack(model, torch.zeros(1, 1, 1), torch.tensor([0]), generator=generator())
        assert abs(float(visited[-1]) - end) < 1e-6


def test_logit_ratios_by_hand_and_whatever_the_scale():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 1.0, 4.0]])
    labels = torch.tensor([0, 3])
    found = logit_ratios(logits, labels)
    torch.testing.assert_close(found, torch.tensor([-(3 - 2) / (3 - 1), -(4 - 5) / (5 - 1)], dtype=torch.float64))
    torch.testing.assert_close(logit_ratios(1000 * logits - 7, labels), found)
    two = logit_ratios(torch.tensor([[1.0, 3.0]]), torch.tensor([1]))
    torch.testing.assert_close(two, torch.tensor([-2.0], dtype=torch.float64))


def test_logit_ratios_are_means_over_counted_steps():
    logits = torch.randn(2, 3, 4, generator=generator())
    labels = torch.tensor([[0, 1, -1], [2, -1, -1]])
    each = [logit_ratios(logits[0, :2], labels[0, :2]).mean(), logit_ratios(logits[1, :1], labels[1, :1]).mean()]
    torch.testing.assert_close(logit_ratios(logits, labels), torch.stack(each))


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    radius=st.floats(1e-3, 3.0),
    clip=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_stays_in_its_ball_and_in_the_clip_and_spares_padding(norm, radius, clip, dtype, seed):
    inputs = torch.rand(4, 6, 2, generator=generator(seed), dtype=dtype)
    lengths, labels = torch.tensor([6, 1, 3, 6]), torch.tensor([0, 1, 0, 1])
    attack = APGD(radius, norm=norm, steps=9, clip=(0.0, 1.0) if clip else None)
    result = attack(curved, inputs, labels, generator=generator(seed), lengths=lengths)
    offset = (result - inputs).double().flatten(1)
    size = offset.abs().amax(dim=1) if norm == "linf" else offset.norm(dim=1)
    assert float(size.max()) <= radius * (1 + 1e-6) + 1e-6  # rounding of float32 sums
    assert torch.equal(result[1, 1:], inputs[1, 1:])
    if clip:
        assert float(result.min()) >= 0 and float(result.max()) <= 1


@BOTH
def test_more_restarts_never_weaken_and_the_input_is_a_candidate(make_inputs, norm):
    inputs, labels = make_inputs(batch=40), torch.arange(40) % 2
    losses = [sequence_losses(curved(inputs), labels)]
    for restarts in (1, 2, 4):
        attack = APGD(0.5, norm=norm, steps=10, restarts=restarts)
        losses.append(sequence_losses(curved(attack(curved, inputs, labels, generator=generator())), labels))
    stacked = torch.stack(losses)
    assert bool((stacked[1:] >= stacked[:-1]).all())
    assert float(stacked[-1].mean()) > float(stacked[1].mean()) > float(stacked[0].mean())


@BOTH
def test_adapting_the_step_beats_a_fixed_one(make_inputs, norm):
    """Where a fixed step jumps over the maxima, halving it does not."""
    inputs, labels = make_inputs(batch=60), torch.arange(60) % 2
    steps, radius = 40, 0.5
    fixed = PGD(radius, norm=norm, steps=steps, step_size=2 * radius)
    found = {
        type(attack).__name__: sequence_losses(
            curved(attack(curved, inputs, labels, generator=generator())), labels
        ).mean()
        for attack in (fixed, APGD(radius, norm=norm, steps=steps))
    }
    assert float(found["APGD"]) > float(found["PGD"]) + 0.1


def ripples(x, lengths=None):
    """Logits of two classes with many maxima; class 0 always leads, so the best iterate is the one of largest loss."""
    wave = (torch.sin(9 * x) + torch.cos(4 * x * x.flip(1))).sum(dim=(1, 2))
    return torch.stack((wave + 90, -wave - 90), dim=1)


def written_out(norm, radius, steps, start, x):
    """Algorithm 1 of the paper for one sequence, in its words: the point of largest loss."""

    def loss_and_gradient(point):
        point = point.clone().requires_grad_()
        loss = sequence_losses(ripples(point[None]), torch.tensor([0]))[0]
        return float(loss.detach()), torch.autograd.grad(loss, point)[0]

    def step(point, size, gradient):
        moved = point + size * (gradient.sign() if norm == "linf" else gradient / gradient.norm())
        return project(moved)

    def project(point):
        offset = point - x
        if norm == "linf":
            return x + offset.clamp(-radius, radius)
        return x + offset / max(1.0, float(offset.norm()) / radius)

    size, places = 2 * radius, [0, *checkpoints(steps)]
    values = [loss_and_gradient(start)[0]]
    top, top_loss, tops, halved, events = start, values[0], [values[0]], False, []
    before = here = start  # where the last step and the next one set out; a halving puts `here` to the best point
    for k in range(1, steps + 1):
        ascent = step(here, size, loss_and_gradient(here)[1])
        moved = ascent if k == 1 else project(here + 0.75 * (ascent - here) + 0.25 * (here - before))
        before = here
        values.append(loss_and_gradient(moved)[0])
        if values[-1] > top_loss:
            top, top_loss = moved, values[-1]
        here = moved
        if k in places:
            last = places[places.index(k) - 1]
            few = sum(values[i + 1] > values[i] for i in range(last, k)) < 0.75 * (k - last)
            stuck = not halved and top_loss == tops[-1]
            halved = few or stuck
            if halved:
                size, here = size / 2, top
            events.append((few, stuck))
            tops.append(top_loss)
    return top, events


@BOTH
def test_one_search_is_the_published_one_step_by_step(norm):
    inputs = torch.rand(8, 6, 2, generator=generator(3), dtype=torch.float64)
    labels, radius, steps = torch.zeros(8, dtype=torch.int64), 0.8, 60
    attack = APGD(radius, norm=norm, steps=steps)
    found = attack(ripples, inputs, labels, generator=generator(3))
    starts = inputs + attack._random_offset(inputs, torch.ones(8, 6, 1, dtype=torch.bool), generator(3))
    events = []
    for x, start, ours in zip(inputs, starts, found, strict=True):
        top, own = written_out(norm, radius, steps, start, x)
        torch.testing.assert_close(ours, top, rtol=1e-6, atol=1e-6)
        events += own
    assert {few for few, _ in events} == {True, False}  # some halve their step, some do not


def test_a_sequence_is_searched_by_itself(make_inputs):
    inputs = make_inputs(batch=5)
    labels = torch.tensor([0, 1, 0, 1, 0])
    attack = APGD(0.4, steps=25)
    whole = attack(curved, inputs, labels, generator=generator())
    # The generator draws for the full shape, so the first sequence meets the same start alone.
    alone = attack(curved, inputs[:1], labels[:1], generator=generator())
    torch.testing.assert_close(alone[0], whole[0])


def test_a_ratio_needs_classes(make_inputs):
    inputs = make_inputs()
    with pytest.raises(ValueError, match=r"^loss must be 'cross_entropy' for a regression, got 'logit_ratio'\."):
        APGD(0.1, loss="logit_ratio")(lambda x: x[:, 0], inputs, inputs[:, 0], generator=generator())
    attack = APGD(0.1, steps=20)
    result = attack(lambda x: x[:, 0], inputs, inputs[:, 0] + 1, generator=generator())
    torch.testing.assert_close(result[:, 0], inputs[:, 0] - 0.1)  # away from the targets


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "l1"}, "norm must be one of l2, linf, got 'l1'"),
        ({"loss": "margin"}, "loss must be one of cross_entropy, logit_ratio, got 'margin'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        APGD(0.1, **options)


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2)])
@pytest.mark.parametrize(
    ("loss", "kind"), [("cross_entropy", "cross_entropy"), ("logit_ratio", "difference_logits_ratio")]
)
def test_succeeds_as_often_as_arts(recurrent, make_inputs, norm, order, loss, kind):
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    recurrent.float()  # which ART takes
    inputs = make_inputs(batch=120, steps=8).float()
    labels = recurrent(inputs).argmax(dim=1)
    radius = 0.12 if norm == "linf" else 0.35
    estimator = PyTorchClassifier(
        recurrent, loss=torch.nn.CrossEntropyLoss(), input_shape=(8, 2), nb_classes=3, device_type="cpu"
    )
    theirs = AutoProjectedGradientDescent(
        estimator,
        norm=order,
        eps=radius,
        eps_step=2 * radius,
        max_iter=50,
        nb_random_init=1,
        batch_size=120,
        loss_type=kind,
        verbose=False,
    )
    moved = torch.from_numpy(theirs.generate(inputs.numpy(), labels.numpy()))
    ours = APGD(radius, norm=norm, loss=loss, steps=50)(recurrent, inputs, labels, generator=generator())
    rates = [float((recurrent(x).argmax(dim=1) != labels).double().mean()) for x in (ours, moved)]
    assert 0.2 < rates[1] < 0.9
    assert abs(rates[0] - rates[1]) < 0.05
