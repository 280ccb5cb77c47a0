"""Margins, attacks and certified radii of a subject, against the functions they come from, one sequence at a time."""

import math

import pytest
import torch
from tests.analysis.diagnostics.subject_cases import quantity, subject_of, value

from noisyrnn.analysis.diagnostics.margins import attack, margins, smoothing
from noisyrnn.analysis.margins.lipschitz_bound import margin_certificate
from noisyrnn.analysis.margins.margin import input_margin_estimate, linearised_margin
from noisyrnn.analysis.margins.smoothing import certify
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.robustness.statistics import accuracy_interval


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
