"""Margins, attacks and certified radii of a subject, against the functions they come from, one sequence at a time."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.analysis.diagnostics.context_cases import quantity, subject_of, value

from noisyrnn.analysis.diagnostic_results import DiagnosticResults
from noisyrnn.analysis.diagnostics import DiagnosticContext
from noisyrnn.analysis.diagnostics.margins import attack, margins, smoothing
from noisyrnn.analysis.margins.lipschitz_bound import margin_certificate
from noisyrnn.analysis.margins.margin import input_margin_estimate, linearised_margin
from noisyrnn.analysis.margins.smoothing import certify
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.data.scale import Scale
from noisyrnn.robustness.statistics import accuracy_interval

Diagnostic = Callable[[DiagnosticContext], DiagnosticResults]


def test_the_margins_are_those_of_the_valid_steps() -> None:
    subject = subject_of()
    test, found = subject.test, margins(subject)
    each = {name: [] for name in ("output_margin", "linearised_margin", "input_margin_estimate", "margin_certificate")}
    for k in range(27):
        cut, label = test.inputs[k : k + 1, : int(test.lengths[k])], test.labels[k : k + 1]
        with torch.no_grad():
            logits = subject.model(cut)[0].tolist()
        own = logits.pop(int(label))
        each["output_margin"].append(own - max(logits))
        for name, margin in (
            ("linearised_margin", linearised_margin),
            ("input_margin_estimate", input_margin_estimate),
            ("margin_certificate", margin_certificate),
        ):
            each[name].append(float(margin(subject.model, cut, label).value[0]))
    assert value(found, "output_margin") == pytest.approx(sum(each.pop("output_margin")) / 27)
    for name, values in each.items():
        assert value(found, name) == pytest.approx(sorted(values)[13]), name
        assert quantity(found, name).unit == "units of the data" and quantity(found, name).better == "higher"
    assert found.data == "27 test sequences drawn with seed 3"


def test_no_certificate_without_a_constant() -> None:
    assert [one.name for one in margins(subject_of("lstm")).quantities] == [
        "output_margin",
        "linearised_margin",
        "input_margin_estimate",
    ]


@pytest.mark.parametrize("limit", [0.7, 2.0])
def test_attacks_have_the_limit_the_seed_and_the_lengths(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """With a stand-in for the attacks: 25 sequences at once, and broken at a radius that is known."""
    looks, calls = [], []
    subject = subject_of(max_attack_radius=limit, check_time=lambda: looks.append(0))
    test = subject.test
    expected = torch.where(torch.arange(27) % 5 == 0, math.inf, test.inputs[:, 0, 0].abs())

    def radius(model, inputs, labels, **options) -> Measurement:
        calls.append((model, inputs, labels, options))
        return Measurement(value=expected[25 * (len(calls) - 1) :][: len(inputs)], kind="certificate")

    monkeypatch.setitem(attack.__globals__, "attack_radius", radius)
    found = attack(subject)
    assert len(looks) == len(calls) == 2
    for (model, inputs, labels, options), rows in zip(calls, (slice(0, 25), slice(25, 27)), strict=True):
        assert model is subject.model
        assert torch.equal(inputs, test.inputs[rows]) and torch.equal(labels, test.labels[rows])
        assert torch.equal(options.pop("lengths"), test.lengths[rows])
        assert options == {"upper": limit, "seed": 3}
    middle = quantity(found, "attack_radius")
    assert float(middle.measurement.value) == sorted(expected.tolist())[13]
    assert (middle.measurement.kind, middle.better, middle.unit) == ("certificate", "higher", "units of the data")
    curve = found.curves["attack_accuracy"]
    assert curve.kind == "certificate" and curve.confidence is None
    largest = float(expected[expected.isfinite()].max())
    assert curve.x.tolist() == torch.linspace(0, largest, 60).tolist()
    for x, y, low, high in zip(curve.x, curve.y, curve.low, curve.high, strict=True):
        share = accuracy_interval([int(radius > x) for radius in expected], draws=1)
        assert [float(y), float(low), float(high)] == pytest.approx([share.mean, share.low, share.high], rel=1e-6)


SCALE = Scale(mean=(40.0, -3.0), std=(200.0, 0.5), low=(0.0, 0.0), high=(1.0, 1.0))


def rescaled(subject: DiagnosticContext, scale: Scale) -> DiagnosticContext:
    """The same sequences and model, the data in other units."""
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (scale.mean, scale.std))
    model = copy.deepcopy(subject.model)
    model.mean.copy_(mean)
    model.std.copy_(std)
    test = replace(subject.test, inputs=subject.test.inputs * std + mean)
    return replace(subject, model=model, test=test, scale=scale)


@pytest.mark.parametrize("diagnostic", [margins, pytest.param(attack, marks=pytest.mark.slow), smoothing])
def test_distances_do_not_depend_on_the_scale_of_the_data(
    diagnostic: Callable[[DiagnosticContext], DiagnosticResults],
) -> None:
    plain = subject_of()
    ones = Scale(mean=(0.0, 0.0), std=(1.0, 1.0), low=(0.0, 0.0), high=(1.0, 1.0))
    standard, other = diagnostic(rescaled(plain, ones)), diagnostic(rescaled(plain, SCALE))
    for one, two in zip(standard.quantities, other.quantities, strict=True):
        expected = float(one.measurement.value)
        if one.name == "margin_certificate":  # of the largest scale alone
            continue
        # Rounding may lead an attack elsewhere; as in the data's own units, it is within a few per cent.
        assert float(two.measurement.value) == pytest.approx(expected, rel=0.03 if diagnostic is attack else 1e-6)
        assert two.unit == {"output_margin": "", "abstention": "", "input_margin_estimate": "s"}.get(two.name, "s√n")
        assert not two.unit or "s: standard deviation of each channel in the training data" in two.note
    for curve in other.curves.values():
        assert curve.xlabel == "ℓ2 radius, in s√n"
    raw = diagnostic(plain)
    for curve in raw.curves.values():
        assert curve.xlabel == "ℓ2 radius, in units of the data"


def test_distances_in_units_of_the_scale_are_those_of_the_data_over_it() -> None:
    """With one scale for all, a distance is one in the data over s√n, with n the valid values of the sequence."""
    scale = Scale(mean=(5.0, 5.0), std=(4.0, 4.0), low=(0.0, 0.0), high=(1.0, 1.0))
    subject = rescaled(subject_of(), scale)
    test, found = subject.test, margins(subject)
    assert test.lengths is not None
    for name, function in (("linearised_margin", linearised_margin), ("margin_certificate", margin_certificate)):
        each = function(subject.model, test.inputs, test.labels, lengths=test.lengths).value
        expected = (each / (4 * (2 * test.lengths).double().sqrt())).median()
        assert value(found, name) == pytest.approx(float(expected)), name
    radii = []
    for k, length in enumerate(test.lengths.tolist()):
        cut = test.inputs[k : k + 1, :length]
        certified = certify(subject.model, cut, sigma=1.6, draws=60, confidence=0.9, seed=3 + k)
        radii.append(float(certified.radius.value) / (4 * math.sqrt(2 * length)))
    assert float(smoothing(subject).curves["certified_accuracy"].x[-1]) == pytest.approx(1.05 * max(radii))


@pytest.mark.slow
def test_a_bound_for_channels_of_different_scales_holds_for_attacks() -> None:
    subject = rescaled(subject_of(max_attack_radius=5.0), SCALE)
    assert 0 < value(margins(subject), "margin_certificate") < value(attack(subject), "attack_radius")


@pytest.mark.parametrize("diagnostic", [margins, pytest.param(attack, marks=pytest.mark.slow), smoothing])
def test_a_channel_that_never_varies_is_left_alone(
    diagnostic: Callable[[DiagnosticContext], DiagnosticResults],
) -> None:
    subject = subject_of(max_attack_radius=5.0)
    fixed = Scale(mean=(0.0, 0.0), std=(1.0, 0.0), low=(0.0, 0.0), high=(1.0, 1.0))
    seen = []

    def record(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        seen.append(arguments[0])

    subject.model.register_forward_pre_hook(record)
    diagnostic(replace(subject, scale=fixed))
    kept = {tuple(row) for row in subject.test.inputs[..., 1].tolist()}
    assert seen
    assert all(tuple(row) in kept for inputs in seen for row in inputs[..., 1].tolist())


def test_data_that_never_vary_are_refused() -> None:
    never = Scale(mean=(0.0, 0.0), std=(0.0, 0.0), low=(0.0, 0.0), high=(1.0, 1.0))
    with pytest.raises(ValueError, match="data must vary in the training part"):
        attack(replace(subject_of(), scale=never))


def test_attacks_that_break_nothing_are_drawn_to_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(model, inputs, labels, **options) -> Measurement:
        return Measurement(value=torch.full((len(inputs),), math.inf), kind="certificate")

    monkeypatch.setitem(attack.__globals__, "attack_radius", nothing)
    curve = attack(subject_of()).curves["attack_accuracy"]
    assert float(curve.x[-1]) == pytest.approx(0.7) and curve.y.tolist() == [1.0] * 60


def test_certified_radii_have_their_own_seeds_and_count_where_right() -> None:
    subject = subject_of()
    test, found = subject.test, smoothing(subject)
    radii, right, undecided = [], [], []
    for k in range(27):
        cut = test.inputs[k : k + 1, : int(test.lengths[k])]
        one = certify(subject.model, cut, sigma=0.4, draws=60, confidence=0.9, seed=3 + k)
        radii.append(float(one.radius.value))
        right.append(int(one.predictions) == int(test.labels[k]))
        undecided.append(int(one.predictions) == -1)
    assert 0 < sum(undecided) < 27 and any(radius > 0 and not good for radius, good in zip(radii, right, strict=True))
    kept = [radius * good for radius, good in zip(radii, right, strict=True)]
    assert value(found, "certified_radius") == pytest.approx(sum(kept) / 27)
    measurement = quantity(found, "certified_radius").measurement
    assert (measurement.kind, measurement.confidence) == ("certificate", 0.9)
    assert value(found, "abstention") == pytest.approx(sum(undecided) / 27)
    share = accuracy_interval([int(one) for one in undecided], draws=1)
    assert quantity(found, "abstention").interval == pytest.approx((share.low, share.high))
    assert quantity(found, "abstention").better == "lower"
    curve = found.curves["certified_accuracy"]
    assert (curve.kind, curve.confidence) == ("certificate", 0.9)
    assert float(curve.x[-1]) == pytest.approx(1.05 * max(radii)) and float(curve.y[-1]) == 0.0
    for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True):
        held = [good and radius >= x for radius, good in zip(radii, right, strict=True)]
        assert y == pytest.approx(sum(held) / 27, rel=1e-6)
