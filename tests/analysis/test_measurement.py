import math

import pytest
import torch

from noisyrnn.analysis.measurement import Measurement, mean_of_draws


def test_only_an_estimate_has_a_standard_error():
    with pytest.raises(ValueError, match="standard_error must be None for kind 'exact'"):
        Measurement(value=torch.tensor(1.0), kind="exact", standard_error=torch.tensor(0.1))
    with pytest.raises(ValueError, match=r"shape of value, \(2,\), got \(\)"):
        Measurement(value=torch.ones(2), kind="estimate", standard_error=torch.tensor(0.1))


def test_only_a_certificate_has_a_confidence():
    with pytest.raises(ValueError, match=r"confidence must be None for kind 'estimate', got 0\.9"):
        Measurement(value=torch.tensor(1.0), kind="estimate", confidence=0.9)
    with pytest.raises(ValueError, match="confidence must be less than 1, got 1"):
        Measurement(value=torch.tensor(1.0), kind="certificate", confidence=1.0)
    with pytest.raises(ValueError, match=r"^confidence must"):
        Measurement(value=torch.tensor(1.0), kind="certificate", confidence=0.0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"^kind must"):
        Measurement(value=torch.tensor(1.0), kind="exakt")


def test_interval_of_a_known_standard_error_is_the_normal_one():
    low, high = Measurement(value=torch.tensor(1.0), kind="estimate", standard_error=torch.tensor(0.5)).interval()
    assert (float(low), float(high)) == pytest.approx((1 - 1.959964 * 0.5, 1 + 1.959964 * 0.5), abs=1e-6)
    with pytest.raises(ValueError, match=r"standard_error must be given for an interval, got None \(exact\)"):
        Measurement(value=torch.tensor(1.0), kind="exact").interval()


@pytest.mark.parametrize(("draws", "factor"), [(2, 12.7062), (3, 4.3027), (4, 3.1824), (30, 2.0452), (1001, 1.9623)])
def test_interval_of_few_draws_is_students(draws, factor):
    """Factors from a printed table of Student's t."""
    found = Measurement(
        value=torch.tensor(1.0), kind="estimate", standard_error=torch.tensor(0.5).double(), draws=draws
    )
    low, high = found.interval()
    assert (float(low), float(high)) == pytest.approx((1 - factor * 0.5, 1 + factor * 0.5), abs=1e-4)
    assert found.to_dict()["draws"] == draws


def test_draws_belong_to_a_standard_error():
    with pytest.raises(ValueError, match=r"^draws must be None without a standard error, got 4\."):
        Measurement(value=torch.tensor(1.0), kind="estimate", draws=4)
    with pytest.raises(ValueError, match=r"^draws must"):
        Measurement(value=torch.tensor(1.0), kind="estimate", standard_error=torch.tensor(0.1), draws=1)
    found = Measurement(value=torch.tensor(1.0), kind="estimate", standard_error=torch.tensor(0.1), draws=3)
    with pytest.raises(ValueError, match=r"^confidence must be less than 1, got 1\."):
        found.interval(confidence=1.0)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_intervals_cover_the_mean_as_often_as_they_say(count):
    """4,000 means of normal draws; the coverage of 95 % has a standard error of 0.34 %."""
    draws = torch.randn(count, 4000, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    for found in (mean_of_draws(draws), Measurement(value=draws, kind="exact").over_sequences()):
        low, high = found.interval()
        assert found.draws == count
        assert float(((low <= 0) & (high >= 0)).double().mean()) == pytest.approx(0.95, abs=0.014)


def test_mean_over_sequences():
    values = torch.tensor([1.0, 2.0, 6.0])
    mean = Measurement(value=values, kind="exact").over_sequences()
    assert mean.kind == "estimate"
    assert float(mean.value) == 3
    assert float(mean.standard_error) == pytest.approx(math.sqrt(7 / 3))
    assert Measurement(value=values[:1], kind="exact").over_sequences().standard_error is None


def test_mean_of_draws_of_any_size():
    draws = torch.tensor([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0], [8.0, 0.0, 4.0]], dtype=torch.float64)
    factors = torch.tensor([1e-200, 1.0, 1e200], dtype=torch.float64)
    plain, scaled = mean_of_draws(draws), mean_of_draws(factors * draws)
    torch.testing.assert_close(scaled.standard_error, factors * plain.standard_error, rtol=1e-12, atol=0)
    assert float(scaled.standard_error[1]) == 0


def test_mean_of_draws():
    mean = mean_of_draws(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert mean.value.tolist() == [2, 5]
    assert mean.standard_error.tolist() == [1, 0]
    with pytest.raises(ValueError, match="draws must be at least 2 for a standard error, got 1"):
        mean_of_draws(torch.ones(1))


def test_json_holds_no_number_that_is_not_finite():
    found = Measurement(value=torch.tensor([[1.0, math.inf], [math.nan, -2.0]]), kind="certificate", confidence=0.9)
    expected = {"value": [[1.0, None], [None, -2.0]], "kind": "certificate", "standard_error": None}
    expected |= {"draws": None, "confidence": 0.9}
    assert found.to_dict() == expected


def test_repr_names_the_kind():
    assert repr(Measurement(value=torch.zeros(2, 3), kind="exact")) == "Measurement(shape (2, 3), mean 0, exact)"
    assert repr(Measurement(value=torch.tensor(2.0), kind="certificate", confidence=0.9)).endswith("confidence 0.9)")


def test_a_notebook_shows_the_value_its_error_and_its_kind():
    shown = Measurement(value=torch.tensor(2.0), kind="estimate", standard_error=torch.tensor(0.5))._repr_html_()
    assert "<th>value</th><td>2</td>" in shown
    assert "<th>standard error</th><td>0.5</td>" in shown
    assert "<th>kind</th><td>estimate</td>" in shown
    many = Measurement(value=torch.tensor([1.0, 4.0]), kind="certificate", confidence=0.99)._repr_html_()
    cells = [("shape", "(2,)"), ("mean", "2.5"), ("smallest", "1"), ("largest", "4"), ("confidence", "0.99")]
    assert all(f"<th>{name}</th><td>{value}</td>" in many for name, value in cells)
